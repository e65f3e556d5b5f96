//! lbd, the fallback tables and `lbctl which` name the same backend for a flow.

use std::{
    collections::{BTreeMap, hash_map::RandomState},
    hash::BuildHasher as _,
    time::Duration,
};

use super::{
    kernel_tables::{FILE, Made, by_kernel, made_of},
    packets::balancer_with,
    steering::{SYN, sealed},
    *,
};
use crate::{
    balance::{Balancer as Decides, pins::OffTable},
    ctl,
    io::BatchQueue as _,
    model::ids::QueueNum,
    sys::nfqueue::FlowQueue,
    tests::bytes::packet,
};

/// Of each kind: TCP and UDP, IPv4 and IPv6.
const FLOWS: u64 = 2_500;
/// Clients of packets that leave, with the marks of these.
const SEEN: &str = "table inet m {
    set four { type ipv4_addr . mark; size 65536; flags dynamic; }
    set six { type ipv6_addr . mark; size 65536; flags dynamic; }
    chain leaving { type filter hook forward priority 0;
        add @four { ip saddr . meta mark }
        add @six { ip6 saddr . meta mark }; }
    }";

/// A flow.
#[derive(Clone)]
struct Sent {
    /// In the words of `lbctl which`.
    question: String,
    /// Its first packet.
    bytes: Vec<u8>,
}

/// Flows of services by their clients; each client has one.
fn random_flows() -> BTreeMap<String, Sent> {
    let hash = RandomState::new();
    let mut flows = BTreeMap::new();
    for number in 0..4 * FLOWS {
        let [a, b, c, d, ..] = hash.hash_one(number).to_be_bytes();
        let (sport, dport) = (u16::from_be_bytes([a, b]), 80 + u16::from(c % 11));
        // The first service has all these ports, of TCP and UDP; the third takes everything.
        let service = if d & 1 == 0 { 1 } else { 3 };
        let (src, dst) = if number % 2 == 0 {
            (format!("10.9.{}.{}", number / 250, number % 250 + 3), format!("192.0.2.{service}"))
        } else {
            (format!("fd09::1:{number:x}"), format!("2001:db8::{service}"))
        };
        let (name, protocol) = if number / 2 % 2 == 0 { ("tcp", 6) } else { ("udp", 17) };
        let bytes = sealed(packet(protocol, &src, sport, &dst, dport, SYN));
        let question = format!("{name} {src} {sport} {dst} {dport}");
        flows.insert(src, Sent { question, bytes });
    }
    flows
}

/// The marks of all that has left, by clients.
fn seen() -> BTreeMap<String, u64> {
    let mut seen = BTreeMap::new();
    for set in ["four", "six"] {
        let json = nft("a listing", &["-j", "list", "set", "inet", "m", set], None).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        for element in json["nftables"][1]["set"]["elem"].as_array().unwrap() {
            let client = element["concat"][0].as_str().unwrap().to_owned();
            let before = seen.insert(client, element["concat"][1].as_u64().unwrap());
            assert_eq!(before, None, "one mark for each flow");
        }
    }
    seen
}

/// What `lbctl which` says, by clients.
fn marks_by_which(state: &State, flows: &BTreeMap<String, Sent>) -> BTreeMap<String, u64> {
    let questions: Vec<&str> = flows.values().map(|sent| sent.question.as_str()).collect();
    let answers = ctl::tests::which(state, &questions.join("\n"));
    assert_eq!(answers.len(), flows.len());
    let marks = answers.iter().map(|answer| answer["mark"].as_u64().unwrap());
    flows.keys().cloned().zip(marks).collect()
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn ten_thousand_flows_have_the_same_backend_whatever_decides() {
    let flows = random_flows();
    assert_eq!(flows.len(), 10_000);

    let sent = flows.clone();
    let by_lbd = in_namespace(move || {
        let file = FILE.replace("kernel_entries", "queues = \"0\"\nkernel_entries");
        let Made { state, forwarding, ruleset } = made_of(&file);
        let client = balancer_with(&ruleset);
        let mut queue = FlowQueue::open(QueueNum(0), MarkMask::DEFAULT).unwrap();
        nft("a test", &["-f", "-"], Some(SEEN)).unwrap();
        let (mut balancer, off_table) = (Decides::default(), OffTable::default());
        for Sent { bytes, .. } in sent.values() {
            client.send(bytes).unwrap();
            assert_eq!(queue.receive(Duration::ZERO).unwrap(), 1, "it is queued");
            let errors = queue.answer(|queued| balancer.handle(&forwarding, &off_table, queued));
            assert!(errors.is_empty(), "{errors:?}");
        }
        let seen = seen();
        assert_eq!(marks_by_which(&state, &sent), seen);
        seen
    });
    in_namespace(move || {
        let Made { state, ruleset, .. } = made_of(&by_kernel(FILE, &["web", "any"]));
        let client = balancer_with(&ruleset);
        nft("a test", &["-f", "-"], Some(SEEN)).unwrap();
        for Sent { bytes, .. } in flows.values() {
            client.send(bytes).unwrap();
        }
        let seen = seen();
        assert_eq!(marks_by_which(&state, &flows), seen);
        assert_eq!(seen, by_lbd);
    });
}
