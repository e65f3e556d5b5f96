//! The way to a tunnel's other end, or to a next hop, as far as this host knows: whether there is one, and how large packets
//! may be on it.
//!
//! Tunnels and next hops are looked for without a mark, and in table main even where their device is in a VRF.
//!
//! How large: the MTU of the device by which the route leads, or of the route where an operator gave it one. What the kernel has learned by
//! ICMP errors for a while is left to the kernel: anybody may have sent them. While it knows such a value, its answer about a way
//! has that one in place of the operator's; so the route itself is asked for then, as it was configured.

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
        route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType},
    },
};

use super::{inner, request};
use crate::{host::Way as Asked, plan::tunnel::Ends};

/// Of each of `ends` that a route leads to; `devices` are the devices' MTUs, by their numbers.
pub(super) async fn mtu_bytes(
    handle: &mut Handle,
    ends: &BTreeSet<Ends>,
    devices: &BTreeMap<u32, u32>,
) -> io::Result<BTreeMap<Ends, u32>> {
    let mut known = BTreeMap::new();
    for &ends in ends {
        let Some(question) = question(ends) else { continue };
        let Some(mut way) = ask(handle, question.clone()).await?.map(|route| Way::of(&route)) else {
            continue;
        };
        if way.is_learned {
            let mut configured = question;
            configured.header.flags = RouteFlags::FibMatch;
            // By which of several next hops packets go, the first answer has said.
            way.mtu_bytes = ask(handle, configured).await?.and_then(|route| Way::of(&route).mtu_bytes);
        }
        known.extend(way.least(devices).map(|mtu_bytes| (ends, mtu_bytes)));
    }
    Ok(known)
}

/// Those that no route leads to.
pub(super) async fn unreachable(handle: &mut Handle, ways: &[Asked]) -> io::Result<Vec<IpAddr>> {
    let mut unreachable = Vec::new();
    for way in ways {
        let leads = |route: &RouteMessage| {
            let is_direct = !route.attributes.iter().any(|one| matches!(one, RouteAttribute::Gateway(_)));
            // IPv6 answers by a route of kind "unreachable" or "blackhole", where IPv4 refuses.
            matches!(route.header.kind, RouteType::Unicast | RouteType::Local)
                && (is_direct || !way.is_next_hop)
        };
        if !ask(handle, question_to(way.to, way.from)).await?.is_some_and(|route| leads(&route)) {
            unreachable.push(way.to);
        }
    }
    Ok(unreachable)
}

/// The kernel's answer; `None` if it refuses, since no route leads there now.
async fn ask(handle: &mut Handle, question: RouteMessage) -> io::Result<Option<RouteMessage>> {
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(question));
    message.header.flags = NLM_F_REQUEST;
    let answer = request(handle, message)?.next().await.map(inner);
    let Some(Ok(Some(RouteNetlinkMessage::NewRoute(route)))) = answer else { return Ok(None) };
    Ok(Some(route))
}

/// The question for the way; none for an entrance, which has no other end.
fn question(ends: Ends) -> Option<RouteMessage> {
    let (local, remote) = match ends {
        Ends::V4 { local, remote } => (IpAddr::V4(local), IpAddr::V4(remote)),
        Ends::V6 { local, remote } => (IpAddr::V6(local), IpAddr::V6(remote)),
    };
    (!remote.is_unspecified()).then(|| question_to(remote, Some(local)))
}

fn question_to(to: IpAddr, from: Option<IpAddr>) -> RouteMessage {
    let (family, bits) = if to.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.destination_prefix_length = bits;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(to)));
    if let Some(from) = from {
        message.header.source_prefix_length = bits;
        message.attributes.push(RouteAttribute::Source(RouteAddress::from(from)));
    }
    message
}

/// What an answer says of the way.
#[derive(Default)]
struct Way {
    /// The number of the device by which it leads.
    device: Option<u32>,
    /// The MTU among the route's metrics.
    mtu_bytes: Option<u32>,
    /// Whether the answer holds for a while only, so that its MTU may have come by an ICMP error.
    is_learned: bool,
}

impl Way {
    fn of(route: &RouteMessage) -> Self {
        let mut way = Self::default();
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => way.device = Some(*index),
                RouteAttribute::Metrics(metrics) => {
                    way.mtu_bytes = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu_bytes) => Some(*mtu_bytes),
                        _ => None,
                    });
                }
                RouteAttribute::CacheInfo(cache) => way.is_learned = cache.expires != 0,
                _ => {}
            }
        }
        way
    }

    fn least(&self, devices: &BTreeMap<u32, u32>) -> Option<u32> {
        let device = *devices.get(&self.device?)?;
        Some(self.mtu_bytes.map_or(device, |mtu_bytes| mtu_bytes.min(device)))
    }
}
