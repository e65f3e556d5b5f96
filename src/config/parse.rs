//! The keys of the configuration file, each with the values that are allowed. `testbed/` and the README show
//! whole files; docs/configuration.md explains each key.

mod backend;
mod balancer;
mod fragments;
mod health;
mod http;
mod service;
mod tier;
mod tracer;

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    Config, Service,
    reader::{ConfigErrors, Item, Reader, Table},
};
use crate::{
    lookup::classifier::{Classifier, Scope},
    model::{Encap, NoBackend, OuterAddresses, Path, ids::SERVICES_MAX},
};

const NAME: &str = "1 to 48 of A-Z a-z 0-9 . _ -, not starting with -";
const ADDRESS: &str = "unicast addresses, at most one IPv4 and one IPv6";

impl Config {
    /// Reads a configuration. `file` is used only in error messages.
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
    let balancer = document.require(reader, "balancer", "the table [balancer]");
    let balancer = balancer.and_then(|item| item.table(reader));
    let mut balancer = balancer.and_then(|table| balancer::read(reader, table));
    if let Some(item) = document.take("timeouts")
        && let Some(timeouts) = balancer::read_timeouts(reader, item)
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
    if let Some(item) = document.take("http")
        && let Some(settings) = http::read(reader, item)
        && let Some(balancer) = &mut balancer
    {
        balancer.http = settings;
    }
    let tier = document.take("tier");
    let items = document.take("service").map(Item::list).unwrap_or_default();
    document.finish(reader, &["balancer", "timeouts", "fragments", "tracer", "http", "tier", "service"]);
    if let Some(item) = items.get(SERVICES_MAX) {
        item.diagnose(reader, format_args!("at most {SERVICES_MAX} services"));
        return None;
    }
    let mut services: Vec<(Service, Origin)> = Vec::new();
    for item in items {
        if let Some(table) = item.table(reader) {
            services.extend(service::read(reader, table, balancer.as_ref()));
        }
    }
    check_services(reader, &services);
    let services: Vec<Service> = services.into_iter().map(|(service, _)| service).collect();
    let tier = tier.map(|item| tier::read(reader, item, balancer.as_ref(), &services)).unwrap_or_default();
    Some(Config { balancer: balancer?, services, tier })
}

/// Where a service stands in the file, for errors that are found only when all services are known.
struct Origin {
    at: std::ops::Range<usize>,
    place: String,
}

/// Reads at most one address of each family, and calls `check` for each.
fn read_addresses(
    reader: &mut Reader<'_>,
    items: Vec<Item<'_>>,
    mut check: impl FnMut(&mut Reader<'_>, &Item<'_>, IpAddr),
) -> OuterAddresses {
    let mut addresses = OuterAddresses::default();
    for item in items {
        let Some(address) = item.string(reader, ADDRESS, unicast) else { continue };
        if addresses.add(address) {
            check(reader, &item, address);
        } else {
            item.diagnose(reader, ADDRESS);
        }
    }
    addresses
}

/// Checks what can be checked only when all services are known.
fn check_services(reader: &mut Reader<'_>, services: &[(Service, Origin)]) {
    let mut names = HashSet::new();
    for (service, origin) in services {
        if !names.insert(&service.name) {
            reader.diagnose(&origin.at, &origin.place, "its name again", "each name once");
        }
    }
    let mut before = HashSet::new();
    for (service, origin) in services {
        let Some(old) = &service.renamed_from else { continue };
        let (key, found) = (format!("{}: renamed_from", origin.place), format!("\"{old}\""));
        if names.contains(old) {
            reader.diagnose(&origin.at, &key, found, "the name of a service that the file no longer has");
        } else if !before.insert(old) {
            reader.diagnose(&origin.at, &key, found, "each name once");
        }
    }
    check_no_backend(reader, services);
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
        reader.diagnose(&origin.at, &origin.place, found, allowed);
    }
}

/// Checks that each service that `no_backend` names can take the flows: it is another one, names none itself,
/// and its backends fit.
fn check_no_backend(reader: &mut Reader<'_>, services: &[(Service, Origin)]) {
    for (service, origin) in services {
        let NoBackend::Service(name) = &service.no_backend else { continue };
        let key = format!("{}: no_backend", origin.place);
        let mut wrong = |found: &str, allowed: String| reader.diagnose(&origin.at, &key, found, allowed);
        let found = format!("\"{}\"", service.no_backend);
        let Some((other, _)) = services.iter().find(|(other, _)| other.name == *name) else {
            wrong(&found, "\"service:\" and the name of a service of this file".to_owned());
            continue;
        };
        if other.name == service.name {
            wrong(&found, "another service than itself".to_owned());
            continue;
        }
        if let NoBackend::Service(third) = &other.no_backend {
            let allowed = format!(
                "a service whose own no_backend is \"drop\" or \"reject\"; that of \"{name}\" is \"service:{third}\""
            );
            wrong(&found, allowed);
        }
        let (size, backends) = (service.table_size.entries(), other.backends.len());
        if size < backends {
            let allowed =
                format!("a service with at most table_size backends, {size}; \"{name}\" has {backends}");
            wrong(&found, allowed);
        }
        for backend in &other.backends {
            let Path::Via(encap, address) = backend.path else { continue };
            let at = format!("{found}, whose backend \"{}\" has the address {address}", backend.name);
            if let Some(vip) = service.vips.iter().find(|vip| vip.contains(&address)) {
                wrong(&at, format!("backends with addresses outside of the service's own VIPs ({vip})"));
            }
            if encap == Encap::Direct
                && address.is_ipv4()
                && let Some(vip) = service.vips.iter().find(|vip| vip.addr().is_ipv6())
            {
                let allowed = format!(
                    "with encap \"direct\", IPv6 addresses, which can be the next hop of both families (VIP {vip} has no IPv4 one)"
                );
                wrong(&at, allowed);
            }
        }
    }
}

/// OuterAddresses that are never the destination of packets between hosts, or only on one link: "this network",
/// loopback, multicast, broadcast; IPv4-mapped addresses, which stand for IPv4 addresses in programs and are
/// never on the wire; link-local IPv6 addresses, which are meaningless without a device.
const NOT_UNICAST: [IpNet; 9] = [
    net4([0, 0, 0, 0], 8),
    net4([127, 0, 0, 0], 8),
    net4([224, 0, 0, 0], 4),
    net4([255, 255, 255, 255], 32),
    net6([0; 8], 128),
    net6([0, 0, 0, 0, 0, 0, 0, 1], 128),
    net6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96),
    net6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    net6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
];

const fn net4([a, b, c, d]: [u8; 4], prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

const fn net6([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix))
}

fn unicast(text: &str) -> Option<IpAddr> {
    text.parse().ok().filter(|address| !NOT_UNICAST.iter().any(|net| net.contains(address)))
}

/// Reads a prefix that contains only unicast addresses.
fn prefix(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    let disjoint = |other: &IpNet| !net.contains(other) && !other.contains(&net);
    NOT_UNICAST.iter().all(disjoint).then_some(net)
}

#[cfg(test)]
mod tests;
