//! What the worker of fragments does, alone and in a tier.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    bytes::{cut, packet},
    fixture,
    world::{Act, Event, FragmentLb, TIER, TUN},
};
use crate::model::{Admin, Override};
use crate::{
    balance::{
        Balancer, Forwarding, Verdict,
        flow_table::FlowMark,
        fragments::tests::with_tier,
        pins::{Flow, Held, OffTable},
    },
    io::QueueError,
    model::{
        Path,
        ids::{Generation, Mark},
    },
    packet::Packet,
    state::State,
};

pub(super) const ETH: u32 = 2;

pub(super) fn state() -> State {
    fixture::balancer("")
        .service("web", "10.0.0.0/32 1000::/128", "protocols = 'udp'\nports = '80'\ntable_size = 997")
        .backends(&[
            ("s1", "192.168.1.1"),
            ("s2", "192.168.1.2"),
            ("s3", "192.168.1.3"),
            ("s4", "fd00:0:0:1::4"),
        ])
        .state()
}

/// A datagram from this client in three fragments.
fn three(client: &str) -> [Vec<u8>; 3] {
    let vip = if client.contains(':') { "1000::" } else { "10.0.0.0" };
    cut(&packet(17, client, 4000, vip, 80, 0), 9, 16, None).try_into().unwrap()
}

/// Where the whole datagram goes.
fn whole(state: &State, client: &str) -> Mark {
    let vip = if client.contains(':') { "1000::" } else { "10.0.0.0" };
    let forwarding = Forwarding::new(state, Generation(1)).unwrap();
    steered(&forwarding, &packet(17, client, 4000, vip, 80, 0))
}

fn steered(forwarding: &Forwarding, bytes: &[u8]) -> Mark {
    match Balancer::default().handle(forwarding, &OffTable::default(), bytes) {
        Verdict::Steer(mark) => mark,
        Verdict::Pass | Verdict::Drop => panic!("it is not steered"),
    }
}

#[test]
fn fragments_of_an_off_table_flow_follow_it_and_renew_it() {
    for client in ["50.0.0.1", "2000::1"] {
        let mut lb = FragmentLb::new(state());
        let mark = whole(&lb.state, client);
        let backend = lb.state.names_of(lb.state.balancer.mark_mask.target(mark).unwrap()).next().unwrap();
        let drained = lb.state.set_admin(
            None,
            &[backend.strip_prefix("web/").unwrap().to_owned()],
            &Override::unattributed(Admin::Draining),
        );
        lb.adopt(drained.unwrap());
        assert_ne!(whole(&lb.state, client), mark);
        let vip = if client.contains(':') { "1000::" } else { "10.0.0.0" };
        let packet = Packet::parse(&packet(17, client, 4000, vip, 80, 0)).unwrap();
        for (left_seconds, pins) in [(100, false), (50, true)] {
            let held = Held { mark, closing: false, left_seconds };
            lb.know([(Flow::of(&packet).unwrap(), held)].into_iter().collect());
            for fragment in three(client) {
                assert_eq!(lb.turn(Event::By(ETH, fragment)).unwrap(), [Act::Verdict(Verdict::Steer(mark))]);
            }
            // An entry with more time, which the next audit puts into the map.
            let pin = lb.pins.known().get(&packet);
            assert_eq!(pin.map(|pin| pin.mark), pins.then_some(mark), "{client}");
        }
    }
}

#[test]
fn the_verdict_comes_first_and_then_what_waited_for_it() {
    let mut lb = FragmentLb::new(state());
    let mark = whole(&lb.state, "50.0.0.1");
    let steer = Act::Verdict(Verdict::Steer(mark));
    let [first, middle, last] = three("50.0.0.1");
    let bytes = i64::try_from(last.len()).unwrap();
    assert_eq!(lb.turn(Event::By(ETH, last.clone())).unwrap(), [Act::Verdict(Verdict::Drop)]);
    assert_eq!(
        lb.report.moved(),
        [
            ("packets", 1),
            ("fragments", 1),
            ("fragment_held", 1),
            ("fragment_entries_now", 1),
            ("fragment_held_packets_now", 1),
            ("fragment_held_bytes_now", bytes)
        ]
    );
    assert_eq!(lb.turn(Event::By(ETH, first)).unwrap(), [steer.clone(), Act::Injected(last.clone())]);
    assert_eq!(
        lb.report.moved(),
        [
            ("packets", 1),
            ("fragments", 1),
            ("steered_fragment", 1),
            ("fragment_pins", 1),
            ("fragment_injected", 1),
            ("fragment_held_packets_now", -1),
            ("fragment_held_bytes_now", -bytes)
        ]
    );
    assert_eq!(lb.turn(Event::By(ETH, middle)).unwrap(), vec![steer.clone()]);
    assert_eq!(lb.report.moved(), [("packets", 1), ("fragments", 1), ("steered_fragment", 1)]);
    assert_eq!(lb.turn(Event::By(TUN, last)).unwrap(), [steer]);
    assert_eq!(lb.report.moved(), [("packets", 1), ("steered_fragment", 1), ("fragment_entries_now", -1)]);
}

#[test]
fn a_device_that_takes_nothing_is_not_waited_for() {
    let mut lb = FragmentLb::new(state());
    let [first, middle, last] = three("2000::1");
    for early in [&last, &middle] {
        lb.turn(Event::By(ETH, early.clone())).unwrap();
    }
    let held = i64::try_from(last.len() + middle.len()).unwrap();
    lb.report.moved();
    lb.outside.lock().unwrap().tun_full = true;
    lb.turn(Event::By(ETH, first)).unwrap();
    assert_eq!(
        lb.report.moved(),
        [
            ("packets", 1),
            ("fragments", 1),
            ("steered_fragment", 1),
            ("fragment_pins", 1),
            ("fragment_inject_failed", 2),
            ("fragment_entries_now", -1),
            ("fragment_held_packets_now", -2),
            ("fragment_held_bytes_now", -held)
        ]
    );
}

#[test]
fn connection_tracking_is_asked_about_first_fragments_only() {
    let mut lb = FragmentLb::new(state());
    let by_table = whole(&lb.state, "50.0.0.1");
    let marks = lb.state.targets_used().map(|(target, _)| lb.state.balancer.mark_mask.mark(target));
    let other = marks.into_iter().find(|mark| *mark != by_table).unwrap();
    let [first, middle, last] = three("50.0.0.1");
    let flow = Packet::parse(&packet(17, "50.0.0.1", 4000, "10.0.0.0", 80, 0)).unwrap();
    lb.pins.known().set(&flow, FlowMark { mark: other, left_seconds: Some(100) });
    for piece in [first.clone(), middle, last] {
        assert_eq!(lb.turn(Event::By(ETH, piece)).unwrap(), [Act::Verdict(Verdict::Steer(other))]);
    }
    assert_eq!(
        lb.report.moved(),
        [("packets", 3), ("fragments", 3), ("steered_fragment", 3), ("fragment_pinned", 1)]
    );
    assert_eq!(lb.pins.known().asked, [flow]);
    // It cannot be asked: the table decides.
    lb.pins.known().broken = true;
    assert_eq!(lb.turn(Event::By(ETH, first)).unwrap(), [Act::Verdict(Verdict::Steer(by_table))]);
    assert_eq!(
        lb.report.moved(),
        [
            ("packets", 1),
            ("fragments", 1),
            ("steered_fragment", 1),
            ("conntrack_error", 1),
            ("fragment_entries_now", 1)
        ]
    );
}

#[derive(Clone, Debug)]
enum Step {
    /// A client's datagram, in fragments or whole.
    Datagram {
        client: u8,
        fragmented: bool,
    },
    Seconds(u32),
    Activate {
        backend: u8,
        active: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let datagram = |(client, fragmented)| Step::Datagram { client, fragmented };
    prop_oneof![
        8 => (1u8..5, any::<bool>()).prop_map(datagram),
        3 => (1u32..100).prop_map(Step::Seconds),
        3 => (1u8..5, any::<bool>()).prop_map(|(backend, active)| Step::Activate { backend, active }),
    ]
}

/// What the ruleset makes of a whole datagram: its mark, and its flow's lifetime from now. The entry is one that `policy`
/// gives its time to, or the host does; one that is made is of the first kind.
fn whole_datagram(lb: &FragmentLb, bytes: &[u8], policy: &mut bool) -> (Mark, u32) {
    let forwarding = Forwarding::new(&lb.state, Generation(1)).unwrap();
    let flow = Packet::parse(bytes).unwrap();
    let known = lb.pins.known().get(&flow);
    *policy |= known.is_none();
    let seconds = if *policy { 120 } else { 30 };
    let mark = known.map_or_else(|| steered(&forwarding, bytes), |pin| pin.mark);
    lb.pins.known().set(&flow, FlowMark { mark, left_seconds: Some(seconds) });
    (mark, seconds)
}

proptest! {
    /// Whatever becomes of the table: all datagrams of a flow go one way, fragmented or whole, until none has come for
    /// half of `udp_seconds`, or for the host's 30 s after a whole one where a fragmented one has made the entry.
    #[test]
    fn flows_of_any_datagrams_keep_their_backend(steps in prop::collection::vec(step(), 1..60)) {
        let mut lb = FragmentLb::new(state());
        let mut now = 0;
        // By client: where its flow goes, until when at least, and whether the ruleset has made the entry.
        let mut flows: BTreeMap<u8, (Mark, u32, bool)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Seconds(seconds) => {
                    now += seconds;
                    lb.pins.known().pass(seconds);
                }
                Step::Activate { backend, active } => {
                    let name = format!("s{backend}");
                    // One stays.
                    if let Ok(state) = lb.state.set_admin(None, &[name], &Override::unattributed(Admin::when(active)))
                        && state.services[0].active().next().is_some()
                    {
                        lb.adopt(state);
                    }
                }
                Step::Datagram { client, fragmented } => {
                    let address = format!("50.0.0.{client}");
                    let bytes = packet(17, &address, 4000, "10.0.0.0", 80, 0);
                    let flow = Packet::parse(&bytes).unwrap();
                    let before = flows.get(&client).copied();
                    let mut policy = before.is_some_and(|(_, _, policy)| policy)
                        && lb.pins.known().get(&flow).is_some();
                    let (mark, seconds) = if fragmented {
                        let marks = three(&address).map(|piece| match lb.turn(Event::By(ETH, piece)).unwrap()[..] {
                            [Act::Verdict(Verdict::Steer(mark))] => mark,
                            ref other => panic!("{other:?}"),
                        });
                        prop_assert_eq!(marks, [marks[0]; 3]);
                        (marks[0], 60)
                    } else {
                        whole_datagram(&lb, &bytes, &mut policy)
                    };
                    match before {
                        Some((known, until, _)) if now < until => prop_assert_eq!(mark, known),
                        _ => {}
                    }
                    let pin = lb.pins.known().get(&flow).unwrap();
                    prop_assert!(pin.mark == mark && pin.left_seconds >= Some(seconds));
                    flows.insert(client, (mark, now + seconds, policy));
                }
            }
        }
    }
}

#[test]
fn idle_turns_forget_what_is_too_old() {
    let mut lb = FragmentLb::new(state());
    let [_, middle, _] = three("50.0.0.1");
    lb.turn(Event::By(ETH, middle.clone())).unwrap();
    lb.report.moved();
    let ttl = lb.state.balancer.fragments.ttl_ms;
    lb.outside.lock().unwrap().now = std::time::Duration::from_millis(u64::from(ttl) - 1);
    assert_eq!(lb.turn(Event::Nothing).unwrap(), []);
    assert_eq!(lb.report.moved(), []);
    lb.outside.lock().unwrap().now = std::time::Duration::from_millis(ttl.into());
    assert_eq!(lb.turn(Event::Nothing).unwrap(), []);
    assert_eq!(
        lb.report.moved(),
        [
            ("drop_fragment_expired", 1),
            ("fragment_entries_now", -1),
            ("fragment_held_packets_now", -1),
            ("fragment_held_bytes_now", -i64::try_from(middle.len()).unwrap())
        ]
    );
}

#[test]
fn no_error_of_the_socket_loses_what_was_held() {
    let mut lb = FragmentLb::new(state());
    let [first, middle, _] = three("50.0.0.1");
    for (error, counter) in [
        (QueueError::Overrun, "socket_overrun"),
        (QueueError::TooLate, "verdict_too_late"),
        (QueueError::Other(std::io::Error::other("strange")), "socket_error"),
    ] {
        assert_eq!(lb.turn(Event::Fails(error)).unwrap(), []);
        assert_eq!(lb.report.moved(), [(counter, 1)]);
    }
    lb.turn(Event::By(ETH, middle.clone())).unwrap();
    lb.fail_next_answer(QueueError::TooLate);
    let acts = lb.turn(Event::By(ETH, first)).unwrap();
    assert_eq!(acts[1..], [Act::Injected(middle)]);
    assert!(lb.report.moved().contains(&("verdict_too_late", 1)));
    let gone = QueueError::Closed(std::io::Error::from_raw_os_error(1));
    assert!(lb.turn(Event::Fails(gone)).is_err());
}

/// Where a mark leads: to a backend, or to which balancer of the tier.
fn leads_to(lb: &FragmentLb, mark: Mark) -> (bool, Path) {
    let target = lb.state.balancer.mark_mask.target(mark).unwrap();
    let member = lb.state.tier.iter().any(|member| member.target == Some(target));
    (member, lb.state.path(target).unwrap())
}

/// Three balancers, 200 clients, fragments that reach any of them in any order: whichever gets them, all fragments of a
/// packet reach the backend that the whole packet would reach, by one balancer, and cross the tier at most once.
#[test]
fn a_tier_of_three_handles_every_fragment_at_its_owner() {
    let names = ["lb1", "lb2", "lb3"];
    let mut lbs = names.map(|name| FragmentLb::new(with_tier(state(), name)));
    let clients: Vec<_> =
        (0..200).map(|n| if n % 2 == 0 { format!("50.0.0.{n}") } else { format!("2000::{n}") }).collect();
    let mut waiting: Vec<(usize, u32, &str, Vec<u8>)> = Vec::new();
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut below = |limit: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % limit
    };
    for client in &clients {
        for piece in three(client) {
            waiting.push((below(3), ETH, client, piece));
        }
    }
    let mut reached: BTreeMap<&str, Vec<(usize, Mark)>> = BTreeMap::new();
    while !waiting.is_empty() {
        let (at, device, client, piece) = waiting.swap_remove(below(waiting.len()));
        for act in lbs[at].turn(Event::By(device, piece.clone())).unwrap() {
            match act {
                Act::Injected(bytes) => waiting.push((at, TUN, client, bytes)),
                Act::Verdict(Verdict::Drop) => {}
                Act::Verdict(Verdict::Pass) => panic!("all are for a VIP"),
                Act::Report(..) => panic!("no probe was sent"),
                Act::Verdict(Verdict::Steer(mark)) => match leads_to(&lbs[at], mark) {
                    (false, _) => reached.entry(client).or_default().push((at, mark)),
                    (true, Path::Via(_, address)) => {
                        assert_eq!(device, ETH, "forwarded once");
                        let owner = (0..3).find(|n| {
                            address == format!("192.168.1.20{}", n + 1).parse::<std::net::IpAddr>().unwrap()
                        });
                        waiting.push((owner.unwrap(), TIER[usize::from(at == 1)], client, piece.clone()));
                    }
                    (true, Path::MarkOnly) => panic!("a tier has tunnels"),
                },
            }
        }
    }
    assert_eq!(reached.len(), clients.len());
    let mut owned = [0; 3];
    for (client, fragments) in reached {
        let (owner, _) = fragments[0];
        assert_eq!(fragments, [(owner, whole(&lbs[owner].state, client)); 3]);
        owned[owner] += 1;
    }
    assert!(owned.iter().all(|count| (40..=95).contains(count)), "a third each: {owned:?}");
    let mut sum: BTreeMap<&str, i64> = BTreeMap::new();
    for (name, by) in lbs.iter_mut().flat_map(|lb| lb.report.moved()) {
        *sum.entry(name).or_default() += by;
    }
    let (forwarded, held) = (sum["fragment_forwarded"], sum["fragment_held"]);
    assert!((300..500).contains(&forwarded), "two thirds of 600: {forwarded}");
    assert!((100..400).contains(&held), "{held}");
    let expected = [
        ("packets", 600 + forwarded + held),
        ("fragments", 600 + forwarded),
        ("steered_fragment", 600),
        ("fragment_pins", 200),
        ("fragment_forwarded", forwarded),
        ("fragment_from_tier", forwarded),
        ("fragment_held", held),
        ("fragment_injected", held),
    ];
    assert_eq!(sum, BTreeMap::from(expected));
}
