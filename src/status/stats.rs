//! `stats`: what the workers counted, how many packets each backend got, and the state of the kernel's
//! queues.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{
    Sources,
    lbd::{Lbd, PinsView, usable},
    view::{TargetView, names_by_target},
    words::natural,
};
use crate::{
    balance::counters::Counter,
    config::FragmentLimits,
    model::ids::{Generation, TARGETS_MAX, TargetId},
    shm::stats::{self, Block, Identity, QueueLine},
    state::State,
    sys::{
        conntrack::{Fill, fill},
        nfqueue::queue_lines,
        region::{AccessError, Region},
    },
};

/// All statistics.
#[derive(Debug, Serialize)]
pub struct Stats {
    /// The lbd of the region; if none follows it, the counters are those of the last lbd.
    pub daemon: Lbd,
    /// The generation of the state in the region.
    pub generation: u64,
    /// The sums over all workers, without levels.
    pub counters: Values,
    /// The fragment table.
    pub fragments: Fragments,
    /// What each worker has counted.
    pub workers: Vec<Worker>,
    /// What each target got.
    pub backends: Vec<Packets>,
    /// The state of the kernel's queues: as the kernel says, which tells root alone, else as lbd looks at it once a second; null if
    /// neither is known, as when lbd hangs.
    pub queues: Option<Vec<QueueLine>>,
    /// How full the table of connections is; null if that cannot be read.
    pub conntrack: Option<Conntrack>,
    /// The flows that lbd has found.
    pub flows: PinsView,
    /// The ruleset's counters, in packets; null if they cannot be read, or there is no ruleset.
    pub ruleset: Option<BTreeMap<String, u64>>,
}

/// Counters in the order of [`Counter::ALL`]. In JSON they are an object, without levels.
#[derive(Clone, Debug)]
pub struct Values(Vec<u64>);

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (counter, value) in self.counts() {
            map.serialize_entry(counter.name(), &value)?;
        }
        map.end()
    }
}

impl Values {
    /// Returns one counter, or level.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or(0)
    }

    /// Returns all counters, without levels.
    pub fn counts(&self) -> impl Iterator<Item = (Counter, u64)> {
        let all = Counter::ALL.iter().copied().zip(self.0.iter().copied());
        all.filter(|(counter, _)| !counter.is_level())
    }
}

/// How full the fragment table is, and how full it may be.
#[derive(Debug, Serialize)]
pub struct Fragments {
    /// How many fragmented packets are remembered.
    pub entries: u64,
    /// How many may be.
    pub entries_max: u64,
    /// How many fragments wait for their first one.
    pub held_packets: u64,
    /// How many may wait.
    pub held_packets_max: u64,
    /// How many bytes these have.
    pub held_bytes: u64,
    /// How many they may have.
    pub held_bytes_max: u64,
    /// How long a packet is remembered after its last fragment, in milliseconds.
    pub ttl_ms: u32,
}

impl Fragments {
    fn new(limits: FragmentLimits, levels: &Values) -> Self {
        Self {
            entries: levels.get(Counter::FragmentEntriesNow),
            entries_max: limits.entries.into(),
            held_packets: levels.get(Counter::FragmentHeldPacketsNow),
            held_packets_max: limits.held_packets.into(),
            held_bytes: levels.get(Counter::FragmentHeldBytesNow),
            held_bytes_max: limits.held_bytes.into(),
            ttl_ms: limits.ttl_ms,
        }
    }
}

/// What a worker has counted.
#[derive(Debug, Serialize)]
pub struct Worker {
    /// Its queue.
    pub queue: u16,
    /// Whether this is the fragment worker.
    pub fragments: bool,
    /// Its counters.
    pub counters: Values,
}

/// Packets that were steered to a target, without those that follow the first packet of a flow: usually one
/// per flow.
#[derive(Debug, Serialize)]
pub struct Packets {
    /// All names that the target has, as service/backend or tier/balancer; empty if it is no longer in use.
    pub names: Vec<String>,
    /// The target.
    #[serde(flatten)]
    pub target: TargetView,
    /// Packets that lbd has steered.
    pub packets: u64,
    /// Packets that the fallback tables have steered.
    pub by_kernel: u64,
}

impl Packets {
    /// Returns how many packets the target got.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.packets + self.by_kernel
    }
}

/// Connection tracking of this network namespace.
#[derive(Debug, Serialize)]
pub struct Conntrack {
    /// How many entries its table has.
    pub entries: u64,
    /// How many it may have.
    pub max: u64,
}

impl Stats {
    /// Reads all statistics.
    ///
    /// # Errors
    /// When the region cannot be read.
    pub fn read(region: &mut Region, sources: &Sources) -> Result<Self, AccessError> {
        let (generation, state) = region.state_with_tables(|_| Vec::new())?;
        Self::of(region, sources, generation, &state)
    }

    /// As [`Stats::read`], with a state that is read already.
    pub(super) fn of(
        region: &mut Region,
        sources: &Sources,
        generation: Generation,
        state: &State,
    ) -> Result<Self, AccessError> {
        let ruleset = (sources.ruleset_counters)();
        let daemon = Lbd::with(region, sources, || Some(!ruleset.as_ref()?.is_empty()))?;
        let read = stats::read(region, daemon.last.workers());
        let blocks = usable(region, read)?;
        // Select the queues by the workers' own records: the state may already name other queues.
        let ours = |line: &QueueLine| blocks.iter().any(|block| block.identity.queue.0 == line.queue);
        let looks = daemon.followed && daemon.hangs.as_ref().is_none_or(|hangs| hangs.process_ms.is_none());
        let seen = || looks.then(|| blocks.iter().filter_map(|block| block.line).collect());
        let queues: Option<Vec<QueueLine>> = queue_lines(&sources.proc).ok().or_else(seen);
        let queues = queues.map(|queues| queues.into_iter().filter(ours).collect());
        let counters = Values(sum(blocks.iter().map(|block| &block.counters[..]), Counter::ALL.len()));
        // The levels of the last lbd ended with it.
        let none = Values(Vec::new());
        let fragments =
            Fragments::new(state.balancer.fragments, if daemon.followed { &counters } else { &none });
        let conntrack = fill(&sources.proc).ok().map(|Fill { entries, max }| Conntrack { entries, max });
        Ok(Self {
            daemon,
            generation: generation.0,
            counters,
            fragments,
            backends: by_target(state, &blocks, &(sources.given)()),
            workers: blocks.into_iter().map(Worker::new).collect(),
            queues,
            conntrack,
            flows: PinsView::read(region)?,
            ruleset: ruleset.filter(|counters| !counters.is_empty()),
        })
    }
}

impl Worker {
    fn new(block: Block) -> Self {
        let Identity { queue, fragments } = block.identity;
        Self { queue: queue.0, fragments, counters: Values(block.counters) }
    }
}

fn sum<'a>(of: impl Iterator<Item = &'a [u64]>, len: usize) -> Vec<u64> {
    of.fold(vec![0; len], |mut sum, values| {
        for (sum, value) in sum.iter_mut().zip(values) {
            *sum = sum.saturating_add(*value);
        }
        sum
    })
}

/// Returns packets by target: all targets that are in use, and former ones that got packets.
fn by_target(state: &State, blocks: &[Block], given: &BTreeMap<u32, u64>) -> Vec<Packets> {
    let mask = state.balancer.mark_mask;
    let by_lbd = sum(blocks.iter().map(|block| &block.targets[..]), TARGETS_MAX);
    let names = names_by_target(state);
    let targets = by_lbd.iter().enumerate().filter_map(|(index, &packets)| {
        let target = TargetId::new(index)?;
        Some(Packets {
            names: names.get(&target).cloned().unwrap_or_default(),
            target: TargetView::new(state, target),
            packets,
            by_kernel: given.get(&mask.mark(target).0).copied().unwrap_or(0),
        })
    });
    let mut all: Vec<Packets> =
        targets.filter(|packets| packets.all() > 0 || !packets.names.is_empty()).collect();
    all.sort_by_cached_key(|packets| {
        (packets.names.is_empty(), packets.names.first().map(|name| natural(name)))
    });
    all
}
