//! Fills the kernel's copies of services' tables (`plan/kernel_tables.rs`): 65537 entries each, as a rule.
//!
//! What the kernel has is read once for each map, then known: only entries that differ are sent, in transactions of up to
//! [`ENTRIES_PER_BATCH`], and the kernel does each wholly or not at all. It is not read back whole, since that takes longer
//! than to change it; instead [`Tables::sample`] asks for some entries now and then, other ones each time: a map that
//! was emptied is found at once, a single entry within M / 16 looks.
//!
//! A transaction must be one message to the kernel (`nfnetlink_rcv_batch`), so the socket's buffers are as large as that.

use std::{collections::BTreeMap, io, os::fd::AsRawFd as _};

use nix::sys::socket::{
    MsgFlags, recv, send, setsockopt,
    sockopt::{RcvBufForce, SndBufForce},
};

use super::{
    NftError,
    elements::{
        NFPROTO_INET, NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM, NFTA_DATA_VALUE, NFTA_LIST_ELEM,
        NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET,
        NFTA_SET_ELEM_LIST_TABLE, PATIENCE, Reader,
    },
    nft, read_listing,
};
use crate::{
    plan::{
        elements::TABLE,
        kernel_tables::{self, Change, KernelTable},
    },
    sys::netlink::{
        DUMP_BYTES_MAX, NLM_F_ACK, NLM_F_CREATE, NLMSG_ERROR, Writer, done, kind, messages, netfilter,
        sequence,
    },
};

/// The largest transaction, 3 MB when all of them change.
const ENTRIES_PER_BATCH: usize = 65_537;
/// Enough for that, and for the answers, since each error repeats its message.
const BUFFER_BYTES: usize = 16 << 20;
/// An element takes 28 bytes, and all of a message's are in one attribute of 65531 bytes at most.
const ELEMENTS_PER_MESSAGE: usize = 2_000;
/// How many entries of each map are asked for at a time.
const SAMPLES: u64 = 16;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
/// A batch is for `NFNL_SUBSYS_NFTABLES`, of no family.
const BATCH_HEADER: [u8; 4] = [0, 0, 0, 10];

/// What the kernel's copies hold, as far as it is known.
#[derive(Default)]
pub struct Tables {
    /// By map; by index, 0 for none.
    known: BTreeMap<String, Vec<u32>>,
    /// The chains beside which there are no others.
    swept: Option<Vec<String>>,
    next_sample: u64,
}

impl Tables {
    /// Makes the entries of these copies what they should be, whose maps and chains are in place, then removes other copies.
    /// Says how many entries were changed.
    ///
    /// # Errors
    /// The first thing that the kernel refuses; everything else is done, and the next time that as well.
    pub fn apply(&mut self, wanted: &[KernelTable]) -> Result<usize, NftError> {
        self.known.retain(|map, _| wanted.iter().any(|table| table.map == *map));
        let changed = self.fill(wanted);
        let swept = self.sweep(wanted);
        changed.and_then(|changed| swept.map(|()| changed))
    }

    /// As [`Tables::apply`], but leaves other copies alone.
    pub(super) fn fill<'a>(
        &mut self,
        wanted: impl IntoIterator<Item = &'a KernelTable>,
    ) -> Result<usize, NftError> {
        let changed: Vec<_> = wanted.into_iter().map(|table| self.fill_one(table)).collect();
        changed.into_iter().sum()
    }

    fn fill_one(&mut self, table: &KernelTable) -> Result<usize, NftError> {
        let current = self.known.remove(&table.map).map_or_else(|| read(table), Ok)?;
        let changes: Vec<Change> = kernel_tables::changes(&current, table).collect();
        for changes in changes.chunks(ENTRIES_PER_BATCH) {
            change(&table.map, changes).map_err(|error| failed(table, error))?;
        }
        self.known.insert(table.map.clone(), table.entries().collect());
        Ok(changes.len())
    }

    /// Removes other copies than these.
    fn sweep(&mut self, wanted: &[KernelTable]) -> Result<(), NftError> {
        let chains: Vec<String> = wanted.iter().map(|table| table.chain.clone()).collect();
        if self.swept.as_ref() == Some(&chains) {
            return Ok(());
        }
        if let Some(listing) = read_listing()? {
            let text = kernel_tables::superfluous(wanted, &listing.chains, &listing.maps);
            if !text.is_empty() {
                nft("the removal of services' tables", &["-f", "-"], Some(&text))?;
            }
        }
        self.swept = Some(chains);
        Ok(())
    }

    /// Asks for some entries of each copy, other ones each time. A copy of which one is not as it should be is read anew by
    /// the next [`Tables::apply`].
    pub fn sample(&mut self, wanted: &[KernelTable]) {
        for table in wanted {
            let entries = table.entries().len() as u64;
            // In the golden ratio they are spread evenly; all have their turn, since a table's size is a prime.
            let apart = (entries * 618 / 1000).max(1);
            let index = |n: u64| u32::try_from((self.next_sample + n) * apart % entries).unwrap_or(0);
            let indices: Vec<u32> = (0..SAMPLES.min(entries)).map(index).collect();
            let expected: Vec<(u32, u32)> =
                indices.iter().filter_map(|&index| Some((index, table.entry(index)?))).collect();
            let found = Reader::open().and_then(|mut reader| reader.some_marks(&table.map, &indices));
            if !matches!(found, Ok(Some(found)) if found == expected) {
                self.known.remove(&table.map);
            }
        }
        self.next_sample = (self.next_sample + SAMPLES) % (1 << 32);
    }

    /// Nothing is known any more: somebody has removed the ruleset.
    pub(super) fn forget(&mut self) {
        self.known.clear();
        self.swept = None;
    }

    /// There may be other copies than those known.
    pub(super) fn unswept(&mut self) {
        self.swept = None;
    }
}

fn failed(table: &KernelTable, error: io::Error) -> NftError {
    NftError::Set { what: format!("map {}", table.map), error }
}

fn read(table: &KernelTable) -> Result<Vec<u32>, NftError> {
    let entries = Reader::open().and_then(|mut reader| reader.marks(&table.map));
    let mut marks = vec![0; table.size()];
    for (index, mark) in entries.map_err(|error| failed(table, error))? {
        let Some(entry) = usize::try_from(index).ok().and_then(|index| marks.get_mut(index)) else {
            // None of ours: somebody else has filled it.
            nft("the emptying of a map", &["flush", "map", "inet", TABLE, &table.map], None)?;
            return Ok(Vec::new());
        };
        *entry = mark;
    }
    Ok(marks)
}

/// One transaction: deletes and adds, in this order.
fn change(map: &str, changes: &[Change]) -> io::Result<()> {
    let deleted: Vec<Element> =
        changes.iter().filter(|change| change.delete).map(|change| (change.index, None)).collect();
    let added: Vec<Element> =
        changes.iter().filter_map(|change| Some((change.index, Some(change.add?)))).collect();
    let messages =
        deleted.chunks(ELEMENTS_PER_MESSAGE).map(|elements| (NFT_MSG_DELSETELEM, 0, elements)).chain(
            added.chunks(ELEMENTS_PER_MESSAGE).map(|elements| (NFT_MSG_NEWSETELEM, NLM_F_CREATE, elements)),
        );
    let mut batch = Writer::default();
    batch.message(NFNL_MSG_BATCH_BEGIN, 0, 0, BATCH_HEADER, |_| {});
    let mut messages = messages.zip(1..).peekable();
    let mut last = 0;
    while let Some(((kind, flags, elements), sequence)) = messages.next() {
        // Errors come unasked; that there were none is asked for once.
        let flags = if messages.peek().is_none() { flags | NLM_F_ACK } else { flags };
        batch.message(kind, flags, sequence, [NFPROTO_INET, 0, 0, 0], |message| put(message, map, elements));
        last = sequence;
    }
    batch.message(NFNL_MSG_BATCH_END, 0, last + 1, BATCH_HEADER, |_| {});
    send_batch(batch.bytes(), last)
}

/// Index, and mark unless it is only named.
type Element = (u32, Option<u32>);

/// Table, set and elements: what a message about elements says.
pub(super) fn put(message: &mut Writer, map: &str, elements: &[Element]) {
    message.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
    message.text(NFTA_SET_ELEM_LIST_SET, map);
    message.nested(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
        for &(index, mark) in elements {
            list.nested(NFTA_LIST_ELEM, |element| {
                let mut number = |of, number: u32| {
                    element.nested(of, |data| data.value(NFTA_DATA_VALUE, &number.to_ne_bytes()));
                };
                number(NFTA_SET_ELEM_KEY, index);
                if let Some(mark) = mark {
                    number(NFTA_SET_ELEM_DATA, mark);
                }
            });
        }
    });
}

/// Sends a batch, and waits until message `last` of it is done, which is when all are.
fn send_batch(batch: &[u8], last: u32) -> io::Result<()> {
    let socket = netfilter(PATIENCE)?;
    setsockopt(&socket, SndBufForce, &BUFFER_BYTES)?;
    setsockopt(&socket, RcvBufForce, &BUFFER_BYTES)?;
    send(socket.as_raw_fd(), batch, MsgFlags::empty())?;
    let mut answers = vec![0; DUMP_BYTES_MAX];
    loop {
        let bytes = recv(socket.as_raw_fd(), &mut answers, MsgFlags::empty())?;
        for message in messages(&answers[..bytes]).filter(|message| kind(message) == Some(NLMSG_ERROR)) {
            done(message)?;
            if sequence(message) == Some(last) {
                return Ok(());
            }
        }
    }
}
