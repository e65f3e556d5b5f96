//! Packets of new flows, received and answered in batches.

use std::{collections::BTreeSet, time::Duration};

use nix::time::{ClockId, clock_gettime};

use super::{
    steering::{Lb, SYN, VIPS, tcp},
    *,
};
use crate::{
    balance::Verdict,
    io::{BatchQueue as _, QueueError},
    model::{Steering, ids::Mark},
    sys::{clock::now, namespace::shell},
};

/// Notes with which mark each flow leaves.
const NOTES: &str = "table inet notes {
    set left { typeof tcp sport . meta mark; size 4096; flags dynamic; }
    chain leaving { type filter hook forward priority 1; add @left { tcp sport . meta mark }; }
    }";

/// Several batches.
const BURST: u16 = 200;

fn syn(port: u16) -> Vec<u8> {
    tcp(VIPS[usize::from(port % 2)], port, SYN)
}

fn verdict(port: u16) -> Verdict {
    match port % 3 {
        0 => Verdict::Steer(Mark(3)),
        1 => Verdict::Steer(Mark(4)),
        _ => Verdict::Drop,
    }
}

fn port_of(queued: &[u8]) -> u16 {
    let header = if queued[0] >> 4 == 4 { 20 } else { 40 };
    u16::from_be_bytes(*queued[header..].first_chunk().unwrap())
}

/// The flows that have left, by their ports, and with which mark.
fn left() -> BTreeSet<(u64, u64)> {
    let json = nft("a listing", &["-j", "list", "set", "inet", "notes", "left"], None).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let noted = json["nftables"][1]["set"]["elem"].as_array().cloned().unwrap_or_default();
    let number = |flow: &serde_json::Value, at: usize| flow["concat"][at].as_u64().unwrap();
    noted.iter().map(|flow| (number(flow, 0), number(flow, 1))).collect()
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn each_packet_of_a_burst_gets_its_own_verdict_and_mark() {
    in_namespace(|| {
        let mut lb = Lb::new(Steering::SynOnly, "client");
        nft("a test", &["-f", "-"], Some(NOTES)).unwrap();
        let mut queue = lb.queue.take().unwrap();
        // A lone one is not kept waiting for others, for which a batch has room. A busy machine may delay
        // some.
        let took = [3, 6, 9].map(|port| {
            lb.send(&syn(port));
            let began = now();
            assert_eq!(queue.receive(Duration::ZERO).unwrap(), 1);
            assert!(queue.answer(|_| verdict(port)).is_empty());
            now() - began
        });
        assert!(took.iter().any(|took| *took < Duration::from_millis(100)), "{took:?}: a time limit");
        assert_eq!(left(), [3, 6, 9].map(|port| (port, 0x10003)).into());

        let ports = 1000..1000 + BURST;
        ports.clone().for_each(|port| lb.send(&syn(port)));
        queue.wait_no_more();
        let (mut seen, mut calls) = (Vec::new(), 0);
        while queue.receive(Duration::ZERO).unwrap() > 0 {
            let errors = queue.answer(|queued| {
                seen.push(port_of(queued));
                verdict(port_of(queued))
            });
            assert!(errors.is_empty(), "{errors:?}");
            calls += 2; // to receive, and to answer
        }
        assert!(ports.clone().eq(seen), "in the order in which they came");
        assert!(calls * 10 < BURST, "{calls} system calls");
        let steered = ports.chain([3, 6, 9]).filter_map(|port| match verdict(port) {
            Verdict::Steer(Mark(mark)) => Some((port.into(), u64::from(0x10000 | mark))),
            Verdict::Pass | Verdict::Drop => None,
        });
        assert_eq!(left(), steered.collect());
    });
}

/// The processor's time that this thread has had.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn a_queue_that_is_busy_polled_does_not_sleep() {
    in_namespace(|| {
        let mut lb = Lb::new(Steering::SynOnly, "client");
        nft("a test", &["-f", "-"], Some(NOTES)).unwrap();
        let mut queue = lb.queue.take().unwrap();
        let mut waited = |busy_poll| {
            let began = cpu_time();
            assert_eq!(queue.receive(busy_poll).unwrap(), 0);
            cpu_time() - began
        };
        let (asleep, awake) = (waited(Duration::ZERO), waited(Duration::from_millis(200)));
        // Compared with each other: on an emulated machine a system call alone takes milliseconds.
        assert!(awake > Duration::from_millis(20) && asleep * 4 < awake, "{asleep:?} {awake:?}");
        lb.send(&syn(3));
        assert_eq!(queue.receive(Duration::from_millis(200)).unwrap(), 1);
        assert!(queue.answer(|_| verdict(3)).is_empty());
        assert_eq!(left(), [(3, 0x10003)].into());
        // Nor does it wait at its end.
        queue.wait_no_more();
        let began = now();
        assert_eq!(queue.receive(Duration::from_secs(5)).unwrap(), 0);
        assert!(now() - began < Duration::from_secs(4));
    });
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn errors_of_the_kernel_about_a_batch_are_returned() {
    in_namespace(|| {
        let mut lb = Lb::new(Steering::SynOnly, "client");
        let mut queue = lb.queue.take().unwrap();
        queue.wait_no_more();
        // More than the socket holds: the others go on undecided, and that is reported once.
        queue.narrow();
        (0..BURST).for_each(|port| lb.send(&syn(port)));
        let (mut overruns, mut taken) = (0, 0);
        loop {
            match queue.receive(Duration::ZERO) {
                Ok(0) => break,
                Ok(_) => assert!(
                    queue
                        .answer(|_| {
                            taken += 1;
                            verdict(0)
                        })
                        .is_empty()
                ),
                Err(QueueError::Overrun) => overruns += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
        assert!(overruns == 1 && (1..BURST).contains(&taken), "{overruns} overruns, {taken} taken");
        // Where a device goes down, its packets are dropped from the queue: one error for each verdict.
        [1001, 1002].iter().for_each(|&port| lb.send(&syn(port)));
        assert_eq!(queue.receive(Duration::ZERO).unwrap(), 2);
        shell("ip link set client down");
        assert!(queue.answer(|_| verdict(0)).is_empty());
        assert_eq!(queue.receive(Duration::ZERO).unwrap(), 2);
        let errors = queue.answer(|_| panic!("there is no packet"));
        assert!(matches!(&errors[..], [QueueError::TooLate, QueueError::TooLate]), "{errors:?}");
        assert_eq!(queue.receive(Duration::ZERO).unwrap(), 0);
    });
}
