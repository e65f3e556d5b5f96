//! Which addresses lbagent is told because packets to them were not delivered. PURE: what the kernel has seen and the
//! time in, addresses out.
//!
//! The ruleset remembers the destination of each tunnel packet that an ICMP error reports as undeliverable
//! (`undelivered4` and `undelivered6` in `nft/synrail.nft`), for [`UNDELIVERED`](crate::plan::ruleset::UNDELIVERED) after
//! the last such error. When lbagent gives its sign of life, once a second, lbd looks, and answers with those of which
//! an error has come since. lbagent then checks these backends early
//! ([`Checks::undelivered`](super::health::Checks::undelivered)). Anyone can forge such an error, so it has no other
//! effect. An address that is not told costs an early check, and nothing else.

use std::{net::IpAddr, time::Duration};

/// How many addresses are told at once: the answer stays short, and not all checks begin together. If there are more,
/// others have their turn the next time.
pub const TOLD_MAX: usize = 500;
/// The kernel counts in ticks of up to 10 ms, and a look takes time. What is told twice has no further effect.
const SLACK: Duration = Duration::from_millis(50);

/// What was told.
#[derive(Debug, Default)]
pub struct Undelivered {
    /// Until when all errors were told.
    looked: Option<Duration>,
    /// The last address that was told, if others had to wait.
    last: Option<IpAddr>,
}

impl Undelivered {
    /// Returns those of the addresses that are new at `now`, which is since one fixed moment. With each address comes how
    /// long ago its last error was.
    pub fn news(&mut self, seen: &[(IpAddr, Duration)], now: Duration) -> Vec<IpAddr> {
        let since = self.looked.map_or(Duration::MAX, |looked| now.saturating_sub(looked) + SLACK);
        let mut new: Vec<IpAddr> =
            seen.iter().filter(|(_, ago)| *ago <= since).map(|(address, _)| *address).collect();
        new.sort();
        let turn = new.partition_point(|address| Some(*address) <= self.last);
        new.rotate_left(turn);
        let some_wait = new.len() > TOLD_MAX;
        new.truncate(TOLD_MAX);
        self.last = new.last().copied().filter(|_| some_wait);
        if !some_wait {
            self.looked = Some(now);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn address(n: u32) -> IpAddr {
        IpAddr::V4((0xc0a8_0000 + n).into())
    }

    #[test]
    fn an_address_is_new_when_an_error_has_come_since_the_last_look() {
        let mut undelivered = Undelivered::default();
        let [one, two] = [address(1), "fd00::2".parse().unwrap()];
        assert_eq!(
            undelivered.news(&[(two, 9000 * MS), (one, 20 * MS)], 5000 * MS),
            [one, two],
            "the first look"
        );
        assert!(undelivered.news(&[(one, 1120 * MS)], 6000 * MS).is_empty());
        assert_eq!(undelivered.news(&[(one, 1500 * MS), (two, 900 * MS)], 7000 * MS), [two]);
        assert_eq!(undelivered.news(&[(one, 3900 * MS)], 11_000 * MS), [one], "a late look");
        assert!(undelivered.news(&[], 12_000 * MS).is_empty());
    }

    #[test]
    fn of_very_many_all_have_their_turn() {
        let mut undelivered = Undelivered::default();
        let all = |ago| (0..4096).map(|n| (address(n), ago)).collect::<Vec<_>>();
        let mut told = BTreeSet::new();
        assert!(undelivered.news(&[], 1000 * MS).is_empty());
        // One error about each of them, between the first look and the second.
        for look in 1..=9 {
            let some = undelivered.news(&all((look * 1000 - 500) * MS), (1000 + look * 1000) * MS);
            assert_eq!(some.len(), TOLD_MAX);
            told.extend(some);
        }
        assert_eq!(told.len(), 4096);
        assert_eq!(undelivered.news(&all(MS)[7..9], 11_000 * MS), [address(7), address(8)]);
        assert!(undelivered.news(&all(1100 * MS)[7..9], 12_000 * MS).is_empty());
    }
}
