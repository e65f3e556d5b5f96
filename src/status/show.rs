//! `show`: a region with all that is in it.

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use super::{
    Sources, StatusError,
    agent::AgentView,
    announce::AnnounceView,
    flows,
    lbd::{Lbd, Offload, PinsView},
    view::{BackendView, ServiceView, TargetView, TierView, backends, names_by_target, table_digest},
};
use crate::{
    config::Balancer,
    lookup::maglev::Table,
    shm::slots::LAYOUT_VERSION,
    state::{Service, State},
    sys::region::Region,
};

/// A region with all that is in it.
#[derive(Debug)]
pub struct Show {
    /// The region.
    pub region: RegionView,
    /// Its lbd.
    pub lbd: Lbd,
    /// What runs health checks; `None` if no service has any.
    pub agent: Option<AgentView>,
    /// What lbd has found of flows.
    pub flows: PinsView,
    /// The settings.
    pub balancer: Balancer,
    /// Whether long flows are promoted.
    pub offload: Offload,
    /// The balancers that share the work of fragments.
    pub tier: TierView,
    /// The VIPs that are announced, and those that are not.
    pub announce: AnnounceView,
    /// The services, in the order of the file.
    pub services: Vec<WholeService>,
    /// Every target in use.
    pub targets: Vec<NamedTarget>,
}

/// A region.
#[derive(Debug, Serialize)]
pub struct RegionView {
    /// Its name.
    pub name: String,
    /// The path of its file.
    pub path: String,
    /// The generation of the state that it contains.
    pub generation: u64,
    /// The one that an lbd has put in force last; when it does not run, of those that the kernel has by
    /// itself. 0: none yet.
    pub in_force: u64,
    /// The version of its layout.
    pub layout_version: u32,
}

/// A service with its backends and its table.
#[derive(Debug, Serialize)]
pub struct WholeService {
    /// The service.
    #[serde(flatten)]
    pub service: ServiceView,
    /// Its backends, in the order of names.
    pub backends: Vec<BackendView>,
    /// Equal on two balancers that steer the service alike.
    pub table_digest: String,
    /// Of each entry, which of the backends that get new flows has it.
    #[serde(serialize_with = "entries")]
    pub table: Table,
}

/// A target with everything that it stands for.
#[derive(Debug, Serialize)]
pub struct NamedTarget {
    /// The target.
    #[serde(flatten)]
    pub target: TargetView,
    /// Everything that it stands for, as service/backend or tier/balancer.
    pub names: Vec<String>,
}

impl Show {
    /// Reads a region.
    ///
    /// # Errors
    /// When it cannot be read, or contradicts itself.
    pub fn read(region: &mut Region, sources: &Sources) -> Result<Self, StatusError> {
        let (generation, state) = region.state()?;
        let lbd = Lbd::read(region, sources)?;
        let named = |(target, names)| NamedTarget { target: TargetView::new(&state, target), names };
        let whole = |(service, view)| WholeService::new(&state, service, view);
        let mut services: Vec<WholeService> =
            state.services.iter().zip(ServiceView::all(&state)).map(whole).collect();
        let views = services.iter_mut().flat_map(|whole| &mut whole.backends);
        flows::tell(views, (generation, &state), sources)?;
        let lbd_followed = lbd.followed;
        Ok(Self {
            region: RegionView {
                name: region.name().to_string(),
                path: region.name().path().display().to_string(),
                generation: generation.0,
                in_force: lbd.last.adopted,
                layout_version: LAYOUT_VERSION,
            },
            lbd,
            agent: AgentView::read(region, &state, sources)?,
            flows: PinsView::read(region)?,
            balancer: state.balancer.clone(),
            offload: Offload::of(region, &state.balancer)?,
            tier: TierView::new(&state),
            announce: AnnounceView::new(&state, lbd_followed, sources),
            services,
            targets: names_by_target(&state).into_iter().map(named).collect(),
        })
    }
}

impl WholeService {
    fn new(state: &State, service: &Service, view: ServiceView) -> Self {
        Self {
            service: view,
            backends: backends(state, service),
            table_digest: table_digest(state, service),
            table: service.table.clone(),
        }
    }
}

impl Serialize for Show {
    /// That lbd hangs stands beside lbd, not in it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut show = serializer.serialize_struct("Show", 11)?;
        show.serialize_field("region", &self.region)?;
        show.serialize_field("lbd", &self.lbd)?;
        show.serialize_field("agent", &self.agent)?;
        show.serialize_field("flows", &self.flows)?;
        show.serialize_field("hangs", &self.lbd.hangs)?;
        show.serialize_field("balancer", &self.balancer)?;
        show.serialize_field("offload", &self.offload)?;
        show.serialize_field("tier", &self.tier)?;
        show.serialize_field("announce", &self.announce)?;
        show.serialize_field("services", &self.services)?;
        show.serialize_field("targets", &self.targets)?;
        show.end()
    }
}

fn entries<S: Serializer>(table: &Table, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(&table[..])
}
