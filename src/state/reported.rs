//! What the agents on backends report, and what it does to a state. PURE.

use serde::{Deserialize, Serialize};

use super::{State, change::Tables};
use crate::model::{Name, Reported};

/// What the agent on one backend reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The service.
    pub service: Name,
    /// The backend.
    pub backend: Name,
    /// What it reports.
    #[serde(flatten)]
    pub reported: Reported,
}

impl State {
    /// Returns this state with what agents report. What is about a backend that is not there, or whose agent is not asked, does
    /// nothing: the file may have changed meanwhile.
    #[must_use]
    pub fn hear(&self, reports: &[Report]) -> Self {
        let mut next = self.clone();
        for Report { service, backend, reported } in reports {
            let asked = |service: &&mut super::Service| {
                service.health.as_ref().is_some_and(|health| health.agent.is_some())
            };
            let service = next.services.iter_mut().find(|one| one.name == *service).filter(asked);
            let backend =
                service.and_then(|service| service.backends.iter_mut().find(|one| one.name == *backend));
            if let Some(backend) = backend {
                backend.reported = Some(reported.clone());
            }
        }
        if next != *self {
            Tables::of(self).give(&mut next.services, self.balancer.hash_seed);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        config::Config,
        model::{Admin, AgentHealth, AgentMode, Health, Observed, Override, Percent, Remark},
        state::Observation,
    };

    fn file(health: &str) -> Config {
        let text = format!(
            "
            balancer = {{ name = 'lb1', address = '192.168.1.201', interfaces = ['eth0'] }}
            service = [ {{ name = 'web', vips = ['10.0.0.1'], protocols = 'tcp', ports = 80, table_size = 997, {health} backend = [
                {{ name = 's1', address = '192.168.1.1' }},
                {{ name = 's2', address = '192.168.1.2' }},
                {{ name = 's3', address = '192.168.1.3' }} ] }} ]"
        );
        Config::parse("test", &text).unwrap()
    }

    fn asked() -> State {
        State::new(&file("health = { kind = 'tcp', agent_port = 5555 },")).unwrap()
    }

    fn report(backend: &str, percent: u32, mode: AgentMode, health: AgentHealth) -> Report {
        Report {
            service: Name::new("web").unwrap(),
            backend: Name::new(backend).unwrap(),
            reported: Reported {
                weight_percent: Percent::nearest(percent),
                mode,
                health,
                ..Reported::nothing(Timestamp::UNIX_EPOCH)
            },
        }
    }

    fn active(state: &State) -> Vec<&str> {
        state.services[0].active().map(|backend| backend.name.as_str()).collect()
    }

    fn entries(state: &State, rank: u16) -> usize {
        state.services[0].table.iter().filter(|entry| **entry == rank).count()
    }

    const READY: AgentMode = AgentMode::Ready;
    const UP: AgentHealth = AgentHealth::Up;

    #[test]
    fn a_lower_weight_takes_entries_and_all_of_it_gives_the_same_table_back() {
        let before = asked();
        let whole = before.hear(&[report("s2", 100, READY, UP)]);
        assert_eq!(whole.services[0].table, before.services[0].table);
        let half = whole.hear(&[report("s2", 50, READY, UP)]);
        assert_eq!(active(&half), ["s1", "s2", "s3"]);
        assert!((195..=204).contains(&entries(&half, 1)), "{}", entries(&half, 1));
        half.check().unwrap();
        let changes: Vec<String> = whole.changes(&half).iter().map(ToString::to_string).collect();
        assert_eq!(changes, ["~ backend web/s2 agent: 100% -> 50%"]);
        assert_eq!(half.hear(&[report("s2", 100, READY, UP)]), whole);
    }

    #[test]
    fn an_agent_takes_out_and_cannot_put_in_what_others_took_out() {
        for (percent, mode, health) in [
            (0, READY, UP),
            (100, AgentMode::Drain, UP),
            (100, AgentMode::Maint, UP),
            (100, READY, AgentHealth::Down),
            (100, READY, AgentHealth::Fail),
            (100, READY, AgentHealth::Stopped),
        ] {
            let out = asked().hear(&[report("s2", percent, mode, health)]);
            assert_eq!(active(&out), ["s1", "s3"], "{percent} {mode} {health}");
            out.check().unwrap();
            let down = out.services[0].down().count();
            assert_eq!(down, usize::from(health != UP), "what happens to flows is as for checks");
        }
        let names = ["s2".to_owned()];
        let drained = asked().set_admin(None, &names, &Override::unattributed(Admin::Draining)).unwrap();
        assert_eq!(active(&drained.hear(&[report("s2", 100, READY, UP)])), ["s1", "s3"]);
        let observed = Observed {
            health: Health::Down,
            since: Timestamp::UNIX_EPOCH,
            reason: Remark::new("connection refused").unwrap(),
        };
        let (service, backend) = (Name::new("web").unwrap(), Name::new("s2").unwrap());
        let down = asked().observe(&[Observation { service, backend, observed }]);
        assert_eq!(active(&down.hear(&[report("s2", 100, READY, UP)])), ["s1", "s3"]);
    }

    #[test]
    fn down_counts_for_the_panic_rule_and_a_drain_does_not() {
        let of = |mode, health, names: &[&str]| {
            let reports: Vec<Report> = names.iter().map(|name| report(name, 100, mode, health)).collect();
            asked().hear(&reports)
        };
        let down = of(READY, AgentHealth::Down, &["s1", "s2", "s3"]);
        assert!(down.services[0].in_panic());
        assert_eq!(active(&down), ["s1", "s2", "s3"]);
        let drained = of(AgentMode::Drain, UP, &["s1", "s2", "s3"]);
        assert!(!drained.services[0].in_panic());
        assert_eq!(active(&drained), [""; 0]);
        // One that is down of one that counts: the drained ones stay out.
        let mixed =
            of(AgentMode::Drain, UP, &["s1", "s2"]).hear(&[report("s3", 100, READY, AgentHealth::Down)]);
        assert!(mixed.services[0].in_panic());
        assert_eq!(active(&mixed), ["s3"]);
    }

    #[test]
    fn a_file_that_asks_no_agent_ends_what_it_reported() {
        let half = asked().hear(&[report("s2", 50, READY, UP)]);
        let of = |keys: &str| {
            let next = half.merge(&file(&format!("health = {{ kind = 'tcp', {keys} }},"))).unwrap();
            let changes: Vec<String> = half.changes(&next).iter().map(ToString::to_string).collect();
            (next.services[0].backends[1].reported.clone(), changes.join("; "))
        };
        let kept = half.services[0].backends[1].reported.clone();
        let interval = "~ service web health agent_interval_ms: 2000 -> 500";
        assert_eq!(of("agent_port = 5555, agent_interval_ms = 500"), (kept, interval.to_owned()));
        // Another agent, or another question.
        for (keys, change) in [
            ("agent_port = 6666", "~ service web health agent_port: 5555 -> 6666"),
            ("agent_port = 5555, agent_send = 'a'", "+ service web health agent_send: a"),
        ] {
            let (reported, changes) = of(keys);
            assert_eq!(reported, None, "{keys}");
            assert_eq!(changes, format!("{change}; - backend web/s2 agent: 50%"));
        }
        let none = half.merge(&file("health = { kind = 'tcp' },")).unwrap();
        assert_eq!(none.services[0].backends[1].reported, None);
        assert_eq!(none.services[0].table, asked().services[0].table);
        none.check().unwrap();
        assert_eq!(none.hear(&[report("s2", 50, READY, UP)]), none);
        let mut wrong = none;
        wrong.services[0].backends[1].reported = half.services[0].backends[1].reported.clone();
        assert!(wrong.check().is_err());
    }

    #[test]
    fn documents_of_before_are_read_and_hold_all_of_every_weight() {
        let state = asked();
        let text = serde_json::to_string(&state).unwrap();
        assert!(!text.contains("reported"), "{text}");
        let checked = State::new(&file("health = { kind = 'tcp' },")).unwrap();
        assert!(!serde_json::to_string(&checked).unwrap().contains("agent"));
        let half = state.hear(&[report("s2", 50, READY, UP)]);
        let text = serde_json::to_string(&half).unwrap();
        let read = serde_json::from_str::<State>(&text).unwrap().with_tables().unwrap();
        assert_eq!(read, half);
    }
}
