//! Flows whose backend the table does not name. PURE.
//!
//! A flow is *on-table* if its service's table, as it is now, names the backend that it is pinned to: it loses nothing with
//! its entry in connection tracking. All others are *off-table*: their backend was drained, or the table has changed. These
//! are taken out of connection tracking into maps of the ruleset's own (`off_table`, `off_closing`), so that no eviction, no
//! forged packet and no full table concerns them; there they stay until they end, also when the table names them again, as
//! long as there is room. Who is off-table is found by an audit (`src/daemon/audit.rs`): every flow
//! is judged here ([`Forwarding::judge`]), and what is to do about all of them is a [`Plan`].
//!
//! A pin is valid for its service: a flow whose target is no backend, active or not, of the service that claims it now is
//! forgotten, and asks the table.
//!
//! # Which entries last
//! The ruleset marks a flow as *kept* when it has sent three packets. A kept flow's entry is protected (SEEN_REPLY and
//! ASSURED: the kernel drops it last, and no RST ends it), and an idle one gets the long lifetime. No more than
//! [`Limits::protected`] are: whoever sends three packets for each of so many flows can use that up, and the flows of
//! others then are as those that are not kept, which lose nothing unless the table changes while their entry is gone.
//! In the maps flows that are not kept have a small share and a short time (`pins/strangers.rs`).

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    io,
};

pub use strangers::STRANGERS_MAX;
use strangers::Strangers;

use super::{Decision, Forwarding};
use crate::{
    balance::flow_table::{FlowMark, FlowTable},
    model::ids::{Mark, MarkMask, TargetId},
    packet::{Addresses, L4, Packet, Ports, TCP, UDP},
};

/// The longest lifetime that an open TCP connection gets by a packet, in seconds. An audit gives kept ones more.
pub const PROBATION_SECONDS: u32 = 300;
/// The longest lifetime of a UDP flow that is not protected, in seconds.
pub const UDP_PROBATION_SECONDS: u32 = 30;

mod strangers;

/// A flow, as the keys of the maps name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Client and VIP.
    pub addresses: Addresses,
    /// TCP or UDP.
    pub protocol: u8,
    /// The client's and the VIP's.
    pub ports: Ports,
}

impl Flow {
    /// The flow of a packet, if the maps can name it.
    #[must_use]
    pub fn of(packet: &Packet) -> Option<Self> {
        let ports = match packet.l4 {
            L4::Tcp { ports, .. } | L4::Udp(ports) => ports,
            L4::Sctp(_) | L4::Echo { .. } | L4::Other | L4::LaterFragment => return None,
        };
        Some(Self { addresses: packet.addresses, protocol: packet.protocol, ports })
    }

    /// A packet amid it; `None` of another protocol.
    #[must_use]
    pub fn packet(self) -> Option<Packet> {
        let Self { addresses, protocol, ports } = self;
        let l4 = match protocol {
            TCP => L4::Tcp { ports, syn: false },
            UDP => L4::Udp(ports),
            _ => return None,
        };
        Some(Packet { addresses, protocol, l4, quoted: false })
    }
}

/// What an off-table map says of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Where it goes.
    pub mark: Mark,
    /// Whether it is in `off_closing`: the client has sent FIN or RST, or one was forged.
    pub closing: bool,
    /// How long it is kept if nothing more comes.
    pub left_seconds: u32,
}

/// The off-table flows as of the last audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffTable {
    flows: HashMap<Flow, Held>,
    strangers: Strangers,
}

impl OffTable {
    /// Where a packet goes if its flow is off-table. A SYN is not asked about: the kernel has the whole rule for it, and
    /// hands only those over that begin a connection.
    #[must_use]
    pub fn pinned(&self, forwarding: &Forwarding, packet: &Packet) -> Option<(TargetId, Mark)> {
        self.held(packet).and_then(|held| forwarding.pinned(held.mark))
    }

    /// What is known of the flow of a packet, likewise.
    #[must_use]
    pub fn held(&self, packet: &Packet) -> Option<Held> {
        if self.flows.is_empty() || (matches!(packet.l4, L4::Tcp { syn: true, .. }) && !packet.quoted) {
            return None;
        }
        self.flows.get(&Flow::of(packet)?).copied()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = (Flow, Held)> {
        self.flows.iter().map(|(&flow, &held)| (flow, held))
    }

    /// What is known of a flow.
    #[must_use]
    pub fn get(&self, flow: &Flow) -> Option<Held> {
        self.flows.get(flow).copied()
    }

    /// Adds a flow, or changes what is known of it.
    pub fn insert(&mut self, flow: Flow, held: Held) {
        self.flows.insert(flow, held);
    }

    /// Adds flows likewise.
    pub fn extend(&mut self, flows: impl IntoIterator<Item = (Flow, Held)>) {
        self.flows.extend(flows);
    }

    /// Forgets a flow.
    pub fn remove(&mut self, flow: &Flow) {
        self.flows.remove(flow);
        self.strangers.remove(flow);
    }
}

impl OffTable {
    /// How many of each map: of IPv4 and IPv6, `off_table` and `off_closing`.
    #[must_use]
    pub fn counts(&self) -> [[usize; 2]; 2] {
        let mut counts = [[0; 2]; 2];
        for (flow, held) in self.iter() {
            let (family, closing) = map_of(&flow, held.closing);
            counts[family][closing] += 1;
        }
        counts
    }
}

impl OffTable {
    /// Whether flows that the table names again must make room for others: half of a map is in use.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.counts().as_flattened().iter().any(|&flows| flows > OFF_TABLE_FLOWS_MAX / 2)
    }
}

impl FromIterator<(Flow, Held)> for OffTable {
    fn from_iter<I: IntoIterator<Item = (Flow, Held)>>(flows: I) -> Self {
        Self { flows: flows.into_iter().collect(), strangers: Strangers::new() }
    }
}

/// Connection tracking, where off-table flows are known as well.
pub struct WithOffTable<'a> {
    /// Asked first.
    pub off_table: &'a OffTable,
    /// Asked about all others.
    pub pins: &'a mut dyn FlowTable,
}

impl FlowTable for WithOffTable<'_> {
    /// About the flow that is in place, also where a SYN asks: of the packet tracer.
    fn lookup(&mut self, packet: &Packet) -> io::Result<Option<FlowMark>> {
        match Flow::of(packet).and_then(|flow| self.off_table.get(&flow)) {
            Some(held) => Ok(Some(FlowMark { mark: held.mark, left_seconds: Some(held.left_seconds) })),
            None => self.pins.lookup(packet),
        }
    }

    /// An off-table flow that goes on in fragments gets an entry, which the next audit makes its new time in the map.
    fn pin(&mut self, packet: &Packet, mark: Mark, mask: MarkMask, seconds: u32) -> io::Result<()> {
        self.pins.pin(packet, mark, mask, seconds)
    }
}

/// How far a TCP connection is, as connection tracking sees it from one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Neither side is known to end it.
    Open,
    /// A FIN or RST has passed.
    Closing,
}

/// Whether a flow goes by the flowtable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Promotion {
    /// It does not.
    #[default]
    No,
    /// It does: how much of its lifetime is left is not known, and no packet renews it.
    Now,
    /// It did at the last audit: the kernel has given it a lifetime by the host's settings.
    Ended,
}

/// An entry of connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// A packet amid the flow.
    pub packet: Packet,
    /// The connection mark.
    pub mark: Mark,
    /// How long it is kept if nothing more comes.
    pub left_seconds: u32,
    /// Whether it is SEEN_REPLY and ASSURED.
    pub protected: bool,
    /// Whether the flow goes by the flowtable.
    pub promotion: Promotion,
    /// Of TCP only.
    pub phase: Option<Phase>,
}

/// What becomes of an entry of connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is deleted: its target is no backend of the service that claims the flow now.
    Forget,
    /// The flow is off-table: it goes into a map, and the entry is deleted; if that is full, the entry is kept like this.
    Move(Flow, Held, Keep),
    /// It stays.
    Keep(Keep),
}

/// What a flow that stays in connection tracking wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// To be SEEN_REPLY and ASSURED.
    pub protect: bool,
    /// Another lifetime from now on, in seconds.
    pub seconds: Option<u32>,
    /// Whether it is protected already.
    pub protected: bool,
    /// Whether it is a kept flow: one that has sent three packets.
    pub kept: bool,
    /// Whether it goes by the flowtable.
    pub promoted: bool,
}

impl Keep {
    fn is_nothing(self) -> bool {
        !self.protect && self.seconds.is_none()
    }
}

impl Forwarding {
    /// What becomes of an entry of connection tracking. One that is not ours stays as it is: it has none of our bits, or does
    /// not go to a VIP. One that goes to a former VIP, and that the ruleset would still steer by its connection mark alone,
    /// is forgotten.
    #[must_use]
    pub fn judge(&self, tracked: &Tracked) -> Judgement {
        let tracked = &self.as_of_client(tracked);
        let Tracked { packet, mark, .. } = tracked;
        if mark.0 & self.mark_mask.target_bits() == 0 {
            return Judgement::Keep(Keep::default());
        }
        if !self.classifier.has_vip(packet.addresses.destination()) {
            let steered = self.pinned(*mark).map(|(_, of_target)| self.mark_mask.kept_mark(of_target));
            return if steered == Some(*mark) { Judgement::Forget } else { Judgement::Keep(Keep::default()) };
        }
        let Some(pinned) = self.mark_mask.target(*mark) else { return Judgement::Forget };
        let keep = self.keep(tracked);
        match (self.place(packet, pinned), Flow::of(packet)) {
            (Place::Invalid, _) => Judgement::Forget,
            (Place::OnTable, _) | (Place::OffTable, None) => Judgement::Keep(keep),
            (Place::OffTable, Some(flow)) => {
                let held = Held {
                    mark: self.mark_mask.mark(pinned),
                    closing: tracked.phase == Some(Phase::Closing),
                    left_seconds: self.rest(tracked, keep.kept),
                };
                Judgement::Move(flow, held, keep)
            }
        }
    }

    /// The entry as if a packet of the client's had made it. On a router that answers pass as well it may have been an answer;
    /// such an entry has a lifetime of the host's settings.
    fn as_of_client(&self, tracked: &Tracked) -> Tracked {
        let addresses = tracked.packet.addresses;
        if self.classifier.has_vip(addresses.destination()) || !self.classifier.has_vip(addresses.source()) {
            return *tracked;
        }
        let left_seconds = tracked.left_seconds.min(PROBATION_SECONDS);
        Tracked { packet: tracked.packet.swapped(), left_seconds, ..*tracked }
    }

    /// Whether a flow of an off-table map is off-table, and valid for its service.
    #[must_use]
    pub fn is_off_table(&self, flow: Flow, mark: Mark) -> bool {
        self.place_of(flow, mark) == Place::OffTable
    }

    /// Whether the table names the backend that a flow's mark does.
    #[must_use]
    pub fn is_on_table(&self, flow: Flow, mark: Mark) -> bool {
        self.place_of(flow, mark) == Place::OnTable
    }

    /// Whether the mark of a flow, or of a SYN (`pending`), is valid for the service that claims it now.
    #[must_use]
    pub fn is_valid(&self, flow: Flow, mark: Mark) -> bool {
        self.place_of(flow, mark) != Place::Invalid
    }

    fn place_of(&self, flow: Flow, mark: Mark) -> Place {
        let known = flow.packet().zip(self.mark_mask.target(mark));
        known.map_or(Place::Invalid, |(packet, target)| self.place(&packet, target))
    }

    fn place(&self, packet: &Packet, pinned: TargetId) -> Place {
        let (service, named) = match self.decide(packet) {
            Decision::Steered { service, target, .. } => (service, Some(target)),
            Decision::NoBackend { service } => (service, None),
            Decision::NoService | Decision::Fragment { .. } => return Place::Invalid,
        };
        if named == Some(pinned) {
            Place::OnTable
        } else if self.serves(service, pinned) {
            Place::OffTable
        } else {
            Place::Invalid
        }
    }

    /// What an entry wants that stays.
    fn keep(&self, tracked: &Tracked) -> Keep {
        let &Tracked { protected, promotion, left_seconds, mark, .. } = tracked;
        let kept = mark.0 & self.mark_mask.kept() != 0;
        let long = self.long(tracked).filter(|(short, _)| match tracked.phase {
            // Packets give it the short time again, so only an idle one is worth it.
            Some(_) => left_seconds <= short / 5 * 4,
            // From now on packets give it the long one.
            None => !protected,
        });
        let whole = self.whole(tracked);
        let seconds = match promotion {
            Promotion::Now => None,
            Promotion::Ended => whole,
            // It ended while no lbd looked: no packet of TCP gives so much.
            Promotion::No
                if tracked.phase.is_some()
                    && whole.is_some_and(|whole| left_seconds > whole.max(PROBATION_SECONDS)) =>
            {
                whole
            }
            Promotion::No => long.map(|(_, seconds)| seconds),
        };
        let (seconds, promoted) = (seconds.filter(|_| kept), promotion == Promotion::Now);
        Keep { protect: kept && !protected, seconds, protected, kept, promoted }
    }

    /// How long a flow that leaves connection tracking is kept if nothing more comes.
    fn rest(&self, tracked: &Tracked, kept: bool) -> u32 {
        let long = match tracked.promotion {
            Promotion::No => self.long(tracked).map(|(_, seconds)| seconds),
            Promotion::Now | Promotion::Ended => self.whole(tracked),
        };
        long.filter(|_| kept).unwrap_or(tracked.left_seconds).max(1)
    }

    /// The lifetime that a kept flow has of its last packet.
    fn whole(&self, tracked: &Tracked) -> Option<u32> {
        match (tracked.packet.protocol, tracked.phase) {
            (TCP, Some(Phase::Open)) => Some(self.timeouts.tcp_established_seconds),
            (UDP, _) => Some(self.timeouts.udp_seconds),
            _ => None,
        }
    }

    /// The short lifetime that a flow has of its last packet, and what would be left of the long one; `None` where it has
    /// more than that already, or there is but one.
    fn long(&self, tracked: &Tracked) -> Option<(u32, u32)> {
        let long = self.whole(tracked)?;
        let short = match tracked.packet.protocol {
            TCP => PROBATION_SECONDS,
            _ if !tracked.protected => UDP_PROBATION_SECONDS,
            _ => return None,
        };
        let idle = short.checked_sub(tracked.left_seconds)?;
        (long > short).then(|| (short, long - idle))
    }
}

/// A pin and the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// They agree.
    OnTable,
    /// They do not, and the pin's target is a backend of the service, active or not.
    OffTable,
    /// It is none.
    Invalid,
}

/// The size of each off-table map, in flows (`nft/synrail.nft`).
pub const OFF_TABLE_FLOWS_MAX: usize = 65_536;

/// How much there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows that still have room in the maps of IPv4 and IPv6: of each, `off_table` and `off_closing`.
    pub room: [[usize; 2]; 2],
    /// Strangers that still may be there, of IPv4 and IPv6.
    pub strangers: [usize; 2],
    /// Entries of connection tracking that are protected.
    pub protected: usize,
}

/// The map that a flow goes into: an index into [`Limits::room`].
#[must_use]
pub fn map_of(flow: &Flow, closing: bool) -> (usize, usize) {
    (usize::from(matches!(flow.addresses, Addresses::V6 { .. })), usize::from(closing))
}

/// What is to do about the entries of connection tracking; `N` names one.
#[derive(Clone, Debug)]
pub struct Plan<N> {
    /// To be deleted.
    pub forget: Vec<N>,
    /// To be put into a map, then deleted.
    pub moves: Vec<(N, Flow, Held)>,
    /// Those of them that are strangers.
    pub strangers: HashSet<Flow>,
    /// To be kept.
    pub keep: Vec<(N, Keep)>,
    /// Off-table flows for which there was no room.
    pub no_room: usize,
    /// Kept flows that are not protected, since as many are as may be.
    pub not_protected: usize,
    /// Protected entries, when all is done.
    pub protected: usize,
    /// Of these, entries of flows that stay in the flowtable.
    pub promoted: usize,
    wanted: Vec<(N, Flow, Held, Keep)>,
}

impl<N> Default for Plan<N> {
    fn default() -> Self {
        Self {
            forget: Vec::new(),
            moves: Vec::new(),
            strangers: HashSet::new(),
            keep: Vec::new(),
            no_room: 0,
            not_protected: 0,
            protected: 0,
            promoted: 0,
            wanted: Vec::new(),
        }
    }
}

impl<N> Plan<N> {
    /// Adds an entry.
    pub fn add(&mut self, judgement: Judgement, name: impl FnOnce() -> N) {
        match judgement {
            Judgement::Forget => self.forget.push(name()),
            Judgement::Move(flow, held, keep) => self.wanted.push((name(), flow, held, keep)),
            Judgement::Keep(keep) => {
                self.protected += usize::from(keep.protected);
                self.promoted += usize::from(keep.promoted);
                if !keep.is_nothing() {
                    self.keep.push((name(), keep));
                }
            }
        }
    }

    /// All entries were added: who gets what there is. `known` is what the maps hold: a flow that has its place there keeps it.
    /// Flows that are kept come first, so that strangers do not take their place, now or later.
    pub fn limit(&mut self, limits: Limits, known: &OffTable) {
        let Limits { mut room, mut strangers, .. } = limits;
        let mut wanted = std::mem::take(&mut self.wanted);
        wanted.sort_by_key(|(_, _, held, keep)| Reverse((keep.kept, held.left_seconds)));
        let mut left = Vec::new();
        for (name, flow, held, keep) in wanted {
            if let Some(there) = known.get(&flow).filter(|there| there.mark == held.mark) {
                self.moves.push((name, flow, Held { closing: there.closing, ..held }));
                if known.is_stranger(&flow) && !keep.kept {
                    self.strangers.insert(flow);
                }
                continue;
            }
            let (family, closing) = map_of(&flow, held.closing);
            let (room, strangers) = (&mut room[family][closing], &mut strangers[family]);
            if *room > 0 && keep.kept {
                *room -= 1;
                self.moves.push((name, flow, held));
            } else if *room > 0 && *strangers > 0 {
                (*room, *strangers) = (*room - 1, *strangers - 1);
                self.strangers.insert(flow);
                let left_seconds = held.left_seconds.min(flow.short_seconds());
                self.moves.push((name, flow, Held { left_seconds, ..held }));
            } else {
                self.no_room += 1;
                self.protected += usize::from(keep.protected);
                left.push((name, keep));
            }
        }
        // What is off-table needs its entry most.
        self.keep.splice(0..0, left.into_iter().filter(|(_, keep)| !keep.is_nothing()));
        for (_, keep) in self.keep.iter_mut().filter(|(_, keep)| keep.protect) {
            if self.protected < limits.protected {
                self.protected += 1;
            } else {
                keep.protect = false;
                // The long lifetime is for those that the kernel would not drop.
                keep.seconds = None;
                self.not_protected += 1;
            }
        }
        self.keep.retain(|(_, keep)| !keep.is_nothing());
    }

    /// Adds what is to be moved to what the maps hold.
    pub fn enter(&self, off_table: &mut OffTable) {
        for (_, flow, held) in &self.moves {
            off_table.enter(*flow, *held, self.strangers.contains(flow));
        }
    }
}

/// Flows of the last audit that are in no map now, though they should be: a map was emptied by another program. Those in
/// `off_closing` may have been taken out by a new connection of the same client's port, and are let go. `seconds` have passed.
pub fn lost(last: &OffTable, now: &OffTable, seconds: u32) -> Vec<(Flow, Held)> {
    // One that is about to expire has perhaps done so.
    const MARGIN_SECONDS: u32 = 2;
    let missing = last.iter().filter(|(flow, held)| !held.closing && now.get(flow).is_none());
    missing
        .filter_map(|(flow, held)| {
            let left_seconds = held.left_seconds.checked_sub(seconds)?;
            (left_seconds > MARGIN_SECONDS).then_some((flow, Held { left_seconds, ..held }))
        })
        .collect()
}

#[cfg(test)]
mod tests;
