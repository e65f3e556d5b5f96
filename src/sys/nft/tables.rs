//! Fills the kernel's copies of services' tables (`plan/kernel_tables.rs`): 65537 entries each, as a rule.
//!
//! What the kernel has is read once for each map, then known: only entries that differ are sent, in transactions of up to
//! [`ENTRIES_PER_BATCH`], and the kernel does each wholly or not at all. It is not read back whole, since that takes longer
//! than to change it; instead [`Tables::sample`] asks for some entries now and then, other ones each time.
//!
//! A transaction must be one message to the kernel (`nfnetlink_rcv_batch`), so the socket's buffers are as large as that.

use std::{collections::BTreeMap, io, os::fd::AsRawFd as _};

use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt::SndBufForce};

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
        DUMP_BYTES_MAX, HEADER_BYTES, NLM_F_ACK, NLM_F_CREATE, NLMSG_ERROR, Writer, kind, messages,
        netfilter, word,
    },
};

/// The largest transaction, 3 MB when all of them change.
const ENTRIES_PER_BATCH: usize = 65_537;
/// Enough for that, whatever the host's `net.core.wmem_max`.
const SEND_BUFFER_BYTES: usize = 16 << 20;
/// An element takes 28 bytes, and all of a message's are in one attribute of 65531 bytes at most.
const ELEMENTS_PER_MESSAGE: usize = 2_000;
/// How many entries of each map are asked for at a time.
const SAMPLES: u32 = 16;
/// How far apart: prime to every size of a table, which is a prime as well, so that all have their turn.
const SAMPLES_APART: u32 = 1 << 16;
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
    next_sample: u32,
}

impl Tables {
    /// Makes the entries of these copies what they should be, whose maps and chains are in place, then removes other copies.
    /// Says how many entries were changed.
    ///
    /// # Errors
    /// When the kernel refuses. What was not done yet is done the next time.
    pub fn apply(&mut self, wanted: &[KernelTable]) -> Result<usize, NftError> {
        self.known.retain(|map, _| wanted.iter().any(|table| table.map == *map));
        let mut changed = 0;
        for table in wanted {
            let failed = |error| NftError::Set { what: format!("map {}", table.map), error };
            let current =
                self.known.remove(&table.map).map_or_else(|| read(&table.map).map_err(failed), Ok)?;
            let changes: Vec<Change> = kernel_tables::changes(&current, table).collect();
            for changes in changes.chunks(ENTRIES_PER_BATCH) {
                change(&table.map, changes).map_err(failed)?;
            }
            changed += changes.len();
            self.known.insert(table.map.clone(), table.entries().collect());
        }
        self.sweep(wanted)?;
        Ok(changed)
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

    /// Asks for some entries of each copy, and says whether all are as they should be. Those of a copy that is not are
    /// read anew by the next [`Tables::apply`].
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn sample(&mut self, wanted: &[KernelTable]) -> Result<bool, NftError> {
        let mut all = true;
        for table in wanted {
            let entries = u32::try_from(table.entries().len()).unwrap_or(u32::MAX);
            let samples = (0..SAMPLES.min(entries)).map(|n| self.next_sample.wrapping_add(n));
            let indices: Vec<u32> = samples
                .map(|sample| u64::from(sample) * u64::from(SAMPLES_APART) % u64::from(entries))
                .map(|index| u32::try_from(index).unwrap_or(0))
                .collect();
            let expected: Vec<(u32, u32)> =
                indices.iter().filter_map(|&index| Some((index, table.entry(index)?))).collect();
            let found = Reader::open().and_then(|mut reader| reader.some_marks(&table.map, &indices));
            let found = found.map_err(|error| NftError::Set { what: format!("map {}", table.map), error })?;
            if found != Some(expected) {
                self.known.remove(&table.map);
            }
            all &= self.known.contains_key(&table.map);
        }
        self.next_sample = self.next_sample.wrapping_add(SAMPLES);
        Ok(all)
    }

    /// Nothing is known any more: somebody has removed the ruleset.
    pub fn forget(&mut self) {
        self.known.clear();
        self.swept = None;
    }
}

fn read(map: &str) -> io::Result<Vec<u32>> {
    let entries = Reader::open()?.marks(map)?;
    let length = entries.iter().map(|&(index, _)| index as usize + 1).max().unwrap_or(0);
    let mut marks = vec![0; length];
    for (index, mark) in entries {
        marks[index as usize] = mark;
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
    setsockopt(&socket, SndBufForce, &SEND_BUFFER_BYTES)?;
    send(socket.as_raw_fd(), batch, MsgFlags::empty())?;
    let mut answers = vec![0; DUMP_BYTES_MAX];
    loop {
        let bytes = recv(socket.as_raw_fd(), &mut answers, MsgFlags::empty())?;
        for message in messages(&answers[..bytes]).filter(|message| kind(message) == Some(NLMSG_ERROR)) {
            match word(message, HEADER_BYTES).map(u32::cast_signed) {
                Some(0) if word(message, 8) == Some(last) => return Ok(()),
                Some(0) => {}
                Some(error) => return Err(io::Error::from_raw_os_error(error.saturating_neg())),
                None => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}
