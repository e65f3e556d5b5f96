//! The properties of a service, and of the path to a backend.

use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Serialize};

use super::values::{Name, as_string, as_text, named};

/// How packets reach a backend: the identity of a target. Backends of several services may share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// In a tunnel, or through a next hop, to this address.
    Via(Encap, IpAddr),
    /// Only the mark is set; the operator's own rules carry the packet.
    MarkOnly,
}

impl Path {
    const MARK_ONLY: &str = "mark";
}

/// "gre 192.168.1.1", or "mark".
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Via(encap, address) => write!(f, "{} {address}", encap.name()),
            Self::MarkOnly => f.write_str(Self::MARK_ONLY),
        }
    }
}

impl FromStr for Path {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let via =
            |(encap, address): (&str, &str)| Some(Self::Via(Encap::named(encap)?, address.parse().ok()?));
        match text {
            Self::MARK_ONLY => Ok(Self::MarkOnly),
            text => text.split_once(' ').and_then(via).ok_or(()),
        }
    }
}

as_string!(Path, "path to a backend");

impl Path {
    /// Reports whether [`Pmtu::FragmentOuter`] is possible: only GRE over IPv4 lets the kernel fragment its
    /// outer packets.
    #[must_use]
    pub fn can_fragment_outer(self) -> bool {
        matches!(self, Self::Via(Encap::Gre, IpAddr::V4(_)))
    }
}

/// Whether the VIPs of a service are announced, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Announcing {
    /// Whether they are announced while the service can be served.
    pub announce: bool,
    /// How many backends must be usable for that.
    #[serde(rename = "announce_min")]
    pub min: u16,
}

impl Announcing {
    /// Allowed values of `min`.
    pub const MIN: RangeInclusive<u16> = 1..=4096;
}

impl Default for Announcing {
    fn default() -> Self {
        Self { announce: true, min: 1 }
    }
}

/// The encapsulation of a packet on its way to the backend. The underlay's family follows from the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Encap {
    /// GRE (RFC 2784): device kind `gre`, or `ip6gre` over IPv6.
    Gre,
    /// IP in IP (RFC 2003, 4213, 2473): device kind `sit` with mode `any`, or `ip6tnl` over IPv6.
    Ipip,
    /// Generic UDP Encapsulation, as `Ipip` inside UDP port 6080.
    Gue,
    /// Nothing: the backend is the next hop on a shared segment.
    Direct,
}

named!(Encap { Gre = "gre", Ipip = "ipip", Gue = "gue", Direct = "direct" });

/// What is done with a packet that is too large for its backend's tunnel and must not be fragmented itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pmtu {
    /// The virtual address sends an ICMP error to the sender with the size that fits (RFC 1191, RFC 8201).
    Icmp,
    /// The tunnel's outer packet is sent in fragments, which the backend reassembles. Only GRE over IPv4 can
    /// do this.
    FragmentOuter,
}

as_text!(Pmtu, Pmtu::named, |pmtu: &Pmtu| pmtu.name(), "pmtu");

named!(Pmtu { Icmp = "icmp", FragmentOuter = "fragment-outer" });

/// What decides about new flows of a service; with [`Steering::EveryPacket`], about each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decider {
    /// lbd, which gets the packets by a queue.
    Lbd,
    /// The kernel, by the service's fallback table. lbd decides about packets that the kernel cannot
    /// decide about.
    Kernel,
}

named!(Decider { Lbd = "lbd", Kernel = "kernel" });

as_text!(Decider, Decider::named, |decider: &Decider| decider.name(), "decider");

/// What happens to new flows of a service that has no active backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NoBackend {
    /// Their packets are dropped.
    #[default]
    Drop,
    /// Clients are told at once: TCP by a reset, other protocols by ICMP "port unreachable".
    Reject,
    /// The backends of another service get them.
    Service(Name),
}

impl NoBackend {
    const DROP: &str = "drop";
    const REJECT: &str = "reject";
    const SERVICE: &str = "service:";
}

/// "drop", "reject", or "service:NAME".
impl fmt::Display for NoBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop => f.write_str(Self::DROP),
            Self::Reject => f.write_str(Self::REJECT),
            Self::Service(name) => write!(f, "{}{name}", Self::SERVICE),
        }
    }
}

impl FromStr for NoBackend {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            Self::DROP => Ok(Self::Drop),
            Self::REJECT => Ok(Self::Reject),
            text => {
                let name = text.strip_prefix(Self::SERVICE).and_then(Name::new);
                name.map(Self::Service).ok_or(())
            }
        }
    }
}

as_string!(NoBackend, "value of no_backend");

/// The UDP port of GUE (IANA).
pub const GUE_PORT: u16 = 6080;

/// The fields of a packet that select its entry in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashMode {
    /// Addresses, ports and protocol.
    FiveTuple,
    /// The client's address alone: all flows of a client reach one backend.
    Source,
    /// Both addresses. Used for services without protocols, whose packets may have no ports; it cannot be
    /// chosen otherwise.
    Addresses,
}

named!(HashMode { FiveTuple = "5-tuple", Source = "source", Addresses = "addresses" });

as_text!(HashMode, HashMode::named, |mode: &HashMode| mode.name(), "kind of hash");

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Returns the IANA protocol number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

named!(Protocol { Tcp = "tcp", Udp = "udp", Sctp = "sctp" });

as_text!(Protocol, Protocol::named, |protocol: &Protocol| protocol.name(), "protocol");

/// The protocols of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// Every IP protocol.
    Any,
    /// These protocols: ascending, never empty.
    Named(Vec<Protocol>),
}

impl Protocols {
    const ANY: &str = "any";
}

/// "any", or the names with a space between them.
impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str(Self::ANY),
            Self::Named(named) => {
                f.write_str(&named.iter().map(|one| one.name()).collect::<Vec<_>>().join(" "))
            }
        }
    }
}

impl FromStr for Protocols {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == Self::ANY {
            return Ok(Self::Any);
        }
        let named: Option<Vec<_>> = text.split(' ').map(Protocol::named).collect();
        named.filter(|named| named.is_sorted_by(|a, b| a < b)).map(Self::Named).ok_or(())
    }
}

as_string!(Protocols, "list of protocols");

/// Which packets to a virtual address are queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// The first packet of a flow; the others stay in the kernel, with connection tracking.
    SynOnly,
    /// Every packet, without any state: a flow follows the table, wherever that leads.
    EveryPacket,
}

named!(Steering { SynOnly = "syn-only", EveryPacket = "every-packet" });

as_text!(Steering, Steering::named, |steering: &Steering| steering.name(), "way of steering");
