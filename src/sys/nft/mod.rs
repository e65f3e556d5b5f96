//! Puts the ruleset of `plan/` into the kernel, and reads it back.
//!
//! Steps, each one transaction: chains and rules as text through the `nft` command, if they differ; the rules that go by
//! netlink (`batch.rs`), if there was a first step; chains and maps of services' tables that are missing, which are filled
//! then (`tables.rs`); the elements of the sets, if they differ, with the name of the structure. The order makes a first
//! application harmless: as long as the set of interfaces is empty no packet meets a rule. Then all but the entries of
//! services' tables is read back. What is in place is not touched, so a restarted lbd takes over, and nothing here ever
//! removes a base chain, except where another version of synrail had other ones ([`Applied`] says so). What changes in
//! services' tables that were there comes later ([`Tables::apply`]), and may be much.

mod batch;
mod command;
mod elements;
mod tables;

use thiserror::Error;

pub(crate) use command::nft;
pub use tables::Tables;

use crate::plan::{
    elements::{Elements, ElementsError, SetName, TABLE},
    kernel_tables,
    ruleset::{ChainsError, Listing, NativeRule, QueueBy, Ruleset, listing_of_json},
};

/// Why the ruleset could not be put in force, or read.
#[derive(Debug, Error)]
pub enum NftError {
    /// There is no nft command.
    #[error("nft not found: apt install nftables")]
    NoCommand,
    /// The nft command could not be run.
    #[error("cannot run nft: {0}")]
    Run(std::io::Error),
    /// The nft command refused. Its own message shows the line.
    #[error("nft: {what}: {message}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// What nft says.
        message: String,
    },
    /// The kernel refused the rules that go by netlink.
    #[error("nf_tables refused {rules}: {error}")]
    Netlink {
        /// Which rules.
        rules: String,
        /// What the kernel says.
        error: std::io::Error,
    },
    /// What nft printed about chains cannot be read.
    #[error(transparent)]
    Chains(#[from] ChainsError),
    /// What the kernel says about sets cannot be read.
    #[error(transparent)]
    Elements(#[from] ElementsError),
    /// The kernel does not say what is in a set or map, or does not change it.
    #[error("nf_tables, {what} of table inet synrail: {error}")]
    Set {
        /// Its name.
        what: String,
        /// What the kernel says.
        error: std::io::Error,
    },
    /// What nft printed about counters cannot be read.
    #[error("cannot read what nft prints of table inet synrail: {0}")]
    Unreadable(String),
    /// Everything was accepted, but is not there: somebody else changes the table.
    #[error("table inet synrail is not as it was set ({0}): does another program change it?")]
    NotInForce(&'static str),
}

/// What an application has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What became of chains and rules.
    pub structure: StructureApplied,
    /// Elements added to sets.
    pub elements_added: usize,
    /// Elements deleted from sets.
    pub elements_deleted: usize,
}

/// What became of chains and rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StructureApplied {
    /// They were in place and have not been touched.
    Kept,
    /// There was no table.
    Created,
    /// They were another version's or of other settings, and were filled again. No packet was lost.
    Refilled,
    /// As `Refilled`, but these base chains had to go: what waited in queues was lost.
    BaseChainsRemoved(Vec<String>),
}

/// Makes the kernel's table what `ruleset` says, and reads it back. Of services' tables it fills those that are new.
///
/// # Errors
/// When nft or the kernel refuses; each step is done wholly or not at all.
pub fn apply(ruleset: &Ruleset, tables: &mut Tables) -> Result<Applied, NftError> {
    let before = read_listing()?;
    let structure = apply_structure(ruleset, before.as_ref())?;
    let current = read_elements()?;
    let diff = current.diff(&ruleset.elements);
    if structure != StructureApplied::Kept {
        tables.forget();
    }
    let added = add_tables(ruleset, &before.unwrap_or_default(), tables)?;
    let stamp = if structure == StructureApplied::Kept { String::new() } else { ruleset.structure.stamp() };
    let text = stamp + &diff.text();
    if !text.is_empty() {
        nft("the elements of the sets", &["-f", "-"], Some(&text))?;
    }
    if added || !text.is_empty() {
        if !chains_in_force(ruleset)? {
            return Err(NftError::NotInForce("chains and rules"));
        }
        if !read_elements()?.diff(&ruleset.elements).is_empty() {
            return Err(NftError::NotInForce("elements of sets"));
        }
    }
    Ok(Applied { structure, elements_added: diff.add.len(), elements_deleted: diff.delete.len() })
}

/// Whether the kernel's table is what `ruleset` says. Changes nothing.
///
/// # Errors
/// When the table cannot be read.
pub fn in_force(ruleset: &Ruleset) -> Result<bool, NftError> {
    Ok(chains_in_force(ruleset)? && read_elements()?.diff(&ruleset.elements).is_empty())
}

/// How this kernel can queue packets: asked with a check that changes nothing.
///
/// # Errors
/// When the nft command is not there. A kernel that has neither way is noticed by [`apply`].
pub fn queue_by() -> Result<QueueBy, NftError> {
    let text = "table inet synrail_check { chain c { queue flags bypass to 0; }\n}\n";
    match nft("the queue expression", &["-c", "-f", "-"], Some(text)) {
        Ok(_) => Ok(QueueBy::Nft),
        Err(NftError::Refused { .. }) => Ok(QueueBy::Xtables),
        Err(error) => Err(error),
    }
}

/// Removes the table, with all that it remembers. Only for `lbd --cleanup`: packets that wait in queues are lost.
/// Says whether there was one.
///
/// # Errors
/// When the kernel refuses.
pub fn cleanup() -> Result<bool, NftError> {
    if read_listing()?.is_none() {
        return Ok(false);
    }
    nft("the removal of the table", &["delete", "table", "inet", TABLE], None)?;
    Ok(true)
}

/// One of the ruleset's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name; `nft/synrail.nft` says what each counts.
    pub name: String,
    /// How many packets.
    pub packets: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// The ruleset's counters, in the order of their names. None when there is no table.
///
/// # Errors
/// When they cannot be read.
pub fn counters() -> Result<Vec<Counter>, NftError> {
    let json = nft("the counters", &LIST_TERSE, None)?;
    let answer: serde_json::Value =
        serde_json::from_str(&json).map_err(|error| NftError::Unreadable(error.to_string()))?;
    let read = |counter: &serde_json::Value| {
        let name = counter["name"].as_str()?.to_owned();
        Some(Counter { name, packets: counter["packets"].as_u64()?, bytes: counter["bytes"].as_u64()? })
    };
    let counters = answer["nftables"].as_array().into_iter().flatten().filter_map(|o| o.get("counter"));
    let counters = counters.filter(|counter| counter["table"] == TABLE);
    let counters: Option<Vec<Counter>> = counters.map(read).collect();
    let mut counters = counters.ok_or_else(|| NftError::Unreadable("a counter".to_owned()))?;
    counters.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(counters)
}

/// Chains and maps of services' tables, where they are missing. New ones are filled before anything leads to them; that this
/// fails is told by [`Tables::apply`], which tries again. Says whether any were missing.
fn add_tables(ruleset: &Ruleset, before: &Listing, tables: &mut Tables) -> Result<bool, NftError> {
    let text = kernel_tables::missing(&ruleset.tables, &before.chains);
    if text.is_empty() {
        return Ok(false);
    }
    tables.unswept();
    nft("the chains of services' tables", &["-f", "-"], Some(&text))?;
    let new = ruleset.tables.iter().filter(|table| !before.maps.contains(&table.map));
    let _ = tables.fill(new);
    Ok(true)
}

fn apply_structure(ruleset: &Ruleset, current: Option<&Listing>) -> Result<StructureApplied, NftError> {
    let change = ruleset.structure.change_from(current.map(|listing| &listing.chains[..]));
    let Some(text) = change.text else { return Ok(StructureApplied::Kept) };
    nft("the ruleset", &["-f", "-"], Some(&text))?;
    let mut native = ruleset.structure.native.iter();
    let with_xtables = native.any(|native| matches!(native.rule, NativeRule::XtQueue(_)));
    if with_xtables {
        // The kernel loads nft_compat by itself, but not a target that a table of family inet asks for.
        command::load_modules(&["nft_compat", "xt_NFQUEUE"]);
    }
    batch::fill(&ruleset.structure.native).map_err(|error| {
        let chains: Vec<&str> = ruleset.structure.native.iter().map(|native| native.name).collect();
        let needs = " (to queue, they need the kernel module nft_queue, or nft_compat and xt_NFQUEUE)";
        let modules = if with_xtables { needs } else { "" };
        NftError::Netlink { rules: format!("the rules of {}{modules}", chains.join(", ")), error }
    })?;
    Ok(match (current, change.removed_base_chains) {
        (None, _) => StructureApplied::Created,
        (Some(_), removed) if removed.is_empty() => StructureApplied::Refilled,
        (Some(_), removed) => StructureApplied::BaseChainsRemoved(removed),
    })
}

/// Of the structure, and of services' tables.
fn chains_in_force(ruleset: &Ruleset) -> Result<bool, NftError> {
    let Some(listing) = read_listing()? else { return Ok(false) };
    let same = ruleset.structure.change_from(Some(&listing.chains)).text.is_none();
    Ok(same && kernel_tables::missing(&ruleset.tables, &listing.chains).is_empty())
}

/// The one way of nft 1.0.6 to list anything but single sets that does not read all elements of `pending` and of services'
/// tables before: 6 ms against 500 ms for each 65536 of them.
const LIST_TERSE: [&str; 5] = ["-j", "-t", "list", "ruleset", "inet"];

/// What the kernel has, but for elements; `None` when there is no table.
fn read_listing() -> Result<Option<Listing>, NftError> {
    Ok(listing_of_json(&nft("the list of chains", &LIST_TERSE, None)?)?)
}

/// What single sets hold. A set that is not there is empty.
fn read_elements() -> Result<Elements, NftError> {
    let failed = |what: &str, error| NftError::Set { what: what.to_owned(), error };
    let mut netlink = elements::Reader::open().map_err(|error| failed("all sets", error))?;
    let mut read = Elements::default();
    for set in SetName::ALL {
        read.read(set, netlink.elements(set.name()).map_err(|error| failed(set.name(), error))?)?;
    }
    Ok(read)
}

#[cfg(test)]
mod tests;
