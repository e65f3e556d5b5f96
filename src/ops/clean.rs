//! How a region is removed, unless it is still in use.

use super::{Host, OpsError};
use crate::{
    shm::{RegionError, slots, stats},
    state::Overrides,
    sys::{
        overrides::OverridesError,
        region::{AccessError, Region, RegionName, WriteLock},
    },
};

/// Removes a region, and unless `keep_overrides` what was kept of it. With `force` also one that is in use, or a
/// file that is no region. Returns why the overrides could not be removed.
///
/// # Errors
/// When there is none, or it is in use.
pub fn clean(
    host: &Host,
    name: &RegionName,
    force: bool,
    keep_overrides: bool,
) -> Result<Option<OverridesError>, OpsError> {
    let _lock = if force { None } else { Some(needed_by_nothing(name)?) };
    Region::remove(name)?;
    Ok(if keep_overrides {
        None
    } else {
        host.overrides.keep(&Overrides::default(), host.unix_seconds).err()
    })
}

/// Makes sure that the file is a region, that no lbd follows it, and that no writer changes it while the lock
/// lives.
fn needed_by_nothing(name: &RegionName) -> Result<WriteLock, OpsError> {
    let mut region = match Region::open(name) {
        Err(error @ AccessError::Missing(_)) => return Err(error.into()),
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
    Ok(region.lock()?)
}
