//! When VIPs are announced: what can be served and the time in, what is announced out. PURE.
//!
//! A VIP is withdrawn at once when it cannot be served. One that can be served again waits, since each change
//! moves flows between balancers, and routers may suppress a route that comes and goes: it must have been served
//! for [`HOLD_MIN`] without a break, and for twice as long after each withdrawal that comes soon after the last
//! one, up to [`HOLD_MAX`]. A VIP that is new, or known for the first time, does not wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ipnet::IpNet;

/// How long a VIP must have been served before it is announced again.
pub const HOLD_MIN: Duration = Duration::from_secs(5);
/// The longest wait of a VIP that is withdrawn again and again.
pub const HOLD_MAX: Duration = Duration::from_secs(160);
/// A withdrawal comes soon after the last one if no more than so many of its waits lie between.
const SERIES: u32 = 8;

/// Which VIPs are announced. All times are since one fixed moment, and never go back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcements(BTreeMap<IpNet, Vip>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vip {
    Announced {
        /// The last withdrawal, and the wait after it.
        last: Option<(Duration, Duration)>,
    },
    Withdrawn {
        /// When that was.
        at: Duration,
        /// How long it must have been served.
        hold: Duration,
        /// Since when it can be served.
        served: Option<Duration>,
    },
}

impl Vip {
    fn new(served: bool, now: Duration) -> Self {
        if served {
            return Self::Announced { last: None };
        }
        // It has never been announced, so that it comes is no flapping.
        Self::Withdrawn { at: now, hold: Duration::ZERO, served: None }
    }

    fn next(self, served: bool, now: Duration) -> Self {
        match self {
            Self::Announced { .. } if served => self,
            Self::Announced { last } => {
                let soon = last.filter(|(at, hold)| now <= *at + *hold * SERIES);
                let hold = soon.map_or(HOLD_MIN, |(_, hold)| (2 * hold).clamp(HOLD_MIN, HOLD_MAX));
                Self::Withdrawn { at: now, hold, served: None }
            }
            Self::Withdrawn { at, hold, .. } if !served => Self::Withdrawn { at, hold, served: None },
            Self::Withdrawn { at, hold, served } => {
                let since = served.unwrap_or(now);
                if now.saturating_sub(since) >= hold {
                    Self::Announced { last: Some((at, hold)) }
                } else {
                    Self::Withdrawn { at, hold, served: Some(since) }
                }
            }
        }
    }
}

impl Announcements {
    /// Takes what can be served now. What is not among it is forgotten.
    pub fn update(&mut self, vips: impl IntoIterator<Item = (IpNet, bool)>, now: Duration) {
        let next = |(vip, served): (IpNet, bool)| {
            let known = self.0.get(&vip).copied();
            (vip, known.map_or_else(|| Vip::new(served, now), |known| known.next(served, now)))
        };
        self.0 = vips.into_iter().map(next).collect();
    }

    /// Returns what is announced.
    #[must_use]
    pub fn announced(&self) -> BTreeSet<IpNet> {
        let announced = |vip: &Vip| matches!(vip, Vip::Announced { .. });
        self.0.iter().filter(|(_, vip)| announced(vip)).map(|(vip, _)| *vip).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One VIP; each step has a time in seconds, whether it is served, and whether it is announced then.
    fn steps(steps: &[(u64, bool, bool)]) {
        let vip: IpNet = "10.0.0.1/32".parse().unwrap();
        let mut announcements = Announcements::default();
        for &(seconds, served, expected) in steps {
            announcements.update([(vip, served)], Duration::from_secs(seconds));
            assert_eq!(announcements.announced().contains(&vip), expected, "at {seconds} s");
        }
    }

    #[test]
    fn a_vip_is_withdrawn_at_once_and_comes_back_when_it_has_been_served_for_a_while() {
        steps(&[(0, true, true), (9, false, false), (10, true, false), (14, true, false), (15, true, true)]);
        // A break begins the wait anew.
        steps(&[
            (0, true, true),
            (9, false, false),
            (10, true, false),
            (14, false, false),
            (15, true, false),
            (19, true, false),
            (20, true, true),
        ]);
    }

    #[test]
    fn one_that_is_new_does_not_wait() {
        steps(&[(0, true, true)]);
        steps(&[(0, false, false), (3, true, true)]);
    }

    #[test]
    fn one_that_flaps_waits_longer_up_to_a_limit_and_a_quiet_one_does_not() {
        let vip: IpNet = "10.0.0.1/32".parse().unwrap();
        let mut announcements = Announcements::default();
        let mut now = Duration::ZERO;
        let second = Duration::from_secs(1);
        let mut wait = |quiet: Duration| {
            announcements.update([(vip, true)], now);
            assert!(announcements.announced().contains(&vip));
            now += quiet;
            announcements.update([(vip, false)], now);
            let began = now;
            while !announcements.announced().contains(&vip) {
                announcements.update([(vip, true)], now);
                now += second;
            }
            (now - began - second).as_secs()
        };
        let waits: Vec<u64> = (0..8).map(|_| wait(second)).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 160, 160]);
        assert_eq!(wait(HOLD_MAX * SERIES), 5);
    }

    #[test]
    fn what_is_no_vip_any_more_is_forgotten() {
        let vips = ["10.0.0.1/32", "10.0.0.2/32"].map(|vip| vip.parse::<IpNet>().unwrap());
        let mut announcements = Announcements::default();
        announcements.update(vips.map(|vip| (vip, true)), Duration::ZERO);
        announcements.update([(vips[0], false)], Duration::from_secs(1));
        assert_eq!(announcements.announced(), BTreeSet::new());
        announcements.update(vips.map(|vip| (vip, true)), Duration::from_secs(2));
        assert_eq!(announcements.announced(), BTreeSet::from([vips[1]]));
    }
}
