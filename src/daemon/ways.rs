//! The way of packets to VIPs, and the lock of all changes of the kernel.
//!
//! The way depends on whether there are off-table flows, which the audit finds, and on whether connection tracking is nearly
//! full, which the watch finds. Only the holder of the lock changes the kernel: the control thread, or the audit for a few
//! milliseconds at a time. So the audit never acts by a former table.

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

/// The way of packets, under the lock.
#[derive(Default)]
pub(super) struct Ways(Mutex<Chosen>);

/// What the way depends on.
#[derive(Default)]
pub(super) struct Chosen {
    off_table: bool,
    nearly_full: bool,
    /// Whether other tables are in force than at the last audit of all entries.
    unsettled: bool,
    /// The elements of the sets, once a ruleset is in force.
    in_force: Option<Elements>,
}

impl Ways {
    /// Waits for the lock. No other thread changes the kernel while it is held.
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

    /// Calls `put`, which puts the ruleset in force, or mends it, with the chosen way. `put` gets the elements that are in
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

    /// Makes the workers follow these tables.
    pub(super) fn adopt(&mut self, shared: &Shared, forwarding: &Arc<Forwarding>) {
        shared.forwarding.store(Arc::clone(forwarding));
        self.unsettled = true;
    }

    /// Records that the off-table flows of the tables in force are in the maps.
    pub(super) fn settled(&mut self) {
        self.unsettled = false;
    }

    /// Whether they may not be there yet.
    pub(super) fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// Sets the way when there are off-table flows, or none any more.
    ///
    /// # Errors
    /// When the way cannot be changed. The next call, or a repair, tries again.
    pub(super) fn set_off_table(&mut self, off_table: bool) -> Result<(), NftError> {
        self.off_table = off_table;
        self.switch()
    }

    /// Sets the way when connection tracking is nearly full, or no more.
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
        let mut desired = in_force.clone();
        desired.set_way(way);
        if desired != *in_force {
            nft::change_elements(in_force, &desired)?;
            *in_force = desired;
        }
        Ok(())
    }
}
