//! `[[service]]`.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use super::{Item, NAME, Origin, Reader, Table, backend, health, prefix};
use crate::{
    config::{Backend, Balancer, Service, keys},
    model::{
        Announcing, Decider, HashMode, Name, NoBackend, Path, Pmtu, PortRange, Protocol, Protocols, Steering,
        TableSize, Via, ids::TARGETS_MAX,
    },
};

const VIP: &str = "unicast addresses or prefixes, such as \"10.0.0.1\", \"10.0.0.0/24\" or \"1000::/112\"";
const PORTS: &str = "ports from 0 to 65535 or ranges of them, such as \"80\" or \"8000-8010\"";
/// The maximum number of virtual addresses of one service. Where more are needed, a prefix should be used.
const VIPS_MAX: usize = 256;
const KERNEL_DECIDES: &str = "kernel";

pub(super) fn read(
    reader: &mut Reader<'_>,
    mut table: Table<'_>,
    balancer: Option<&Balancer>,
) -> Option<(Service, Origin)> {
    let name = table.require(reader, "name", NAME).and_then(|item| item.string(reader, NAME, Name::new));
    table.place = name.as_ref().map_or_else(|| "service".to_owned(), |name| format!("service \"{name}\""));
    let renamed_from = table.take("renamed_from").and_then(|item| item.string(reader, NAME, Name::new));
    let vips = read_vips(reader, &mut table, balancer);
    let protocols = read_protocols(reader, &mut table);
    let ports = read_ports(reader, &mut table, &protocols);
    let hash = read_hash(reader, &mut table, &protocols);
    let pmtu = read_pmtu(reader, &mut table);
    let decider = read_decider(reader, &mut table, balancer);
    let no_backend = read_no_backend(reader, &mut table);
    let announcing = read_announcing(reader, &mut table);
    let size = table.take("table_size");
    let table_size = size.as_ref().map_or(Some(TableSize::DEFAULT), |item| read_table_size(reader, item));
    let pins = balancer.is_none_or(|balancer| balancer.steering != Steering::EveryPacket);
    let health = table.take("health").and_then(|item| health::read(reader, item, (&protocols, &ports), pins));
    let items = table.take("backend").map(Item::list).unwrap_or_default();
    let (at, place) = (table.at.clone(), table.place.clone());
    if let (Some(size), Some(item)) = (table_size, size)
        && size.entries() < items.len()
    {
        item.diagnose(reader, format_args!("a prime not below the number of backends, {}", items.len()));
    }
    table.finish(reader, &keys::SERVICE.names());
    if let Some(item) = items.get(TARGETS_MAX) {
        item.diagnose(reader, format_args!("at most {TARGETS_MAX} backends"));
        return None;
    }
    let mut backends: Vec<Backend> = Vec::new();
    let mut seen = (HashSet::new(), HashMap::new());
    for item in items {
        let Some(mut table) = item.table(reader) else { continue };
        table.place = format!("{place}: backend");
        let Some(backend) = backend::read(reader, table, balancer, (&vips, pmtu), &mut seen) else {
            continue;
        };
        backends.push(backend);
    }
    if let Some(health) = &health
        && health.via == Via::Direct
        && let Some(backend) = backends.iter().find(|backend| backend.path == Path::MarkOnly)
    {
        let allowed = format!("\"tunnel\", since backend \"{}\" has no address of its own", backend.name);
        reader.diagnose(&at, &format!("{place}: health: via"), "\"direct\"", allowed);
    }
    backends.sort_by(|a, b| a.name.cmp(&b.name));
    let (name, table_size) = (name?, table_size?);
    let service = Service {
        name,
        renamed_from,
        vips,
        protocols,
        ports,
        hash,
        pmtu,
        decider,
        health,
        no_backend,
        announcing,
        table_size,
        backends,
    };
    Some((service, Origin { at, place }))
}

fn read_vips(reader: &mut Reader<'_>, table: &mut Table<'_>, balancer: Option<&Balancer>) -> Vec<IpNet> {
    let items =
        table.require(reader, "vips", VIP).map(|item| item.non_empty_list(reader, VIP)).unwrap_or_default();
    if let Some(item) = items.get(VIPS_MAX) {
        item.diagnose(reader, format_args!("at most {VIPS_MAX}"));
        return Vec::new();
    }
    let mut vips = Vec::new();
    for item in items {
        let Some(vip) = item.string(reader, VIP, prefix) else { continue };
        if vip.trunc() != vip {
            let host = IpNet::from(vip.addr());
            item.diagnose(
                reader,
                format_args!("no bits behind the prefix: \"{}\" or \"{host}\"", vip.trunc()),
            );
        } else if vips.contains(&vip) {
            item.diagnose(reader, "each once");
        } else if let Some(own) = balancer.and_then(|balancer| balancer.address.like(vip.addr()))
            && vip.contains(&own)
        {
            item.diagnose(reader, format_args!("prefixes without the balancer's own address, {own}"));
        } else {
            vips.push(vip);
        }
    }
    vips
}

fn read_protocols(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Protocols {
    let allowed = "\"tcp\", \"udp\", \"sctp\", each once; without the key every protocol";
    let Some(item) = table.take("protocols") else { return Protocols::Any };
    let mut protocols = Vec::new();
    for item in item.non_empty_list(reader, allowed) {
        match item.string(reader, allowed, Protocol::named) {
            Some(protocol) if protocols.contains(&protocol) => item.diagnose(reader, allowed),
            protocol => protocols.extend(protocol),
        }
    }
    protocols.sort_unstable();
    Protocols::Named(protocols)
}

fn read_ports(reader: &mut Reader<'_>, table: &mut Table<'_>, protocols: &Protocols) -> Vec<PortRange> {
    let Some(item) = table.take("ports") else { return vec![PortRange::ALL] };
    if *protocols == Protocols::Any {
        item.diagnose(reader, "no ports without protocols, since not every protocol has them");
    }
    let mut ports: Vec<PortRange> = Vec::new();
    for item in item.non_empty_list(reader, PORTS) {
        let text = item.as_i128().map(|number| number.to_string());
        match text.as_deref().or(item.value.as_str()).and_then(|text| text.parse::<PortRange>().ok()) {
            Some(range)
                if ports.iter().any(|other| range.first <= other.last && other.first <= range.last) =>
            {
                item.diagnose(reader, "each port once");
            }
            Some(range) => ports.push(range),
            None => item.diagnose(reader, PORTS),
        }
    }
    ports.sort_unstable();
    ports
}

fn read_hash(reader: &mut Reader<'_>, table: &mut Table<'_>, protocols: &Protocols) -> HashMode {
    let any = *protocols == Protocols::Any;
    let default = if any { HashMode::Addresses } else { HashMode::FiveTuple };
    let Some(item) = table.take("hash") else { return default };
    let allowed = if any {
        "\"source\", or no key (both addresses), since a service without protocols has no ports"
    } else {
        "\"5-tuple\" or \"source\""
    };
    // Both addresses are hashed only where ports may be missing; this mode cannot be chosen by name.
    let possible = |mode: &HashMode| *mode == HashMode::Source || *mode == HashMode::FiveTuple && !any;
    item.string(reader, allowed, |text| HashMode::named(text).filter(possible)).unwrap_or(default)
}

fn read_pmtu(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Pmtu {
    let item = table.take("pmtu");
    let read = |item: Item<'_>| item.string(reader, "\"icmp\" or \"fragment-outer\"", Pmtu::named);
    item.and_then(read).unwrap_or(Pmtu::Icmp)
}

/// Reads `steering`: the balancer's own `steering`, which is the default, or "kernel".
fn read_decider(reader: &mut Reader<'_>, table: &mut Table<'_>, balancer: Option<&Balancer>) -> Decider {
    let Some(item) = table.take("steering") else { return Decider::Lbd };
    let own = balancer.map_or(Steering::SynOnly, |balancer| balancer.steering).name();
    let allowed = format!("\"{own}\", as the balancer's, or \"{KERNEL_DECIDES}\"");
    let decider = item.string(reader, &allowed, |text| match text {
        KERNEL_DECIDES => Some(Decider::Kernel),
        text => (text == own).then_some(Decider::Lbd),
    });
    decider.unwrap_or(Decider::Lbd)
}

fn read_no_backend(reader: &mut Reader<'_>, table: &mut Table<'_>) -> NoBackend {
    let item = table.take("no_backend");
    let read = |item: Item<'_>| {
        item.string(reader, "\"drop\", \"reject\" or \"service:NAME\"", |text| text.parse().ok())
    };
    item.and_then(read).unwrap_or_default()
}

fn read_announcing(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Announcing {
    let mut announcing = Announcing::default();
    if let Some(item) = table.take("announce") {
        announcing.announce = item.bool(reader).unwrap_or(true);
    }
    if let Some(item) = table.take("announce_min") {
        announcing.min = item.integer(reader, Announcing::MIN).unwrap_or(announcing.min);
    }
    announcing
}

fn read_table_size(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<TableSize> {
    let size: u64 = item.integer(reader, 0..=u64::MAX)?;
    TableSize::new(size).map_err(|error| item.diagnose(reader, error.allowed())).ok()
}
