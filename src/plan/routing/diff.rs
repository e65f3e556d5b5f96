//! The changes from the present routing to the desired one. PURE.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use thiserror::Error;

use super::{
    Desired, Device, DeviceNow, Family, ForeignRule, Op, Route, RoutingNow, TABLE_MAIN, Via, inbound,
    is_announcing,
};
use crate::plan::{
    rule_tree::{self, Rule, Step},
    tunnel::{IPV6_MTU_BYTES_MIN, Tunnel},
};

/// Something that the operator should know, although nothing is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Note {
    /// Table main has another route for exactly the prefix of a VIP, which takes precedence over our
    /// blackhole route.
    #[error(
        "{0} has a route of another protocol in table main: packets to it that nothing steers follow that route \
         instead of being dropped"
    )]
    ForeignRoute(IpNet),
    /// A rule of others comes before the entries.
    #[error(
        "{} rule {} (ip rule show) comes before synrail's, which begin at {_1}, and may send packets to VIPs elsewhere: give it \
         a larger priority, or lower [balancer] rule_priority",
        _0.family,
        _0.priority
    )]
    EarlierRule(ForeignRule, u32),
    /// The entries move, because rules of others came before them or another place is configured.
    #[error(
        "the rules by which packets to VIPs find their backends move from priority {from} to {to}, before those of others"
    )]
    EntriesMove {
        /// Where the entries begin now.
        from: u32,
        /// Where they will begin.
        to: u32,
    },
    /// Linux does not send tunnel packets over IPv6 in fragments (`ip6_tnl_xmit`), and inner IPv6 is promised
    /// 1280 bytes.
    #[error(
        "the network below {device} takes {underlay_mtu_bytes} bytes: IPv6 packets above {room_bytes} are lost in it; \
         give that network {} bytes, or the backend an IPv4 address, whose tunnels go in fragments",
        .underlay_mtu_bytes - .room_bytes + IPV6_MTU_BYTES_MIN
    )]
    Ipv6TooLarge {
        /// The tunnel.
        device: String,
        /// The size that the network below it carries.
        underlay_mtu_bytes: u32,
        /// The bytes that this leaves for an inner packet.
        room_bytes: u32,
    },
}

/// The changes to the desired routing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// The changes, in the order in which they are safe under traffic.
    pub ops: Vec<Op>,
    /// Notes for the operator.
    pub notes: Vec<Note>,
}

impl Diff {
    /// Splits the changes into those before and those after a change of the ruleset, both in order. If the
    /// first are not made, the ruleset's marks lead nowhere. If the second are made without the ruleset in
    /// force, they open entrances to all packets, and remove what flows are still pinned to.
    #[must_use]
    pub fn around_ruleset(self) -> (Vec<Op>, Vec<Op>) {
        let mut before = self.ops;
        let late = before.iter().rposition(|op| !op.is_late()).map_or(0, |last| last + 1);
        let after = before.split_off(late);
        (before, after)
    }
}

/// A conflict that the operator must resolve.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DiffError {
    /// A device that is not ours has a name that synrail needs.
    #[error(
        "device {name} (kind {kind:?}, alias {alias:?}) exists and is not synrail's: rename it, or remove it with: \
         ip link del {name}"
    )]
    ForeignDevice {
        /// The device's name.
        name: String,
        /// The device's kind.
        kind: String,
        /// The device's alias.
        alias: String,
    },
    /// Packets that are queued as they come out of a VRF are lost in the kernel.
    #[error(
        "interface {name} is a VRF, which takes no packet back from a queue: name the devices in it by which packets to VIPs \
         come in instead (ip link show master {name})"
    )]
    VrfAsInterface {
        /// The name of the VRF.
        name: String,
    },
    /// A device that is not ours has the ends that synrail needs.
    #[error(
        "device {name} is not synrail's and is the same tunnel ({tunnel}) that {desired} needs: remove it with: \
         ip link del {name}"
    )]
    ForeignTunnel {
        /// The existing device.
        name: String,
        /// The desired device.
        desired: String,
        /// The tunnel that both are.
        tunnel: Tunnel,
    },
}

/// Returns the changes from `now` to `desired`. The order is: VIPs that are withdrawn; entrances that close
/// ([`inbound`]); devices, routes of targets, rules, blackhole routes; entrances that open; then all other
/// removals, in the reverse order; VIPs that are announced. With [`Desired::default`] as `desired`, all of ours is removed. What depends on the rest
/// of this host (`host.rs`) is taken from `now`.
///
/// # Errors
/// When something that is not ours is in the way.
pub fn diff(now: &RoutingNow, desired: &Desired) -> Result<Diff, DiffError> {
    let (desired, mut notes) = desired.on(now)?;
    let desired = &desired;
    let devices = diff_devices(now, desired)?;
    let lost = |route: &Route| matches!(&route.via, Via::Device(name) if devices.early.contains(name));
    let kept: BTreeSet<&Route> = now.routes.iter().filter(|route| !lost(route)).collect();
    let in_main = |route: &&Route| route.table == TABLE_MAIN;
    let missing = desired.routes.iter().filter(|route| !kept.contains(route));
    let (announced, missing): (Vec<_>, Vec<_>) = missing.partition(|route| is_announcing(route));
    let (blackholes, routes): (Vec<_>, Vec<_>) = missing.into_iter().partition(in_main);
    let gone = kept.iter().copied().filter(|route| !desired.routes.contains(route));
    let (withdrawn, gone): (Vec<_>, Vec<_>) = gone.partition(|route| is_announcing(route));
    let gone = gone.into_iter();
    let (blackholes_gone, routes_gone): (Vec<_>, Vec<_>) = gone.partition(in_main);
    // A route in the place of a new one would prevent that from being added.
    let places: BTreeSet<_> = routes.iter().map(|route| (route.table, route.to)).collect();
    let (replaced, routes_gone): (Vec<_>, Vec<_>) =
        routes_gone.into_iter().partition(|route| places.contains(&(route.table, route.to)));

    // A route that differs only outside its key is replaced in place, if the kernel can: it takes the first
    // of several.
    let mut keys = BTreeMap::new();
    replaced.iter().for_each(|route| *keys.entry(route.key()).or_insert(0) += 1);
    let in_place = |route: &&Route| route.is_of_ipv4_device() && keys.get(&route.key()) == Some(&1);
    let (in_place, routes): (Vec<_>, Vec<_>) = routes.into_iter().partition(in_place);
    let keys: BTreeSet<_> = in_place.iter().map(|route| route.key()).collect();

    let remove = |route: &Route| Op::RemoveRoute(route.clone());
    let add = |route: &Route| Op::AddRoute(route.clone());
    let removed = |names: Vec<String>| names.into_iter().map(Op::RemoveDevice);
    let (closing, late): (Vec<_>, Vec<_>) = removed(devices.late).partition(Op::closes);
    let mut ops: Vec<Op> = withdrawn.into_iter().map(remove).collect();
    ops.extend(closing);
    ops.extend(removed(devices.early.iter().cloned().collect()));
    let (opening, changed): (Vec<_>, Vec<_>) = devices.changed.into_iter().partition(Op::opens);
    ops.extend(changed);
    ops.extend(in_place.iter().map(|route| Op::ReplaceRoute((*route).clone())));
    ops.extend(replaced.into_iter().filter(|route| !keys.contains(&route.key())).map(remove));
    ops.extend(routes.into_iter().map(add));
    let mut rules_gone = Vec::new();
    for family in Family::ALL {
        let of_family = |rules: &BTreeSet<(Family, Rule)>| -> BTreeSet<Rule> {
            rules.iter().filter(|(of, _)| *of == family).map(|(_, rule)| *rule).collect()
        };
        let steps = rule_tree::changes(&of_family(&now.rules), &of_family(&desired.rules));
        let late = steps.iter().rposition(|step| matches!(step, Step::Add(_))).map_or(0, |last| last + 1);
        let op = |step: &Step| match *step {
            Step::Add(rule) => Op::AddRule(family, rule),
            Step::Remove(rule) => Op::RemoveRule(family, rule),
        };
        ops.extend(steps[..late].iter().map(op));
        rules_gone.extend(steps[late..].iter().map(op));
    }
    ops.extend(blackholes.into_iter().map(add));
    ops.extend(opening);
    ops.extend(blackholes_gone.into_iter().map(remove));
    ops.extend(rules_gone);
    ops.extend(routes_gone.into_iter().map(remove));
    ops.extend(late);
    ops.extend(announced.into_iter().map(add));

    let prefixes = desired.routes.iter().filter(in_main).map(|route| route.to);
    notes.extend(prefixes.filter(|to| now.foreign_main.contains(to)).map(Note::ForeignRoute));
    Ok(Diff { ops, notes })
}

struct DeviceChanges {
    /// To be removed before anything is added, since it conflicts with a desired device.
    early: BTreeSet<String>,
    changed: Vec<Op>,
    /// To be removed at the end.
    late: Vec<String>,
}

fn diff_devices(now: &RoutingNow, desired: &Desired) -> Result<DeviceChanges, DiffError> {
    let mut early = BTreeSet::new();
    let mut changed = Vec::new();
    let mut added = BTreeMap::new();
    for device in desired.devices.values() {
        let Some(seen) = now.devices.get(&device.name) else {
            added.insert((device.tunnel.kind().name(), device.tunnel.ends), device);
            changed.extend(added_by(device));
            continue;
        };
        let same = seen.tunnel == Some(device.tunnel);
        let unfinished = (same && seen.alias.is_empty()) || seen.is_half_made();
        if !seen.is_ours() && !unfinished {
            let DeviceNow { name, kind, alias, .. } = seen.clone();
            return Err(DiffError::ForeignDevice { name, kind, alias });
        }
        if !same {
            early.insert(device.name.clone());
            added.insert((device.tunnel.kind().name(), device.tunnel.ends), device);
            changed.extend(added_by(device));
        } else if !seen.is_ready(device) {
            changed.push(Op::Ready(device.clone()));
        }
    }
    let mut late = Vec::new();
    for seen in now.devices.values() {
        let named = seen.is_ours() && inbound::is_our_name(&seen.name);
        let ours = named || seen.is_astray() || seen.is_half_made();
        let blocked = seen.ends.and_then(|ends| added.get(&(seen.kind.as_str(), ends)));
        match blocked {
            Some(device) if !ours && !early.contains(&seen.name) => {
                let (name, desired, tunnel) = (seen.name.clone(), device.name.clone(), device.tunnel);
                return Err(DiffError::ForeignTunnel { name, desired, tunnel });
            }
            Some(_) => _ = early.insert(seen.name.clone()),
            // At once: the ruleset matches devices by name, so a renamed entrance lets all packets in.
            None if seen.is_astray() => _ = early.insert(seen.name.clone()),
            None if ours && !desired.devices.contains_key(&seen.name) => late.push(seen.name.clone()),
            None => {}
        }
    }
    Ok(DeviceChanges { early, changed, late })
}

fn added_by(device: &Device) -> impl Iterator<Item = Op> {
    let opened = device.is_entrance().then(|| Op::Ready(device.clone()));
    std::iter::once(Op::AddDevice(device.clone())).chain(opened)
}
