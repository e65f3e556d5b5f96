//! Fills the kernel's copies of services' tables (`plan/kernel_tables.rs`): 65537 entries each, as a rule.
//!
//! What the kernel has is read once for each map, then known: only entries that differ are sent, in transactions of up to
//! [`ENTRIES_PER_BATCH`], and the kernel does each wholly or not at all. It is not read back whole, since that takes longer
//! than to change it; instead [`Tables::sample`] asks for some entries now and then, other ones each time: a map that
//! was emptied is found at once, a single entry within M / 16 looks.

use std::{collections::BTreeMap, io};

use super::{
    NftError, elements,
    image::put,
    messages::{NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE},
    reader::Reader,
    transaction::Transaction,
};
use crate::{
    plan::{
        elements::TABLE,
        kernel_tables::{self, Change, KernelTable},
        nf_table::Step,
    },
    sys::netlink::NLM_F_CREATE,
};

/// The largest transaction, 3 MB when all of them change.
const ENTRIES_PER_BATCH: usize = 65_537;
/// An element takes 28 bytes, and all of a message's are in one attribute of 65531 bytes at most.
const ELEMENTS_PER_MESSAGE: usize = 2_000;
/// How many entries of each map are asked for at a time.
const SAMPLES: u64 = 16;

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
            change(&table.map, changes)?;
        }
        self.known.insert(table.map.clone(), table.entries().collect());
        Ok(changes.len())
    }

    /// Removes other copies than these.
    fn sweep(&mut self, wanted: &[KernelTable]) -> Result<(), NftError> {
        let chains: Vec<String> = wanted.iter().flat_map(|table| table.chains.clone()).collect();
        if self.swept.as_ref() == Some(&chains) {
            return Ok(());
        }
        let names = Reader::open().and_then(|mut reader| reader.names());
        let (chains_there, maps_there) =
            names.map_err(|error| NftError::Table { what: "the names of chains and maps", error })?;
        let old: Vec<&String> = chains_there
            .iter()
            .filter(|name| kernel_tables::is_our_chain(name) && !chains.contains(name))
            .collect();
        let flush = old.iter().map(|name| Step::FlushChain(name));
        let delete = old.iter().map(|name| Step::DeleteChain(name));
        let maps = maps_there
            .iter()
            .filter(|name| kernel_tables::is_our_map(name) && wanted.iter().all(|table| table.map != **name));
        let maps = maps.map(|name| Step::DeleteSet(name));
        let steps: Vec<Step<'_>> = flush.chain(delete).chain(maps).collect();
        let mut transaction = Transaction::new();
        put(&steps, &mut transaction).map_err(|error| NftError::Table { what: "services' tables", error })?;
        transaction.commit()?;
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
            let mut transaction = Transaction::new();
            transaction.add(NFT_MSG_DELSETELEM, 0, format!("the emptying of map {}", table.map), |message| {
                message.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
                message.text(NFTA_SET_ELEM_LIST_SET, &table.map);
            });
            transaction.commit()?;
            return Ok(Vec::new());
        };
        *entry = mark;
    }
    Ok(marks)
}

/// One transaction: deletes and adds, in this order.
fn change(map: &str, changes: &[Change]) -> Result<(), NftError> {
    let deleted: Vec<elements::Mark> =
        changes.iter().filter(|change| change.delete).map(|change| (change.index, None)).collect();
    let added: Vec<elements::Mark> =
        changes.iter().filter_map(|change| Some((change.index, Some(change.add?)))).collect();
    let mut transaction = Transaction::new();
    for (kind, flags, marks) in
        [(NFT_MSG_DELSETELEM, 0, &deleted), (NFT_MSG_NEWSETELEM, NLM_F_CREATE, &added)]
    {
        for marks in marks.chunks(ELEMENTS_PER_MESSAGE) {
            transaction.add(kind, flags, format!("entries of map {map}"), |message| {
                elements::put_marks(message, map, marks);
            });
        }
    }
    transaction.commit()
}
