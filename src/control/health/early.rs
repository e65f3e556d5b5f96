//! Checks that begin early, since a packet to the backend was reported as undeliverable. The report may be forged, so
//! its whole effect is one check: what that finds counts as any other result. A check begins early at most once in an
//! interval, so a flood of reports at most doubles the checks.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use super::Checks;
use crate::model::{Health, Name, Path};

impl Checks {
    /// Makes the checks of backends with these addresses due at `now`. Not those that run, nor those of backends that are
    /// known to be down, nor those that have begun early within the last interval. Returns a service and a backend for each
    /// check that is early.
    pub fn undelivered(&mut self, addresses: &[IpAddr], now: Duration) -> Vec<(Name, Name)> {
        let addresses: HashSet<IpAddr> = addresses.iter().copied().collect();
        let mut early = Vec::new();
        for (id, check) in &mut self.checks {
            let Path::Via(_, address) = check.identity.path else { continue };
            let interval = Duration::from_millis(check.identity.check.interval_ms.into());
            let is_down = check.known.as_ref().is_some_and(|known| known.health == Health::Down);
            let again = check.early.is_some_and(|last| now < last + interval);
            let passed = is_down || again || check.running || check.at <= now;
            if passed || !addresses.contains(&address) {
                continue;
            }
            self.waiting.remove(&(check.at, *id));
            self.waiting.insert((now, *id));
            (check.at, check.early) = (now, Some(now));
            early.extend(check.names.first().cloned());
        }
        early.sort();
        early
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{
        super::{CheckId, Outcome, tests::state},
        *,
    };
    use crate::model::Remark;

    const MS: Duration = Duration::from_millis(1);
    const CHECK: &str = "kind = 'tcp', interval_ms = 20000, timeout_ms = 1000, fall = 2, jitter_percent = 0";

    fn address(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    /// The checks of three backends, all of which were found up at 0.
    fn checks() -> Checks {
        let mut checks = Checks::new(7);
        checks.update(&state(CHECK), Duration::ZERO);
        assert_eq!(run(&mut checks, Duration::ZERO, true).len(), 3);
        checks
    }

    /// Begins and ends all checks that are due. Returns the backends whose health is another one now.
    fn run(checks: &mut Checks, now: Duration, succeed: bool) -> Vec<(String, Health)> {
        let ids: Vec<CheckId> = std::iter::from_fn(|| checks.next(now)).map(|job| job.id).collect();
        let reason = Remark::new("a reason").unwrap();
        let outcome = if succeed { Outcome::Succeeded(reason) } else { Outcome::Failed(reason) };
        let finished =
            ids.into_iter().filter_map(|id| checks.finished(id, outcome.clone(), now, Timestamp::UNIX_EPOCH));
        finished.map(|change| (change.names[0].1.to_string(), change.observed.health)).collect()
    }

    fn names(early: Vec<(Name, Name)>) -> Vec<String> {
        early.into_iter().map(|(service, backend)| format!("{service}/{backend}")).collect()
    }

    #[test]
    fn the_checks_of_a_backend_that_was_not_reached_are_due_at_once() {
        let mut checks = checks();
        let early = checks.undelivered(&[address("192.168.1.1"), address("192.168.1.77")], 3000 * MS);
        assert_eq!(names(early), ["tls/a", "web/s1"], "each service's own check; nobody has .77");
        let jobs: Vec<String> =
            std::iter::from_fn(|| checks.next(3000 * MS)).map(|job| job.names.1.to_string()).collect();
        assert_eq!(jobs.len(), 2);
        assert_eq!(checks.undelivered(&[address("192.168.1.1")], 3500 * MS), [], "they run");
        assert_eq!(checks.timeout(3500 * MS), Some(16_500 * MS), "that of web/s2 as before");
    }

    #[test]
    fn what_an_early_check_finds_counts_as_any_result() {
        let mut checks = checks();
        let one = [address("192.168.1.2")];
        assert_eq!(checks.undelivered(&one, 3000 * MS).len(), 1);
        assert_eq!(run(&mut checks, 3000 * MS, false), [], "one of two failures");
        assert_eq!(checks.undelivered(&one, 4000 * MS), [], "once in an interval");
        assert_eq!(run(&mut checks, 22_999 * MS, true), [], "those of the others");
        assert_eq!(run(&mut checks, 23_000 * MS, false), [("s2".to_owned(), Health::Down)]);
        assert_eq!(checks.undelivered(&one, 30_000 * MS), [], "it is down already");
        assert_eq!(run(&mut checks, 43_000 * MS, true), []);
        assert_eq!(run(&mut checks, 63_000 * MS, true), [("s2".to_owned(), Health::Up)]);
        assert_eq!(checks.undelivered(&one, 64_000 * MS).len(), 1);
    }

    #[test]
    fn a_flood_of_forged_errors_at_most_doubles_the_checks_and_takes_nothing_out() {
        let all = [address("192.168.1.1"), address("192.168.1.2")];
        let checks_in_an_hour = |forge: fn(bool) -> bool| {
            let mut checks = checks();
            let mut count = 0;
            for second in 1..=3600_u32 {
                let now = second * 1000 * MS;
                let ids: Vec<CheckId> = std::iter::from_fn(|| checks.next(now)).map(|job| job.id).collect();
                count += ids.len();
                for id in &ids {
                    let up = Outcome::Succeeded(Remark::new("connected").unwrap());
                    assert_eq!(checks.finished(*id, up, now, Timestamp::UNIX_EPOCH), None);
                }
                if forge(!ids.is_empty()) {
                    checks.undelivered(&all, now);
                }
            }
            count
        };
        assert_eq!(checks_in_an_hour(|_| false), 3 * 180);
        // Each second, checks are early about when they are due. Just behind each check, there are most.
        let (each_second, behind_each) = (checks_in_an_hour(|_| true), checks_in_an_hour(|ran| ran));
        assert!((3 * 170..=3 * 360).contains(&each_second), "{each_second}");
        assert!((3 * 300..=3 * 360).contains(&behind_each), "{behind_each}");
    }
}
