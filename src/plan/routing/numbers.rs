//! Which number each target had, as the kernel's devices and routes still say it. PURE.
//!
//! Flows carry the numbers of their targets in connection tracking. A region that is made from a file alone would number the
//! targets in the file's order, and open flows would go to other backends. Devices and routes outlive the region.
//! A target that is only marked has neither: its number is not known here.

use std::collections::BTreeMap;

use super::{RoutingNow, Via, target_of_device, target_of_table};
use crate::{
    model::{Encap, Path, ids::TargetId},
    plan::tunnel::{Tunnel, Wrap},
};

/// The paths of the targets that `now` has devices or routes of.
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
