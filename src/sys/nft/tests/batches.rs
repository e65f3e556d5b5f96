//! Packets that a card's driver hands over together: all of them pass prerouting before the first goes on.

use super::{
    kernel_tables::{FILE, by_kernel, made_of},
    packets::{counted_by, ruleset_for},
    steering::{ACK, Lb, SYN, VIPS, answer_grows_old, conntrack_entries, left, packets_of, sealed, tcp, udp},
    *,
};
use crate::{
    balance::flow_table::FlowTable as _,
    config::Timeouts,
    model::{Steering, ids::Mark},
    packet::Packet,
    sys::{conntrack::Conntrack, namespace::shell},
    tests::bytes::ip,
};

/// What the client sends goes through a link first, whose far end takes packets as cards do (NAPI), and is not tracked on
/// its way there.
const LINK: &str = "
    ip link add near type veth peer name card address 02:00:00:00:00:02
    ethtool -K near tso off; ethtool -K card gro on
    ip addr add 10.7.0.1/24 dev near; ip addr add fd07::1/64 dev near nodad
    ip link set near up; ip link set card up
    ip neigh add 10.7.0.2 lladdr 02:00:00:00:00:02 dev near
    ip neigh add fd07::2 lladdr 02:00:00:00:00:02 dev near
    ip rule add iif client lookup 100; ip -6 rule add iif client lookup 100
    ip route add default via 10.7.0.2 dev near table 100; ip -6 route add default via fd07::2 dev near table 100
    tc qdisc add dev near root tbf rate 1gbit burst 100000 limit 100000";
/// What is not tracked: all on its way to the link, and the filler; of what comes by it, packets are counted, and
/// segments that are not.
const WITNESS: &str = "table inet link { counter untracked { }
    counter passed { }
    chain to_link { type filter hook prerouting priority -310
        iifname \"client\" notrack
        meta l4proto 253 notrack; }
    chain leaving { type filter hook forward priority 0
        iifname \"card\" meta l4proto { tcp, udp } counter name passed
        iifname \"card\" ct state untracked tcp flags & (syn | ack) == ack counter name untracked; }
    }";
/// The link lets 200 bytes by and then as good as nothing.
const HOLD: &str = "tc qdisc change dev near root tbf rate 8bit burst 200 limit 100000";
/// With the next packet all others go.
const LET_GO: &str = "tc qdisc change dev near root tbf rate 1gbit burst 100000 limit 100000";

/// Sends these packets to the VIP so that they come in one batch.
fn send_together(lb: &Lb, vip: &str, packets: &[Vec<u8>]) {
    // For no service, and of the same family, since batches have one. It takes 164 of the 200 bytes with its Ethernet header, and
    // what is left is too little for any other.
    let filler = match vip.contains(':') {
        false => sealed(ip(253, "10.9.0.2", "192.0.2.200", &[0; 130])),
        true => ip(253, "fd09::2", "2001:db8::81", &[0; 110]),
    };
    shell(HOLD);
    lb.send(&filler);
    packets.iter().for_each(|packet| lb.send(packet));
    shell(LET_GO);
    lb.send(&filler);
}

/// Packets that connection tracking has dropped since they would have made an entry a second time.
fn dropped() -> u32 {
    let statistics = std::fs::read_to_string("/proc/thread-self/net/stat/nf_conntrack").unwrap();
    let mut lines = statistics.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let names = lines.next().unwrap();
    let column = names.iter().position(|name| *name == "insert_failed").unwrap();
    lines.map(|values| u32::from_str_radix(values[column], 16).unwrap()).sum()
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue, /dev/net/tun, sch_tbf and ethtool"]
fn data_in_one_batch_with_its_ack_is_steered() {
    in_namespace(|| {
        let mut lb = Lb::new(Steering::SynOnly, "card");
        shell(LINK);
        nft("a test", &["-f", "-"], Some(WITNESS)).unwrap();
        let names = ["handshake", "restored", "queued_midstream", "pinning_full"];
        let seen = || (names.map(counted_by), left()[0], conntrack_entries());
        let untracked = || packets_of("link", "untracked");
        for vip in VIPS {
            // An interrupt may part the packets on their way, so that they come in two batches: then it is tried again.
            let in_one = (1..=20).any(|port| {
                let ack = tcp(vip, port, ACK);
                lb.steer(&tcp(vip, port, SYN), Mark(3));
                let (([handshake, restored, ..], passed, entries), before) = (seen(), untracked());
                send_together(&lb, vip, &[ack.clone(), ack.clone(), ack.clone()]);
                let after = ([handshake + 1, restored + 2, 0, 0], passed + 3, entries + 1);
                assert_eq!(seen(), after, "{vip} {port}");
                let in_batch = untracked() - before;
                // The batch is over: what comes now is tracked.
                lb.send(&ack);
                let after = ([handshake + 1, restored + 3, 0, 0], passed + 4, entries + 1);
                assert_eq!((seen(), untracked()), (after, before + in_batch), "{vip} {port}");
                in_batch == 2
            });
            assert!(in_one, "{vip}: no three packets have come in one batch");
        }
        assert_eq!(dropped(), 0);
    });
}

#[test]
#[ignore = "needs root, nf_tables, nf_conntrack_netlink, nfnetlink_queue, /dev/net/tun, sch_tbf and ethtool"]
fn the_end_of_a_connection_in_one_batch_with_its_ack_is_tracked() {
    in_namespace(|| {
        let mut lb = Lb::new(Steering::SynOnly, "card");
        shell(LINK);
        nft("a test", &["-f", "-"], Some(WITNESS)).unwrap();
        let mut conntrack = Conntrack::open().unwrap();
        let (rst, closing) = (4, Timeouts::default().tcp_closing_seconds);
        for vip in VIPS {
            for (port, flag) in [(1, FIN), (2, rst)] {
                let (ack, end) = (tcp(vip, port, ACK), tcp(vip, port, ACK | flag));
                lb.steer(&tcp(vip, port, SYN), Mark(3));
                send_together(&lb, vip, &[ack.clone(), end.clone()]);
                // Whatever lbd decides about it, it goes where its SYN went.
                lb.answer(&end, Mark(4));
                // What closes with answers is acknowledged; what is reset is over.
                if flag == FIN {
                    lb.send(&ack);
                }
                let pin = conntrack.lookup(&Packet::parse(&ack).unwrap()).unwrap();
                let left = pin.map_or(0, |pin| pin.left_seconds.unwrap());
                assert!(left <= closing, "{vip} {port}: {left} s");
            }
        }
        assert_eq!((left()[..2].to_vec(), dropped()), (vec![14, 0], 0));
    });
}

const FIN: u8 = 1;
/// Packets of each of the bursts below.
const BURST: usize = 10;

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn a_burst_of_an_unknown_flow_is_steered_whole() {
    in_namespace(|| {
        let mut lb = Lb::new(Steering::SynOnly, "client");
        let mut seen = Vec::new();
        for flow in VIPS.into_iter().flat_map(|vip| [tcp(vip, 1, ACK), udp(vip, 2)]) {
            // All wait before the first is answered.
            let all = vec![flow.clone(); BURST];
            all.iter().for_each(|packet| lb.send(packet));
            lb.answer_all(&all, Mark(3));
            let burst = left()[0];
            // Right behind, and when the answer is old: neither is queued.
            lb.send(&flow);
            answer_grows_old();
            lb.send(&flow);
            seen.push((burst, left()[0], conntrack_entries(), dropped()));
        }
        assert_eq!(seen, [(10, 12, 1, 0), (22, 24, 2, 0), (34, 36, 3, 0), (46, 48, 4, 0)]);
        assert_eq!(["queued_midstream", "queued_udp"].map(counted_by), [20, 20]);
    });
}

#[test]
#[ignore = "needs root, nf_tables, nf_conntrack_netlink, nfnetlink_queue and /dev/net/tun"]
fn the_end_of_a_connection_in_a_burst_of_it_is_tracked() {
    in_namespace(|| {
        let mut lb = Lb::new(Steering::SynOnly, "client");
        let closing = Timeouts::default().tcp_closing_seconds;
        for (vip, flows) in VIPS.into_iter().zip(1..) {
            let ack = tcp(vip, 1, ACK);
            let all = [ack.clone(), ack.clone(), tcp(vip, 1, ACK | FIN), ack.clone()];
            all.iter().for_each(|packet| lb.send(packet));
            lb.answer_all(&all, Mark(3));
            // In an open connection this packet would prolong the entry.
            answer_grows_old();
            lb.send(&ack);
            assert_eq!((left(), conntrack_entries(), dropped()), ([5 * flows, 0, 0], flows, 0), "{vip}");
            let pin = Conntrack::open().unwrap().lookup(&Packet::parse(&ack).unwrap()).unwrap();
            let left = pin.unwrap().left_seconds.unwrap();
            assert!(left <= closing, "{vip}: {left} s");
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue, /dev/net/tun, sch_tbf and ethtool"]
fn a_burst_that_the_kernel_decides_about_is_steered_whole() {
    let file = FILE.replace("\"client\"", "\"card\"");
    // Because the service says so, and because no process listens to the queue.
    for file in [by_kernel(&file, &["web"]), file] {
        in_namespace(move || {
            let lb = Lb::with(&made_of(&file).ruleset, "card");
            shell(LINK);
            nft("a test", &["-f", "-"], Some(WITNESS)).unwrap();
            let passed = || packets_of("link", "passed");
            let mut seen = Vec::new();
            for vip in ["192.0.2.1", "2001:db8::1"] {
                for flow in [tcp(vip, 1, ACK), udp(vip, 2)] {
                    send_together(&lb, vip, &vec![flow.clone(); BURST]);
                    let burst = passed();
                    lb.send(&flow);
                    answer_grows_old();
                    lb.send(&flow);
                    seen.push((burst, passed(), conntrack_entries(), dropped()));
                }
            }
            assert_eq!(seen, [(10, 12, 1, 0), (22, 24, 2, 0), (34, 36, 3, 0), (46, 48, 4, 0)]);
        });
    }
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn an_unknown_flow_that_finds_no_room_does_not_wait() {
    // Where the kernel has no table for the service, all wait, as they would without room for any.
    for (entries, queued) in [(1000, 0), (0, BURST)] {
        in_namespace(move || {
            let with = format!("kernel_entries = {entries}\nqueues = \"0\"");
            let mut ruleset = made_of(&FILE.replace("kernel_entries = 1000", &with)).ruleset;
            ruleset.structure.text = ruleset.structure.text.replace("size 65536", "size 8");
            let mut lb = Lb::with(&ruleset, "client");
            let ends = [["10.9.0.3", "192.0.2.1"], ["fd09::3", "2001:db8::1"]];
            for (map, [client, vip]) in ["pending4", "pending6"].into_iter().zip(ends) {
                let element = |port| format!("{client} . {port} . {vip} . 80 timeout 1h : 1");
                let elements = (0..8).map(element).collect::<Vec<_>>().join(", ");
                let text = format!("add element inet {TABLE} {map} {{ {elements} }}\n");
                nft("a test", &["-f", "-"], Some(&text)).unwrap();
            }
            for ([_, vip], flows) in ends.into_iter().zip(1..) {
                let all = vec![tcp(vip, 1, ACK); BURST];
                all.iter().for_each(|packet| lb.send(packet));
                lb.answer_all(&all[..queued], Mark(3));
                assert_eq!((left().iter().sum::<u64>(), conntrack_entries()), (10 * flows, flows), "{vip}");
                assert!(queued > 0 || dropped() == 0, "{vip}");
            }
        });
    }
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn many_connections_in_a_second_find_room() {
    in_namespace(|| {
        let lb = Lb::new(Steering::SynOnly, "client");
        // What is taken out still counts till the kernel tidies up, so more than would fit if the set were small.
        let ports = 1..=6000;
        let elements = |[client, vip]: [&str; 2]| {
            let element = |port| format!("{client} . {port} . {vip} . 80 : 3");
            ports.clone().map(element).collect::<Vec<_>>().join(", ")
        };
        for (map, ends) in [("pending4", ["10.9.0.2", VIPS[0]]), ("pending6", ["fd09::2", VIPS[1]])] {
            let text = format!("add element inet synrail {map} {{ {} }}\n", elements(ends));
            nft("a test", &["-f", "-"], Some(&text)).unwrap();
        }
        for vip in VIPS {
            let acks: Vec<_> = ports.clone().map(|port| tcp(vip, port, ACK)).collect();
            acks.iter().for_each(|ack| lb.send(ack));
        }
        assert_eq!(["handshake", "pinning_full"].map(counted_by), [12_000, 0]);
    });
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn a_connection_that_finds_no_room_is_pinned_all_the_same() {
    in_namespace(|| {
        let mut state = state();
        state.balancer.queues = QueueRange::new(0, 0).unwrap();
        let mut ruleset = ruleset_for(&state, "client");
        let small = ruleset.structure.text.replace("size 65536", "size 8");
        ruleset.structure.text = small;
        let mut lb = Lb::with(&ruleset, "client");
        let fours = (0..8).map(|port| format!("10.9.0.3 . {port} . 192.0.2.7 . 80"));
        let sixes = (0..8).map(|port| format!("fd09::3 . {port} . 2001:db8::80 . 80"));
        for (set, elements) in [("pinning4", fours.collect::<Vec<_>>()), ("pinning6", sixes.collect())] {
            let elements = elements.iter().map(|element| format!("{element} timeout 1h")).collect::<Vec<_>>();
            let text = format!("add element inet synrail {set} {{ {} }}\n", elements.join(", "));
            nft("a test", &["-f", "-"], Some(&text)).unwrap();
        }
        for (vip, before) in VIPS.into_iter().zip(0..) {
            lb.steer(&tcp(vip, 1, SYN), Mark(3));
            lb.send(&tcp(vip, 1, ACK));
            lb.send(&tcp(vip, 1, ACK));
            let counted = ["handshake", "pinning_full", "restored", "queued_midstream"].map(counted_by);
            assert_eq!(counted, [before + 1, before + 1, before + 1, 0], "{vip}");
            assert_eq!((left()[0], conntrack_entries()), (3 * before + 3, before + 1), "{vip}");
        }
    });
}
