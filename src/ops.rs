//! What changes a region, as `lbctl` and others ask for it: functions that take a request and return an outcome.
//! Nothing here prints, and nothing waits for lbd.
//!
//! A change is made from the live state under the writers' lock and published as a whole; if anything is wrong,
//! nothing is changed. What operators said is also kept in a file ([`OverridesFile`]), under the same lock and
//! after the change was published: a disk that is full or hangs keeps no backend in service. What could not be
//! kept is reported, and tried again with every later change and when lbd starts.

mod admin;
mod apply;
mod clean;
mod convert;
mod create;
mod error;
mod request;

pub use admin::{Affected, Killed, Ordered, Subject, kill, set_admin};
pub use apply::{Proposal, propose};
pub use clean::{Cleaned, clean};
pub use convert::{Converted, convert, is_former};
pub use create::{Created, Kept, create, kept};
pub use error::OpsError;
pub use request::{LINE_BYTES_MAX, Reply, Request, apply_text, observe, order};

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    host::Snapshot,
    model::{
        Path,
        ids::{Generation, TargetId},
    },
    state::{NewFlows, Service, State},
    sys::{
        overrides::{OverridesError, OverridesFile},
        region::{AccessError, Region},
    },
};

/// What actions need of this host, besides the region.
pub struct Host {
    /// Where overrides are kept.
    pub overrides: OverridesFile,
    /// Returns the numbers that targets had, as far as the kernel still has them; an empty map if they cannot
    /// be read.
    pub numbers_in_kernel: fn() -> BTreeMap<TargetId, Path>,
    /// Takes a snapshot of what this host does to packets, as far as it concerns a state.
    pub look: fn(&State) -> Snapshot,
    /// The time, in seconds since 1970.
    pub unix_seconds: u64,
}

/// A change that was published.
pub struct Published {
    /// The region.
    pub region: Region,
    /// The new generation.
    pub generation: Generation,
    /// What the change brings that may not be meant.
    pub warnings: Vec<String>,
    /// What came of keeping the overrides.
    pub saved: Saved,
}

/// What came of keeping overrides: where a damaged file is now, or why they will not outlive a reboot.
pub type Saved = Result<Option<PathBuf>, OverridesError>;

/// Publishes what `change` makes of the live state, if it makes anything, and keeps the overrides of the state
/// that is live then. Returns its generation, what `change` returned besides, and what came of keeping.
///
/// # Errors
/// As [`Region::update`]. Nothing was changed then.
pub fn update<T, E: From<AccessError>>(
    overrides: &OverridesFile,
    unix_seconds: u64,
    region: &mut Region,
    change: impl FnOnce(&State) -> Result<(Option<State>, T), E>,
) -> Result<(Generation, T, Saved), E> {
    region.update_and(change, |live| overrides.keep(&live.overrides(), unix_seconds))
}

/// Keeps the overrides of a region as it is.
///
/// # Errors
/// When the region cannot be read.
pub fn save(overrides: &OverridesFile, unix_seconds: u64, region: &mut Region) -> Result<Saved, AccessError> {
    update(overrides, unix_seconds, region, |_| Ok((None, ()))).map(|(_, (), saved)| saved)
}

/// Reports which services, and whether the tier, have lost their last active one, or never had one.
fn warnings(before: &State, after: &State) -> Vec<String> {
    let was = |service: &Service| {
        let before_it = before.service(service.name.as_str());
        before_it.map(|service| before.new_flows(service).to_string())
    };
    let now = after.services.iter().filter_map(|service| {
        let new_flows = after.new_flows(service);
        let is_new = new_flows != NewFlows::Own && was(service) != Some(new_flows.to_string());
        is_new
            .then(|| format!("service \"{}\" has no active backend: its new flows {new_flows}", service.name))
    });
    let mut warnings: Vec<String> = now.collect();
    let empty = |state: &State| !state.tier.is_empty() && state.tier_active().next().is_none();
    if empty(after) && !empty(before) {
        warnings.push(
            "no balancer of the tier is active: every balancer handles the fragments that it gets".to_owned(),
        );
    }
    warnings
}

/// Returns the live generation and state, without tables, of a region that may not exist.
fn live(name: &crate::sys::region::RegionName) -> Result<Option<(Region, Generation, State)>, OpsError> {
    match Region::open(name) {
        Ok(mut region) => {
            let (generation, state) = region.state_with_tables(|_| Vec::new())?;
            Ok(Some((region, generation, state)))
        }
        Err(AccessError::Missing(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
