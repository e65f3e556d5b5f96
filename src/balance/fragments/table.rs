//! What is remembered of fragmented packets: a fixed number of entries, found by key, in the order of their
//! last use.
//!
//! Entries are stored in one vector and form two lists: those that hold fragments, and the others. Each list
//! runs from the least to the most recently used. Time must not run backwards here, so that the front of a
//! list is also its oldest entry.
//!
//! A source is an IPv4 address or an IPv6 /64, since one host may use all addresses of a /64. Each source has
//! a share of the held bytes. A small fragment counts for more than its bytes: for the size that each
//! fragment would have if all of `held_packets` were alike. So the share also limits how much of
//! `held_packets` one source can use.

use std::{
    collections::{HashMap, hash_map},
    mem,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use super::parts::Parts;
use crate::{
    config::FragmentLimits,
    model::ids::Mark,
    packet::{Addresses, FragmentKey},
};

/// What is known about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its first fragment has not arrived; the others are held.
    Holding,
    /// Its mark is known.
    Known(Mark),
    /// No further fragment of it may pass.
    Poisoned,
}

/// The index of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(usize);

/// A packet of which a fragment has arrived.
#[derive(Debug)]
pub(super) struct Entry {
    key: FragmentKey,
    state: State,
    /// Which of its bytes have arrived.
    pub parts: Parts,
    /// How many fragments were released and have not come back.
    pub outstanding: usize,
    held: Vec<Box<[u8]>>,
    /// The number of bytes in `held`.
    held_bytes: u64,
    used: Duration,
    /// The value of [`Table`]'s use counter at the last use.
    turn: u64,
    before: Option<Slot>,
    behind: Option<Slot>,
}

impl Entry {
    pub(super) fn state(&self) -> State {
        self.state
    }
}

/// An amount of held fragments, in packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub packets: u64,
    pub bytes: u64,
}

/// What one source has in the table.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    entries: usize,
    /// What its held fragments are charged, in bytes.
    charged: u64,
}

/// The owner of a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Source(IpAddr);

impl Source {
    fn of(key: &FragmentKey) -> Self {
        Self(match key.addresses {
            Addresses::V4 { src, .. } => src.into(),
            Addresses::V6 { src, .. } => Ipv6Addr::from_bits(src.to_bits() >> 64 << 64).into(),
        })
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct List {
    front: Option<Slot>,
    back: Option<Slot>,
}

/// All entries.
#[derive(Debug)]
pub(super) struct Table {
    limits: FragmentLimits,
    /// The hashers of both maps are keyed, so an attacker cannot aim at one bucket.
    index: HashMap<FragmentKey, Slot>,
    sources: HashMap<Source, Share>,
    /// Never more entries than the limits allow.
    entries: Vec<Entry>,
    free: Vec<Slot>,
    holding: List,
    others: List,
    held: Held,
    turn: u64,
}

impl Table {
    /// Creates an empty table, and allocates all the memory that its entries need. A limit below one entry
    /// counts as one.
    pub(super) fn new(limits: FragmentLimits) -> Self {
        let entries = to_usize(limits.entries.max(1));
        Self {
            limits,
            index: HashMap::with_capacity(entries),
            sources: HashMap::with_capacity(entries),
            entries: Vec::with_capacity(entries),
            free: Vec::with_capacity(entries),
            holding: List::default(),
            others: List::default(),
            held: Held::default(),
            turn: 0,
        }
    }

    pub(super) fn limits(&self) -> FragmentLimits {
        self.limits
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Returns what is held of all packets.
    pub(super) fn held(&self) -> Held {
        self.held
    }

    pub(super) fn find(&self, key: &FragmentKey) -> Option<Slot> {
        self.index.get(key).copied()
    }

    pub(super) fn entry(&self, slot: Slot) -> &Entry {
        &self.entries[slot.0]
    }

    pub(super) fn entry_mut(&mut self, slot: Slot) -> &mut Entry {
        &mut self.entries[slot.0]
    }

    /// Reports whether an entry must be removed before another can be inserted.
    pub(super) fn is_full(&self) -> bool {
        self.len() >= to_usize(self.limits.entries.max(1))
    }

    /// Reports whether the packet's source has as many entries as it may have.
    pub(super) fn is_full_for(&self, key: &FragmentKey) -> bool {
        self.share(key).entries >= to_usize(self.limits.entries_per_source)
    }

    /// Reports whether the packet's source may have another fragment held.
    pub(super) fn may_hold_for(&self, key: &FragmentKey, bytes: u64) -> bool {
        self.share(key).charged + charge(self.limits, bytes) <= self.limits.held_bytes_per_source.into()
    }

    /// Reports whether another fragment of a packet (or of one without an entry, if `slot` is `None`) could
    /// be held if all other packets made room.
    pub(super) fn could_hold(&self, slot: Option<Slot>, bytes: u64) -> bool {
        let own = slot.map_or_else(Held::default, |slot| self.held_of(slot));
        self.within_limits(own, bytes)
    }

    /// Reports whether another fragment can be held now.
    pub(super) fn can_hold(&self, bytes: u64) -> bool {
        self.within_limits(self.held, bytes)
    }

    /// Returns the least recently used entry.
    pub(super) fn least_recent(&self) -> Option<Slot> {
        let fronts = [self.holding.front, self.others.front];
        fronts.into_iter().flatten().min_by_key(|slot| self.entry(*slot).turn)
    }

    /// Returns when the least recently used entry was used, and its slot.
    pub(super) fn oldest(&self) -> Option<(Duration, Slot)> {
        self.least_recent().map(|slot| (self.entry(slot).used, slot))
    }

    /// Returns the least recently used entry, other than `slot`, among those that hold fragments.
    pub(super) fn least_recent_holding_but(&self, slot: Slot) -> Option<Slot> {
        let front = self.holding.front?;
        if front == slot { self.entry(front).behind } else { Some(front) }
    }

    /// Inserts a new entry that holds nothing. The table must not be full, and the key must not be in it.
    pub(super) fn insert(&mut self, key: FragmentKey, now: Duration) -> Slot {
        self.turn += 1;
        let fresh = |parts, turn| Entry {
            key,
            state: State::Holding,
            parts,
            outstanding: 0,
            held: Vec::new(),
            held_bytes: 0,
            used: now,
            turn,
            before: None,
            behind: None,
        };
        let slot = if let Some(slot) = self.free.pop() {
            let mut parts = mem::take(&mut self.entry_mut(slot).parts);
            parts.clear();
            *self.entry_mut(slot) = fresh(parts, self.turn);
            slot
        } else {
            self.entries.push(fresh(Parts::default(), self.turn));
            Slot(self.entries.len() - 1)
        };
        self.index.insert(key, slot);
        self.sources.entry(Source::of(&key)).or_default().entries += 1;
        self.link(slot);
        slot
    }

    /// Makes an entry the most recently used.
    pub(super) fn touch(&mut self, slot: Slot, now: Duration) {
        let state = self.entry(slot).state;
        self.relink(slot, state, now);
    }

    /// Holds a fragment of a packet whose first one has not arrived.
    pub(super) fn hold(&mut self, slot: Slot, fragment: &[u8]) {
        let bytes = fragment.len() as u64;
        let charged = charge(self.limits, bytes);
        let entry = self.entry_mut(slot);
        entry.held.push(fragment.into());
        entry.held_bytes += bytes;
        let source = Source::of(&entry.key);
        self.sources.entry(source).or_default().charged += charged;
        self.held.packets += 1;
        self.held.bytes += bytes;
    }

    /// Makes an entry the most recently used, and gives it a state other than holding. Returns what it held.
    pub(super) fn transition(&mut self, slot: Slot, state: State, now: Duration) -> Vec<Box<[u8]>> {
        let held = self.let_go(slot);
        self.relink(slot, state, now);
        held
    }

    /// Removes an entry, and returns what it held.
    pub(super) fn remove(&mut self, slot: Slot) -> Vec<Box<[u8]>> {
        let held = self.let_go(slot);
        self.unlink(slot);
        let key = self.entry(slot).key;
        self.index.remove(&key);
        if let hash_map::Entry::Occupied(mut share) = self.sources.entry(Source::of(&key)) {
            share.get_mut().entries -= 1;
            if share.get().entries == 0 {
                share.remove();
            }
        }
        self.free.push(slot);
        held
    }

    /// Takes what an entry holds, and subtracts it from all sums.
    fn let_go(&mut self, slot: Slot) -> Vec<Box<[u8]>> {
        let Held { packets, bytes } = self.held_of(slot);
        if packets == 0 {
            return Vec::new();
        }
        let limits = self.limits;
        let entry = self.entry_mut(slot);
        let held = mem::take(&mut entry.held);
        entry.held_bytes = 0;
        let source = Source::of(&entry.key);
        let charged = held.iter().map(|fragment| charge(limits, fragment.len() as u64)).sum::<u64>();
        self.sources.entry(source).or_default().charged -= charged;
        self.held.packets -= packets;
        self.held.bytes -= bytes;
        held
    }

    fn held_of(&self, slot: Slot) -> Held {
        let entry = self.entry(slot);
        Held { packets: entry.held.len() as u64, bytes: entry.held_bytes }
    }

    fn within_limits(&self, held: Held, bytes: u64) -> bool {
        held.packets < self.limits.held_packets.into() && held.bytes + bytes <= self.limits.held_bytes.into()
    }

    fn share(&self, key: &FragmentKey) -> Share {
        self.sources.get(&Source::of(key)).copied().unwrap_or_default()
    }

    fn list(&mut self, state: State) -> &mut List {
        match state {
            State::Holding => &mut self.holding,
            State::Known(_) | State::Poisoned => &mut self.others,
        }
    }

    fn relink(&mut self, slot: Slot, state: State, now: Duration) {
        self.unlink(slot);
        self.turn += 1;
        let turn = self.turn;
        let entry = self.entry_mut(slot);
        (entry.state, entry.used, entry.turn) = (state, now, turn);
        self.link(slot);
    }

    /// Puts an entry at the back of its list.
    fn link(&mut self, slot: Slot) {
        let state = self.entry(slot).state;
        let list = self.list(state);
        let before = list.back.replace(slot);
        if before.is_none() {
            list.front = Some(slot);
        }
        if let Some(before) = before {
            self.entry_mut(before).behind = Some(slot);
        }
        let entry = self.entry_mut(slot);
        (entry.before, entry.behind) = (before, None);
    }

    /// Takes an entry out of its list.
    fn unlink(&mut self, slot: Slot) {
        let &Entry { state, before, behind, .. } = self.entry(slot);
        match before {
            Some(before) => self.entry_mut(before).behind = behind,
            None => self.list(state).front = behind,
        }
        match behind {
            Some(behind) => self.entry_mut(behind).before = before,
            None => self.list(state).back = before,
        }
    }
}

/// Returns what a held fragment of this size is charged in its source's share. The charge is never above the
/// share unless the fragment itself is, so a share is always enough for one fragment, however large an equal
/// part of `held_bytes` would be.
fn charge(limits: FragmentLimits, bytes: u64) -> u64 {
    let equal_part = limits.held_bytes / limits.held_packets.max(1);
    bytes.max(equal_part.min(limits.held_bytes_per_source).into())
}

fn to_usize(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}
