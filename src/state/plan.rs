//! The effect of a configuration file on a state: the next state, the differences, and the losses.
//!
//! A file that was cut off, or that is meant for another balancer, can be valid and remove everything. So
//! removals of things that are in use are listed separately ([`Losses::in_use`]), and are carried out only if
//! that is requested. What was taken out of use before is no such loss: deactivate first, then remove.

use serde::Serialize;

use super::{Backend, Change, Service, State, StateError, TierMember, change::Tables};
use crate::{
    config::Config,
    model::{NoBackend, Path},
};

/// The effect of a file on a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The next state.
    pub next: State,
    /// The differences.
    pub changes: Vec<Change>,
    /// The losses.
    pub losses: Losses,
}

/// What a file removes, each as a sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Losses {
    /// Removals of what is in use: every removed service that has an active backend, more than half of the
    /// active backends of a service that stays, more than half of the other active balancers of a tier, all
    /// interfaces, the balancer's name, `gre_in`, and the former `hash_seed`.
    pub in_use: Vec<String>,
    /// Removals of what an operator said with `lbctl`.
    pub forgotten: Vec<String>,
}

impl Losses {
    /// The maximum number of entries of `in_use` that a message lists.
    pub const LISTED_MAX: usize = 10;

    /// Returns the first entries of `in_use` as lines, and a line with the number of further ones.
    #[must_use]
    pub fn listed(&self) -> Vec<String> {
        let more = self.in_use.len().saturating_sub(Self::LISTED_MAX);
        let mut lines: Vec<String> = self.in_use.iter().take(Self::LISTED_MAX).cloned().collect();
        lines.extend((more > 0).then(|| format!("and {more} more")));
        lines
    }
}

impl State {
    /// Returns the effect of a configuration file on this state; see [`State::merge`].
    ///
    /// # Errors
    /// When a limit is passed, or a `renamed_from` is wrong.
    pub fn plan(&self, config: &Config) -> Result<Plan, StateError> {
        let renamed = self.renamed(config)?;
        let next = renamed.merge_by_name(config, &mut Tables::of(&renamed))?;
        let names = self.services.iter().zip(&renamed.services).filter(|(old, new)| old.name != new.name);
        let mut changes: Vec<Change> = names
            .map(|(old, new)| Change {
                what: format!("service {}", new.name),
                key: Some("name".to_owned()),
                from: Some(old.name.to_string()),
                to: Some(new.name.to_string()),
            })
            .collect();
        changes.extend(renamed.changes(&next));
        let losses = losses(&renamed, &next);
        Ok(Plan { next, changes, losses })
    }

    /// Returns this state with its services renamed as the file says.
    pub(super) fn renamed(&self, config: &Config) -> Result<Self, StateError> {
        let mut renamed = self.clone();
        for service in &config.services {
            let Some(old) = &service.renamed_from else { continue };
            let (was, is) = (self.service(old.as_str()), self.service(service.name.as_str()));
            match (was, is) {
                (Some(_), None) => {
                    let named = renamed.services.iter_mut().find(|candidate| candidate.name == *old);
                    named.into_iter().for_each(|named| named.name = service.name.clone());
                    let by_name = NoBackend::Service(old.clone());
                    for other in renamed.services.iter_mut().filter(|other| other.no_backend == by_name) {
                        other.no_backend = NoBackend::Service(service.name.clone());
                    }
                }
                // The service was renamed before, or the region is made anew.
                (None, Some(_)) => {}
                (None, None) if self.services.is_empty() => {}
                (Some(_), Some(_)) => {
                    return Err(StateError::RenamedBoth { old: old.clone(), new: service.name.clone() });
                }
                (None, None) => {
                    let known = super::change::list(self.services.iter().map(|service| &service.name));
                    return Err(StateError::RenamedNone {
                        old: old.clone(),
                        new: service.name.clone(),
                        known,
                    });
                }
            }
        }
        Ok(renamed)
    }

    /// Returns the former backend: the one with the same name, or one with the same path and a name that the
    /// file no longer has.
    pub(super) fn before(
        &self,
        service: &crate::config::Service,
        backend: &crate::config::Backend,
    ) -> Option<&Backend> {
        let old = &self.service(service.name.as_str())?.backends;
        old.iter().find(|old| old.name == backend.name).or_else(|| {
            let alike = old
                .iter()
                .find(|old| backend.path != Path::MarkOnly && self.path(old.target) == Some(backend.path));
            alike.filter(|old| service.backends.iter().all(|known| known.name != old.name))
        })
    }
}

fn losses(old: &State, next: &State) -> Losses {
    let mut losses = Losses::default();
    of_balancer(old, next, &mut losses.in_use);
    for service in &old.services {
        let kept = next.service(service.name.as_str());
        of_service(old, service, (next, kept), &mut losses);
    }
    of_tier(old, next, &mut losses);
    // A region that was made without a file steers nothing.
    if old.balancer.interfaces.is_empty() {
        losses.in_use.clear();
    }
    losses
}

fn of_balancer(old: &State, next: &State, in_use: &mut Vec<String>) {
    let (was, is) = (&old.balancer, &next.balancer);
    if was.name != is.name {
        in_use.push(format!("the file is that of balancer \"{}\", and this is \"{}\"", is.name, was.name));
    }
    let used = old.services.iter().any(|service| service.active().next().is_some());
    if used && was.interfaces.iter().all(|interface| !is.interfaces.contains(interface)) {
        let names: Vec<&str> = was.interfaces.iter().map(|interface| interface.as_str()).collect();
        in_use.push(format!("no interface stays, {} goes", names.join(" ")));
    }
    if used && was.gre_in && !is.gre_in {
        in_use.push("gre_in goes: packets that routers send in GRE are no longer taken".to_owned());
    }
    if used && was.hash_seed != is.hash_seed {
        in_use.push(format!(
            "hash_seed was {:#x} and is {:#x}: other balancers, and lookups for flows that are not pinned, disagree",
            was.hash_seed, is.hash_seed
        ));
    }
}

fn of_service(old: &State, service: &Service, (next, kept): (&State, Option<&Service>), losses: &mut Losses) {
    let name = &service.name;
    let overridden = |gone: &dyn Fn(&Backend) -> bool| -> Vec<&Backend> {
        let overridden = |backend: &&Backend| backend.admission.in_force().is_some() && gone(backend);
        service.backends.iter().filter(overridden).collect()
    };
    let active = service.active().count();
    let Some(kept) = kept else {
        let hint = renamed_to(old, service, next);
        if active > 0 {
            let plural = if active == 1 { "" } else { "s" };
            losses.in_use.push(format!("service {name} goes, with {active} backend{plural} in use{hint}"));
        }
        let overridden = overridden(&|_| true);
        if !overridden.is_empty() {
            let names: Vec<&str> = overridden.iter().map(|backend| backend.name.as_str()).collect();
            losses.forgotten.push(format!(
                "service {name} goes, and with it what lbctl said of {}{hint}",
                names.join(" ")
            ));
        }
        return;
    };
    let gone = |backend: &Backend| {
        let path = old.path(backend.target).filter(|path| *path != Path::MarkOnly);
        kept.backends
            .iter()
            .all(|other| other.name != backend.name && (path.is_none() || next.path(other.target) != path))
    };
    let going = service.active().filter(|backend| gone(backend)).count();
    if 2 * going > active {
        losses.in_use.push(format!("service {name}: {going} of {active} backends in use go"));
    }
    for backend in overridden(&gone) {
        if let Some(order) = backend.admission.in_force() {
            losses.forgotten.push(format!("backend {name}/{} goes, and with it: {order}", backend.name));
        }
    }
}

/// Returns a hint about `renamed_from`, if a service that is removed seems to have only a new name.
fn renamed_to(old: &State, service: &Service, next: &State) -> String {
    let path = |state: &State, backend: &Backend| state.path(backend.target);
    let new = next.services.iter().filter(|new| old.service(new.name.as_str()).is_none());
    let alike = |new: &&Service| {
        let shared = |one: &Backend| {
            service.backends.iter().any(|other| one.name == other.name || path(next, one) == path(old, other))
        };
        new.vips.iter().any(|vip| service.vips.contains(vip)) && new.backends.iter().any(shared)
    };
    new.clone().find(alike).map_or_else(String::new, |new| {
        format!(
            " (if it is service {} now: renamed_from = \"{}\" there keeps what is set)",
            new.name, service.name
        )
    })
}

fn of_tier(old: &State, next: &State, losses: &mut Losses) {
    let goes = |member: &&TierMember| next.tier.iter().all(|other| other.name != member.name);
    let others = || old.tier_active().filter(|member| member.name != old.balancer.name);
    let (active, going) = (others().count(), others().filter(goes).count());
    if 2 * going > active {
        losses.in_use.push(format!("tier: {going} of {active} other balancers in use go"));
    }
    for member in old.tier.iter().filter(goes) {
        if let Some(order) = member.admission.in_force() {
            losses.forgotten.push(format!("balancer {} of the tier goes, and with it: {order}", member.name));
        }
    }
}

#[cfg(test)]
mod tests;
