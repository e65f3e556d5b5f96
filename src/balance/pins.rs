//! Flows whose backend the table does not name. PURE.
//!
//! A flow is *on-table* if its service's current table names the backend that the flow is pinned to. Such a
//! flow loses nothing when it loses its entry in connection tracking. All other flows are *off-table*: their
//! backend was drained, or the table has changed. Off-table flows are moved out of connection tracking into
//! the ruleset's own maps (`off_table`, `off_closing`), where eviction, forged packets and a full conntrack
//! table do not affect them. They stay there until they end. A flow that the table names again also stays, as
//! long as there is room. An audit (`src/daemon/audit.rs`) finds the off-table flows: it judges every flow
//! with [`Forwarding::judge`], and collects what is to be done in a [`Plan`].
//!
//! A pin is valid only for its service. If the target of a flow is not a backend (active or not) of the
//! service that now claims the flow, the pin is deleted and the table decides again. Backends of the service
//! that `no_backend` names count as its own: flows that they got go on when there are own backends again. Pins to
//! a backend that is disabled are deleted too, and once those to a backend whose flows an operator kills
//! ([`Forwarding::ends`]): a flow's next packet finds another backend, which answers TCP with a reset.
//!
//! # Which entries last
//! The ruleset marks a flow as *kept* when it has sent three packets. The entry of a kept flow is protected
//! (SEEN_REPLY and ASSURED: the kernel drops it last, and no RST ends it), and an idle kept flow gets the
//! long lifetime. At most [`Limits::protected`] entries are protected. A sender of three packets for each of
//! that many flows can use up this limit. Further kept flows are then treated like flows that are not kept:
//! they lose nothing unless the table changes while their entry is gone. In the maps, flows that are not kept
//! have a small share and a short lifetime (`pins/strangers.rs`).

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

/// The longest lifetime that a packet gives an open TCP connection, in seconds. An audit gives kept
/// connections more.
pub const PROBATION_SECONDS: u32 = 300;
/// The longest lifetime of a UDP flow that is not protected, in seconds.
pub const UDP_PROBATION_SECONDS: u32 = 30;

mod strangers;

/// A flow, in the form of the maps' keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Client and VIP.
    pub addresses: Addresses,
    /// TCP or UDP.
    pub protocol: u8,
    /// The client's port and the VIP's port.
    pub ports: Ports,
}

impl Flow {
    /// Returns the flow of a packet. Returns `None` if it is neither TCP nor UDP, or if it is a later
    /// fragment.
    #[must_use]
    pub fn of(packet: &Packet) -> Option<Self> {
        let ports = match packet.l4 {
            L4::Tcp { ports, .. } | L4::Udp(ports) => ports,
            L4::Sctp(_) | L4::Echo { .. } | L4::Other | L4::LaterFragment => return None,
        };
        Some(Self { addresses: packet.addresses, protocol: packet.protocol, ports })
    }

    /// Returns a packet amid the flow (of TCP: not a SYN), or `None` if the protocol is neither TCP nor UDP.
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

/// What an off-table map holds for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The mark of the flow's target.
    pub mark: Mark,
    /// Whether it is in `off_closing`: the client has sent FIN or RST, or one was forged.
    pub closing: bool,
    /// How long the flow stays in the map if no more packets come.
    pub left_seconds: u32,
}

/// The off-table flows as of the last audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffTable {
    flows: HashMap<Flow, Held>,
    strangers: Strangers,
}

impl OffTable {
    /// Returns the target and mark of a packet whose flow is off-table. A SYN is not looked up: the kernel's
    /// ruleset handles it completely, and queues only SYNs that begin a connection.
    #[must_use]
    pub fn pinned(&self, forwarding: &Forwarding, packet: &Packet) -> Option<(TargetId, Mark)> {
        self.held(packet).and_then(|held| forwarding.pinned_flow(packet, held.mark))
    }

    /// Returns what is known about the flow of a packet. A SYN is not looked up, unless an ICMP error quotes
    /// it.
    #[must_use]
    pub fn held(&self, packet: &Packet) -> Option<Held> {
        if self.flows.is_empty() || (matches!(packet.l4, L4::Tcp { syn: true, .. }) && !packet.quoted) {
            return None;
        }
        self.flows.get(&Flow::of(packet)?).copied()
    }

    /// Returns the number of off-table flows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Reports whether there are no off-table flows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Iterates over the off-table flows.
    pub fn iter(&self) -> impl Iterator<Item = (Flow, Held)> {
        self.flows.iter().map(|(&flow, &held)| (flow, held))
    }

    /// Returns what is known about a flow.
    #[must_use]
    pub fn get(&self, flow: &Flow) -> Option<Held> {
        self.flows.get(flow).copied()
    }

    /// Adds a flow, or replaces what is known about it.
    pub fn insert(&mut self, flow: Flow, held: Held) {
        self.flows.insert(flow, held);
    }

    /// Adds several flows, as [`Self::insert`] does.
    pub fn extend(&mut self, flows: impl IntoIterator<Item = (Flow, Held)>) {
        self.flows.extend(flows);
    }

    /// Removes a flow.
    pub fn remove(&mut self, flow: &Flow) {
        self.flows.remove(flow);
        self.strangers.remove(flow);
    }
}

impl OffTable {
    /// Returns the number of flows in each map: for IPv4 and IPv6, `off_table` and `off_closing`.
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
    /// Reports whether flows that the table names again must make room for others: more than half of a map is
    /// in use.
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

/// Connection tracking together with the off-table flows.
pub struct WithOffTable<'a> {
    /// Looked up first.
    pub off_table: &'a OffTable,
    /// Looked up for all other flows.
    pub pins: &'a mut dyn FlowTable,
}

impl FlowTable for WithOffTable<'_> {
    /// Returns the flow that is in place, also for a SYN. The packet tracer needs that.
    fn lookup(&mut self, packet: &Packet) -> io::Result<Option<FlowMark>> {
        match Flow::of(packet).and_then(|flow| self.off_table.get(&flow)) {
            Some(held) => Ok(Some(FlowMark { mark: held.mark, left_seconds: Some(held.left_seconds) })),
            None => self.pins.lookup(packet),
        }
    }

    /// Pins the flow in connection tracking. An off-table flow that goes on in fragments gets an entry there,
    /// too. The next audit moves the entry's lifetime into the map.
    fn pin(&mut self, packet: &Packet, mark: Mark, mask: MarkMask, seconds: u32) -> io::Result<()> {
        self.pins.pin(packet, mark, mask, seconds)
    }
}

/// How far a TCP connection has progressed, as connection tracking sees it from one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Neither side is known to have ended the connection.
    Open,
    /// A FIN or RST has passed.
    Closing,
}

/// Whether a flow goes through the flowtable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Promotion {
    /// The flow does not go through the flowtable.
    #[default]
    No,
    /// The flow goes through the flowtable. How much of its lifetime is left is not known, and packets do not
    /// renew it.
    Now,
    /// The flow went through the flowtable at the last audit, but does not now. The kernel has given it a
    /// lifetime from the host's settings.
    Ended,
}

/// An entry of connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// A packet amid the flow.
    pub packet: Packet,
    /// The connection mark.
    pub mark: Mark,
    /// How long the entry is kept if no more packets come.
    pub left_seconds: u32,
    /// Whether the entry is SEEN_REPLY and ASSURED.
    pub protected: bool,
    /// Whether the flow goes through the flowtable.
    pub promotion: Promotion,
    /// The phase of a TCP connection; `None` for other protocols.
    pub phase: Option<Phase>,
}

/// What is to be done with an entry of connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Delete the entry: its target is not a backend of the service that now claims the flow, or its flows end
    /// ([`Forwarding::ends`]), or its VIP was removed.
    Forget,
    /// The flow is off-table: put it into a map, and delete the entry. If the map is full, keep the entry as
    /// [`Keep`] says.
    Move(Flow, Held, Keep),
    /// Keep the entry.
    Keep(Keep),
}

/// What is to be changed in an entry that stays in connection tracking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Whether the entry is to become SEEN_REPLY and ASSURED.
    pub protect: bool,
    /// A new lifetime from now on, in seconds.
    pub seconds: Option<u32>,
    /// Whether the entry is already protected.
    pub protected: bool,
    /// Whether the flow is a kept flow: one that has sent three packets.
    pub kept: bool,
    /// Whether the flow goes through the flowtable.
    pub promoted: bool,
}

impl Keep {
    fn is_nothing(self) -> bool {
        !self.protect && self.seconds.is_none()
    }
}

impl Forwarding {
    /// Decides what is to be done with an entry of connection tracking. An entry that is not ours stays as it
    /// is: it has none of our target bits, or its destination is not a VIP. An entry of a former VIP is
    /// deleted if the ruleset would still steer its packets by the connection mark alone.
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

    /// Returns the entry as if a packet from the client had created it. On a router that replies also pass
    /// through, a reply may have created it. Such an entry has a lifetime from the host's settings.
    #[must_use]
    pub fn as_of_client(&self, tracked: &Tracked) -> Tracked {
        let addresses = tracked.packet.addresses;
        if self.classifier.has_vip(addresses.destination()) || !self.classifier.has_vip(addresses.source()) {
            return *tracked;
        }
        let left_seconds = tracked.left_seconds.min(PROBATION_SECONDS);
        Tracked { packet: tracked.packet.swapped(), left_seconds, ..*tracked }
    }

    /// As [`Forwarding::ends`], for an entry of connection tracking.
    #[must_use]
    pub fn ends_tracked(&self, tracked: &Tracked, since: u64) -> bool {
        let tracked = self.as_of_client(tracked);
        self.ends(&tracked.packet, tracked.mark, since)
    }

    /// As [`Forwarding::ends`], for a flow of an off-table map, or a pending SYN.
    #[must_use]
    pub fn ends_flow(&self, flow: Flow, mark: Mark, since: u64) -> bool {
        flow.packet().is_some_and(|packet| self.ends(&packet, mark, since))
    }

    /// Reports whether a flow of an off-table map is off-table, and valid for its service.
    #[must_use]
    pub fn is_off_table(&self, flow: Flow, mark: Mark) -> bool {
        self.place_of(flow, mark) == Place::OffTable
    }

    /// Reports whether the table names the same backend as the flow's mark.
    #[must_use]
    pub fn is_on_table(&self, flow: Flow, mark: Mark) -> bool {
        self.place_of(flow, mark) == Place::OnTable
    }

    /// Reports whether the mark of a flow, or of a SYN (`pending`), is valid for the service that now claims
    /// it.
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
        } else if self.serves(service, pinned) && !self.ends(packet, self.mark_mask.mark(pinned), u64::MAX) {
            Place::OffTable
        } else {
            Place::Invalid
        }
    }

    /// Returns what is to be changed in an entry that stays.
    fn keep(&self, tracked: &Tracked) -> Keep {
        let &Tracked { protected, promotion, left_seconds, mark, .. } = tracked;
        let kept = mark.0 & self.mark_mask.kept() != 0 || Self::outlives_probation(tracked);
        let long = self.long(tracked).filter(|(short, _)| match tracked.phase {
            // Each packet sets the short lifetime again, so the change is worthwhile only for an idle
            // connection.
            Some(_) => left_seconds <= short / 5 * 4,
            // From now on, packets give the flow the long lifetime.
            None => !protected,
        });
        let whole = self.whole(tracked);
        let seconds = match promotion {
            Promotion::Now => None,
            Promotion::Ended => whole,
            // The promotion ended while lbd was not looking: a TCP packet does not set so long a lifetime.
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

    /// Returns how long a flow that leaves connection tracking is kept if no more packets come.
    fn rest(&self, tracked: &Tracked, kept: bool) -> u32 {
        let long = match tracked.promotion {
            Promotion::No => self.long(tracked).map(|(_, seconds)| seconds),
            Promotion::Now | Promotion::Ended => self.whole(tracked),
        };
        long.filter(|_| kept).unwrap_or(tracked.left_seconds).max(1)
    }

    /// Returns the lifetime of a kept flow after its last packet.
    fn whole(&self, tracked: &Tracked) -> Option<u32> {
        match (tracked.packet.protocol, tracked.phase) {
            (TCP, Some(Phase::Open)) => Some(self.timeouts.tcp_established_seconds),
            (UDP, _) => Some(self.timeouts.udp_seconds),
            _ => None,
        }
    }

    /// Reports whether an open TCP connection has more left than any has that is not kept. The lbd of region layout
    /// 4, whose marks do not say which flows are kept, gave that to connections of two packets or more.
    fn outlives_probation(tracked: &Tracked) -> bool {
        let open = tracked.packet.protocol == TCP && tracked.phase == Some(Phase::Open);
        open && tracked.promotion == Promotion::No && tracked.left_seconds > PROBATION_SECONDS
    }

    /// Returns the short lifetime of a flow after its last packet, and what would be left of the long one.
    /// Returns `None` if the flow already has more than the short lifetime, or if there is only one lifetime.
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

/// How a pin relates to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The table names the pin's target.
    OnTable,
    /// The table does not name the pin's target, but flows of the service may be pinned to it.
    OffTable,
    /// Flows of the service may not be pinned to the target, or it is disabled.
    Invalid,
}

/// The size of each off-table map, in flows (`nft/synrail.nft`).
pub const OFF_TABLE_FLOWS_MAX: usize = 65_536;

/// How much room a [`Plan`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows that still fit into the maps: for IPv4 and IPv6, into `off_table` and `off_closing`.
    pub room: [[usize; 2]; 2],
    /// Strangers that may still be added, for IPv4 and IPv6.
    pub strangers: [usize; 2],
    /// How many entries of connection tracking may be protected.
    pub protected: usize,
}

/// Returns the map that a flow goes into, as the two indexes into [`Limits::room`].
#[must_use]
pub fn map_of(flow: &Flow, closing: bool) -> (usize, usize) {
    (usize::from(matches!(flow.addresses, Addresses::V6 { .. })), usize::from(closing))
}

/// What is to be done with the entries of connection tracking; `N` names an entry.
#[derive(Clone, Debug)]
pub struct Plan<N> {
    /// Entries to delete.
    pub forget: Vec<N>,
    /// Entries to put into a map, and then to delete.
    pub moves: Vec<(N, Flow, Held)>,
    /// The flows of `moves` that are strangers.
    pub strangers: HashSet<Flow>,
    /// Entries to keep, and to change.
    pub keep: Vec<(N, Keep)>,
    /// Off-table flows for which there was no room.
    pub no_room: usize,
    /// Kept flows that are not protected, because the limit is reached.
    pub not_protected: usize,
    /// Protected entries after the plan was carried out.
    pub protected: usize,
    /// How many of them are entries of flows that stay in the flowtable.
    pub promoted: usize,
    candidates: Vec<(N, Flow, Held, Keep)>,
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
            candidates: Vec::new(),
        }
    }
}

impl<N> Plan<N> {
    /// Adds an entry and its judgement.
    pub fn add(&mut self, judgement: Judgement, name: impl FnOnce() -> N) {
        match judgement {
            Judgement::Forget => self.forget.push(name()),
            Judgement::Move(flow, held, keep) => self.candidates.push((name(), flow, held, keep)),
            Judgement::Keep(keep) => {
                self.protected += usize::from(keep.protected);
                self.promoted += usize::from(keep.promoted);
                if !keep.is_nothing() {
                    self.keep.push((name(), keep));
                }
            }
        }
    }

    /// Distributes the room in the maps, after all entries were added. `known` is what the maps hold: a flow
    /// that has a place there keeps it. Kept flows come first, so that strangers do not take their place, now
    /// or later.
    pub fn limit(&mut self, limits: Limits, known: &OffTable) {
        let Limits { mut room, mut strangers, .. } = limits;
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.sort_by_key(|(_, _, held, keep)| Reverse((keep.kept, held.left_seconds)));
        let mut left = Vec::new();
        for (name, flow, held, keep) in candidates {
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
        // Off-table flows without room in a map depend on their entries, so these come first.
        self.keep.splice(0..0, left.into_iter().filter(|(_, keep)| !keep.is_nothing()));
        for (_, keep) in self.keep.iter_mut().filter(|(_, keep)| keep.protect) {
            if self.protected < limits.protected {
                self.protected += 1;
            } else {
                keep.protect = false;
                // Only entries that the kernel would not drop get the long lifetime.
                keep.seconds = None;
                self.not_protected += 1;
            }
        }
        self.keep.retain(|(_, keep)| !keep.is_nothing());
    }

    /// Adds the planned moves to `off_table`.
    pub fn enter(&self, off_table: &mut OffTable) {
        for (_, flow, held) in &self.moves {
            off_table.enter(*flow, *held, self.strangers.contains(flow));
        }
    }
}

/// Returns the flows of the last audit that are missing in the maps, because another program has emptied a
/// map. Flows of `off_closing` are not among them: a new connection from the same client port may have
/// removed them. `seconds` have passed since the last audit.
pub fn lost(last: &OffTable, now: &OffTable, seconds: u32) -> Vec<(Flow, Held)> {
    // A flow that is about to expire may have expired by now.
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
