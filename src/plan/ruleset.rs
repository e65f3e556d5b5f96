//! The ruleset as a value: `nft/synrail.nft` with its parameters filled in, what of it goes by netlink, and how to get
//! there from what the kernel has. PURE.
//!
//! Structure (chains and rules), copies of services' tables (`kernel_tables.rs`) and elements (`elements.rs`) are apart:
//! elements and copies change while traffic runs, the structure only with the version of synrail or with settings of the
//! whole balancer. Its name, which the table carries as that of an empty chain, is made from all of it, so a restarted lbd
//! finds out that nothing is to do.

use std::{collections::HashMap, fmt::Write as _};

use serde_json::Value;
use thiserror::Error;
use twox_hash::XxHash3_64;

use super::{
    elements::{Claims, Elements, TABLE},
    kernel_tables::{self, KernelTable},
};
use crate::{
    config::{Balancer, GUE_PORT, QueueRange, Steering, Timeouts},
    packet::Probe,
    state::State,
};

const TEMPLATE: &str = include_str!("../../nft/synrail.nft");
/// How long a TCP connection is remembered of which one packet was seen.
const TCP_FIRST_SECONDS: u32 = 60;
/// How long an open TCP connection is remembered by a packet. lbd gives the flows of three packets their long lifetime.
const TCP_OPEN_SECONDS: u32 = 300;
/// How long a UDP flow is remembered that lbd has not found to have three packets.
const UDP_FIRST_SECONDS: u32 = 30;
const STRUCTURE_PREFIX: &str = "structure_";

/// By what means packets are queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueBy {
    /// The `queue` expression of nftables (kernel module `nft_queue`).
    Nft,
    /// The NFQUEUE target of xtables, through `nft_compat` (`xt_NFQUEUE`), for kernels without the former.
    Xtables,
}

/// Everything that the kernel's table should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Chains and rules.
    pub structure: Structure,
    /// The kernel's copies of services' tables.
    pub tables: Vec<KernelTable>,
    /// Elements of the sets.
    pub elements: Elements,
}

/// Chains and rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Structure {
    /// The name of the empty chain that says which structure this is.
    pub name: String,
    /// The filled text: one `table` block. Loads into an empty table, or one whose chains were flushed.
    pub text: String,
    /// Rules that go by netlink, after the text.
    pub native: Vec<NativeChain>,
    /// Every chain, in the order of the text; last the one that is the name.
    pub chains: Vec<Chain>,
}

/// A chain, with what is compared of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Hook and priority, of a base chain.
    pub base: Option<(String, i64)>,
    /// How many rules it has.
    pub rules: usize,
}

/// A rule that goes by netlink, into a chain that has no others but such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NativeChain {
    /// Its name.
    pub name: &'static str,
    /// The rule.
    pub rule: NativeRule,
}

/// What the nft command cannot say, or not to this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeRule {
    /// `delete @pending6 { ip6 saddr . tcp sport . ip6 daddr . tcp dport : meta mark }`
    Forget6,
    /// `update @pending6 { ip6 saddr . tcp sport . ip6 daddr . tcp dport : meta mark } accept`
    Store6,
    /// `@th,192,32 @vip4 counter name too_big ip saddr set @th,192,32`: the quoted packet's destination.
    TooBig4,
    /// `@th,256,128 @vip6 counter name too_big ip6 saddr set @th,256,128`
    TooBig6,
    /// `update @MAP { KEY timeout SECONDS : meta mark }`, of this protocol, and where there was room `jump THEN`; KEY is
    /// `ip saddr . ip daddr . meta l4proto . th sport . th dport`.
    StoreOff {
        /// Of addresses and of the map.
        family: Family,
        /// The map.
        map: OffMap,
        /// TCP or UDP, as IP numbers them.
        protocol: u8,
        /// The lifetime.
        seconds: u32,
        /// A chain.
        then: Option<&'static str>,
    },
    /// `delete @MAP { KEY : meta mark }`
    ForgetOff(Family, OffMap),
    /// `update @reopened4 { ip saddr . ip daddr . tcp sport . tcp dport . @th,32,16 }`
    StoreReopened(Family),
    /// `ip saddr . ip daddr . tcp sport . tcp dport . @th,32,16 @reopened4 goto CHAIN`
    AskReopened(Family, &'static str),
    /// `goto CHAIN`
    Goto(&'static str),
    /// Of a packet that is quoted: `ip daddr . @th,136,8 . @th,224,16 vmap @kernel_port4`, and for IPv6 the same. As many
    /// of the fields are asked as the map has. The address is that of the packet which quotes, where the VIP is the same.
    Quoted(Family, QuotedFields),
    /// NFQUEUE to these queues, with bypass, and fanout where there are several.
    XtQueue(QueueRange),
}

/// Of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the ruleset")]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// A map of flows that the table no longer places where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffMap {
    /// `off_table4`, and for IPv6.
    Open,
    /// `off_closing4`, and for IPv6.
    Closing,
}

/// What of a quoted packet says which service it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QuotedFields {
    /// The VIP.
    Address,
    /// And the quoted packet's protocol.
    Protocol,
    /// And the quoted packet's source port.
    Port,
}

/// The template and its parameters do not fit each other.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the ruleset's template: {0}")]
pub struct TemplateError(String);

impl Ruleset {
    /// The ruleset for this state, whose services claim these boxes.
    ///
    /// # Errors
    /// Never with the template that is built in; a test sees to that.
    pub fn new(state: &State, claims: &Claims, queue_by: QueueBy) -> Result<Self, TemplateError> {
        let structure = Structure::new(&state.balancer, queue_by)?;
        let tables = kernel_tables::wanted(state)?;
        let elements = Elements::wanted(state, claims, &tables);
        Ok(Self { structure, tables, elements })
    }
}

impl Structure {
    /// The structure for these settings.
    ///
    /// # Errors
    /// Never with the template that is built in; a test sees to that.
    pub fn new(balancer: &Balancer, queue_by: QueueBy) -> Result<Self, TemplateError> {
        let mut native = vec![
            NativeChain { name: "forget6", rule: NativeRule::Forget6 },
            NativeChain { name: "store6", rule: NativeRule::Store6 },
            NativeChain { name: "too_big4", rule: NativeRule::TooBig4 },
            NativeChain { name: "too_big6", rule: NativeRule::TooBig6 },
        ];
        native.extend(off_table_rules(balancer.timeouts));
        for (name, family) in [("quoted4", Family::Ipv4), ("quoted6", Family::Ipv6)] {
            let fields = [QuotedFields::Port, QuotedFields::Protocol, QuotedFields::Address];
            native
                .extend(fields.map(|fields| NativeChain { name, rule: NativeRule::Quoted(family, fields) }));
        }
        let mut queue_in = |name, queues| match queue_by {
            QueueBy::Nft => queue_statement(queues),
            QueueBy::Xtables => {
                native.push(NativeChain { name, rule: NativeRule::XtQueue(queues) });
                format!("# (native) NFQUEUE of xtables, to {queues}")
            }
        };
        let queue = queue_in("to_queue", balancer.queues);
        let fragment_queue = queue_in("to_fragment_queue", QueueRange::from(balancer.fragment_queue));
        let (timeouts, mask) = (balancer.timeouts, balancer.mark_mask);
        let lines_of = |steering| if balancer.steering == steering { "" } else { "#" };
        let parameters = [
            ("mark_mask", format!("{:#010x}", mask.bits())),
            ("mark_rest", format!("{:#010x}", !mask.bits())),
            ("target_bits", format!("{:#010x}", mask.target_bits())),
            ("second", format!("{:#010x}", mask.second())),
            ("kept", format!("{:#010x}", mask.kept())),
            ("packet_bits", format!("{:#010x}", !(mask.second() | mask.kept()))),
            ("tcp_first", timeouts.tcp_established_seconds.min(TCP_FIRST_SECONDS).to_string()),
            ("tcp_open", timeouts.tcp_established_seconds.min(TCP_OPEN_SECONDS).to_string()),
            ("tcp_closing", timeouts.tcp_closing_seconds.to_string()),
            ("udp_first", timeouts.udp_seconds.min(UDP_FIRST_SECONDS).to_string()),
            ("udp", timeouts.udp_seconds.to_string()),
            ("gue_port", GUE_PORT.to_string()),
            ("queue", queue),
            ("fragment_queue", fragment_queue),
            ("syn_only", lines_of(Steering::SynOnly).to_owned()),
            ("every_packet", lines_of(Steering::EveryPacket).to_owned()),
            ("probe4", format!("{} {PROBE4}", probe("ip length", Probe::BYTES4, Probe::BYTES4))),
            (
                "probe6",
                format!(
                    "{} {PROBE6}",
                    probe("ip6 length", Probe::BYTES6 - Probe::HEADER6_BYTES, Probe::BYTES6)
                ),
            ),
            ("probes_per_second", balancer.tracer.per_second.to_string()),
        ];
        let text = fill(TEMPLATE, &parameters)?;
        let mut chains = chains_of_text(&text);
        for chain in &mut chains {
            chain.rules += native.iter().filter(|native| native.name == chain.name).count();
        }
        let made_from = format!("{text} {native:?}");
        let name = format!("{STRUCTURE_PREFIX}{:016x}", XxHash3_64::oneshot(made_from.as_bytes()));
        chains.push(Chain { name: name.clone(), base: None, rules: 0 });
        Ok(Self { name, text, native, chains })
    }

    /// The command that adds the chain which names this structure, for when all of it is in place: a change that fails
    /// half-way must not pass for done.
    #[must_use]
    pub fn stamp(&self) -> String {
        format!("add chain inet {TABLE} {}\n", self.name)
    }

    /// What leads from `current`, the chains that the kernel has (`None`: no table), to this structure. Those of services'
    /// tables are left alone.
    #[must_use]
    pub fn change_from(&self, current: Option<&[Chain]>) -> StructureChange {
        let Some(current) = current else {
            return StructureChange { text: Some(self.text.clone()), removed_base_chains: vec![] };
        };
        let current: Vec<&Chain> = current.iter().filter(|chain| !kernel_tables::is_ours(chain)).collect();
        let known = |chain: &Chain| current.contains(&chain);
        if self.chains.len() == current.len() && self.chains.iter().all(known) {
            return StructureChange { text: None, removed_base_chains: vec![] };
        }
        // Chains filled by netlink are flushed and filled there, at once: they keep their rules till then.
        let (mut flush, mut delete) = (String::new(), String::new());
        let mut removed_base_chains = Vec::new();
        for chain in current {
            let name = &chain.name;
            let wanted = self.chains.iter().find(|wanted| wanted.name == *name);
            // Writing to a String cannot fail.
            if wanted.is_none() || self.native.iter().all(|native| native.name != name) {
                let _ = writeln!(flush, "flush chain inet {TABLE} {name}");
            }
            if *name == self.name || wanted.is_none_or(|wanted| wanted.base != chain.base) {
                let _ = writeln!(delete, "delete chain inet {TABLE} {name}");
                if chain.base.is_some() {
                    removed_base_chains.push(name.clone());
                }
            }
        }
        StructureChange { text: Some(format!("{flush}{delete}{}", self.text)), removed_base_chains }
    }
}

/// How to get to a structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StructureChange {
    /// One transaction, to be followed by the rules that go by netlink, then by [`Structure::stamp`]; `None`: all is
    /// as it should be.
    pub text: Option<String>,
    /// Base chains that it removes: packets that wait in queues are lost with them. Only when another version of
    /// synrail had others.
    pub removed_base_chains: Vec<String>,
}

/// What table inet synrail has, but for elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Its chains.
    pub chains: Vec<Chain>,
    /// The names of its maps.
    pub maps: Vec<String>,
}

/// Table inet synrail in the answer of `nft -j -t list ruleset inet`; `None` when there is no such table.
///
/// # Errors
/// When it is no such answer.
pub fn listing_of_json(json: &str) -> Result<Option<Listing>, ChainsError> {
    let answer: Value = serde_json::from_str(json).map_err(|error| ChainsError(error.to_string()))?;
    let objects =
        answer["nftables"].as_array().ok_or_else(|| ChainsError("no list of objects".to_owned()))?;
    let in_table = |object: &Value| object["family"] == "inet" && object["table"] == TABLE;
    let tables = objects.iter().filter_map(|object| object.get("table"));
    if !tables.into_iter().any(|table| table["family"] == "inet" && table["name"] == TABLE) {
        return Ok(None);
    }
    let rules = objects.iter().filter_map(|object| object.get("rule")).filter(|rule| in_table(rule));
    let mut rules_of: HashMap<&str, usize> = HashMap::new();
    for chain in rules.filter_map(|rule| rule["chain"].as_str()) {
        *rules_of.entry(chain).or_default() += 1;
    }
    let mut chains = Vec::new();
    for chain in objects.iter().filter_map(|object| object.get("chain")).filter(|chain| in_table(chain)) {
        let name = chain["name"].as_str().ok_or_else(|| ChainsError(chain.to_string()))?;
        let base = chain["hook"].as_str().zip(chain["prio"].as_i64());
        chains.push(Chain {
            name: name.to_owned(),
            base: base.map(|(hook, priority)| (hook.to_owned(), priority)),
            rules: rules_of.get(name).copied().unwrap_or(0),
        });
    }
    let maps = objects.iter().filter_map(|object| object.get("map")).filter(|map| in_table(map));
    let maps = maps.filter_map(|map| map["name"].as_str()).map(str::to_owned).collect();
    Ok(Some(Listing { chains, maps }))
}

/// Chains that nft printed, and that cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("cannot read the chains of table inet synrail as nft prints them: {0}")]
pub struct ChainsError(String);

/// The chains about off-table flows that go by netlink.
fn off_table_rules(timeouts: Timeouts) -> Vec<NativeChain> {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let (open, closing) = (timeouts.tcp_established_seconds, timeouts.tcp_closing_seconds);
    let mut rules = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let store =
            |map, protocol, seconds, then| NativeRule::StoreOff { family, map, protocol, seconds, then };
        rules.extend([
            ("renew_off_table", store(OffMap::Open, TCP, open, None)),
            ("renew_off_table", store(OffMap::Open, UDP, timeouts.udp_seconds, None)),
            ("store_off_table", store(OffMap::Open, TCP, open, Some("forget_off_closing"))),
            ("store_off_closing", store(OffMap::Closing, TCP, closing, Some("forget_off_table"))),
            ("forget_off_table", NativeRule::ForgetOff(family, OffMap::Open)),
            ("forget_off_closing", NativeRule::ForgetOff(family, OffMap::Closing)),
            ("store_reopened", NativeRule::StoreReopened(family)),
            ("ask_reopened", NativeRule::AskReopened(family, "off_gone")),
        ]);
    }
    rules.push(("ask_reopened", NativeRule::Goto("off_closing_on")));
    rules.into_iter().map(|(name, rule)| NativeChain { name, rule }).collect()
}

fn queue_statement(queues: QueueRange) -> String {
    let flags = if queues.first() == queues.last() { "bypass" } else { "bypass,fanout" };
    format!("queue flags {flags} to {queues}")
}

/// What a probe's IP header is, as [`Probe::parse`] has it: to a VIP, the transport header right behind it, no fragment.
const PROBE4: &str = "ip daddr @vip4 ip hdrlength 5 ip frag-off & 0x3fff == 0 ip protocol { tcp, udp, sctp }";
const PROBE6: &str = "ip6 daddr @vip6 ip6 nexthdr { tcp, udp, sctp }";

/// What tells nearly all other packets from a probe of `bytes` bytes: its length field, and the magic at its end.
fn probe(length: &str, says: usize, bytes: usize) -> String {
    let (magic, bits) = (u128::from_be_bytes(Probe::MAGIC), Probe::MAGIC.len() * 8);
    format!("{length} {says} @nh,{},{bits} {magic:#034x}", bytes * 8 - bits)
}

/// The template with every `{{name}}` replaced. The comment at its head, which explains the parameters, is left out.
pub(super) fn fill(template: &str, parameters: &[(&str, String)]) -> Result<String, TemplateError> {
    let body_starts = template.find("\ntable ").ok_or_else(|| TemplateError("no table".to_owned()))? + 1;
    let mut text = template[body_starts..].to_owned();
    for (name, value) in parameters {
        let marker = format!("{{{{{name}}}}}");
        if !text.contains(&marker) {
            return Err(TemplateError(format!("has no parameter {marker}")));
        }
        text = text.replace(&marker, value);
    }
    match text.find("{{") {
        Some(at) => Err(TemplateError(text[at..].chars().take_while(|c| !c.is_whitespace()).collect())),
        None => Ok(text),
    }
}

/// The chains of the filled text, which keeps to one statement a line.
pub(super) fn chains_of_text(text: &str) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(rest) = line.strip_prefix("chain ") {
            let name = rest.split_whitespace().next().unwrap_or_default().to_owned();
            chains.push(Chain { name, base: None, rules: 0 });
            inside = !line.ends_with('}');
        } else if line == "}" {
            inside = false;
        } else if let (true, Some(chain)) = (inside && !line.is_empty(), chains.last_mut()) {
            match line.strip_prefix("type ") {
                Some(base) => chain.base = base_of(base),
                None => chain.rules += 1,
            }
        }
    }
    chains
}

/// Hook and priority of `filter hook HOOK priority PRIORITY; ...`.
fn base_of(text: &str) -> Option<(String, i64)> {
    let mut words = text.split([' ', ';']);
    let hook = words.by_ref().skip_while(|word| *word != "hook").nth(1)?;
    let priority = match words.by_ref().skip_while(|word| *word != "priority").nth(1)? {
        "raw" => -300,
        "mangle" => -150,
        number => number.parse().ok()?,
    };
    Some((hook.to_owned(), priority))
}

#[cfg(test)]
mod tests;
