use proptest::prelude::*;

use super::*;
use crate::model::Encap;
use crate::model::{Admin, Override};

fn config(services: &[(&str, &[(&str, &str)])]) -> Config {
    config_and(services, "")
}

/// With more at the end of the file.
fn config_and(services: &[(&str, &[(&str, &str)])], more: &str) -> Config {
    let mut text =
        "[balancer]\nname='lb2'\naddress=['192.168.1.202','fd00::202']\ninterfaces=['eth2']\n".to_owned();
    for (index, (name, backends)) in services.iter().enumerate() {
        text += &format!(
            "[[service]]\nname='{name}'\nvips=['10.0.0.{index}']\nprotocols=['tcp']\ntable_size=997\n"
        );
        for (backend, rest) in *backends {
            text += &format!("[[service.backend]]\nname='{backend}'\n{rest}\n");
        }
    }
    Config::parse("test", &(text + more)).unwrap()
}

fn number(state: &State, service: &str, backend: &str) -> u32 {
    let service = state.service(service).unwrap();
    service.backends.iter().find(|b| b.name.as_str() == backend).unwrap().target.number()
}

const S1: (&str, &str) = ("s1", "address='192.168.1.1'");
const S2: (&str, &str) = ("s2", "address='192.168.1.2'");
const S3: (&str, &str) = ("s3", "address='fd00::3'");

#[test]
fn targets_are_shared_by_services_and_keep_their_numbers() {
    let first = State::new(&config(&[("web", &[S1, S2]), ("dns", &[("x", S2.1), S3])])).unwrap();
    assert_eq!(number(&first, "web", "s2"), number(&first, "dns", "x"));
    assert_eq!(first.targets_used().count(), 3);
    assert_eq!(first.names_of(TargetId::from_number(2).unwrap()).collect::<Vec<_>>(), ["web/s2", "dns/x"]);

    let without = first.merge(&config(&[("web", &[S2]), ("dns", &[S3])])).unwrap();
    assert_eq!(number(&without, "web", "s2"), 2);
    assert_eq!(without.targets_used().count(), 2);
    // The number of s1 is not given out again yet: a new backend gets a fresh one.
    let newcomer =
        without.merge(&config(&[("web", &[S2, ("s9", "address='192.168.1.9'")]), ("dns", &[S3])])).unwrap();
    assert_eq!(number(&newcomer, "web", "s9"), 4);
}

#[test]
fn a_region_made_anew_takes_numbers_over() {
    let before = State::new(&config(&[("web", &[("s0", "address='192.168.1.9'"), S1, S2, S3])])).unwrap();
    let file = config(&[
        ("web", &[S1, S2, S3]),
        ("dns", &[("new", "address='192.168.1.7'"), ("m", "encap='mark'")]),
    ]);
    let after = before.merge(&file).unwrap();
    let anew = State::taking_over(&file, &after.targets_used().collect(), &after).unwrap();
    assert_eq!(
        (number(&anew, "web", "s1"), number(&anew, "web", "s2"), number(&anew, "web", "s3")),
        (2, 3, 4)
    );
    assert_eq!(number(&anew, "dns", "new"), number(&after, "dns", "new"));
    // The kernel has a target that the file no longer has: its number is not given to another one now.
    let known = before.targets_used().collect();
    let anew = State::taking_over(&file, &known, &after).unwrap();
    assert_eq!(
        (number(&anew, "web", "s1"), number(&anew, "dns", "new"), number(&anew, "dns", "m")),
        (2, 6, 5),
        "backends are sorted by name"
    );
    assert_eq!(State::taking_over(&file, &BTreeMap::new(), &after).unwrap(), State::new(&file).unwrap());
}

#[test]
fn a_file_without_the_key_leaves_activation_alone() {
    let state = State::new(&config(&[("web", &[S1, S2])])).unwrap();
    let down = state.set_admin(None, &["s1".to_owned()], &Override::unattributed(Admin::Draining)).unwrap();
    let again = down.merge(&config(&[("web", &[S1, S2])])).unwrap();
    assert_eq!(again, down);
    let said = down.merge(&config(&[("web", &[("s1", "address='192.168.1.1'\nactive=true"), S2])])).unwrap();
    assert!(said.services[0].backends.iter().all(Backend::enabled));
    assert!(said.overrides().is_empty());
    assert_eq!(said.services[0].table, state.services[0].table);
}

#[test]
fn a_kill_has_a_time_of_its_own_and_stays_when_a_file_is_applied() {
    let file = config(&[("web", &[S1, S2]), ("dns", &[S1])]);
    let state = State::new(&file).unwrap();
    let s1 = ["s1".to_owned()];
    let (once, first) = state.kill(None, &s1, 1000).unwrap();
    let (twice, second) = once.kill(Some("dns"), &s1, 1000).unwrap();
    // The clock may be set back.
    let (_, third) = twice.kill(Some("dns"), &s1, 7).unwrap();
    assert_eq!((first, second, third), (1000, 1001, 1002));
    let killed = |state: &State| -> Vec<u64> {
        state.services.iter().flat_map(|service| &service.backends).map(|backend| backend.killed).collect()
    };
    assert_eq!(killed(&twice), [1000, 0, 1001]);
    assert_eq!(killed(&twice.merge(&file).unwrap()), killed(&twice));
    assert!(state.changes(&twice).is_empty() && twice.services[0].table == state.services[0].table);
    let stored = serde_json::to_string(&twice).unwrap();
    assert!(stored.contains("\"killed\":1001") && !serde_json::to_string(&state).unwrap().contains("killed"));
    for (service, name) in [(None, "s9"), (Some("dns"), "s2"), (Some("ftp"), "s1")] {
        assert!(state.kill(service, &[name.to_owned()], 1).is_err());
    }
}

#[test]
fn changes_are_named_one_by_one() {
    let state = State::new(&config(&[("web", &[S1, S2])])).unwrap();
    let next = state
        .merge(&config(&[("web", &[("s1", "address='192.168.1.1'\nweight=5"), S3]), ("new", &[S1])]))
        .unwrap();
    let lines: Vec<_> = state.changes(&next).iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "~ backend web/s1 weight: 1 -> 5",
            "- backend web/s2: path gre 192.168.1.2, weight 1, active yes",
            "+ backend web/s3: path gre fd00::3, weight 1, active yes",
            "+ service new: announce yes, announce_min 1, hash 5-tuple, no_backend drop, pmtu icmp, ports all, protocols tcp, steering lbd, table_size 997, vips 10.0.0.1/32",
            "+ backend new/s1: path gre 192.168.1.1, weight 1, active yes",
        ]
    );
    assert!(next.changes(&next).is_empty());
}

const LB1: &str = "[[tier.balancer]]\nname='lb1'\naddress=['192.168.1.201','fd00::201']\n";
const LB2: &str = "[[tier.balancer]]\nname='lb2'\naddress=['fd00::202','192.168.1.202']\n";
const LB3: &str = "[[tier.balancer]]\nname='lb3'\naddress='fd00::203'\n";

fn target(state: &State, member: &str) -> Option<(u32, Path)> {
    let target = state.tier.iter().find(|m| m.name.as_str() == member).unwrap().target?;
    Some((target.number(), state.path(target).unwrap()))
}

fn gre(address: &str) -> Path {
    Path::Via(Encap::Gre, address.parse().unwrap())
}

#[test]
fn every_other_balancer_of_the_tier_has_a_target() {
    let state = State::new(&config_and(&[("web", &[S1, S2])], &format!("{LB3}{LB2}{LB1}"))).unwrap();
    let names: Vec<_> = state.tier.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, ["lb1", "lb2", "lb3"], "sorted");
    assert_eq!(target(&state, "lb1"), Some((3, gre("192.168.1.201"))), "behind the backends, over IPv4");
    assert_eq!(target(&state, "lb2"), None, "this one");
    assert_eq!(target(&state, "lb3"), Some((4, gre("fd00::203"))));
    assert_eq!(state.names_of(TargetId::from_number(4).unwrap()).collect::<Vec<_>>(), ["tier/lb3"]);
    assert!(state.tier.iter().all(|member| member.active()));

    // Its numbers are kept like those of backends, whatever comes or goes around them.
    let next = state.merge(&config_and(&[("web", &[S2, S3])], &format!("{LB2}{LB3}"))).unwrap();
    assert_eq!((target(&next, "lb3").unwrap().0, number(&next, "web", "s3")), (4, 5));
    assert_eq!(next.targets_used().count(), 3);
    let none = next.merge(&config_and(&[("web", &[S2, S3])], "")).unwrap();
    assert_eq!((none.tier.len(), none.targets_used().count()), (0, 2));
    assert_eq!(number(&none, "web", "s2"), 2);
}

#[test]
fn a_backend_and_a_balancer_of_one_path_share_a_target() {
    let both = ("both", "address='192.168.1.201'");
    let tier = format!("{LB1}{LB2}");
    let state = State::new(&config_and(&[("web", &[S1, both])], &tier)).unwrap();
    assert_eq!(target(&state, "lb1").unwrap().0, number(&state, "web", "both"));
    // The one that stays keeps it.
    let tier_alone = state.merge(&config_and(&[("web", &[S1])], &tier)).unwrap();
    assert_eq!(target(&tier_alone, "lb1"), target(&state, "lb1"));
    let again = tier_alone.merge(&config_and(&[("web", &[S1, both])], "")).unwrap();
    assert_eq!(number(&again, "web", "both"), number(&state, "web", "both"));
    assert_eq!(again.targets_used().count(), 2);
}

#[test]
fn balancers_of_the_tier_are_activated_like_backends() {
    let config = config_and(&[("web", &[S1])], &format!("{LB1}{LB2}{LB3}active=false\n"));
    let state = State::new(&config).unwrap();
    let active = |state: &State| state.tier_active().map(|m| m.name.to_string()).collect::<Vec<_>>();
    assert_eq!(active(&state), ["lb1", "lb2"]);
    let down = state.set_tier_admin(&["lb1".to_owned()], &Override::unattributed(Admin::Draining)).unwrap();
    assert_eq!(active(&down), ["lb2"]);
    assert_eq!(active(&down.merge(&config).unwrap()), ["lb2"], "the file does not say");
    let said = config_and(&[("web", &[S1])], &format!("{LB1}active=true\n{LB2}{LB3}"));
    assert_eq!(active(&down.merge(&said).unwrap()), ["lb1", "lb2", "lb3"], "no longer out by the file");
    let lines: Vec<_> = state.changes(&down).iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "~ tier lb1 active: yes -> no",
            "+ tier lb1 override: draining by unknown since 1970-01-01T00:00:00Z"
        ]
    );

    let error = state
        .set_tier_admin(&["lb1".to_owned(), "lb9".to_owned()], &Override::unattributed(Admin::Draining))
        .unwrap_err();
    assert_eq!(error.to_string(), "no balancer \"lb9\" in the tier; there are: lb1, lb2, lb3");
    let without = State::new(&config_and(&[("web", &[S1])], "")).unwrap();
    assert_eq!(
        without.set_tier_admin(&["lb1".to_owned()], &Override::unattributed(Admin::Enabled)),
        Err(StateError::NoTier)
    );
}

#[test]
fn changes_of_tier_limits_and_path_mtu_are_named() {
    let state = State::new(&config_and(&[("web", &[S1])], &format!("{LB1}{LB2}"))).unwrap();
    let mut config =
        config_and(&[("web", &[S1])], &format!("{LB2}{LB3}[fragments]\nttl_ms=300\nheld_bytes=100000\n"));
    config.services[0].pmtu = Pmtu::FragmentOuter;
    let lines: Vec<_> =
        state.changes(&state.merge(&config).unwrap()).iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "~ fragments held_bytes: 16777216 -> 100000",
            "~ fragments held_bytes_per_source: 1048576 -> 100000",
            "~ fragments ttl_ms: 200 -> 300",
            "- tier lb1: address 192.168.1.201 fd00::201, active yes",
            "+ tier lb3: address fd00::203, active yes",
            "~ service web pmtu: icmp -> fragment-outer",
        ]
    );
}

#[test]
fn unknown_names_change_nothing_and_the_error_lists_the_known_ones() {
    let state = State::new(&config(&[("web", &[S1, S2])])).unwrap();
    let error = state
        .set_admin(None, &["s1".to_owned(), "s9".to_owned()], &Override::unattributed(Admin::Draining))
        .unwrap_err();
    assert_eq!(error.to_string(), "no backend \"s9\" in any service; there are: s1, s2");
    let error = state
        .set_admin(Some("wep"), &["s1".to_owned()], &Override::unattributed(Admin::Draining))
        .unwrap_err();
    assert_eq!(error.to_string(), "no service \"wep\"; there are: web");
}

#[test]
fn a_region_without_configuration_has_marks_in_the_order_of_names() {
    let state = State::unconfigured(TableSize::at_most(100).unwrap(), 12, 5).unwrap();
    for index in 0u32..12 {
        assert_eq!(number(&state, "default", &index.to_string()), index + 1);
    }
    let active: Vec<_> = state.services[0].active().map(|b| b.name.to_string()).collect();
    assert_eq!(active, ["0", "1", "2", "3", "4"]);
    assert_eq!(state.services[0].table.len(), 97);
}

#[test]
fn more_targets_than_numbers_are_refused() {
    let mut state = State::unconfigured(TableSize::DEFAULT, TARGETS_MAX, 1).unwrap();
    assert_eq!(state.new_target(Path::MarkOnly), Err(StateError::TooManyTargets));
    assert_eq!(State::unconfigured(TableSize::DEFAULT, TARGETS_MAX + 1, 1), Err(StateError::TooManyTargets));
}

proptest! {
    /// Whatever activations led to a set, the tables are those of the set.
    #[test]
    fn tables_do_not_depend_on_history(
        ours in prop::collection::vec((0usize..10, any::<bool>()), 0..30),
        theirs in prop::collection::vec((0usize..10, any::<bool>()), 0..30),
        last in prop::collection::vec(any::<bool>(), 10),
    ) {
        let reach = |history: &[(usize, bool)]| {
            let mut state = State::unconfigured(TableSize::new(997).unwrap(), 10, 3).unwrap();
            let settle = last.iter().enumerate().map(|(index, &active)| (index, active));
            for (index, active) in history.iter().copied().chain(settle) {
                state = state.set_admin(Some("default"), &[index.to_string()], &Override::unattributed(Admin::when(active))).unwrap();
            }
            state
        };
        let (ours, theirs) = (reach(&ours), reach(&theirs));
        prop_assert_eq!(&ours.services[0].table, &theirs.services[0].table);
        prop_assert_eq!(ours.services[0].table.is_empty(), !last.contains(&true));
    }
}
