//! The kernel's side of lbd: what a state asks of it is put there, kept there, and put back when a newer state fails.
//!
//! Order of a change: new routes, rules and elements; then the workers' tables, then the kernel's copies of them; then
//! routes that nobody needs any more. Many copies that no packet goes by as long as lbd lives, and no route waits for, are due:
//! the change is in force without them, and they follow in small parts ([`Kernel::copy_some`]), since a backend of hundreds of
//! services changes hundreds of thousands of their entries. Devices by which routers send packets in GRE are removed before all this, and set up
//! after it. Tunnels to backends and the tier are up before the rules that drop what they bring for no VIP: their routes
//! need them up. At a first start they are so for as long as one run of nft takes; they take packets of those ends alone.

use std::sync::Arc;

use ipnet::IpNet;
use tracing::{error, info, warn};

use super::{
    DaemonError,
    audit::Auditor,
    links,
    mend::{Mended, mend_routing, mend_ruleset, mend_tables, restore_before_ruleset, tell},
    ways::{Chosen, Ways},
};
use crate::{
    balance::Forwarding,
    config::Balancer,
    model::{
        Name, QueueRange, Steering,
        ids::{Generation, MarkMask, QueueNum},
    },
    plan::{
        elements::{Claims, Elements, Way},
        kernel_tables::{self, Shortage},
        routing,
        ruleset::{Means, Ruleset},
    },
    state::State,
    sys::{
        conntrack::Conntrack,
        nft::{self, NftError},
        rtnetlink::{Routing, RoutingError},
    },
    worker::Shared,
};

/// What lbd has set up, and with what.
pub(super) struct Kernel {
    pub(super) shared: Arc<Shared>,
    pub(super) routing: Routing,
    pub(super) tables: nft::Tables,
    others: nft::OthersWatch,
    /// Its lock is held while the kernel is changed.
    pub(super) ways: Arc<Ways>,
    pub(super) means: Means,
    /// What the workers were started with; `None` where the kernel alone decides.
    startup: Option<StartupSettings>,
    /// What the kernel should have.
    pub(super) wanted: Option<Desired>,
    /// Whether it had all of that routing when it was last looked at.
    routing_right: bool,
    /// What was last said about its routing.
    told: Vec<routing::Note>,
    /// Addresses of this host, as they were last seen.
    own: Vec<IpNet>,
    /// The services that were last said to be decided by lbd, though the kernel should.
    left_to_lbd: Vec<(Name, Shortage)>,
    copies: Copies,
}

/// The kernel's copies of the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Copies {
    /// They are of what is wanted.
    #[default]
    Right,
    /// They are of states before, or some of them; [`Kernel::copy_some`] is to follow.
    Due,
    /// They could not be changed; a repair tries again.
    Failed,
}

impl Copies {
    /// How they are after all of them were to be changed.
    fn after<T, E>(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Right } else { Self::Failed }
    }
}

/// Settings that hold as long as the workers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct StartupSettings {
    queues: QueueRange,
    fragment_queue: QueueNum,
    mark_mask: MarkMask,
}

/// What one state asks of the kernel, and the workers' side of it.
pub(super) struct Desired {
    pub(super) forwarding: Arc<Forwarding>,
    pub(super) routing: routing::Desired,
    pub(super) ruleset: Ruleset,
    /// The ruleset's, before addresses of this host are cut out.
    elements: Elements,
    /// See [`routing::tier_devices`].
    pub(super) tier_devices: Vec<String>,
}

impl StartupSettings {
    pub(super) fn of(balancer: &Balancer) -> Self {
        Self {
            queues: balancer.queues,
            fragment_queue: balancer.fragment_queue,
            mark_mask: balancer.mark_mask,
        }
    }
}

impl Desired {
    pub(super) fn by(
        state: &State,
        generation: Generation,
        means: Means,
        own: &[IpNet],
    ) -> Result<Self, DaemonError> {
        let forwarding = Arc::new(Forwarding::new(state, generation)?);
        let mut ruleset = Ruleset::new(state, &Claims::of(forwarding.classifier()), means)?;
        let whole = ruleset.elements.without(own);
        let elements = std::mem::replace(&mut ruleset.elements, whole);
        Ok(Self {
            routing: routing::desired(state)?,
            ruleset,
            elements,
            tier_devices: routing::tier_devices(state).collect(),
            forwarding,
        })
    }
}

impl Kernel {
    /// Nothing is changed yet.
    pub(super) fn open(
        means: Means,
        own: Vec<IpNet>,
        shared: &Arc<Shared>,
        startup: Option<StartupSettings>,
    ) -> Result<Self, DaemonError> {
        // The worker of fragments is told about the tier's tunnels before fragments can come by them.
        let told = Arc::clone(shared);
        Ok(Self {
            shared: Arc::clone(shared),
            routing: Routing::open_telling(move |inbound| links::add_tier(&told, &[inbound]))?,
            tables: nft::Tables::restoring(Arc::clone(&shared.off_table)),
            others: nft::OthersWatch::default(),
            ways: Arc::default(),
            means,
            startup,
            wanted: None,
            routing_right: false,
            told: Vec::new(),
            own,
            left_to_lbd: Vec::new(),
            copies: Copies::default(),
        })
    }

    /// Kernel and workers shall do what `state` says, but for the kernel's copies of the tables, which may be [`Copies::Due`]
    /// then where there are workers. Returns what is left to a repair and held up nothing else: targets whose next hops are
    /// out of reach now, and those copies, as long as workers decide for all services.
    pub(super) fn apply(
        &mut self,
        state: &State,
        generation: Generation,
    ) -> Result<Vec<DaemonError>, DaemonError> {
        let mut state = state.clone();
        let balancer = &mut state.balancer;
        if let Some(startup) = self.startup.filter(|startup| *startup != StartupSettings::of(balancer)) {
            let mask = format!("{:#x}", balancer.mark_mask.bits());
            warn!(
                queues = %balancer.queues, fragment_queue = balancer.fragment_queue.0, mark_mask = mask,
                "other queues or marks are used from the next start on"
            );
            let StartupSettings { queues, fragment_queue, mark_mask } = startup;
            (balancer.queues, balancer.fragment_queue, balancer.mark_mask) =
                (queues, fragment_queue, mark_mask);
        }
        let mut wanted = Desired::by(&state, generation, self.means, &self.own)?;
        let left = kernel_tables::left_to_lbd(&state).map(|(service, why)| (service.name.clone(), why));
        let left: Vec<(Name, Shortage)> = left.collect();
        // Without lbd other words are said about them (once.rs).
        for (name, why) in left.iter().filter(|one| self.startup.is_some() && !self.left_to_lbd.contains(one))
        {
            warn!(
                service = name.as_str(),
                "the kernel has no table of it ({why}), so lbd decides, not the kernel"
            );
        }
        self.left_to_lbd = left;
        let ways = Arc::clone(&self.ways);
        let mut ways = ways.lock();
        let former = self.wanted.as_ref().map_or((0, 0), |last| wanted.routing.succeed(&last.routing));
        // Most changes leave routing alone. What others have changed of it is mended by a repair.
        let routing_right = std::mem::take(&mut self.routing_right)
            && self.wanted.as_ref().is_some_and(|last| last.routing == wanted.routing);
        let (before, after) = if routing_right {
            (Vec::new(), Vec::new())
        } else {
            let now = self.routing.current(&wanted.routing)?;
            routing::diff(&now, &wanted.routing).map_err(RoutingError::from)?.around_ruleset()
        };
        let left = self.routing.apply_reachable(&before)?;
        // New devices are told already; these may have been backends' until now. What leaves the tier still counts.
        links::add_tier(&self.shared, &links::indexes(&wanted.tier_devices));
        if ways.way() == Way::Untracked {
            place_before(&self.shared, &self.ways, &wanted.forwarding, &mut ways);
        }
        let tables = &mut self.tables;
        let applied =
            ways.with(&mut wanted.ruleset, |ruleset, in_force| nft::change(ruleset, in_force, tables))?;
        ways.adopt(&self.shared, &wanted.forwarding);
        let mut left: Vec<DaemonError> = left.into_iter().map(DaemonError::OutOfReach).collect();
        // Before routes go that they lead to.
        let may_follow = after.is_empty() && ways.way() != Way::Untracked;
        let entries_changed = self.copy_or_postpone(&wanted.ruleset, may_follow, &mut left)?;
        self.routing.apply(&after)?;
        let in_reach = !left.iter().any(|problem| matches!(problem, DaemonError::OutOfReach(_)));
        if in_reach && !routing_right {
            tell(&mut self.told, self.routing.converge(&wanted.routing)?.notes);
        }
        self.routing_right = in_reach;
        links::set_tier(&self.shared, &links::indexes(&wanted.tier_devices));
        let pinned = |last: &Desired| last.forwarding.steering() == Steering::SynOnly;
        if wanted.forwarding.steering() == Steering::EveryPacket && self.wanted.as_ref().is_none_or(pinned) {
            forget_pins(&wanted.ruleset.elements, state.balancer.mark_mask);
        }
        if former != (0, 0) {
            let (kept, not_kept) = former;
            info!(
                kept,
                not_kept,
                "addresses that are VIPs no more keep their blackhole routes until lbd starts again, or until \
                 `ip route del blackhole PREFIX`, so that they do not go round between routers and this host"
            );
        }
        self.wanted = Some(wanted);
        info!(
            routing_changes = before.len() + after.len(), rules = ?applied.structure, elements_added = applied.elements_added,
            elements_deleted = applied.elements_deleted, entries_changed, "in force"
        );
        Ok(left)
    }

    /// Brings the kernel's copies of the tables up to date, or leaves them due: many of them, where they `may_follow` and nobody
    /// goes by them as long as lbd lives. Says how many entries were changed. That they cannot be is `left` to a repair where
    /// workers decide.
    fn copy_or_postpone(
        &mut self,
        ruleset: &Ruleset,
        may_follow: bool,
        left: &mut Vec<DaemonError>,
    ) -> Result<usize, DaemonError> {
        let only_without_lbd = self.startup.is_some() && !ruleset.kernel_decides();
        let changes = self.wanted.is_some();
        if may_follow && only_without_lbd && changes && !self.tables.is_little(&ruleset.tables) {
            self.copies = Copies::Due;
            return Ok(0);
        }
        let applied = self.tables.apply(&ruleset.tables);
        self.copies = Copies::after(&applied);
        match applied {
            Err(error) if only_without_lbd => {
                left.push(error.into());
                Ok(0)
            }
            applied => Ok(applied?),
        }
    }

    /// How the kernel's copies of the tables are.
    pub(super) fn copies(&self) -> Copies {
        self.copies
    }

    /// Brings a part of those that are [`Copies::Due`] up to date.
    ///
    /// # Errors
    /// When the kernel refuses; what it does not refuse is done, and a repair tries the rest again.
    pub(super) fn copy_some(&mut self) -> Result<(), DaemonError> {
        let Some(wanted) = &self.wanted else { return Ok(()) };
        let wanted = &wanted.ruleset.tables;
        let _lock = self.ways.lock();
        // One that is refused does not hold up the others.
        let all = self.tables.apply_some(wanted).or_else(|_| self.tables.apply(wanted).map(|_| true));
        self.copies = match all {
            Ok(false) => Copies::Due,
            Ok(true) => Copies::Right,
            Err(_) => Copies::Failed,
        };
        if all? {
            info!(tables = wanted.len(), "the kernel has copies of the tables");
        }
        Ok(())
    }

    /// After a change that failed half-way: kernel and workers as they were for the last good state. What that needs and
    /// cannot have now comes with a repair.
    pub(super) fn roll_back(&mut self) {
        let Some(wanted) = &mut self.wanted else { return };
        let ways = Arc::clone(&self.ways);
        let mut ways = ways.lock();
        self.routing_right = false;
        let after = restore_before_ruleset(&mut self.routing, &wanted.routing);
        let tables = &mut self.tables;
        let ruleset = ways.with(&mut wanted.ruleset, |ruleset, _| nft::apply(ruleset, tables));
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
        self.copies = Copies::after(&tables);
        if let Err(error) = tables {
            error!(%error, "the kernel's copies of the tables of the last good state");
        }
        ways.adopt(&self.shared, &wanted.forwarding);
        links::set_tier(&self.shared, &links::indexes(&wanted.tier_devices));
    }

    /// The host has these addresses now. Those in prefixes of VIPs stay its own; says whether that changes anything.
    ///
    /// # Errors
    /// When the ruleset cannot be changed.
    pub(super) fn set_own(&mut self, own: Vec<IpNet>) -> Result<bool, DaemonError> {
        self.own = own;
        let Some(wanted) = &mut self.wanted else { return Ok(false) };
        let ways = Arc::clone(&self.ways);
        let mut ways = ways.lock();
        let mut elements = wanted.elements.without(&self.own);
        // The way may be another one since; that is no change of addresses.
        elements.set_way(ways.way());
        wanted.ruleset.elements.set_way(ways.way());
        if elements == wanted.ruleset.elements {
            return Ok(false);
        }
        wanted.ruleset.elements = elements;
        let tables = &mut self.tables;
        ways.with(&mut wanted.ruleset, |ruleset, in_force| nft::change(ruleset, in_force, tables))?;
        Ok(true)
    }

    /// Whether others have changed nf_tables since this was last asked.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub(super) fn changed_by_others(&mut self) -> Result<bool, NftError> {
        // The audit changes nothing meanwhile.
        let _lock = self.ways.lock();
        self.others.look()
    }

    /// Mends what other programs have changed: a link that went down takes its routes along, a service that reloads the
    /// host's own rules may flush ours. What cannot be mended holds up nothing else.
    pub(super) fn repair(&mut self) -> Mended {
        let Some(wanted) = &mut self.wanted else { return Mended { any: false, left: Ok(()) } };
        let ways = Arc::clone(&self.ways);
        let mut ways = ways.lock();
        // First, since an entrance must not open without it.
        let tables = &mut self.tables;
        let ruleset = ways.with(&mut wanted.ruleset, |ruleset, _| mend_ruleset(ruleset, tables));
        let routing = mend_routing(&mut self.routing, &wanted.routing, ruleset.is_ok(), &mut self.told);
        let routing = routing.unwrap_or_else(Mended::failed);
        self.routing_right = ruleset.is_ok() && routing.left.is_ok();
        // Tables that still follow a change of lbd's own are not repaired.
        let mut tables = Ok(false);
        if self.copies != Copies::Due {
            tables = mend_tables(&mut self.tables, &wanted.ruleset);
            self.copies = Copies::after(&tables);
        }
        links::set_tier(&self.shared, &links::indexes(&wanted.tier_devices));
        Mended::of(ruleset).and(Mended::of(tables)).and(routing)
    }
}

/// Packets are about to go by the kernel's tables of `next`, so flows that these do not name where they are must be known
/// first. That it cannot be holds nothing up.
pub(super) fn place_before(shared: &Arc<Shared>, lock: &Arc<Ways>, next: &Forwarding, ways: &mut Chosen) {
    let placed = Auditor::open(shared, lock).and_then(|mut auditor| auditor.place(next, ways));
    if let Err(error) = placed {
        error!(%error, "off-table flows of a new table: they follow it until the next audit");
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
