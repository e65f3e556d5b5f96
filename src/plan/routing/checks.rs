//! The way of health checks through tunnels, and of their answers. PURE.
//!
//! A check is sent from `[balancer] address` to a VIP, with the mark of a backend, and enters the tree of rules
//! ([`rule_tree::entries`]). The backend answers it directly: from the VIP, to that address. For a packet that comes in,
//! IPv4 looks for the way back to its source if the device has a reverse path filter, or the host has rules of its own
//! (`fib_validate_source`), and the way to a VIP is lbd's blackhole. A filter drops the packet then, also a loose one.
//!
//! So there is a table with a route to those VIPs, and a rule by which a look-up for a packet from the balancer's
//! address to them finds it: this is how the kernel asks for the way back. The route leads to `lo`, where a packet that
//! is really sent there is discarded; before, it met the blackhole. That satisfies a loose filter (2). A strict one (1)
//! wants the device by which the answer came, and drops it.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Route, TABLE_BASE, Via};
use crate::{
    model::{self, OuterAddresses},
    plan::rule_tree::{self, Rule},
    state::{Service, State},
};

/// The table of the ways back. The numbers of targets begin at 1.
pub(super) const TABLE: u32 = TABLE_BASE;

/// Returns the addresses from which checks are sent; none if nothing is checked through a tunnel.
pub(super) fn from(state: &State) -> OuterAddresses {
    if checked(state).next().is_some() { state.balancer.address } else { OuterAddresses::default() }
}

/// Returns the routes of the table: to the address of each service that is checked over IPv4.
pub(super) fn routes(state: &State) -> BTreeSet<Route> {
    if from(state).v4.is_none() {
        return BTreeSet::new();
    }
    let addresses =
        checked(state).filter_map(|service| service.vips.iter().map(|vip| vip.addr()).find(IpAddr::is_ipv4));
    addresses
        .map(|address| Route {
            table: TABLE,
            to: address.into(),
            metric: 0,
            via: Via::Device(rule_tree::SENT_BY_HOST.to_owned()),
        })
        .collect()
}

/// Returns the rule that leads there.
pub(super) fn rule(state: &State) -> Option<Rule> {
    let own = from(state).v4.filter(|_| !routes(state).is_empty())?;
    rule_tree::way_back(own.into(), TABLE)
}

fn checked(state: &State) -> impl Iterator<Item = &Service> {
    let by_tunnel =
        |service: &&Service| service.health.as_ref().is_some_and(|health| health.via == model::Via::Tunnel);
    state.services.iter().filter(by_tunnel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::routing::desired, tests::fixture};

    fn planned(vips: &str, health: &str) -> (Vec<String>, Option<String>) {
        let state = fixture::balancer("interfaces = 'eth1'\nqueues = '0'")
            .service("web", vips, health)
            .backend("s1", "address = '192.168.1.1'")
            .state();
        let desired = desired(&state).unwrap();
        let routes = desired.routes.iter().filter(|route| route.table == TABLE);
        (routes.map(ToString::to_string).collect(), rule(&state).map(|rule| rule.to_string()))
    }

    #[test]
    fn answers_from_vips_that_are_checked_through_tunnels_have_a_way_back() {
        let through = "health = { kind = 'tcp', port = 80 }";
        let (routes, rule) = planned("10.0.0.0/24 1000::/128", through);
        assert_eq!(routes, ["route 10.0.0.0/32 dev lo table 20000 metric 0"]);
        assert_eq!(rule.unwrap(), "rule 22289: from 192.168.1.201 iif lo lookup 20000");
        let nothing = (Vec::new(), None);
        assert_eq!(planned("1000::/128", through), nothing, "IPv6 has no filter");
        assert_eq!(planned("10.0.0.0/24", "health = { kind = 'tcp', port = 80, via = 'direct' }"), nothing);
        assert_eq!(planned("10.0.0.0/24", ""), nothing);
    }
}
