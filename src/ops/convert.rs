//! How a region of the former layout becomes one of today's, when lbd starts after an upgrade.

use super::{OpsError, Saved};
use crate::{
    model::Override,
    shm::{RegionError, layout4, slots},
    sys::{
        overrides::OverridesFile,
        region::{AccessError, Region},
    },
};

/// What a conversion came to.
pub struct Converted {
    /// The region in the place of the former one.
    pub region: Region,
    /// Backends, and balancers of the tier, that were not active and are draining now.
    pub draining: usize,
    /// What came of keeping that.
    pub saved: Saved,
}

/// Reports whether a region is of the former layout.
#[must_use]
pub fn is_former(region: &mut Region) -> bool {
    matches!(slots::check(region), Err(RegionError::ForeignVersion { found: layout4::VERSION, .. }))
}

/// Converts a region of the former layout: the same settings, services, numbers and tables; what was not active
/// is draining. Counters begin at 0. The caller must be the lbd that follows it ([`Region::follow`]).
///
/// # Errors
/// When another process writes it, or it is not valid.
pub fn convert(
    overrides: &OverridesFile,
    unix_seconds: u64,
    mut region: Region,
) -> Result<Converted, OpsError> {
    let lock = region.lock()?;
    let name = region.name().clone();
    let former = layout4::read(&mut region).map_err(|error| AccessError::Unusable { name, error })?;
    let state = former.state(Override::time(unix_seconds))?;
    let kept = state.overrides();
    // First, since a region that is converted is not converted again.
    let saved = overrides.keep(&kept, unix_seconds);
    let converted = region.replace(&state)?;
    drop(lock);
    Ok(Converted { region: converted, draining: kept.len(), saved })
}
