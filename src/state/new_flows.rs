//! Where new flows of a service go. If none of its own backends is active, `no_backend` decides
//! ([`crate::config::Service::no_backend`]): those of another service may get them. It goes no further than one
//! step, so whatever has no backend itself lends none.

use std::fmt;

use super::{Backend, Service, State};
use crate::model::NoBackend;

/// What becomes of the new flows of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewFlows<'a> {
    /// Its own backends get them.
    Own,
    /// The backends of this other service get them.
    Other(&'a Service),
    /// They are rejected.
    Rejected,
    /// They are dropped.
    Dropped,
}

/// In words that follow "its new flows".
impl fmt::Display for NewFlows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("go to its own backends"),
            Self::Other(other) => write!(f, "go to the backends of service {}", other.name),
            Self::Rejected => f.write_str("are rejected"),
            Self::Dropped => f.write_str("are dropped"),
        }
    }
}

impl Service {
    fn has_active(&self) -> bool {
        self.active().next().is_some()
    }

    /// Returns the service that `no_backend` names, of `all`.
    #[must_use]
    pub fn named_in<'a>(&self, all: &'a [Self]) -> Option<&'a Self> {
        let NoBackend::Service(name) = &self.no_backend else { return None };
        all.iter().find(|other| other.name == *name)
    }

    /// Returns what becomes of the new flows of this service, which is one of `all`.
    #[must_use]
    pub fn new_flows<'a>(&self, all: &'a [Self]) -> NewFlows<'a> {
        if self.has_active() {
            return NewFlows::Own;
        }
        let other = self.named_in(all);
        if let Some(other) = other
            && other.has_active()
        {
            return NewFlows::Other(other);
        }
        match other.map_or(&self.no_backend, |other| &other.no_backend) {
            NoBackend::Reject => NewFlows::Rejected,
            NoBackend::Drop | NoBackend::Service(_) => NewFlows::Dropped,
        }
    }

    /// Returns the backends that get new flows of this service, which is one of `all`, in the order of their
    /// ranks: its own, those of another service, or none.
    pub fn serving<'a>(&'a self, all: &'a [Self]) -> impl Iterator<Item = &'a Backend> {
        let by = match self.new_flows(all) {
            NewFlows::Own => Some(self),
            NewFlows::Other(other) => Some(other),
            NewFlows::Rejected | NewFlows::Dropped => None,
        };
        by.into_iter().flat_map(Self::active)
    }
}

impl State {
    /// Returns what becomes of the new flows of a service.
    #[must_use]
    pub fn new_flows(&self, service: &Service) -> NewFlows<'_> {
        service.new_flows(&self.services)
    }

    /// Returns the backends that get new flows of a service, in the order of their ranks: its table has these
    /// ranks.
    pub fn serving<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Backend> {
        service.serving(&self.services)
    }

    /// Returns the service that `no_backend` of `service` names. Flows of `service` may be pinned to its
    /// backends, also when `service` has active backends of its own again.
    #[must_use]
    pub fn stand_in(&self, service: &Service) -> Option<&Service> {
        service.named_in(&self.services)
    }

    /// Returns the services whose flows the backends of `service` may get besides its own: those whose
    /// `no_backend` names it.
    pub fn stands_in_for(&self, service: &Service) -> impl Iterator<Item = &Service> {
        let names = |other: &&Service| self.stand_in(other).is_some_and(|named| named.name == service.name);
        self.services.iter().filter(names)
    }

    /// Checks that `no_backend` names another service, which itself names none.
    pub(super) fn check_no_backend(&self, service: &Service) -> Result<(), &'static str> {
        let NoBackend::Service(name) = &service.no_backend else { return Ok(()) };
        let right = |other: &Service| !matches!(other.no_backend, NoBackend::Service(_));
        let named = self.stand_in(service).filter(|_| *name != service.name);
        named.is_some_and(right).then_some(()).ok_or("a service's no_backend")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Admin, Override},
        tests::fixture,
    };

    /// `web` has two backends, `spare` one; each with what it does without any.
    fn state(web: &str, spare: &str) -> State {
        let keys = |no_backend: &str| format!("protocols='tcp'\ntable_size=97\nno_backend='{no_backend}'");
        fixture::balancer("")
            .service("web", "10.0.0.1", &keys(web))
            .backends(&[("a", "192.168.1.1"), ("b", "192.168.1.2")])
            .service("spare", "10.0.0.2", &keys(spare))
            .backends(&[("s", "192.168.2.1")])
            .state()
    }

    fn without(state: &State, names: &[&str]) -> State {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        state.set_admin(None, &names, &Override::unattributed(Admin::Disabled)).unwrap()
    }

    fn of_web(state: &State) -> (String, Vec<&str>, usize) {
        let web = &state.services[0];
        let serving = state.serving(web).map(|backend| backend.name.as_str()).collect();
        (state.new_flows(web).to_string(), serving, web.table.len())
    }

    #[test]
    fn a_service_without_a_backend_does_what_it_says() {
        let (own, other) = ("go to its own backends", "go to the backends of service spare");
        for (web, spare, one_out, all_out) in [
            ("drop", "reject", "are dropped", "are dropped"),
            ("reject", "drop", "are rejected", "are rejected"),
            ("service:spare", "drop", other, "are dropped"),
            ("service:spare", "reject", other, "are rejected"),
        ] {
            let state = state(web, spare);
            assert_eq!(of_web(&state), (own.to_owned(), vec!["a", "b"], 97), "{web}");
            assert_eq!(of_web(&without(&state, &["a"])), (own.to_owned(), vec!["b"], 97), "{web}");
            let (serving, entries) = if one_out == other { (vec!["s"], 97) } else { (vec![], 0) };
            let out = without(&state, &["a", "b"]);
            assert_eq!(of_web(&out), (one_out.to_owned(), serving, entries), "{web}");
            let none = without(&out, &["s"]);
            assert_eq!(of_web(&none), (all_out.to_owned(), vec![], 0), "{web}");
            none.check().unwrap();
        }
    }

    #[test]
    fn a_table_for_others_flows_is_their_own_one() {
        let state = without(&state("service:spare", "drop"), &["a", "b"]);
        let [web, spare] = &state.services[..] else { panic!("two services") };
        assert!(std::ptr::eq(&*web.table, &*spare.table), "seed, size and backends are the same");
        state.check().unwrap();
    }

    #[test]
    fn what_names_no_other_service_is_refused() {
        let right = state("service:spare", "drop");
        right.check().unwrap();
        for (web, spare) in [
            (NoBackend::Service(right.services[0].name.clone()), NoBackend::Drop),
            (NoBackend::Service(crate::model::Name::known("none")), NoBackend::Drop),
            (right.services[0].no_backend.clone(), NoBackend::Service(right.services[0].name.clone())),
        ] {
            let mut wrong = right.clone();
            (wrong.services[0].no_backend, wrong.services[1].no_backend) = (web, spare);
            assert_eq!(wrong.check(), Err("a service's no_backend"));
        }
    }
}
