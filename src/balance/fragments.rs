//! Decides about fragments. PURE.
//!
//! Only the first fragment of a packet has the ports, so it decides for all: the others get its mark.
//! Fragments that arrive before the first one are held: they are copied here, dropped in the kernel, and
//! released when the first one comes. The TUN device then sends them in again. They come back through the
//! same queue ([`Origin::Held`]), find the mark and go on. No fragment is held twice. Nothing is reassembled
//! here: fragments leave as they came.
//!
//! In a tier ([`super::tier`]) one balancer owns all fragments between two addresses. A fragment that another
//! balancer owns is sent there, and nothing of it is remembered here. A fragment that another balancer sent
//! ([`Origin::Tier`]) is handled here, whatever the tier says now, so a fragment is forwarded once at most.
//!
//! A packet is remembered as *holding* (its first fragment has not arrived), *known* (its mark is known) or
//! *poisoned* (no further fragment of it may pass). It is remembered until all its bytes have arrived and
//! every released fragment has come back, or for [`FragmentLimits::ttl_ms`] after the last fragment that was
//! accepted. A fragment that arrives after that begins a new packet: a first one is steered, a later one is
//! held until its time is over. A packet is poisoned by:
//!
//! - bytes that arrive twice, other than in a whole duplicate (only the duplicate is dropped), or two
//!   different values for where the packet ends (RFC 5722; Linux does the same with IPv4). Otherwise a
//!   backend might reassemble a packet that no firewall has seen.
//! - a first fragment that does not hold the whole transport header (options excepted), or a fragment that
//!   might overwrite the flags of a TCP header (RFC 1858, RFC 7112).
//! - more than 64 pieces with gaps between them.
//! - a first fragment that is dropped: no service, no backend, malformed.
//!
//! # Pinning
//! Connection tracking never sees fragments. So a flow that begins with a fragmented datagram, or that has
//! only fragmented ones, would be steered anew whenever the table changes, and the entry of a flow that had
//! whole ones would expire. Therefore the first fragment of a UDP datagram that is handled here pins its flow
//! if the flow has no mark of a target in use. It renews the pin if less than half of its time is left. The
//! pin is written before the verdict, so the entry is in place for the next datagram. This costs some ten
//! microseconds, only when a pin is written. It fails if the conntrack table is full; the verdict is the
//! same.
//!
//! Fragments of other protocols pin nothing. A TCP connection is pinned by the whole packets of its
//! handshake, and an entry that is made from outside would have none of the connection's state. An ICMP error
//! is not a packet of the flow that it quotes. An echo request is answered by itself. SCTP and the rest are
//! left to what connection tracking makes of their whole packets.
//!
//! With [`Steering::EveryPacket`] nothing is pinned: whole packets follow the table alone, and so do
//! fragments.
//!
//! # Limits
//! Fragments add no more to connection tracking than whole datagrams do, and less from one source: a first
//! fragment that gets no entry in the fragment table pins nothing.
//!
//! All memory is bounded by [`FragmentLimits`]. An entry takes 176 bytes, and as much again in the maps that
//! find it. All of it is allocated at the start: 6 MB with the defaults. A packet in 64 pieces takes 256
//! bytes more, so all of them at most 4 MB more. Held fragments take their own bytes, at most 16 MB,
//! and some 32 for each. As much again may have been released and wait to be sent in
//! ([`crate::fragment_worker`]). When there is no room:
//!
//! | what is full                    | what gives way                                            |
//! |---------------------------------|-----------------------------------------------------------|
//! | `entries`                       | the packet least recently used                            |
//! | `held_packets`, `held_bytes`    | the packets least recently used among those holding       |
//! | `entries_per_source`, `held_bytes_per_source` | the new fragment: others do not pay for one source |
//!
//! A source is an IPv4 address or an IPv6 /64. In the share of its source, a held fragment counts as at least
//! `held_bytes` / `held_packets` (2 KiB with the defaults). Otherwise one source could fill `held_packets`
//! cheaply with the smallest fragments.
//!
//! # Counters
//! Every fragment counts once in `packets`, and once in one of `steered_fragment`, `fragment_forwarded`,
//! `fragment_held`, `foreign` and the drops. A held fragment counts again when its holding ends: in
//! `drop_fragment_evicted`, `drop_fragment_expired` or `drop_fragment_poisoned`, or, if it is released, in
//! `fragment_inject_failed` or `fragment_injected`. An injected fragment comes back (`packets` and a
//! verdict), unless the kernel loses it on its way. Such a loss has no counter of its own: it is the number
//! by which `fragment_injected` exceeds the fragments that came back. Targets count first fragments only, as
//! they count flows and datagrams.

mod parts;
mod table;

use std::time::Duration;

use super::{
    Forwarding, Verdict,
    counters::{Counter, Counters},
    handle_whole,
    pins::WithOffTable,
    refuse,
    tier::Owner,
};
use crate::{
    balance::flow_table::FlowTable,
    config::FragmentLimits,
    model::{
        Steering,
        ids::{Mark, TargetId},
    },
    packet::{Fragment, FragmentKey, L4, Malformed, Packet},
};
use parts::Fit;
use table::{Held, Slot, State, Table};

/// Where a fragment was before it came to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It comes from outside, for the first time.
    Outside,
    /// It comes from another balancer of the tier, which does not own it.
    Tier,
    /// It comes from here: it was held, and came back by the TUN device.
    Held,
}

/// Decides about fragments, and counts the decisions. There is one of these, and one queue for it.
#[derive(Debug)]
pub struct FragmentBalancer {
    /// What was counted since the start.
    pub counters: Counters,
    table: Table,
    /// The last reading of the clock.
    clock: Duration,
    /// How much time has passed, as far as that can be known: when the clock jumps back, no time is added.
    passed: Duration,
}

/// What the decision about a fragment needs.
struct Context<'a> {
    forwarding: &'a Forwarding,
    pins: &'a mut dyn FlowTable,
    released: &'a mut Vec<Box<[u8]>>,
}

impl FragmentBalancer {
    /// Creates a balancer with an empty table of these limits.
    #[must_use]
    pub fn new(limits: FragmentLimits) -> Self {
        Self {
            counters: Counters::default(),
            table: Table::new(limits),
            clock: Duration::ZERO,
            passed: Duration::ZERO,
        }
    }

    /// Returns the verdict on one queued fragment, which starts at its IP header. `now` is the time since
    /// some fixed moment. `pins` is connection tracking, and the off-table flows. Held fragments that may now
    /// go on are put into `released`, in the order in which they came. Those that cannot be sent must be
    /// given to [`FragmentBalancer::inject_failed`].
    pub fn handle(
        &mut self,
        now: Duration,
        forwarding: &Forwarding,
        origin: Origin,
        bytes: &[u8],
        pins: &mut WithOffTable<'_>,
        released: &mut Vec<Box<[u8]>>,
    ) -> Verdict {
        self.counters.count(Counter::Packets);
        self.expire(now);
        self.adapt(forwarding.fragments());
        let verdict = match Fragment::parse(bytes) {
            // A held fragment was for a virtual address when it came.
            Ok(Some(_)) if origin != Origin::Held && !forwarding.is_for_vip(bytes) => {
                self.counters.count(Counter::Foreign);
                Verdict::Pass
            }
            Ok(Some(fragment)) => {
                self.handle_fragment(&mut Context { forwarding, pins, released }, origin, &fragment)
            }
            Ok(None) => handle_whole(&mut self.counters, forwarding, pins.off_table, bytes),
            Err(reason) => refuse(&mut self.counters, forwarding, bytes, reason.into()),
        };
        self.show_levels();
        verdict
    }

    /// Records that a released fragment will not come back.
    pub fn inject_failed(&mut self, bytes: &[u8]) {
        self.counters.count(Counter::FragmentInjectFailed);
        if let Ok(Some(fragment)) = Fragment::parse(bytes)
            && let Some(slot) = self.table.find(&fragment.key)
        {
            self.came_back(slot);
        }
        self.show_levels();
    }

    /// Forgets entries that are too old, applies changed limits, and updates the levels among the counters.
    pub fn tick(&mut self, now: Duration, forwarding: &Forwarding) {
        self.expire(now);
        self.adapt(forwarding.fragments());
        self.show_levels();
    }

    fn handle_fragment(
        &mut self,
        context: &mut Context<'_>,
        origin: Origin,
        fragment: &Fragment<'_>,
    ) -> Verdict {
        let result = match origin {
            Origin::Held => self.handle_returned(&fragment.key),
            Origin::Outside => {
                self.counters.count(Counter::Fragments);
                let FragmentKey { addresses, protocol, .. } = fragment.key;
                if let Owner::Member { target, mark, .. } =
                    context.forwarding.tier().owner(addresses, protocol)
                {
                    self.counters.count(Counter::FragmentForwarded);
                    if fragment.first.is_some() {
                        self.counters.count_target(target);
                    }
                    return Verdict::Steer(mark);
                }
                self.handle_here(context, fragment)
            }
            Origin::Tier => {
                self.counters.count(Counter::Fragments);
                self.counters.count(Counter::FragmentFromTier);
                self.handle_here(context, fragment)
            }
        };
        match result {
            Ok(mark) => {
                self.counters.count(Counter::SteeredFragment);
                Verdict::Steer(mark)
            }
            Err(reason) => {
                self.counters.count(reason);
                Verdict::Drop
            }
        }
    }

    /// Returns the mark of a fragment that was held, or why it is dropped.
    fn handle_returned(&mut self, key: &FragmentKey) -> Result<Mark, Counter> {
        let slot = self.table.find(key).ok_or(Counter::DropFragmentLate)?;
        match self.table.entry(slot).state() {
            State::Known(mark) => {
                self.came_back(slot);
                Ok(mark)
            }
            State::Poisoned => Err(Counter::DropFragmentPoisoned),
            // This is another packet, with the same identification as the forgotten one.
            State::Holding => Err(Counter::DropFragmentLate),
        }
    }

    /// Returns the mark of a fragment that this balancer owns, or why it is dropped (being held is a reason).
    fn handle_here(&mut self, context: &mut Context<'_>, fragment: &Fragment<'_>) -> Result<Mark, Counter> {
        let known = self.table.find(&fragment.key);
        let state = known.map_or(State::Holding, |slot| self.table.entry(slot).state());
        if state == State::Poisoned {
            return Err(Counter::DropFragmentPoisoned);
        }
        if fragment.over_tcp_flags {
            let slot = self.slot_for(known, fragment.key)?;
            return Err(self.poison(slot, Counter::DropFragmentTiny));
        }
        if let Some(slot) = known {
            match self.table.entry(slot).parts.fit(fragment.start, fragment.end, fragment.more) {
                Fit::New => {}
                Fit::Duplicate => return Err(Counter::DropFragmentDuplicate),
                Fit::Overlap => return Err(self.poison(slot, Counter::DropFragmentOverlap)),
                Fit::TooMany => return Err(self.poison(slot, Counter::DropFragmentParts)),
            }
        }
        match (fragment.first, state, known) {
            (Some(packet), ..) => {
                let slot = self.slot_for(known, fragment.key)?;
                let (target, mark) = match self.decide(context.forwarding, context.pins, packet) {
                    Ok(decided) => decided,
                    Err(reason) => return Err(self.poison(slot, reason)),
                };
                self.counters.count_target(target);
                let held = self.table.transition(slot, State::Known(mark), self.passed);
                self.table.entry_mut(slot).outstanding = held.len();
                context.released.extend(held);
                self.accept(slot, fragment);
                Ok(mark)
            }
            (None, State::Known(mark), Some(slot)) => {
                self.accept(slot, fragment);
                Ok(mark)
            }
            (None, ..) => {
                self.hold(known, fragment)?;
                Err(Counter::FragmentHeld)
            }
        }
    }

    /// Decides by the first fragment where a packet goes, or why it is dropped.
    fn decide(
        &mut self,
        forwarding: &Forwarding,
        pins: &mut dyn FlowTable,
        packet: Result<Packet, Malformed>,
    ) -> Result<(TargetId, Mark), Counter> {
        let packet = packet.map_err(|reason| {
            let tiny = matches!(reason, Malformed::L4Header | Malformed::Extension);
            if tiny { Counter::DropFragmentTiny } else { reason.into() }
        })?;
        if forwarding.steering() == Steering::EveryPacket {
            return forwarding.decide(&packet).outcome();
        }
        let Ok(pin) = pins.lookup(&packet) else {
            self.counters.count(Counter::ConntrackError);
            return forwarding.decide(&packet).outcome();
        };
        let pinned = pin.and_then(|pin| Some((forwarding.pinned_flow(&packet, pin.mark)?, pin.left_seconds)));
        let (decided, left_seconds) = match pinned {
            Some(pinned) => {
                self.counters.count(Counter::FragmentPinned);
                pinned
            }
            None => (forwarding.decide(&packet).outcome()?, Some(0)),
        };
        let seconds = forwarding.udp_seconds();
        if matches!(packet.l4, L4::Udp(_))
            && !packet.quoted
            && left_seconds.is_some_and(|left| left.saturating_mul(2) < seconds)
        {
            let (_, mark) = decided;
            self.counters.count(match pins.pin(&packet, mark, forwarding.mark_mask(), seconds) {
                Ok(()) => Counter::FragmentPins,
                Err(_) => Counter::ConntrackError,
            });
        }
        Ok(decided)
    }

    /// Holds a fragment whose first one has not arrived, or returns why it cannot be held.
    fn hold(&mut self, known: Option<Slot>, fragment: &Fragment<'_>) -> Result<(), Counter> {
        let bytes = fragment.bytes.ok_or(Counter::DropFragmentFull)?;
        let len = bytes.len() as u64;
        if !self.table.could_hold(known, len) {
            return Err(Counter::DropFragmentFull);
        }
        if !self.table.may_hold_for(&fragment.key, len) {
            return Err(Counter::DropFragmentSource);
        }
        let slot = self.slot_for(known, fragment.key)?;
        while !self.table.can_hold(len)
            && let Some(other) = self.table.least_recent_holding_but(slot)
        {
            self.evict(other);
        }
        self.table.hold(slot, bytes);
        self.accept(slot, fragment);
        Ok(())
    }

    /// Returns the entry of a packet. Creates one if there is none and its source may have another.
    fn slot_for(&mut self, known: Option<Slot>, key: FragmentKey) -> Result<Slot, Counter> {
        if let Some(slot) = known {
            return Ok(slot);
        }
        if self.table.is_full_for(&key) {
            return Err(Counter::DropFragmentSource);
        }
        while self.table.is_full()
            && let Some(oldest) = self.table.least_recent()
        {
            self.evict(oldest);
        }
        Ok(self.table.insert(key, self.passed))
    }

    /// Records the bytes of an accepted fragment.
    fn accept(&mut self, slot: Slot, fragment: &Fragment<'_>) {
        self.table.touch(slot, self.passed);
        self.table.entry_mut(slot).parts.insert(fragment.start, fragment.end, fragment.more);
        self.forget_if_done(slot);
    }

    fn came_back(&mut self, slot: Slot) {
        let entry = self.table.entry_mut(slot);
        entry.outstanding = entry.outstanding.saturating_sub(1);
        self.forget_if_done(slot);
    }

    /// Frees the entry of a packet that is complete, so that its identification may be used again.
    fn forget_if_done(&mut self, slot: Slot) {
        let entry = self.table.entry(slot);
        if entry.outstanding == 0 && entry.parts.complete() {
            self.table.remove(slot);
        }
    }

    /// Poisons a packet: no further fragment of it may pass. Returns `reason`.
    fn poison(&mut self, slot: Slot, reason: Counter) -> Counter {
        let held = self.table.transition(slot, State::Poisoned, self.passed);
        self.counters.add(Counter::DropFragmentPoisoned, held.len() as u64);
        reason
    }

    fn evict(&mut self, slot: Slot) {
        self.counters.count(Counter::FragmentEvicted);
        let held = self.table.remove(slot);
        self.counters.add(Counter::DropFragmentEvicted, held.len() as u64);
    }

    /// Advances the time, and forgets entries that are too old.
    fn expire(&mut self, now: Duration) {
        self.passed = self.passed.saturating_add(now.saturating_sub(self.clock));
        self.clock = now;
        let ttl = Duration::from_millis(self.table.limits().ttl_ms.into());
        while let Some((used, slot)) = self.table.oldest()
            && self.passed.saturating_sub(used) >= ttl
        {
            let held = self.table.remove(slot);
            self.counters.add(Counter::DropFragmentExpired, held.len() as u64);
        }
    }

    /// Starts anew with an empty table if the limits have changed.
    fn adapt(&mut self, limits: FragmentLimits) {
        if limits == self.table.limits() {
            return;
        }
        while let Some(slot) = self.table.least_recent() {
            self.evict(slot);
        }
        self.table = Table::new(limits);
    }

    fn show_levels(&mut self) {
        let Held { packets, bytes } = self.table.held();
        self.counters.set(Counter::FragmentEntriesNow, self.table.len() as u64);
        self.counters.set(Counter::FragmentHeldPacketsNow, packets);
        self.counters.set(Counter::FragmentHeldBytesNow, bytes);
    }
}

#[cfg(test)]
pub(crate) mod tests;
