//! `[tier]`: the balancers that share the work of fragments, this one among them. The table can be the same
//! on all of them. Each balancer finds itself in it by its name, and its address in the table must be its
//! own.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    ops::Range,
};

use super::{ADDRESS, Item, NAME, Reader, Table, read_addresses};
use crate::{
    config::{Balancer, Service, TIER_MAX, TierMember, keys},
    model::Name,
};

const MEMBERS: &str = "a [[tier.balancer]] for each balancer of the tier, this one among them";

/// What the members are compared with.
struct Surroundings<'a> {
    balancer: Option<&'a Balancer>,
    services: &'a [Service],
    names: HashSet<Name>,
    addresses: HashMap<IpAddr, String>,
}

/// Where a member's address stands in the file, for the error that is found only when all members are known.
struct Place {
    at: Range<usize>,
    key: String,
}

pub(super) fn read(
    reader: &mut Reader<'_>,
    item: Item<'_>,
    balancer: Option<&Balancer>,
    services: &[Service],
) -> Vec<TierMember> {
    let Some(mut table) = item.table(reader) else { return Vec::new() };
    let (at, key) = (table.at.clone(), table.key("balancer"));
    let items = table.require(reader, "balancer", MEMBERS);
    let items = items.map(|item| item.non_empty_list(reader, MEMBERS)).unwrap_or_default();
    table.finish(reader, &["balancer"]);
    if let Some(item) = items.get(TIER_MAX) {
        item.diagnose(reader, format_args!("at most {TIER_MAX} balancers"));
        return Vec::new();
    }
    let (mut around, mut members, all) = (
        Surroundings { balancer, services, names: HashSet::new(), addresses: HashMap::new() },
        Vec::new(),
        items.len(),
    );
    for item in items {
        if let Some(table) = item.table(reader) {
            members.extend(read_member(reader, table, &mut around));
        }
    }
    members.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    // If a member is wrong, it may be this balancer; then an error was recorded already.
    if let Some(balancer) = balancer.filter(|_| members.len() == all && all > 0) {
        check_own(reader, &members, balancer, (&at, &key));
    }
    check_families(reader, &members);
    members.into_iter().map(|(member, _)| member).collect()
}

fn read_member(
    reader: &mut Reader<'_>,
    mut table: Table<'_>,
    around: &mut Surroundings<'_>,
) -> Option<(TierMember, Place)> {
    let item = table.require(reader, "name", NAME);
    let name = item.as_ref().and_then(|item| item.string(reader, NAME, Name::new));
    if let (Some(name), Some(item)) = (&name, &item) {
        table.place = format!("{} \"{name}\"", table.place);
        if !around.names.insert(name.clone()) {
            item.diagnose(reader, "each name once in the tier");
        }
    }
    // `None` if either name is wrong; then an error was recorded already.
    let own = around.balancer.zip(name.as_ref()).map(|(balancer, name)| balancer.name == *name);
    let item = table.require(reader, "address", ADDRESS);
    let place = Place {
        at: item.as_ref().map_or(table.at.clone(), |item| item.at.clone()),
        key: table.key("address"),
    };
    let items = item.map(|item| item.non_empty_list(reader, ADDRESS)).unwrap_or_default();
    let all = items.len();
    let address = read_addresses(reader, items, |reader, item, address| {
        check_address(reader, item, address, (own, table.place.as_str()), around);
    });
    let active = table.take("active").and_then(|item| item.bool(reader));
    table.finish(reader, &keys::TIER.names());
    let member = TierMember { name: name?, address, active };
    // If an address was refused, the families of the member are not known.
    let known = all > 0 && member.address.iter().count() == all;
    known.then_some((member, place))
}

fn check_address(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    address: IpAddr,
    (own, place): (Option<bool>, &str),
    around: &mut Surroundings<'_>,
) {
    let here = around.balancer.is_some_and(|balancer| balancer.address.like(address) == Some(address));
    let vip = around.services.iter().flat_map(|service| &service.vips).find(|vip| vip.contains(&address));
    let other = around.addresses.insert(address, place.to_owned());
    if let Some(balancer) = around.balancer.filter(|_| own == Some(true) && !here) {
        let allowed = match balancer.address.like(address) {
            Some(ours) => format!("{ours}, as [balancer] address says of this balancer; make both the same"),
            None => "no address of a family that [balancer] address lacks, as this is this balancer: add it there, or \
                     take it out here"
                .to_owned(),
        };
        item.diagnose(reader, allowed);
    } else if let Some(balancer) = around.balancer.filter(|_| own == Some(false) && here) {
        let allowed = format!(
            "another host's address; this one is that of this balancer, whose [balancer] name is \"{}\"",
            balancer.name
        );
        item.diagnose(reader, allowed);
    } else if let Some(other) = other {
        item.diagnose(
            reader,
            format_args!("each address once; {} has this one", other.trim_start_matches("tier: ")),
        );
    } else if let Some(vip) = vip {
        item.diagnose(reader, format_args!("an address outside of all VIPs ({vip})"));
    }
}

/// Checks that this balancer is one of the members.
fn check_own(
    reader: &mut Reader<'_>,
    members: &[(TierMember, Place)],
    balancer: &Balancer,
    (at, key): (&Range<usize>, &str),
) {
    let own = |(member, _): &(TierMember, Place)| member.name == balancer.name;
    // For a member with this balancer's address an error was recorded already: its name is wrong.
    let named_wrong = |(member, _): &(TierMember, Place)| {
        member.address.iter().any(|address| balancer.address.like(address) == Some(address))
    };
    if !members.iter().any(own) && !members.iter().any(named_wrong) {
        let found = format!("no \"{}\", which is this balancer's [balancer] name", balancer.name);
        reader.diagnose(at, key, found, MEMBERS);
    }
}

/// Checks that every two members share a family, so that the table is right on all of them or on none. Only
/// members with a single family can lack one, so all members are compared with the first of these.
fn check_families(reader: &mut Reader<'_>, members: &[(TierMember, Place)]) {
    let Some((first, _)) = members.iter().find(|(member, _)| member.address.iter().count() == 1) else {
        return;
    };
    for (member, place) in members.iter().filter(|(member, _)| first.path_to(member).is_none()) {
        let found = if member.address.v4.is_some() { "only IPv4" } else { "only IPv6" };
        let allowed = format!(
            "an address of a family that balancer \"{}\" has too, as each sends fragments to every other",
            first.name
        );
        reader.diagnose(&place.at, &place.key, found, allowed);
    }
}
