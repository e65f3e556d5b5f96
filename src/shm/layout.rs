//! What is in a slot: a head, then arrays of fixed records, then the Maglev tables. Numbers are in the machine's own
//! order (the region's header says which).
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
//!  tables         2 each   of all services, in order: M ranks, or none when no backend is active
//!  zeros                   up to a multiple of 8
//! ```
//!
//! [`decode`] trusts nothing: every count is checked against the bytes there are, every value goes through the type
//! that cannot be invalid. A checksum finds accidents; this finds everything else.

use std::{
    mem::size_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::RegionError;
use crate::{
    config::{
        Balancer, Encap, FragmentLimits, HashMode, InterfaceName, KERNEL_ENTRIES, Name, Path, Pmtu,
        PortRange, Protocol, Protocols, QueueRange, Steering, TIER_MAX, TableSize, Timeouts, TracerSettings,
        Weight,
    },
    ids::{Generation, MarkMask, QueueNum, SERVICES_MAX, TARGETS_MAX, TargetId},
    state::{Backend, ENTRIES_MAX, Service, State, TierMember},
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
    /// Bit 0: there is an `address4`; bit 1: an `address6`.
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
    reserved: [u8; 10],
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
    /// Of `ACTIVE`, `HAS_ADDRESS4`, `HAS_ADDRESS6`, `HAS_TARGET`.
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
    reserved: [u8; 25],
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
    assert!(size_of::<Head>() == 192);
    assert!(size_of::<TargetRecord>() == 24);
    assert!(size_of::<TierRecord>() == 72);
    assert!(size_of::<ServiceRecord>() == 96);
    assert!(size_of::<PrefixRecord>() == 24);
    assert!(size_of::<PortRecord>() == 4);
    assert!(size_of::<BackendRecord>() == 56);
};

/// The bytes of a slot that holds `state`, a multiple of 8 of them.
#[must_use]
pub fn encode(state: &State, generation: Generation) -> Vec<u8> {
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
        reserved: [0; 10],
    };
    let mut bytes = Vec::with_capacity(size_of::<Head>() + entries * 2 + (1 << 16));
    bytes.extend(head.as_bytes());
    for interface in &balancer.interfaces {
        bytes.extend(padded::<{ size_of::<InterfaceRecord>() }>(interface.as_str()));
    }
    for receiver in &balancer.tracer.receivers {
        bytes.extend(prefix_record(*receiver).as_bytes());
    }
    for path in &state.targets {
        bytes.extend(target_record(*path).as_bytes());
    }
    for member in &state.tier {
        bytes.extend(tier_record(member).as_bytes());
    }
    for service in &state.services {
        bytes.extend(service_record(service).as_bytes());
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
    for service in &state.services {
        bytes.extend(service.table.as_bytes());
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
        reserved: [0; 25],
    }
}

/// The generation and the state that the bytes of a slot hold.
///
/// # Errors
/// When they hold none.
pub fn decode(bytes: &[u8]) -> Result<(Generation, State), RegionError> {
    let mut input = Input { rest: bytes };
    let head: Head = input.record()?;
    let mut balancer = Balancer {
        interfaces: input.records(head.interfaces, |record: InterfaceRecord| {
            InterfaceName::new(unpadded(&record)?).ok_or(RegionError::Corrupt("an interface's name"))
        })?,
        ..balancer_of(&head)?
    };
    limit(head.receivers, TracerSettings::RECEIVERS_MAX, "number of the tracer's receivers")?;
    balancer.tracer.receivers = input.records(head.receivers, |record| prefix_of(&record))?;
    limit(head.targets, TARGETS_MAX, "number of targets")?;
    let targets = input.records(head.targets, |record| path_of(&record))?;
    limit(head.tier, TIER_MAX, "number of balancers in the tier")?;
    let tier = input.records(head.tier, |record| member_of(&record, &targets, &balancer.name))?;
    let here = tier.iter().any(|member| member.target.is_none());
    if !tier.is_sorted_by(|a, b| a.name < b.name) || here == tier.is_empty() {
        return Err(RegionError::Corrupt("the tier"));
    }
    limit(head.services, SERVICES_MAX, "number of services")?;
    let services: Vec<ServiceRecord> = input.records(head.services, Ok)?;
    let mut vips = input.records(head.vips, |record| prefix_of(&record))?.into_iter();
    let mut ports = input.records(head.ports, |record| ports_of(&record))?.into_iter();
    let mut backends = input.records(head.backends, |record| backend_of(&record, &targets))?.into_iter();
    let mut state = State { targets, tier, target_cursor: head.target_cursor, ..State::empty(balancer) };
    let mut entries_left = usize::try_from(head.entries).unwrap_or(usize::MAX);
    limit(entries_left, ENTRIES_MAX, "number of table entries")?;
    for record in services {
        let mut service = Service {
            name: name_of(&record.name)?,
            vips: some(&mut vips, record.vips)?,
            protocols: protocols_of(record.protocols)?,
            ports: some(&mut ports, record.ports)?,
            hash: hash_of(record.hash)?,
            pmtu: pmtu_of(record.pmtu)?,
            table_size: TableSize::new(record.table_size.into())
                .map_err(|_| RegionError::Corrupt("a table's size"))?,
            backends: some(&mut backends, record.backends)?,
            table: Arc::default(),
        };
        if service.vips.is_empty()
            || service.ports.is_empty()
            || !service.backends.is_sorted_by(|a, b| a.name < b.name)
        {
            return Err(RegionError::Corrupt("a service"));
        }
        let can = |backend: &Backend| state.path(backend.target).is_some_and(Path::can_fragment_outer);
        if service.pmtu == Pmtu::FragmentOuter && !service.backends.iter().all(can) {
            return Err(RegionError::Corrupt("a service's pmtu"));
        }
        let active = service.active().count();
        let entries = if active == 0 { 0 } else { service.table_size.entries() };
        entries_left =
            entries_left.checked_sub(entries).ok_or(RegionError::Corrupt("number of table entries"))?;
        if usize::try_from(record.entries) != Ok(entries) {
            return Err(RegionError::Corrupt("a table's length"));
        }
        service.table = input.table(entries, active)?;
        state.services.push(service);
    }
    let nothing_left = vips.len() + ports.len() + backends.len() + entries_left == 0;
    if !nothing_left || input.rest.len() >= 8 || usize::from(head.target_cursor) >= TARGETS_MAX {
        return Err(RegionError::Corrupt("counts that do not add up"));
    }
    Ok((Generation(head.generation), state))
}

/// Bytes not read yet.
struct Input<'a> {
    rest: &'a [u8],
}

impl Input<'_> {
    fn record<T: FromBytes>(&mut self) -> Result<T, RegionError> {
        let (record, rest) =
            T::read_from_prefix(self.rest).map_err(|_| RegionError::Corrupt("a slot that is cut short"))?;
        self.rest = rest;
        Ok(record)
    }

    /// `count` records, each read by `of`. Memory is taken as records are found, not as `count` says.
    fn records<R: FromBytes, T>(
        &mut self,
        count: u32,
        of: impl Fn(R) -> Result<T, RegionError>,
    ) -> Result<Vec<T>, RegionError> {
        (0..count).map(|_| of(self.record()?)).collect()
    }

    fn table(&mut self, entries: usize, ranks: usize) -> Result<Arc<[u16]>, RegionError> {
        let cut = RegionError::Corrupt("a slot that is cut short");
        let Some((table, rest)) = self.rest.split_at_checked(entries * 2) else { return Err(cut) };
        self.rest = rest;
        let table: Arc<[u16]> =
            table.chunks_exact(2).map(|entry| u16::from_ne_bytes([entry[0], entry[1]])).collect();
        if table.iter().any(|&rank| usize::from(rank) >= ranks) {
            return Err(RegionError::Corrupt("a table entry"));
        }
        Ok(table)
    }
}

/// The next `count` items; there must be that many.
fn some<T>(items: &mut std::vec::IntoIter<T>, count: u32) -> Result<Vec<T>, RegionError> {
    let count = count as usize;
    if items.len() < count {
        return Err(RegionError::Corrupt("counts that do not add up"));
    }
    Ok(items.take(count).collect())
}

fn limit(count: impl TryInto<usize>, max: usize, what: &'static str) -> Result<(), RegionError> {
    let fits = count.try_into().is_ok_and(|count| count <= max);
    if fits { Ok(()) } else { Err(RegionError::Corrupt(what)) }
}

fn balancer_of(head: &Head) -> Result<Balancer, RegionError> {
    Ok(Balancer {
        name: name_of(&head.name)?,
        address4: (head.addresses & 1 != 0).then(|| Ipv4Addr::from(head.address4)),
        address6: (head.addresses & 2 != 0).then(|| Ipv6Addr::from(head.address6)),
        interfaces: Vec::new(),
        queues: QueueRange::new(head.queue_first, head.queue_last)
            .ok_or(RegionError::Corrupt("queue numbers"))?,
        fragment_queue: QueueNum(head.fragment_queue),
        hash_seed: head.hash_seed,
        mark_mask: MarkMask::new(head.mark_mask).map_err(|_| RegionError::Corrupt("the mark mask"))?,
        timeouts: Timeouts {
            tcp_established_seconds: head.tcp_established_seconds,
            tcp_closing_seconds: head.tcp_closing_seconds,
            udp_seconds: head.udp_seconds,
        },
        fragments: Some(FragmentLimits {
            ttl_ms: head.fragment_ttl_ms,
            entries: head.fragment_entries,
            entries_per_source: head.fragment_entries_per_source,
            held_packets: head.held_packets,
            held_bytes: head.held_bytes,
            held_bytes_per_source: head.held_bytes_per_source,
        })
        .filter(FragmentLimits::is_valid)
        .ok_or(RegionError::Corrupt("the limits of fragments"))?,
        steering: match head.steering {
            0 => Steering::SynOnly,
            1 => Steering::EveryPacket,
            _ => return Err(RegionError::Corrupt("the steering")),
        },
        gre_in: match head.gre_in {
            0 => false,
            1 if head.addresses & 3 != 0 => true,
            _ => return Err(RegionError::Corrupt("gre_in")),
        },
        kernel_entries: Some(head.kernel_entries)
            .filter(|entries| KERNEL_ENTRIES.contains(entries))
            .ok_or(RegionError::Corrupt("the limit of the kernel's tables"))?,
        tracer: TracerSettings {
            receivers: Vec::new(),
            per_second: Some(head.traces_per_second)
                .filter(|count| TracerSettings::PER_SECOND.contains(count))
                .ok_or(RegionError::Corrupt("the limit of traces"))?,
        },
    })
}

fn path_of(record: &TargetRecord) -> Result<Option<Path>, RegionError> {
    let encap = match record.kind {
        0 => return Ok(None),
        1 => return Ok(Some(Path::MarkOnly)),
        2 => Encap::Gre,
        3 => Encap::Ipip,
        4 => Encap::Gue,
        5 => Encap::Direct,
        _ => return Err(RegionError::Corrupt("a target's kind")),
    };
    Ok(Some(Path::Via(encap, address_of(record.family, record.address)?)))
}

fn prefix_of(record: &PrefixRecord) -> Result<IpNet, RegionError> {
    let net = IpNet::new(address_of(record.family, record.address)?, record.prefix);
    net.ok().filter(|net| net.trunc() == *net).ok_or(RegionError::Corrupt("a prefix"))
}

fn ports_of(record: &PortRecord) -> Result<PortRange, RegionError> {
    let ports = PortRange { first: record.first, last: record.last };
    if ports.first <= ports.last { Ok(ports) } else { Err(RegionError::Corrupt("a port range")) }
}

/// The target of this index and its path, if it is in use.
fn target_of(index: u16, targets: &[Option<Path>]) -> Option<(TargetId, Path)> {
    Some((TargetId::new(index.into())?, targets.get(usize::from(index)).copied()??))
}

/// A member of the tier of the balancer `here`.
fn member_of(record: &TierRecord, targets: &[Option<Path>], here: &Name) -> Result<TierMember, RegionError> {
    let has = |flag: u8| record.flags & flag != 0;
    let mut member = TierMember {
        name: name_of(&record.name)?,
        address4: has(HAS_ADDRESS4).then(|| Ipv4Addr::from(record.address4)),
        address6: has(HAS_ADDRESS6).then(|| Ipv6Addr::from(record.address6)),
        target: None,
        active: has(ACTIVE),
    };
    let leads_there = |path| member.addresses().any(|address| path == Path::Via(Encap::Gre, address));
    let target = target_of(record.target, targets).filter(|_| has(HAS_TARGET));
    let right = match target {
        Some((_, path)) => member.name != *here && leads_there(path),
        None => member.name == *here && !has(HAS_TARGET) && member.addresses().next().is_some(),
    };
    if !right || record.flags > (ACTIVE | HAS_ADDRESS4 | HAS_ADDRESS6 | HAS_TARGET) {
        return Err(RegionError::Corrupt("a balancer of the tier"));
    }
    member.target = target.map(|(target, _)| target);
    Ok(member)
}

fn backend_of(record: &BackendRecord, targets: &[Option<Path>]) -> Result<Backend, RegionError> {
    let target = target_of(record.target, targets).map(|(target, _)| target);
    Ok(Backend {
        name: name_of(&record.name)?,
        target: target.ok_or(RegionError::Corrupt("a backend's target"))?,
        weight: Weight::new(record.weight).ok_or(RegionError::Corrupt("a weight"))?,
        active: record.active != 0,
    })
}

fn protocols_of(bits: u8) -> Result<Protocols, RegionError> {
    match bits {
        0 => Ok(Protocols::Any),
        1..=7 => {
            Ok(Protocols::Named(Protocol::ALL.into_iter().filter(|&p| bits & 1 << p as u8 != 0).collect()))
        }
        _ => Err(RegionError::Corrupt("a service's protocols")),
    }
}

fn hash_of(hash: u8) -> Result<HashMode, RegionError> {
    match hash {
        0 => Ok(HashMode::FiveTuple),
        1 => Ok(HashMode::Source),
        2 => Ok(HashMode::Addresses),
        _ => Err(RegionError::Corrupt("a service's hash")),
    }
}

fn pmtu_of(pmtu: u8) -> Result<Pmtu, RegionError> {
    match pmtu {
        0 => Ok(Pmtu::Icmp),
        1 => Ok(Pmtu::FragmentOuter),
        _ => Err(RegionError::Corrupt("a service's pmtu")),
    }
}

fn name_of(record: &NameRecord) -> Result<Name, RegionError> {
    Name::new(unpadded(record)?).ok_or(RegionError::Corrupt("a name"))
}

/// `text`, which is not longer than `N`, and zeros.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    bytes
}

fn unpadded(bytes: &[u8]) -> Result<&str, RegionError> {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    std::str::from_utf8(&bytes[..end]).map_err(|_| RegionError::Corrupt("a name"))
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

fn address_of(family: u8, bytes: [u8; 16]) -> Result<IpAddr, RegionError> {
    match family {
        4 => Ok(IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])),
        6 => Ok(IpAddr::from(bytes)),
        _ => Err(RegionError::Corrupt("an address family")),
    }
}

#[cfg(test)]
mod tests;
