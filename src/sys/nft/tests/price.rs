//! What a packet costs: the base chains, rules, expressions and look-ups that it meets. A rule that is added to a way that many
//! packets take finds its price here.
//!
//! The kernel's own trace (`nft monitor trace`) has the rules that matched; those in between were tried in vain. What a rule is
//! made of says `nft --debug=netlink`. One that was tried in vain is taken to have failed at its first comparison or look-up
//! that another packet of the same protocols could pass.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    net::UdpSocket,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use super::{
    packets::ruleset_for,
    steering::{ACK, Lb, SYN, VIPS, tcp, udp},
    *,
};
use crate::{
    model::{GUE_PORT, Steering, ids::Mark},
    sys::clock::{self, wait_for},
};

/// What is sent is traced, from before the first of our chains on.
const TRACED: &str = "table inet traced {
    chain first { type filter hook prerouting priority -500; th dport 80 meta nftrace set 1; }
    }";
/// The last chains of ours that a packet comes to: of those that are forwarded, and of those that leave in a tunnel.
const LAST: [&str; 3] = ["leaving", "outer", "to_remote"];
/// Of `enum nfnetlink_groups`, as a bit.
const NFNLGRP_NFTRACE: u32 = 1 << 8;

/// What a packet meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Price {
    base_chains: usize,
    rules: usize,
    expressions: usize,
    lookups: usize,
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn what_packets_meet_is_known() {
    in_namespace(|| {
        let mut state = state();
        state.balancer.queues = QueueRange::new(0, 0).unwrap();
        let mut ruleset = ruleset_for(&state, "client");
        // No packet is sampled: by chance one in 128 meets more.
        let text = &mut ruleset.structure.text;
        let unsampled = text.replace("numgen random mod 128 0", "numgen random mod 4294967295 0");
        assert_ne!(unsampled, *text);
        *text = unsampled;
        let mut lb = Lb::with(&ruleset, "client");
        nft("a test", &["flush", "chain", "inet", "t", "before"], None).unwrap();
        nft("a test", &["-f", "-"], Some(TRACED)).unwrap();
        let rules = Rules::read();
        let price =
            |base_chains, rules, expressions, lookups| Price { base_chains, rules, expressions, lookups };
        // Where there is a flowtable, two expressions more ask whether a flow may be promoted.
        let flowtable = means().unwrap().flowtable;
        let sampled = |price: Price| match flowtable {
            true => Price { rules: price.rules + 1, expressions: price.expressions + 2, ..price },
            false => price,
        };
        let mut seen = Vec::new();
        for vip in VIPS {
            let family = if vip.contains(':') { 10 } else { 2 };
            let of = |transport, send: &mut dyn FnMut()| {
                rules.price(Protocols { family, transport }, &traced(send))
            };
            let syn = of(6, &mut || lb.steer(&tcp(vip, 1, SYN), Mark(3)));
            let ack = of(6, &mut || lb.send(&tcp(vip, 1, ACK)));
            let datagram = of(17, &mut || lb.steer(&udp(vip, 2), Mark(3)));
            for _ in 0..3 {
                lb.send(&tcp(vip, 1, ACK));
                lb.send(&udp(vip, 2));
            }
            let known = of(6, &mut || lb.send(&tcp(vip, 1, ACK)));
            seen.push([syn, ack, datagram, known, of(17, &mut || lb.send(&udp(vip, 2)))]);
        }
        // A SYN, the ACK that follows, a flow's first datagram; any later segment, any later datagram.
        let four = [
            sampled(price(6, 36, 153, 12)),
            price(6, 33, 151, 11),
            price(6, 54, 159, 10),
            sampled(price(6, 12, 58, 3)),
            sampled(price(6, 12, 50, 2)),
        ];
        let six = [
            sampled(price(6, 42, 164, 13)),
            price(6, 37, 157, 11),
            price(6, 58, 167, 11),
            sampled(price(6, 14, 60, 3)),
            sampled(price(6, 14, 52, 2)),
        ];
        assert_eq!(seen, [four, six]);
    });
}

/// Of GUE, since it takes no device to send that.
#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn what_tunnel_packets_meet_is_known() {
    in_namespace(|| {
        let _lb = Lb::new(Steering::SynOnly, "client");
        let traced_out = format!(
            "table inet traced {{ chain out {{ type filter hook output priority -500;
                udp dport {GUE_PORT} meta nftrace set 1; }}; }}
            add element inet {TABLE} remotes4 {{ 10.9.0.2 }}
            add element inet {TABLE} remotes6 {{ fd09::2 }}"
        );
        nft("a test", &["-f", "-"], Some(&traced_out)).unwrap();
        let rules = Rules::read();
        let price = |family, from: &str, to: &str| {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            let steps = traced(&mut || assert_eq!(socket.send_to(b"x", (to, GUE_PORT)).unwrap(), 1));
            rules.price(Protocols { family, transport: 17 }, &steps)
        };
        // Of GRE, which the first rule knows, two rules less.
        let four = Price { base_chains: 1, rules: 4, expressions: 15, lookups: 2 };
        let six = Price { base_chains: 1, rules: 5, expressions: 16, lookups: 2 };
        assert_eq!([price(2, "0.0.0.0", "10.9.0.2"), price(10, "::", "fd09::2")], [four, six]);
    });
}

/// A line of the trace: a rule that matched, and its verdict; or where a base chain ended.
#[derive(Debug)]
struct Step {
    chain: String,
    rule: Option<Matched>,
    verdict: String,
}

/// A rule of a chain.
#[derive(Clone, Copy, Debug)]
enum Matched {
    /// With this handle.
    Handle(u64),
    /// The one that returns; which one that is, the trace does not say.
    Returns,
}

/// The steps in our table of the packet that `send` sends.
#[expect(clippy::disallowed_methods, reason = "a monitor, in the namespace of the test")]
fn traced(send: &mut dyn FnMut()) -> Vec<Step> {
    let mut monitor = Command::new("nft")
        .args(["-a", "monitor", "trace"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("nft is installed");
    let output = BufReader::new(monitor.stdout.take().unwrap());
    let (to_here, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        output.lines().map_while(Result::ok).try_for_each(|line| to_here.send(line)).ok();
    });
    wait_for(Duration::from_secs(10), Duration::from_millis(5), || listens(monitor.id()).then_some(()))
        .expect("the monitor listens");
    send();
    let until = clock::now() + Duration::from_secs(10);
    let mut steps = Vec::new();
    while let Ok(line) = lines.recv_timeout(until.saturating_duration_since(clock::now())) {
        let Some(step) = Step::read(&line) else { continue };
        let is_last = LAST.contains(&&*step.chain) && ["accept", "policy"].contains(&step.verdict.as_str());
        steps.push(step);
        if is_last {
            break;
        }
    }
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    drop(lines);
    reader.join().unwrap();
    assert!(steps.last().is_some_and(|step| LAST.contains(&&*step.chain)), "{steps:?}");
    steps
}

/// Whether this process receives traces.
fn listens(process: u32) -> bool {
    fs::read_to_string("/proc/thread-self/net/netlink").unwrap().lines().any(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let groups = fields.get(3).and_then(|groups| u32::from_str_radix(groups, 16).ok());
        fields.get(2) == Some(&&*process.to_string())
            && groups.is_some_and(|groups| groups & NFNLGRP_NFTRACE != 0)
    })
}

impl Step {
    /// `trace id ID inet synrail CHAIN rule TEXT # handle N (verdict goto OTHER)`, or without a rule `.. CHAIN policy accept`.
    /// Linux 6.1, and not 6.18, also traces where a chain ends, `.. CHAIN verdict continue`, and has `.. CHAIN verdict return`
    /// for a rule that returns.
    fn read(line: &str) -> Option<Self> {
        let (_, ours) = line.split_once(&format!(" inet {TABLE} "))?;
        let (chain, what) = ours.split_once(' ')?;
        if what.starts_with("packet:") {
            return None;
        }
        let (rule, verdict) = match what.rsplit_once("# handle ") {
            Some((_, rest)) => {
                let (handle, verdict) = rest.split_once(" (verdict ").unwrap();
                (Some(Matched::Handle(handle.parse().unwrap())), verdict.trim_end().trim_end_matches(')'))
            }
            None if what.starts_with("verdict continue") => return None,
            None if what.starts_with("verdict return") => (Some(Matched::Returns), "return"),
            None => (None, "policy"),
        };
        Some(Self { chain: chain.to_owned(), rule, verdict: verdict.to_owned() })
    }
}

/// The rules of our table's chains, in order: their handles, and expressions as nft prints them.
struct Rules(BTreeMap<String, Vec<(u64, Vec<String>)>>);

impl Rules {
    fn read() -> Self {
        let mut chains = BTreeMap::<String, Vec<(u64, Vec<String>)>>::new();
        let listing = nft("a listing", &["--debug=netlink", "list", "table", "inet", TABLE], None).unwrap();
        let mut rules = None;
        for line in listing.lines() {
            if let Some(rule) = line.strip_prefix(&format!("inet {TABLE} ")) {
                let words: Vec<&str> = rule.split(' ').collect();
                rules = words.get(1).and_then(|handle| handle.parse().ok()).map(|handle| {
                    let rules = chains.entry(words[0].to_owned()).or_default();
                    rules.push((handle, Vec::new()));
                    rules
                });
            } else if line.starts_with("  [ byteorder ") && line.ends_with(", 2, 1) ]") {
                // Of the protocol's one byte, in a key with others: nft 1.1 leaves that out.
            } else if let (Some(expression), Some(rules)) = (line.strip_prefix("  [ "), &mut rules) {
                rules.last_mut().unwrap().1.push(expression.to_owned());
            }
        }
        Self(chains)
    }

    fn of(&self, chain: &str) -> &[(u64, Vec<String>)] {
        self.0.get(chain).map_or(&[], Vec::as_slice)
    }

    /// What a packet of these protocols met that took these steps.
    fn price(&self, protocols: Protocols, steps: &[Step]) -> Price {
        let mut price = Price::default();
        // The chains that the packet is in: their names, and how many rules of each were tried.
        let mut within: Vec<(&str, usize)> = Vec::new();
        for step in steps {
            if within.is_empty() {
                price.base_chains += 1;
                within.push((&step.chain, 0));
            }
            // It has left those that have led nowhere, at their end; all of them where the policy of the base chain decides.
            while let Some((chain, tried)) =
                within.pop_if(|(chain, _)| *chain != step.chain || step.rule.is_none())
            {
                price.tried_in_vain(protocols, &self.of(chain)[tried..]);
            }
            let (Some(matched), Some((chain, tried))) = (step.rule, within.last_mut()) else { continue };
            let rules = &self.of(chain)[*tried..];
            let mut all = (0..).zip(rules).filter(|(_, (handle, expressions))| match matched {
                Matched::Handle(of) => *handle == of,
                Matched::Returns => expressions.last().is_some_and(|last| last.contains(" return ")),
            });
            let (Some((at, _)), None) = (all.next(), all.next()) else { panic!("{step:?} of {rules:?}") };
            price.tried_in_vain(protocols, &rules[..at]);
            price.rules += 1;
            rules[at].1.iter().for_each(|expression| price.add(expression));
            *tried += at + 1;
            match step.verdict.split_once(' ') {
                Some(("jump", chain)) => within.push((chain, 0)),
                Some(("goto", chain)) => *within.last_mut().unwrap() = (chain, 0),
                _ => match step.verdict.as_str() {
                    "continue" => {}
                    "return" => drop(within.pop()),
                    _ => within.clear(),
                },
            }
        }
        price
    }
}

/// Of a packet: of IP (`NFPROTO_..`), and the one above.
#[derive(Clone, Copy)]
struct Protocols {
    family: u32,
    transport: u32,
}

impl Price {
    fn tried_in_vain(&mut self, protocols: Protocols, rules: &[(u64, Vec<String>)]) {
        for (_, expressions) in rules {
            self.rules += 1;
            // What the register holds, where the packet's protocols say it.
            let mut known = None;
            for expression in expressions {
                self.add(expression);
                let words: Vec<&str> = expression.split(' ').collect();
                match words[..] {
                    ["meta", "load", "nfproto", ..] => known = Some(protocols.family),
                    ["meta", "load", "l4proto", ..] => known = Some(protocols.transport),
                    ["cmp", "eq", "reg", "1", value, ..] if known.is_some() => {
                        let value = u32::from_str_radix(value.trim_start_matches("0x"), 16).unwrap();
                        if known.take() != Some(value) {
                            break;
                        }
                    }
                    ["cmp" | "lookup" | "range" | "limit", ..] => break,
                    _ => known = None,
                }
            }
        }
    }

    fn add(&mut self, expression: &str) {
        self.expressions += 1;
        self.lookups += usize::from(["lookup", "dynset"].iter().any(|kind| expression.starts_with(kind)));
    }
}
