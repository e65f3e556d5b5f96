use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::packet::{ICMP, ICMPV6, Ports};

struct Given {
    name: Name,
    vips: Vec<IpNet>,
    protocols: Protocols,
    ports: Vec<PortRange>,
}

fn given(name: &str, vips: &[&str], protocols: &[Protocol], ports: &[(u16, u16)]) -> Given {
    let ports: Vec<_> = ports.iter().map(|&(first, last)| PortRange { first, last }).collect();
    Given {
        name: Name::new(name).unwrap(),
        vips: vips.iter().map(|v| v.parse().unwrap()).collect(),
        protocols: if protocols.is_empty() { Protocols::Any } else { Protocols::Named(protocols.to_vec()) },
        ports: if ports.is_empty() { vec![PortRange::ALL] } else { ports },
    }
}

fn classifier(services: &[Given]) -> Result<Classifier, Conflict> {
    Classifier::new(&scopes(services))
}

fn scopes(services: &[Given]) -> Vec<Scope<'_>> {
    fn scope(Given { name, vips, protocols, ports }: &Given) -> Scope<'_> {
        Scope { name, vips, protocols, ports }
    }
    services.iter().map(scope).collect()
}

fn packet(dst: &str, protocol: u8, port: u16) -> Packet {
    let dst: IpAddr = dst.parse().unwrap();
    let src = if dst.is_ipv4() { "50.0.0.1" } else { "2000::1" };
    Packet::synthetic(protocol, src.parse().unwrap(), dst, Ports { src: 1, dst: port }).unwrap()
}

use Protocol::{Sctp, Tcp, Udp};

#[test]
fn the_most_specific_service_wins() {
    let services = [
        given("any", &["10.0.0.0/24"], &[], &[]),
        given("net-all", &["10.0.0.0/24", "1000::/112"], &[Tcp], &[]),
        given("net-port", &["10.0.0.0/24"], &[Tcp], &[(80, 80)]),
        given("host-all", &["10.0.0.5/32"], &[Tcp, Udp], &[]),
        given("host-range", &["10.0.0.5/32"], &[Tcp], &[(8000, 8100)]),
        given("host-narrow", &["10.0.0.5/32"], &[Tcp], &[(8050, 8060)]),
        given("host-any", &["10.0.0.9/32"], &[], &[]),
    ];
    let classifier = classifier(&services).unwrap();
    let service = |dst, protocol, port| {
        classifier.service_of(&packet(dst, protocol, port)).map(|index| services[index].name.as_str())
    };
    assert_eq!(service("10.0.0.1", 6, 80), Some("net-port"));
    assert_eq!(service("10.0.0.1", 6, 81), Some("net-all"), "a named protocol before any");
    assert_eq!(service("10.0.0.1", 17, 80), Some("any"));
    assert_eq!(service("10.0.0.1", 1, 0), Some("any"));
    assert_eq!(service("10.0.0.5", 6, 80), Some("net-port"), "one port before all, whatever the prefix");
    assert_eq!(service("10.0.0.5", 6, 81), Some("host-all"));
    assert_eq!(service("10.0.0.5", 6, 8000), Some("host-range"));
    assert_eq!(service("10.0.0.5", 6, 8055), Some("host-narrow"));
    assert_eq!(service("10.0.0.5", 17, 1), Some("host-all"));
    assert_eq!(service("10.0.0.5", 132, 1), Some("any"));
    assert_eq!(service("10.0.0.9", 6, 81), Some("host-any"), "the longer prefix before the named protocol");
    assert_eq!(service("1000::1", 6, 9), Some("net-all"));
    assert_eq!(service("1000::1", 17, 9), None);
    assert_eq!(service("1000::1:0", 6, 9), None);
    assert_eq!(service("10.0.1.0", 6, 80), None);
}

#[test]
fn equal_claims_are_a_conflict_and_name_the_packet() {
    let clash = |a: Given, b: Given| classifier(&[a, b]).unwrap_err();
    let conflict = clash(
        given("a", &["10.0.0.0/32"], &[Tcp], &[(80, 90)]),
        given("b", &["10.0.0.0/32"], &[Tcp], &[(85, 95)]),
    );
    assert_eq!(conflict.to_string(), "services \"a\" and \"b\" both claim 10.0.0.0 tcp port 85");
    let conflict = clash(given("a", &["1000::/64"], &[], &[]), given("b", &["1000::/64"], &[], &[]));
    assert_eq!(conflict.what, "1000:: tcp port 0");
    assert!(
        classifier(&[
            given("a", &["10.0.0.0/32"], &[Tcp], &[(80, 80)]),
            given("b", &["10.0.0.0/32"], &[Udp], &[(80, 80)])
        ])
        .is_ok()
    );
}

#[test]
fn the_ends_of_the_address_space_are_addresses_too() {
    let all = classifier(&[given("all", &["0.0.0.0/0", "::/0"], &[], &[])]).unwrap();
    for dst in ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
        assert_eq!(all.service_of(&packet(dst, 6, 65535)), Some(0), "{dst}");
    }
    assert_eq!(all.claims().len(), 2);
    let top =
        classifier(&[given("top", &["255.255.255.255/32", "255.255.255.0/24"], &[Tcp], &[(65535, 65535)])])
            .unwrap();
    assert_eq!(top.service_of(&packet("255.255.255.255", 6, 65535)), Some(0));
    assert_eq!(top.service_of(&packet("255.255.254.255", 6, 65535)), None);
}

#[test]
fn a_service_for_every_protocol_leaves_no_gap_beside_a_named_one() {
    let services =
        [given("any", &["10.0.0.0/24"], &[], &[]), given("web", &["10.0.0.0/32"], &[Tcp], &[(80, 80)])];
    let claims = classifier(&services).unwrap().claims();
    let boxes: Vec<_> = claims.iter().map(|c| (c.protocols, c.ports.to_string(), c.service)).collect();
    assert_eq!(
        boxes,
        [
            ((0, 5), "0-65535".to_owned(), 0),
            ((6, 6), "0-79".to_owned(), 0),
            ((6, 6), "80".to_owned(), 1),
            ((6, 6), "81-65535".to_owned(), 0),
            ((7, 16), "0-65535".to_owned(), 0),
            ((17, 17), "0-65535".to_owned(), 0),
            ((18, 131), "0-65535".to_owned(), 0),
            ((132, 132), "0-65535".to_owned(), 0),
            ((133, 255), "0-65535".to_owned(), 0),
            ((0, 255), "0-65535".to_owned(), 0),
        ]
    );
}

#[test]
fn pings_reach_the_longest_prefix() {
    let services = [
        given("net", &["10.0.0.0/24", "1000::/112"], &[Tcp], &[]),
        given("host", &["10.0.0.5/32", "1000::5/128"], &[Udp], &[(53, 53)]),
        given("any", &["10.0.0.0/25", "1000::/113"], &[], &[]),
        given("any-host", &["10.0.0.6/32"], &[], &[]),
        given("web-host", &["10.0.0.6/32"], &[Tcp], &[(80, 80)]),
        given("first", &["10.0.1.1/32"], &[Tcp], &[(443, 443)]),
        given("second", &["10.0.1.1/32"], &[Tcp], &[(80, 80)]),
    ];
    let classifier = classifier(&services).unwrap();
    let service = |dst, protocol| {
        classifier.service_of(&packet(dst, protocol, 0)).map(|index| services[index].name.as_str())
    };
    assert_eq!(service("10.0.0.5", ICMP), Some("host"), "whatever it claims, and others claim");
    assert_eq!(service("1000::5", ICMPV6), Some("host"));
    assert_eq!(service("10.0.0.5", 50), Some("any"), "a protocol that no other claims");
    assert_eq!(service("10.0.0.7", ICMP), Some("any"));
    assert_eq!(service("10.0.0.200", ICMP), Some("net"));
    assert_eq!(service("10.0.0.6", ICMP), Some("any-host"), "of two prefixes alike that for every protocol");
    assert_eq!(service("10.0.1.1", ICMP), Some("first"), "else the first");
    assert_eq!(service("10.0.2.1", ICMP), None);
}

#[test]
fn the_rule_that_decided_is_explained() {
    let services = [
        given("net", &["10.0.0.0/24", "10.0.0.0/30"], &[Tcp], &[]),
        given("any", &["10.0.0.0/30"], &[], &[]),
        given("wide", &["10.0.0.0/30"], &[Tcp], &[(80, 99)]),
        given("narrow", &["10.0.0.0/30"], &[Tcp, Udp], &[(80, 89), (443, 443)]),
        given("port", &["10.0.0.0/24"], &[Tcp], &[(85, 85), (80, 90)]),
        given("same", &["10.0.0.0/24"], &[Udp], &[(53, 53)]),
    ];
    let classifier = classifier(&services).unwrap();
    let explain =
        |dst, protocol, port| match classifier.explain(&scopes(&services), &packet(dst, protocol, port)) {
            Explanation::Unclaimed { here } => Err(here),
            Explanation::Claimed(Match { service, vip, ports, before }) => {
                let claim = ports.map_or_else(|| vip.to_string(), |ports| format!("{vip} {ports}"));
                Ok((service, claim, before))
            }
        };
    let is = |service, claim: &str, before: &[(usize, Precedence)]| {
        Ok((service, claim.to_owned(), before.to_vec()))
    };
    use Precedence::{EveryProtocol, NarrowerRange, Order, Port, PortRange, Prefix, Protocol};
    let expected = is(4, "10.0.0.0/24 85", &[(0, Port), (1, Port), (2, Port), (3, Port)]);
    assert_eq!(explain("10.0.0.1", 6, 85), expected);
    let expected =
        is(3, "10.0.0.0/30 80-89", &[(0, PortRange), (1, PortRange), (2, NarrowerRange), (4, Prefix)]);
    assert_eq!(explain("10.0.0.1", 6, 86), expected);
    assert_eq!(explain("10.0.0.1", 6, 1), is(0, "10.0.0.0/30 0-65535", &[(1, Protocol)]));
    assert_eq!(explain("10.0.0.1", 50, 0), is(1, "10.0.0.0/30", &[]));
    let longest = [(0, EveryProtocol), (2, EveryProtocol), (3, EveryProtocol), (4, Prefix), (5, Prefix)];
    assert_eq!(explain("10.0.0.1", ICMP, 0), is(1, "10.0.0.0/30", &longest));
    assert_eq!(explain("10.0.0.9", ICMP, 0), is(0, "10.0.0.0/24", &[(4, Order), (5, Order)]));
    assert_eq!(explain("10.0.0.9", 17, 54), Err(vec![0, 4, 5]));
    assert_eq!(explain("10.0.1.9", 17, 54), Err(vec![]));
}

#[test]
fn a_later_fragment_is_no_services_where_its_port_matters() {
    let services = [given("any", &["10.0.0.0/24"], &[], &[]), given("dns", &["10.0.0.5/32"], &[Udp], &[])];
    let classifier = classifier(&services).unwrap();
    let later =
        |dst, protocol| classifier.service_of(&Packet { l4: L4::LaterFragment, ..packet(dst, protocol, 0) });
    assert_eq!(later("10.0.0.5", 17), None);
    assert_eq!(later("10.0.0.5", 6), Some(0));
    assert_eq!(later("10.0.0.5", 50), Some(0));
    assert_eq!(later("10.0.0.6", 17), Some(0));
}

/// A straightforward reading of the rule for pings.
fn naive_echo(services: &[Given], dst: Ipv4Addr) -> Option<usize> {
    let mut best: Option<(u8, bool, usize)> = None;
    for (index, service) in services.iter().enumerate() {
        for vip in service.vips.iter().filter(|vip| vip.contains(&IpAddr::V4(dst))) {
            let (prefix, any) = (vip.prefix_len(), service.protocols == Protocols::Any);
            let better = best.is_none_or(|(longest, for_every, _)| {
                prefix > longest || prefix == longest && any && !for_every
            });
            if better {
                best = Some((prefix, any, index));
            }
        }
    }
    best.map(|(_, _, index)| index)
}

/// A straightforward reading of the rules: every service is tried, and the best one wins.
fn naive(services: &[Given], dst: Ipv4Addr, protocol: u8, port: u16) -> Option<usize> {
    let known = Protocol::ALL.into_iter().find(|p| p.number() == protocol);
    let mut best: Option<(Rank, usize)> = None;
    for (index, service) in services.iter().enumerate() {
        for vip in service.vips.iter().filter(|vip| vip.contains(&IpAddr::V4(dst))) {
            let named = match &service.protocols {
                Protocols::Any => false,
                Protocols::Named(named) if known.is_some_and(|p| named.contains(&p)) => true,
                Protocols::Named(_) => continue,
            };
            for &ports in service.ports.iter().filter(|r| !named || (r.first <= port && port <= r.last)) {
                let candidate = (rank(ports, vip.prefix_len(), named), index);
                if best.is_none_or(|best| candidate < best) {
                    best = Some(candidate);
                }
            }
        }
    }
    best.map(|(_, index)| index)
}

/// How one service claims what a probe asks about: the best rank of all its prefixes and ranges, and whether
/// it takes every protocol.
fn naive_claim(service: &Given, dst: Ipv4Addr, protocol: u8, port: u16) -> Option<(Rank, bool)> {
    let every = service.protocols == Protocols::Any;
    let vips = service.vips.iter().filter(|vip| vip.contains(&IpAddr::V4(dst)));
    let ranks = vips.flat_map(|vip| {
        let by_port = protocol != ICMP && !every;
        let named = |p: Protocol| matches!(&service.protocols, Protocols::Named(named) if named.contains(&p));
        let known = Protocol::ALL.into_iter().any(|p| p.number() == protocol && named(p));
        let all = (!by_port).then_some(PortRange::ALL);
        let ports = service
            .ports
            .iter()
            .copied()
            .filter(move |r| by_port && known && r.first <= port && port <= r.last);
        ports.chain(all).map(move |ports| rank(ports, vip.prefix_len(), by_port))
    });
    Some((ranks.min()?, every))
}

/// Whether a rule says which of two claims wins: they differ in it, and are alike in all rules before it.
fn holds(rule: Precedence, (best, best_every): (Rank, bool), (other, other_every): (Rank, bool)) -> bool {
    match rule {
        Precedence::Port => best.0 == PortClass::Exact && other.0 != PortClass::Exact,
        Precedence::PortRange => best.0 == PortClass::Range && other.0 == PortClass::All,
        Precedence::Prefix => best.0 == other.0 && best.1.0 > other.1.0,
        Precedence::Protocol => (best.0, best.1) == (other.0, other.1) && best.2.0 && !other.2.0,
        Precedence::NarrowerRange => {
            (best.0, best.1, best.2) == (other.0, other.1, other.2) && best.3 < other.3
        }
        Precedence::EveryProtocol => best == other && best_every && !other_every,
        Precedence::Order => best == other && best_every == other_every,
    }
}

fn any_service() -> impl Strategy<Value = (u8, u8, Vec<Protocol>, Vec<(u16, u16)>)> {
    let port = prop_oneof![
        Just((80, 80)),
        (0u16..20).prop_map(|p| (p, p)),
        (0u16..20, 0u16..20).prop_map(|(a, b)| (a.min(b), a.max(b)))
    ];
    let protocols = prop::sample::subsequence(vec![Tcp, Udp, Sctp], 0..3);
    (0u8..16, 24u8..=32, protocols, prop::collection::vec(port, 0..2))
}

proptest! {
    #[test]
    fn agrees_with_trying_every_service(raw in prop::collection::vec(any_service(), 1..8), probes in prop::collection::vec((0u8..20, prop::sample::select(vec![50u8, 6, 17, 47, 132]), 0u16..90), 50)) {
        let services: Vec<_> = raw.iter().enumerate().map(|(i, (host, prefix, protocols, ports))| {
            let net = ipnet::Ipv4Net::new(Ipv4Addr::new(10, 0, 0, *host), *prefix).unwrap().trunc();
            given(&format!("s{i}"), &[&net.to_string()], protocols, if protocols.is_empty() { &[] } else { ports })
        }).collect();
        let Ok(classifier) = classifier(&services) else { return Ok(()) };
        let claims = classifier.claims();
        let echoes = classifier.echo_claims();
        for (host, protocol, port) in probes {
            let dst = Ipv4Addr::new(10, 0, 0, host);
            let within = |addresses| matches!(addresses, AddressRange::V4(first, last) if (first..=last).contains(&dst.to_bits()));
            let echo = naive_echo(&services, dst);
            prop_assert_eq!(classifier.service_of(&packet(&dst.to_string(), ICMP, 0)), echo, "pings");
            // As the kernel asks: the boxes of echo requests, then those of ICMP.
            let icmp = |c: &&Claim| within(c.addresses) && (c.protocols.0..=c.protocols.1).contains(&ICMP);
            let of_icmp = claims.iter().find(icmp).map(|c| c.service);
            let of_echo: Vec<_> = echoes.iter().filter(|c| within(c.addresses)).collect();
            prop_assert!(of_echo.len() <= 1);
            prop_assert!(of_echo.iter().all(|c| c.other == of_icmp && Some(c.service) != of_icmp));
            prop_assert_eq!(of_echo.first().map(|c| c.service).or(of_icmp), echo, "pings by the kernel");
            let expected = naive(&services, dst, protocol, port);
            prop_assert_eq!(classifier.service_of(&packet(&dst.to_string(), protocol, port)), expected);
            for (protocol, service) in [(protocol, expected), (ICMP, echo)] {
                let explained = classifier.explain(&scopes(&services), &packet(&dst.to_string(), protocol, port));
                let claim = |service: usize| naive_claim(&services[service], dst, protocol, port);
                let Explanation::Claimed(Match { service: found, before, .. }) = explained else {
                    prop_assert_eq!(service, None);
                    continue;
                };
                prop_assert_eq!(Some(found), service);
                let others: Vec<usize> = (0..services.len()).filter(|&s| s != found && claim(s).is_some()).collect();
                prop_assert_eq!(before.iter().map(|&(other, _)| other).collect::<Vec<_>>(), others);
                for (other, rule) in before {
                    let (best, other) = (claim(found).unwrap(), claim(other).unwrap());
                    prop_assert!(holds(rule, best, other), "{rule:?}: {best:?} before {other:?}");
                }
            }
            // Exactly one box holds a claimed packet, none another.
            let held: Vec<_> = claims.iter().filter(|c| {
                within(c.addresses)
                    && (c.protocols.0..=c.protocols.1).contains(&protocol)
                    && (c.ports.first..=c.ports.last).contains(&port)
            }).map(|c| c.service).collect();
            prop_assert_eq!(held, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
