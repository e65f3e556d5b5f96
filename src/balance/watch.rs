//! Whether connection tracking is nearly full. PURE.
//!
//! When it is full, and no entry may be dropped for a new one, the kernel drops every packet that it would
//! have to track. So before that happens, packets to VIPs pass untracked: they follow the fallback tables,
//! and off-table flows follow their maps. This lasts until there has been room for some time.

use std::{collections::VecDeque, time::Duration};

/// Nearly full: from this percentage on.
const FULL_PERCENT: u64 = 90;
/// There is room: below this percentage.
const ROOM_PERCENT: u64 = 70;
/// How long there must be room before connection tracking is no longer nearly full.
const ROOM_FOR: Duration = Duration::from_secs(5);
/// Nearly full: it would be full within this time if it kept growing at the present rate.
const FULL_WITHIN: Duration = Duration::from_secs(1);
/// Growth is measured over at least this time, and not much more.
const GROWTH_OVER: Duration = Duration::from_millis(200);

/// How often the fill level is read if it grows fast, or if a quarter is used.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often the fill level is read otherwise.
const LOOK_EVERY_QUIET: Duration = Duration::from_millis(100);

/// Tracks how full connection tracking is.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    nearly_full: bool,
    /// Since when there has been room.
    room_since: Option<Duration>,
    /// The readings and their times. The first one is older than [`GROWTH_OVER`], if there is such a reading.
    seen: VecDeque<(Duration, u64)>,
    /// Far from full, at the present rate of growth as well.
    quiet: bool,
}

impl Watch {
    /// Reports whether connection tracking is nearly full, now that it has `entries` of at most `max`. `now`
    /// is the time since some fixed moment.
    pub fn look(&mut self, now: Duration, entries: u64, max: u64) -> bool {
        let growth = self.growth(now, entries);
        // The kernel's 0 means that there is no limit.
        let above = |percent: u64| max > 0 && entries.saturating_mul(100) >= max.saturating_mul(percent);
        if max > 0 && (above(FULL_PERCENT) || entries.saturating_add(growth) >= max) {
            self.nearly_full = true;
            self.room_since = None;
        } else if above(ROOM_PERCENT) {
            self.room_since = None;
        } else {
            let since = *self.room_since.get_or_insert(now);
            self.nearly_full &= now.saturating_sub(since) < ROOM_FOR;
        }
        let soon = entries.saturating_add(growth).saturating_mul(4) >= max;
        self.quiet = !self.nearly_full && (max == 0 || !soon);
        self.nearly_full
    }

    /// Returns the time until the next reading.
    #[must_use]
    pub fn next_look(&self) -> Duration {
        if self.quiet { LOOK_EVERY_QUIET } else { LOOK_EVERY }
    }

    /// Returns how many entries are added within [`FULL_WITHIN`] at the present rate.
    fn growth(&mut self, now: Duration, entries: u64) -> u64 {
        let old = |seen: &(Duration, u64)| now.saturating_sub(seen.0) >= GROWTH_OVER;
        self.seen.push_back((now, entries));
        while self.seen.get(1).is_some_and(old) {
            self.seen.pop_front();
        }
        let Some(&(then, before)) = self.seen.front().filter(|seen| old(seen)) else { return 0 };
        let passed = now.saturating_sub(then).as_millis().max(1);
        let grown = u128::from(entries.saturating_sub(before)) * FULL_WITHIN.as_millis() / passed;
        u64::try_from(grown).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_millis(20);

    /// Returns the results of `look` at each tick for a sequence of entries, of at most 1000.
    fn course(watch: &mut Watch, from: Duration, entries: impl IntoIterator<Item = u64>) -> Vec<bool> {
        let ticks = (0u32..).map(|n| from + TICK * n);
        ticks.zip(entries).map(|(now, entries)| watch.look(now, entries, 1000)).collect()
    }

    #[test]
    fn it_is_nearly_full_from_ninety_percent_until_there_was_room_for_five_seconds() {
        let mut watch = Watch::default();
        // Slowly, so that growth has no effect.
        let slow = |n: u64| std::iter::repeat_n(n, 1000);
        let second = Duration::from_secs(1);
        assert_eq!(course(&mut watch, second, slow(899)).last(), Some(&false));
        assert_eq!(course(&mut watch, 21 * second, slow(900)).first(), Some(&true));
        assert_eq!(course(&mut watch, 41 * second, slow(700)).last(), Some(&true));
        let said = course(&mut watch, 61 * second, slow(699));
        assert_eq!(said.iter().filter(|full| **full).count(), 250);
        assert!(!said[250]);
    }

    #[test]
    fn what_would_be_full_in_a_second_is_nearly_full() {
        let flood = |per_tick: u64| (0..).map(move |n| n * per_tick).take_while(|entries| *entries < 700);
        // 500 entries/s fill the other half within a second.
        let said = course(&mut Watch::default(), TICK, flood(10));
        assert!(!said[48] && said[52], "{said:?}");
        let said = course(&mut Watch::default(), TICK, flood(2));
        assert!(said.iter().all(|full| !full));
        // The first reading shows no growth.
        assert!(!Watch::default().look(TICK, 800, 1000));
    }

    #[test]
    fn without_a_limit_it_is_never_full() {
        assert!(!Watch::default().look(TICK, 800, 0));
    }

    #[test]
    fn it_is_looked_at_seldom_where_it_is_far_from_full() {
        let mut watch = Watch::default();
        let second = Duration::from_secs(1);
        assert_eq!(watch.next_look(), LOOK_EVERY, "nothing is known");
        for (entries, max, next) in [
            (0, 1000, LOOK_EVERY_QUIET),
            (249, 1000, LOOK_EVERY_QUIET),
            (250, 1000, LOOK_EVERY),
            (900, 1000, LOOK_EVERY),
            (0, 1000, LOOK_EVERY),
            (u64::MAX, 0, LOOK_EVERY),
        ] {
            watch.look(second * 2, entries, max);
            assert_eq!(watch.next_look(), next, "{entries} of {max}");
        }
        let steady = course(&mut watch, 10 * second, [249; 500]);
        assert!(!steady[499]);
        assert_eq!(watch.next_look(), LOOK_EVERY_QUIET);
    }

    proptest! {
        #[test]
        fn at_ninety_percent_it_is_always_nearly_full(course in prop::collection::vec((0..1u64 << 40, 0..5000u64, 0..5000u64), 1..200)) {
            let (mut watch, mut now) = (Watch::default(), Duration::ZERO);
            for (entries, max, passed) in course {
                now += Duration::from_millis(passed);
                let full = watch.look(now, entries, max);
                prop_assert!(full || max == 0 || entries * 10 < max * 9);
                prop_assert!(watch.seen.len() < 3 + 200);
            }
        }
    }
}
