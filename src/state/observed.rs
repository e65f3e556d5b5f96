//! What health checks found, and what it does to a state. PURE.

use serde::{Deserialize, Serialize};

use super::{State, change::Tables};
use crate::model::{Name, Observed};

/// What checks found of one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The service.
    pub service: Name,
    /// The backend.
    pub backend: Name,
    /// What was found.
    #[serde(flatten)]
    pub observed: Observed,
}

impl State {
    /// Returns this state with what checks found. What is about a backend that is not there, or is not checked,
    /// does nothing: the file may have changed while the check ran.
    #[must_use]
    pub fn observe(&self, found: &[Observation]) -> Self {
        let mut next = self.clone();
        for Observation { service, backend, observed } in found {
            let service = next.services.iter_mut().find(|one| one.name == *service && one.health.is_some());
            let backend =
                service.and_then(|service| service.backends.iter_mut().find(|one| one.name == *backend));
            if let Some(backend) = backend {
                backend.observed = Some(observed.clone());
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
        model::{Admin, Health, Override, Remark},
    };

    fn state(health: &str) -> State {
        let text = format!(
            "
            balancer = {{ name = 'lb1', address = '192.168.1.201', interfaces = ['eth0'] }}
            service = [ {{ name = 'web', vips = ['10.0.0.1'], protocols = 'tcp', ports = 80, table_size = 97, {health} backend = [
                {{ name = 's1', address = '192.168.1.1' }},
                {{ name = 's2', address = '192.168.1.2' }},
                {{ name = 's3', address = '192.168.1.3' }},
                {{ name = 's4', address = '192.168.1.4' }} ] }} ]"
        );
        State::new(&Config::parse("test", &text).unwrap()).unwrap()
    }

    fn checked() -> State {
        state("health = { kind = 'tcp' },")
    }

    fn found(backend: &str, health: Health) -> Observation {
        Observation {
            service: Name::new("web").unwrap(),
            backend: Name::new(backend).unwrap(),
            observed: Observed {
                health,
                since: Timestamp::UNIX_EPOCH,
                reason: Remark::new("connection refused").unwrap(),
            },
        }
    }

    fn active(state: &State) -> Vec<&str> {
        state.services[0].active().map(|backend| backend.name.as_str()).collect()
    }

    #[test]
    fn a_backend_that_is_down_gets_no_new_flows_until_it_is_up() {
        let before = checked();
        let down = before.observe(&[found("s2", Health::Down)]);
        assert_eq!(active(&down), ["s1", "s3", "s4"]);
        assert_ne!(down.services[0].table, before.services[0].table);
        down.check().unwrap();
        let changes: Vec<String> = before.changes(&down).iter().map(ToString::to_string).collect();
        assert_eq!(changes, ["+ backend web/s2 health: down: connection refused"]);
        let up = down.observe(&[found("s2", Health::Up)]);
        assert_eq!(active(&up), ["s1", "s2", "s3", "s4"]);
        assert_eq!(up.services[0].table, before.services[0].table);
    }

    #[test]
    fn operators_and_checks_must_both_agree() {
        let names = ["s1".to_owned()];
        let out = checked().set_admin(None, &names, &Override::unattributed(Admin::Disabled)).unwrap();
        assert_eq!(active(&out.observe(&[found("s1", Health::Up), found("s2", Health::Down)])), ["s3", "s4"]);
        let down = checked().observe(&[found("s1", Health::Down)]);
        let asked = down.set_admin(None, &names, &Override::unattributed(Admin::Enabled)).unwrap();
        assert_eq!(active(&asked), ["s2", "s3", "s4"]);
    }

    #[test]
    fn with_too_few_healthy_ones_all_enabled_ones_count_as_healthy() {
        let downs = ["s1", "s2", "s3"].map(|name| found(name, Health::Down));
        let (two, three) = (checked().observe(&downs[..2]), checked().observe(&downs));
        assert!(!two.services[0].in_panic());
        assert_eq!(active(&two), ["s3", "s4"]);
        assert!(three.services[0].in_panic());
        assert_eq!(active(&three), ["s1", "s2", "s3", "s4"]);
        let never = state("health = { kind = 'tcp', panic_below_percent = 0 },");
        assert_eq!(active(&never.observe(&downs)), ["s4"]);
        let all = [downs.as_slice(), &[found("s4", Health::Down)]].concat();
        assert_eq!(active(&never.observe(&all)), [""; 0]);
        // A drained backend is no part of it.
        let drained = checked()
            .set_admin(
                None,
                &["s1".into(), "s2".into(), "s3".into()],
                &Override::unattributed(Admin::Disabled),
            )
            .unwrap();
        assert_eq!(active(&drained.observe(&downs)), ["s4"]);
    }

    #[test]
    fn what_is_not_checked_or_not_there_is_left_alone() {
        let unchecked = state("");
        assert_eq!(unchecked.observe(&[found("s1", Health::Down)]), unchecked);
        assert_eq!(checked().observe(&[found("s9", Health::Down)]), checked());
    }

    #[test]
    fn a_file_keeps_what_was_found_of_the_same_host() {
        let down = checked().observe(&[found("s1", Health::Down), found("s2", Health::Down)]);
        let text = "
            balancer = { name = 'lb1', address = '192.168.1.201', interfaces = ['eth0'] }
            service = [ { name = 'web', vips = ['10.0.0.1'], protocols = 'tcp', ports = 80, table_size = 97,
                health = { kind = 'tcp', fall = 5 }, backend = [
                { name = 's1', address = '192.168.1.1' },
                { name = 's2', address = '192.168.1.9' },
                { name = 's3', address = '192.168.1.3' } ] } ]";
        let next = down.merge(&Config::parse("test", text).unwrap()).unwrap();
        assert_eq!(active(&next), ["s2", "s3"]);
        let changes: Vec<String> = down.changes(&next).iter().map(ToString::to_string).collect();
        assert!(changes.contains(&"~ service web health fall: 3 -> 5".to_owned()), "{changes:?}");
        let without = text.replacen("health = { kind = 'tcp', fall = 5 },", "", 1);
        let next = down.merge(&Config::parse("test", &without).unwrap()).unwrap();
        assert_eq!(active(&next), ["s1", "s2", "s3"]);
        next.check().unwrap();
    }
}
