//! The control thread of lbd. It takes over what an earlier lbd left in the kernel, puts the region's state in force, and
//! starts the workers. Then it waits for events and does what `control.rs` says is due, until a signal ends it.
//!
//! Order of a start: region, parts of the kernel, queues and the TUN device, routing, ruleset, workers. Queues are bound before
//! rules send packets to them. Start, change, roll-back and repair are one function, `Kernel::reconcile` (`daemon/kernel.rs`).
//! `daemon/reconcile.rs` has its steps.
//!
//! If a new state cannot be put in force, the last good one stays, and the reason is logged. An lbd that ends leaves the
//! kernel as it is: existing flows go on, and the fallback tables decide about new ones. VIPs without such a table are withdrawn
//! (`daemon/announce.rs`). [`once`] puts a state in force without staying. [`cleanup`] removes everything.

mod agent;
mod announce;
mod args;
mod audit;
mod cleanup;
mod config_file;
mod desired;
mod error;
mod host;
mod kernel;
mod lease;
mod links;
mod look;
mod once;
mod open;
mod reconcile;
mod requests;
mod watch;
mod ways;
mod workers;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use agent::Agent;
use announce::Announcer;
pub use announce::withdraw;
use arc_swap::ArcSwap;
pub use args::{Arguments, command};
use audit::{Auditing, Auditor};
pub use cleanup::cleanup;
pub use config_file::{check, check_host};
use desired::StartupSettings;
pub use error::DaemonError;
use host::{HostSeen, HostWatch, look_at_host};
use kernel::{Fallback, Kernel};
pub use look::{Asked, Drift, Running, look, mend};
pub use once::once;
pub use open::numbers_in_kernel;
use open::{log_saved, with_region};
use reconcile::Report;
use tracing::{debug, error, info, warn};
use watch::FillWatch;
use workers::{Opened, Workers};

use crate::{
    balance::Forwarding,
    config::Config,
    control::{Cause, Controller, Effect, Event, undelivered::Undelivered},
    host::new_own_vips,
    model::ids::Generation,
    ops,
    shm::{
        RegionError, slots,
        stats::{self, Daemon, Pins},
    },
    state::{Losses, Plan, State},
    sys::{
        allocator, capability, clock,
        control_socket::{self, ControlSocket},
        events::{Events, Seen},
        helper,
        instance_lock::InstanceLock,
        nfqueue::queue_lines_here,
        nft::UndeliveredSets,
        overrides::OverridesFile,
        privileges, probe,
        region::{AccessError, Mapping, NAME_DEFAULT, Region, RegionName},
        signal::{Request, Signals},
        tun::Tun,
    },
    worker::Shared,
};

/// Runs lbd until a signal ends it.
///
/// # Errors
/// When it cannot start, or a worker ends.
pub fn run(
    config: Option<PathBuf>,
    name: &RegionName,
    state_dir: &Path,
    agent: Option<PathBuf>,
) -> Result<(), DaemonError> {
    // The helper's lbagent, too, gives its socket to the group of readers.
    privileges::join_readers();
    // It keeps the rights that are given up here.
    helper::start(agent.clone())
        .map_err(|error| DaemonError::Os { doing: "starting the helper process", error })?;
    // Threads inherit the mask of signals and the rights, so this comes before any of them starts.
    let signals = take_signals()?;
    let (_lock, given) = read_and_lock(config.as_deref())?;
    privileges::reduce()?;
    let overrides = OverridesFile::new(state_dir, name);
    let (mut lbd, events) = with_region(name, given.as_ref(), &overrides, |region, generation, state| {
        let lbd = Lbd::start(region, generation, &state, (config, overrides.clone(), agent))?;
        let events = lbd.listen(signals)?;
        info!(
            region = %name, %generation, services = state.services.len(), targets = state.targets_used().count(),
            queues = %state.balancer.queues, "ready"
        );
        Ok((lbd, events))
    })?;
    // Its tables are large.
    drop(given);
    allocator::give_back();
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        warn!(%error, "the service manager cannot be notified");
    }
    let result = lbd.follow(events);
    lbd.end();
    result
}

/// A configuration file that was read and checked, and its state.
type ParsedConfig = (Config, State);

fn take_signals() -> Result<Signals, DaemonError> {
    Signals::take().map_err(|error| DaemonError::Os { doing: "taking signals", error })
}

/// Makes sure that this process has the rights, that the file is valid, and that no other lbd runs.
fn read_and_lock(config: Option<&Path>) -> Result<(InstanceLock, Option<ParsedConfig>), DaemonError> {
    if !capability::may_administer_network() {
        return Err(DaemonError::NotAllowed);
    }
    let given = config.map(check).transpose()?;
    Ok((InstanceLock::acquire()?, given))
}

fn removal(name: &RegionName, file: &Path, losses: &Losses) -> DaemonError {
    let shm = if name.to_string() == NAME_DEFAULT { String::new() } else { format!(" --shm {name}") };
    // The operator may be in another directory.
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let rest = format!("{shm} {}", file.display());
    DaemonError::Removal { file, losses: losses.listed(), rest }
}

/// Logs what of a state is not in force, while the rest is.
fn log_left(left: &[DaemonError]) {
    for problem in left {
        error!(%problem, "not all of it is in force; the rest is tried again every few seconds");
    }
}

/// A running lbd.
struct Lbd {
    config: Option<PathBuf>,
    /// Where what lbctl said is kept.
    overrides: OverridesFile,
    region: Region,
    shown: Arc<ArcSwap<Mapping>>,
    kernel: Kernel,
    tun: Arc<Tun>,
    workers: Workers,
    auditing: Auditing,
    watch: FillWatch,
    nearly_full: bool,
    started: Instant,
    daemon: Daemon,
    /// Errors of the region and of adopting its state.
    region_error: ErrorLatch,
    /// Errors of repairs.
    repair_error: ErrorLatch,
    queues_error: ErrorLatch,
    host: HostWatch,
    /// Before the control socket, whose directory goes when it is empty.
    agent: Agent,
    /// `None` if it cannot be opened.
    control: Option<ControlSocket>,
    undelivered_sets: UndeliveredSets,
    undelivered: Undelivered,
    announcer: Announcer,
}

/// The last error that was logged, so that the same error is not logged every second.
#[derive(Default)]
struct ErrorLatch(String);

impl ErrorLatch {
    /// Logs a problem, unless it was the last one. `effect` says what it means, and what lbd does.
    fn raise(&mut self, effect: &str, problem: &dyn std::fmt::Display) {
        let message = problem.to_string();
        if self.0 != message {
            error!(problem = %message, "{effect}");
            self.0 = message;
        }
    }

    fn clear(&mut self) {
        if !self.0.is_empty() {
            info!("all is well again");
            self.0.clear();
        }
    }
}

impl Lbd {
    fn start(
        region: Region,
        generation: Generation,
        state: &State,
        (config, overrides, agent): (Option<PathBuf>, OverridesFile, Option<PathBuf>),
    ) -> Result<Self, DaemonError> {
        let HostSeen { means, own, watch: host } = look_at_host(state)?;
        let opened = Opened::open(&state.balancer)?;
        let workers = opened.workers();
        let daemon = Daemon {
            pid: u64::from(std::process::id()),
            adopted: Generation(0),
            in_kernel: Generation(0),
            started_unix_seconds: clock::unix_seconds(),
            workers: workers as u64,
        };
        let unusable = |error| AccessError::Unusable { name: region.name().clone(), error };
        let mut mapping = region.mapping();
        let last_pins = Pins::read(&mut mapping).map_err(unusable)?;
        stats::clear(&mut mapping, workers).map_err(unusable)?;
        daemon.write(&mut mapping).map_err(unusable)?;
        stats::write_flowtable(&mut mapping, means.flowtable).map_err(unusable)?;
        stats::write_mark_mask(&mut mapping, state.balancer.mark_mask).map_err(unusable)?;
        let shown = Arc::new(ArcSwap::new(mapping));
        let shared = Arc::new(Shared::new(Forwarding::new(state, generation)?));
        let kernel = Kernel::open(means, own, &shared, Some(StartupSettings::of(&state.balancer)))?;
        let mut auditor = Auditor::open(&shared, &kernel.ways)?;
        auditor.take_over()?;
        let control = ControlSocket::open(control_socket::path(region.name()), ops::LINE_BYTES_MAX)
            .inspect_err(|error| warn!(%error, "no control socket: health checks cannot report"));
        let agent = Agent::new(agent, region.name().clone());
        auditor.succeed(last_pins);
        let mut lbd = Self {
            config,
            overrides,
            region,
            auditing: Auditing::default(),
            shown,
            kernel,
            tun: opened.tun(),
            workers: Workers::default(),
            watch: FillWatch::default(),
            nearly_full: false,
            started: clock::now(),
            daemon,
            region_error: ErrorLatch::default(),
            repair_error: ErrorLatch::default(),
            queues_error: ErrorLatch::default(),
            host,
            control: control.ok(),
            undelivered_sets: UndeliveredSets::default(),
            undelivered: Undelivered::default(),
            agent,
            announcer: Announcer::default(),
        };
        lbd.announcer.adopt(state, Duration::ZERO);
        lbd.kernel.set_up_fragments_device(&lbd.tun)?;
        lbd.watch_conntrack();
        // VIPs that are new are announced when the workers run; an earlier lbd's stay.
        let announced = lbd.announcer.announced();
        log_left(&lbd.kernel.apply(state, generation, announced.if_there())?.left);
        lbd.workers.start(opened, &shared, &lbd.shown)?;
        lbd.announce();
        lbd.auditing = Auditing::start(auditor, &lbd.shown)?;
        lbd.adopted(generation);
        lbd.agent.adopt(state);
        lbd.host.show(&lbd.region);
        Ok(lbd)
    }

    /// The time since the start.
    fn now(&self) -> Duration {
        clock::now().duration_since(self.started)
    }

    /// Opens what lbd waits for. Events before that are not lost: [`Controller`] begins with a look at everything.
    fn listen(&self, signals: Signals) -> Result<Events, DaemonError> {
        let events = self.kernel.routing.port().and_then(|port| Events::open(signals, port));
        if self.region.watch().is_none() {
            warn!(
                "the region cannot be watched (fs.inotify.max_user_instances), so it is looked at every 50 ms"
            );
        }
        let doing = "asking the kernel to report changes of links, addresses, routes and rules";
        events.map_err(|error| DaemonError::Os { doing, error })
    }

    /// Does what is due after events or by time ([`Controller`]), until a signal ends it.
    fn follow(&mut self, mut events: Events) -> Result<(), DaemonError> {
        let mut controller = Controller::new(self.now());
        loop {
            match controller.next(self.now()) {
                Some(Effect::Shutdown) => return Ok(()),
                Some(effect) => self.act(effect, &mut controller)?,
                None => {}
            }
            controller.fallback_due(self.kernel.fallback() == Fallback::Due);
            let control = self.control.as_ref().map(std::os::fd::AsFd::as_fd);
            let seen = events.wait(controller.timeout(self.now()), &self.region, control);
            let failed = |error| DaemonError::Os { doing: "waiting for events", error };
            let Seen { signal, region, routing } = seen.map_err(failed)?;
            self.serve();
            let signal = signal.map(|request| match request {
                Request::Shutdown => Event::Shutdown,
                Request::Reload => Event::Reload,
            });
            let (region, routing) = (region.then_some(Event::Region), routing.then_some(Event::Changed));
            for event in [signal, region, routing].into_iter().flatten() {
                controller.handle(event, self.now());
            }
        }
    }

    fn act(&mut self, effect: Effect, controller: &mut Controller) -> Result<(), DaemonError> {
        match effect {
            Effect::Shutdown => {}
            Effect::Reload => {
                self.reload();
                controller.handle(Event::Region, self.now());
            }
            Effect::Check => self.check()?,
            Effect::Adopt => self.follow_region(),
            Effect::Fallback => self.fill_fallback(false),
            Effect::Fill => {
                // With full connection tracking all packets go by the fallback tables, which must be up to date then.
                if self.kernel.fallback() != Fallback::Due && self.watch_conntrack() {
                    self.show_nearly_full();
                }
                controller.next_fill(self.now() + self.watch.next_look());
            }
            Effect::Generation => {
                // If the kernel does not answer, the next repair by the timer logs why.
                if self.kernel.changed_by_others().unwrap_or(false) {
                    controller.handle(Event::Changed, self.now());
                }
                if self.region.watch().is_none() {
                    controller.handle(Event::Region, self.now());
                }
            }
            Effect::Repair(cause) => {
                let began = self.now();
                let report = self.repair();
                let (mended, failed) = (report.any(), !report.left.is_empty());
                debug!(?cause, mended, failed, "the kernel's side was compared with what it should be");
                if let (true, Cause::Event(noticed)) = (mended, cause) {
                    let after_ms = self.now().saturating_sub(noticed).as_millis();
                    info!(after_ms, "mended, counted from its first event");
                }
                self.look_at_host();
                allocator::give_back();
                controller.repaired(began, self.now(), mended || failed);
            }
        }
        Ok(())
    }

    /// Checks once a second what an event may have been missed for.
    fn check(&mut self) -> Result<(), DaemonError> {
        self.workers.check()?;
        // If changes come without a pause, the fallback tables have them once a second.
        self.fill_fallback(true);
        self.follow_region();
        self.show_nearly_full();
        self.show_queues();
        self.keep_auditing();
        self.agent.keep(self.now());
        self.announce();
        Ok(())
    }

    /// Announces VIPs whose time has come.
    fn announce(&mut self) {
        self.announcer.pass(self.now());
        if let Err(error) = self.kernel.announce(self.announcer.announced()) {
            self.repair_error
                .raise("not all VIPs are announced as they should be; it is tried again", &error);
        }
    }

    /// Chooses the way of packets by how full connection tracking is. Returns whether the region is to show a change.
    fn watch_conntrack(&mut self) -> bool {
        let Kernel { shared, ways, .. } = &self.kernel;
        let nearly_full = self.watch.look(self.now(), shared, ways);
        std::mem::replace(&mut self.nearly_full, nearly_full) != nearly_full
    }

    fn show_nearly_full(&self) {
        // The next check notices if the region is gone.
        let _ = stats::set_nearly_full(&mut self.region.mapping(), self.nearly_full);
    }

    /// Shows the state of the queues to those to whom the kernel does not show it.
    fn show_queues(&mut self) {
        let lines = match queue_lines_here() {
            Ok(lines) => {
                self.queues_error.clear();
                lines
            }
            Err(error) => {
                let effect = "the state of the queues cannot be read; the region shows none";
                self.queues_error.raise(effect, &error);
                Vec::new()
            }
        };
        let workers = usize::try_from(self.daemon.workers).unwrap_or(usize::MAX);
        // The next check notices if the region is gone.
        let _ = stats::show_queues(&mut self.region.mapping(), workers, &lines);
    }

    fn keep_auditing(&mut self) {
        if self.auditing.is_running() {
            return;
        }
        error!("the audit of pins has ended; it is started again");
        let auditor = Auditor::open(&self.kernel.shared, &self.kernel.ways);
        let started = auditor.and_then(|mut auditor| {
            // The next check notices if the region is gone.
            auditor.succeed(Pins::read(&mut self.region.mapping()).unwrap_or_default());
            Auditing::start(auditor, &self.shown)
        });
        match started {
            Ok(auditing) => self.auditing = auditing,
            Err(error) => error!(%error, "the audit of pins"),
        }
    }

    /// Adopts what is new in the region. An error is logged once, and every check tries again.
    fn follow_region(&mut self) {
        match self.try_to_follow() {
            Ok(()) => self.region_error.clear(),
            Err(error) => {
                self.region_error
                    .raise("not all is as it should be; the last good state stays in force", &error);
            }
        }
    }

    /// Repairs the kernel's side. The first problem that is left is logged once.
    fn repair(&mut self) -> Report {
        let report = self.kernel.repair(&self.tun);
        // A next hop that is out of reach must not hide anything else.
        let worst = |problem: &&DaemonError| !matches!(problem, DaemonError::OutOfReach(_));
        match report.left.iter().find(worst).or(report.left.first()) {
            None => self.repair_error.clear(),
            Some(problem) => self
                .repair_error
                .raise("not all of the kernel's side can be mended; it is tried again", problem),
        }
        report
    }

    /// Logs what has changed on the host since the last look.
    fn look_at_host(&mut self) {
        if let Err(error) = self.host.look(&mut self.kernel) {
            self.repair_error.raise("the host cannot be looked at; it is tried again", &error);
        }
        self.host.show(&self.region);
    }

    fn try_to_follow(&mut self) -> Result<(), DaemonError> {
        let unusable = |region: &Region, error| AccessError::Unusable { name: region.name().clone(), error };
        if self.region.is_current().is_ok_and(|current| !current) {
            self.reopen()?;
        }
        if self.region.recover()? {
            self.shown.store(self.region.mapping());
        }
        slots::check(&mut self.region).map_err(|error| unusable(&self.region, error))?;
        let live = slots::generation(&mut self.region).map_err(|error| unusable(&self.region, error))?;
        if live == self.daemon.adopted { Ok(()) } else { self.adopt() }
    }

    fn adopt(&mut self) -> Result<(), DaemonError> {
        let (generation, state) = self.region.state()?;
        if generation == self.daemon.adopted {
            return Ok(());
        }
        let mut announcer = self.announcer.clone();
        announcer.adopt(&state, self.now());
        let report = self.kernel.apply(&state, generation, announcer.announced());
        self.auditing.notify();
        log_left(&report?.left);
        self.announcer = announcer;
        self.adopted(generation);
        info!(%generation, targets = state.targets_used().count(), "adopted");
        self.agent.adopt(&state);
        self.agent.keep(self.now());
        self.host.judge_by(&state);
        self.look_at_host();
        allocator::give_back();
        Ok(())
    }

    fn adopted(&mut self, generation: Generation) {
        self.daemon.adopted = generation;
        self.show_daemon();
    }

    fn show_daemon(&mut self) {
        // Refused tables count as done: that is logged, and a repair tries again.
        if self.kernel.fallback() != Fallback::Due {
            self.daemon.in_kernel = self.daemon.adopted;
        }
        // The next check notices if the region is gone.
        let _ = self.daemon.write(&mut self.region.mapping());
    }

    /// Brings fallback tables that are due up to date: some of them, or `all`.
    fn fill_fallback(&mut self, all: bool) {
        while self.kernel.fallback() == Fallback::Due {
            if let Err(error) = self.kernel.fill_some_fallback() {
                log_left(&[error.into()]);
            }
            if !all {
                break;
            }
        }
        if self.kernel.fallback() != Fallback::Due && self.daemon.in_kernel != self.daemon.adopted {
            self.show_daemon();
        }
    }

    /// Opens the region again, whose name leads to another file now.
    fn reopen(&mut self) -> Result<(), DaemonError> {
        let mut region = Region::open(self.region.name())?;
        region.follow()?;
        region.state()?;
        (self.daemon.adopted, self.daemon.in_kernel) = (Generation(0), Generation(0));
        let mut mapping = region.mapping();
        self.daemon
            .write(&mut mapping)
            .and_then(|()| self.workers.identify(&mut mapping))
            .and_then(|()| stats::write_flowtable(&mut mapping, self.kernel.means.flowtable))
            .and_then(|()| {
                self.kernel.mark_mask().map_or(Ok(()), |mask| stats::write_mark_mask(&mut mapping, mask))
            })
            .map_err(|error: RegionError| AccessError::Unusable { name: region.name().clone(), error })?;
        self.shown.store(region.mapping());
        self.region = region;
        info!("the region was made anew; following the new one");
        Ok(())
    }

    /// Does what `lbctl apply FILE` does, at SIGHUP. A file that takes away what is in use is refused: that needs `lbctl apply
    /// --allow-removal`.
    fn reload(&mut self) {
        let Some(file) = self.config.clone() else {
            return warn!("SIGHUP: there is no --config FILE to read again");
        };
        if let Ok(false) = self.region.is_current()
            && let Err(error) = self.reopen()
        {
            return error!("SIGHUP: {error}; nothing was changed");
        }
        let result = check(&file).and_then(|(config, asked)| {
            let snapshot = probe::look_with(&mut self.kernel.routing, &asked);
            let name = self.region.name().clone();
            ops::update(&self.overrides, clock::unix_seconds(), &mut self.region, |state| {
                let Plan { next, changes, losses } = state.plan(&config)?;
                let own = new_own_vips(state, &next, &snapshot);
                if !own.is_empty() {
                    return Err(DaemonError::OwnVips(own));
                }
                if !losses.in_use.is_empty() {
                    return Err(removal(&name, &file, &losses));
                }
                Ok(((!changes.is_empty()).then_some(next), (changes, losses)))
            })
        });
        match result {
            Ok((_, (changes, losses), saved)) => {
                for change in &changes {
                    info!("{change}");
                }
                for loss in &losses.forgotten {
                    warn!("loss: {loss}");
                }
                log_saved(saved);
                info!(changes = changes.len(), file = %file.display(), "read again");
            }
            Err(error) => error!("SIGHUP: {error}; nothing was changed"),
        }
    }

    /// Ends the workers. The kernel keeps what it has, except the way of packets while connection tracking is nearly full:
    /// nothing would set that back when there is room again.
    fn end(mut self) {
        self.fill_fallback(true);
        if let Err(error) = self.kernel.announce(self.announcer.without_lbd()) {
            warn!(%error, "VIPs may stay announced that nothing here serves until lbd starts again");
        }
        self.workers.end(&self.kernel.shared);
        if let Err(error) = self.kernel.ways.lock().set_nearly_full(false) {
            warn!(%error, "packets to VIPs go untracked until lbd starts again");
        }
        self.daemon.pid = 0;
        let _ = self.daemon.write(&mut self.region.mapping());
        info!("ended; the kernel goes on by itself");
    }
}

#[cfg(test)]
mod tests;
