//! Why a packet belongs to a service. PURE.
//!
//! The service is the one that [`Classifier::service_of`] finds. The reasons are made of the ranks that the
//! classifier compared when it was built.

use ipnet::IpNet;

use super::{Classifier, Rank, Scope, rank};
use crate::{
    model::{PortRange, Protocols},
    packet::{L4, Packet},
};

/// Why a packet belongs to one of two services that both claim it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precedence {
    /// The service names the port.
    Port,
    /// The service names a range of ports, and the other service names none.
    PortRange,
    /// The service's prefix is longer.
    Prefix,
    /// The service names the protocol.
    Protocol,
    /// The service's range of ports is narrower.
    NarrowerRange,
    /// The service takes every protocol, so also this one.
    EveryProtocol,
    /// The service comes first in the file.
    Order,
}

impl Precedence {
    /// Returns the rule as a reason that follows the service's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Port => "one port",
            Self::PortRange => "a range of ports",
            Self::Prefix => "longer prefix",
            Self::Protocol => "named protocol",
            Self::NarrowerRange => "narrower range of ports",
            Self::EveryProtocol => "takes every protocol",
            Self::Order => "first in the file",
        }
    }
}

/// Which service a packet belongs to, and why. Services are indices, as the classifier has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// A service claims the packet.
    Claimed(Match),
    /// No service claims the packet.
    Unclaimed {
        /// The services that have the packet's destination, in their order.
        here: Vec<usize>,
    },
}

/// A service with the claim by which it gets a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The service.
    pub service: usize,
    /// The longest of its prefixes that contains the destination.
    pub vip: IpNet,
    /// The narrowest of its port ranges that contains the port; `None` if it does not go by the port.
    pub ports: Option<PortRange>,
    /// The other services that claim the packet, in their order, each with the rule that decided against it.
    pub before: Vec<(usize, Precedence)>,
}

/// How specifically a service claims a packet.
#[derive(Clone, Copy)]
struct Claimed {
    vip: IpNet,
    ports: Option<PortRange>,
    rank: Rank,
    /// Whether the service takes every protocol. This matters for echo requests, where equal prefixes are no
    /// conflict.
    every_protocol: bool,
}

impl Claimed {
    fn new(scope: &Scope<'_>, packet: &Packet) -> Option<Self> {
        let dst = packet.addresses.destination();
        let vip = *scope.vips.iter().filter(|vip| vip.contains(&dst)).max_by_key(|vip| vip.prefix_len())?;
        let every_protocol = *scope.protocols == Protocols::Any;
        let by_address =
            Self { vip, ports: None, rank: rank(PortRange::ALL, vip.prefix_len(), false), every_protocol };
        let named = match scope.protocols {
            Protocols::Named(named) if !matches!(packet.l4, L4::Echo { .. }) => named,
            Protocols::Named(_) | Protocols::Any => return Some(by_address),
        };
        let port = packet.l4.ports()?.dst;
        let protocol = named.iter().any(|protocol| protocol.number() == packet.protocol);
        let ranges =
            scope.ports.iter().filter(|range| protocol && (range.first..=range.last).contains(&port));
        let ports = *ranges.min_by_key(|range| range.last - range.first)?;
        Some(Self { ports: Some(ports), rank: rank(ports, vip.prefix_len(), true), ..by_address })
    }

    /// Returns the first rule by which this claim and another one, over which it wins, differ.
    fn precedence(&self, other: &Self) -> Precedence {
        use super::PortClass::Exact;
        let ((class, prefix, named, width), (other_class, other_prefix, other_named, other_width)) =
            (self.rank, other.rank);
        if class != other_class {
            return if class == Exact { Precedence::Port } else { Precedence::PortRange };
        }
        if prefix != other_prefix {
            return Precedence::Prefix;
        }
        if named != other_named {
            return Precedence::Protocol;
        }
        if width != other_width {
            return Precedence::NarrowerRange;
        }
        if self.every_protocol == other.every_protocol {
            Precedence::Order
        } else {
            Precedence::EveryProtocol
        }
    }
}

impl Classifier {
    /// Returns which service a packet belongs to, and why. `services` are those that the classifier was built
    /// of.
    #[must_use]
    pub fn explain(&self, services: &[Scope<'_>], packet: &Packet) -> Explanation {
        let claimed = |service: usize| Claimed::new(services.get(service)?, packet);
        let found = self.service_of(packet).and_then(|service| Some((service, claimed(service)?)));
        let Some((service, best)) = found else {
            let dst = packet.addresses.destination();
            let has = |scope: &Scope<'_>| scope.vips.iter().any(|vip| vip.contains(&dst));
            let here = services.iter().enumerate().filter(|(_, scope)| has(scope)).map(|(index, _)| index);
            return Explanation::Unclaimed { here: here.collect() };
        };
        let others = (0..services.len()).filter(|&other| other != service);
        let before = others.filter_map(|other| Some((other, best.precedence(&claimed(other)?)))).collect();
        Explanation::Claimed(Match { service, vip: best.vip, ports: best.ports, before })
    }
}
