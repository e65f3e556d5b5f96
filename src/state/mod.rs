//! The present state of the balancer: the configuration, which backends are active, which target each uses,
//! and the Maglev tables. PURE. This is the value that is stored in shared memory; every change makes a new
//! one.
//!
//! A [`State`] is made from a [`crate::config::Config`] ([`State::plan`]) and changed by activation
//! ([`State::set_admin`], [`State::set_tier_admin`]). Tables depend only on (seed, M, active backends with
//! their weights). So the tables of an active set are the same, in whatever way it was reached. The numbers
//! of the targets do depend on history, since they must stay while flows carry them.

mod change;
mod check;
mod diff;
mod overrides;
mod plan;

pub use change::{ENTRIES_MAX, StateError};
pub use diff::Change;
pub use overrides::{Overrides, Scope};
pub use plan::{Losses, Plan};

use crate::{
    config::Balancer,
    lookup::maglev::Table,
    model::{
        Admission, Decider, HashMode, Name, OuterAddresses, Path, Pmtu, PortRange, Protocols, TableSize,
        Weight, ids::TargetId,
    },
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Everything the balancer needs to decide and to set up the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Settings of this machine.
    pub balancer: Balancer,
    /// The services, in the order of the file.
    pub services: Vec<Service>,
    /// The balancers of the tier, sorted by name; empty if there is no tier.
    pub tier: Vec<TierMember>,
    /// The paths in use, by [`TargetId::index`]; `None` is a free number.
    pub targets: Vec<Option<Path>>,
    /// Where the search for a free number begins: just after the number that was assigned last. So a number
    /// that was given back stays unused as long as possible.
    pub target_cursor: u16,
}

/// A service and its table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Unique among the services.
    pub name: Name,
    /// See [`crate::config::Service::vips`].
    pub vips: Vec<IpNet>,
    /// The protocols of the service.
    pub protocols: Protocols,
    /// See [`crate::config::Service::ports`].
    pub ports: Vec<PortRange>,
    /// Which fields are hashed.
    pub hash: HashMode,
    /// See [`crate::config::Service::pmtu`].
    pub pmtu: Pmtu,
    /// See [`crate::config::Service::decider`].
    #[serde(rename = "steering")]
    pub decider: Decider,
    /// M, the number of entries of the Maglev table.
    pub table_size: TableSize,
    /// The backends, sorted by name.
    pub backends: Vec<Backend>,
    /// The Maglev table: M entries, each the rank of a backend among the active ones (sorted by name); empty
    /// if none is active.
    #[serde(skip)]
    pub table: Table,
}

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Unique in its service.
    pub name: Name,
    /// Its target; the path is in [`State::targets`].
    pub target: TargetId,
    /// Its share of the table.
    pub weight: Weight,
    /// Whether new flows may reach it, and why.
    pub admission: Admission,
}

/// A balancer of the tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierMember {
    /// Unique in the tier.
    pub name: Name,
    /// Its outer addresses.
    pub address: OuterAddresses,
    /// The target whose tunnel leads to it; `None` for this balancer itself.
    pub target: Option<TargetId>,
    /// Whether it owns fragments, and why.
    pub admission: Admission,
}

impl Backend {
    /// Reports whether new flows may reach it.
    #[must_use]
    pub fn active(&self) -> bool {
        self.admission.active()
    }
}

impl TierMember {
    /// Reports whether it owns fragments.
    #[must_use]
    pub fn active(&self) -> bool {
        self.admission.active()
    }
}

impl Service {
    /// Returns the active backends, in the order of their ranks.
    pub fn active(&self) -> impl Iterator<Item = &Backend> {
        self.backends.iter().filter(|backend| backend.active())
    }
}

impl State {
    /// Returns the targets in use, ascending, each with its path.
    pub fn targets_used(&self) -> impl Iterator<Item = (TargetId, Path)> {
        self.targets.iter().enumerate().filter_map(|(index, path)| Some((TargetId::new(index)?, (*path)?)))
    }

    /// Returns the path of a target in use.
    #[must_use]
    pub fn path(&self, target: TargetId) -> Option<Path> {
        self.targets.get(target.index()).copied().flatten()
    }

    /// Returns the service of that name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name.as_str() == name)
    }

    /// Returns every target with every name of it: `service/backend`, or `tier/NAME` of another balancer.
    pub fn names(&self) -> impl Iterator<Item = (TargetId, String)> {
        let backends = self.services.iter().flat_map(|service| {
            let named = |backend: &Backend| (backend.target, format!("{}/{}", service.name, backend.name));
            service.backends.iter().map(named)
        });
        let named = |member: &TierMember| Some((member.target?, format!("tier/{}", member.name)));
        backends.chain(self.tier.iter().filter_map(named))
    }

    /// Returns the names of one target.
    pub fn names_of(&self, target: TargetId) -> impl Iterator<Item = String> {
        self.names().filter(move |(of, _)| *of == target).map(|(_, name)| name)
    }

    /// Returns the active members of the tier, in the order of their ranks.
    pub fn tier_active(&self) -> impl Iterator<Item = &TierMember> {
        self.tier.iter().filter(|member| member.active())
    }
}

impl Service {
    /// Returns the part of all traffic that the service claims.
    #[must_use]
    pub fn scope(&self) -> crate::lookup::classifier::Scope<'_> {
        crate::lookup::classifier::Scope {
            name: &self.name,
            vips: &self.vips,
            protocols: &self.protocols,
            ports: &self.ports,
        }
    }
}
