//! Puts the ruleset of `plan/` into the kernel, and reads it back.
//!
//! The nft command only makes rules from text, in an empty network namespace (`compiler.rs`). All reads and
//! changes of the ruleset in force go by netlink, and concern our table alone, whatever other programs'
//! tables contain. Of other tables only names, hooks and policies of base chains are read, and rules of base
//! chains of type nat (`foreign.rs`).
//!
//! An application has these steps, each of which is one transaction:
//!
//! - Chains, rules, sets and objects that are not as they should be (`plan/nf_table.rs`), including chains
//!   and maps of fallback tables.
//! - The entries of fallback tables that are new (`tables.rs`).
//! - The elements of the sets, if they differ, with the name of the structure.
//!
//! Where claims are replaced, a transaction before makes the new ones known, and one afterwards ends that
//! (`led_meanwhile`).
//!
//! If there was no table, the last two are exchanged. As long as the set of interfaces is empty, no packet
//! meets a rule. With the elements, flows that connection tracking or lbd knows go on at once, and the others
//! need not wait for entries that take a second to fill in. Then everything except the entries of fallback
//! tables is read back. What is in place already is not changed, so a restarted lbd takes over. A base chain
//! is removed only if another version of synrail had other base chains, or another program has changed it
//! ([`Applied`] reports this). Changes of fallback tables that existed before come later ([`Tables::apply`]),
//! and may be large.
//!
//! [`apply`] reads all of our table before and after. If the table in force is known, [`change`] does not
//! read it, but sends the differences, and calls [`apply`] if the kernel refuses them. [`mend`] reads the
//! table only if the kernel's generation shows that a rule or set was changed since everything was found
//! right.

mod command;
mod compiler;
mod elements;
pub mod flow_maps;
mod flowtable;
mod foreign;
mod foreign_nat;
mod image;
mod messages;
mod native;
mod reader;
mod tables;
mod transaction;
mod undelivered;
mod watch;

use std::{collections::BTreeMap, fmt, io};

use thiserror::Error;

#[cfg(test)]
pub(crate) use command::nft;
pub(crate) use compiler::{Elsewhere, check, check_here, make_here};
pub use foreign::{Foreign, foreign};
#[cfg(test)]
pub(crate) use tables::differing;
pub use tables::{FallbackDifference, Tables};
pub use undelivered::UndeliveredSets;
pub use watch::OthersWatch;

use crate::{
    plan::{
        elements::{Elements, ElementsDiff, SetName, TABLE, Way},
        kernel_tables::{self, KernelTable},
        nf_table,
        nf_table::{Change, Difference, Image, Thing, Tolerated},
        ruleset::{Means, QueueBy, Ruleset},
    },
    sys::netlink::{NLM_F_CREATE, attribute, number, text},
};
use image::ElementsOf;
use messages::{
    NFT_MSG_DELTABLE, NFT_MSG_GETOBJ, NFT_MSG_NEWCHAIN, NFT_OBJECT_COUNTER, NFTA_CHAIN_NAME,
    NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS, NFTA_OBJ_DATA, NFTA_OBJ_NAME, NFTA_OBJ_TYPE, NFTA_TABLE_NAME,
    names,
};
use reader::Reader;
use transaction::Transaction;

/// Why the ruleset could not be put in force, or read.
#[derive(Debug, Error)]
pub enum NftError {
    /// There is no nft command.
    #[error("nft not found: apt install nftables")]
    NoCommand,
    /// The nft command could not be run.
    #[error("cannot run nft: {0}")]
    Run(io::Error),
    /// The nft command refused the text. Its own message shows the line.
    #[error("nft: {what}: {message}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// The message of nft.
        message: String,
    },
    /// The kernel did not create a network namespace to compile in.
    #[error(
        "cannot make an empty network namespace, in which nft compiles the ruleset: {0} (it takes CAP_SYS_ADMIN; run it as root)"
    )]
    NoNamespace(io::Error),
    /// The kernel refused a transaction.
    #[error("nf_tables refused {what}: {error}")]
    Netlink {
        /// The refused part of the transaction.
        what: String,
        /// The kernel's error.
        error: io::Error,
    },
    /// The contents of our table cannot be read.
    #[error("nf_tables, {what}, table inet synrail: {error}")]
    Table {
        /// What was being read.
        what: &'static str,
        /// The kernel's error.
        error: io::Error,
    },
    /// A set or map cannot be read or changed.
    #[error("nf_tables, {what} of table inet synrail: {error}")]
    Set {
        /// The name of the set or map.
        what: String,
        /// The kernel's error.
        error: io::Error,
    },
    /// The output of nft cannot be read.
    #[error("cannot read what nft prints: {0}")]
    Unreadable(String),
    /// Every change was accepted, but is not in force: another program changes the table.
    #[error("table inet synrail is not as it was set ({0}): does another program change it?")]
    NotInForce(String),
}

/// What an application has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The result for chains and rules.
    pub structure: StructureApplied,
    /// How many elements were added to sets.
    pub elements_added: usize,
    /// How many elements were deleted from sets.
    pub elements_deleted: usize,
}

/// The parts that are not as they should be; empty if all are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences(pub Vec<Difference>);

impl Differences {
    /// Reports whether everything is as it should be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How many differences are printed.
const SHOWN_MAX: usize = 4;

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.0.iter().take(SHOWN_MAX).map(ToString::to_string).collect();
        f.write_str(&shown.join("; "))?;
        match self.0.len().saturating_sub(shown.len()) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// The result for chains and rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StructureApplied {
    /// They were in place and have not been changed.
    Kept,
    /// There was no table.
    Created,
    /// They were those of another version or of other settings, and were filled again. No packet that waited
    /// in a queue was lost. If a version without the maps `next_...` declared claims in another way, the kernel
    /// drops new flows for less than a millisecond of its commit.
    Refilled,
    /// As `Refilled`, but these base chains had to be removed: packets that waited in queues were lost.
    BaseChainsRemoved(Vec<String>),
}

/// Fallback tables that are no longer desired are removed last ([`Tables::apply`]), when nothing leads to
/// them any more.
const TOLERATED: Tolerated = Tolerated { chain: kernel_tables::is_our_chain, set: kernel_tables::is_our_map };

/// Changes the kernel's table to match `ruleset`, and reads it back. Of fallback tables it fills only
/// new ones.
///
/// If the table exists already, packets always find the elements that rules look up: new fallback tables
/// are filled first, and sets that are made anew get their elements in the transaction that makes them.
///
/// # Errors
/// Returns an error if nft or the kernel refuses a step. Each step is done wholly or not at all.
pub fn apply(ruleset: &Ruleset, tables: &mut Tables) -> Result<Applied, NftError> {
    tables.displaced();
    let mut desired = compiler::compile(ruleset)?;
    let name = &ruleset.structure.name;
    let before = read_image(&desired)?;
    let named = before.as_ref().is_some_and(|image| image.chains.contains_key(name));
    if named {
        desired.chains.insert(name.clone(), nf_table::Chain::default());
    }
    let with_tables;
    let mut change = nf_table::change(before.as_ref(), &desired, TOLERATED);
    let structure = structure_applied(before.is_some(), &change);
    if structure != StructureApplied::Kept {
        tables.forget();
    }
    if let Some(image) = &before {
        let new = ruleset.tables.iter().filter(|table| !image.sets.contains_key(&table.map));
        let new: Vec<&KernelTable> = new.collect();
        // Another version's rules may lack the chains that these tables lead to. Then the tables are added
        // with the other changes.
        if !new.is_empty() && add_tables(ruleset, &new, tables).is_ok() {
            with_tables = read_image(&desired)?;
            change = nf_table::change(with_tables.as_ref(), &desired, TOLERATED);
        }
    }
    let is_new = |set: SetName| change.empty_sets.contains(set.name());
    let filled =
        before.as_ref().map(|_| ElementsDiff::filling(&ruleset.elements, is_new)).unwrap_or_default();
    let was_there = |set: &SetName| {
        before.as_ref().is_some_and(|image| image.sets.contains_key(set.name())) && !is_new(*set)
    };
    let ahead = filled.ahead(is_new).only(was_there);
    led_meanwhile(&ahead, || change_structure(&change, &filled))?;
    // Fill the tables that were added with the other changes. After a failure Tables::apply tries again and
    // reports it.
    let new = ruleset.tables.iter().filter(|table| change.empty_sets.contains(table.map.as_str()));
    if before.is_some() {
        let _ = tables.fill_new(new.clone());
    }
    // Before packets go by them. After a failure the next audit puts the flows there.
    let _ = tables.restore_flows(|map| change.empty_sets.contains(map));

    let diff = read_elements()?.diff(&ruleset.elements);
    let mut transaction = Transaction::new();
    if !named {
        transaction.add(NFT_MSG_NEWCHAIN, NLM_F_CREATE, format!("chain {name}"), |message| {
            names(message, NFTA_CHAIN_NAME, name);
        });
    }
    elements::change(&diff, &mut transaction);
    led_meanwhile(&diff.ahead(|_| false), || transaction.commit())?;
    if before.is_none() {
        let _ = tables.fill_new(new);
    }
    let _ = tables.hook(ruleset);
    if !named || !change.differences.is_empty() || !diff.is_empty() {
        let left = differences_but_devices(ruleset)?;
        if !left.is_empty() {
            return Err(NftError::NotInForce(left.to_string()));
        }
    }
    tables.placed(ruleset);
    Ok(Applied { structure, elements_added: diff.add.len(), elements_deleted: diff.delete.len() })
}

/// As [`apply`], but if the ruleset in force is known, with these elements, it is not read.
///
/// # Errors
/// As [`apply`].
pub fn change(
    ruleset: &Ruleset,
    in_force: Option<&Elements>,
    tables: &mut Tables,
) -> Result<Applied, NftError> {
    let known = in_force.zip(tables.not_placed(ruleset));
    let changed = known.map(|(in_force, new)| change_known(ruleset, in_force, &new, tables));
    // If this fails, another program has changed the table.
    changed.and_then(Result::ok).map_or_else(|| apply(ruleset, tables), Ok)
}

fn change_known(
    ruleset: &Ruleset,
    in_force: &Elements,
    new: &[&KernelTable],
    tables: &mut Tables,
) -> Result<Applied, NftError> {
    if !new.is_empty() {
        add_tables(ruleset, new, tables)?;
        tables.placed_too(new.iter().copied());
    }
    let diff = in_force.diff(&ruleset.elements);
    let mut transaction = Transaction::new();
    elements::change(&diff, &mut transaction);
    led_meanwhile(&diff.ahead(|_| false), || transaction.commit())?;
    let _ = tables.hook(ruleset);
    let (elements_added, elements_deleted) = (diff.add.len(), diff.delete.len());
    Ok(Applied { structure: StructureApplied::Kept, elements_added, elements_deleted })
}

/// Adds these fallback tables, and fills them. If filling fails, [`Tables::apply`] tries again and reports
/// it.
fn add_tables(ruleset: &Ruleset, new: &[&KernelTable], tables: &mut Tables) -> Result<(), NftError> {
    let desired = compiler::compile_tables(&ruleset.structure, new)?;
    let nothing = Image::default();
    let change = nf_table::change(Some(&nothing), &desired, TOLERATED);
    change_structure(&change, &ElementsDiff::default())?;
    let _ = tables.fill_new(new.iter().copied());
    Ok(())
}

/// Repairs what differs from `ruleset` in the kernel's table. Returns the differences, and what was changed.
/// Reads nothing if everything was right the last time, and no rule or set was changed since.
///
/// # Errors
/// As [`apply`].
pub fn mend(ruleset: &Ruleset, tables: &mut Tables) -> Result<Option<(Differences, Applied)>, NftError> {
    let at = reader::generation(&mut None)?;
    if tables.is_right(at, &flowtable::present(ruleset.promoted.as_ref())) {
        return Ok(None);
    }
    let differed = differences(ruleset)?;
    if differed.is_empty() {
        if tables.not_placed(ruleset).is_none_or(|new| !new.is_empty()) {
            tables.placed(ruleset);
        }
        tables.hook(ruleset)?;
        tables.right(at);
        return Ok(None);
    }
    let applied = apply(ruleset, tables)?;
    tables.hook(ruleset)?;
    Ok(Some((differed, applied)))
}

/// Returns what [`mend`] would repair. Changes nothing.
///
/// # Errors
/// Returns an error if the table cannot be read.
pub fn look(ruleset: &Ruleset) -> Result<Option<(Differences, Applied)>, NftError> {
    let nothing = Applied { structure: StructureApplied::Kept, elements_added: 0, elements_deleted: 0 };
    let differ = differences(ruleset)?;
    Ok((!differ.is_empty()).then_some((differ, nothing)))
}

/// Returns the way of packets by which the kernel's table leads them, if it was made for `ruleset`: the one
/// with the fewest differences.
///
/// # Errors
/// Returns an error if the sets cannot be read.
pub fn way_in_force(ruleset: &Ruleset) -> Result<Way, NftError> {
    Ok(ruleset.elements.nearest_way(&read_elements()?))
}

/// Returns how the kernel's table differs from `ruleset`. Changes nothing.
///
/// # Errors
/// Returns an error if the table cannot be read.
pub fn differences(ruleset: &Ruleset) -> Result<Differences, NftError> {
    let mut differences = differences_but_devices(ruleset)?;
    let (add, delete) = flowtable::difference(&flowtable::present(ruleset.promoted.as_ref()))?;
    let flowtable = |text| Difference::new(Thing::Object(flowtable::NAME.to_owned()), text);
    let add = add.iter().map(|device| flowtable(format!("the flowtable lacks device {device}")));
    let delete = delete.iter().map(|device| flowtable(format!("the flowtable has device {device}")));
    differences.0.extend(add.chain(delete));
    Ok(differences)
}

fn differences_but_devices(ruleset: &Ruleset) -> Result<Differences, NftError> {
    let desired = compiler::compile_whole(ruleset)?;
    let current = read_image(&desired)?;
    let change = nf_table::change(current.as_ref(), &desired, TOLERATED);
    let mut differences = change.differences;
    if current.is_some() {
        let diff = read_elements()?.diff(&ruleset.elements);
        let other = |set: SetName| {
            let text = format!("set {} has other elements", set.name());
            Difference::new(Thing::Set(set.name().to_owned()), text)
        };
        differences.extend(diff.sets().map(other));
    }
    Ok(Differences(differences))
}

/// Reports whether the kernel's table matches `ruleset`. Changes nothing.
#[cfg(test)]
pub(crate) fn in_force(ruleset: &Ruleset) -> Result<bool, NftError> {
    Ok(differences(ruleset)?.is_empty())
}

/// Changes the elements of sets from those in force to the desired ones, in one transaction.
///
/// # Errors
/// Returns an error if the kernel refuses, most likely because other elements are in force.
pub fn change_elements(in_force: &Elements, desired: &Elements) -> Result<(), NftError> {
    commit(&in_force.diff(desired))
}

fn commit(diff: &ElementsDiff) -> Result<(), NftError> {
    let mut transaction = Transaction::new();
    elements::change(diff, &mut transaction);
    transaction.commit()
}

/// Makes a change during which packets that find no claim follow these elements ([`ElementsDiff::ahead`]).
fn led_meanwhile(
    ahead: &ElementsDiff,
    change: impl FnOnce() -> Result<(), NftError>,
) -> Result<(), NftError> {
    // If the kernel refuses this, the change drops some new flows, but is made.
    let led = !ahead.is_empty() && commit(ahead).is_ok();
    let changed = change();
    let emptied = if led { commit(&ahead.emptied()) } else { Ok(()) };
    changed.and(emptied)
}

/// Finds out how this kernel can queue packets, and whether it has a flowtable, by checks that change
/// nothing.
///
/// # Errors
/// Returns an error if there is no nft command. [`apply`] fails on a kernel that cannot queue in either way.
pub fn means() -> Result<Means, NftError> {
    let queue = "table inet synrail_check { chain c { queue flags bypass to 0; }\n}\n";
    let flowtable = "table inet synrail_check { flowtable f { hook ingress priority filter; }\n\
                     chain c { type filter hook forward priority mangle; numgen random mod 2 0 flow add @f; }\n}\n";
    let reject = "table inet synrail_check { chain c { type filter hook prerouting priority mangle; \
                  reject with icmpx type port-unreachable; }\n}\n";
    let answers = check("the queue expression, a flowtable and reject", &[queue, flowtable, reject])?;
    let has = |index: usize| answers.get(index).is_some_and(Result::is_ok);
    let queue_by = if has(0) { QueueBy::Nft } else { QueueBy::Xtables };
    Ok(Means { queue_by, flowtable: has(1), reject: has(2) })
}

/// Removes the table, with everything that it remembers. Only for `lbd --cleanup`: packets that wait in
/// queues are lost. Returns whether there was a table.
///
/// # Errors
/// Returns an error if the kernel refuses.
pub fn cleanup() -> Result<bool, NftError> {
    let mut transaction = Transaction::new();
    transaction.add(NFT_MSG_DELTABLE, 0, "the removal of the table", |message| {
        message.text(NFTA_TABLE_NAME, TABLE);
    });
    match transaction.commit() {
        Ok(()) => Ok(true),
        Err(NftError::Netlink { error, .. }) if reader::is_missing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// One of the ruleset's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// The counter's name; `nft/synrail.nft` says what each counts.
    pub name: String,
    /// How many packets it has counted.
    pub packets: u64,
    /// How many bytes it has counted.
    pub bytes: u64,
}

/// Returns the ruleset's counters, ordered by name; none if there is no table.
///
/// # Errors
/// Returns an error if they cannot be read.
pub fn counters() -> Result<Vec<Counter>, NftError> {
    let read = |object: &[u8]| {
        let data = attribute(object, NFTA_OBJ_DATA)?;
        let count = |of| attribute(data, of)?.first_chunk().copied().map(u64::from_be_bytes);
        let name = text(object, NFTA_OBJ_NAME)?.to_owned();
        Some(Counter { name, packets: count(NFTA_COUNTER_PACKETS)?, bytes: count(NFTA_COUNTER_BYTES)? })
    };
    let counters = Reader::open().and_then(|mut reader| {
        reader.look(|reader| {
            let mut counters = Vec::new();
            reader.all(NFT_MSG_GETOBJ, |object| {
                if number(object, NFTA_OBJ_TYPE) == Some(NFT_OBJECT_COUNTER) {
                    counters.push(read(object)?);
                }
                Some(())
            })?;
            Ok(counters)
        })
    });
    let mut counters = counters.map_err(|error| NftError::Table { what: "counters", error })?;
    counters.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(counters)
}

/// Returns how many packets the fallback tables have steered, by the mark that they set.
///
/// # Errors
/// Returns an error if the counts cannot be read.
pub fn given() -> Result<BTreeMap<u32, u64>, NftError> {
    let given = Reader::open().and_then(|mut reader| reader.counts(SetName::Given.name()));
    given.map_err(|error| NftError::Table { what: "counts of targets", error })
}

/// Makes this change, and that of elements, in one transaction.
fn change_structure(change: &Change<'_>, elements: &ElementsDiff) -> Result<(), NftError> {
    let mut transaction = Transaction::new();
    image::put(&change.steps, &mut transaction)
        .map_err(|error| NftError::Table { what: "elements to keep", error })?;
    elements::change(elements, &mut transaction);
    transaction.commit()?;
    if change.wake {
        let mut transaction = Transaction::new();
        image::add_table(&mut transaction);
        transaction.commit()?;
    }
    Ok(())
}

/// Reports what happened to the structure; fallback tables do not count.
fn structure_applied(was_there: bool, change: &Change<'_>) -> StructureApplied {
    if !was_there {
        StructureApplied::Created
    } else if !change.removed_base_chains.is_empty() {
        StructureApplied::BaseChainsRemoved(change.removed_base_chains.clone())
    } else if change.differences.iter().all(|difference| is_of_services(&difference.thing)) {
        StructureApplied::Kept
    } else {
        StructureApplied::Refilled
    }
}

fn is_of_services(thing: &Thing) -> bool {
    match thing {
        Thing::Chain(name) => kernel_tables::is_our_chain(name),
        Thing::Set(name) => kernel_tables::is_our_map(name),
        Thing::Table | Thing::Object(_) => false,
    }
}

/// Reads the kernel's table, except elements that are changed one by one; `None` if there is no table.
fn read_image(desired: &Image) -> Result<Option<Image>, NftError> {
    let image = Reader::open().and_then(|mut reader| reader.image(ElementsOf::These(desired)));
    image.map_err(|error| NftError::Table { what: "chains, rules and sets", error })
}

/// Reads the elements that are changed one by one. A missing set counts as empty.
fn read_elements() -> Result<Elements, NftError> {
    let failed = |what: &str, error| NftError::Set { what: what.to_owned(), error };
    let mut reader = Reader::open().map_err(|error| failed("all sets", error))?;
    reader.all_elements().map_err(|(set, error)| failed(set.name(), error))
}

#[cfg(test)]
mod tests;
