//! What becomes of new flows of services without a backend. No process listens to the queue: nothing is queued for them, or
//! the fallback tables decide.

use std::{collections::BTreeMap, net::IpAddr};

use tun_tap::Iface;

use super::{
    kernel_tables::{Made, by_kernel, made},
    packets::{balancer_with, counted_by, sum, without_lease},
    steering::{ACK, SYN, client_of, conntrack_entries, sealed, tcp_at, udp},
    *,
};
use crate::{
    balance::Decision,
    config::Config,
    model::{Admin, Override},
    packet::Packet,
    plan::elements::Way,
    sys::namespace::shell,
    tests::bytes::ip,
};

/// "web" has its own no_backend, which tests replace; "any" takes every protocol.
const FILE: &str = r#"
[balancer]
name = "lb201"
address = "192.168.1.201"
interfaces = "client"
kernel_entries = 1000
[[service]]
name = "web"
vips = ["192.0.2.1", "2001:db8::1"]
protocols = ["tcp", "udp"]
ports = "80"
table_size = 97
no_backend = "reject"
backend = [{ name = "a", address = "192.168.1.1" }, { name = "b", address = "192.168.1.2" }]
[[service]]
name = "any"
vips = ["192.0.2.2", "2001:db8::2"]
table_size = 89
no_backend = "reject"
backend = [{ name = "b", address = "192.168.1.2" }]
[[service]]
name = "spare"
vips = ["192.0.2.3", "2001:db8::3"]
table_size = 97
backend = [{ name = "s", address = "192.168.1.3" }, { name = "t", address = "192.168.1.4" }]
"#;
const WEB: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const ANY: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
const RST: u8 = 4;
const REJECTED: [&str; 3] = ["rejected", "rejected_silently", "unreachable"];
/// What is queued, and what would be if lbd had a lease.
const QUEUED: [&str; 5] = ["queued_syn", "queued_midstream", "queued_udp", "queued_other", "lease_ended"];

fn state_of(file: &str) -> State {
    State::new(&Config::parse("lb.toml", file).unwrap()).unwrap()
}

/// Without the backends of "web" and "any".
fn left(state: &State) -> State {
    let names = ["a", "b"].map(str::to_owned);
    state.set_admin(None, &names, &Override::unattributed(Admin::Disabled)).unwrap()
}

/// Packets that the VIPs have sent to the client, with right checksums.
fn answers(client: &Iface) -> Vec<Vec<u8>> {
    let mut bytes = [0; 2048];
    let mut answers = Vec::new();
    while let Ok(length) = client.recv(&mut bytes) {
        let packet = bytes[..length].to_vec();
        let source = if packet[0] >> 4 == 4 {
            IpAddr::from(*packet[12..].first_chunk::<4>().unwrap())
        } else {
            IpAddr::from(*packet[8..].first_chunk::<16>().unwrap())
        };
        if WEB.iter().chain(&ANY).any(|vip| source == vip.parse::<IpAddr>().unwrap()) {
            answers.push(packet);
        }
    }
    answers
}

/// The transport header of an answer, of this protocol, from the VIP to its client, after all checksums were found right.
fn payload_of(answer: &[u8], vip: &str, protocol: u8) -> Vec<u8> {
    let (from, to, header, carried) = if answer[0] >> 4 == 4 {
        assert_eq!(sum(&answer[..20]), 0xffff, "IPv4 header");
        (&answer[12..16], &answer[16..20], 20, answer[9])
    } else {
        (&answer[8..24], &answer[24..40], 40, answer[6])
    };
    let octets = |address: &str| match address.parse().unwrap() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    assert_eq!((from, to, carried), (&octets(vip)[..], &octets(client_of(vip))[..], protocol));
    let payload = answer[header..].to_vec();
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let pseudo = [from, to, &length, &[0, 0, 0, protocol]].concat();
    let covered = if protocol == 1 { payload.clone() } else { [&pseudo[..], &payload].concat() };
    assert_eq!(sum(&covered), 0xffff, "its checksum");
    payload
}

fn is_reset(client: &Iface, vip: &str, port: u16, [flags, acknowledges]: [u32; 2]) {
    let [answer] = &answers(client)[..] else { panic!("one answer from {vip}") };
    let segment = payload_of(answer, vip, 6);
    assert_eq!(segment[..4], [&[0, 80][..], &port.to_be_bytes()].concat()[..]);
    assert_eq!(u32::from(segment[13]), flags, "flags");
    assert_eq!(segment[8..12], acknowledges.to_be_bytes());
}

/// ICMP "port unreachable", which quotes this packet.
fn is_unreachable(client: &Iface, vip: &str, sent: &[u8]) {
    let [answer] = &answers(client)[..] else { panic!("one answer from {vip}") };
    let (protocol, kind) = if vip.contains(':') { (58, [1, 4]) } else { (1, [3, 3]) };
    let error = payload_of(answer, vip, protocol);
    assert_eq!(error[..2], kind);
    // But for what routers change.
    assert_eq!(error[8 + 12..8 + 20], sent[12..20]);
}

fn is_silent(client: &Iface) {
    assert_eq!(answers(client), Vec::<Vec<u8>>::new());
}

/// Sends what is to be answered, and what is not, to both services. Returns how many there were of each.
fn all_is_rejected(client: &Iface) -> [u64; 2] {
    let send = |bytes: &[u8]| assert_eq!(client.send(bytes).unwrap(), bytes.len());
    for (port, vip) in (4000..).zip(WEB.into_iter().chain(ANY)) {
        // It acknowledges what the client has sent, or it has the sequence number that the client expects.
        send(&tcp_at(vip, port, SYN, 7));
        let data = 24;
        is_reset(client, vip, port, [u32::from(RST | ACK), 7 + 1 + data]);
        send(&tcp_at(vip, port, ACK, 7));
        is_reset(client, vip, port, [u32::from(RST), 0]);
        let datagram = udp(vip, port);
        send(&datagram);
        is_unreachable(client, vip, &datagram);
        send(&tcp_at(vip, port, RST, 7));
        is_silent(client);
        // A ping, and an error about a flow.
        let (protocol, [echo, unreachable]) = if vip.contains(':') { (58, [128, 1]) } else { (1, [8, 3]) };
        if ANY.contains(&vip) {
            for carried in [132, 47] {
                let other = sealed(ip(carried, client_of(vip), vip, &[9, 9, 0, 80, 0, 0, 0, 0]));
                send(&other);
                is_unreachable(client, vip, &other);
            }
            send(&checked(protocol, vip, vec![echo, 0, 0, 0, 0, 9, 0, 1]));
            is_silent(client);
        }
        let quoted = sealed(ip(17, vip, client_of(vip), &[0, 80, 9, 9, 0, 8, 0, 0]));
        send(&checked(protocol, vip, [&[unreachable, 0, 0, 0, 0, 0, 0, 0], &quoted[..]].concat()));
        is_silent(client);
    }
    // Of TCP two, of UDP one; of the others two, by the service for every protocol.
    [4 * 3 + 2 * 2, 4 + 2 + 4]
}

/// An ICMP message with its checksum.
fn checked(protocol: u8, vip: &str, mut message: Vec<u8>) -> Vec<u8> {
    let bytes = ip(protocol, client_of(vip), vip, &message);
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let covered = match protocol {
        58 => [&bytes[8..40], &length, &[0, 0, 0, 58], &message].concat(),
        _ => message.clone(),
    };
    message[2..4].copy_from_slice(&(!sum(&covered)).to_be_bytes());
    sealed(ip(protocol, client_of(vip), vip, &message))
}

fn no_limit_of_errors() {
    shell("echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit");
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn new_flows_are_rejected_in_the_name_of_the_vip_whatever_decides() {
    let every_packet = FILE.replace("kernel_entries", "steering = \"every-packet\"\nkernel_entries");
    let without_tables = FILE.replace("kernel_entries = 1000", "kernel_entries = 0");
    let by_kernel = by_kernel(FILE, &["web", "any"]);
    for (file, way, lease) in [
        (FILE.to_owned(), Way::Tracked, true),
        (FILE.to_owned(), Way::Tracked, false),
        (FILE.to_owned(), Way::OffTable, false),
        (FILE.to_owned(), Way::Untracked, false),
        (by_kernel.clone(), Way::Tracked, false),
        (by_kernel, Way::Untracked, true),
        (without_tables.clone(), Way::Tracked, false),
        (without_tables, Way::Untracked, false),
        (every_packet.clone(), Way::Tracked, true),
        (every_packet, Way::OffTable, false),
    ] {
        in_namespace(move || {
            let Made { mut ruleset, .. } = made(left(&state_of(&file)));
            ruleset.elements.set_way(way);
            let client = if lease { balancer_with(&ruleset) } else { without_lease(&ruleset) };
            no_limit_of_errors();
            // A filter of others for what connection tracking does not know lets the answers pass.
            let others = "table inet others { chain out { type filter hook output priority 0; ct state invalid drop; }\n}\n";
            nft("a test", &["-f", "-"], Some(others)).unwrap();
            let [rejected, silently] = all_is_rejected(&client);
            assert_eq!(REJECTED.map(counted_by), [rejected, silently, 0], "{way:?} {file}");
            assert_eq!((QUEUED.map(counted_by), conntrack_entries()), ([0; 5], 0));
        });
    }
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn flows_that_were_open_go_on_when_their_service_rejects_new_ones() {
    in_namespace(|| {
        let all = state_of(FILE);
        let client = without_lease(&made(all.clone()).ruleset);
        no_limit_of_errors();
        let mut tables = Tables::default();
        let mut change = |state: &State| {
            let Made { ruleset, .. } = made(state.clone());
            let applied = crate::sys::nft::apply(&ruleset, &mut tables).unwrap();
            tables.apply(&ruleset.tables).unwrap();
            assert!(in_force(&ruleset).unwrap());
            applied.structure
        };
        change(&all);
        let send = |bytes: &[u8]| assert_eq!(client.send(bytes).unwrap(), bytes.len());
        for vip in WEB {
            // One pending, one pinned, and UDP.
            for bytes in [tcp_at(vip, 1, SYN, 0), tcp_at(vip, 2, SYN, 0), tcp_at(vip, 2, ACK, 1), udp(vip, 3)]
            {
                send(&bytes);
            }
        }
        let before = counted_by("by_kernel");
        assert_eq!((before, counted_by("handshake")), (6, 2));
        assert_eq!(change(&left(&all)), StructureApplied::Kept);
        for vip in WEB {
            for bytes in [tcp_at(vip, 1, SYN, 0), tcp_at(vip, 1, ACK, 1), tcp_at(vip, 2, ACK, 1), udp(vip, 3)]
            {
                send(&bytes);
                is_silent(&client);
            }
            send(&tcp_at(vip, 4, SYN, 0));
            is_reset(&client, vip, 4, [u32::from(RST | ACK), 25]);
        }
        assert_eq!(["rejected", "handshake", "syn_again", "by_kernel"].map(counted_by), [2, 4, 2, before]);
        // The backends are back.
        assert_eq!(change(&all), StructureApplied::Kept);
        for vip in WEB {
            send(&tcp_at(vip, 5, SYN, 0));
            is_silent(&client);
        }
        assert_eq!(counted_by("by_kernel"), before + 2);
    });
}

/// Of "web" alone is anything rejected here.
#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn rejections_of_others_do_not_speak_for_other_services() {
    in_namespace(|| {
        let out =
            left(&state_of(&FILE.replace("table_size = 89\nno_backend = \"reject\"", "table_size = 89")));
        let client = without_lease(&made(out).ruleset);
        no_limit_of_errors();
        let others = "table inet others { chain late { type filter hook prerouting priority -155
            meta l4proto tcp reject with icmpx type host-unreachable
            meta l4proto udp reject with icmpx type port-unreachable; }\n}\n";
        nft("a test", &["-f", "-"], Some(others)).unwrap();
        // Nor does any that is about the way there, as the kernel's own: flows that are open would end by it.
        for vip in WEB.into_iter().chain(ANY) {
            client.send(&tcp_at(vip, 3, ACK, 0)).unwrap();
            is_silent(&client);
        }
        for vip in ANY {
            client.send(&udp(vip, 3)).unwrap();
            is_silent(&client);
        }
        for vip in WEB {
            client.send(&udp(vip, 3)).unwrap();
            is_unreachable(&client, vip, &udp(vip, 3));
        }
        assert_eq!(REJECTED.map(counted_by), [0, 0, 6]);
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn without_reject_in_the_kernel_new_flows_are_dropped_and_counted() {
    in_namespace(|| {
        let Made { state, forwarding, mut ruleset } = made(left(&state_of(FILE)));
        let claims = Claims::of(forwarding.classifier());
        let without = Means { reject: false, ..means().unwrap() };
        ruleset = Ruleset { structure: Ruleset::new(&state, &claims, without).unwrap().structure, ..ruleset };
        let client = without_lease(&ruleset);
        for vip in WEB {
            for bytes in [tcp_at(vip, 1, SYN, 0), udp(vip, 3)] {
                client.send(&bytes).unwrap();
                is_silent(&client);
            }
        }
        assert_eq!(REJECTED.map(counted_by), [0, 4, 0]);
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn another_services_backends_get_the_new_flows_by_its_own_table() {
    in_namespace(|| {
        let lent = FILE.replacen("no_backend = \"reject\"", "no_backend = \"service:spare\"", 1);
        let Made { state, forwarding, ruleset } = made(left(&state_of(&lent)));
        let client = without_lease(&ruleset);
        let spare = &state.service("spare").unwrap().backends;
        let mut packets = Vec::new();
        for vip in WEB {
            packets.extend((1..20).flat_map(|port| [tcp_at(vip, port, SYN, 0), udp(vip, port)]));
        }
        for bytes in &packets {
            client.send(bytes).unwrap();
            let decided = forwarding.decide(&Packet::parse(bytes).unwrap());
            let Decision::Steered { target, .. } = decided else { panic!("{decided:?}") };
            assert!(spare.iter().any(|backend| backend.target == target));
        }
        assert_eq!(counted_by("by_kernel"), packets.len() as u64);
        // Each target got as many as lbd would have given it.
        let mut expected = BTreeMap::<u32, u64>::new();
        for bytes in &packets {
            if let Decision::Steered { mark, .. } = forwarding.decide(&Packet::parse(bytes).unwrap()) {
                *expected.entry(mark.0).or_default() += 1;
            }
        }
        let got: BTreeMap<u32, u64> =
            given().unwrap().into_iter().filter(|(_, packets)| *packets > 0).collect();
        assert_eq!((got, expected.len()), (expected, 2));
    });
}
