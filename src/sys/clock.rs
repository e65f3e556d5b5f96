//! The clock, and waiting that ends.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// The monotonic clock, now.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
pub fn now() -> Instant {
    Instant::now()
}

/// Time since some moment before this machine's processes began: the same for all of them, whatever somebody sets.
#[must_use]
pub fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// Seconds since 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The CPU time that the calling thread has had; none where the kernel does not say.
#[must_use]
pub fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map_or(Duration::ZERO, Duration::from)
}

/// Asks `done` every `interval` until it answers or `timeout` has passed; it is asked at least once.
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
