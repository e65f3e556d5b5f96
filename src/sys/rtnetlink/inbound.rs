//! Devices by which clients' packets arrive, but not from a cable: from other balancers of the tier, from
//! routers that encapsulate them, and from lbd itself.
//!
//! No route to a client leads back through such a device, so the reverse path filter must not require one.
//! The kernel uses the larger of the device's own `rp_filter` and that of `all`. If `all` is not 0, the
//! device gets 2 (loose): any route to the source is enough, but only on a device with an IPv4 address
//! (`no_addr` in `fib_frontend.c`). So the device gets the dummy address of RFC 7600, which identifies no
//! host. With scope host it is not used as the source of other packets. Every device may have it. It is never
//! removed, since a device loses its IPv4 routes with its last address (`fib_disable_ip`).
//!
//! IPv4 forwarding is set for each device. IPv6 forwarding is not, and IPv6 has no such filter.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr},
};

use rtnetlink::{
    Handle,
    packet_core::{NLM_F_CREATE, NLM_F_REPLACE},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage, AddressScope},
        link::InetDevConf,
    },
};

use super::{change, dump};

/// The IPv4 dummy address (RFC 7600).
const DUMMY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
/// Accepts every source that any route leads back to.
const LOOSE: i32 = 2;

/// Makes the device accept and forward packets of any source.
pub(super) async fn accept_any_source(handle: &mut Handle, index: u32, name: &str) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.scope = AddressScope::Host;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(IpAddr::V4(DUMMY)));
    message.attributes.push(AddressAttribute::Address(IpAddr::V4(DUMMY)));
    change(handle, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE).await?;
    fs::write(setting(name, "rp_filter"), rp_filter()?.to_string())?;
    fs::write(setting(name, "forwarding"), "1")
}

/// The host's settings that decide whether devices are as [`accept_any_source`] sets them up.
pub(super) struct Inbound {
    rp_filter: i32,
    /// The numbers of devices that have [`DUMMY`].
    addressed: BTreeSet<u32>,
}

impl Inbound {
    pub(super) async fn current(handle: &mut Handle) -> io::Result<Self> {
        let mut addressed = BTreeSet::new();
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Inet;
        dump(handle, RouteNetlinkMessage::GetAddress(request), |message| {
            if let RouteNetlinkMessage::NewAddress(message) = message
                && message.attributes.contains(&AddressAttribute::Local(IpAddr::V4(DUMMY)))
            {
                addressed.insert(message.header.index);
            }
        })
        .await?;
        Ok(Self { rp_filter: rp_filter()?, addressed })
    }

    pub(super) fn accepts_any_source(&self, index: u32, conf: &InetDevConf) -> bool {
        self.addressed.contains(&index) && conf.rp_filter == self.rp_filter && conf.forwarding != 0
    }
}

/// Returns the value that the device's own `rp_filter` must have, given that of `all`.
fn rp_filter() -> io::Result<i32> {
    let all = fs::read_to_string(setting("all", "rp_filter"))?;
    Ok(if all.trim() == "0" { 0 } else { LOOSE })
}

fn setting(device: &str, name: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{device}/{name}")
}
