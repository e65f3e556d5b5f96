//! The number that each target had, as the kernel's devices and routes still show it. PURE.
//!
//! In connection tracking, flows carry the numbers of their targets. A region that is made only from a file
//! would number the targets in the order of the file, and existing flows would go to other backends. Devices
//! and routes outlive the region, so the numbers are read from them. A target that is only marked has
//! neither, so its number is not found here.

use std::collections::BTreeMap;

use super::{RoutingNow, Via, target_of_device, target_of_table};
use crate::{
    model::{Encap, Path, ids::TargetId},
    plan::tunnel::{Tunnel, Wrap},
};

/// Returns the paths of the targets that have devices or routes in `now`.
#[must_use]
pub fn numbers(now: &RoutingNow) -> BTreeMap<TargetId, Path> {
    let ours = now.devices.values().filter(|device| device.is_ours());
    let tunnels = ours.filter_map(|device| Some((target_of_device(&device.name)?, path(device.tunnel?))));
    let direct = now.routes.iter().filter_map(|route| match route.via {
        Via::Gateway(address) => Some((target_of_table(route.table)?, Path::Via(Encap::Direct, address))),
        Via::Device(_) | Via::Blackhole | Via::Other => None,
    });
    direct.chain(tunnels).collect()
}

fn path(tunnel: Tunnel) -> Path {
    let encap = match tunnel.wrap {
        Wrap::Gre => Encap::Gre,
        Wrap::Ipip => Encap::Ipip,
        Wrap::Gue => Encap::Gue,
    };
    Path::Via(encap, tunnel.ends.remote())
}
