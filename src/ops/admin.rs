//! An operator's word about backends, or balancers of the tier.

use super::{Host, OpsError, Published, update, warnings};
use crate::{
    model::{Name, Override},
    state::{Change, Scope, State, StateError},
    sys::region::{Region, RegionName},
};

/// What an operator's word is about.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// Backends of one service, or of every service that has a backend of that name.
    Backends {
        /// The service.
        service: Option<&'a str>,
        /// The backends.
        names: &'a [String],
    },
    /// Balancers of the tier.
    Tier {
        /// The balancers.
        names: &'a [String],
    },
}

/// A backend, or a balancer of the tier, that was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affected {
    /// Which one.
    pub scope: Scope,
    /// Whether it was active.
    pub was: bool,
    /// Whether it is active now.
    pub is: bool,
}

impl Subject<'_> {
    fn order(self, state: &State, order: &Override) -> Result<State, StateError> {
        match self {
            Self::Backends { service, names } => state.set_admin(service, names, order),
            Self::Tier { names } => state.set_tier_admin(names, order),
        }
    }

    /// Each once, in the order of the names.
    fn affected(self, before: &State, after: &State) -> Vec<Affected> {
        let mut affected: Vec<Affected> = Vec::new();
        let mut add = |scope: Scope, was, is| {
            if affected.iter().all(|known| known.scope != scope) {
                affected.push(Affected { scope, was, is });
            }
        };
        match self {
            Self::Backends { service, names } => {
                let meant = |name: &Name| service.is_none_or(|only| name.as_str() == only);
                for name in names {
                    for (old, new) in
                        before.services.iter().zip(&after.services).filter(|(old, _)| meant(&old.name))
                    {
                        let both = old.backends.iter().zip(&new.backends);
                        for (was, is) in both.filter(|(backend, _)| backend.name.as_str() == name) {
                            let (service, backend) = (old.name.clone(), was.name.clone());
                            add(Scope::Backend { service, backend }, was.active(), is.active());
                        }
                    }
                }
            }
            Self::Tier { names } => {
                for name in names {
                    let both = before.tier.iter().zip(&after.tier);
                    for (was, is) in both.filter(|(member, _)| member.name.as_str() == name) {
                        add(Scope::Tier { tier: was.name.clone() }, was.active(), is.active());
                    }
                }
            }
        }
        affected
    }
}

/// What came of an operator's word.
pub struct Ordered {
    /// What was meant.
    pub affected: Vec<Affected>,
    /// The differences.
    pub changes: Vec<Change>,
    /// The region, with the generation that is live now. Nothing was published if there are no differences.
    pub published: Published,
}

/// Puts an operator's word in the region.
///
/// # Errors
/// When a name is not known, or the region cannot be changed.
pub fn set_admin(
    host: &Host,
    name: &RegionName,
    subject: Subject<'_>,
    order: &Override,
) -> Result<Ordered, OpsError> {
    let mut region = Region::open(name)?;
    let (generation, (affected, changes, warnings), saved) =
        update(&host.overrides, host.unix_seconds, &mut region, |live| {
            let next = subject.order(live, order)?;
            let (affected, changes) = (subject.affected(live, &next), live.changes(&next));
            let warnings = warnings(live, &next);
            Ok::<_, OpsError>(((next != *live).then_some(next), (affected, changes, warnings)))
        })?;
    Ok(Ordered { affected, changes, published: Published { region, generation, warnings, saved } })
}
