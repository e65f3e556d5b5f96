//! The configuration file's keys, each with what is allowed. `testbed/` and the README show whole files.

mod fragments;
mod tier;
mod tracer;

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::{
    Backend, Balancer, Config, Encap, HASH_SEED_DEFAULT, HashMode, InterfaceName, KERNEL_ENTRIES,
    KERNEL_ENTRIES_DEFAULT, Name, Path, Pmtu, PortRange, Protocol, Protocols, QueueRange, Service, Steering,
    TableSize, Timeouts, Weight,
    reader::{ConfigErrors, Item, Reader, Table},
};
use crate::{
    balance::service::{Classifier, Scope},
    ids::{MarkMask, QUEUES_MAX, QueueNum, SERVICES_MAX, TARGETS_MAX},
};

const NAME: &str = "1 to 48 of A-Z a-z 0-9 . _ -, not starting with -";
const INTERFACE: &str = "names of network devices, 1 to 15 bytes each";
const VIP: &str = "unicast addresses or prefixes, such as \"10.0.0.1\", \"10.0.0.0/24\" or \"1000::/112\"";
const PORTS: &str = "ports from 0 to 65535 or ranges of them, such as \"80\" or \"8000-8010\"";
const ADDRESS: &str = "unicast addresses, at most one IPv4 and one IPv6";
const ENCAP: &str =
    "\"gre\", \"ipip\", \"gue\", \"direct\", \"ip6gre\" or \"ip6tnl\" (IPv6 only), or \"mark\" (no address)";
/// RFC 5382 asks for 7440 s at least; conntrack takes 31 bits. A day is as long as anybody should want.
const TIMEOUT_SECONDS_MAX: u32 = 864_000;
/// More virtual addresses of one service than this would be a prefix.
const VIPS_MAX: usize = 256;

impl Config {
    /// Reads a configuration. `file` is only named in complaints.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigErrors> {
        let (mut reader, document) = Reader::open(file, text);
        let config = document.and_then(|document| read_config(&mut reader, document));
        reader.finish(config)
    }
}

fn read_config(reader: &mut Reader<'_>, mut document: Table<'_>) -> Option<Config> {
    let balancer = document.need(reader, "balancer", "the table [balancer]");
    let balancer = balancer.and_then(|item| item.table(reader));
    let mut balancer = balancer.and_then(|table| read_balancer(reader, table));
    if let Some(item) = document.take("timeouts")
        && let Some(timeouts) = read_timeouts(reader, item)
        && let Some(balancer) = &mut balancer
    {
        balancer.timeouts = timeouts;
    }
    if let Some(item) = document.take("fragments")
        && let Some(limits) = fragments::read(reader, item)
        && let Some(balancer) = &mut balancer
    {
        balancer.fragments = limits;
    }
    if let Some(item) = document.take("tracer")
        && let Some(settings) = tracer::read(reader, item)
        && let Some(balancer) = &mut balancer
    {
        balancer.tracer = settings;
    }
    let tier = document.take("tier");
    let items = document.take("service").map(Item::list).unwrap_or_default();
    document.finish(reader, &["balancer", "timeouts", "fragments", "tracer", "tier", "service"]);
    if let Some(item) = items.get(SERVICES_MAX) {
        item.complain(reader, format_args!("at most {SERVICES_MAX} services"));
        return None;
    }
    let mut services: Vec<(Service, Origin)> = Vec::new();
    for item in items {
        if let Some(table) = item.table(reader) {
            services.extend(read_service(reader, table, balancer.as_ref()));
        }
    }
    check_services(reader, &services);
    let services: Vec<Service> = services.into_iter().map(|(service, _)| service).collect();
    let tier = tier.map(|item| tier::read(reader, item, balancer.as_ref(), &services)).unwrap_or_default();
    Some(Config { balancer: balancer?, services, tier })
}

/// Where a service stands, for complaints that need all of them.
struct Origin {
    at: std::ops::Range<usize>,
    place: String,
}

const BALANCER_KEYS: &[&str] = &[
    "name",
    "address",
    "interfaces",
    "queues",
    "fragment_queue",
    "hash_seed",
    "mark_mask",
    "steering",
    "gre_in",
    "kernel_entries",
];

fn read_balancer(reader: &mut Reader<'_>, mut table: Table<'_>) -> Option<Balancer> {
    let mut balancer = Balancer::unconfigured();
    let name = table.need(reader, "name", NAME);
    let name = name.and_then(|item| item.string(reader, NAME, Name::new));
    let addresses = table.take("address").map(Item::list).unwrap_or_default();
    let addresses_named = addresses.len();
    (balancer.address4, balancer.address6) = read_addresses(reader, addresses, |_, _, _| {});
    if let Some(item) = table.need(reader, "interfaces", INTERFACE) {
        for item in item.list_of_some(reader, INTERFACE) {
            match item.string(reader, INTERFACE, InterfaceName::new) {
                Some(interface) if balancer.interfaces.contains(&interface) => {
                    item.complain(reader, "each once");
                }
                interface => balancer.interfaces.extend(interface),
            }
        }
    }
    if let Some(item) = table.take("queues") {
        balancer.queues = read_queues(reader, &item).unwrap_or(balancer.queues);
    }
    if let Some(item) = table.take("fragment_queue") {
        let number = item.integer(reader, 0..=u16::MAX);
        balancer.fragment_queue = number.map_or(balancer.fragment_queue, QueueNum);
        if number.is_some() && balancer.queues.contains(balancer.fragment_queue) {
            item.complain(reader, format_args!("a number outside of queues, {}", balancer.queues));
        }
    } else if balancer.queues.contains(balancer.fragment_queue) {
        let key = table.key("fragment_queue");
        let allowed = format_args!("a number outside of queues, {}", balancer.queues);
        reader.complain(&table.at, &key, "nothing, which means 10", allowed);
    }
    if let Some(item) = table.take("hash_seed") {
        balancer.hash_seed = item.integer(reader, 0..=u32::MAX).unwrap_or(HASH_SEED_DEFAULT);
    }
    if let Some(item) = table.take("mark_mask")
        && let Some(bits) = item.integer(reader, 0..=u32::MAX)
    {
        match MarkMask::new(bits) {
            Ok(mask) => balancer.mark_mask = mask,
            Err(error) => reader.complain(
                &item.at,
                &item.key,
                format_args!("{bits:#010x}"),
                format_args!("a mask of which {error}"),
            ),
        }
    }
    if let Some(item) = table.take("steering") {
        let steering = item.string(reader, "\"syn-only\" or \"every-packet\"", Steering::named);
        balancer.steering = steering.unwrap_or(balancer.steering);
    }
    if let Some(item) = table.take("gre_in") {
        balancer.gre_in = item.bool(reader).unwrap_or(false);
        if balancer.gre_in && addresses_named == 0 {
            item.complain(reader, "false, or an address in [balancer] address: it is the tunnel's end");
        }
    }
    if let Some(item) = table.take("kernel_entries") {
        balancer.kernel_entries = item.integer(reader, KERNEL_ENTRIES).unwrap_or(KERNEL_ENTRIES_DEFAULT);
    }
    table.finish(reader, BALANCER_KEYS);
    balancer.name = name?;
    Some(balancer)
}

/// At most one address of each family, each of which `check` sees.
fn read_addresses(
    reader: &mut Reader<'_>,
    items: Vec<Item<'_>>,
    mut check: impl FnMut(&mut Reader<'_>, &Item<'_>, IpAddr),
) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let (mut address4, mut address6) = (None, None);
    for item in items {
        let Some(address) = item.string(reader, ADDRESS, unicast) else { continue };
        let another = match address {
            IpAddr::V4(address) => address4.replace(address).is_some(),
            IpAddr::V6(address) => address6.replace(address).is_some(),
        };
        if another {
            item.complain(reader, ADDRESS);
        } else {
            check(reader, &item, address);
        }
    }
    (address4, address6)
}

fn read_queues(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<QueueRange> {
    let text = item.as_i128().map(|number| number.to_string());
    let range = text.as_deref().or(item.value.as_str()).and_then(port_range);
    let queues = range.and_then(|range| QueueRange::new(range.first, range.last));
    if queues.is_none() {
        item.complain(
            reader,
            format_args!("a number from 0 to 65535 or a range of at most {QUEUES_MAX}, such as \"0-1\""),
        );
    }
    queues
}

fn read_timeouts(reader: &mut Reader<'_>, item: Item<'_>) -> Option<Timeouts> {
    let mut table = item.table(reader)?;
    let mut timeouts = Timeouts::default();
    for (key, value) in [
        ("tcp_established_seconds", &mut timeouts.tcp_established_seconds),
        ("tcp_closing_seconds", &mut timeouts.tcp_closing_seconds),
        ("udp_seconds", &mut timeouts.udp_seconds),
    ] {
        if let Some(item) = table.take(key) {
            *value = item.integer(reader, 1..=TIMEOUT_SECONDS_MAX).unwrap_or(*value);
        }
    }
    table.finish(reader, &["tcp_established_seconds", "tcp_closing_seconds", "udp_seconds"]);
    Some(timeouts)
}

const SERVICE_KEYS: &[&str] =
    &["name", "vips", "protocols", "ports", "hash", "pmtu", "table_size", "backend"];

fn read_service(
    reader: &mut Reader<'_>,
    mut table: Table<'_>,
    balancer: Option<&Balancer>,
) -> Option<(Service, Origin)> {
    let name = table.need(reader, "name", NAME).and_then(|item| item.string(reader, NAME, Name::new));
    table.place = name.as_ref().map_or_else(|| "service".to_owned(), |name| format!("service \"{name}\""));
    let vips = read_vips(reader, &mut table, balancer);
    let protocols = read_protocols(reader, &mut table);
    let ports = read_ports(reader, &mut table, &protocols);
    let hash = read_hash(reader, &mut table, &protocols);
    let pmtu = read_pmtu(reader, &mut table);
    let size = table.take("table_size");
    let table_size = size.as_ref().map_or(Some(TableSize::DEFAULT), |item| read_table_size(reader, item));
    let items = table.take("backend").map(Item::list).unwrap_or_default();
    let (at, place) = (table.at.clone(), table.place.clone());
    if let (Some(size), Some(item)) = (table_size, size)
        && size.entries() < items.len()
    {
        item.complain(reader, format_args!("a prime not below the number of backends, {}", items.len()));
    }
    table.finish(reader, SERVICE_KEYS);
    if let Some(item) = items.get(TARGETS_MAX) {
        item.complain(reader, format_args!("at most {TARGETS_MAX} backends"));
        return None;
    }
    let mut backends: Vec<Backend> = Vec::new();
    let mut seen = (HashSet::new(), HashMap::new());
    for item in items {
        let Some(mut table) = item.table(reader) else { continue };
        table.place = format!("{place}: backend");
        let Some(backend) = read_backend(reader, table, balancer, (&vips, pmtu), &mut seen) else { continue };
        backends.push(backend);
    }
    backends.sort_by(|a, b| a.name.cmp(&b.name));
    let (name, table_size) = (name?, table_size?);
    let service = Service { name, vips, protocols, ports, hash, pmtu, table_size, backends };
    Some((service, Origin { at, place }))
}

fn read_vips(reader: &mut Reader<'_>, table: &mut Table<'_>, balancer: Option<&Balancer>) -> Vec<IpNet> {
    let items =
        table.need(reader, "vips", VIP).map(|item| item.list_of_some(reader, VIP)).unwrap_or_default();
    if let Some(item) = items.get(VIPS_MAX) {
        item.complain(reader, format_args!("at most {VIPS_MAX}"));
        return Vec::new();
    }
    let mut vips = Vec::new();
    for item in items {
        let Some(vip) = item.string(reader, VIP, prefix) else { continue };
        if vip.trunc() != vip {
            let host = IpNet::from(vip.addr());
            item.complain(
                reader,
                format_args!("no bits behind the prefix: \"{}\" or \"{host}\"", vip.trunc()),
            );
        } else if vips.contains(&vip) {
            item.complain(reader, "each once");
        } else if let Some(own) = balancer.and_then(|balancer| balancer.source_for(vip.addr()))
            && vip.contains(&own)
        {
            item.complain(reader, format_args!("prefixes without the balancer's own address, {own}"));
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
    for item in item.list_of_some(reader, allowed) {
        match item.string(reader, allowed, Protocol::named) {
            Some(protocol) if protocols.contains(&protocol) => item.complain(reader, allowed),
            protocol => protocols.extend(protocol),
        }
    }
    protocols.sort_unstable();
    Protocols::Named(protocols)
}

fn read_ports(reader: &mut Reader<'_>, table: &mut Table<'_>, protocols: &Protocols) -> Vec<PortRange> {
    let Some(item) = table.take("ports") else { return vec![PortRange::ALL] };
    if *protocols == Protocols::Any {
        item.complain(reader, "no ports without protocols, since not every protocol has them");
    }
    let mut ports: Vec<PortRange> = Vec::new();
    for item in item.list_of_some(reader, PORTS) {
        let text = item.as_i128().map(|number| number.to_string());
        match text.as_deref().or(item.value.as_str()).and_then(port_range) {
            Some(range)
                if ports.iter().any(|other| range.first <= other.last && other.first <= range.last) =>
            {
                item.complain(reader, "each port once");
            }
            Some(range) => ports.push(range),
            None => item.complain(reader, PORTS),
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
    // Both addresses are hashed where ports may be lacking, and there only, and are not asked for by name.
    let possible = |mode: &HashMode| *mode == HashMode::Source || *mode == HashMode::FiveTuple && !any;
    item.string(reader, allowed, |text| HashMode::named(text).filter(possible)).unwrap_or(default)
}

fn read_pmtu(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Pmtu {
    let item = table.take("pmtu");
    let read = |item: Item<'_>| item.string(reader, "\"icmp\" or \"fragment-outer\"", Pmtu::named);
    item.and_then(read).unwrap_or(Pmtu::Icmp)
}

fn read_table_size(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<TableSize> {
    let size: u64 = item.integer(reader, 0..=u64::MAX)?;
    TableSize::new(size).map_err(|error| item.complain(reader, error.allowed())).ok()
}

const BACKEND_KEYS: &[&str] = &["name", "address", "weight", "encap", "active"];

fn read_backend(
    reader: &mut Reader<'_>,
    mut table: Table<'_>,
    balancer: Option<&Balancer>,
    (vips, pmtu): (&[IpNet], Pmtu),
    seen: &mut (HashSet<Name>, HashMap<Path, Name>),
) -> Option<Backend> {
    let item = table.need(reader, "name", NAME);
    let name = item.as_ref().and_then(|item| item.string(reader, NAME, Name::new));
    if let (Some(name), Some(item)) = (&name, &item) {
        table.place = format!("{} \"{name}\"", table.place);
        if !seen.0.insert(name.clone()) {
            item.complain(reader, "each name once in a service");
        }
    }
    let path = read_path(reader, &mut table, balancer, (vips, pmtu));
    let weight = match table.take("weight") {
        Some(item) => item.integer(reader, 1..=Weight::MAX).and_then(Weight::new),
        None => Some(Weight::ONE),
    };
    let active = table.take("active").and_then(|item| item.bool(reader));
    let (at, key) = (table.at.clone(), table.key("address"));
    table.finish(reader, BACKEND_KEYS);
    let backend = Backend { name: name?, path: path?, weight: weight?, active };
    if backend.path != Path::MarkOnly
        && let Some(other) = seen.1.insert(backend.path, backend.name.clone())
    {
        reader.complain(
            &at,
            &key,
            format_args!("the target of backend \"{other}\""),
            "each target once in a service",
        );
    }
    Some(backend)
}

fn read_path(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    balancer: Option<&Balancer>,
    (vips, pmtu): (&[IpNet], Pmtu),
) -> Option<Path> {
    let item = table.take("encap");
    let encap = item.as_ref().map_or(Some("gre"), |item| item.value.as_str()).unwrap_or_default().to_owned();
    if encap == "mark" {
        if let Some(item) = table.take("address") {
            item.complain(
                reader,
                "no address with encap = \"mark\": the operator's own rules route the mark",
            );
        }
        if let Some(item) = item {
            check_fragment_outer(reader, &item, Path::MarkOnly, pmtu);
        }
        return Some(Path::MarkOnly);
    }
    let allowed = "a unicast address";
    let address_item = table.need(reader, "address", allowed);
    let address = address_item.as_ref().and_then(|item| item.string(reader, allowed, unicast));
    let (kind, six_only) = match encap.as_str() {
        "gre" => (Encap::Gre, false),
        "ip6gre" => (Encap::Gre, true),
        "ipip" => (Encap::Ipip, false),
        "ip6tnl" => (Encap::Ipip, true),
        "gue" => (Encap::Gue, false),
        "direct" => (Encap::Direct, false),
        _ => {
            item?.complain(reader, ENCAP);
            return None;
        }
    };
    let (address, at) = (address?, address_item?);
    let blamed = item.as_ref().filter(|_| encap != "gre").unwrap_or(&at);
    check_fragment_outer(reader, blamed, Path::Via(kind, address), pmtu);
    if six_only && address.is_ipv4() {
        at.complain(reader, format_args!("an IPv6 address, as encap is \"{encap}\""));
    }
    if balancer.is_some_and(|balancer| balancer.source_for(address) == Some(address)) {
        at.complain(reader, "another host's address; this one is the balancer's own");
    }
    if let Some(vip) = vips.iter().find(|vip| vip.contains(&address)) {
        at.complain(reader, format_args!("an address outside of the service's own VIPs ({vip})"));
    }
    if kind == Encap::Direct
        && address.is_ipv4()
        && let Some(vip) = vips.iter().find(|vip| vip.addr().is_ipv6())
    {
        at.complain(
            reader,
            format_args!(
                "an IPv6 address, which can be the next hop of both families (VIP {vip} has no IPv4 one)"
            ),
        );
    }
    if kind != Encap::Direct && balancer.is_some_and(|balancer| balancer.source_for(address).is_none()) {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        at.complain(
            reader,
            format_args!("an address of a family that [balancer] address has; it has no {family} one"),
        );
    }
    Some(Path::Via(kind, address))
}

fn check_fragment_outer(reader: &mut Reader<'_>, blamed: &Item<'_>, path: Path, pmtu: Pmtu) {
    if pmtu != Pmtu::FragmentOuter || path.can_fragment_outer() {
        return;
    }
    let why = match path {
        Path::MarkOnly | Path::Via(Encap::Direct, _) => "without a tunnel there is no outer packet",
        Path::Via(Encap::Gre | Encap::Ipip | Encap::Gue, _) => "of tunnels, only that can do it",
    };
    blamed.complain(
        reader,
        format_args!("encap \"gre\" to an IPv4 address, as pmtu is \"fragment-outer\": {why}"),
    );
}

/// What can only be seen with all services at hand.
fn check_services(reader: &mut Reader<'_>, services: &[(Service, Origin)]) {
    let mut names = HashSet::new();
    for (service, origin) in services {
        if !names.insert(&service.name) {
            reader.complain(&origin.at, &origin.place, "its name again", "each name once");
        }
    }
    let scopes: Vec<Scope<'_>> = services
        .iter()
        .map(|(s, _)| Scope { name: &s.name, vips: &s.vips, protocols: &s.protocols, ports: &s.ports })
        .collect();
    if let Err(conflict) = Classifier::new(&scopes)
        && let Some((_, origin)) = services.iter().rev().find(|(service, _)| service.name == conflict.second)
    {
        let found = format!("{}, which service \"{}\" claims too", conflict.what, conflict.first);
        let allowed =
            "no two services that claim the same thing; one must be more specific (port, then prefix)";
        reader.complain(&origin.at, &origin.place, found, allowed);
    }
}

fn port_range(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(PortRange { first, last })
}

fn unicast(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    (!address.is_unspecified() && !address.is_multicast() && !address.is_loopback() && !broadcast)
        .then_some(address)
}

fn prefix(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    let address = net.addr();
    (net.prefix_len() > 0 && !address.is_multicast() && !address.is_loopback() && !address.is_unspecified())
        .then_some(net)
}

#[cfg(test)]
mod tests;
