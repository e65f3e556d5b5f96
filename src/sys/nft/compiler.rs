//! Lets the nft command make rules from text, in an empty network namespace: nft 1.0.6 reads the tables of
//! all programs before it does anything, and crashes on some tables that newer versions have made. The result
//! is read back from the kernel in that namespace, and is the reference for what should be in force.
//!
//! This takes a while, so results are cached: text that has not changed is not compiled again.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    NftError,
    command::nft,
    image::ElementsOf,
    native,
    reader::{PATIENCE, Reader},
    transaction,
};
use crate::{
    plan::{
        kernel_tables::{FALLBACK_TABLES_MAX, KernelTable},
        nf_table::{Chain, Image},
        ruleset::{NativeRule, Ruleset, Structure},
    },
    sys::{empty_namespace::in_empty_namespace, helper, netlink::netfilter, program},
};

/// How many results are cached, those of two rulesets; the oldest is discarded first.
const REMEMBERED_MAX: usize = 2 * (FALLBACK_TABLES_MAX + 1);

/// The cached results, each with the text that it was made from.
static COMPILED: Mutex<Vec<(String, Arc<Image>)>> = Mutex::new(Vec::new());

/// Returns the table that this ruleset describes, without the elements of sets that are changed one by one,
/// and without the chain that names its structure.
pub(super) fn compile(ruleset: &Ruleset) -> Result<Image, NftError> {
    let Ruleset { structure, tables, .. } = ruleset;
    let (of_structure, of_tables) = make_missing(structure, &tables.iter().collect::<Vec<_>>())?;
    let mut image = Image::clone(&*of_structure);
    add_tables(&mut image, &of_tables);
    Ok(image)
}

/// Returns only the tables of these services, which refer to this structure.
pub(super) fn compile_tables(structure: &Structure, tables: &[&KernelTable]) -> Result<Image, NftError> {
    let (_, of_tables) = make_missing(structure, tables)?;
    let mut image = Image::default();
    add_tables(&mut image, &of_tables);
    Ok(image)
}

/// Returns the results for this structure and for these tables. Results that are not in the cache are made
/// and added.
fn make_missing(
    structure: &Structure,
    tables: &[&KernelTable],
) -> Result<(Arc<Image>, Vec<Arc<Image>>), NftError> {
    let made_from = made_from(structure);
    let (known, missing): (Vec<_>, Vec<_>) =
        tables.iter().map(|&table| recall(&table.text).ok_or(table)).partition(Result::is_ok);
    let mut of_tables: Vec<Arc<Image>> = known.into_iter().flatten().collect();
    let missing: Vec<&KernelTable> = missing.into_iter().filter_map(Result::err).collect();
    let of_structure = match recall(&made_from) {
        Some(image) if missing.is_empty() => image,
        Some(_) | None => {
            let whole = make(structure, &missing)?;
            split(whole, made_from, &missing, &mut of_tables)
        }
    };
    Ok((of_structure, of_tables))
}

fn add_tables(image: &mut Image, of_tables: &[Arc<Image>]) {
    for of_table in of_tables {
        image.chains.extend(of_table.chains.iter().map(|(name, chain)| (name.clone(), chain.clone())));
        image.sets.extend(of_table.sets.iter().map(|(name, set)| (name.clone(), set.clone())));
    }
}

/// As [`compile`], with the chain that names the structure.
pub(super) fn compile_whole(ruleset: &Ruleset) -> Result<Image, NftError> {
    let mut image = compile(ruleset)?;
    image.chains.insert(ruleset.structure.name.clone(), Chain::default());
    Ok(image)
}

/// Sockets to nf_tables of a network namespace in which nft has made rules. It ends with them.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    /// For a transaction.
    pub(crate) changes: OwnedFd,
    /// For a [`Reader`].
    pub(crate) reads: OwnedFd,
}

/// Lets nft make what `text` says in an empty network namespace.
fn make_elsewhere(text: &str) -> Result<Elsewhere, NftError> {
    helper::running().map_or_else(|| make_here(text), |helper| helper.make(text))
}

/// As [`make_elsewhere`], by this process.
pub(crate) fn make_here(text: &str) -> Result<Elsewhere, NftError> {
    let make = || {
        nft("the ruleset", &["-f", "-"], Some(text))?;
        let sockets = transaction::open(0).and_then(|changes| Ok((changes, netfilter(PATIENCE)?)));
        let (changes, reads) = sockets.map_err(not_read)?;
        Ok(Elsewhere { changes, reads })
    };
    in_empty_namespace(make).map_err(NftError::NoNamespace)?
}

fn not_read(error: io::Error) -> NftError {
    NftError::Table { what: "what was made of the ruleset", error }
}

/// Reports for each of these texts whether the kernel accepts it. The texts are not put in force.
pub(crate) fn check(what: &'static str, texts: &[&str]) -> Result<Vec<Result<(), String>>, NftError> {
    helper::running().map_or_else(|| check_here(what, texts), |helper| helper.check(what, texts))
}

/// As [`check`], by this process.
pub(crate) fn check_here(what: &'static str, texts: &[&str]) -> Result<Vec<Result<(), String>>, NftError> {
    let check = |text: &&str| match nft(what, &["-c", "-f", "-"], Some(text)) {
        Ok(_) => Ok(Ok(())),
        Err(NftError::Refused { message, .. }) => Ok(Err(message)),
        Err(error) => Err(error),
    };
    in_empty_namespace(|| texts.iter().map(check).collect()).map_err(NftError::NoNamespace)?
}

/// Reports whether all results of this ruleset are in the cache.
#[cfg(test)]
pub(super) fn is_compiled(Ruleset { structure, tables, .. }: &Ruleset) -> bool {
    recall(&made_from(structure)).is_some() && tables.iter().all(|table| recall(&table.text).is_some())
}

/// Returns all that the structure is made from.
fn made_from(structure: &Structure) -> String {
    format!("{} {:?}", structure.text, structure.native)
}

fn recall(made_from: &str) -> Option<Arc<Image>> {
    let compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    compiled.iter().find(|(from, _)| from == made_from).map(|(_, image)| Arc::clone(image))
}

fn remember(made_from: String, image: Image) -> Arc<Image> {
    let image = Arc::new(image);
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    compiled.retain(|(from, _)| *from != made_from);
    if compiled.len() >= REMEMBERED_MAX {
        compiled.remove(0);
    }
    compiled.push((made_from, Arc::clone(&image)));
    image
}

/// Makes the structure and these tables in an empty network namespace, and reads them back from the kernel.
fn make(structure: &Structure, tables: &[&KernelTable]) -> Result<Image, NftError> {
    let texts =
        std::iter::once(structure.text.as_str()).chain(tables.iter().map(|table| table.text.as_str()));
    let made = make_elsewhere(&texts.collect::<String>())?;
    if structure.native.iter().any(|native| matches!(native.rule, NativeRule::XtQueue(_))) {
        // The kernel loads nft_compat by itself, but does not load a target for a table of family inet. Failure is ignored:
        // a module may be built in, and otherwise the rules that need it will fail.
        program::load_modules(&["nft_compat", "xt_NFQUEUE"]);
    }
    native::fill(&made.changes, &structure.native)?;
    let image = Reader::over(made.reads).image(ElementsOf::All).map_err(not_read)?;
    image.ok_or(NftError::NotInForce("no table was made of it".to_owned()))
}

/// Caches the result for each of these tables, and adds it to `of_tables`. Then caches that for the
/// structure, and returns it.
fn split(
    mut whole: Image,
    made_from: String,
    tables: &[&KernelTable],
    of_tables: &mut Vec<Arc<Image>>,
) -> Arc<Image> {
    for table in tables {
        let chains: BTreeMap<_, _> =
            table.chains.iter().filter_map(|name| whole.chains.remove_entry(name)).collect();
        let sets: BTreeMap<_, _> = whole.sets.remove_entry(&table.map).into_iter().collect();
        of_tables.push(remember(table.text.clone(), Image { chains, sets, ..Image::default() }));
    }
    remember(made_from, whole)
}
