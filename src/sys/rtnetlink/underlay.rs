//! The way to a tunnel's other end, or to a next hop, as far as this host knows: whether there is a route,
//! and how large packets on it may be.
//!
//! Tunnels and next hops are looked up without a mark, and in table main even if their device is in a VRF.
//!
//! The packet size is the MTU of the device that the route leads out by, or the MTU of the route if an
//! operator has set one. A value that the kernel has learned from ICMP errors, for a limited time, is not
//! used here: the errors may be forged. While the kernel has such a value, its answer about a way has it in
//! place of the operator's. In that case the route is requested as it was configured.

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

/// Returns the packet size for each of `ends` that a route leads to; `devices` are the devices' MTUs, by
/// their numbers.
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
            // The device stays that of the first answer, which has selected one of several next hops.
            way.mtu_bytes = ask(handle, configured).await?.and_then(|route| Way::of(&route).mtu_bytes);
        }
        known.extend(way.least(devices).map(|mtu_bytes| (ends, mtu_bytes)));
    }
    Ok(known)
}

/// Returns the destinations that no route leads to.
pub(super) async fn unreachable(handle: &mut Handle, ways: &[Asked]) -> io::Result<Vec<IpAddr>> {
    let mut unreachable = Vec::new();
    for way in ways {
        let leads = |route: &RouteMessage| {
            let is_direct = !route.attributes.iter().any(|one| matches!(one, RouteAttribute::Gateway(_)));
            // For an unreachable destination IPv6 answers with a route of kind "unreachable" or "blackhole",
            // while IPv4 refuses.
            matches!(route.header.kind, RouteType::Unicast | RouteType::Local)
                && (is_direct || !way.is_next_hop)
        };
        if !ask(handle, question_to(way.to, way.from)).await?.is_some_and(|route| leads(&route)) {
            unreachable.push(way.to);
        }
    }
    Ok(unreachable)
}

/// Returns the kernel's answer; `None` if the kernel refuses because no route leads there now.
async fn ask(handle: &mut Handle, question: RouteMessage) -> io::Result<Option<RouteMessage>> {
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(question));
    message.header.flags = NLM_F_REQUEST;
    let answer = request(handle, message)?.next().await.map(inner);
    let Some(Ok(Some(RouteNetlinkMessage::NewRoute(route)))) = answer else { return Ok(None) };
    Ok(Some(route))
}

/// Builds the request for the way; `None` for an entrance, which has no other end.
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

/// The contents of an answer about a way.
#[derive(Default)]
struct Way {
    /// The number of the device that the way leads out by.
    device: Option<u32>,
    /// The MTU among the route's metrics.
    mtu_bytes: Option<u32>,
    /// Whether the answer is valid for a limited time only, so that its MTU may come from an ICMP error.
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
