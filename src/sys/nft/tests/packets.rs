//! What becomes of packets: a client sends them by a TUN device, and they are looked at where they come out.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use tun_tap::{Iface, Mode};

use super::{
    steering::{self, packets_of},
    *,
};
use crate::{
    balance::Verdict,
    io::{Message as _, Queue as _},
    model::{
        Protocol, Steering,
        ids::{Mark, QueueNum},
    },
    packet::{Addresses, L4, Packet, Probe},
    plan::elements::{BY_LBD, Element, Way},
    sys::{clock::wait_for, namespace::shell, nfqueue::FragmentQueue},
};

/// A balancer between a client and a tunnel. A TUN device stands for the client, a device of small MTU for the tunnel.
const SMALL_TUNNEL: &str = "
    ip addr add 10.9.0.1/24 dev client; ip addr add fd09::1/64 dev client nodad; ip link set client up
    ip link add tunnel type veth peer name far; ip link set tunnel mtu 1280
    ip addr add 10.8.0.1/24 dev tunnel; ip addr add fd08::1/64 dev tunnel nodad
    ip link set tunnel up; ip link set far up
    ip route add default dev tunnel; ip -6 route add default dev tunnel
    echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";

/// Another program's mark must not pass for an answer. What leaves: whole packets, and fragments with the mark that lbd gave.
const OTHERS: &str = "table inet t { counter steered { }
    counter whole { }
    chain before { type filter hook prerouting priority -460; meta mark set 0x10007; }
    chain leaving { type filter hook forward priority 0
        ip frag-off & 0x3fff != 0 meta mark 0x10003 counter name steered accept
        meta nfproto ipv6 exthdr frag exists meta mark 0x10003 counter name steered accept
        counter name whole; }
    }";

/// Sets up [`SMALL_TUNNEL`] with the ruleset for two VIPs, of which everything is claimed, and which the client
/// reaches by the device of this name. Returns the client.
fn balancer(interface: &str) -> Iface {
    balancer_with(&ruleset_for(&state(), interface))
}

pub(super) fn balancer_with(ruleset: &Ruleset) -> Iface {
    let client = without_lease(ruleset);
    hold_lease();
    client
}

/// The same, where no lbd has shown that it answers.
pub(super) fn without_lease(ruleset: &Ruleset) -> Iface {
    let client = tun("client");
    shell(SMALL_TUNNEL);
    apply(ruleset).unwrap();
    client
}

/// As an lbd does that answers, for as long as any test takes.
fn hold_lease() {
    let elements = ["lease_flows", "lease_fragments"]
        .map(|set| format!("add element inet {TABLE} {set} {{ 0 timeout 1h }}\n"));
    nft("a test", &["-f", "-"], Some(&elements.concat())).unwrap();
}

/// What is known by one packet, a SYN or a datagram, is remembered for as long as any test takes, on a slow machine too.
pub(super) fn patient(ruleset: &mut Ruleset) {
    let text = &mut ruleset.structure.text;
    for (short, long) in [("timeout 10s", "timeout 1h"), ("unreplied : 30,", "unreplied : 3600,")] {
        assert_eq!(text.matches(short).count(), 2, "{short}");
        *text = text.replace(short, long);
    }
}

pub(super) fn ruleset_for(state: &State, interface: &str) -> Ruleset {
    let mut ruleset = ruleset(state, 127);
    let device = |name: &str| Element::Interface(name.to_owned());
    let four = |first: [u8; 4], last: [u8; 4]| {
        Element::addresses(AddressRange::V4(u32::from_be_bytes(first), u32::from_be_bytes(last)))
    };
    let six = |address: &str| {
        let bits = address.parse::<Ipv6Addr>().unwrap().to_bits();
        Element::addresses(AddressRange::V6(bits, bits))
    };
    let vips = four([192, 0, 2, 0], [192, 0, 2, 127]);
    ruleset.elements = Elements::default();
    for (set, element) in [
        (SetName::Interfaces, device(interface)),
        (SetName::Targets, Element::Mark(3)),
        (SetName::Targets, Element::Mark(4)),
        (SetName::Vip4, vips.clone()),
        (SetName::Vip6, six("2001:db8::80")),
        (SetName::ClaimedAddress4, led_to_lbd(&vips)),
        (SetName::ClaimedAddress6, led_to_lbd(&six("2001:db8::80"))),
        (SetName::Tunnels, device("sr-in4")),
        (SetName::Tunnels, device("sr-1")),
        (SetName::GreIn4, four([10, 9, 0, 1], [10, 9, 0, 1])),
        (SetName::GreIn6, six("fd09::1")),
    ] {
        ruleset.elements.insert(set, element);
    }
    for mark in [3, 4] {
        let mask = state.balancer.mark_mask;
        let kept = Element::Kept(mark | mask.second() | mask.kept(), mark);
        ruleset.elements.insert(SetName::KeptTargets, kept);
    }
    ruleset.elements.set_way(Way::Tracked);
    ruleset
}

/// The element that leads packets of this claim to lbd.
fn led_to_lbd(claimed: &Element) -> Element {
    let Element::Range(fields) = claimed else { panic!("{claimed}") };
    Element::Goto(*fields, BY_LBD.to_owned())
}

fn tun(name: &str) -> Iface {
    let tun = Iface::without_packet_info(name, Mode::Tun).unwrap();
    tun.set_non_blocking().unwrap();
    tun
}

pub(super) fn counted_by(name: &str) -> u64 {
    counters().unwrap().into_iter().find(|counter| counter.name == name).unwrap().packets
}

/// A packet of so many bytes with "don't fragment", of this protocol, as the client sends it.
pub(super) fn packet(protocol: u8, bytes: u16, client: &str, to: &str) -> Vec<u8> {
    let mut packet = match (client.parse().unwrap(), to.parse().unwrap()) {
        (IpAddr::V4(client), IpAddr::V4(to)) => {
            let [high, low] = bytes.to_be_bytes();
            let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0];
            header.extend([client.octets(), to.octets()].concat());
            let checksum = !sum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            header
        }
        (IpAddr::V6(client), IpAddr::V6(to)) => {
            let [high, low] = (bytes - 40).to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, high, low, protocol, 64];
            header.extend([client.octets(), to.octets()].concat());
            header
        }
        _ => unreachable!("two families"),
    };
    packet.resize(bytes.into(), 0);
    packet
}

/// This packet as the first fragment of a longer one.
pub(super) fn first_fragment(packet: Vec<u8>) -> Vec<u8> {
    fragment_at(packet, 0)
}

/// This packet as a fragment of a longer one that begins at so many units of 8 bytes, and is followed by others.
fn fragment_at(mut packet: Vec<u8>, units: u8) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        packet[6..8].copy_from_slice(&[0x20, units]);
        packet[10..12].fill(0);
        let checksum = !sum(&packet[..20]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        let protocol = std::mem::replace(&mut packet[6], 44);
        packet[40..48].copy_from_slice(&[protocol, 0, 0, units << 3 | 1, 0, 0, 0, 9]);
    }
    packet
}

/// The sum of 16-bit words with the carry added back (RFC 1071): 0xffff over what holds a right checksum.
pub(super) fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// The source of the next ICMP error that reaches the client, after its checksums were found right.
fn source_of_error(client: &Iface) -> IpAddr {
    let mut bytes = [0; 2048];
    let answer = wait_for(Duration::from_secs(10), Duration::from_millis(1), || {
        let len = client.recv(&mut bytes).ok()?;
        let answer = bytes[..len].to_vec();
        let is_error = match answer[0] >> 4 {
            4 => answer[9] == 1,
            _ => answer[6] == 58 && answer[40] == 2,
        };
        is_error.then_some(answer)
    });
    let answer = answer.expect("an ICMP error");
    if answer[0] >> 4 == 4 {
        assert_eq!(sum(&answer[..20]), 0xffff, "IPv4 header");
        assert_eq!(sum(&answer[20..]), 0xffff, "ICMP");
        assert_eq!(answer[20..22], [3, 4], "fragmentation needed");
        return IpAddr::from(*answer[12..].first_chunk::<4>().unwrap());
    }
    let len = u32::try_from(answer.len() - 40).unwrap().to_be_bytes();
    assert_eq!(sum(&[&answer[8..40], &len, &[0, 0, 0, 58], &answer[40..]].concat()), 0xffff, "ICMPv6");
    IpAddr::from(*answer[8..].first_chunk::<16>().unwrap())
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn errors_about_size_come_from_the_vip() {
    in_namespace(|| {
        // Packets of the client's are not steered: they follow the default route.
        let client = balancer("another");
        let cases = [
            ("10.9.0.2", "192.0.2.7", "192.0.2.7", 1),
            ("10.9.0.2", "192.0.2.200", "10.9.0.1", 1),
            ("fd09::2", "2001:db8::80", "2001:db8::80", 2),
            ("fd09::2", "2001:db8::81", "fd09::1", 2),
        ];
        for (from, to, source, counted) in cases {
            assert_eq!(client.send(&packet(17, 1400, from, to)).unwrap(), 1400);
            assert_eq!(source_of_error(&client), source.parse::<IpAddr>().unwrap(), "{to}");
            assert_eq!(counted_by("too_big"), counted, "{to}");
        }
    });
}

/// What a counter of the table `t`, of another program, has counted.
fn seen(name: &str) -> u64 {
    packets_of("t", name)
}

/// A SYN to port 80 of the VIP with 4 bytes of data, in two fragments.
fn fragments4() -> [Vec<u8>; 2] {
    let fragment = |offset_and_more: u16, payload: &[u8]| {
        let mut packet = vec![0x45, 0, 0, 0, 0, 9, 0, 0, 64, 6, 0, 0, 10, 9, 0, 2, 192, 0, 2, 7];
        packet[3] = u8::try_from(20 + payload.len()).unwrap();
        packet[6..8].copy_from_slice(&offset_and_more.to_be_bytes());
        let checksum = !sum(&packet);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend(payload);
        packet
    };
    let syn = [4, 1, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 16, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    [fragment(0x2000, &syn), fragment(3, &[5, 6, 7, 8])]
}

/// A UDP datagram to the VIP in these fragments: where each begins, in units of 8 bytes, and whether more follow.
fn fragments6(parts: &[(u16, bool)]) -> Vec<Vec<u8>> {
    let fragment = |&(at, more): &(u16, bool)| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 16, 44, 64];
        for address in ["fd09::2", "2001:db8::80"] {
            packet.extend(address.parse::<Ipv6Addr>().unwrap().octets());
        }
        let length = if parts.len() == 1 { 8 } else { 16 };
        packet.extend([17, 0]);
        packet.extend((at << 3 | u16::from(more)).to_be_bytes());
        packet.extend([0, 0, 0, 9]);
        packet.extend([4, 1, 0, 80, 0, length, 1, 1]);
        packet
    };
    parts.iter().map(fragment).collect()
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn fragments_are_steered_one_by_one_or_put_together_by_the_kernel() {
    in_namespace(|| {
        let client = balancer("client");
        nft("a test", &["-f", "-"], Some(OTHERS)).unwrap();
        let mut queue = FragmentQueue::open(QueueNum(20199), MarkMask::DEFAULT).unwrap();
        let [first4, last4] = fragments4();
        let all: Vec<Vec<u8>> =
            [first4, last4].into_iter().chain(fragments6(&[(0, true), (1, false)])).collect();
        for fragment in &all {
            assert_eq!(client.send(fragment).unwrap(), fragment.len());
            let message = queue.receive().unwrap().expect("a fragment in the queue");
            assert_eq!(message.bytes(), fragment);
            assert_ne!(message.arrived_by(), 0);
            queue.answer(message, Verdict::Steer(Mark(3))).unwrap();
        }
        assert_eq!([counted_by("fragments"), counted_by("fragments_unanswered")], [4, 0]);
        assert_eq!([seen("steered"), seen("whole")], [4, 0]);
        assert_eq!([counted_by("queued_syn"), counted_by("queued_udp"), counted_by("unsteered")], [0, 0, 0]);
        drop(queue);
        for fragment in &all {
            assert_eq!(client.send(fragment).unwrap(), fragment.len());
        }
        assert_eq!([counted_by("fragments"), counted_by("fragments_unanswered")], [8, 4]);
        // No process answers for whole packets either, but the SYN goes where its fragments went.
        assert_eq!(["queued_syn", "syn_again", "queued_udp", "unsteered"].map(counted_by), [0, 1, 1, 1]);
        // The next lbd takes over, though nothing of the ruleset has changed.
        let mut queue = FragmentQueue::open(QueueNum(20199), MarkMask::DEFAULT).unwrap();
        for fragment in &all {
            assert_eq!(client.send(fragment).unwrap(), fragment.len());
            let message = queue.receive().unwrap().expect("a fragment in the queue");
            queue.answer(message, Verdict::Steer(Mark(3))).unwrap();
        }
        for atomic in fragments6(&[(0, false)]) {
            assert_eq!(client.send(&atomic).unwrap(), atomic.len());
        }
        assert_eq!([counted_by("fragments"), counted_by("queued_udp")], [12, 2]);
        assert_eq!([seen("steered"), seen("whole")], [8, 1]);
    });
}

/// A SYN behind destination options of 264 bytes, more than the queue of new flows copies.
#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn extension_headers_are_copied_whole_however_long_they_are() {
    in_namespace(|| {
        let client = balancer("client");
        nft("a test", &["-f", "-"], Some(OTHERS)).unwrap();
        let mut queue = FragmentQueue::open(QueueNum(20199), MarkMask::DEFAULT).unwrap();
        let plain = steering::tcp("2001:db8::80", 4000, 2);
        let options = [&[6, 32, 1, 253][..], &[0; 253], &[1, 5], &[0; 5]].concat();
        assert_eq!(options.len(), 264);
        let mut long = [&plain[..40], &options, &plain[40..]].concat();
        long[6] = 60;
        let payload = u16::try_from(long.len() - 40).unwrap();
        long[4..6].copy_from_slice(&payload.to_be_bytes());
        assert_eq!(client.send(&long).unwrap(), long.len());
        let message = queue.receive().unwrap().expect("it is in the fragments' queue");
        assert_eq!(message.bytes()[12..], long[12..]);
        let parsed = Packet::parse(message.bytes()).unwrap();
        assert!(matches!(parsed.l4, L4::Tcp { syn: true, .. }), "{parsed:?}");
        queue.answer(message, Verdict::Steer(Mark(3))).unwrap();
        assert_eq!([counted_by("queued_syn"), counted_by("fragments"), seen("whole")], [1, 0, 1]);
        // One without goes to the queue of new flows, which no process listens to here. The first flow's mark is pending.
        let other = steering::tcp("2001:db8::80", 4001, 2);
        assert_eq!(client.send(&other).unwrap(), other.len());
        assert_eq!([counted_by("queued_syn"), counted_by("unsteered")], [2, 1]);
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn what_comes_out_of_a_tunnel_and_is_for_no_vip_is_dropped_whole_or_not() {
    in_namespace(|| {
        // TUN devices stand for the tunnels. Whether packets to VIPs are let in by them must not matter.
        let client = balancer("another");
        let tunnels = ["sr-in4", "sr-1"].map(tun);
        shell("ip link set sr-in4 up; ip link set sr-1 up");
        let watching = "table inet t { counter let_in { }
            chain fragments { type filter hook prerouting priority -445
                ip saddr 10.9.0.2 ip frag-off & 0x3fff != 0 counter name let_in
                ip6 saddr fd09::2 exthdr frag exists counter name let_in; }
            chain whole { type filter hook prerouting priority -290
                ip saddr 10.9.0.2 ip frag-off & 0x3fff == 0 counter name let_in
                ip6 saddr fd09::2 exthdr frag missing counter name let_in; }
            }";
        nft("a test", &["-f", "-"], Some(watching)).unwrap();
        let (from4, from6) = ("10.9.0.2", "fd09::2");
        let send = |device: &Iface, from: &str, to: &str| {
            let whole = packet(17, 200, from, to);
            for packet in [first_fragment(whole.clone()), whole] {
                assert_eq!(device.send(&packet).unwrap(), 200);
            }
        };
        for device in &tunnels {
            let before = [counted_by("not_for_vip"), seen("let_in")];
            // Another host's address, and the balancer's own.
            for to in ["192.0.2.200", "10.8.0.1"] {
                send(device, from4, to);
            }
            for to in ["2001:db8::81", "fd08::1"] {
                send(device, from6, to);
            }
            assert_eq!([counted_by("not_for_vip"), seen("let_in")], [before[0] + 8, before[1]]);
            send(device, from4, "192.0.2.7");
            send(device, from6, "2001:db8::80");
            assert_eq!([counted_by("not_for_vip"), seen("let_in")], [before[0] + 8, before[1] + 4]);
        }
        send(&client, from4, "192.0.2.200");
        send(&client, from6, "2001:db8::81");
        assert_eq!([counted_by("not_for_vip"), seen("let_in")], [16, 12]);
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn gre_from_routers_is_not_tracked_and_other_gre_is() {
    in_namespace(|| {
        let client = balancer("client");
        let watching = "table inet t { counter untracked { }
            counter new { }
            chain arrived { type filter hook input priority 0; meta l4proto != gre accept
                ct state untracked counter name untracked accept
                ct state new counter name new; }
            }";
        nft("a test", &["-f", "-"], Some(watching)).unwrap();
        let cases = [
            ("10.9.0.2", "10.9.0.1"),
            ("fd09::2", "fd09::1"),
            ("10.9.0.2", "10.8.0.1"),
            ("fd09::2", "fd08::1"),
        ];
        let mut counted = Vec::new();
        for (from, to) in cases {
            assert_eq!(client.send(&packet(47, 200, from, to)).unwrap(), 200);
            counted.push([seen("untracked"), seen("new")]);
        }
        assert_eq!(counted, [[1, 0], [2, 0], [2, 1], [2, 2]]);
    });
}

/// Of every protocol, over IPv4 and IPv6, to a VIP.
fn probes() -> Vec<Probe> {
    let flows = [("10.9.0.2", "192.0.2.7"), ("fd09::2", "2001:db8::80")];
    let of = |protocol| flows.map(|(src, dst)| Probe::example(protocol, src, dst));
    Protocol::ALL.into_iter().flat_map(of).collect()
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn probes_are_queued_at_a_rate_and_go_no_further() {
    in_namespace(|| {
        let client = balancer("client");
        nft("a test", &["-f", "-"], Some(OTHERS)).unwrap();
        let whole = || seen("whole");
        let counts = || ["probe", "probe_unanswered", "probe_limited"].map(counted_by);
        let mut queue = FragmentQueue::open(QueueNum(20199), MarkMask::DEFAULT).unwrap();
        for probe in probes() {
            client.send(&probe.bytes()).unwrap();
            let message = queue.receive().unwrap().expect("a probe in the queue");
            assert_eq!(Probe::parse(message.bytes()), Ok(Some(probe)));
            queue.answer(message, Verdict::Drop).unwrap();
        }
        assert_eq!((counts(), whole()), ([6, 0, 0], 0));
        // Not even with a mark: the ruleset does not rely on lbd.
        for probe in probes() {
            client.send(&probe.bytes()).unwrap();
            let message = queue.receive().unwrap().expect("a probe in the queue");
            queue.answer(message, Verdict::Steer(Mark(3))).unwrap();
        }
        assert_eq!((counts(), whole()), ([12, 6, 0], 0));
        drop(queue);
        for probe in probes() {
            client.send(&probe.bytes()).unwrap();
        }
        assert_eq!((counts(), whole()), ([18, 12, 0], 0));
        // A second's worth at once, 100, and in what time this takes a few more.
        for probe in std::iter::repeat_n(probes(), 40).flatten() {
            client.send(&probe.bytes()).unwrap();
        }
        let [queued, unanswered, limited] = counts();
        assert_eq!((queued + limited, unanswered, whole()), (18 + 240, queued - 6, 0));
        assert!(queued >= 100 && limited >= 100, "{queued} {limited}");
        assert_eq!([counted_by("queued_syn"), counted_by("queued_udp"), counted_by("unclaimed")], [0; 3]);
        // What is not quite a probe is a packet like any other; so is one to another address.
        let [four, .., six] = &probes()[..] else { unreachable!("six probes") };
        let mut longer = four.bytes();
        longer.push(0);
        longer[3] += 1;
        longer[10] = 0;
        longer[11] = 0;
        let checksum = !sum(&longer[..20]);
        longer[10..12].copy_from_slice(&checksum.to_be_bytes());
        let mut damaged = six.bytes();
        damaged[147] ^= 1;
        let elsewhere = Addresses::new("10.9.0.2".parse().unwrap(), "203.0.113.1".parse().unwrap()).unwrap();
        let elsewhere = Probe { addresses: elsewhere, ..*four }.bytes();
        for packet in [longer, damaged, elsewhere] {
            client.send(&packet).unwrap();
        }
        assert_eq!([counted_by("queued_syn"), counted_by("queued_other"), whole()], [1, 1, 1]);
        assert_eq!(counts(), [queued, unanswered, limited]);
    });
}

/// A TCP probe with another offset and other flags, its checksum right: the window makes up for them.
fn segment(probe: &Probe, offset_and_flags: u16) -> Vec<u8> {
    let mut segment = probe.bytes();
    let tcp = segment.len() - 108;
    let window = 0xfaf0 - (offset_and_flags - 0x5002);
    segment[tcp + 12..tcp + 14].copy_from_slice(&offset_and_flags.to_be_bytes());
    segment[tcp + 14..tcp + 16].copy_from_slice(&window.to_be_bytes());
    segment
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn what_only_ends_like_a_probe_is_a_packet_like_any_other() {
    in_namespace(|| {
        let client = balancer("client");
        nft("a test", &["-f", "-"], Some(OTHERS)).unwrap();
        let mut queue = FragmentQueue::open(QueueNum(20199), MarkMask::DEFAULT).unwrap();
        let [tcp4, tcp6, udp4, udp6, ..] = &probes()[..] else { unreachable!("six probes") };
        for (steering, times) in [(Steering::SynOnly, 1), (Steering::EveryPacket, 2)] {
            let mut state = state();
            state.balancer.steering = steering;
            apply(&ruleset_for(&state, "client")).unwrap();
            // In the middle of a connection (FIN and ACK; ACK), and a SYN with options, as those of clients are.
            for offset_and_flags in [0x5011, 0x5010, 0x6002] {
                for probe in [tcp4, tcp6] {
                    client.send(&segment(probe, offset_and_flags)).unwrap();
                }
            }
            let steered = ["queued_midstream", "queued_syn", "unsteered"].map(counted_by);
            assert_eq!(steered, [4, 2, 6].map(|packets| times * packets), "{steering:?}");
            for packet in
                [udp4, udp6].into_iter().flat_map(|udp| [0, 4].map(|at| fragment_at(udp.bytes(), at)))
            {
                client.send(&packet).unwrap();
                let message = queue.receive().unwrap().expect("a fragment in the queue");
                assert_eq!(Probe::parse(message.bytes()), Ok(None));
                queue.answer(message, Verdict::Steer(Mark(3))).unwrap();
            }
            assert_eq!([seen("steered"), seen("whole")], [4 * times, 0], "{steering:?}");
            assert_eq!(
                ["probe", "probe_unanswered", "probe_limited"].map(counted_by),
                [0; 3],
                "{steering:?}"
            );
        }
    });
}
