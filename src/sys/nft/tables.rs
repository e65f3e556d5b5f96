//! Fills the fallback tables (`plan/kernel_tables.rs`), which usually have 65537 entries each.
//!
//! The contents of each map are read from the kernel once, and then known by their digest, so a table that
//! is as it should be costs nothing. Only entries that differ are sent. Those of all tables go in one
//! transaction of up to [`ENTRIES_PER_BATCH`] entries (or [`ENTRIES_AT_ONCE`], if nothing waits for all of
//! them), since the kernel waits for all of its processors between two transactions. The kernel carries out a
//! transaction wholly or not at all. A table is not read back whole, since that takes longer than to change
//! it. Instead [`Tables::sample`] now and then reads some entries, different ones each time. It finds an
//! emptied map at once, and a single wrong entry within M / 16 samples.
//!
//! [`Tables`] also records what was found right in the rest of our table ([`super::change`],
//! [`super::mend`]).

use std::{collections::BTreeMap, io, sync::Arc};

use arc_swap::ArcSwap;

use super::{
    NftError, elements, flow_maps,
    flowtable::{self, Present},
    image::put,
    messages::{NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM},
    reader::{Reader, is_missing, opened},
    transaction::Transaction,
};
use crate::{
    balance::pins::OffTable,
    plan::{
        kernel_tables::{self, Change, Contents, KernelTable},
        nf_table::Step,
        ruleset::Ruleset,
    },
};

/// The largest transaction, 12 MB if all of its entries change.
const ENTRIES_PER_BATCH: usize = 4 * 65_537;
/// How many entries [`Tables::apply_some`] handles in one call: those of several tables, or of one larger
/// table.
const ENTRIES_AT_ONCE: usize = 2 * 65_537;
/// How many entries of each map are sampled at a time.
const SAMPLES: u64 = 16;

/// What is known about the kernel's table.
#[derive(Default)]
pub struct Tables {
    /// The contents of the fallback tables, by map.
    known: BTreeMap<String, Contents>,
    /// The name of the structure in place, and the chains of each fallback table in place, by its map.
    placed: Option<(String, BTreeMap<String, Vec<String>>)>,
    /// Whether the kernel has no other fallback tables than these.
    swept: bool,
    /// The kernel's generation of all rules and sets at which everything was found right.
    right_at: Option<u32>,
    /// The devices of the flowtable that existed when they were last set.
    devices: Option<Present>,
    next_sample: u64,
    next_table: usize,
    /// The off-table flows that lbd knows.
    flows: Option<Arc<ArcSwap<OffTable>>>,
}

/// A fallback table that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FallbackDifference {
    /// Entries of the table of a service.
    Entries {
        /// The service, by its place in the state.
        service: usize,
        /// How many entries are missing or wrong.
        entries: usize,
    },
    /// A map or chain of a table that no service has.
    NotWanted(String),
}

/// A fallback table, and its entries that have to change.
type Changes<'a> = (&'a KernelTable, Vec<Change>);

impl Tables {
    /// Returns tables of which nothing is known. Maps of off-table flows that are made anew get these flows before
    /// packets go by the maps.
    #[must_use]
    pub fn restoring(flows: Arc<ArcSwap<OffTable>>) -> Self {
        Self { flows: Some(flows), ..Self::default() }
    }

    /// Fills the maps of off-table flows if any of them was made anew.
    pub(super) fn restore_flows(&self, made_anew: impl Fn(&str) -> bool) -> Result<(), NftError> {
        let Some(flows) = self.flows.as_ref().filter(|_| flow_maps::off_table_maps().any(made_anew)) else {
            return Ok(());
        };
        let flows: Vec<_> = flows.load().iter().collect();
        flow_maps::put_off_table(&flows, &OffTable::default())
    }

    /// Changes the entries of these fallback tables to what they should be, then removes other ones. The maps
    /// and chains of these must be in place. Returns how many entries were changed.
    ///
    /// # Errors
    /// Returns the first error of the kernel. Everything else is done, and the next call tries the rest
    /// again.
    pub fn apply(&mut self, desired: &[KernelTable]) -> Result<usize, NftError> {
        let changed = self.fill(desired);
        let swept = self.sweep(desired);
        changed.and_then(|changed| swept.map(|()| changed))
    }

    /// Reports whether a single [`Tables::apply_some`] would do everything.
    #[must_use]
    pub fn is_little(&self, desired: &[KernelTable]) -> bool {
        self.differing(desired).map(KernelTable::size).sum::<usize>() <= ENTRIES_AT_ONCE
    }

    fn differing<'a>(&self, desired: &'a [KernelTable]) -> impl Iterator<Item = &'a KernelTable> {
        desired.iter().filter(|table| self.known.get(&table.map) != Some(table.contents()))
    }

    /// As [`Tables::apply`], but handles only some of the tables that are known to differ, different ones
    /// each time: about 50 ms of work. Returns whether all tables are done.
    ///
    /// # Errors
    /// As [`Tables::apply`], for the tables that it handles.
    pub fn apply_some(&mut self, desired: &[KernelTable]) -> Result<bool, NftError> {
        let mut differing: Vec<&KernelTable> = self.differing(desired).collect();
        let count = differing.len().max(1);
        differing.rotate_left(self.next_table % count);
        let mut entries = 0;
        let some = differing.iter().take_while(|table| {
            let fits = entries == 0 || entries + table.size() <= ENTRIES_AT_ONCE;
            entries += table.size();
            fits
        });
        let some: Vec<&KernelTable> = some.copied().collect();
        self.next_table = self.next_table.wrapping_add(some.len());
        let all = some.len() == differing.len();
        self.fill(some)?;
        if all {
            self.sweep(desired)?;
        }
        Ok(all)
    }

    /// Fills these fallback tables, which were just created.
    pub(super) fn fill_new<'a>(
        &mut self,
        new: impl Iterator<Item = &'a KernelTable> + Clone,
    ) -> Result<usize, NftError> {
        self.known.extend(new.clone().map(|table| (table.map.clone(), Contents::default())));
        self.fill(new)
    }

    /// As [`Tables::apply`], but does not remove other tables.
    pub(super) fn fill<'a>(
        &mut self,
        desired: impl IntoIterator<Item = &'a KernelTable>,
    ) -> Result<usize, NftError> {
        let (mut reader, mut waiting, mut entries) = (None, Vec::new(), 0);
        let mut result = Ok(0);
        let mut done = |with: Result<usize, NftError>| {
            if let Ok(sum) = result {
                result = with.map(|changed| sum + changed);
            }
        };
        for table in desired {
            let changes: Vec<Change> = match self.known.get(&table.map) {
                Some(contents) if contents == table.contents() => continue,
                Some(contents) => kernel_tables::changes(contents.entries(), table.contents()).collect(),
                None => match read(&mut reader, table) {
                    Ok(marks) => kernel_tables::changes(marks.into_iter(), table.contents()).collect(),
                    Err(error) => {
                        done(Err(error));
                        continue;
                    }
                },
            };
            if entries + changes.len() > ENTRIES_PER_BATCH {
                done(self.send(&std::mem::take(&mut waiting)));
                entries = 0;
            }
            entries += changes.len();
            waiting.push((table, changes));
        }
        done(self.send(&waiting));
        result
    }

    /// Changes these tables together. If that fails, changes each by itself, based on the contents that are
    /// read from the kernel: either they were not as known, or the error of one table holds up the others.
    fn send(&mut self, tables: &[Changes<'_>]) -> Result<usize, NftError> {
        self.change(tables).or_else(|_| {
            let mut reader = None;
            let anew = |(table, _): &Changes<'_>| {
                let marks = read(&mut reader, table)?;
                let changes = kernel_tables::changes(marks.into_iter(), table.contents()).collect();
                self.change(&[(*table, changes)])
            };
            let each: Vec<_> = tables.iter().map(anew).collect();
            each.into_iter().sum()
        })
    }

    fn change(&mut self, tables: &[Changes<'_>]) -> Result<usize, NftError> {
        for (table, _) in tables {
            self.known.remove(&table.map);
        }
        let mut transaction = Transaction::new();
        for (table, changes) in tables {
            for (index, changes) in changes.chunks(ENTRIES_PER_BATCH).enumerate() {
                if index > 0 {
                    std::mem::replace(&mut transaction, Transaction::new()).commit()?;
                }
                add(&table.map, changes, &mut transaction);
            }
        }
        transaction.commit()?;
        self.known.extend(tables.iter().map(|(table, _)| (table.map.clone(), table.contents().clone())));
        Ok(tables.iter().map(|(_, changes)| changes.len()).sum())
    }

    /// Returns what [`Tables::apply`] would change. Changes nothing. A table whose map is missing is left out: that is a
    /// difference of the ruleset.
    ///
    /// # Errors
    /// Returns an error if a table cannot be read.
    pub fn look(&self, desired: &[KernelTable]) -> Result<Vec<FallbackDifference>, NftError> {
        let (mut reader, mut differences) = (None, Vec::new());
        for table in desired {
            let entries = match marks(&mut reader, table) {
                Ok(Some(marks)) => kernel_tables::changes(marks.into_iter(), table.contents()).count(),
                Ok(None) => table.size(),
                Err(NftError::Set { error, .. }) if is_missing(&error) => 0,
                Err(error) => return Err(error),
            };
            if entries > 0 {
                differences.push(FallbackDifference::Entries { service: table.service, entries });
            }
        }
        let (chains, maps) = self.unwanted(desired)?;
        differences.extend(maps.into_iter().chain(chains).map(FallbackDifference::NotWanted));
        Ok(differences)
    }

    /// Returns the names of chains and maps of all fallback tables but these.
    fn unwanted(&self, desired: &[KernelTable]) -> Result<(Vec<String>, Vec<String>), NftError> {
        let is_desired = |map: &str| desired.iter().any(|table| table.map == map);
        if let Some((_, placed)) = self.placed.as_ref().filter(|_| self.swept) {
            let old = placed.iter().filter(|(map, _)| !is_desired(map));
            let (maps, chains): (Vec<String>, Vec<Vec<String>>) =
                old.map(|(map, chains)| (map.clone(), chains.clone())).unzip();
            return Ok((chains.concat(), maps));
        }
        let names = Reader::open().and_then(|mut reader| reader.names());
        let (mut chains, mut maps) = match names {
            Err(error) if is_missing(&error) => return Ok((Vec::new(), Vec::new())),
            names => {
                names.map_err(|error| NftError::Table { what: "the names of chains and maps", error })?
            }
        };
        chains.retain(|name| {
            kernel_tables::is_our_chain(name) && !desired.iter().any(|table| table.chains.contains(name))
        });
        maps.retain(|name| kernel_tables::is_our_map(name) && !is_desired(name));
        Ok((chains, maps))
    }

    /// Removes all fallback tables but these.
    fn sweep(&mut self, desired: &[KernelTable]) -> Result<(), NftError> {
        let is_desired = |map: &str| desired.iter().any(|table| table.map == map);
        self.known.retain(|map, _| is_desired(map));
        let (chains, maps) = self.unwanted(desired)?;
        let flush = chains.iter().map(|name| Step::FlushChain(name));
        let delete = chains.iter().map(|name| Step::DeleteChain(name));
        let maps = maps.iter().map(|name| Step::DeleteSet(name));
        let steps: Vec<Step<'_>> = flush.chain(delete).chain(maps).collect();
        let mut transaction = Transaction::new();
        put(&steps, &mut transaction).map_err(|error| NftError::Table { what: "services' tables", error })?;
        // If this fails, the next call reads from the kernel which tables exist.
        self.swept = false;
        transaction.commit()?;
        self.swept = true;
        if let Some((_, placed)) = &mut self.placed {
            placed.retain(|map, _| is_desired(map));
        }
        Ok(())
    }

    /// Reads some entries of each table, different ones each time. If an entry is wrong, the next
    /// [`Tables::apply`] reads the whole table again.
    pub fn sample(&mut self, desired: &[KernelTable]) {
        let mut reader = None;
        for table in desired {
            let entries = table.contents().entries().len() as u64;
            // Steps by the golden ratio, which spreads the samples evenly. All entries get their turn, since
            // a table's size is a prime.
            let apart = (entries * 618 / 1000).max(1);
            let index = |n: u64| u32::try_from((self.next_sample + n) * apart % entries).unwrap_or(0);
            let indices: Vec<u32> = (0..SAMPLES.min(entries)).map(index).collect();
            let expected: Vec<(u32, u32)> =
                indices.iter().filter_map(|&index| Some((index, table.contents().entry(index)?))).collect();
            let found = opened(&mut reader).and_then(|reader| reader.some_marks(&table.map, &indices));
            if !matches!(&found, Ok(Some(found)) if *found == expected) {
                self.known.remove(&table.map);
                // The connection may still hold the rest of an answer.
                reader = None;
            }
        }
        self.next_sample = (self.next_sample + SAMPLES) % (1 << 32);
    }

    /// Records that the structure and fallback tables of this ruleset are in place; other tables may exist
    /// too.
    pub(super) fn placed(&mut self, ruleset: &Ruleset) {
        self.placed = Some((ruleset.structure.name.clone(), BTreeMap::new()));
        self.swept = false;
        self.placed_too(&ruleset.tables);
    }

    /// Records that these tables are in place too.
    pub(super) fn placed_too<'a>(&mut self, tables: impl IntoIterator<Item = &'a KernelTable>) {
        if let Some((_, placed)) = &mut self.placed {
            placed.extend(tables.into_iter().map(|table| (table.map.clone(), table.chains.clone())));
        }
    }

    /// Returns the fallback tables of this ruleset that are not in place; `None` if it is not known which
    /// are.
    pub(super) fn not_placed<'a>(&self, ruleset: &'a Ruleset) -> Option<Vec<&'a KernelTable>> {
        let (structure, placed) = self.placed.as_ref()?;
        let new = ruleset.tables.iter().filter(|table| !placed.contains_key(&table.map));
        (*structure == ruleset.structure.name).then(|| new.collect())
    }

    /// Records that it is no longer known what is in place.
    pub(super) fn displaced(&mut self) {
        (self.placed, self.swept, self.right_at, self.devices) = (None, false, None, None);
    }

    /// Records that nothing is known any more: the ruleset was removed.
    pub(super) fn forget(&mut self) {
        self.known.clear();
        self.displaced();
    }

    /// Records that everything was found right at this generation.
    pub(super) fn right(&mut self, at: u32) {
        self.right_at = Some(at);
    }

    /// Reports whether everything was found right, no rule or set was changed since, and exactly these
    /// devices still exist.
    pub(super) fn is_right(&self, at: u32, devices: &Present) -> bool {
        self.right_at == Some(at) && self.devices.as_ref() == Some(devices)
    }

    /// Gives the flowtable the desired devices that exist. A failure here does not stop an application;
    /// [`super::mend`] reports it.
    pub(super) fn hook(&mut self, ruleset: &Ruleset) -> Result<(), NftError> {
        let present = flowtable::present(ruleset.promoted.as_ref());
        if self.devices.as_ref() != Some(&present) {
            self.devices = None;
            flowtable::set_devices(&present)?;
            self.devices = Some(present);
        }
        Ok(())
    }
}

/// Returns how many entries of these tables are not what they should be. Changes nothing.
#[cfg(test)]
pub(crate) fn differing(desired: &[KernelTable]) -> usize {
    let changes = |table: &KernelTable| {
        let marks = read(&mut None, table).unwrap();
        kernel_tables::changes(marks.into_iter(), table.contents()).count()
    };
    desired.iter().map(changes).sum()
}

fn failed(table: &KernelTable, error: io::Error) -> NftError {
    NftError::Set { what: format!("map {}", table.map), error }
}

/// Reads the marks of a table. A map with other indexes than ours was filled by another program, and is emptied.
fn read(reader: &mut Option<Reader>, table: &KernelTable) -> Result<Vec<u32>, NftError> {
    if let Some(marks) = marks(reader, table)? {
        return Ok(marks);
    }
    let mut transaction = Transaction::new();
    elements::empty_set(&mut transaction, &table.map);
    transaction.commit()?;
    Ok(Vec::new())
}

/// Returns the mark of each entry, 0 for one that is missing; `None` if the map has other indexes than ours.
fn marks(reader: &mut Option<Reader>, table: &KernelTable) -> Result<Option<Vec<u32>>, NftError> {
    let entries = opened(reader).and_then(|reader| reader.marks(&table.map));
    let entries = entries.inspect_err(|_| *reader = None).map_err(|error| failed(table, error))?;
    let mut marks = vec![0; table.size()];
    for (index, mark) in entries {
        let Some(entry) = usize::try_from(index).ok().and_then(|index| marks.get_mut(index)) else {
            return Ok(None);
        };
        *entry = mark;
    }
    Ok(Some(marks))
}

/// Adds the messages that delete entries, then those that add entries.
fn add(map: &str, changes: &[Change], transaction: &mut Transaction) {
    let deleted = changes.iter().filter(|change| change.delete).map(|change| (change.index, None));
    let added = changes.iter().filter_map(|change| Some((change.index, Some(change.add?))));
    let what = format!("entries of map {map}");
    transaction.add_elements(NFT_MSG_DELSETELEM, &what, map, None, deleted, elements::write_mark);
    transaction.add_elements(NFT_MSG_NEWSETELEM, &what, map, None, added, elements::write_mark);
}
