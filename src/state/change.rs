//! How a state changes: by a configuration file, or by activation.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    num::NonZero,
    panic::resume_unwind,
    thread,
};

use ipnet::{Ipv4Net, Ipv6Net};
use thiserror::Error;

use super::{Backend, Service, State, TierMember};
use crate::{
    config::{self, Balancer, Config},
    lookup::maglev::{self, Table},
    model::{
        Admin, Admission, Announcing, Decider, HashMode, HealthCheck, Name, NoBackend, Override, Path, Pmtu,
        PortRange, Protocols, Share, TableSize, Weight,
        ids::{TARGETS_MAX, TargetId},
    },
};

/// The maximum number of entries of all tables together: 256 MiB of a region for each of its slots.
pub const ENTRIES_MAX: usize = 128 << 20;

/// Why a state cannot be changed as requested.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    /// There are more distinct targets than target numbers.
    #[error("more than {TARGETS_MAX} distinct targets (address and encapsulation)")]
    TooManyTargets,
    /// There are more table entries than a region may hold.
    #[error(
        "the tables of all services have {0} entries together; at most {ENTRIES_MAX} are allowed; choose smaller table_size"
    )]
    TooManyEntries(usize),
    /// There is no service of this name.
    #[error("no service \"{name}\"; there are: {known}")]
    NoService {
        /// The requested name.
        name: String,
        /// The existing names.
        known: String,
    },
    /// There is no backend of this name.
    #[error("no backend \"{name}\" in {place}; there are: {known}{}", hint(.name, *.of_tier))]
    NoBackend {
        /// The requested name.
        name: String,
        /// Where it was searched for.
        place: String,
        /// The existing names.
        known: String,
        /// Set if a balancer of the tier has this name: whether it was to become active.
        of_tier: Option<bool>,
    },
    /// There is no balancer of this name in the tier.
    #[error("no balancer \"{name}\" in the tier; there are: {known}")]
    NoMember {
        /// The requested name.
        name: String,
        /// The existing names.
        known: String,
    },
    /// A renamed service, and a service with its former name, both exist.
    #[error(
        "service \"{new}\" has renamed_from = \"{old}\", but there are both; take that key out of the file, or apply the file without one of them first"
    )]
    RenamedBoth {
        /// The former name.
        old: Name,
        /// The present name.
        new: Name,
    },
    /// Neither a renamed service nor a service with its former name exists.
    #[error(
        "service \"{new}\" has renamed_from = \"{old}\", but there is neither; there are: {known}; take that key out of the file if the service is new"
    )]
    RenamedNone {
        /// The former name.
        old: Name,
        /// The present name.
        new: Name,
        /// The existing names.
        known: String,
    },
    /// There is no tier.
    #[error("there is no tier; [tier] in a configuration makes one, and `lbctl apply FILE` puts it in force")]
    NoTier,
}

impl State {
    /// Returns a state without services.
    #[must_use]
    pub fn empty(balancer: Balancer) -> Self {
        Self {
            balancer,
            admission: Admission::default(),
            services: Vec::new(),
            tier: Vec::new(),
            targets: Vec::new(),
            target_cursor: 0,
        }
    }

    /// Returns the state that a configuration file describes, made from nothing.
    ///
    /// # Errors
    /// When a limit is passed.
    pub fn new(config: &Config) -> Result<Self, StateError> {
        Self::empty(config.balancer.clone()).merge(config)
    }

    /// Returns the state that a configuration file describes, in which paths that have a number in `numbers`
    /// keep it. New numbers come after all of these, since connection tracking may still have entries with
    /// numbers that are no longer in use. Tables that `like` also has are shared with it.
    ///
    /// # Errors
    /// When a limit is passed.
    pub fn taking_over(
        config: &Config,
        numbers: &BTreeMap<TargetId, Path>,
        like: &Self,
    ) -> Result<Self, StateError> {
        let mut before = Self::empty(config.balancer.clone());
        for (target, path) in numbers {
            before.set_target(*target, *path);
            before.target_cursor = u16::try_from((target.index() + 1) % TARGETS_MAX).unwrap_or(0);
        }
        before.renamed(config)?.merge_by_name(config, &mut Tables::of(like))
    }

    /// Returns a state with a service "default" for every destination. Its backends "0" to "N-1" are only
    /// marked; the first `active` of them are active.
    ///
    /// # Errors
    /// When a limit is passed.
    pub fn unconfigured(table_size: TableSize, backends: usize, active: usize) -> Result<Self, StateError> {
        let backend = |index: usize| config::Backend {
            name: Name::from_index(index),
            path: Path::MarkOnly,
            weight: Weight::ONE,
            active: Some(index < active),
        };
        let mut backends: Vec<_> = (0..backends).map(backend).collect();
        // Targets are assigned in the order of numbers, so that backend I has the mark I + 1.
        let mut state = Self::empty(Balancer::unconfigured());
        let in_order =
            backends.iter().map(|_| state.new_target(Path::MarkOnly)).collect::<Result<Vec<_>, _>>()?;
        let by_name: HashMap<Name, TargetId> =
            backends.iter().map(|b| b.name.clone()).zip(in_order).collect();
        backends.sort_by(|a, b| a.name.cmp(&b.name));
        let service = Service {
            name: Name::known("default"),
            vips: vec![Ipv4Net::default().into(), Ipv6Net::default().into()],
            protocols: Protocols::Any,
            ports: vec![PortRange::ALL],
            hash: HashMode::FiveTuple,
            pmtu: Pmtu::Icmp,
            decider: Decider::Lbd,
            health: None,
            no_backend: NoBackend::Drop,
            announcing: Announcing::default(),
            table_size,
            backends: backends
                .into_iter()
                .map(|b| Backend {
                    target: by_name[&b.name],
                    admission: Admission { configured: b.active, ..Admission::default() },
                    killed: 0,
                    name: b.name,
                    weight: b.weight,
                    observed: None,
                    reported: None,
                })
                .collect(),
            table: Table::default(),
        };
        state.services.push(service);
        Tables::default().give(&mut state.services, state.balancer.hash_seed);
        Ok(state)
    }

    /// Returns this state as changed by a configuration file. What operators said stays, unless the file says
    /// something new about it ([`Admission::in_file`]), and so do the numbers of targets that are still used. A
    /// backend that was only renamed keeps these, too, and so does a service with `renamed_from`. Tables that
    /// would not change are kept.
    ///
    /// # Errors
    /// When a limit is passed, or a `renamed_from` is wrong.
    pub fn merge(&self, config: &Config) -> Result<Self, StateError> {
        self.renamed(config)?.merge_by_name(config, &mut Tables::of(self))
    }

    /// Merges by names. Tables that would be the same as one of `tables` are shared with it.
    pub(super) fn merge_by_name(&self, config: &Config, tables: &mut Tables) -> Result<Self, StateError> {
        limit_entries(config.services.iter().map(|service| service.table_size))?;
        let mut next = Self {
            admission: self.admission.clone(),
            target_cursor: self.target_cursor,
            ..Self::empty(config.balancer.clone())
        };
        let old_paths: HashMap<Path, TargetId> =
            self.targets_used().map(|(target, path)| (path, target)).collect();
        let kept = |service: &config::Service, backend: &config::Backend| match backend.path {
            Path::Via(..) => old_paths.get(&backend.path).copied(),
            Path::MarkOnly => self
                .before(service, backend)
                .map(|old| old.target)
                .filter(|&t| self.path(t) == Some(Path::MarkOnly)),
        };
        let tunnels = tier_tunnels(config);
        // Kept targets come first, so that no new one takes their number.
        for service in &config.services {
            for backend in &service.backends {
                if let Some(target) = kept(service, backend) {
                    next.set_target(target, backend.path);
                }
            }
        }
        for path in tunnels.iter().flatten() {
            if let Some(&target) = old_paths.get(path) {
                next.set_target(target, *path);
            }
        }
        let mut new_paths: HashMap<Path, TargetId> = HashMap::new();
        for service in &config.services {
            let mut backends = Vec::with_capacity(service.backends.len());
            let former = self.service(service.name.as_str());
            // Another port, or another question, is another agent.
            let agent = |health: Option<&HealthCheck>| {
                health?.agent.as_ref().map(|check| (check.port, check.send.clone()))
            };
            let asked = agent(service.health.as_ref());
            let same_agent = asked.is_some() && former.is_some_and(|old| agent(old.health.as_ref()) == asked);
            for backend in &service.backends {
                let shared = new_paths.get(&backend.path).copied().filter(|_| backend.path != Path::MarkOnly);
                let target = match kept(service, backend).or(shared) {
                    Some(target) => target,
                    None => next.new_target(backend.path)?,
                };
                new_paths.insert(backend.path, target);
                let before = self.before(service, backend);
                let admission = before.map(|old| old.admission.clone()).unwrap_or_default();
                // What was found of another host, or by no check, says nothing.
                let same =
                    |old: &&Backend| service.health.is_some() && self.path(old.target) == Some(backend.path);
                let observed = before.filter(same).and_then(|old| old.observed.clone());
                let reported =
                    before.filter(|old| same_agent && same(old)).and_then(|old| old.reported.clone());
                backends.push(Backend {
                    name: backend.name.clone(),
                    target,
                    weight: backend.weight,
                    admission: admission.in_file(backend.active),
                    observed,
                    reported,
                    killed: before.map_or(0, |old| old.killed),
                });
            }
            next.services.push(Service::new(service, backends));
        }
        tables.give(&mut next.services, config.balancer.hash_seed);
        for (member, tunnel) in config.tier.iter().zip(tunnels) {
            // The target was kept, or a backend at the other end of the same tunnel has it.
            let known = |path| next.targets_used().find(|(_, used)| *used == path).map(|(target, _)| target);
            let target = match tunnel.map(|path| (path, known(path))) {
                Some((path, None)) => Some(next.new_target(path)?),
                Some((_, known)) => known,
                None => None,
            };
            next.tier.push(self.member_from(member, target));
        }
        Ok(next)
    }

    fn member_from(&self, member: &config::TierMember, target: Option<TargetId>) -> TierMember {
        let known = self.tier.iter().find(|old| old.name == member.name);
        TierMember {
            name: member.name.clone(),
            address: member.address,
            target,
            admission: known.map(|old| old.admission.clone()).unwrap_or_default().in_file(member.active),
        }
    }

    /// Returns this state with an operator's word about some backends: those of one service, or of every
    /// service that has a backend of that name.
    ///
    /// # Errors
    /// When a name is not known; then nothing is changed.
    pub fn set_admin(
        &self,
        service: Option<&str>,
        names: &[String],
        order: &Override,
    ) -> Result<Self, StateError> {
        let mut next = self.clone();
        let active = order.admin == Admin::Enabled;
        let found = self.find_backends(service, names).map_err(|mut error| {
            if let StateError::NoBackend { name, of_tier, .. } = &mut error {
                *of_tier = self.tier.iter().any(|member| member.name.as_str() == name).then_some(active);
            }
            error
        })?;
        for (service, backend) in found {
            let backend = &mut next.services[service].backends[backend];
            backend.admission = backend.admission.ordered(order);
        }
        Tables::of(self).give(&mut next.services, self.balancer.hash_seed);
        Ok(next)
    }

    /// Returns this state with an operator's word about this balancer: whether it may announce VIPs.
    #[must_use]
    pub fn set_balancer_admin(&self, order: &Override) -> Self {
        Self { admission: self.admission.ordered(order), ..self.clone() }
    }

    /// Returns this state with an order to end the flows that some backends have, those of one service, or of every
    /// service that has a backend of that name. Returns also the time of the order, which no other order of this
    /// state has.
    ///
    /// # Errors
    /// When a name is not known; then nothing is changed.
    pub fn kill(
        &self,
        service: Option<&str>,
        names: &[String],
        unix_seconds: u64,
    ) -> Result<(Self, u64), StateError> {
        let backends = self.services.iter().flat_map(|service| &service.backends);
        let last = backends.map(|backend| backend.killed).max().unwrap_or(0);
        let now = unix_seconds.max(last.saturating_add(1));
        let mut next = self.clone();
        for (service, backend) in self.find_backends(service, names)? {
            next.services[service].backends[backend].killed = now;
        }
        Ok((next, now))
    }

    /// Returns the backends of these names: those of one service, or of every service that has a backend of that
    /// name. Each is an index of a service, and one of a backend of it, in the order of the names.
    ///
    /// # Errors
    /// When a name is not known.
    pub fn find_backends(
        &self,
        service: Option<&str>,
        names: &[String],
    ) -> Result<Vec<(usize, usize)>, StateError> {
        if let Some(name) = service
            && self.service(name).is_none()
        {
            let known = list(self.services.iter().map(|service| &service.name));
            return Err(StateError::NoService { name: name.to_owned(), known });
        }
        let meant = |candidate: &Service| service.is_none_or(|name| candidate.name.as_str() == name);
        let services = || self.services.iter().enumerate().filter(|(_, service)| meant(service));
        let mut all = Vec::new();
        for name in names {
            let before = all.len();
            for (at, service) in services() {
                let backends = service.backends.iter().enumerate();
                let named = backends.filter(|(_, backend)| backend.name.as_str() == name);
                all.extend(named.map(|(backend, _)| (at, backend)));
            }
            if all.len() == before {
                let place =
                    service.map_or_else(|| "any service".to_owned(), |name| format!("service \"{name}\""));
                let known = list(services().flat_map(|(_, service)| &service.backends).map(|of| &of.name));
                return Err(StateError::NoBackend { name: name.clone(), place, known, of_tier: None });
            }
        }
        Ok(all)
    }

    /// Returns this state with an operator's word about some balancers of the tier.
    ///
    /// # Errors
    /// When a name is not known; then nothing is changed.
    pub fn set_tier_admin(&self, names: &[String], order: &Override) -> Result<Self, StateError> {
        if self.tier.is_empty() {
            return Err(StateError::NoTier);
        }
        let mut next = self.clone();
        for name in names {
            let member = next.tier.iter_mut().find(|member| member.name.as_str() == name);
            let known = || list(self.tier.iter().map(|member| &member.name));
            let member = member.ok_or_else(|| StateError::NoMember { name: name.clone(), known: known() })?;
            member.admission = member.admission.ordered(order);
        }
        Ok(next)
    }

    /// Returns this state with all of its tables made anew.
    ///
    /// # Errors
    /// When they have more entries than a region may hold.
    pub fn with_tables(mut self) -> Result<Self, StateError> {
        limit_entries(self.services.iter().map(|service| service.table_size))?;
        Tables::default().give(&mut self.services, self.balancer.hash_seed);
        Ok(self)
    }

    pub(crate) fn set_target(&mut self, target: TargetId, path: Path) {
        if self.targets.len() <= target.index() {
            self.targets.resize(target.index() + 1, None);
        }
        self.targets[target.index()] = Some(path);
    }

    /// Returns a free number: the first from the cursor on, continuing at 0 after the last number.
    fn new_target(&mut self, path: Path) -> Result<TargetId, StateError> {
        let start = usize::from(self.target_cursor);
        let free = (0..TARGETS_MAX)
            .filter_map(|step| TargetId::new((start + step) % TARGETS_MAX))
            .find(|&target| self.path(target).is_none())
            .ok_or(StateError::TooManyTargets)?;
        self.set_target(free, path);
        self.target_cursor = u16::try_from((free.index() + 1) % TARGETS_MAX).unwrap_or(0);
        Ok(free)
    }
}

fn limit_entries(sizes: impl Iterator<Item = TableSize>) -> Result<(), StateError> {
    let entries = sizes.map(TableSize::entries).sum();
    if entries > ENTRIES_MAX { Err(StateError::TooManyEntries(entries)) } else { Ok(()) }
}

/// Tables by what they are made of. No table is made twice, and services with the same table share it.
#[derive(Default)]
pub(super) struct Tables(HashMap<MadeOf, Table>);

/// The seed, M, and the backends that get new flows, in the order of their ranks.
type MadeOf = (u32, TableSize, Vec<(Name, Share)>);

impl Tables {
    /// Returns the tables of a state.
    pub(super) fn of(state: &State) -> Self {
        let all = &state.services;
        let made = |service: &Service| {
            (Self::made_of(service, all, state.balancer.hash_seed), service.table.clone())
        };
        Self(all.iter().map(made).collect())
    }

    /// Gives each service its table. Missing tables are built on all CPUs: with a thousand services, this is
    /// the most expensive part of a change.
    pub(super) fn give(&mut self, services: &mut [Service], seed: u32) {
        let all = &*services;
        let made_of: Vec<MadeOf> = all.iter().map(|service| Self::made_of(service, all, seed)).collect();
        let missing: HashSet<&MadeOf> =
            made_of.iter().filter(|made_of| !self.0.contains_key(made_of)).collect();
        let missing: Vec<&MadeOf> = missing.into_iter().collect();
        self.0.extend(on_all_cpus(&missing, |&made_of| (made_of.clone(), Self::make(made_of))));
        for (service, made_of) in services.iter_mut().zip(made_of) {
            service.table = self.0.entry(made_of).or_insert_with_key(Self::make).clone();
        }
    }

    fn make((seed, size, backends): &MadeOf) -> Table {
        let backends = backends.iter().map(|(name, share)| (name.as_str(), *share));
        Table::new(maglev::build(*seed, *size, backends))
    }

    fn made_of(service: &Service, all: &[Service], seed: u32) -> MadeOf {
        let serving = service.serving(all).map(|backend| (backend.name.clone(), backend.share()));
        (seed, service.table_size, serving.collect())
    }
}

/// Returns the results of `of` for all items, in their order.
fn on_all_cpus<T: Sync, U: Send>(items: &[T], of: impl Fn(&T) -> U + Sync) -> Vec<U> {
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    if cpus == 1 || items.len() < 2 {
        return items.iter().map(of).collect();
    }
    let of = &of;
    thread::scope(|scope| {
        let workers = items.chunks(items.len().div_ceil(cpus)).map(|part| {
            let work = move || part.iter().map(of).collect::<Vec<_>>();
            // If no more threads are allowed, the calling thread does the work.
            thread::Builder::new().spawn_scoped(scope, work).map_err(|_| part)
        });
        let made = workers.collect::<Vec<_>>().into_iter().flat_map(|worker| match worker {
            Ok(worker) => worker.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(part) => part.iter().map(of).collect(),
        });
        made.collect()
    })
}

impl Service {
    /// Returns a service of a file, without its table.
    #[must_use]
    pub fn new(service: &config::Service, backends: Vec<Backend>) -> Self {
        Self {
            name: service.name.clone(),
            vips: service.vips.clone(),
            protocols: service.protocols.clone(),
            ports: service.ports.clone(),
            hash: service.hash,
            pmtu: service.pmtu,
            decider: service.decider,
            health: service.health.clone(),
            no_backend: service.no_backend.clone(),
            announcing: service.announcing,
            table_size: service.table_size,
            backends,
            table: Table::default(),
        }
    }
}

/// Returns the path from here to each member of the tier; `None` for this balancer itself.
fn tier_tunnels(config: &Config) -> Vec<Option<Path>> {
    let own = config.tier.iter().find(|member| member.name == config.balancer.name);
    let to =
        |member: &config::TierMember| own?.path_to(member).filter(|_| member.name != config.balancer.name);
    config.tier.iter().map(to).collect()
}

/// Returns a hint at the command for the tier, if the name is that of a balancer of the tier.
fn hint(name: &str, of_tier: Option<bool>) -> String {
    of_tier.map_or_else(String::new, |active| {
        let verb = if active { "activate" } else { "deactivate" };
        format!("; the tier has a balancer of that name: `lbctl tier {verb} {name}`")
    })
}

pub(super) fn list<'a>(names: impl Iterator<Item = &'a Name>) -> String {
    let mut names: Vec<&str> = names.map(Name::as_str).collect();
    names.sort_unstable();
    names.dedup();
    match names.len() {
        0 => "none".to_owned(),
        // Enough names to find a typing error.
        len if len > 20 => format!("{} and {} more", names[..20].join(", "), len - 20),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests;
