//! What should be, on this host: what depends on the kernel's other devices, routes and rules. PURE.

use std::collections::BTreeSet;

use super::{Desired, Device, DiffError, Entry, Note, RoutingNow};
use crate::plan::{
    rule_tree::{self, DeviceName, ENTRY_PRIORITIES, PRIORITY_AROUND},
    tunnel::IPV6_MTU_BYTES_MIN,
};

impl Desired {
    /// The same, as this host needs it; and what a person should know about that.
    pub(super) fn on(&self, now: &RoutingNow) -> Result<(Self, Vec<Note>), DiffError> {
        let mut wanted = self.clone();
        for device in wanted.devices.values_mut() {
            device.fit(now);
        }
        let Some(entry) = &self.entry else { return Ok((wanted, Vec::new())) };
        let devices = entry.devices_on(now)?;
        let catching = now.foreign_rules.iter().filter(|rule| rule.may_catch(entry.mask, &devices));
        let priority = entry.priority.unwrap_or_else(|| {
            let earliest = catching.clone().map(|rule| rule.priority).min();
            rule_tree::entry_priority(entries_now(now), earliest)
        });
        let earlier = catching.filter(|rule| rule.priority < priority + ENTRY_PRIORITIES);
        let notes = earlier.map(|rule| Note::EarlierRule(*rule, priority)).collect();
        wanted.rules.extend(rule_tree::entries(entry.mask, priority, devices));
        Ok((wanted, notes))
    }
}

impl Entry {
    /// What a device in a VRF takes in is routed as if it came in by the VRF's own device.
    fn devices_on(&self, now: &RoutingNow) -> Result<BTreeSet<DeviceName>, DiffError> {
        if let Some(name) = self.devices.iter().find(|name| now.vrfs.values().any(|vrf| vrf == *name)) {
            return Err(DiffError::VrfAsInterface { name: name.as_str().to_owned() });
        }
        let of_vrfs = self.devices.iter().filter_map(|name| now.vrfs.get(name));
        Ok(self.devices.iter().chain(of_vrfs).copied().collect())
    }
}

/// Where the entries begin that there are.
fn entries_now(now: &RoutingNow) -> Option<u32> {
    let ours = now.rules.iter().map(|(_, rule)| rule).filter(|rule| rule_tree::is_entry(rule));
    ours.map(|rule| rule.priority).filter(|priority| *priority < PRIORITY_AROUND).min()
}

impl Device {
    /// Its MTU follows that of the network below. Where that is not known now, the device only keeps IPv6.
    fn fit(&mut self, now: &RoutingNow) {
        let underlay = now.underlay_mtu_bytes.get(&self.tunnel.ends).copied();
        (self.tunnel, self.mtu_bytes) = self.tunnel.over(underlay);
        if self.mtu_bytes.is_none()
            && let Some(seen) = now.devices.get(&self.name)
        {
            // As it was, so that a route that is away for a moment changes nothing.
            let small = seen
                .tunnel
                .filter(|tunnel| tunnel.ends == self.tunnel.ends && tunnel.wrap == self.tunnel.wrap);
            let kept =
                small.is_some_and(|tunnel| tunnel.fragment_outer && seen.mtu_bytes == IPV6_MTU_BYTES_MIN);
            self.tunnel.fragment_outer |= kept;
            self.mtu_bytes = (seen.mtu_bytes < IPV6_MTU_BYTES_MIN).then_some(IPV6_MTU_BYTES_MIN);
        }
    }
}
