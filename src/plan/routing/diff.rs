//! What leads from the routing that there is to the one that should be. PURE.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use thiserror::Error;

use super::{
    Desired, Device, DeviceNow, Family, ForeignRule, Op, Route, RoutingNow, TABLE_MAIN, Via, inbound,
};
use crate::plan::{
    rule_tree::{self, Rule, Step},
    tunnel::{IPV6_MTU_BYTES_MIN, Tunnel},
};

/// What a person should know, though nothing is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Note {
    /// Table main has another route for exactly a VIP's prefix, which wins over our blackhole.
    #[error(
        "{0} has a route of another protocol in table main: packets to it that nothing steers follow that route \
         instead of being dropped"
    )]
    ForeignRoute(IpNet),
    /// A rule that the entries do not come before.
    #[error(
        "{} rule {} (ip rule show) comes before synrail's, which begin at {_1}, and may send packets to VIPs elsewhere: give it \
         a larger priority, or lower [balancer] rule_priority",
        _0.family,
        _0.priority
    )]
    EarlierRule(ForeignRule, u32),
    /// Rules of others came before the entries, or another place is configured.
    #[error(
        "the rules by which packets to VIPs find their backends move from priority {from} to {to}, before those of others"
    )]
    EntriesMove {
        /// Where they begin.
        from: u32,
        /// Where they shall.
        to: u32,
    },
    /// Linux sends tunnels' packets over IPv6 in no fragments (`ip6_tnl_xmit`), and IPv6 through them promises 1280 bytes.
    #[error(
        "the network below {device} takes {underlay_mtu_bytes} bytes: IPv6 packets above {room_bytes} are lost in it; \
         give that network {} bytes, or the backend an IPv4 address, whose tunnels go in fragments",
        .underlay_mtu_bytes - .room_bytes + IPV6_MTU_BYTES_MIN
    )]
    Ipv6TooLarge {
        /// The tunnel.
        device: String,
        /// What the network below it takes.
        underlay_mtu_bytes: u32,
        /// What that leaves.
        room_bytes: u32,
    },
}

/// The way to what should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// In the order in which they are safe under traffic.
    pub ops: Vec<Op>,
    /// For people.
    pub notes: Vec<Note>,
}

impl Diff {
    /// What is to be done before the ruleset changes, and what after it; both in order. Without the first the ruleset's
    /// marks lead nowhere. Without the ruleset in force, the second opens entrances to everything, and takes away what
    /// flows are still pinned to.
    #[must_use]
    pub fn around_ruleset(self) -> (Vec<Op>, Vec<Op>) {
        let mut before = self.ops;
        let late = before.iter().rposition(|op| !op.is_late()).map_or(0, |last| last + 1);
        let after = before.split_off(late);
        (before, after)
    }
}

/// Something that must be settled by a person.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DiffError {
    /// A device that is not ours has a name that we need.
    #[error(
        "device {name} (kind {kind:?}, alias {alias:?}) exists and is not synrail's: rename it, or remove it with: \
         ip link del {name}"
    )]
    ForeignDevice {
        /// Its name.
        name: String,
        /// Its kind.
        kind: String,
        /// Its alias.
        alias: String,
    },
    /// Packets that are queued as they come out of a VRF are lost in the kernel.
    #[error(
        "interface {name} is a VRF, which takes no packet back from a queue: name the devices in it by which packets to VIPs \
         come in instead (ip link show master {name})"
    )]
    VrfAsInterface {
        /// Its name.
        name: String,
    },
    /// A device that is not ours has the ends that we need.
    #[error(
        "device {name} is not synrail's and is the same tunnel ({tunnel}) that {wanted} needs: remove it with: \
         ip link del {name}"
    )]
    ForeignTunnel {
        /// The one that exists.
        name: String,
        /// The one that is wanted.
        wanted: String,
        /// What both are.
        tunnel: Tunnel,
    },
}

/// What leads from `now` to `wanted`: entrances that close ([`inbound`]); devices, routes of targets, rules, blackholes;
/// entrances that open; then what else goes away, in the reverse order. `wanted` of [`Desired::default`] removes everything that is ours.
/// What depends on the rest of this host (`host.rs`) is as `now` has it.
///
/// # Errors
/// When something that is not ours is in the way.
pub fn diff(now: &RoutingNow, wanted: &Desired) -> Result<Diff, DiffError> {
    let (wanted, mut notes) = wanted.on(now)?;
    let wanted = &wanted;
    let devices = diff_devices(now, wanted)?;
    let lost = |route: &Route| matches!(&route.via, Via::Device(name) if devices.early.contains(name));
    let kept: BTreeSet<&Route> = now.routes.iter().filter(|route| !lost(route)).collect();
    let in_main = |route: &&Route| route.table == TABLE_MAIN;
    let (blackholes, routes): (Vec<_>, Vec<_>) =
        wanted.routes.iter().filter(|route| !kept.contains(route)).partition(in_main);
    let gone = kept.iter().copied().filter(|route| !wanted.routes.contains(route));
    let (blackholes_gone, routes_gone): (Vec<_>, Vec<_>) = gone.partition(in_main);
    // A route in the place of a new one would keep that from being added.
    let places: BTreeSet<_> = routes.iter().map(|route| (route.table, route.to)).collect();
    let (replaced, routes_gone): (Vec<_>, Vec<_>) =
        routes_gone.into_iter().partition(|route| places.contains(&(route.table, route.to)));

    // One that differs in what its key does not say is replaced in place, where the kernel can: it takes the first of several.
    let mut keys = BTreeMap::new();
    replaced.iter().for_each(|route| *keys.entry(route.key()).or_insert(0) += 1);
    let in_place = |route: &&Route| route.is_of_ipv4_device() && keys.get(&route.key()) == Some(&1);
    let (in_place, routes): (Vec<_>, Vec<_>) = routes.into_iter().partition(in_place);
    let keys: BTreeSet<_> = in_place.iter().map(|route| route.key()).collect();

    let remove = |route: &Route| Op::RemoveRoute(route.clone());
    let add = |route: &Route| Op::AddRoute(route.clone());
    let removed = |names: Vec<String>| names.into_iter().map(Op::RemoveDevice);
    let (closing, late): (Vec<_>, Vec<_>) = removed(devices.late).partition(Op::closes);
    let mut ops = closing;
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
        let steps = rule_tree::changes(&of_family(&now.rules), &of_family(&wanted.rules));
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

    let prefixes = wanted.routes.iter().filter(in_main).map(|route| route.to);
    notes.extend(prefixes.filter(|to| now.foreign_main.contains(to)).map(Note::ForeignRoute));
    Ok(Diff { ops, notes })
}

struct DeviceChanges {
    /// To be removed before anything is added: in the way of what is wanted.
    early: BTreeSet<String>,
    changed: Vec<Op>,
    /// To be removed at the end.
    late: Vec<String>,
}

fn diff_devices(now: &RoutingNow, wanted: &Desired) -> Result<DeviceChanges, DiffError> {
    let mut early = BTreeSet::new();
    let mut changed = Vec::new();
    let mut added = BTreeMap::new();
    for device in wanted.devices.values() {
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
                let (name, wanted, tunnel) = (seen.name.clone(), device.name.clone(), device.tunnel);
                return Err(DiffError::ForeignTunnel { name, wanted, tunnel });
            }
            Some(_) => _ = early.insert(seen.name.clone()),
            // At once: the ruleset, which goes by names, lets anything in by an entrance that was renamed.
            None if seen.is_astray() => _ = early.insert(seen.name.clone()),
            None if ours && !wanted.devices.contains_key(&seen.name) => late.push(seen.name.clone()),
            None => {}
        }
    }
    Ok(DeviceChanges { early, changed, late })
}

fn added_by(device: &Device) -> impl Iterator<Item = Op> {
    let opened = device.is_entrance().then(|| Op::Ready(device.clone()));
    std::iter::once(Op::AddDevice(device.clone())).chain(opened)
}
