//! What the connection mark says of a flow, how long its entry lives, and SYNs that come again.

use std::time::Duration;

use super::{
    packets::{counted_by, ruleset_for},
    steering::{ACK, Lb, SYN, VIPS, client_of, left, packets_of, tcp, udp},
    *,
};
use crate::{
    balance::flow_table::{FlowMark, FlowTable as _},
    model::{Steering, ids::Mark},
    packet::Packet,
    plan::elements::Element,
    sys::{clock::wait_for, conntrack::Conntrack},
};

const FIN: u8 = 1;
const RST: u8 = 4;
/// Counts what leaves with a mark of exactly 3, as it has where no other program sets bits.
const PLAIN: &str = "table inet plain { counter three { }
    chain leaving { type filter hook forward priority 1; meta mark 3 counter name three; }
    }";

/// The entry of this packet's flow.
fn entry(bytes: &[u8]) -> FlowMark {
    Conntrack::open().unwrap().lookup(&Packet::parse(bytes).unwrap()).unwrap().expect("an entry")
}

/// An RST may be forged, and the kernel ends an entry at once that is not protected yet.
#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn a_young_connection_that_an_rst_has_ended_goes_on_where_it_was() {
    in_namespace(|| {
        let mut lb = Lb::new(Steering::SynOnly, "client");
        for vip in VIPS {
            let [before, _, _] = left();
            lb.steer(&tcp(vip, 7, SYN), Mark(3));
            for flags in [ACK, ACK, RST, ACK, ACK] {
                lb.send(&tcp(vip, 7, flags));
            }
            assert_eq!(left()[0] - before, 6, "{vip}: all go to the same target");
        }
        assert_eq!(["queued_syn", "queued_midstream"].map(counted_by), [2, 0]);
    });
}

#[test]
#[ignore = "needs root, nf_tables, nf_conntrack_netlink, nfnetlink_queue and /dev/net/tun"]
fn three_packets_are_counted_in_the_connection_mark_and_in_no_packets() {
    in_namespace(|| {
        let (second, kept) = (MarkMask::DEFAULT.second(), MarkMask::DEFAULT.kept());
        let mut lb = Lb::new(Steering::SynOnly, "client");
        nft("a test", &["-f", "-"], Some(PLAIN)).unwrap();
        for others in [0x10000, 0] {
            if others == 0 {
                nft("a test", &["flush", "chain", "inet", "t", "before"], None).unwrap();
            }
            for (vip, round) in VIPS.into_iter().zip(0..) {
                let port = 10 * u16::from(others == 0);
                let before = (left()[0], packets_of("plain", "three"));
                lb.steer(&tcp(vip, port + 1, SYN), Mark(others | 3));
                let handshake = counted_by("handshake");
                for (flow, queued) in [
                    (tcp(vip, port + 1, ACK), false),
                    (tcp(vip, port + 2, ACK), true),
                    (udp(vip, port + 3), true),
                ] {
                    for bits in [0, second, second | kept, second | kept, second | kept] {
                        if bits == 0 && queued {
                            lb.steer(&flow, Mark(others | 3));
                        } else {
                            lb.send(&flow);
                        }
                        assert_eq!(entry(&flow).mark, Mark(others | 3 | bits), "{vip} {others:#x}");
                    }
                }
                assert_eq!(counted_by("handshake"), handshake + 1);
                let after = (left()[0] - before.0, packets_of("plain", "three") - before.1);
                assert_eq!(after, if others == 0 { (0, 16) } else { (16, 0) }, "{vip} {round}");
            }
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables, nf_conntrack_netlink, nfnetlink_queue and /dev/net/tun"]
fn a_flow_that_lost_its_target_is_counted_anew() {
    in_namespace(|| {
        let mut lb = Lb::new(Steering::SynOnly, "client");
        let mut state = state();
        state.balancer.queues = QueueRange::new(0, 0).unwrap();
        for vip in VIPS {
            let flow = tcp(vip, 1, ACK);
            lb.steer(&flow, Mark(3));
            lb.send(&flow);
            lb.send(&flow);
            let mut ruleset = ruleset_for(&state, "client");
            let mut elements = Elements::default();
            for set in SetName::ALL {
                for element in ruleset.elements.of(set) {
                    if !matches!(element, Element::Mark(3) | Element::Kept(_, 3)) {
                        elements.insert(set, element.clone());
                    }
                }
            }
            ruleset.elements = elements;
            apply(&ruleset).unwrap();
            lb.steer(&flow, Mark(4));
            assert_eq!(entry(&flow).mark, Mark(0x10004));
            lb.send(&flow);
            assert_eq!(entry(&flow).mark, Mark(0x10004 | MarkMask::DEFAULT.second()));
            apply(&ruleset_for(&state, "client")).unwrap();
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables, nf_conntrack_netlink, nfnetlink_queue and /dev/net/tun"]
fn lifetimes_are_short_until_lbd_lengthens_them() {
    in_namespace(|| {
        let mut lb = Lb::new(Steering::SynOnly, "client");
        for vip in VIPS {
            let (open, other, end) = (tcp(vip, 1, ACK), udp(vip, 2), tcp(vip, 1, ACK | FIN));
            let lives = |flow: &[u8]| entry(flow).left_seconds.unwrap();
            lb.steer(&tcp(vip, 1, SYN), Mark(3));
            lb.send(&open);
            assert!((50..=60).contains(&lives(&open)), "{vip}: {}", lives(&open));
            for _ in 0..4 {
                lb.send(&open);
                assert!((290..=300).contains(&lives(&open)), "{vip}: {}", lives(&open));
            }
            lb.send(&end);
            assert!((230..=240).contains(&lives(&open)), "{vip}: {}", lives(&open));
            lb.steer(&other, Mark(3));
            for _ in 0..4 {
                assert!((20..=30).contains(&lives(&other)), "{vip}: {}", lives(&other));
                lb.send(&other);
            }
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn a_syn_that_comes_again_goes_where_the_first_went() {
    in_namespace(|| {
        let mut lb = Lb::new(Steering::SynOnly, "client");
        let mut state = state();
        state.balancer.queues = QueueRange::new(0, 0).unwrap();
        let pending = |vip: &str| {
            let map = if vip.contains(':') { "pending6" } else { "pending4" };
            let json = nft("a listing", &["-j", "list", "map", "inet", TABLE, map], None).unwrap();
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            json["nftables"][1]["map"]["elem"][0][0]["elem"]["expires"].as_u64()
        };
        for (vip, round) in VIPS.into_iter().zip(1..) {
            let syn = tcp(vip, 1, SYN);
            let before = left();
            lb.steer(&syn, Mark(3));
            // Time passes: what is pending has less than 9 s left.
            let older = || (pending(vip).expect("it is pending") < 9).then_some(());
            wait_for(Duration::from_secs(5), Duration::from_millis(50), older).expect("it grows older");
            lb.send(&syn);
            assert_eq!((counted_by("syn_again"), counted_by("queued_syn")), (round, 2 * round - 1), "{vip}");
            assert!(pending(vip).expect("it is pending") >= 9, "{vip}: for another 10 s");
            assert_eq!(left()[0], before[0] + 2, "{vip}");
            // Its target is removed: it is asked about.
            let without = format!("delete element inet {TABLE} targets {{ 3 }}\n");
            nft("a test", &["-f", "-"], Some(&without)).unwrap();
            lb.steer(&syn, Mark(4));
            apply(&ruleset_for(&state, "client")).unwrap();
            lb.send(&tcp(vip, 1, ACK));
            assert_eq!([left()[0] - before[0], left()[1] - before[1]], [2, 2], "{vip} {}", client_of(vip));
        }
    });
}
