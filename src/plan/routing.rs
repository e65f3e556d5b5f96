//! Tunnel devices, routes and rules that carry a packet from its mark to its backend. PURE.
//!
//! ```text
//! mark of target 7, by eth2 ─▶ rules (rule_tree.rs) ─▶ table 20007 ─▶ default dev sr-7 ─▶ backend
//! no mark, by sr-in4 ─▶ END ─▶ blackhole (inbound.rs)
//! a health check   ─▶ the same rules, by its mark and our address; its answer comes in by any device (checks.rs)
//! a routing daemon ─▶ table `announce_table` ─▶ the VIPs that can be served (announced.rs)
//! nothing of ours  ─▶ END ─▶ table main ─▶ blackhole VIP (unsteered packets must not go back to the router)
//! ```
//! The number is the same everywhere ([`TargetId::number`]), so an operator can read it directly. [`desired`]
//! computes the desired routing from the state. [`diff`] compares it with the present routing
//! ([`RoutingNow`]). The parts that depend on the rest of the host are in `host.rs`.
//!
//! **What is ours**: devices `sr-N`, `sr-in4` and `sr-in6` whose alias begins with `synrail:`, routes of
//! protocol 201 in tables 20000 to 24096, blackhole routes of protocol 201 in table main and in tables 1 to 252,
//! rules of protocol 201 in the priorities of the rule tree and right behind it, and those that lead into it
//! ([`rule_tree::is_entry`]). A tunnel of ours that was renamed is recognized by its alias, and is removed:
//! under another name nothing is routed to it, and a second tunnel with the same ends cannot be made. Only
//! these are ever changed or removed. `ip route show table all proto 201` and `ip rule` show them.
//!
//! A `direct` target has no device: its table's default route leads to the backend as next hop. A target that
//! is only marked has nothing at all. What exists and is right is not touched, so a daemon that starts again
//! takes it over.

mod announced;
mod checks;
mod diff;
mod host;
pub mod inbound;
mod numbers;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

pub use announced::{announcements, is_announcing};
pub use diff::{Diff, DiffError, Note, diff};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
pub use numbers::numbers;
use thiserror::Error;

use crate::{
    model::{
        Encap, OuterAddresses, Path,
        ids::{MarkMask, TargetId},
    },
    plan::{
        rule_tree::{self, DeviceName, Rule},
        tunnel::{Ends, Tunnel, fragmenting, wrap},
    },
    state::State,
};

/// The protocol number of all our routes and rules.
pub const PROTOCOL: u8 = 201;
/// The number of a target's table is this plus the target's number.
pub const TABLE_BASE: u32 = 20_000;
/// The kernel's table `main`.
pub const TABLE_MAIN: u32 = 254;
/// The beginning of the aliases of our devices.
pub const ALIAS_PREFIX: &str = "synrail:";
/// The TUN device by which held fragments come back. No target's device has such a name.
pub const FRAGMENTS_DEVICE: &str = "sr-frag";
/// The longest alias. The kernel takes 255 bytes (`IFALIASZ` - 1), and the NUL that the netlink crate writes
/// is one of them.
pub const ALIAS_BYTES_MAX: usize = 254;
/// The maximum number of former VIPs that keep their blackhole routes.
pub const FORMER_VIPS_MAX: usize = 1024;
/// Metric of the blackhole routes: high enough that an operator's own route to a VIP takes precedence.
pub const BLACKHOLE_METRIC: u32 = 1_000_000;

/// Returns the routing table of a target.
#[must_use]
pub fn table(target: TargetId) -> u32 {
    TABLE_BASE + target.number()
}

/// Returns the device of a target.
#[must_use]
pub fn device_name(target: TargetId) -> String {
    format!("sr-{}", target.number())
}

/// Returns the devices of tunnels to other balancers of the tier. Fragments from these balancers also come in
/// by them.
pub fn tier_devices(state: &State) -> impl Iterator<Item = String> {
    state.tier.iter().filter_map(|member| member.target).map(device_name)
}

/// Returns the target whose device has this name.
#[must_use]
pub fn target_of_device(name: &str) -> Option<TargetId> {
    let target = TargetId::from_number(name.strip_prefix("sr-")?.parse().ok()?)?;
    (device_name(target) == name).then_some(target)
}

/// Returns the target whose table has this number.
#[must_use]
pub fn target_of_table(number: u32) -> Option<TargetId> {
    number.checked_sub(TABLE_BASE).and_then(TargetId::from_number)
}

/// Reports whether a route of protocol [`PROTOCOL`] in this table is ours to change.
#[must_use]
pub fn is_our_table(number: u32, blackhole: bool) -> bool {
    let of_blackholes = number == TABLE_MAIN || announced::is_table(number);
    target_of_table(number).is_some() || number == checks::TABLE || (blackhole && of_blackholes)
}

/// The address family of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    fn of(net: IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A tunnel device as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The device's name: `sr-N`, or that of an entrance ([`inbound`]).
    pub name: String,
    /// The tunnel that the device provides.
    pub tunnel: Tunnel,
    /// The device's MTU; `None` if the kernel chooses it.
    pub mtu_bytes: Option<u32>,
    /// The users of the device, for display: `synrail: web/s1, api/s1, tier/lb202`.
    pub alias: String,
    /// Whether packets of clients also come in by the device, from another balancer or a router. Such a
    /// device accepts packets of any source.
    pub inbound: bool,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// Into this device.
    Device(String),
    /// To this next hop.
    Gateway(IpAddr),
    /// Nowhere: the packet is dropped in silence.
    Blackhole,
    /// Something that synrail never makes; only read.
    Other,
}

/// A route of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The table that the route is in.
    pub table: u32,
    /// The destination addresses.
    pub to: IpNet,
    /// The metric that the kernel shows.
    pub metric: u32,
    /// Where it leads.
    pub via: Via,
}

impl Route {
    /// Returns what the kernel uses to distinguish the routes of a table.
    fn key(&self) -> (u32, IpNet, u32) {
        (self.table, self.to, self.metric)
    }

    fn is_of_ipv4_device(&self) -> bool {
        matches!((self.to, &self.via), (IpNet::V4(_), Via::Device(_)))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, to, metric, via } = self;
        match via {
            Via::Device(name) => write!(f, "route {to} dev {name} table {table} metric {metric}"),
            Via::Gateway(address) => write!(f, "route {to} via {address} table {table} metric {metric}"),
            Via::Blackhole => write!(f, "route blackhole {to} table {table} metric {metric}"),
            Via::Other => write!(f, "route {to} table {table} metric {metric}"),
        }
    }
}

/// The desired routing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The devices, by name.
    pub devices: BTreeMap<String, Device>,
    /// The routes of targets, and the blackhole routes.
    pub routes: BTreeSet<Route>,
    /// Announcements that stay if they are there, and are not made otherwise.
    pub kept_announcements: BTreeSet<Route>,
    /// The rules, without those that lead into the trees: these depend on the host (`host.rs`).
    pub rules: BTreeSet<(Family, Rule)>,
    /// What the rules into the trees are made from; `None` if there is no tree.
    pub entry: Option<Entry>,
    /// The prefixes of the VIPs.
    pub vips: BTreeSet<IpNet>,
    /// Former VIPs. Their blackhole routes stay, unless an operator has removed them. Until the routers have
    /// followed the change, packets to these addresses come here, and without the routes they would go back
    /// to the routers.
    pub former: BTreeSet<IpNet>,
}

/// How packets enter the trees of rules ([`rule_tree::entries`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The families that have a tree.
    pub families: BTreeSet<Family>,
    /// The devices by which packets to VIPs come in.
    pub devices: BTreeSet<DeviceName>,
    /// The addresses from which health checks are sent through tunnels; none without such checks.
    pub checks_from: OuterAddresses,
    /// Our bits of the mark.
    pub mask: MarkMask,
    /// Where the rules begin, if that is configured.
    pub priority: Option<u32>,
}

/// The parts of another program's rule that concern us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignRule {
    /// The rule's family.
    pub family: Family,
    /// The rule's priority.
    pub priority: u32,
    /// The only device whose packets the rule matches; `None` for all.
    pub iif: Option<DeviceName>,
    /// The marks that the rule matches, as (mark, mask); mask 0 for all.
    pub mark: (u32, u32),
}

impl ForeignRule {
    /// Reports whether the rule may match packets that carry a mark of a target and came in by one of
    /// `devices`.
    fn may_catch(&self, mask: MarkMask, devices: &BTreeSet<DeviceName>) -> bool {
        let (mark, of) = self.mark;
        let by_other_bits = mark != 0 && of & mask.bits() == 0;
        !by_other_bits && self.iif.is_none_or(|device| devices.contains(&device))
    }
}

/// A device that the kernel has: every tunnel, and every device that has, or had, a name of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNow {
    /// The device's name.
    pub name: String,
    /// The kind, as the kernel names it; empty if there is none.
    pub kind: String,
    /// The alias; empty if there is none.
    pub alias: String,
    /// The tunnel, if it is one that synrail could have made, with no other options.
    pub tunnel: Option<Tunnel>,
    /// The outer addresses, if both are set.
    pub ends: Option<Ends>,
    /// The device's MTU.
    pub mtu_bytes: u32,
    /// Whether the device is up.
    pub up: bool,
    /// Whether it is up, makes no IPv6 address for itself, and carries IPv6.
    pub ready: bool,
    /// Whether it has no reverse path filter of its own (rp_filter 0).
    pub unfiltered: bool,
    /// Whether it accepts packets of any source, even if the setting for all devices has a reverse path
    /// filter.
    pub inbound: bool,
}

impl DeviceNow {
    fn is_ours(&self) -> bool {
        self.alias.starts_with(ALIAS_PREFIX)
    }

    /// Reports whether the device was made as a tunnel of ours, as its alias shows, and was renamed since.
    /// Aliases of tunnels name users, `service/backend`; those of the devices that `lbctl backend-setup`
    /// makes do not.
    #[must_use]
    pub fn is_astray(&self) -> bool {
        let users = self.alias.strip_prefix(ALIAS_PREFIX).map(str::trim);
        let is_of_tunnel = users.is_some_and(|users| users == inbound::USER || users.contains('/'));
        is_of_tunnel && !inbound::is_our_name(&self.name)
    }

    /// Reports whether the device was left by an lbd that was killed, or refused, between making the device
    /// and setting its alias.
    fn is_half_made(&self) -> bool {
        self.alias.is_empty() && !self.up && self.tunnel.is_some() && inbound::is_our_name(&self.name)
    }

    /// Reports whether [`Op::Ready`] would change nothing.
    fn is_ready(&self, desired: &Device) -> bool {
        let source_check = if desired.inbound { self.inbound } else { self.unfiltered };
        let mtu_fits = desired.mtu_bytes.is_none_or(|mtu_bytes| mtu_bytes == self.mtu_bytes);
        self.alias == desired.alias && self.ready && source_check && mtu_fits
    }
}

/// The present routing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutingNow {
    /// The devices, by name.
    pub devices: BTreeMap<String, DeviceNow>,
    /// The routes that are ours ([`is_our_table`]).
    pub routes: BTreeSet<Route>,
    /// The rules of protocol [`PROTOCOL`] in our priorities.
    pub rules: BTreeSet<(Family, Rule)>,
    /// The prefixes for which table main has routes of other protocols.
    pub foreign_main: BTreeSet<IpNet>,
    /// Rules of others before the tree, except the rule of table `local` at 0.
    pub foreign_rules: BTreeSet<ForeignRule>,
    /// The VRF of each device that is in one.
    pub vrfs: BTreeMap<DeviceName, DeviceName>,
    /// The size of the largest packets that the networks between these ends carry, in bytes, as far as this
    /// host's routes and devices show it.
    pub underlay_mtu_bytes: BTreeMap<Ends, u32>,
}

/// One change. Each names everything that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Make the device, then do the same as [`Op::Ready`], except that an entrance ([`inbound`]) stays down.
    AddDevice(Device),
    /// Set what can be set while a device is in use: its alias, no IPv6 address of its own, its MTU, its
    /// reverse path filter, up.
    Ready(Device),
    /// Remove the device of this name, and with it its routes.
    RemoveDevice(String),
    /// Add the route.
    AddRoute(Route),
    /// Replace the route for the same addresses with the same metric, so that every packet meets one of the
    /// two. IPv4 only.
    ReplaceRoute(Route),
    /// Remove the route.
    RemoveRoute(Route),
    /// Add the rule.
    AddRule(Family, Rule),
    /// Remove the rule.
    RemoveRule(Family, Rule),
}

impl Op {
    /// Reports whether the change only removes something.
    #[must_use]
    pub fn removes(&self) -> bool {
        match self {
            Self::RemoveDevice(_) | Self::RemoveRoute(_) | Self::RemoveRule(..) => true,
            Self::AddDevice(_)
            | Self::Ready(_)
            | Self::AddRoute(_)
            | Self::ReplaceRoute(_)
            | Self::AddRule(..) => false,
        }
    }

    /// Reports whether the change is about a device, not about a route or rule.
    #[must_use]
    pub fn is_of_device(&self) -> bool {
        match self {
            Self::AddDevice(_) | Self::Ready(_) | Self::RemoveDevice(_) => true,
            Self::AddRoute(_)
            | Self::ReplaceRoute(_)
            | Self::RemoveRoute(_)
            | Self::AddRule(..)
            | Self::RemoveRule(..) => false,
        }
    }

    /// Reports whether the change must wait for a change of the ruleset: it opens an entrance, announces a VIP,
    /// or removes what marks may still lead to.
    fn is_late(&self) -> bool {
        self.opens() || self.announces() || (self.removes() && !self.closes() && !self.withdraws())
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddDevice(device) => write!(f, "add device {} ({})", device.name, device.tunnel),
            Self::Ready(Device { name, mtu_bytes: Some(mtu_bytes), .. }) => {
                write!(f, "set up device {name} with MTU {mtu_bytes}")
            }
            Self::Ready(device) => write!(f, "set up device {}", device.name),
            Self::RemoveDevice(name) => write!(f, "remove device {name}"),
            Self::AddRoute(route) => write!(f, "add {route}"),
            Self::ReplaceRoute(route) => write!(f, "replace {route}"),
            Self::RemoveRoute(route) => write!(f, "remove {route}"),
            Self::AddRule(family, rule) => write!(f, "add {family} {rule}"),
            Self::RemoveRule(family, rule) => write!(f, "remove {family} {rule}"),
        }
    }
}

/// Why there is no routing for a state.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// There is no outer source address of the right family.
    #[error(
        "{user}: [balancer] address has no {family} address, from which its tunnel to {address} could start"
    )]
    NoSource {
        /// The user, as `backend service/backend` or `balancer tier/name`.
        user: String,
        /// The address of the user.
        address: IpAddr,
        /// The family that has no source address.
        family: Family,
    },
    /// The kernel cannot send IPv6 through an IPv4 next hop.
    #[error(
        "service {service:?}: its VIP {vip} is IPv6, which backend {backend:?} with encap \"direct\" cannot get through \
         its IPv4 address {address}; give an IPv6 address, or use a tunnel"
    )]
    Ipv6OverIpv4 {
        /// The service.
        service: String,
        /// The backend.
        backend: String,
        /// A VIP of the service.
        vip: IpNet,
        /// The next hop.
        address: IpAddr,
    },
    /// The address is meaningless without a device.
    #[error("{user}: {address} is link-local; use an address that a route without a device can reach")]
    LinkLocal {
        /// The user, as `backend service/backend` or `balancer tier/name`.
        user: String,
        /// The address.
        address: IpAddr,
    },
    /// The kernel cannot distinguish two tunnels.
    #[error(
        "backends {first} and {second}: ipip and gue to one address ({address}) need two devices of one kind and with \
         the same ends, which the kernel refuses; use the same encap for both, or another address"
    )]
    SameEnds {
        /// The first backend, as `service/backend`.
        first: String,
        /// The second backend, as `service/backend`.
        second: String,
        /// The address of both backends.
        address: IpAddr,
    },
}

/// The users of a target, and their families.
#[derive(Default)]
struct Users {
    names: Vec<String>,
    vip4: bool,
    vip6: bool,
    /// Whether one of them is a balancer of the tier.
    tier: bool,
}

impl Users {
    /// Returns one of the users, for errors.
    fn first(&self) -> &str {
        self.names.first().map_or("nobody", String::as_str)
    }

    fn noun(&self) -> String {
        // The name of the balancer comes last.
        let noun = if self.tier && self.names.len() == 1 { "balancer" } else { "backend" };
        format!("{noun} {}", self.first())
    }
}

/// Returns the routing that `state` needs.
///
/// # Errors
/// When a backend cannot be reached as configured, which [`crate::config`] cannot detect from a backend
/// alone.
pub fn desired(state: &State) -> Result<Desired, PlanError> {
    let users = users(state)?;
    let unused = Users::default();
    let fragmenting = fragmenting(state);
    let mut desired = Desired::default();
    let mut by_ends = BTreeMap::new();
    for (target, path) in state.targets_used() {
        let Path::Via(encap, address) = path else { continue };
        let users = users.get(&target).unwrap_or(&unused);
        if is_link_local(address) {
            return Err(PlanError::LinkLocal { user: users.noun(), address });
        }
        let Some(wrap) = wrap(encap) else {
            desired.routes.extend(direct_routes(target, address, users));
            continue;
        };
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        let ends = state.balancer.address.like(address).and_then(|local| Ends::new(local, address));
        let ends = ends.ok_or_else(|| PlanError::NoSource { user: users.noun(), address, family })?;
        let tunnel = Tunnel { wrap, ends, fragment_outer: fragmenting.contains(&target) };
        if let Some(first) = by_ends.insert((tunnel.kind(), ends), users.first()) {
            let (first, second) = (first.to_owned(), users.first().to_owned());
            return Err(PlanError::SameEnds { first, second, address });
        }
        let name = device_name(target);
        desired.routes.extend(default_routes().map(|(to, metric)| Route {
            table: table(target),
            to,
            metric,
            via: Via::Device(name.clone()),
        }));
        let (tunnel, mtu_bytes) = tunnel.over(None);
        let (alias, inbound) = (alias(&users.names), users.tier);
        let device = Device { name: name.clone(), tunnel, mtu_bytes, alias, inbound };
        desired.devices.insert(name, device);
    }
    desired.devices.extend(inbound::devices(&state.balancer).map(|device| (device.name.clone(), device)));
    let mask = state.balancer.mark_mask;
    for family in Family::ALL {
        let targets = desired.routes.iter().filter(|route| Family::of(route.to) == family);
        let targets = targets.filter_map(|route| target_of_table(route.table));
        desired.rules.extend(rule_tree::rules(mask, targets, table).into_iter().map(|rule| (family, rule)));
    }
    let families: BTreeSet<Family> = desired.rules.iter().map(|(family, _)| *family).collect();
    desired.entry = (!families.is_empty()).then(|| entry(state, families));
    let guards = inbound::guards(&state.balancer);
    desired.rules.extend(guards.flat_map(|rule| Family::ALL.map(|family| (family, rule))));
    desired.routes.extend(checks::routes(state));
    desired.rules.extend(checks::rule(state).map(|rule| (Family::V4, rule)));
    desired.vips = state.services.iter().flat_map(|service| &service.vips).map(IpNet::trunc).collect();
    let prefixes = desired.vips.iter().chain(&state.balancer.blackhole);
    desired.routes.extend(prefixes.copied().map(blackhole));
    Ok(desired)
}

fn blackhole(to: IpNet) -> Route {
    Route { table: TABLE_MAIN, to, metric: BLACKHOLE_METRIC, via: Via::Blackhole }
}

/// Packets to VIPs come in by the same devices that are in the ruleset's set `interfaces`.
fn entry(state: &State, families: BTreeSet<Family>) -> Entry {
    let balancer = &state.balancer;
    let own = inbound::device_names(balancer).chain([FRAGMENTS_DEVICE]).filter_map(DeviceName::new);
    let interfaces = balancer.interfaces.iter().filter_map(|name| DeviceName::new(name.as_str()));
    let tier = tier_devices(state).filter_map(|name| DeviceName::new(&name));
    Entry {
        families,
        devices: interfaces.chain(own).chain(tier).collect(),
        checks_from: checks::from(state),
        mask: balancer.mark_mask,
        priority: balancer.rule_priority,
    }
}

fn users(state: &State) -> Result<BTreeMap<TargetId, Users>, PlanError> {
    let mut users: BTreeMap<TargetId, Users> = BTreeMap::new();
    for service in &state.services {
        let vip6 = service.vips.iter().find(|vip| matches!(vip, IpNet::V6(_)));
        // Flows of the service also go to the backends that stand in for its own.
        let others = state.stand_in(service).into_iter().flat_map(|other| &other.backends);
        for backend in service.backends.iter().chain(others) {
            if let (Some(Path::Via(Encap::Direct, address @ IpAddr::V4(_))), Some(vip)) =
                (state.path(backend.target), vip6)
            {
                let (service, backend) = (service.name.to_string(), backend.name.to_string());
                return Err(PlanError::Ipv6OverIpv4 { service, backend, vip: *vip, address });
            }
            let entry = users.entry(backend.target).or_default();
            entry.vip4 |= service.vips.iter().any(|vip| matches!(vip, IpNet::V4(_)));
            entry.vip6 |= vip6.is_some();
        }
    }
    for target in state.tier.iter().filter_map(|member| member.target) {
        users.entry(target).or_default().tier = true;
    }
    for (target, name) in state.names() {
        users.entry(target).or_default().names.push(name);
    }
    Ok(users)
}

/// Returns both default routes, with the metrics that the kernel gives them.
fn default_routes() -> impl Iterator<Item = (IpNet, u32)> {
    [(Ipv4Net::default().into(), 0), (Ipv6Net::default().into(), 1024)].into_iter()
}

fn direct_routes(target: TargetId, address: IpAddr, users: &Users) -> impl Iterator<Item = Route> {
    let (vip4, vip6) = (users.vip4, users.vip6);
    default_routes()
        .filter(move |(to, _)| match to {
            IpNet::V4(_) => vip4,
            IpNet::V6(_) => vip6,
        })
        .map(move |(to, metric)| Route { table: table(target), to, metric, via: Via::Gateway(address) })
}

/// Makes the alias of a device. If a host serves in many services, the end of the list is left out and
/// replaced by `...`.
fn alias(names: &[String]) -> String {
    const CUT: &str = "...";
    let mut alias = format!("{ALIAS_PREFIX} {}", names.join(", "));
    if alias.len() > ALIAS_BYTES_MAX {
        let is_boundary = |at: &usize| alias.is_char_boundary(*at);
        alias.truncate((0..=ALIAS_BYTES_MAX - CUT.len()).rev().find(is_boundary).unwrap_or(0));
        alias += CUT;
    }
    alias
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
