//! What must hold of a state that was not made here, such as one that was read from a region: the types cannot
//! be invalid, but values may contradict each other.

use std::collections::HashSet;

use super::{ENTRIES_MAX, Service, State, TierMember};
use crate::{
    config::TIER_MAX,
    model::{
        Announcing, Encap, Path, Pmtu, PortRange, Protocols,
        ids::{SERVICES_MAX, TARGETS_MAX},
    },
};

impl State {
    /// Checks that nothing in the state contradicts anything else, and that limits hold. Tables are not looked
    /// at.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        self.balancer.check()?;
        require(self.targets.len() <= TARGETS_MAX, "number of targets")?;
        require(usize::from(self.target_cursor) < TARGETS_MAX, "the next target")?;
        require(self.tier.len() <= TIER_MAX, "number of balancers in the tier")?;
        for member in &self.tier {
            self.check_member(member)?;
        }
        let here = self.tier.iter().any(|member| member.target.is_none());
        require(
            self.tier.is_sorted_by(|a, b| a.name < b.name) && here != self.tier.is_empty(),
            "the balancers of the tier",
        )?;
        require(self.services.len() <= SERVICES_MAX, "number of services")?;
        let mut names = HashSet::new();
        for service in &self.services {
            require(names.insert(&service.name), "two services of one name")?;
            self.check_service(service)?;
        }
        let entries =
            |service: &Service| self.serving(service).next().map_or(0, |_| service.table_size.entries());
        require(self.services.iter().map(entries).sum::<usize>() <= ENTRIES_MAX, "number of table entries")
    }

    fn check_member(&self, member: &TierMember) -> Result<(), &'static str> {
        let leads_there = |path| member.address.iter().any(|address| path == Path::Via(Encap::Gre, address));
        let own = member.name == self.balancer.name;
        let right = match member.target {
            Some(target) => !own && self.path(target).is_some_and(leads_there),
            None => own && !member.address.is_empty(),
        };
        require(right, "a balancer of the tier")
    }

    fn check_service(&self, service: &Service) -> Result<(), &'static str> {
        let in_order = service.backends.is_sorted_by(|a, b| a.name < b.name);
        require(!service.vips.is_empty() && !service.ports.is_empty() && in_order, "a service")?;
        let disjoint = service.ports.is_sorted_by(|a, b| a.last < b.first);
        let with_ports = service.protocols != Protocols::Any || service.ports == [PortRange::ALL];
        require(disjoint && with_ports, "a service's ports")?;
        require(service.vips.iter().all(|vip| vip.trunc() == *vip), "a prefix")?;
        let paths = || service.backends.iter().map(|backend| self.path(backend.target));
        require(paths().all(|path| path.is_some()), "a backend's target")?;
        service.health.as_ref().map_or(Ok(()), crate::model::HealthCheck::check)?;
        let observed = service.backends.iter().any(|backend| backend.observed.is_some());
        require(service.health.is_some() || !observed, "a backend that is not checked, and was")?;
        let asked = service.health.as_ref().is_some_and(|health| health.agent.is_some());
        let reported = service.backends.iter().any(|backend| backend.reported.is_some());
        require(asked || !reported, "a backend whose agent is not asked, and was")?;
        let outer = service.pmtu != Pmtu::FragmentOuter || paths().flatten().all(Path::can_fragment_outer);
        require(outer, "a service's pmtu")?;
        require(Announcing::MIN.contains(&service.announcing.min), "a service's announce_min")?;
        self.check_no_backend(service)
    }
}

fn require(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}
