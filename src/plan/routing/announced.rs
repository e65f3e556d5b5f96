//! The routes by which a routing daemon knows which VIPs it may announce. PURE.
//!
//! They are blackhole routes, since they need no device and no address, in a table that no rule leads to.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Desired, Op, Route, Via};
use crate::config::ANNOUNCE_TABLES;

/// Reports whether VIPs may be announced in this table.
pub(super) fn is_table(number: u32) -> bool {
    u8::try_from(number).is_ok_and(|number| ANNOUNCE_TABLES.contains(&number))
}

/// Reports whether the route announces a VIP.
#[must_use]
pub fn is_announcing(route: &Route) -> bool {
    is_table(route.table) && route.via == Via::Blackhole
}

/// Returns the routes that announce these VIPs in this table, with the metrics that the kernel gives routes
/// without one.
#[must_use]
pub fn announcements(table: u8, vips: &BTreeSet<IpNet>) -> BTreeSet<Route> {
    let route = |vip: &IpNet| {
        let metric = if vip.addr().is_ipv4() { 0 } else { 1024 };
        Route { table: table.into(), to: *vip, metric, via: Via::Blackhole }
    };
    vips.iter().map(route).collect()
}

impl Desired {
    /// Announces these VIPs and no others.
    pub fn announce(&mut self, table: Option<u8>, vips: &BTreeSet<IpNet>) {
        self.announce_if_there(None, &BTreeSet::new());
        self.routes.extend(table.into_iter().flat_map(|table| announcements(table, vips)));
    }

    /// Announces no others than these VIPs, and of these those that are announced already.
    pub fn announce_if_there(&mut self, table: Option<u8>, vips: &BTreeSet<IpNet>) {
        self.routes.retain(|route| !is_announcing(route));
        self.kept_announcements = table.map_or_else(BTreeSet::new, |table| announcements(table, vips));
    }
}

impl Op {
    /// Reports whether the change announces a VIP.
    pub(super) fn announces(&self) -> bool {
        matches!(self, Self::AddRoute(route) if is_announcing(route))
    }

    /// Reports whether the change withdraws a VIP.
    pub(super) fn withdraws(&self) -> bool {
        matches!(self, Self::RemoveRoute(route) if is_announcing(route))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::routing::{RoutingNow, desired, diff},
        tests::fixture,
    };

    fn wanted(vips: &[&str]) -> Desired {
        let state = fixture::balancer("announce_table=201")
            .service("web", "10.0.0.1 1000::/128", "")
            .backend("s1", "address = '192.168.1.1'")
            .state();
        let mut desired = desired(&state).unwrap();
        desired.announce(Some(201), &set(vips));
        desired
    }

    fn set(vips: &[&str]) -> BTreeSet<IpNet> {
        vips.iter().map(|vip| vip.parse().unwrap()).collect()
    }

    fn now(of: &Desired) -> RoutingNow {
        RoutingNow { routes: of.routes.clone(), ..RoutingNow::default() }
    }

    fn ops(now: &RoutingNow, desired: &Desired) -> (Vec<String>, Vec<String>) {
        let (early, late) = diff(now, desired).unwrap().around_ruleset();
        let text = |ops: Vec<Op>| ops.iter().map(ToString::to_string).collect();
        (text(early), text(late))
    }

    #[test]
    fn vips_are_announced_last_and_withdrawn_first() {
        let (all, none) = (wanted(&["10.0.0.1/32", "1000::/128"]), wanted(&[]));
        let (early, late) = ops(&RoutingNow::default(), &all);
        let added = [
            "add route blackhole 10.0.0.1/32 table 201 metric 0",
            "add route blackhole 1000::/128 table 201 metric 1024",
        ];
        assert_eq!(late, added);
        assert!(early.len() > 2, "{early:?}");
        let (early, _) = ops(&now(&all), &none);
        assert_eq!(
            early[..2],
            added.map(|op| op.replacen("add", "remove", 1)),
            "before anything else is changed"
        );
        let (_, late) = ops(&now(&all), &Desired::default());
        assert!(!late.iter().any(|op| op.contains("table 201")), "{late:?}");
    }

    #[test]
    fn another_table_takes_over() {
        let mut other = wanted(&[]);
        other.announce(Some(100), &set(&["10.0.0.1/32"]));
        let (early, late) = ops(&now(&wanted(&["10.0.0.1/32"])), &other);
        assert_eq!(early[0], "remove route blackhole 10.0.0.1/32 table 201 metric 0");
        assert_eq!(late.last().unwrap(), "add route blackhole 10.0.0.1/32 table 100 metric 0");
    }

    #[test]
    fn what_may_stay_is_not_made() {
        let mut may = wanted(&[]);
        may.announce_if_there(Some(201), &set(&["10.0.0.1/32"]));
        let of_table = |(early, late): (Vec<String>, Vec<String>)| -> Vec<String> {
            early.into_iter().chain(late).filter(|op| op.contains("table 201")).collect()
        };
        assert_eq!(of_table(ops(&now(&wanted(&[])), &may)), [""; 0]);
        assert_eq!(of_table(ops(&now(&wanted(&["10.0.0.1/32"])), &may)), [""; 0]);
        assert_eq!(
            of_table(ops(&now(&wanted(&["10.0.0.1/32", "1000::/128"])), &may)),
            ["remove route blackhole 1000::/128 table 201 metric 1024"]
        );
    }
}
