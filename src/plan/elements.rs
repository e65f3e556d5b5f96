//! The elements of the ruleset's sets, and of its maps that lead to fallback tables: the desired elements,
//! those in the kernel (`read.rs`), and the difference. PURE.
//!
//! When a service's decider changes, or a fixed property of the table by which the kernel decides for it, its
//! claims lead to another chain. When another service claims a part of them, they are divided otherwise. While
//! the kernel commits a transaction that replaces such elements, a lookup may for a moment see neither the old
//! nor the new one, and the first packet of a new flow would be dropped, as if no service claimed it. So the
//! new elements are also in maps that packets look up if they find nothing, from before that transaction until
//! after it ([`ElementsDiff::ahead`]).
//!
//! The sets of VIPs have no such maps, and a lookup must always find addresses that do not change. So a set is
//! never refilled as a whole, and neighbouring ranges are not merged: when another VIP is added next to an
//! existing one, the element of the existing one stays as it is. The ranges in one interval set must be
//! disjoint. VIPs are prefixes, of which the inner ones are left out; the boxes of claims are already disjoint
//! when they come from the classifier.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    config::Balancer,
    lookup::classifier::{AddressRange, Claim, Classifier, EchoClaim},
    model::{Encap, Path, PortRange, ids::Mark},
    state::{NewFlows, State},
};

use super::{
    kernel_tables::KernelTable,
    routing::{self, FRAGMENTS_DEVICE, inbound},
};
pub use read::Raw;

mod own;
mod read;

/// The table that contains everything.
pub const TABLE: &str = "synrail";
/// The chain that drops packets without a decision.
const UNSTEERED: &str = "unsteered";
/// The chain for claims of services that lbd decides about.
pub(crate) const BY_LBD: &str = "by_lbd";
/// The chain for claims of services whose new flows are rejected.
pub(crate) const REJECT: &str = "reject_flow";
/// The chain that drops packets that come out of a tunnel and are for no VIP.
const FROM_TUNNEL: &str = "from_tunnel";

/// One of the sets and maps that synrail fills with single elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "named as in the ruleset, which explains them")]
pub enum SetName {
    Interfaces,
    Vip4,
    Vip6,
    ClaimedPort4,
    ClaimedPort6,
    ClaimedProtocol4,
    ClaimedProtocol6,
    ClaimedAddress4,
    ClaimedAddress6,
    ClaimedEcho4,
    ClaimedEcho6,
    Local4,
    Local6,
    Remotes4,
    Remotes6,
    Tunnels,
    GreIn4,
    GreIn6,
    Ways,
    SteerWays,
    Full,
    Targets,
    Given,
    KeptTargets,
    LongTargets4,
    LongTargets6,
    KernelPort4,
    KernelPort6,
    KernelProtocol4,
    KernelProtocol6,
    KernelAddress4,
    KernelAddress6,
    KernelEcho4,
    KernelEcho6,
    NextClaimedPort4,
    NextClaimedPort6,
    NextClaimedProtocol4,
    NextClaimedProtocol6,
    NextClaimedAddress4,
    NextClaimedAddress6,
    NextKernelPort4,
    NextKernelPort6,
    NextKernelProtocol4,
    NextKernelProtocol6,
    NextKernelAddress4,
    NextKernelAddress6,
    Rejected4,
    Rejected6,
}

/// How packets to VIPs are handled before connection tracking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// They are tracked, except SYNs.
    #[default]
    Tracked,
    /// They are looked up in the maps of off-table flows first; the others are handled as in
    /// [`Way::Tracked`].
    OffTable,
    /// Connection tracking is nearly full. Packets of flows that are not in these maps are not tracked
    /// either, and follow the fallback tables. With `steering = "every-packet"`, which tracks nothing, this
    /// is the same as [`Way::OffTable`].
    Untracked,
}

impl Way {
    /// Returns the chain at -300 for packets that come in by a device of this kind.
    pub(super) fn before_conntrack(self, by_tunnel: bool) -> &'static str {
        match (self, by_tunnel) {
            (Self::Tracked, false) => "tracked",
            (Self::Tracked, true) => "tunnel_tracked",
            (Self::OffTable | Self::Untracked, false) => "with_off_table",
            (Self::OffTable | Self::Untracked, true) => "tunnel_with_off_table",
        }
    }

    /// Returns the chain at -150.
    pub(super) fn steer(self) -> &'static str {
        match self {
            Self::Tracked => "steer_tracked",
            Self::OffTable | Self::Untracked => "steer_marked",
        }
    }
}

impl SetName {
    /// All sets and maps.
    pub const ALL: [Self; 48] = [
        Self::Interfaces,
        Self::Vip4,
        Self::Vip6,
        Self::ClaimedPort4,
        Self::ClaimedPort6,
        Self::ClaimedProtocol4,
        Self::ClaimedProtocol6,
        Self::ClaimedAddress4,
        Self::ClaimedAddress6,
        Self::ClaimedEcho4,
        Self::ClaimedEcho6,
        Self::Local4,
        Self::Local6,
        Self::Remotes4,
        Self::Remotes6,
        Self::Tunnels,
        Self::GreIn4,
        Self::GreIn6,
        Self::Ways,
        Self::SteerWays,
        Self::Full,
        Self::Targets,
        Self::Given,
        Self::KeptTargets,
        Self::LongTargets4,
        Self::LongTargets6,
        Self::KernelPort4,
        Self::KernelPort6,
        Self::KernelProtocol4,
        Self::KernelProtocol6,
        Self::KernelAddress4,
        Self::KernelAddress6,
        Self::KernelEcho4,
        Self::KernelEcho6,
        Self::NextClaimedPort4,
        Self::NextClaimedPort6,
        Self::NextClaimedProtocol4,
        Self::NextClaimedProtocol6,
        Self::NextClaimedAddress4,
        Self::NextClaimedAddress6,
        Self::NextKernelPort4,
        Self::NextKernelPort6,
        Self::NextKernelProtocol4,
        Self::NextKernelProtocol6,
        Self::NextKernelAddress4,
        Self::NextKernelAddress6,
        Self::Rejected4,
        Self::Rejected6,
    ];
    /// The maps from claims to what decides about them. There is one map per kind of claim: a port, a
    /// protocol, or any packet to an address; each for IPv4 and IPv6.
    const CLAIMED: [[Self; 2]; 3] = [
        [Self::ClaimedPort4, Self::ClaimedPort6],
        [Self::ClaimedProtocol4, Self::ClaimedProtocol6],
        [Self::ClaimedAddress4, Self::ClaimedAddress6],
    ];
    /// The maps from claims to fallback tables, in the same order.
    const KERNEL: [[Self; 2]; 3] = [
        [Self::KernelPort4, Self::KernelPort6],
        [Self::KernelProtocol4, Self::KernelProtocol6],
        [Self::KernelAddress4, Self::KernelAddress6],
    ];
    /// The maps that have the elements of these two, in the same order, before they are replaced.
    const NEXT: [[[Self; 2]; 3]; 2] = [
        [
            [Self::NextClaimedPort4, Self::NextClaimedPort6],
            [Self::NextClaimedProtocol4, Self::NextClaimedProtocol6],
            [Self::NextClaimedAddress4, Self::NextClaimedAddress6],
        ],
        [
            [Self::NextKernelPort4, Self::NextKernelPort6],
            [Self::NextKernelProtocol4, Self::NextKernelProtocol6],
            [Self::NextKernelAddress4, Self::NextKernelAddress6],
        ],
    ];

    /// Returns the name in the ruleset.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Interfaces => "interfaces",
            Self::Vip4 => "vip4",
            Self::Vip6 => "vip6",
            Self::ClaimedPort4 => "claimed_port4",
            Self::ClaimedPort6 => "claimed_port6",
            Self::ClaimedProtocol4 => "claimed_protocol4",
            Self::ClaimedProtocol6 => "claimed_protocol6",
            Self::ClaimedAddress4 => "claimed_address4",
            Self::ClaimedAddress6 => "claimed_address6",
            Self::ClaimedEcho4 => "claimed_echo4",
            Self::ClaimedEcho6 => "claimed_echo6",
            Self::Local4 => "local4",
            Self::Local6 => "local6",
            Self::Remotes4 => "remotes4",
            Self::Remotes6 => "remotes6",
            Self::Tunnels => "tunnels",
            Self::GreIn4 => "gre_in4",
            Self::GreIn6 => "gre_in6",
            Self::Ways => "ways",
            Self::SteerWays => "steer_ways",
            Self::Full => "full",
            Self::Targets => "targets",
            Self::Given => "given",
            Self::KeptTargets => "kept_targets",
            Self::LongTargets4 => "long_targets4",
            Self::LongTargets6 => "long_targets6",
            Self::KernelPort4 => "kernel_port4",
            Self::KernelPort6 => "kernel_port6",
            Self::KernelProtocol4 => "kernel_protocol4",
            Self::KernelProtocol6 => "kernel_protocol6",
            Self::KernelAddress4 => "kernel_address4",
            Self::KernelAddress6 => "kernel_address6",
            Self::KernelEcho4 => "kernel_echo4",
            Self::KernelEcho6 => "kernel_echo6",
            Self::NextClaimedPort4 => "next_claimed_port4",
            Self::NextClaimedPort6 => "next_claimed_port6",
            Self::NextClaimedProtocol4 => "next_claimed_protocol4",
            Self::NextClaimedProtocol6 => "next_claimed_protocol6",
            Self::NextClaimedAddress4 => "next_claimed_address4",
            Self::NextClaimedAddress6 => "next_claimed_address6",
            Self::NextKernelPort4 => "next_kernel_port4",
            Self::NextKernelPort6 => "next_kernel_port6",
            Self::NextKernelProtocol4 => "next_kernel_protocol4",
            Self::NextKernelProtocol6 => "next_kernel_protocol6",
            Self::NextKernelAddress4 => "next_kernel_address4",
            Self::NextKernelAddress6 => "next_kernel_address6",
            Self::Rejected4 => "rejected4",
            Self::Rejected6 => "rejected6",
        }
    }
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A device, by its name.
    Interface(String),
    /// A device, and the chain that its packets go to.
    Way(String, String),
    /// A mark.
    Mark(u32),
    /// A connection mark, and the packet's mark that it stands for.
    Kept(u32, u32),
    /// Packets, by address and possibly protocol and ports.
    Range(Fields),
    /// Packets, and the chain that they go to.
    Goto(Fields, String),
}

/// Addresses and, if the set has more fields, protocols and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fields {
    /// The destination.
    pub addresses: AddressRange,
    /// Protocol numbers `first..=last`.
    pub protocols: Option<(u8, u8)>,
    /// The destination ports.
    pub ports: Option<PortRange>,
}

impl Element {
    /// Returns an element of these addresses, for any protocol.
    pub(crate) fn addresses(addresses: AddressRange) -> Self {
        Self::Range(Fields { addresses, protocols: None, ports: None })
    }

    /// Returns an element that leads packets of this device to a chain.
    fn leads_to(&self, chain: &str) -> Option<Self> {
        let Self::Interface(name) = self else { return None };
        Some(Self::Way(name.clone(), chain.to_owned()))
    }
}

impl fmt::Display for Element {
    /// Writes the element in nft's syntax.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(name) => write!(f, "\"{name}\""),
            Self::Way(name, chain) => write!(f, "\"{name}\" : goto {chain}"),
            Self::Mark(mark) => write!(f, "{mark:#010x}"),
            Self::Kept(from, to) => write!(f, "{from:#010x} : {to:#010x}"),
            Self::Range(fields) => write!(f, "{fields}"),
            Self::Goto(fields, chain) => write!(f, "{fields} : goto {chain}"),
        }
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn span<T: Copy + PartialEq + fmt::Display>(
            f: &mut fmt::Formatter<'_>,
            first: T,
            last: T,
        ) -> fmt::Result {
            if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
        }
        match self.addresses {
            AddressRange::V4(first, last) => span(f, Ipv4Addr::from(first), Ipv4Addr::from(last))?,
            AddressRange::V6(first, last) => span(f, Ipv6Addr::from(first), Ipv6Addr::from(last))?,
        }
        if let Some((first, last)) = self.protocols {
            f.write_str(" . ")?;
            span(f, first, last)?;
        }
        self.ports.map_or(Ok(()), |ports| write!(f, " . {ports}"))
    }
}

/// The elements of every set. A set without elements may be left out. A clone shares all sets until it
/// changes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elements {
    of: BTreeMap<SetName, Arc<BTreeSet<Element>>>,
    /// Sets of the kernel that have elements which are not ours.
    spoiled: BTreeSet<SetName>,
}

impl Elements {
    /// Returns the elements that the sets should have for this state. `claims` are the boxes that its
    /// services claim, and `tables` are their fallback tables. The way is [`Way::Tracked`].
    #[must_use]
    pub fn desired(state: &State, claims: &Claims, tables: &[KernelTable]) -> Self {
        let mut elements = Self::default();
        for interface in &state.balancer.interfaces {
            elements.insert(SetName::Interfaces, Element::Interface(interface.to_string()));
        }
        let entrances = inbound::device_names(&state.balancer).chain([FRAGMENTS_DEVICE]);
        for device in entrances {
            elements.insert(SetName::Interfaces, Element::Interface(device.to_owned()));
            elements.insert(SetName::Tunnels, Element::Interface(device.to_owned()));
        }
        for device in routing::tier_devices(state) {
            elements.insert(SetName::Interfaces, Element::Interface(device));
        }
        for address in inbound::addresses(&state.balancer) {
            elements
                .insert_by_family([SetName::GreIn4, SetName::GreIn6], Element::addresses(single(address)));
        }
        for vip in outermost(state.services.iter().flat_map(|service| service.vips.iter().copied())) {
            elements.insert_by_family([SetName::Vip4, SetName::Vip6], Element::addresses(range_of(vip)));
        }
        // Without a backend, neither lbd nor a table is needed.
        let rejected: Vec<bool> =
            state.services.iter().map(|of| state.new_flows(of) == NewFlows::Rejected).collect();
        let rejects = |service: usize| rejected.get(service).is_some_and(|&rejected| rejected);
        let table_of = |service| tables.iter().find(|table| table.service == service);
        let chain_of = |service| match rejects(service) {
            true => Some(REJECT),
            false => table_of(service).map(|table| table.chain.as_str()),
        };
        let decides = |service| match rejects(service) {
            true => Some(REJECT),
            false => table_of(service).filter(|table| table.decides).map(|table| table.chain.as_str()),
        };
        for claim in &claims.all {
            if rejects(claim.service) {
                let Claim { addresses, protocols, ports, service: _ } = *claim;
                let fields = Fields { addresses, protocols: Some(protocols), ports: Some(ports) };
                elements.insert_by_family([SetName::Rejected4, SetName::Rejected6], Element::Range(fields));
            }
            elements.lead(SetName::CLAIMED, claim, decides(claim.service).unwrap_or(BY_LBD));
            if let Some(chain) = chain_of(claim.service) {
                elements.lead(SetName::KERNEL, claim, chain);
            }
        }
        for claim in &claims.echoes {
            let EchoClaim { addresses, service, other } = *claim;
            // These must not follow the table that all other ICMP follows.
            let instead = |of: Option<&str>, chain| of.map(|_| chain);
            let to_lbd = || instead(other.and_then(decides), BY_LBD);
            let to_nobody = || instead(other.and_then(chain_of), UNSTEERED);
            for (sets, chain) in [
                ([SetName::ClaimedEcho4, SetName::ClaimedEcho6], decides(service).or_else(to_lbd)),
                ([SetName::KernelEcho4, SetName::KernelEcho6], chain_of(service).or_else(to_nobody)),
            ] {
                let fields = Fields { addresses, protocols: None, ports: None };
                if let Some(chain) = chain {
                    elements.insert_by_family(sets, Element::Goto(fields, chain.to_owned()));
                }
            }
        }
        let balancer = &state.balancer;
        for address in balancer.address.iter() {
            elements
                .insert_by_family([SetName::Local4, SetName::Local6], Element::addresses(single(address)));
        }
        for (target, path) in state.targets_used() {
            let (mask, Mark(mark)) = (balancer.mark_mask, balancer.mark_mask.mark(target));
            for set in [SetName::Targets, SetName::Given] {
                elements.insert(set, Element::Mark(mark));
            }
            let kept = Element::Kept(mask.kept_mark(Mark(mark)).0, mark);
            elements.insert(SetName::KeptTargets, kept);
            for set in promotable(path) {
                elements.insert(*set, Element::Mark(mark));
            }
            match path {
                Path::Via(Encap::Gre | Encap::Ipip | Encap::Gue, remote) => {
                    elements.insert(SetName::Tunnels, Element::Interface(routing::device_name(target)));
                    let sets = [SetName::Remotes4, SetName::Remotes6];
                    elements.insert_by_family(sets, Element::addresses(single(remote)));
                }
                Path::Via(Encap::Direct, _) | Path::MarkOnly => {}
            }
        }
        elements.set_way(Way::Tracked);
        elements
    }

    /// Makes all interfaces use this way. Packets that come out of other tunnels are dropped if they are for
    /// no VIP.
    pub fn set_way(&mut self, way: Way) {
        let interfaces = self.of(SetName::Interfaces).clone();
        let tunnels = self.of(SetName::Tunnels).clone();
        let before = |device: &Element| match (interfaces.contains(device), tunnels.contains(device)) {
            (true, by_tunnel) => way.before_conntrack(by_tunnel),
            (false, _) => FROM_TUNNEL,
        };
        let ways = interfaces.union(&tunnels).filter_map(|device| device.leads_to(before(device))).collect();
        let steer = interfaces.iter().filter_map(|device| device.leads_to(way.steer())).collect();
        let full = if way == Way::Untracked { interfaces } else { BTreeSet::new() };
        for (set, elements) in [(SetName::Ways, ways), (SetName::SteerWays, steer), (SetName::Full, full)] {
            self.of.insert(set, Arc::new(elements));
        }
    }

    /// Returns the way that `in_force` differs least from, if it was made of these elements.
    #[must_use]
    pub fn nearest_way(&self, in_force: &Self) -> Way {
        let distance = |way: &Way| {
            let mut desired = self.clone();
            desired.set_way(*way);
            let differing = |set| desired.of(set).symmetric_difference(in_force.of(set)).count();
            [SetName::Ways, SetName::SteerWays, SetName::Full].into_iter().map(differing).sum::<usize>()
        };
        [Way::Tracked, Way::OffTable, Way::Untracked].into_iter().min_by_key(distance).unwrap_or_default()
    }

    /// Returns the elements of one set.
    #[must_use]
    pub fn of(&self, set: SetName) -> &BTreeSet<Element> {
        static NONE: BTreeSet<Element> = BTreeSet::new();
        self.of.get(&set).map_or(&NONE, |elements| elements)
    }

    /// Reports whether packets to this address are steered or dropped, and not passed.
    #[must_use]
    pub fn has_vip(&self, address: IpAddr) -> bool {
        // The ranges of a set are disjoint. So of the ranges that do not begin after the address, only the
        // last can contain it.
        let (set, largest) = match address {
            IpAddr::V4(address) => (SetName::Vip4, AddressRange::V4(address.into(), u32::MAX)),
            IpAddr::V6(address) => (SetName::Vip6, AddressRange::V6(address.into(), u128::MAX)),
        };
        self.of(set).range(..=Element::addresses(largest)).next_back().is_some_and(|element| {
            let Element::Range(fields) = element else { return false };
            match (fields.addresses, address) {
                (AddressRange::V4(_, last), IpAddr::V4(address)) => u32::from(address) <= last,
                (AddressRange::V6(_, last), IpAddr::V6(address)) => u128::from(address) <= last,
                (AddressRange::V4(..), IpAddr::V6(_)) | (AddressRange::V6(..), IpAddr::V4(_)) => false,
            }
        })
    }

    /// Returns the number of elements in all sets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.of.values().map(|elements| elements.len()).sum()
    }

    /// Reports whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the difference between `self` and `desired`.
    #[must_use]
    pub fn diff(&self, desired: &Self) -> ElementsDiff {
        let missing_in = |from: &Self, other: &Self| {
            let mut rest = Self::default();
            for set in SetName::ALL {
                for element in from.of(set).difference(other.of(set)) {
                    rest.insert(set, element.clone());
                }
            }
            rest
        };
        ElementsDiff {
            refill: self.spoiled.clone(),
            delete: missing_in(self, desired),
            add: missing_in(desired, self),
        }
    }

    /// Makes a claim lead to a chain.
    fn lead(&mut self, sets: [[SetName; 2]; 3], claim: &Claim, chain: &str) {
        let (shape, fields) = shape_of(claim);
        self.insert_by_family(sets[shape], Element::Goto(fields, chain.to_owned()));
    }

    pub(crate) fn insert(&mut self, set: SetName, element: Element) {
        Arc::make_mut(self.of.entry(set).or_default()).insert(element);
    }

    fn insert_by_family(&mut self, [set4, set6]: [SetName; 2], element: Element) {
        let six = match &element {
            Element::Range(fields) | Element::Goto(fields, _) => {
                matches!(fields.addresses, AddressRange::V6(..))
            }
            Element::Interface(_) | Element::Way(..) | Element::Mark(_) | Element::Kept(..) => false,
        };
        self.insert(if six { set6 } else { set4 }, element);
    }
}

/// Returns the sets by which flows to a target may be promoted, IPv4 and IPv6. The flowtable resolves a next
/// hop in the family of the packet. If the next hop is of the other family, it would resolve the VIP itself
/// (`nf_flow_offload_ip_hook`).
fn promotable(path: Path) -> &'static [SetName] {
    match path {
        Path::MarkOnly => &[],
        Path::Via(Encap::Direct, IpAddr::V4(_)) => &[SetName::LongTargets4],
        Path::Via(Encap::Direct, IpAddr::V6(_)) => &[SetName::LongTargets6],
        Path::Via(Encap::Gre | Encap::Ipip | Encap::Gue, _) => {
            &[SetName::LongTargets4, SetName::LongTargets6]
        }
    }
}

/// Returns the devices by which long flows come in: all that bring more than fragments.
pub(super) fn promoted_devices(balancer: &Balancer) -> BTreeSet<String> {
    let interfaces = balancer.interfaces.iter().map(ToString::to_string);
    interfaces.chain(inbound::device_names(balancer).map(str::to_owned)).collect()
}

/// The parts of all traffic that services claim, as returned by [`crate::lookup::classifier::Classifier`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// All boxes.
    pub all: Vec<Claim>,
    /// Echo requests that belong to another service than all other ICMP.
    pub echoes: Vec<EchoClaim>,
}

impl Claims {
    /// Returns the claims of this classifier.
    #[must_use]
    pub fn of(classifier: &Classifier) -> Self {
        Self { all: classifier.claims(), echoes: classifier.echo_claims() }
    }
}

/// Returns where a claim belongs, so that packets without ports can match it: the index into
/// [`SetName::CLAIMED`] and [`SetName::KERNEL`], and the fields that are compared there.
fn shape_of(claim: &Claim) -> (usize, Fields) {
    let Claim { addresses, protocols, ports, service: _ } = *claim;
    if ports != PortRange::ALL {
        (0, Fields { addresses, protocols: Some(protocols), ports: Some(ports) })
    } else if protocols != (0, u8::MAX) {
        (1, Fields { addresses, protocols: Some(protocols), ports: None })
    } else {
        (2, Fields { addresses, protocols: None, ports: None })
    }
}

/// What is to be deleted, then what is to be added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ElementsDiff {
    /// Sets with elements that are not ours. These are emptied first.
    pub refill: BTreeSet<SetName>,
    /// Elements that are in the kernel and should not be.
    pub delete: Elements,
    /// Elements that should be in the kernel and are not.
    pub add: Elements,
}

impl ElementsDiff {
    /// Returns the additions that fill the sets that are empty.
    #[must_use]
    pub fn filling(desired: &Elements, empty: impl Fn(SetName) -> bool) -> Self {
        let mut add = desired.clone();
        add.of.retain(|set, _| empty(*set));
        Self { add, ..Self::default() }
    }

    /// Returns what has to be in force before this difference, so that packets of each claim find an element
    /// while the kernel commits it. Nothing if no claim is replaced. `made_anew` reports which sets are new in
    /// the same transaction, in place of others. [`ElementsDiff::emptied`] is for afterwards.
    #[must_use]
    pub fn ahead(&self, made_anew: impl Fn(SetName) -> bool) -> Self {
        let mut ahead = Self::default();
        for (sets, next) in [SetName::CLAIMED, SetName::KERNEL].iter().zip(SetName::NEXT) {
            for family in [0, 1] {
                let replaced =
                    |set| !self.delete.of(set).is_empty() || self.refill.contains(&set) || made_anew(set);
                if !sets.iter().any(|set| replaced(set[family])) {
                    continue;
                }
                for (set, next) in sets.iter().zip(next) {
                    if let Some(elements) = self.add.of.get(&set[family]).filter(|all| !all.is_empty()) {
                        // A process that ended in between may have left others.
                        ahead.refill.insert(next[family]);
                        ahead.add.of.insert(next[family], Arc::clone(elements));
                    }
                }
            }
        }
        ahead
    }

    /// Returns the part of this difference that changes these sets.
    #[must_use]
    pub fn only(mut self, sets: impl Fn(&SetName) -> bool) -> Self {
        self.refill.retain(&sets);
        self.delete.of.retain(|set, _| sets(set));
        self.add.of.retain(|set, _| sets(set));
        self
    }

    /// Returns the difference that empties the sets that this one fills.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self { refill: self.add.of.keys().copied().collect(), ..Self::default() }
    }

    /// Reports whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets().next().is_none()
    }

    /// Returns the sets that change.
    pub fn sets(&self) -> impl Iterator<Item = SetName> {
        SetName::ALL.into_iter().filter(|set| {
            self.refill.contains(set) || !self.delete.of(*set).is_empty() || !self.add.of(*set).is_empty()
        })
    }
}

/// Returns the prefixes that are not inside another one. Two prefixes are nested or disjoint, so the results
/// are disjoint.
fn outermost(prefixes: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
    let mut prefixes: Vec<IpNet> = prefixes.map(|prefix| prefix.trunc()).collect();
    prefixes.sort_by_key(|prefix| (prefix.network(), prefix.prefix_len()));
    let mut outer: Vec<IpNet> = Vec::new();
    for prefix in prefixes {
        if !outer.last().is_some_and(|last| last.contains(&prefix)) {
            outer.push(prefix);
        }
    }
    outer
}

fn range_of(prefix: IpNet) -> AddressRange {
    match prefix {
        IpNet::V4(net) => AddressRange::V4(net.network().into(), net.broadcast().into()),
        IpNet::V6(net) => AddressRange::V6(net.network().into(), net.broadcast().into()),
    }
}

fn single(address: IpAddr) -> AddressRange {
    match address {
        IpAddr::V4(address) => AddressRange::V4(address.into(), address.into()),
        IpAddr::V6(address) => AddressRange::V6(address.into(), address.into()),
    }
}

#[cfg(test)]
mod tests;
