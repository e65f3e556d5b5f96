//! Rates of the last snapshots. PURE.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::snapshot::Snapshot;

/// How many rates are remembered of each counter.
pub const KEPT: usize = 60;

/// The last snapshot, and the rates of what it counts.
#[derive(Debug, Default)]
pub struct History {
    /// The last snapshot; `None` before the first.
    pub last: Option<Snapshot>,
    targets: BTreeMap<u32, Rates>,
    drops: BTreeMap<String, Rates>,
    /// New flows of all targets.
    pub steered: Rates,
    /// Dropped packets of all reasons.
    pub dropped: Rates,
}

/// The rates of a counter, a second; the newest last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates(VecDeque<f64>);

impl Rates {
    fn push(&mut self, rate: f64) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(rate);
    }

    /// Returns the newest rate; 0 if there is none.
    #[must_use]
    pub fn now(&self) -> f64 {
        self.0.back().copied().unwrap_or(0.0)
    }

    /// Returns the last rates as `width` bars, the newest at the right. The highest of them is a full bar.
    #[must_use]
    pub fn bars(&self, width: usize) -> String {
        const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let shown = self.0.iter().skip(self.0.len().saturating_sub(width));
        let highest = shown.clone().copied().fold(0.0, f64::max);
        let bar = |rate: &f64| {
            let eighths = (rate / highest * 8.0).ceil();
            // Whatever is not 0 shows; NaN, of 0 / 0, is 0.
            BARS.iter()
                .rev()
                .zip((0_u8..=8).rev())
                .find(|(_, n)| eighths >= f64::from(*n))
                .map_or(' ', |(bar, _)| *bar)
        };
        let bars: String = shown.map(bar).collect();
        format!("{bars:>width$}")
    }
}

impl History {
    /// Takes the next snapshot. A counter that has fallen began anew.
    pub fn add(&mut self, next: Snapshot) {
        if let Some(last) = &self.last {
            let passed = next.at.saturating_sub(last.at).max(Duration::from_millis(1)).as_secs_f64();
            let rate = |before: Option<&u64>, now: u64| {
                let before = before.copied().filter(|before| *before <= now);
                // Less than 2^52.
                (now - before.unwrap_or(0)) as f64 / passed
            };
            // What was not there a moment ago counts from now on.
            let targets = next.targets.iter().filter_map(|(number, now)| {
                let before = last.targets.get(number)?;
                Some((*number, rate(Some(before), *now)))
            });
            let targets: Vec<_> = targets.collect();
            self.steered.push(sum(targets.iter().map(|(_, rate)| *rate)));
            for (number, rate) in targets {
                self.targets.entry(number).or_default().push(rate);
            }
            let drops: Vec<_> =
                next.drops.iter().map(|(why, now)| (why.clone(), rate(last.drops.get(why), *now))).collect();
            self.dropped.push(sum(drops.iter().map(|(_, rate)| *rate)));
            for (why, rate) in drops {
                self.drops.entry(why).or_default().push(rate);
            }
        }
        self.targets.retain(|number, _| next.targets.contains_key(number));
        self.drops.retain(|why, _| next.drops.contains_key(why));
        self.last = Some(next);
    }

    /// Returns the rates of a target.
    #[must_use]
    pub fn of_target(&self, number: u32) -> Rates {
        self.targets.get(&number).cloned().unwrap_or_default()
    }

    /// Returns the rate at which packets are dropped for this reason.
    #[must_use]
    pub fn of_drop(&self, why: &str) -> f64 {
        self.drops.get(why).map_or(0.0, Rates::now)
    }
}

/// Returns the sum; that of nothing is 0 and not -0, as [`Iterator::sum`] has it.
pub fn sum(rates: impl Iterator<Item = f64>) -> f64 {
    rates.fold(0.0, |sum, rate| sum + rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(ms: u64, targets: &[(u32, u64)], drops: u64) -> Snapshot {
        Snapshot {
            at: Duration::from_millis(ms),
            targets: targets.iter().copied().collect(),
            drops: [("drop_no_service".to_owned(), drops)].into_iter().collect(),
            ..Snapshot::default()
        }
    }

    #[test]
    fn rates_are_of_the_time_that_has_passed() {
        let mut history = History::default();
        history.add(snapshot(0, &[(1, 100), (2, 0)], 5));
        assert_eq!(
            (history.steered.now(), history.of_target(1).now()),
            (0.0, 0.0),
            "nothing to compare with"
        );
        history.add(snapshot(500, &[(1, 150), (2, 10)], 5));
        let seen = [history.of_target(1).now(), history.of_target(2).now(), history.steered.now()];
        assert_eq!(seen, [100.0, 20.0, 120.0]);
        assert_eq!(history.dropped.now(), 0.0);
        // lbd has started again, and its counters with it; a target is new, and one is gone.
        history.add(snapshot(1500, &[(1, 30), (3, 1_000_000)], 25));
        assert_eq!(history.steered.now(), 30.0);
        assert_eq!(history.of_target(2), Rates::default());
        assert_eq!((history.of_drop("drop_no_service"), history.dropped.now()), (20.0, 20.0));
        assert_eq!(history.of_drop("another"), 0.0);
    }

    #[test]
    fn what_is_remembered_has_a_limit() {
        let mut history = History::default();
        for second in 0..1000 {
            history.add(snapshot(second * 1000, &[(1, second)], 0));
        }
        assert_eq!(history.of_target(1).0.len(), KEPT);
    }

    #[test]
    fn bars_are_relative_to_the_highest() {
        let rates = |rates: &[f64]| Rates(rates.iter().copied().collect());
        assert_eq!(rates(&[]).bars(4), "    ");
        assert_eq!(rates(&[0.0, 0.0]).bars(4), "    ");
        assert_eq!(rates(&[1.0, 4.0, 8.0, 0.0]).bars(4), "▁▄█ ");
        assert_eq!(rates(&[800.0, 1.0, 8.0]).bars(2), "▁█", "only what is shown counts");
        assert_eq!(rates(&[0.001, 1000.0]).bars(2), "▁█", "what is not 0 is seen");
    }
}
