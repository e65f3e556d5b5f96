//! `clean`: removes a region, unless it is still in use.

use super::{Env, Status, args::CleanArguments, error::CtlError};
use crate::{
    shm::{RegionError, slots},
    status::lbd::DaemonView,
    sys::region::{AccessError, Region, RegionName},
};

/// `lbctl clean`.
pub(super) fn clean(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &CleanArguments,
) -> Result<Status, CtlError> {
    let _lock = if args.force { None } else { Some(needed_by_nobody(name)?) };
    Region::remove(name)?;
    if json {
        return env.json(&serde_json::json!({ "removed": name.to_string() }));
    }
    env.print(format_args!("region {name} removed"))?;
    Ok(Status::Done)
}

/// Makes sure that the file is a region, that no lbd follows it, and that no writer changes it while the lock
/// lives.
fn needed_by_nobody(name: &RegionName) -> Result<crate::sys::region::WriteLock, CtlError> {
    let mut region = match Region::open(name) {
        Err(error @ AccessError::Missing(_)) => return Err(error.into()),
        Err(error) => return Err(CtlError::NotRemoved(error)),
        Ok(region) => region,
    };
    if let Some(daemon) = DaemonView::of(&mut region)? {
        return Err(CtlError::Followed { name: name.clone(), pid: daemon.pid });
    }
    // A region that is corrupt, truncated or of another version may be removed; a file that never was a
    // region may not.
    if let Err(error @ RegionError::NotARegion) = slots::check(&mut region) {
        return Err(CtlError::NotRemoved(AccessError::Unusable { name: name.clone(), error }));
    }
    Ok(region.lock()?)
}
