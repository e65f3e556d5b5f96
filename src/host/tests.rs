use super::*;
use crate::{config::Config, state::State};

const FILE: &str = "
[balancer]
name = 'lb201'
address = ['192.168.1.201', 'fd00:0:0:1::201']
interfaces = ['eth1', 'eth.2']
[[service]]
name = 'web'
vips = ['10.0.0.0/32', '10.1.0.0/24', '1000::/112']
backend = [{ name = 's1', address = '192.168.1.1' }, { name = 's2', address = 'fd00:0:0:1::2' }]
";

fn state(change: impl Fn(String) -> String) -> State {
    State::new(&Config::parse("f", &change(FILE.to_owned())).unwrap()).unwrap()
}

fn link(up: bool, carrier: bool) -> Link {
    Link { up, carrier, ..Link::default() }
}

/// A host on which all is well.
fn well() -> Snapshot {
    let settings = [
        ("net/ipv4/ip_forward", 1),
        ("net/ipv6/conf/all/forwarding", 1),
        ("net/netfilter/nf_conntrack_tcp_loose", 1),
        ("net/netfilter/nf_conntrack_count", 7),
        ("net/netfilter/nf_conntrack_max", 1000),
        ("net/ipv4/fwmark_reflect", 0),
        ("net/ipv6/fwmark_reflect", 0),
        ("net/ipv4/conf/all/rp_filter", 0),
        ("net/ipv4/conf/eth1/rp_filter", 2),
        ("net/ipv4/conf/eth1/forwarding", 1),
        ("net/ipv6/conf/eth1/forwarding", 1),
        ("net/ipv6/conf/eth1/disable_ipv6", 0),
        ("net/ipv4/conf/eth.2/rp_filter", 0),
        ("net/ipv4/conf/eth.2/forwarding", 1),
        ("net/ipv6/conf/eth.2/forwarding", 1),
        ("net/ipv6/conf/eth.2/disable_ipv6", 0),
    ];
    let links = [("lo", link(true, true)), ("eth1", link(true, true)), ("eth.2", link(true, true))];
    let own = |address: &str, device| Local::own(address.parse().unwrap(), device);
    Snapshot {
        settings: settings.into_iter().map(|(path, value)| (path.to_owned(), value)).collect(),
        links: links.into_iter().map(|(name, link)| (name.to_owned(), link)).collect(),
        locals: vec![own("192.168.1.201", "eth1"), own("fd00:0:0:1::201", "eth1"), own("127.0.0.1", "lo")],
        ..Snapshot::default()
    }
}

/// Severity, whether it stops a start, name, and value.
fn shown(findings: &[Finding]) -> Vec<String> {
    let stops = |finding: &Finding| if finding.stops_start { "!" } else { "" };
    let line = |f: &Finding| format!("{}{} {}: {}", f.severity, stops(f), f.name, f.value);
    findings.iter().map(line).collect()
}

fn judged(state: &State, change: impl Fn(&mut Snapshot)) -> Vec<String> {
    let mut snapshot = well();
    change(&mut snapshot);
    shown(&judge(state, &snapshot))
}

fn with(settings: &[(&str, u32)]) -> Vec<String> {
    judged(&state(|file| file), |host| {
        for (path, value) in settings {
            assert!(host.settings.insert((*path).to_owned(), *value).is_some(), "{path}");
        }
    })
}

#[test]
fn a_service_that_is_never_announced_is_a_warning() {
    let asking = |min| {
        let keys = format!("announce_min = {min}\nbackend = [");
        let file = |file: String| {
            file.replace("backend = [", &keys).replace("[[service]]", "announce_table = 201\n[[service]]")
        };
        judged(&state(file), |_| {})
    };
    assert_eq!(asking(2), [""; 0]);
    assert_eq!(asking(3), ["warning announce_min of service web: 3"]);
}

#[test]
fn a_host_as_it_should_be_has_no_findings() {
    assert_eq!(with(&[]), [""; 0]);
    let state = state(|file| file);
    assert_eq!(settings(&state.balancer).len(), well().settings.len());
    assert!(settings(&state.balancer).iter().all(|path| well().settings.contains_key(path)));
    // Settings that are not there yet, or a host that cannot be read, are no findings; but that the host cannot be read is one.
    let nothing = Snapshot { unread: vec![("addresses", "not allowed".to_owned())], ..Snapshot::default() };
    assert_eq!(shown(&judge(&state, &nothing)), ["note addresses: not to be read (not allowed)"]);
}

#[test]
fn settings_that_stop_packets_are_found_with_the_command_that_mends_them() {
    for (path, value, expected) in [
        ("net/ipv4/ip_forward", 0, "error! net.ipv4.ip_forward: 0"),
        ("net/ipv6/conf/all/forwarding", 0, "error net.ipv6.conf.all.forwarding: 0"),
        ("net/netfilter/nf_conntrack_tcp_loose", 0, "error! net.netfilter.nf_conntrack_tcp_loose: 0"),
        ("net/ipv4/fwmark_reflect", 1, "warning net.ipv4.fwmark_reflect: 1"),
        ("net/ipv6/fwmark_reflect", 1, "warning net.ipv6.fwmark_reflect: 1"),
        ("net/ipv4/conf/eth1/forwarding", 0, "error! net.ipv4.conf.eth1.forwarding: 0"),
        ("net/ipv6/conf/eth1/forwarding", 0, "note net.ipv6.conf.eth1.forwarding: 0"),
        ("net/ipv6/conf/eth.2/disable_ipv6", 1, "error net.ipv6.conf.eth.2.disable_ipv6: 1"),
        (
            "net/ipv4/conf/eth.2/rp_filter",
            1,
            "warning net.ipv4.conf.eth.2.rp_filter: 1 (the larger of it and net.ipv4.conf.all.rp_filter)",
        ),
    ] {
        assert_eq!(with(&[(path, value)]), [expected]);
        let mut host = well();
        host.settings.insert(path.to_owned(), value);
        let finding = &judge(&state(|file| file), &host)[0];
        assert!(finding.advice.contains(&format!("sysctl -w {path}=")), "{finding}");
    }
    assert_eq!(with(&[("net/ipv4/conf/all/rp_filter", 1), ("net/ipv4/conf/eth.2/rp_filter", 2)]), [""; 0]);
    assert_eq!(
        with(&[("net/ipv4/ip_forward", 0), ("net/ipv4/conf/eth1/forwarding", 0)]).len(),
        1,
        "reported once"
    );
    let full = with(&[("net/netfilter/nf_conntrack_count", 900)]);
    assert_eq!(full, with(&[("net/netfilter/nf_conntrack_count", 1000)]), "no number that changes by itself");
    assert!(full[0].starts_with("warning net.netfilter.nf_conntrack_max: 1000, and 9 tenths"), "{full:?}");
    let mut host = well();
    host.settings.insert("net/netfilter/nf_conntrack_count".to_owned(), 900);
    let advice = &judge(&state(|file| file), &host)[0].advice;
    assert!(advice.ends_with("nf_conntrack_buckets with it, at 1 to 4 entries a bucket"), "{advice}");
    assert_eq!(with(&[("net/netfilter/nf_conntrack_count", 899)]), [""; 0]);
}

#[test]
fn what_a_state_does_not_use_is_no_finding() {
    let bad = |host: &mut Snapshot| {
        for (path, value) in &mut host.settings {
            *value = if path.ends_with("reflect") || path.ends_with("disable_ipv6") { 1 } else { 0 };
        }
    };
    let four = state(|file| file.replace(", '1000::/112'", ""));
    assert!(judged(&four, bad).iter().all(|line| !line.contains("ipv6")), "{:?}", judged(&four, bad));
    let six = state(|file| file.replace("'10.0.0.0/32', '10.1.0.0/24', ", ""));
    assert!(judged(&six, bad).iter().all(|line| !line.contains("ipv4")), "{:?}", judged(&six, bad));
    let every = state(|file| file.replace("interfaces", "steering = 'every-packet'\ninterfaces"));
    assert!(judged(&every, bad).iter().all(|line| !line.contains("conntrack")));
}

#[test]
fn interfaces_by_which_nothing_comes_are_found() {
    let state = state(|file| file);
    let one = |link: Option<Link>| {
        judged(&state, |host| {
            host.links.remove("eth1");
            host.links.extend(link.clone().map(|link| ("eth1".to_owned(), link)));
        })
    };
    assert_eq!(one(None), ["warning interface eth1: missing"]);
    assert_eq!(one(Some(link(false, false))), ["warning interface eth1: down"]);
    assert_eq!(one(Some(link(true, false))), ["warning interface eth1: without carrier"]);
    let port = Link { port_of: Some("br0".to_owned()), ..link(true, true) };
    assert_eq!(one(Some(port)), ["warning interface eth1: a port of br0"]);
    let both = |host: &mut Snapshot| host.links.retain(|name, _| name == "lo");
    assert_eq!(judged(&state, both), ["error interface eth1: missing", "error interface eth.2: missing"]);
    let gre_in = self::state(|file| file.replace("interfaces", "gre_in = true\ninterfaces"));
    assert_eq!(judged(&gre_in, both)[0], "warning interface eth1: missing");
}

#[test]
fn ends_of_tunnels_are_where_they_should_be() {
    let state = state(|file| file);
    let gone = judged(&state, |host| host.locals.retain(|local| local.device == "lo"));
    assert_eq!(
        gone,
        [
            "error [balancer] address 192.168.1.201: no address of this host",
            "error [balancer] address fd00:0:0:1::201: no address of this host",
        ]
    );
    let four = self::state(|file| file.replace("{ name = 's2', address = 'fd00:0:0:1::2' }", ""));
    let six_gone = judged(&four, |host| host.locals.retain(|local| local.net.addr().is_ipv4()));
    assert_eq!(six_gone, ["warning [balancer] address fd00:0:0:1::201: no address of this host"]);
    let any_ip = judged(&state, |host| host.locals[0].net = "192.168.1.0/24".parse().unwrap());
    assert_eq!(any_ip, ["error backend address 192.168.1.1: an address of this host"]);
    let here = judged(&state, |host| host.locals.push(Local::own("192.168.1.1".parse().unwrap(), "eth3")));
    assert_eq!(here, ["error backend address 192.168.1.1: an address of this host"]);
}

#[test]
fn backends_without_a_route_are_found_in_one_line() {
    let of =
        |addresses: &[&str]| -> Vec<IpAddr> { addresses.iter().map(|one| one.parse().unwrap()).collect() };
    let state = state(|file| {
        let direct = "'fd00:0:0:1::2' }, { name = 's3', address = '192.168.1.3', encap = 'direct' }";
        file.replace(", '1000::/112'", "").replace("'fd00:0:0:1::2' }", direct)
    });
    let way = |to: &str, from: Option<&str>, is_next_hop| Way {
        to: to.parse().unwrap(),
        from: from.map(|from| from.parse().unwrap()),
        is_next_hop,
    };
    let mut host = well();
    let six = way("fd00:0:0:1::2", Some("fd00:0:0:1::201"), false);
    let (one, next) = (way("192.168.1.1", Some("192.168.1.201"), false), way("192.168.1.3", None, true));
    assert_eq!(ways(&state, &host), [one, next, six]);
    // An own address that the host lacks is a finding of its own, and so is a backend that is this host as well.
    host.locals[0] = Local::own("192.168.1.3".parse().unwrap(), "eth1");
    assert_eq!(ways(&state, &host), [Way { from: None, ..one }, six]);

    let some = of(&["192.168.1.1", "192.168.1.3"]);
    let findings = judged(&state, |host| host.unreachable.clone_from(&some));
    assert_eq!(findings, ["error route to backends: none to 192.168.1.1, 192.168.1.3"]);
    let many: Vec<IpAddr> = (1..=9).map(|n| IpAddr::V4(Ipv4Addr::new(10, 9, 9, n))).collect();
    let findings = judged(&state, |host| host.unreachable.clone_from(&many));
    assert_eq!(
        findings,
        ["error route to backends: none to 10.9.9.1, 10.9.9.2, 10.9.9.3, 10.9.9.4, and 5 more"]
    );
    let advice = |vrf: Option<&str>| {
        let mut host = well();
        host.unreachable.clone_from(&some);
        host.links.get_mut("eth1").unwrap().vrf = vrf.map(str::to_owned);
        judge(&state, &host).remove(0).advice
    };
    assert!(advice(None).contains("ip route get 192.168.1.1 says why"), "{}", advice(None));
    let in_vrf = advice(Some("red"));
    assert!(
        in_vrf.contains("eth1 is in VRF red") && in_vrf.ends_with("ip route add 192.168.1.1 dev eth1"),
        "{in_vrf}"
    );
}

#[test]
fn vips_that_are_addresses_of_the_host_are_found() {
    let state = state(|file| file);
    let local = |net: &str, kind| {
        let own = Local::own(IpAddr::V4(Ipv4Addr::UNSPECIFIED), "dummy0");
        Local { net: net.parse().unwrap(), kind, ..own }
    };
    let has = |net: &str, kind| judged(&state, |host| host.locals.push(local(net, kind)));
    assert_eq!(
        has("10.0.0.0/32", LocalKind::Own),
        ["error! VIP 10.0.0.0/32: an address of this host, on dummy0"]
    );
    assert_eq!(
        has("10.0.0.0/8", LocalKind::Own),
        [
            "error! VIP 10.0.0.0/32: an address of this host, on dummy0",
            "error! VIP 10.1.0.0/24: an address of this host, on dummy0",
        ]
    );
    assert_eq!(
        has("10.0.0.0/32", LocalKind::Broadcast),
        ["error! VIP 10.0.0.0/32: a broadcast address of this host, on dummy0"]
    );
    assert_eq!(
        has("1000::/128", LocalKind::Anycast),
        ["error! VIP 1000::/112: a prefix with addresses of this host in it: 1000:: (dummy0)"]
    );
    assert_eq!(
        judged(&state, |host| {
            host.locals.extend((1..9).map(|n| local(&format!("10.1.0.{n}/32"), LocalKind::Own)));
        }),
        [
            "error! VIP 10.1.0.0/24: a prefix with addresses of this host in it: 10.1.0.1 (dummy0), 10.1.0.2 (dummy0), \
          10.1.0.3 (dummy0), 10.1.0.4 (dummy0), and 4 more"
        ]
    );
    let allowed = self::state(|file| file.replace("interfaces", "allow_own_addresses = true\ninterfaces"));
    let both = |host: &mut Snapshot| {
        host.locals.push(local("10.1.0.7/32", LocalKind::Own));
        host.locals.push(local("10.0.0.0/32", LocalKind::Own));
    };
    assert_eq!(
        judged(&allowed, both),
        [
            "error! VIP 10.0.0.0/32: an address of this host, on dummy0",
            "note VIP 10.1.0.0/24: a prefix with addresses of this host in it: 10.1.0.7 (dummy0)",
        ]
    );
    // What was so before a change is not a finding about the change.
    let mut host = well();
    both(&mut host);
    assert_eq!(new_own_vips(&state, &state, &host), []);
    let none = State::empty(state.balancer.clone());
    assert_eq!(shown(&new_own_vips(&none, &state, &host)).len(), 2);
    assert_eq!(shown(&new_own_vips(&none, &allowed, &host)).len(), 1);
    // A region without a file claims every address.
    let made = State::unconfigured(crate::model::TableSize::DEFAULT, 2, 1).unwrap();
    assert_eq!(own_vips(&made, &host), []);
}

#[test]
fn what_makes_a_vip_the_hosts_is_removed_by_the_advised_command() {
    let state = state(|file| file.replace("1000::/112", "1000::/128"));
    let advice = |net: &str, kind, by_address, table| {
        let own = Local::own(IpAddr::V4(Ipv4Addr::UNSPECIFIED), "dummy0");
        let local = Local { net: net.parse().unwrap(), kind, by_address, table, ..own };
        let host = Snapshot { locals: vec![local], ..Snapshot::default() };
        own_vips(&state, &host).remove(0).advice
    };
    for (net, kind, by_address, table, command) in [
        (
            "10.0.0.0/32",
            LocalKind::Own,
            true,
            TABLE_LOCAL,
            "(ip address del 10.0.0.0/32 dev dummy0, but with the prefix",
        ),
        ("10.0.0.0/24", LocalKind::Own, false, TABLE_LOCAL, "(ip route del local 10.0.0.0/24 dev dummy0)"),
        ("10.0.0.0/24", LocalKind::Own, false, 77, "(ip route del local 10.0.0.0/24 dev dummy0 table 77)"),
        (
            "10.0.0.0/32",
            LocalKind::Broadcast,
            true,
            TABLE_LOCAL,
            "(ip route del broadcast 10.0.0.0/32 dev dummy0; it comes",
        ),
        (
            "1000::/128",
            LocalKind::Anycast,
            true,
            TABLE_LOCAL,
            "(ip route del anycast 1000::/128 dev dummy0; it comes",
        ),
    ] {
        let advice = advice(net, kind, by_address, table);
        assert!(advice.contains(command), "{advice}");
    }
}

#[test]
fn filters_of_other_programs_are_found() {
    let drop = |family, hook| ForeignChain { family, table: "filter".into(), chain: "FORWARD".into(), hook };
    let state = state(|file| file.replace(", '1000::/112'", ""));
    let lines = judged(&state, |host| {
        host.drops = vec![
            drop("ip", "forward"),
            drop("ip6", "forward"),
            drop("inet", "prerouting"),
            drop("ip", "input"),
        ];
        host.legacy = vec!["iptables"];
    });
    assert_eq!(
        lines,
        [
            "warning chain FORWARD of table ip filter, hook forward: policy drop",
            "warning chain FORWARD of table inet filter, hook prerouting: policy drop",
            "note iptables-legacy: in use (table filter)",
        ]
    );
    let gre_in = self::state(|file| file.replace("interfaces", "gre_in = true\ninterfaces"));
    let lines = judged(&gre_in, |host| host.drops = vec![drop("ip", "input")]);
    assert_eq!(lines, ["note chain FORWARD of table ip filter, hook input: policy drop"]);
}

/// What rules are read as, `sys/nft/foreign.rs` has tests of.
#[test]
fn translation_of_packets_to_vips_is_found() {
    let chain = |family, conditions: &[Condition]| NatChain {
        at: ForeignChain { family, table: "n".into(), chain: "post".into(), hook: "postrouting" },
        rules: vec![NatRule {
            conditions: conditions.to_vec(),
            effect: Effect::Translates("masquerade".into()),
        }],
    };
    let found = |state: &State, chain: &NatChain| {
        let host = Snapshot { nats: vec![chain.clone()], ..well() };
        judge(state, &host)
    };
    let state = state(|file| file);
    let all = &found(&state, &chain("ip", &[]))[..];
    assert_eq!(
        shown(all),
        ["warning chain post of table ip n, hook postrouting: a masquerade of packets to VIPs (10.0.0.0/32)"]
    );
    assert!(all[0].advice.contains("nft insert rule ip n post ip daddr 10.0.0.0/32 accept"), "{}", all[0]);
    let six = &found(&state, &chain("ip6", &[]))[0];
    assert!(six.advice.contains("(ip6tables -t nat -I POSTROUTING -d 1000::/112 -j ACCEPT)"), "{six}");
    // Untracked packets are not translated.
    let every = self::state(|file| file.replace("interfaces", "steering = 'every-packet'\ninterfaces"));
    assert_eq!(found(&every, &chain("ip", &[])), []);
    // Out by a device: tunnels are others; where a route to a next hop leads is not known.
    let out = |name: &str, is| {
        let device = Device { name: name.to_owned(), begins: false };
        [Condition { is, what: What::LeavesBy(device) }]
    };
    let direct = self::state(|file| {
        file.replace(", '1000::/112'", "").replace("'192.168.1.1' }", "'192.168.1.1', encap = 'direct' }")
    });
    for (state, out, hits) in [
        (&state, out("eth1", true), false),
        (&state, out("eth1", false), true),
        (&state, out("sr-1", true), false),
        (&direct, out("eth1", true), false),
        (&direct, out("eth1", false), true),
    ] {
        assert_eq!(found(state, &chain("ip", &out)).len(), usize::from(hits), "{out:?}");
    }
}

#[test]
fn only_differences_are_reported_again_and_a_limited_number() {
    let finding = |name: &str, value: &str, severity| Finding::new(severity, name, value, "x", String::new());
    let (a, b) = (finding("a", "0", Severity::Warning), finding("b", "0", Severity::Error));
    let mut reported = Reported::default();
    assert_eq!(reported.look(Vec::new()).new, []);
    let news = reported.look(vec![a.clone(), b.clone()]);
    assert_eq!((news.new, news.over), (vec![b.clone(), a.clone()], vec![]), "worst first");
    assert_eq!(reported.look(vec![b.clone(), a]), Reported::default().look(Vec::new()));
    let worse = finding("a", "1", Severity::Error);
    let news = reported.look(vec![worse.clone()]);
    assert_eq!((news.new, news.over, news.left_out), (vec![worse.clone()], vec![b], 0));
    assert_eq!(reported.findings(), [worse]);
    assert_eq!(Tally::of(reported.findings()), Tally { errors: 1, warnings: 0 });
    let many = (0..50).map(|n| finding(&n.to_string(), "0", Severity::Note)).collect();
    let news = reported.look(many);
    assert_eq!((news.new.len() + news.over.len(), news.left_out), (Reported::LINES_MAX, 31));
    assert_eq!(reported.look(vec![]).over.len(), Reported::LINES_MAX);
}
