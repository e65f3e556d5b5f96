//! Rule by rule, each with the counters that it moves.

mod equivalence;
mod flood;
mod model;

use std::collections::BTreeMap;

use super::*;
use crate::model::{Admission, OuterAddresses};
use crate::{
    balance::{
        Balancer,
        flow_table::FlowMark,
        pins::{Flow, Held, OffTable},
    },
    model::{Encap, Name, Path, Steering, ids::Generation},
    state::{State as WholeState, TierMember},
    tests::{
        bytes::{Piece, cut, ip, packet},
        fixture,
        pins::FakePins,
    },
};

const SMALL: FragmentLimits = FragmentLimits {
    ttl_ms: 100,
    entries: 4,
    entries_per_source: 3,
    held_packets: 4,
    held_bytes: 400,
    held_bytes_per_source: 250,
};

fn state(limits: FragmentLimits) -> WholeState {
    let [s1, s2, s3] = [("s1", "192.168.1.1"), ("s2", "192.168.1.2"), ("s3", "192.168.1.3")];
    let mut state = fixture::balancer("")
        .service("web", "10.0.0.0 1000::", "protocols = ['tcp', 'udp']\nports = '80'\ntable_size = 997")
        .backends(&[s1, s2, s3, ("s4", "fd00:0:0:1::4")])
        .service("empty", "10.0.0.1", "protocols = 'udp'\ntable_size = 97")
        .backend("s1", "address = '192.168.1.1'\nactive = false")
        .service("any", "10.0.0.2 1000::2", "table_size = 97")
        .backends(&[s1, s2])
        .state();
    state.balancer.fragments = limits;
    state
}

fn ready(state: &WholeState) -> Forwarding {
    Forwarding::new(state, Generation(1)).unwrap()
}

/// A balancer under test.
struct Lb {
    balancer: FragmentBalancer,
    forwarding: Forwarding,
    now_ms: u64,
    pins: FakePins,
    off_table: OffTable,
    released: Vec<Box<[u8]>>,
    seen: Vec<u64>,
}

impl Lb {
    fn new(limits: FragmentLimits) -> Self {
        let balancer = FragmentBalancer::new(limits);
        let seen = balancer.counters.values().to_vec();
        let forwarding = ready(&state(limits));
        let pins = FakePins::default();
        let off_table = OffTable::default();
        Self { balancer, forwarding, now_ms: 0, pins, off_table, released: Vec::new(), seen }
    }

    fn from(&mut self, origin: Origin, bytes: &[u8]) -> Option<Mark> {
        let now = Duration::from_millis(self.now_ms);
        let Self { balancer, forwarding, pins, off_table, released, .. } = self;
        let pins = &mut WithOffTable { off_table, pins };
        match balancer.handle(now, forwarding, origin, bytes, pins, released) {
            Verdict::Steer(mark) => Some(mark),
            Verdict::Pass | Verdict::Drop => None,
        }
    }

    fn give(&mut self, bytes: &[u8]) -> Option<Mark> {
        self.from(Origin::Outside, bytes)
    }

    fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.balancer.tick(Duration::from_millis(now_ms), &self.forwarding);
    }

    /// Which counters and levels have moved since the last call.
    fn moved(&mut self) -> Vec<(&'static str, i64)> {
        let now = self.balancer.counters.values().to_vec();
        let by = |(now, then): (&u64, &u64)| i64::try_from(*now).unwrap() - i64::try_from(*then).unwrap();
        let names = Counter::ALL.iter().map(|counter| counter.name());
        let moved = names.zip(now.iter().zip(&self.seen).map(by)).filter(|&(_, by)| by != 0).collect();
        self.seen = now;
        moved
    }
}

/// What the whole packet gets.
fn whole(forwarding: &Forwarding, bytes: &[u8]) -> Option<Mark> {
    match Balancer::default().handle(forwarding, &OffTable::default(), bytes) {
        Verdict::Steer(mark) => Some(mark),
        Verdict::Pass | Verdict::Drop => None,
    }
}

/// A part of a UDP datagram with 8 bytes of header.
fn udp4<'a>(id: u32, start: usize, more: bool, payload: &'a [u8]) -> Piece<'a> {
    Piece { src: "50.0.0.1", dst: "10.0.0.0", protocol: 17, id, start, more, payload }
}

/// The UDP header of client 4000 and port 80, and zeros.
const FIRST: [u8; 24] = [15, 160, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn first(id: u32) -> Vec<u8> {
    udp4(id, 0, true, &FIRST).bytes()
}

fn later(id: u32, start: usize, more: bool) -> Vec<u8> {
    udp4(id, start, more, &[7; 24]).bytes()
}

const LATER_BYTES: i64 = 20 + 24;

#[test]
fn later_fragments_follow_the_first() {
    let mut lb = Lb::new(SMALL);
    let mark = lb.give(&first(1));
    assert!(mark.is_some());
    assert_eq!(
        lb.moved(),
        [
            ("packets", 1),
            ("fragments", 1),
            ("steered_fragment", 1),
            ("fragment_pins", 1),
            ("fragment_entries_now", 1)
        ]
    );
    assert_eq!(lb.give(&later(1, 24, true)), mark);
    assert_eq!(lb.moved(), [("packets", 1), ("fragments", 1), ("steered_fragment", 1)]);
    // The last one: nothing is left to wait for.
    assert_eq!(lb.give(&later(1, 48, false)), mark);
    assert_eq!(
        lb.moved(),
        [("packets", 1), ("fragments", 1), ("steered_fragment", 1), ("fragment_entries_now", -1)]
    );
    let steered: u64 = lb.balancer.counters.targets().iter().sum();
    assert_eq!(steered, 1, "targets count packets, not fragments");
}

#[test]
fn early_fragments_are_held_until_the_first_comes() {
    let mut lb = Lb::new(SMALL);
    let (last, middle) = (later(1, 48, false), later(1, 24, true));
    assert_eq!(lb.give(&last), None);
    assert_eq!(
        lb.moved(),
        [
            ("packets", 1),
            ("fragments", 1),
            ("fragment_held", 1),
            ("fragment_entries_now", 1),
            ("fragment_held_packets_now", 1),
            ("fragment_held_bytes_now", LATER_BYTES)
        ]
    );
    assert_eq!(lb.give(&middle), None);
    lb.moved();
    let mark = lb.give(&first(1));
    assert!(mark.is_some());
    assert_eq!(lb.released.iter().map(|bytes| bytes.to_vec()).collect::<Vec<_>>(), [last, middle]);
    assert_eq!(
        lb.moved(),
        [
            ("packets", 1),
            ("fragments", 1),
            ("steered_fragment", 1),
            ("fragment_pins", 1),
            ("fragment_held_packets_now", -2),
            ("fragment_held_bytes_now", -2 * LATER_BYTES)
        ]
    );
    for (index, bytes) in lb.released.clone().iter().enumerate() {
        assert_eq!(lb.from(Origin::Held, bytes), mark);
        let mut expected = vec![("packets", 1), ("steered_fragment", 1)];
        expected.extend((index == 1).then_some(("fragment_entries_now", -1)));
        assert_eq!(lb.moved(), expected);
    }
    // A held fragment that comes back without an entry is not held again.
    assert_eq!(lb.from(Origin::Held, &later(1, 24, true)), None);
    assert_eq!(lb.moved(), [("packets", 1), ("drop_fragment_late", 1)]);
    assert_eq!(lb.give(&later(2, 24, true)), None);
    lb.moved();
    assert_eq!(lb.from(Origin::Held, &later(2, 24, true)), None);
    assert_eq!(lb.moved(), [("packets", 1), ("drop_fragment_late", 1)]);
}

#[test]
fn a_released_fragment_that_cannot_be_sent_is_not_waited_for() {
    let mut lb = Lb::new(SMALL);
    assert_eq!(lb.give(&later(1, 24, false)), None);
    assert!(lb.give(&first(1)).is_some());
    lb.moved();
    let bytes = lb.released.pop().unwrap();
    lb.balancer.inject_failed(&bytes);
    assert_eq!(lb.moved(), [("fragment_inject_failed", 1), ("fragment_entries_now", -1)]);
    lb.balancer.inject_failed(&bytes);
    assert_eq!(lb.moved(), [("fragment_inject_failed", 1)]);
}

#[test]
fn padding_is_not_held() {
    let mut lb = Lb::new(SMALL);
    let mut padded = later(1, 24, false);
    padded.extend([0; 6]);
    lb.give(&padded);
    lb.give(&first(1));
    assert_eq!(*lb.released[0], padded[..44]);
}

/// A first fragment of a UDP flow, with each thing that connection tracking may know of that.
#[test]
fn a_first_fragment_follows_its_connection_mark_and_keeps_it() {
    let table = Lb::new(SMALL).give(&first(1)).unwrap();
    let mask = state(SMALL).balancer.mark_mask;
    let other = [1, 2].map(|number| mask.mark(TargetId::from_number(number).unwrap()));
    let other = other.into_iter().find(|mark| *mark != table).unwrap();
    let (gone, theirs) = (mask.mark(TargetId::new(4000).unwrap()), 0x5_0000);
    let flow = Packet::parse(&first(1)).unwrap();
    let pin = |mark: Mark, left| Some(FlowMark { mark, left_seconds: left });
    let with_theirs = |mark: Mark| Mark(mark.0 | theirs);
    let (pinned, pins) = (("fragment_pinned", 1), ("fragment_pins", 1));
    for (before, goes, counts, after) in [
        // The default of `udp_seconds` is 120.
        (None, table, vec![pins], pin(table, Some(120))),
        (pin(other, Some(60)), other, vec![pinned], pin(other, Some(60))),
        (pin(other, Some(59)), other, vec![pinned, pins], pin(other, Some(120))),
        (pin(other, Some(7440)), other, vec![pinned], pin(other, Some(7440))),
        (pin(other, Some(u32::MAX)), other, vec![pinned], pin(other, Some(u32::MAX))),
        (pin(other, None), other, vec![pinned], pin(other, None)),
        // Bits of others are not ours to set.
        (pin(with_theirs(other), Some(100)), other, vec![pinned], pin(with_theirs(other), Some(100))),
        (pin(with_theirs(other), Some(1)), other, vec![pinned, pins], pin(with_theirs(other), Some(120))),
        // A flow without a mark, and one of a target that is gone.
        (pin(Mark(theirs), Some(100)), table, vec![pins], pin(with_theirs(table), Some(120))),
        (pin(gone, Some(100)), table, vec![pins], pin(table, Some(120))),
        (pin(gone, None), table, vec![pins], pin(table, Some(120))),
    ] {
        let mut lb = Lb::new(SMALL);
        if let Some(before) = before {
            lb.pins.known().set(&flow, before);
        }
        assert_eq!(lb.give(&first(1)), Some(goes), "{before:?}");
        let mut expected = vec![("packets", 1), ("fragments", 1), ("steered_fragment", 1)];
        expected.extend(counts);
        expected.push(("fragment_entries_now", 1));
        assert_eq!(lb.moved(), expected, "{before:?}");
        assert_eq!(lb.pins.known().get(&flow), after, "{before:?}");
        lb.give(&later(1, 24, false));
        assert_eq!(lb.moved().len(), 4, "later ones read and write no entry");
        assert_eq!(lb.pins.known().asked, [flow]);
    }
}

#[test]
fn with_every_packet_the_table_alone_decides() {
    let mut lb = Lb::new(SMALL);
    let mut every_packet = state(SMALL);
    every_packet.balancer.steering = Steering::EveryPacket;
    lb.forwarding = ready(&every_packet);
    let table = whole(&lb.forwarding, &packet(17, "50.0.0.1", 4000, "10.0.0.0", 80, 0)).unwrap();
    let mask = every_packet.balancer.mark_mask;
    let others = (1..=4).map(|number| mask.mark(TargetId::from_number(number).unwrap()));
    let other = others.into_iter().find(|mark| *mark != table).unwrap();
    let flow = Packet::parse(&first(1)).unwrap();
    let pin = FlowMark { mark: other, left_seconds: Some(1) };
    lb.pins.known().set(&flow, pin);
    assert_eq!(lb.give(&first(1)), Some(table));
    assert_eq!(lb.give(&later(1, 24, true)), Some(table));
    assert_eq!(
        lb.moved(),
        [("packets", 2), ("fragments", 2), ("steered_fragment", 2), ("fragment_entries_now", 1)]
    );
    assert_eq!(lb.pins.known().get(&flow), Some(pin));
    assert_eq!(lb.pins.known().asked, []);
}

#[test]
fn connection_tracking_that_fails_changes_no_verdict() {
    for (broken, known) in [(true, false), (true, true), (false, false)] {
        let mut lb = Lb::new(SMALL);
        let table = whole(&lb.forwarding, &packet(17, "50.0.0.1", 4000, "10.0.0.0", 80, 0));
        (lb.pins.known().broken, lb.pins.known().full) = (broken, true);
        let flow = Packet::parse(&first(1)).unwrap();
        if known {
            lb.pins.known().set(&flow, FlowMark { mark: table.unwrap(), left_seconds: Some(1) });
        }
        assert_eq!(lb.give(&first(1)), table);
        let failed = ("conntrack_error", 1);
        let steered = [("packets", 1), ("fragments", 1), ("steered_fragment", 1)];
        assert_eq!(lb.moved(), [&steered[..], &[failed, ("fragment_entries_now", 1)]].concat());
        lb.give(&later(1, 24, false));
        lb.moved();
        // No entry is needed to be kept.
        lb.pins.known().broken = false;
        lb.pins.known().set(&flow, FlowMark { mark: table.unwrap(), left_seconds: Some(1) });
        assert_eq!(lb.give(&first(2)), table);
        let kept = [("fragment_pinned", 1), ("fragment_pins", 1), ("fragment_entries_now", 1)];
        assert_eq!(lb.moved(), [&steered[..], &kept].concat());
    }
}

#[test]
fn only_udp_is_pinned_by_fragments() {
    let quoted =
        Piece { src: "10.0.0.2", dst: "50.0.0.1", payload: &FIRST, ..udp4(9, 0, false, &[]) }.bytes();
    let error = [&[3, 4, 0, 0, 0, 0, 5, 0x14], &quoted[..]].concat();
    let echo = [8, 0, 0, 0, 0, 9, 0, 1];
    for (protocol, payload) in [(6, &FIRST[..]), (132, &FIRST), (1, &error[..48]), (1, &echo), (47, &FIRST)] {
        let mut lb = Lb::new(SMALL);
        let bytes = Piece { dst: "10.0.0.2", protocol, payload, ..udp4(1, 0, true, &[]) }.bytes();
        assert!(lb.give(&bytes).is_some(), "{protocol}");
        let pins = lb.pins.known();
        assert_eq!((pins.asked.len(), pins.len()), (1, 0), "{protocol}");
    }
    // Nor is a fragment pinned that has no backend.
    let mut lb = Lb::new(SMALL);
    for (dst, asked) in [("10.0.0.1", 1), ("10.0.0.9", 1)] {
        assert_eq!(lb.give(&Piece { dst, ..udp4(1, 0, true, &FIRST) }.bytes()), None);
        let pins = lb.pins.known();
        assert_eq!((pins.asked.len(), pins.len()), (asked, 0), "{dst}");
    }
}

/// Fragments in this order, each with the reason why it is dropped, or none.
fn expect(what: &str, pieces: &[(Vec<u8>, Option<&str>)]) {
    let mut lb = Lb::new(FragmentLimits::default());
    for (index, (bytes, reason)) in pieces.iter().enumerate() {
        let steered = lb.give(bytes).is_some();
        let moved = lb.moved();
        assert_eq!(steered, reason.is_none(), "{what}, {index}: {moved:?}");
        let reason = reason.unwrap_or("steered_fragment");
        let mut expected = BTreeMap::from([("packets", 1), (reason, 1)]);
        if reason != "drop_fragment_length" {
            expected.insert("fragments", 1);
        }
        // What was held goes with the packet.
        let held = moved.iter().find(|(name, _)| *name == "fragment_held_packets_now");
        if let Some((_, by @ ..0)) = held
            && !steered
        {
            *expected.entry("drop_fragment_poisoned").or_default() -= by;
        }
        // Other tests cover which flows are pinned.
        let aside = |name: &str| name.ends_with("_now") || name.starts_with("fragment_pin");
        let counts = moved.into_iter().filter(|(name, _)| !aside(name));
        assert_eq!(counts.collect::<BTreeMap<_, _>>(), expected, "{what}, {index}");
    }
}

const HELD: Option<&str> = Some("fragment_held");
const POISONED: Option<&str> = Some("drop_fragment_poisoned");
const OVERLAP: Option<&str> = Some("drop_fragment_overlap");
const DUPLICATE: Option<&str> = Some("drop_fragment_duplicate");
const TINY: Option<&str> = Some("drop_fragment_tiny");
const LENGTH: Option<&str> = Some("drop_fragment_length");

#[test]
fn whole_duplicates_are_dropped_and_nothing_else_happens() {
    let (a, b, c) = (first(1), later(1, 24, true), later(1, 48, false));
    expect(
        "known",
        &[
            (a.clone(), None),
            (a.clone(), DUPLICATE),
            (b.clone(), None),
            (b.clone(), DUPLICATE),
            (udp4(1, 32, true, &[0; 8]).bytes(), DUPLICATE),
            (udp4(1, 16, true, &[0; 16]).bytes(), DUPLICATE),
            (c, None),
        ],
    );
    expect("holding", &[(b.clone(), HELD), (b, DUPLICATE), (a, None)]);
}

#[test]
fn overlaps_poison() {
    for (what, piece) in [
        ("reaches beyond", later(1, 40, true)),
        ("begins before", udp4(1, 16, true, &[0; 16]).bytes()),
        ("covers", udp4(1, 16, true, &[0; 48]).bytes()),
        ("ends before the end", udp4(1, 32, false, &[0; 8]).bytes()),
        ("ends where others follow", udp4(1, 40, false, &[0; 8]).bytes()),
    ] {
        expect(what, &[(later(1, 24, true), HELD), (piece, OVERLAP), (first(1), POISONED)]);
    }
    for (what, piece) in [
        ("another end", later(1, 72, false)),
        ("an earlier end", udp4(1, 24, false, &[0; 8]).bytes()),
        ("more behind the end", later(1, 72, true)),
        ("more at the end", later(1, 48, true)),
    ] {
        expect(
            what,
            &[(first(1), None), (later(1, 48, false), None), (piece, OVERLAP), (first(1), POISONED)],
        );
    }
    let mut lb = Lb::new(SMALL);
    lb.give(&later(1, 24, true));
    lb.give(&later(1, 72, true));
    lb.moved();
    lb.give(&later(1, 32, true));
    assert_eq!(
        lb.moved(),
        [
            ("packets", 1),
            ("fragments", 1),
            ("drop_fragment_overlap", 1),
            ("drop_fragment_poisoned", 2),
            ("fragment_held_packets_now", -2),
            ("fragment_held_bytes_now", -2 * LATER_BYTES)
        ]
    );
    // A fragment that was released before is dropped when it comes back.
    assert!(lb.give(&first(2)).is_some());
    assert_eq!(lb.give(&udp4(2, 8, true, &[0; 24]).bytes()), None);
    lb.moved();
    assert_eq!(lb.from(Origin::Held, &later(2, 48, true)), None);
    assert_eq!(lb.moved(), [("packets", 1), ("drop_fragment_poisoned", 1)]);
}

#[test]
fn first_fragments_have_the_whole_transport_header() {
    let web = |protocol, start, more, payload: &[u8]| {
        Piece { protocol, payload, ..udp4(1, start, more, &[]) }.bytes()
    };
    let six = |protocol, start, more, payload: &[u8]| {
        Piece { src: "2000::1", dst: "1000::", ..Piece { protocol, payload, ..udp4(1, start, more, &[]) } }
            .bytes()
    };
    expect(
        "TCP without flags",
        &[(web(6, 0, true, &FIRST[..8]), TINY), (web(6, 24, true, &[0; 8]), POISONED)],
    );
    expect("TCP with flags", &[(web(6, 0, true, &FIRST[..16]), TINY), (web(6, 16, true, &[0; 8]), POISONED)]);
    expect("TCP header", &[(web(6, 0, true, &FIRST), None), (web(6, 24, true, &[0; 8]), None)]);
    expect("over the header", &[(web(6, 16, true, &[0; 8]), HELD), (web(6, 0, true, &FIRST), OVERLAP)]);
    let any = |protocol, len| Piece { dst: "10.0.0.2", protocol, ..udp4(1, 0, true, &FIRST[..len]) }.bytes();
    expect("SCTP ports", &[(any(132, 8), TINY)]);
    expect("SCTP header", &[(any(132, 16), None)]);
    expect("ICMP header", &[(any(1, 8), None)]);
    expect("a protocol without ports", &[(any(47, 8), None)]);
    expect("over the flags", &[(web(6, 8, true, &[0; 16]), TINY), (web(6, 0, true, &FIRST), POISONED)]);
    expect("over the flags, last", &[(six(6, 8, false, &[0; 3]), TINY), (six(6, 0, true, &FIRST), POISONED)]);
    expect("of UDP", &[(web(17, 8, true, &[0; 16]), HELD), (web(17, 0, true, &FIRST[..8]), None)]);
    expect("held", &[(web(6, 24, true, &[0; 8]), HELD)]);
    let mut lb = Lb::new(SMALL);
    lb.give(&web(6, 24, true, &[0; 8]));
    lb.moved();
    assert_eq!(lb.give(&web(6, 0, true, &FIRST[..8])), None);
    assert_eq!(lb.moved()[2..4], [("drop_fragment_tiny", 1), ("drop_fragment_poisoned", 1)]);
    // RFC 7112: destination options that go on in the next fragment.
    expect(
        "headers cut",
        &[(six(60, 0, true, &[17, 3, 0, 0, 0, 0, 0, 0]), TINY), (six(60, 8, true, &[0; 8]), POISONED)],
    );
    expect("headers, then nothing", &[(six(60, 0, true, &[17, 0, 0, 0, 0, 0, 0, 0]), TINY)]);
    for (protocol, len, reason) in [(17, 8, None), (6, 16, TINY), (6, 24, None), (58, 8, None)] {
        let headers = [&[protocol, 0, 0, 0, 0, 0, 0, 0], &FIRST[..len]].concat();
        let dst = if protocol == 58 { "1000::2" } else { "1000::" };
        let piece = Piece { src: "2000::1", dst, protocol: 60, payload: &headers, ..udp4(1, 0, true, &[]) };
        expect("headers whole", &[(piece.bytes(), reason)]);
    }
    // One that is no fragment is left to its receiver.
    assert!(whole(&ready(&state(SMALL)), &web(6, 0, false, &FIRST[..16])).is_some());
}

#[test]
fn lengths_are_possible() {
    expect("no multiple of 8", &[(udp4(1, 0, true, &FIRST[..23]).bytes(), LENGTH), (first(1), None)]);
    expect("nothing", &[(udp4(1, 24, false, &[]).bytes(), LENGTH)]);
    expect(
        "nothing, IPv6",
        &[(Piece { src: "2000::1", dst: "1000::", ..udp4(1, 24, false, &[]) }.bytes(), LENGTH)],
    );
    // 65535 bytes are 20 of header and 65515.
    expect("beyond the end", &[(udp4(1, 65512, false, &[0; 4]).bytes(), LENGTH)]);
    expect("the very end", &[(udp4(1, 65512, false, &[0; 3]).bytes(), HELD)]);
    let six = |len| Piece { src: "2000::1", dst: "1000::", ..udp4(1, 65528, false, &FIRST[..len]) }.bytes();
    expect("beyond the end, IPv6", &[(six(8), LENGTH)]);
    expect("the very end, IPv6", &[(six(7), HELD)]);
}

#[test]
fn what_drops_the_first_drops_the_others() {
    let to = |dst, sport: [u8; 4], start| {
        Piece { dst, start, payload: &[&sport[..], &[0; 20]].concat(), ..udp4(1, 0, true, &[]) }.bytes()
    };
    for (what, dst, ports, reason) in [
        ("no service", "10.0.0.0", [0, 1, 0, 81], "drop_no_service"),
        ("no backend", "10.0.0.1", [0, 1, 0, 81], "drop_no_backend"),
    ] {
        expect(what, &[(to(dst, ports, 0), Some(reason)), (to(dst, ports, 24), POISONED)]);
    }
    // An ICMP error that quotes nothing of its receiver; one that quotes a later fragment.
    let error = |quoted: &[u8]| {
        let message = [&[3, 4, 0, 0, 0, 0, 5, 0x14], quoted].concat();
        Piece { protocol: 1, payload: &message, ..udp4(1, 0, true, &[]) }.bytes()
    };
    expect("foreign", &[(error(&[0; 24]), Some("drop_icmp_quote")), (later(2, 24, true), HELD)]);
    let quoted = Piece { src: "10.0.0.0", dst: "50.0.0.1", ..udp4(9, 8, false, &[0; 4]) }.bytes();
    expect("later", &[(error(&quoted), Some("drop_icmp_quote"))]);
    let fault = Piece {
        src: "2000::1",
        dst: "1000::",
        protocol: 60,
        payload: &[60, 0, 0, 0, 0, 0, 0, 0].repeat(9),
        ..udp4(1, 0, true, &[])
    };
    expect(
        "headers",
        &[
            (fault.bytes(), Some("drop_too_many_extensions")),
            (Piece { start: 72, ..fault }.bytes(), POISONED),
        ],
    );
}

/// Where a whole packet is expected: each for its own reason.
#[test]
fn a_later_fragment_and_an_error_about_one_are_counted_apart() {
    let piece = Piece { src: "10.0.0.0", dst: "50.0.0.1", ..udp4(9, 8, false, &[0; 4]) };
    let error = |src| {
        ip(
            1,
            "50.0.0.9",
            "10.0.0.0",
            &[&[3, 4, 0, 0, 0, 0, 5, 0x14], &Piece { src, ..piece.clone() }.bytes()[..]].concat(),
        )
    };
    let mut balancer = Balancer::default();
    let forwarding = ready(&state(SMALL));
    for (bytes, reason, count) in [
        (later(1, 24, false), Counter::DropFragment, 1),
        (error("10.0.0.0"), Counter::DropIcmpQuote, 1),
        (error("10.0.0.9"), Counter::DropIcmpQuote, 2),
    ] {
        assert_eq!(balancer.handle(&forwarding, &OffTable::default(), &bytes), Verdict::Drop);
        assert_eq!(balancer.counters.get(reason), count);
    }
}

#[test]
fn fragments_for_no_vip_pass_and_leave_nothing_here() {
    let mut lb = Lb::new(SMALL);
    let of = |piece: Piece<'_>| Piece { dst: "10.0.0.9", ..piece }.bytes();
    let (first, later) = (of(udp4(1, 0, true, &[0; 24])), of(udp4(1, 24, false, &[0; 8])));
    for bytes in [&later, &first, &first[..27].to_vec()] {
        for origin in [Origin::Outside, Origin::Tier] {
            let (now, Lb { balancer, forwarding, pins, off_table, released, .. }) = (Duration::ZERO, &mut lb);
            let pins = &mut WithOffTable { off_table, pins };
            assert_eq!(balancer.handle(now, forwarding, origin, bytes, pins, released), Verdict::Pass);
            assert_eq!(lb.moved(), [("packets", 1), ("foreign", 1)], "{bytes:?}");
        }
    }
}

#[test]
fn what_is_no_fragment_is_handled_as_whole() {
    let mut lb = Lb::new(SMALL);
    let datagram = packet(17, "2000::1", 4000, "1000::", 80, 0);
    let mark = whole(&lb.forwarding, &datagram);
    assert!(mark.is_some());
    assert_eq!(lb.give(&datagram), mark);
    assert_eq!(lb.moved(), [("packets", 1), ("steered_udp", 1)]);
    let atomic = &cut(&datagram, 7, 4096, None)[0];
    assert_eq!(lb.give(atomic), mark, "RFC 6946");
    assert_eq!(lb.moved(), [("packets", 1), ("steered_udp", 1)]);
    let cut_short = [&[0x46], &udp4(1, 0, false, &[0; 8]).bytes()[1..20]].concat();
    assert_eq!(lb.give(&cut_short), None);
    assert_eq!(lb.moved(), [("packets", 1), ("drop_ip_header", 1)]);
    // Off-table, it follows the map.
    let by_table = lb.forwarding.decide(&Packet::parse(&datagram).unwrap()).outcome().unwrap().1;
    let other = (1..=4).map(Mark).find(|mark| *mark != by_table);
    let held = Held { mark: other.unwrap(), closing: false, left_seconds: 60 };
    lb.off_table = [(Flow::of(&Packet::parse(&datagram).unwrap()).unwrap(), held)].into_iter().collect();
    assert_eq!(lb.give(&datagram), other);
    assert_eq!(lb.moved(), [("packets", 1), ("steered_udp", 1), ("followed_off_table", 1)]);
}

#[test]
fn a_packet_has_a_limited_number_of_parts() {
    let mut lb = Lb::new(FragmentLimits::default());
    let part = |index: usize| udp4(1, index * 16, true, &[0; 8]).bytes();
    for index in 1..=64 {
        assert_eq!(lb.give(&part(index)), None);
    }
    assert_eq!(lb.balancer.counters.get(Counter::FragmentHeld), 64);
    // Neighbours make no new part.
    lb.give(&udp4(1, 24, true, &[0; 8]).bytes());
    lb.give(&udp4(1, 64 * 16 + 8, true, &[0; 8]).bytes());
    assert_eq!(lb.balancer.counters.get(Counter::FragmentHeld), 66);
    lb.moved();
    // The second one joined two parts, so there is room for one part more.
    lb.give(&part(66));
    assert_eq!(lb.moved()[2], ("fragment_held", 1));
    assert_eq!(lb.give(&part(68)), None);
    assert_eq!(lb.moved()[2..4], [("drop_fragment_poisoned", 67), ("drop_fragment_parts", 1)]);
    // In order, or in reverse, there may be any number.
    let limits = FragmentLimits::default();
    for order in [false, true] {
        let mut lb = Lb::new(FragmentLimits { held_bytes_per_source: limits.held_bytes, ..limits });
        let starts = (0..1000).map(|n| if order { n } else { 999 - n });
        let mut steered = 0;
        for start in starts {
            let payload = if start == 0 { &FIRST[..8] } else { &[0; 8] };
            steered += u64::from(lb.give(&udp4(1, start * 8, start < 999, payload).bytes()).is_some());
        }
        let back = std::mem::take(&mut lb.released);
        steered += back.iter().map(|bytes| u64::from(lb.from(Origin::Held, bytes).is_some())).sum::<u64>();
        assert_eq!(steered, 1000);
        assert_eq!(lb.balancer.counters.get(Counter::FragmentEntriesNow), 0);
    }
}

#[test]
fn entries_are_forgotten_in_time_whatever_the_clock_does() {
    let mut lb = Lb::new(SMALL);
    lb.now_ms = 1_000_000;
    lb.give(&later(1, 24, true));
    lb.tick(1_000_099);
    // A fragment counts from its own time.
    lb.give(&later(1, 72, true));
    lb.moved();
    lb.tick(1_000_198);
    assert_eq!(lb.moved(), []);
    // Back to the start: no time has passed.
    lb.tick(0);
    lb.tick(0);
    assert_eq!(lb.moved(), []);
    lb.tick(1);
    assert_eq!(
        lb.moved(),
        [
            ("drop_fragment_expired", 2),
            ("fragment_entries_now", -1),
            ("fragment_held_packets_now", -2),
            ("fragment_held_bytes_now", -2 * LATER_BYTES)
        ]
    );
    // What is too old is not found, tick or not.
    assert!(lb.give(&first(2)).is_some());
    lb.now_ms = u64::MAX;
    lb.moved();
    assert_eq!(lb.give(&later(2, 24, true)), None);
    assert_eq!(lb.moved()[2], ("fragment_held", 1));
    // A duplicate does not lengthen a life.
    lb.now_ms = 50;
    lb.give(&later(2, 24, true));
    lb.now_ms = 149;
    lb.give(&later(2, 24, true));
    lb.moved();
    lb.tick(150);
    assert_eq!(lb.moved()[0], ("drop_fragment_expired", 1));
}

fn from_source(src: &str, id: u32, start: usize, payload: &[u8]) -> Vec<u8> {
    Piece { src, id, start, payload, ..udp4(0, 0, true, &[]) }.bytes()
}

#[test]
fn a_full_table_forgets_the_least_recently_used() {
    let mut lb = Lb::new(SMALL);
    for (id, src) in [(1, "50.0.0.1"), (2, "50.0.0.1"), (3, "50.0.0.2"), (4, "50.0.0.2")] {
        lb.give(&from_source(src, id, 24, &[0; 8]));
    }
    let mark = lb.give(&from_source("50.0.0.1", 1, 0, &FIRST));
    assert!(mark.is_some());
    lb.moved();
    lb.give(&from_source("50.0.0.3", 5, 24, &[0; 8]));
    assert_eq!(
        lb.moved(),
        [
            ("packets", 1),
            ("fragments", 1),
            ("fragment_held", 1),
            ("fragment_evicted", 1),
            ("drop_fragment_evicted", 1)
        ]
    );
    // The second packet was evicted: its first fragment finds nothing held.
    lb.released.clear();
    assert!(lb.give(&from_source("50.0.0.1", 2, 0, &FIRST)).is_some());
    assert_eq!(lb.released.len(), 0);
    assert_eq!(lb.give(&from_source("50.0.0.1", 1, 32, &[0; 8])), mark, "the first is still known");
}

#[test]
fn holding_packets_make_room_for_each_other() {
    // By number: the fifth held fragment.
    let mut lb = Lb::new(FragmentLimits { held_bytes: 4000, held_bytes_per_source: 4000, ..SMALL });
    assert!(lb.give(&from_source("50.0.0.9", 9, 0, &FIRST)).is_some());
    for (id, start) in [(1, 24), (2, 24), (1, 40), (2, 40)] {
        lb.give(&from_source("50.0.0.1", id, start, &[0; 8]));
    }
    lb.moved();
    lb.give(&from_source("50.0.0.2", 3, 24, &[0; 8]));
    assert_eq!(
        lb.moved(),
        [
            ("packets", 1),
            ("fragments", 1),
            ("fragment_held", 1),
            ("fragment_evicted", 1),
            ("drop_fragment_evicted", 2),
            ("fragment_held_packets_now", -1),
            ("fragment_held_bytes_now", -28)
        ]
    );
    // A packet does not make room for its own, and what fills all alone finds no room: no other packet is evicted for it.
    lb.give(&from_source("50.0.0.1", 2, 56, &[0; 8]));
    lb.give(&from_source("50.0.0.1", 2, 72, &[0; 8]));
    lb.moved();
    lb.give(&from_source("50.0.0.1", 2, 88, &[0; 8]));
    assert_eq!(lb.moved(), [("packets", 1), ("fragments", 1), ("drop_fragment_full", 1)]);
    assert_eq!(lb.balancer.counters.get(Counter::FragmentHeldPacketsNow), 4);
    // By bytes: 400, of which each takes 220.
    let mut lb = Lb::new(SMALL);
    lb.give(&from_source("50.0.0.1", 1, 24, &[0; 200]));
    lb.moved();
    lb.give(&from_source("50.0.0.2", 2, 24, &[0; 200]));
    assert_eq!(
        lb.moved(),
        [
            ("packets", 1),
            ("fragments", 1),
            ("fragment_held", 1),
            ("fragment_evicted", 1),
            ("drop_fragment_evicted", 1)
        ]
    );
    lb.give(&from_source("50.0.0.3", 2, 24, &[0; 400]));
    assert_eq!(lb.moved(), [("packets", 1), ("fragments", 1), ("drop_fragment_full", 1)]);
}

#[test]
fn a_source_has_its_share() {
    let mut lb = Lb::new(SMALL);
    for id in 1..=3 {
        assert!(lb.give(&first(id)).is_some());
    }
    lb.moved();
    for bytes in [first(4), later(4, 24, true)] {
        assert_eq!(lb.give(&bytes), None);
        assert_eq!(lb.moved(), [("packets", 1), ("fragments", 1), ("drop_fragment_source", 1)]);
    }
    assert!(lb.give(&later(3, 24, true)).is_some(), "what it has goes on");
    assert!(lb.give(&from_source("50.0.0.2", 4, 0, &FIRST)).is_some(), "others do not notice");
    assert_eq!(lb.balancer.counters.get(Counter::FragmentEvicted), 0);
    // Bytes: 250, of which one takes 220.
    let mut lb = Lb::new(FragmentLimits { held_bytes: 4000, ..SMALL });
    lb.give(&from_source("50.0.0.1", 1, 24, &[0; 200]));
    lb.moved();
    for id in [1, 2] {
        lb.give(&from_source("50.0.0.1", id, 400, &[0; 200]));
        assert_eq!(lb.moved(), [("packets", 1), ("fragments", 1), ("drop_fragment_source", 1)]);
    }
    lb.give(&from_source("50.0.0.2", 1, 24, &[0; 104]));
    assert_eq!(lb.moved()[2], ("fragment_held", 1));
    // A share comes back when it is used no more.
    assert!(lb.give(&from_source("50.0.0.1", 1, 0, &FIRST)).is_some());
    lb.moved();
    lb.give(&from_source("50.0.0.1", 2, 24, &[0; 200]));
    assert_eq!(lb.moved()[2], ("fragment_held", 1));
}

/// The smallest fragments cost their sender least, and take as much of `held_packets` as any.
#[test]
fn a_source_of_tiny_fragments_evicts_no_other_source() {
    let limits = FragmentLimits::default();
    let mut lb = Lb::new(limits);
    for host in 1..=100 {
        lb.give(&from_source(&format!("51.0.0.{host}"), 1, 24, &[0; 8]));
    }
    for id in 0..3 {
        for piece in 1..=4000 {
            lb.give(&from_source("50.0.0.1", id, piece * 8, &[0; 8]));
        }
    }
    let counters = &lb.balancer.counters;
    assert_eq!(counters.get(Counter::FragmentEvicted), 0);
    // 16 MiB for 8192 are 2 KiB each, and a share is 1 MiB.
    assert_eq!(counters.get(Counter::FragmentHeld), 100 + 512);
    assert_eq!(counters.get(Counter::DropFragmentSource), 12_000 - 512);
    for host in 1..=100 {
        assert!(lb.give(&from_source(&format!("51.0.0.{host}"), 1, 0, &FIRST)).is_some());
    }
    assert_eq!(lb.released.len(), 100);
    // Once they are gone, so is their charge.
    lb.tick(limits.ttl_ms.into());
    lb.moved();
    for id in 0..4 {
        for piece in 1..=128 {
            lb.give(&from_source("50.0.0.1", id, piece * 8, &[0; 8]));
        }
    }
    assert_eq!(lb.moved()[2], ("fragment_held", 512));
}

#[test]
fn a_share_is_enough_for_one_fragment() {
    let limits =
        FragmentLimits { held_packets: 4, held_bytes: 100_000, held_bytes_per_source: 9216, ..SMALL };
    let mut lb = Lb::new(limits);
    for src in ["50.0.0.1", "50.0.0.2"] {
        lb.give(&from_source(src, 1, 24, &[0; 8]));
        assert!(lb.moved().contains(&("fragment_held", 1)));
        lb.give(&from_source(src, 1, 32, &[0; 8]));
        assert!(lb.moved().contains(&("drop_fragment_source", 1)));
    }
}

/// A host may use every address of its /64.
#[test]
fn an_ipv6_source_is_a_64() {
    let six = |src: &str, id, start| Piece { src, dst: "1000::", start, ..udp4(id, 0, true, &FIRST) }.bytes();
    let source = [("packets", 1), ("fragments", 1), ("drop_fragment_source", 1)];
    let mut lb = Lb::new(SMALL);
    for (id, src) in [(1, "2000::1"), (2, "2000::2"), (3, "2000::ffff:ffff:ffff:ffff")] {
        assert!(lb.give(&six(src, id, 0)).is_some());
    }
    lb.moved();
    assert_eq!(lb.give(&six("2000::4", 4, 0)), None);
    assert_eq!(lb.moved(), source);
    assert!(lb.give(&six("2000:0:0:1::4", 4, 0)).is_some());
    // What is held: 100 bytes each at least, 250 of a source.
    let mut lb = Lb::new(SMALL);
    for src in ["2000::1", "2000::2"] {
        lb.give(&six(src, 1, 24));
        assert!(lb.moved().contains(&("fragment_held", 1)));
    }
    lb.give(&six("2000::1", 1, 48));
    assert_eq!(lb.moved(), source);
    lb.give(&six("2000:0:0:1::1", 1, 24));
    assert!(lb.moved().contains(&("fragment_held", 1)));
}

#[test]
fn a_fragment_that_was_cut_cannot_be_held_but_steered() {
    let mut lb = Lb::new(SMALL);
    let cut_short = &later(1, 24, true)[..30];
    assert_eq!(lb.give(cut_short), None);
    assert_eq!(lb.moved(), [("packets", 1), ("fragments", 1), ("drop_fragment_full", 1)]);
    let mark = lb.give(&first(1)[..28]);
    assert!(mark.is_some());
    assert_eq!(lb.give(cut_short), mark);
}

#[test]
fn other_limits_make_another_table() {
    let mut lb = Lb::new(SMALL);
    lb.give(&later(1, 24, true));
    lb.give(&first(2));
    lb.moved();
    lb.forwarding = ready(&state(FragmentLimits { entries: 5, ..SMALL }));
    lb.give(&first(1));
    assert_eq!(
        lb.moved(),
        [
            ("packets", 1),
            ("fragments", 1),
            ("steered_fragment", 1),
            ("fragment_pinned", 1),
            ("fragment_evicted", 2),
            ("drop_fragment_evicted", 1),
            ("fragment_entries_now", -1),
            ("fragment_held_packets_now", -1),
            ("fragment_held_bytes_now", -LATER_BYTES)
        ]
    );
    assert_eq!(lb.released.len(), 0);
    lb.forwarding = ready(&state(FragmentLimits { entries: 5, ..SMALL }));
    assert!(lb.give(&later(1, 24, true)).is_some(), "the same limits, the same table");
    // No fragment is needed for it.
    lb.moved();
    lb.forwarding = ready(&state(SMALL));
    lb.tick(0);
    assert_eq!(lb.moved(), [("fragment_evicted", 1), ("fragment_entries_now", -1)]);
}

/// This balancer and two others, each with a target behind those of the backends.
pub(crate) fn with_tier(mut state: WholeState, own: &str) -> WholeState {
    for (name, address) in [("lb1", "192.168.1.201"), ("lb2", "192.168.1.202"), ("lb3", "192.168.1.203")] {
        let address: std::net::Ipv4Addr = address.parse().unwrap();
        let target = (name != own).then(|| {
            state.targets.push(Some(Path::Via(Encap::Gre, address.into())));
            TargetId::new(state.targets.len() - 1).unwrap()
        });
        let name = Name::new(name).unwrap();
        state.tier.push(TierMember {
            name,
            address: OuterAddresses { v4: Some(address), v6: None },
            target,
            admission: Admission::default(),
        });
    }
    state
}

#[test]
fn what_another_balancer_owns_is_sent_there_once() {
    let mut lb = Lb::new(SMALL);
    lb.forwarding = ready(&with_tier(state(SMALL), "lb1"));
    let sources: Vec<_> = (1..=60).map(|host| format!("50.0.0.{host}")).collect();
    let mut elsewhere = Vec::new();
    for src in &sources {
        let bytes = from_source(src, 1, 0, &FIRST);
        let key = Fragment::parse(&bytes).unwrap().unwrap().key;
        if let Owner::Member { mark, .. } = lb.forwarding.tier().owner(key.addresses, key.protocol) {
            elsewhere.push((src, bytes, mark));
        }
    }
    assert!((20..60).contains(&elsewhere.len()), "two thirds: {}", elsewhere.len());
    for (src, bytes, mark) in &elsewhere {
        assert_eq!(lb.give(bytes), Some(*mark));
        assert_eq!(lb.give(&from_source(src, 1, 24, &[0; 8])), Some(*mark), "without waiting for anything");
        assert_eq!(lb.moved(), [("packets", 2), ("fragments", 2), ("fragment_forwarded", 2)]);
    }
    let counted: u64 = lb.balancer.counters.targets().iter().sum();
    assert_eq!(counted, elsewhere.len() as u64, "of each packet the first fragment");
    assert_eq!(lb.pins.known().asked, [], "their owner asks connection tracking, and pins");
    // The same from another balancer is handled here.
    let (_, bytes, mark) = &elsewhere[0];
    let backend = lb.from(Origin::Tier, bytes).unwrap();
    assert_ne!(backend, *mark);
    assert_eq!(
        lb.moved(),
        [
            ("packets", 1),
            ("fragments", 1),
            ("steered_fragment", 1),
            ("fragment_pins", 1),
            ("fragment_from_tier", 1),
            ("fragment_entries_now", 1)
        ]
    );
}

#[test]
fn protocols_and_families_are_kept_apart() {
    let mut lb = Lb::new(SMALL);
    let tcp = Piece { protocol: 6, ..udp4(1, 24, true, &[0; 8]) };
    assert!(lb.give(&first(1)).is_some());
    assert_eq!(lb.give(&tcp.bytes()), None, "another protocol, another packet");
    let six = |protocol, start| {
        Piece { src: "2000::1", dst: "1000::", protocol, start, ..udp4(0x1_0001, 0, true, &FIRST) }.bytes()
    };
    let mark = lb.give(&six(17, 0));
    assert!(mark.is_some());
    // RFC 8200, 4.5: only the first fragment's next header counts.
    assert_eq!(lb.give(&six(60, 24)), mark);
    assert_eq!(whole(&lb.forwarding, &ip(17, "2000::1", "1000::", &FIRST)), mark);
}
