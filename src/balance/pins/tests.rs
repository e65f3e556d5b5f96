use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    model::{Health, Name, Observed, Remark, ids::Generation},
    packet::SCTP,
    state::{Observation, State},
    tests::fixture,
};

/// Two services of one VIP whose backends differ, s3 drained, and one that has none in use.
fn state() -> State {
    let vips = "10.0.0.1/32 1000::1/128";
    fixture::balancer("address = '192.168.1.201'")
        .tables("[timeouts]\ntcp_established_seconds = 7440")
        .service("web", vips, "protocols = 'tcp'\nports = [80]")
        .backends(&[("s1", "192.168.1.1"), ("s2", "192.168.1.2")])
        .backend("s3", "address = '192.168.1.3'\nactive = false")
        .service("log", vips, "protocols = ['udp', 'sctp']\nports = [514]")
        .backends(&[("s2", "192.168.1.2"), ("s4", "192.168.1.4")])
        .service("off", "10.0.0.2/32", "")
        .backend("s1", "address = '192.168.1.1'\nactive = false")
        .state()
}

fn forwarding() -> Forwarding {
    Forwarding::new(&state(), Generation(1)).unwrap()
}

/// The targets of a service's backends, by the order of the file: s1 to s4.
fn targets(service: &str) -> &'static [usize] {
    match service {
        "web" => &[0, 1, 2],
        "log" => &[1, 3],
        _ => &[0],
    }
}

fn amid(protocol: u8, client: &str, vip: &str, ports: (u16, u16)) -> Packet {
    let ports = Ports { src: ports.0, dst: ports.1 };
    let mut packet =
        Packet::synthetic(protocol, client.parse().unwrap(), vip.parse().unwrap(), ports).unwrap();
    if let L4::Tcp { syn, .. } = &mut packet.l4 {
        *syn = false;
    }
    packet
}

fn mark(target: usize) -> Mark {
    MarkMask::DEFAULT.mark(TargetId::new(target).unwrap())
}

fn tracked(packet: Packet, mark: Mark) -> Tracked {
    let phase = (packet.protocol == TCP).then_some(Phase::Open);
    Tracked { packet, mark, left_seconds: 290, protected: false, promotion: Promotion::No, phase }
}

fn kept() -> u32 {
    MarkMask::DEFAULT.kept()
}

/// What the audit makes of a flow of "web" that is pinned to the backend of "spare", by whether "web" has one of its own and
/// what it does without.
#[test]
fn flows_that_another_services_backends_got_stay_there() {
    let forwarding = |active: bool, no_backend: &str| {
        let state = fixture::balancer("")
            .service("web", "10.0.0.1", &format!("protocols = 'tcp'\nno_backend = '{no_backend}'"))
            .backend("s1", &format!("address = '192.168.1.1'\nactive = {active}"))
            .service("spare", "10.0.0.2", "protocols = 'tcp'")
            .backends(&[("s2", "192.168.1.2")])
            .state();
        Forwarding::new(&state, Generation(1)).unwrap()
    };
    let packet = amid(TCP, "50.0.0.1", "10.0.0.1", (7, 80));
    let flow = Flow::of(&packet).unwrap();
    let judged = |forwarding: &Forwarding, target| {
        let judgement = forwarding.judge(&tracked(packet, mark(target)));
        let valid = forwarding.is_valid(flow, mark(target));
        assert_eq!(valid, judgement != Judgement::Forget);
        assert_eq!(forwarding.is_off_table(flow, mark(target)), matches!(judgement, Judgement::Move(..)));
        match judgement {
            Judgement::Forget => "forget",
            Judgement::Move(..) => "off-table",
            Judgement::Keep(_) => "on-table",
        }
    };
    let (own, others) = (0, 1);
    let lent = forwarding(false, "service:spare");
    assert_eq!([judged(&lent, own), judged(&lent, others)], ["off-table", "on-table"]);
    let back = forwarding(true, "service:spare");
    assert_eq!([judged(&back, own), judged(&back, others)], ["on-table", "off-table"]);
    for no_backend in ["drop", "reject"] {
        let without = forwarding(false, no_backend);
        assert_eq!(
            [judged(&without, own), judged(&without, others)],
            ["off-table", "forget"],
            "{no_backend}"
        );
    }
    // It goes one way.
    let of_spare = amid(TCP, "50.0.0.1", "10.0.0.2", (7, 80));
    assert_eq!(back.judge(&tracked(of_spare, mark(own))), Judgement::Forget);
}

#[test]
fn a_pin_is_valid_for_its_service_alone() {
    let forwarding = forwarding();
    for (vip, client) in [("10.0.0.1", "50.0.0.1"), ("1000::1", "2000::1")] {
        for sport in 0..50 {
            for target in 0..5 {
                for (service, protocol, port) in [("web", TCP, 80), ("log", UDP, 514), ("log", SCTP, 514)] {
                    let packet = amid(protocol, client, vip, (sport, port));
                    let valid = targets(service).contains(&target);
                    let judged = forwarding.judge(&tracked(packet, mark(target)));
                    assert_eq!(judged == Judgement::Forget, !valid, "{service} {target}");
                    if let Some(flow) = Flow::of(&packet) {
                        assert_eq!(forwarding.is_valid(flow, mark(target)), valid, "{service} {target}");
                        assert!(valid || !forwarding.is_off_table(flow, mark(target)));
                    }
                }
            }
        }
        // No service claims it any more.
        let judged = forwarding.judge(&tracked(amid(TCP, client, vip, (1, 81)), mark(0)));
        assert_eq!(judged, Judgement::Forget);
    }
}

#[test]
fn entries_of_others_stay_as_they_are() {
    let forwarding = forwarding();
    let nothing = Judgement::Keep(Keep::default());
    for (vip, mark) in [("10.0.0.9", mark(0)), ("10.0.0.1", Mark(0)), ("10.0.0.1", Mark(0x5_0000 | kept()))] {
        let tracked = Tracked { left_seconds: 1, ..tracked(amid(TCP, "50.0.0.1", vip, (1, 80)), mark) };
        assert_eq!(forwarding.judge(&tracked), nothing);
    }
}

/// On a router of both directions: the first packet that was tracked may have been an answer.
#[test]
fn an_entry_that_an_answer_made_is_judged_as_the_clients_flow() {
    let forwarding = forwarding();
    let (off, on) = off_and_on(&forwarding);
    let pinned = |packet: Packet| Tracked { left_seconds: 400_000, ..tracked(packet.swapped(), mark(0)) };
    let Judgement::Move(flow, held, _) = forwarding.judge(&pinned(off)) else { panic!("it is off-table") };
    assert_eq!((flow, held.left_seconds), (Flow::of(&off).unwrap(), PROBATION_SECONDS));
    assert!(matches!(forwarding.judge(&pinned(on)), Judgement::Keep(_)));
    let invalid = tracked(amid(UDP, "50.0.0.1", "10.0.0.1", (1, 514)).swapped(), mark(0));
    assert_eq!(forwarding.judge(&invalid), Judgement::Forget);
}

/// The ruleset restores a mark of these bits whatever the destination.
#[test]
fn kept_flows_to_a_former_vip_are_forgotten() {
    let forwarding = forwarding();
    let judged = |mark| forwarding.judge(&tracked(amid(TCP, "50.0.0.1", "10.0.0.9", (1, 80)), mark));
    let (whole, unused) = (MarkMask::DEFAULT.kept_mark(mark(1)), MarkMask::DEFAULT.kept_mark(mark(9)));
    assert_eq!(judged(whole), Judgement::Forget);
    for mark in [mark(1), Mark(whole.0 | 1 << 20), unused] {
        assert_eq!(judged(mark), Judgement::Keep(Keep::default()));
    }
}

#[test]
fn a_flow_without_a_table_is_off_table() {
    let (forwarding, packet) = (forwarding(), amid(TCP, "50.0.0.1", "10.0.0.2", (1, 80)));
    assert!(matches!(forwarding.judge(&tracked(packet, mark(0))), Judgement::Move(..)));
}

/// A connection that its table places elsewhere, and one that it places where it is.
fn off_and_on(forwarding: &Forwarding) -> (Packet, Packet) {
    let packets = (0..100).map(|sport| amid(TCP, "50.0.0.1", "10.0.0.1", (sport, 80)));
    let on = |packet: &Packet| matches!(forwarding.decide(packet), Decision::Steered { target, .. } if target.index() == 0);
    let (on, off): (Vec<_>, Vec<_>) = packets.partition(on);
    (off[0], on[0])
}

#[test]
fn the_long_lifetime_is_for_kept_flows() {
    let forwarding = forwarding();
    let (off, on) = off_and_on(&forwarding);
    let of = |packet, bits, left_seconds, phase| Tracked {
        left_seconds,
        phase: Some(phase),
        ..tracked(packet, Mark(mark(0).0 | bits))
    };
    let rest = |tracked: &Tracked| match forwarding.judge(tracked) {
        Judgement::Move(_, held, _) => (held.closing, held.left_seconds),
        other @ (Judgement::Forget | Judgement::Keep(_)) => panic!("{other:?}"),
    };
    assert_eq!(rest(&of(off, 0, 290, Phase::Open)), (false, 290));
    assert_eq!(rest(&of(off, kept(), 290, Phase::Open)), (false, 7430));
    assert_eq!(rest(&of(off, kept(), 5000, Phase::Open)), (false, 5000), "it was extended before");
    assert_eq!(rest(&of(off, kept(), 200, Phase::Closing)), (true, 200));
    assert_eq!(rest(&of(off, 0, 0, Phase::Open)), (false, 1));
    // As the lbd of region layout 4 left it.
    let is_kept = |left_seconds, promotion| {
        let tracked = Tracked { promotion, ..of(off, 0, left_seconds, Phase::Open) };
        matches!(forwarding.judge(&tracked), Judgement::Move(_, _, keep) if keep.kept)
    };
    assert!(is_kept(PROBATION_SECONDS + 1, Promotion::No));
    assert!(!is_kept(PROBATION_SECONDS, Promotion::No) && !is_kept(PROBATION_SECONDS + 1, Promotion::Ended));

    let keep = |tracked: &Tracked| match forwarding.judge(tracked) {
        Judgement::Keep(keep) => (keep.protect, keep.seconds),
        other @ (Judgement::Forget | Judgement::Move(..)) => panic!("{other:?}"),
    };
    assert_eq!(keep(&of(on, 0, 1, Phase::Open)), (false, None), "a pair of packets earns nothing");
    assert_eq!(keep(&of(on, kept(), 290, Phase::Open)), (true, None));
    assert_eq!(keep(&of(on, kept(), 240, Phase::Open)), (true, Some(7380)));
    assert_eq!(keep(&of(on, kept(), 7380, Phase::Open)), (true, None));
    assert_eq!(keep(&of(on, kept(), 200, Phase::Closing)), (true, None));
    let udp = |left_seconds, protected| {
        let places = (0..100).map(|sport| amid(UDP, "50.0.0.1", "10.0.0.1", (sport, 514)));
        let on = |packet: &Packet| matches!(forwarding.decide(packet), Decision::Steered { target, .. } if target.index() == 1);
        let packet = places.into_iter().find(on).unwrap();
        Tracked { left_seconds, protected, ..tracked(packet, Mark(mark(1).0 | kept())) }
    };
    assert_eq!(keep(&udp(28, false)), (true, Some(118)));
    assert_eq!(keep(&udp(28, true)), (false, None), "packets give it the long one");
    assert_eq!(keep(&udp(110, false)), (true, None), "made for a fragmented datagram");
    let protected = Tracked { protected: true, ..of(on, kept(), 290, Phase::Open) };
    assert_eq!(keep(&protected), (false, None));

    // The time that the kernel reports of a promoted flow is no lifetime. The one that it gives a flow after that is not ours.
    let promoted = |tracked, promotion| Tracked { promotion, protected: true, ..tracked };
    let open = |left_seconds| of(on, kept(), left_seconds, Phase::Open);
    for promoted in [promoted(open(300), Promotion::Now), promoted(udp(300, true), Promotion::Now)] {
        assert_eq!(keep(&promoted), (false, None));
        let mut plan = Plan::default();
        plan.add(forwarding.judge(&promoted), || ());
        assert_eq!((plan.promoted, plan.protected, plan.keep.len()), (1, 1, 0));
    }
    for left_seconds in [100, 50_000] {
        assert_eq!(keep(&promoted(open(left_seconds), Promotion::Ended)), (false, Some(7440)));
        assert_eq!(keep(&promoted(udp(left_seconds, true), Promotion::Ended)), (false, Some(120)));
    }
    assert_eq!(keep(&promoted(open(50_000), Promotion::No)), (false, Some(7440)), "no lbd saw it end");
    let closing = promoted(of(on, kept(), 200, Phase::Closing), Promotion::Ended);
    assert_eq!(keep(&closing), (false, None), "it ended by its FIN");
    for promotion in [Promotion::Now, Promotion::Ended] {
        assert_eq!(rest(&promoted(of(off, kept(), 300, Phase::Open), promotion)), (false, 7440));
    }
}

#[test]
fn a_packet_amid_an_off_table_flow_follows_it() {
    let forwarding = forwarding();
    let (off, on) = off_and_on(&forwarding);
    let held = Held { mark: mark(0), closing: false, left_seconds: 9 };
    let table: OffTable = [(Flow::of(&off).unwrap(), held)].into_iter().collect();
    let to = |packet: &Packet| table.pinned(&forwarding, packet).map(|(target, _)| target.index());
    assert_eq!((to(&off), to(&on)), (Some(0), None));
    let mut syn = off;
    syn.l4 = L4::Tcp { ports: off.l4.ports().unwrap(), syn: true };
    assert_eq!(to(&syn), None, "the kernel knows what a SYN means");
    assert_eq!(to(&Packet { quoted: true, ..syn }), Some(0), "an ICMP error about it");
    assert_eq!(to(&Packet { l4: L4::LaterFragment, ..off }), None);
    struct Nothing;
    impl FlowTable for Nothing {
        fn lookup(&mut self, _: &Packet) -> io::Result<Option<FlowMark>> {
            Ok(None)
        }
        fn pin(&mut self, _: &Packet, _: Mark, _: MarkMask, _: u32) -> io::Result<()> {
            Ok(())
        }
    }
    let mut pins = WithOffTable { off_table: &table, pins: &mut Nothing };
    let found = pins.lookup(&syn).unwrap().map(|pin| pin.mark);
    assert_eq!(found, Some(held.mark), "a probe asks what is in place, with a SYN");
    assert_eq!(pins.lookup(&on).unwrap(), None);
    let gone: OffTable = [(Flow::of(&off).unwrap(), Held { mark: mark(9), ..held })].into_iter().collect();
    assert_eq!(gone.pinned(&forwarding, &off), None, "no such target is in use");
}

#[test]
fn flows_make_room_when_half_of_a_map_is_in_use() {
    let flow = |n: u32| {
        let client = std::net::Ipv4Addr::from(0x3200_0000 + n).to_string();
        (
            Flow::of(&amid(TCP, &client, "10.0.0.1", (1, 80))).unwrap(),
            Held { mark: mark(0), closing: n == 0, left_seconds: 9 },
        )
    };
    let half = u32::try_from(OFF_TABLE_FLOWS_MAX / 2).unwrap();
    let mut table: OffTable = (0..=half).map(flow).collect();
    assert!(!table.is_crowded(), "one is in the map of closing ones");
    table.extend([flow(half + 1)]);
    assert!(table.is_crowded());
}

#[test]
fn what_a_map_has_lost_is_put_back() {
    let flow = |sport| Flow::of(&amid(TCP, "50.0.0.1", "10.0.0.1", (sport, 80))).unwrap();
    let held = |closing, left_seconds| Held { mark: mark(0), closing, left_seconds };
    let last: OffTable =
        [(flow(1), held(false, 100)), (flow(2), held(true, 100)), (flow(3), held(false, 12))]
            .into_iter()
            .collect();
    assert_eq!(lost(&last, &OffTable::default(), 10), [(flow(1), held(false, 90))]);
    let now: OffTable = [(flow(1), held(true, 3))].into_iter().collect();
    assert_eq!(lost(&last, &now, 10), [], "its client has sent a FIN");
}

#[test]
fn a_plan_of_nothing_needs_no_room() {
    let mut plan = Plan::<usize>::default();
    plan.limit(Limits { room: [[0; 2]; 2], strangers: [0; 2], protected: 0 }, &OffTable::default());
    assert_eq!((plan.moves.len(), plan.keep.len(), plan.forget.len()), (0, 0, 0));
    assert_eq!((plan.no_room, plan.protected, plan.not_protected), (0, 0, 0));
}

fn entries() -> impl Strategy<Value = Vec<Tracked>> {
    let entry = (0..2usize, 0..40u16, 0..4usize, any::<[bool; 3]>(), 0..8000u32).prop_map(
        |(family, sport, target, [kept_bit, protected, closing], left_seconds)| {
            let (client, vip) = [("50.0.0.1", "10.0.0.1"), ("2000::1", "1000::1")][family];
            let bits = if kept_bit { kept() } else { 0 };
            let phase = if closing { Phase::Closing } else { Phase::Open };
            Tracked {
                promotion: Promotion::No,
                packet: amid(TCP, client, vip, (sport, 80)),
                mark: Mark(mark(target).0 | bits),
                left_seconds,
                protected,
                phase: Some(phase),
            }
        },
    );
    prop::collection::vec(entry, 0..120)
}

proptest! {
    #[test]
    fn a_plan_keeps_its_limits_and_loses_no_flow(
        entries in entries(),
        room in any::<[[u8; 2]; 2]>(),
        strangers in any::<[u8; 2]>(),
        most in 0..60usize,
    ) {
        let forwarding = forwarding();
        let limits = Limits {
            room: room.map(|room| room.map(|room| usize::from(room % 16))),
            strangers: strangers.map(|strangers| usize::from(strangers % 16)),
            protected: most,
        };
        let mut plan = Plan::default();
        for (n, tracked) in entries.iter().enumerate() {
            plan.add(forwarding.judge(tracked), || n);
        }
        plan.limit(limits, &OffTable::default());

        let judged: Vec<Judgement> = entries.iter().map(|tracked| forwarding.judge(tracked)).collect();
        let off: BTreeSet<usize> = (0..judged.len()).filter(|&n| matches!(judged[n], Judgement::Move(..))).collect();
        let forget: Vec<usize> = (0..judged.len()).filter(|&n| judged[n] == Judgement::Forget).collect();
        let moved: BTreeSet<usize> = plan.moves.iter().map(|(n, ..)| *n).collect();
        prop_assert_eq!(&plan.forget, &forget);
        prop_assert!(moved.is_subset(&off));
        prop_assert_eq!(moved.len() + plan.no_room, off.len());
        let is_kept = |n: &&usize| matches!(&judged[**n], Judgement::Move(_, _, keep) if keep.kept);
        for (n, flow, held) in &plan.moves {
            prop_assert_eq!(plan.strangers.contains(flow), !is_kept(&n) || plan.moves.iter().any(|(m, of, _)| of == flow && !is_kept(&m)));
            prop_assert!(is_kept(&n) || held.left_seconds <= PROBATION_SECONDS);
        }
        for family in 0..2 {
            let of_family = |n: &&usize| matches!(&judged[**n], Judgement::Move(flow, ..) if map_of(flow, false).0 == family);
            let strangers = moved.iter().filter(of_family).filter(|n| !is_kept(n)).count();
            prop_assert!(strangers <= limits.strangers[family]);
            for closing in 0..2 {
                let here = |n: &&usize| matches!(&judged[**n], Judgement::Move(flow, held, _) if map_of(flow, held.closing) == (family, closing));
                // Kept flows come first.
                let kept_flows = off.iter().filter(here).filter(is_kept).count();
                let got = moved.iter().filter(here).filter(is_kept).count();
                prop_assert_eq!(got, kept_flows.min(limits.room[family][closing]));
                // No room is left unused.
                let full = moved.iter().filter(here).count() == limits.room[family][closing];
                let none_left = off.difference(&moved).filter(here).count() == 0;
                prop_assert!(none_left || full || strangers == limits.strangers[family]);
            }
        }
        // Entries of flows that are moved or forgotten do not count as protected.
        let before = (0..entries.len()).filter(|n| entries[*n].protected && !moved.contains(n) && !forget.contains(n));
        let new = plan.keep.iter().filter(|(_, keep)| keep.protect).count();
        prop_assert_eq!(plan.protected, before.count() + new);
        prop_assert!(new == 0 || plan.protected <= most);
        prop_assert!(plan.not_protected == 0 || plan.protected >= most);
        let wants = |(n, keep): &(usize, Keep)| {
            !moved.contains(n) && keep.kept && (keep.protect || keep.seconds.is_some())
        };
        prop_assert!(plan.keep.iter().all(wants));
    }
}

/// web and log have s2 alike: what is said of it in one service is nothing to the other.
#[test]
fn a_disabled_backend_loses_the_flows_of_its_service_alone() {
    use crate::model::{Admin, Override};
    let s2 = ["s2".to_owned()];
    let (web, log) =
        (amid(TCP, "50.0.0.1", "10.0.0.1", (1, 80)), amid(UDP, "50.0.0.1", "10.0.0.1", (1, 514)));
    let with = |admin| {
        let state = state().set_admin(Some("web"), &s2, &Override::unattributed(admin)).unwrap();
        Forwarding::new(&state, Generation(1)).unwrap()
    };
    for (admin, ends) in [(Admin::Enabled, false), (Admin::Draining, false), (Admin::Disabled, true)] {
        let forwarding = with(admin);
        // An answer may have made the entry.
        for packet in [web, web.swapped()] {
            let entry = tracked(packet, mark(1));
            assert_eq!(forwarding.judge(&entry) == Judgement::Forget, ends, "{admin}");
            assert_eq!(forwarding.ends_tracked(&entry, u64::MAX), ends, "{admin}");
        }
        let (of_web, of_log) = (Flow::of(&web).unwrap(), Flow::of(&log).unwrap());
        assert_eq!(forwarding.is_valid(of_web, mark(1)), !ends);
        assert_eq!(forwarding.ends_flow(of_web, mark(1), 0), ends);
        assert_eq!(forwarding.pinned_flow(&web, mark(1)).is_none(), ends);
        assert_ne!(forwarding.judge(&tracked(log, mark(1))), Judgement::Forget);
        assert!(forwarding.is_valid(of_log, mark(1)) && !forwarding.ends_flow(of_log, mark(1), 0));
        assert!(!forwarding.ends_flow(of_web, mark(0), 0), "of another backend");
    }
}

/// What checks find of a backend that does not answer.
fn down((service, backend): &(&str, &str)) -> Observation {
    Observation {
        service: Name::new(service).unwrap(),
        backend: Name::new(backend).unwrap(),
        observed: Observed {
            health: Health::Down,
            since: jiff::Timestamp::UNIX_EPOCH,
            reason: Remark::new("timeout").unwrap(),
        },
    }
}

#[test]
fn flows_of_a_backend_that_is_down_end_as_its_check_says() {
    // Whether flows of web to s2, TCP, SCTP and UDP, end if those are down; web (0) or far (1) is checked.
    let ends = |on_down: &str, panic: u8, those: &[(&str, &str)], is_of: usize| {
        let health = |service| match (is_of, service) {
            (0, "web") | (1, "far") => {
                format!("health = {{ kind = 'tcp', port = 80, panic_below_percent = {panic}{on_down} }}")
            }
            _ => String::new(),
        };
        let state = fixture::balancer("address = '192.168.1.201'")
            .service("web", "10.0.0.1/32", &format!("no_backend = 'service:far'\n{}", health("web")))
            .backends(&[("s1", "192.168.1.1"), ("s2", "192.168.1.2")])
            .service("far", "10.0.0.2/32", &health("far"))
            .backends(&[("s2", "192.168.1.2"), ("s3", "192.168.1.3")])
            .state();
        let state = state.observe(&those.iter().map(down).collect::<Vec<_>>());
        let forwarding = Forwarding::new(&state, Generation(1)).unwrap();
        [TCP, SCTP, UDP].map(|protocol| {
            let packet = amid(protocol, "50.0.0.1", "10.0.0.1", (1, 80));
            let ends = forwarding.ends_tracked(&tracked(packet, mark(1)), u64::MAX);
            assert_eq!(forwarding.pinned_flow(&packet, mark(1)).is_none(), ends);
            assert!(!forwarding.ends_tracked(&tracked(packet, mark(0)), u64::MAX) || those.len() > 1);
            ends
        })
    };
    let s2 = &[("web", "s2")][..];
    assert_eq!(ends("", 30, s2, 0), [false, false, true]);
    assert_eq!(ends(", on_down = 'keep'", 30, s2, 0), [false; 3]);
    assert_eq!(ends(", on_down = 'kill'", 30, s2, 0), [true; 3]);
    assert_eq!(ends(", on_down = 'kill'", 30, &[], 0), [false; 3]);
    // In a panic all count as healthy.
    assert_eq!(ends(", on_down = 'kill'", 60, s2, 0), [false; 3]);
    // With all of its own down, those of the service that stands in take them.
    let both = &[("web", "s1"), ("web", "s2")][..];
    assert_eq!(ends(", on_down = 'kill'", 0, both, 0), [true; 3]);
    // What is found of another service's backend is nothing to a service that has the same one.
    assert_eq!(ends(", on_down = 'kill'", 0, &[("far", "s2")], 1), [false; 3]);
}

#[test]
fn where_no_other_takes_new_flows_those_of_a_backend_that_is_down_stay() {
    let health = "health = { kind = 'tcp', port = 80, panic_below_percent = 0, on_down = 'kill' }";
    let state = fixture::balancer("address = '192.168.1.201'")
        .service("web", "10.0.0.1/32", health)
        .backends(&[("s1", "192.168.1.1"), ("s2", "192.168.1.2")])
        .state();
    let ends = |state: &State| {
        let forwarding = Forwarding::new(state, Generation(1)).unwrap();
        forwarding.ends_tracked(&tracked(amid(UDP, "50.0.0.1", "10.0.0.1", (1, 80)), mark(1)), u64::MAX)
    };
    let [s1, s2] = ["s1", "s2"].map(|name| down(&("web", name)));
    assert!(ends(&state.observe(std::slice::from_ref(&s2))));
    assert!(!ends(&state.observe(&[s1, s2])));
}

#[test]
fn a_kill_ends_the_flows_of_before_alone() {
    let (killed, when) = state().kill(Some("web"), &["s2".to_owned()], 1000).unwrap();
    let forwarding = Forwarding::new(&killed, Generation(2)).unwrap();
    assert_eq!((when, forwarding.last_kill()), (1000, 1000));
    let web = amid(TCP, "50.0.0.1", "10.0.0.1", (1, 80));
    let entry = tracked(web, mark(1));
    assert!(forwarding.ends_tracked(&entry, 0) && forwarding.ends_tracked(&entry, 999));
    assert!(!forwarding.ends_tracked(&entry, 1000), "it was carried out");
    assert!(!forwarding.ends_tracked(&tracked(web, mark(0)), 0));
    let log = amid(UDP, "50.0.0.1", "10.0.0.1", (1, 514));
    assert!(!forwarding.ends_tracked(&tracked(log, mark(1)), 0));
    // Its pins are as valid as before.
    assert_ne!(forwarding.judge(&entry), Judgement::Forget);
    assert!(forwarding.pinned_flow(&web, mark(1)).is_some());
}
