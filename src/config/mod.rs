//! What the operator wants, parsed into types that cannot be invalid. PURE: text in, values or errors out.
//!
//! The file is TOML; [`Config::parse`] reads it (see `parse.rs` for the keys, each with its limits). What has left
//! this module needs no second look: a [`TableSize`] is a prime, a tunnel's address has the family of its
//! encapsulation, no two services claim the same packets, all names are unique, every member of the tier can
//! reach every other.

mod balancer;
pub mod keys;
mod parse;
mod prime;
mod reader;
mod values;

use std::net::IpAddr;

use ipnet::IpNet;

/// The largest file that is read, in bytes: what has no end must not be read for ever.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

pub use balancer::{
    BLACKHOLE_MAX, BUSY_POLL_US, Balancer, FragmentLimits, HASH_SEED_DEFAULT, KERNEL_ENTRIES,
    KERNEL_ENTRIES_DEFAULT, PMTU_FLOOR, PMTU_FLOOR_DEFAULT, RULE_PRIORITY, Steering, TIER_MAX, TierMember,
    Timeouts, TracerSettings,
};
pub use prime::{TableSize, TableSizeError};
pub use reader::{ConfigError, ConfigErrors};
pub use values::{InterfaceName, Name, PortRange, QueueRange, Weight};
use values::{as_text, named};

/// A whole configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The table `[balancer]`.
    pub balancer: Balancer,
    /// Every `[[service]]`, in the order of the file.
    pub services: Vec<Service>,
    /// Every `[[tier.balancer]]`, sorted by name; empty without `[tier]`.
    pub tier: Vec<TierMember>,
}

/// Virtual addresses, what part of their traffic is meant, and who serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique among the services.
    pub name: Name,
    /// The name that it had before: what is set of its backends goes on under the new one.
    pub renamed_from: Option<Name>,
    /// Addresses or prefixes, host bits 0; never empty.
    pub vips: Vec<IpNet>,
    /// Which protocols.
    pub protocols: Protocols,
    /// Disjoint, ascending, never empty; all ports when the file names none.
    pub ports: Vec<PortRange>,
    /// What is hashed.
    pub hash: HashMode,
    /// What becomes of packets that are too large for a tunnel.
    pub pmtu: Pmtu,
    /// Who decides about its new flows.
    pub decider: Decider,
    /// M, the number of entries of the Maglev table.
    pub table_size: TableSize,
    /// Unique names; sorted by name.
    pub backends: Vec<Backend>,
}

/// One server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Unique in its service. The Maglev permutation is seeded by it.
    pub name: Name,
    /// How its packets reach it.
    pub path: Path,
    /// Its share of the table, relative to the others of the service: 1..=100.
    pub weight: Weight,
    /// Whether it gets new flows. `None`: the file does not say, so a known backend stays as it is and a new one
    /// is active.
    pub active: Option<bool>,
}

/// How packets reach a backend: the identity of a target. Backends of several services may share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// In a tunnel, or through a next hop, to this address.
    Via(Encap, IpAddr),
    /// Only the mark is set; the operator's own rules carry the packet.
    MarkOnly,
}

impl Path {
    /// Whether [`Pmtu::FragmentOuter`] is possible: only GRE over IPv4 lets the kernel fragment its outer packets.
    #[must_use]
    pub fn can_fragment_outer(self) -> bool {
        matches!(self, Self::Via(Encap::Gre, IpAddr::V4(_)))
    }
}

/// What is put around a packet on its way to the backend. The underlay's family follows from the address.
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

impl Encap {
    /// The name in the configuration file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gre => "gre",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            Self::Direct => "direct",
        }
    }
}

/// What becomes of a packet that is too large for its backend's tunnel and must not be fragmented itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pmtu {
    /// The sender is told the size that fits (RFC 1191, RFC 8201), in the name of the virtual address.
    Icmp,
    /// The tunnel's outer packet is sent in fragments, which the backend puts together. Only GRE over IPv4 can.
    FragmentOuter,
}

named!(Pmtu { Icmp = "icmp", FragmentOuter = "fragment-outer" });

/// Who decides about new flows of a service; with [`Steering::EveryPacket`] about each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decider {
    /// lbd, which is asked by a queue.
    Lbd,
    /// The kernel, by its copy of the service's table. What it cannot decide is lbd's still.
    Kernel,
}

named!(Decider { Lbd = "lbd", Kernel = "kernel" });

as_text!(Decider, Decider::named, |decider: &Decider| decider.name(), "decider");

/// The UDP port of GUE (IANA).
pub const GUE_PORT: u16 = 6080;

/// What of a packet decides its entry in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashMode {
    /// Addresses, ports and protocol.
    FiveTuple,
    /// The client's address alone: all its flows reach one backend.
    Source,
    /// Both addresses: of services that name no protocol, where there may be no ports. Omitting the protocols gives it.
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
    /// IANA protocol number.
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

/// The protocols of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// Every IP protocol.
    Any,
    /// These: ascending, never empty.
    Named(Vec<Protocol>),
}
