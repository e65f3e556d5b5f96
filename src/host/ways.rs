//! Routes to backends and other balancers. The kernel looks these up in its routes, whatever mark a packet
//! has.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Finding, Severity, Snapshot};
use crate::{
    model::{Encap, Path},
    state::State,
};

/// The maximum number of addresses that a finding names.
const NAMED_MAX: usize = 4;

/// The meaning of the finding.
const LOST: &str =
    "packets to them are dropped, with encap \"direct\" as soon as their routes must be made anew";

/// A destination for which a route is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// The destination.
    pub to: IpAddr,
    /// The source address of a tunnel's packets, if the host has that address.
    pub from: Option<IpAddr>,
    /// Whether the destination must be on a network of this host, as that of a `direct` backend.
    pub is_next_hop: bool,
}

/// Returns the ways that a state needs, except those to addresses of this host, which lead nowhere.
#[must_use]
pub fn ways(state: &State, snapshot: &Snapshot) -> Vec<Way> {
    let way = |path: Path| {
        let Path::Via(encap, to) = path else { return None };
        let is_next_hop = encap == Encap::Direct;
        let from = state.balancer.address.like(to).filter(|from| !is_next_hop && snapshot.has(*from));
        Some(Way { to, from, is_next_hop })
    };
    let ways: BTreeSet<Way> = state.targets_used().filter_map(|(_, path)| way(path)).collect();
    ways.into_iter().filter(|way| !snapshot.has(way.to)).collect()
}

/// Returns one finding for all destinations without a route, since they mostly have one cause.
pub(super) fn unreachable(state: &State, snapshot: &Snapshot) -> Option<Finding> {
    let mut without = snapshot.unreachable.clone();
    without.dedup();
    let first = *without.first()?;
    let mut named: Vec<String> = without.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    if without.len() > NAMED_MAX {
        named.push(format!("and {} more", without.len() - NAMED_MAX));
    }
    let advice = match in_vrf(state, snapshot, first) {
        Some((device, vrf)) => format!(
            "{LOST}: {device} is in VRF {vrf}, and tunnels and next hops are looked for in table main, which \
             needs a route of its own to each: ip route add {first} dev {device}"
        ),
        None => format!(
            "{LOST}: ip route get {first} says why; a route in table main must lead there, for encap \
             \"direct\" without a gateway (ip route add)"
        ),
    };
    let value = format!("none to {}", named.join(", "));
    Some(Finding::new(Severity::Error, "route to backends", &value, "a route to each", advice))
}

/// Returns the device on whose network such an address is, and its VRF. The device is found by the balancer's
/// own address, otherwise by `interfaces`.
fn in_vrf<'a>(state: &'a State, snapshot: &'a Snapshot, address: IpAddr) -> Option<(&'a str, &'a str)> {
    let source = state.balancer.address.like(address).and_then(|from| snapshot.local(from));
    let devices = source.map(|local| local.device.as_str()).into_iter();
    let mut devices = devices.chain(state.balancer.interfaces.iter().map(|name| name.as_str()));
    devices.find_map(|device| Some((device, snapshot.links.get(device)?.vrf.as_deref()?)))
}
