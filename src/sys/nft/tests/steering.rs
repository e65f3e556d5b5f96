//! What becomes of flows with either way of steering, and when one follows the other.

use std::{net::IpAddr, time::Duration};

use tun_tap::Iface;

use super::{
    packets::{balancer_with, counted_by, ruleset_for, sum},
    *,
};
use crate::{
    balance::Verdict,
    io::BatchQueue as _,
    model::{
        Steering,
        ids::{Mark, QueueNum},
    },
    sys::{clock::wait_for, conntrack::Conntrack, nfqueue::FlowQueue},
    tests::bytes::{ip, packet},
};

/// Marks of others come in; what leaves is counted by the mark that it has then.
const OTHERS: &str = "table inet t { counter three { }
    counter four { }
    counter others { }
    chain before { type filter hook prerouting priority -460; meta mark set 0x10007; }
    chain leaving { type filter hook forward priority 0
        meta mark 0x10003 counter name three accept
        meta mark 0x10004 counter name four accept
        counter name others; }
    }";
pub(super) const SYN: u8 = 2;
pub(super) const ACK: u8 = 0x10;
pub(super) const VIPS: [&str; 2] = ["192.0.2.7", "2001:db8::80"];

/// A balancer with a client, whose packets to VIPs come in by `interface`, and a queue of whole packets.
pub(super) struct Lb {
    client: Iface,
    interface: &'static str,
    pub(super) queue: Option<FlowQueue>,
}

impl Lb {
    pub(super) fn new(steering: Steering, interface: &'static str) -> Self {
        let lb = Self::with(&ruleset_for(&state(), interface), interface);
        lb.steer_by(steering);
        lb
    }

    /// The same with a ruleset that queues to 0.
    pub(super) fn with(ruleset: &Ruleset, interface: &'static str) -> Self {
        let mut lb = Self { client: balancer_with(ruleset), interface, queue: None };
        nft("a test", &["-f", "-"], Some(OTHERS)).unwrap();
        lb.listen(true);
        lb
    }

    fn listen(&mut self, listen: bool) {
        self.queue = listen.then(|| FlowQueue::open(QueueNum(0), MarkMask::DEFAULT).unwrap());
    }

    /// The first packets decide: as `lbctl apply` does it, no base chain goes.
    fn steer_by(&self, steering: Steering) {
        let mut state = state();
        (state.balancer.steering, state.balancer.queues) = (steering, QueueRange::new(0, 0).unwrap());
        assert_eq!(
            apply(&ruleset_for(&state, self.interface)).unwrap().structure,
            StructureApplied::Refilled
        );
    }

    pub(super) fn send(&self, bytes: &[u8]) {
        assert_eq!(self.client.send(bytes).unwrap(), bytes.len());
    }

    /// Sends a packet, which must be queued, and steers it. What comes next is not right behind it.
    pub(super) fn steer(&mut self, bytes: &[u8], mark: Mark) {
        self.send(bytes);
        self.answer(bytes, mark);
        answer_grows_old();
    }

    /// Steers a packet, which must have been queued.
    pub(super) fn answer(&mut self, bytes: &[u8], mark: Mark) {
        self.answer_all(&[bytes.to_vec()], mark);
    }

    /// Steers packets, which must have been queued in this order.
    pub(super) fn answer_all(&mut self, packets: &[Vec<u8>], mark: Mark) {
        let queue = self.queue.as_mut().unwrap();
        assert_eq!(queue.receive(Duration::ZERO).unwrap(), packets.len(), "it is queued");
        let mut packets = packets.iter();
        let errors = queue.answer(|queued| {
            assert_eq!(queued[12..], packets.next().unwrap()[12..], "but for what routers change");
            Verdict::Steer(mark)
        });
        assert!(errors.is_empty(), "{errors:?}");
    }
}

/// What comes right behind the first packet of a TCP connection in its middle is not tracked; later packets are.
pub(super) fn answer_grows_old() {
    let answered =
        |map| nft("a listing", &["list", "map", "inet", TABLE, map], None).unwrap().contains("expires");
    let old = || (!answered("answered4") && !answered("answered6")).then_some(());
    wait_for(Duration::from_secs(5), Duration::from_millis(5), old).expect("the answer grows old");
}

pub(super) fn client_of(vip: &str) -> &'static str {
    if vip.contains(':') { "fd09::2" } else { "10.9.0.2" }
}

/// A TCP segment with right checksums: the kernel tracks no other.
pub(super) fn tcp(vip: &str, port: u16, flags: u8) -> Vec<u8> {
    tcp_at(vip, port, flags, 0)
}

/// The same with this sequence number.
pub(super) fn tcp_at(vip: &str, port: u16, flags: u8, sequence: u32) -> Vec<u8> {
    let client = client_of(vip);
    let mut bytes = packet(6, client, port, vip, 80, flags);
    let segment = if vip.contains(':') { 40 } else { 20 };
    bytes[segment + 4..segment + 8].copy_from_slice(&sequence.to_be_bytes());
    let octets = |address: &str| match address.parse().unwrap() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let length = u16::try_from(bytes.len() - segment).unwrap().to_be_bytes();
    let pseudo = [octets(client), octets(vip), vec![0, 6], length.to_vec()].concat();
    let checksum = !sum(&[&pseudo[..], &bytes[segment..]].concat());
    bytes[segment + 16..segment + 18].copy_from_slice(&checksum.to_be_bytes());
    sealed(bytes)
}

pub(super) fn udp(vip: &str, port: u16) -> Vec<u8> {
    let payload = [&port.to_be_bytes()[..], &[0, 80, 0, 12, 0, 0, 1, 2, 3, 4]].concat();
    sealed(ip(17, client_of(vip), vip, &payload))
}

/// With the checksum of an IPv4 header.
pub(super) fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes[0] >> 4 == 4 {
        let checksum = !sum(&bytes[..20]);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

/// What has left with marks 3, 4 and others.
pub(super) fn left() -> [u64; 3] {
    ["three", "four", "others"].map(|name| packets_of("t", name))
}

/// A counter of a test's own table.
pub(super) fn packets_of(table: &str, counter: &str) -> u64 {
    let json = nft("a listing", &["-j", "list", "counter", "inet", table, counter], None).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    json["nftables"][1]["counter"]["packets"].as_u64().unwrap()
}

pub(super) fn conntrack_entries() -> u64 {
    std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap().trim().parse().unwrap()
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn with_every_packet_all_are_queued_and_none_is_tracked() {
    in_namespace(|| {
        let mut lb = Lb::new(Steering::EveryPacket, "client");
        let mut packets = Vec::new();
        for vip in VIPS {
            let of = |protocol, payload: &[u8]| sealed(ip(protocol, client_of(vip), vip, payload));
            let [icmp, echo, unreachable] = if vip.contains(':') { [58, 128, 1] } else { [1, 8, 3] };
            let error = [&[unreachable, 0, 0, 0, 0, 0, 0, 0], &udp(vip, 5)[..]].concat();
            packets.extend([tcp(vip, 1, SYN), tcp(vip, 1, ACK), tcp(vip, 1, ACK), udp(vip, 2), udp(vip, 2)]);
            packets.extend([of(132, &[0, 3, 0, 80, 0, 0, 0, 0]), of(icmp, &[echo, 0, 0, 0, 0, 9, 0, 1])]);
            packets.extend([of(icmp, &error), of(47, &[0; 8])]);
        }
        for (bytes, mark) in packets.iter().zip([3, 4].into_iter().cycle()) {
            lb.steer(bytes, Mark(mark));
        }
        assert_eq!(left(), [9, 9, 0]);
        assert_eq!(conntrack_entries(), 0);
        let counted = ["queued_syn", "syn_again", "queued_midstream", "queued_udp", "queued_other"];
        assert_eq!(counted.map(counted_by), [2, 0, 4, 4, 8]);
        assert_eq!(["handshake", "restored", "unsteered"].map(counted_by), [0, 0, 0]);
        // No process answers: nothing goes on, whatever mark it came with.
        lb.listen(false);
        packets.iter().for_each(|bytes| lb.send(bytes));
        assert_eq!(counted_by("unsteered"), 18);
        assert_eq!(left(), [9, 9, 0]);
    });
}

/// The answer to a packet of TCP or UDP.
fn answer_to(mut bytes: Vec<u8>) -> Vec<u8> {
    let (addresses, bytes_each, ports) = if bytes[0] >> 4 == 4 { (12, 4, 20) } else { (8, 16, 40) };
    bytes[addresses..addresses + 2 * bytes_each].rotate_left(bytes_each);
    bytes[ports..ports + 4].rotate_left(2);
    bytes
}

/// Of a router that answers pass as well, which has lost its entries: the next packet may be an answer.
#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn a_flow_whose_answer_came_first_is_steered_and_its_answers_are_not() {
    in_namespace(|| {
        let mut lb = Lb::new(Steering::SynOnly, "client");
        // No bits of others, as on the short way.
        let others =
            "flush chain inet t before\ninsert rule inet t leaving meta mark 3 counter name three accept\n";
        nft("a test", &["-f", "-"], Some(others)).unwrap();
        for vip in VIPS {
            let query = udp(vip, 2);
            let before = left();
            lb.send(&answer_to(query.clone()));
            lb.steer(&query, Mark(3));
            (0..4).for_each(|_| lb.send(&query));
            lb.send(&answer_to(query));
            let now = left();
            let by: Vec<u64> = now.iter().zip(before).map(|(now, before)| now - before).collect();
            assert_eq!(by, [5, 0, 2], "{vip}");
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables, nf_conntrack_netlink, nfnetlink_queue and /dev/net/tun"]
fn steering_changes_while_flows_go_on() {
    in_namespace(|| {
        let mut lb = Lb::new(Steering::SynOnly, "client");
        let flows: Vec<Vec<u8>> = VIPS.into_iter().flat_map(|vip| [tcp(vip, 1, ACK), udp(vip, 2)]).collect();
        let begun: Vec<Vec<u8>> = VIPS.map(|vip| tcp(vip, 3, SYN)).to_vec();
        for flow in flows.iter().chain(&begun) {
            lb.steer(flow, Mark(3));
        }
        flows.iter().for_each(|flow| lb.send(flow));
        assert_eq!((left(), counted_by("restored")), ([10, 0, 0], 4), "pinned to 3");
        // Connection tracking and `pending` know them still, but no rule looks there.
        lb.steer_by(Steering::EveryPacket);
        assert_eq!(conntrack_entries(), 4);
        for flow in flows.iter().chain(&VIPS.map(|vip| tcp(vip, 3, ACK))) {
            lb.steer(flow, Mark(4));
        }
        assert_eq!((left(), counted_by("restored"), counted_by("handshake")), ([10, 6, 0], 4, 0));
        // What lbd does then: a flow that is pinned again must not find the old mark.
        let mut conntrack = Conntrack::open().unwrap();
        assert_eq!(conntrack.forget(MarkMask::DEFAULT, |_| true).unwrap(), 4);
        lb.steer_by(Steering::SynOnly);
        for flow in &flows {
            lb.steer(flow, Mark(4));
            lb.send(flow);
        }
        assert_eq!((left(), counted_by("restored")), ([10, 14, 0], 8), "pinned to 4");
    });
}
