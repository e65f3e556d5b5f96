//! Snapshots of a region, of the lbd that follows it, and of the kernel, as values.
//!
//! A snapshot is serialised as what `lbctl --json` prints; nothing here prints. [`view`] makes values of a
//! [`State`] alone, [`lbd`] reads what an lbd has left in its region, and each command of `lbctl` that reads
//! has a module for its snapshot.

pub mod check;
pub mod flows;
pub mod lbd;
pub mod owner;
pub mod question;
pub mod show;
pub mod stats;
pub mod view;
pub mod which;
pub mod words;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use thiserror::Error;

use crate::{
    balance::pins::OffTable,
    host::Snapshot,
    lookup::classifier::Conflict,
    state::State,
    sys::{
        clock,
        nft::{self, NftError},
        probe,
        region::AccessError,
    },
};

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
    /// Takes a snapshot of what this host does to packets, as far as it concerns a state.
    pub look: fn(&State) -> Snapshot,
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
            look: probe::look,
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
}
