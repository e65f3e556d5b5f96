//! What the operator wants, parsed into types that cannot be invalid. PURE: text in, values or errors out.
//!
//! The file is TOML; [`Config::parse`] reads it (see `parse.rs` for the keys, each with its limits). What has left
//! this module needs no second look: a [`TableSize`] is a prime, a tunnel's address has the family of its
//! encapsulation, no two services claim the same packets, all names are unique, every member of the tier can
//! reach every other.

mod parse;
mod prime;
mod reader;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

pub use prime::{TableSize, TableSizeError};
pub use reader::{ConfigError, ConfigErrors};

use crate::ids::{MarkMask, QUEUES_MAX, QueueNum};

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

/// A balancer of the tier, this one among them: they share the work of fragments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierMember {
    /// Unique in the tier. The Maglev permutation is seeded by it.
    pub name: Name,
    /// Its outer address, as its own `[balancer] address` says.
    pub address4: Option<Ipv4Addr>,
    /// Likewise.
    pub address6: Option<Ipv6Addr>,
    /// Whether it owns fragments. `None`: the file does not say, so a known member stays as it is and a new one is active.
    pub active: Option<bool>,
}

/// At most this many balancers in a tier.
pub const TIER_MAX: usize = 64;

impl TierMember {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.address4.map(IpAddr::V4).into_iter().chain(self.address6.map(IpAddr::V6))
    }

    /// The tunnel from here to another member: over IPv4 where both have an address of it, since only that can send
    /// the tunnel's own packets in fragments. Both ends come to the same. `None` where they share no family.
    #[must_use]
    pub fn path_to(&self, other: &Self) -> Option<Path> {
        let four = self.address4.and(other.address4).map(IpAddr::V4);
        let six = self.address6.and(other.address6).map(IpAddr::V6);
        four.or(six).map(|address| Path::Via(Encap::Gre, address))
    }
}

/// Settings of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancer {
    /// The name of this balancer.
    pub name: Name,
    /// Outer source address of IPv4 tunnels.
    pub address4: Option<Ipv4Addr>,
    /// Outer source address of IPv6 tunnels.
    pub address6: Option<Ipv6Addr>,
    /// Where VIP traffic comes in. Empty only in a region that `lbctl create` made.
    pub interfaces: Vec<InterfaceName>,
    /// The queues for new flows; one worker each.
    pub queues: QueueRange,
    /// The queue for fragments.
    pub fragment_queue: QueueNum,
    /// Seed of the flow hash and of the Maglev permutations; the same on every balancer of a cluster.
    pub hash_seed: u32,
    /// The bits of fwmark that are ours.
    pub mark_mask: MarkMask,
    /// How long conntrack remembers flows to a VIP.
    pub timeouts: Timeouts,
    /// How much the fragment table may hold.
    pub fragments: FragmentLimits,
    /// Which packets lbd decides about.
    pub steering: Steering,
    /// Whether packets to virtual addresses also come in GRE from routers in front, at this balancer's own addresses.
    pub gre_in: bool,
    /// How many entries of services' tables the kernel holds as well, for when lbd does not decide; see [`KERNEL_ENTRIES`].
    pub kernel_entries: u32,
    /// Who may trace packets.
    pub tracer: TracerSettings,
}

/// Which packets to a virtual address are queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Steering {
    /// The first of a flow; the others stay in the kernel with connection tracking.
    SynOnly,
    /// Every one, without any state: a flow follows the table, wherever that goes.
    EveryPacket,
}

impl Steering {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::SynOnly, Self::EveryPacket];

    /// The name in the configuration file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SynOnly => "syn-only",
            Self::EveryPacket => "every-packet",
        }
    }
}

/// Who may have the decisions about probes reported to him (Eisenbud et al., NSDI 2016, section 4.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TracerSettings {
    /// Where reports may be sent, at most [`TracerSettings::RECEIVERS_MAX`] prefixes. Empty: nowhere, probes are dropped.
    pub receivers: Vec<IpNet>,
    /// How many probes a second are looked at; the others are dropped.
    pub per_second: u32,
}

impl TracerSettings {
    /// At most this many prefixes.
    pub const RECEIVERS_MAX: usize = 64;
    /// Allowed values of `per_second`.
    pub const PER_SECOND: RangeInclusive<u32> = 1..=10_000;
}

impl Default for TracerSettings {
    fn default() -> Self {
        Self { receivers: Vec::new(), per_second: 100 }
    }
}

/// Limits of the fragment table. All but the time hold for what is there at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FragmentLimits {
    /// How long a packet is remembered after its last fragment, in milliseconds. RFC 791 suggests 15 s, RFC 8200 60 s for
    /// a receiver; on the way a fraction of that is enough.
    pub ttl_ms: u32,
    /// Fragmented packets of which something is remembered.
    pub entries: u32,
    /// The same, of one source: an IPv4 address, an IPv6 /64.
    pub entries_per_source: u32,
    /// Fragments that wait for their first one.
    pub held_packets: u32,
    /// Their bytes.
    pub held_bytes: u32,
    /// The same, of one source. Here a fragment counts as `held_bytes / held_packets` at least, so that a source that
    /// sends small ones gets no more of `held_packets` than its share.
    pub held_bytes_per_source: u32,
}

impl FragmentLimits {
    /// Allowed values of `ttl_ms`.
    pub const TTL_MS: RangeInclusive<u32> = 10..=60_000;
    /// Of `entries`.
    pub const ENTRIES: RangeInclusive<u32> = 64..=1 << 20;
    /// Of `held_packets`.
    pub const HELD_PACKETS: RangeInclusive<u32> = 16..=65_536;
    /// Of `held_bytes`.
    pub const HELD_BYTES: RangeInclusive<u32> = 65_536..=256 << 20;
    /// The least `entries_per_source`; not above `entries`.
    pub const ENTRIES_PER_SOURCE_MIN: u32 = 1;
    /// The least `held_bytes_per_source`, so that any fragment which the queue hands out can be held; not above
    /// `held_bytes`.
    pub const HELD_BYTES_PER_SOURCE_MIN: u32 = 9_216;

    /// Whether each value is one of those allowed.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        Self::TTL_MS.contains(&self.ttl_ms)
            && Self::ENTRIES.contains(&self.entries)
            && (Self::ENTRIES_PER_SOURCE_MIN..=self.entries).contains(&self.entries_per_source)
            && Self::HELD_PACKETS.contains(&self.held_packets)
            && Self::HELD_BYTES.contains(&self.held_bytes)
            && (Self::HELD_BYTES_PER_SOURCE_MIN..=self.held_bytes).contains(&self.held_bytes_per_source)
    }
}

impl Default for FragmentLimits {
    fn default() -> Self {
        Self {
            ttl_ms: 200,
            entries: 16_384,
            entries_per_source: 2_048,
            held_packets: 8_192,
            held_bytes: 16 << 20,
            held_bytes_per_source: 1 << 20,
        }
    }
}

/// Allowed values of [`Balancer::kernel_entries`]. Each entry takes about 104 bytes of kernel memory.
pub const KERNEL_ENTRIES: RangeInclusive<u32> = 0..=1 << 24;
/// What it is when it is not configured.
pub const KERNEL_ENTRIES_DEFAULT: u32 = 1 << 20;

/// Seed of the flow hash when none is configured.
pub const HASH_SEED_DEFAULT: u32 = 0xcafe_babe;

/// Timeouts of connection tracking for flows to a VIP, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Open TCP connections, also those that send without being answered here (all do, under direct server return).
    /// RFC 5382, REQ-5: at least 2 hours and 4 minutes.
    pub tcp_established_seconds: u32,
    /// TCP connections that have begun to close.
    pub tcp_closing_seconds: u32,
    /// UDP flows.
    pub udp_seconds: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { tcp_established_seconds: 7440, tcp_closing_seconds: 30, udp_seconds: 120 }
    }
}

impl Balancer {
    /// The settings of a region that was made without a configuration file.
    #[must_use]
    pub fn unconfigured() -> Self {
        Self {
            name: Name::known("lb"),
            address4: None,
            address6: None,
            interfaces: Vec::new(),
            queues: QueueRange::default(),
            fragment_queue: QueueNum(10),
            hash_seed: HASH_SEED_DEFAULT,
            mark_mask: MarkMask::DEFAULT,
            timeouts: Timeouts::default(),
            fragments: FragmentLimits::default(),
            steering: Steering::SynOnly,
            gre_in: false,
            kernel_entries: KERNEL_ENTRIES_DEFAULT,
            tracer: TracerSettings::default(),
        }
    }

    /// Its outer addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.address4.map(IpAddr::V4).into_iter().chain(self.address6.map(IpAddr::V6))
    }

    /// The outer source address for tunnels to `remote`.
    #[must_use]
    pub fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        match remote {
            IpAddr::V4(_) => self.address4.map(IpAddr::V4),
            IpAddr::V6(_) => self.address6.map(IpAddr::V6),
        }
    }
}

/// Virtual addresses, what part of their traffic is meant, and who serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique among the services.
    pub name: Name,
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

impl Pmtu {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Icmp, Self::FragmentOuter];

    /// The name in the configuration file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::FragmentOuter => "fragment-outer",
        }
    }
}

/// The UDP port of GUE (IANA).
pub const GUE_PORT: u16 = 6080;

/// What of a packet decides its entry in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashMode {
    /// Addresses, ports and protocol.
    #[serde(rename = "5-tuple")]
    FiveTuple,
    /// The client's address alone: all its flows reach one backend.
    Source,
    /// Both addresses: of services that name no protocol, where there may be no ports.
    Addresses,
}

impl HashMode {
    /// The name in the configuration file; `addresses` is what omitting the protocols gives.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::FiveTuple => "5-tuple",
            Self::Source => "source",
            Self::Addresses => "addresses",
        }
    }
}

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
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// IANA protocol number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The name in the configuration file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// The protocols of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// Every IP protocol.
    Any,
    /// These: ascending, never empty.
    Named(Vec<Protocol>),
}

/// Ports `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest; not less than `first`.
    pub last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Neighbouring queue numbers, at most [`QUEUES_MAX`]. The default is queue 0 alone.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRange {
    first: u16,
    last: u16,
}

impl QueueRange {
    /// Queues `first..=last`, or `None` when there are none or too many.
    #[must_use]
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last && usize::from(last - first) < QUEUES_MAX).then_some(Self { first, last })
    }

    /// The lowest queue.
    #[must_use]
    pub fn first(self) -> QueueNum {
        QueueNum(self.first)
    }

    /// The highest queue.
    #[must_use]
    pub fn last(self) -> QueueNum {
        QueueNum(self.last)
    }

    /// Every queue, ascending.
    pub fn iter(self) -> impl ExactSizeIterator<Item = QueueNum> {
        (self.first..=self.last).map(QueueNum)
    }

    /// Whether `queue` is one of them.
    #[must_use]
    pub fn contains(self, queue: QueueNum) -> bool {
        (self.first..=self.last).contains(&queue.0)
    }
}

impl From<QueueNum> for QueueRange {
    /// That queue alone.
    fn from(queue: QueueNum) -> Self {
        Self { first: queue.0, last: queue.0 }
    }
}

impl fmt::Display for QueueRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        PortRange { first: self.first, last: self.last }.fmt(f)
    }
}

/// A share of the table: 1..=100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u8);

impl Weight {
    /// The weight of a backend that names none.
    pub const ONE: Self = Self(1);
    /// The highest.
    pub const MAX: u8 = 100;

    /// A weight, or `None` outside 1..=100.
    #[must_use]
    pub fn new(weight: u8) -> Option<Self> {
        (1..=Self::MAX).contains(&weight).then_some(Self(weight))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

/// The name of a balancer, service or backend: 1 to [`Name::BYTES_MAX`] of `A-Z a-z 0-9 . _ -`, not starting with `-`.
/// Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The longest, in bytes.
    pub const BYTES_MAX: usize = 48;

    /// `text` as a name, or `None` when it is none.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let valid = (1..=Self::BYTES_MAX).contains(&text.len())
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        valid.then(|| Self(text.into()))
    }

    /// A name written in this program.
    pub(crate) fn known(text: &'static str) -> Self {
        debug_assert!(Self::new(text).is_some());
        Self(text.into())
    }

    /// A number as a name.
    pub(crate) fn from_index(index: usize) -> Self {
        Self(index.to_string().into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("no name"))
    }
}

/// The name of a network device: 1 to 15 bytes as the kernel takes them (`dev_valid_name`), and nothing that would
/// mean something else in a ruleset.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The longest, in bytes (`IFNAMSIZ` - 1).
    pub const BYTES_MAX: usize = 15;

    /// `text` as a device name, or `None` when it is none.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let valid = (1..=Self::BYTES_MAX).contains(&text.len())
            && text != "."
            && text != ".."
            && text.bytes().all(|b| b.is_ascii_graphic() && !b"/:*\"\\".contains(&b));
        valid.then(|| Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for InterfaceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for InterfaceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("no device name"))
    }
}
