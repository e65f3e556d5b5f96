//! The kernel's copies of services' tables: what decides while nobody listens to the queue.

use super::{
    packets::{balancer_with, counted_by, sum},
    steering::{conntrack_entries, sealed},
    *,
};
use crate::{
    balance::{Decision, Forwarding},
    config::Config,
    ids::Generation,
    packet::Packet,
    tests::bytes::{ip, packet},
};

/// One of each kind of hash, and one that takes every protocol; the first has ports as well.
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
ports = "80-90"
table_size = 251
backend = [{ name = "a", address = "192.168.1.1" }, { name = "b", address = "192.168.1.2" }]
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

/// What a configuration makes of it.
struct Made {
    state: State,
    forwarding: Forwarding,
    ruleset: Ruleset,
}

fn made(state: State) -> Made {
    let forwarding = Forwarding::new(&state, Generation(1)).unwrap();
    let claims = Claims::of(forwarding.classifier());
    let ruleset = Ruleset::new(&state, &claims, queue_by().unwrap()).unwrap();
    Made { state, forwarding, ruleset }
}

fn made_of(file: &str) -> Made {
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

/// Packets of every kind that a client, and routers on the way to it, send to a VIP.
fn packets_to(vip: &str, client: &str, port: u16) -> [Vec<u8>; 8] {
    let router = if vip.contains(':') { "fd09::77" } else { "10.9.0.77" };
    let error = |kinds, protocol| {
        // Of a flow that nobody has seen.
        let quoted = packet(protocol, vip, 80, client, port + 1000, 0);
        icmp(router, vip, kinds, &[&[0; 4][..], &quoted].concat())
    };
    let [high, low] = port.to_be_bytes();
    [
        sealed(packet(6, client, port, vip, 80, 2)),
        sealed(ip(17, client, vip, &[high, low, 0, 80, 0, 8, 0, 0])),
        sealed(ip(132, client, vip, &[high, low, 0, 80, 0, 0, 0, 0])),
        sealed(ip(47, client, vip, &[0; 8])),
        icmp(client, vip, [8, 128], &[high, low, 0, 1]),
        error([3, 1], 6),
        error([11, 3], 17),
        error([3, 2], 50),
    ]
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn without_lbd_every_packet_goes_where_lbd_would_send_it() {
    in_namespace(|| {
        let Made { state, forwarding, ruleset } = made_of(FILE);
        let client = balancer_with(&ruleset);
        assert_eq!(ruleset.tables.len(), 3);
        assert_eq!(Tables::default().apply(&ruleset.tables).unwrap(), 251 + 97 + 97);
        nft("a test", &["-f", "-"], Some(SEEN)).unwrap();
        let (mut steered, mut dropped, mut targets) = (0, 0, std::collections::BTreeSet::new());
        for (vip, client_address, port) in [
            ("192.0.2.1", "10.9.0.2", 4000),
            ("192.0.2.2", "10.9.0.3", 4001),
            ("192.0.2.3", "10.9.0.4", 4002),
            ("192.0.2.1", "10.9.0.5", 4003),
            ("2001:db8::1", "fd09::2", 4000),
            ("2001:db8::2", "fd09::3", 4001),
            ("2001:db8::3", "fd09::4", 4002),
            ("2001:db8::1", "fd09::5", 4003),
        ] {
            for bytes in packets_to(vip, client_address, port) {
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
        }
        assert_eq!((steered, targets.len()), (4 * 5 + 2 * 6 + 2 * 8, state.targets_used().count()));
        assert_eq!(
            [counted_by("by_kernel"), counted_by("unsteered") + counted_by("unclaimed")],
            [steered, dropped]
        );
        // What began so is pinned, and stays where it is.
        let entries = conntrack_entries();
        assert!(entries >= 8 + 8, "UDP and pings: {entries}");
        let [_, mut flow, ..] = packets_to("192.0.2.1", "10.9.0.2", 4000);
        client.send(&flow).unwrap();
        assert_eq!((counted_by("by_kernel"), counted_by("restored")), (steered, 1));
        flow[21] ^= 1;
        client.send(&flow).unwrap();
        assert_eq!((counted_by("by_kernel"), counted_by("restored")), (steered + 1, 1));
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn copies_change_by_the_entries_that_differ_and_go_when_nobody_wants_them() {
    in_namespace(|| {
        let first = made_of(FILE);
        let mut tables = Tables::default();
        apply(&first.ruleset).unwrap();
        assert_eq!(tables.apply(&first.ruleset.tables).unwrap(), 445);
        assert!(tables.sample(&first.ruleset.tables).unwrap() && in_force(&first.ruleset).unwrap());
        let names = |of: &str| {
            let listing = read_listing().unwrap().unwrap();
            let chains = listing.chains.into_iter().map(|chain| chain.name);
            chains.chain(listing.maps).filter(|name| name.contains(of)).count()
        };
        assert_eq!([names("web"), names("near"), names("any")], [3, 3, 3]);

        // One of two backends leaves: about half of the entries, and nothing else, change.
        let without = first.state.set_active(Some("web"), &["a".to_owned()], false).unwrap();
        let without = made(without);
        let applied = apply(&without.ruleset).unwrap();
        let untouched = Applied { structure: StructureApplied::Kept, elements_added: 0, elements_deleted: 0 };
        assert_eq!(applied, untouched);
        let changed = tables.apply(&without.ruleset.tables).unwrap();
        assert!((120..=130).contains(&changed), "{changed}");
        // Whoever starts anew reads the same, and nothing is to do.
        assert_eq!(Tables::default().apply(&without.ruleset.tables).unwrap(), 0);

        // Another size and kind of hash, one service less.
        let (other, _) = FILE.split_once("[[service]]\nname = \"any\"").unwrap();
        let other = made_of(
            &other.replace("table_size = 251", "table_size = 509").replace("\"source\"", "\"5-tuple\""),
        );
        apply(&other.ruleset).unwrap();
        assert_eq!(names("web"), 6, "the old ones stay till the new ones are filled");
        assert_eq!(tables.apply(&other.ruleset.tables).unwrap(), 509);
        assert_eq!([names("web"), names("near"), names("any")], [3, 3, 0]);
        assert!(in_force(&other.ruleset).unwrap() && tables.sample(&other.ruleset.tables).unwrap());

        // No room.
        let mut state = other.state.clone();
        state.balancer.kernel_entries = 600;
        let less = made(state);
        apply(&less.ruleset).unwrap();
        assert_eq!(tables.apply(&less.ruleset.tables).unwrap(), 0);
        assert_eq!([names("web"), names("near")], [3, 0]);
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn entries_that_somebody_changed_are_noticed_and_mended() {
    in_namespace(|| {
        let Made { ruleset, .. } = made_of(FILE);
        let mut tables = Tables::default();
        apply(&ruleset).unwrap();
        tables.apply(&ruleset.tables).unwrap();
        let map = ruleset.tables[0].map.clone();
        nft("a test", &["flush", "map", "inet", TABLE, &map], None).unwrap();
        assert!(!tables.sample(&ruleset.tables).unwrap());
        assert_eq!(tables.apply(&ruleset.tables).unwrap(), 251);
        assert!(tables.sample(&ruleset.tables).unwrap());
        // One of 251: samples find it when it is its turn.
        let text = format!(
            "delete element inet {TABLE} {map} {{ 100 }}\nadd element inet {TABLE} {map} {{ 100 : 0x7 }}\n"
        );
        nft("a test", &["-f", "-"], Some(&text)).unwrap();
        let looks = (1..=251).find(|_| !tables.sample(&ruleset.tables).unwrap());
        assert!(looks.is_some_and(|looks| looks <= 251 / 16 + 1), "{looks:?}");
        assert_eq!(tables.apply(&ruleset.tables).unwrap(), 1);
        // A chain.
        nft("a test", &["flush", "chain", "inet", TABLE, &ruleset.tables[0].chain], None).unwrap();
        assert!(!in_force(&ruleset).unwrap());
        assert_eq!(apply(&ruleset).unwrap().structure, StructureApplied::Kept);
        assert!(in_force(&ruleset).unwrap());
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn the_largest_table_is_filled() {
    in_namespace(|| {
        let file =
            FILE.replace("kernel_entries = 1000\n", "").replace("table_size = 251", "table_size = 700001");
        let Made { ruleset, .. } = made_of(&file);
        apply(&ruleset).unwrap();
        assert_eq!(Tables::default().apply(&ruleset.tables).unwrap(), 700_001 + 97 + 97);
        assert_eq!(Tables::default().apply(&ruleset.tables).unwrap(), 0);
    });
}
