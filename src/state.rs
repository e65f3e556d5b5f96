//! The present state of the balancer: the configuration, which backends are active, which target each uses,
//! and the Maglev tables. PURE. This is the value that is stored in shared memory; every change makes a new
//! one.
//!
//! A [`State`] is made from a [`crate::config::Config`] ([`State::plan`]) and changed by activation
//! ([`State::set_admin`], [`State::set_tier_admin`]). [`State::kill`] ends flows. Tables depend only on (seed, M, active backends with
//! their weights). So the tables of an active set are the same, in whatever way it was reached. The numbers
//! of the targets do depend on history, since they must stay while flows carry them.

mod change;
mod check;
mod diff;
mod new_flows;
mod observed;
mod overrides;
mod plan;
mod reported;

pub use change::{ENTRIES_MAX, StateError};
pub use diff::Change;
pub use new_flows::NewFlows;
pub use observed::Observation;
pub use overrides::{Overrides, Scope};
pub use plan::{Losses, Plan};
pub use reported::Report;

use crate::{
    config::Balancer,
    lookup::maglev::Table,
    model::{
        Admin, Admission, Announcing, Decider, HashMode, Health, HealthCheck, Name, NoBackend, Observed,
        OnDown, OuterAddresses, Path, Percent, Pmtu, PortRange, Protocols, Reported, Share, TableSize,
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
    /// Whether this balancer may announce VIPs: what operators say.
    #[serde(default, skip_serializing_if = "is_silent")]
    pub admission: Admission,
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
    /// See [`crate::config::Service::no_backend`].
    #[serde(default)]
    pub no_backend: NoBackend,
    /// See [`crate::config::Service::announcing`].
    #[serde(flatten)]
    pub announcing: Announcing,
    /// How the backends are checked; `None` if they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// M, the number of entries of the Maglev table.
    pub table_size: TableSize,
    /// The backends, sorted by name.
    pub backends: Vec<Backend>,
    /// The Maglev table: M entries, each the rank of a backend among those that get new flows
    /// ([`State::serving`]): the active ones, sorted by name, of this service, or else of the one that
    /// `no_backend` names. Empty if there are none.
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
    /// Whether the file and operators let new flows reach it.
    pub admission: Admission,
    /// What health checks found; `None` if nothing has been found yet, or it is not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Observed>,
    /// What the agent on it reports; `None` if it has reported nothing yet, or is not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Reported>,
    /// When `lbctl kill` last ended its flows, in seconds since 1970; 0 if never. Each kill of a region has a time of
    /// its own ([`State::kill`]).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub killed: u64,
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_silent(admission: &Admission) -> bool {
    *admission == Admission::default()
}

impl Backend {
    /// Returns what the file and operators want of it.
    #[must_use]
    pub fn admin(&self) -> Admin {
        self.admission.admin()
    }

    /// Reports whether the file and operators let new flows reach it.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.admission.active()
    }

    /// Reports whether the file, operators and the agent on it let new flows reach it. An agent can only take away.
    #[must_use]
    pub fn admitted(&self) -> bool {
        self.enabled() && !self.reported.as_ref().is_some_and(Reported::drains)
    }

    /// Returns what is known of its health: by checks, and by the agent on it.
    #[must_use]
    pub fn health(&self) -> Option<Health> {
        Health::of(self.observed.as_ref(), self.reported.as_ref())
    }

    /// Returns why it is down ([`Health::why_down`]).
    #[must_use]
    pub fn why_down(&self) -> Option<String> {
        Health::why_down(self.observed.as_ref(), self.reported.as_ref())
    }

    /// Reports whether nothing is known that keeps it from answering.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.health() != Some(Health::Down)
    }

    /// Returns how much of the table it gets while it is active.
    #[must_use]
    pub fn share(&self) -> Share {
        let percent = self.reported.as_ref().map_or(Percent::ALL, |reported| reported.weight_percent);
        Share::of(self.weight, percent)
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
    /// Returns every backend, and whether new flows may reach it: it is admitted, and healthy or the service is
    /// in panic.
    pub fn with_activity(&self) -> impl Iterator<Item = (&Backend, bool)> {
        let panic = self.in_panic();
        self.backends.iter().map(move |backend| (backend, backend.admitted() && (panic || backend.healthy())))
    }

    /// Returns the active backends, in the order of their ranks.
    pub fn active(&self) -> impl Iterator<Item = &Backend> {
        self.with_activity().filter(|(_, active)| *active).map(|(backend, _)| backend)
    }

    /// Returns the backends that are not active.
    pub fn inactive(&self) -> impl Iterator<Item = &Backend> {
        self.with_activity().filter(|(_, active)| !active).map(|(backend, _)| backend)
    }

    /// Returns the backends that are down, and what the check says of their flows; none in panic.
    pub fn down(&self) -> impl Iterator<Item = (&Backend, Option<OnDown>)> {
        let check = self.health.as_ref().filter(|_| !self.in_panic());
        let down = |check: &HealthCheck| {
            let on_down = check.on_down;
            self.backends.iter().filter(|backend| !backend.healthy()).map(move |backend| (backend, on_down))
        };
        check.into_iter().flat_map(down)
    }

    /// Reports whether so little of the admitted backends' weight is healthy that all of them count as healthy:
    /// so many failures are more likely a fault of the checks, and the few that are left would fail under the
    /// load of all.
    #[must_use]
    pub fn in_panic(&self) -> bool {
        let Some(check) = &self.health else { return false };
        let weight = |of: &dyn Fn(&Backend) -> bool| -> u64 {
            let counted = self.backends.iter().filter(|backend| backend.admitted() && of(backend));
            counted.map(|backend| u64::from(backend.weight.get())).sum()
        };
        weight(&Backend::healthy) * 100 < weight(&|_| true) * u64::from(check.panic_below_percent)
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
