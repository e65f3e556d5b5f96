//! Errors that repeat are logged once.

use std::fmt::Display;

use tracing::{info, warn};

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
