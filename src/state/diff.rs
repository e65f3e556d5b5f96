//! The differences between two states, for display and for `--json`.

use std::{collections::HashMap, fmt};

use serde::Serialize;

use super::{Backend, Service, State, TierMember};
use crate::{
    config::{Balancer, FragmentLimits, TracerSettings},
    model::{Name, Path, PortRange, Protocols},
};

/// One difference between two states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The subject of the change, such as `balancer`, `fragments`, `tracer`, `tier lb202`, `service web` or
    /// `backend web/s1`.
    pub what: String,
    /// The key that changed; `None` if the whole subject was added or removed.
    pub key: Option<&'static str>,
    /// The former value; `None` if it is new.
    pub from: Option<String>,
    /// The new value; `None` if it is removed.
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
    /// Returns the differences to `next`, without the tables, which follow from the rest.
    #[must_use]
    pub fn changes(&self, next: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let balancer = |state: &Self| Some(balancer_keys(&state.balancer));
        compare("balancer".to_owned(), balancer(self), balancer(next), &mut changes);
        let fragments = |state: &Self| Some(fragment_keys(&state.balancer.fragments));
        compare("fragments".to_owned(), fragments(self), fragments(next), &mut changes);
        let tracer = |state: &Self| Some(tracer_keys(&state.balancer.tracer));
        compare("tracer".to_owned(), tracer(self), tracer(next), &mut changes);
        for (name, old, new) in pairs(&self.tier, &next.tier, |member| &member.name) {
            compare(format!("tier {name}"), old.map(tier_keys), new.map(tier_keys), &mut changes);
        }
        for (name, old, new) in pairs(&self.services, &next.services, |service| &service.name) {
            compare(format!("service {name}"), old.map(service_keys), new.map(service_keys), &mut changes);
            let backends =
                |service: Option<_>| service.map_or(&[][..], |service: &Service| &service.backends);
            for (backend, old, new) in pairs(backends(old), backends(new), |backend| &backend.name) {
                let keys_of = |state: &Self, backend| backend_keys(backend, state.path(backend.target));
                let (old, new) = (old.map(|b| keys_of(self, b)), new.map(|b| keys_of(next, b)));
                compare(format!("backend {name}/{backend}"), old, new, &mut changes);
            }
        }
        changes
    }
}

/// Pairs the items of `old` and `new` that have the same name, in the order of `old`; then come the items
/// that are new.
fn pairs<'a, T>(
    old: &'a [T],
    new: &'a [T],
    name: fn(&T) -> &Name,
) -> Vec<(&'a Name, Option<&'a T>, Option<&'a T>)> {
    let by_name = |items: &'a [T]| items.iter().map(|item| (name(item), item)).collect::<HashMap<_, _>>();
    let (olds, news) = (by_name(old), by_name(new));
    let both = old.iter().map(|item| (name(item), Some(item), news.get(name(item)).copied()));
    let fresh = new.iter().filter(|item| !olds.contains_key(name(item)));
    both.chain(fresh.map(|item| (name(item), None, Some(item)))).collect()
}

type Keys = Vec<(&'static str, String)>;

fn compare(what: String, old: Option<Keys>, new: Option<Keys>, changes: &mut Vec<Change>) {
    match (old, new) {
        (Some(old), Some(new)) => {
            for ((key, from), (_, to)) in old.into_iter().zip(new).filter(|(old, new)| old != new) {
                let (what, from, to) = (what.clone(), Some(from), Some(to));
                changes.push(Change { what, key: Some(key), from, to });
            }
        }
        (old, new) => {
            changes.push(Change { what, key: None, from: old.map(summary), to: new.map(summary) });
        }
    }
}

fn summary(keys: Keys) -> String {
    joined_by(", ", keys.into_iter().map(|(key, value)| format!("{key} {value}")))
}

fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let text = joined_by(" ", items.into_iter().map(|item| item.to_string()));
    if text.is_empty() { "none".to_owned() } else { text }
}

fn joined_by(separator: &str, items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(separator)
}

fn yes_or_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

fn balancer_keys(balancer: &Balancer) -> Keys {
    let timeouts = balancer.timeouts;
    vec![
        ("name", balancer.name.to_string()),
        ("address", joined(balancer.addresses())),
        ("interfaces", joined(&balancer.interfaces)),
        ("queues", balancer.queues.to_string()),
        ("fragment_queue", balancer.fragment_queue.0.to_string()),
        ("hash_seed", balancer.hash_seed.to_string()),
        ("mark_mask", format!("{:#010x}", balancer.mark_mask.bits())),
        ("steering", balancer.steering.name().to_owned()),
        ("gre_in", yes_or_no(balancer.gre_in)),
        ("rule_priority", balancer.rule_priority.map_or("automatic".to_owned(), |at| at.to_string())),
        ("blackhole", joined(&balancer.blackhole)),
        ("allow_own_addresses", yes_or_no(balancer.allow_own_addresses)),
        ("kernel_entries", balancer.kernel_entries.to_string()),
        ("pmtu_floor", balancer.pmtu_floor.to_string()),
        ("offload", yes_or_no(balancer.offload)),
        ("busy_poll_us", balancer.busy_poll_us.to_string()),
        ("tcp_established_seconds", timeouts.tcp_established_seconds.to_string()),
        ("tcp_closing_seconds", timeouts.tcp_closing_seconds.to_string()),
        ("udp_seconds", timeouts.udp_seconds.to_string()),
    ]
}

fn fragment_keys(limits: &FragmentLimits) -> Keys {
    vec![
        ("ttl_ms", limits.ttl_ms.to_string()),
        ("entries", limits.entries.to_string()),
        ("entries_per_source", limits.entries_per_source.to_string()),
        ("held_packets", limits.held_packets.to_string()),
        ("held_bytes", limits.held_bytes.to_string()),
        ("held_bytes_per_source", limits.held_bytes_per_source.to_string()),
    ]
}

fn tracer_keys(tracer: &TracerSettings) -> Keys {
    vec![("receivers", joined(&tracer.receivers)), ("per_second", tracer.per_second.to_string())]
}

fn tier_keys(member: &TierMember) -> Keys {
    vec![("address", joined(member.addresses())), ("active", yes_or_no(member.active))]
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
        ("pmtu", service.pmtu.name().to_owned()),
        ("steering", service.decider.name().to_owned()),
        ("table_size", service.table_size.get().to_string()),
    ]
}

fn backend_keys(backend: &Backend, path: Option<Path>) -> Keys {
    let path = match path {
        Some(Path::Via(encap, address)) => format!("{} {address}", encap.name()),
        Some(Path::MarkOnly) | None => "mark".to_owned(),
    };
    let (weight, active) = (backend.weight.get().to_string(), yes_or_no(backend.active));
    vec![("path", path), ("weight", weight), ("active", active)]
}
