//! What the operator wants, parsed into types that cannot be invalid. PURE: text in, values or errors out.
//!
//! The file is TOML; [`Config::parse`] reads it (see `parse.rs` for the keys, each with its limits). What has left
//! this module needs no second look: a [`TableSize`] is a prime, a tunnel's address has the family of its
//! encapsulation, no two services claim the same packets, all names are unique, every member of the tier can
//! reach every other.

mod balancer;
pub mod keys;
mod parse;
mod reader;

use ipnet::IpNet;

/// The largest file that is read, in bytes: what has no end must not be read for ever.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

pub use balancer::{
    BLACKHOLE_MAX, BUSY_POLL_US, Balancer, FragmentLimits, HASH_SEED_DEFAULT, KERNEL_ENTRIES,
    KERNEL_ENTRIES_DEFAULT, PMTU_FLOOR, PMTU_FLOOR_DEFAULT, RULE_PRIORITY, TIER_MAX, TierMember, Timeouts,
    TracerSettings,
};
pub use reader::{ConfigError, ConfigErrors};

use crate::model::{Decider, HashMode, Name, Path, Pmtu, PortRange, Protocols, TableSize, Weight};

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
