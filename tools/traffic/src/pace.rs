//! How fast things start: a rate, and a bound on how many go on at once.

use std::future::Future;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::clock;
use crate::limits::Speed;

/// After a delay, so much is made up for at once; the rest of the delay is forgotten.
const LAG_MAX: Duration = Duration::from_millis(100);

/// Gives out turns at a steady rate.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: Option<NonZeroU32>,
    turns: Mutex<Turns>,
}

#[derive(Debug)]
struct Turns {
    next: Instant,
    given: u64,
    first: Instant,
    last: Instant,
}

impl Pace {
    /// No rate: every turn is now.
    pub(crate) fn new(rate: Option<NonZeroU32>, now: Instant) -> Self {
        Self { rate, turns: Mutex::new(Turns { next: now, given: 0, first: now, last: now }) }
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
        let interval = self.rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.get());
        let mut turns = self.turns();
        let turn = now.checked_sub(LAG_MAX).map_or(turns.next, |earliest| earliest.max(turns.next));
        turns.next = turn + interval;
        turns.last = turn.max(now);
        if turns.given == 0 {
            turns.first = turns.last;
        }
        turns.given += 1;
        turn
    }

    /// How fast turns were asked for, and taken; nothing is known of less than two.
    pub(crate) fn speed(&self) -> Option<Speed> {
        let turns = self.turns();
        let seconds = turns.last.duration_since(turns.first).as_secs_f64();
        let reached = (seconds > 0.0).then(|| turns.given.saturating_sub(1) as f64 / seconds)?;
        Some(Speed { asked: self.rate?.get().into(), reached })
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `job` for each index below `count`, in order, at most `concurrency` at once.
pub(crate) async fn each<J, F>(count: u64, concurrency: usize, job: J) -> anyhow::Result<()>
where
    J: Fn(u64) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..concurrency.min(usize::try_from(count).unwrap_or(usize::MAX)) {
        let (next, job) = (next.clone(), job.clone());
        workers.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return;
                }
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
        assert_eq!(pace.speed(), Some(Speed { asked: 100.0, reached: 4.0 }), "5 turns in a second");
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
            into.lock().unwrap().push(index);
            std::future::ready(())
        };
        each(1000, 7, job).await.unwrap();
        let mut seen = seen.lock().unwrap().clone();
        seen.sort_unstable();
        assert_eq!(seen, (0..1000).collect::<Vec<u64>>());
    }
}
