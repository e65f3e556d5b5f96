//! What strangers or lasting errors could fill the log with is logged seldom: errors that repeat once, early checks once
//! a minute.

use std::{fmt::Display, time::Duration};

use synrail::model::Name;
use tracing::{debug, info, warn};

/// How often early checks are in the log at most, unless it has everything.
const EARLY_EVERY: Duration = Duration::from_secs(60);
/// How many backends are named.
const NAMED_MAX: usize = 4;

/// The error that lasts, if any.
#[derive(Debug, Default)]
pub(crate) struct Notice(Option<String>);

impl Notice {
    /// Logs the error, unless it is the one that was logged last.
    pub(crate) fn raise(&mut self, what: &str, error: &impl Display) {
        let error = error.to_string();
        if self.0.as_ref() != Some(&error) {
            warn!("{what}: {error}");
            self.0 = Some(error);
        }
    }

    /// Logs that it works again, if it did not.
    pub(crate) fn clear(&mut self, what: &str) {
        if self.0.take().is_some() {
            info!("{what}");
        }
    }
}

/// Which checks begin early. Anyone can cause that, by a forged ICMP error.
#[derive(Debug, Default)]
pub(crate) struct EarlyChecks(Option<Duration>);

impl EarlyChecks {
    /// Logs a service and a backend for each check that is early at `now`, which is since one fixed moment.
    pub(crate) fn tell(&mut self, early: &[(Name, Name)], now: Duration) {
        if early.is_empty() {
            return;
        }
        let checks = early.len();
        let names = early.iter().take(NAMED_MAX).map(|(service, backend)| format!("{service}/{backend}"));
        let mut backends = names.collect::<Vec<_>>().join(" ");
        if checks > NAMED_MAX {
            backends += " and others";
        }
        let what = "checked early: an ICMP error says that a packet was not delivered";
        if self.0.is_some_and(|last| now < last + EARLY_EVERY) {
            return debug!(backends, checks, "{what}");
        }
        self.0 = Some(now);
        info!(backends, checks, "{what}");
    }
}
