//! Fallback tables: they decide while no process listens to the queue.

use super::{
    packets::{balancer_with, counted_by, patient, sum, without_lease},
    steering::{ACK, Lb, SYN, conntrack_entries, sealed, tcp},
    *,
};
use crate::model::{Admin, Override};
use crate::{
    balance::{Decision, Forwarding},
    config::Config,
    model::ids::{Generation, Mark},
    packet::Packet,
    plan::{elements::Way, kernel_tables::KernelTable},
    sys::namespace::shell,
    tests::bytes::{ip, packet},
};

/// One of each kind of hash; two on one VIP, one that takes every protocol.
pub(super) const FILE: &str = r#"
[balancer]
name = "lb201"
address = "192.168.1.201"
interfaces = "client"
kernel_entries = 1000
[[service]]
name = "web"
vips = ["192.0.2.1", "2001:db8::1"]
protocols = ["tcp", "udp"]
ports = "80-90"
table_size = 251
backend = [{ name = "a", address = "192.168.1.1" }, { name = "b", address = "192.168.1.2" }]
[[service]]
name = "rest"
vips = ["192.0.2.1", "2001:db8::1"]
table_size = 89
backend = [{ name = "c", address = "192.168.1.3" }, { name = "d", address = "192.168.1.4" }]
[[service]]
name = "dns"
vips = ["192.0.2.4", "2001:db8::4"]
protocols = ["udp"]
table_size = 83
backend = [{ name = "a", address = "192.168.1.1" }, { name = "d", address = "192.168.1.4" }]
[[service]]
name = "near"
vips = ["192.0.2.2", "2001:db8::2"]
protocols = ["tcp", "udp", "sctp"]
hash = "source"
table_size = 97
backend = [{ name = "a", address = "192.168.1.1" }, { name = "c", address = "192.168.1.3" }]
[[service]]
name = "any"
vips = ["192.0.2.3", "2001:db8::3"]
table_size = 97
backend = [{ name = "b", address = "192.168.1.2" }, { name = "c", address = "192.168.1.3" }]
"#;
/// The marks of what leaves, one at a time.
const SEEN: &str = "table inet m { set seen { type mark; size 64; flags dynamic; }
    chain leaving { type filter hook forward priority 0; add @seen { meta mark }; }
    }";

/// All of its services.
const ALL: [&str; 5] = ["web", "rest", "dns", "near", "any"];
/// The counters of what is queued, and of what would be if lbd had a lease.
const QUEUED: [&str; 5] = ["queued_syn", "queued_midstream", "queued_udp", "queued_other", "lease_ended"];

/// The same where the kernel decides for these services.
pub(super) fn by_kernel(file: &str, services: &[&str]) -> String {
    services.iter().fold(file.to_owned(), |file, service| {
        let name = format!("name = \"{service}\"\n");
        assert!(file.contains(&name), "{service}");
        file.replace(&name, &format!("{name}steering = \"kernel\"\n"))
    })
}

/// What a configuration makes of it.
pub(super) struct Made {
    pub(super) state: State,
    pub(super) forwarding: Forwarding,
    pub(super) ruleset: Ruleset,
}

pub(super) fn made(state: State) -> Made {
    let forwarding = Forwarding::new(&state, Generation(1)).unwrap();
    let claims = Claims::of(forwarding.classifier());
    let ruleset = Ruleset::new(&state, &claims, means().unwrap()).unwrap();
    Made { state, forwarding, ruleset }
}

fn apply_all(ruleset: &Ruleset, tables: &mut Tables) -> Applied {
    crate::sys::nft::apply(ruleset, tables).unwrap()
}

/// This fallback table, as if its map had another name.
fn nowhere(table: &KernelTable) -> KernelTable {
    let mut table = table.clone();
    table.map = "table_nowhere".to_owned();
    table
}

pub(super) fn made_of(file: &str) -> Made {
    made(State::new(&Config::parse("lb.toml", file).unwrap()).unwrap())
}

/// The marks of what has left since the last time.
fn seen() -> Vec<u64> {
    let json = nft("a listing", &["-j", "list", "set", "inet", "m", "seen"], None).unwrap();
    nft("a test", &["flush", "set", "inet", "m", "seen"], None).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let elements = json["nftables"][1]["set"]["elem"].as_array().cloned().unwrap_or_default();
    elements.iter().map(|element| element.as_u64().unwrap()).collect()
}

/// The same, but what the queue gives back keeps bits of others, and only ours count.
fn targets_seen() -> Vec<u64> {
    seen().into_iter().map(|mark| mark & u64::from(MarkMask::DEFAULT.bits())).collect()
}

/// ICMP, with right checksums.
fn icmp(client: &str, vip: &str, [four, six]: [u8; 2], rest: &[u8]) -> Vec<u8> {
    let (protocol, kind) = if vip.contains(':') { (58, six) } else { (1, four) };
    let mut message = [&[kind, 0, 0, 0][..], rest].concat();
    let covered = match (client.parse().unwrap(), vip.parse().unwrap()) {
        (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, 58], &message].concat()
        }
        _ => message.clone(),
    };
    message[2..4].copy_from_slice(&(!sum(&covered)).to_be_bytes());
    sealed(ip(protocol, client, vip, &message))
}

/// Packets of every kind that a client, and routers on the way to it, send to a VIP; and those that the kernel does not read,
/// whatever lbd makes of them.
fn packets_to(vip: &str, client: &str, port: u16) -> [Vec<Vec<u8>>; 2] {
    let six = vip.contains(':');
    let (router, header) = if six { ("fd09::77", 40) } else { ("10.9.0.77", 20) };
    // Of a flow that is not known.
    let quoted = |protocol| packet(protocol, vip, 80, client, port + 1000, 0);
    let error = |kinds, quoted: &[u8]| icmp(router, vip, kinds, &[&[0; 4][..], quoted].concat());
    let [high, low] = port.to_be_bytes();
    let echo = [high, low, 0, 1];
    let answer = |kind| {
        let protocol = if six { 58 } else { 1 };
        let [high, low] = (port + 1000).to_be_bytes();
        ip(protocol, vip, client, &[kind, 0, 0, 0, high, low, 0, 1])
    };
    let (mut later, mut with_more) = (quoted(17), quoted(6));
    if six {
        // Its destination options take eight bytes.
        later[6] = 44;
        with_more[6] = 60;
        with_more.splice(40..40, [6, 0, 1, 4, 0, 0, 0, 0]);
    } else {
        later[7] = 9;
        with_more[0] = 0x46;
        with_more.splice(20..20, [1, 1, 1, 1]);
    }
    let mut coded = icmp(client, vip, [8, 128], &echo);
    coded[header + 1] = 1;
    let sum = u16::from_be_bytes([coded[header + 2], coded[header + 3]]) - 1;
    coded[header + 2..header + 4].copy_from_slice(&sum.to_be_bytes());
    let read = vec![
        sealed(packet(6, client, port, vip, 80, 2)),
        sealed(ip(17, client, vip, &[high, low, 0, 80, 0, 8, 0, 0])),
        sealed(ip(132, client, vip, &[high, low, 0, 80, 0, 0, 0, 0])),
        sealed(ip(47, client, vip, &[0; 8])),
        icmp(client, vip, [8, 128], &echo),
        error([3, 1], &quoted(6)),
        error([11, 3], &quoted(17)),
        error([3, 2], &quoted(50)),
        error([12, 4], &answer(if six { 129 } else { 0 })),
    ];
    let mut unread = vec![
        error([3, 2], &later),
        error([3, 1], &with_more),
        error([3, 1], &answer(if six { 1 } else { 3 })),
    ];
    // Where pings are hashed on their identifier.
    if vip.ends_with('4') {
        unread.push(coded);
    }
    [read, unread]
}

/// Sends packets of every kind to every VIP of [`FILE`]. How many were steered and dropped, and to how many targets they went.
fn all_go_where_lbd_would_send_them(client: &tun_tap::Iface, forwarding: &Forwarding) -> (u64, u64, usize) {
    let (mut steered, mut dropped, mut targets) = (0, 0, std::collections::BTreeSet::new());
    for (client_address, port) in [("2", 4000), ("3", 4001), ("4", 4002), ("5", 4003)] {
        for vip in
            ["192.0.2.", "2001:db8::"].into_iter().flat_map(|net| (1..=4).map(move |n| format!("{net}{n}")))
        {
            let net = if vip.contains(':') { "fd09::" } else { "10.9.0." };
            let [read, unread] = packets_to(&vip, &format!("{net}{client_address}"), port);
            for bytes in read {
                client.send(&bytes).unwrap();
                let decided = Packet::parse(&bytes).map(|packet| forwarding.decide(&packet));
                let expected = match decided {
                    Ok(Decision::Steered { mark, target, .. }) => {
                        targets.insert(target);
                        vec![u64::from(mark.0)]
                    }
                    Ok(_) | Err(_) => vec![],
                };
                assert_eq!(seen(), expected, "{vip} {bytes:x?} {decided:?}");
                if expected.is_empty() { dropped += 1 } else { steered += 1 }
            }
            for bytes in unread {
                client.send(&bytes).unwrap();
                assert_eq!(seen(), Vec::<u64>::new(), "{vip} {bytes:x?}");
                dropped += 1;
            }
        }
    }
    (steered, dropped, targets.len())
}

/// The kernel decides about a UDP flow's first packet, and by its connection mark about the next. A new flow: entries of one packet
/// may be gone by now.
fn a_flow_is_pinned(client: &tun_tap::Iface, steered: u64) {
    let [read, _] = packets_to("192.0.2.1", "10.9.0.2", 4999);
    for expected in [(steered + 1, 0), (steered + 1, 1)] {
        client.send(&read[1]).unwrap();
        assert_eq!((counted_by("by_kernel"), counted_by("restored")), expected);
    }
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn without_lbd_every_packet_goes_where_lbd_would_send_it() {
    in_namespace(|| {
        let Made { state, forwarding, mut ruleset } = made_of(FILE);
        patient(&mut ruleset);
        let client = balancer_with(&ruleset);
        // Pings as well.
        shell(
            "for of in icmp icmpv6; do echo 3600 > /proc/sys/net/netfilter/nf_conntrack_${of}_timeout; done",
        );
        assert_eq!(ruleset.tables.len(), 5);
        nft("a test", &["-f", "-"], Some(SEEN)).unwrap();
        let (steered, dropped, targets) = all_go_where_lbd_would_send_them(&client, &forwarding);
        // Of nine: all at the first VIP and the third, all but GRE and ESP at the second, UDP and pings at the last.
        assert_eq!((steered, targets), (4 * 2 * (9 + 7 + 9 + 4), state.targets_used().count()));
        let counted = [counted_by("by_kernel"), counted_by("unsteered") + counted_by("unclaimed")];
        assert_eq!(counted, [steered, dropped]);
        // What began so is pinned, and stays where it is.
        let entries = conntrack_entries();
        assert!(entries >= 2 * 4 * 2 * 4, "UDP and pings: {entries}");
        a_flow_is_pinned(&client, steered);
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn where_the_kernel_decides_nothing_is_queued_and_all_goes_where_lbd_would_send_it() {
    in_namespace(|| {
        let Made { state, forwarding, ruleset } = made_of(&by_kernel(FILE, &ALL));
        // There is no lease either.
        let client = without_lease(&ruleset);
        nft("a test", &["-f", "-"], Some(SEEN)).unwrap();
        // All of our bits, and none of a target: no mark of others may pass for anything.
        let others = "table inet others { chain before { type filter hook prerouting priority -460; meta mark set 0xffff; }
            chain late { type filter hook prerouting priority -151; meta mark set 0xffff; }
            }";
        nft("a test", &["-f", "-"], Some(others)).unwrap();
        let (steered, _, _) = all_go_where_lbd_would_send_them(&client, &forwarding);
        assert_eq!((steered, counted_by("by_kernel")), (4 * 2 * (9 + 7 + 9 + 4), steered));
        // Of each target's packets there is a count of its own, which other changes of the ruleset leave.
        apply_all(&made_of(&by_kernel(FILE, &ALL[1..])).ruleset, &mut Tables::default());
        let counts = given().unwrap();
        assert_eq!((counts.len(), counts.values().sum::<u64>()), (state.targets_used().count(), steered));
        // What it cannot decide is lbd's: quotes that are hard to read, errors about what no service claims.
        let unsteered = counted_by("unsteered");
        assert_eq!(QUEUED.map(counted_by), [0, 0, 0, unsteered, unsteered]);
        assert!(unsteered > 0);
        // What began so is pinned, and stays where it is.
        a_flow_is_pinned(&client, steered);
    });
}

/// The mark that a packet gets by the table.
fn mark_of(forwarding: &Forwarding, bytes: &[u8]) -> Mark {
    let decided = forwarding.decide(&Packet::parse(bytes).unwrap());
    let Decision::Steered { mark, .. } = decided else { panic!("{decided:?} {bytes:x?}") };
    mark
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn the_kernel_decides_for_one_service_and_lbd_for_another() {
    in_namespace(|| {
        let file = by_kernel(FILE, &["web"]).replace("kernel_entries", "queues = \"0\"\nkernel_entries");
        let Made { state, forwarding, mut ruleset } = made_of(&file);
        patient(&mut ruleset);
        let mut lb = Lb::with(&ruleset, "client");
        nft("a test", &["-f", "-"], Some(SEEN)).unwrap();
        let mut tables = Tables::default();
        for (vip, from) in [("192.0.2.1", "10.9.0.2"), ("2001:db8::1", "fd09::2")] {
            let before = QUEUED.map(counted_by);
            let [read, _] = packets_to(vip, from, 4000);
            // SYN and UDP to port 80, errors about either: of "web". SCTP, GRE, pings, errors about ESP and pings: of "rest".
            for (bytes, of_web) in
                read.iter().zip([true, true, false, false, false, true, true, false, false])
            {
                let mark = mark_of(&forwarding, bytes);
                if of_web {
                    lb.send(bytes);
                } else {
                    lb.steer(bytes, mark);
                }
                assert_eq!(targets_seen(), [u64::from(mark.0)], "{bytes:x?}");
            }
            lb.steer(&sealed(packet(6, from, 4000, vip, 443, SYN)), Mark(1));
            assert_eq!(targets_seen(), [1]);
            let queued: Vec<u64> =
                QUEUED.map(counted_by).iter().zip(before).map(|(now, before)| now - before).collect();
            assert_eq!(queued, [1, 0, 0, 5, 0], "{vip}");

            // The table changes: the first SYN's backend leaves it. The SYN is sent again, and its ACK follows.
            let first = mark_of(&forwarding, &read[0]);
            let backend = state.services[0]
                .backends
                .iter()
                .find(|backend| state.balancer.mark_mask.mark(backend.target) == first);
            let left = state
                .set_admin(
                    Some("web"),
                    &[backend.unwrap().name.to_string()],
                    &Override::unattributed(Admin::Draining),
                )
                .unwrap();
            let mut changed = made(left);
            patient(&mut changed.ruleset);
            apply_all(&changed.ruleset, &mut tables);
            tables.apply(&changed.ruleset.tables).unwrap();
            assert_ne!(mark_of(&changed.forwarding, &read[0]), first);
            let again = counted_by("syn_again");
            for bytes in [tcp(vip, 4000, SYN), tcp(vip, 4000, ACK), tcp(vip, 4000, ACK)] {
                lb.send(&bytes);
                assert_eq!(targets_seen(), [u64::from(first.0)]);
            }
            assert_eq!(counted_by("syn_again"), again + 1);
            apply_all(&ruleset, &mut tables);
            tables.apply(&ruleset.tables).unwrap();
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn what_a_fallback_table_cannot_decide_is_queued() {
    in_namespace(|| {
        let file = by_kernel(FILE, &["web"]).replace("kernel_entries", "queues = \"0\"\nkernel_entries");
        let Made { forwarding, ruleset, .. } = made_of(&file);
        let mut lb = Lb::with(&ruleset, "client");
        nft("a test", &["-f", "-"], Some(SEEN)).unwrap();
        for (vip, from) in [("192.0.2.1", "10.9.0.2"), ("2001:db8::1", "fd09::2")] {
            let [read, _] = packets_to(vip, from, 4000);
            let old = mark_of(&forwarding, &read[1]);
            let targets = |verb| {
                let of = |set| format!("{verb} element inet {TABLE} {set} {{ {} }}\n", old.0);
                nft("a test", &["-f", "-"], Some(&["targets", "given"].map(of).concat())).unwrap();
            };
            // The table is older than the targets.
            targets("delete");
            lb.steer(&read[1], Mark(3));
            assert_eq!(targets_seen(), [3]);
            targets("add");
        }
        // It has no entries; as while lbd cannot fill it.
        nft("a test", &["flush", "map", "inet", TABLE, &ruleset.tables[0].map], None).unwrap();
        for vip in ["192.0.2.1", "2001:db8::1"] {
            lb.steer(&tcp(vip, 4000, SYN), Mark(3));
            assert_eq!(targets_seen(), [3]);
        }
        assert_eq!(QUEUED.map(counted_by), [2, 0, 2, 0, 0]);
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn errors_about_off_table_flows_go_where_these_are() {
    in_namespace(|| {
        let Made { forwarding, mut ruleset, .. } = made_of(&by_kernel(FILE, &["web"]));
        ruleset.elements.set_way(Way::OffTable);
        let client = without_lease(&ruleset);
        nft("a test", &["-f", "-"], Some(SEEN)).unwrap();
        for (vip, from, family) in [("192.0.2.1", "10.9.0.2", 4), ("2001:db8::1", "fd09::2", 6)] {
            let [read, _] = packets_to(vip, from, 4000);
            // Both quote a flow from port 5000.
            for (error, protocol, map) in [(&read[5], "tcp", "off_table"), (&read[6], "udp", "off_closing")] {
                let mark = mark_of(&forwarding, error).0;
                client.send(error).unwrap();
                assert_eq!(seen(), [u64::from(mark)]);
                let other = if mark == 1 { 2 } else { 1 };
                let flow = format!("{from} . {vip} . {protocol} . 5000 . 80 timeout 100s : {other}");
                let text = format!("add element inet {TABLE} {map}{family} {{ {flow} }}\n");
                nft("a test", &["-f", "-"], Some(&text)).unwrap();
                client.send(error).unwrap();
                assert_eq!(seen(), [other]);
            }
        }
        assert_eq!((QUEUED.map(counted_by), counted_by("off_table")), ([0; 5], 4));
    });
}

/// Services on nested prefixes.
const NESTED: &str = r#"
[balancer]
name = "lb201"
address = "192.168.1.201"
interfaces = "client"
[[service]]
name = "net"
vips = ["192.0.2.0/24", "2001:db8::/112"]
protocols = ["tcp"]
table_size = 97
backend = [{ name = "a", address = "192.168.1.1" }]
[[service]]
name = "any"
vips = ["192.0.2.0/28", "2001:db8::/124"]
table_size = 97
backend = [{ name = "b", address = "192.168.1.2" }]
[[service]]
name = "host"
vips = ["192.0.2.4", "2001:db8::4"]
protocols = ["udp"]
ports = "53"
table_size = 97
backend = [{ name = "c", address = "192.168.1.3" }]
"#;

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn without_lbd_pings_and_errors_about_them_reach_the_longest_prefix() {
    in_namespace(|| {
        let Made { state, forwarding, ruleset } = made_of(NESTED);
        let client = balancer_with(&ruleset);
        nft("a test", &["-f", "-"], Some(SEEN)).unwrap();
        let echo = [9, 9, 0, 1];
        for (host, service) in [("4", 2), ("5", 1), ("77", 0)] {
            let target = state.services[service].backends[0].target;
            let expected = vec![u64::from(state.balancer.mark_mask.mark(target).0)];
            for (net, from) in [("192.0.2.", "10.9.0.2"), ("2001:db8::", "fd09::2")] {
                let vip = format!("{net}{host}");
                let (protocol, answer) = if vip.contains(':') { (58, 129) } else { (1, 0) };
                let quoted = ip(protocol, &vip, from, &[answer, 0, 0, 0, 9, 8, 0, 1]);
                for bytes in [
                    icmp(from, &vip, [8, 128], &echo),
                    icmp(from, &vip, [3, 1], &[&[0; 4][..], &quoted].concat()),
                ] {
                    let decided = forwarding.decide(&Packet::parse(&bytes).unwrap());
                    assert!(matches!(decided, Decision::Steered { service: of, .. } if of == service));
                    client.send(&bytes).unwrap();
                    assert_eq!(seen(), expected, "{vip} {bytes:x?}");
                }
            }
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn with_every_packet_the_kernel_decides_about_each_and_tracks_none() {
    for at_once in [false, true] {
        in_namespace(move || {
            let file = FILE.replace("kernel_entries", "steering = \"every-packet\"\nkernel_entries");
            let file = if at_once { by_kernel(&file, &ALL) } else { file };
            let Made { forwarding, ruleset, .. } = made_of(&file);
            let client = balancer_with(&ruleset);
            nft("a test", &["-f", "-"], Some(SEEN)).unwrap();
            let packets = [("192.0.2.1", "10.9.0.2"), ("2001:db8::1", "fd09::2")].map(|(vip, client)| {
                let segment = |flags| sealed(packet(6, client, 4000, vip, 80, flags));
                let [read, _] = packets_to(vip, client, 4000);
                [read, vec![segment(0x10), segment(0x11)]].concat()
            });
            for bytes in packets.iter().flatten().chain(packets.iter().flatten()) {
                client.send(bytes).unwrap();
                let decided = forwarding.decide(&Packet::parse(bytes).unwrap());
                let Decision::Steered { mark, .. } = decided else { panic!("{decided:?}") };
                assert_eq!(seen(), [u64::from(mark.0)], "{bytes:x?} {decided:?}");
            }
            let all = 2 * 2 * (9 + 2);
            assert_eq!((counted_by("by_kernel"), conntrack_entries()), (all, 0));
            assert_eq!(QUEUED.map(counted_by).iter().sum::<u64>(), if at_once { 0 } else { all });
        });
    }
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn while_connection_tracking_is_full_a_syn_is_remembered_once() {
    in_namespace(|| {
        let Made { mut ruleset, .. } = made_of(FILE);
        // What is deleted counts until the kernel tidies up.
        ruleset.structure.text = ruleset.structure.text.replace("size 65536", "size 2");
        ruleset.elements.set_way(Way::Untracked);
        let client = balancer_with(&ruleset);
        for (vip, from) in [("192.0.2.1", "10.9.0.2"), ("2001:db8::1", "fd09::2")] {
            for port in [4000, 4001] {
                client.send(&sealed(packet(6, from, port, vip, 80, 2))).unwrap();
            }
        }
        assert_eq!(["by_kernel", "pending_full"].map(counted_by), [4, 0]);
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn while_connection_tracking_is_full_the_kernel_decides_and_tracks_none() {
    in_namespace(|| {
        let Made { forwarding, mut ruleset, .. } = made_of(FILE);
        patient(&mut ruleset);
        ruleset.elements.set_way(Way::Untracked);
        let client = balancer_with(&ruleset);
        nft("a test", &["-f", "-"], Some(SEEN)).unwrap();
        // What is for another protocol than TCP, UDP and SCTP is queued, and no process listens.
        let mut queued = 0;
        for round in 1..=2 {
            for (vip, from) in [("192.0.2.1", "10.9.0.2"), ("2001:db8::1", "fd09::2")] {
                let segment = |port, flags| sealed(packet(6, from, port, vip, 80, flags));
                let [read, _] = packets_to(vip, from, 4000);
                queued += read.len() as u64 - 3;
                for bytes in
                    read.iter().chain(&[segment(4000, 0x10), segment(4001, 0x10), segment(4002, 0x11)])
                {
                    client.send(bytes).unwrap();
                    let decided = forwarding.decide(&Packet::parse(bytes).unwrap());
                    let Decision::Steered { mark, .. } = decided else { panic!("{decided:?}") };
                    assert_eq!(seen(), [u64::from(mark.0)], "{round} {bytes:x?} {decided:?}");
                }
            }
        }
        // The SYN's ACK, the second SYN and its ACK find what is pending.
        assert_eq!(["by_kernel", "restored"].map(counted_by), [2 * 2 * 12 - 2 * 3, 2 * 3]);
        let asked = ["queued_other", "queued_udp", "queued_midstream", "untracked"].map(counted_by);
        assert_eq!(asked, [queued, 0, 0, 2 * 2 * 12]);
        // Unclaimed is unclaimed.
        client.send(&sealed(packet(6, "10.9.0.2", 4000, "192.0.2.4", 80, 2))).unwrap();
        assert_eq!((counted_by("unclaimed"), seen(), conntrack_entries()), (1, vec![], 0));
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn fallback_tables_change_by_the_entries_that_differ_and_are_removed_when_not_desired() {
    in_namespace(|| {
        let first = made_of(FILE);
        let mut tables = Tables::default();
        apply_all(&first.ruleset, &mut tables);
        assert_eq!(tables.apply(&first.ruleset.tables).unwrap(), 0, "new ones are filled at once");
        // A new start reads the same, and nothing is to do.
        assert_eq!(Tables::default().apply(&first.ruleset.tables).unwrap(), 0);
        let names = |of: &str| {
            let (chains, maps) = Reader::open().unwrap().names().unwrap();
            chains.into_iter().chain(maps).filter(|name| name.contains(of)).count()
        };
        assert_eq!([names("web"), names("near"), names("any")], [3, 3, 3]);

        // One of two backends leaves: about half of the entries, and nothing else, change.
        let without = made(
            first
                .state
                .set_admin(Some("web"), &["a".to_owned()], &Override::unattributed(Admin::Draining))
                .unwrap(),
        );
        let untouched = Applied { structure: StructureApplied::Kept, elements_added: 0, elements_deleted: 0 };
        assert_eq!(apply_all(&without.ruleset, &mut tables), untouched);
        let changed = tables.apply(&without.ruleset.tables).unwrap();
        assert!((120..=130).contains(&changed), "{changed}");
        assert_eq!(Tables::default().apply(&without.ruleset.tables).unwrap(), 0);
        assert_eq!(tables.apply(&first.ruleset.tables).unwrap(), changed, "and back");

        // Another size and kind of hash, one service less.
        let (other, _) = FILE.split_once("[[service]]\nname = \"any\"").unwrap();
        let other =
            other.replace("table_size = 251", "table_size = 509").replace("\"source\"", "\"5-tuple\"");
        let other = made_of(&other);
        apply_all(&other.ruleset, &mut tables);
        assert_eq!(names("web"), 6, "the old ones stay till the new ones are filled");
        assert_eq!(tables.apply(&other.ruleset.tables).unwrap(), 0);
        assert_eq!([names("web"), names("near"), names("any")], [3, 3, 0]);
        assert_eq!(Tables::default().apply(&other.ruleset.tables).unwrap(), 0);

        // No room.
        let mut state = other.state.clone();
        state.balancer.kernel_entries = 600;
        let less = made(state);
        apply_all(&less.ruleset, &mut tables);
        assert_eq!(tables.apply(&less.ruleset.tables).unwrap(), 0);
        assert_eq!([names("web"), names("near")], [3, 0]);
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn entries_that_another_program_changed_are_noticed_and_mended() {
    in_namespace(|| {
        let Made { ruleset, .. } = made_of(FILE);
        let mut tables = Tables::default();
        apply_all(&ruleset, &mut tables);
        let mut look = || {
            tables.sample(&ruleset.tables);
            tables.apply(&ruleset.tables).unwrap()
        };
        assert_eq!(look(), 0);
        let map = &ruleset.tables[0].map;
        let change = |text: &str| nft("a test", &["-f", "-"], Some(text)).unwrap();
        change(&format!("flush map inet {TABLE} {map}\n"));
        assert_eq!([look(), look()], [251, 0]);
        // One of 251: samples find it when it is its turn.
        change(&format!(
            "delete element inet {TABLE} {map} {{ 100 }}\nadd element inet {TABLE} {map} {{ 100 : 0x7 }}\n"
        ));
        let looks = (1..=251).find(|_| look() == 1);
        assert!(looks.is_some_and(|looks| looks <= 251 / 16 + 1), "{looks:?}");
        // What is no index of ours at all.
        change(&format!(
            "flush map inet {TABLE} {map}\nadd element inet {TABLE} {map} {{ 4294967295 : 0x7 }}\n"
        ));
        assert_eq!([look(), look()], [251, 0]);
        // A chain.
        change(&format!("flush chain inet {TABLE} {}\n", ruleset.tables[0].chain));
        assert!(!in_force(&ruleset).unwrap());
        assert_eq!(apply_all(&ruleset, &mut tables).structure, StructureApplied::Kept);
        // A table that cannot be changed does not keep others from being mended, and the kernel's reason is in the error.
        let [web, near, ..] = &ruleset.tables[..] else { unreachable!("five tables") };
        let missing = nowhere(near);
        change(&format!("flush map inet {TABLE} {map}\n"));
        tables.forget();
        let error = tables.fill([&missing, web]).unwrap_err().to_string();
        assert!(error.contains("table_nowhere") && error.contains("No such file"), "{error}");
        assert_eq!(Tables::default().fill([web]).unwrap(), 0);
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn the_largest_table_is_filled() {
    in_namespace(|| {
        let file =
            FILE.replace("kernel_entries = 1000\n", "").replace("table_size = 251", "table_size = 700001");
        let Made { ruleset, .. } = made_of(&file);
        let mut tables = Tables::default();
        apply_all(&ruleset, &mut tables);
        assert_eq!(tables.apply(&ruleset.tables).unwrap(), 0);
        assert_eq!(Tables::default().apply(&ruleset.tables).unwrap(), 0);
        nft("a test", &["flush", "map", "inet", TABLE, &ruleset.tables[0].map], None).unwrap();
        assert_eq!(Tables::default().apply(&ruleset.tables).unwrap(), 700_001);
        // Many messages that are all refused: the first reason counts.
        let error = Tables::default().apply(&[nowhere(&ruleset.tables[0])]).unwrap_err().to_string();
        assert!(error.contains("No such file"), "{error}");
    });
}
