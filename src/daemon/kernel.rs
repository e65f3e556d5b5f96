//! The kernel's side of lbd: what a state asks of it is put there, kept there, and put back if a newer state fails.
//!
//! All of this is one function, [`Kernel::reconcile`]; `reconcile.rs` has its steps, and why they come in this order.
//!
//! Large fallback tables may be due after a change: if no packet goes by them while lbd runs, and no route waits for them, the
//! change is in force without them, and they follow in small parts ([`Kernel::fill_some_fallback`]). A backend of hundreds of
//! services changes hundreds of thousands of their entries.

use std::sync::Arc;

use ipnet::IpNet;
use tracing::{error, info, warn};

use super::{
    DaemonError,
    announce::Announced,
    audit::place_before,
    desired::{Desired, StartupSettings},
    links,
    reconcile::{Policy, Report, Step, run},
    ways::{Chosen, Ways},
};
use crate::{
    model::{
        Name, Steering,
        ids::{Generation, MarkMask},
    },
    plan::{
        elements::{Elements, Way},
        kernel_tables::{self, Shortage},
        routing::{self, Note, Op},
        ruleset::Means,
    },
    state::State,
    sys::{
        conntrack::Conntrack,
        nft::{self, Differences, NftError},
        rtnetlink::{Routing, RoutingError},
        tun::Tun,
    },
    worker::Shared,
};

/// Connections to the kernel, and what is known of it.
pub(super) struct Kernel {
    pub(super) shared: Arc<Shared>,
    pub(super) routing: Routing,
    pub(super) tables: nft::Tables,
    others: nft::OthersWatch,
    /// Its lock is held while the kernel is changed.
    pub(super) ways: Arc<Ways>,
    pub(super) means: Means,
    /// What the workers were started with; `None` if there are no workers, so that the kernel alone decides.
    startup: Option<StartupSettings>,
    /// The last good state.
    pub(super) desired: Option<Desired>,
    /// Whether the kernel had all of the desired routing when it was last looked at.
    routing_right: bool,
    /// What was last logged about routing.
    notes: Vec<Note>,
    /// The addresses of this host, as last seen.
    own: Vec<IpNet>,
    /// The services that lbd decides for although the kernel should, as last logged.
    left_to_lbd: Vec<(Name, Shortage)>,
    fallback: Fallback,
    /// The VIPs that are announced, and their table.
    announced: Announced,
}

/// The state of the fallback tables (`plan/kernel_tables.rs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fallback {
    /// They are as desired.
    #[default]
    Right,
    /// Some of them are still those of earlier states. [`Kernel::fill_some_fallback`] changes them.
    Due,
    /// They could not be changed. A repair tries again.
    Failed,
}

impl Kernel {
    /// Changes nothing yet.
    pub(super) fn open(
        means: Means,
        own: Vec<IpNet>,
        shared: &Arc<Shared>,
        startup: Option<StartupSettings>,
    ) -> Result<Self, DaemonError> {
        // The worker of fragments knows a tunnel of the tier before fragments can come by it.
        let links = Arc::clone(shared);
        Ok(Self {
            shared: Arc::clone(shared),
            routing: Routing::open_announcing(move |inbound| links::add_tier(&links, &[inbound]))?,
            tables: nft::Tables::restoring(Arc::clone(&shared.off_table)),
            others: nft::OthersWatch::default(),
            ways: Arc::default(),
            means,
            startup,
            desired: None,
            routing_right: false,
            notes: Vec::new(),
            own,
            left_to_lbd: Vec::new(),
            fallback: Fallback::default(),
            announced: Announced::default(),
        })
    }

    /// Returns the bits of the mark that the workers were started with.
    pub(super) fn mark_mask(&self) -> Option<MarkMask> {
        self.startup.map(StartupSettings::mark_mask)
    }

    /// Makes kernel and workers do what `state` says, and announces these VIPs. If there are workers, the fallback tables may be [`Fallback::Due`] then.
    /// The report has what is left to a repair: targets whose next hops are out of reach now, and fallback tables, as long
    /// as workers decide for all services.
    ///
    /// # Errors
    /// The first failure. The last good state is in force again then, as far as the kernel allows it.
    pub(super) fn apply(
        &mut self,
        state: &State,
        generation: Generation,
        announced: Announced,
    ) -> Result<Report, DaemonError> {
        let mut state = state.clone();
        if let Some(startup) = self.startup {
            startup.keep_in(&mut state.balancer);
        }
        let mut desired = Desired::by(&state, generation, self.means, &self.own)?;
        announced.put_in(&mut desired.routing);
        self.log_left_to_lbd(&state);
        let (kept, not_kept) =
            self.desired.as_ref().map_or((0, 0), |last| desired.routing.succeed(&last.routing));
        let report = self.reconcile(&mut desired, Policy::Change).inspect_err(|_| self.roll_back())?;
        if let Some(notes) = &report.notes {
            log_new(&mut self.notes, notes);
        }
        let pinned = |last: &Desired| last.forwarding.steering() == Steering::SynOnly;
        if desired.forwarding.steering() == Steering::EveryPacket && self.desired.as_ref().is_none_or(pinned)
        {
            forget_pins(&desired.ruleset.elements, state.balancer.mark_mask);
        }
        if (kept, not_kept) != (0, 0) {
            info!(
                kept,
                not_kept,
                "addresses that are VIPs no more keep their blackhole routes until lbd starts again, or until \
                 `ip route del blackhole PREFIX`, so that they do not go round between routers and this host"
            );
        }
        self.desired = Some(desired);
        announced.log_since(&self.announced);
        self.announced = announced;
        report.log_change();
        Ok(report)
    }

    /// Announces these VIPs and no others, while all else stays.
    ///
    /// # Errors
    /// When the kernel refuses. A repair tries again.
    pub(super) fn announce(&mut self, announced: Announced) -> Result<(), RoutingError> {
        let Some(desired) = &mut self.desired else { return Ok(()) };
        if announced == self.announced {
            return Ok(());
        }
        announced.put_in(&mut desired.routing);
        announced.log_since(&self.announced);
        self.announced = announced;
        let _lock = self.ways.lock();
        self.routing.announce(&self.announced.routes()).map(|_| ())
    }

    /// Puts the last good state in force again, after a change that failed half-way.
    pub(super) fn roll_back(&mut self) {
        let report = self.return_to_last_good(Policy::RollBack);
        // The log has targets out of reach since they were first found.
        let left = report.left.iter().filter(|problem| !matches!(problem, DaemonError::OutOfReach(_)));
        for problem in left {
            error!(%problem, "not all of the last good state is in force; the rest is tried again every few seconds");
        }
    }

    /// Repairs what other programs have changed: a link that went down takes its routes along, a service that reloads the
    /// host's own rules may flush ours. `tun` is the device by which held fragments come back.
    pub(super) fn repair(&mut self, tun: &Tun) -> Report {
        let mut report = self.mend();
        match self.set_up_fragments_device(tun) {
            Ok(changed) => report.fragments_device = changed,
            Err(error) => report.left.push(error),
        }
        if let Some(notes) = &report.notes {
            log_new(&mut self.notes, notes);
        }
        report.log_repair();
        report
    }

    /// Makes sure that the device by which held fragments come back is there and set up. Returns whether anything was to do.
    pub(super) fn set_up_fragments_device(&mut self, tun: &Tun) -> Result<bool, DaemonError> {
        let new = tun.renew()?;
        links::set_tun(&self.shared, tun.index());
        Ok(self.routing.set_up_fragments_device()? || new)
    }

    /// Returns what a repair would change, but for the device of held fragments, which only an lbd has. Changes nothing.
    pub(super) fn look(&mut self) -> Report {
        self.return_to_last_good(Policy::Look)
    }

    /// As [`Kernel::repair`], without the device of held fragments.
    pub(super) fn mend(&mut self) -> Report {
        self.return_to_last_good(Policy::Repair)
    }

    fn return_to_last_good(&mut self, policy: Policy) -> Report {
        let Some(mut desired) = self.desired.take() else { return Report::default() };
        let report = self.reconcile(&mut desired, policy);
        self.desired = Some(desired);
        report.unwrap_or_else(|error| {
            let mut report = Report::default();
            report.left.push(error);
            report
        })
    }

    /// Makes kernel and workers do what is desired, step by step (`reconcile.rs`).
    fn reconcile(&mut self, desired: &mut Desired, policy: Policy) -> Result<Report, DaemonError> {
        let ways = Arc::clone(&self.ways);
        let mut ways = ways.lock();
        // Most changes leave routing alone. A repair finds what other programs have changed of it.
        let routing_right = std::mem::take(&mut self.routing_right)
            && !policy.compares()
            && self.desired.as_ref().is_some_and(|last| last.routing == desired.routing);
        let mut late = Vec::new();
        let report = run(policy, |step, report| {
            match step {
                Step::RoutingBefore if routing_right => {}
                Step::RoutingBefore => late = self.change_routing(&desired.routing, policy, report)?,
                Step::Ruleset => report.ruleset = self.put_ruleset(&mut ways, desired, policy)?,
                Step::Workers => {
                    if self.workers_follow_others(desired) {
                        ways.adopt(&self.shared, &desired.forwarding);
                    }
                }
                Step::Fallback => self.put_fallback(ways.way(), desired, policy, late.is_empty(), report)?,
                Step::RoutingAfter if routing_right => {}
                Step::RoutingAfter => self.finish_routing(&desired.routing, &late, policy, report)?,
                Step::Tier => links::set_tier(&self.shared, &links::indexes(&desired.tier_devices)),
            }
            Ok(())
        })?;
        self.routing_right = report.routing_is_right();
        Ok(report)
    }

    /// Makes the changes of routing that come before the ruleset. Returns those that come after it. A look makes none.
    fn change_routing(
        &mut self,
        desired: &routing::Desired,
        policy: Policy,
        report: &mut Report,
    ) -> Result<Vec<Op>, RoutingError> {
        let mut diff = routing::diff(&self.routing.current(desired)?, desired)?;
        report.notes = Some(std::mem::take(&mut diff.notes));
        if policy == Policy::Look {
            report.add_routing(&diff.ops, Vec::new());
            return Ok(Vec::new());
        }
        let (early, late) = diff.around_ruleset();
        report.add_routing(&early, self.routing.apply_reachable(&early)?);
        Ok(late)
    }

    /// Makes the changes of routing that come after the ruleset. A change is read back, unless next hops are out of reach.
    fn finish_routing(
        &mut self,
        desired: &routing::Desired,
        late: &[Op],
        policy: Policy,
        report: &mut Report,
    ) -> Result<(), RoutingError> {
        report.add_routing(late, self.routing.apply_reachable(late)?);
        if policy == Policy::Change && report.all_in_reach() {
            self.routing.converge(desired)?;
        }
        Ok(())
    }

    /// Puts the ruleset in force, with the way of packets that is chosen now. Returns what was changed; `None` if it was
    /// compared and nothing differed.
    fn put_ruleset(
        &mut self,
        ways: &mut Chosen,
        desired: &mut Desired,
        policy: Policy,
    ) -> Result<Option<(Differences, nft::Applied)>, NftError> {
        // A new tunnel is known already; one that was a backend's until now is not. What leaves the tier still counts.
        links::add_tier(&self.shared, &links::indexes(&desired.tier_devices));
        if ways.way() == Way::Untracked && self.workers_follow_others(desired) {
            place_before(&self.shared, &self.ways, &desired.forwarding, ways);
        }
        let tables = &mut self.tables;
        ways.with(&mut desired.ruleset, |ruleset, in_force| {
            if policy == Policy::Look {
                return nft::look(ruleset);
            }
            if policy.compares() {
                return nft::mend(ruleset, tables);
            }
            nft::change(ruleset, in_force, tables).map(|applied| Some((Differences::default(), applied)))
        })
    }

    /// Whether the workers follow other tables than the desired ones.
    fn workers_follow_others(&self, desired: &Desired) -> bool {
        !Arc::ptr_eq(&self.shared.forwarding.load(), &desired.forwarding)
    }

    /// Brings the fallback tables up to date, or leaves them due. `routing_done` says that no route waits for their entries.
    fn put_fallback(
        &mut self,
        way: Way,
        desired: &Desired,
        policy: Policy,
        routing_done: bool,
        report: &mut Report,
    ) -> Result<(), NftError> {
        let tables = &desired.ruleset.tables;
        if policy == Policy::Look {
            if self.fallback != Fallback::Due {
                report.fallback = self.tables.look(tables)?;
            }
            return Ok(());
        }
        let workers_decide = self.startup.is_some() && !desired.ruleset.kernel_decides();
        let due = self.fallback == Fallback::Due;
        let follows = match policy {
            // The first ones are there when lbd is ready.
            Policy::Change => self.desired.is_some() && !self.tables.is_little(tables),
            Policy::RollBack | Policy::Look => false,
            Policy::Repair => due,
        };
        // Packets go by them only if lbd does not answer.
        if follows && workers_decide && way != Way::Untracked && routing_done {
            self.fallback = Fallback::Due;
            return Ok(());
        }
        if policy == Policy::Repair {
            self.tables.sample(tables);
        }
        let applied = self.tables.apply(tables);
        self.fallback = if applied.is_ok() { Fallback::Right } else { Fallback::Failed };
        match applied {
            // Entries that were due did not differ by another program's doing.
            Ok(_) if due && policy == Policy::Repair => Ok(()),
            Ok(entries) => {
                report.entries = entries;
                Ok(())
            }
            Err(error) if workers_decide => {
                report.left.push(error.into());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Some fallback tables are those of earlier states, and another process is bringing them up to date.
    pub(super) fn fallback_follows(&mut self) {
        self.fallback = Fallback::Due;
    }

    /// The state of the fallback tables.
    pub(super) fn fallback(&self) -> Fallback {
        self.fallback
    }

    /// Brings some of the fallback tables that are [`Fallback::Due`] up to date.
    ///
    /// # Errors
    /// When the kernel refuses one. The others are brought up to date, and a repair tries the rest again.
    pub(super) fn fill_some_fallback(&mut self) -> Result<(), NftError> {
        let Some(desired) = &self.desired else { return Ok(()) };
        let desired = &desired.ruleset.tables;
        let _lock = self.ways.lock();
        // One that is refused does not hold up the others.
        let all = self.tables.apply_some(desired).or_else(|_| self.tables.apply(desired).map(|_| true));
        self.fallback = match all {
            Ok(false) => Fallback::Due,
            Ok(true) => Fallback::Right,
            Err(_) => Fallback::Failed,
        };
        if all? {
            info!(tables = desired.len(), "the fallback tables are up to date");
        }
        Ok(())
    }

    /// The host has these addresses now. Those in prefixes of VIPs stay its own. Returns whether that changes anything.
    ///
    /// # Errors
    /// When the ruleset cannot be changed.
    pub(super) fn set_own(&mut self, own: Vec<IpNet>) -> Result<bool, NftError> {
        self.own = own;
        let Some(mut desired) = self.desired.take() else { return Ok(false) };
        let ways = Arc::clone(&self.ways);
        let mut ways = ways.lock();
        let changes = desired.set_own(&self.own, ways.way());
        let changed = if changes {
            self.put_ruleset(&mut ways, &mut desired, Policy::Change).map(|_| true)
        } else {
            Ok(false)
        };
        self.desired = Some(desired);
        changed
    }

    /// Whether other programs have changed nf_tables since the last call.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub(super) fn changed_by_others(&mut self) -> Result<bool, NftError> {
        // The audit changes nothing meanwhile.
        let _lock = self.ways.lock();
        self.others.look()
    }

    /// Logs the services that lbd decides for although the kernel should, as far as they are new. Without workers, `once.rs`
    /// reports them.
    fn log_left_to_lbd(&mut self, state: &State) {
        let left = kernel_tables::left_to_lbd(state).map(|(service, why)| (service.name.clone(), why));
        let left: Vec<(Name, Shortage)> = left.collect();
        for (name, why) in left.iter().filter(|one| self.startup.is_some() && !self.left_to_lbd.contains(one))
        {
            warn!(
                service = name.as_str(),
                "the kernel has no table of it ({why}), so lbd decides, not the kernel"
            );
        }
        self.left_to_lbd = left;
    }
}

/// Logs the notes that are new, and remembers these.
fn log_new(last: &mut Vec<Note>, notes: &[Note]) {
    for note in notes.iter().filter(|note| !last.contains(note)) {
        warn!("{note}");
    }
    *last = notes.to_vec();
}

/// Deletes the connection tracking entries of pinned flows. Nothing keeps them up to date while every packet is steered by
/// itself, so a later `syn-only` must not find them. If they cannot be deleted, they do no harm until then.
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
