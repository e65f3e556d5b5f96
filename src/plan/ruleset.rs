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
    config::{Balancer, GUE_PORT, QueueRange, Steering},
    packet::Probe,
    state::State,
};

const TEMPLATE: &str = include_str!("../../nft/synrail.nft");
/// How long a TCP connection is remembered of which one packet was seen.
const TCP_FIRST_SECONDS: u32 = 120;
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
        let timeouts = balancer.timeouts;
        let lines_of = |steering| if balancer.steering == steering { "" } else { "#" };
        let parameters = [
            ("mark_mask", format!("{:#010x}", balancer.mark_mask.bits())),
            ("mark_rest", format!("{:#010x}", !balancer.mark_mask.bits())),
            ("tcp_first", timeouts.tcp_established_seconds.min(TCP_FIRST_SECONDS).to_string()),
            ("tcp_open", timeouts.tcp_established_seconds.to_string()),
            ("tcp_closing", timeouts.tcp_closing_seconds.to_string()),
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
mod tests {
    use super::*;
    use crate::{
        config::{Timeouts, TracerSettings},
        ids::{MarkMask, QueueNum},
        plan::elements::SetName,
    };

    fn balancer() -> Balancer {
        Balancer { queues: QueueRange::new(0, 3).unwrap(), ..Balancer::unconfigured() }
    }

    fn structure(queue_by: QueueBy) -> Structure {
        Structure::new(&balancer(), queue_by).unwrap()
    }

    #[test]
    fn the_template_and_its_parameters_fit() {
        let text = structure(QueueBy::Nft).text;
        assert!(!text.contains("{{"));
        assert!(text.contains("\t\tqueue flags bypass,fanout to 0-3\n"));
        assert!(text.contains("\t\tqueue flags bypass to 10\n"));
        assert!(
            text.contains(
                "ct mark & 0x0000ffff == @targets meta mark set ct mark counter name restored accept"
            )
        );
        assert!(text.contains("ct timeout tcp4_7440_30 {"));
        assert!(
            text.contains(
                "\t\tlimit rate over 100/second burst 100 packets counter name probe_limited drop\n"
            )
        );
        let magic = "0x73796e7261696c2d612d70726f626521";
        // The length is asked for first: that is what other packets cost.
        let four = format!("\t\tip length 128 @nh,896,128 {magic} {PROBE4}");
        let six = format!("\t\tip6 length 108 @nh,1056,128 {magic} {PROBE6}");
        for probe in [four, six] {
            assert!(text.contains(&format!("{probe} jump ask_probe\n")), "{probe}");
            assert!(text.contains(&format!("{probe} jump drop_probe\n")), "{probe}");
        }
        assert!(fill("\ntable {{a}}", &[("b", String::new())]).is_err());
        assert!(fill("\ntable {{a}}", &[]).is_err());
    }

    #[test]
    fn the_template_has_every_set_and_explains_every_parameter() {
        for set in SetName::ALL {
            let kind = if set.name().starts_with("kernel_") { "map" } else { "set" };
            assert!(TEMPLATE.contains(&format!("{kind} {} {{", set.name())), "{set:?}");
        }
        let (head, body) = TEMPLATE.split_once("\ntable ").unwrap();
        for part in body.split("{{").skip(1) {
            let parameter = part.split("}}").next().unwrap();
            assert!(head.contains(&format!("{{{{{parameter}}}}}")), "{parameter}");
        }
    }

    #[test]
    fn every_chain_that_is_named_is_there_and_the_other_way_round() {
        let structure = structure(QueueBy::Nft);
        for chain in structure.chains.iter().filter(|chain| chain.base.is_none()) {
            let named = ["goto", "jump"].iter().any(|verb| {
                structure.text.lines().any(|line| line.trim().ends_with(&format!("{verb} {}", chain.name)))
            });
            // Services' own chains go there.
            let named = named || chain.name == "by_kernel";
            assert_eq!(named, chain.name != structure.name, "{}", chain.name);
        }
        for line in structure.text.lines().map(str::trim) {
            if let Some((_, name)) = line.rsplit_once("goto ").or_else(|| line.rsplit_once("jump ")) {
                assert!(structure.chains.iter().any(|chain| chain.name == name), "{line}");
            }
        }
    }

    #[test]
    fn chains_are_counted_in_the_text() {
        let structure = structure(QueueBy::Xtables);
        let chain = |name: &str| structure.chains.iter().find(|chain| chain.name == name).unwrap();
        assert_eq!(chain("before_conntrack").base, Some(("prerouting".to_owned(), -300)));
        assert_eq!(chain("steer").base, Some(("prerouting".to_owned(), -150)));
        assert_eq!(chain("after_queue").base, Some(("prerouting".to_owned(), -149)));
        assert_eq!(chain("outer").base, Some(("output".to_owned(), -300)));
        assert_eq!(chain("fragments").base, Some(("prerouting".to_owned(), -450)));
        assert_eq!(chain("too_big").base, Some(("output".to_owned(), -150)));
        let rules = ["steer", "claimed4", "to_queue", "forget4", "forget6", "store6", "lifetime", "outer"];
        assert_eq!(rules.map(|name| chain(name).rules), [4, 4, 1, 1, 1, 1, 5, 4]);
        assert_eq!(["fragments", "to_fragment_queue", "too_big6"].map(|name| chain(name).rules), [5, 1, 1]);
        assert_eq!(chain(&structure.name).rules, 0);
    }

    #[test]
    fn with_every_packet_nothing_is_tracked_and_nothing_remembered() {
        let of = |steering| Structure::new(&Balancer { steering, ..balancer() }, QueueBy::Nft).unwrap();
        let (syn_only, every_packet) = (of(Steering::SynOnly), of(Steering::EveryPacket));
        let rules = |structure: &Structure, chain: &str| {
            let from = structure.text.find(&format!("\tchain {chain} {{\n")).unwrap();
            let lines = structure.text[from..].lines().skip(1).take_while(|line| line.trim() != "}");
            lines.map(|line| line.trim().to_owned()).filter(|line| !line.starts_with('#')).collect::<Vec<_>>()
        };
        let last = ["ip daddr @vip4 notrack", "ip6 daddr @vip6 notrack"];
        assert!(rules(&every_packet, "before_conntrack").ends_with(&last.map(str::to_owned)));
        for chain in ["before_conntrack", "steer4", "steer6", "steered4", "steered6", "leaving", "staying"] {
            let remembers = |structure| {
                let rules = rules(structure, chain);
                // What stands behind a rule that always ends the chain does nothing.
                let end = rules.iter().position(|rule| rule == "accept").unwrap_or(rules.len());
                let state = ["@pending", "@pinning", "ct mark", "ct status", "goto pin", "goto remember"];
                rules[..end].iter().any(|rule| state.iter().any(|state| rule.contains(state)))
            };
            assert!(remembers(&syn_only) && !remembers(&every_packet), "{chain}");
        }
        // Which chains there are is the same, so the one becomes the other without a base chain being removed.
        let change = every_packet.change_from(Some(&syn_only.chains));
        assert!(change.text.is_some() && change.removed_base_chains.is_empty());
    }

    #[test]
    fn one_queue_has_no_fanout() {
        let one = Structure::new(&Balancer::unconfigured(), QueueBy::Nft).unwrap();
        assert!(one.text.contains("\t\tqueue flags bypass to 0\n"));
    }

    #[test]
    fn the_name_tells_structures_apart() {
        let other_timeouts = Timeouts { udp_seconds: 60, ..Timeouts::default() };
        let steering = Steering::EveryPacket;
        let balancers = [
            balancer(),
            Balancer::unconfigured(),
            Balancer { mark_mask: MarkMask::new(0xffff_0000).unwrap(), ..balancer() },
            Balancer { timeouts: other_timeouts, ..balancer() },
            Balancer { fragment_queue: QueueNum(11), ..balancer() },
            Balancer { steering, ..balancer() },
            Balancer { tracer: TracerSettings { per_second: 7, ..TracerSettings::default() }, ..balancer() },
        ];
        let mut names: Vec<String> = balancers
            .iter()
            .flat_map(|balancer| [QueueBy::Nft, QueueBy::Xtables].map(|by| Structure::new(balancer, by)))
            .map(|structure| structure.unwrap().name)
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 14);
        assert_eq!(structure(QueueBy::Nft).name, structure(QueueBy::Nft).name);
    }

    #[test]
    fn what_is_in_place_is_left_alone() {
        let structure = structure(QueueBy::Nft);
        let mut current = structure.chains.clone();
        current.reverse();
        assert_eq!(structure.change_from(Some(&current)).text, None);
        assert_eq!(structure.change_from(None).text, Some(structure.text));
    }

    #[test]
    fn another_structure_is_refilled_in_one_transaction_with_the_base_chains_kept() {
        let (old, new) = (structure(QueueBy::Xtables), structure(QueueBy::Nft));
        let change = new.change_from(Some(&old.chains));
        let text = change.text.unwrap();
        assert_eq!(change.removed_base_chains, [""; 0]);
        assert!(text.contains(&format!("delete chain inet synrail {}\n", old.name)));
        assert_eq!(text.matches("delete chain").count(), 1);
        assert!(text.contains("flush chain inet synrail to_queue\n"));
        assert!(!text.contains("flush chain inet synrail store6\n"), "stays filled until netlink's turn");
        assert!(text.ends_with(&new.text));
        let back = old.change_from(Some(&new.chains)).text.unwrap();
        assert!(!back.contains("flush chain inet synrail to_queue\n"));
    }

    #[test]
    fn a_rule_too_few_and_foreign_chains_are_noticed() {
        let structure = structure(QueueBy::Nft);
        let mut current = structure.chains.clone();
        current[3].rules -= 1;
        assert!(structure.change_from(Some(&current)).text.is_some());
        let mut current = structure.chains.clone();
        let base = Some(("forward".to_owned(), 0));
        current.push(Chain { name: "promote".to_owned(), base, rules: 1 });
        let change = structure.change_from(Some(&current));
        assert_eq!(change.removed_base_chains, ["promote"]);
        assert!(change.text.unwrap().contains("delete chain inet synrail promote\n"));
    }

    #[test]
    fn chains_are_read_from_nft() {
        let json = r#"{"nftables": [{"metainfo": {}}, {"table": {"family": "inet", "name": "synrail"}},
            {"chain": {"family": "inet", "table": "synrail", "name": "steer", "hook": "prerouting", "prio": -150}},
            {"chain": {"family": "inet", "table": "other", "name": "steer"}},
            {"chain": {"family": "inet", "table": "synrail", "name": "ask"}},
            {"rule": {"family": "inet", "table": "synrail", "chain": "ask", "expr": [{"accept": null}]}},
            {"map": {"family": "inet", "table": "synrail", "name": "table_web_97"}},
            {"map": {"family": "inet", "table": "other", "name": "m"}},
            {"rule": {"family": "ip", "table": "synrail", "chain": "ask"}}]}"#;
        let steer = Chain { name: "steer".to_owned(), base: Some(("prerouting".to_owned(), -150)), rules: 0 };
        let ask = Chain { name: "ask".to_owned(), base: None, rules: 1 };
        let maps = vec!["table_web_97".to_owned()];
        assert_eq!(listing_of_json(json), Ok(Some(Listing { chains: vec![steer, ask], maps })));
        let other = r#"{"nftables": [{"table": {"family": "ip", "name": "synrail"}}]}"#;
        assert_eq!(listing_of_json(other), Ok(None));
        assert!(listing_of_json("{}").is_err());
    }
}
