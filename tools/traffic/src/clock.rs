//! The one place that reads the clock. A traffic tool is about real time: rates, deadlines and answers that do
//! not come; so it has no simulated clock, but what takes a time takes it as an argument.

use tokio::time::Instant;

/// The time now, on the clock that also drives the runtime's timers.
#[allow(clippy::disallowed_methods, reason = "the one place of this tool that reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
