//! Address translation by other programs, as far as it applies to packets to VIPs. A translated connection
//! has other addresses at the backend, and breaks.
//!
//! A rule is reported only if all of its conditions could be read and some packet to a VIP meets them. A
//! condition that cannot be read (a set, a state, a source address, a jump) is assumed to be harmless: a rule
//! that translates does not match, and one that ends the chain does. So a chain that is reported does
//! translate, but one that is not reported may translate as well.

use ipnet::IpNet;

use super::{Finding, ForeignChain, Severity, Snapshot, is_everything};
use crate::{
    model::{Encap, Path, PortRange, Protocols, Steering},
    plan::routing::inbound::is_our_name,
    state::{Service, State},
};

/// A base chain of type nat, at a hook that packets to VIPs pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatChain {
    /// The family, table, name and hook of the chain.
    pub at: ForeignChain,
    /// The chain's own rules, without those of chains that it jumps to.
    pub rules: Vec<NatRule>,
}

/// A rule of a base chain of type nat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatRule {
    /// The conditions, all of which must be met.
    pub conditions: Vec<Condition>,
    /// What the rule does then.
    pub effect: Effect,
}

/// The effect of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Translates addresses, for example by "masquerade".
    Translates(String),
    /// Ends the chain: packets do not go on to the next rule.
    Ends,
    /// Does neither.
    GoesOn,
}

/// What a packet must be or, if `is` is false, must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Whether the packet must be so.
    pub is: bool,
    /// What is compared.
    pub what: What,
}

/// The property that is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// IPv4 if true, otherwise IPv6.
    Ipv4(bool),
    /// The protocol, by its number.
    Protocol(u8),
    /// The destination.
    To(IpNet),
    /// The destination port.
    ToPort(u16),
    /// The source, whichever it is.
    From,
    /// The device by which the packet came in.
    ComesBy(Device),
    /// The device by which the packet leaves.
    LeavesBy(Device),
    /// Anything else.
    Unknown,
}

/// A device's name, or a prefix of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The name, or the prefix.
    pub name: String,
    /// Whether it is a prefix.
    pub begins: bool,
}

impl Device {
    fn is(&self, name: &str) -> bool {
        if self.begins { name.starts_with(&self.name) } else { name == self.name }
    }
}

/// How many of a set of packets meet a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    None,
    Some,
    All,
    Unknown,
}

impl Met {
    /// Returns the value for `met` of `all` packets.
    fn of(met: usize, all: usize) -> Self {
        match met {
            0 => Self::None,
            met if met == all => Self::All,
            _ => Self::Some,
        }
    }

    fn not(self) -> Self {
        match self {
            Self::None => Self::All,
            Self::All => Self::None,
            Self::Some | Self::Unknown => self,
        }
    }
}

/// Returns the chains that translate packets to VIPs.
pub(super) fn translated(state: &State, snapshot: &Snapshot) -> Vec<Finding> {
    if state.balancer.steering == Steering::EveryPacket {
        return Vec::new(); // untracked packets are not translated
    }
    snapshot.nats.iter().filter_map(|chain| chain_finding(state, chain)).collect()
}

fn chain_finding(state: &State, chain: &NatChain) -> Option<Finding> {
    let NatChain { at, rules } = chain;
    let ForeignChain { family, table, chain: name, hook } = at;
    let vips = state.services.iter().flat_map(|service| service.vips.iter().map(move |vip| (service, vip)));
    let mut vips = vips.filter(|(_, vip)| match *family {
        "ip" => vip.addr().is_ipv4(),
        "ip6" => vip.addr().is_ipv6(),
        _ => true,
    });
    let (vip, by) = vips.find_map(|(service, vip)| Some((*vip, hit(state, service, vip, rules)?)))?;
    let (daddr, iptables) =
        if vip.addr().is_ipv4() { ("ip daddr", "iptables") } else { ("ip6 daddr", "ip6tables") };
    let advice = format!(
        "connections to VIPs are translated there and break: let it translate less (by source, or by device), or except VIPs: \
         nft insert rule {family} {table} {name} {daddr} {vip} accept ({iptables} -t nat -I {} -d {vip} -j ACCEPT)",
        hook.to_uppercase()
    );
    let value = format!("a {by} of packets to VIPs ({vip})");
    Some(Finding::new(Severity::Warning, &at.to_string(), &value, "none of these", advice))
}

/// Returns the translation of the first rule that translates and that some packet of this service to this VIP
/// meets.
fn hit<'a>(state: &State, service: &Service, vip: &IpNet, rules: &'a [NatRule]) -> Option<&'a str> {
    if is_everything(vip) {
        return None;
    }
    for NatRule { conditions, effect } in rules {
        let mets: Vec<Met> = conditions.iter().map(|condition| met(state, service, vip, condition)).collect();
        if mets.contains(&Met::None) {
            continue;
        }
        match effect {
            Effect::Translates(by) if !mets.contains(&Met::Unknown) => return Some(by),
            Effect::Ends if !mets.contains(&Met::Some) || mets.contains(&Met::Unknown) => return None,
            Effect::Translates(_) | Effect::Ends | Effect::GoesOn => {}
        }
    }
    None
}

fn met(state: &State, service: &Service, vip: &IpNet, Condition { is, what }: &Condition) -> Met {
    let met = match what {
        What::Ipv4(four) => Met::of(usize::from(vip.addr().is_ipv4() == *four), 1),
        What::Protocol(number) => match &service.protocols {
            Protocols::Any => Met::Some,
            Protocols::Named(named) => {
                let met = named.iter().filter(|protocol| protocol.number() == *number).count();
                Met::of(met, named.len())
            }
        },
        What::To(net) if net.contains(vip) => Met::All,
        What::To(net) if vip.contains(net) => Met::Some,
        What::To(_) => Met::None,
        What::ToPort(port) if service.ports == [PortRange { first: *port, last: *port }] => Met::All,
        What::ToPort(port) => {
            let has = service.ports.iter().any(|range| (range.first..=range.last).contains(port));
            if has { Met::Some } else { Met::None }
        }
        // Clients may be anywhere, and are not all in one place.
        What::From if *is => Met::Unknown,
        What::From => Met::Some,
        What::ComesBy(device) => {
            let interfaces = &state.balancer.interfaces;
            let met = interfaces.iter().filter(|name| device.is(name.as_str())).count();
            // Packets from routers, or from another balancer.
            let others = is_our_name(&device.name) || (met > 0 && state.balancer.gre_in);
            if others { Met::Some } else { Met::of(met, interfaces.len()) }
        }
        What::LeavesBy(device) if device.begins || is_our_name(&device.name) => Met::Unknown,
        // Packets leave by tunnels, unless the route to a next hop leads to this device.
        What::LeavesBy(_) => {
            let direct = |path| matches!(path, Path::Via(Encap::Direct, _) | Path::MarkOnly);
            let paths: Vec<Path> = state.targets_used().map(|(_, path)| path).collect();
            let direct = paths.iter().filter(|path| direct(**path)).count();
            match (direct, paths.len() - direct) {
                (0, _) => Met::None,
                (_, 1..) if !is => Met::Some,
                _ => Met::Unknown,
            }
        }
        What::Unknown => Met::Unknown,
    };
    if *is { met } else { met.not() }
}
