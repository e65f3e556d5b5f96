//! The operator's configuration, parsed into types that cannot be invalid. PURE: text in, values or errors
//! out.
//!
//! The file is TOML; [`Config::parse`] reads it (`parse.rs` has the keys, each with its limits). Callers need
//! not check the values again: a [`TableSize`] is a prime, a tunnel's address has the family of its
//! encapsulation, no two services claim the same packets, all names are unique, and every member of the tier
//! can reach every other.

mod balancer;
pub mod keys;
mod parse;
mod reader;

use ipnet::IpNet;

/// The size of the largest file that is read, in bytes. Without it, a file without an end would be read for
/// ever.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

pub use balancer::{
    ANNOUNCE_TABLES, BLACKHOLE_MAX, BUSY_POLL_US, Balancer, FragmentLimits, HASH_SEED_DEFAULT, HttpSettings,
    KERNEL_ENTRIES, KERNEL_ENTRIES_DEFAULT, PMTU_FLOOR, PMTU_FLOOR_DEFAULT, RULE_PRIORITY, TIER_MAX,
    TierMember, Timeouts, TracerSettings,
};
pub use reader::{ConfigError, ConfigErrors};

use crate::model::{
    Announcing, Decider, HashMode, HealthCheck, Name, NoBackend, Path, Pmtu, PortRange, Protocols, TableSize,
    Weight,
};

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

/// Virtual addresses, the part of their traffic that is claimed, and the backends that serve it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique among the services.
    pub name: Name,
    /// The service's former name. The settings of its backends are kept under the new name.
    pub renamed_from: Option<Name>,
    /// Addresses or prefixes, host bits 0; never empty.
    pub vips: Vec<IpNet>,
    /// The protocols of the service.
    pub protocols: Protocols,
    /// Disjoint, ascending, never empty; all ports if the file names none.
    pub ports: Vec<PortRange>,
    /// Which fields are hashed.
    pub hash: HashMode,
    /// What happens to packets that are too large for a tunnel.
    pub pmtu: Pmtu,
    /// What decides about new flows of the service: lbd or the kernel.
    pub decider: Decider,
    /// What happens to new flows while no backend is active. The service that it names exists, is another one,
    /// and names none itself. If that one has no active backend either, its own `no_backend` applies.
    pub no_backend: NoBackend,
    /// Whether its VIPs are announced, and when.
    pub announcing: Announcing,
    /// How the backends are checked; `None` if they are not.
    pub health: Option<HealthCheck>,
    /// M, the number of entries of the Maglev table.
    pub table_size: TableSize,
    /// Unique names; sorted by name.
    pub backends: Vec<Backend>,
}

/// One server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Unique in its service. The Maglev permutation is seeded with it.
    pub name: Name,
    /// How packets reach the backend.
    pub path: Path,
    /// Its share of the table, relative to the others of the service: 1..=100.
    pub weight: Weight,
    /// Whether it gets new flows. `None` if the file does not say, which means yes.
    pub active: Option<bool>,
}
