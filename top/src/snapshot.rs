//! What there is at one moment.

use std::{collections::BTreeMap, time::Duration};

use synrail::model::{Admin, Health};

/// What there is at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// When, by the monotonic clock.
    pub at: Duration,
    /// The region.
    pub region: String,
    /// The generation of its state.
    pub generation: u64,
    /// What lbd does.
    pub lbd: Fact,
    /// What runs health checks; `None` if there are none.
    pub agent: Option<Fact>,
    /// How many entries connection tracking has, and may have.
    pub conntrack: Option<(u64, u64)>,
    /// Flows that stay on a backend that the table does not name for them.
    pub off_table: u64,
    /// Flows in the flowtable.
    pub promoted: u64,
    /// How many packets each target got, by its number.
    pub targets: BTreeMap<u32, u64>,
    /// Why packets were dropped, and how many.
    pub drops: BTreeMap<String, u64>,
    /// The services, in the order of the file.
    pub services: Vec<Service>,
}

/// A line of words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fact {
    /// The words.
    pub text: String,
    /// Whether all is as it should be.
    pub good: bool,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its virtual addresses, protocols and ports.
    pub claims: String,
    /// What is out of the ordinary about it; empty if nothing is.
    pub notice: String,
    /// Its backends, in the order of names.
    pub backends: Vec<Backend>,
}

impl Service {
    /// Returns how many backends get new flows.
    #[must_use]
    pub fn active(&self) -> usize {
        self.backends.iter().filter(|backend| backend.active).count()
    }

    /// Returns how many flows its backends have; `None` if that is not known.
    #[must_use]
    pub fn flows(&self) -> Option<u64> {
        self.backends.iter().map(|backend| backend.flows).sum()
    }
}

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Its encapsulation and address.
    pub path: String,
    /// The number of its target.
    pub target: u32,
    /// What the file and operators want of it.
    pub admin: Admin,
    /// What checks found; `None` if that is not known.
    pub health: Option<Health>,
    /// Whether it gets new flows.
    pub active: bool,
    /// How many entries of the table are its own, in tenths of a percent.
    pub share_permille: u64,
    /// How many flows it has; `None` if that is not known.
    pub flows: Option<u64>,
    /// Why it is as it is.
    pub why: String,
}
