//! The desired routing on this host: what depends on the kernel's other devices, routes and rules. PURE.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{
    Desired, Device, DiffError, Entry, FORMER_VIPS_MAX, Family, ForeignRule, Note, RoutingNow, TABLE_MAIN,
    blackhole,
};
use crate::plan::{
    rule_tree::{self, DeviceName, ENTRY_PRIORITIES, PRIORITY_AROUND},
    tunnel::IPV6_MTU_BYTES_MIN,
};

impl Desired {
    /// Returns the routing as this host needs it, and notes about that for the operator.
    pub(super) fn on(&self, now: &RoutingNow) -> Result<(Self, Vec<Note>), DiffError> {
        let mut desired = self.clone();
        let small = desired.devices.values_mut().filter_map(|device| device.fit(now));
        let mut notes: Vec<Note> = small.collect();
        let kept = self.former.iter().map(|prefix| blackhole(*prefix));
        let kept = kept.chain(self.kept_announcements.iter().cloned());
        desired.routes.extend(kept.filter(|route| now.routes.contains(route)));
        let Some(entry) = &self.entry else { return Ok((desired, notes)) };
        let devices = entry.devices_on(now)?;
        let meets = |rule: &&ForeignRule| entry.families.contains(&rule.family);
        let catching = now.foreign_rules.iter().filter(meets);
        let catching = catching.filter(|rule| rule.may_catch(entry.mask, &devices));
        let priority = entry.priority.unwrap_or_else(|| {
            let earliest = catching.clone().map(|rule| rule.priority).min();
            rule_tree::entry_priority(entries_now(now), earliest)
        });
        let earlier = catching.filter(|rule| rule.priority < priority + ENTRY_PRIORITIES);
        let moved = entries_now(now)
            .filter(|from| *from != priority)
            .map(|from| Note::EntriesMove { from, to: priority });
        notes.extend(moved.into_iter().chain(earlier.map(|rule| Note::EarlierRule(*rule, priority))));
        for family in &entry.families {
            let own = entry.checks_from.iter().find(|own| own.is_ipv4() == (*family == Family::V4));
            let entries = rule_tree::entries(entry.mask, priority, devices.iter().copied(), own);
            desired.rules.extend(entries.map(|rule| (*family, rule)));
        }
        Ok((desired, notes))
    }
}

impl Desired {
    /// Keeps the blackhole routes that this host has of VIPs of earlier states, as the lbd does that put them there
    /// ([`Desired::former`]).
    pub fn keep_former(&mut self, now: &RoutingNow) {
        let surplus = now.routes.difference(&self.routes);
        let former = surplus.filter(|route| **route == blackhole(route.to)).map(|route| route.to);
        self.former.extend(former.take(FORMER_VIPS_MAX));
    }

    /// Keeps VIPs of `last` that are no longer VIPs, and that have no blackhole route of their own here, as
    /// [`Desired::former`], up to [`FORMER_VIPS_MAX`] prefixes. Returns how many were added, and for how many
    /// there was no room.
    pub fn succeed(&mut self, last: &Self) -> (usize, usize) {
        let own = self.routes.iter().filter(|route| route.table == TABLE_MAIN).map(|route| route.to);
        let own: Vec<IpNet> = own.collect();
        let is_open =
            |prefix: &IpNet| !self.vips.contains(prefix) && !own.iter().any(|own| own.contains(prefix));
        let mut former: BTreeSet<IpNet> = last.former.iter().copied().filter(is_open).collect();
        let gone: Vec<IpNet> = last.vips.iter().copied().filter(is_open).collect();
        let new = gone.len().min(FORMER_VIPS_MAX.saturating_sub(former.len()));
        former.extend(gone.iter().take(new));
        self.former = former;
        (new, gone.len() - new)
    }
}

impl Entry {
    /// Returns the devices by which packets come in. Packets that come in by a device in a VRF are routed as
    /// if they came in by the VRF's own device, so that device is included.
    fn devices_on(&self, now: &RoutingNow) -> Result<BTreeSet<DeviceName>, DiffError> {
        if let Some(name) = self.devices.iter().find(|name| now.vrfs.values().any(|vrf| vrf == *name)) {
            return Err(DiffError::VrfAsInterface { name: name.as_str().to_owned() });
        }
        let of_vrfs = self.devices.iter().filter_map(|name| now.vrfs.get(name));
        Ok(self.devices.iter().chain(of_vrfs).copied().collect())
    }
}

/// Returns where the present entries begin.
fn entries_now(now: &RoutingNow) -> Option<u32> {
    let ours = now.rules.iter().map(|(_, rule)| rule).filter(|rule| rule_tree::is_entry(rule));
    ours.map(|rule| rule.priority).filter(|priority| *priority < PRIORITY_AROUND).min()
}

impl Device {
    /// Sets the MTU by that of the network below. If that is not known now, the device only keeps IPv6.
    fn fit(&mut self, now: &RoutingNow) -> Option<Note> {
        let underlay = now.underlay_mtu_bytes.get(&self.tunnel.ends).copied();
        let small = underlay.and_then(|underlay_mtu_bytes| {
            let room_bytes = self.tunnel.too_small_for_ipv6(underlay_mtu_bytes)?;
            Some(Note::Ipv6TooLarge { device: self.name.clone(), underlay_mtu_bytes, room_bytes })
        });
        (self.tunnel, self.mtu_bytes) = self.tunnel.over(underlay);
        if self.mtu_bytes.is_none()
            && let Some(seen) = now.devices.get(&self.name)
        {
            // The tunnel stays as it was, so that a route that is missing for a moment changes nothing.
            let small = seen
                .tunnel
                .filter(|tunnel| tunnel.ends == self.tunnel.ends && tunnel.wrap == self.tunnel.wrap);
            let kept =
                small.is_some_and(|tunnel| tunnel.fragment_outer && seen.mtu_bytes == IPV6_MTU_BYTES_MIN);
            self.tunnel.fragment_outer |= kept;
            self.mtu_bytes = (seen.mtu_bytes < IPV6_MTU_BYTES_MIN).then_some(IPV6_MTU_BYTES_MIN);
        }
        small
    }
}
