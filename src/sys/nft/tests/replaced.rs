//! Flows begin while what claims lead to is replaced. No process decides, so each that does not is counted.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use tun_tap::Iface;

use super::{
    kernel_tables::{FILE, Made, by_kernel, made_of},
    packets::{counted_by, without_lease},
    steering::{SYN, sealed},
    *,
};
use crate::tests::bytes::packet;

/// Sends SYNs to port 80 of service "web", each of another flow, for as long as this takes. Each of them must be steered.
fn all_begin_while(client: &Iface, replaced: impl FnOnce()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let flows = (2..200).flat_map(|host| (1024..65_000).map(move |port| (host, port)));
            for (host, port) in flows.take_while(|_| !done.load(Ordering::Relaxed)) {
                for (from, vip) in
                    [(format!("10.9.0.{host}"), "192.0.2.1"), (format!("fd09::{host}"), "2001:db8::1")]
                {
                    client.send(&sealed(packet(6, &from, port, vip, 80, SYN))).unwrap();
                }
            }
        });
        replaced();
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(["unclaimed", "unsteered"].map(counted_by), [0, 0]);
    assert!(counted_by("by_kernel") > 100);
}

/// A version that declares claims in another way, by sets where there are maps now. Filling the fallback tables takes a while.
#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn flows_begin_while_another_versions_table_is_taken_over() {
    in_namespace(|| {
        let file = FILE.replace("table_size = 251", "table_size = 131071").replace("= 1000", "= 200000");
        let Made { ruleset, .. } = made_of(&file);
        // Other tables of services as well.
        let Made { ruleset: mut old, .. } =
            made_of(&file.replace("kernel_entries", "hash_seed = 7\nkernel_entries"));
        assert_ne!(old.tables[0].map, ruleset.tables[0].map);
        old.structure.name = "structure_old".to_owned();
        for (new, as_it_was) in [
            (
                "map claimed_port4 { type ipv4_addr . inet_proto . inet_service : verdict;",
                "set claimed_port4 { type ipv4_addr . inet_proto . inet_service;",
            ),
            ("th dport vmap @claimed_port4", "th dport @claimed_port4 goto by_lbd"),
        ] {
            assert!(old.structure.text.contains(new));
            old.structure.text = old.structure.text.replace(new, as_it_was);
        }
        old.structure.native.retain(|native| !native.name.starts_with("claimed_quoted"));
        old.elements = ElementsDiff::filling(&old.elements, |set| set != SetName::ClaimedPort4).add;
        let client = without_lease(&old);
        let claim = format!("add element inet {TABLE} claimed_port4 {{ 192.0.2.1 . 6 . 80-90 }}\n");
        nft("a test", &["-f", "-"], Some(&claim)).unwrap();
        all_begin_while(&client, || {
            let applied = super::super::apply(&ruleset, &mut Tables::default()).unwrap();
            assert_eq!(applied.structure, StructureApplied::Refilled);
        });
        assert!(in_force(&ruleset).unwrap());
    });
}

/// The kernel decides instead of lbd, and by a table of another size; other services claim other ports of the same VIP, so
/// that the elements are divided otherwise.
#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn flows_begin_while_claims_are_replaced() {
    in_namespace(|| {
        let files = [
            FILE.to_owned(),
            by_kernel(FILE, &["web"]),
            FILE.replace("table_size = 251", "table_size = 509"),
            FILE.replace("ports = \"80-90\"", "ports = \"80\""),
            FILE.replace("ports = \"80-90\"\n", ""),
        ];
        let rulesets = files.map(|file| made_of(&file).ruleset);
        let client = without_lease(&rulesets[0]);
        let mut tables = Tables::default();
        let mut in_place: Option<&Elements> = None;
        all_begin_while(&client, || {
            for ruleset in rulesets.iter().cycle().take(4 * rulesets.len()) {
                change(ruleset, in_place, &mut tables).unwrap();
                tables.apply(&ruleset.tables).unwrap();
                in_place = Some(&ruleset.elements);
            }
        });
        assert!(in_force(&rulesets[rulesets.len() - 1]).unwrap());
    });
}

/// What a process left that ended while it replaced claims.
#[test]
#[ignore = "needs root and nf_tables"]
fn what_was_left_while_claims_were_replaced_goes() {
    in_namespace(|| {
        let [one, other] = [FILE.to_owned(), by_kernel(FILE, &["web"])].map(|file| made_of(&file).ruleset);
        apply(&one).unwrap();
        let ahead = one.elements.diff(&other.elements).ahead(|_| false);
        assert!(!ahead.is_empty());
        let left = |ruleset| {
            commit(&ahead).unwrap();
            let found = differences(ruleset).unwrap().to_string();
            assert!(found.contains("set next_claimed_port4 has other elements"), "{found}");
        };
        left(&one);
        apply(&one).unwrap();
        assert!(in_force(&one).unwrap());
        // It is in the way of nothing.
        left(&one);
        apply(&other).unwrap();
        assert!(in_force(&other).unwrap());
    });
}
