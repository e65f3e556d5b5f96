//! The clock, and waiting with a time limit.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Returns the time of the monotonic clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
pub fn now() -> Instant {
    Instant::now()
}

/// Returns the time since some moment before any process of this machine started. It is the same for all
/// processes, and setting the clock does not change it.
#[must_use]
pub fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// Returns the seconds since 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Returns the CPU time that the calling thread has used; zero if the kernel does not report it.
#[must_use]
pub fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map_or(Duration::ZERO, Duration::from)
}

/// Calls `done` every `interval` until it returns a value or `timeout` has passed. `done` is called at least
/// once.
#[expect(
    clippy::disallowed_methods,
    reason = "for conditions that nothing announces, such as a lock set free"
)]
pub fn wait_for<T>(timeout: Duration, interval: Duration, mut done: impl FnMut() -> Option<T>) -> Option<T> {
    let end = now() + timeout;
    loop {
        if let Some(value) = done() {
            return Some(value);
        }
        if now() >= end {
            return None;
        }
        std::thread::sleep(interval);
    }
}
