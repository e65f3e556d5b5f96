//! What balancers do, packet by packet.

use std::collections::BTreeMap;

use super::{
    bytes::{ip, packet, syn},
    world::{Event, Lb},
};
use crate::{
    balance::{
        Verdict,
        pins::{Flow, Held},
    },
    io::QueueError,
    packet::Packet,
};

const CONFIG: &str = "
    [balancer]
    name = 'lb201'
    address = ['192.168.1.201', 'fd00:0:0:1::201']
    interfaces = ['eth2']
    [[service]]
    name = 'web'
    vips = ['10.0.0.0/32', '1000::/128']
    protocols = ['tcp', 'udp']
    ports = ['80']
    table_size = 997
    backend = [ { name = 's1', address = '192.168.1.1' }, { name = 's2', address = '192.168.1.2' },
                { name = 's3', address = '192.168.1.3' }, { name = 's4', address = 'fd00:0:0:1::4' } ]
    [[service]]
    name = 'affine'
    vips = ['10.0.0.1']
    protocols = ['tcp']
    hash = 'source'
    table_size = 997
    backend = [ { name = 's1', address = '192.168.1.1' }, { name = 's2', address = '192.168.1.2' } ]
    [[service]]
    name = 'any'
    vips = ['10.0.0.2']
    table_size = 97
    backend = [ { name = 's1', address = '192.168.1.1' } ]
";

#[test]
fn every_packet_gets_one_verdict_and_moves_exactly_its_counters() {
    let mut lb = Lb::new(CONFIG);
    let steer = |lb: &mut Lb, bytes| lb.turn(Event::Packet(bytes)).unwrap().unwrap();
    for (bytes, steered, counter) in [
        (syn("50.0.0.1", 1, "10.0.0.0", 80), true, "steered_syn"),
        (syn("2000::1", 1, "1000::", 80), true, "steered_syn"),
        (packet(6, "50.0.0.1", 1, "10.0.0.0", 80, 0x10), true, "steered_midstream"),
        (packet(17, "50.0.0.1", 1, "10.0.0.0", 80, 0), true, "steered_udp"),
        (packet(132, "50.0.0.1", 1, "10.0.0.2", 80, 0), true, "steered_sctp"),
        (packet(47, "50.0.0.1", 1, "10.0.0.2", 80, 0), true, "steered_other"),
        (syn("50.0.0.1", 1, "10.0.0.0", 81), false, "drop_no_service"),
        (packet(132, "50.0.0.1", 1, "10.0.0.0", 80, 0), false, "drop_no_service"),
        ([&[0x46], &syn("50.0.0.1", 1, "10.0.0.0", 80)[1..20]].concat(), false, "drop_ip_header"),
        (syn("50.0.0.1", 1, "10.0.0.0", 80)[..30].to_vec(), false, "drop_l4_header"),
    ] {
        assert_eq!(matches!(steer(&mut lb, bytes), Verdict::Steer(_)), steered, "{counter}");
        assert_eq!(lb.moved(), [("packets", 1), (counter, 1)]);
    }
    // What a rule of another program sends to our queue, be it whole, malformed, a fragment or no IP at all.
    let dns = packet(17, "10.0.0.0", 4000, "192.168.2.254", 53, 0);
    let mut fragment = dns.clone();
    fragment[6] = 0x20;
    for bytes in [
        syn("50.0.0.1", 1, "10.0.0.9", 80),
        syn("2000::1", 1, "1000::9", 80),
        dns.clone(),
        fragment,
        dns[..24].to_vec(),
        dns[..19].to_vec(),
        vec![0, 1, 8, 0, 6, 4, 0, 1],
        vec![],
    ] {
        assert_eq!(steer(&mut lb, bytes.clone()), Verdict::Pass, "{bytes:?}");
        assert_eq!(lb.moved(), [("packets", 1), ("foreign", 1)]);
    }
    assert_eq!(lb.turn(Event::Nothing).unwrap(), None);
    assert_eq!(lb.moved(), []);
}

/// An error of some router about an answer: it goes where the question's packets go, whichever balancer knows the flow.
#[test]
fn icmp_errors_and_pings_find_their_backend() {
    let mut lb = Lb::new(CONFIG);
    for port in 1..=50 {
        let owner = lb.steer(packet(6, "50.0.0.1", port, "10.0.0.0", 80, 0x10));
        let answer = packet(6, "10.0.0.0", 80, "50.0.0.1", port, 0x10);
        let message = [&[3, 4, 0, 0, 0, 0, 5, 0x14], &answer[..28]].concat();
        lb.moved();
        assert_eq!(lb.steer(ip(1, "192.0.2.1", "10.0.0.0", &message)), owner);
        assert_eq!(lb.moved(), [("packets", 1), ("steered_icmp_error", 1)]);
    }
    let foreign = packet(6, "10.0.0.9", 80, "50.0.0.1", 1, 0x10);
    let message = [&[3, 4, 0, 0, 0, 0, 5, 0x14], &foreign[..28]].concat();
    assert_eq!(lb.steer(ip(1, "192.0.2.1", "10.0.0.0", &message)), None);
    assert_eq!(lb.moved(), [("packets", 1), ("drop_icmp_quote", 1)]);
    let ping = |id| ip(58, "2000::1", "1000::", &[128, 0, 0, 0, 0, id, 0, 1]);
    let owner = lb.steer(ping(7));
    assert!(owner.is_some());
    assert_eq!(lb.steer(ping(7)), owner);
    assert_eq!(lb.moved(), [("packets", 2), ("steered_echo", 2)]);
    let spread: std::collections::BTreeSet<_> = (0..50).map(|id| lb.steer(ping(id))).collect();
    assert_eq!(spread.len(), 4, "by the identifier");
}

#[test]
fn the_hash_is_of_the_fields_that_the_service_names() {
    let mut lb = Lb::new(CONFIG);
    let flow = lb.steer(syn("50.0.0.1", 7, "10.0.0.0", 80));
    for _ in 0..3 {
        assert_eq!(lb.steer(syn("50.0.0.1", 7, "10.0.0.0", 80)), flow, "a flow stays");
        assert_eq!(
            lb.steer(packet(6, "50.0.0.1", 7, "10.0.0.0", 80, 0x18)),
            flow,
            "and its middle goes there too"
        );
    }
    let mut ports = BTreeMap::new();
    let mut affine = BTreeMap::new();
    for port in 1..=400 {
        *ports.entry(lb.steer(syn("50.0.0.1", port, "10.0.0.0", 80)).unwrap()).or_insert(0) += 1;
        *affine.entry(lb.steer(syn("50.0.0.1", port, "10.0.0.1", port)).unwrap()).or_insert(0) += 1;
    }
    assert_eq!(ports.len(), 4, "ports spread over all: {ports:?}");
    assert!(ports.values().all(|&count| (60..=140).contains(&count)), "{ports:?}");
    assert_eq!(affine.into_values().collect::<Vec<_>>(), [400], "one client, one backend");
}

#[test]
fn a_deactivated_backend_gets_nothing_new_and_others_keep_almost_all() {
    let mut lb = Lb::new(CONFIG);
    let flows: Vec<_> = (1..=1000).map(|port| syn("50.0.0.1", port, "10.0.0.0", 80)).collect();
    let owners = |lb: &mut Lb| flows.iter().map(|flow| lb.steer(flow.clone()).unwrap()).collect::<Vec<_>>();
    let before = owners(&mut lb);
    lb.deactivate("s2");
    let without = owners(&mut lb);
    assert!(!without.contains(&"web/s2".to_owned()));
    let moved = before.iter().zip(&without).filter(|(b, w)| *b != "web/s2" && b != w).count();
    assert!(moved < 50, "{moved} of 1000 flows moved besides those of s2");
    lb.activate("s2");
    assert_eq!(owners(&mut lb), before, "the same set, the same table");
}

/// Packets that the kernel has no mark for: the flow has just been put into its maps, or it cannot know which flow they belong to.
#[test]
fn packets_amid_an_off_table_flow_and_errors_about_it_follow_it() {
    let mut lb = Lb::new(CONFIG);
    let (amid, opens) = (packet(6, "50.0.0.1", 7, "10.0.0.0", 80, 0x10), syn("50.0.0.1", 7, "10.0.0.0", 80));
    let Some(Verdict::Steer(mark)) = lb.turn(Event::Packet(amid.clone())).unwrap() else { panic!() };
    let owner = lb.steer(amid.clone());
    let backend = owner.as_deref().unwrap().strip_prefix("web/").unwrap().to_owned();
    lb.deactivate(&backend);
    assert_ne!(lb.steer(amid.clone()), owner, "by the table");
    let flow = Flow::of(&Packet::parse(&amid).unwrap()).unwrap();
    lb.know([(flow, Held { mark, closing: false, left_seconds: 60 })].into_iter().collect());
    lb.moved();
    assert_eq!(lb.steer(amid), owner);
    assert_eq!(lb.moved(), [("packets", 1), ("steered_midstream", 1), ("followed_off_table", 1)]);
    let answer = packet(6, "10.0.0.0", 80, "50.0.0.1", 7, 0x12);
    let error = [&[3, 4, 0, 0, 0, 0, 5, 0x14], &answer[..34]].concat();
    assert_eq!(lb.steer(ip(1, "192.0.2.1", "10.0.0.0", &error)), owner);
    assert_eq!(lb.moved(), [("packets", 1), ("steered_icmp_error", 1), ("followed_off_table", 1)]);
    assert_ne!(lb.steer(opens), owner, "a SYN that the kernel hands over begins a connection");
    assert_ne!(lb.steer(packet(17, "50.0.0.1", 7, "10.0.0.0", 80, 0)), None, "another flow");
    assert_eq!(lb.moved(), [("packets", 2), ("steered_syn", 1), ("steered_udp", 1)]);
}

#[test]
fn without_backends_packets_are_dropped_and_counted() {
    let mut lb = Lb::new(CONFIG);
    lb.deactivate("s1");
    assert_eq!(lb.steer(syn("50.0.0.1", 1, "10.0.0.2", 9)), None);
    assert_eq!(lb.moved(), [("packets", 1), ("drop_no_backend", 1)]);
    assert!(lb.steer(syn("50.0.0.1", 1, "10.0.0.0", 80)).is_some(), "other services go on");
}

#[test]
fn two_balancers_of_different_histories_agree_on_every_flow() {
    let (mut ours, mut theirs) = (Lb::new(CONFIG), Lb::new(CONFIG));
    for (lb, backends) in [(&mut ours, ["s3", "s1"]), (&mut theirs, ["s1", "s3"])] {
        for backend in backends {
            lb.deactivate(backend);
        }
    }
    theirs.activate("s1");
    theirs.deactivate("s4");
    theirs.activate("s4");
    ours.activate("s1");
    for port in 1..=500 {
        let flow = syn("2000::9", port, "1000::", 80);
        assert_eq!(ours.steer(flow.clone()), theirs.steer(flow));
    }
}

#[test]
fn no_error_of_the_socket_ends_a_worker_but_a_queue_that_is_gone() {
    let mut lb = Lb::new(CONFIG);
    let other = || QueueError::Other(std::io::Error::other("strange"));
    for (error, counter) in [
        (QueueError::Overrun, "socket_overrun"),
        (QueueError::TooLate, "verdict_too_late"),
        (other(), "socket_error"),
    ] {
        assert_eq!(lb.turn(Event::Fails(error)).unwrap(), None);
        assert_eq!(lb.moved(), [(counter, 1)]);
    }
    lb.fail_next_answer([QueueError::TooLate, other(), QueueError::TooLate]);
    assert!(lb.steer(syn("50.0.0.1", 1, "10.0.0.0", 80)).is_some());
    let moved = [("packets", 1), ("steered_syn", 1), ("verdict_too_late", 2), ("socket_error", 1)];
    assert_eq!(lb.moved(), moved);
    let gone = QueueError::Closed(std::io::Error::from_raw_os_error(1));
    assert!(lb.turn(Event::Fails(gone)).is_err());
    lb.fail_next_answer([QueueError::Closed(std::io::Error::from_raw_os_error(19))]);
    assert!(lb.turn(Event::Packet(syn("50.0.0.1", 1, "10.0.0.0", 80))).is_err());
}

#[test]
fn a_batch_is_answered_at_once_and_in_order() {
    let mut lb = Lb::new(CONFIG);
    let syns: Vec<_> = (1..=25).map(|port| syn("50.0.0.1", port, "10.0.0.0", 80)).collect();
    let owners: Vec<_> =
        syns.iter().map(|syn| lb.turn(Event::Packet(syn.clone())).unwrap().unwrap()).collect();
    lb.moved();
    assert_eq!(lb.turns(syns), (owners, 3), "two batches, and what was left");
    assert_eq!(lb.moved(), [("packets", 25), ("steered_syn", 25)]);
}

#[test]
fn a_worker_that_stops_answers_what_waits_and_not_for_ever() {
    let syns: Vec<_> = (1..=30).map(|port| syn("50.0.0.1", port, "10.0.0.0", 80)).collect();
    assert_eq!(Lb::new(CONFIG).stop(syns.clone(), None, 100), 30);
    assert_eq!(Lb::new(CONFIG).stop(syns.clone(), syns.last().cloned(), 100), 100);
}

#[test]
fn marks_of_one_target_are_the_same_for_all_its_services() {
    let mut lb = Lb::new(CONFIG);
    let mut marks = BTreeMap::new();
    for (dst, port) in [("10.0.0.2", 0), ("10.0.0.1", 80), ("10.0.0.0", 80)] {
        for sport in 1..=100 {
            let Some(Verdict::Steer(mark)) =
                lb.turn(Event::Packet(syn("50.0.0.9", sport, dst, port))).unwrap()
            else {
                panic!("{dst} is not steered");
            };
            let target = lb.state.balancer.mark_mask.target(mark).unwrap();
            let path = lb.state.path(target).unwrap();
            assert_eq!(*marks.entry(path).or_insert(mark), mark);
        }
    }
    assert_eq!(marks.len(), 4);
}
