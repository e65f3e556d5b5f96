//! How a region is made: without a file, or with what was kept of a region that is gone.

use super::{Host, OpsError};
use crate::{
    model::{TableSize, ids::Generation},
    state::{Overrides, State},
    sys::{
        overrides::{OverridesError, OverridesFile},
        region::{Region, RegionName},
    },
};

/// What was kept of a region that is gone.
pub struct Kept {
    overrides: Overrides,
    file: OverridesFile,
    damaged: Option<OverridesError>,
}

/// Reads what was kept.
#[must_use]
pub fn kept(file: &OverridesFile) -> Kept {
    let (overrides, damaged) = match file.load() {
        Ok(overrides) => (overrides, None),
        Err(error) => (Overrides::default(), Some(error)),
    };
    Kept { overrides, file: file.clone(), damaged }
}

impl Kept {
    /// Returns `state` with the overrides, and what a person should know about them.
    #[must_use]
    pub fn put_into(&self, state: &State) -> (State, Vec<String>) {
        let (next, unknown) = state.with_overrides(&self.overrides);
        let mut notes: Vec<String> = unknown
            .iter()
            .map(|scope| format!("{scope} was overridden by lbctl, but there is none; the override goes with the next change"))
            .collect();
        notes.extend(self.damaged.as_ref().map(|error| {
            format!(
                "what lbctl said before this region was made cannot be used, so only the file counts: {error}"
            )
        }));
        (next, notes)
    }

    /// Returns the number of overrides.
    #[must_use]
    pub fn len(&self) -> usize {
        self.overrides.len()
    }

    /// Reports whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.overrides.is_empty()
    }

    /// Once the region is made: renames a damaged file, so that the next change does not replace it. Returns
    /// where it is now, or why it could not be renamed.
    #[must_use]
    pub fn settle(&self, unix_seconds: u64) -> Option<String> {
        let Some(OverridesError::Damaged { .. }) = self.damaged else { return None };
        Some(match self.file.set_aside(unix_seconds) {
            Ok(aside) => format!("the damaged file is kept as {}", aside.display()),
            Err(error) => format!("the damaged file cannot be renamed: {error}"),
        })
    }
}

/// Makes a region with a service "default" for every destination ([`State::unconfigured`]). Returns its generation,
/// and what a person should know about overrides that were kept.
///
/// # Errors
/// When there is a region already, or it cannot be made.
pub fn create(
    host: &Host,
    name: &RegionName,
    size: TableSize,
    backends: usize,
    active: usize,
) -> Result<(Generation, Vec<String>), OpsError> {
    let kept = kept(&host.overrides);
    let (state, mut notes) = kept.put_into(&State::unconfigured(size, backends, active)?);
    let mut region = Region::create(name, &state)?;
    notes.extend(kept.settle(host.unix_seconds));
    let (generation, _) = region.state()?;
    Ok((generation, notes))
}
