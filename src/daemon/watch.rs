//! Watches how full connection tracking is, and chooses the way of packets by it.

use std::{io, path::Path, sync::Arc, time::Duration};

use tracing::{error, info, warn};

use super::{ErrorLatch, audit::place_before, ways::Ways};
use crate::{
    balance::watch::Watch,
    model::Steering,
    sys::{
        conntrack::{Fill, fill},
        nft::NftError,
    },
    worker::Shared,
};

/// Where the kernel shows it.
const PROC: &str = "/proc";

/// After how long without a reading that is logged.
const UNREADABLE_FOR: Duration = Duration::from_secs(5);

/// The watch, and what was last done about it.
#[derive(Default)]
pub(super) struct FillWatch {
    watch: Watch,
    /// The way that was last set in the kernel; `None` if it has to be set.
    set: Option<bool>,
    logged: bool,
    /// Since when there is no reading.
    unreadable_since: Option<Duration>,
    unreadable_logged: bool,
    last_error: ErrorLatch,
}

impl FillWatch {
    /// Returns whether it is nearly full. Changes the way of packets accordingly, and logs a change. With steering
    /// "every-packet" nothing is tracked, so it does not matter.
    pub(super) fn look(&mut self, now: Duration, shared: &Arc<Shared>, ways: &Arc<Ways>) -> bool {
        let tracks = shared.forwarding.load().steering() == Steering::SynOnly;
        let nearly_full = match fill(Path::new(PROC)) {
            Ok(fill) if tracks => {
                self.unreadable_since = None;
                let nearly_full = self.watch.look(now, fill.entries, fill.max);
                self.log(nearly_full, fill);
                nearly_full
            }
            Ok(_) => false,
            Err(error) => {
                self.cannot_read(now, &error);
                false
            }
        };
        if self.set != Some(nearly_full) {
            self.set = match turn(shared, ways, nearly_full) {
                Ok(()) => Some(nearly_full),
                Err(error) => {
                    self.last_error
                        .raise("the way of packets to VIPs cannot be changed; it is tried again", &error);
                    None
                }
            };
            if self.set.is_some() {
                self.last_error.clear();
            }
        }
        nearly_full
    }

    /// Returns how long until the next look.
    pub(super) fn next_look(&self) -> Duration {
        self.watch.next_look()
    }

    fn log(&mut self, nearly_full: bool, Fill { entries, max }: Fill) {
        if nearly_full == self.logged {
            return;
        }
        self.logged = nearly_full;
        if nearly_full {
            error!(
                entries,
                max,
                "connection tracking is nearly full: packets to VIPs go untracked, by the fallback tables, until there is room. \
                 Raise net.netfilter.nf_conntrack_max, and net.netfilter.nf_conntrack_buckets with it, at 1 to 4 entries a bucket"
            );
        } else {
            info!(entries, max, "connection tracking has room again: flows are tracked");
        }
    }

    /// At a first start the kernel has no connection tracking until the ruleset needs it.
    fn cannot_read(&mut self, now: Duration, error: &io::Error) {
        let since = *self.unreadable_since.get_or_insert(now);
        if !self.unreadable_logged && now.saturating_sub(since) >= UNREADABLE_FOR {
            self.unreadable_logged = true;
            warn!(%error, "it cannot be read how full connection tracking is (net.netfilter.nf_conntrack_count)");
        }
    }
}

/// Sets the way of packets when connection tracking is nearly full, or no more. If the tables in force have not been audited
/// yet, their off-table flows are put into the maps before packets go by the fallback tables.
///
/// # Errors
/// When the way cannot be changed.
pub(super) fn turn(shared: &Arc<Shared>, ways: &Arc<Ways>, nearly_full: bool) -> Result<(), NftError> {
    let mut chosen = ways.lock();
    if nearly_full && chosen.is_unsettled() {
        place_before(shared, ways, &shared.forwarding.load(), &mut chosen);
    }
    chosen.set_nearly_full(nearly_full)
}
