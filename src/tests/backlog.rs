//! Many held fragments are released at once.

use std::{collections::VecDeque, time::Duration};

use super::{
    bytes::Piece,
    fragments::{ETH, state},
    world::{Act, Event, FragmentLb, TUN},
};
use crate::{balance::Verdict, config::FragmentLimits};

/// The `index`th fragment of a packet that has one more behind it at least.
fn piece(id: u32, index: usize) -> Vec<u8> {
    let payload = [0, 1, 0, 80, 0, 0, 0, 0];
    let piece = Piece {
        src: "50.0.0.1",
        dst: "10.0.0.0",
        protocol: 17,
        id,
        start: index * 8,
        more: true,
        payload: &payload,
    };
    piece.bytes()
}

/// A balancer where one source may have all that is held.
fn lb(held_packets: u32) -> FragmentLb {
    let mut state = state();
    let FragmentLimits { held_bytes, .. } = state.balancer.fragments;
    let limits = &mut state.balancer.fragments;
    *limits = FragmentLimits { held_packets, held_bytes_per_source: held_bytes, ..*limits };
    FragmentLb::new(state)
}

/// Gives later fragments of a packet, and then the first one. Says what was sent in at once.
fn release(lb: &mut FragmentLb, id: u32, later: usize) -> Vec<Vec<u8>> {
    for index in 1..=later {
        assert_eq!(lb.turn(Event::By(ETH, piece(id, index))).unwrap(), [Act::Verdict(Verdict::Drop)]);
    }
    let acts = lb.turn(Event::By(ETH, piece(id, 0))).unwrap();
    assert!(matches!(acts[0], Act::Verdict(Verdict::Steer(_))), "the verdict comes first");
    injected(acts)
}

fn injected(acts: Vec<Act>) -> Vec<Vec<u8>> {
    let bytes = |act| match act {
        Act::Injected(bytes) => Some(bytes),
        Act::Verdict(_) | Act::Report(..) => None,
    };
    acts.into_iter().filter_map(bytes).collect()
}

fn moved(lb: &mut FragmentLb, name: &str) -> i64 {
    lb.report.moved().into_iter().find(|&(moved, _)| moved == name).map_or(0, |(_, by)| by)
}

/// The queue that they come back through takes 100.
#[test]
fn all_come_back_through_a_small_queue() {
    let mut lb = lb(8192);
    let mut queue = VecDeque::new();
    let arrive = |queue: &mut VecDeque<_>, sent: Vec<Vec<u8>>| {
        queue.extend(sent);
        assert!(queue.len() <= 100, "the kernel loses the rest");
    };
    let mut order = Vec::new();
    arrive(&mut queue, release(&mut lb, 1, 3000));
    while let Some(bytes) = queue.pop_front() {
        let acts = lb.turn(Event::By(TUN, bytes.clone())).unwrap();
        assert!(matches!(acts[0], Act::Verdict(Verdict::Steer(_))));
        arrive(&mut queue, injected(acts));
        order.push(bytes);
    }
    assert_eq!(order, (1..=3000).map(|index| piece(1, index)).collect::<Vec<_>>());
    let moved = lb.report.moved();
    for expected in [("packets", 6001), ("steered_fragment", 3001), ("fragment_injected", 3000)] {
        assert!(moved.contains(&expected), "{moved:?}");
    }
}

#[test]
fn those_that_are_lost_are_not_waited_for() {
    let mut lb = lb(8192);
    assert_eq!(release(&mut lb, 1, 300).len(), 64);
    // The queue is empty, so those that were sent in are lost.
    assert_eq!(injected(lb.turn(Event::Nothing).unwrap()).len(), 64);
    // A queue that is never empty: they are lost after 50 ms.
    let other = |id| Event::By(ETH, piece(id, 0));
    assert_eq!(injected(lb.turn(other(2)).unwrap()).len(), 0);
    lb.outside.lock().unwrap().now = Duration::from_millis(49);
    assert_eq!(injected(lb.turn(other(3)).unwrap()).len(), 0);
    assert_eq!(injected(lb.turn(Event::By(TUN, piece(1, 1))).unwrap()).len(), 1);
    lb.outside.lock().unwrap().now = Duration::from_millis(98);
    assert_eq!(injected(lb.turn(other(4)).unwrap()).len(), 0);
    lb.outside.lock().unwrap().now = Duration::from_millis(99);
    assert_eq!(injected(lb.turn(other(5)).unwrap()).len(), 64);
    // A clock that jumps back.
    lb.outside.lock().unwrap().now = Duration::ZERO;
    assert_eq!(injected(lb.turn(other(6)).unwrap()).len(), 0);
    lb.outside.lock().unwrap().now = Duration::from_millis(50);
    assert_eq!(injected(lb.turn(other(7)).unwrap()).len(), 64);
    assert_eq!(injected(lb.turn(Event::Nothing).unwrap()).len(), 300 - 4 * 64 - 1);
    assert_eq!(injected(lb.turn(Event::Nothing).unwrap()).len(), 0);
    assert_eq!(moved(&mut lb, "fragment_injected"), 300);
}

#[test]
fn no_more_wait_than_may_be_held() {
    let mut lb = lb(200);
    assert_eq!(release(&mut lb, 1, 200).len(), 64);
    assert_eq!(moved(&mut lb, "fragment_inject_failed"), 0);
    // 136 wait, and of 100 others 64 find room.
    assert_eq!(release(&mut lb, 2, 100).len(), 0);
    assert_eq!(moved(&mut lb, "fragment_inject_failed"), 36);
    let mut sent = 64;
    while let more @ 1.. = injected(lb.turn(Event::Nothing).unwrap()).len() {
        sent += more;
    }
    assert_eq!(sent, 264);
    // There is room again.
    assert_eq!(release(&mut lb, 3, 200).len(), 64);
    assert_eq!(moved(&mut lb, "fragment_inject_failed"), 0);
}

#[test]
fn no_more_bytes_wait_than_may_be_held() {
    let mut lb = lb(8192);
    let large = |id, start, more| {
        let payload = [&[0, 1, 0, 80, 0, 0, 0, 0][..], &[0; 8992]].concat();
        let piece =
            Piece { src: "50.0.0.1", dst: "10.0.0.0", protocol: 17, id, start, more, payload: &payload };
        Event::By(ETH, piece.bytes())
    };
    // 9020 bytes each, and 16 MiB are 1860 of them.
    for id in 0..400 {
        for index in 1..=6 {
            lb.turn(large(id, index * 9000, true)).unwrap();
        }
        lb.turn(large(id, 0, true)).unwrap();
    }
    assert_eq!(moved(&mut lb, "fragment_inject_failed"), 2400 - 64 - 1860);
}

#[test]
fn a_device_that_takes_nothing_empties_it() {
    let mut lb = lb(8192);
    assert_eq!(release(&mut lb, 1, 300).len(), 64);
    lb.outside.lock().unwrap().tun_full = true;
    lb.turn(Event::Nothing).unwrap();
    assert_eq!(moved(&mut lb, "fragment_inject_failed"), 300 - 64);
}

#[test]
fn a_worker_that_stops_sends_in_the_rest() {
    let mut lb = lb(8192);
    assert_eq!(release(&mut lb, 1, 300).len(), 64);
    assert_eq!(injected(lb.stop(None, 100)).len(), 300 - 64);
}

#[test]
fn a_worker_stops_while_fragments_keep_coming() {
    let acts = lb(8192).stop(Some(piece(1, 1)), 100);
    assert_eq!(acts, vec![Act::Verdict(Verdict::Drop); 100]);
}
