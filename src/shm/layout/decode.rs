//! Decodes a slot, and trusts nothing: see [`super`].

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
    sync::Arc,
};

use ipnet::IpNet;
use zerocopy::FromBytes;

use super::{
    ACTIVE, BackendRecord, HAS_ADDRESS4, HAS_ADDRESS6, HAS_TARGET, Head, InterfaceRecord, NameRecord,
    PortRecord, PrefixRecord, ServiceRecord, TargetRecord, TierRecord, table_bytes,
};
use crate::{
    config::{
        BLACKHOLE_MAX, BUSY_POLL_US, Balancer, FragmentLimits, KERNEL_ENTRIES, PMTU_FLOOR, RULE_PRIORITY,
        TIER_MAX, Timeouts, TracerSettings,
    },
    lookup::maglev::Table,
    model::{
        Decider, Encap, HashMode, InterfaceName, Name, Path, Pmtu, PortRange, Protocol, Protocols,
        QueueRange, Steering, TableSize, Weight,
        ids::{Generation, MarkMask, QueueNum, SERVICES_MAX, TARGETS_MAX, TargetId},
    },
    shm::{RegionError, slots::REGION_BYTES_MAX},
    state::{Backend, ENTRIES_MAX, Service, State, TierMember},
};

/// Where the table of a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TablePlace {
    at: usize,
    entries: usize,
    /// The number of backends that the table may name.
    ranks: usize,
    checksum: u64,
}

impl TablePlace {
    /// Returns the table's bytes in the region.
    #[must_use]
    pub fn bytes(&self) -> Range<usize> {
        self.at..self.at + table_bytes(self.entries)
    }

    /// Returns the table of this place, without its entries.
    #[must_use]
    pub fn unread(&self) -> Table {
        Table::unread(self.checksum, self.entries, self.ranks)
    }

    /// Returns the table in these bytes.
    ///
    /// # Errors
    /// When it is another table, or names a backend that does not exist.
    pub fn table(&self, bytes: &[u8]) -> Result<Table, RegionError> {
        let entries =
            bytes.as_chunks().0.get(..self.entries).ok_or(RegionError::Corrupt("a table's length"))?;
        self.checked(&Table::new(entries.iter().map(|entry| u16::from_ne_bytes(*entry)).collect::<Arc<_>>()))
    }

    /// Returns a table that the reader has already, if it is the one of this place.
    ///
    /// # Errors
    /// As [`TablePlace::table`].
    pub fn checked(&self, table: &Table) -> Result<Table, RegionError> {
        if !table.is_read() || table.identity() != (self.checksum, self.entries) {
            return Err(RegionError::Corrupt("a table's checksum"));
        }
        if table.ranks() > self.ranks {
            return Err(RegionError::Corrupt("a table entry"));
        }
        Ok(table.clone())
    }
}

/// Returns the generation and the state in the records of a slot. The tables of the state are not read. Also
/// returns where the table of each service is; `None` if it has none.
///
/// # Errors
/// When the records are not valid.
pub fn decode(bytes: &[u8]) -> Result<(Generation, State, Vec<Option<TablePlace>>), RegionError> {
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
    limit(head.blackholes, BLACKHOLE_MAX, "number of blackholes")?;
    balancer.blackhole = input.records(head.blackholes, |record| prefix_of(&record))?;
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
    let mut places = Vec::new();
    for record in services {
        let mut service = Service {
            name: name_of(&record.name)?,
            vips: some(&mut vips, record.vips)?,
            protocols: protocols_of(record.protocols)?,
            ports: some(&mut ports, record.ports)?,
            hash: hash_of(record.hash)?,
            pmtu: pmtu_of(record.pmtu)?,
            decider: decider_of(record.decider)?,
            table_size: TableSize::new(record.table_size.into())
                .map_err(|_| RegionError::Corrupt("a table's size"))?,
            backends: some(&mut backends, record.backends)?,
            table: Table::default(),
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
        let at = usize::try_from(record.table_at)
            .ok()
            .filter(|at| at.is_multiple_of(8) && *at <= REGION_BYTES_MAX);
        let at = at.ok_or(RegionError::Corrupt("where a table is"))?;
        let place = TablePlace { at, entries, ranks: active, checksum: record.table_checksum };
        let place = (entries > 0).then_some(place);
        service.table = place.as_ref().map_or_else(Table::default, TablePlace::unread);
        places.push(place);
        state.services.push(service);
    }
    let nothing_left = vips.len() + ports.len() + backends.len() + entries_left == 0;
    if !nothing_left || input.rest.len() >= 8 || usize::from(head.target_cursor) >= TARGETS_MAX {
        return Err(RegionError::Corrupt("counts that do not add up"));
    }
    Ok((Generation(head.generation), state, places))
}

/// The bytes that were not read yet.
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

    /// Reads `count` records, and converts each with `of`. Memory is allocated for the records that are
    /// found, not for `count`.
    fn records<R: FromBytes, T>(
        &mut self,
        count: u32,
        of: impl Fn(R) -> Result<T, RegionError>,
    ) -> Result<Vec<T>, RegionError> {
        (0..count).map(|_| of(self.record()?)).collect()
    }
}

/// Returns the next `count` items; there must be that many.
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
        allow_own_addresses: match head.allow_own_addresses {
            0 => false,
            1 => true,
            _ => return Err(RegionError::Corrupt("allow_own_addresses")),
        },
        offload: match head.offload {
            0 => false,
            1 => true,
            _ => return Err(RegionError::Corrupt("offload")),
        },
        gre_in: match head.gre_in {
            0 => false,
            1 if head.addresses & 3 != 0 => true,
            _ => return Err(RegionError::Corrupt("gre_in")),
        },
        rule_priority: match u32::from(head.rule_priority) {
            0 => None,
            at if RULE_PRIORITY.contains(&at) => Some(at),
            _ => return Err(RegionError::Corrupt("rule_priority")),
        },
        blackhole: Vec::new(),
        kernel_entries: Some(head.kernel_entries)
            .filter(|entries| KERNEL_ENTRIES.contains(entries))
            .ok_or(RegionError::Corrupt("the limit of the kernel's tables"))?,
        pmtu_floor: Some(head.pmtu_floor)
            .filter(|floor| PMTU_FLOOR.contains(floor))
            .ok_or(RegionError::Corrupt("the least path MTU"))?,
        busy_poll_us: Some(head.busy_poll_us)
            .filter(|us| BUSY_POLL_US.contains(us))
            .ok_or(RegionError::Corrupt("how long workers look for packets"))?,
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

/// Returns the target of this index and its path, if it is in use.
fn target_of(index: u16, targets: &[Option<Path>]) -> Option<(TargetId, Path)> {
    Some((TargetId::new(index.into())?, targets.get(usize::from(index)).copied()??))
}

/// Reads a member of the tier; `here` is the name of this balancer.
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

fn decider_of(decider: u8) -> Result<Decider, RegionError> {
    match decider {
        0 => Ok(Decider::Lbd),
        1 => Ok(Decider::Kernel),
        _ => Err(RegionError::Corrupt("who decides for a service")),
    }
}

fn name_of(record: &NameRecord) -> Result<Name, RegionError> {
    Name::new(unpadded(record)?).ok_or(RegionError::Corrupt("a name"))
}

fn unpadded(bytes: &[u8]) -> Result<&str, RegionError> {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    std::str::from_utf8(&bytes[..end]).map_err(|_| RegionError::Corrupt("a name"))
}

fn address_of(family: u8, bytes: [u8; 16]) -> Result<IpAddr, RegionError> {
    match family {
        4 => Ok(IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])),
        6 => Ok(IpAddr::from(bytes)),
        _ => Err(RegionError::Corrupt("an address family")),
    }
}
