//! The routes of our protocol.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{
            RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
            RouteType, RouteVia,
        },
    },
};

use super::{batch::Change, dump};
use crate::plan::routing::{PROTOCOL, Route, TABLE_MAIN, Via, is_announcing, is_our_table};

type Indexes = BTreeMap<String, u32>;

/// `RTAX_LOCK` of `RTAX_MTU`: the kernel learns no path MTU for the route. Without it, the kernel looks up a
/// second route for each IPv4 packet that enters a tunnel, to remember an MTU that is no smaller than the one
/// it has (`tnl_update_pmtu` and `__ip_rt_update_pmtu` of Linux 6.1; IPv6 compares first). Either way,
/// senders learn the tunnel's MTU.
const MTU_LOCKED: RouteMetric = RouteMetric::Lock(1 << 2);

/// Returns our routes, and the prefixes of all other routes in table main.
pub(super) async fn current(
    handle: &mut Handle,
    indexes: &Indexes,
) -> io::Result<(BTreeSet<Route>, BTreeSet<IpNet>)> {
    let names: BTreeMap<u32, &str> = indexes.iter().map(|(name, index)| (*index, name.as_str())).collect();
    let (mut ours, mut foreign) = (BTreeSet::new(), BTreeSet::new());
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let mut of_main = request.clone();
        request.header.protocol = RouteProtocol::from(PROTOCOL);
        dump(handle, RouteNetlinkMessage::GetRoute(request), |message| {
            if let RouteNetlinkMessage::NewRoute(message) = message {
                ours.extend(seen(&message, &names).filter(|_| is_ours(&message)));
            }
        })
        .await?;
        of_main.header.table = RouteHeader::RT_TABLE_MAIN;
        dump(handle, RouteNetlinkMessage::GetRoute(of_main), |message| {
            if let RouteNetlinkMessage::NewRoute(message) = message
                && message.header.protocol != RouteProtocol::from(PROTOCOL)
                && table(&message) == TABLE_MAIN
            {
                foreign.extend(prefix(&message));
            }
        })
        .await?;
    }
    Ok((ours, foreign))
}

/// Returns the routes of ours that announce VIPs.
pub(super) async fn announcing(handle: &mut Handle) -> io::Result<BTreeSet<Route>> {
    let mut announcing = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.protocol = RouteProtocol::from(PROTOCOL);
        dump(handle, RouteNetlinkMessage::GetRoute(request), |message| {
            if let RouteNetlinkMessage::NewRoute(message) = message
                && is_ours(&message)
            {
                announcing.extend(seen(&message, &BTreeMap::new()).filter(is_announcing));
            }
        })
        .await?;
    }
    Ok(announcing)
}

pub(super) fn addition(indexes: &Indexes, route: &Route) -> io::Result<Change> {
    Ok((RouteNetlinkMessage::NewRoute(message(route, indexes)?), NLM_F_CREATE | NLM_F_EXCL))
}

/// Replaces the route for the same addresses with the same metric. Only for IPv4, where the kernel does this
/// in one step.
pub(super) fn replacement(indexes: &Indexes, route: &Route) -> io::Result<Change> {
    Ok((RouteNetlinkMessage::NewRoute(message(route, indexes)?), NLM_F_CREATE | NLM_F_REPLACE))
}

pub(super) fn removal(indexes: &Indexes, route: &Route) -> io::Result<Change> {
    let mut message = message(route, indexes)?;
    message.header.scope = RouteScope::NoWhere;
    Ok((RouteNetlinkMessage::DelRoute(message), 0))
}

fn message(route: &Route, indexes: &Indexes) -> io::Result<RouteMessage> {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = match route.to {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    header.destination_prefix_length = route.to.prefix_len();
    header.protocol = RouteProtocol::from(PROTOCOL);
    header.kind = RouteType::Unicast;
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    if route.to.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(RouteAddress::from(route.to.network())));
    }
    if route.metric > 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    match &route.via {
        Via::Device(name) => {
            let index = indexes.get(name).copied();
            let index = index.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
            attributes.push(RouteAttribute::Oif(index));
            if matches!(route.to, IpNet::V4(_)) {
                attributes.push(RouteAttribute::Metrics(vec![MTU_LOCKED]));
            }
            header.scope = RouteScope::Link;
        }
        Via::Gateway(address) => attributes.push(match (route.to, address) {
            (IpNet::V4(_), IpAddr::V6(address)) => RouteAttribute::Via(RouteVia::Inet6(*address)),
            (IpNet::V4(_), IpAddr::V4(_)) | (IpNet::V6(_), _) => {
                RouteAttribute::Gateway(RouteAddress::from(*address))
            }
        }),
        Via::Blackhole => header.kind = RouteType::BlackHole,
        Via::Other => header.kind = RouteType::Unspec,
    }
    Ok(message)
}

fn is_ours(message: &RouteMessage) -> bool {
    message.header.protocol == RouteProtocol::from(PROTOCOL)
        && is_our_table(table(message), message.header.kind == RouteType::BlackHole)
}

pub(super) fn table(message: &RouteMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or(u32::from(message.header.table))
}

pub(super) fn prefix(message: &RouteMessage) -> Option<IpNet> {
    let to = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(to) => ip(to),
        _ => None,
    });
    let any = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    IpNet::new(to.unwrap_or(any), message.header.destination_prefix_length).ok()
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn seen(message: &RouteMessage, names: &BTreeMap<u32, &str>) -> Option<Route> {
    let to = prefix(message)?;
    let (mut device, mut gateway, mut metric, mut strange) = (None, None, 0, false);
    let mut locked = false;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = names.get(index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Metrics(metrics) => {
                locked = metrics[..] == [MTU_LOCKED];
                strange |= !locked;
            }
            RouteAttribute::MultiPath(_) | RouteAttribute::Encap(_) => strange = true,
            _ => {}
        }
    }
    let via = match (message.header.kind, gateway, device) {
        (RouteType::BlackHole, _, _) => Via::Blackhole,
        (RouteType::Unicast, Some(address), _) if !strange && !locked => Via::Gateway(address),
        (RouteType::Unicast, None, Some(name)) if !strange && locked == to.addr().is_ipv4() => {
            Via::Device((*name).to_owned())
        }
        _ => Via::Other,
    };
    Some(Route { table: table(message), to, metric, via })
}
