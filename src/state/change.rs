//! How a state becomes another: by a configuration file, by activation; and what differs between two.

use std::{collections::HashMap, fmt, sync::Arc};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::Serialize;
use thiserror::Error;

use super::{Backend, Service, State};
use crate::{
    balance::maglev,
    config::{self, Balancer, Config, HashMode, Name, Path, Pmtu, PortRange, Protocols, TableSize, Weight},
    ids::{TARGETS_MAX, TargetId},
};

/// The entries of all tables together, at most: 256 MiB of a region for each of its slots.
pub const ENTRIES_MAX: usize = 128 << 20;

/// Why a state cannot become what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    /// More distinct targets than there are numbers.
    #[error("more than {TARGETS_MAX} distinct targets (address and encapsulation)")]
    TooManyTargets,
    /// More table entries than a region may hold.
    #[error(
        "the tables of all services have {0} entries together; at most {ENTRIES_MAX} are allowed; choose smaller table_size"
    )]
    TooManyEntries(usize),
    /// No such service.
    #[error("no service \"{name}\"; there are: {known}")]
    NoService {
        /// What was asked for.
        name: String,
        /// Those there are.
        known: String,
    },
    /// No such backend.
    #[error("no backend \"{name}\" in {place}; there are: {known}")]
    NoBackend {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        place: String,
        /// Those there are.
        known: String,
    },
}

/// One difference between two states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What it is about, such as `balancer`, `service web` or `backend web/s1`.
    pub what: String,
    /// The key that changed; `None` when the whole thing came or went.
    pub key: Option<&'static str>,
    /// What it was; `None` for what is new.
    pub from: Option<String>,
    /// What it becomes; `None` for what goes.
    pub to: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match (&self.from, &self.to) {
            (None, _) => '+',
            (_, None) => '-',
            (Some(_), Some(_)) => '~',
        };
        write!(f, "{sign} {}", self.what)?;
        if let Some(key) = self.key {
            write!(f, " {key}")?;
        }
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, ": {from} -> {to}"),
            (None, Some(value)) | (Some(value), None) if !value.is_empty() => write!(f, ": {value}"),
            _ => Ok(()),
        }
    }
}

impl State {
    /// A state without services.
    #[must_use]
    pub fn empty(balancer: Balancer) -> Self {
        Self { balancer, services: Vec::new(), tier: Vec::new(), targets: Vec::new(), target_cursor: 0 }
    }

    /// The state that a configuration file describes, from nothing.
    ///
    /// # Errors
    /// When a limit is passed.
    pub fn new(config: &Config) -> Result<Self, StateError> {
        Self::empty(config.balancer.clone()).merge(config)
    }

    /// A service "default" for every destination: backends "0" to "N-1" that are only marked, the first `active` of
    /// them active.
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
        // In the order of numbers while targets are given away, so that backend I has the mark I + 1.
        let mut state = Self::empty(Balancer::unconfigured());
        let in_order =
            backends.iter().map(|_| state.new_target(Path::MarkOnly)).collect::<Result<Vec<_>, _>>()?;
        let by_name: HashMap<Name, TargetId> =
            backends.iter().map(|b| b.name.clone()).zip(in_order).collect();
        backends.sort_by(|a, b| a.name.cmp(&b.name));
        let mut service = Service {
            name: Name::known("default"),
            vips: vec![Ipv4Net::default().into(), Ipv6Net::default().into()],
            protocols: Protocols::Any,
            ports: vec![PortRange::ALL],
            hash: HashMode::FiveTuple,
            pmtu: Pmtu::Icmp,
            table_size,
            backends: backends
                .into_iter()
                .map(|b| Backend {
                    target: by_name[&b.name],
                    active: b.active == Some(true),
                    name: b.name,
                    weight: b.weight,
                })
                .collect(),
            table: Arc::default(),
        };
        service.rebuild(state.balancer.hash_seed);
        state.services.push(service);
        Ok(state)
    }

    /// This state made what a configuration file says. What the file leaves open stays: whether a known backend is
    /// active, and the numbers of targets that are still used. Tables that would come out the same are kept.
    ///
    /// # Errors
    /// When a limit is passed.
    pub fn merge(&self, config: &Config) -> Result<Self, StateError> {
        let entries = config.services.iter().map(|service| service.table_size.entries()).sum();
        if entries > ENTRIES_MAX {
            return Err(StateError::TooManyEntries(entries));
        }
        let mut next = Self { target_cursor: self.target_cursor, ..Self::empty(config.balancer.clone()) };
        let old_paths: HashMap<Path, TargetId> =
            self.targets_used().map(|(target, path)| (path, target)).collect();
        let known = |service: &config::Service, backend: &config::Backend| {
            let old = self.service(service.name.as_str())?;
            old.backends.iter().find(|old| old.name == backend.name)
        };
        let kept = |service: &config::Service, backend: &config::Backend| match backend.path {
            Path::Via(..) => old_paths.get(&backend.path).copied(),
            Path::MarkOnly => known(service, backend)
                .map(|old| old.target)
                .filter(|&t| self.path(t) == Some(Path::MarkOnly)),
        };
        // Those that stay first, so that no new one takes their number.
        for service in &config.services {
            for backend in &service.backends {
                if let Some(target) = kept(service, backend) {
                    next.set_target(target, backend.path);
                }
            }
        }
        let mut new_paths: HashMap<Path, TargetId> = HashMap::new();
        for service in &config.services {
            let mut backends = Vec::with_capacity(service.backends.len());
            for backend in &service.backends {
                let shared = new_paths.get(&backend.path).copied().filter(|_| backend.path != Path::MarkOnly);
                let target = match kept(service, backend).or(shared) {
                    Some(target) => target,
                    None => next.new_target(backend.path)?,
                };
                new_paths.insert(backend.path, target);
                let active =
                    backend.active.or_else(|| known(service, backend).map(|old| old.active)).unwrap_or(true);
                backends.push(Backend { name: backend.name.clone(), target, weight: backend.weight, active });
            }
            next.services.push(self.service_from(service, backends, config.balancer.hash_seed));
        }
        Ok(next)
    }

    fn service_from(&self, service: &config::Service, backends: Vec<Backend>, seed: u32) -> Service {
        let mut next = Service {
            name: service.name.clone(),
            vips: service.vips.clone(),
            protocols: service.protocols.clone(),
            ports: service.ports.clone(),
            hash: service.hash,
            pmtu: service.pmtu,
            table_size: service.table_size,
            backends,
            table: Arc::default(),
        };
        let shares =
            |service: &Service| service.active().map(|b| (b.name.clone(), b.weight)).collect::<Vec<_>>();
        match self.service(service.name.as_str()) {
            Some(old)
                if seed == self.balancer.hash_seed
                    && old.table_size == next.table_size
                    && shares(old) == shares(&next) =>
            {
                next.table = Arc::clone(&old.table);
            }
            _ => next.rebuild(seed),
        }
        next
    }

    /// This state with some backends activated or deactivated: of one service, or of every service that has a
    /// backend of that name.
    ///
    /// # Errors
    /// When a name is not known; then nothing is changed.
    pub fn set_active(
        &self,
        service: Option<&str>,
        names: &[String],
        active: bool,
    ) -> Result<Self, StateError> {
        let mut next = self.clone();
        if let Some(name) = service
            && self.service(name).is_none()
        {
            let known = list(self.services.iter().map(|service| &service.name));
            return Err(StateError::NoService { name: name.to_owned(), known });
        }
        let meant = |candidate: &Service| service.is_none_or(|name| candidate.name.as_str() == name);
        for name in names {
            let mut found = false;
            for service in next.services.iter_mut().filter(|service| meant(service)) {
                for backend in service.backends.iter_mut().filter(|backend| backend.name.as_str() == name) {
                    backend.active = active;
                    found = true;
                }
            }
            if !found {
                let place =
                    service.map_or_else(|| "any service".to_owned(), |name| format!("service \"{name}\""));
                let known = self
                    .services
                    .iter()
                    .filter(|service| meant(service))
                    .flat_map(|service| &service.backends);
                let known = list(known.map(|backend| &backend.name));
                return Err(StateError::NoBackend { name: name.clone(), place, known });
            }
        }
        for (service, old) in next.services.iter_mut().zip(&self.services) {
            if service.backends != old.backends {
                service.rebuild(self.balancer.hash_seed);
            }
        }
        Ok(next)
    }

    /// What differs in `next`, without the tables, which follow from the rest.
    #[must_use]
    pub fn changes(&self, next: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        compare("balancer", &balancer_keys(&self.balancer), &balancer_keys(&next.balancer), &mut changes);
        let pairs = pairs(&self.services, &next.services, |service| &service.name);
        for (old, new) in pairs {
            let name = old.or(new).map_or_else(String::new, |service| service.name.to_string());
            let what = format!("service {name}");
            match (old, new) {
                (Some(old), Some(new)) => {
                    compare(&what, &service_keys(old), &service_keys(new), &mut changes);
                }
                (old, new) => changes.push(Change {
                    what,
                    key: None,
                    from: old.map(|service| summary(&service_keys(service))),
                    to: new.map(|service| summary(&service_keys(service))),
                }),
            }
            let (none, keys_of) = (Vec::new(), |state: &Self, backend: &Backend| {
                backend_keys(backend, state.path(backend.target))
            });
            let (old_backends, new_backends) =
                (old.map_or(&none, |s| &s.backends), new.map_or(&none, |s| &s.backends));
            for (old, new) in self::pairs(old_backends, new_backends, |backend| &backend.name) {
                let backend = old.or(new).map_or_else(String::new, |backend| backend.name.to_string());
                let what = format!("backend {name}/{backend}");
                match (old, new) {
                    (Some(old), Some(new)) => {
                        compare(&what, &keys_of(self, old), &keys_of(next, new), &mut changes);
                    }
                    (old, new) => changes.push(Change {
                        what,
                        key: None,
                        from: old.map(|backend| summary(&keys_of(self, backend))),
                        to: new.map(|backend| summary(&keys_of(next, backend))),
                    }),
                }
            }
        }
        changes
    }

    fn set_target(&mut self, target: TargetId, path: Path) {
        if self.targets.len() <= target.index() {
            self.targets.resize(target.index() + 1, None);
        }
        self.targets[target.index()] = Some(path);
    }

    /// A number that is free: the first from the cursor on, around the end.
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

impl Service {
    /// Builds the table anew.
    fn rebuild(&mut self, seed: u32) {
        let active = self.active().map(|backend| (backend.name.as_str(), backend.weight));
        self.table = maglev::build(seed, self.table_size, active).into();
    }
}

fn list<'a>(names: impl Iterator<Item = &'a Name>) -> String {
    let mut names: Vec<&str> = names.map(Name::as_str).collect();
    names.sort_unstable();
    names.dedup();
    match names.len() {
        0 => "none".to_owned(),
        // Enough to find a slip of the pen in.
        len if len > 20 => format!("{} and {} more", names[..20].join(", "), len - 20),
        _ => names.join(", "),
    }
}

/// What `old` and `new` have of the same name, in the order of `old`, then what is new.
fn pairs<'a, T>(
    old: &'a [T],
    new: &'a [T],
    name: impl Fn(&T) -> &Name,
) -> Vec<(Option<&'a T>, Option<&'a T>)> {
    let olds: HashMap<&str, &T> = old.iter().map(|item| (name(item).as_str(), item)).collect();
    let news: HashMap<&str, &T> = new.iter().map(|item| (name(item).as_str(), item)).collect();
    let both = old.iter().map(|item| (Some(item), news.get(name(item).as_str()).copied()));
    let fresh =
        new.iter().filter(|item| !olds.contains_key(name(item).as_str())).map(|item| (None, Some(item)));
    both.chain(fresh).collect()
}

type Keys = Vec<(&'static str, String)>;

fn compare(what: &str, old: &Keys, new: &Keys, changes: &mut Vec<Change>) {
    for ((key, from), (_, to)) in old.iter().zip(new).filter(|(old, new)| old != new) {
        let (from, to) = (Some(from.clone()), Some(to.clone()));
        changes.push(Change { what: what.to_owned(), key: Some(key), from, to });
    }
}

fn summary(keys: &Keys) -> String {
    keys.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", ")
}

fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(" ") }
}

fn balancer_keys(balancer: &Balancer) -> Keys {
    let addresses = balancer.address4.map(std::net::IpAddr::V4).into_iter();
    let timeouts = balancer.timeouts;
    vec![
        ("name", balancer.name.to_string()),
        ("address", joined(addresses.chain(balancer.address6.map(std::net::IpAddr::V6)))),
        ("interfaces", joined(&balancer.interfaces)),
        ("queues", balancer.queues.to_string()),
        ("fragment_queue", balancer.fragment_queue.0.to_string()),
        ("hash_seed", balancer.hash_seed.to_string()),
        ("mark_mask", format!("{:#010x}", balancer.mark_mask.bits())),
        ("tcp_established_seconds", timeouts.tcp_established_seconds.to_string()),
        ("tcp_closing_seconds", timeouts.tcp_closing_seconds.to_string()),
        ("udp_seconds", timeouts.udp_seconds.to_string()),
    ]
}

fn service_keys(service: &Service) -> Keys {
    let protocols = match &service.protocols {
        Protocols::Any => "any".to_owned(),
        Protocols::Named(named) => joined(named.iter().map(|protocol| protocol.name())),
    };
    let ports = if service.ports == [PortRange::ALL] { "all".to_owned() } else { joined(&service.ports) };
    vec![
        ("vips", joined(&service.vips)),
        ("protocols", protocols),
        ("ports", ports),
        ("hash", service.hash.name().to_owned()),
        ("table_size", service.table_size.get().to_string()),
    ]
}

fn backend_keys(backend: &Backend, path: Option<Path>) -> Keys {
    let path = match path {
        Some(Path::Via(encap, address)) => format!("{} {address}", encap.name()),
        Some(Path::MarkOnly) | None => "mark".to_owned(),
    };
    let active = if backend.active { "yes" } else { "no" };
    vec![("path", path), ("weight", backend.weight.get().to_string()), ("active", active.to_owned())]
}

#[cfg(test)]
mod tests;
