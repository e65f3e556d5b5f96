//! `lbd --cleanup`: removes everything that lbd has set up.

use std::{collections::BTreeSet, path::Path};

use tracing::warn;

use super::DaemonError;
use crate::{
    shm::{RegionError, slots},
    sys::{
        control_socket,
        instance_lock::InstanceLock,
        nft,
        overrides::OverridesFile,
        region::{AccessError, Region, RegionName},
        rtnetlink::Routing,
    },
};

/// Removes everything that lbd has set up: ruleset, rules, routes, devices, the region, and what was kept of it. Says what
/// there was.
///
/// # Errors
/// When an lbd is at work, or the kernel refuses.
pub fn cleanup(name: &RegionName, state_dir: &Path) -> Result<Vec<String>, DaemonError> {
    let _lock = InstanceLock::acquire()?;
    let mut removed = Vec::new();
    let mut region = match Region::open(name) {
        Ok(region) => Some(region),
        Err(AccessError::Missing(_)) => None,
        Err(AccessError::Unusable { error, .. }) => {
            removed.push(format!("region \"{name}\" was unusable: {error}"));
            None
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(region) = &mut region {
        region.follow()?;
        if let Err(error @ RegionError::NotARegion) = slots::check(region) {
            return Err(AccessError::Unusable { name: name.clone(), error }.into());
        }
    }
    let mut routing = Routing::open()?;
    // Routers send their packets elsewhere first.
    let withdrawn = routing.announce(&BTreeSet::new())?;
    // Then these, since without the ruleset what comes out of them is forwarded. Packets to VIPs are dropped from here on.
    let devices = routing.remove_devices()?;
    if nft::cleanup()? {
        removed.push("nftables table inet synrail".to_owned());
    }
    let changes = withdrawn + devices + routing.cleanup()?.changes;
    if changes > 0 {
        removed.push(format!("{changes} rules, routes and devices"));
    }
    match Region::remove(name) {
        Ok(()) => removed.push(format!("region \"{name}\"")),
        Err(AccessError::Missing(_)) => {}
        Err(error) => return Err(error.into()),
    }
    // Those of an lbd and an lbagent that were killed.
    control_socket::remove(name);
    let kept = OverridesFile::new(state_dir, name);
    match kept.remove() {
        Ok(false) => {}
        Ok(true) => removed.push(format!("overrides, {}", kept.path().display())),
        // The rest is done.
        Err(error) => warn!(%error, "overrides stay for the region that is made next"),
    }
    Ok(removed)
}
