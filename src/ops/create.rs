//! How a region is made: without a file, or with what was kept of a region that is gone.

use super::{Host, OpsError, Saved, save};
use crate::{
    config::Config,
    model::{TableSize, ids::Generation},
    state::{Overrides, State},
    sys::{
        overrides::{OverridesError, OverridesFile},
        region::{AccessError, Region, RegionName},
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
    /// Returns `state`, made of `config` if there is one, with the overrides; and what a person should know
    /// about them.
    #[must_use]
    pub fn put_into(&self, state: &State, config: Option<&Config>) -> (State, Vec<String>) {
        let services = config.iter().flat_map(|config| &config.services);
        let renamed: Vec<_> =
            services.filter_map(|new| Some((new.renamed_from.as_ref()?, &new.name))).collect();
        let (next, unknown) = state.with_overrides(&self.overrides, &renamed);
        let mut notes: Vec<String> = unknown
            .iter()
            .map(|scope| {
                format!("there is no {scope}, which has an override; the override goes with the next change")
            })
            .collect();
        notes.extend(self.damaged.as_ref().map(|error| {
            format!("overrides that were kept cannot be used, so only the file counts: {error}")
        }));
        (next, notes)
    }

    /// Returns the number of overrides.
    #[must_use]
    pub fn count(&self) -> usize {
        self.overrides.len()
    }

    /// Once the region is made: sets a damaged file aside.
    ///
    /// # Errors
    /// When the region cannot be read.
    pub fn settle(&self, unix_seconds: u64, region: &mut Region) -> Result<Saved, AccessError> {
        match self.damaged {
            Some(OverridesError::Damaged { .. }) => save(&self.file, unix_seconds, region),
            Some(OverridesError::Os { .. }) | None => Ok(Ok(None)),
        }
    }
}

/// A region that was made.
pub struct Created {
    /// Its generation.
    pub generation: Generation,
    /// How many backends are active.
    pub active: usize,
    /// What a person should know about overrides that were kept.
    pub notes: Vec<String>,
    /// What came of keeping them.
    pub saved: Saved,
}

/// Makes a region with a service "default" for every destination ([`State::unconfigured`]).
///
/// # Errors
/// When there is a region already, or it cannot be made.
pub fn create(
    host: &Host,
    name: &RegionName,
    size: TableSize,
    backends: usize,
    active: usize,
) -> Result<Created, OpsError> {
    let kept = kept(&host.overrides);
    let (state, notes) = kept.put_into(&State::unconfigured(size, backends, active)?, None);
    let mut region = Region::create(name, &state)?;
    let saved = kept.settle(host.unix_seconds, &mut region)?;
    let (generation, _) = region.state()?;
    let active = state.services.iter().map(|service| service.active().count()).sum();
    Ok(Created { generation, active, notes, saved })
}
