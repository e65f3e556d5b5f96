//! The event loop: follows the region, starts what is due, takes results, and tells lbd.

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    net::IpAddr,
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::Path,
    process,
    time::Duration,
};

use nix::{
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
    unistd::{Pid, getppid},
};
use synrail::{
    config::HttpSettings,
    control::{
        agent_reports::{AgentId, Agents, Answer, Turn},
        health::{CheckId, Checks, Outcome, RUNNING_MAX, Transition},
        notices,
    },
    model::{Health, Name, Override, Reported, ids::Generation},
    ops::Request,
    shm::slots,
    state::State,
    sys::{
        clock,
        region::{AccessError, Region, RegionName},
    },
};
use tokio::{
    net::unix::pipe,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{error, info, warn};

use crate::{
    http::{Opened, listen::Serving},
    lbd::{FOUND_MAX, Link},
    notice::{EarlyChecks, Notice},
    notify::Notifier,
    probe::{self, Host},
};

/// How long results are collected before lbd is told: each request makes a new generation.
const COLLECT: Duration = Duration::from_millis(100);
/// After how long lbd is told again what the region does not have.
const AGAIN: Duration = Duration::from_secs(2);
/// How often lbd is told that the agent runs, and the region is looked at if it cannot be watched.
const BEAT: Duration = Duration::from_secs(1);
/// One that ran so long may end for a new start: then what made it end is not the start.
const WELL: Duration = Duration::from_secs(5);

/// A region, opened again when it was made anew.
pub struct Follower {
    name: RegionName,
    region: Option<Region>,
    watch: Option<Watch>,
    generation: Option<Generation>,
    notice: Notice,
}

impl Follower {
    /// Opens the region, if it is there.
    #[must_use]
    pub fn new(name: RegionName) -> Self {
        let region = Region::open_to_read(&name).ok();
        Self { name, region, watch: None, generation: None, notice: Notice::default() }
    }

    /// Returns where HTTP shall be served; nowhere if the region cannot be read.
    pub fn http(&mut self) -> HttpSettings {
        let state = self.region.as_mut().and_then(|region| region.state_with_tables(|_| Vec::new()).ok());
        state.map(|(_, state)| state.balancer.http).unwrap_or_default()
    }

    /// Returns the state, if there is a new one.
    ///
    /// # Errors
    /// When there is no region, or it cannot be read.
    pub fn look(&mut self) -> Result<Option<State>, AccessError> {
        if let Some(region) = &self.region
            && !region.is_current().unwrap_or(true)
        {
            (self.region, self.watch, self.generation) = (None, None, None);
        }
        let mut region = match self.region.take() {
            Some(region) => region,
            None => Region::open_to_read(&self.name)?,
        };
        if self.watch.is_none() {
            // Without it the region is looked at with each beat.
            self.watch = Watch::new(&self.name).ok();
        }
        let read = self.read(&mut region);
        self.region = Some(region);
        read
    }

    fn read(&mut self, region: &mut Region) -> Result<Option<State>, AccessError> {
        region.recover()?;
        if self.generation.is_some() && slots::generation(region).ok() == self.generation {
            return Ok(None);
        }
        let (generation, state) = region.state_with_tables(|_| Vec::new())?;
        self.generation = Some(generation);
        Ok(Some(state))
    }

    /// Waits until the region may have changed; for ever if it cannot be watched.
    async fn changed(&mut self) {
        match &self.watch {
            Some(watch) if watch.0.readable().await.is_ok() => {
                // What happened does not matter.
                let mut events = [0; 4096];
                while watch.0.try_read(&mut events).is_ok_and(|length| length > 0) {}
            }
            Some(_) => self.watch = None,
            None => std::future::pending().await,
        }
    }
}

/// Readable when the region's file was touched or removed. To tokio it is a pipe as any other.
struct Watch(pipe::Receiver);

impl Watch {
    fn new(name: &RegionName) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(&name.path(), AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_DELETE_SELF)?;
        let descriptor = inotify.as_fd().try_clone_to_owned()?;
        pipe::Receiver::from_file_unchecked(descriptor.into()).map(Self)
    }
}

/// Checks with those of them that run.
pub struct Runner {
    /// What is due, and what results come to.
    pub checks: Checks,
    /// The same of the agents on backends.
    pub agents: Agents,
    running: JoinSet<Ended>,
    host: Host,
    epoch: Duration,
}

/// What has ended.
pub enum Ended {
    /// A check.
    Check(CheckId, Outcome),
    /// A question to the agent on a backend.
    Agent(AgentId, Answer),
}

impl Default for Runner {
    fn default() -> Self {
        let seed = RandomState::new().hash_one(process::id());
        Self {
            checks: Checks::new(seed),
            agents: Agents::new(!seed),
            running: JoinSet::new(),
            host: Host::default(),
            epoch: clock::monotonic(),
        }
    }
}

impl Runner {
    /// Forgets all checks and agents. Those that run end without a result: what comes next may get their numbers.
    fn forget(&mut self) {
        let Self { checks, agents, running, .. } = Self::default();
        (self.checks, self.agents, self.running) = (checks, agents, running);
    }

    /// Returns the time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        clock::monotonic().saturating_sub(self.epoch)
    }

    /// Starts what is due at `now`. Agents come first, since they may be only a part of all that runs.
    pub fn start_due(&mut self, now: Duration) {
        while self.has_room()
            && let Some(ask) = self.agents.next(now)
        {
            let host = self.host.clone();
            self.running.spawn_local(async move {
                let answer = probe::ask(&ask, &host).await;
                Ended::Agent(ask.id, answer)
            });
        }
        while self.has_room()
            && let Some(job) = self.checks.next(now)
        {
            let host = self.host.clone();
            self.running.spawn_local(async move {
                let outcome = probe::run(&job, &host).await;
                Ended::Check(job.id, outcome)
            });
        }
    }

    fn has_room(&self) -> bool {
        self.running.len() < RUNNING_MAX
    }

    /// Returns how long nothing is due; `None` until something ends or changes.
    fn timeout(&self, now: Duration) -> Option<Duration> {
        let due = [self.checks.timeout(now), self.agents.timeout(now)].into_iter().flatten().min();
        due.filter(|_| self.has_room())
    }

    /// Waits for what ends; for ever if nothing runs.
    pub async fn next_result(&mut self) -> Ended {
        loop {
            match self.running.join_next().await {
                Some(Ok(result)) => return result,
                // A probe catches its panics.
                Some(Err(error)) => error!(%error, "a check has ended without a result"),
                None => std::future::pending().await,
            }
        }
    }
}

/// Checks until SIGTERM or SIGINT, or until `parent` ends. A missing region or lbd is waited for. `opened` is a
/// connection to lbd's socket; what needs rights that this process has given up ends it if `parent` starts it again.
///
/// # Errors
/// When signals cannot be received, or the operating system does not wait for `opened`.
pub async fn run(
    mut follower: Follower,
    (socket, opened): (&Path, Option<UnixStream>),
    http: Opened,
    parent: Option<Pid>,
) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let link = Link::start(socket, opened)?;
    let mut http = http.serve(link.clone())?;
    let mut agent = Agent {
        runner: Runner::default(),
        state: None,
        link,
        no_right: false,
        report: None,
        not_made: Notice::default(),
        early: EarlyChecks::default(),
        notifier: Notifier::default(),
    };
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    agent.look(&mut follower);
    loop {
        let now = agent.runner.now();
        agent.settle(now);
        agent.runner.start_due(now);
        let due = agent.runner.timeout(now).map(|wait| Instant::now() + wait);
        let report = agent.report;
        tokio::select! {
            ended = agent.runner.next_result() => agent.finished(ended),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            () = sleep_until(report.unwrap_or_else(Instant::now)), if report.is_some() => agent.tell(),
            () = follower.changed() => agent.look(&mut follower),
            addresses = agent.link.undelivered() => agent.check_early(&addresses),
            () = agent.notifier.next() => {}
            _ = beat.tick() => {
                // A beat that finds no room is followed by another.
                let beat = agent.beat();
                let _ = agent.link.offer(beat);
                agent.look(&mut follower);
                if parent.is_some_and(|parent| parent != getppid()) {
                    info!("the lbd that started this has ended, and starts another when it is back");
                    return Ok(());
                }
                if !agent.serves(&http) || http.reader_has_ended() {
                    // Of lbd's helper, or of a unit.
                    let again = parent.is_some() || std::env::var_os("INVOCATION_ID").is_some();
                    if again && agent.runner.now() >= WELL {
                        info!("ends, to be started with the rights to serve HTTP as the region says");
                        return Ok(());
                    }
                    http.tell();
                }
                if parent.is_some() && (agent.no_right || agent.link.is_refused()) {
                    info!("ends, so that lbd starts it with the rights to open the region and lbd's socket again");
                    return Ok(());
                }
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    info!("ended as asked; lbd goes on with what was found last");
    Ok(())
}

struct Agent {
    runner: Runner,
    state: Option<State>,
    link: Link,
    /// Set when this process may not open the region.
    no_right: bool,
    /// When lbd is told what the region does not have.
    report: Option<Instant>,
    not_made: Notice,
    early: EarlyChecks,
    notifier: Notifier,
}

impl Agent {
    /// Reports whether what is served is what the region says.
    fn serves(&self, http: &Serving) -> bool {
        self.state.as_ref().is_none_or(|state| http.is(&state.balancer.http))
    }

    /// Takes over what the region says.
    fn look(&mut self, follower: &mut Follower) {
        match follower.look() {
            Ok(Some(state)) => {
                let now = self.runner.now();
                self.runner.checks.update(&state, now);
                self.runner.agents.update(&state, now);
                let checks = self.runner.checks.iter().count();
                follower.notice.clear("the region can be read again");
                if self.state.is_none() {
                    info!(region = %follower.name, checks, "following the region");
                }
                if self.news(&state).is_some() {
                    self.report.get_or_insert(Instant::now() + COLLECT);
                }
                self.notify(&state);
                self.state = Some(state);
            }
            Ok(None) => {}
            Err(error) => {
                if matches!(error, AccessError::Missing(_)) {
                    // What comes in its place may number backends otherwise.
                    self.runner.forget();
                    self.state = None;
                }
                self.no_right = matches!(error, AccessError::NotOurs { .. } | AccessError::NotAllowed(_));
                follower.notice.raise("nothing new is checked until the region can be read", &error);
            }
        }
    }

    /// Tells the operator's program what is news in `next`.
    fn notify(&mut self, next: &State) {
        let Some(before) = self.state.as_ref().filter(|_| !next.balancer.notify.is_empty()) else { return };
        for notice in notices::between(before, next) {
            self.notifier.offer(&next.balancer.notify, notice);
        }
    }

    /// Returns the sign of life, and logs if checks cannot be made.
    fn beat(&mut self) -> Request {
        let (not_made, reason) = self.runner.checks.not_made();
        match reason {
            Some(reason) => {
                self.not_made.raise("checks cannot be made, and nothing new is known", &reason.as_str());
            }
            None => self.not_made.clear("all checks can be made again"),
        }
        Request::Beat { pid: process::id(), not_made: u32::try_from(not_made).unwrap_or(u32::MAX) }
    }

    /// Checks the backends with these addresses early: packets to them were reported as undeliverable.
    fn check_early(&mut self, addresses: &[IpAddr]) {
        let now = self.runner.now();
        let early = self.runner.checks.undelivered(addresses, now);
        self.early.tell(&early, now);
    }

    fn finished(&mut self, ended: Ended) {
        let time = Override::time(clock::unix_seconds());
        let now = self.runner.now();
        match ended {
            Ended::Check(id, outcome) => {
                if let Some(transition) = self.runner.checks.finished(id, outcome, now, time) {
                    log(&transition);
                    self.report.get_or_insert(Instant::now() + COLLECT);
                }
            }
            Ended::Agent(id, answer) => {
                let turn = self.runner.agents.finished(id, answer, now, time);
                self.turned(turn.as_slice());
            }
        }
    }

    /// Puts into force what agents report, if it is time.
    fn settle(&mut self, now: Duration) {
        let turns = self.runner.agents.settle(now, Override::time(clock::unix_seconds()));
        self.turned(&turns);
    }

    fn turned(&mut self, turns: &[Turn]) {
        if !turns.is_empty() {
            turns.iter().for_each(log_turn);
            self.report.get_or_insert(Instant::now() + COLLECT);
        }
    }

    /// Returns what the region does not have.
    fn news(&self, state: &State) -> Option<Request> {
        let mut found = self.runner.checks.observations(state);
        let mut reported = self.runner.agents.reports(state);
        if found.is_empty() && reported.is_empty() {
            return None;
        }
        found.truncate(FOUND_MAX);
        reported.truncate(FOUND_MAX);
        Some(Request::Observe { found, reported })
    }

    /// Tells lbd what the region does not have.
    fn tell(&mut self) {
        self.report = None;
        let Some(news) = self.state.as_ref().and_then(|state| self.news(state)) else { return };
        let handed_over = self.link.offer(news);
        // The new generation comes first, if lbd does what it is asked.
        self.report = Some(Instant::now() + if handed_over { AGAIN } else { COLLECT });
    }
}

/// One line for each change.
fn log(transition: &Transition) {
    let Transition { names, from, observed, took } = transition;
    let backends = joined(names);
    let from = from.map_or("unknown", Health::name);
    let (reason, took_ms) = (observed.reason.as_str(), took.as_millis());
    match observed.health {
        Health::Up => info!(backends, from, to = "up", reason, took_ms, "up"),
        Health::Down => warn!(backends, from, to = "down", reason, took_ms, "down"),
    }
}

/// One line for each change of what is in force of an agent's report.
fn log_turn(turn: &Turn) {
    let Turn { names, from, to } = turn;
    let backends = joined(names);
    let from = from.as_ref().map_or_else(|| "unknown".to_owned(), Reported::summary);
    let summary = to.summary();
    if to.is_down() || to.silent.is_some() {
        warn!(backends, from, to = summary, "the agent on a backend");
    } else {
        info!(backends, from, to = summary, "the agent on a backend");
    }
}

fn joined(names: &[(Name, Name)]) -> String {
    let backends: Vec<String> =
        names.iter().map(|(service, backend)| format!("{service}/{backend}")).collect();
    backends.join(" ")
}

#[cfg(test)]
mod tests {
    use synrail::config::Config;

    use super::*;

    #[tokio::test]
    async fn what_runs_ends_with_what_is_known() {
        let text = "
            balancer = { name = 'lb1', address = '192.168.1.201', interfaces = ['eth0'] }
            service = [ { name = 'web', vips = '10.0.0.1', protocols = 'tcp', ports = 80, table_size = 97,
                health = { kind = 'tcp', agent_port = 5555 },
                backend = [ { name = 's1', address = '192.168.1.1' } ] } ]";
        let state = State::new(&Config::parse("test", text).unwrap()).unwrap();
        let start = async {
            let mut runner = Runner::default();
            runner.checks.update(&state, Duration::ZERO);
            runner.agents.update(&state, Duration::ZERO);
            // Nothing is sent before the first await.
            runner.start_due(Duration::ZERO);
            assert_eq!(runner.running.len(), 2);
            runner.forget();
            assert!(runner.running.is_empty() && runner.agents.is_empty());
        };
        tokio::task::LocalSet::new().run_until(start).await;
    }
}
