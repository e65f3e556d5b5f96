//! What a page or a terminal that follows a balancer needs: [`Overview`], which changes with the generation of the
//! region alone, and [`Live`], which is read each second and has numbers, not names.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Sources, StatusError,
    agent::AgentView,
    flows,
    lbd::{Hangs, Lbd, Offload, PinsView},
    stats::{Conntrack, Fragments, Stats, Values},
    view::{BackendView, MemberView, ServiceView, TierView, backends},
};
use crate::{
    config::Balancer,
    model::{Admin, Observed, Override, Reported},
    shm::stats::QueueLine,
    state::{Service, State},
    sys::{
        devices::{self, Sent},
        kernel,
        region::Region,
    },
};

/// The counters of the ruleset that count dropped packets, refused ones among them; the others are of packets that go on.
const RULESET_DROPS: [&str; 10] = [
    "not_for_vip",
    "probe_limited",
    "probe_unanswered",
    "rejected",
    "rejected_silently",
    "tunnel_error",
    "tunnel_too_big_refused",
    "unclaimed",
    "unreachable",
    "unsteered",
];

/// A region without its tables.
#[derive(Debug, Serialize)]
pub struct Overview {
    /// The generation.
    pub generation: u64,
    /// The version of the program.
    pub version: &'static str,
    /// The settings.
    pub balancer: Balancer,
    /// Whether long flows are promoted.
    pub offload: Offload,
    /// The balancers that share the work of fragments.
    pub tier: Vec<MemberView>,
    /// The services, in the order of the file.
    pub services: Vec<ServiceWithBackends>,
}

/// A service with its backends.
#[derive(Debug, Serialize)]
pub struct ServiceWithBackends {
    /// The service.
    #[serde(flatten)]
    pub service: ServiceView,
    /// Its backends, in the order of names, without their numbers of flows.
    pub backends: Vec<BackendView>,
}

impl Overview {
    /// Reads a region.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(region: &mut Region) -> Result<Self, StatusError> {
        let (generation, state) = region.state()?;
        let whole =
            |(service, view)| ServiceWithBackends { service: view, backends: backends(&state, service) };
        Ok(Self {
            generation: generation.0,
            version: env!("CARGO_PKG_VERSION"),
            offload: Offload::of(region, &state.balancer)?,
            tier: TierView::new(&state).members,
            services: state.services.iter().zip(ServiceView::all(&state)).map(whole).collect(),
            balancer: state.balancer,
        })
    }
}

/// What goes on now.
#[derive(Debug, Serialize)]
pub struct Live {
    /// The time of the monotonic clock, in milliseconds; rates are differences by it.
    pub at_ms: u64,
    /// The generation of the region.
    pub generation: u64,
    /// The one in force.
    pub in_force: u64,
    /// The lbd that follows the region; null if none does.
    pub lbd: Lbd,
    /// That it does not answer; null if it does.
    pub hangs: Option<Hangs>,
    /// Whether the kernel has no ruleset of synrail, though a state was put in force.
    pub ruleset_gone: bool,
    /// What runs health checks; null if no service has any.
    pub agent: Option<AgentView>,
    /// The flows that lbd has found.
    pub flows: PinsView,
    /// How many flows each backend has, by service/backend, without those that have none; null where they are not
    /// counted.
    pub backend_flows: Option<BTreeMap<String, u64>>,
    /// What each target got, by its number: packets of new flows, and the bytes of its tunnel; these are null if it
    /// has no tunnel.
    pub targets: BTreeMap<u32, (u64, Option<u64>)>,
    /// The sums over all workers.
    pub counters: Values,
    /// The ruleset's counters, in packets; null if they cannot be read.
    pub ruleset: Option<BTreeMap<String, u64>>,
    /// Why packets were dropped, and how many: of the counters those that say so, and `queue_full` of the kernel's queues.
    pub drops: BTreeMap<String, u64>,
    /// The kernel's queues, as in [`Stats::queues`].
    pub queues: Option<Vec<QueueLine>>,
    /// Connection tracking; null if it cannot be read.
    pub conntrack: Option<Conntrack>,
    /// The fragment table.
    pub fragments: Fragments,
    /// The version of the kernel; empty if it is not known.
    pub kernel: String,
}

impl Live {
    /// Reads what goes on.
    ///
    /// # Errors
    /// When the region cannot be read.
    pub fn read(region: &mut Region, sources: &Sources) -> Result<Self, StatusError> {
        let (generation, state) = region.state_with_tables(|_| Vec::new())?;
        let Stats { daemon: lbd, counters, fragments, backends, queues, conntrack, flows, ruleset, .. } =
            Stats::of(region, sources, generation, &state)?;
        let sent = devices::sent(&sources.proc).unwrap_or_default();
        let bytes =
            |device: &Option<String>| device.as_ref().and_then(|device| sent.get(device)).map(bytes_of);
        let targets = backends
            .iter()
            .map(|packets| (packets.target.number, (packets.all(), bytes(&packets.target.device))));
        Ok(Self {
            at_ms: u64::try_from((sources.monotonic)().as_millis()).unwrap_or(u64::MAX),
            generation: generation.0,
            in_force: lbd.last.adopted,
            hangs: lbd.hangs.clone(),
            ruleset_gone: lbd.ruleset_gone,
            agent: AgentView::read(region, &state, sources)?,
            flows,
            backend_flows: flows::by_backend((generation, &state), sources)?,
            targets: targets.collect(),
            drops: drops(&counters, ruleset.as_ref(), queues.as_deref().unwrap_or_default()),
            counters,
            ruleset,
            queues,
            conntrack,
            fragments,
            kernel: kernel::release(&sources.proc),
            lbd,
        })
    }
}

fn drops(
    counters: &Values,
    ruleset: Option<&BTreeMap<String, u64>>,
    queues: &[QueueLine],
) -> BTreeMap<String, u64> {
    let by_lbd = counters.counts().filter(|(counter, _)| counter.name().starts_with("drop_"));
    let by_lbd = by_lbd.map(|(counter, count)| (counter.name().to_owned(), count));
    let by_ruleset = ruleset.into_iter().flatten().filter(|(name, _)| RULESET_DROPS.contains(&name.as_str()));
    let by_ruleset = by_ruleset.map(|(name, count)| (name.clone(), *count));
    let queue_full = queues.iter().map(|line| line.dropped + line.user_dropped).sum();
    by_lbd.chain(by_ruleset).chain([("queue_full".to_owned(), queue_full)]).collect()
}

fn bytes_of(sent: &Sent) -> u64 {
    sent.bytes
}

/// What health checks and operators say of backends.
#[derive(Debug, Serialize)]
pub struct HealthView {
    /// What runs checks; null if no service has any.
    pub agent: Option<AgentView>,
    /// How many backends get new flows.
    pub active: usize,
    /// The services whose backends all count as healthy because too few are.
    pub panic: Vec<String>,
    /// The services that have no backend for new flows.
    pub without_backend: Vec<String>,
    /// The backends that get no new flows, or are down.
    pub backends: Vec<Unwell>,
}

/// A backend that gets no new flows, or is down.
#[derive(Debug, Serialize)]
pub struct Unwell {
    /// Its service.
    pub service: String,
    /// Its name.
    pub backend: String,
    /// Whether it gets new flows all the same.
    pub active: bool,
    /// What the file and operators want of it.
    pub admin: Admin,
    /// What an operator said of it; null if that was nothing.
    pub order: Option<Override>,
    /// What checks found; null if nothing has been found.
    pub observed: Option<Observed>,
    /// What the agent on it reports; null if nothing has been.
    pub reported: Option<Reported>,
}

impl HealthView {
    /// Reads it.
    ///
    /// # Errors
    /// When the region cannot be read.
    pub fn read(region: &mut Region, sources: &Sources) -> Result<Self, StatusError> {
        let (_, state) = region.state_with_tables(|_| Vec::new())?;
        let agent = AgentView::read(region, &state, sources)?;
        Ok(Self::of(&state, agent))
    }

    fn of(state: &State, agent: Option<AgentView>) -> Self {
        let names = |of: &dyn Fn(&Service) -> bool| {
            state
                .services
                .iter()
                .filter(|service| of(service))
                .map(|service| service.name.to_string())
                .collect()
        };
        let (mut active, mut unwell) = (0, Vec::new());
        for service in &state.services {
            for (backend, is_active) in service.with_activity() {
                active += usize::from(is_active);
                if is_active && backend.healthy() {
                    continue;
                }
                unwell.push(Unwell {
                    service: service.name.to_string(),
                    backend: backend.name.to_string(),
                    active: is_active,
                    admin: backend.admin(),
                    order: backend.admission.in_force().cloned(),
                    observed: backend.observed.clone(),
                    reported: backend.reported.clone(),
                });
            }
        }
        Self {
            agent,
            active,
            panic: names(&Service::in_panic),
            without_backend: names(&|service| state.serving(service).next().is_none()),
            backends: unwell,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::Config;

    #[test]
    fn what_the_ruleset_drops_counts_as_dropped_and_nothing_else() {
        let lines =
            include_str!("../../nft/synrail.nft").lines().filter(|line| !line.trim_start().starts_with('#'));
        let dropping = lines.filter_map(|line| {
            let (name, then) = line.split_once("counter name ")?.1.split_once(' ')?;
            ["drop", "reject"].iter().any(|end| then.starts_with(end)).then_some(name)
        });
        // The rules that are made without nft's text.
        let native = ["unreachable"];
        assert_eq!(dropping.chain(native).collect::<BTreeSet<_>>(), RULESET_DROPS.into());
    }

    #[test]
    fn health_names_what_gets_no_new_flows() {
        let file = "
            balancer = { name = 'lb1', address = '192.168.1.201', interfaces = ['eth0'] }
            service = [
                { name = 'web', vips = '10.0.0.1', protocols = 'tcp', ports = 80, table_size = 97,
                  backend = [ { name = 's1', address = '192.168.1.1' }, { name = 's2', address = '192.168.1.2' } ] },
                { name = 'dns', vips = '10.0.0.2', table_size = 97,
                  backend = [ { name = 'd1', address = '192.168.1.1', active = false } ] } ]";
        let state = State::new(&Config::parse("test", file).unwrap()).unwrap();
        let order = Override::unattributed(Admin::Disabled);
        let state = state.set_admin(Some("web"), &["s2".to_owned()], &order).unwrap();
        let view = HealthView::of(&state, None);
        let unwell: Vec<_> = view.backends.iter().map(|one| (one.backend.as_str(), one.admin)).collect();
        assert_eq!((view.active, unwell), (1, vec![("s2", Admin::Disabled), ("d1", Admin::Draining)]));
        assert_eq!(view.without_backend, ["dns"]);
    }
}
