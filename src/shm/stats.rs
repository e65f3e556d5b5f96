//! What lbd leaves for `lbctl`: its process, which generation is in force, and the counters of every worker.
//!
//! Each word has one writer and is stored whole, so readers need no lock. Words of one block may be from
//! slightly different moments.

use std::time::Duration;

use serde::Serialize;

use super::{Memory, RegionError};
use crate::{
    balance::counters::{Counter, Counters},
    host::Tally,
    model::ids::{Generation, MarkMask, QUEUES_MAX, QueueNum, TARGETS_MAX},
};

/// Where the daemon's words are.
pub(super) const DAEMON_AT: usize = 256;
/// Where the audit's words are.
const PINS_AT: usize = 512;
/// Where the statistics blocks begin.
pub(super) const BLOCKS_AT: usize = 4096;
/// The number of blocks: one for the worker of each queue, and one for the fragment worker, which comes after
/// those in use.
pub(super) const BLOCKS: usize = QUEUES_MAX + 1;
/// The size of a block. Its first page has the queue number, whether it is the fragment worker's, whether the
/// worker hangs, from byte 64 on the counters, and from byte 3072 on the state of the queue. Then come the packets by target.
pub(super) const BLOCK_BYTES: usize = 4096 + TARGETS_MAX * 8;
/// The end of the last block.
pub(crate) const END: usize = BLOCKS_AT + BLOCKS * BLOCK_BYTES;

/// When a thread of the daemon last looked at the workers.
const LOOKED_AT: usize = DAEMON_AT + 32;
/// The generation of the fallback tables.
const IN_KERNEL_AT: usize = DAEMON_AT + 40;
/// The bits of the mark that the ruleset in force uses; 0 is not known.
const MARK_MASK_AT: usize = DAEMON_AT + 48;
/// Whether the kernel can offload long flows: 0 is not known, 1 a flowtable, 2 none.
const OFFLOAD_AT: usize = DAEMON_AT + 80;
/// The number of errors that the last look at the host has found. The number of warnings follows it.
const HOST_AT: usize = DAEMON_AT + 64;
/// The process that runs health checks, and when it last said so.
const AGENT_AT: usize = DAEMON_AT + 88;
const FRAGMENTS_AT: usize = 8;
/// Whether the worker hung when it was last looked at.
const HANGS_AT: usize = 16;
const COUNTERS_AT: usize = 64;
const TARGETS_AT: usize = 4096;

/// The worker's queue as lbd last saw it in the kernel: the words of a [`QueueLine`] without its number.
const QUEUE_AT: usize = 3072;

const _: () = assert!(COUNTERS_AT + Counter::ALL.len() * 8 <= QUEUE_AT && QUEUE_AT + 6 * 8 <= TARGETS_AT);

/// What a running lbd reports about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Daemon {
    /// The process ID of lbd; 0 if none has run.
    pub pid: u64,
    /// The generation that the workers decide by.
    pub adopted: Generation,
    /// The last generation of which the kernel had all fallback tables. New flows follow these when lbd is
    /// not running. They are updated after the workers' tables, one after the other.
    pub in_kernel: Generation,
    /// When lbd started, in seconds since 1970.
    pub started_unix_seconds: u64,
    /// The number of workers, including the fragment worker.
    pub workers: u64,
}

impl Daemon {
    /// Reads the daemon's words.
    ///
    /// # Errors
    /// When the region is gone.
    pub fn read(memory: &mut impl Memory) -> Result<Self, RegionError> {
        Ok(Self {
            pid: memory.load(DAEMON_AT)?,
            adopted: Generation(memory.load(DAEMON_AT + 8)?),
            started_unix_seconds: memory.load(DAEMON_AT + 16)?,
            workers: memory.load(DAEMON_AT + 24)?,
            in_kernel: Generation(memory.load(IN_KERNEL_AT)?),
        })
    }

    /// Writes the daemon's words, `pid` last.
    ///
    /// # Errors
    /// When the region is gone.
    pub fn write(&self, memory: &mut impl Memory) -> Result<(), RegionError> {
        memory.store(IN_KERNEL_AT, self.in_kernel.0)?;
        memory.store(DAEMON_AT + 24, self.workers)?;
        memory.store(DAEMON_AT + 16, self.started_unix_seconds)?;
        memory.store(DAEMON_AT + 8, self.adopted.0)?;
        memory.store(DAEMON_AT, self.pid)?;
        Ok(())
    }
}

/// Stores what the last look at the host has found.
///
/// # Errors
/// When the region is gone.
pub fn write_host(memory: &mut impl Memory, tally: Tally) -> Result<(), RegionError> {
    memory.store(HOST_AT, tally.errors)?;
    memory.store(HOST_AT + 8, tally.warnings)?;
    Ok(())
}

/// Reads what the last look at the host has found.
///
/// # Errors
/// When the region is gone.
pub fn read_host(memory: &mut impl Memory) -> Result<Tally, RegionError> {
    Ok(Tally { errors: memory.load(HOST_AT)?, warnings: memory.load(HOST_AT + 8)? })
}

/// The last sign of life of what runs health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The process; never 0.
    pub pid: u64,
    /// How many checks could not be made the last time.
    pub not_made: u64,
    /// When it said so, by the monotonic clock.
    pub at: Duration,
}

impl Beat {
    /// Stores it.
    ///
    /// # Errors
    /// When the region is gone.
    pub fn write(&self, memory: &mut impl Memory) -> Result<(), RegionError> {
        memory.store(AGENT_AT + 16, self.not_made)?;
        memory.store(AGENT_AT + 8, u64::try_from(self.at.as_millis()).unwrap_or(u64::MAX))?;
        Ok(memory.store(AGENT_AT, self.pid)?)
    }

    /// Reads it; `None` if no checks have run.
    ///
    /// # Errors
    /// When the region is gone.
    pub fn read(memory: &mut impl Memory) -> Result<Option<Self>, RegionError> {
        let (pid, at) = (memory.load(AGENT_AT)?, Duration::from_millis(memory.load(AGENT_AT + 8)?));
        let not_made = memory.load(AGENT_AT + 16)?;
        Ok((pid != 0).then_some(Self { pid, not_made, at }))
    }
}

/// Stores the bits of the mark that lbd uses until it ends, whatever the state says meanwhile.
///
/// # Errors
/// When the region is gone.
pub fn write_mark_mask(memory: &mut impl Memory, mask: MarkMask) -> Result<(), RegionError> {
    Ok(memory.store(MARK_MASK_AT, mask.bits().into())?)
}

/// Reads the bits of the mark that the last lbd used; `None` if it has not stored them.
///
/// # Errors
/// When the region is gone.
pub fn read_mark_mask(memory: &mut impl Memory) -> Result<Option<MarkMask>, RegionError> {
    let bits = u32::try_from(memory.load(MARK_MASK_AT)?).ok();
    Ok(bits.and_then(|bits| MarkMask::new(bits).ok()))
}

/// Stores whether the kernel has a flowtable, which is found at the start.
///
/// # Errors
/// When the region is gone.
pub fn write_flowtable(memory: &mut impl Memory, flowtable: bool) -> Result<(), RegionError> {
    Ok(memory.store(OFFLOAD_AT, if flowtable { 1 } else { 2 })?)
}

/// Reads whether the kernel has a flowtable; `None` if no lbd has checked.
///
/// # Errors
/// When the region is gone.
pub fn read_flowtable(memory: &mut impl Memory) -> Result<Option<bool>, RegionError> {
    Ok(match memory.load(OFFLOAD_AT)? {
        0 => None,
        found => Some(found == 1),
    })
}

/// The results of the last audit of pins; all 0 before the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    /// Flows in the off-table maps.
    pub off_table: u64,
    /// Off-table flows that had no room in the maps, at the last audit of all entries.
    pub no_room: u64,
    /// Protected entries of connection tracking.
    pub protected: u64,
    /// Kept flows whose entries are not protected, since at most half of all entries may be.
    pub not_protected: u64,
    /// Flows that go through the flowtable.
    pub promoted: u64,
    /// Flows that were ended since lbd started, since their backend was disabled, or by `lbctl kill`.
    pub ended: u64,
    /// The time of the last `lbctl kill` that was carried out ([`crate::state::Backend::killed`]); 0 if none was.
    pub killed: u64,
}

impl Pins {
    /// Reads the results.
    ///
    /// # Errors
    /// When the region is gone.
    pub fn read(memory: &mut impl Memory) -> Result<Self, RegionError> {
        let mut word = |n: usize| memory.load(PINS_AT + n * 8);
        Ok(Self {
            off_table: word(0)?,
            no_room: word(1)?,
            protected: word(2)?,
            not_protected: word(3)?,
            promoted: word(4)?,
            ended: word(5)?,
            killed: word(6)?,
        })
    }

    /// Writes the results.
    ///
    /// # Errors
    /// When the region is gone.
    pub fn write(&self, memory: &mut impl Memory) -> Result<(), RegionError> {
        let Self { off_table, no_room, protected, not_protected, promoted, ended, killed } = *self;
        let words = [off_table, no_room, protected, not_protected, promoted, ended, killed];
        for (n, word) in words.into_iter().enumerate() {
            memory.store(PINS_AT + n * 8, word)?;
        }
        Ok(())
    }
}

/// Whether connection tracking is nearly full, so that packets to VIPs go untracked.
const NEARLY_FULL_AT: usize = PINS_AT + 64;

/// Reads whether connection tracking is nearly full.
///
/// # Errors
/// When the region is gone.
pub fn nearly_full(memory: &mut impl Memory) -> Result<bool, RegionError> {
    Ok(memory.load(NEARLY_FULL_AT)? != 0)
}

/// Writes whether connection tracking is nearly full.
///
/// # Errors
/// When the region is gone.
pub fn set_nearly_full(memory: &mut impl Memory, nearly_full: bool) -> Result<(), RegionError> {
    Ok(memory.store(NEARLY_FULL_AT, nearly_full.into())?)
}

/// The owner of a block. The state may name other queues by now, which lbd uses after its next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The worker's queue.
    pub queue: QueueNum,
    /// Whether it is the worker of fragments.
    pub fragments: bool,
}

/// A queue that has a listener: a line of `/proc/net/netfilter/nfnetlink_queue` (`nfnetlink_queue.c`,
/// `seq_show`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct QueueLine {
    /// The queue's number.
    pub queue: u16,
    /// The netlink port of the listener, usually its process ID.
    pub portid: u32,
    /// How many packets wait for a verdict.
    pub waiting: u64,
    /// How many bytes of each packet are copied.
    pub copy_range: u64,
    /// How many packets were dropped because the queue was full. A packet that fails open is not counted
    /// here, but as `by_kernel` in the ruleset.
    pub dropped: u64,
    /// How many packets were dropped because the socket's buffer was full. A packet that fails open is not
    /// counted here either.
    pub user_dropped: u64,
    /// How many packets were queued since the queue was bound.
    pub packets: u64,
}

/// The counters of one worker, as they are in the region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The worker that the counters belong to.
    pub identity: Identity,
    /// In the order of [`Counter::ALL`].
    pub counters: Vec<u64>,
    /// Packets steered to each target, by [`crate::model::ids::TargetId::index`].
    pub targets: Vec<u64>,
    /// The worker's queue as lbd last saw it; `None` if it had none.
    pub line: Option<QueueLine>,
}

/// Stores a worker's counters. `worker` counts from 0 and is at most [`QUEUES_MAX`].
///
/// # Errors
/// When the region is gone.
pub fn write(
    memory: &mut impl Memory,
    worker: usize,
    identity: Identity,
    counters: &mut Counters,
) -> Result<(), RegionError> {
    identify(memory, worker, identity)?;
    let block = BLOCKS_AT + worker * BLOCK_BYTES;
    for (index, &value) in counters.values().iter().enumerate() {
        memory.store(block + COUNTERS_AT + index * 8, value)?;
    }
    counters.drain_touched(|target, value| memory.store(block + TARGETS_AT + target.index() * 8, value))?;
    Ok(())
}

/// Stores the owner of a block before there is anything to count.
///
/// # Errors
/// When the region is gone.
pub fn identify(memory: &mut impl Memory, worker: usize, identity: Identity) -> Result<(), RegionError> {
    let block = BLOCKS_AT + worker * BLOCK_BYTES;
    memory.store(block, u64::from(identity.queue.0))?;
    memory.store(block + FRAGMENTS_AT, u64::from(identity.fragments))?;
    Ok(())
}

/// Stores the queues of all workers, out of these lines of the kernel. The kernel shows them to root alone, the region to more.
///
/// # Errors
/// When the region is gone.
pub fn show_queues(memory: &mut impl Memory, workers: usize, lines: &[QueueLine]) -> Result<(), RegionError> {
    for block in (0..workers.min(BLOCKS)).map(|worker| BLOCKS_AT + worker * BLOCK_BYTES) {
        let number = memory.load(block)?;
        let words = lines.iter().find(|line| u64::from(line.queue) == number).map_or([0; 6], |line| {
            let QueueLine { queue: _, portid, waiting, copy_range, dropped, user_dropped, packets } = *line;
            [portid.into(), waiting, copy_range, dropped, user_dropped, packets]
        });
        for (n, word) in words.into_iter().enumerate() {
            memory.store(block + QUEUE_AT + n * 8, word)?;
        }
    }
    Ok(())
}

/// Reads the queue of the worker whose block this is.
fn queue_line(memory: &mut impl Memory, block: usize) -> Result<Option<QueueLine>, RegionError> {
    let queue = u16::try_from(memory.load(block)?).unwrap_or(u16::MAX);
    let mut word = |n: usize| memory.load(block + QUEUE_AT + n * 8);
    // No listener has port 0, which is the kernel's own.
    let portid = u32::try_from(word(0)?).unwrap_or(u32::MAX);
    let (waiting, copy_range, dropped) = (word(1)?, word(2)?, word(3)?);
    let (user_dropped, packets) = (word(4)?, word(5)?);
    let line = QueueLine { queue, portid, waiting, copy_range, dropped, user_dropped, packets };
    Ok((portid != 0).then_some(line))
}

/// Stores when the workers were looked at, by the monotonic clock, and which of them hung.
///
/// # Errors
/// When the region is gone.
pub fn looked(
    memory: &mut impl Memory,
    now: Duration,
    hangs: impl IntoIterator<Item = bool>,
) -> Result<(), RegionError> {
    for (worker, hangs) in hangs.into_iter().take(BLOCKS).enumerate() {
        memory.store(BLOCKS_AT + worker * BLOCK_BYTES + HANGS_AT, u64::from(hangs))?;
    }
    memory.store(LOOKED_AT, u64::try_from(now.as_millis()).unwrap_or(u64::MAX))?;
    Ok(())
}

/// Stores that no thread looks at the workers. An lbd that takes a region over has not begun to look.
///
/// # Errors
/// When the region is gone.
pub fn look_no_more(memory: &mut impl Memory) -> Result<(), RegionError> {
    memory.store(LOOKED_AT, 0)?;
    Ok(())
}

/// Returns when an lbd last looked at its workers, by the monotonic clock. `None` if the lbd that follows the
/// region has not looked yet.
///
/// # Errors
/// When the region is gone.
pub fn last_look(memory: &mut impl Memory) -> Result<Option<Duration>, RegionError> {
    let milliseconds = memory.load(LOOKED_AT)?;
    Ok((milliseconds > 0).then(|| Duration::from_millis(milliseconds)))
}

/// Returns the queues whose workers hung at the last look, out of this many workers.
///
/// # Errors
/// When the region is gone.
pub fn hanging(memory: &mut impl Memory, workers: usize) -> Result<Vec<QueueNum>, RegionError> {
    let mut queues = Vec::new();
    for block in (0..workers.min(BLOCKS)).map(|worker| BLOCKS_AT + worker * BLOCK_BYTES) {
        if memory.load(block + HANGS_AT)? != 0 {
            queues.push(QueueNum(u16::try_from(memory.load(block)?).unwrap_or(u16::MAX)));
        }
    }
    Ok(queues)
}

/// Returns the block of every worker.
///
/// # Errors
/// When the region is gone.
pub fn read(memory: &mut impl Memory, workers: usize) -> Result<Vec<Block>, RegionError> {
    (0..workers.min(BLOCKS))
        .map(|worker| {
            let block = BLOCKS_AT + worker * BLOCK_BYTES;
            let words = |bytes: &[u8]| -> Vec<u64> {
                bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect()
            };
            Ok(Block {
                identity: Identity {
                    queue: QueueNum(u16::try_from(memory.load(block)?).unwrap_or(u16::MAX)),
                    fragments: memory.load(block + FRAGMENTS_AT)? != 0,
                },
                counters: words(&memory.read(block + COUNTERS_AT, Counter::ALL.len() * 8)?),
                targets: words(&memory.read(block + TARGETS_AT, TARGETS_MAX * 8)?),
                line: queue_line(memory, block)?,
            })
        })
        .collect()
}

/// Sets every counter to 0, for a daemon that starts.
///
/// # Errors
/// When the region is gone.
pub fn clear(memory: &mut impl Memory, workers: usize) -> Result<(), RegionError> {
    for worker in 0..workers.min(BLOCKS) {
        memory.write(BLOCKS_AT + worker * BLOCK_BYTES, &[0; BLOCK_BYTES])?;
    }
    Ok(())
}
