//! Parts of a state as values: settings, targets, services, backends, the tier. PURE.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;
use twox_hash::XxHash3_64;

use crate::{
    balance::tier::{TABLE_SIZE, Tier},
    model::{
        Admin, Admission, Decider, Encap, Health, HealthCheck, Name, NoBackend, Observed, Path, PortRange,
        Protocols, Reported, ids::TargetId,
    },
    plan::kernel_tables::{self, Shortage},
    state::{Backend, NewFlows, Service, State, TierMember},
};

/// A target: where packets with its mark go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TargetView {
    /// The target's number, in the device and the routing table.
    pub number: u32,
    /// The mark as a number.
    pub mark: u32,
    /// "gre", "ipip", "gue", "direct"; null where packets are only marked.
    pub encap: Option<&'static str>,
    /// The address of the backend or balancer; null where packets are only marked.
    pub address: Option<IpAddr>,
    /// The tunnel device; null where there is none.
    pub device: Option<String>,
}

impl TargetView {
    /// Returns what a state says about a target.
    #[must_use]
    pub fn new(state: &State, target: TargetId) -> Self {
        let (encap, address) = match state.path(target) {
            Some(Path::Via(encap, address)) => (Some(encap), Some(address)),
            Some(Path::MarkOnly) | None => (None, None),
        };
        let device = encap.filter(|&encap| encap != Encap::Direct).map(|_| format!("sr-{}", target.number()));
        Self {
            number: target.number(),
            mark: state.balancer.mark_mask.mark(target).0,
            encap: encap.map(Encap::name),
            address,
            device,
        }
    }

    /// Returns the path as the configuration file would put it.
    #[must_use]
    pub fn path(&self) -> String {
        match (self.encap, self.address) {
            (Some(encap), Some(address)) => format!("{encap} {address}"),
            _ => "mark".to_owned(),
        }
    }

    /// Returns where packets with its mark go, in words.
    #[must_use]
    pub fn route(&self) -> String {
        match (&self.device, self.path().as_str()) {
            (Some(device), path) => format!("{path} through {device}"),
            (None, "mark") => "nothing but the mark, for rules of your own".to_owned(),
            (None, path) => path.to_owned(),
        }
    }
}

/// Returns every target in use, with its names.
#[must_use]
pub fn names_by_target(state: &State) -> BTreeMap<TargetId, Vec<String>> {
    let mut names: BTreeMap<TargetId, Vec<String>> =
        state.targets_used().map(|(target, _)| (target, Vec::new())).collect();
    for (target, name) in state.names() {
        names.entry(target).or_default().push(name);
    }
    names
}

/// The balancers that share the work of fragments.
#[derive(Debug, Serialize)]
pub struct TierView {
    /// The name of this balancer.
    pub balancer: String,
    /// The size of the table of owners.
    pub table_size: u32,
    /// Equal on two balancers that agree about every owner, if their hash seeds are; null where no table says.
    pub table_digest: Option<String>,
    /// The seed of the table and of the hash that leads into it.
    pub hash_seed: u32,
    /// Sorted by name; none without a tier.
    pub members: Vec<MemberView>,
}

/// A balancer of the tier.
#[derive(Debug, Serialize)]
pub struct MemberView {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub address: Vec<IpAddr>,
    /// Whether it handles fragments.
    pub active: bool,
    /// Whether it is this balancer.
    pub here: bool,
    /// How many entries of the table of owners are its own.
    pub entries: u64,
    /// What the file and operators say of it: `configured` and `override`.
    #[serde(flatten)]
    pub admission: Admission,
    /// Where its fragments are sent; null for this balancer.
    pub target: Option<TargetView>,
}

impl TierView {
    /// Returns the tier of a state; without members if there is none.
    #[must_use]
    pub fn new(state: &State) -> Self {
        let tier = Tier::new(state);
        let mut entries = entries_by_rank(tier.table(), state.tier_active().count()).into_iter();
        let view = |member: &TierMember| MemberView {
            name: member.name.to_string(),
            address: member.address.iter().collect(),
            active: member.active(),
            here: member.target.is_none(),
            entries: if member.active() { entries.next().unwrap_or(0) } else { 0 },
            admission: member.admission.clone(),
            target: member.target.map(|target| TargetView::new(state, target)),
        };
        Self {
            balancer: state.balancer.name.to_string(),
            table_size: TABLE_SIZE.get(),
            table_digest: (!tier.table().is_empty())
                .then(|| digest(state.tier_active().map(|member| &member.name), tier.table())),
            hash_seed: state.balancer.hash_seed,
            members: state.tier.iter().map(view).collect(),
        }
    }
}

/// How many entries of a table each of its `ranks` has.
fn entries_by_rank(table: &[u16], ranks: usize) -> Vec<u64> {
    let mut by_rank = vec![0u64; ranks];
    for &rank in table {
        if let Some(entries) = by_rank.get_mut(usize::from(rank)) {
            *entries += 1;
        }
    }
    by_rank
}

/// A backend and its share of the table.
#[derive(Debug, Serialize)]
pub struct BackendView {
    /// The name of its service.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Whether it gets new flows: the file, operators and the agent on it let it, and it is healthy or its service is in panic.
    pub active: bool,
    /// Whether the file and operators let it have new flows.
    pub enabled: bool,
    /// What the file and operators want of it: "enabled", "draining", "disabled".
    pub admin: Admin,
    /// Its weight.
    pub weight: u8,
    /// How many entries of the table are its own.
    pub entries: u64,
    /// Of how many.
    pub table_size: u32,
    /// How many flows it has; null where this process may not ask, or connection tracking has many entries
    /// ([`super::flows::tell`]).
    pub flows: Option<u64>,
    /// What the file and operators say of it: `configured` and `override`.
    #[serde(flatten)]
    pub admission: Admission,
    /// What health checks found; null if nothing has been found, or it is not checked.
    pub observed: Option<Observed>,
    /// What the agent on it reports; null if it has reported nothing, or is not asked.
    pub reported: Option<Reported>,
    /// Where its packets go.
    #[serde(flatten)]
    pub target: TargetView,
}

impl BackendView {
    /// Returns what is known of its health, as [`Backend::health`].
    #[must_use]
    pub fn health(&self) -> Option<Health> {
        Health::of(self.observed.as_ref(), self.reported.as_ref())
    }

    /// Returns why it is down, as [`Backend::why_down`].
    #[must_use]
    pub fn why_down(&self) -> Option<String> {
        Health::why_down(self.observed.as_ref(), self.reported.as_ref())
    }
}

/// Returns the backends of a service, in the order of names.
#[must_use]
pub fn backends(state: &State, service: &Service) -> Vec<BackendView> {
    let mut by_rank = entries_by_rank(&service.table, service.active().count()).into_iter();
    let mut view = |backend: &Backend, active: bool| BackendView {
        service: service.name.to_string(),
        name: backend.name.to_string(),
        active,
        enabled: backend.enabled(),
        admin: backend.admin(),
        weight: backend.weight.get(),
        entries: if active { by_rank.next().unwrap_or(0) } else { 0 },
        table_size: service.table_size.get(),
        flows: None,
        admission: backend.admission.clone(),
        observed: backend.observed.clone(),
        reported: backend.reported.clone(),
        target: TargetView::new(state, backend.target),
    };
    service.with_activity().map(|(backend, active)| view(backend, active)).collect()
}

/// A service without its table.
#[derive(Debug, Serialize)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// Its virtual addresses.
    pub vips: Vec<String>,
    /// Empty for every protocol.
    pub protocols: Vec<&'static str>,
    /// Empty for all.
    pub ports: Vec<String>,
    /// What is hashed of a packet.
    pub hash: &'static str,
    /// What is done about packets that a tunnel cannot carry whole.
    pub pmtu: &'static str,
    /// What shall decide about new flows: "lbd" or "kernel".
    pub decider: Decider,
    /// What happens to new flows while no backend is active: "drop", "reject", or "service:NAME".
    pub no_backend: NoBackend,
    /// The service whose backends get new flows: this one, or the one that `no_backend` names. Null if none
    /// gets them.
    pub served_by: Option<String>,
    /// Whether new flows are rejected now.
    pub rejected: bool,
    /// How its backends are checked; null if they are not.
    pub health: Option<HealthCheck>,
    /// Whether so few backends are healthy that all of them count as healthy.
    pub panic: bool,
    /// M, the number of entries of its table.
    pub table_size: u32,
    /// Whether the service has a fallback table. Without one lbd decides, whatever `steering` says.
    pub fallback_table: bool,
    /// Why it has none.
    #[serde(skip)]
    pub shortage: Option<Shortage>,
    /// The active backends. An entry of the table is an index into those of the service that `served_by` names.
    pub active: Vec<String>,
    /// The others.
    pub inactive: Vec<String>,
}

impl ServiceView {
    /// Returns all services of a state, in its order.
    #[must_use]
    pub fn all(state: &State) -> Vec<Self> {
        let shortages = kernel_tables::shortages(state);
        let all = state.services.iter().zip(shortages);
        all.map(|(service, shortage)| Self::new(state, service, shortage)).collect()
    }

    fn new(state: &State, service: &Service, shortage: Option<Shortage>) -> Self {
        let new_flows = state.new_flows(service);
        let ports: &[PortRange] = if service.ports == [PortRange::ALL] { &[] } else { &service.ports };
        Self {
            name: service.name.to_string(),
            vips: service.vips.iter().map(ToString::to_string).collect(),
            protocols: match &service.protocols {
                Protocols::Any => Vec::new(),
                Protocols::Named(named) => named.iter().map(|protocol| protocol.name()).collect(),
            },
            ports: ports.iter().map(ToString::to_string).collect(),
            hash: service.hash.name(),
            pmtu: service.pmtu.name(),
            decider: service.decider,
            no_backend: service.no_backend.clone(),
            served_by: match new_flows {
                NewFlows::Own => Some(service.name.to_string()),
                NewFlows::Other(other) => Some(other.name.to_string()),
                NewFlows::Rejected | NewFlows::Dropped => None,
            },
            rejected: new_flows == NewFlows::Rejected,
            health: service.health.clone(),
            panic: service.in_panic(),
            table_size: service.table_size.get(),
            fallback_table: shortage.is_none(),
            shortage,
            active: service.active().map(|backend| backend.name.to_string()).collect(),
            inactive: service.inactive().map(|backend| backend.name.to_string()).collect(),
        }
    }
}

/// Returns a digest of what two balancers must have in common to steer a service alike: the names of the
/// backends that get new flows, and the table.
#[must_use]
pub fn table_digest(state: &State, service: &Service) -> String {
    digest(state.serving(service).map(|backend| &backend.name), &service.table)
}

/// Returns XXH3, 64 bits, over each name and a zero byte, then over each rank as two bytes, the lower first.
fn digest<'a>(names: impl Iterator<Item = &'a Name>, table: &[u16]) -> String {
    let mut bytes = Vec::with_capacity(table.len() * 2);
    for name in names {
        bytes.extend(name.as_str().bytes());
        bytes.push(0);
    }
    bytes.extend(table.iter().flat_map(|rank| rank.to_le_bytes()));
    format!("{:016x}", XxHash3_64::oneshot(&bytes))
}
