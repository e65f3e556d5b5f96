//! How a region is removed, unless it is still in use.

use super::{Host, OpsError};
use crate::{
    shm::{RegionError, slots, stats},
    sys::{
        overrides::OverridesError,
        region::{AccessError, Region, RegionName, WriteLock},
    },
};

/// What was removed.
pub struct Cleaned {
    /// Whether there was a region.
    pub region: bool,
    /// Whether overrides were kept, or why they could not be removed.
    pub overrides: Result<bool, OverridesError>,
}

/// Removes a region, and unless `keep_overrides` what was kept of it. With `force` also one that is in use, or a
/// file that is no region.
///
/// # Errors
/// When there is nothing to remove, or it is in use.
pub fn clean(host: &Host, name: &RegionName, force: bool, keep_overrides: bool) -> Result<Cleaned, OpsError> {
    let forget = || if keep_overrides { Ok(false) } else { host.overrides.remove() };
    let lock = if force {
        Region::open(name).and_then(|region| region.lock()).ok()
    } else {
        needed_by_nothing(name)?
    };
    match Region::remove(name) {
        Ok(()) => {
            let overrides = forget();
            drop(lock);
            Ok(Cleaned { region: true, overrides })
        }
        // After a reboot only the file is there.
        Err(error @ AccessError::Missing(_)) => match forget() {
            Ok(false) => Err(error.into()),
            overrides => Ok(Cleaned { region: false, overrides }),
        },
        Err(error) => Err(error.into()),
    }
}

/// Makes sure that the file, if there is one, is a region, that no lbd follows it, and that no writer changes it
/// while the lock lives.
fn needed_by_nothing(name: &RegionName) -> Result<Option<WriteLock>, OpsError> {
    let mut region = match Region::open(name) {
        Err(AccessError::Missing(_)) => return Ok(None),
        Err(error) => return Err(OpsError::NotRemoved(error)),
        Ok(region) => region,
    };
    if region.is_followed()? {
        // One that has just begun may not have written its number yet.
        let pid = stats::Daemon::read(&mut region).map_or(0, |daemon| daemon.pid);
        return Err(OpsError::Followed { name: name.clone(), pid });
    }
    // A region that is corrupt, truncated or of another version may be removed; a file that never was a
    // region may not.
    if let Err(error @ RegionError::NotARegion) = slots::check(&mut region) {
        return Err(OpsError::NotRemoved(AccessError::Unusable { name: name.clone(), error }));
    }
    Ok(Some(region.lock()?))
}
