//! The elements of a set as netlink delivers and takes them (`nf_tables_fill_setelem` in
//! `net/netfilter/nf_tables_api.c`): a key, and what belongs to it. PURE.
//!
//! Fields of a key are padded to 4 bytes. In a set with ranges of several fields, an element also has the key
//! of its end, which is the last of the range. In a set with ranges of one field, the end of a range is an
//! element of its own, and is the first after the range. Numbers in packets are in network order, marks in
//! the machine's own.

use std::collections::BTreeSet;

use super::{Element, Elements, Fields, SetName};
use crate::{
    lookup::classifier::AddressRange,
    model::{InterfaceName, PortRange},
};

/// The length of a device's name in a set (`IFNAMSIZ`).
const INTERFACE_NAME_BYTES: usize = 16;

/// An element in the kernel's form.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Raw {
    /// All fields, one after the other.
    pub key: Vec<u8>,
    /// Whether the element only ends a range.
    pub ends_range: bool,
    /// All fields of a range's end.
    pub key_end: Option<Vec<u8>>,
    /// The chain that it leads to.
    pub goto: Option<String>,
    /// The mark that it leads to.
    pub mark: Option<u32>,
}

impl Elements {
    /// Adds the elements of one set. An element that synrail does not write (`None`, or unreadable) spoils
    /// the set: the difference to any other elements is then that the set is emptied and filled.
    pub fn read(&mut self, set: SetName, raw: Vec<Option<Raw>>) {
        let raw: Option<Vec<Raw>> = raw.into_iter().collect();
        let joined = raw.map(|raw| if has_ranges_of_one_field(set) { joined(raw) } else { raw });
        let elements: Option<BTreeSet<Element>> =
            joined.and_then(|raw| raw.iter().map(|raw| element_of(set, raw)).collect());
        match elements {
            Some(elements) => elements.into_iter().for_each(|element| self.insert(set, element)),
            None => _ = self.spoiled.insert(set),
        }
    }
}

/// Returns a device's name as a key.
fn name_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(INTERFACE_NAME_BYTES, 0);
    key
}

impl Element {
    /// Returns the element in the form that netlink needs for this set.
    #[must_use]
    pub fn raw(&self, set: SetName) -> Vec<Raw> {
        let (fields, goto) = match self {
            Self::Interface(name) => return vec![Raw { key: name_key(name), ..Raw::default() }],
            Self::Way(name, chain) => {
                return vec![Raw { key: name_key(name), goto: Some(chain.clone()), ..Raw::default() }];
            }
            Self::Mark(mark) => return vec![Raw { key: mark.to_ne_bytes().to_vec(), ..Raw::default() }],
            Self::Kept(from, to) => {
                return vec![Raw { key: from.to_ne_bytes().to_vec(), mark: Some(*to), ..Raw::default() }];
            }
            Self::Range(fields) => (fields, None),
            Self::Goto(fields, chain) => (fields, Some(chain.clone())),
        };
        let [key, last] = keys(fields);
        match fields_of(set) {
            Some((_, 0)) | None => vec![Raw { key, goto, ..Raw::default() }],
            Some((_, 1)) => {
                let end = behind(last).map(|key| Raw { key, ends_range: true, ..Raw::default() });
                [Raw { key, goto, ..Raw::default() }].into_iter().chain(end).collect()
            }
            Some(_) => vec![Raw { key, key_end: Some(last), goto, ..Raw::default() }],
        }
    }
}

/// Returns the keys of the first and of the last values of these fields.
fn keys(fields: &Fields) -> [Vec<u8>; 2] {
    let addresses = match fields.addresses {
        AddressRange::V4(first, last) => [first, last].map(|address| address.to_be_bytes().to_vec()),
        AddressRange::V6(first, last) => [first, last].map(|address| address.to_be_bytes().to_vec()),
    };
    let protocols = fields.protocols.map(|(first, last)| [first, last]);
    let ports = fields.ports.map(|ports| [ports.first, ports.last]);
    let [mut first, mut last] = addresses;
    for (key, end) in [(&mut first, 0), (&mut last, 1)] {
        if let Some(protocols) = protocols {
            key.extend([protocols[end], 0, 0, 0]);
        }
        if let Some(ports) = ports {
            key.extend(ports[end].to_be_bytes());
            key.extend([0, 0]);
        }
    }
    [first, last]
}

fn has_ranges_of_one_field(set: SetName) -> bool {
    fields_of(set).is_some_and(|(_, fields)| fields == 1)
}

/// Joins ranges of one field: each gets the key of its last value.
fn joined(mut raw: Vec<Raw>) -> Vec<Raw> {
    // If one range ends where another begins, the end comes first.
    raw.sort_by(|a, b| (&a.key, !a.ends_range).cmp(&(&b.key, !b.ends_range)));
    let mut ranges: Vec<Raw> = Vec::new();
    let mut open = false;
    for element in raw {
        if !element.ends_range {
            ranges.push(element);
            open = true;
        } else if let Some(range) = ranges.last_mut().filter(|_| open) {
            range.key_end = Some(before(element.key));
            open = false;
        }
    }
    // The last address of all has no next one.
    if let Some(range) = ranges.last_mut().filter(|_| open) {
        range.key_end = Some(vec![u8::MAX; range.key.len()]);
    }
    ranges
}

/// Returns the next number, in network order; `None` after the last.
fn behind(mut number: Vec<u8>) -> Option<Vec<u8>> {
    for byte in number.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(number);
        }
    }
    None
}

/// Returns the previous number, in network order.
fn before(mut number: Vec<u8>) -> Vec<u8> {
    for byte in number.iter_mut().rev() {
        let borrow = *byte == 0;
        *byte = byte.wrapping_sub(1);
        if !borrow {
            break;
        }
    }
    number
}

/// For a set with addresses, returns the bytes of an address and the number of fields.
fn fields_of(set: SetName) -> Option<(usize, usize)> {
    match set {
        SetName::Interfaces | SetName::Tunnels | SetName::Ways | SetName::SteerWays | SetName::Full => None,
        SetName::Targets | SetName::Given | SetName::KeptTargets => None,
        SetName::LongTargets4 | SetName::LongTargets6 => None,
        SetName::Local4 | SetName::Remotes4 | SetName::GreIn4 => Some((4, 0)),
        SetName::Local6 | SetName::Remotes6 | SetName::GreIn6 => Some((16, 0)),
        SetName::Vip4
        | SetName::ClaimedAddress4
        | SetName::ClaimedEcho4
        | SetName::KernelAddress4
        | SetName::KernelEcho4
        | SetName::NextClaimedAddress4
        | SetName::NextKernelAddress4 => Some((4, 1)),
        SetName::Vip6
        | SetName::ClaimedAddress6
        | SetName::ClaimedEcho6
        | SetName::KernelAddress6
        | SetName::KernelEcho6
        | SetName::NextClaimedAddress6
        | SetName::NextKernelAddress6 => Some((16, 1)),
        SetName::ClaimedProtocol4
        | SetName::KernelProtocol4
        | SetName::NextClaimedProtocol4
        | SetName::NextKernelProtocol4 => Some((4, 2)),
        SetName::ClaimedProtocol6
        | SetName::KernelProtocol6
        | SetName::NextClaimedProtocol6
        | SetName::NextKernelProtocol6 => Some((16, 2)),
        SetName::ClaimedPort4
        | SetName::KernelPort4
        | SetName::NextClaimedPort4
        | SetName::NextKernelPort4
        | SetName::Rejected4 => Some((4, 3)),
        SetName::ClaimedPort6
        | SetName::KernelPort6
        | SetName::NextClaimedPort6
        | SetName::NextKernelPort6
        | SetName::Rejected6 => Some((16, 3)),
    }
}

fn is_of_marks(set: SetName) -> bool {
    use SetName::{Given, KeptTargets, LongTargets4, LongTargets6, Targets};
    matches!(set, Targets | Given | KeptTargets | LongTargets4 | LongTargets6)
}

fn element_of(set: SetName, raw: &Raw) -> Option<Element> {
    let Some((address_bytes, fields)) = fields_of(set) else {
        if is_of_marks(set) {
            let from = u32::from_ne_bytes(raw.key.as_slice().try_into().ok()?);
            return Some(raw.mark.map_or(Element::Mark(from), |to| Element::Kept(from, to)));
        }
        let name = std::str::from_utf8(&raw.key).ok()?.trim_end_matches('\0');
        let name = InterfaceName::new(name)?.to_string();
        return Some(match &raw.goto {
            Some(chain) => Element::Way(name, chain.clone()),
            None => Element::Interface(name),
        });
    };
    let (first, last) = (&raw.key[..], raw.key_end.as_deref().unwrap_or(&raw.key));
    let words = fields.saturating_sub(1);
    if [first, last].iter().any(|key| key.len() != address_bytes + 4 * words) {
        return None;
    }
    let word = |key: &[u8], at: usize| key.get(address_bytes + 4 * at..)?.first_chunk::<4>().copied();
    let protocols = match words {
        0 => None,
        _ => Some((word(first, 0)?[0], word(last, 0)?[0])),
    };
    let port = |key| word(key, 1).map(|[high, low, ..]| u16::from_be_bytes([high, low]));
    let ports = match words {
        2 => Some(PortRange { first: port(first)?, last: port(last)? }),
        _ => None,
    };
    let addresses = match address_bytes {
        4 => AddressRange::V4(
            u32::from_be_bytes(*first.first_chunk()?),
            u32::from_be_bytes(*last.first_chunk()?),
        ),
        _ => AddressRange::V6(
            u128::from_be_bytes(*first.first_chunk()?),
            u128::from_be_bytes(*last.first_chunk()?),
        ),
    };
    let fields = Fields { addresses, protocols, ports };
    Some(match &raw.goto {
        Some(chain) => Element::Goto(fields, chain.clone()),
        None => Element::Range(fields),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(key: &[u8]) -> Raw {
        Raw { key: key.to_vec(), ..Raw::default() }
    }

    fn end(key: &[u8]) -> Raw {
        Raw { ends_range: true, ..raw(key) }
    }

    fn names(set: SetName, elements: Vec<Raw>) -> Vec<String> {
        let mut read = Elements::default();
        read.read(set, elements.into_iter().map(Some).collect());
        assert!(read.spoiled.is_empty());
        // Whatever the order, the elements are written as they were read.
        let (mut written, mut again) = (Elements::default(), Vec::new());
        for element in read.of(set) {
            again.extend(element.raw(set).into_iter().map(Some));
        }
        written.read(set, again);
        assert_eq!(written, read);
        read.of(set).iter().map(Element::to_string).collect()
    }

    #[test]
    fn ranges_of_one_field_end_before_the_next_element() {
        let behind = [end(&[0; 4]), raw(&[10, 0, 0, 0]), end(&[10, 0, 1, 0]), raw(&[10, 0, 1, 0])];
        let last = [end(&[10, 0, 1, 1]), raw(&[255, 255, 255, 254])];
        let mut all = [&behind[..], &last].concat();
        let expected = ["10.0.0.0-10.0.0.255", "10.0.1.0", "255.255.255.254-255.255.255.255"];
        assert_eq!(names(SetName::Vip4, all.clone()), expected);
        all.reverse();
        assert_eq!(names(SetName::Vip4, all), expected);
        assert!(names(SetName::Vip4, vec![]).is_empty());
    }

    #[test]
    fn fields_are_where_nft_puts_them() {
        let ends = |first: &[u8], last: &[u8]| Raw { key_end: Some(last.to_vec()), ..raw(first) };
        let port = ends(&[10, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0], &[10, 0, 0, 9, 6, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(names(SetName::ClaimedPort4, vec![port.clone()]), ["10.0.0.1-10.0.0.9 . 6 . 80-256"]);
        let port = Raw { goto: Some("kernel_web".to_owned()), ..port };
        assert_eq!(
            names(SetName::KernelPort4, vec![port]),
            ["10.0.0.1-10.0.0.9 . 6 . 80-256 : goto kernel_web"]
        );
        let six: Vec<u8> = [&[0; 15][..], &[1], &[17, 0, 0, 0]].concat();
        assert_eq!(names(SetName::ClaimedProtocol6, vec![raw(&six)]), ["::1 . 17"]);
        assert_eq!(names(SetName::Local4, vec![raw(&[1, 2, 3, 4])]), ["1.2.3.4"]);
        assert_eq!(names(SetName::Targets, vec![raw(&7u32.to_ne_bytes())]), ["0x00000007"]);
        let kept = Raw { mark: Some(7), ..raw(&9u32.to_ne_bytes()) };
        assert_eq!(names(SetName::KeptTargets, vec![kept]), ["0x00000009 : 0x00000007"]);
        let eth0 = raw(b"eth0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(names(SetName::Interfaces, vec![eth0.clone()]), ["\"eth0\""]);
        let way = Raw { goto: Some("tracked".to_owned()), ..eth0 };
        assert_eq!(names(SetName::Ways, vec![way]), ["\"eth0\" : goto tracked"]);
    }

    #[test]
    fn a_set_with_foreign_elements_is_filled_anew() {
        for (set, key) in [
            (SetName::Vip4, &[1; 5][..]),
            (SetName::Vip6, &[1; 4]),
            (SetName::ClaimedPort4, &[1; 8]),
            (SetName::Targets, &[1; 3]),
            (SetName::Interfaces, &[b'/'; 16]),
            (SetName::Interfaces, &[]),
        ] {
            let mut read = Elements::default();
            read.read(set, vec![Some(raw(key))]);
            let mut desired = Elements::default();
            desired.insert(set, Element::Mark(7));
            let diff = read.diff(&desired);
            assert_eq!((diff.refill.into_iter().collect(), diff.add), (vec![set], desired), "{set:?}");
            assert!(!read.diff(&Elements::default()).is_empty());
        }
        let mut read = Elements::default();
        read.read(SetName::KernelPort4, vec![None]);
        assert!(!read.diff(&Elements::default()).is_empty());
    }

    #[test]
    fn what_is_written_is_what_nft_would_write() {
        let fields = |protocols, ports| Fields {
            addresses: AddressRange::V4(0x0a00_0000, 0x0a00_00ff),
            protocols,
            ports,
        };
        let vip = Element::Range(fields(None, None)).raw(SetName::Vip4);
        assert_eq!(vip, [raw(&[10, 0, 0, 0]), end(&[10, 0, 1, 0])]);
        let all = Element::addresses(AddressRange::V4(0x0a00_0000, u32::MAX)).raw(SetName::Vip4);
        assert_eq!(all, [raw(&[10, 0, 0, 0])], "nothing is behind the last address");
        let port =
            Element::Goto(fields(Some((6, 17)), Some(PortRange { first: 80, last: 256 })), "c".to_owned());
        let expected = Raw {
            key_end: Some(vec![10, 0, 0, 255, 17, 0, 0, 0, 1, 0, 0, 0]),
            goto: Some("c".to_owned()),
            ..raw(&[10, 0, 0, 0, 6, 0, 0, 0, 0, 80, 0, 0])
        };
        assert_eq!(port.raw(SetName::KernelPort4), [expected]);
    }
}
