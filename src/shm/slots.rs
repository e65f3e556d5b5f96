//! Publishing a state and reading it back, over any [`Memory`]; see the head of `shm.rs` for the
//! protocol.
//!
//! The description in a slot says where a document is, and the document says where the tables are. Tables
//! that the live state uses stay where they are. A writer writes only the document and the new tables, each
//! into the first gap that is long enough (`space.rs`). A reader that is slower than two publications finds
//! other bytes in the place of its tables. It detects this by their checksums, and begins again. The writer
//! does not check the tables that a change leaves in place; readers do.
//!
//! The region grows at its end. It never shrinks while it is in use, since that would take away the memory
//! that its readers have mapped.

use std::{collections::HashMap, ops::Range};

use twox_hash::XxHash3_64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    Memory, RegionError,
    layout::{self, TablePlace, table_bytes},
    space::Space,
    stats,
};
use crate::{lookup::maglev::Table, model::ids::Generation, state::State};

/// "synrail\0" as a word in this machine's byte order.
const MAGIC: u64 = u64::from_ne_bytes(*b"synrail\0");
/// Changes with every change of the layout.
pub const LAYOUT_VERSION: u32 = 8;
const BYTE_ORDER: u32 = 0x0102_0304;
const GENERATION_AT: usize = 64;
const SLOTS_AT: [usize; 2] = [128, 192];
/// A file must have this many bytes before [`format()`] can be called on it.
pub const HEADER_BYTES: u64 = 4096;
/// The maximum size of a region: two states with all tables at their limit, and as much in gaps.
pub(super) const REGION_BYTES_MAX: usize = 2 << 30;
/// A reader that lost this many races stops trying for now. Each lost race is a publication.
const READ_TRIES: usize = 64;

/// The part of a region that never changes.
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

/// Where the document of a state is, and what it must match.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
struct Slot {
    offset: u64,
    length: u64,
    generation: u64,
    /// The checksum of the document; tables have their own.
    document_checksum: u64,
    checksum: u64,
}

const _: () = {
    assert!(size_of::<Header>() == 40 && size_of::<Header>() <= GENERATION_AT);
    assert!(size_of::<Slot>() == 40 && SLOTS_AT[0] + size_of::<Slot>() <= SLOTS_AT[1]);
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

    /// Returns the range of the document, if it can be valid.
    fn document(&self) -> Option<Range<usize>> {
        let (offset, length) = (usize::try_from(self.offset).ok()?, usize::try_from(self.length).ok()?);
        let right = offset >= stats::END && offset.is_multiple_of(8) && length.is_multiple_of(8);
        (right && offset <= REGION_BYTES_MAX && length <= REGION_BYTES_MAX).then_some(offset..offset + length)
    }
}

/// The document of a generation.
struct Live {
    /// Where it is.
    at: Range<usize>,
    /// The state; its tables are not read.
    state: State,
    /// Where the tables are, by service.
    places: Vec<Option<TablePlace>>,
}

/// Turns an empty memory into a region that holds `state` as generation 1. No other process may use it yet.
///
/// # Errors
/// When the memory cannot grow, or the state is too large.
pub fn format(memory: &mut impl Memory, state: &State) -> Result<(), RegionError> {
    memory.grow(stats::END)?;
    memory.write(0, Header::ours().as_bytes())?;
    publish(memory, state, Generation(0)).map(drop)
}

/// Checks that the memory is a region that this program supports.
///
/// # Errors
/// The reason why it is not.
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

/// Returns the live generation. This is a single load, for a reader that has checked the region before.
///
/// # Errors
/// When the region is gone.
pub fn generation(memory: &mut impl Memory) -> Result<Generation, RegionError> {
    Ok(Generation(memory.load(GENERATION_AT)?))
}

/// The tables that a reader has already, by their checksums.
pub type KnownTables = HashMap<u64, Table>;

/// Returns a verified copy of the live state.
///
/// # Errors
/// When no valid state can be read.
pub fn read(memory: &mut impl Memory) -> Result<(Generation, State), RegionError> {
    read_knowing(memory, &KnownTables::new(), |state| (0..state.services.len()).collect())
}

/// Reads the state like [`read`], but only the tables of the services that `pick` returns, as indexes into
/// the state's services. The other tables are not read. Tables that are in `known` are shared.
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
        // The error may be the work of a writer at this moment. It counts only if nothing was published
        // meanwhile.
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
    let Live { mut state, places, .. } = live_at(memory, generation)?;
    let mut read = KnownTables::new();
    for index in pick(&state) {
        let (Some(Some(place)), Some(service)) = (places.get(index), state.services.get_mut(index)) else {
            continue;
        };
        let digest = service.table.digest();
        service.table = if let Some(table) = known.get(&digest).or_else(|| read.get(&digest)) {
            place.checked(table)?
        } else {
            let bytes = place.bytes();
            let table = place.table(&memory.read(bytes.start, bytes.len())?)?;
            read.insert(digest, table.clone());
            table
        };
    }
    Ok(state)
}

fn live_at(memory: &mut impl Memory, generation: Generation) -> Result<Live, RegionError> {
    let slot: Slot = record(memory, SLOTS_AT[usize::from(generation.0 % 2 == 1)])?;
    let at = slot.document().filter(|_| slot == slot.sealed() && slot.generation == generation.0);
    let at = at.ok_or(RegionError::Corrupt("a slot's description"))?;
    let within = |size: usize, end: usize| {
        if end <= size { Ok(()) } else { Err(RegionError::Truncated { found: size, needed: end }) }
    };
    let size = memory.size()?;
    within(size, at.end)?;
    let bytes = memory.read(at.start, at.len())?;
    if XxHash3_64::oneshot(&bytes) != slot.document_checksum {
        return Err(RegionError::Corrupt("a slot's checksum"));
    }
    let (written, state, places) = layout::decode(&bytes)?;
    if written != generation {
        return Err(RegionError::Corrupt("a slot's generation"));
    }
    let tables = places.iter().flatten().map(TablePlace::bytes);
    if tables.clone().any(|table| table.start < stats::END) {
        return Err(RegionError::Corrupt("where a table is"));
    }
    within(size, tables.map(|table| table.end).max().unwrap_or(0))?;
    Ok(Live { at, state, places })
}

/// Publishes `state` as the generation after `live`, which must be the live one, and returns the new
/// generation. The caller must hold the writers' lock.
///
/// # Errors
/// When the state is too large or the region is gone; then the live generation stays as it is.
pub fn publish(memory: &mut impl Memory, state: &State, live: Generation) -> Result<Generation, RegionError> {
    state.check().map_err(RegionError::Corrupt)?;
    let next = Generation(live.0.checked_add(1).ok_or(RegionError::Corrupt("its generation"))?);
    // Generation 0 has no slot: the region is being created.
    let live = if live == Generation(0) { None } else { Some(live_at(memory, live)?) };
    let of_live = live.iter().flat_map(|live| live.state.services.iter().zip(&live.places));
    let there: HashMap<_, _> = of_live
        .filter_map(|(service, place)| Some((service.table.identity(), place.as_ref()?.bytes())))
        .collect();
    let tables = live.iter().flat_map(|live| live.places.iter().flatten().map(TablePlace::bytes));
    let taken = tables.chain(live.iter().map(|live| live.at.clone())).collect();
    let mut space = Space::new(stats::END, taken);
    let mut new = Vec::new();
    let document = layout::encode(state, next, |table| {
        if let Some(place) = there.get(&table.identity()) {
            return place.start;
        }
        let place = space.take(table_bytes(table.len()));
        new.push((place, table.clone()));
        place
    })?;
    let at = space.take(document.len());
    if space.end() > REGION_BYTES_MAX {
        return Err(RegionError::TooLarge { needed: space.end(), allowed: REGION_BYTES_MAX });
    }
    if new.iter().any(|(_, table)| !table.is_read()) {
        return Err(RegionError::Corrupt("a table that was read from nowhere"));
    }
    memory.grow(space.end())?;
    memory.write(at, &document)?;
    for (at, table) in new {
        write_table(memory, at, &table)?;
    }
    let slot = Slot {
        offset: at as u64,
        length: document.len() as u64,
        generation: next.0,
        document_checksum: XxHash3_64::oneshot(&document),
        checksum: 0,
    };
    memory.write(SLOTS_AT[usize::from(next.0 % 2 == 1)], slot.sealed().as_bytes())?;
    memory.store(GENERATION_AT, next.0)?;
    Ok(next)
}

fn write_table(memory: &mut impl Memory, at: usize, table: &Table) -> Result<(), RegionError> {
    let (words, rest) = table.as_bytes().as_chunks::<8>();
    memory.write(at, words.as_flattened())?;
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        memory.write(at + words.as_flattened().len(), &last)?;
    }
    Ok(())
}

fn record<T: FromBytes>(memory: &mut impl Memory, offset: usize) -> Result<T, RegionError> {
    let bytes = memory.read(offset, size_of::<T>())?;
    T::read_from_bytes(&bytes)
        .map_err(|_| RegionError::Truncated { found: bytes.len(), needed: size_of::<T>() })
}

#[cfg(test)]
mod tests;
