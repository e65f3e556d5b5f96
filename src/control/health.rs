//! Which backend is checked when, and what the results come to. PURE: a state, results and the time in, jobs and
//! observations out.
//!
//! A [`Checks`] has one check for each thing that can be probed: services that share a backend's address, a VIP
//! and the way of checking share the check. It goes on from what the region knows: a backend that was down stays
//! down until `rise` checks have succeeded, also when the program that checks was started again. One of which
//! nothing is known is up or down with its first result that counts, and gets new flows until then.
//!
//! Nothing is sent as a difference that could be lost: [`Checks::observations`] compares what is known here with
//! what the region has, and returns what the region must learn, as often as it is asked.

mod early;

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    model::{
        Health, HealthCheck, Name, Observed, OuterAddresses, Path, Probe, Remark, Via,
        ids::{Mark, TargetId},
    },
    state::{Observation, Service, State},
};

/// How many checks run at once; further ones wait until one has ended.
pub const RUNNING_MAX: usize = 512;

/// What makes two checks the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    target: TargetId,
    path: Path,
    check: HealthCheck,
    to: Vec<SocketAddr>,
}

/// The number of a check, for as long as it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CheckId(u64);

/// What is to be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// For [`Checks::finished`].
    pub id: CheckId,
    /// What is sent.
    pub probe: Probe,
    /// Where to: every one must answer. Ports are 0 where there is none.
    pub to: Vec<SocketAddr>,
    /// The mark that leads it through the backend's tunnel; `None` to send it as any other packet.
    pub mark: Option<Mark>,
    /// The addresses that it is sent from, where there is one of the family.
    pub from: OuterAddresses,
    /// How long all of it may take.
    pub timeout: Duration,
    /// A service of the backend, and the backend.
    pub names: (Name, Name),
}

/// What came of a probe, and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend is well.
    Succeeded(Remark),
    /// It is not.
    Failed(Remark),
    /// It was not asked, for a reason on this host. So nothing is known of it that was not known before.
    NotMade(Remark),
}

impl Outcome {
    /// Returns what was found, or why nothing was.
    #[must_use]
    pub fn reason(&self) -> &Remark {
        match self {
            Self::Succeeded(reason) | Self::Failed(reason) | Self::NotMade(reason) => reason,
        }
    }
}

/// A backend has gone up or down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Every service that has it, and its name there.
    pub names: Vec<(Name, Name)>,
    /// What it was; `None` if that was not known.
    pub from: Option<Health>,
    /// What it is now.
    pub observed: Observed,
    /// How long the check took that decided it.
    pub took: Duration,
}

/// The last result of a check, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Last {
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// A check and what it knows.
#[derive(Debug)]
struct Check {
    identity: Identity,
    mark: Option<Mark>,
    names: Vec<(Name, Name)>,
    /// `None` until a result counts.
    known: Option<Observed>,
    /// How many results in a row speak against `known`.
    against: u8,
    /// When it was added.
    added: Duration,
    /// When it begins next, or when the one that runs began.
    at: Duration,
    running: bool,
    /// When it last began earlier than by its interval.
    early: Option<Duration>,
    last: Option<Last>,
}

/// A check for people: the backends that it is about, the kind of its probe, and its last result.
pub type CheckView<'a> = (&'a [(Name, Name)], &'static str, Option<&'a Last>);

/// All checks. Times are since one fixed moment, and never go back.
#[derive(Debug)]
pub struct Checks {
    checks: HashMap<CheckId, Check>,
    ids: HashMap<Identity, CheckId>,
    /// Those that do not run, by the time when they begin next.
    waiting: BTreeSet<(Duration, CheckId)>,
    from: OuterAddresses,
    next_id: u64,
    random: u64,
    running: usize,
}

impl Checks {
    /// Without checks. `seed` differs between balancers, so that their checks do not come at once.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            checks: HashMap::new(),
            ids: HashMap::new(),
            waiting: BTreeSet::new(),
            from: OuterAddresses::default(),
            next_id: 0,
            random: seed,
            running: 0,
        }
    }

    /// Goes on with the checks of this state. Those that it does not have end; what they find is dropped.
    pub fn update(&mut self, state: &State, now: Duration) {
        self.from = state.balancer.address;
        self.checks.values_mut().for_each(|check| check.names.clear());
        for service in &state.services {
            let Some(health) = &service.health else { continue };
            for backend in &service.backends {
                let Some(path) = state.path(backend.target) else { continue };
                let to = destinations(service, health, path);
                if to.is_empty() {
                    continue;
                }
                // The agent on the backend is asked by others (`agent_reports`).
                let own = HealthCheck { agent: None, ..health.clone() };
                let identity = Identity { target: backend.target, path, check: own, to };
                let name = (service.name.clone(), backend.name.clone());
                if let Some(check) = self.ids.get(&identity).and_then(|id| self.checks.get_mut(id)) {
                    check.names.push(name);
                    continue;
                }
                // What is known can wait for its turn.
                let wait = if backend.observed.is_some() { self.below(health.interval_ms) } else { 0 };
                let mark = (health.via == Via::Tunnel).then(|| state.balancer.mark_mask.mark(backend.target));
                let check = Check {
                    identity,
                    mark,
                    names: vec![name],
                    known: backend.observed.clone(),
                    against: 0,
                    added: now,
                    at: now + Duration::from_millis(wait),
                    running: false,
                    early: None,
                    last: None,
                };
                self.add(check);
            }
        }
        let Self { checks, ids, waiting, running, .. } = self;
        checks.retain(|id, check| {
            let stays = !check.names.is_empty();
            if !stays {
                ids.remove(&check.identity);
                waiting.remove(&(check.at, *id));
                *running -= usize::from(check.running);
            }
            stays
        });
    }

    fn add(&mut self, check: Check) {
        let id = CheckId(self.next_id);
        self.next_id += 1;
        self.ids.insert(check.identity.clone(), id);
        self.waiting.insert((check.at, id));
        self.checks.insert(id, check);
    }

    /// Returns a check that is due, and counts it as running; the one that waits longest comes first.
    pub fn next(&mut self, now: Duration) -> Option<Job> {
        let &(at, id) = self.waiting.first().filter(|(at, _)| *at <= now && self.running < RUNNING_MAX)?;
        self.waiting.remove(&(at, id));
        let check = self.checks.get_mut(&id)?;
        (check.running, check.at) = (true, now);
        self.running += 1;
        let Identity { check: HealthCheck { probe, timeout_ms, .. }, to, .. } = &check.identity;
        Some(Job {
            id,
            probe: probe.clone(),
            to: to.clone(),
            mark: check.mark,
            from: self.from,
            timeout: Duration::from_millis((*timeout_ms).into()),
            names: check.names.first()?.clone(),
        })
    }

    /// Returns how long nothing is due; `None` until something changes.
    #[must_use]
    pub fn timeout(&self, now: Duration) -> Option<Duration> {
        let (at, _) = self.waiting.first().filter(|_| self.running < RUNNING_MAX)?;
        Some(at.saturating_sub(now))
    }

    /// Takes a result. `time` is the calendar's. Returns what it changes.
    pub fn finished(
        &mut self,
        id: CheckId,
        outcome: Outcome,
        now: Duration,
        time: Timestamp,
    ) -> Option<Transition> {
        let check = self.checks.get_mut(&id).filter(|check| check.running)?;
        let HealthCheck { rise, fall, interval_ms, jitter_percent, grace_ms, .. } = check.identity.check;
        let wait = jittered(interval_ms, jitter_percent, &mut self.random);
        check.running = false;
        self.running -= 1;
        let began = check.at;
        check.at = (began + wait).max(now);
        self.waiting.insert((check.at, id));
        let took = now.saturating_sub(began);
        check.last = Some(Last { outcome: outcome.clone(), took });
        let (found, reason) = match outcome {
            Outcome::Succeeded(reason) => (Health::Up, reason),
            Outcome::Failed(reason) => (Health::Down, reason),
            Outcome::NotMade(_) => return None,
        };
        let known = check.known.as_ref().map(|known| known.health);
        if known == Some(found) {
            check.against = 0;
            return None;
        }
        let early = now.saturating_sub(check.added) < Duration::from_millis(grace_ms.into());
        let needed = match (known, found) {
            (None, Health::Up) => 1,
            (None, Health::Down) if early => return None,
            (_, Health::Up) => rise,
            (_, Health::Down) => fall,
        };
        check.against = check.against.saturating_add(1);
        if check.against < needed {
            return None;
        }
        check.against = 0;
        let observed = Observed { health: found, since: time, reason };
        check.known = Some(observed.clone());
        Some(Transition { names: check.names.clone(), from: known, observed, took })
    }

    /// Returns what is known here and the state does not have.
    #[must_use]
    pub fn observations(&self, state: &State) -> Vec<Observation> {
        let mut observations = Vec::new();
        for check in self.checks.values() {
            let Some(known) = &check.known else { continue };
            for (service, backend) in &check.names {
                let has = state
                    .service(service.as_str())
                    .and_then(|service| service.backends.iter().find(|one| one.name == *backend));
                if has.is_some_and(|has| has.observed.as_ref().map(|has| has.health) != Some(known.health)) {
                    observations.push(Observation {
                        service: service.clone(),
                        backend: backend.clone(),
                        observed: known.clone(),
                    });
                }
            }
        }
        observations.sort_by(|a, b| (&a.service, &a.backend).cmp(&(&b.service, &b.backend)));
        observations
    }

    /// Returns how many checks could not be made the last time, and why one of them.
    #[must_use]
    pub fn not_made(&self) -> (usize, Option<&Remark>) {
        let last = self.checks.values().filter_map(|check| check.last.as_ref());
        let reasons = last.filter_map(|last| match &last.outcome {
            Outcome::NotMade(reason) => Some(reason),
            Outcome::Succeeded(_) | Outcome::Failed(_) => None,
        });
        reasons.fold((0, None), |(count, first), reason| (count + 1, first.or(Some(reason))))
    }

    /// Returns every check.
    pub fn iter(&self) -> impl Iterator<Item = CheckView<'_>> {
        self.checks
            .values()
            .map(|check| (&check.names[..], check.identity.check.probe.kind(), check.last.as_ref()))
    }

    /// Returns a number below `limit`, which is not 0.
    fn below(&mut self, limit: u32) -> u64 {
        splitmix(&mut self.random) % u64::from(limit.max(1))
    }
}

/// Returns where a backend of this service is probed: by tunnel at one VIP of each family, else at its own address.
fn destinations(service: &Service, health: &HealthCheck, path: Path) -> Vec<SocketAddr> {
    let of_service = || service.ports.first().map(|range| range.first);
    let port = if health.probe == Probe::Icmp { None } else { health.port.or_else(of_service) }.unwrap_or(0);
    let at = |address: IpAddr| SocketAddr::new(address, port);
    match (health.via, path) {
        (Via::Tunnel, _) => {
            let first = |is_ipv4: bool| {
                let mut vips = service.vips.iter().map(|vip| vip.addr());
                vips.find(|vip| vip.is_ipv4() == is_ipv4)
            };
            [first(true), first(false)].into_iter().flatten().map(at).collect()
        }
        (Via::Direct, Path::Via(_, address)) => vec![at(address)],
        (Via::Direct, Path::MarkOnly) => Vec::new(),
    }
}

/// Returns an interval that is shorter or longer by up to so many percent.
pub(super) fn jittered(interval_ms: u32, percent: u8, random: &mut u64) -> Duration {
    let jitter = u64::from(interval_ms) * u64::from(percent) / 100;
    Duration::from_millis(u64::from(interval_ms) - jitter + splitmix(random) % (2 * jitter + 1))
}

/// Returns the next number of a sequence that looks random (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", 2014).
pub(super) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const MS: Duration = Duration::from_millis(1);

    pub(super) fn state(health: &str) -> State {
        let text = format!(
            "
            balancer = {{ name = 'lb1', address = ['192.168.1.201', 'fd00::201'], interfaces = ['eth0'] }}
            [[service]]
            name = 'web'
            vips = ['10.0.0.0/24', '10.0.1.1', '1000::1']
            protocols = 'tcp'
            ports = 80
            table_size = 97
            health = {{ {health} }}
            backend = [ {{ name = 's1', address = '192.168.1.1' }}, {{ name = 's2', address = '192.168.1.2' }} ]
            [[service]]
            name = 'tls'
            vips = '10.0.0.0/24'
            protocols = 'tcp'
            ports = 443
            table_size = 97
            health = {{ {health} }}
            backend = [ {{ name = 'a', address = '192.168.1.1' }} ]"
        );
        State::new(&Config::parse("test", &text).unwrap()).unwrap()
    }

    /// Every backend's checks are answered by `answers`, which is asked for `(service, backend)`.
    struct World {
        checks: Checks,
        state: State,
        now: Duration,
        transitions: Vec<(Duration, String, Health)>,
        probes: usize,
    }

    impl World {
        fn new(health: &str) -> Self {
            let mut world = Self {
                checks: Checks::new(7),
                state: state(health),
                now: Duration::ZERO,
                transitions: Vec::new(),
                probes: 0,
            };
            world.checks.update(&world.state, world.now);
            world
        }

        /// Goes on until `until`; a probe takes `took`.
        fn run(&mut self, until: Duration, took: Duration, answers: impl Fn(&str) -> bool) {
            while self.now < until {
                let mut ran = Vec::new();
                while let Some(job) = self.checks.next(self.now) {
                    ran.push(job);
                }
                self.probes += ran.len();
                self.now += took;
                for job in ran {
                    let name = format!("{}/{}", job.names.0, job.names.1);
                    let reason = Remark::new(&name).unwrap();
                    let outcome =
                        if answers(&name) { Outcome::Succeeded(reason) } else { Outcome::Failed(reason) };
                    let change = self.checks.finished(job.id, outcome, self.now, Timestamp::UNIX_EPOCH);
                    if let Some(Transition { names, observed, .. }) = change {
                        let name = format!("{}/{}", names[0].0, names[0].1);
                        self.transitions.push((self.now, name, observed.health));
                    }
                }
                self.state = self.state.observe(&self.checks.observations(&self.state));
                self.checks.update(&self.state, self.now);
                self.now += self.checks.timeout(self.now).unwrap_or(MS).max(MS);
            }
        }

        fn taken(&mut self) -> Vec<(String, Health)> {
            std::mem::take(&mut self.transitions)
                .into_iter()
                .map(|(_, name, health)| (name, health))
                .collect()
        }
    }

    #[test]
    fn a_backend_goes_down_after_fall_failures_and_up_after_rise_successes() {
        let mut world =
            World::new("kind = 'tcp', interval_ms = 1000, fall = 3, rise = 2, jitter_percent = 0");
        world.run(500 * MS, MS, |_| true);
        assert_eq!(world.taken().len(), 3, "all are known at once");
        let began = world.now;
        world.run(began + 10_000 * MS, MS, |name| name != "web/s2");
        let (at, name, health) = world.transitions.remove(0);
        assert_eq!((name.as_str(), health, world.transitions.len()), ("web/s2", Health::Down, 0));
        assert!(at - began <= 3 * 1000 * MS + 10 * MS, "interval x fall: {at:?}");
        assert_eq!(world.state.services[0].active().count(), 1);
        let began = world.now;
        world.run(began + 10_000 * MS, MS, |_| true);
        let (at, name, health) = world.transitions.remove(0);
        assert_eq!((name.as_str(), health), ("web/s2", Health::Up));
        assert!(at - began <= 2 * 1000 * MS + 10 * MS, "{at:?}");
    }

    #[test]
    fn a_result_that_agrees_begins_the_count_anew() {
        let mut world = World::new("kind = 'tcp', interval_ms = 1000, fall = 2, jitter_percent = 0");
        world.run(500 * MS, MS, |_| true);
        world.taken();
        for _ in 0..5 {
            let now = world.now;
            world.run(now + 1000 * MS, MS, |_| false);
            let now = world.now;
            world.run(now + 1000 * MS, MS, |_| true);
        }
        assert_eq!(world.taken(), []);
    }

    #[test]
    fn what_the_region_knows_is_where_checks_begin() {
        let mut world = World::new("kind = 'tcp', interval_ms = 1000, rise = 3, jitter_percent = 0");
        world.run(5000 * MS, MS, |name| name == "web/s1");
        assert_eq!(world.state.services[0].active().count(), 1);
        // As after a new start.
        world.checks = Checks::new(9);
        world.checks.update(&world.state, world.now);
        world.taken();
        assert_eq!(world.checks.observations(&world.state), []);
        let began = world.now;
        world.run(began + 1500 * MS, MS, |_| true);
        assert_eq!(world.taken(), [], "one or two successes are less than three");
        let now = world.now;
        world.run(now + 3000 * MS, MS, |_| true);
        assert_eq!(world.taken().len(), 2);
    }

    #[test]
    fn failures_in_the_grace_time_of_a_new_backend_do_not_count() {
        let mut world =
            World::new("kind = 'tcp', interval_ms = 1000, fall = 1, grace_ms = 5000, jitter_percent = 0");
        world.run(4900 * MS, MS, |_| false);
        assert_eq!(world.taken(), []);
        world.run(6500 * MS, MS, |_| false);
        assert_eq!(world.taken().len(), 3);
    }

    #[test]
    fn checks_that_cannot_be_made_change_nothing() {
        let mut world = World::new("kind = 'tcp', interval_ms = 1000, fall = 2, jitter_percent = 0");
        let mut finish = |outcome: fn(Remark) -> Outcome, now: u32| {
            let jobs: Vec<_> = std::iter::from_fn(|| world.checks.next(now * MS)).collect();
            assert_eq!(jobs.len(), 3);
            let finished = jobs.into_iter().filter_map(|job| {
                let outcome = outcome(Remark::new("a reason").unwrap());
                world.checks.finished(job.id, outcome, now * MS, Timestamp::UNIX_EPOCH)
            });
            (finished.count(), world.checks.not_made().0)
        };
        assert_eq!(finish(Outcome::NotMade, 0), (0, 3), "nothing is known, and stays so");
        assert_eq!(finish(Outcome::Succeeded, 1000), (3, 0));
        assert_eq!(finish(Outcome::Failed, 2000), (0, 0));
        assert_eq!(finish(Outcome::NotMade, 3000), (0, 3), "one of two failures");
        assert_eq!(finish(Outcome::Failed, 4000), (3, 0), "the second");
    }

    #[test]
    fn checks_come_in_intervals_with_jitter_and_not_twice_at_once() {
        let mut world = World::new("kind = 'tcp', interval_ms = 1000, jitter_percent = 20");
        world.run(100_000 * MS, MS, |_| true);
        assert!((280..=320).contains(&world.probes), "{}", world.probes);
        let mut slow = World::new("kind = 'tcp', interval_ms = 100, timeout_ms = 100, jitter_percent = 0");
        slow.run(10_000 * MS, 250 * MS, |_| true);
        assert!((100..=126).contains(&slow.probes), "one after the other: {}", slow.probes);
    }

    #[test]
    fn services_that_share_a_host_share_a_direct_check_of_one_port() {
        let shared = World::new("kind = 'tcp', via = 'direct', port = 8080");
        assert_eq!(shared.checks.iter().count(), 2);
        let names: Vec<usize> = shared.checks.iter().map(|(names, _, _)| names.len()).collect();
        assert_eq!(names.iter().sum::<usize>(), 3);
        let mut own = World::new("kind = 'tcp'");
        assert_eq!(own.checks.iter().count(), 3);
        let jobs: Vec<Job> = std::iter::from_fn(|| own.checks.next(Duration::ZERO)).collect();
        let of_s1 = jobs.iter().find(|job| job.names.1.as_str() == "s1").unwrap();
        let to: Vec<String> = of_s1.to.iter().map(ToString::to_string).collect();
        assert_eq!(to, ["10.0.0.0:80", "[1000::1]:80"], "one VIP of each family");
        let mask = own.state.balancer.mark_mask;
        assert_eq!(of_s1.mark, Some(mask.mark(own.state.services[0].backends[0].target)));
    }

    #[test]
    fn a_result_of_a_check_that_ended_changes_nothing() {
        let mut world = World::new("kind = 'tcp', fall = 1");
        let job = world.checks.next(Duration::ZERO).unwrap();
        let other = state("kind = 'tcp', port = 81");
        world.checks.update(&other, MS);
        let failed = || Outcome::Failed(Remark::new("late").unwrap());
        assert_eq!(world.checks.finished(job.id, failed(), MS, Timestamp::UNIX_EPOCH), None);
        assert_eq!(world.checks.observations(&other), []);
        let jobs = std::iter::from_fn(|| world.checks.next(MS)).count();
        assert_eq!(jobs, 3);
    }

    #[test]
    fn not_more_than_the_limit_run_at_once() {
        let backends: Vec<String> = (0..RUNNING_MAX + 9)
            .map(|n| format!("{{ name = 'b{n}', address = '192.168.{}.{}' }}", 2 + n / 200, 1 + n % 200))
            .collect();
        let text = format!(
            "
            balancer = {{ name = 'lb1', address = '192.168.1.201', interfaces = ['eth0'] }}
            service = [ {{ name = 'web', vips = '10.0.0.1', protocols = 'tcp', ports = 80, table_size = 1009,
                health = {{ kind = 'tcp' }}, backend = [ {} ] }} ]",
            backends.join(", ")
        );
        let state = State::new(&Config::parse("test", &text).unwrap()).unwrap();
        let mut checks = Checks::new(1);
        checks.update(&state, Duration::ZERO);
        let jobs: Vec<Job> = std::iter::from_fn(|| checks.next(Duration::ZERO)).collect();
        assert_eq!((jobs.len(), checks.timeout(MS)), (RUNNING_MAX, None));
        let ok = Outcome::Succeeded(Remark::new("ok").unwrap());
        checks.finished(jobs[0].id, ok, MS, Timestamp::UNIX_EPOCH);
        assert!(checks.next(MS).is_some());
        assert!(checks.next(MS).is_none());
    }
}
