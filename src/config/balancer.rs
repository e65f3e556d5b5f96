//! The parts of the file about the balancer itself, its limits, and the tier.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{
    Encap, ExecProbe, InterfaceName, Name, OuterAddresses, Path, QueueRange, Steering,
    ids::{MarkMask, QueueNum},
};

/// Settings of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
// A region that was written before a setting existed has its default.
#[serde(default = "Balancer::unconfigured")]
pub struct Balancer {
    /// The name of this balancer.
    pub name: Name,
    /// The outer source addresses of tunnels.
    pub address: OuterAddresses,
    /// Where VIP traffic comes in. Empty only in a region that `lbctl create` made.
    pub interfaces: Vec<InterfaceName>,
    /// The queues for new flows; each has one worker.
    pub queues: QueueRange,
    /// The queue for fragments.
    pub fragment_queue: QueueNum,
    /// Seed of the flow hash and of the Maglev permutations; the same on every balancer of a cluster.
    pub hash_seed: u32,
    /// The bits of fwmark that are ours.
    pub mark_mask: MarkMask,
    /// How long conntrack remembers flows to a VIP.
    pub timeouts: Timeouts,
    /// The limits of the fragment table.
    pub fragments: FragmentLimits,
    /// Which packets lbd decides about.
    pub steering: Steering,
    /// Whether packets to virtual addresses also come in GRE, from routers in front to this balancer's own
    /// addresses.
    pub gre_in: bool,
    /// Where our policy rules begin. `None`: before the rules of others that could catch packets to VIPs.
    pub rule_priority: Option<u32>,
    /// Prefixes that routers send here. Packets to these prefixes that are for no VIP are dropped. At most
    /// [`BLACKHOLE_MAX`].
    pub blackhole: Vec<IpNet>,
    /// Whether prefixes of VIPs may contain addresses of this host. Such addresses stay the host's own.
    pub allow_own_addresses: bool,
    /// How many entries of services' tables the kernel holds as well, for when lbd does not decide; see
    /// [`KERNEL_ENTRIES`].
    pub kernel_entries: u32,
    /// The lowest path MTU to a backend that an ICMP error may set, in bytes; see [`PMTU_FLOOR`].
    pub pmtu_floor: u16,
    /// Whether long flows leave the ruleset for the kernel's flowtable, if it has one.
    pub offload: bool,
    /// How long a worker polls for more packets before it sleeps, in microseconds; see [`BUSY_POLL_US`].
    pub busy_poll_us: u16,
    /// The program that lbagent runs for what is news ([`crate::control::notices`]), and its arguments; empty for
    /// none.
    pub notify: Vec<String>,
    /// The routing table that has a route for each VIP that is announced; `None` if none is. See
    /// [`ANNOUNCE_TABLES`].
    pub announce_table: Option<u8>,
    /// Where the packet tracer may send reports, and how many probes are answered.
    pub tracer: TracerSettings,
    /// What lbagent serves by HTTP.
    pub http: HttpSettings,
}

/// Where lbagent answers HTTP. Over TCP nothing can be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpSettings {
    /// Whether it listens on the Unix socket beside that of lbd.
    pub unix: bool,
    /// Where it listens by TCP: at most [`HttpSettings::LISTEN_MAX`] addresses with ports.
    pub listen: Vec<SocketAddr>,
    /// The host names that requests may name, besides addresses and `localhost`: at most
    /// [`HttpSettings::NAMES_MAX`], in lower case.
    pub names: Vec<String>,
}

impl HttpSettings {
    /// The maximum number of addresses in `listen`.
    pub const LISTEN_MAX: usize = 16;
    /// The maximum number of names in `names`.
    pub const NAMES_MAX: usize = 16;

    /// Reports whether there is anything to listen on.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.unix || !self.listen.is_empty()
    }

    /// Reports whether `text` is a host name in lower case.
    #[must_use]
    pub fn is_name(text: &str) -> bool {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
        (1..=253).contains(&text.len()) && text.chars().all(fits)
    }

    fn is_valid(&self) -> bool {
        self.listen.len() <= Self::LISTEN_MAX
            && self.listen.iter().all(|at| at.port() > 0)
            && self.names.len() <= Self::NAMES_MAX
            && self.names.iter().all(|name| Self::is_name(name))
    }
}

/// Where decisions about probes may be reported, and how many probes are answered (Eisenbud et al., NSDI
/// 2016, section 4.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TracerSettings {
    /// Where reports may be sent: at most [`TracerSettings::RECEIVERS_MAX`] prefixes. If it is empty, no
    /// reports are sent and probes are dropped.
    pub receivers: Vec<IpNet>,
    /// How many probes a second are read; the others are dropped.
    pub per_second: u32,
}

impl TracerSettings {
    /// The maximum number of prefixes in `receivers`.
    pub const RECEIVERS_MAX: usize = 64;
    /// Allowed values of `per_second`.
    pub const PER_SECOND: RangeInclusive<u32> = 1..=10_000;
}

impl Default for TracerSettings {
    fn default() -> Self {
        Self { receivers: Vec::new(), per_second: 100 }
    }
}

/// Limits of the fragment table. All of them, except the time, limit what the table holds at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FragmentLimits {
    /// How long a packet is remembered after its last fragment, in milliseconds. RFC 791 suggests 15 s for a
    /// receiver, RFC 8200 60 s. For a balancer on the way, a fraction of that is enough.
    pub ttl_ms: u32,
    /// The number of fragmented packets that are remembered.
    pub entries: u32,
    /// The number of these packets from one source: an IPv4 address or an IPv6 /64.
    pub entries_per_source: u32,
    /// The number of fragments that wait for their first one.
    pub held_packets: u32,
    /// The number of bytes of these fragments.
    pub held_bytes: u32,
    /// The number of these bytes from one source. Here a fragment counts as at least
    /// `held_bytes / held_packets`, so that a source of small fragments gets no more of `held_packets` than
    /// its share.
    pub held_bytes_per_source: u32,
}

impl FragmentLimits {
    /// Allowed values of `ttl_ms`.
    pub const TTL_MS: RangeInclusive<u32> = 10..=60_000;
    /// Allowed values of `entries`.
    pub const ENTRIES: RangeInclusive<u32> = 64..=1 << 20;
    /// Allowed values of `held_packets`.
    pub const HELD_PACKETS: RangeInclusive<u32> = 16..=65_536;
    /// Allowed values of `held_bytes`.
    pub const HELD_BYTES: RangeInclusive<u32> = 65_536..=256 << 20;
    /// The least `entries_per_source`. The most is `entries`.
    pub const ENTRIES_PER_SOURCE_MIN: u32 = 1;
    /// The least `held_bytes_per_source`, so that every fragment that the queue delivers can be held. The
    /// most is `held_bytes`.
    pub const HELD_BYTES_PER_SOURCE_MIN: u32 = 9_216;

    /// Reports whether all values are allowed.
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

/// The maximum number of prefixes in [`Balancer::blackhole`].
pub const BLACKHOLE_MAX: usize = 256;

/// Allowed values of [`Balancer::rule_priority`]: after table `local`, and before the rule tree.
pub const RULE_PRIORITY: RangeInclusive<u32> = 1..=9_000;

/// Allowed values of [`Balancer::kernel_entries`]. Each entry takes about 104 bytes of kernel memory.
pub const KERNEL_ENTRIES: RangeInclusive<u32> = 0..=1 << 24;
/// The value of [`Balancer::kernel_entries`] if none is configured.
pub const KERNEL_ENTRIES_DEFAULT: u32 = 1 << 20;

/// The queue for fragments if none is configured. It is below the queues for new flows, so that these may
/// become many.
pub(super) const FRAGMENT_QUEUE_DEFAULT: QueueNum = QueueNum(20199);
/// Allowed values of [`Balancer::pmtu_floor`]. The kernel never goes below the least one
/// (`net.ipv4.route.min_pmtu`), and over IPv6 not below 1280.
pub const PMTU_FLOOR: RangeInclusive<u16> = 552..=u16::MAX;
/// The value of [`Balancer::pmtu_floor`] if none is configured: what IPv6 requires of every link, and what
/// clients' packets of 1200 bytes need.
pub const PMTU_FLOOR_DEFAULT: u16 = 1280;

/// Allowed values of [`Balancer::busy_poll_us`]. Waking a process takes tens of microseconds. A worker that
/// polls avoids this delay for packets that come at such intervals, but it takes a whole processor then.
pub const BUSY_POLL_US: RangeInclusive<u16> = 0..=10_000;

/// Allowed values of [`Balancer::announce_table`]. Those above are the kernel's, and FRR imports
/// no others.
pub const ANNOUNCE_TABLES: RangeInclusive<u8> = 1..=252;

/// Seed of the flow hash if none is configured.
pub const HASH_SEED_DEFAULT: u32 = 0xcafe_babe;

/// Timeouts of connection tracking for flows to a VIP, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeouts {
    /// Open TCP connections, including those whose packets are never answered through this balancer (with
    /// direct server return, that is all of them). RFC 5382, REQ-5: at least 2 hours and 4 minutes.
    pub tcp_established_seconds: u32,
    /// TCP connections that have begun to close.
    pub tcp_closing_seconds: u32,
    /// UDP flows.
    pub udp_seconds: u32,
}

impl Timeouts {
    /// Allowed values of each. RFC 5382 requires at least 7440 s; conntrack takes 31 bits. Longer timeouts should
    /// never be needed.
    pub const SECONDS: RangeInclusive<u32> = 1..=864_000;

    /// Reports whether all values are allowed.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let all = [self.tcp_established_seconds, self.tcp_closing_seconds, self.udp_seconds];
        all.iter().all(|seconds| Self::SECONDS.contains(seconds))
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { tcp_established_seconds: 7440, tcp_closing_seconds: 240, udp_seconds: 120 }
    }
}

impl Balancer {
    /// Reports whether flows can be promoted: the setting is on, and the table does not decide about every
    /// packet.
    #[must_use]
    pub fn wants_flowtable(&self) -> bool {
        self.offload && self.steering == Steering::SynOnly
    }

    /// Checks the values that their types leave open: limits, and what contradicts each other.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        let prefixes = || self.blackhole.iter().chain(&self.tracer.receivers);
        let wrong = [
            (prefixes().any(|prefix| prefix.trunc() != *prefix), "a prefix"),
            (self.blackhole.len() > BLACKHOLE_MAX, "number of blackholes"),
            (self.tracer.receivers.len() > TracerSettings::RECEIVERS_MAX, "number of the tracer's receivers"),
            (!TracerSettings::PER_SECOND.contains(&self.tracer.per_second), "the limit of traces"),
            (!self.timeouts.is_valid(), "the timeouts"),
            (!self.fragments.is_valid(), "the limits of fragments"),
            (self.queues.contains(self.fragment_queue), "queue numbers"),
            (self.gre_in && self.address.is_empty(), "gre_in"),
            (self.rule_priority.is_some_and(|at| !RULE_PRIORITY.contains(&at)), "rule_priority"),
            (!KERNEL_ENTRIES.contains(&self.kernel_entries), "kernel_entries"),
            (!PMTU_FLOOR.contains(&self.pmtu_floor), "pmtu_floor"),
            (!BUSY_POLL_US.contains(&self.busy_poll_us), "busy_poll_us"),
            (!self.notify.is_empty() && !ExecProbe::is_command(&self.notify), "notify"),
            (!self.http.is_valid(), "where HTTP is served"),
            (self.announce_table.is_some_and(|table| !ANNOUNCE_TABLES.contains(&table)), "announce_table"),
        ];
        wrong.into_iter().find(|(wrong, _)| *wrong).map_or(Ok(()), |(_, what)| Err(what))
    }

    /// Returns the settings of a region that was made without a configuration file.
    #[must_use]
    pub fn unconfigured() -> Self {
        Self {
            name: Name::known("lb"),
            address: OuterAddresses::default(),
            interfaces: Vec::new(),
            queues: QueueRange::default(),
            fragment_queue: FRAGMENT_QUEUE_DEFAULT,
            hash_seed: HASH_SEED_DEFAULT,
            mark_mask: MarkMask::DEFAULT,
            timeouts: Timeouts::default(),
            fragments: FragmentLimits::default(),
            steering: Steering::SynOnly,
            gre_in: false,
            rule_priority: None,
            blackhole: Vec::new(),
            allow_own_addresses: false,
            kernel_entries: KERNEL_ENTRIES_DEFAULT,
            pmtu_floor: PMTU_FLOOR_DEFAULT,
            offload: true,
            busy_poll_us: 0,
            notify: Vec::new(),
            announce_table: None,
            tracer: TracerSettings::default(),
            http: HttpSettings::default(),
        }
    }
}

/// A balancer of the tier, which may be this one. The balancers of a tier share the work of fragments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierMember {
    /// Unique in the tier. The Maglev permutation is seeded with it.
    pub name: Name,
    /// The balancer's outer addresses, as in its own `[balancer] address`.
    pub address: OuterAddresses,
    /// Whether it owns fragments. `None` if the file does not say, which means yes.
    pub active: Option<bool>,
}

/// The maximum number of balancers in a tier.
pub const TIER_MAX: usize = 64;

impl TierMember {
    /// Returns the tunnel from here to another member. It uses IPv4 if both have an IPv4 address, since only
    /// such a tunnel can send its own packets in fragments. Both ends choose the same family. Returns `None`
    /// if they share no family.
    #[must_use]
    pub fn path_to(&self, other: &Self) -> Option<Path> {
        let four = self.address.v4.and(other.address.v4).map(IpAddr::V4);
        let six = self.address.v6.and(other.address.v6).map(IpAddr::V6);
        four.or(six).map(|address| Path::Via(Encap::Gre, address))
    }
}
