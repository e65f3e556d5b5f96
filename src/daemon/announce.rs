//! Which VIPs are announced, by whom, and until when.
//!
//! | | announced |
//! |---|---|
//! | lbd runs | what can be served ([`crate::plan::announce`]), and has been for a while ([`crate::control::announce`]) |
//! | lbd ends by a signal, `lbd --once`, `lbctl check --repair` without lbd | of that what the kernel has tables of |
//! | lbd is killed | as before, until `lbd --withdraw`, which a service manager runs then, or the next start |
//! | an operator drains the balancer | nothing |
//!
//! lbd is not the one to withdraw what a killed lbd has announced, and lbagent has no right to change routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ipnet::IpNet;
use tracing::info;

use super::DaemonError;
use crate::{
    control::announce::Announcements,
    plan::{
        announce::{Decides, Why, vips},
        routing::{self, Route, announcements},
    },
    state::State,
    sys::{
        instance_lock::InstanceLock,
        nft,
        region::{AccessError, Region, RegionName},
        rtnetlink::Routing,
    },
};

/// VIPs that are announced, and the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Announced {
    table: Option<u8>,
    vips: BTreeSet<IpNet>,
    /// Whether only those stay that are announced already.
    if_there: bool,
}

impl Announced {
    /// Returns those that the kernel serves by itself.
    pub(super) fn without_lbd(state: &State) -> Self {
        Self::of(state, served(state, Decides::Kernel))
    }

    /// Returns those that an lbd may have announced.
    pub(super) fn that_may_be(state: &State) -> Self {
        Self::of(state, served(state, Decides::Lbd)).if_there()
    }

    fn of(state: &State, vips: BTreeSet<IpNet>) -> Self {
        let vips = if state.admission.active() { vips } else { BTreeSet::new() };
        Self { table: state.balancer.announce_table, vips, if_there: false }
    }

    /// Returns those of them that are announced already.
    pub(super) fn if_there(self) -> Self {
        Self { if_there: true, ..self }
    }

    /// Plans for them.
    pub(super) fn put_in(&self, desired: &mut routing::Desired) {
        if self.if_there {
            desired.announce_if_there(self.table, &self.vips);
        } else {
            desired.announce(self.table, &self.vips);
        }
    }

    /// Returns their routes.
    pub(super) fn routes(&self) -> BTreeSet<Route> {
        self.table.map_or_else(BTreeSet::new, |table| announcements(table, &self.vips))
    }

    /// Logs what has changed.
    pub(super) fn log_since(&self, last: &Self) {
        let fresh = |one: &Self, other: &Self| -> Vec<IpNet> {
            if one.if_there {
                return Vec::new();
            }
            let known = !other.if_there && one.table == other.table;
            one.vips.iter().copied().filter(|vip| !known || !other.vips.contains(vip)).collect()
        };
        for (vips, what) in [(fresh(last, self), "withdrawn"), (fresh(self, last), "announced")] {
            if let Some(first) = vips.first() {
                info!(vips = vips.len(), %first, "{what}");
            }
        }
    }
}

fn served(state: &State, decides: Decides) -> BTreeSet<IpNet> {
    let served = |(vip, served): (IpNet, Result<(), Why>)| served.is_ok().then_some(vip);
    vips(state, decides).into_iter().filter_map(served).collect()
}

/// What lbd announces.
#[derive(Clone, Default)]
pub(super) struct Announcer {
    announcements: Announcements,
    /// What of the state in force can be served.
    served: BTreeMap<IpNet, bool>,
    without_lbd: Announced,
    table: Option<u8>,
    /// An operator wants nothing announced.
    drained: bool,
}

impl Announcer {
    /// Goes on with a state.
    pub(super) fn adopt(&mut self, state: &State, now: Duration) {
        let served = vips(state, Decides::Lbd).into_iter().map(|(vip, served)| (vip, served.is_ok()));
        self.served = served.collect();
        self.without_lbd = Announced::without_lbd(state);
        self.table = state.balancer.announce_table;
        self.drained = !state.admission.active();
        self.pass(now);
    }

    /// Time has passed.
    pub(super) fn pass(&mut self, now: Duration) {
        // Also while drained, so that nothing waits when that ends.
        self.announcements.update(self.served.iter().map(|(vip, served)| (*vip, *served)), now);
    }

    /// Returns what is announced now.
    pub(super) fn announced(&self) -> Announced {
        let vips = if self.drained { BTreeSet::new() } else { self.announcements.announced() };
        Announced { table: self.table, vips, if_there: false }
    }

    /// Returns what of that stays when lbd ends.
    pub(super) fn without_lbd(&self) -> Announced {
        let Announced { vips, .. } = self.announced();
        let stay = vips.intersection(&self.without_lbd.vips).copied().collect();
        Announced { vips: stay, ..self.without_lbd.clone() }
    }
}

/// Withdraws the VIPs that nothing serves while no lbd runs: all without a usable region or without our ruleset, else
/// those of which the kernel has no table. Returns what was withdrawn.
///
/// # Errors
/// When an lbd is at work, or the kernel refuses.
pub fn withdraw(name: &RegionName) -> Result<Vec<IpNet>, DaemonError> {
    let _lock = InstanceLock::acquire()?;
    let state = match Region::open(name).and_then(|mut region| region.state_with_tables(|_| Vec::new())) {
        Ok((_, state)) => Some(state),
        Err(AccessError::Missing(_) | AccessError::Unusable { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let steers = !nft::counters()?.is_empty();
    let served =
        state.filter(|_| steers).map_or_else(Announced::default, |state| Announced::without_lbd(&state));
    let mut routing = Routing::open()?;
    let now = routing.announcing()?;
    let wanted: BTreeSet<Route> = now.intersection(&served.routes()).cloned().collect();
    routing.announce(&wanted)?;
    Ok(now.difference(&wanted).map(|route| route.to).collect())
}

#[cfg(test)]
mod tests;
