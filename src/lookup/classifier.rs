//! Finds the service that a packet belongs to. PURE.
//!
//! Services may overlap; the most specific one wins. These rules apply in this order: one port before a range
//! before all ports; the longer prefix; a named protocol before any; the narrower range. Two services that
//! are equal by all rules and claim the same packets are a [`Conflict`].
//!
//! An echo request has no port, and it reaches a backend whatever protocols are claimed at its address. It
//! belongs to the service with the longest prefix. If there are several, it belongs to the one for every
//! protocol, otherwise to the first.
//!
//! All this is decided once, when a [`Classifier`] is built. Addresses are cut at the edges of all prefixes.
//! In each piece, ports are cut the same way for each protocol. The results are disjoint boxes, which two
//! binary searches find. The ruleset is made of the same boxes ([`Classifier::claims`]), so lbd and the
//! kernel cannot differ. [`Classifier::explain`] says which rule decided.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Display, net::IpAddr};

use ipnet::IpNet;
use thiserror::Error;

use crate::{
    model::{Name, PortRange, Protocol, Protocols},
    packet::{L4, Packet},
};
pub use explain::{Explanation, Match, Precedence};

mod explain;

/// The facts about a service that the classifier needs.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Its name, for conflicts.
    pub name: &'a Name,
    /// Its virtual addresses.
    pub vips: &'a [IpNet],
    /// Its protocols.
    pub protocols: &'a Protocols,
    /// Its ports.
    pub ports: &'a [PortRange],
}

/// A range of addresses of one family, including both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressRange {
    /// IPv4.
    V4(u32, u32),
    /// IPv6.
    V6(u128, u128),
}

/// A box of (destination, protocol, port) that belongs to one service. All boxes of a classifier are
/// disjoint, as nft's concatenated interval sets require.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The virtual addresses.
    pub addresses: AddressRange,
    /// Protocol numbers `first..=last`; more than one only if a service takes every protocol.
    pub protocols: (u8, u8),
    /// The destination ports; all ports unless the protocol is one of [`Protocol::ALL`].
    pub ports: PortRange,
    /// Index of the service.
    pub service: usize,
}

/// Echo requests to some virtual addresses that belong to another service than all other ICMP there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoClaim {
    /// The virtual addresses.
    pub addresses: AddressRange,
    /// Index of the service that they belong to.
    pub service: usize,
    /// Index of the service that all other ICMP belongs to, if any.
    pub other: Option<usize>,
}

/// Two services that claim the same packets, neither more specifically than the other.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("services \"{first}\" and \"{second}\" both claim {what}")]
pub struct Conflict {
    /// The service that comes first.
    pub first: Name,
    /// The other service.
    pub second: Name,
    /// The packets that both claim, as `address protocol port`.
    pub what: String,
}

/// Finds the service of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classifier {
    v4: Pieces<u32>,
    v6: Pieces<u128>,
}

impl Classifier {
    /// Builds a classifier of services; each is identified by its index.
    ///
    /// # Errors
    /// When two services claim the same packets.
    pub fn new(services: &[Scope<'_>]) -> Result<Self, Conflict> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (index, service) in services.iter().enumerate() {
            for vip in service.vips {
                let (prefix, owner) = (vip.prefix_len(), index);
                match vip {
                    IpNet::V4(net) => {
                        v4.push(Span {
                            first: net.network().to_bits(),
                            last: net.broadcast().to_bits(),
                            prefix,
                            owner,
                        });
                    }
                    IpNet::V6(net) => {
                        v6.push(Span {
                            first: net.network().to_bits(),
                            last: net.broadcast().to_bits(),
                            prefix,
                            owner,
                        });
                    }
                }
            }
        }
        Ok(Self { v4: Pieces::new(&v4, services)?, v6: Pieces::new(&v6, services)? })
    }

    /// Returns the index of the service that a packet belongs to. A later fragment belongs to no service,
    /// since its port is not known, unless a service for every protocol has all ports of its protocol. An
    /// echo request belongs to the service that has its address by the longest prefix.
    #[must_use]
    pub fn service_of(&self, packet: &Packet) -> Option<usize> {
        let body = self.piece(packet.addresses.destination())?;
        match packet.l4 {
            L4::Tcp { ports, .. } => body.port(Protocol::Tcp, ports.dst),
            L4::Udp(ports) => body.port(Protocol::Udp, ports.dst),
            L4::Sctp(ports) => body.port(Protocol::Sctp, ports.dst),
            L4::Echo { .. } => body.echo,
            L4::Other => body.other,
            L4::LaterFragment => body.other.filter(|&service| body.has_all_of(packet.protocol, service)),
        }
    }

    /// Reports whether the address is a virtual address of any service.
    #[must_use]
    pub fn has_vip(&self, address: IpAddr) -> bool {
        self.piece(address).is_some()
    }

    fn piece(&self, address: IpAddr) -> Option<&Body> {
        match address {
            IpAddr::V4(address) => self.v4.find(address.to_bits()),
            IpAddr::V6(address) => self.v6.find(address.to_bits()),
        }
    }

    /// Returns where echo requests belong to another service than [`Classifier::claims`] says of their
    /// protocol, or where it says nothing. IPv4 comes before IPv6; the claims are ascending by address, and
    /// disjoint.
    #[must_use]
    pub fn echo_claims(&self) -> Vec<EchoClaim> {
        let claim = |addresses, body: &Body| {
            let service = body.echo.filter(|_| body.echo != body.other)?;
            Some(EchoClaim { addresses, service, other: body.other })
        };
        let v4 = self.v4.iter().filter_map(|(first, last, body)| claim(AddressRange::V4(first, last), body));
        let v6 = self.v6.iter().filter_map(|(first, last, body)| claim(AddressRange::V6(first, last), body));
        v4.chain(v6).collect()
    }

    /// Returns all boxes. They are disjoint; IPv4 comes before IPv6, ascending by address.
    #[must_use]
    pub fn claims(&self) -> Vec<Claim> {
        let v4 = self.v4.iter().flat_map(|(first, last, body)| body.claims(AddressRange::V4(first, last)));
        let v6 = self.v6.iter().flat_map(|(first, last, body)| body.claims(AddressRange::V6(first, last)));
        v4.chain(v6).collect()
    }
}

/// An address as a number.
trait Bits: Copy + Ord + Display {
    /// Returns the next address; `None` after the last.
    fn next(self) -> Option<Self>;
    /// Returns the address before. The address must not be 0.
    fn previous(self) -> Self;
    fn address(self) -> IpAddr;
}

impl Bits for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn previous(self) -> Self {
        self.saturating_sub(1)
    }
    fn address(self) -> IpAddr {
        std::net::Ipv4Addr::from_bits(self).into()
    }
}

impl Bits for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn previous(self) -> Self {
        self.saturating_sub(1)
    }
    fn address(self) -> IpAddr {
        std::net::Ipv6Addr::from_bits(self).into()
    }
}

/// A VIP of a service.
struct Span<A> {
    first: A,
    last: A,
    prefix: u8,
    owner: usize,
}

/// Ranges of addresses within which the same services apply; disjoint, ascending. The first addresses are
/// stored apart from the rest, so that the search touches few cache lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Pieces<A> {
    firsts: Vec<A>,
    /// The last address of the range with the same index, and what is claimed in the range.
    rest: Vec<(A, Body)>,
}

impl<A: Bits> Pieces<A> {
    /// Cuts at all edges, so that every piece lies wholly inside or outside each span.
    fn new(spans: &[Span<A>], services: &[Scope<'_>]) -> Result<Self, Conflict> {
        let mut edges: BTreeMap<A, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
        for (index, span) in spans.iter().enumerate() {
            edges.entry(span.first).or_default().0.push(index);
            if let Some(behind) = span.last.next() {
                edges.entry(behind).or_default().1.push(index);
            }
        }
        let ends: Vec<A> = edges.keys().skip(1).map(|edge| edge.previous()).collect();
        let last_ends = spans.iter().map(|span| span.last).max();
        let ends = ends.into_iter().map(Some).chain(std::iter::once(last_ends));
        let mut open: BTreeMap<usize, u8> = BTreeMap::new();
        let mut inside: Vec<usize> = Vec::new();
        let mut pieces = Self { firsts: Vec::new(), rest: Vec::new() };
        for ((first, (begins, closes)), last) in edges.into_iter().zip(ends) {
            inside.retain(|span| !closes.contains(span));
            inside.extend(begins);
            let Some(last) = last.filter(|_| !inside.is_empty()) else { continue };
            // A service with nested prefixes counts with the longest one.
            open.clear();
            for &span in &inside {
                let longest = open.entry(spans[span].owner).or_default();
                *longest = (*longest).max(spans[span].prefix);
            }
            let body = Body::new(&open, services)
                .map_err(|clash| clash.explain(services, &first.address().to_string()))?;
            pieces.firsts.push(first);
            pieces.rest.push((last, body));
        }
        Ok(pieces)
    }

    fn find(&self, address: A) -> Option<&Body> {
        let behind = self.firsts.partition_point(|&first| first <= address);
        let (last, body) = self.rest.get(behind.checked_sub(1)?)?;
        (address <= *last).then_some(body)
    }

    fn iter(&self) -> impl Iterator<Item = (A, A, &Body)> {
        self.firsts.iter().zip(&self.rest).map(|(&first, (last, body))| (first, *last, body))
    }
}

/// What is claimed in one piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Body {
    /// Claims per protocol, in the order of [`Protocol::ALL`]; disjoint, ascending.
    ports: [Vec<(PortRange, usize)>; 3],
    /// The service of every other protocol.
    other: Option<usize>,
    /// The service of echo requests.
    echo: Option<usize>,
}

/// How specific a claim is: the smaller rank wins.
type Rank = (PortClass, Reverse<u8>, Reverse<bool>, u16);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PortClass {
    Exact,
    Range,
    All,
}

/// Two claims of equal rank.
struct Clash {
    services: (usize, usize),
    protocol: &'static str,
    port: Option<u16>,
}

impl Clash {
    fn explain(self, services: &[Scope<'_>], address: &str) -> Conflict {
        let (first, second) = (self.services.0.min(self.services.1), self.services.0.max(self.services.1));
        let port = self.port.map_or_else(String::new, |port| format!(" port {port}"));
        Conflict {
            first: services[first].name.clone(),
            second: services[second].name.clone(),
            what: format!("{address} {}{port}", self.protocol),
        }
    }
}

fn rank(ports: PortRange, prefix: u8, named: bool) -> Rank {
    let class = match ports {
        PortRange::ALL => PortClass::All,
        PortRange { first, last } if first == last => PortClass::Exact,
        PortRange { .. } => PortClass::Range,
    };
    (class, Reverse(prefix), Reverse(named), ports.last - ports.first)
}

impl Body {
    fn new(open: &BTreeMap<usize, u8>, services: &[Scope<'_>]) -> Result<Self, Clash> {
        let mut body = Self::default();
        for (protocol, claimed) in Protocol::ALL.into_iter().zip(&mut body.ports) {
            let mut wishes: Vec<(Rank, PortRange, usize)> = Vec::new();
            for (&index, &prefix) in open {
                let service = &services[index];
                match service.protocols {
                    Protocols::Any => {
                        wishes.push((rank(PortRange::ALL, prefix, false), PortRange::ALL, index));
                    }
                    Protocols::Named(named) if named.contains(&protocol) => {
                        wishes.extend(
                            service.ports.iter().map(|&ports| (rank(ports, prefix, true), ports, index)),
                        );
                    }
                    Protocols::Named(_) => {}
                }
            }
            *claimed = resolve(wishes, protocol)?;
        }
        let mut any: Vec<(u8, usize)> = open
            .iter()
            .filter(|&(&index, _)| *services[index].protocols == Protocols::Any)
            .map(|(&index, &prefix)| (prefix, index))
            .collect();
        any.sort_unstable_by_key(|&(prefix, index)| (Reverse(prefix), index));
        if let [(longest, first), (next, second), ..] = any[..]
            && longest == next
        {
            return Err(Clash { services: (first, second), protocol: "any protocol", port: None });
        }
        body.other = any.first().map(|&(_, index)| index);
        let by_echo = |&(&index, &prefix): &(&usize, &u8)| {
            (Reverse(prefix), *services[index].protocols != Protocols::Any, index)
        };
        body.echo = open.iter().min_by_key(by_echo).map(|(&index, _)| index);
        Ok(body)
    }

    fn port(&self, protocol: Protocol, port: u16) -> Option<usize> {
        let claimed = &self.ports[protocol as usize];
        let behind = claimed.partition_point(|(ports, _)| ports.first <= port);
        let (ports, service) = claimed.get(behind.checked_sub(1)?)?;
        (port <= ports.last).then_some(*service)
    }

    /// Reports whether all packets of a protocol, whatever their ports, belong to `service`, which has the
    /// protocols that are not named.
    fn has_all_of(&self, protocol: u8, service: usize) -> bool {
        let named = Protocol::ALL.into_iter().find(|named| named.number() == protocol);
        named.is_none_or(|named| self.ports[named as usize][..] == [(PortRange::ALL, service)])
    }

    fn claims(&self, addresses: AddressRange) -> Vec<Claim> {
        if let Some(service) = self.other
            && self.ports.iter().all(|claimed| claimed[..] == [(PortRange::ALL, service)])
        {
            return vec![Claim { addresses, protocols: (0, u8::MAX), ports: PortRange::ALL, service }];
        }
        let mut claims = Vec::new();
        let mut unnamed = 0;
        for (protocol, claimed) in Protocol::ALL.into_iter().zip(&self.ports) {
            let number = protocol.number();
            if let Some(service) = self.other {
                claims.push(Claim {
                    addresses,
                    protocols: (unnamed, number - 1),
                    ports: PortRange::ALL,
                    service,
                });
                unnamed = number + 1;
            }
            let boxes = claimed.iter();
            claims.extend(boxes.map(|&(ports, service)| Claim {
                addresses,
                protocols: (number, number),
                ports,
                service,
            }));
        }
        if let Some(service) = self.other {
            claims.push(Claim { addresses, protocols: (unnamed, u8::MAX), ports: PortRange::ALL, service });
        }
        claims
    }
}

/// Gives every port to the most specific claim in `wishes`. Neighbouring ports of one service become one
/// range.
fn resolve(
    mut wishes: Vec<(Rank, PortRange, usize)>,
    protocol: Protocol,
) -> Result<Vec<(PortRange, usize)>, Clash> {
    wishes.sort_unstable();
    let mut edges: Vec<u32> =
        wishes.iter().flat_map(|(_, ports, _)| [u32::from(ports.first), u32::from(ports.last) + 1]).collect();
    edges.sort_unstable();
    edges.dedup();
    let mut settled: Vec<(PortRange, usize)> = Vec::new();
    for pair in edges.windows(2) {
        let (Ok(first), Ok(last)) = (u16::try_from(pair[0]), u16::try_from(pair[1] - 1)) else { continue };
        let mut here = wishes.iter().filter(|(_, ports, _)| ports.first <= first && last <= ports.last);
        let Some(&(best, _, service)) = here.next() else { continue };
        if let Some(&(_, _, other)) =
            here.next().filter(|&&(rank, _, other)| rank == best && other != service)
        {
            return Err(Clash { services: (service, other), protocol: protocol.name(), port: Some(first) });
        }
        match settled.last_mut() {
            Some((ports, owner)) if *owner == service && u32::from(ports.last) + 1 == pair[0] => {
                ports.last = last;
            }
            _ => settled.push((PortRange { first, last }, service)),
        }
    }
    Ok(settled)
}

#[cfg(test)]
mod tests;
