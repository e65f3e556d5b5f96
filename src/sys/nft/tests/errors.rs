//! ICMP errors about our tunnels' packets, which any host can send; and those that the kernel would send about VIPs.

use std::{net::IpAddr, time::Duration};

use tun_tap::Iface;

use super::{
    packets::{balancer_with, counted_by, packet, ruleset_for, sum},
    steering::{packets_of, sealed},
    *,
};
use crate::{
    plan::elements::Element,
    sys::{clock::wait_for, namespace::shell},
    tests::bytes::ip,
};

/// What gets past the ruleset: to the kernel's handlers, and out to a client.
const WATCH: &str = "table inet t { counter handled { }
    counter errors { }
    chain arrived { type filter hook input priority 0; icmp type != echo-request counter name handled
        icmpv6 type < 128 counter name handled; }
    chain leaving { type filter hook output priority 0; oif lo accept
        icmp type != echo-reply counter name errors
        icmpv6 type < 128 counter name errors; }
    }";
const GRE: u8 = 47;
const TOO_BIG: u8 = 255;

/// The balancer's address on the client's link is the end of its tunnels, and this are their other ends.
fn balancer(pmtu_floor: u16) -> Iface {
    let mut state = state();
    state.balancer.pmtu_floor = pmtu_floor;
    let mut ruleset = ruleset_for(&state, "another");
    let single = |address: &str| match address.parse().unwrap() {
        IpAddr::V4(address) => Element::addresses(AddressRange::V4(address.to_bits(), address.to_bits())),
        IpAddr::V6(address) => Element::addresses(AddressRange::V6(address.to_bits(), address.to_bits())),
    };
    for (set, address) in [
        (SetName::Local4, "10.9.0.1"),
        (SetName::Local6, "fd09::1"),
        (SetName::Remotes4, "192.168.1.1"),
        (SetName::Remotes6, "fd00:0:0:1::1"),
    ] {
        ruleset.elements.insert(set, single(address));
    }
    let client = balancer_with(&ruleset);
    nft("a test", &["-f", "-"], Some(WATCH)).unwrap();
    client
}

/// An ICMP error from a stranger to the balancer, with right checksums: of this type over IPv4 and IPv6, [`TOO_BIG`] or
/// one of both.
fn error([four, six]: [u8; 2], mtu: u16, quoted: &[u8]) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    let quote = &quoted[..quoted.len().min(64)];
    if quoted[0] >> 4 == 4 {
        let (kind, code) = if four == TOO_BIG { (3, 4) } else { (four, 1) };
        let mut message = [&[kind, code, 0, 0, 0, 0, high, low], quote].concat();
        let checksum = !sum(&message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        return sealed(ip(1, "10.9.0.77", "10.9.0.1", &message));
    }
    let kind = if six == TOO_BIG { 2 } else { six };
    let mut message = [&[kind, 0, 0, 0, 0, 0, high, low], quote].concat();
    let mut packet = ip(58, "fd09::77", "fd09::1", &message);
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let checksum = !sum(&[&packet[8..40], &length, &[0, 0, 0, 58], &message].concat());
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet.splice(40.., message);
    packet
}

/// Packets of so many bytes that leave in a tunnel, by IPv4 and IPv6, of this protocol; with this behind the IP header.
fn outer(protocol: u8, bytes: u16, begin: &[u8]) -> [Vec<u8>; 2] {
    let ends = [("10.9.0.1", "192.168.1.1", 20), ("fd09::1", "fd00:0:0:1::1", 40)];
    ends.map(|(from, to, header)| {
        let mut packet = packet(protocol, bytes, from, to);
        packet[header..header + begin.len()].copy_from_slice(begin);
        packet
    })
}

/// By the ruleset's counters: errors, "too big" that is let by, and that is not. Then what the kernel's handlers got.
fn counts() -> [u64; 4] {
    let [errors, let_by, refused] =
        ["tunnel_error", "tunnel_too_big", "tunnel_too_big_refused"].map(counted_by);
    [errors, let_by, refused, packets_of("t", "handled")]
}

/// How these counts change by such packets.
fn by(client: &Iface, packets: &[Vec<u8>]) -> [u64; 4] {
    let before = counts();
    for packet in packets {
        assert_eq!(client.send(packet).unwrap(), packet.len());
    }
    let after = counts();
    std::array::from_fn(|at| after[at] - before[at])
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn errors_about_tunnels_do_not_reach_them() {
    in_namespace(|| {
        let client = balancer(1280);
        let gue = [0, 7, 0x17, 0xc0, 0, 0];
        assert_eq!(u16::from_be_bytes([gue[2], gue[3]]), crate::model::GUE_PORT);
        let tunnels = [(GRE, &[][..]), (4, &[]), (41, &[]), (17, &gue)];
        let mut ours: Vec<Vec<u8>> =
            tunnels.into_iter().flat_map(|(protocol, begin)| outer(protocol, 1400, begin)).collect();
        // With what ours never have, by which the kernel would find the tunnel as well.
        let [mut options, mut extended] = outer(GRE, 1400, &[]);
        options[0] = 0x46;
        extended[6] = 60;
        extended[40..48].copy_from_slice(&[GRE, 0, 1, 4, 0, 0, 0, 0]);
        let [mut options_udp, _] = outer(17, 1400, &[]);
        options_udp[0] = 0x46;
        ours.extend([options, extended, options_udp]);
        let kinds = [[3, 1], [4, 1], [5, 1], [11, 3], [12, 4]];
        let errors: Vec<Vec<u8>> = kinds
            .into_iter()
            .flat_map(|kinds| ours.iter().map(move |quoted| error(kinds, 0, quoted)))
            .collect();
        assert_eq!(by(&client, &errors), [55, 0, 0, 0]);
        // About the balancer's other packets: to others, and to a backend, but in no tunnel.
        let others =
            [packet(GRE, 1400, "10.9.0.1", "192.168.1.9"), packet(GRE, 1400, "fd09::1", "fd00:0:0:1::9")];
        let [tcp, udp] =
            [(6, &[][..]), (17, &[0, 7, 0, 53][..])].map(|(protocol, begin)| outer(protocol, 1400, begin));
        let all = [others, tcp, udp];
        let errors = all
            .as_flattened()
            .iter()
            .flat_map(|quoted| [error([3, 1], 0, quoted), error([TOO_BIG; 2], 552, quoted)]);
        assert_eq!(by(&client, &errors.collect::<Vec<_>>()), [0, 0, 0, 12]);
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn what_was_not_delivered_is_known_for_some_seconds() {
    in_namespace(|| {
        let client = balancer(1280);
        let mut sets = UndeliveredSets::default();
        let mut known = || {
            let known = sets.read().unwrap();
            let mut known: Vec<String> = known.iter().map(|(address, _)| address.to_string()).collect();
            known.sort();
            known
        };
        let [four, six] = outer(GRE, 1400, &[]);
        // Of these types none says that a packet was not delivered, and these packets are none of the tunnels'.
        let about = |kinds: &[[u8; 2]], quoted: &[Vec<u8>]| -> Vec<Vec<u8>> {
            kinds.iter().flat_map(|kinds| quoted.iter().map(|quoted| error(*kinds, 1400, quoted))).collect()
        };
        let ours = [four.clone(), six];
        assert_eq!(by(&client, &about(&[[4, 4], [5, 4], [12, 4], [TOO_BIG; 2]], &ours)), [6, 2, 0, 2]);
        let others = [
            packet(GRE, 1400, "10.9.0.1", "192.168.1.9"),
            packet(GRE, 1400, "192.168.1.201", "192.168.1.1"),
            packet(GRE, 1400, "fd09::1", "fd00:0:0:1::9"),
            packet(6, 1400, "10.9.0.1", "192.168.1.1"),
        ];
        assert_eq!(by(&client, &about(&[[3, 1], [11, 3]], &others)), [0, 0, 0, 8]);
        assert!(known().is_empty(), "{:?}", known());

        assert_eq!(by(&client, &[error([3, 1], 0, &four)]), [1, 0, 0, 0]);
        assert_eq!(known(), ["192.168.1.1"]);
        assert_eq!(by(&client, &about(&[[3, 1], [11, 3]], &ours)), [4, 0, 0, 0]);
        assert_eq!(known(), ["192.168.1.1", "fd00:0:0:1::1"]);
        let listed = nft("a test", &["list", "table", "inet", TABLE], None).unwrap();
        assert!(listed.contains("update @undelivered4"), "nft can list it");
        // The time begins again with each error.
        let age = |sets: &mut UndeliveredSets| {
            let read = sets.read().unwrap();
            read.iter().find(|(address, _)| address.is_ipv4()).map(|(_, ago)| *ago)
        };
        let mut sets = UndeliveredSets::default();
        assert_eq!(by(&client, &[error([3, 1], 0, &four)]), [1, 0, 0, 0]);
        let old = || age(&mut sets).filter(|ago| *ago > Duration::from_secs(2));
        let old = wait_for(Duration::from_secs(5), Duration::from_millis(50), old).unwrap();
        let packet = error([11, 3], 0, &four);
        assert_eq!(client.send(&packet).unwrap(), packet.len());
        assert!(age(&mut sets).unwrap() < old);
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn too_big_about_a_tunnel_is_let_by_if_it_can_be_true() {
    // What is quoted, the MTU that is said, and the expected counts.
    let of = |client: &Iface, bytes: u16, mtus: &[u16], expected: [[u64; 4]; 2]| {
        for (quoted, expected) in outer(GRE, bytes, &[]).iter().zip(expected) {
            let errors: Vec<Vec<u8>> = mtus.iter().map(|&mtu| error([TOO_BIG; 2], mtu, quoted)).collect();
            assert_eq!(by(client, &errors), expected, "{bytes} {mtus:?} {}", quoted[0] >> 4);
        }
    };
    in_namespace(move || {
        let client = balancer(1280);
        of(&client, 1450, &[0, 68, 552, 1279], [[0, 0, 4, 0]; 2]);
        of(&client, 1450, &[1280, 1400], [[0, 2, 0, 2]; 2]);
        // What is quoted was not too big for any allowed path, or could be cut.
        of(&client, 1280, &[1280], [[0, 0, 1, 0]; 2]);
        let [mut may_be_cut, _] = outer(GRE, 1450, &[]);
        may_be_cut[6] = 0;
        assert_eq!(by(&client, &[error([TOO_BIG; 2], 1400, &may_be_cut)]), [0, 0, 1, 0]);
    });
    in_namespace(move || {
        let client = balancer(1000);
        of(&client, 1450, &[552, 999], [[0, 0, 2, 0]; 2]);
        // No link of IPv6 has less than 1280.
        of(&client, 1450, &[1000, 1279], [[0, 2, 0, 2], [0, 0, 2, 0]]);
        of(&client, 1280, &[1000], [[0, 1, 0, 1], [0, 0, 1, 0]]);
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn no_client_gets_an_error_that_a_vip_is_unreachable() {
    in_namespace(|| {
        let client = balancer(1280);
        // The kernel sends few errors a second to one address. IPv4 by icmp_ratemask: on Linux 6.1 icmp_ratelimit = 0 leaves
        // nothing to a second limit, of unreachable routes.
        shell("echo 0 > /proc/sys/net/ipv4/icmp_ratemask; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit");
        let pairs = [("10.9.0.2", "192.0.2.7", "192.0.2.200"), ("fd09::2", "2001:db8::80", "2001:db8::81")];
        let (mut unreachable, mut errors) = (0, 0);
        for kind in ["unreachable", "prohibit"] {
            for (from, vip, other) in pairs {
                shell(&format!("ip route replace {kind} {vip}; ip route replace {kind} {other}"));
                client.send(&packet(17, 100, from, vip)).unwrap();
                unreachable += 1;
                assert_eq!(
                    [counted_by("unreachable"), packets_of("t", "errors")],
                    [unreachable, errors],
                    "{kind} {vip}"
                );
                client.send(&packet(17, 100, from, other)).unwrap();
                errors += 1;
                assert_eq!(
                    [counted_by("unreachable"), packets_of("t", "errors")],
                    [unreachable, errors],
                    "{kind} {other}"
                );
                shell(&format!("ip route del {vip}; ip route del {other}"));
            }
        }
    });
}
