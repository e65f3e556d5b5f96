//! The ruleset as a value: `nft/synrail.nft` with its parameters filled in, and the rules that are written by
//! netlink. PURE.
//!
//! Structure (chains and rules), fallback tables (`kernel_tables.rs`) and elements (`elements.rs`) are
//! separate. Elements and fallback tables change while traffic runs; the structure changes only with the
//! version of synrail or with settings of the whole balancer. The name of the structure is made from all of
//! it, and the table has an empty chain of this name. So a restarted lbd can see that there is nothing to do.

use std::{collections::BTreeSet, time::Duration};

use twox_hash::XxHash3_64;

use super::{
    elements::{self, Claims, Elements},
    kernel_tables::{self, KernelTable},
    template::{TemplateError, fill, without_comments},
};
use crate::{
    balance::pins::{PROBATION_SECONDS, UDP_PROBATION_SECONDS},
    config::{Balancer, Timeouts},
    lease,
    model::{GUE_PORT, QueueRange, Steering},
    packet::Probe,
    state::State,
};

const TEMPLATE: &str = include_str!("../../nft/synrail.nft");
/// How long a TCP connection is remembered after only one packet of it was seen.
const TCP_FIRST_SECONDS: u32 = 60;
/// The least MTU of an IPv6 link (RFC 8200).
const IPV6_MTU_MIN: u16 = 1280;
const IPV6_HEADER_BYTES: u16 = 40;
/// Not all of this many lowest bits of a SYN's sequence number may be 1; `off_closing` in the template
/// handles the other case.
const REOPENED_ZEROS: u32 = 16;
/// One packet of this many is a sample. A flow with two samples within two seconds is long.
const SAMPLED_OF: u32 = 128;
/// Limits promotions, so that they do not use up a CPU, whatever senders do.
const PROMOTED_PER_SECOND: u32 = 1000;
/// Limits answers to new flows of services without a backend: TCP resets, and other answers, each.
const REJECTED_PER_SECOND: u32 = 10_000;
/// How long it is remembered that a packet to a target was not delivered. lbd looks once a second, unless it is busy.
pub const UNDELIVERED: Duration = Duration::from_secs(8);
const STRUCTURE_PREFIX: &str = "structure_";

/// How packets are queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueBy {
    /// The `queue` expression of nftables (kernel module `nft_queue`).
    Nft,
    /// The NFQUEUE target of xtables, through `nft_compat` (`xt_NFQUEUE`), for kernels without the former.
    Xtables,
}

/// Which optional features this kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Means {
    /// How packets are queued.
    pub queue_by: QueueBy,
    /// Whether there is a flowtable (kernel modules `nf_flow_table_inet`, `nft_flow_offload` and
    /// `nft_numgen`).
    pub flowtable: bool,
    /// Whether rules can reject a packet (kernel module `nft_reject_inet`).
    pub reject: bool,
}

/// The desired contents of the kernel's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Chains and rules.
    pub structure: Structure,
    /// The fallback tables.
    pub tables: Vec<KernelTable>,
    /// Elements of the sets.
    pub elements: Elements,
    /// The devices of the flowtable, as far as they exist; `None` if there is no flowtable.
    pub promoted: Option<BTreeSet<String>>,
}

/// Chains and rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Structure {
    /// The name of the empty chain that identifies the structure.
    pub name: String,
    /// The filled text: one `table` block.
    pub text: String,
    /// Rules that are written by netlink, after the text.
    pub native: Vec<NativeChain>,
}

/// A rule that is written by netlink, into a chain that has only such rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NativeChain {
    /// The name of the chain.
    pub name: &'static str,
    /// The rule.
    pub rule: NativeRule,
}

/// Rules that the nft command cannot express, or not for this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeRule {
    /// `delete @pending6 { ip6 saddr . tcp sport . ip6 daddr . tcp dport : meta mark }`
    Forget6,
    /// `update @pending6 { ip6 saddr . tcp sport . ip6 daddr . tcp dport : meta mark } accept`
    Store6,
    /// `update @pending6 { ip6 saddr . tcp sport . ip6 daddr . tcp dport timeout MILLISECONDSms :
    /// meta mark }`, and `goto THEN` if there was room
    StoreBriefly6 {
        /// The lifetime.
        milliseconds: u64,
        /// The chain to go to.
        then: Option<&'static str>,
    },
    /// `update @answered6 { ip6 saddr . tcp sport . ip6 daddr . tcp dport : meta mark }`
    Answer6,
    /// `@th,192,32 @vip4 counter name too_big ip saddr set @th,192,32`: the destination of the quoted packet.
    TooBig4,
    /// `@th,256,128 @vip6 counter name too_big ip6 saddr set @th,256,128`
    TooBig6,
    /// `update @MAP { KEY timeout SECONDS : meta mark }`, for this protocol, and `jump THEN` if there was
    /// room. KEY is `ip saddr . ip daddr . meta l4proto . th sport . th dport`.
    StoreOff {
        /// The family of the addresses and of the map.
        family: Family,
        /// The map.
        map: OffMap,
        /// TCP or UDP, by their protocol numbers.
        protocol: u8,
        /// The lifetime.
        seconds: u32,
        /// The chain to jump to.
        then: Option<&'static str>,
    },
    /// `delete @MAP { KEY : meta mark }`
    ForgetOff(Family, OffMap),
    /// `@th,32,32 & (2 * ZERO - 1) == ZERO - 1 update @reopened4 { ip saddr . ip daddr . tcp sport .
    /// tcp dport . @th,32,32 ^ (2 * ZERO - 1) }`: if ZERO is the lowest bit that is 0 in the sequence number
    /// of a SYN, stores the sequence number that follows. Then `goto THEN` if there was room.
    StoreReopened {
        /// The family of the addresses and of the set.
        family: Family,
        /// A power of two.
        zero: u32,
        /// The chain to go to.
        then: &'static str,
    },
    /// `ip saddr . ip daddr . tcp sport . tcp dport . @th,32,32 @reopened4 goto CHAIN`
    AskReopened(Family, &'static str),
    /// `goto CHAIN`
    Goto(&'static str),
    /// For a quoted packet: `ip daddr . @th,136,8 . @th,224,16 vmap @kernel_port4`, and for IPv6 the same. As
    /// many of the fields are compared as the map has. The address is that of the quoting packet, which has
    /// the same VIP.
    Quoted(Family, QuotedIn, QuotedFields),
    /// For a quoted packet: `meta mark set CLIENT . VIP . PROTOCOL . PORT . PORT map @MAP jump CHAIN`
    QuotedOff(Family, OffMap, &'static str),
    /// For a quoted packet: `ip saddr @local4 ip daddr @remotes4 goto tunnel_error4`, and for IPv6 the same.
    BetweenEnds(Family),
    /// For a quoted packet: `update @undelivered4 { ip daddr }`, and for IPv6 the same.
    StoreUndelivered(Family),
    /// For a quoted packet: `ip daddr @vip4 counter name unreachable drop`, and for IPv6 the same.
    Unreachable(Family),
    /// `icmp type destination-unreachable icmp code port-unreachable`, and for the quoted packet
    /// `ip daddr . meta l4proto . th dport @rejected4`; then, of the quoting one,
    /// `ip saddr set` to that destination, `notrack accept`; and for IPv6 the same.
    Rejected(Family),
    /// NFQUEUE to these queues, with bypass, and with fanout if there are several queues.
    XtQueue(QueueRange),
}

/// The version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the ruleset")]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// A map of off-table flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffMap {
    /// `off_table4`, and the same for IPv6.
    Open,
    /// `off_closing4`, and the same for IPv6.
    Closing,
}

/// The maps that lead a quoted packet to its service's fallback table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotedIn {
    /// `claimed_port4` and so on.
    Claimed,
    /// `kernel_port4` and so on.
    Kernel,
}

/// The fields of a quoted packet that select its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QuotedFields {
    /// The VIP.
    Address,
    /// The VIP, and the quoted packet's protocol.
    Protocol,
    /// The VIP, and the quoted packet's protocol and source port.
    Port,
}

impl Ruleset {
    /// Makes the ruleset for this state, whose services claim these boxes.
    ///
    /// # Errors
    /// Never with the built-in template; a test checks that.
    pub fn new(state: &State, claims: &Claims, means: Means) -> Result<Self, TemplateError> {
        let structure = Structure::new(&state.balancer, means)?;
        let tables = kernel_tables::desired(state)?;
        let elements = Elements::desired(state, claims, &tables);
        let promoted = promotes(&state.balancer, means).then(|| elements::promoted_devices(&state.balancer));
        Ok(Self { structure, tables, elements, promoted })
    }

    /// Reports whether new flows of any service follow its fallback table at once.
    #[must_use]
    pub fn kernel_decides(&self) -> bool {
        self.tables.iter().any(|table| table.decides)
    }
}

impl Structure {
    /// Makes the structure for these settings.
    ///
    /// # Errors
    /// Never with the built-in template; a test checks that.
    pub fn new(balancer: &Balancer, means: Means) -> Result<Self, TemplateError> {
        let briefly = |milliseconds, then| NativeRule::StoreBriefly6 { milliseconds, then };
        let mut native = vec![
            NativeChain { name: "forget6", rule: NativeRule::Forget6 },
            NativeChain { name: "store6", rule: NativeRule::Store6 },
            NativeChain { name: "wait6", rule: briefly(1000, Some("to_queue")) },
            NativeChain { name: "hold6", rule: briefly(50, None) },
            NativeChain { name: "answer6", rule: NativeRule::Answer6 },
            NativeChain { name: "too_big4", rule: NativeRule::TooBig4 },
            NativeChain { name: "too_big6", rule: NativeRule::TooBig6 },
            NativeChain { name: "between_ends4", rule: NativeRule::BetweenEnds(Family::Ipv4) },
            NativeChain { name: "between_ends6", rule: NativeRule::BetweenEnds(Family::Ipv6) },
            NativeChain { name: "store_undelivered4", rule: NativeRule::StoreUndelivered(Family::Ipv4) },
            NativeChain { name: "store_undelivered6", rule: NativeRule::StoreUndelivered(Family::Ipv6) },
            NativeChain { name: "unreachable4", rule: NativeRule::Rejected(Family::Ipv4) },
            NativeChain { name: "unreachable4", rule: NativeRule::Unreachable(Family::Ipv4) },
            NativeChain { name: "unreachable6", rule: NativeRule::Rejected(Family::Ipv6) },
            NativeChain { name: "unreachable6", rule: NativeRule::Unreachable(Family::Ipv6) },
        ];
        native.extend(off_table_rules(balancer.timeouts));
        for (name, family, maps) in [
            ("claimed_quoted4", Family::Ipv4, QuotedIn::Claimed),
            ("claimed_quoted6", Family::Ipv6, QuotedIn::Claimed),
            ("quoted4", Family::Ipv4, QuotedIn::Kernel),
            ("quoted6", Family::Ipv6, QuotedIn::Kernel),
        ] {
            let off = |map| NativeRule::QuotedOff(family, map, "quoted_off_table");
            let by = |fields| NativeRule::Quoted(family, maps, fields);
            let fields = [QuotedFields::Port, QuotedFields::Protocol, QuotedFields::Address];
            let rules = [OffMap::Open, OffMap::Closing].map(off).into_iter().chain(fields.map(by));
            native.extend(rules.map(|rule| NativeChain { name, rule }));
        }
        let mut queue_in = |name, queues| match means.queue_by {
            QueueBy::Nft => queue_statement(queues),
            QueueBy::Xtables => {
                native.push(NativeChain { name, rule: NativeRule::XtQueue(queues) });
                format!("# (native) NFQUEUE of xtables, to {queues}")
            }
        };
        let queue = queue_in("queue_flow", balancer.queues);
        let fragment_queue = queue_in("queue_fragment", QueueRange::from(balancer.fragment_queue));
        let (timeouts, mask) = (balancer.timeouts, balancer.mark_mask);
        let floor = balancer.pmtu_floor;
        let floor6 = floor.max(IPV6_MTU_MIN);
        let lines_of = |steering| if balancer.steering == steering { "" } else { "#" };
        let parameters = [
            ("mark_mask", format!("{:#010x}", mask.bits())),
            ("mark_rest", format!("{:#010x}", !mask.bits())),
            ("target_bits", format!("{:#010x}", mask.target_bits())),
            ("second", format!("{:#010x}", mask.second())),
            ("kept", format!("{:#010x}", mask.kept())),
            ("packet_bits", format!("{:#010x}", !(mask.second() | mask.kept()))),
            ("tcp_first", timeouts.tcp_established_seconds.min(TCP_FIRST_SECONDS).to_string()),
            ("tcp_open", timeouts.tcp_established_seconds.min(PROBATION_SECONDS).to_string()),
            ("tcp_closing", timeouts.tcp_closing_seconds.to_string()),
            ("udp_first", timeouts.udp_seconds.min(UDP_PROBATION_SECONDS).to_string()),
            ("udp", timeouts.udp_seconds.to_string()),
            ("gue_port", GUE_PORT.to_string()),
            ("queue", queue),
            ("fragment_queue", fragment_queue),
            ("pmtu_floor", floor.to_string()),
            ("pmtu_floor6", floor6.to_string()),
            ("pmtu_payload6", (floor6 - IPV6_HEADER_BYTES).to_string()),
            ("undelivered_seconds", UNDELIVERED.as_secs().to_string()),
            ("lease_ms", lease::LEASE.as_millis().to_string()),
            ("lease_protocol", lease::PROTOCOL.to_string()),
            ("renew_flows", lease::Kind::Flows.address().to_string()),
            ("renew_fragments", lease::Kind::Fragments.address().to_string()),
            ("syn_only", lines_of(Steering::SynOnly).to_owned()),
            ("every_packet", lines_of(Steering::EveryPacket).to_owned()),
            ("offload", if promotes(balancer, means) { "" } else { "#" }.to_owned()),
            ("sampled_of", SAMPLED_OF.to_string()),
            ("reject", if means.reject { "" } else { "#" }.to_owned()),
            ("rejected_per_second", REJECTED_PER_SECOND.to_string()),
            ("promoted_per_second", PROMOTED_PER_SECOND.to_string()),
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
        let made_from = format!("{} {native:?}", without_comments(&text));
        let name = format!("{STRUCTURE_PREFIX}{:016x}", XxHash3_64::oneshot(made_from.as_bytes()));
        Ok(Self { name, text, native })
    }
}

/// Reports whether long flows use a flowtable.
fn promotes(balancer: &Balancer, means: Means) -> bool {
    balancer.wants_flowtable() && means.flowtable
}

/// Returns the chains for off-table flows that are written by netlink.
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
            ("ask_reopened", NativeRule::AskReopened(family, "off_gone")),
        ]);
        let zeros = (0..REOPENED_ZEROS).map(|bit| 1 << bit);
        let then = "on_table";
        rules.extend(zeros.map(|zero| ("off_reopens", NativeRule::StoreReopened { family, zero, then })));
    }
    rules.push(("off_reopens", NativeRule::Goto("off_closing_on")));
    rules.push(("ask_reopened", NativeRule::Goto("off_closing_on")));
    rules.into_iter().map(|(name, rule)| NativeChain { name, rule }).collect()
}

fn queue_statement(queues: QueueRange) -> String {
    let flags = if queues.first() == queues.last() { "bypass" } else { "bypass,fanout" };
    format!("queue flags {flags} to {queues}")
}

/// The conditions on a probe's IP header, as in [`Probe::parse`]: to a VIP, the transport header right behind
/// it, no fragment.
const PROBE4: &str = "ip daddr @vip4 ip hdrlength 5 ip frag-off & 0x3fff == 0 ip protocol { tcp, udp, sctp }";
const PROBE6: &str = "ip6 daddr @vip6 ip6 nexthdr { tcp, udp, sctp }";

/// Returns the conditions that nearly all packets other than probes of `bytes` bytes do not meet: the length
/// field, and the magic at the end.
fn probe(length: &str, says: usize, bytes: usize) -> String {
    let (magic, bits) = (u128::from_be_bytes(Probe::MAGIC), Probe::MAGIC.len() * 8);
    format!("{length} {says} @nh,{},{bits} {magic:#034x}", bytes * 8 - bits)
}

#[cfg(test)]
mod tests;
