//! Reads a region of layout 4, the former one, so that it can be converted. PURE, over [`Memory`].
//!
//! A region of layout 4 has the header, the generation, the daemon's words and the statistics where today's
//! has them. A slot holds a whole state: a head, then arrays of fixed records, then the Maglev tables.
//! Numbers are in the machine's own byte order (which the region's header records).
//!
//! ```text
//!  Head 192      counts of everything below, settings of [balancer], [timeouts], [fragments] and [tracer]
//!  interfaces    16 each   a device name, padded with zeros
//!  receivers     24 each   prefixes that reports of the tracer may be sent to
//!  targets       24 each   by target number; kind 0 is a free number
//!  tier          72 each   sorted by name; this balancer's own is the one without a target
//!  services      96 each   with counts of its vips, ports, backends
//!  vips          24 each   of all services, in order
//!  ports          4 each   of all services, in order
//!  backends      56 each   of all services, in order
//!  tables         2 each   of all services, in order: M ranks, or none if no backend is active
//!  zeros                   up to a multiple of 8
//! ```
//!
//! The tables are not read. They depend only on the seed, M, and the active backends with their weights, and
//! are computed as they were then. So they are the same when they are made again.
//!
//! Nothing is trusted: every count is checked against the bytes that are there, and every value is converted
//! to the type that cannot be invalid. Settings that layout 4 does not have get their defaults.

mod decode;

use std::{collections::BTreeMap, mem::size_of, ops::Range};

use jiff::Timestamp;
use twox_hash::XxHash3_64;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    Memory,
    RegionError::{self, Corrupt},
};
use crate::{
    config::Config,
    model::{
        Admin, Admission, InterfaceName, Name, Override, Path, Remark,
        ids::{Generation, TargetId},
    },
    state::{Backend, Service, State, StateError, TierMember},
};

/// The layout that is read here.
pub const VERSION: u32 = 4;

const GENERATION_AT: usize = 64;
const SLOTS_AT: [usize; 2] = [128, 192];
/// Where the statistics begin, how many blocks they have, and the size of a block.
const STATS: (u32, u32, u32) = (4096, 65, 36_864);
/// Where slots begin.
const STATS_END: u32 = STATS.0 + STATS.1 * STATS.2;
const SLOT_BYTES_MAX: u64 = 512 << 20;

/// What a region of layout 4 says.
#[derive(Debug, PartialEq, Eq)]
pub struct Former {
    /// The generation that is live.
    pub generation: Generation,
    /// The configuration. It does not say which backends and members are active.
    pub config: Config,
    /// The backends that are not active: service and backend.
    pub inactive_backends: Vec<(Name, Name)>,
    /// The members of the tier that are not active.
    pub inactive_members: Vec<Name>,
    /// The numbers in use. A path with an address has one number; [`Path::MarkOnly`] has one for each backend.
    pub numbers: BTreeMap<TargetId, Path>,
    /// Where the search for a free number begins.
    pub cursor: u16,
    /// The target of each backend, in the order of `config.services` and their backends.
    pub backend_targets: Vec<Vec<TargetId>>,
    /// The target of each member, in the order of `config.tier`; `None` for this balancer itself.
    pub member_targets: Vec<Option<TargetId>>,
}

/// The part of a region that never changes.
#[derive(FromBytes, IntoBytes, Immutable, PartialEq, Eq)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    layout_version: u32,
    byte_order: u32,
    stats_at: u32,
    stats_blocks: u32,
    stats_block_bytes: u32,
    slots_at: u32,
    checksum: u64,
}

/// Where a state is, and what it must match.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Slot {
    offset: u64,
    capacity: u64,
    length: u64,
    generation: u64,
    content_checksum: u64,
    checksum: u64,
}

#[derive(FromBytes)]
#[repr(C)]
struct Head {
    generation: u64,
    entries: u64,
    interfaces: u32,
    targets: u32,
    tier: u32,
    services: u32,
    vips: u32,
    ports: u32,
    backends: u32,
    hash_seed: u32,
    mark_mask: u32,
    tcp_established_seconds: u32,
    tcp_closing_seconds: u32,
    udp_seconds: u32,
    fragment_ttl_ms: u32,
    fragment_entries: u32,
    fragment_entries_per_source: u32,
    held_packets: u32,
    held_bytes: u32,
    held_bytes_per_source: u32,
    queue_first: u16,
    queue_last: u16,
    fragment_queue: u16,
    target_cursor: u16,
    /// Bit 0: `address4` is set; bit 1: `address6` is set.
    addresses: u32,
    name: NameRecord,
    address4: [u8; 4],
    address6: [u8; 16],
    receivers: u32,
    traces_per_second: u32,
    kernel_entries: u32,
    /// 0 syn-only, 1 every-packet.
    steering: u8,
    gre_in: u8,
    _reserved: [u8; 10],
}

/// A [`Name`], padded with zeros.
type NameRecord = [u8; Name::BYTES_MAX];
/// An [`InterfaceName`], padded with at least one zero.
type InterfaceRecord = [u8; InterfaceName::BYTES_MAX + 1];

#[derive(FromBytes, Clone, Copy)]
#[repr(C)]
struct TargetRecord {
    address: [u8; 16],
    /// 0 free, 1 mark only, 2 gre, 3 ipip, 4 gue, 5 direct.
    kind: u8,
    /// 4, 6, or 0 without an address.
    family: u8,
    _reserved: [u8; 6],
}

#[derive(FromBytes, Clone, Copy)]
#[repr(C)]
struct TierRecord {
    name: NameRecord,
    address4: [u8; 4],
    address6: [u8; 16],
    target: u16,
    /// A combination of `ACTIVE`, `HAS_ADDRESS4`, `HAS_ADDRESS6`, `HAS_TARGET`.
    flags: u8,
    _reserved: u8,
}

const ACTIVE: u8 = 1;
const HAS_ADDRESS4: u8 = 2;
const HAS_ADDRESS6: u8 = 4;
const HAS_TARGET: u8 = 8;

#[derive(FromBytes, Clone, Copy)]
#[repr(C)]
struct ServiceRecord {
    name: NameRecord,
    table_size: u32,
    /// 0 or `table_size`.
    entries: u32,
    vips: u32,
    ports: u32,
    backends: u32,
    /// 0 5-tuple, 1 source, 2 addresses.
    hash: u8,
    /// Bit 0 tcp, bit 1 udp, bit 2 sctp; 0 for every protocol.
    protocols: u8,
    /// 0 icmp, 1 fragment-outer.
    pmtu: u8,
    _reserved: [u8; 25],
}

#[derive(FromBytes, Clone, Copy)]
#[repr(C)]
struct PrefixRecord {
    address: [u8; 16],
    family: u8,
    prefix: u8,
    _reserved: [u8; 6],
}

#[derive(FromBytes, Clone, Copy)]
#[repr(C)]
struct PortRecord {
    first: u16,
    last: u16,
}

#[derive(FromBytes, Clone, Copy)]
#[repr(C)]
struct BackendRecord {
    name: NameRecord,
    target: u16,
    weight: u8,
    active: u8,
    _reserved: [u8; 4],
}

const _: () = {
    assert!(size_of::<Header>() == 40 && size_of::<Slot>() == 48);
    assert!(size_of::<Head>() == 192);
    assert!(size_of::<TargetRecord>() == 24);
    assert!(size_of::<TierRecord>() == 72);
    assert!(size_of::<ServiceRecord>() == 96);
    assert!(size_of::<PrefixRecord>() == 24);
    assert!(size_of::<PortRecord>() == 4);
    assert!(size_of::<BackendRecord>() == 56);
};

impl Header {
    fn expected() -> Self {
        let mut header = Self {
            magic: *b"synrail\0",
            layout_version: VERSION,
            byte_order: 0x0102_0304,
            stats_at: STATS.0,
            stats_blocks: STATS.1,
            stats_block_bytes: STATS.2,
            slots_at: STATS_END,
            checksum: 0,
        };
        header.checksum = checksum(&header);
        header
    }
}

/// Returns the checksum that the last word of `record` has if it is whole: that of the bytes before.
fn checksum(record: &(impl IntoBytes + Immutable)) -> u64 {
    let (before, _) = record.as_bytes().split_last_chunk::<8>().unwrap_or((&[], &[0; 8]));
    XxHash3_64::oneshot(before)
}

impl Slot {
    /// Returns the range of the state, if it can be valid.
    fn bytes(&self) -> Option<Range<usize>> {
        let right = self.offset.is_multiple_of(8) && self.length.is_multiple_of(8);
        let possible = (STATS_END.into()..=4 * SLOT_BYTES_MAX).contains(&self.offset)
            && self.length <= self.capacity.min(SLOT_BYTES_MAX);
        let (offset, length) = (usize::try_from(self.offset).ok()?, usize::try_from(self.length).ok()?);
        (right && possible).then_some(offset..offset + length)
    }
}

/// Reads the live state. No other process may write the region meanwhile.
///
/// # Errors
/// When the region is of another layout, or is not valid.
pub fn read(memory: &mut impl Memory) -> Result<Former, RegionError> {
    let found = memory.size()?;
    let within = |needed| {
        if needed <= found { Ok(()) } else { Err(RegionError::Truncated { found, needed }) }
    };
    within(STATS_END as usize)?;
    let header: Header = record(memory, 0)?;
    if header != Header::expected() {
        return Err(Corrupt("its header"));
    }
    let generation = memory.load(GENERATION_AT)?;
    let slot: Slot = record(memory, SLOTS_AT[usize::from(generation % 2 == 1)])?;
    let whole = slot.checksum == checksum(&slot) && slot.generation == generation;
    let at = slot.bytes().filter(|_| whole).ok_or(Corrupt("a slot's description"))?;
    within(at.end)?;
    let bytes = memory.read(at.start, at.len())?;
    if XxHash3_64::oneshot(&bytes) != slot.content_checksum {
        return Err(Corrupt("a slot's checksum"));
    }
    let former = decode::decode(&bytes)?;
    if former.generation.0 == generation { Ok(former) } else { Err(Corrupt("a slot's generation")) }
}

fn record<T: FromBytes>(memory: &mut impl Memory, offset: usize) -> Result<T, RegionError> {
    let bytes = memory.read(offset, size_of::<T>())?;
    T::read_from_bytes(&bytes).map_err(|_| Corrupt("a record that is cut short"))
}

impl Former {
    /// Returns the same as a state of today. What was not active is draining, since `since`: layout 4 does not
    /// say whether the file or an operator said so.
    ///
    /// # Errors
    /// When a limit is passed that layout 4 did not have.
    pub fn state(&self, since: Timestamp) -> Result<State, StateError> {
        let remark = Remark::new("by the region of the version before");
        let draining = Override { reason: remark, since, ..Override::unattributed(Admin::Draining) };
        let admission =
            |active: bool| Admission { lasting: (!active).then(|| draining.clone()), ..Admission::default() };
        let Config { balancer, services, tier } = &self.config;
        let mut state = State { target_cursor: self.cursor, ..State::empty(balancer.clone()) };
        for (&target, &path) in &self.numbers {
            state.set_target(target, path);
        }
        for (service, targets) in services.iter().zip(&self.backend_targets) {
            let backends = service.backends.iter().zip(targets).map(|(backend, &target)| Backend {
                name: backend.name.clone(),
                target,
                weight: backend.weight,
                admission: admission(
                    !self.inactive_backends.contains(&(service.name.clone(), backend.name.clone())),
                ),
                observed: None,
                reported: None,
                killed: 0,
            });
            state.services.push(Service::new(service, backends.collect()));
        }
        state.tier = tier
            .iter()
            .zip(&self.member_targets)
            .map(|(member, &target)| TierMember {
                name: member.name.clone(),
                address: member.address,
                target,
                admission: admission(!self.inactive_members.contains(&member.name)),
            })
            .collect();
        state.with_tables()
    }
}

#[cfg(test)]
mod tests;
