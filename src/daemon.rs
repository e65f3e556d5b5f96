//! What lbd does besides deciding: it takes over what there is, puts the state in force, starts the workers, and then
//! follows the region until somebody ends it.
//!
//! Order of start: region, kernel parts, queues and the TUN device, routing, ruleset, workers. Queues are bound before
//! rules send packets to them, and routes are there before marks that need them. Order of a change: new routes, rules
//! and elements; then the workers' tables, then the kernel's copies of them; then routes that nobody needs any more. Devices
//! by which routers send packets in GRE are removed before all this, and set up after it. Tunnels to backends and the tier
//! are up before the rules that drop what they bring for no VIP: their routes need them up. At a first start they are so for
//! as long as one run of nft takes; they take packets of those ends alone.
//!
//! Whatever goes wrong with a new state, the last good one stays in force, and the reason is logged. Ending leaves the
//! kernel as it is, so that flows go on, and new ones begin by its copies of the tables; [`cleanup`] removes everything.

mod error;
mod links;
mod mend;
mod workers;

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
pub use error::DaemonError;
use mend::{
    mend_routing, mend_ruleset, mend_tables, mend_tun, restore_before_ruleset, routing_that_tells, tend_tun,
};
use tracing::{error, info, warn};
use workers::{Opened, Workers};

use crate::{
    balance::Forwarding,
    config::{Config, InterfaceName, QueueRange, Steering},
    ids::{Generation, MarkMask, QueueNum},
    plan::{
        elements::{Claims, Elements},
        routing,
        ruleset::{QueueBy, Ruleset},
    },
    shm::{
        RegionError, slots,
        stats::{self, Daemon},
    },
    state::State,
    sys::{
        alone::Alone,
        capability, clock,
        conntrack::Conntrack,
        interface_index, nft,
        probe::{self, Severity},
        region::{AccessError, Mapping, Region, RegionName},
        rtnetlink::{Routing, RoutingError},
        signal::{Signals, Wish},
        tun::Tun,
    },
    worker::Shared,
};

/// How often the region's generation is looked at.
const TICK: Duration = Duration::from_millis(20);
/// How often it is made sure that the region is still the one of its name, and a failed adoption is tried again.
const CHECK: Duration = Duration::from_secs(1);
/// Every how many checks the kernel is compared with what it should have.
const CHECKS_PER_REPAIR: u32 = 10;

/// Reads and checks a configuration file, as far as that goes without the kernel.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check(file: &std::path::Path) -> Result<(Config, State), DaemonError> {
    let text =
        std::fs::read_to_string(file).map_err(|error| DaemonError::File { file: file.to_owned(), error })?;
    let config = Config::parse(&file.display().to_string(), &text)?;
    let state = State::new(&config)?;
    Forwarding::new(&state, Generation::default())?;
    routing::desired(&state)?;
    Ok((config, state))
}

/// Removes everything that lbd has set up: ruleset, rules, routes, devices and the region. Says what there was.
///
/// # Errors
/// When an lbd is at work, or the kernel refuses.
pub fn cleanup(name: &RegionName) -> Result<Vec<String>, DaemonError> {
    let _alone = Alone::take()?;
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
    Ok(removed)
}

/// Balances until it is told to end.
///
/// # Errors
/// When it cannot start, or a worker's queue is gone.
pub fn run(config: Option<PathBuf>, name: &RegionName) -> Result<(), DaemonError> {
    // Before any thread starts, so that all of them leave signals to this one.
    let signals = Signals::take().map_err(|error| DaemonError::Os { doing: "taking signals", error })?;
    if !capability::may_administer_network() {
        return Err(DaemonError::NotAllowed);
    }
    let given = config.as_deref().map(check).transpose()?;
    let _alone = Alone::take()?;
    let (region, generation, state, made) = open_region(name, given.as_ref())?;
    let mut lbd = Lbd::start(region, generation, &state, config).inspect_err(|_| {
        // It would be followed at the next start, whatever is mended in the file until then.
        if made && let Err(error) = Region::remove(name) {
            warn!(%error, "the region that was made just now stays");
        }
    })?;
    info!(
        region = %name, %generation, services = state.services.len(), targets = state.targets_used().count(),
        queues = %state.balancer.queues, "ready"
    );
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        warn!(%error, "the service manager cannot be told");
    }
    let result = lbd.follow(signals);
    lbd.end();
    result
}

/// The region with its state: made from the file if there is none, and whether it was.
fn open_region(
    name: &RegionName,
    given: Option<&(Config, State)>,
) -> Result<(Region, Generation, State, bool), DaemonError> {
    let (mut region, made) = match Region::open(name) {
        Ok(region) => (region, false),
        Err(AccessError::Missing(_)) => {
            let Some((_, state)) = given else { return Err(DaemonError::NothingToStartFrom(name.clone())) };
            info!(region = %name, "made from the configuration file");
            (Region::create(name, state)?, true)
        }
        Err(error) => return Err(error.into()),
    };
    region.follow()?;
    let (generation, state) = region.state()?;
    if state.balancer.interfaces.is_empty() {
        return Err(DaemonError::NoInterfaces(name.clone()));
    }
    if let Some((config, _)) = given {
        let differences = state.changes(&state.merge(config)?);
        if !differences.is_empty() {
            let first = differences.first().map(ToString::to_string).unwrap_or_default();
            warn!(
                differences = differences.len(),
                first,
                "the region is followed, not the file, which differs; `lbctl apply FILE` makes the region what the file says"
            );
        }
    }
    Ok((region, generation, state, made))
}

/// A running lbd.
struct Lbd {
    config: Option<PathBuf>,
    region: Region,
    shown: Arc<ArcSwap<Mapping>>,
    shared: Arc<Shared>,
    routing: Routing,
    queue_by: QueueBy,
    queues: QueueRange,
    fragment_queue: QueueNum,
    mark_mask: MarkMask,
    tables: nft::Tables,
    tun: Arc<Tun>,
    workers: Workers,
    daemon: Daemon,
    /// What the kernel should have.
    wanted: Option<Wanted>,
    checks: u32,
    /// With the region and what it says.
    trouble: Trouble,
    /// With mending the kernel.
    mending: Trouble,
}

/// What one state asks of the kernel, and the workers' side of it.
struct Wanted {
    forwarding: Arc<Forwarding>,
    routing: routing::Desired,
    ruleset: Ruleset,
    /// See [`routing::tier_devices`].
    tier_devices: Vec<String>,
}

/// What was last complained about, so that it is not said every second.
#[derive(Default)]
struct Trouble(String);

impl Trouble {
    fn with(&mut self, problem: &dyn std::fmt::Display) {
        let message = problem.to_string();
        if self.0 != message {
            error!(problem = %message, "not all is as it should be; the last good state stays in force");
            self.0 = message;
        }
    }

    fn over(&mut self) {
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
        config: Option<PathBuf>,
    ) -> Result<Self, DaemonError> {
        let queue_by = look_at_host(state)?;
        let opened = Opened::open(&state.balancer)?;
        let workers = opened.workers();
        let daemon = Daemon {
            pid: u64::from(std::process::id()),
            adopted: Generation(0),
            started_unix_seconds: clock::unix_seconds(),
            workers: workers as u64,
        };
        let unusable = |error| AccessError::Unusable { name: region.name().clone(), error };
        let mut mapping = region.mapping();
        stats::clear(&mut mapping, workers).map_err(unusable)?;
        daemon.write(&mut mapping).map_err(unusable)?;
        let shown = Arc::new(ArcSwap::new(mapping));
        let shared = Arc::new(Shared::new(Forwarding::new(state, generation)?));
        let routing = routing_that_tells(&shared)?;
        let mut lbd = Self {
            config,
            region,
            shown,
            shared,
            queue_by,
            queues: state.balancer.queues,
            fragment_queue: state.balancer.fragment_queue,
            daemon,
            mark_mask: state.balancer.mark_mask,
            wanted: None,
            checks: 0,
            routing,
            tables: nft::Tables::default(),
            tun: opened.tun(),
            workers: Workers::default(),
            trouble: Trouble::default(),
            mending: Trouble::default(),
        };
        tend_tun(&lbd.tun, &lbd.shared, &mut lbd.routing)?;
        lbd.put_in_force(state, generation)?;
        lbd.workers.start(opened, &lbd.shared, &lbd.shown)?;
        lbd.adopted(generation);
        Ok(lbd)
    }

    /// Follows the region until told to end.
    fn follow(&mut self, mut signals: Signals) -> Result<(), DaemonError> {
        let mut checked = clock::now();
        loop {
            match signals
                .wait(TICK)
                .map_err(|error| DaemonError::Os { doing: "waiting for signals", error })?
            {
                Some(Wish::End) => return Ok(()),
                Some(Wish::Reload) => self.reload(),
                None => {}
            }
            let now = clock::now();
            let check = now.duration_since(checked) >= CHECK;
            if check {
                checked = now;
                self.workers.check()?;
            }
            self.look_at_region(check);
        }
    }

    /// Adopts what is new. What is wrong is logged once, and tried again at every `check`. Whatever it is, the kernel is
    /// kept as it should be.
    fn look_at_region(&mut self, check: bool) {
        match self.adopt_what_is_new(check) {
            Ok(()) if check => self.trouble.over(),
            Ok(()) => {}
            Err(error) => self.trouble.with(&error),
        }
        if !check {
            return;
        }
        self.checks = self.checks.wrapping_add(1);
        if self.checks.is_multiple_of(CHECKS_PER_REPAIR) {
            match self.repair() {
                Ok(()) => self.mending.over(),
                Err(error) => self.mending.with(&error),
            }
        }
    }

    fn adopt_what_is_new(&mut self, check: bool) -> Result<(), DaemonError> {
        let unusable = |region: &Region, error| AccessError::Unusable { name: region.name().clone(), error };
        if !check && !self.trouble.0.is_empty() {
            return Ok(());
        }
        if check {
            if self.region.is_current().is_ok_and(|current| !current) {
                self.reopen()?;
            }
            if self.region.recover()? {
                self.shown.store(self.region.mapping());
            }
            slots::check(&mut self.region).map_err(|error| unusable(&self.region, error))?;
        }
        let live = slots::generation(&mut self.region).map_err(|error| unusable(&self.region, error))?;
        if live == self.daemon.adopted { Ok(()) } else { self.adopt() }
    }

    fn adopt(&mut self) -> Result<(), DaemonError> {
        let (generation, state) = self.region.state()?;
        if generation == self.daemon.adopted {
            return Ok(());
        }
        if let Err(error) = self.put_in_force(&state, generation) {
            self.go_back();
            return Err(error);
        }
        self.adopted(generation);
        info!(%generation, targets = state.targets_used().count(), "adopted");
        Ok(())
    }

    /// Kernel and workers shall do what `state` says. A target whose next hop is out of reach now holds up no other: it
    /// is tried again at every repair.
    fn put_in_force(&mut self, state: &State, generation: Generation) -> Result<(), DaemonError> {
        let mut state = state.clone();
        let balancer = &mut state.balancer;
        let of_start = (self.queues, self.fragment_queue, self.mark_mask);
        if (balancer.queues, balancer.fragment_queue, balancer.mark_mask) != of_start {
            let mask = format!("{:#x}", balancer.mark_mask.bits());
            warn!(
                queues = %balancer.queues, fragment_queue = balancer.fragment_queue.0, mark_mask = mask,
                "other queues or marks are used from the next start on"
            );
            (balancer.queues, balancer.fragment_queue, balancer.mark_mask) = of_start;
        }
        let missing = |name: &&InterfaceName| interface_index(name.as_str()).is_none();
        for interface in state.balancer.interfaces.iter().filter(missing) {
            warn!(%interface, "there is no such device now: nothing comes in by it");
        }
        let forwarding = Arc::new(Forwarding::new(&state, generation)?);
        let wanted = Wanted {
            routing: routing::desired(&state)?,
            ruleset: Ruleset::new(&state, &Claims::of(forwarding.classifier()), self.queue_by)?,
            tier_devices: routing::tier_devices(&state).collect(),
            forwarding,
        };
        let diff = routing::diff(&self.routing.current()?, &wanted.routing).map_err(RoutingError::from)?;
        let (before, after) = diff.around_ruleset();
        let left = self.routing.apply_reachable(&before)?;
        // New devices are told already; these may have been backends' until now. What leaves the tier still counts.
        links::add_tier(&self.shared, &links::indexes(&wanted.tier_devices));
        let applied = nft::apply(&wanted.ruleset, &mut self.tables)?;
        self.shared.forwarding.store(Arc::clone(&wanted.forwarding));
        // Before routes go that they lead to. Without them all is as it should be as long as lbd decides.
        let entries_changed = self.tables.apply(&wanted.ruleset.tables).unwrap_or_else(|error| {
            error!(%error, "the kernel's copies of the tables are not up to date; they are tried again every few seconds");
            0
        });
        self.routing.apply(&after)?;
        for problem in &left {
            error!(%problem, "a target is out of reach; it is tried again every few seconds");
        }
        if left.is_empty() {
            for note in self.routing.converge(&wanted.routing)?.notes {
                warn!("{note}");
            }
        }
        links::set_tier(&self.shared, &links::indexes(&wanted.tier_devices));
        let pinned = |last: &Wanted| last.forwarding.steering() == Steering::SynOnly;
        if wanted.forwarding.steering() == Steering::EveryPacket && self.wanted.as_ref().is_none_or(pinned) {
            forget_pins(&wanted.ruleset.elements, state.balancer.mark_mask);
        }
        self.wanted = Some(wanted);
        info!(
            routing_changes = before.len() + after.len(), rules = ?applied.structure, elements_added = applied.elements_added,
            elements_deleted = applied.elements_deleted, entries_changed, "in force"
        );
        Ok(())
    }

    /// After a change that failed half-way: kernel and workers as they were for the last good state. What that needs and
    /// cannot have now comes with a repair.
    fn go_back(&mut self) {
        let Some(wanted) = &self.wanted else { return };
        let after = restore_before_ruleset(&mut self.routing, &wanted.routing);
        let ruleset = nft::apply(&wanted.ruleset, &mut self.tables);
        // Before routes go that their entries lead to now.
        let tables = self.tables.apply(&wanted.ruleset.tables);
        let routing =
            after.and_then(|after| if ruleset.is_ok() { self.routing.apply(&after) } else { Ok(()) });
        if let Err(error) = routing {
            error!(%error, "routing of the last good state");
        }
        if let Err(error) = ruleset {
            error!(%error, "ruleset of the last good state");
        }
        if let Err(error) = tables {
            error!(%error, "the kernel's copies of the tables of the last good state");
        }
        self.shared.forwarding.store(Arc::clone(&wanted.forwarding));
        links::set_tier(&self.shared, &links::indexes(&wanted.tier_devices));
    }

    /// Mends what somebody else has changed: a link that went down takes its routes along, a service that reloads the
    /// host's own rules may flush ours. What cannot be mended holds up nothing else.
    ///
    /// # Errors
    /// The first thing that cannot be mended.
    fn repair(&mut self) -> Result<(), DaemonError> {
        let Some(wanted) = &self.wanted else { return Ok(()) };
        // First, since an entrance must not open without it.
        let ruleset = mend_ruleset(&wanted.ruleset, &mut self.tables);
        let routing = mend_routing(&mut self.routing, &wanted.routing, ruleset.is_ok());
        let tables = mend_tables(&mut self.tables, &wanted.ruleset);
        let tun = mend_tun(&self.tun, &self.shared, &mut self.routing);
        links::set_tier(&self.shared, &links::indexes(&wanted.tier_devices));
        ruleset.and(tables).and(routing).and(tun)
    }

    fn adopted(&mut self, generation: Generation) {
        self.daemon.adopted = generation;
        // A region that is gone is noticed at the next look.
        let _ = self.daemon.write(&mut self.region.mapping());
    }

    /// The region's name names another file now.
    fn reopen(&mut self) -> Result<(), DaemonError> {
        let mut region = Region::open(self.region.name())?;
        region.follow()?;
        region.state()?;
        self.daemon.adopted = Generation(0);
        let mut mapping = region.mapping();
        self.daemon
            .write(&mut mapping)
            .and_then(|()| self.workers.identify(&mut mapping))
            .map_err(|error: RegionError| AccessError::Unusable { name: region.name().clone(), error })?;
        self.shown.store(region.mapping());
        self.region = region;
        info!("the region was made anew; following the new one");
        Ok(())
    }

    /// SIGHUP: as `lbctl apply FILE`, and the kernel is looked at now.
    fn reload(&mut self) {
        let Some(file) = self.config.clone() else {
            return warn!("SIGHUP: there is no --config FILE to read again");
        };
        if let Ok(false) = self.region.is_current()
            && let Err(error) = self.reopen()
        {
            return error!("SIGHUP: {error}; nothing was changed");
        }
        let result = check(&file).and_then(|(config, _)| {
            self.region.update(|state| {
                let next = state.merge(&config)?;
                let changes = state.changes(&next);
                Ok::<_, DaemonError>(((!changes.is_empty()).then_some(next), changes))
            })
        });
        match result {
            Ok((_, changes)) => {
                for change in &changes {
                    info!("{change}");
                }
                info!(changes = changes.len(), file = %file.display(), "read again");
            }
            Err(error) => error!("SIGHUP: {error}; nothing was changed"),
        }
        if let Err(error) = self.repair() {
            error!("SIGHUP: mending: {error}; it is tried again every ten seconds");
        }
    }

    /// Ends the workers; the kernel keeps what it has.
    fn end(mut self) {
        self.workers.end(&self.shared);
        self.daemon.pid = 0;
        let _ = self.daemon.write(&mut self.region.mapping());
        info!("ended; the kernel goes on by itself");
    }
}

/// Nothing keeps the entries of flows up to date while every packet is steered by itself, so they must not be found by who
/// comes later. That they cannot be deleted harms nobody now.
fn forget_pins(elements: &Elements, mask: MarkMask) {
    match Conntrack::open().and_then(|mut conntrack| conntrack.forget(mask, |to| elements.has_vip(to))) {
        Ok(0) => {}
        Ok(flows) => {
            info!(flows, "every packet is steered by itself: connection tracking has forgotten the flows");
        }
        Err(error) => warn!(
            %error,
            "connection tracking keeps the marks of flows that were pinned; before steering is \"syn-only\" again, \
             delete them: conntrack -D --dst VIP"
        ),
    }
}

/// Logs what the host lacks; what is needed is an error.
fn look_at_host(state: &State) -> Result<QueueBy, DaemonError> {
    info!("looking at what the kernel has");
    let probe = probe::probe(&state.balancer)?;
    let mut fatal = Vec::new();
    for finding in &probe.findings {
        let probe::Finding { name, value, wanted, severity, advice } = finding;
        match severity {
            Severity::Note => info!(name, value, wanted, "{advice}"),
            Severity::Warning => warn!(name, value, wanted, "{advice}"),
            Severity::Error => fatal.push(format!("{name} is {value}, wanted {wanted}: {advice}")),
        }
    }
    if fatal.is_empty() { Ok(probe.queue_by) } else { Err(DaemonError::KernelParts(fatal.join("\n  "))) }
}

#[cfg(test)]
mod tests;
