//! What is planned, and that every plan leads where it should.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::model::{Admission, OuterAddresses};
use crate::{
    model::{Name, Pmtu},
    plan::rule_tree::Action,
    state::TierMember,
    tests::fixture,
};

/// The state of a file with one service, `web`, and the given keys of its backends.
pub(super) fn state(vips: &str, backends: &[&str]) -> State {
    let file = fixture::balancer("interfaces = 'eth1'\nqueues = '0'").service("web", vips, "");
    backends
        .iter()
        .zip(1..)
        .fold(file, |file, (keys, number)| file.backend(&format!("s{number}"), keys))
        .state()
}

pub(super) const DUAL: &str = "10.0.0.0/32 1000::/128";

fn every_kind() -> State {
    state(
        DUAL,
        &[
            "address = \"192.168.1.1\"",
            "address = \"fd00:0:0:1::1\"",
            "address = \"192.168.1.2\"\nencap = \"ipip\"",
            "address = \"fd00:0:0:1::2\"\nencap = \"ipip\"",
            "address = \"192.168.1.3\"\nencap = \"gue\"",
            "address = \"fd00:0:0:1::3\"\nencap = \"gue\"",
            "address = \"fd00:0:0:1::4\"\nencap = \"direct\"",
        ],
    )
}

/// The kernel as far as the plan goes: what each operation does, and what it refuses.
pub(super) fn perform(now: &mut RoutingNow, op: &Op) {
    match op {
        Op::AddDevice(device) => {
            let seen = DeviceNow {
                name: device.name.clone(),
                kind: device.tunnel.kind().name().to_owned(),
                alias: device.alias.clone(),
                tunnel: Some(device.tunnel),
                ends: Some(device.tunnel.ends),
                mtu_bytes: device.mtu_bytes.unwrap_or(1476),
                up: !device.is_entrance(),
                ready: !device.is_entrance(),
                unfiltered: !device.inbound,
                inbound: device.inbound,
            };
            let same_ends = |other: &&DeviceNow| other.kind == seen.kind && other.ends == seen.ends;
            assert_eq!(now.devices.values().find(same_ends), None, "EEXIST");
            assert_eq!(now.devices.insert(device.name.clone(), seen), None, "EEXIST");
        }
        Op::Ready(device) => {
            let seen = now.devices.get_mut(&device.name).expect("ENODEV");
            seen.alias.clone_from(&device.alias);
            seen.mtu_bytes = device.mtu_bytes.unwrap_or(seen.mtu_bytes);
            (seen.up, seen.ready) = (true, true);
            (seen.unfiltered, seen.inbound) = (!device.inbound, device.inbound);
        }
        Op::RemoveDevice(name) => {
            assert!(now.devices.remove(name).is_some(), "ENODEV");
            now.routes.retain(|route| !matches!(&route.via, Via::Device(device) if device == name));
        }
        Op::AddRoute(route) => {
            if let Via::Device(name) = &route.via {
                assert!(now.devices.contains_key(name), "ENODEV");
            }
            let place = |other: &&Route| other.key() == route.key();
            assert_eq!(now.routes.iter().find(place), None, "EEXIST");
            now.routes.insert(route.clone());
        }
        Op::ReplaceRoute(route) => {
            if let Via::Device(name) = &route.via {
                assert!(now.devices.contains_key(name), "ENODEV");
            }
            let before = now.routes.len();
            now.routes.retain(|other| other.key() != route.key());
            assert_eq!(now.routes.len(), before - 1, "it would be added");
            now.routes.insert(route.clone());
        }
        Op::RemoveRoute(route) => assert!(now.routes.remove(route), "ESRCH"),
        Op::AddRule(family, rule) => assert!(now.rules.insert((*family, *rule))),
        Op::RemoveRule(family, rule) => assert!(now.rules.remove(&(*family, *rule)), "ENOENT"),
    }
}

pub(super) fn converge(now: &mut RoutingNow, desired: &Desired) -> Vec<Op> {
    let ops = diff(now, desired).unwrap().ops;
    ops.iter().for_each(|op| perform(now, op));
    assert_eq!(diff(now, desired).unwrap(), Diff::default());
    ops
}

#[test]
fn the_number_of_a_target_is_the_same_in_device_table_and_mark() {
    let desired = desired(&every_kind()).unwrap();
    assert_eq!(desired.devices.len(), 6);
    let seventh = desired.rules.iter().find(|(_, rule)| rule.mark == 7 && rule.mask == 0xffff).unwrap();
    assert_eq!(seventh.1.action, Action::Lookup(20_007));
    assert_eq!(desired.devices["sr-3"].alias, "synrail: web/s3");
    let of_third: Vec<String> =
        desired.routes.iter().filter(|route| route.table == 20_003).map(Route::to_string).collect();
    assert_eq!(
        of_third,
        ["route 0.0.0.0/0 dev sr-3 table 20003 metric 0", "route ::/0 dev sr-3 table 20003 metric 1024"]
    );
    assert_eq!(desired.devices["sr-5"].tunnel.to_string(), "sit with gue 192.168.1.201 to 192.168.1.3");
}

#[test]
fn a_direct_backend_is_the_next_hop_of_the_families_that_its_services_have() {
    let next_hops = |state: &State| {
        let desired = desired(state).unwrap();
        desired
            .routes
            .into_iter()
            .filter(|route| route.table != TABLE_MAIN)
            .map(|route| route.to_string())
            .collect()
    };
    let seen: Vec<String> =
        next_hops(&state("10.0.0.0/32", &["address = \"192.168.1.1\"\nencap = \"direct\""]));
    assert_eq!(seen, ["route 0.0.0.0/0 via 192.168.1.1 table 20001 metric 0"]);
    // And so it has rules in these families alone.
    let families = |vips| -> BTreeSet<Family> {
        let state = state(vips, &["address = \"fd00:0:0:1::1\"\nencap = \"direct\""]);
        let mut now = RoutingNow::default();
        converge(&mut now, &desired(&state).unwrap());
        now.rules.iter().map(|(family, _)| *family).collect()
    };
    assert_eq!(families("10.0.0.0/32"), BTreeSet::from([Family::V4]));
    assert_eq!(families("1000::/128"), BTreeSet::from([Family::V6]));
    assert_eq!(families(DUAL), BTreeSet::from(Family::ALL));
    let seen: Vec<String> = next_hops(&state(DUAL, &["address = \"fd00:0:0:1::1\"\nencap = \"direct\""]));
    assert_eq!(
        seen,
        [
            "route 0.0.0.0/0 via fd00:0:0:1::1 table 20001 metric 0",
            "route ::/0 via fd00:0:0:1::1 table 20001 metric 1024"
        ]
    );
}

#[test]
fn next_hops_that_stand_in_have_routes_for_the_vips_of_both_services() {
    let families = |no_backend: &str| {
        let state = fixture::balancer("interfaces = 'eth1'\nqueues = '0'")
            .service("web", DUAL, &format!("no_backend = '{no_backend}'"))
            .service("spare", "1000::9", "")
            .backend("s1", "address = 'fd00:0:0:1::4'\nencap = 'direct'")
            .state();
        let table = table(state.services[1].backends[0].target);
        let routes = desired(&state).unwrap().routes;
        let to_hop = |route: &&Route| route.table == table && matches!(route.via, Via::Gateway(_));
        routes.iter().filter(to_hop).map(|route| route.to.addr().is_ipv4()).collect::<Vec<_>>()
    };
    assert_eq!(families("drop"), [false]);
    assert_eq!(families("service:spare"), [true, false]);
}

#[test]
fn what_cannot_work_is_an_error_that_names_the_backend() {
    let error = |state: &State| desired(state).unwrap_err().to_string();
    let mut ipv4_only = state("10.0.0.0/32", &["address = \"fd00:0:0:1::1\""]);
    ipv4_only.balancer.address.v6 = None;
    assert!(error(&ipv4_only).starts_with("backend web/s1: [balancer] address has no IPv6 address"));
    let two = ["address = \"192.168.1.1\"\nencap = \"ipip\"", "address = \"192.168.1.1\"\nencap = \"gue\""];
    assert!(error(&state(DUAL, &two)).starts_with("backends web/s1 and web/s2: ipip and gue to one address"));
    let mut impossible = every_kind();
    impossible.targets[6] = Some(Path::Via(Encap::Direct, "192.168.1.9".parse().unwrap()));
    assert!(error(&impossible).contains("\"s7\" with encap \"direct\" cannot get through"));
    impossible.targets[6] = Some(Path::Via(Encap::Gre, "fe80::1".parse().unwrap()));
    assert!(error(&impossible).contains("fe80::1 is link-local"));
}

#[test]
fn the_same_is_not_done_twice_and_cleanup_leaves_nothing() {
    let mut now = RoutingNow::default();
    let ops = converge(&mut now, &desired(&every_kind()).unwrap());
    let kind = |op: &Op| match op {
        Op::AddDevice(_) => 0,
        Op::AddRoute(route) if route.table != TABLE_MAIN => 1,
        Op::AddRule(..) => 2,
        Op::AddRoute(_) => 3,
        Op::Ready(_)
        | Op::RemoveDevice(_)
        | Op::ReplaceRoute(_)
        | Op::RemoveRoute(_)
        | Op::RemoveRule(..) => 4,
    };
    assert!(ops.is_sorted_by_key(kind) && kind(ops.last().unwrap()) == 3, "{ops:?}");
    let removed = converge(&mut now, &Desired::default());
    assert_eq!(now, RoutingNow::default());
    assert_eq!(removed.len(), ops.len());
}

#[test]
fn a_tunnel_that_changed_is_made_anew_and_one_that_lacks_a_setting_is_not() {
    let mut now = RoutingNow::default();
    let before = every_kind();
    converge(&mut now, &desired(&before).unwrap());
    now.devices.get_mut("sr-2").unwrap().ready = false;
    let mut after = before;
    after.targets[0] = Some(Path::Via(Encap::Gre, "192.168.1.77".parse().unwrap()));
    let ops: Vec<String> = converge(&mut now, &desired(&after).unwrap()).iter().map(Op::to_string).collect();
    assert_eq!(
        ops,
        [
            "remove device sr-1",
            "add device sr-1 (gre 192.168.1.201 to 192.168.1.77)",
            "set up device sr-2",
            "add route 0.0.0.0/0 dev sr-1 table 20001 metric 0",
            "add route ::/0 dev sr-1 table 20001 metric 1024",
        ]
    );
}

/// `state` with a tier of this balancer, lb201, and others at the given addresses, lb202 and so on. Where a backend has
/// the same path, they share its target, as [`State::merge`] does it.
pub(super) fn with_tier(mut state: State, others: &[&str]) -> State {
    let member = |number: usize, target| TierMember {
        name: Name::new(&format!("lb{number}")).unwrap(),
        address: OuterAddresses::default(),
        target,
        admission: Admission::default(),
    };
    state.tier = vec![member(201, None)];
    for (address, number) in others.iter().zip(202..) {
        let path = Some(Path::Via(Encap::Gre, address.parse().unwrap()));
        let index = state.targets.iter().position(|known| *known == path).unwrap_or_else(|| {
            state.targets.push(path);
            state.targets.len() - 1
        });
        state.tier.push(member(number, TargetId::new(index)));
    }
    state
}

#[test]
fn a_balancer_of_the_tier_has_device_routes_and_rule_like_a_backend_and_takes_packets_in() {
    let state = with_tier(state(DUAL, &["address = \"192.168.1.1\""]), &["192.168.1.202", "fd00:0:0:1::203"]);
    let desired = desired(&state).unwrap();
    let lines: Vec<_> = desired
        .devices
        .values()
        .map(|device| (device.alias.as_str(), device.tunnel.to_string(), device.inbound))
        .collect();
    let tunnel = |text: &str| text.to_owned();
    assert_eq!(
        lines,
        [
            ("synrail: web/s1", tunnel("gre 192.168.1.201 to 192.168.1.1"), false),
            ("synrail: tier/lb202", tunnel("gre in fragments 192.168.1.201 to 192.168.1.202"), true),
            ("synrail: tier/lb203", tunnel("ip6gre fd00:0:0:1::201 to fd00:0:0:1::203"), true),
        ]
    );
    let routes = desired.routes.iter().filter(|route| route.table == 20_002).map(Route::to_string);
    assert_eq!(
        routes.collect::<Vec<_>>(),
        ["route 0.0.0.0/0 dev sr-2 table 20002 metric 0", "route ::/0 dev sr-2 table 20002 metric 1024"]
    );
    let led = |(_, rule): &&(Family, Rule)| rule.mark == 2 && rule.action == Action::Lookup(20_002);
    assert_eq!(desired.rules.iter().filter(led).count(), 2);
    let mut now = RoutingNow::default();
    converge(&mut now, &desired);
    converge(&mut now, &Desired::default());
    assert_eq!(now, RoutingNow::default());
}

#[test]
fn what_cannot_work_in_the_tier_is_an_error_that_names_the_balancer() {
    let mut state = with_tier(state("10.0.0.0/32", &[]), &["fd00:0:0:1::202"]);
    state.balancer.address.v6 = None;
    let error = desired(&state).unwrap_err().to_string();
    assert!(error.starts_with("balancer tier/lb202: [balancer] address has no IPv6 address"), "{error}");
}

#[test]
fn a_service_that_asks_for_it_has_fragments_where_gre_over_ipv4_leads_to_its_backend() {
    let mut state = every_kind();
    assert!(desired(&state).unwrap().devices.values().all(|device| device.mtu_bytes.is_none()));
    state.services[0].pmtu = Pmtu::FragmentOuter;
    let desired = desired(&state).unwrap();
    let fragmenting: Vec<_> = desired
        .devices
        .values()
        .filter(|device| device.tunnel.fragment_outer)
        .map(|device| (device.name.as_str(), device.mtu_bytes, device.inbound))
        .collect();
    assert_eq!(fragmenting, [("sr-1", Some(65_511), false)]);
}

#[test]
fn a_target_of_several_has_what_any_of_them_needs() {
    let mut state = state(DUAL, &["address = \"192.168.1.1\"", "address = \"192.168.1.2\""]);
    let mut other = state.services[0].clone();
    other.name = Name::new("api").unwrap();
    other.pmtu = Pmtu::FragmentOuter;
    other.backends.truncate(1);
    state.services.push(other);
    let device = |state: &State, name: &str| desired(state).unwrap().devices[name].clone();
    let shared = device(&state, "sr-1");
    assert_eq!(shared.alias, "synrail: web/s1, api/s1");
    assert!(shared.tunnel.fragment_outer && !shared.inbound);
    assert!(!device(&state, "sr-2").tunnel.fragment_outer);
    // A balancer that is a backend too.
    let state = with_tier(state, &["192.168.1.2"]);
    let both = device(&state, "sr-2");
    assert_eq!(both.alias, "synrail: web/s2, tier/lb202");
    assert!(both.tunnel.fragment_outer && both.inbound);
    assert_eq!(desired(&state).unwrap().devices.len(), 2);
}

#[test]
fn fragments_need_another_device_and_coming_in_does_not() {
    let plain = state(DUAL, &["address = \"192.168.1.1\"", "address = \"fd00:0:0:1::202\""]);
    let mut now = RoutingNow::default();
    converge(&mut now, &desired(&plain).unwrap());
    let names = |ops: &[Op]| ops.iter().map(Op::to_string).collect::<Vec<_>>();
    let mut fragmenting = plain.clone();
    fragmenting.services[0].pmtu = Pmtu::FragmentOuter;
    let replaced = names(&converge(&mut now, &desired(&fragmenting).unwrap()));
    assert_eq!(
        replaced,
        [
            "remove device sr-1",
            "add device sr-1 (gre in fragments 192.168.1.201 to 192.168.1.1)",
            "add route 0.0.0.0/0 dev sr-1 table 20001 metric 0",
            "add route ::/0 dev sr-1 table 20001 metric 1024",
        ]
    );
    let back = names(&converge(&mut now, &desired(&plain).unwrap()));
    assert_eq!(back[..2], ["remove device sr-1", "add device sr-1 (gre 192.168.1.201 to 192.168.1.1)"]);
    // Over IPv6, where nothing fragments.
    let tier = desired(&with_tier(plain.clone(), &["fd00:0:0:1::202"])).unwrap();
    let entered = "rule 901: iif sr-2 goto 10000";
    let entries = |verb: &str| ["IPv4", "IPv6"].map(|family| format!("{verb} {family} {entered}"));
    let mut with_entries = vec!["set up device sr-2".to_owned()];
    with_entries.extend(entries("add"));
    assert_eq!(names(&converge(&mut now, &tier)), with_entries);
    // Another program turned on the filter of all devices.
    now.devices.get_mut("sr-2").unwrap().inbound = false;
    assert_eq!(names(&converge(&mut now, &tier)), ["set up device sr-2"]);
    with_entries.splice(1.., entries("remove"));
    assert_eq!(names(&converge(&mut now, &desired(&plain).unwrap())), with_entries);
}

#[test]
fn what_is_not_ours_stays_and_is_named() {
    let desired = desired(&every_kind()).unwrap();
    let mut now = RoutingNow::default();
    converge(&mut now, &desired);
    let mine = now.devices["sr-1"].clone();
    let foreign = |name: &str, alias: &str, tunnel| {
        let mut now = RoutingNow::default();
        let device = DeviceNow { name: name.to_owned(), alias: alias.to_owned(), tunnel, ..mine.clone() };
        now.devices.insert(name.to_owned(), device);
        now
    };
    let refused = diff(&foreign("sr-1", "mine", mine.tunnel), &desired).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("device sr-1 (kind \"gre\", alias \"mine\") exists and is not synrail's")
    );
    assert!(diff(&foreign("sr-1", "", None), &desired).is_err());
    let refused = diff(&foreign("to-s1", "", mine.tunnel), &desired).unwrap_err();
    assert!(refused.to_string().starts_with("device to-s1 is not synrail's and is the same tunnel"));
    // Left behind by a daemon that was killed in the middle: taken over.
    let ops = diff(&foreign("sr-1", "", mine.tunnel), &desired).unwrap().ops;
    assert!(ops.contains(&Op::Ready(desired.devices["sr-1"].clone())));
    // Another tunnel, and nothing is desired: left alone.
    assert_eq!(diff(&foreign("to-s1", "", mine.tunnel), &Desired::default()).unwrap(), Diff::default());

    now.foreign_main.insert("10.0.0.0/32".parse().unwrap());
    now.foreign_main.insert("10.9.9.9/32".parse().unwrap());
    let diff = diff(&now, &desired).unwrap();
    assert_eq!((diff.ops.len(), diff.notes), (0, vec![Note::ForeignRoute("10.0.0.0/32".parse().unwrap())]));
}

#[test]
fn our_tables_and_names_are_distinguished_from_others() {
    assert!(is_our_table(20_001, false) && is_our_table(24_096, false) && is_our_table(TABLE_MAIN, true));
    assert!(!is_our_table(19_999, false) && !is_our_table(24_097, false) && !is_our_table(TABLE_MAIN, false));
    assert_eq!(target_of_device("sr-4096").map(table), Some(24_096));
    for other in ["sr-0", "sr-4097", "sr-01", "sr-+1", "sr-", "gre0"] {
        assert_eq!(target_of_device(other), None, "{other}");
    }
}

#[test]
fn an_alias_fits_into_the_kernel() {
    let names: Vec<String> = (0..100).map(|number| format!("service-{number}/backend")).collect();
    let cut = alias(&names);
    assert!(cut.len() == ALIAS_BYTES_MAX && cut.ends_with("..."), "{cut}");
    let full = "x".repeat(ALIAS_BYTES_MAX - "synrail: ".len());
    assert_eq!(alias(std::slice::from_ref(&full)), format!("synrail: {full}"));
    assert!(alias(&[full + "y"]).ends_with("xxx..."));
    // No name has such characters today; a cut amid one would end lbd.
    assert!(alias(&["ä".repeat(200)]).len() <= ALIAS_BYTES_MAX);
    assert_eq!(alias(&names[..2]), "synrail: service-0/backend, service-1/backend");
}

#[test]
fn a_device_follows_the_network_below_and_keeps_ipv6() {
    let desired =
        desired(&state(DUAL, &["address = \"192.168.1.1\"", "address = \"192.168.1.2\"\nencap = \"ipip\""]))
            .unwrap();
    let mut now = RoutingNow::default();
    let mut at = |underlay: Option<u32>| {
        now.underlay_mtu_bytes =
            desired.devices.values().filter_map(|device| Some((device.tunnel.ends, underlay?))).collect();
        let ops: Vec<String> = converge(&mut now, &desired).iter().map(Op::to_string).collect();
        let seen =
            |name: &str| (now.devices[name].mtu_bytes, now.devices[name].tunnel.unwrap().fragment_outer);
        ([seen("sr-1"), seen("sr-2")], ops.into_iter().filter(|op| op.contains("device")).collect::<Vec<_>>())
    };
    assert_eq!(at(Some(1500)).0, [(1476, false), (1480, false)]);
    let (seen, ops) = at(Some(1400));
    assert_eq!(seen, [(1376, false), (1380, false)]);
    assert_eq!(ops, ["set up device sr-1 with MTU 1376", "set up device sr-2 with MTU 1380"]);
    // Too small for IPv6: other tunnels, which fragment.
    let (seen, ops) = at(Some(1300));
    assert_eq!(seen, [(1280, true), (1280, false)]);
    assert_eq!(
        ops,
        [
            "remove device sr-1",
            "add device sr-1 (gre in fragments 192.168.1.201 to 192.168.1.1)",
            "set up device sr-2 with MTU 1280",
        ]
    );
    assert_eq!(at(Some(1280)).0, [(1280, true), (1280, false)]);
    // The route is away for a moment.
    assert_eq!(at(None), ([(1280, true), (1280, false)], vec![]));
    assert_eq!(at(Some(9000)).0, [(8976, false), (8980, false)]);
}

#[test]
fn a_tunnel_over_ipv6_below_which_the_mtu_is_too_small_is_noted() {
    let desired =
        desired(&state(DUAL, &["address = \"fd00:0:0:1::1\"", "address = \"192.168.1.2\""])).unwrap();
    let notes = |underlay: u32| {
        let of = |device: &Device| (device.tunnel.ends, underlay);
        let underlay_mtu_bytes = desired.devices.values().map(of).collect();
        diff(&RoutingNow { underlay_mtu_bytes, ..RoutingNow::default() }, &desired).unwrap().notes
    };
    assert_eq!(notes(1324), []);
    let [note] = &notes(1323)[..] else { panic!("{:?}", notes(1323)) };
    let text = note.to_string();
    assert!(
        text.contains("below sr-1 takes 1323 bytes: IPv6 packets above 1279") && text.contains("1324 bytes,"),
        "{text}"
    );
}

#[test]
fn devices_and_routes_have_the_number_of_their_path() {
    let state = with_tier(every_kind(), &["192.168.1.202"]);
    let mut now = RoutingNow::default();
    converge(&mut now, &desired(&state).unwrap());
    assert_eq!(numbers(&now), state.targets_used().collect());
    // Whatever the network below has made of a tunnel; but not what is not ours.
    now.devices.get_mut("sr-1").unwrap().tunnel.as_mut().unwrap().fragment_outer = true;
    now.devices.get_mut("sr-2").unwrap().alias = "mine".to_owned();
    let known = numbers(&now);
    assert_eq!(known.len(), state.targets_used().count() - 1);
    assert_eq!(known.get(&TargetId::from_number(1).unwrap()), state.targets[0].as_ref());
}

#[test]
fn a_former_vip_keeps_its_blackhole_until_it_is_removed_by_hand() {
    let planned = |vips: &str, blackhole: &[&str]| {
        let mut state = state(vips, &["address = \"192.168.1.1\""]);
        state.balancer.blackhole = blackhole.iter().map(|prefix| prefix.parse().unwrap()).collect();
        desired(&state).unwrap()
    };
    let blackholes = |now: &RoutingNow| {
        let of_main = now.routes.iter().filter(|route| route.table == TABLE_MAIN);
        of_main.map(|route| route.to.to_string()).collect::<Vec<_>>().join(" ")
    };
    let mut now = RoutingNow::default();
    let first = planned("10.0.0.0/32 10.0.0.1/32", &["10.1.0.0/16"]);
    converge(&mut now, &first);
    assert_eq!(blackholes(&now), "10.0.0.0/32 10.0.0.1/32 10.1.0.0/16");
    let mut second = planned("10.0.0.9/32", &[]);
    assert_eq!(second.succeed(&first), (2, 0));
    converge(&mut now, &second);
    assert_eq!(blackholes(&now), "10.0.0.0/32 10.0.0.1/32 10.0.0.9/32");
    // An operator needs the address elsewhere.
    now.routes.retain(|route| route.to.to_string() != "10.0.0.1/32");
    assert_eq!(diff(&now, &second).unwrap().ops, []);
    // One is a VIP again, and another lies in a prefix that is dropped as a whole.
    let mut third = planned("10.0.0.0/32", &["10.0.0.0/15"]);
    assert_eq!(third.succeed(&second), (0, 0));
    assert!(third.former.is_empty());
    converge(&mut now, &third);
    assert_eq!(blackholes(&now), "10.0.0.0/15 10.0.0.0/32");
    converge(&mut now, &Desired::default());
    assert_eq!(now, RoutingNow::default());
    // There is a limit.
    let many = Desired {
        vips: (0..2000_u32).map(|n| IpNet::from(IpAddr::from(Ipv4Addr::from(n)))).collect(),
        ..Desired::default()
    };
    let mut none = Desired::default();
    assert_eq!(none.succeed(&many), (FORMER_VIPS_MAX, 2000 - FORMER_VIPS_MAX));
}

#[test]
fn a_tunnel_that_was_renamed_is_known_by_its_alias_and_makes_room() {
    let mut state = every_kind();
    state.balancer.gre_in = true;
    let desired = desired(&state).unwrap();
    let mut whole = RoutingNow::default();
    converge(&mut whole, &desired);
    let rename = |now: &mut RoutingNow, from: &str, to: &str| {
        let device = now.devices.remove(from).unwrap();
        now.devices.insert(to.to_owned(), DeviceNow { name: to.to_owned(), ..device });
        let routes = std::mem::take(&mut now.routes).into_iter();
        now.routes.extend(routes.map(|route| match &route.via {
            Via::Device(name) if name == from => Route { via: Via::Device(to.to_owned()), ..route },
            Via::Device(_) | Via::Gateway(_) | Via::Blackhole | Via::Other => route,
        }));
    };
    for name in ["sr-1", "sr-4", "sr-in4"] {
        let mut now = whole.clone();
        rename(&mut now, name, "foo0");
        let ops = converge(&mut now, &desired);
        assert_eq!(ops[0], Op::RemoveDevice("foo0".to_owned()), "{name}");
        assert_eq!(now, whole, "{name}");
        rename(&mut now, name, "foo0");
        converge(&mut now, &Desired::default());
        assert_eq!(now, RoutingNow::default(), "{name}");
    }
    // What a backend of the same host takes packets in by is not lbd's, nor is what only has such a name.
    for alias in ["synrail: gre for 192.168.1.1", "synrail: fragments", "web/s1", ""] {
        let mut now = whole.clone();
        let device = now.devices["sr-1"].clone();
        let (name, ends) = ("lb-gre-c0a80101".to_owned(), None);
        let other = DeviceNow { name: name.clone(), alias: alias.to_owned(), ends, ..device };
        now.devices.insert(name, other);
        assert_eq!(diff(&now, &desired).unwrap().ops, [], "{alias}");
    }
}

#[test]
fn what_a_start_left_half_made_is_ours() {
    let desired = desired(&every_kind()).unwrap();
    let mut now = RoutingNow::default();
    converge(&mut now, &desired);
    let mut half = now.devices["sr-1"].clone();
    half.alias.clear();
    (half.up, half.ready) = (false, false);
    let with =
        |half: DeviceNow| RoutingNow { devices: [(half.name.clone(), half)].into(), ..RoutingNow::default() };
    let removed = converge(&mut with(half.clone()), &Desired::default());
    assert_eq!(removed, [Op::RemoveDevice("sr-1".to_owned())]);
    // Its place goes to another tunnel.
    let mut other = half.clone();
    other.tunnel = now.devices["sr-2"].tunnel;
    other.ends = now.devices["sr-2"].ends;
    converge(&mut with(other), &desired);
    // That of an operator is up, or has options that we never set.
    for (up, tunnel) in [(true, half.tunnel), (false, None)] {
        let foreign = with(DeviceNow { up, tunnel, ..half.clone() });
        assert_eq!(diff(&foreign, &Desired::default()).unwrap(), Diff::default());
    }
}

proptest! {
    /// Numbers are taken over by other paths and paths by other numbers, in one step.
    #[test]
    fn any_state_leads_to_any_other(
        before in prop::collection::vec(prop::option::of(0..9_u16), 9),
        after in prop::collection::vec(prop::option::of(0..9_u16), 9),
    ) {
        let mut state = every_kind();
        let mut desired = |paths: Vec<Option<u16>>| {
            let mut used = BTreeSet::new();
            let path = |number: u16| {
                let encap = [Encap::Gre, Encap::Ipip, Encap::Direct][usize::from(number % 3)];
                Path::Via(encap, format!("fd00:0:0:1::{number}").parse().unwrap())
            };
            state.targets = paths.into_iter().map(|path| path.filter(|path| used.insert(*path))).map(|p| p.map(path)).collect();
            desired(&state).unwrap()
        };
        let (before, after) = (desired(before), desired(after));
        let mut now = RoutingNow::default();
        converge(&mut now, &before);
        converge(&mut now, &after);
        converge(&mut now, &Desired::default());
        prop_assert_eq!(now, RoutingNow::default());
    }
}

#[test]
fn an_ipv4_route_that_leads_otherwise_is_replaced_in_place() {
    let desired = desired(&state(DUAL, &["address = \"192.168.1.1\""])).unwrap();
    let mut now = RoutingNow::default();
    converge(&mut now, &desired);
    let whole = now.clone();
    let of_devices: Vec<Route> =
        now.routes.iter().filter(|route| matches!(route.via, Via::Device(_))).cloned().collect();
    assert_eq!(of_devices.len(), 2, "IPv4 and IPv6");
    for route in of_devices {
        now.routes.remove(&route);
        let other = Route { via: Via::Other, ..route };
        now.routes.insert(other.clone());
        let ops = converge(&mut now, &desired);
        let expected = match route.to {
            IpNet::V4(_) => vec![Op::ReplaceRoute(route)],
            IpNet::V6(_) => vec![Op::RemoveRoute(other), Op::AddRoute(route)],
        };
        assert_eq!(ops, expected);
        assert_eq!(now, whole);
    }
    // The kernel would replace the first of several.
    let four = now.routes.iter().find(|route| route.is_of_ipv4_device()).unwrap().clone();
    now.routes.remove(&four);
    now.routes.insert(Route { via: Via::Other, ..four.clone() });
    now.routes.insert(Route { via: Via::Blackhole, ..four });
    let ops = converge(&mut now, &desired);
    assert!(matches!(ops[..], [Op::RemoveRoute(_), Op::RemoveRoute(_), Op::AddRoute(_)]), "{ops:?}");
}
