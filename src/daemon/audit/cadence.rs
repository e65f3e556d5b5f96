//! When the next audit of pins is due, and which entries it examines. PURE.
//!
//! It examines all entries after a change of the tables, and again when the handshakes of that time are over. It also does so
//! from time to time, since retransmitted SYNs prolong a handshake. Otherwise it examines kept flows only. The longer
//! audits take, the less often they come.

use std::time::Duration;

/// How often kept flows are examined.
const EVERY: Duration = Duration::from_secs(2);
/// How often all entries are examined.
const ALL_EVERY: Duration = Duration::from_secs(30);
/// When handshakes of before a change are over: an element of `pending` expires after 10 s.
const HANDSHAKES_OVER: Duration = Duration::from_secs(12);
/// The pause after an audit is this many times the CPU time that it took ...
const SHARE: u32 = 50;
/// ... and not longer than this.
const EVERY_MAX: Duration = Duration::from_secs(10);

/// Which entries an audit examines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Scope {
    /// All entries, and `pending`.
    All,
    /// Entries of kept flows.
    Kept,
}

/// When audits are due.
pub(super) struct Cadence {
    /// The next audit.
    next: Duration,
    /// The next audit of all entries ...
    all: Duration,
    /// ... and an additional one.
    handshakes_over: Option<Duration>,
    all_every: Duration,
}

impl Cadence {
    /// The first audit is due at once.
    pub(super) fn new(udp_seconds: u32) -> Self {
        Self {
            next: Duration::ZERO,
            all: Duration::ZERO,
            handshakes_over: None,
            all_every: all_every(udp_seconds),
        }
    }

    /// The tables have changed: the next audit is due now.
    pub(super) fn changed(&mut self, now: Duration, udp_seconds: u32) {
        (self.next, self.all) = (now, now);
        self.handshakes_over = Some(now + HANDSHAKES_OVER);
        self.all_every = all_every(udp_seconds);
    }

    /// Returns how long no audit is due.
    pub(super) fn wait(&self, now: Duration) -> Duration {
        self.next.min(self.handshakes_over.unwrap_or(self.next)).saturating_sub(now)
    }

    /// Returns which audit is due, if one is.
    pub(super) fn due(&self, now: Duration) -> Option<Scope> {
        let over = self.handshakes_over.is_some_and(|over| over <= now);
        if over || (self.next <= now && self.all <= now) {
            return Some(Scope::All);
        }
        (self.next <= now).then_some(Scope::Kept)
    }

    /// An audit began and ended at these times, and took this much CPU time. If it failed, an audit of all entries is still due.
    pub(super) fn done(&mut self, begun: Duration, ended: Duration, cpu: Duration, ok: bool) {
        if self.due(begun) == Some(Scope::All) {
            self.handshakes_over = self.handshakes_over.filter(|over| *over > begun);
            self.all = if ok { ended + self.all_every } else { begun };
        }
        self.next = ended + (SHARE * cpu).clamp(EVERY, EVERY_MAX);
    }
}

/// A UDP flow in fragments is renewed by audits of all entries.
fn all_every(udp_seconds: u32) -> Duration {
    ALL_EVERY.min(Duration::from_secs(u64::from(udp_seconds)) / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);

    /// What is audited and when, until then, if each takes so long.
    fn audits(cadence: &mut Cadence, from: Duration, until: Duration, takes: Duration) -> Vec<(u64, Scope)> {
        let (mut now, mut audits) = (from, Vec::new());
        loop {
            now += cadence.wait(now);
            if now >= until {
                return audits;
            }
            let scope = cadence.due(now).unwrap();
            audits.push((now.as_secs(), scope));
            cadence.done(now, now + takes, takes, true);
            now += takes;
        }
    }

    fn of_all(audits: &[(u64, Scope)]) -> Vec<u64> {
        audits.iter().filter(|(_, scope)| *scope == Scope::All).map(|(at, _)| *at).collect()
    }

    #[test]
    fn all_entries_are_looked_at_after_a_change_and_when_handshakes_are_over() {
        let mut cadence = Cadence::new(120);
        let first = audits(&mut cadence, Duration::ZERO, 20 * S, MS);
        assert_eq!((first.len(), of_all(&first)), (10, vec![0]));
        cadence.changed(20 * S, 120);
        let then = audits(&mut cadence, 20 * S, 80 * S, MS);
        assert_eq!(of_all(&then)[..2], [20, 32]);
        assert!((62..65).contains(&of_all(&then)[2]), "{then:?}");
        cadence.changed(80 * S, 20);
        assert!(of_all(&audits(&mut cadence, 80 * S, 110 * S, MS)).len() >= 5, "UDP lasts for 20 s");
    }

    #[test]
    fn an_audit_of_all_entries_that_failed_is_still_due() {
        let mut cadence = Cadence::new(120);
        cadence.changed(20 * S, 120);
        for at in [20 * S, 32 * S] {
            let mut now = at;
            for _ in 0..3 {
                assert_eq!(cadence.due(now), Some(Scope::All), "{now:?}");
                cadence.done(now, now, MS, false);
                assert_eq!(cadence.wait(now), EVERY, "a failed one is not tried again at once");
                now += EVERY;
            }
            assert_eq!(cadence.due(now), Some(Scope::All));
            cadence.done(now, now, MS, true);
            assert_eq!(cadence.due(now + EVERY), Some(Scope::Kept));
        }
    }

    #[test]
    fn what_takes_long_comes_less_often_but_for_what_a_change_needs() {
        let mut cadence = Cadence::new(120);
        let slow = audits(&mut cadence, Duration::ZERO, 100 * S, S);
        assert_eq!(slow.len(), 10);
        cadence.changed(100 * S, 120);
        assert_eq!(of_all(&audits(&mut cadence, 100 * S, 130 * S, S)), [100, 112]);
    }
}
