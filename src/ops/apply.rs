//! How a region becomes what a configuration file says: a proposal is made without the lock, so that it can be
//! shown first; it is published only if nothing changed the region meanwhile.

use super::{Host, Kept, OpsError, Published, kept, live, update, warnings};
use crate::{
    config::Config,
    host::{self, Finding},
    model::ids::Generation,
    plan::{announce, routing},
    state::{Change, Losses, Plan, State},
    sys::region::{AccessError, Region, RegionName},
};

/// What a file would change.
pub struct Proposal {
    region: Option<Region>,
    name: RegionName,
    base: State,
    next: State,
    kept: Option<Kept>,
    /// The differences.
    pub changes: Vec<Change>,
    /// What the file takes away.
    pub losses: Losses,
    /// The live generation; `None` where there is no region.
    pub generation: Option<Generation>,
    /// VIPs that would become this host's own addresses.
    pub own_vips: Vec<Finding>,
    /// Whether an lbd follows the region.
    pub followed: bool,
    /// What a person should know of overrides that were kept, and of the file.
    pub notes: Vec<String>,
}

/// Returns what a file would change.
///
/// # Errors
/// When the file cannot be applied to the region, or lbd could not put the result in force.
pub fn propose(host: &Host, name: &RegionName, config: &Config) -> Result<Proposal, OpsError> {
    let live = live(name)?;
    let empty = || State::empty(config.balancer.clone());
    let base = live.as_ref().map_or_else(empty, |(_, _, state)| state.clone());
    let Plan { mut next, mut changes, losses } = base.plan(config)?;
    let (mut kept_overrides, mut notes) = (None, Vec::new());
    if live.is_none() {
        let kept = kept(&host.overrides);
        next = State::taking_over(config, &(host.numbers_in_kernel)(), &next)?;
        (next, notes) = kept.put_into(&next, Some(config));
        changes = base.changes(&next);
        kept_overrides = Some(kept);
    }
    notes.extend(announce::never(&next).iter().map(ToString::to_string));
    // What lbd could not put in force must not be published.
    routing::desired(&next)?;
    let own_vips = host::new_own_vips(&base, &next, &(host.look)(&next));
    let generation = live.as_ref().map(|(_, generation, _)| *generation);
    let region = live.map(|(region, ..)| region);
    let followed = region.as_ref().map(Region::is_followed).transpose()?.unwrap_or(false);
    Ok(Proposal {
        region,
        name: name.clone(),
        base,
        next,
        kept: kept_overrides,
        changes,
        losses,
        generation,
        own_vips,
        followed,
        notes,
    })
}

impl Proposal {
    /// Reports whether there is no region yet.
    #[must_use]
    pub fn makes_region(&self) -> bool {
        self.region.is_none()
    }

    /// Reports whether the region is as the file says.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.region.is_some() && self.changes.is_empty()
    }

    /// Returns the state that is live.
    #[must_use]
    pub fn base(&self) -> &State {
        &self.base
    }

    /// Publishes the proposal. Returns `None` if the region was changed meanwhile; then the proposal is of no use
    /// any more.
    ///
    /// # Errors
    /// When the region cannot be changed or made.
    pub fn publish(self, host: &Host) -> Result<Option<Published>, OpsError> {
        let Self { region, base, next, name, kept, .. } = self;
        let warnings = warnings(&base, &next);
        let Some(mut region) = region else {
            let mut region = match Region::create(&name, &next) {
                Err(AccessError::Exists(_)) => return Ok(None),
                created => created?,
            };
            let saved = kept.map_or(Ok(Ok(None)), |kept| kept.settle(host.unix_seconds, &mut region))?;
            let (generation, _) = region.state()?;
            return Ok(Some(Published { region, generation, warnings, saved }));
        };
        let (generation, unchanged, saved) =
            update(&host.overrides, host.unix_seconds, &mut region, |live| {
                let unchanged = *live == base;
                Ok::<_, OpsError>((unchanged.then_some(next), unchanged))
            })?;
        Ok(unchanged.then_some(Published { region, generation, warnings, saved }))
    }
}
