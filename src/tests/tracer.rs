//! Probes of the packet tracer, as the worker of fragments treats them.

use std::net::SocketAddr;

use super::{
    fragments::state,
    world::{Act, Event, FragmentLb, OUTSIDE},
};
use crate::model::{Admin, NoBackend, Override};
use crate::{
    balance::{
        Decision, Forwarding, Verdict,
        flow_table::FlowMark,
        tracer::{By, Trace},
    },
    config::TracerSettings,
    model::{
        Protocol, Steering,
        ids::{Generation, Mark},
    },
    packet::{Ports, Probe},
    state::State,
};

fn probe(protocol: Protocol, src: &str, dst: &str, port: u16) -> Probe {
    let probe = Probe::example(protocol, src, dst);
    Probe { ports: Ports { dst: port, ..probe.ports }, ttl: 61, ..probe }
}

fn datagram() -> Probe {
    probe(Protocol::Udp, "50.0.0.1", "10.0.0.0", 80)
}

/// A balancer that reports to 192.168.2.0/24.
fn lb() -> FragmentLb {
    lb_of(state())
}

fn lb_of(mut state: State) -> FragmentLb {
    let receivers = vec!["192.168.2.0/24".parse().unwrap(), "fd00:0:0:2::/64".parse().unwrap()];
    state.balancer.tracer = TracerSettings { receivers, per_second: 100 };
    FragmentLb::new(state)
}

/// Gives a probe: it is dropped first, and then reported.
fn give(lb: &mut FragmentLb, probe: &Probe) -> Option<(SocketAddr, Trace)> {
    let mut acts = lb.turn(Event::By(OUTSIDE, probe.bytes())).unwrap();
    assert_eq!(acts.remove(0), Act::Verdict(Verdict::Drop));
    let [Act::Report(receiver, report)] = &acts[..] else {
        assert_eq!(acts, []);
        return None;
    };
    assert!(report.len() <= Trace::BYTES_MAX);
    Some((*receiver, serde_json::from_str(report).unwrap()))
}

/// Name, target and mark of the backend that a new flow gets.
fn by_table(state: &State, probe: &Probe) -> (String, u32, u32) {
    let forwarding = Forwarding::new(state, Generation(1)).unwrap();
    match forwarding.decide(&probe.packet()) {
        Decision::Steered { service, rank, target, mark, .. } => {
            let backend = state.services[service].active().nth(rank.into()).unwrap();
            (backend.name.to_string(), target.number(), mark.0)
        }
        decision @ (Decision::NoService | Decision::NoBackend { .. } | Decision::Fragment { .. }) => {
            panic!("{decision:?}")
        }
    }
}

const REPORTED: [(&str, i64); 3] = [("packets", 1), ("probes", 1), ("probes_reported", 1)];

#[test]
fn a_probe_is_dropped_and_reported_about() {
    let mut lb = lb();
    for probe in [datagram(), probe(Protocol::Udp, "2000::1", "1000::", 80)] {
        let (receiver, trace) = give(&mut lb, &probe).unwrap();
        let (backend, target, mark) = by_table(&lb.state, &probe);
        assert_eq!(receiver, probe.receiver);
        assert_eq!((trace.nonce.0, trace.ttl, trace.generation), (probe.nonce, 61, 1));
        assert_eq!((trace.balancer.as_str(), trace.device.unwrap().as_str()), ("lb201", "eth2"));
        assert_eq!((trace.by, trace.backend.unwrap().as_str()), (By::Table, backend.as_str()));
        assert_eq!(trace.service.unwrap().as_str(), "web");
        let entry = trace.table.unwrap();
        assert_eq!((entry.backend.as_str(), entry.target, entry.mark), (backend.as_str(), target, mark));
        assert_eq!((entry.table_size, entry.active), (997, 4));
        assert_eq!((trace.pinned, trace.conntrack), (None, true));
        assert_eq!(lb.report.moved(), REPORTED);
        assert_eq!(lb.pins.known().len(), 0, "nothing is pinned by a probe");
    }
}

/// A mark of another target than the table's, with bits of others.
fn pin_elsewhere(lb: &FragmentLb, probe: &Probe) -> u32 {
    let (_, target, _) = by_table(&lb.state, probe);
    let other = if target == 1 { 2 } else { 1 };
    let pin = FlowMark { mark: Mark(0x5_0000 | other), left_seconds: Some(99) };
    lb.pins.known().set(&probe.packet(), pin);
    other
}

#[test]
fn a_datagram_follows_its_pin_and_a_syn_the_table() {
    let mut state = state();
    state.services[0].protocols = crate::model::Protocols::Named(Protocol::ALL.to_vec());
    let mut lb = lb_of(state);
    for protocol in Protocol::ALL {
        let probe = probe(protocol, "50.0.0.1", "10.0.0.0", 80);
        let (backend, ..) = by_table(&lb.state, &probe);
        let other = pin_elsewhere(&lb, &probe);
        let (_, trace) = give(&mut lb, &probe).unwrap();
        let pinned = trace.pinned.unwrap();
        assert_eq!((pinned.target, pinned.mark, pinned.left_seconds), (other, other, Some(99)));
        assert_eq!(pinned.backend.as_ref().unwrap().as_str(), format!("s{other}"));
        assert_eq!(pinned.service.unwrap().as_str(), "web");
        assert_eq!(trace.table.unwrap().backend.as_str(), backend);
        let (by, goes_to) = match protocol {
            Protocol::Tcp => (By::Table, backend),
            Protocol::Udp | Protocol::Sctp => (By::Pin, format!("s{other}")),
        };
        assert_eq!((trace.by, trace.backend.unwrap().as_str()), (by, goes_to.as_str()), "{protocol:?}");
    }
}

#[test]
fn a_pin_to_a_backend_that_is_inactive_or_gone() {
    let mut lb = lb();
    let other = pin_elsewhere(&lb, &datagram());
    lb.adopt(
        lb.state.set_admin(None, &[format!("s{other}")], &Override::unattributed(Admin::Draining)).unwrap(),
    );
    let (_, trace) = give(&mut lb, &datagram()).unwrap();
    assert_eq!((trace.by, trace.backend.unwrap().to_string()), (By::Pin, format!("s{other}")));
    let mut state = lb.state.clone();
    state.targets[usize::try_from(other).unwrap() - 1] = None;
    lb.adopt(state);
    let (_, trace) = give(&mut lb, &datagram()).unwrap();
    assert_eq!((trace.by, trace.pinned), (By::Table, None));
}

#[test]
fn every_packet_steering_has_no_pins() {
    let mut state = state();
    state.balancer.steering = Steering::EveryPacket;
    let mut lb = lb_of(state);
    pin_elsewhere(&lb, &datagram());
    let (_, trace) = give(&mut lb, &datagram()).unwrap();
    assert_eq!((trace.by, trace.pinned, trace.conntrack), (By::Table, None, true));
    assert_eq!(lb.pins.known().asked, []);
}

#[test]
fn what_would_be_dropped_is_reported_as_such() {
    let mut lb = lb();
    let (_, trace) = give(&mut lb, &probe(Protocol::Udp, "50.0.0.1", "10.0.0.0", 81)).unwrap();
    assert_eq!((trace.by, trace.backend, trace.service, trace.table), (By::NoService, None, None, None));
    let all = ["s1", "s2", "s3", "s4"].map(str::to_owned);
    lb.adopt(lb.state.set_admin(None, &all, &Override::unattributed(Admin::Draining)).unwrap());
    let (_, trace) = give(&mut lb, &datagram()).unwrap();
    assert_eq!((trace.by, trace.backend, trace.table), (By::NoBackend, None, None));
    assert_eq!((trace.service.unwrap().as_str(), trace.rejected), ("web", false));
    let mut rejecting = lb.state.clone();
    rejecting.services[0].no_backend = NoBackend::Reject;
    lb.adopt(rejecting);
    assert!(give(&mut lb, &datagram()).unwrap().1.rejected);
    lb.report.moved();
    lb.pins.known().broken = true;
    let (_, trace) = give(&mut lb, &datagram()).unwrap();
    assert!(!trace.conntrack);
    let with_error = [("conntrack_error", 1)];
    assert_eq!(lb.report.moved(), [&REPORTED[..], &with_error].concat());
}

#[test]
fn only_configured_receivers_get_reports() {
    let mut lb = lb();
    for receiver in
        ["192.168.3.221:5000", "192.168.2.221:1023", "[fd00:0:0:3::221]:5000", "[::ffff:9.9.9.9]:5000"]
    {
        let probe = Probe { receiver: receiver.parse().unwrap(), ..datagram() };
        assert_eq!(give(&mut lb, &probe), None);
        assert_eq!(lb.report.moved(), [("packets", 1), ("probes", 1), ("probes_refused", 1)], "{receiver}");
    }
    for receiver in ["192.168.2.221:1024", "[fd00:0:0:2::221]:5000"] {
        let probe = Probe { receiver: receiver.parse().unwrap(), ..datagram() };
        assert_eq!(give(&mut lb, &probe).unwrap().0, probe.receiver);
    }
    // By default there are no receivers.
    let mut lb = FragmentLb::new(state());
    assert_eq!(give(&mut lb, &datagram()), None);
    assert_eq!(lb.report.moved(), [("packets", 1), ("probes", 1), ("probes_refused", 1)]);
    assert_eq!(lb.pins.known().asked, []);
}

#[test]
fn a_damaged_probe_and_a_report_that_cannot_be_sent_are_counted() {
    let mut lb = lb();
    let mut damaged = datagram().bytes();
    damaged[40] ^= 1;
    assert_eq!(lb.turn(Event::By(OUTSIDE, damaged)).unwrap(), [Act::Verdict(Verdict::Drop)]);
    assert_eq!(lb.report.moved(), [("packets", 1), ("probes", 1), ("probes_malformed", 1)]);
    lb.outside.lock().unwrap().mute = true;
    assert_eq!(give(&mut lb, &datagram()), None);
    assert_eq!(lb.report.moved(), [("packets", 1), ("probes", 1), ("probes_unsent", 1)]);
}

#[test]
fn a_fragment_that_ends_like_a_probe_is_a_fragment() {
    let mut lb = lb();
    // The last of a datagram: others have a multiple of 8 bytes.
    let mut last = datagram().bytes();
    last[6..8].copy_from_slice(&[0, 3]);
    assert_eq!(lb.turn(Event::By(OUTSIDE, last)).unwrap(), [Act::Verdict(Verdict::Drop)]);
    let moved = lb.report.moved();
    assert!(moved.contains(&("fragments", 1)) && moved.contains(&("fragment_held", 1)), "{moved:?}");
    assert!(moved.iter().all(|(name, _)| !name.starts_with("probes")), "{moved:?}");
}

#[test]
fn the_longest_report_fits_its_datagram() {
    let longest = "n".repeat(crate::model::Name::BYTES_MAX);
    let mut state = state();
    let name = |end: &str| crate::model::Name::new(&format!("{}{end}", &longest[end.len()..])).unwrap();
    state.balancer.name = name("b");
    state.services[0].name = name("s");
    for (number, backend) in state.services[0].backends.iter_mut().enumerate() {
        backend.name = name(&number.to_string());
    }
    let mut lb = lb_of(state);
    let pin = FlowMark { mark: Mark(1), left_seconds: Some(u32::MAX) };
    lb.pins.known().set(&datagram().packet(), pin);
    let mut acts = lb.turn(Event::By(OUTSIDE, datagram().bytes())).unwrap();
    let Some(Act::Report(_, report)) = acts.pop() else { panic!("{acts:?}") };
    // The space left is enough for the longest numbers.
    assert!(report.len() + 200 < Trace::BYTES_MAX, "{}", report.len());
}
