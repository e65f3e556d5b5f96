//! Fallback tables: services' tables in the kernel. They decide for services with `steering = "kernel"`, and
//! for other services when lbd does not: it is dead, or its queue is full. PURE.
//!
//! A fallback table is a map from the index that lbd would compute to the mark that it would set, and two
//! chains that compute it (`nft/kernel_table.nft`). Their names contain everything that is fixed about them.
//! So a service gets new ones if its hash, size or seed changes, or if another version of synrail makes them
//! differently; packets are led to the new ones before the old ones are removed. Only single entries change
//! while traffic runs.
//!
//! Kernel memory is limited. Services get fallback tables while these fit into `kernel_entries`: first the
//! services that the kernel is to decide for, then the others, each in the order of the file. At most
//! [`FALLBACK_TABLES_MAX`] services get one, since the rules of all are read and compared whenever lbd checks
//! the ruleset.

use std::fmt;

use twox_hash::XxHash3_64;

use super::template::{TemplateError, chains_of_text, fill, without_comments};
use crate::{
    lookup::maglev::Table,
    model::{Decider, HashMode},
    state::{Service, State},
};

const TEMPLATE: &str = include_str!("../../nft/kernel_table.nft");
const CHAIN_PREFIX: &str = "kernel_";
const MAP_PREFIX: &str = "table_";

/// The maximum number of services that have fallback tables. Each has up to 20 rules, which are compared at
/// every check.
pub const FALLBACK_TABLES_MAX: usize = 128;

/// The fallback table of a service as the kernel should have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTable {
    /// Index of the service.
    pub service: usize,
    /// Whether new flows of the service follow the fallback table at once.
    pub decides: bool,
    /// The name of the map.
    pub map: String,
    /// The chain that packets of the service go to.
    pub chain: String,
    /// The names of all its chains.
    pub chains: Vec<String>,
    /// The map and the chains: one `table` block.
    pub text: String,
    size: usize,
    contents: Contents,
}

/// The contents of a fallback table. They can be compared without reading the entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    table: Table,
    /// The mark of each backend, by rank.
    marks: Vec<u32>,
}

impl KernelTable {
    /// Returns M, the number of entries.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the contents.
    #[must_use]
    pub fn contents(&self) -> &Contents {
        &self.contents
    }
}

impl Contents {
    /// Returns the mark of every entry; none if no backend gets new flows.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = u32> {
        self.table.iter().map(|&rank| self.marks.get(usize::from(rank)).copied().unwrap_or(0))
    }

    /// Returns the mark of one entry.
    #[must_use]
    pub fn entry(&self, index: u32) -> Option<u32> {
        let &rank = self.table.get(usize::try_from(index).ok()?)?;
        self.marks.get(usize::from(rank)).copied()
    }
}

/// Why a service has no fallback table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Its table has more entries than are left of [`crate::config::Balancer::kernel_entries`].
    Entries,
    /// [`FALLBACK_TABLES_MAX`] other services have one.
    Tables,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries => f.write_str("kernel_entries"),
            Self::Tables => write!(f, "{FALLBACK_TABLES_MAX} services at most"),
        }
    }
}

/// Returns which services have no fallback table, and why: see
/// [`crate::config::Balancer::kernel_entries`] and [`FALLBACK_TABLES_MAX`].
#[must_use]
pub fn shortages(state: &State) -> Vec<Option<Shortage>> {
    let (mut left, mut tables_left) = (state.balancer.kernel_entries, FALLBACK_TABLES_MAX);
    let mut shortages = vec![None; state.services.len()];
    for decider in [Decider::Kernel, Decider::Lbd] {
        let services = state.services.iter().zip(&mut shortages);
        for (service, shortage) in services.filter(|(service, _)| service.decider == decider) {
            let entries = service.table_size.get();
            if tables_left == 0 {
                *shortage = Some(Shortage::Tables);
            } else if entries > left {
                *shortage = Some(Shortage::Entries);
            } else {
                (left, tables_left) = (left - entries, tables_left - 1);
            }
        }
    }
    shortages
}

/// Returns which services have a fallback table.
#[must_use]
pub fn with_fallback_table(state: &State) -> Vec<bool> {
    shortages(state).iter().map(Option::is_none).collect()
}

/// Returns what decides about new flows of each service. This is lbd also if the kernel should decide but has
/// no fallback table.
#[must_use]
pub fn deciders(state: &State) -> Vec<Decider> {
    let decider =
        |(service, has_table): (&Service, bool)| if has_table { service.decider } else { Decider::Lbd };
    state.services.iter().zip(with_fallback_table(state)).map(decider).collect()
}

/// Returns the services that the kernel should decide for but cannot, because they have no fallback table,
/// and why. lbd decides for them.
pub fn left_to_lbd(state: &State) -> impl Iterator<Item = (&Service, Shortage)> {
    let services = state.services.iter().zip(shortages(state));
    let left = services.filter(|(service, _)| service.decider == Decider::Kernel);
    left.filter_map(|(service, shortage)| Some((service, shortage?)))
}

/// Returns the fallback tables for this state, in the order of the services.
///
/// # Errors
/// Never with the built-in template; a test checks that.
pub fn desired(state: &State) -> Result<Vec<KernelTable>, TemplateError> {
    let seed = state.balancer.hash_seed;
    let digest = digest(seed);
    let of_service = |index: usize| {
        let service = &state.services[index];
        let (name, entries) = (&service.name, service.table_size.get());
        let fixed = format!("{name}_{}_{entries}_{digest}", service.hash.name());
        let (map, chain) = (format!("{MAP_PREFIX}{fixed}"), format!("{CHAIN_PREFIX}{fixed}"));
        let lines_of = |mode| if service.hash == mode { "" } else { "#" };
        let text = fill(
            TEMPLATE,
            &[
                ("map", map.clone()),
                ("chain", chain.clone()),
                ("entries", entries.to_string()),
                ("seed", format!("{seed:#010x}")),
                ("five_tuple", lines_of(HashMode::FiveTuple).to_owned()),
                ("source", lines_of(HashMode::Source).to_owned()),
                ("addresses", lines_of(HashMode::Addresses).to_owned()),
            ],
        )?;
        let mask = state.balancer.mark_mask;
        let marks = state.serving(service).map(|backend| mask.mark(backend.target).0).collect();
        let (chains, size) = (chains_of_text(&text), service.table_size.entries());
        let decides = service.decider == Decider::Kernel;
        let contents = Contents { table: service.table.clone(), marks };
        Ok(KernelTable { service: index, decides, map, chain, chains, text, size, contents })
    };
    let services = with_fallback_table(state).into_iter().enumerate();
    services.filter(|(_, has_table)| *has_table).map(|(index, _)| of_service(index)).collect()
}

/// Returns a digest that differs if the seed or the rules differ, which may be those of another version of
/// synrail.
fn digest(seed: u32) -> String {
    let made_from = format!("{seed:08x} {}", without_comments(TEMPLATE));
    format!("{:016x}", XxHash3_64::oneshot(made_from.as_bytes()))
}

/// Reports whether a chain belongs to a fallback table, and not to the ruleset's own structure.
#[must_use]
pub fn is_our_chain(name: &str) -> bool {
    name.starts_with(CHAIN_PREFIX)
}

/// Reports whether a map belongs to a fallback table, and not to the ruleset's own structure.
#[must_use]
pub fn is_our_map(name: &str) -> bool {
    name.starts_with(MAP_PREFIX)
}

/// An entry that differs from the desired one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The index of the entry.
    pub index: u32,
    /// Whether the kernel has the entry with another mark, which must be deleted.
    pub delete: bool,
    /// The mark that the entry should have.
    pub add: Option<u32>,
}

/// Returns the changes from `current`, the kernel's marks by index (0: none), to these contents.
pub fn changes(
    current: impl ExactSizeIterator<Item = u32>,
    contents: &Contents,
) -> impl Iterator<Item = Change> {
    let length = current.len().max(contents.table.len());
    let desired = contents.entries().map(Some).chain(std::iter::repeat(None));
    let current = current.chain(std::iter::repeat(0));
    current.zip(desired).take(length).zip(0..).filter_map(|((current, desired), index)| {
        (current != desired.unwrap_or(0)).then_some(Change { index, delete: current != 0, add: desired })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Admin, Override, TableSize},
        tests::fixture,
    };

    fn state(balancer: &str, services: &str) -> State {
        fixture::balancer(balancer).tables(services).state()
    }

    fn service(name: &str, vip: &str, keys: &str) -> String {
        format!(
            "[[service]]\nname='{name}'\nvips='{vip}'\n{keys}\ntable_size=97\n\
             backend=[{{name='a',address='192.168.1.1'}},{{name='b',address='192.168.1.2'}}]\n"
        )
    }

    #[test]
    fn services_get_fallback_tables_while_they_fit() {
        let services =
            ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|vip| service(&format!("s{vip}"), vip, "")).concat();
        for (entries, expected) in
            [(0, [false; 3]), (96, [false; 3]), (97, [true, false, false]), (291, [true; 3])]
        {
            let state = state(&format!("kernel_entries={entries}"), &services);
            assert_eq!(with_fallback_table(&state), expected, "{entries}");
            assert_eq!(
                desired(&state).unwrap().len(),
                expected.iter().filter(|has_table| **has_table).count()
            );
        }
        // Services that the kernel is to decide for come first.
        let second = services.replacen("vips='10.0.0.2'", "vips='10.0.0.2'\nsteering='kernel'", 1);
        let decided = |entries: u32| {
            let state = state(&format!("kernel_entries={entries}"), &second);
            let left: Vec<_> =
                left_to_lbd(&state).map(|(service, why)| format!("{} {why}", service.name)).collect();
            let decides: Vec<_> = desired(&state).unwrap().iter().map(|table| table.decides).collect();
            (with_fallback_table(&state), decides, left)
        };
        assert_eq!(decided(96), (vec![false; 3], vec![], vec!["s10.0.0.2 kernel_entries".to_owned()]));
        assert_eq!(decided(97), (vec![false, true, false], vec![true], vec![]));
        assert_eq!(decided(200), (vec![true, true, false], vec![false, true], vec![]));
        let mut state = state("kernel_entries=200", &services);
        state.services[0].table_size = TableSize::new(211).unwrap();
        assert_eq!(with_fallback_table(&state), [false, true, true], "a large one leaves room to others");
        state.services = (0..FALLBACK_TABLES_MAX + 9).map(|_| state.services[1].clone()).collect();
        state.balancer.kernel_entries = u32::MAX;
        assert_eq!(
            with_fallback_table(&state).iter().filter(|has_table| **has_table).count(),
            FALLBACK_TABLES_MAX
        );
        // The reason is the limit that would have to be raised.
        let whys = |state: &State| {
            shortages(state).into_iter().flatten().map(|why| why.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(whys(&state), ["128 services at most"; 9]);
        state.balancer.kernel_entries = 97;
        assert_eq!(whys(&state), ["kernel_entries"; FALLBACK_TABLES_MAX + 8]);
    }

    #[test]
    fn each_kind_of_hash_has_its_rules_and_names() {
        let keys = ["protocols='tcp'", "protocols='udp'\nhash='source'", ""];
        let all: String = keys
            .iter()
            .zip(1..)
            .map(|(keys, n)| service(&format!("s{n}"), &format!("10.0.0.{n}"), keys))
            .collect();
        let tables = desired(&state("hash_seed=17", &all)).unwrap();
        let names: Vec<&str> = tables.iter().map(|table| table.chain.as_str()).collect();
        let expected = ["s1_5-tuple_97", "s2_source_97", "s3_addresses_97"];
        assert_eq!(names, expected.map(|fixed| format!("kernel_{fixed}_{}", digest(17))));
        assert_eq!(tables[0].map, format!("table_s1_5-tuple_97_{}", digest(17)));
        assert_ne!(digest(17), digest(18));
        for table in &tables {
            assert_eq!(table.chains, [table.chain.clone(), format!("{}_quoted", table.chain)]);
            assert!(table.chains.iter().all(|chain| is_our_chain(chain)) && is_our_map(&table.map));
        }
        assert!(tables.iter().all(|table| !table.text.contains("{{")));
    }

    #[test]
    fn entries_have_the_marks_that_lbd_would_set() {
        let mut state = state("", &service("web", "10.0.0.1", "protocols='tcp'"));
        let tables = desired(&state).unwrap();
        let table = tables[0].contents();
        let marks: Vec<u32> = table.entries().collect();
        let changes = |current: &[u32], to| changes(current.iter().copied(), to).collect::<Vec<_>>();
        assert_eq!((marks.len(), table.entry(97)), (97, None));
        for (index, (&rank, &mark)) in (0..).zip(state.services[0].table.iter().zip(&marks)) {
            let target = state.services[0].active().nth(usize::from(rank)).unwrap().target;
            assert_eq!((mark, table.entry(index)), (state.balancer.mark_mask.mark(target).0, Some(mark)));
        }
        assert_eq!(changes(&marks, table), []);
        state = state
            .set_admin(None, &["a".to_owned(), "b".to_owned()], &Override::unattributed(Admin::Draining))
            .unwrap();
        let without = desired(&state).unwrap();
        let none = without[0].contents();
        assert!(changes(&marks, none).iter().all(|change| change.delete && change.add.is_none()));
        assert_eq!(changes(&marks, none).len(), 97);
        let added = changes(&[], table);
        assert_eq!(added.iter().filter(|change| !change.delete && change.add.is_some()).count(), 97);
        let mut other = marks.clone();
        (other[3], other[5]) = (0, 77);
        let (three, five) = (
            Change { index: 3, delete: false, add: Some(marks[3]) },
            Change { index: 5, delete: true, add: Some(marks[5]) },
        );
        assert_eq!(changes(&other, table), [three, five]);
    }

    #[test]
    fn a_change_of_one_backend_touches_only_the_fallback_tables_of_its_services() {
        let services: String =
            (0..20).map(|n| service(&format!("s{n}"), &format!("10.0.0.{n}"), "")).collect();
        let state = state("", &services);
        let before = desired(&state).unwrap();
        let touched = |state: &State| -> Vec<usize> {
            let after = desired(state).unwrap();
            let pairs = before.iter().zip(&after).enumerate();
            pairs.filter(|(_, (before, after))| before != after).map(|(index, _)| index).collect()
        };
        let without = |service: Option<&str>| {
            state.set_admin(service, &["a".to_owned()], &Override::unattributed(Admin::Draining)).unwrap()
        };
        assert_eq!(touched(&state), [0; 0]);
        assert_eq!(touched(&without(Some("s7"))), [7]);
        assert_eq!(touched(&without(None)).len(), 20);
        // Activating the backend again leads to the same table, which is not built again while it is still
        // known.
        let shared = without(Some("s7"))
            .set_admin(None, &["a".to_owned()], &Override::unattributed(Admin::Enabled))
            .unwrap();
        assert_eq!(touched(&shared), [0; 0]);
        assert!(std::ptr::eq(&*shared.services[7].table, &*state.services[8].table));
    }
}
