//! The differences between two states, for display and for `--json`.

use std::{borrow::Cow, collections::HashMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Backend, Service, State, TierMember};
use crate::{
    config::Balancer,
    model::{Admission, Name, Path, PortRange},
};

/// One difference between two states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The subject of the change, such as `balancer`, `timeouts`, `fragments`, `tracer`, `tier lb202`, `service web` or
    /// `backend web/s1`.
    pub what: String,
    /// The key that changed; `None` if the whole subject was added or removed.
    pub key: Option<String>,
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
        if let Some(key) = &self.key {
            write!(f, " {key}")?;
        }
        // Text that is sent may have control characters, which a terminal would obey.
        match (self.from.as_deref().map(visible), self.to.as_deref().map(visible)) {
            (Some(from), Some(to)) => write!(f, ": {from} -> {to}"),
            (None, Some(value)) | (Some(value), None) if !value.is_empty() => write!(f, ": {value}"),
            _ => Ok(()),
        }
    }
}

/// Writes control characters as Rust does: "web\n".
fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let written = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(written).collect::<String>().into()
}

impl State {
    /// Returns the differences to `next`, without the tables, which follow from the rest.
    #[must_use]
    pub fn changes(&self, next: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let balancer = |state: &Self| {
            let mut keys = keys_of(&state.balancer);
            let order = state.admission.in_force();
            keys.extend(order.map(|order| ("override".to_owned(), order.to_string())));
            Some(keys)
        };
        compare("balancer".to_owned(), balancer(self), balancer(next), &mut changes);
        let parts = |state: &Self| {
            let Balancer { timeouts, fragments, tracer, http, .. } = &state.balancer;
            [
                ("timeouts", keys_of(timeouts)),
                ("fragments", keys_of(fragments)),
                ("tracer", keys_of(tracer)),
                ("http", keys_of(http)),
            ]
        };
        for ((what, old), (_, new)) in parts(self).into_iter().zip(parts(next)) {
            compare(what.to_owned(), Some(old), Some(new), &mut changes);
        }
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

type Keys = Vec<(String, String)>;

fn compare(what: String, old: Option<Keys>, new: Option<Keys>, changes: &mut Vec<Change>) {
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old, new),
        (old, new) => {
            return changes.push(Change { what, key: None, from: old.map(summary), to: new.map(summary) });
        }
    };
    let value_in =
        |keys: &Keys, key: &str| keys.iter().find(|(other, _)| other == key).map(|(_, value)| value.clone());
    let only_new = new.iter().filter(|(key, _)| value_in(&old, key).is_none());
    for (key, _) in old.iter().chain(only_new) {
        let (from, to) = (value_in(&old, key), value_in(&new, key));
        if from != to {
            changes.push(Change { what: what.clone(), key: Some(key.clone()), from, to });
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

/// Returns the keys of a value that is stored as JSON, with their values as text. What is nested belongs to
/// other subjects.
fn keys_of(value: &impl Serialize) -> Keys {
    let Ok(Value::Object(keys)) = serde_json::to_value(value) else { return Vec::new() };
    let own = keys.into_iter().filter(|(_, value)| !value.is_object());
    own.map(|(key, value)| (key, text_of(&value))).collect()
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Bool(value) => yes_or_no(*value),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Array(items) => joined(items.iter().map(text_of)),
        Value::Object(_) => String::new(),
    }
}

fn service_keys(service: &Service) -> Keys {
    let mut keys = keys_of(service);
    keys.retain(|(key, _)| !["name", "backends"].contains(&key.as_str()));
    let health = service.health.iter().flat_map(keys_of);
    keys.extend(health.map(|(key, value)| (format!("health {key}"), value)));
    let agent = service.health.iter().filter_map(|health| health.agent.as_ref()).flat_map(keys_of);
    keys.extend(agent.map(|(key, value)| (format!("health agent_{key}"), value)));
    let all = |(key, _): &&mut (String, String)| key == "ports" && service.ports == [PortRange::ALL];
    keys.iter_mut().filter(all).for_each(|(_, value)| "all".clone_into(value));
    keys
}

fn tier_keys(member: &TierMember) -> Keys {
    with_admission(vec![("address".to_owned(), joined(member.address.iter()))], &member.admission)
}

fn backend_keys(backend: &Backend, path: Option<Path>) -> Keys {
    let path = path.unwrap_or(Path::MarkOnly).to_string();
    let keys = vec![("path".to_owned(), path), ("weight".to_owned(), backend.weight.get().to_string())];
    let mut keys = with_admission(keys, &backend.admission);
    let found = backend.observed.as_ref().map(|observed| format!("{}: {}", observed.health, observed.reason));
    keys.extend(found.map(|found| ("health".to_owned(), found)));
    let reported = backend.reported.as_ref().map(|reported| ("agent".to_owned(), reported.summary()));
    keys.extend(reported);
    keys
}

/// An override is a key where there is one.
fn with_admission(mut keys: Keys, admission: &Admission) -> Keys {
    keys.push(("active".to_owned(), yes_or_no(admission.active())));
    keys.extend(admission.in_force().map(|order| ("override".to_owned(), order.to_string())));
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        let what = "service web".to_owned();
        let (from, to) = (Some("web\n".to_owned()), Some("\u{1b}[31mweb é\r\n".to_owned()));
        let change = Change { what, key: Some("health agent_send".to_owned()), from, to };
        let shown = r"~ service web health agent_send: web\n -> \u{1b}[31mweb é\r\n";
        assert_eq!(change.to_string(), shown);
    }
}
