//! How large packets may be on the way to a tunnel's other end, as far as this host knows.
//!
//! The MTU of the device by which the route leads, or of the route where an operator gave it one. What the kernel has learned by
//! ICMP errors for a while is left to the kernel: anybody may have sent them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use futures_util::StreamExt;
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_REQUEST, NetlinkMessage},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric},
    },
};

use super::{inner, request};
use crate::plan::tunnel::Ends;

/// Of each of `ends` that a route leads to; `devices` are the devices' MTUs, by their numbers.
pub(super) async fn mtu_bytes(
    handle: &mut Handle,
    ends: &BTreeSet<Ends>,
    devices: &BTreeMap<u32, u32>,
) -> io::Result<BTreeMap<Ends, u32>> {
    let mut known = BTreeMap::new();
    for &ends in ends {
        let Some(way) = ask(ends) else { continue };
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(way));
        message.header.flags = NLM_F_REQUEST;
        // A refusal says that no route leads there now.
        let answer = request(handle, message)?.next().await.map(inner);
        if let Some(Ok(Some(RouteNetlinkMessage::NewRoute(route)))) = answer {
            known.extend(mtu_of(&route, devices).map(|mtu_bytes| (ends, mtu_bytes)));
        }
    }
    Ok(known)
}

/// The question for the way; none for an entrance, which has no other end.
fn ask(ends: Ends) -> Option<RouteMessage> {
    let (family, bits, local, remote) = match ends {
        Ends::V4 { local, remote } => (AddressFamily::Inet, 32, IpAddr::V4(local), IpAddr::V4(remote)),
        Ends::V6 { local, remote } => (AddressFamily::Inet6, 128, IpAddr::V6(local), IpAddr::V6(remote)),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.destination_prefix_length = bits;
    message.header.source_prefix_length = bits;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(remote)));
    message.attributes.push(RouteAttribute::Source(RouteAddress::from(local)));
    (!remote.is_unspecified()).then_some(message)
}

fn mtu_of(route: &RouteMessage, devices: &BTreeMap<u32, u32>) -> Option<u32> {
    let (mut device, mut of_route, mut learned) = (None, None, false);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = devices.get(index).copied(),
            RouteAttribute::Metrics(metrics) => {
                of_route = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu_bytes) => Some(*mtu_bytes),
                    _ => None,
                });
            }
            RouteAttribute::CacheInfo(cache) => learned = cache.expires != 0,
            _ => {}
        }
    }
    let device = device?;
    Some(of_route.filter(|_| !learned).map_or(device, |of_route| of_route.min(device)))
}
