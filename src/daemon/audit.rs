//! The audit of pins. It moves off-table flows, those whose pins differ from their tables, from connection tracking to maps. It
//! deletes pins that are not valid for their service, and protects flows that have proved to be connections. `balance/pins.rs`
//! judges the flows.
//!
//! The audit has a thread of its own, since it reads all of connection tracking. It judges by the tables that are in force
//! when it begins. Each of its steps takes the lock ([`super::ways`]). If other tables are in force by then, the audit drops its
//! results and begins again. No flow is lost on its way: first the workers learn where it is, then it is put into its map,
//! then packets are led to the map, and then its entry is deleted.
//!
//! While connection tracking is nearly full, packets go by the fallback tables and not by their entries. Then a change of
//! tables finds its off-table flows before it is in force ([`Auditor::place`]).
//!
//! It also ends flows ([`Forwarding::ends`]): those of a service whose backend is disabled, or down (`on_down`), and once
//! those whose backend was killed. Their entries and their elements of the maps are deleted, wherever they are, so the next
//! packet of each is steered anew. The region has the time of the last kill that was carried out, so that one that lbd did not
//! live to carry out is the next lbd's.
//!
//! With `steering = "every-packet"` no flow is pinned, and the maps are emptied.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use arc_swap::ArcSwap;
use cadence::Cadence;
pub(super) use cadence::Scope;
use tracing::{error, info, warn};

use super::{
    DaemonError, ErrorLatch,
    ways::{Chosen, Ways},
};
use crate::{
    balance::{
        Forwarding,
        flow_table::FlowTable as _,
        pins::{
            Flow, Held, Keep, Limits, OFF_TABLE_FLOWS_MAX, OffTable, Plan, Promotion, STRANGERS_MAX, lost,
        },
    },
    model::{Steering, ids::Mark},
    shm::stats::Pins,
    sys::{
        clock,
        conntrack::{self, Conntrack, FlowName, Marked, Request},
        nft::{NftError, flow_maps},
        region::Mapping,
    },
    worker::Shared,
};

mod cadence;

/// How many flows are changed while the lock is held.
const PER_STEP: usize = 1000;
/// How often an audit begins, if the tables change each time meanwhile.
const TRIES: usize = 16;
/// How many flows are protected if connection tracking has no limit.
const PROTECTED_MAX: usize = 131_072;
const PROC: &str = "/proc";

/// Audits pins.
pub(super) struct Auditor {
    shared: Arc<Shared>,
    ways: Arc<Ways>,
    conntrack: Conntrack,
    /// When [`Shared::off_table`] was last brought up to date.
    seen: Option<Instant>,
    /// How many off-table flows had no room in their map at the last audit of all entries.
    no_room: u64,
    /// The flows that were in the flowtable at the last audit.
    promoted: HashSet<Flow>,
    /// The time of the last kill that was carried out.
    killed: u64,
    /// How many flows were ended since the start.
    ended: u64,
}

/// What an audit did.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    /// How many flows in the maps still differ from their tables.
    off_table: usize,
    moved: usize,
    forgotten: u64,
    ended: u64,
    put_back: usize,
    no_room: usize,
    not_protected: usize,
    protected: usize,
    promoted: usize,
}

/// What is to be done with the entries of connection tracking.
struct Planned {
    plan: Plan<FlowName>,
    /// The flows that are in the flowtable.
    promoted: HashSet<Flow>,
    /// Entries of flows that are to be ended, with their flows where those may be in a map.
    end: Vec<(FlowName, Option<Flow>)>,
}

/// Why an audit ended early.
enum Ended {
    /// Other tables are in force now.
    Superseded,
    Failed(DaemonError),
}

impl From<NftError> for Ended {
    fn from(error: NftError) -> Self {
        Self::Failed(error.into())
    }
}

fn conntrack_failed(error: std::io::Error) -> DaemonError {
    DaemonError::Os { doing: "asking connection tracking (kernel module nf_conntrack_netlink)", error }
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(conntrack_failed(error))
    }
}

impl Auditor {
    pub(super) fn open(shared: &Arc<Shared>, ways: &Arc<Ways>) -> Result<Self, DaemonError> {
        Ok(Self {
            shared: Arc::clone(shared),
            ways: Arc::clone(ways),
            conntrack: Conntrack::open().map_err(conntrack_failed)?,
            seen: None,
            no_room: 0,
            promoted: HashSet::new(),
            killed: 0,
            ended: 0,
        })
    }

    /// Goes on where an earlier auditor has ended: kills of these counts of the region were carried out.
    pub(super) fn succeed(&mut self, last: Pins) {
        self.killed = last.killed;
    }

    /// Reads the maps that an earlier lbd has filled: packets go by them from the first ruleset on. Maps with an element that
    /// cannot be ours count as empty. The ruleset makes such maps anew, and the first audit reads them again.
    pub(super) fn take_over(&mut self) -> Result<(), DaemonError> {
        let held = match flow_maps::off_table() {
            Err(NftError::Set { what, error }) if error.kind() == std::io::ErrorKind::InvalidData => {
                warn!(map = what, %error, "off-table flows cannot be taken over");
                OffTable::default()
            }
            read => read?,
        };
        if !held.is_empty() {
            info!(flows = held.len(), "off-table flows are taken over");
        }
        self.ways.lock().set_off_table(!held.is_empty())?;
        self.know(held);
        Ok(())
    }

    /// Makes one whole audit by the tables in force. Returns the counts that the region shows.
    pub(super) fn audit(&mut self, scope: Scope) -> Result<Pins, DaemonError> {
        for _ in 0..TRIES {
            match self.try_audit(scope) {
                Ok(done) => {
                    Self::log(scope, &done);
                    if scope == Scope::All {
                        self.no_room = done.no_room as u64;
                    }
                    self.ended += done.ended;
                    return Ok(Pins {
                        off_table: done.off_table as u64,
                        no_room: self.no_room,
                        protected: done.protected as u64,
                        not_protected: done.not_protected as u64,
                        promoted: done.promoted as u64,
                        ended: self.ended,
                        killed: self.killed,
                    });
                }
                Err(Ended::Superseded) => {}
                Err(Ended::Failed(error)) => return Err(error),
            }
        }
        Err(DaemonError::Unsettled(self.shared.forwarding.load().generation()))
    }

    fn log(scope: Scope, done: &Done) {
        let Done { off_table, moved, forgotten, ended, put_back, no_room, not_protected, .. } = *done;
        if ended > 0 {
            info!(ended, "flows were ended: their backend is disabled or down, or was killed");
        }
        if moved > 0 || forgotten > 0 {
            info!(
                moved,
                forgotten,
                off_table,
                "pins were looked through: flows that their table does not name are kept apart, invalid ones forgotten"
            );
        }
        if put_back > 0 {
            warn!(put_back, "the maps of off-table flows had lost some; they are put back");
        }
        if no_room > 0 && scope == Scope::All {
            error!(
                no_room,
                max = OFF_TABLE_FLOWS_MAX,
                max_of_few_packets = STRANGERS_MAX,
                "off-table flows have no room in their map, and stay where they are as long as connection tracking keeps them"
            );
        }
        if not_protected > 0 && scope == Scope::All {
            warn!(
                not_protected,
                "half of nf_conntrack_max is protected already: these connections may be dropped from it"
            );
        }
    }

    fn try_audit(&mut self, scope: Scope) -> Result<Done, Ended> {
        let forwarding = self.shared.forwarding.load_full();
        let last = self.shared.off_table.load_full();
        let mut read = flow_maps::off_table()?;
        if forwarding.steering() == Steering::EveryPacket {
            let all: Vec<Flow> = read.iter().map(|(flow, _)| flow).collect();
            self.steps(&forwarding, &all, |_, _, some| Ok(flow_maps::delete_off_table(some, &read)?))?;
            self.finish(&forwarding, OffTable::default(), scope)?;
            self.killed = self.killed.max(forwarding.last_kill());
            return Ok(Done::default());
        }
        let since = self.killed;
        let passed = self.seen.map_or(u64::MAX, |seen| clock::now().duration_since(seen).as_secs() + 1);
        let shorten = read.follow(&last);
        let mut shortened = Vec::new();
        self.steps(&forwarding, &shorten, |_, _, some| {
            shortened.extend(flow_maps::change_time(some)?);
            Ok(())
        })?;
        read.shortened(&shortened);
        let back = lost(&last, &read, u32::try_from(passed).unwrap_or(u32::MAX));
        let Planned { mut plan, promoted, end } = self.plan(&forwarding, &read, scope)?;
        // A flow whose table leads to its backend again stays in the map, since the table may change back before its next
        // packet. If the map is crowded, it makes room.
        let crowded = read.is_crowded();
        let stays = |flow, held: Held| match crowded {
            true => forwarding.is_off_table(flow, held.mark),
            false => forwarding.is_valid(flow, held.mark),
        };
        let (mut known, mut leave, mut ended) = (read.clone(), Vec::new(), HashSet::new());
        for (flow, held) in read.iter() {
            let ends = forwarding.ends_flow(flow, held.mark, since);
            if ends {
                ended.insert(flow);
            }
            if ends || !stays(flow, held) {
                known.remove(&flow);
                leave.push(flow);
            }
        }
        // A later connection has the same addresses and ports.
        let other = |flow: &Flow, held: &Held| read.get(flow).is_some_and(|known| known.mark != held.mark);
        leave.extend(plan.moves.iter().filter(|(_, flow, held)| other(flow, held)).map(|(_, flow, _)| *flow));
        let back = self.still_theirs(&forwarding, back)?;
        let mut done = Done {
            put_back: back.len(),
            no_room: plan.no_room,
            not_protected: plan.not_protected,
            protected: plan.protected,
            promoted: plan.promoted,
            ended: ended.len() as u64,
            ..Done::default()
        };

        let mut copy = known.clone();
        copy.extend(back.iter().copied());
        plan.enter(&mut copy);
        self.agree(&forwarding, copy.clone())?;
        self.steps(&forwarding, &leave, |_, _, some| Ok(flow_maps::delete_off_table(some, &read)?))?;
        self.steps(&forwarding, &back, |_, ways, some| {
            flow_maps::put_off_table(some, &known)?;
            Ok(ways.set_off_table(true)?)
        })?;
        let moves = std::mem::take(&mut plan.moves);
        self.steps(&forwarding, &moves, |conntrack, ways, some| {
            let flows: Vec<_> = some.iter().map(|(_, flow, held)| (*flow, *held)).collect();
            flow_maps::put_off_table(&flows, &known)?;
            ways.set_off_table(true)?;
            delete(conntrack, some.iter().map(|(name, ..)| name))?;
            Ok(())
        })?;
        done.moved = moves.len();
        self.steps(&forwarding, &plan.forget, |conntrack, _, some| {
            done.forgotten += delete(conntrack, some)?;
            Ok(())
        })?;
        // A SYN that was answered must not bring one back.
        if scope == Scope::All {
            done.forgotten += self.weed_pending(&forwarding)?;
        }
        // A flow that was in a map as well has been counted.
        let (again, first): (Vec<_>, Vec<_>) =
            end.into_iter().partition(|(_, flow)| flow.is_some_and(|flow| ended.contains(&flow)));
        for (some, counts) in [(again, false), (first, true)] {
            self.steps(&forwarding, &some, |conntrack, _, some| {
                let deleted = delete(conntrack, some.iter().map(|(name, _)| name))?;
                done.ended += if counts { deleted } else { 0 };
                Ok(())
            })?;
        }
        let keep: Vec<_> = plan.keep.into_iter().map(|(name, keep)| (name, request(keep))).collect();
        refused(self.conntrack.change(&keep)?.refused)?;
        self.promoted = promoted;
        done.off_table = copy.iter().filter(|(flow, held)| forwarding.is_off_table(*flow, held.mark)).count();
        self.finish(&forwarding, copy, scope)?;
        if scope == Scope::All {
            self.killed = self.killed.max(forwarding.last_kill());
        }
        Ok(done)
    }

    /// Returns those of the lost flows that no newer connection has replaced: one with the same addresses and ports that is
    /// tracked, or whose SYN is pending, with another mark.
    fn still_theirs(
        &mut self,
        forwarding: &Forwarding,
        lost: Vec<(Flow, Held)>,
    ) -> Result<Vec<(Flow, Held)>, Ended> {
        let stays = |(flow, held): &(Flow, Held)| {
            forwarding.is_valid(*flow, held.mark) && !forwarding.ends_flow(*flow, held.mark, self.killed)
        };
        let mut lost: Vec<_> = lost.into_iter().filter(stays).collect();
        if lost.is_empty() {
            return Ok(lost);
        }
        let mut newer: HashMap<Flow, Mark> =
            flow_maps::pending(forwarding.mark_mask())?.into_iter().collect();
        for (flow, _) in &lost {
            let pin = flow.packet().map(|packet| self.conntrack.lookup(&packet)).transpose()?.flatten();
            newer.extend(pin.map(|pin| (*flow, pin.mark)));
        }
        let target = |mark| forwarding.mark_mask().target(mark);
        lost.retain(|(flow, held)| newer.get(flow).is_none_or(|mark| target(*mark) == target(held.mark)));
        Ok(lost)
    }

    /// Judges all entries of connection tracking.
    fn plan(
        &mut self,
        forwarding: &Forwarding,
        known: &OffTable,
        scope: Scope,
    ) -> Result<Planned, std::io::Error> {
        let kept = forwarding.mark_mask().kept();
        let marked = match scope {
            Scope::All => None,
            Scope::Kept => Some(Marked { value: kept, mask: kept }),
        };
        let (mut plan, mut promoted, mut end) = (Plan::default(), HashSet::new(), Vec::new());
        self.conntrack.dump(marked, |entry| {
            if let Some(mut tracked) = entry.tracked() {
                let flow = Flow::of(&tracked.packet);
                if forwarding.ends_tracked(&tracked, self.killed) {
                    end.push((entry.name(), flow));
                    return Ok(());
                }
                if tracked.promotion == Promotion::Now {
                    promoted.extend(flow);
                } else if flow.is_some_and(|flow| self.promoted.contains(&flow)) {
                    tracked.promotion = Promotion::Ended;
                }
                plan.add(forwarding.judge(&tracked), || entry.name());
            }
            Ok(())
        })?;
        // 0 is no limit.
        let max = conntrack::fill(Path::new(PROC)).map_or(0, |fill| fill.max);
        let protected = if max == 0 { PROTECTED_MAX } else { usize::try_from(max / 2).unwrap_or(usize::MAX) };
        plan.limit(
            Limits {
                room: known
                    .counts()
                    .map(|counts| counts.map(|count| OFF_TABLE_FLOWS_MAX.saturating_sub(count))),
                protected,
                strangers: known.strangers().map(|count| STRANGERS_MAX.saturating_sub(count)),
            },
            known,
        );
        Ok(Planned { plan, promoted, end })
    }

    /// Puts flows that `next` would lead elsewhere into the maps, before it is in force. So they stay with their backends.
    pub(super) fn place(&mut self, next: &Forwarding, ways: &mut Chosen) -> Result<(), DaemonError> {
        if next.steering() == Steering::EveryPacket {
            return Ok(());
        }
        let mut known = flow_maps::off_table()?;
        // The next audit sets their lifetimes.
        let _ = known.follow(&self.shared.off_table.load());
        let Planned { plan, .. } = self.plan(next, &known, Scope::All).map_err(conntrack_failed)?;
        let flows: Vec<_> = plan.moves.iter().map(|(_, flow, held)| (*flow, *held)).collect();
        flow_maps::put_off_table(&flows, &known)?;
        plan.enter(&mut known);
        if !known.is_empty() {
            ways.set_off_table(true)?;
        }
        self.know(known);
        Ok(())
    }

    /// Forgets pending SYNs whose target is no backend of the service that claims them now, or whose flow is to be ended. They
    /// are queued again.
    fn weed_pending(&mut self, forwarding: &Arc<Forwarding>) -> Result<u64, Ended> {
        let pending = flow_maps::pending(forwarding.mark_mask())?;
        let since = self.killed;
        let stays = |flow, mark| forwarding.is_valid(flow, mark) && !forwarding.ends_flow(flow, mark, since);
        let invalid = pending.into_iter().filter(|(flow, mark)| !stays(*flow, *mark));
        let invalid: Vec<Flow> = invalid.map(|(flow, _)| flow).collect();
        self.steps(forwarding, &invalid, |_, _, some| Ok(flow_maps::delete_pending(some)?))?;
        Ok(invalid.len() as u64)
    }

    /// Calls `step` with all of them, some at a time, each time with the lock held, while the tables stay the same.
    fn steps<T>(
        &mut self,
        forwarding: &Arc<Forwarding>,
        all: &[T],
        mut step: impl FnMut(&mut Conntrack, &mut Chosen, &[T]) -> Result<(), Ended>,
    ) -> Result<(), Ended> {
        for some in all.chunks(PER_STEP) {
            let mut ways = self.ways.lock();
            if !Arc::ptr_eq(&self.shared.forwarding.load(), forwarding) {
                return Err(Ended::Superseded);
            }
            step(&mut self.conntrack, &mut ways, some)?;
        }
        Ok(())
    }

    /// Shares these flows with the workers, if the tables are still the same. Otherwise what [`Auditor::place`] has shared
    /// would be lost.
    fn agree(&mut self, forwarding: &Arc<Forwarding>, held: OffTable) -> Result<(), Ended> {
        let ways = Arc::clone(&self.ways);
        let _lock = ways.lock();
        if !Arc::ptr_eq(&self.shared.forwarding.load(), forwarding) {
            return Err(Ended::Superseded);
        }
        self.know(held);
        Ok(())
    }

    /// Ends an audit, with these off-table flows as its result.
    fn finish(&mut self, forwarding: &Arc<Forwarding>, held: OffTable, scope: Scope) -> Result<(), Ended> {
        let off_table = !held.is_empty();
        let ways = Arc::clone(&self.ways);
        let mut ways = ways.lock();
        if !Arc::ptr_eq(&self.shared.forwarding.load(), forwarding) {
            return Err(Ended::Superseded);
        }
        self.know(held);
        if scope == Scope::All {
            ways.settled();
        }
        Ok(ways.set_off_table(off_table)?)
    }

    /// Shares these flows with the workers.
    fn know(&mut self, held: OffTable) {
        self.seen = Some(clock::now());
        if !(held.is_empty() && self.shared.off_table.load().is_empty()) {
            self.shared.off_table.store(Arc::new(held));
        }
    }
}

/// Finds the off-table flows of `next` before packets follow its fallback tables ([`Auditor::place`]). A failure is
/// logged, and holds nothing up.
pub(super) fn place_before(shared: &Arc<Shared>, lock: &Arc<Ways>, next: &Forwarding, ways: &mut Chosen) {
    let placed = Auditor::open(shared, lock).and_then(|mut auditor| auditor.place(next, ways));
    if let Err(error) = placed {
        error!(%error, "off-table flows of a new table: they follow it until the next audit");
    }
}

fn request(keep: Keep) -> Request {
    Request::Set { protect: keep.protect, seconds: keep.seconds }
}

/// Deletes these entries. Returns how many of them existed.
fn delete<'a>(
    conntrack: &mut Conntrack,
    flows: impl IntoIterator<Item = &'a FlowName>,
) -> Result<u64, Ended> {
    let requests: Vec<_> = flows.into_iter().map(|name| (name.clone(), Request::Delete)).collect();
    let changed = conntrack.change(&requests)?;
    refused(changed.refused)?;
    Ok(changed.done)
}

fn refused(error: Option<std::io::Error>) -> Result<(), Ended> {
    error.map_or(Ok(()), |error| Err(error.into()))
}

/// The thread of the audit, once it is started. It ends when this is dropped.
#[derive(Default)]
pub(super) struct Auditing {
    changed: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Auditing {
    /// Starts the thread, when a ruleset is in force. It shows its results in the region.
    pub(super) fn start(auditor: Auditor, shown: &Arc<ArcSwap<Mapping>>) -> Result<Self, DaemonError> {
        let (changed, wait) = mpsc::channel();
        let shown = Arc::clone(shown);
        let thread =
            thread::Builder::new().name("audit".to_owned()).spawn(move || run(auditor, &wait, &shown));
        let thread = thread.map_err(|error| DaemonError::Os { doing: "starting a thread", error })?;
        Ok(Self { changed: Some(changed), thread: Some(thread) })
    }

    /// Announces that the tables have changed.
    pub(super) fn notify(&self) {
        // The control thread starts an audit again that has ended.
        let _ = self.changed.as_ref().map(|changed| changed.send(()));
    }

    /// Whether the thread still runs.
    pub(super) fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Auditing {
    fn drop(&mut self) {
        self.changed = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the audit of pins has panicked");
        }
    }
}

fn run(mut auditor: Auditor, changed: &Receiver<()>, shown: &ArcSwap<Mapping>) {
    let started = clock::now();
    let now = || clock::now().duration_since(started);
    let mut cadence = Cadence::new(auditor.shared.forwarding.load().udp_seconds());
    let mut last_error = ErrorLatch::default();
    loop {
        match changed.recv_timeout(cadence.wait(now())) {
            Ok(()) => {
                while changed.try_recv().is_ok() {}
                cadence.changed(now(), auditor.shared.forwarding.load().udp_seconds());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let begun = now();
        let Some(scope) = cadence.due(begun) else { continue };
        let cpu = clock::thread_cpu();
        let audited = auditor.audit(scope);
        let ok = audited.is_ok();
        match audited {
            Ok(pins) => {
                last_error.clear();
                // The control thread notices if the region is gone.
                let _ = pins.write(&mut shown.load_full());
            }
            Err(error) => last_error.raise("the audit of pins failed; it is tried again", &error),
        }
        cadence.done(begun, now(), clock::thread_cpu().saturating_sub(cpu), ok);
    }
}

#[cfg(test)]
mod tests;
