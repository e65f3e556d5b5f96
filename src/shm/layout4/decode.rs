//! Converts the bytes of a slot, and checks every value; see [`super`].

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    vec::IntoIter,
};

use ipnet::IpNet;
use zerocopy::FromBytes;

use super::{
    ACTIVE, BackendRecord, Former, HAS_ADDRESS4, HAS_ADDRESS6, HAS_TARGET, Head, InterfaceRecord, NameRecord,
    PortRecord, PrefixRecord, ServiceRecord, TargetRecord, TierRecord,
};
use crate::{
    config::{
        Backend, Balancer, Config, FragmentLimits, KERNEL_ENTRIES, Service, TIER_MAX, TierMember, Timeouts,
        TracerSettings,
    },
    model::{
        Announcing, Decider, Encap, HashMode, InterfaceName, Name, NoBackend, OuterAddresses, Path, Pmtu,
        PortRange, Protocol, Protocols, QueueRange, Steering, TableSize, Weight,
        ids::{Generation, MarkMask, QueueNum, SERVICES_MAX, TARGETS_MAX, TargetId},
    },
    shm::RegionError::{self, Corrupt},
};

/// Converts the bytes of a slot.
///
/// # Errors
/// When they are not valid.
pub(super) fn decode(bytes: &[u8]) -> Result<Former, RegionError> {
    let mut input = Input { rest: bytes };
    let head: Head = input.record()?;
    let mut balancer = balancer_of(&head)?;
    balancer.interfaces = input.records(head.interfaces, usize::MAX, |record: InterfaceRecord| {
        InterfaceName::new(unpadded(&record)?).ok_or(Corrupt("an interface's name"))
    })?;
    balancer.tracer.receivers = input.records(head.receivers, TracerSettings::RECEIVERS_MAX, prefix_of)?;
    let targets = Targets(input.records(head.targets, TARGETS_MAX, path_of)?);
    let members =
        input.records(head.tier, TIER_MAX, |record| member_of(&record, &targets, &balancer.name))?;
    let services: Vec<ServiceRecord> = input.records(head.services, SERVICES_MAX, Ok)?;
    let mut parts = Parts {
        vips: input.records(head.vips, usize::MAX, prefix_of)?.into_iter(),
        ports: input.records(head.ports, usize::MAX, ports_of)?.into_iter(),
        backends: input
            .records(head.backends, usize::MAX, |record| backend_of(&record, &targets))?
            .into_iter(),
    };
    let mut former = Former {
        generation: Generation(head.generation),
        inactive_backends: Vec::new(),
        inactive_members: members.iter().filter(|m| !m.active).map(|m| m.value.name.clone()).collect(),
        numbers: targets.numbers()?,
        cursor: head.target_cursor,
        backend_targets: Vec::new(),
        member_targets: members.iter().map(|member| member.target).collect(),
        config: Config {
            balancer,
            services: Vec::new(),
            tier: members.into_iter().map(|member| member.value).collect(),
        },
    };
    let mut entries = 0;
    for record in services {
        let (service, backends) = parts.service(&record)?;
        let active = backends.iter().any(|backend| backend.active);
        let expected = if active { record.table_size } else { 0 };
        if record.entries != expected {
            return Err(Corrupt("a table's length"));
        }
        entries += u64::from(expected);
        let inactive = backends.iter().filter(|backend| !backend.active);
        former.inactive_backends.extend(inactive.map(|b| (service.name.clone(), b.value.name.clone())));
        former.backend_targets.push(backends.iter().filter_map(|backend| backend.target).collect());
        former.config.services.push(service);
    }
    let tables = usize::try_from(entries).ok().and_then(|entries| entries.checked_mul(2));
    let padding = tables.and_then(|tables| input.rest.len().checked_sub(tables));
    let all_read = entries == head.entries && parts.is_empty() && padding.is_some_and(|bytes| bytes < 8);
    if !all_read || usize::from(head.target_cursor) >= TARGETS_MAX {
        return Err(Corrupt("counts that do not add up"));
    }
    check_whole(&former)?;
    Ok(former)
}

/// Checks what can be checked only when all records are known.
fn check_whole(former: &Former) -> Result<(), RegionError> {
    let Former { config, numbers, .. } = former;
    let here = former.member_targets.contains(&None);
    if !config.tier.is_sorted_by(|a, b| a.name < b.name) || here == config.tier.is_empty() {
        return Err(Corrupt("the tier"));
    }
    let mut names = HashSet::new();
    if !config.services.iter().all(|service| names.insert(&service.name)) {
        return Err(Corrupt("a service's name"));
    }
    let mut marked = HashSet::new();
    let only_marked = |target: &&TargetId| numbers.get(target) == Some(&Path::MarkOnly);
    if !former.backend_targets.iter().flatten().filter(only_marked).all(|target| marked.insert(target)) {
        return Err(Corrupt("a target of two backends"));
    }
    Ok(())
}

/// The bytes that were not read yet.
struct Input<'a> {
    rest: &'a [u8],
}

impl Input<'_> {
    fn record<T: FromBytes>(&mut self) -> Result<T, RegionError> {
        let (record, rest) =
            T::read_from_prefix(self.rest).map_err(|_| Corrupt("a slot that is cut short"))?;
        self.rest = rest;
        Ok(record)
    }

    /// Reads `count` records, at most `max`, and converts each with `of`. Memory is allocated for the records
    /// that are found, not for `count`.
    fn records<R: FromBytes, T>(
        &mut self,
        count: u32,
        max: usize,
        of: impl Fn(R) -> Result<T, RegionError>,
    ) -> Result<Vec<T>, RegionError> {
        if count as usize > max {
            return Err(Corrupt("more records than there may be"));
        }
        (0..count).map(|_| of(self.record()?)).collect()
    }
}

/// A backend or a member of the tier, with what the configuration does not say about it.
struct Used<T> {
    value: T,
    target: Option<TargetId>,
    active: bool,
}

/// The parts of all services that were not assigned to one yet.
struct Parts {
    vips: IntoIter<IpNet>,
    ports: IntoIter<PortRange>,
    backends: IntoIter<Used<Backend>>,
}

impl Parts {
    fn service(&mut self, record: &ServiceRecord) -> Result<(Service, Vec<Used<Backend>>), RegionError> {
        let backends = next(&mut self.backends, record.backends)?;
        let service = Service {
            name: name_of(&record.name)?,
            renamed_from: None,
            vips: next(&mut self.vips, record.vips)?,
            protocols: match record.protocols {
                0 => Protocols::Any,
                bits @ 1..=7 => {
                    let named = |protocol: &Protocol| bits & 1 << *protocol as u8 != 0;
                    Protocols::Named(Protocol::ALL.into_iter().filter(named).collect())
                }
                _ => return Err(Corrupt("a service's protocols")),
            },
            ports: next(&mut self.ports, record.ports)?,
            hash: match record.hash {
                0 => HashMode::FiveTuple,
                1 => HashMode::Source,
                2 => HashMode::Addresses,
                _ => return Err(Corrupt("a service's hash")),
            },
            pmtu: match record.pmtu {
                0 => Pmtu::Icmp,
                1 => Pmtu::FragmentOuter,
                _ => return Err(Corrupt("a service's pmtu")),
            },
            decider: Decider::Lbd,
            health: None,
            no_backend: NoBackend::Drop,
            announcing: Announcing::default(),
            table_size: TableSize::new(record.table_size.into()).map_err(|_| Corrupt("a table's size"))?,
            backends: backends.iter().map(|backend| backend.value.clone()).collect(),
        };
        let sorted = service.backends.is_sorted_by(|a, b| a.name < b.name);
        if service.vips.is_empty() || service.ports.is_empty() || !sorted {
            return Err(Corrupt("a service"));
        }
        let can = |backend: &Backend| backend.path.can_fragment_outer();
        if service.pmtu == Pmtu::FragmentOuter && !service.backends.iter().all(can) {
            return Err(Corrupt("a service's pmtu"));
        }
        Ok((service, backends))
    }

    fn is_empty(&self) -> bool {
        self.vips.len() + self.ports.len() + self.backends.len() == 0
    }
}

/// Returns the next `count` items; there must be that many.
fn next<T>(items: &mut IntoIter<T>, count: u32) -> Result<Vec<T>, RegionError> {
    let count = count as usize;
    if count > items.len() {
        return Err(Corrupt("counts that do not add up"));
    }
    Ok(items.take(count).collect())
}

/// The paths by [`TargetId::index`].
struct Targets(Vec<Option<Path>>);

impl Targets {
    /// Returns the target of this index and its path, if it is in use.
    fn get(&self, index: u16) -> Option<(TargetId, Path)> {
        Some((TargetId::new(index.into())?, self.0.get(usize::from(index)).copied()??))
    }

    fn numbers(&self) -> Result<BTreeMap<TargetId, Path>, RegionError> {
        let mut seen = HashSet::new();
        let used =
            self.0.iter().enumerate().filter_map(|(index, path)| Some((TargetId::new(index)?, (*path)?)));
        let checked = used.map(|(target, path)| {
            let right = path == Path::MarkOnly || seen.insert(path);
            if right { Ok((target, path)) } else { Err(Corrupt("two targets with one path")) }
        });
        checked.collect()
    }
}

fn balancer_of(head: &Head) -> Result<Balancer, RegionError> {
    let limits = FragmentLimits {
        ttl_ms: head.fragment_ttl_ms,
        entries: head.fragment_entries,
        entries_per_source: head.fragment_entries_per_source,
        held_packets: head.held_packets,
        held_bytes: head.held_bytes,
        held_bytes_per_source: head.held_bytes_per_source,
    };
    let (kernel_entries, per_second) = (head.kernel_entries, head.traces_per_second);
    if !limits.is_valid() {
        return Err(Corrupt("the limits of fragments"));
    }
    if !KERNEL_ENTRIES.contains(&kernel_entries) {
        return Err(Corrupt("the limit of fallback tables"));
    }
    if !TracerSettings::PER_SECOND.contains(&per_second) {
        return Err(Corrupt("the limit of traces"));
    }
    Ok(Balancer {
        name: name_of(&head.name)?,
        address: OuterAddresses {
            v4: (head.addresses & 1 != 0).then(|| Ipv4Addr::from(head.address4)),
            v6: (head.addresses & 2 != 0).then(|| Ipv6Addr::from(head.address6)),
        },
        queues: QueueRange::new(head.queue_first, head.queue_last).ok_or(Corrupt("queue numbers"))?,
        fragment_queue: QueueNum(head.fragment_queue),
        hash_seed: head.hash_seed,
        mark_mask: MarkMask::new(head.mark_mask).map_err(|_| Corrupt("the mark mask"))?,
        timeouts: Timeouts {
            tcp_established_seconds: head.tcp_established_seconds,
            tcp_closing_seconds: head.tcp_closing_seconds,
            udp_seconds: head.udp_seconds,
        },
        fragments: limits,
        steering: match head.steering {
            0 => Steering::SynOnly,
            1 => Steering::EveryPacket,
            _ => return Err(Corrupt("the steering")),
        },
        gre_in: match head.gre_in {
            0 => false,
            1 if head.addresses & 3 != 0 => true,
            _ => return Err(Corrupt("gre_in")),
        },
        kernel_entries,
        tracer: TracerSettings { receivers: Vec::new(), per_second },
        ..Balancer::unconfigured()
    })
}

fn path_of(record: TargetRecord) -> Result<Option<Path>, RegionError> {
    let encap = match record.kind {
        0 => return Ok(None),
        1 => return Ok(Some(Path::MarkOnly)),
        2 => Encap::Gre,
        3 => Encap::Ipip,
        4 => Encap::Gue,
        5 => Encap::Direct,
        _ => return Err(Corrupt("a target's kind")),
    };
    Ok(Some(Path::Via(encap, address_of(record.family, record.address)?)))
}

fn prefix_of(record: PrefixRecord) -> Result<IpNet, RegionError> {
    let net = IpNet::new(address_of(record.family, record.address)?, record.prefix);
    net.ok().filter(|net| net.trunc() == *net).ok_or(Corrupt("a prefix"))
}

fn ports_of(PortRecord { first, last }: PortRecord) -> Result<PortRange, RegionError> {
    if first <= last { Ok(PortRange { first, last }) } else { Err(Corrupt("a port range")) }
}

/// Reads a member of the tier; `here` is the name of this balancer.
fn member_of(record: &TierRecord, targets: &Targets, here: &Name) -> Result<Used<TierMember>, RegionError> {
    let has = |flag: u8| record.flags & flag != 0;
    let member = TierMember {
        name: name_of(&record.name)?,
        address: OuterAddresses {
            v4: has(HAS_ADDRESS4).then(|| Ipv4Addr::from(record.address4)),
            v6: has(HAS_ADDRESS6).then(|| Ipv6Addr::from(record.address6)),
        },
        active: None,
    };
    let leads_there = |path| member.address.iter().any(|address| path == Path::Via(Encap::Gre, address));
    let target = targets.get(record.target).filter(|_| has(HAS_TARGET));
    let right = match target {
        Some((_, path)) => member.name != *here && leads_there(path),
        None => member.name == *here && !has(HAS_TARGET) && member.address.iter().next().is_some(),
    };
    if !right || record.flags > (ACTIVE | HAS_ADDRESS4 | HAS_ADDRESS6 | HAS_TARGET) {
        return Err(Corrupt("a balancer of the tier"));
    }
    Ok(Used { value: member, target: target.map(|(target, _)| target), active: has(ACTIVE) })
}

fn backend_of(record: &BackendRecord, targets: &Targets) -> Result<Used<Backend>, RegionError> {
    let (target, path) = targets.get(record.target).ok_or(Corrupt("a backend's target"))?;
    let backend = Backend {
        name: name_of(&record.name)?,
        path,
        weight: Weight::new(record.weight).ok_or(Corrupt("a weight"))?,
        active: None,
    };
    Ok(Used { value: backend, target: Some(target), active: record.active != 0 })
}

fn name_of(record: &NameRecord) -> Result<Name, RegionError> {
    Name::new(unpadded(record)?).ok_or(Corrupt("a name"))
}

fn unpadded(bytes: &[u8]) -> Result<&str, RegionError> {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    std::str::from_utf8(&bytes[..end]).map_err(|_| Corrupt("a name"))
}

fn address_of(family: u8, bytes: [u8; 16]) -> Result<IpAddr, RegionError> {
    match family {
        4 => Ok(IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])),
        6 => Ok(IpAddr::from(bytes)),
        _ => Err(Corrupt("an address family")),
    }
}
