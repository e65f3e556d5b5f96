//! Publishing a state and reading it back, over any [`Memory`]; see the head of `shm/mod.rs` for the protocol.
//!
//! A slot lies where its description says. A state that fits neither the old place nor the gap in front of the live
//! slot goes behind it, and the region grows; it never shrinks while it lives, since that would pull the memory from
//! under its readers.

use std::collections::HashMap;

use twox_hash::XxHash3_64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Memory, RegionError, layout, stats};
use crate::{balance::maglev::Table, ids::Generation, state::State};

/// "synrail\0" as a word of this machine's order.
const MAGIC: u64 = u64::from_ne_bytes(*b"synrail\0");
/// Changes with every change of the layout.
pub const LAYOUT_VERSION: u32 = 6;
const BYTE_ORDER: u32 = 0x0102_0304;
const GENERATION_AT: usize = 64;
const SLOTS_AT: [usize; 2] = [128, 192];
/// Slots begin on a page of their own.
const PAGE: usize = 4096;
/// A file must have this many bytes before [`format()`] can be called on it.
pub const HEADER_BYTES: u64 = PAGE as u64;
/// A slot is never larger: all tables at their limit, and the records.
pub(super) const SLOT_BYTES_MAX: usize = 512 << 20;
/// A reader that lost this many races gives up for now; each lost race is a publication.
const READ_TRIES: usize = 64;

/// What never changes in a region.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Header {
    magic: u64,
    layout_version: u32,
    byte_order: u32,
    stats_at: u32,
    stats_blocks: u32,
    stats_block_bytes: u32,
    slots_at: u32,
    checksum: u64,
}

/// Where a slot is and what must be in it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
struct Slot {
    offset: u64,
    capacity: u64,
    length: u64,
    generation: u64,
    records_length: u64,
    /// Tables have their own.
    records_checksum: u64,
    checksum: u64,
}

const _: () = {
    assert!(size_of::<Header>() == 40 && size_of::<Header>() <= GENERATION_AT);
    assert!(size_of::<Slot>() == 56 && SLOTS_AT[0] + size_of::<Slot>() <= SLOTS_AT[1]);
    assert!(SLOTS_AT[1] + size_of::<Slot>() <= stats::DAEMON_AT);
};

impl Header {
    fn ours() -> Self {
        // All of these are small constants.
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut header = Self {
            magic: MAGIC,
            layout_version: LAYOUT_VERSION,
            byte_order: BYTE_ORDER,
            stats_at: small(stats::BLOCKS_AT),
            stats_blocks: small(stats::BLOCKS),
            stats_block_bytes: small(stats::BLOCK_BYTES),
            slots_at: small(stats::END),
            checksum: 0,
        };
        header.checksum = XxHash3_64::oneshot(&header.as_bytes()[..size_of::<Self>() - 8]);
        header
    }
}

impl Slot {
    fn sealed(self) -> Self {
        Self { checksum: XxHash3_64::oneshot(&self.as_bytes()[..size_of::<Self>() - 8]), ..self }
    }

    /// Offset and capacity, where they can be right.
    fn place(&self) -> Option<(usize, usize)> {
        let (offset, capacity) = (usize::try_from(self.offset).ok()?, usize::try_from(self.capacity).ok()?);
        let right = offset >= stats::END && offset.is_multiple_of(8) && capacity <= 2 * SLOT_BYTES_MAX;
        (right && offset <= 4 * SLOT_BYTES_MAX).then_some((offset, capacity))
    }
}

/// Makes an empty memory a region that holds `state` as generation 1. Nobody else may see it yet.
///
/// # Errors
/// When the memory cannot grow, or the state is too large.
pub fn format(memory: &mut impl Memory, state: &State) -> Result<(), RegionError> {
    memory.grow(stats::END)?;
    memory.write(0, Header::ours().as_bytes())?;
    publish(memory, state, Generation(0)).map(drop)
}

/// Whether the memory is a region that this program knows.
///
/// # Errors
/// Why it is none.
pub fn check(memory: &mut impl Memory) -> Result<(), RegionError> {
    let found = memory.size()?;
    if found < size_of::<Header>() {
        let ours = found >= 8 && memory.load(0)? == MAGIC;
        return Err(if ours {
            RegionError::Truncated { found, needed: stats::END }
        } else {
            RegionError::NotARegion
        });
    }
    let header: Header = record(memory, 0)?;
    if header.magic != MAGIC {
        let swapped = header.magic == MAGIC.swap_bytes();
        return Err(if swapped { RegionError::ForeignByteOrder } else { RegionError::NotARegion });
    }
    if header.byte_order != BYTE_ORDER {
        return Err(RegionError::ForeignByteOrder);
    }
    if header.layout_version != LAYOUT_VERSION {
        return Err(RegionError::ForeignVersion { found: header.layout_version, known: LAYOUT_VERSION });
    }
    if header != Header::ours() {
        return Err(RegionError::Corrupt("its header"));
    }
    if found < stats::END {
        return Err(RegionError::Truncated { found, needed: stats::END });
    }
    Ok(())
}

/// The generation that is live now; one load, for a reader that has checked the region before.
///
/// # Errors
/// When the region is gone.
pub fn generation(memory: &mut impl Memory) -> Result<Generation, RegionError> {
    Ok(Generation(memory.load(GENERATION_AT)?))
}

/// Tables that a reader has, by their checksums.
pub type KnownTables = HashMap<u64, Table>;

/// A verified copy of the live state.
///
/// # Errors
/// When there is none that is whole.
pub fn read(memory: &mut impl Memory) -> Result<(Generation, State), RegionError> {
    read_knowing(memory, &KnownTables::new(), |state| (0..state.services.len()).collect())
}

/// The same, with the tables of those services alone that `pick` says, by index, of the state without tables;
/// others are empty. Tables that are `known` are shared, and not read.
///
/// # Errors
/// As [`read`].
pub fn read_knowing(
    memory: &mut impl Memory,
    known: &KnownTables,
    pick: impl Fn(&State) -> Vec<usize>,
) -> Result<(Generation, State), RegionError> {
    check(memory)?;
    for _ in 0..READ_TRIES {
        let generation = generation(memory)?;
        let result = read_generation(memory, generation, known, &pick);
        // What is wrong may be a writer's work of this moment: it counts only if nothing was published meanwhile.
        if result.is_ok() || self::generation(memory)? == generation {
            return result.map(|state| (generation, state));
        }
    }
    Err(RegionError::Unstable)
}

fn read_generation(
    memory: &mut impl Memory,
    generation: Generation,
    known: &KnownTables,
    pick: &impl Fn(&State) -> Vec<usize>,
) -> Result<State, RegionError> {
    let slot = live_slot(memory, generation)?;
    let word = |word: u64| usize::try_from(word).unwrap_or(usize::MAX);
    let (length, records) = (word(slot.length), word(slot.records_length));
    let place = slot.place().filter(|(_, capacity)| length <= *capacity && length <= SLOT_BYTES_MAX);
    let place = place.filter(|_| records <= length && length % 8 == 0 && records % 8 == 0);
    let (offset, _) = place.ok_or(RegionError::Corrupt("a slot's description"))?;
    let (found, needed) = (memory.size()?, offset.saturating_add(length));
    if found < needed {
        return Err(RegionError::Truncated { found, needed });
    }
    let bytes = memory.read(offset, records)?;
    if XxHash3_64::oneshot(&bytes) != slot.records_checksum {
        return Err(RegionError::Corrupt("a slot's checksum"));
    }
    let (written, mut state, places) = layout::decode(&bytes)?;
    if written != generation {
        return Err(RegionError::Corrupt("a slot's generation"));
    }
    let mut read = KnownTables::new();
    for index in pick(&state) {
        let (Some(Some(place)), Some(service)) = (places.get(index), state.services.get_mut(index)) else {
            continue;
        };
        service.table =
            if let Some(table) = known.get(&place.checksum()).or_else(|| read.get(&place.checksum())) {
                place.checked(table)?
            } else {
                let bytes = place.bytes();
                if bytes.end > length {
                    return Err(RegionError::Corrupt("where a table is"));
                }
                let table = place.table(&memory.read(offset + bytes.start, bytes.len())?)?;
                read.insert(table.digest(), table.clone());
                table
            };
    }
    Ok(state)
}

fn live_slot(memory: &mut impl Memory, generation: Generation) -> Result<Slot, RegionError> {
    let slot: Slot = record(memory, SLOTS_AT[usize::from(generation.0 % 2 == 1)])?;
    if slot != slot.sealed() || slot.generation != generation.0 {
        return Err(RegionError::Corrupt("a slot's description"));
    }
    Ok(slot)
}

/// Publishes `state` as the generation after `live`, which must be the live one; returns the new one. The caller
/// holds the writers' lock.
///
/// # Errors
/// When the state is too large or the region is gone; then the live generation stays as it is.
pub fn publish(memory: &mut impl Memory, state: &State, live: Generation) -> Result<Generation, RegionError> {
    let next = Generation(live.0.checked_add(1).ok_or(RegionError::Corrupt("its generation"))?);
    let content = layout::encode(state, next);
    if content.length > SLOT_BYTES_MAX {
        return Err(RegionError::TooLarge { needed: content.length, allowed: SLOT_BYTES_MAX });
    }
    let target = usize::from(next.0 % 2 == 1);
    // Generation 0 has no slot: the region is being made.
    let occupied = match live {
        Generation(0) => None,
        live => Some(live_slot(memory, live)?.place().ok_or(RegionError::Corrupt("a slot's description"))?),
    };
    let (offset, capacity) = place(content.length, occupied);
    memory.grow(offset + capacity)?;
    memory.write(offset, &content.records)?;
    for (at, table) in &content.tables {
        let (words, rest) = table.as_bytes().as_chunks::<8>();
        memory.write(offset + at, words.as_flattened())?;
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            memory.write(offset + at + words.as_flattened().len(), &last)?;
        }
    }
    let slot = Slot {
        offset: offset as u64,
        capacity: capacity as u64,
        length: content.length as u64,
        generation: next.0,
        records_length: content.records.len() as u64,
        records_checksum: XxHash3_64::oneshot(&content.records),
        checksum: 0,
    };
    memory.write(SLOTS_AT[target], slot.sealed().as_bytes())?;
    memory.store(GENERATION_AT, next.0)?;
    Ok(next)
}

/// Where `length` bytes go: in front of the live slot if there is room, else behind it.
fn place(length: usize, occupied: Option<(usize, usize)>) -> (usize, usize) {
    let capacity = length.next_multiple_of(PAGE);
    match occupied {
        Some((offset, taken)) if stats::END + capacity > offset => (offset + taken, capacity),
        _ => (stats::END, capacity),
    }
}

fn record<T: FromBytes>(memory: &mut impl Memory, offset: usize) -> Result<T, RegionError> {
    let bytes = memory.read(offset, size_of::<T>())?;
    T::read_from_bytes(&bytes)
        .map_err(|_| RegionError::Truncated { found: bytes.len(), needed: size_of::<T>() })
}

#[cfg(test)]
mod tests;
