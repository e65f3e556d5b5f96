//! Snapshots of a region, of the lbd that follows it, and of the kernel, as values.
//!
//! A snapshot is serialised as what `lbctl --json` prints; nothing here prints. [`view`] makes values of a
//! [`State`] alone, [`lbd`] reads what an lbd has left in its region, and each command of `lbctl` that reads
//! has a module for its snapshot.

pub mod agent;
pub mod announce;
pub mod check;
pub mod drift;
pub mod flows;
pub mod lbd;
pub mod live;
pub mod metrics;
pub mod owner;
pub mod question;
pub mod ready;
pub mod show;
pub mod stats;
pub mod view;
pub mod which;
pub mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use thiserror::Error;

use crate::{
    balance::pins::{Flow, OffTable},
    daemon::{self, Asked, DaemonError, Drift},
    host::Snapshot,
    lookup::classifier::Conflict,
    model::ids::{Mark, MarkMask},
    state::{State, StateError},
    sys::{
        capability, clock,
        conntrack::{self, Marked, Seen},
        nft::{self, NftError},
        probe,
        region::AccessError,
        rtnetlink::Routing,
    },
};

/// How flows of connection tracking are read: [`conntrack::dump_tracked`].
pub type DumpTracked = fn(Option<Marked>, &mut dyn FnMut(&Seen) -> io::Result<()>) -> io::Result<()>;

/// Flows, each with the mark of its backend.
pub type PinnedFlows = Vec<(Flow, Mark)>;

/// Where snapshots get what a region does not contain.
pub struct Sources {
    /// Returns the time of the monotonic clock.
    pub monotonic: fn() -> Duration,
    /// The path of procfs.
    pub proc: PathBuf,
    /// Returns the ruleset's counters in packets, by name: an empty map if there is no ruleset, `None` if
    /// they cannot be read.
    pub ruleset_counters: fn() -> Option<BTreeMap<String, u64>>,
    /// Returns how many packets the fallback tables have steered, by mark; an empty map if that cannot be
    /// read.
    pub given: fn() -> BTreeMap<u32, u64>,
    /// Returns the contents of the off-table maps.
    pub off_table: fn() -> Result<OffTable, NftError>,
    /// Returns the SYNs that were answered and not yet confirmed, with their marks.
    pub pending: fn(MarkMask) -> Result<PinnedFlows, NftError>,
    /// Passes the flows of connection tracking on: all, or those with such a mark.
    pub tracked: DumpTracked,
    /// Reports whether this process may ask the kernel about flows.
    pub may_ask_about_flows: fn() -> bool,
    /// Takes a snapshot of what this host does to packets, as far as it concerns a state.
    pub look: fn(&State) -> Snapshot,
    /// Returns the VIPs that a routing table announces; `None` if routes cannot be read.
    pub announced: fn(u8) -> Option<BTreeSet<IpNet>>,
    /// Compares the kernel with what a state asks of it.
    pub compare: fn(&Asked<'_>) -> Result<Drift, DaemonError>,
}

impl Sources {
    /// Returns those of this host; what belongs to a network namespace is read from that of the calling
    /// thread.
    #[must_use]
    pub fn of_host() -> Self {
        Self {
            monotonic: clock::monotonic,
            proc: PathBuf::from("/proc"),
            // Without rights or without nftables there are no counters.
            ruleset_counters: || {
                Some(
                    nft::counters()
                        .ok()?
                        .into_iter()
                        .map(|counter| (counter.name, counter.packets))
                        .collect(),
                )
            },
            given: || nft::given().unwrap_or_default(),
            off_table: nft::flow_maps::off_table,
            pending: nft::flow_maps::pending,
            tracked: conntrack::dump_tracked,
            may_ask_about_flows: capability::may_administer_network,
            look: probe::look,
            announced: |table| {
                let routes = Routing::open().and_then(|mut routing| routing.announcing()).ok()?;
                let of_table = routes.into_iter().filter(|route| route.table == u32::from(table));
                Some(of_table.map(|route| route.to).collect())
            },
            compare: daemon::look,
        }
    }

    /// Reports whether the kernel has a ruleset of synrail here; `None` if that cannot be read.
    #[must_use]
    pub fn has_ruleset(&self) -> Option<bool> {
        (self.ruleset_counters)().map(|counters| !counters.is_empty())
    }
}

/// Why there is no snapshot.
#[derive(Debug, Error)]
pub enum StatusError {
    /// The region cannot be read.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The region contains services that contradict each other; only another program can have written that.
    #[error("the region contradicts itself: {0}; `lbctl apply FILE` puts it right")]
    Conflict(#[from] Conflict),
    /// The off-table flows cannot be read from the kernel.
    #[error("{0}; it takes CAP_NET_ADMIN, and the network namespace of lbd")]
    OffTable(#[from] NftError),
    /// The flows of connection tracking cannot be read from the kernel.
    #[error(
        "connection tracking: {0}; to ask it takes CAP_NET_ADMIN, and kernel module nf_conntrack_netlink"
    )]
    Tracked(#[from] io::Error),
    /// There is no such service or backend.
    #[error(transparent)]
    Unknown(#[from] StateError),
}
