//! `backend` of a service: its name, and how packets reach it.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use super::{Item, NAME, Reader, Table, unicast};
use crate::{
    config::{Backend, Balancer, keys},
    model::{Encap, Name, Path, Pmtu, Weight},
};

const ENCAP: &str =
    "\"gre\", \"ipip\", \"gue\", \"direct\", \"ip6gre\" or \"ip6tnl\" (IPv6 only), or \"mark\" (no address)";

pub(super) fn read(
    reader: &mut Reader<'_>,
    mut table: Table<'_>,
    balancer: Option<&Balancer>,
    (vips, pmtu): (&[IpNet], Pmtu),
    seen: &mut (HashSet<Name>, HashMap<Path, Name>),
) -> Option<Backend> {
    let item = table.require(reader, "name", NAME);
    let name = item.as_ref().and_then(|item| item.string(reader, NAME, Name::new));
    if let (Some(name), Some(item)) = (&name, &item) {
        table.place = format!("{} \"{name}\"", table.place);
        if !seen.0.insert(name.clone()) {
            item.diagnose(reader, "each name once in a service");
        }
    }
    let path = read_path(reader, &mut table, balancer, (vips, pmtu));
    let weight = match table.take("weight") {
        Some(item) => item.integer(reader, 1..=Weight::MAX).and_then(Weight::new),
        None => Some(Weight::ONE),
    };
    let active = table.take("active").and_then(|item| item.bool(reader));
    let (at, key) = (table.at.clone(), table.key("address"));
    table.finish(reader, &keys::BACKEND.names());
    let backend = Backend { name: name?, path: path?, weight: weight?, active };
    if backend.path != Path::MarkOnly
        && let Some(other) = seen.1.insert(backend.path, backend.name.clone())
    {
        reader.diagnose(
            &at,
            &key,
            format_args!("the target of backend \"{other}\""),
            "each target once in a service",
        );
    }
    Some(backend)
}

fn read_path(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    balancer: Option<&Balancer>,
    (vips, pmtu): (&[IpNet], Pmtu),
) -> Option<Path> {
    let item = table.take("encap");
    let encap = item.as_ref().map_or(Some("gre"), |item| item.value.as_str()).unwrap_or_default().to_owned();
    if encap == "mark" {
        if let Some(item) = table.take("address") {
            item.diagnose(
                reader,
                "no address with encap = \"mark\": the operator's own rules route the mark",
            );
        }
        if let Some(item) = item {
            check_fragment_outer(reader, &item, Path::MarkOnly, pmtu);
        }
        return Some(Path::MarkOnly);
    }
    let allowed = "a unicast address";
    let address_item = table.require(reader, "address", allowed);
    let address = address_item.as_ref().and_then(|item| item.string(reader, allowed, unicast));
    let (kind, six_only) = match encap.as_str() {
        "gre" => (Encap::Gre, false),
        "ip6gre" => (Encap::Gre, true),
        "ipip" => (Encap::Ipip, false),
        "ip6tnl" => (Encap::Ipip, true),
        "gue" => (Encap::Gue, false),
        "direct" => (Encap::Direct, false),
        _ => {
            item?.diagnose(reader, ENCAP);
            return None;
        }
    };
    let (address, at) = (address?, address_item?);
    let blamed = item.as_ref().filter(|_| encap != "gre").unwrap_or(&at);
    check_fragment_outer(reader, blamed, Path::Via(kind, address), pmtu);
    if six_only && address.is_ipv4() {
        at.diagnose(reader, format_args!("an IPv6 address, as encap is \"{encap}\""));
    }
    if balancer.is_some_and(|balancer| balancer.address.like(address) == Some(address)) {
        at.diagnose(reader, "another host's address; this one is the balancer's own");
    }
    if let Some(vip) = vips.iter().find(|vip| vip.contains(&address)) {
        at.diagnose(reader, format_args!("an address outside of the service's own VIPs ({vip})"));
    }
    if kind == Encap::Direct
        && address.is_ipv4()
        && let Some(vip) = vips.iter().find(|vip| vip.addr().is_ipv6())
    {
        at.diagnose(
            reader,
            format_args!(
                "an IPv6 address, which can be the next hop of both families (VIP {vip} has no IPv4 one)"
            ),
        );
    }
    if kind != Encap::Direct && balancer.is_some_and(|balancer| balancer.address.like(address).is_none()) {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        at.diagnose(
            reader,
            format_args!("an address of a family that [balancer] address has; it has no {family} one"),
        );
    }
    Some(Path::Via(kind, address))
}

fn check_fragment_outer(reader: &mut Reader<'_>, blamed: &Item<'_>, path: Path, pmtu: Pmtu) {
    if pmtu != Pmtu::FragmentOuter || path.can_fragment_outer() {
        return;
    }
    let why = match path {
        Path::MarkOnly | Path::Via(Encap::Direct, _) => "without a tunnel there is no outer packet",
        Path::Via(Encap::Gre | Encap::Ipip | Encap::Gue, _) => "of tunnels, only that can do it",
    };
    blamed.diagnose(
        reader,
        format_args!("encap \"gre\" to an IPv4 address, as pmtu is \"fragment-outer\": {why}"),
    );
}
