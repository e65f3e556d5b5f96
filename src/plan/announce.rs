//! Which VIPs this balancer can serve, so that routers may send their packets here. PURE.
//!
//! A VIP is announced by a route in a table of its own ([`crate::config::Balancer::announce_table`]), which a
//! routing daemon exports. No rule leads to that table, so the route steers nothing, and no address is added
//! to the host. This file says which VIPs can be served, and why others cannot; `control/announce.rs` says when
//! a VIP that can be served again is announced again.
//!
//! A prefix may be a VIP of several services. It is announced if one of them can be served: withdrawing it
//! would take that one from its clients, too.

use std::{collections::BTreeMap, fmt};

use ipnet::IpNet;

use super::kernel_tables;
use crate::{
    model::Name,
    state::{NewFlows, Service, State},
};

/// What decides about new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decides {
    /// An lbd that runs, or the kernel instead of it.
    Lbd,
    /// The kernel alone: no lbd runs.
    Kernel,
}

/// Why a VIP cannot be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Too few backends of the service are usable.
    TooFew {
        /// The service.
        service: Name,
        /// How many backends are enabled and healthy.
        usable: usize,
        /// How many are needed.
        needed: usize,
    },
    /// No lbd runs, and the kernel has no table of the service.
    NoTable {
        /// The service.
        service: Name,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFew { service, usable, needed } => {
                write!(f, "service {service} has {usable} usable backends, and announce_min is {needed}")
            }
            Self::NoTable { service } => {
                write!(f, "no lbd runs, and the kernel has no table of service {service}")
            }
        }
    }
}

/// Returns every VIP that is announced while it can be served, each with why it cannot be; none without a table
/// for announcements. With several services, the reason is that of the first in the order of the state.
#[must_use]
pub fn vips(state: &State, decides: Decides) -> BTreeMap<IpNet, Result<(), Why>> {
    let mut vips: BTreeMap<IpNet, Result<(), Why>> = BTreeMap::new();
    if state.balancer.announce_table.is_none() {
        return vips;
    }
    let tables = kernel_tables::with_fallback_table(state);
    for (service, has_table) in state.services.iter().zip(tables) {
        if !service.announcing.announce {
            continue;
        }
        let served = if decides == Decides::Kernel && !has_table {
            Err(Why::NoTable { service: service.name.clone() })
        } else {
            enough(state, service)
        };
        for vip in &service.vips {
            let known = vips.entry(vip.trunc()).or_insert_with(|| served.clone());
            if served.is_ok() {
                *known = Ok(());
            }
        }
    }
    vips
}

/// Reports whether enough backends get new flows of a service and answer. In panic, backends get new flows
/// although their checks fail: these count for nothing here, since another balancer may reach them.
fn enough(state: &State, service: &Service) -> Result<(), Why> {
    let usable = |service: &Service| {
        service.backends.iter().filter(|backend| backend.admitted() && backend.healthy()).count()
    };
    let usable = match state.new_flows(service) {
        NewFlows::Other(other) => usable(other),
        NewFlows::Own | NewFlows::Rejected | NewFlows::Dropped => usable(service),
    };
    let needed = usize::from(service.announcing.min);
    if usable >= needed {
        return Ok(());
    }
    Err(Why::TooFew { service: service.name.clone(), usable, needed })
}

/// A service that asks for more backends than it has before its VIPs are announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Never {
    /// The service.
    pub service: Name,
    /// How many it asks for.
    pub needed: usize,
    /// How many it has, or the one that stands in for it, if that has more.
    pub backends: usize,
}

impl fmt::Display for Never {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, needed, backends } = self;
        write!(
            f,
            "service {service}: announce_min is {needed}, more than the {backends} backends that it, or the one that stands in for it, has: it never lets its VIPs be announced"
        )
    }
}

/// Returns the services that never let their VIPs be announced, because they never have enough backends.
#[must_use]
pub fn never(state: &State) -> Vec<Never> {
    if state.balancer.announce_table.is_none() {
        return Vec::new();
    }
    let backends = |service: &Service| {
        let stands_in = service.named_in(&state.services).map_or(0, |other| other.backends.len());
        service.backends.len().max(stands_in)
    };
    let asked = state.services.iter().filter(|service| service.announcing.announce);
    let never = asked.filter_map(|service| {
        let (needed, backends) = (usize::from(service.announcing.min), backends(service));
        (needed > backends).then(|| Never { service: service.name.clone(), needed, backends })
    });
    never.collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        model::{Admin, Health, Observed, Override, Remark},
        state::Observation,
        tests::fixture::{self, Fixture},
    };

    const CHECKED: &str = "protocols='tcp'\nports=80\ntable_size=97\nhealth={kind='tcp'}";

    fn web(balancer: &str, keys: &str) -> Fixture {
        fixture::balancer(balancer)
            .service("web", "10.0.0.1 1000::/112", &format!("{CHECKED}\n{keys}"))
            .backends(&[("a", "192.168.1.1"), ("b", "192.168.1.2")])
    }

    fn down(state: &State, names: &[&str]) -> State {
        let found = |name: &&str| Observation {
            service: Name::known("web"),
            backend: Name::new(name).unwrap(),
            observed: Observed {
                health: Health::Down,
                since: Timestamp::UNIX_EPOCH,
                reason: Remark::new("timeout").unwrap(),
            },
        };
        state.observe(&names.iter().map(found).collect::<Vec<_>>())
    }

    /// Each VIP, with `-` and the reason if it cannot be served.
    fn said(state: &State, decides: Decides) -> Vec<String> {
        let said = |(vip, served): (IpNet, Result<(), Why>)| match served {
            Ok(()) => vip.to_string(),
            Err(why) => format!("-{vip} {why}"),
        };
        vips(state, decides).into_iter().map(said).collect()
    }

    #[test]
    fn a_vip_is_announced_while_enough_backends_are_usable() {
        let both = ["10.0.0.1/32", "1000::/112"];
        let none = "service web has 0 usable backends, and announce_min is 1";
        let state = web("announce_table=201", "").state();
        assert_eq!(said(&state, Decides::Lbd), both);
        assert_eq!(said(&down(&state, &["a"]), Decides::Lbd), both);
        // All get new flows then, since the service is in panic.
        let panic = down(&state, &["a", "b"]);
        assert_eq!(panic.services[0].active().count(), 2);
        assert_eq!(said(&panic, Decides::Lbd), both.map(|vip| format!("-{vip} {none}")));
        let drained = ["a".to_owned(), "b".to_owned()];
        let drained = state.set_admin(None, &drained, &Override::unattributed(Admin::Draining)).unwrap();
        assert_eq!(said(&drained, Decides::Lbd), both.map(|vip| format!("-{vip} {none}")));
        let two = web("announce_table=201", "announce_min=2").state();
        assert_eq!(said(&two, Decides::Lbd), both);
        let few = "service web has 1 usable backends, and announce_min is 2";
        assert_eq!(said(&down(&two, &["b"]), Decides::Lbd), both.map(|vip| format!("-{vip} {few}")));
    }

    #[test]
    fn a_service_that_asks_for_more_backends_than_there_are_is_never_announced() {
        let never = |of: &Fixture| never(&of.state()).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(never(&web("announce_table=201", "announce_min=2")), [""; 0]);
        let three = "service web: announce_min is 3, more than the 2 backends that it, or the one that stands in for it, has: it never lets its VIPs be announced";
        assert_eq!(never(&web("announce_table=201", "announce_min=3")), [three]);
        assert_eq!(never(&web("", "announce_min=3")), [""; 0], "nothing is announced");
        assert_eq!(never(&web("announce_table=201", "announce_min=3\nannounce=false")), [""; 0]);
        let spare = web("announce_table=201", "announce_min=3\nno_backend='service:spare'")
            .service("spare", "10.0.0.9", "protocols='tcp'\nports=80\ntable_size=97\nannounce=false")
            .backends(&[("x", "192.168.1.7"), ("y", "192.168.1.8"), ("z", "192.168.1.9")]);
        assert_eq!(never(&spare), [""; 0], "those that stand in are enough");
    }

    #[test]
    fn without_a_table_or_the_services_will_nothing_is_announced() {
        assert_eq!(said(&web("", "").state(), Decides::Lbd), [""; 0]);
        assert_eq!(said(&web("announce_table=201", "announce=false").state(), Decides::Lbd), [""; 0]);
    }

    #[test]
    fn a_vip_of_several_services_is_announced_if_one_can_be_served() {
        let state = web("announce_table=201", "")
            .service("tls", "10.0.0.1", "protocols='tcp'\nports=443\ntable_size=97")
            .backends(&[("c", "192.168.1.3")])
            .state();
        let out = down(&state, &["a", "b"]);
        let none = "-1000::/112 service web has 0 usable backends, and announce_min is 1";
        assert_eq!(said(&out, Decides::Lbd), ["10.0.0.1/32", none]);
    }

    #[test]
    fn backends_that_stand_in_count() {
        let state = web("announce_table=201", "no_backend='service:spare'")
            .service("spare", "10.0.0.9", "protocols='tcp'\nports=80\ntable_size=97\nannounce=false")
            .backends(&[("s", "192.168.1.9")])
            .state();
        let names = ["a".to_owned(), "b".to_owned()];
        let out = state.set_admin(None, &names, &Override::unattributed(Admin::Disabled)).unwrap();
        assert_eq!(said(&out, Decides::Lbd), ["10.0.0.1/32", "1000::/112"]);
    }

    #[test]
    fn without_lbd_only_what_the_kernel_has_tables_of_is_announced() {
        let state = |entries: u32| web(&format!("announce_table=201\nkernel_entries={entries}"), "").state();
        assert_eq!(said(&state(97), Decides::Kernel), ["10.0.0.1/32", "1000::/112"]);
        let why = "no lbd runs, and the kernel has no table of service web";
        assert_eq!(
            said(&state(96), Decides::Kernel),
            [format!("-10.0.0.1/32 {why}"), format!("-1000::/112 {why}")]
        );
        assert_eq!(said(&state(96), Decides::Lbd), ["10.0.0.1/32", "1000::/112"]);
    }
}
