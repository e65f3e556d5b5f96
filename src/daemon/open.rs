//! The region at lbd's start: opened, made from the configuration file and the overrides that were kept, or converted
//! from the layout of the version before.

use std::collections::BTreeMap;

use tracing::{info, warn};

use super::{DaemonError, ParsedConfig};
use crate::{
    model::{
        self,
        ids::{Generation, TargetId},
    },
    ops,
    plan::routing,
    shm::stats::{self, Daemon},
    state::State,
    sys::{
        clock,
        overrides::OverridesFile,
        region::{AccessError, Region, RegionName},
        rtnetlink::Routing,
    },
};

/// Calls `with` with the region and its state. A region that was made for that is removed after an error.
pub(super) fn with_region<T>(
    name: &RegionName,
    given: Option<&ParsedConfig>,
    overrides: &OverridesFile,
    with: impl FnOnce(Region, Generation, State) -> Result<T, DaemonError>,
) -> Result<T, DaemonError> {
    let (region, generation, state, made) = open_region(name, given, overrides)?;
    with(region, generation, state).inspect_err(|_| {
        // Otherwise the next start would follow it, and not the corrected file.
        if made && let Err(error) = Region::remove(name) {
            warn!(%error, "the region that was made just now stays");
        }
    })
}

/// Returns the region, converted if it is of the layout of the version before.
fn converted(mut region: Region, overrides: &OverridesFile) -> Result<Region, DaemonError> {
    if !ops::is_former(&mut region) {
        return Ok(region);
    }
    // So no lbd of that version follows it.
    region.follow()?;
    let ops::Converted { region, draining, saved } = ops::convert(overrides, clock::unix_seconds(), region)?;
    info!(region = %region.name(), draining, "converted from the layout of the version before");
    log_saved(saved);
    Ok(region)
}

/// Logs what came of keeping overrides.
pub(super) fn log_saved(saved: ops::Saved) {
    match saved {
        Ok(None) => {}
        Ok(Some(aside)) => warn!(file = %aside.display(), "the damaged file of overrides is kept"),
        Err(error) => warn!(%error, "overrides will not outlive a reboot"),
    }
}

/// The region with its state: made from the file if there is none, and whether it was.
fn open_region(
    name: &RegionName,
    given: Option<&ParsedConfig>,
    overrides: &OverridesFile,
) -> Result<(Region, Generation, State, bool), DaemonError> {
    let (mut region, made) = match Region::open(name) {
        Ok(region) => (converted(region, overrides)?, false),
        Err(AccessError::Missing(_)) => {
            let Some((config, like)) = given else {
                return Err(DaemonError::NothingToStartFrom(name.clone()));
            };
            let numbers = numbers_in_kernel()?;
            let kept = ops::kept(overrides);
            let (state, notes) = kept.put_into(&State::taking_over(config, &numbers, like)?, Some(config));
            let mut region = Region::create(name, &state)?;
            info!(
                region = %name, numbers_taken_over = numbers.len(), overrides = kept.count(),
                "made from the configuration file, and from overrides that were kept"
            );
            notes.iter().for_each(|note| warn!("{note}"));
            log_saved(kept.settle(clock::unix_seconds(), &mut region)?);
            (region, true)
        }
        Err(error) => return Err(error.into()),
    };
    if let Some((_, like)) = given {
        region.share(like);
    }
    region.follow()?;
    // One that lbctl or an earlier lbd made before there was the group.
    region.let_readers_read();
    stats::look_no_more(&mut region).map_err(|error| AccessError::Unusable { name: name.clone(), error })?;
    show(&region, |last| Daemon {
        pid: std::process::id().into(),
        started_unix_seconds: clock::unix_seconds(),
        ..last
    })?;
    let (generation, state) = region.state()?;
    if state.balancer.interfaces.is_empty() {
        return Err(DaemonError::NoInterfaces(name.clone()));
    }
    if !made {
        // They may have been written when the disk was full, or restored from elsewhere.
        log_saved(ops::save(overrides, clock::unix_seconds(), &mut region)?);
    }
    if let Some((config, _)) = given {
        match state.plan(config) {
            Ok(plan) if plan.changes.is_empty() => {}
            Ok(plan) => warn!(
                differences = plan.changes.len(),
                first = plan.changes.first().map(ToString::to_string).unwrap_or_default(),
                "the region is followed, not the file, which differs; `lbctl apply FILE` makes the region what the file says"
            ),
            Err(error) => {
                warn!(%error, "the region is followed, not the file, which cannot be applied to it");
            }
        }
    }
    Ok((region, generation, state, made))
}

/// Returns the numbers of targets that the kernel's routing still shows ([`routing::numbers`]).
///
/// # Errors
/// When the kernel's routing cannot be read.
pub fn numbers_in_kernel() -> Result<BTreeMap<TargetId, model::Path>, DaemonError> {
    Ok(routing::numbers(&Routing::open()?.current(&routing::Desired::default())?))
}

/// Changes what the region shows about the lbd that follows it.
pub(super) fn show(region: &Region, change: impl FnOnce(Daemon) -> Daemon) -> Result<(), DaemonError> {
    let mut mapping = region.mapping();
    let shown = Daemon::read(&mut mapping).and_then(|last| change(last).write(&mut mapping));
    shown.map_err(|error| AccessError::Unusable { name: region.name().clone(), error }.into())
}
