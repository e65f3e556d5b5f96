//! Reads a region and what the kernel has of it.

use std::time::Duration;

use synrail::{
    model::{Health, Observed},
    status::{
        Sources, StatusError,
        live::{Live, Overview, ServiceWithBackends},
        view::{BackendView, ServiceView},
    },
    sys::region::{Region, RegionName},
};

use crate::snapshot::{Backend, Fact, Service, Snapshot};

/// A region that is read again and again.
pub struct Reader {
    name: RegionName,
    sources: Sources,
    region: Option<Region>,
    known: Option<Known>,
}

/// What stays the same as long as the generation does.
struct Known {
    generation: u64,
    services: Vec<Service>,
}

impl Reader {
    /// Reads nothing yet.
    #[must_use]
    pub fn new(name: RegionName, sources: Sources) -> Self {
        Self { name, sources, region: None, known: None }
    }

    /// Reads what there is now. A region that was made anew is opened again.
    ///
    /// # Errors
    /// When the region cannot be read.
    pub fn read(&mut self) -> Result<Snapshot, StatusError> {
        if self.region.as_ref().is_some_and(|region| !region.is_current().unwrap_or(true)) {
            (self.region, self.known) = (None, None);
        }
        let mut region = match self.region.take() {
            Some(region) => region,
            None => Region::open_to_read(&self.name)?,
        };
        let read = self.read_from(&mut region);
        self.region = Some(region);
        read
    }

    fn read_from(&mut self, region: &mut Region) -> Result<Snapshot, StatusError> {
        let mut live = Live::read(region, &self.sources)?;
        if self.known.as_ref().is_none_or(|known| known.generation != live.generation) {
            let overview = Overview::read(region)?;
            let services = overview.services.iter().map(service).collect();
            self.known = Some(Known { generation: overview.generation, services });
        }
        let mut services = self.known.as_ref().map(|known| known.services.clone()).unwrap_or_default();
        for service in &mut services {
            for backend in &mut service.backends {
                let name = format!("{}/{}", service.name, backend.name);
                backend.flows =
                    live.backend_flows.as_ref().map(|flows| flows.get(&name).copied().unwrap_or(0));
            }
        }
        live.drops.retain(|_, count| *count > 0);
        Ok(Snapshot {
            at: Duration::from_millis(live.at_ms),
            region: self.name.to_string(),
            generation: live.generation,
            lbd: lbd(&live),
            agent: live
                .agent
                .map(|agent| Fact { text: agent.value(), good: agent.running && agent.not_made == Some(0) }),
            conntrack: live.conntrack.as_ref().map(|conntrack| (conntrack.entries, conntrack.max)),
            off_table: live.flows.off_table,
            promoted: live.flows.promoted,
            targets: live.targets.iter().map(|(number, (packets, _))| (*number, *packets)).collect(),
            drops: live.drops,
            services,
        })
    }
}

fn service(ServiceWithBackends { service, backends }: &ServiceWithBackends) -> Service {
    let or = |list: String, none: &str| if list.is_empty() { none.to_owned() } else { list };
    let (protocols, ports) = (or(service.protocols.join(","), "any"), or(service.ports.join(","), "0-65535"));
    Service {
        name: service.name.clone(),
        claims: format!("{} {protocols} {ports}", service.vips.join(",")),
        notice: notice(service),
        backends: backends.iter().map(backend).collect(),
    }
}

fn notice(service: &ServiceView) -> String {
    match &service.served_by {
        Some(_) if service.panic => "PANIC: all count as healthy".to_owned(),
        Some(own) if *own == service.name => String::new(),
        Some(other) => format!("NO BACKEND: served by {other}"),
        None if service.rejected => "NO BACKEND: new flows are rejected".to_owned(),
        None => "NO BACKEND: new flows are dropped".to_owned(),
    }
}

fn backend(view: &BackendView) -> Backend {
    let BackendView { target, admission, observed, reported, .. } = view;
    let encap = target.encap.unwrap_or("mark");
    let said = admission.in_force().map(ToString::to_string);
    // That all is well is no news.
    let found = observed.as_ref().filter(|observed| observed.health == Health::Down);
    let found = found.map(|Observed { reason, since, .. }| format!("{} (since {since})", reason.as_str()));
    let agent = reported.as_ref().filter(|reported| reported.is_notable());
    let agent = agent.map(|reported| format!("agent: {}", reported.summary()));
    Backend {
        name: view.name.clone(),
        path: target.address.map_or_else(|| encap.to_owned(), |address| format!("{encap} {address}")),
        target: target.number,
        admin: view.admin,
        health: view.health(),
        active: view.active,
        share_permille: view.entries * 1000 / u64::from(view.table_size.max(1)),
        flows: view.flows,
        why: [said, found, agent].into_iter().flatten().collect::<Vec<_>>().join("; "),
    }
}

fn lbd(live: &Live) -> Fact {
    let (text, good) = match (&live.hangs, live.lbd.running()) {
        (Some(hangs), _) => (format!("lbd is {}", hangs.value()), false),
        (None, Some(lbd)) if lbd.adopted == live.generation => {
            (format!("lbd runs (process {})", lbd.pid), true)
        }
        (None, Some(lbd)) => (format!("lbd runs; generation {} is in force", lbd.adopted), false),
        (None, None) => ("NO LBD RUNS; the kernel goes on by its own tables".to_owned(), false),
    };
    let gone = if live.ruleset_gone { "; THE RULESET IS GONE" } else { "" };
    Fact { text: text + gone, good: good && !live.ruleset_gone }
}
