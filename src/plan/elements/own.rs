//! Addresses of this host inside prefixes of VIPs: they stay the host's own.

use std::{collections::BTreeSet, sync::Arc};

use ipnet::IpNet;

use super::{Element, Elements, SetName, outermost, range_of};
use crate::lookup::classifier::AddressRange;

impl Elements {
    /// Returns the elements without these addresses of the host: packets to them are not treated as packets
    /// to a VIP if the VIP is a larger prefix. An address that is a VIP by itself stays: the kernel delivers
    /// its packets here, which is reported elsewhere.
    #[must_use]
    pub fn without(&self, own: &[IpNet]) -> Self {
        let mut elements = self.clone();
        let holes: Vec<AddressRange> = outermost(own.iter().copied()).into_iter().map(range_of).collect();
        for set in [SetName::Vip4, SetName::Vip6] {
            let ranges = self.of(set).iter().flat_map(|element| match element {
                Element::Range(fields) => pieces(fields.addresses, &holes),
                Element::Interface(_)
                | Element::Way(..)
                | Element::Mark(_)
                | Element::Kept(..)
                | Element::Goto(..) => Vec::new(),
            });
            let ranges: BTreeSet<Element> = ranges.map(Element::addresses).collect();
            if ranges != *self.of(set) {
                elements.of.insert(set, Arc::new(ranges));
            }
        }
        elements
    }
}

/// Returns the parts of a range between holes, which are disjoint and ascending.
fn pieces(range: AddressRange, holes: &[AddressRange]) -> Vec<AddressRange> {
    let (six, first, last) = numbers(range);
    let begin = holes.partition_point(|hole| (numbers(*hole).0, numbers(*hole).2) < (six, first));
    let inside = holes[begin..].iter().map(|hole| numbers(*hole));
    let inside = inside.take_while(|hole| hole.0 == six && hole.1 <= last);
    let (mut pieces, mut next) = (Vec::new(), Some(first));
    for (_, hole_first, hole_last) in inside {
        if hole_first <= first && last <= hole_last {
            return vec![range];
        }
        if let Some(next) = next.filter(|next| *next < hole_first) {
            pieces.push(range_from(six, next, hole_first - 1));
        }
        next = hole_last.checked_add(1);
    }
    if let Some(next) = next.filter(|next| *next <= last) {
        pieces.push(range_from(six, next, last));
    }
    pieces
}

/// Returns whether the range is of IPv6, and its ends.
fn numbers(range: AddressRange) -> (bool, u128, u128) {
    match range {
        AddressRange::V4(first, last) => (false, first.into(), last.into()),
        AddressRange::V6(first, last) => (true, first, last),
    }
}

fn range_from(six: bool, first: u128, last: u128) -> AddressRange {
    let four = |number: u128| u32::try_from(number).unwrap_or(u32::MAX);
    if six { AddressRange::V6(first, last) } else { AddressRange::V4(four(first), four(last)) }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn vips(prefixes: &[&str]) -> Elements {
        let mut elements = Elements::default();
        for prefix in prefixes {
            let vip: IpNet = prefix.parse().unwrap();
            elements.insert_by_family([SetName::Vip4, SetName::Vip6], Element::addresses(range_of(vip)));
        }
        elements
    }

    fn shown(elements: &Elements) -> Vec<String> {
        let sets = [SetName::Vip4, SetName::Vip6].into_iter();
        sets.flat_map(|set| elements.of(set).iter().map(ToString::to_string)).collect()
    }

    #[test]
    fn addresses_of_the_host_are_cut_out_of_prefixes_and_no_vip_is_lost() {
        let all = vips(&["10.0.0.0/24", "10.0.9.9/32", "255.255.255.0/24", "1000::/64"]);
        let own = |nets: &[&str]| -> Vec<IpNet> { nets.iter().map(|net| net.parse().unwrap()).collect() };
        assert_eq!(all.without(&[]), all);
        assert_eq!(all.without(&own(&["192.0.2.1/32", "9.0.0.0/8", "fd00::1/128"])), all);
        let nets = own(&[
            "10.0.0.255/32",
            "10.0.0.1/32",
            "10.0.0.0/32",
            "10.0.0.64/26",
            "10.0.0.65/32",
            "10.0.9.9/32",
            "255.255.255.255/32",
            "1000::/128",
            "1000::ffff:ffff:ffff:ffff/128",
        ]);
        let expected = [
            "10.0.0.2-10.0.0.63",
            "10.0.0.128-10.0.0.254",
            "10.0.9.9",
            "255.255.255.0-255.255.255.254",
            "1000::1-1000::ffff:ffff:ffff:fffe",
        ];
        assert_eq!(shown(&all.without(&nets)), expected);
        assert_eq!(all.without(&own(&["0.0.0.0/1", "128.0.0.0/1"])), all, "each is wholly one of the host's");
        let cut = all.without(&nets);
        for (address, vip) in
            [("10.0.0.1", false), ("10.0.0.2", true), ("10.0.0.70", false), ("10.0.9.9", true)]
        {
            assert_eq!(cut.has_vip(address.parse::<IpAddr>().unwrap()), vip, "{address}");
        }
    }
}
