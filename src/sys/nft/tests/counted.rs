//! What a change takes, in transactions and dumps: it must not be more where there are more services.

use super::{
    kernel_tables::{Made, made},
    *,
};
use crate::model::{Admin, Override};
use crate::{
    sys::nft::{messages::NFT_MSG_NEWSETELEM, reader::DUMPS, transaction::COMMITS},
    tests::fixture,
};

const SERVICES: usize = 60;

fn services(count: usize) -> State {
    let service = |file: fixture::Fixture, n: usize| {
        file.service(&format!("s{n}"), &format!("10.0.{n}.1 1000::{n}"), "protocols = 'tcp'\ntable_size = 97")
            .backend("a", "encap = 'mark'")
            .backend("b", "encap = 'mark'")
    };
    (0..count).fold(fixture::balancer(""), service).state()
}

/// What lbd knows of the kernel's table.
struct Known {
    tables: Tables,
    elements: Option<Elements>,
}

/// Has the ruleset compiled, which reads another table than the one in force, and does not count.
fn compiled(ruleset: &Ruleset) {
    compiler::compile(ruleset).unwrap();
}

impl Known {
    /// Puts a state in force as a change does. Returns how many transactions and dumps that took, and how many
    /// entries it changed.
    fn change(&mut self, state: &State) -> [usize; 3] {
        let Made { ruleset, .. } = made(state.clone());
        compiled(&ruleset);
        let before = (COMMITS.get(), DUMPS.get());
        change(&ruleset, self.elements.as_ref(), &mut self.tables).unwrap();
        let entries = self.tables.apply(&ruleset.tables).unwrap();
        let taken = [COMMITS.get() - before.0, DUMPS.get() - before.1, entries];
        assert!(in_force(&ruleset).unwrap());
        assert_eq!(Tables::default().apply(&ruleset.tables).unwrap(), 0);
        self.elements = Some(ruleset.elements);
        taken
    }

    /// What a look takes.
    fn look(&mut self, state: &State) -> ([usize; 2], Option<String>) {
        let Made { ruleset, .. } = made(state.clone());
        compiled(&ruleset);
        let before = (COMMITS.get(), DUMPS.get());
        let mended = mend(&ruleset, &mut self.tables).unwrap().map(|(differed, _)| differed.to_string());
        ([COMMITS.get() - before.0, DUMPS.get() - before.1], mended)
    }
}

#[test]
#[ignore = "needs root and nf_tables"]
fn a_change_takes_as_much_as_it_changes_however_many_services_there_are() {
    in_namespace(|| {
        let mut known = Known { tables: Tables::default(), elements: None };
        let all = services(SERVICES);
        // Chains and maps, entries, elements.
        let [commits, _, entries] = known.change(&all);
        assert_eq!((commits, entries), (3, 0));
        assert_eq!(known.change(&all), [0, 0, 0]);

        let names = ["a".to_owned()];
        let without =
            |service| all.set_admin(service, &names, &Override::unattributed(Admin::Draining)).unwrap();
        let [commits, dumps, of_one] = known.change(&without(Some("s7")));
        assert!((commits, dumps) == (1, 0) && (40..58).contains(&of_one), "{commits} {dumps} {of_one}");
        known.change(&all);
        assert_eq!(known.change(&without(None)), [1, 0, SERVICES * of_one], "one transaction for all");
        assert_eq!(known.change(&all), [1, 0, SERVICES * of_one]);

        // A service more, and less again: chains and map, entries, elements; elements, chains and map.
        let more = services(SERVICES + 1);
        assert_eq!(known.change(&more), [3, 0, 0]);
        assert_eq!(known.change(&all), [2, 0, 0]);
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn a_look_reads_what_another_program_may_have_changed() {
    in_namespace(|| {
        let mut known = Known { tables: Tables::default(), elements: None };
        let state = services(2);
        known.change(&state);
        let (taken, mended) = known.look(&state);
        assert!(taken[1] > 0 && mended.is_none(), "after a change once");
        assert_eq!(known.look(&state), ([0, 0], None));
        // In another table.
        nft("a test", &["add", "table", "ip", "other"], None).unwrap();
        assert!(known.look(&state).0[1] > 0);
        assert_eq!(known.look(&state), ([0, 0], None));
        nft("a test", &["flush", "chain", "inet", TABLE, "claimed4"], None).unwrap();
        let (_, mended) = known.look(&state);
        assert!(mended.is_some_and(|mended| mended.contains("chain claimed4")));
        assert_eq!(known.look(&state).1, None);
        assert_eq!(known.look(&state), ([0, 0], None));
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn a_change_of_what_another_program_has_changed_mends_it() {
    in_namespace(|| {
        let mut known = Known { tables: Tables::default(), elements: None };
        let (one, two) = (services(1), services(2));
        for by_hand in [
            &["flush", "ruleset"][..],
            &["delete", "table", "inet", TABLE],
            &["add", "element", "inet", TABLE, "vip4", "{ 10.0.1.1 }"],
            &["add", "chain", "inet", TABLE, &made(two.clone()).ruleset.tables[1].chain],
        ] {
            known.change(&one);
            nft("a test", by_hand, None).unwrap();
            // Which also asserts that all is in force.
            known.change(&two);
        }
        // What it had to add is there already, and what is known of fallback tables is wrong.
        known.change(&one);
        let map = &made(two.clone()).ruleset.tables[0].map;
        nft("a test", &["flush", "map", "inet", TABLE, map], None).unwrap();
        let without =
            two.set_admin(None, &["a".to_owned()], &Override::unattributed(Admin::Draining)).unwrap();
        known.change(&without);
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn a_transaction_may_be_larger_than_a_socket_holds_by_default() {
    in_namespace(|| {
        apply(&ruleset(&state(), 127)).unwrap();
        // The kernel doubles what a socket asks for, and each element takes 16 bytes.
        let again = std::iter::repeat_n((7, None), (34 << 20) / 16);
        let mut transaction = Transaction::new();
        let what = "a target again";
        transaction.add_elements(NFT_MSG_NEWSETELEM, what, "targets", None, again, elements::write_mark);
        transaction.commit().unwrap();
    });
}
