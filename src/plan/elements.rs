//! The elements of the ruleset's sets: what they should be, what the kernel has, and the difference. PURE.
//!
//! A set is never refilled as a whole: while the kernel puts a transaction in force, a lookup may for a moment see
//! neither an old nor a new element, and that must not happen to addresses that do not change. For the same reason
//! neighbouring ranges are not merged: another VIP beside a known one leaves the known one's element alone.
//! What is in one interval set must be disjoint: VIPs are prefixes, of which the inner ones are dropped; the boxes of
//! claims come disjoint from the classifier.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde_json::Value;
use thiserror::Error;

use crate::{
    balance::service::{AddressRange, Claim},
    config::{Encap, InterfaceName, Path, PortRange},
    state::State,
};

use super::routing;

/// The table that everything is in.
pub const TABLE: &str = "synrail";
/// The TUN device by which held fragments come back. No target's device has such a name.
pub const FRAGMENTS_DEVICE: &str = "sr-frag";

/// One of the sets that synrail fills.
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
    Local4,
    Local6,
    Remotes4,
    Remotes6,
    Targets,
}

impl SetName {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Interfaces,
        Self::Vip4,
        Self::Vip6,
        Self::ClaimedPort4,
        Self::ClaimedPort6,
        Self::ClaimedProtocol4,
        Self::ClaimedProtocol6,
        Self::ClaimedAddress4,
        Self::ClaimedAddress6,
        Self::Local4,
        Self::Local6,
        Self::Remotes4,
        Self::Remotes6,
        Self::Targets,
    ];

    /// The name in the ruleset.
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
            Self::Local4 => "local4",
            Self::Local6 => "local6",
            Self::Remotes4 => "remotes4",
            Self::Remotes6 => "remotes6",
            Self::Targets => "targets",
        }
    }
}

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A device, by its name.
    Interface(String),
    /// A mark.
    Mark(u32),
    /// Addresses, and where the set has more fields, protocols and ports.
    Range(AddressRange, Option<(u8, u8)>, Option<PortRange>),
}

impl Element {
    fn addresses(range: AddressRange) -> Self {
        Self::Range(range, None, None)
    }
}

impl fmt::Display for Element {
    /// As nft reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn span<T: Copy + PartialEq + fmt::Display>(
            f: &mut fmt::Formatter<'_>,
            first: T,
            last: T,
        ) -> fmt::Result {
            if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
        }
        match self {
            Self::Interface(name) => write!(f, "\"{name}\""),
            Self::Mark(mark) => write!(f, "{mark:#010x}"),
            Self::Range(addresses, protocols, ports) => {
                match *addresses {
                    AddressRange::V4(first, last) => span(f, Ipv4Addr::from(first), Ipv4Addr::from(last))?,
                    AddressRange::V6(first, last) => span(f, Ipv6Addr::from(first), Ipv6Addr::from(last))?,
                }
                if let Some((first, last)) = *protocols {
                    f.write_str(" . ")?;
                    span(f, first, last)?;
                }
                ports.map_or(Ok(()), |ports| write!(f, " . {ports}"))
            }
        }
    }
}

/// The elements of every set; a set without any may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elements(BTreeMap<SetName, BTreeSet<Element>>);

impl Elements {
    /// What the sets should hold for this state, whose services claim these boxes.
    #[must_use]
    pub fn wanted(state: &State, claims: &[Claim]) -> Self {
        let mut elements = Self::default();
        for interface in &state.balancer.interfaces {
            elements.insert(SetName::Interfaces, Element::Interface(interface.to_string()));
        }
        elements.insert(SetName::Interfaces, Element::Interface(FRAGMENTS_DEVICE.to_owned()));
        for device in routing::tier_devices(state) {
            elements.insert(SetName::Interfaces, Element::Interface(device));
        }
        for vip in outermost(state.services.iter().flat_map(|service| service.vips.iter().copied())) {
            elements.insert_by_family([SetName::Vip4, SetName::Vip6], Element::addresses(range_of(vip)));
        }
        for claim in claims {
            elements.claim(claim);
        }
        let balancer = &state.balancer;
        let local = [balancer.address4.map(IpAddr::V4), balancer.address6.map(IpAddr::V6)];
        for address in local.into_iter().flatten() {
            elements
                .insert_by_family([SetName::Local4, SetName::Local6], Element::addresses(single(address)));
        }
        for (target, path) in state.targets_used() {
            elements.insert(SetName::Targets, Element::Mark(balancer.mark_mask.mark(target).0));
            match path {
                Path::Via(Encap::Gre | Encap::Ipip | Encap::Gue, remote) => {
                    let sets = [SetName::Remotes4, SetName::Remotes6];
                    elements.insert_by_family(sets, Element::addresses(single(remote)));
                }
                Path::Via(Encap::Direct, _) | Path::MarkOnly => {}
            }
        }
        elements
    }

    /// The elements of one set.
    #[must_use]
    pub fn of(&self, set: SetName) -> &BTreeSet<Element> {
        static NONE: BTreeSet<Element> = BTreeSet::new();
        self.0.get(&set).unwrap_or(&NONE)
    }

    /// Whether packets to this address are steered, or else dropped.
    #[must_use]
    pub fn has_vip(&self, address: IpAddr) -> bool {
        // Ranges of a set are disjoint: of those that begin no later, the last one has it or none does.
        let (set, largest) = match address {
            IpAddr::V4(address) => (SetName::Vip4, AddressRange::V4(address.into(), u32::MAX)),
            IpAddr::V6(address) => (SetName::Vip6, AddressRange::V6(address.into(), u128::MAX)),
        };
        self.of(set).range(..=Element::addresses(largest)).next_back().is_some_and(|element| {
            match (element, address) {
                (&Element::Range(AddressRange::V4(_, last), ..), IpAddr::V4(address)) => {
                    u32::from(address) <= last
                }
                (&Element::Range(AddressRange::V6(_, last), ..), IpAddr::V6(address)) => {
                    u128::from(address) <= last
                }
                (Element::Interface(_) | Element::Mark(_) | Element::Range(..), _) => false,
            }
        })
    }

    /// How many there are in all sets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What leads from `self` to `wanted`.
    #[must_use]
    pub fn diff(&self, wanted: &Self) -> ElementsDiff {
        let missing_in = |from: &Self, other: &Self| {
            let mut rest = Self::default();
            for set in SetName::ALL {
                for element in from.of(set).difference(other.of(set)) {
                    rest.insert(set, element.clone());
                }
            }
            rest
        };
        ElementsDiff { delete: missing_in(self, wanted), add: missing_in(wanted, self) }
    }

    /// Reads the answer of `nft -j -n list sets table inet synrail`.
    ///
    /// # Errors
    /// When it is no such answer, or an element is of a kind that synrail does not write.
    pub fn parse(json: &str) -> Result<Self, ElementsError> {
        let unreadable = |what: &dyn fmt::Display| ElementsError(what.to_string());
        let answer: Value = serde_json::from_str(json).map_err(|error| unreadable(&error))?;
        let objects = answer["nftables"].as_array().ok_or_else(|| unreadable(&"no list of objects"))?;
        let mut elements = Self::default();
        for set in objects.iter().filter_map(|object| object.get("set")) {
            let Some(name) = SetName::ALL.into_iter().find(|name| set["name"] == name.name()) else {
                continue;
            };
            for element in set["elem"].as_array().into_iter().flatten() {
                let parsed = element_of(name, element).ok_or_else(|| unreadable(&element))?;
                elements.insert(name, parsed);
            }
        }
        Ok(elements)
    }

    fn claim(&mut self, claim: &Claim) {
        let Claim { addresses, protocols, ports, service: _ } = *claim;
        let all_ports = ports == PortRange::ALL;
        if all_ports && protocols == (0, u8::MAX) {
            let sets = [SetName::ClaimedAddress4, SetName::ClaimedAddress6];
            self.insert_by_family(sets, Element::addresses(addresses));
        } else if all_ports {
            let sets = [SetName::ClaimedProtocol4, SetName::ClaimedProtocol6];
            self.insert_by_family(sets, Element::Range(addresses, Some(protocols), None));
        } else {
            let sets = [SetName::ClaimedPort4, SetName::ClaimedPort6];
            self.insert_by_family(sets, Element::Range(addresses, Some(protocols), Some(ports)));
        }
    }

    fn insert(&mut self, set: SetName, element: Element) {
        self.0.entry(set).or_default().insert(element);
    }

    fn insert_by_family(&mut self, [set4, set6]: [SetName; 2], element: Element) {
        let set = if matches!(element, Element::Range(AddressRange::V6(..), ..)) { set6 } else { set4 };
        self.insert(set, element);
    }
}

/// Elements that nft printed, and that cannot be ours.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("cannot read the sets of table inet synrail as nft prints them: {0}")]
pub struct ElementsError(String);

/// What to delete, then what to add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ElementsDiff {
    /// In the kernel, not wanted.
    pub delete: Elements,
    /// Wanted, not in the kernel.
    pub add: Elements,
}

impl ElementsDiff {
    /// Whether nothing is to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.delete.is_empty() && self.add.is_empty()
    }

    /// The commands, one transaction.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (verb, elements) in [("delete", &self.delete), ("add", &self.add)] {
            for (set, elements) in &elements.0 {
                let list: Vec<String> = elements.iter().map(Element::to_string).collect();
                let (set, list) = (set.name(), list.join(", "));
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{verb} element inet {TABLE} {set} {{ {list} }}");
            }
        }
        text
    }
}

/// The prefixes that lie in no other one. Two prefixes are nested or disjoint, so these are disjoint.
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

/// One element of nft's JSON: a value, a prefix, a range, or several of them joined.
fn element_of(set: SetName, json: &Value) -> Option<Element> {
    if set == SetName::Interfaces {
        return Some(Element::Interface(InterfaceName::new(json.as_str()?)?.to_string()));
    }
    if set == SetName::Targets {
        return Some(Element::Mark(u32::try_from(json.as_u64()?).ok()?));
    }
    let joined = json.get("concat").and_then(Value::as_array);
    let mut fields = joined.map_or(std::slice::from_ref(json), Vec::as_slice).iter();
    let addresses = addresses_of(fields.next()?)?;
    let protocols = match fields.next() {
        Some(field) => Some(numbers_of::<u8>(field)?),
        None => None,
    };
    let ports = match fields.next() {
        Some(field) => numbers_of::<u16>(field).map(|(first, last)| Some(PortRange { first, last }))?,
        None => None,
    };
    fields.next().is_none().then_some(Element::Range(addresses, protocols, ports))
}

fn addresses_of(json: &Value) -> Option<AddressRange> {
    let address = |json: &Value| json.as_str()?.parse::<IpAddr>().ok();
    if let Some(prefix) = json.get("prefix") {
        let length = prefix["len"].as_u64()?.try_into().ok()?;
        return IpNet::new(address(&prefix["addr"])?, length).ok().map(range_of);
    }
    if let Some(range) = json.get("range") {
        return match (address(&range[0])?, address(&range[1])?) {
            (IpAddr::V4(first), IpAddr::V4(last)) => Some(AddressRange::V4(first.into(), last.into())),
            (IpAddr::V6(first), IpAddr::V6(last)) => Some(AddressRange::V6(first.into(), last.into())),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        };
    }
    address(json).map(single)
}

fn numbers_of<T: TryFrom<u64>>(json: &Value) -> Option<(T, T)> {
    let number = |json: &Value| T::try_from(json.as_u64()?).ok();
    match json.get("range") {
        Some(range) => Some((number(&range[0])?, number(&range[1])?)),
        None => Some((number(json)?, number(json)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(first: &str, last: &str) -> AddressRange {
        let bits = |text: &str| u32::from(text.parse::<Ipv4Addr>().unwrap());
        AddressRange::V4(bits(first), bits(last))
    }

    fn claim(addresses: AddressRange, protocols: (u8, u8), ports: (u16, u16)) -> Claim {
        Claim { addresses, protocols, ports: PortRange { first: ports.0, last: ports.1 }, service: 0 }
    }

    fn names(elements: &BTreeSet<Element>) -> Vec<String> {
        elements.iter().map(Element::to_string).collect()
    }

    #[test]
    fn a_claim_goes_where_packets_without_ports_can_match_it() {
        let mut elements = Elements::default();
        let vip = v4("10.0.0.0", "10.0.0.127");
        elements.claim(&claim(vip, (6, 6), (80, 90)));
        elements.claim(&claim(vip, (17, 17), (0, 65535)));
        elements.claim(&claim(vip, (0, 255), (0, 65535)));
        elements.claim(&claim(AddressRange::V6(1, 1), (6, 6), (80, 80)));
        assert_eq!(names(elements.of(SetName::ClaimedPort4)), ["10.0.0.0-10.0.0.127 . 6 . 80-90"]);
        assert_eq!(names(elements.of(SetName::ClaimedProtocol4)), ["10.0.0.0-10.0.0.127 . 17"]);
        assert_eq!(names(elements.of(SetName::ClaimedAddress4)), ["10.0.0.0-10.0.0.127"]);
        assert_eq!(names(elements.of(SetName::ClaimedPort6)), ["::1 . 6 . 80"]);
        assert_eq!(elements.len(), 4);
    }

    #[test]
    fn the_device_of_fragments_is_no_targets() {
        assert_eq!(routing::target_of_device(FRAGMENTS_DEVICE), None);
        assert!(InterfaceName::new(FRAGMENTS_DEVICE).is_some());
    }

    #[test]
    fn nested_vips_leave_the_outermost() {
        let nets = ["10.0.0.5/32", "10.0.0.0/24", "10.0.1.0/24", "10.0.0.0/25", "1000::/112", "1000::1/128"];
        let outer = outermost(nets.iter().map(|net| net.parse().unwrap()));
        let texts: Vec<String> = outer.iter().map(IpNet::to_string).collect();
        assert_eq!(texts, ["10.0.0.0/24", "10.0.1.0/24", "1000::/112"]);
    }

    #[test]
    fn vips_are_found() {
        let mut elements = Elements::default();
        elements.insert(SetName::Vip4, Element::addresses(v4("10.0.0.0", "10.0.0.127")));
        elements.insert(SetName::Vip4, Element::addresses(v4("10.0.1.7", "10.0.1.7")));
        elements.insert(SetName::Vip6, Element::addresses(AddressRange::V6(5, 9)));
        for (address, is) in [
            ("9.255.255.255", false),
            ("10.0.0.0", true),
            ("10.0.0.127", true),
            ("10.0.0.128", false),
            ("10.0.1.7", true),
            ("255.255.255.255", false),
            ("::4", false),
            ("::5", true),
            ("::9", true),
            ("::a", false),
            ("::ffff:10.0.0.0", false),
        ] {
            assert_eq!(elements.has_vip(address.parse().unwrap()), is, "{address}");
        }
        assert!(!Elements::default().has_vip("10.0.0.0".parse().unwrap()));
    }

    #[test]
    fn what_nft_1_0_6_prints_is_read() {
        let json = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"set": {"name": "interfaces", "elem": ["eth0", "a@b{c};d"]}},
            {"set": {"name": "vip4", "elem": [{"range": ["0.0.0.0", "9.255.255.255"]},
                {"prefix": {"addr": "10.0.0.0", "len": 25}}, "10.0.1.7"]}},
            {"set": {"name": "vip6", "elem": [{"prefix": {"addr": "1000::", "len": 112}}]}},
            {"set": {"name": "claimed_protocol4", "elem": [
                {"concat": [{"range": ["1.0.0.1", "1.0.0.6"]}, {"range": [17, 200]}]}]}},
            {"set": {"name": "claimed_port6", "elem": [
                {"concat": ["1000::", 17, {"range": [100, 200]}]}, {"concat": ["1000::", 6, 80]}]}},
            {"set": {"name": "remotes4"}},
            {"set": {"name": "of_somebody_else", "elem": [1]}}]}"#;
        let elements = Elements::parse(json).unwrap();
        assert_eq!(names(elements.of(SetName::Interfaces)), ["\"a@b{c};d\"", "\"eth0\""]);
        let vip4 = ["0.0.0.0-9.255.255.255", "10.0.0.0-10.0.0.127", "10.0.1.7"];
        assert_eq!(names(elements.of(SetName::Vip4)), vip4);
        assert_eq!(names(elements.of(SetName::Vip6)), ["1000::-1000::ffff"]);
        assert_eq!(names(elements.of(SetName::ClaimedProtocol4)), ["1.0.0.1-1.0.0.6 . 17-200"]);
        assert_eq!(names(elements.of(SetName::ClaimedPort6)), ["1000:: . 6 . 80", "1000:: . 17 . 100-200"]);
        assert_eq!(elements.len(), 9);
    }

    #[test]
    fn foreign_elements_are_an_error_not_a_guess() {
        for elem in [r#"{"elem": {"val": "10.0.0.1"}}"#, "7", r#""nonsense""#, r#"{"concat": []}"#] {
            let json = format!(r#"{{"nftables": [{{"set": {{"name": "vip4", "elem": [{elem}]}}}}]}}"#);
            assert!(Elements::parse(&json).is_err(), "{elem}");
        }
        assert!(Elements::parse("{}").is_err());
        assert!(Elements::parse("").is_err());
    }

    #[test]
    fn the_difference_names_only_what_changes() {
        let mut old = Elements::default();
        let mut new = Elements::default();
        for (elements, vips) in [(&mut old, ["10.0.0.1", "10.0.0.2"]), (&mut new, ["10.0.0.2", "10.0.0.3"])] {
            for vip in vips {
                elements.insert(SetName::Vip4, Element::addresses(v4(vip, vip)));
            }
        }
        new.insert(SetName::Interfaces, Element::Interface("eth1".to_owned()));
        let text = old.diff(&new).text();
        let expected = "delete element inet synrail vip4 { 10.0.0.1 }\n\
                        add element inet synrail interfaces { \"eth1\" }\n\
                        add element inet synrail vip4 { 10.0.0.3 }\n";
        assert_eq!(text, expected);
        assert!(new.diff(&new).is_empty());
        assert_eq!(new.diff(&new).text(), "");
    }
}
