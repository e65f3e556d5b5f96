//! The Maglev lookup table (Eisenbud et al., NSDI 2016, section 3.4). PURE.
//!
//! Every backend has a permutation of the M entries, given by an offset and a skip. The backends take turns.
//! In its turn, each takes the next entry of its permutation that is still free. So all get equal shares
//! (within one entry), and when a backend leaves, hardly any entries of the others move.
//!
//! A table is a pure function of (seed, M, the set of backends with their weights). Permutations come from
//! the backend's name, never from a position in a list, and turns are taken in the order of names. Two
//! balancers that reached the same set in different ways hold the same table, byte for byte.
//!
//! Weights are the frequency of turns: a backend of weight w takes w turns while one of weight W takes W. What counts of a
//! weight may be less than all ([`Share`]); since only ratios matter, a common factor of all changes nothing.
//! Permutations are computed step by step as needed; there is no N x M matrix. M is a prime, so every skip
//! visits every entry.

use std::{fmt, ops::Deref, sync::Arc};

use siphasher::sip128::{Hasher128, SipHasher24};
use twox_hash::XxHash3_64;
use zerocopy::IntoBytes as _;

use crate::model::{Share, TableSize};

/// No backend has this rank: [`crate::model::ids::TARGETS_MAX`] is far below.
const FREE: u16 = u16::MAX;
/// The second half of the SipHash key; the first is the configured seed.
const KEY: u64 = u64::from_le_bytes(*b"synrail1");

/// A lookup table that is shared, not copied. Tables are compared without reading their entries.
#[derive(Clone)]
pub struct Table {
    entries: Arc<[u16]>,
    len: usize,
    digest: u64,
    ranks: usize,
}

impl Table {
    /// Makes a table of these entries.
    #[must_use]
    pub fn new(entries: impl Into<Arc<[u16]>>) -> Self {
        let entries = entries.into();
        let digest = XxHash3_64::oneshot(entries.as_bytes());
        let ranks = entries.iter().max().map_or(0, |&rank| usize::from(rank) + 1);
        Self { len: entries.len(), entries, digest, ranks }
    }

    /// Makes a table of `len` entries that were not read from where they are stored. It equals the table that
    /// was read, but it has no entries, so it names no backend.
    #[must_use]
    pub fn unread(digest: u64, len: usize, ranks: usize) -> Self {
        Self { entries: Arc::default(), len, digest, ranks }
    }

    /// Returns what identifies the table, read or not: its digest and its number of entries.
    #[must_use]
    pub fn identity(&self) -> (u64, usize) {
        (self.digest, self.len)
    }

    /// Reports whether the entries were read.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.entries.len() == self.len
    }

    /// Returns the number of entries, also if they were not read.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Reports whether the table has no entries, since there are no backends.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns a checksum of the entries' bytes. The chance that another table has the same one is 1 in 2^64.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Returns a number above every rank in the table.
    #[must_use]
    pub fn ranks(&self) -> usize {
        self.ranks
    }
}

impl Default for Table {
    /// Returns the table of no backends.
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Deref for Table {
    type Target = [u16];

    fn deref(&self) -> &[u16] {
        &self.entries
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Table {}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({} entries, {:016x})", self.len, self.digest)
    }
}

/// One backend's walk through its permutation.
struct Walk {
    position: u32,
    skip: u32,
    share: u32,
    credit: u32,
}

impl Walk {
    fn new(name: &str, share: Share, seed: u32, m: u32) -> Self {
        let hash = {
            let mut hasher = SipHasher24::new_with_keys(u64::from(seed), KEY);
            std::hash::Hasher::write(&mut hasher, name.as_bytes());
            hasher.finish128()
        };
        // Remainders of m and m - 1 are below 2^32.
        let below = |value: u64, limit: u32| u32::try_from(value % u64::from(limit)).unwrap_or(0);
        Self {
            position: below(hash.h1, m),
            skip: below(hash.h2, m - 1) + 1,
            share: u32::from(share.get()),
            credit: 0,
        }
    }

    /// Returns the present entry of the permutation, and advances to the next one.
    fn step(&mut self, m: u32) -> usize {
        let here = self.position;
        let next = here + self.skip;
        self.position = if next >= m { next - m } else { next };
        here as usize
    }
}

/// Returns the table of M entries. Each entry is the rank of a backend in `backends`, which must be sorted by
/// name and hold fewer than 65535. The table is empty if there are no backends.
#[must_use]
pub fn build<'a>(
    seed: u32,
    size: TableSize,
    backends: impl IntoIterator<Item = (&'a str, impl Into<Share>)>,
) -> Vec<u16> {
    let m = size.get();
    let mut walks: Vec<Walk> =
        backends.into_iter().map(|(name, share)| Walk::new(name, share.into(), seed, m)).collect();
    let Some(share_max) = walks.iter().map(|walk| walk.share).max() else { return Vec::new() };
    let mut table = vec![FREE; size.entries()];
    let mut free = size.entries();
    loop {
        for (walk, rank) in walks.iter_mut().zip(0..FREE) {
            walk.credit += walk.share;
            if walk.credit < share_max {
                continue;
            }
            walk.credit -= share_max;
            let mut entry = walk.step(m);
            while table[entry] != FREE {
                entry = walk.step(m);
            }
            table[entry] = rank;
            free -= 1;
            if free == 0 {
                return table;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{Percent, Weight};

    const SEED: u32 = 0xcafe_babe;

    fn names(n: usize) -> Vec<String> {
        let mut names: Vec<_> = (0..n).map(|i| format!("s{i}")).collect();
        names.sort();
        names
    }

    fn equal(names: &[String], m: u64) -> Vec<u16> {
        build(SEED, TableSize::new(m).unwrap(), names.iter().map(|n| (n.as_str(), Weight::ONE)))
    }

    fn counts(table: &[u16]) -> BTreeMap<u16, usize> {
        table.iter().fold(BTreeMap::new(), |mut counts, &rank| {
            *counts.entry(rank).or_default() += 1;
            counts
        })
    }

    #[test]
    fn shares_differ_by_at_most_one_entry() {
        for (n, m) in [(1, 3), (7, 97), (10, 65537), (100, 65537), (1000, 65537)] {
            let counts = counts(&equal(&names(n), m));
            assert_eq!(counts.len(), n);
            assert!(counts.values().max().unwrap() - counts.values().min().unwrap() <= 1, "{n} of {m}");
        }
    }

    #[test]
    fn weights_are_shares() {
        let weights = [1, 2, 3, 50, 100];
        let names = names(weights.len());
        let backends = names.iter().zip(weights).map(|(n, w)| (n.as_str(), Weight::new(w).unwrap()));
        let counts = counts(&build(SEED, TableSize::DEFAULT, backends));
        for (rank, weight) in (0u16..).zip(weights) {
            let ideal = 65537.0 * f64::from(weight) / 156.0;
            let share = f64::from(u32::try_from(counts[&rank]).unwrap());
            assert!((share - ideal).abs() <= 0.01 * ideal + 2.0, "weight {weight}: {share} of {ideal}");
        }
    }

    #[test]
    fn percents_are_shares_of_weights_and_100_of_all_is_the_table_of_the_weights() {
        let weights = [1, 2, 3, 50, 100].map(|weight| Weight::new(weight).unwrap());
        let names = names(weights.len());
        let whole = build(SEED, TableSize::DEFAULT, names.iter().map(String::as_str).zip(weights));
        let of = |percents: [u32; 5]| {
            let shares = weights.into_iter().zip(percents.map(Percent::nearest));
            let shares = shares.map(|(weight, percent)| Share::of(weight, percent));
            build(SEED, TableSize::DEFAULT, names.iter().map(String::as_str).zip(shares))
        };
        for percent in [100, 70, 10] {
            assert_eq!(of([percent; 5]), whole, "{percent}");
        }
        let counts = counts(&of([100, 100, 100, 100, 50]));
        for (rank, share) in (0u16..).zip([1, 2, 3, 50, 50]) {
            let ideal = 65537.0 * f64::from(share) / 106.0;
            let share = f64::from(u32::try_from(counts[&rank]).unwrap());
            assert!((share - ideal).abs() <= 0.01 * ideal + 2.0, "{rank}: {share} of {ideal}");
        }
    }

    #[test]
    fn hardly_more_entries_move_than_a_lowered_share_gives_up() {
        let names = names(10);
        let with = |percent| {
            let share = |at| if at == 3 { Percent::nearest(percent) } else { Percent::ALL };
            let shares = (0..10).map(|at| Share::of(Weight::ONE, share(at)));
            build(SEED, TableSize::DEFAULT, names.iter().map(String::as_str).zip(shares))
        };
        let mut before = with(100);
        for percent in [90, 50, 10, 100] {
            let after = with(percent);
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            let own = |table: &[u16]| counts(table)[&3];
            let needed = own(&before).abs_diff(own(&after));
            assert!(moved <= needed + 65537 / 50, "{percent}: {moved} entries moved for {needed}");
            before = after;
        }
    }

    #[test]
    fn few_entries_of_others_move_when_one_of_ten_leaves_or_comes_back() {
        let all = names(10);
        let before = equal(&all, 65537);
        for gone in 0..all.len() {
            let mut rest = all.clone();
            rest.remove(gone);
            let after = equal(&rest, 65537);
            let moved = before
                .iter()
                .zip(&after)
                .filter(|&(&b, &a)| usize::from(b) != gone && all[usize::from(b)] != rest[usize::from(a)])
                .count();
            assert!(moved <= 65537 / 50, "{gone}: {moved} entries moved, more than 2 % of M");
        }
    }

    #[test]
    fn more_backends_than_entries_still_fill_the_table() {
        assert_eq!(counts(&equal(&names(200), 97)).len(), 97);
        assert!(equal(&[], 97).is_empty());
    }

    proptest! {
        /// The paper's pseudo code, with its N x M matrix, gives the same table.
        #[test]
        fn agrees_with_the_paper(n in 1usize..40, m in prop::sample::select(vec![3u64, 13, 97, 251, 997]), seed: u32) {
            let names = names(n);
            let size = TableSize::new(m).unwrap();
            let fast = build(seed, size, names.iter().map(|n| (n.as_str(), Weight::ONE)));
            let permutations: Vec<Vec<usize>> = names.iter().map(|name| {
                let walk = Walk::new(name, Weight::ONE.into(), seed, size.get());
                (0..u64::from(size.get()))
                    .map(|j| (u64::from(walk.position) + j * u64::from(walk.skip)) % u64::from(size.get()))
                    .map(|e| usize::try_from(e).unwrap())
                    .collect()
            }).collect();
            let mut naive = vec![FREE; size.entries()];
            let mut next = vec![0; n];
            'fill: loop {
                for i in 0..n {
                    while naive[permutations[i][next[i]]] != FREE { next[i] += 1; }
                    naive[permutations[i][next[i]]] = u16::try_from(i).unwrap();
                    next[i] += 1;
                    if naive.iter().all(|&e| e != FREE) { break 'fill; }
                }
            }
            prop_assert_eq!(fast, naive);
        }
    }
}
