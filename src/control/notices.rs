//! What operators are told: which differences of two states are news. PURE.
//!
//! A state is compared with the one before, so what happened between two looks is told once, as what came of it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    model::{Health, Name},
    state::{Backend, NewFlows, Service, State},
};

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// What kind of thing it is about.
    pub about: About,
    /// The service.
    pub service: Name,
    /// The backend; null if it is about the service.
    pub backend: Option<Name>,
    /// What was.
    pub from: &'static str,
    /// What is now.
    pub to: &'static str,
    /// Why, by whom and since when, as far as that is known.
    pub reason: Option<String>,
}

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// Health of a backend: "unknown", "up", "down".
    Health,
    /// What operators want of a backend: "enabled", "draining", "disabled".
    Admin,
    /// What becomes of new flows of a service: "served"; "panic" if so few backends are healthy that all count as
    /// healthy; "other service", "rejected" or "dropped" if none is active.
    NewFlows,
}

impl About {
    /// Returns the name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Admin => "admin",
            Self::NewFlows => "new_flows",
        }
    }
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { about, service, backend, from, to, reason } = self;
        write!(f, "{} of {service}", about.name())?;
        backend.as_ref().map_or(Ok(()), |backend| write!(f, "/{backend}"))?;
        write!(f, ": {from} -> {to}")?;
        reason.as_ref().map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

/// Returns what is news in `after`, in its order: services first, each with its backends. What was not there before,
/// or is gone, is no news: an operator has applied a file.
#[must_use]
pub fn between(before: &State, after: &State) -> Vec<Notice> {
    let known: BTreeMap<&Name, &Service> = before.services.iter().map(|one| (&one.name, one)).collect();
    let mut notices = Vec::new();
    for service in &after.services {
        let Some(old) = known.get(&service.name) else { continue };
        let notice = |about, backend: Option<&Backend>, (from, to), reason| {
            let backend = backend.map(|backend| backend.name.clone());
            (from != to).then(|| Notice { about, service: service.name.clone(), backend, from, to, reason })
        };
        let flows = (new_flows(before, old), new_flows(after, service));
        notices.extend(notice(About::NewFlows, None, flows, None));
        let backends: BTreeMap<&Name, &Backend> = old.backends.iter().map(|one| (&one.name, one)).collect();
        for backend in &service.backends {
            let Some(old) = backends.get(&backend.name) else { continue };
            let found = reason(backend);
            notices.extend(notice(About::Health, Some(backend), (health(old), health(backend)), found));
            let admin = (old.admin().name(), backend.admin().name());
            let said = backend.admission.in_force().map(ToString::to_string);
            notices.extend(notice(About::Admin, Some(backend), admin, said));
        }
    }
    notices
}

fn health(backend: &Backend) -> &'static str {
    backend.health().map_or("unknown", Health::name)
}

/// Why its health is what it is.
fn reason(backend: &Backend) -> Option<String> {
    let found = || backend.observed.as_ref().map(|observed| observed.reason.as_str().to_owned());
    backend.why_down().or_else(found)
}

fn new_flows(state: &State, service: &Service) -> &'static str {
    match state.new_flows(service) {
        NewFlows::Own if service.in_panic() => "panic",
        NewFlows::Own => "served",
        NewFlows::Other(_) => "other service",
        NewFlows::Rejected => "rejected",
        NewFlows::Dropped => "dropped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        model::{Admin, AgentCheck, AgentHealth, Observed, Override, Remark, Reported},
        state::{Observation, Report},
    };

    fn state(more: &str) -> State {
        let text = format!(
            "
            balancer = {{ name = 'lb1', address = '192.168.1.201', interfaces = ['eth0'] }}
            service = [ {{ name = 'web', vips = ['10.0.0.1'], protocols = 'tcp', ports = 80, table_size = 97, {more}
                health = {{ kind = 'tcp', panic_below_percent = 40 }}, backend = [
                {{ name = 's1', address = '192.168.1.1' }},
                {{ name = 's2', address = '192.168.1.2' }} ] }} ]"
        );
        State::new(&Config::parse("test", &text).unwrap()).unwrap()
    }

    fn found(backend: &str, health: Health) -> Observation {
        Observation {
            service: Name::new("web").unwrap(),
            backend: Name::new(backend).unwrap(),
            observed: Observed {
                health,
                since: jiff::Timestamp::UNIX_EPOCH,
                reason: Remark::new("a reason").unwrap(),
            },
        }
    }

    fn said(before: &State, after: &State) -> Vec<String> {
        between(before, after).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn health_and_what_becomes_of_new_flows_are_news() {
        let first = state("");
        let down = first.observe(&[found("s1", Health::Down)]);
        assert_eq!(said(&first, &down), ["health of web/s1: unknown -> down: a reason"]);
        assert_eq!(said(&down, &down), [""; 0]);
        let both = down.observe(&[found("s2", Health::Down)]);
        let panic = ["new_flows of web: served -> panic", "health of web/s2: unknown -> down: a reason"];
        assert_eq!(said(&down, &both), panic);
        let up = both.observe(&[found("s1", Health::Up)]);
        assert_eq!(
            said(&both, &up),
            ["new_flows of web: panic -> served", "health of web/s1: down -> up: a reason"]
        );
    }

    #[test]
    fn what_the_agent_on_a_backend_reports_down_is_news() {
        let mut first = state("");
        let check = first.services[0].health.as_mut().unwrap();
        check.agent =
            Some(AgentCheck { port: 5555.try_into().unwrap(), interval_ms: 1000, send: String::new() });
        let up = first.observe(&[found("s1", Health::Up)]);
        let reported = Reported {
            health: AgentHealth::Fail,
            reason: Remark::new("no database"),
            ..Reported::nothing(jiff::Timestamp::UNIX_EPOCH)
        };
        let (service, backend) = (Name::new("web").unwrap(), Name::new("s1").unwrap());
        let down = up.hear(&[Report { service, backend, reported }]);
        assert_eq!(said(&up, &down), ["health of web/s1: up -> down: agent: fail: no database"]);
        assert_eq!(said(&down, &up), ["health of web/s1: down -> up: a reason"]);
        let both = down.observe(&[found("s1", Health::Down)]);
        assert_eq!(said(&up, &both), ["health of web/s1: up -> down: a reason"]);
    }

    #[test]
    fn what_operators_say_is_news_with_their_reason() {
        let first = state("no_backend = 'reject',");
        let names = ["s1".to_owned(), "s2".to_owned()];
        let order = Override { reason: Remark::new("disk"), ..Override::unattributed(Admin::Draining) };
        let drained = first.set_admin(None, &names, &order).unwrap();
        let said = said(&first, &drained);
        assert_eq!(said[0], "new_flows of web: served -> rejected");
        assert!(
            said[1].starts_with("admin of web/s1: enabled -> draining: draining by unknown since "),
            "{said:?}"
        );
        assert!(said[2].ends_with(": disk"), "{said:?}");
        let json = serde_json::to_value(&between(&first, &drained)[1]).unwrap();
        assert_eq!(
            (&json["about"], &json["backend"], &json["to"]),
            (&"admin".into(), &"s1".into(), &"draining".into())
        );
    }

    #[test]
    fn what_a_file_adds_or_removes_is_no_news() {
        let mut other = state("");
        other.services[0].name = Name::new("new").unwrap();
        assert_eq!(said(&state(""), &other), [""; 0]);
        let mut fewer = state("");
        fewer.services[0].backends.pop();
        assert_eq!(said(&fewer, &state("")), [""; 0]);
    }
}
