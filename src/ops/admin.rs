//! An operator's word about backends, balancers of the tier, or this balancer.

use super::{Host, OpsError, Published, update, warnings};
use crate::{
    model::{Admin, Name, Override},
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
    /// This balancer: whether it announces VIPs.
    Balancer,
}

/// A backend, or a balancer, that was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affected {
    /// Which one.
    pub scope: Scope,
    /// What it was.
    pub was: Admin,
    /// What it is now.
    pub is: Admin,
}

impl Subject<'_> {
    fn order(self, state: &State, order: &Override) -> Result<State, StateError> {
        match self {
            Self::Backends { service, names } => state.set_admin(service, names, order),
            Self::Tier { names } => state.set_tier_admin(names, order),
            Self::Balancer => Ok(state.set_balancer_admin(order)),
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
                            add(Scope::Backend { service, backend }, was.admin(), is.admin());
                        }
                    }
                }
            }
            Self::Tier { names } => {
                for name in names {
                    let both = before.tier.iter().zip(&after.tier);
                    for (was, is) in both.filter(|(member, _)| member.name.as_str() == name) {
                        add(
                            Scope::Tier { tier: was.name.clone() },
                            was.admission.admin(),
                            is.admission.admin(),
                        );
                    }
                }
            }
            Self::Balancer => {
                let scope = Scope::Balancer { balancer: before.balancer.name.clone() };
                add(scope, before.admission.admin(), after.admission.admin());
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

/// What came of an order to end flows.
pub struct Killed {
    /// The backends that were meant.
    pub affected: Vec<Affected>,
    /// The time of the order: it is carried out when [`crate::shm::stats::Pins::killed`] is this or later.
    pub when: u64,
    /// The region, with the generation that has the order.
    pub published: Published,
}

/// Puts an order in the region to end the flows that backends have now, those of one service, or of every service
/// that has a backend of that name. lbd carries it out when it adopts the state ([`crate::state::State::kill`]).
///
/// # Errors
/// When a name is not known, or the region cannot be changed.
pub fn kill(
    host: &Host,
    name: &RegionName,
    service: Option<&str>,
    names: &[String],
) -> Result<Killed, OpsError> {
    let mut region = Region::open(name)?;
    let (generation, (affected, when), saved) =
        update(&host.overrides, host.unix_seconds, &mut region, |live| {
            let (next, when) = live.kill(service, names, host.unix_seconds)?;
            let affected = Subject::Backends { service, names }.affected(live, &next);
            Ok::<_, OpsError>((Some(next), (affected, when)))
        })?;
    Ok(Killed { affected, when, published: Published { region, generation, warnings: Vec::new(), saved } })
}
