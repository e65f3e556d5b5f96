//! The one place that reads the clock. A traffic tool is about real time: rates, deadlines and answers that do
//! not come; so it has no simulated clock, but what takes a time takes it as an argument.

use tokio::time::Instant;

/// The time now, on the clock that also drives the runtime's timers.
#[allow(clippy::disallowed_methods, reason = "the one place of this tool that reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits less than a millisecond too, which the runtime's timer cannot; all else waits meanwhile.
#[allow(clippy::disallowed_methods, reason = "a rate is a matter of time, and of no condition")]
pub(crate) fn sleep_all(duration: std::time::Duration) {
    std::thread::sleep(duration);
}

/// The time of day, in milliseconds since 1970: only to compare a report with what else was written down.
#[allow(clippy::disallowed_methods, reason = "the one place of this tool that reads the clock")]
pub(crate) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
