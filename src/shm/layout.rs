//! A state in a region: records, which are a head and arrays of fixed size, and the Maglev tables. Services
//! with the same table share one. Tables are stored anywhere in the region, and stay in place as long as a
//! live state uses them. So a reader reads only the tables that it does not have yet, and a writer writes
//! only the new ones. Numbers are in the machine's own byte order (which the region's header records).
//!
//! ```text
//!  Head 200      counts of everything below, settings of [balancer], [timeouts], [fragments] and [tracer]
//!  interfaces    16 each   a device name, padded with zeros
//!  receivers     24 each   prefixes that reports of the tracer may be sent to
//!  blackholes    24 each   prefixes: packets to them that are for no VIP are dropped
//!  targets       24 each   by target number; kind 0 is a free number
//!  tier          72 each   sorted by name; this balancer's own is the one without a target
//!  services      88 each   with counts of its vips, ports, backends; where in the region its table is,
//!                          and the table's checksum
//!  vips          24 each   of all services, in order
//!  ports          4 each   of all services, in order
//!  backends      56 each   of all services, in order
//!  zeros                   up to a multiple of 8
//!
//!  a table        2 for each of M ranks, and zeros up to a multiple of 8; none if no backend is active
//! ```
//!
//! [`decode`] trusts nothing: every count is checked against the bytes that are there, and every value is
//! converted to the type that cannot be invalid. So are tables ([`TablePlace::table`]). A checksum detects
//! accidents; this detects everything else.

mod decode;

use std::{
    collections::HashMap,
    mem::size_of,
    net::{IpAddr, Ipv4Addr},
};

pub use decode::{TablePlace, decode};
use ipnet::IpNet;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    lookup::maglev::Table,
    model::{
        Decider, Encap, HashMode, InterfaceName, Name, Path, Pmtu, Protocols, Steering,
        ids::{Generation, TargetId},
    },
    state::{Service, State, TierMember},
};

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
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
    /// 0 if it is not configured.
    rule_priority: u16,
    blackholes: u32,
    pmtu_floor: u16,
    allow_own_addresses: u8,
    offload: u8,
    busy_poll_us: u16,
    reserved: [u8; 6],
}

/// A [`Name`], padded with zeros.
type NameRecord = [u8; Name::BYTES_MAX];
/// An [`InterfaceName`], padded with at least one zero.
type InterfaceRecord = [u8; InterfaceName::BYTES_MAX + 1];

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
struct TargetRecord {
    address: [u8; 16],
    /// 0 free, 1 mark only, 2 gre, 3 ipip, 4 gue, 5 direct.
    kind: u8,
    /// 4, 6, or 0 without an address.
    family: u8,
    reserved: [u8; 6],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
struct TierRecord {
    name: NameRecord,
    address4: [u8; 4],
    address6: [u8; 16],
    target: u16,
    /// A combination of `ACTIVE`, `HAS_ADDRESS4`, `HAS_ADDRESS6`, `HAS_TARGET`.
    flags: u8,
    reserved: u8,
}

const ACTIVE: u8 = 1;
const HAS_ADDRESS4: u8 = 2;
const HAS_ADDRESS6: u8 = 4;
const HAS_TARGET: u8 = 8;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
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
    /// 0 lbd, 1 the kernel.
    decider: u8,
    /// Where the table begins in the region, in bytes; 0 if there is no table.
    table_at: u64,
    /// The checksum of the table's entries.
    table_checksum: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
struct PrefixRecord {
    address: [u8; 16],
    family: u8,
    prefix: u8,
    reserved: [u8; 6],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
struct PortRecord {
    first: u16,
    last: u16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
struct BackendRecord {
    name: NameRecord,
    target: u16,
    weight: u8,
    active: u8,
    reserved: [u8; 4],
}

const _: () = {
    assert!(size_of::<Head>() == 200);
    assert!(size_of::<TargetRecord>() == 24);
    assert!(size_of::<TierRecord>() == 72);
    assert!(size_of::<ServiceRecord>() == 88);
    assert!(size_of::<PrefixRecord>() == 24);
    assert!(size_of::<PortRecord>() == 4);
    assert!(size_of::<BackendRecord>() == 56);
};

/// Returns the number of bytes that a table of this many entries takes.
#[must_use]
pub const fn table_bytes(entries: usize) -> usize {
    (entries * 2).next_multiple_of(8)
}

/// Returns the records of `state`, a multiple of 8 bytes. `place` is called once for each of its tables. It
/// returns where the table is or will be in the region, at a multiple of 8.
#[must_use]
pub fn encode(state: &State, generation: Generation, mut place: impl FnMut(&Table) -> usize) -> Vec<u8> {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX); // all are limited far below
    let sum = |of: fn(&Service) -> usize| state.services.iter().map(of).sum::<usize>();
    let entries = sum(|service| service.table.len());
    let balancer = &state.balancer;
    let head = Head {
        generation: generation.0,
        entries: entries as u64,
        interfaces: count(balancer.interfaces.len()),
        targets: count(state.targets.len()),
        tier: count(state.tier.len()),
        services: count(state.services.len()),
        vips: count(sum(|service| service.vips.len())),
        ports: count(sum(|service| service.ports.len())),
        backends: count(sum(|service| service.backends.len())),
        hash_seed: balancer.hash_seed,
        mark_mask: balancer.mark_mask.bits(),
        tcp_established_seconds: balancer.timeouts.tcp_established_seconds,
        tcp_closing_seconds: balancer.timeouts.tcp_closing_seconds,
        udp_seconds: balancer.timeouts.udp_seconds,
        fragment_ttl_ms: balancer.fragments.ttl_ms,
        fragment_entries: balancer.fragments.entries,
        fragment_entries_per_source: balancer.fragments.entries_per_source,
        held_packets: balancer.fragments.held_packets,
        held_bytes: balancer.fragments.held_bytes,
        held_bytes_per_source: balancer.fragments.held_bytes_per_source,
        queue_first: balancer.queues.first().0,
        queue_last: balancer.queues.last().0,
        fragment_queue: balancer.fragment_queue.0,
        target_cursor: state.target_cursor,
        addresses: u32::from(balancer.address4.is_some()) | u32::from(balancer.address6.is_some()) << 1,
        name: padded(balancer.name.as_str()),
        address4: balancer.address4.map_or([0; 4], |address| address.octets()),
        address6: balancer.address6.map_or([0; 16], |address| address.octets()),
        receivers: count(balancer.tracer.receivers.len()),
        traces_per_second: balancer.tracer.per_second,
        kernel_entries: balancer.kernel_entries,
        steering: match balancer.steering {
            Steering::SynOnly => 0,
            Steering::EveryPacket => 1,
        },
        gre_in: u8::from(balancer.gre_in),
        rule_priority: balancer.rule_priority.and_then(|at| u16::try_from(at).ok()).unwrap_or(0),
        blackholes: count(balancer.blackhole.len()),
        pmtu_floor: balancer.pmtu_floor,
        allow_own_addresses: u8::from(balancer.allow_own_addresses),
        offload: u8::from(balancer.offload),
        busy_poll_us: balancer.busy_poll_us,
        reserved: [0; 6],
    };
    let mut bytes = head.as_bytes().to_vec();
    for interface in &balancer.interfaces {
        bytes.extend(padded::<{ size_of::<InterfaceRecord>() }>(interface.as_str()));
    }
    for receiver in &balancer.tracer.receivers {
        bytes.extend(prefix_record(*receiver).as_bytes());
    }
    for prefix in &balancer.blackhole {
        bytes.extend(prefix_record(*prefix).as_bytes());
    }
    for path in &state.targets {
        bytes.extend(target_record(*path).as_bytes());
    }
    for member in &state.tier {
        bytes.extend(tier_record(member).as_bytes());
    }
    let mut places = HashMap::new();
    for service in &state.services {
        let table = &service.table;
        let mut record = service_record(service);
        if !table.is_empty() {
            let at = places.entry(table.identity()).or_insert_with(|| place(table));
            (record.table_at, record.table_checksum) = (*at as u64, table.digest());
        }
        bytes.extend(record.as_bytes());
    }
    for vip in state.services.iter().flat_map(|service| &service.vips) {
        bytes.extend(prefix_record(*vip).as_bytes());
    }
    for ports in state.services.iter().flat_map(|service| &service.ports) {
        bytes.extend(PortRecord { first: ports.first, last: ports.last }.as_bytes());
    }
    for backend in state.services.iter().flat_map(|service| &service.backends) {
        let (name, target) = (padded(backend.name.as_str()), index(backend.target));
        let (weight, active) = (backend.weight.get(), u8::from(backend.active));
        bytes.extend(BackendRecord { name, target, weight, active, reserved: [0; 4] }.as_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn prefix_record(net: IpNet) -> PrefixRecord {
    let (family, address) = address_bytes(net.addr());
    PrefixRecord { address, family, prefix: net.prefix_len(), reserved: [0; 6] }
}

fn target_record(path: Option<Path>) -> TargetRecord {
    let (kind, (family, address)) = match path {
        None => (0, (0, [0; 16])),
        Some(Path::MarkOnly) => (1, (0, [0; 16])),
        Some(Path::Via(encap, address)) => {
            let kind = match encap {
                Encap::Gre => 2,
                Encap::Ipip => 3,
                Encap::Gue => 4,
                Encap::Direct => 5,
            };
            (kind, address_bytes(address))
        }
    };
    TargetRecord { address, kind, family, reserved: [0; 6] }
}

fn tier_record(member: &TierMember) -> TierRecord {
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    TierRecord {
        name: padded(member.name.as_str()),
        address4: member.address4.map_or([0; 4], |address| address.octets()),
        address6: member.address6.map_or([0; 16], |address| address.octets()),
        target: member.target.map_or(0, index),
        flags: flag(member.active, ACTIVE)
            | flag(member.address4.is_some(), HAS_ADDRESS4)
            | flag(member.address6.is_some(), HAS_ADDRESS6)
            | flag(member.target.is_some(), HAS_TARGET),
        reserved: 0,
    }
}

fn index(target: TargetId) -> u16 {
    u16::try_from(target.index()).unwrap_or(u16::MAX) // below TARGETS_MAX
}

fn service_record(service: &Service) -> ServiceRecord {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX); // all are limited far below
    let protocols = match &service.protocols {
        Protocols::Any => 0,
        Protocols::Named(named) => named.iter().fold(0, |bits, &protocol| bits | 1 << protocol as u8),
    };
    let hash = match service.hash {
        HashMode::FiveTuple => 0,
        HashMode::Source => 1,
        HashMode::Addresses => 2,
    };
    let pmtu = match service.pmtu {
        Pmtu::Icmp => 0,
        Pmtu::FragmentOuter => 1,
    };
    let decider = match service.decider {
        Decider::Lbd => 0,
        Decider::Kernel => 1,
    };
    ServiceRecord {
        name: padded(service.name.as_str()),
        table_size: service.table_size.get(),
        entries: count(service.table.len()),
        vips: count(service.vips.len()),
        ports: count(service.ports.len()),
        backends: count(service.backends.len()),
        hash,
        protocols,
        pmtu,
        decider,
        table_at: 0,
        table_checksum: 0,
    }
}

/// Returns `text`, which must not be longer than `N`, padded with zeros.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    bytes
}

fn address_bytes(address: IpAddr) -> (u8, [u8; 16]) {
    match address {
        IpAddr::V4(address) => (4, padded_address(address)),
        IpAddr::V6(address) => (6, address.octets()),
    }
}

fn padded_address(address: Ipv4Addr) -> [u8; 16] {
    let [a, b, c, d] = address.octets();
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests;
