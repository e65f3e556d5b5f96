//! By which way packets to VIPs go, and who may change the kernel now.
//!
//! Three things say which way it is: whether there are off-table flows (the audit finds them), whether connection tracking is
//! nearly full (the watch says so), and what is in force. Only the holder of the lock changes the kernel: the loop that adopts a
//! change, or the audit, for a few milliseconds at a time. So an audit never does what an older table asked for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    balance::Forwarding,
    plan::{
        elements::{Elements, Way},
        ruleset::Ruleset,
    },
    sys::nft::{self, NftError},
    worker::Shared,
};

/// By which way packets go, under a lock.
#[derive(Default)]
pub(super) struct Ways(Mutex<Chosen>);

/// What chooses the way.
#[derive(Default)]
pub(super) struct Chosen {
    off_table: bool,
    nearly_full: bool,
    /// Other tables are in force than at the last audit of all entries.
    unsettled: bool,
    /// What the sets hold, once a ruleset is in force.
    in_force: Option<Elements>,
}

impl Ways {
    /// Nobody else changes the kernel as long as this is held.
    pub(super) fn lock(&self) -> MutexGuard<'_, Chosen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chosen {
    pub(super) fn way(&self) -> Way {
        match (self.nearly_full, self.off_table) {
            (true, _) => Way::Untracked,
            (false, true) => Way::OffTable,
            (false, false) => Way::Tracked,
        }
    }

    /// Puts a ruleset in force, or mends it, with the way that is chosen; `put` is told which elements are in
    /// force.
    pub(super) fn with<T>(
        &mut self,
        ruleset: &mut Ruleset,
        put: impl FnOnce(&Ruleset, Option<&Elements>) -> Result<T, NftError>,
    ) -> Result<T, NftError> {
        ruleset.elements.set_way(self.way());
        let done = put(ruleset, self.in_force.as_ref())?;
        self.in_force = Some(ruleset.elements.clone());
        Ok(done)
    }

    /// The workers follow these tables from now on.
    pub(super) fn adopt(&mut self, shared: &Shared, forwarding: &Arc<Forwarding>) {
        shared.forwarding.store(Arc::clone(forwarding));
        self.unsettled = true;
    }

    /// The off-table flows of the tables in force are in their maps.
    pub(super) fn settled(&mut self) {
        self.unsettled = false;
    }

    /// Whether they may be elsewhere as yet.
    pub(super) fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// There are off-table flows, or none any more.
    ///
    /// # Errors
    /// When the way cannot be changed. The next call, or a repair, tries again.
    pub(super) fn set_off_table(&mut self, off_table: bool) -> Result<(), NftError> {
        self.off_table = off_table;
        self.switch()
    }

    /// Connection tracking is nearly full, or no more.
    ///
    /// # Errors
    /// As [`Chosen::set_off_table`].
    pub(super) fn set_nearly_full(&mut self, nearly_full: bool) -> Result<(), NftError> {
        self.nearly_full = nearly_full;
        self.switch()
    }

    fn switch(&mut self) -> Result<(), NftError> {
        let way = self.way();
        let Some(in_force) = &mut self.in_force else { return Ok(()) };
        let mut wanted = in_force.clone();
        wanted.set_way(way);
        if wanted != *in_force {
            nft::change_elements(in_force, &wanted)?;
            *in_force = wanted;
        }
        Ok(())
    }
}
