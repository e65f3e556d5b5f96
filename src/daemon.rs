//! What lbd does besides deciding: it takes over what there is, puts the state in force, starts the workers, and then
//! waits for events, and does what `control.rs` says, until a signal ends it.
//!
//! Order of start: region, kernel parts, queues and the TUN device, routing, ruleset, workers. Queues are bound before
//! rules send packets to them, and routes are there before marks that need them. What a change needs is in `kernel.rs`.
//!
//! Whatever goes wrong with a new state, the last good one stays in force, and the reason is logged. Ending leaves the
//! kernel as it is, so that flows go on, and new ones begin by its copies of the tables; [`once`] brings these up to date
//! without staying; [`cleanup`] removes everything.

mod args;
mod audit;
mod error;
mod host;
mod kernel;
mod lease;
mod links;
mod mend;
mod once;
mod watch;
mod ways;
mod workers;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
pub use args::{Arguments, command};
use audit::{Auditing, Auditor};
pub use error::DaemonError;
use host::{HostSeen, HostWatch, look_at_host};
use kernel::{Copies, Kernel, StartupSettings};
use mend::{Mended, mend_tun, tend_tun};
pub use once::once;
use tracing::{debug, error, info, warn};
use watch::FillWatch;
use workers::{Opened, Workers};

use crate::{
    balance::Forwarding,
    config::{Config, FILE_BYTES_MAX},
    control::{Cause, Controller, Effect, Event},
    host::{Finding, new_own_vips},
    model::{
        self,
        ids::{Generation, TargetId},
    },
    ops,
    plan::routing,
    shm::{
        RegionError, slots,
        stats::{self, Daemon},
    },
    state::{Losses, Overrides, Plan, State},
    sys::{
        allocator, capability, clock,
        events::{Events, Seen},
        instance_lock::InstanceLock,
        nft,
        overrides::OverridesFile,
        probe,
        region::{AccessError, Mapping, NAME_DEFAULT, Region, RegionName},
        rtnetlink::Routing,
        signal::{Request, Signals},
        tun::Tun,
    },
    worker::Shared,
};

/// Reads and checks a configuration file, as far as that goes without the kernel.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check(file: &Path) -> Result<(Config, State), DaemonError> {
    let text = read(file).map_err(|error| DaemonError::File { file: file.to_owned(), error })?;
    let config = Config::parse(&file.display().to_string(), &text)?;
    let state = State::new(&config)?;
    Forwarding::new(&state, Generation::default())?;
    routing::desired(&state)?;
    Ok((config, state))
}

/// What is not as it should be on this host for what a configuration file says, worst first; changes nothing.
///
/// # Errors
/// When the file is wrong, or the host cannot be looked at.
pub fn check_host(file: &Path) -> Result<Vec<Finding>, DaemonError> {
    host::findings(&check(file)?.1)
}

/// The text of a file. What is no regular file might let lbd wait for ever, or have no end.
fn read(file: &Path) -> io::Result<String> {
    let metadata = std::fs::metadata(file)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read_to_string(file)
}

/// Removes everything that lbd has set up: ruleset, rules, routes, devices, the region, and what was kept of it. Says what
/// there was.
///
/// # Errors
/// When an lbd is at work, or the kernel refuses.
pub fn cleanup(name: &RegionName, state_dir: &Path) -> Result<Vec<String>, DaemonError> {
    let _lock = InstanceLock::acquire()?;
    let mut removed = Vec::new();
    let mut region = match Region::open(name) {
        Ok(region) => Some(region),
        Err(AccessError::Missing(_)) => None,
        Err(AccessError::Unusable { error, .. }) => {
            removed.push(format!("region \"{name}\" was unusable: {error}"));
            None
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(region) = &mut region {
        region.follow()?;
        if let Err(error @ RegionError::NotARegion) = slots::check(region) {
            return Err(AccessError::Unusable { name: name.clone(), error }.into());
        }
    }
    let mut routing = Routing::open()?;
    // First, since without the ruleset what comes out of them is forwarded. Packets to VIPs are dropped from here on.
    let devices = routing.remove_devices()?;
    if nft::cleanup()? {
        removed.push("nftables table inet synrail".to_owned());
    }
    let changes = devices + routing.cleanup()?.changes;
    if changes > 0 {
        removed.push(format!("{changes} rules, routes and devices"));
    }
    match Region::remove(name) {
        Ok(()) => removed.push(format!("region \"{name}\"")),
        Err(AccessError::Missing(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let kept = OverridesFile::new(state_dir, name);
    let there = kept.path().exists();
    kept.keep(&Overrides::default(), clock::unix_seconds())?;
    if there {
        removed.push(format!("what lbctl said, {}", kept.path().display()));
    }
    Ok(removed)
}

/// Balances until it is told to end.
///
/// # Errors
/// When it cannot start, or a worker's queue is gone.
pub fn run(config: Option<PathBuf>, name: &RegionName, state_dir: &Path) -> Result<(), DaemonError> {
    // Before any thread starts, so that all of them leave signals to this one.
    let signals = take_signals()?;
    let (_lock, given) = read_and_lock(config.as_deref())?;
    let overrides = OverridesFile::new(state_dir, name);
    let (mut lbd, events) = with_region(name, given.as_ref(), &overrides, |region, generation, state| {
        let lbd = Lbd::start(region, generation, &state, (config, overrides.clone()))?;
        let events = lbd.listen(signals)?;
        info!(
            region = %name, %generation, services = state.services.len(), targets = state.targets_used().count(),
            queues = %state.balancer.queues, "ready"
        );
        Ok((lbd, events))
    })?;
    // With its tables.
    drop(given);
    allocator::give_back();
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        warn!(%error, "the service manager cannot be told");
    }
    let result = lbd.follow(events);
    lbd.end();
    result
}

/// A file that was read and checked, with the state that it asks for.
type ParsedConfig = (Config, State);

fn take_signals() -> Result<Signals, DaemonError> {
    Signals::take().map_err(|error| DaemonError::Os { doing: "taking signals", error })
}

/// Makes sure that this process may do it, that the file is valid, and that no other lbd runs.
fn read_and_lock(config: Option<&Path>) -> Result<(InstanceLock, Option<ParsedConfig>), DaemonError> {
    if !capability::may_administer_network() {
        return Err(DaemonError::NotAllowed);
    }
    let given = config.map(check).transpose()?;
    Ok((InstanceLock::acquire()?, given))
}

/// Does something with the region and its state. One that was made for it does not outlive an error.
fn with_region<T>(
    name: &RegionName,
    given: Option<&ParsedConfig>,
    overrides: &OverridesFile,
    with: impl FnOnce(Region, Generation, State) -> Result<T, DaemonError>,
) -> Result<T, DaemonError> {
    let (region, generation, state, made) = open_region(name, given, overrides)?;
    with(region, generation, state).inspect_err(|_| {
        // It would be followed at the next start, whatever is mended in the file until then.
        if made && let Err(error) = Region::remove(name) {
            warn!(%error, "the region that was made just now stays");
        }
    })
}

/// Returns the region, converted if it is of the layout of the version before.
fn converted(mut region: Region, overrides: &OverridesFile) -> Result<Region, DaemonError> {
    if !ops::is_former(&mut region) {
        return Ok(region);
    }
    // So no lbd of that version follows it.
    region.follow()?;
    let ops::Converted { region, disabled, not_kept } =
        ops::convert(overrides, clock::unix_seconds(), region)?;
    info!(region = %region.name(), disabled, "converted from the layout of the version before");
    if let Some(error) = not_kept {
        warn!(%error, "what lbctl said will not outlive a reboot");
    }
    Ok(region)
}

/// The region with its state: made from the file if there is none, and whether it was.
fn open_region(
    name: &RegionName,
    given: Option<&ParsedConfig>,
    overrides: &OverridesFile,
) -> Result<(Region, Generation, State, bool), DaemonError> {
    let (mut region, made) = match Region::open(name) {
        Ok(region) => (converted(region, overrides)?, false),
        Err(AccessError::Missing(_)) => {
            let Some((config, like)) = given else {
                return Err(DaemonError::NothingToStartFrom(name.clone()));
            };
            let numbers = numbers_in_kernel()?;
            let kept = ops::kept(overrides);
            let (state, notes) = kept.put_into(&State::taking_over(config, &numbers, like)?);
            let region = Region::create(name, &state)?;
            info!(
                region = %name, numbers_taken_over = numbers.len(), overrides = kept.len(),
                "made from the configuration file, and from what lbctl said before"
            );
            for note in notes.into_iter().chain(kept.settle(clock::unix_seconds())) {
                warn!("{note}");
            }
            (region, true)
        }
        Err(error) => return Err(error.into()),
    };
    if let Some((_, like)) = given {
        region.share(like);
    }
    region.follow()?;
    stats::look_no_more(&mut region).map_err(|error| AccessError::Unusable { name: name.clone(), error })?;
    show(&region, |last| Daemon {
        pid: std::process::id().into(),
        started_unix_seconds: clock::unix_seconds(),
        ..last
    })?;
    let (generation, state) = region.state()?;
    if state.balancer.interfaces.is_empty() {
        return Err(DaemonError::NoInterfaces(name.clone()));
    }
    if let Some((config, _)) = given {
        match state.plan(config) {
            Ok(plan) if plan.changes.is_empty() => {}
            Ok(plan) => warn!(
                differences = plan.changes.len(),
                first = plan.changes.first().map(ToString::to_string).unwrap_or_default(),
                "the region is followed, not the file, which differs; `lbctl apply FILE` makes the region what the file says"
            ),
            Err(error) => {
                warn!(%error, "the region is followed, not the file, which cannot be applied to it");
            }
        }
    }
    Ok((region, generation, state, made))
}

/// The numbers that targets had, as the kernel still knows them ([`routing::numbers`]).
///
/// # Errors
/// When the kernel's routing cannot be read.
pub fn numbers_in_kernel() -> Result<BTreeMap<TargetId, model::Path>, DaemonError> {
    Ok(routing::numbers(&Routing::open()?.current(&routing::Desired::default())?))
}

/// Changes what the region shows of who follows it.
fn show(region: &Region, change: impl FnOnce(Daemon) -> Daemon) -> Result<(), DaemonError> {
    let mut mapping = region.mapping();
    let shown = Daemon::read(&mut mapping).and_then(|last| change(last).write(&mut mapping));
    shown.map_err(|error| AccessError::Unusable { name: region.name().clone(), error }.into())
}

fn removal(name: &RegionName, file: &Path, losses: &Losses) -> DaemonError {
    let shm = if name.to_string() == NAME_DEFAULT { String::new() } else { format!(" --shm {name}") };
    // The command is given from elsewhere.
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let rest = format!("{shm} {}", file.display());
    DaemonError::Removal { file, losses: losses.listed(), rest }
}

/// What of a state is not in force, and holds up nothing else.
fn tell(left: &[DaemonError]) {
    for problem in left {
        error!(%problem, "not all of it is in force; the rest is tried again every few seconds");
    }
}

/// What became of a repair.
struct Repaired {
    /// Something was not as it should be, and is now.
    mended: bool,
    /// Something cannot be repaired.
    failed: bool,
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
    /// With the region and what it says.
    region_error: ErrorLatch,
    /// With mending the kernel.
    repair_error: ErrorLatch,
    host: HostWatch,
}

/// What was last complained about, so that it is not said every second.
#[derive(Default)]
struct ErrorLatch(String);

impl ErrorLatch {
    /// Logs a problem that was not the last one; `effect` is what it means and what becomes of it.
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
        (config, overrides): (Option<PathBuf>, OverridesFile),
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
        stats::clear(&mut mapping, workers).map_err(unusable)?;
        daemon.write(&mut mapping).map_err(unusable)?;
        stats::write_flowtable(&mut mapping, means.flowtable).map_err(unusable)?;
        let shown = Arc::new(ArcSwap::new(mapping));
        let shared = Arc::new(Shared::new(Forwarding::new(state, generation)?));
        let kernel = Kernel::open(means, own, &shared, Some(StartupSettings::of(&state.balancer)))?;
        let mut auditor = Auditor::open(&shared, &kernel.ways)?;
        auditor.take_over()?;
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
            host,
        };
        tend_tun(&lbd.tun, &mut lbd.kernel)?;
        lbd.watch_conntrack();
        tell(&lbd.kernel.apply(state, generation)?);
        lbd.workers.start(opened, &shared, &lbd.shown)?;
        lbd.auditing = Auditing::start(auditor, &lbd.shown)?;
        lbd.adopted(generation);
        lbd.host.show(&lbd.region);
        Ok(lbd)
    }

    /// Time since it was started.
    fn now(&self) -> Duration {
        clock::now().duration_since(self.started)
    }

    /// Everything that it waits for. What came before is looked at first ([`Controller::new`]).
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

    /// Does what events and time ask for ([`Controller`]), until told to end.
    fn follow(&mut self, mut events: Events) -> Result<(), DaemonError> {
        let mut controller = Controller::new(self.now());
        loop {
            match controller.next(self.now()) {
                Some(Effect::Shutdown) => return Ok(()),
                Some(effect) => self.act(effect, &mut controller)?,
                None => {}
            }
            controller.copying(self.kernel.copies() == Copies::Due);
            let seen = events.wait(controller.timeout(self.now()), &self.region);
            let failed = |error| DaemonError::Os { doing: "waiting for events", error };
            let Seen { signal, region, routing } = seen.map_err(failed)?;
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
            Effect::Adopt => self.look_at_region(),
            Effect::Copy => self.copy_tables(false),
            Effect::Fill => {
                // By these all packets may have to go.
                if self.kernel.copies() != Copies::Due && self.watch_conntrack() {
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
                let Repaired { mended, failed } = self.repair_and_tell();
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

    /// What is checked once a second, whatever the events say.
    fn check(&mut self) -> Result<(), DaemonError> {
        self.workers.check()?;
        // However fast changes come, once a second all of them are there.
        self.copy_tables(true);
        self.look_at_region();
        self.show_nearly_full();
        self.keep_auditing();
        Ok(())
    }

    /// Chooses the way of packets by how full connection tracking is. Says whether that is to be shown.
    fn watch_conntrack(&mut self) -> bool {
        let Kernel { shared, ways, .. } = &self.kernel;
        let nearly_full = self.watch.look(self.now(), shared, ways);
        std::mem::replace(&mut self.nearly_full, nearly_full) != nearly_full
    }

    fn show_nearly_full(&self) {
        // A region that is gone is noticed at the next look.
        let _ = stats::set_nearly_full(&mut self.region.mapping(), self.nearly_full);
    }

    fn keep_auditing(&mut self) {
        if self.auditing.lives() {
            return;
        }
        error!("the audit of pins has ended; it is started again");
        let auditor = Auditor::open(&self.kernel.shared, &self.kernel.ways);
        match auditor.and_then(|auditor| Auditing::start(auditor, &self.shown)) {
            Ok(auditing) => self.auditing = auditing,
            Err(error) => error!(%error, "the audit of pins"),
        }
    }

    /// Adopts what is new in the region. What is wrong is logged once, and tried again at every check.
    fn look_at_region(&mut self) {
        match self.adopt_what_is_new() {
            Ok(()) => self.region_error.clear(),
            Err(error) => {
                self.region_error
                    .raise("not all is as it should be; the last good state stays in force", &error);
            }
        }
    }

    /// Repairs the kernel's side; what cannot be repaired is logged once.
    fn repair_and_tell(&mut self) -> Repaired {
        let Mended { any: mended, left } = self.repair();
        let failed = left.is_err();
        match left {
            Ok(()) => self.repair_error.clear(),
            Err(error) => {
                self.repair_error
                    .raise("not all of the kernel's side can be mended; it is tried again", &error);
            }
        }
        Repaired { mended, failed }
    }

    /// What differs on the host since the last look is logged.
    fn look_at_host(&mut self) {
        if let Err(error) = self.host.look(&mut self.kernel) {
            self.repair_error.raise("the host cannot be looked at; it is tried again", &error);
        }
        self.host.show(&self.region);
    }

    fn adopt_what_is_new(&mut self) -> Result<(), DaemonError> {
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
        let left = self.kernel.apply(&state, generation).inspect_err(|_| self.kernel.roll_back());
        self.auditing.tell();
        tell(&left?);
        self.adopted(generation);
        info!(%generation, targets = state.targets_used().count(), "adopted");
        self.host.judge_by(&state);
        self.look_at_host();
        allocator::give_back();
        Ok(())
    }

    /// The kernel, and the device by which held fragments come back.
    fn repair(&mut self) -> Mended {
        let kernel = self.kernel.repair();
        kernel.and(Mended::of(mend_tun(&self.tun, &mut self.kernel)))
    }

    fn adopted(&mut self, generation: Generation) {
        self.daemon.adopted = generation;
        self.show_daemon();
    }

    fn show_daemon(&mut self) {
        // That the kernel refuses some is logged, and tried again.
        if self.kernel.copies() != Copies::Due {
            self.daemon.in_kernel = self.daemon.adopted;
        }
        // A region that is gone is noticed at the next look.
        let _ = self.daemon.write(&mut self.region.mapping());
    }

    /// The kernel's copies of the tables follow a change: some of them, or `all`.
    fn copy_tables(&mut self, all: bool) {
        while self.kernel.copies() == Copies::Due {
            tell(self.kernel.copy_some().err().as_slice());
            if !all {
                break;
            }
        }
        if self.kernel.copies() != Copies::Due && self.daemon.in_kernel != self.daemon.adopted {
            self.show_daemon();
        }
    }

    /// The region's name names another file now.
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
            .map_err(|error: RegionError| AccessError::Unusable { name: region.name().clone(), error })?;
        self.shown.store(region.mapping());
        self.region = region;
        info!("the region was made anew; following the new one");
        Ok(())
    }

    /// SIGHUP: as `lbctl apply FILE`. What a file takes away of that which is in use is
    /// for a person to allow.
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
            Ok((_, (changes, losses), not_kept)) => {
                for change in &changes {
                    info!("{change}");
                }
                for loss in &losses.forgotten {
                    warn!("loss: {loss}");
                }
                if let Some(error) = not_kept {
                    warn!(%error, "what lbctl said is not kept as the file changed it");
                }
                info!(changes = changes.len(), file = %file.display(), "read again");
            }
            Err(error) => error!("SIGHUP: {error}; nothing was changed"),
        }
    }

    /// Ends the workers; the kernel keeps what it has, but for the way of packets while connection tracking is nearly full:
    /// nothing would set that back when there is room again.
    fn end(mut self) {
        self.copy_tables(true);
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
