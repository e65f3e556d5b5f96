//! How fast things start: a rate, and a bound on how many go on at once.

use std::future::Future;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::clock;

/// After a delay, so much is made up for at once; the rest of the delay is forgotten.
const LAG_MAX: Duration = Duration::from_millis(100);

/// Gives out turns at a steady rate.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    /// No rate: every turn is now.
    pub(crate) fn new(rate: Option<NonZeroU32>, now: Instant) -> Self {
        let interval = rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.get());
        Self { interval, next: Mutex::new(now) }
    }

    /// Waits for the next turn.
    pub(crate) async fn turn(&self) {
        let now = clock::now();
        let turn = self.reserve(now);
        if turn > now {
            sleep_until(turn).await;
        }
    }

    fn reserve(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = now.checked_sub(LAG_MAX).map_or(*next, |earliest| earliest.max(*next));
        *next = turn + self.interval;
        turn
    }
}

/// Runs `job` for each index below `count`, in order, at most `concurrency` at once, each started at its turn.
pub(crate) async fn each<J, F>(count: u64, concurrency: usize, pace: Pace, job: J) -> anyhow::Result<()>
where
    J: Fn(u64) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let pace = Arc::new(pace);
    let mut workers = JoinSet::new();
    for _ in 0..concurrency.min(usize::try_from(count).unwrap_or(usize::MAX)) {
        let (next, pace, job) = (next.clone(), pace.clone(), job.clone());
        workers.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return;
                }
                pace.turn().await;
                job(index).await;
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_steady_and_a_long_delay_is_forgotten() {
        let start = clock::now();
        let pace = Pace::new(NonZeroU32::new(100), start);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(pace.reserve(start), start);
        assert_eq!(pace.reserve(start), at(10));
        assert_eq!(pace.reserve(at(15)), at(20));
        assert_eq!(pace.reserve(at(1000)), at(900), "of 970 ms delay 100 ms are made up for");
        assert_eq!(pace.reserve(at(1000)), at(910));
    }

    #[test]
    fn without_a_rate_every_turn_is_now() {
        let start = clock::now();
        let pace = Pace::new(None, start);
        assert_eq!(pace.reserve(start), start);
        assert!(pace.reserve(start) <= start);
    }

    #[tokio::test]
    async fn each_index_has_its_job_once() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = seen.clone();
        let job = move |index| {
            let into = into.clone();
            async move { into.lock().unwrap().push(index) }
        };
        each(1000, 7, Pace::new(None, clock::now()), job).await.unwrap();
        let mut seen = seen.lock().unwrap().clone();
        seen.sort_unstable();
        assert_eq!(seen, (0..1000).collect::<Vec<u64>>());
    }
}
