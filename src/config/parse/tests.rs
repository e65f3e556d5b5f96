use super::*;
use crate::model::PortRange;
use crate::{
    config::{Balancer, FragmentLimits, HttpSettings, Timeouts, TracerSettings},
    model::{
        Announcing, Decider, Encap, HashMode, NoBackend, Path, Pmtu, Protocol, Protocols, QueueRange,
        Steering, TableSize, ids::MarkMask,
    },
};

const WHOLE: &str = r#"
[balancer]
name = "lb201"
address = ["192.168.1.201", "fd00:0:0:1::201"]
interfaces = ["eth1"]
queues = "0-1"
fragment_queue = 10
hash_seed = 3405691582
mark_mask = 0x0000ffff

[[service]]
name = "web"
vips = ["10.0.0.0/32", "1000::/128"]
protocols = ["udp", "tcp"]
ports = ["8000-8010", "80"]
hash = "5-tuple"
table_size = 65537
[[service.backend]]
name = "s2"
address = "192.168.1.2"
[[service.backend]]
name = "s1"
address = "192.168.1.1"
weight = 1
encap = "gre"
active = true
"#;

fn one(text: &str) -> String {
    let errors = Config::parse("lb.toml", text).unwrap_err().0;
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].to_string()
}

/// The complaint about `WHOLE` with one line replaced.
fn complaint(old: &str, new: &str) -> String {
    assert!(WHOLE.contains(old));
    one(&WHOLE.replacen(old, new, 1))
}

/// `WHOLE` with this `no_backend` of its service, and another service "spare" with further keys.
fn with_spare(no_backend: &str, spare: &str) -> String {
    let web = WHOLE.replacen("hash = \"5-tuple\"", &format!("no_backend = \"{no_backend}\""), 1);
    assert_ne!(web, WHOLE);
    format!("{web}[[service]]\nname = \"spare\"\nvips = \"10.0.0.9\"\n{spare}\n")
}

#[test]
fn what_happens_without_a_backend_is_read() {
    for (text, expected) in [
        ("drop", NoBackend::Drop),
        ("reject", NoBackend::Reject),
        ("service:spare", NoBackend::Service(crate::model::Name::known("spare"))),
    ] {
        let config = Config::parse("lb.toml", &with_spare(text, "no_backend = \"reject\"")).unwrap();
        assert_eq!((&config.services[0].no_backend, text), (&expected, &*expected.to_string()));
    }
    for wrong in ["reset", "service", "service:", "service:-x", "Drop"] {
        let message = one(&with_spare(wrong, ""));
        assert!(
            message.contains("no_backend: found")
                && message.contains("allowed: \"drop\", \"reject\" or \"service:NAME\""),
            "{message}"
        );
    }
}

#[test]
fn a_service_that_cannot_take_the_flows_of_another_is_refused() {
    let backend = |keys: &str| format!("backend = [{{ name = \"x\", {keys} }}]");
    let four =
        "backend = [{ name = \"x\", address = \"192.168.1.7\" }, { name = \"y\", address = \"192.168.1.8\" },
        { name = \"z\", address = \"192.168.1.9\" }, { name = \"w\", address = \"192.168.1.10\" }]";
    let small = with_spare("service:spare", four).replacen("table_size = 65537", "table_size = 3", 1);
    for (text, says) in [
        (with_spare("service:sparse", ""), "the name of a service of this file"),
        (with_spare("service:web", ""), "another service than itself"),
        (with_spare("service:spare", "no_backend = \"service:web\""), "that of \"spare\" is \"service:web\""),
        (small, "at most table_size backends, 3; \"spare\" has 4"),
        (with_spare("service:spare", &backend("address = \"10.0.0.0\"")), "own VIPs (10.0.0.0/32)"),
        (
            with_spare("service:spare", &backend("address = \"192.168.1.7\", encap = \"direct\"")),
            "VIP 1000::/128 has no IPv4 one",
        ),
    ] {
        let errors = Config::parse("lb.toml", &text).unwrap_err().0;
        let message = errors[0].to_string();
        assert!(message.contains("no_backend: found") && message.contains(says), "{message}");
        // A circle is an error of both.
        assert_eq!(errors.len(), 1 + usize::from(says.contains("is \"service:web\"")), "{errors:?}");
    }
    Config::parse("lb.toml", &with_spare("service:spare", &backend("address = \"192.168.1.7\""))).unwrap();
}

#[test]
fn reads_a_whole_file() {
    let config = Config::parse("lb.toml", WHOLE).unwrap();
    assert_eq!(config.balancer.address.v4, Some([192, 168, 1, 201].into()));
    assert_eq!(config.balancer.queues, QueueRange::new(0, 1).unwrap());
    assert_eq!(config.balancer.timeouts, Timeouts::default());
    let [web] = &config.services[..] else { panic!("{config:?}") };
    assert_eq!(web.protocols, Protocols::Named(vec![Protocol::Tcp, Protocol::Udp]));
    assert_eq!(web.ports, [PortRange { first: 80, last: 80 }, PortRange { first: 8000, last: 8010 }]);
    let names: Vec<_> = web.backends.iter().map(|b| (b.name.as_str(), b.active)).collect();
    assert_eq!(names, [("s1", Some(true)), ("s2", None)], "sorted");
    assert_eq!(web.backends[0].path, Path::Via(Encap::Gre, [192, 168, 1, 1].into()));
}

/// A complaint is one line, and nothing in it moves the cursor or changes colours.
#[test]
fn what_cannot_be_seen_in_a_value_is_escaped_in_the_complaint() {
    let escaped = r#"\u{1b}[31m\nb\u{202e}""#;
    for (old, new) in [
        ("name = \"lb201\"", r#"name = "lb\u001b[31m\nb\u202e""#),
        ("name = \"web\"", r#"name = "web\u001b[31m\nb\u202e""#),
        ("name = \"s2\"", r#"name = "s\u001b[31m\nb\u202e""#),
        ("\"eth1\"", r#""eth\u001b[31m\nb\u202e""#),
        ("\"80\"", r#""80\u001b[31m\nb\u202e""#),
        ("encap = \"gre\"", r#"encap = "gre\u001b[31m\nb\u202e""#),
    ] {
        let message = complaint(old, new);
        assert!(message.contains(escaped) && !message.contains(char::is_control), "{message}");
    }
    let key = complaint("weight = 1", r#""we\u001b[31m\nb\u202e" = 1"#);
    assert!(key.contains(escaped.trim_end_matches('"')) && !key.contains(char::is_control), "{key}");
    // In what is no TOML as well; letters, quotes and backslashes stay.
    let fault = complaint("weight = 1", "weight = \u{1b}[31m");
    assert!(fault.contains("TOML") && !fault.contains(char::is_control), "{fault}");
    assert!(complaint("encap = \"gre\"", r#"encap = 'ü"\'"#).contains(r#"found "ü"\""#));
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let text = "[balancer]\nname='a'\ninterfaces='eth1'\n[[service]]\nname='w'\nvips='10.0.0.1'\n";
    let config = Config::parse("f", text).unwrap();
    assert_eq!(config.balancer.hash_seed, 3_405_691_582);
    assert_eq!(config.balancer.mark_mask, MarkMask::DEFAULT);
    assert_eq!(config.balancer.queues, QueueRange::new(20200, 20200).unwrap());
    assert_eq!(config.balancer.fragment_queue.0, 20199);
    assert_eq!(config.services[0].protocols, Protocols::Any);
    assert_eq!(config.services[0].hash, HashMode::Addresses);
    assert_eq!(config.services[0].table_size, TableSize::DEFAULT);
    assert_eq!(config.services[0].ports, [PortRange::ALL]);
}

/// The complaint about `WHOLE` with this at its end, from the number of the line on, counted in this.
fn complaint_about(more: &str) -> String {
    let before = WHOLE.lines().count();
    let message = one(&format!("{WHOLE}{more}"));
    let (line, rest) = message.strip_prefix("lb.toml:").unwrap().split_once(':').unwrap();
    format!("{}:{rest}", line.parse::<usize>().unwrap() - before)
}

const TIER: &str = r#"
[[tier.balancer]]
name = "lb202"
address = "192.168.1.202"
[[tier.balancer]]
name = "lb201"
address = ["192.168.1.201", "fd00:0:0:1::201"]
[[tier.balancer]]
name = "lb203"
address = ["fd00:0:0:1::203", "192.168.1.203"]
active = false
"#;

/// The complaint about `TIER` with one line replaced.
fn tier_complaint(old: &str, new: &str) -> String {
    assert!(TIER.contains(old), "{old}");
    complaint_about(&TIER.replacen(old, new, 1))
}

#[test]
fn a_tier_is_read() {
    let config = Config::parse("f", &format!("{WHOLE}{TIER}")).unwrap();
    let members: Vec<_> = config.tier.iter().map(|m| (m.name.as_str(), m.active)).collect();
    assert_eq!(members, [("lb201", None), ("lb202", None), ("lb203", Some(false))], "sorted");
    let [own, four, both] = &config.tier[..] else { panic!("{config:?}") };
    let gre = |address: &str| Some(Path::Via(Encap::Gre, address.parse().unwrap()));
    assert_eq!(own.path_to(four), gre("192.168.1.202"));
    assert_eq!(own.path_to(both), gre("192.168.1.203"), "IPv4 where both have it");
    // Less of this balancer's addresses is as good: then all agree on the other family.
    let six = TIER.replace("\"192.168.1.201\", ", "").replace("\"192.168.1.202\"", "\"fd00:0:0:1::202\"");
    let config = Config::parse("f", &format!("{WHOLE}{six}")).unwrap();
    assert_eq!(config.tier[0].path_to(&config.tier[2]), gre("fd00:0:0:1::203"));
    // A tier may have one balancer.
    let alone = "[[tier.balancer]]\nname='lb201'\naddress='192.168.1.201'\n";
    assert_eq!(Config::parse("f", &format!("{WHOLE}{alone}")).unwrap().tier.len(), 1);
}

#[test]
fn a_tier_that_cannot_work_is_refused() {
    let members = "a [[tier.balancer]] for each balancer of the tier, this one among them";
    assert_eq!(complaint_about("[tier]"), format!("1: tier: balancer: found nothing; allowed: {members}"));
    assert_eq!(
        complaint_about("[tier]\nbalancer = []"),
        format!("2: tier: balancer: found an empty array; allowed: {members}")
    );
    let many: String =
        (0..65).map(|n| format!("[[tier.balancer]]\nname='b{n}'\naddress='1.0.0.{n}'\n")).collect();
    assert!(complaint_about(&many).ends_with("allowed: at most 64 balancers"));
    let own = "\nname = \"lb201\"\naddress = [\"192.168.1.201\", \"fd00:0:0:1::201\"]";
    for (old, new, expected) in [
        (
            own,
            "\nname = \"lb204\"\naddress = \"192.168.1.204\"",
            &*format!(
                "2: tier: balancer: found no \"lb201\", which is this balancer's [balancer] name; allowed: {members}"
            ),
        ),
        (
            own,
            "\nname = \"lb204\"\naddress = \"192.168.1.201\"",
            "7: tier: balancer \"lb204\": address: found \"192.168.1.201\"; allowed: another host's address; this one is \
             that of this balancer, whose [balancer] name is \"lb201\"",
        ),
        (
            "\"192.168.1.201\"",
            "\"192.168.1.211\"",
            "7: tier: balancer \"lb201\": address: found \"192.168.1.211\"; allowed: 192.168.1.201, as [balancer] address \
             says of this balancer; make both the same",
        ),
        (
            "[\"192.168.1.201\", \"fd00:0:0:1::201\"]",
            "\"fd00:0:0:1::201\"",
            "4: tier: balancer \"lb202\": address: found only IPv4; allowed: an address of a family that balancer \
             \"lb201\" has too, as each sends fragments to every other",
        ),
        // This balancer reaches both of them.
        (
            "[\"fd00:0:0:1::203\", \"192.168.1.203\"]",
            "\"fd00:0:0:1::203\"",
            "10: tier: balancer \"lb203\": address: found only IPv6; allowed: an address of a family that balancer \
             \"lb202\" has too, as each sends fragments to every other",
        ),
        // What was refused may have been of the family that is missed.
        (
            "[\"fd00:0:0:1::203\", \"192.168.1.203\"]",
            "[\"fd00:0:0:1::203\", \"192.168.1\"]",
            &format!("10: tier: balancer \"lb203\": address: found \"192.168.1\"; allowed: {ADDRESS}",),
        ),
        (
            "\"192.168.1.202\"",
            "\"192.168.1.203\"",
            "10: tier: balancer \"lb203\": address: found \"192.168.1.203\"; allowed: each address once; balancer \"lb202\" \
             has this one",
        ),
        (
            "\"192.168.1.202\"",
            "\"10.0.0.0\"",
            "4: tier: balancer \"lb202\": address: found \"10.0.0.0\"; allowed: an address outside of all VIPs (10.0.0.0/32)",
        ),
        (
            "active = false",
            "weight = 2",
            "11: tier: balancer \"lb203\": weight: found an unknown key; allowed: name, address, active",
        ),
    ] {
        assert_eq!(tier_complaint(old, new), expected);
    }
    for (old, new, expected) in [
        ("\"lb202\"", "\"lb203\"", "each name once in the tier"),
        ("\"192.168.1.202\"", "[]", ADDRESS),
        ("address = \"192.168.1.202\"", "", ADDRESS),
        ("\"192.168.1.202\"", "\"224.0.0.1\"", ADDRESS),
        ("\"192.168.1.202\"", "[\"192.168.1.202\", \"192.168.1.212\"]", ADDRESS),
        ("active = false", "active = 0", "true or false"),
        ("name = \"lb201\"", "", NAME),
    ] {
        let message = tier_complaint(old, new);
        assert!(message.ends_with(&format!("allowed: {expected}")), "{new}: {message}");
    }
    // This balancer has no IPv6 address, but is said to have one.
    let only_four = WHOLE.replace(", \"fd00:0:0:1::201\"", "");
    assert_eq!(
        one(&format!("{only_four}{}", TIER.replace("\"fd00:0:0:1::203\", ", ""))),
        "lb.toml:33: tier: balancer \"lb201\": address: found \"fd00:0:0:1::201\"; allowed: no address of a family that \
         [balancer] address lacks, as this is this balancer: add it there, or take it out here"
    );
}

#[test]
fn a_tier_is_refused_on_all_its_balancers_or_on_none() {
    const FAMILIES: [&[&str]; 3] = [&["192.168.1."], &["fd00::"], &["192.168.1.", "fd00::"]];
    for choice in (0..27).map(|n| [n % 3, n / 3 % 3, n / 9]) {
        let address =
            |n: usize| FAMILIES[choice[n]].iter().map(|net| format!("{net}{n}")).collect::<Vec<_>>();
        let tier: String = (0..3)
            .map(|n| format!("[[tier.balancer]]\nname = 'lb{n}'\naddress = {:?}\n", address(n)))
            .collect();
        let complaints = [0, 1, 2].map(|own| {
            let balancer = format!("[balancer]\nname = 'lb{own}'\naddress = {:?}\n", address(own));
            let text = format!("{balancer}interfaces = 'eth1'\n{tier}");
            Config::parse("f", &text).map_or_else(|errors| errors.to_string(), |_| String::new())
        });
        let apart = choice.contains(&0) && choice.contains(&1);
        assert_eq!(complaints[0].contains(" found only IPv"), apart, "{choice:?}: {}", complaints[0]);
        assert_eq!(complaints[0].is_empty(), !apart, "{choice:?}: {}", complaints[0]);
        assert!(complaints.iter().all(|other| *other == complaints[0]), "{choice:?}: {complaints:?}");
    }
}

#[test]
fn limits_of_fragments_have_limits() {
    let limits =
        |text: &str| Config::parse("f", &format!("{WHOLE}[fragments]\n{text}")).unwrap().balancer.fragments;
    assert_eq!(limits(""), FragmentLimits::default());
    let all = "ttl_ms = 10\nentries = 64\nentries_per_source = 64\nheld_packets = 16\nheld_bytes = 65536\n\
               held_bytes_per_source = 9216\n";
    let expected = FragmentLimits {
        ttl_ms: 10,
        entries: 64,
        entries_per_source: 64,
        held_packets: 16,
        held_bytes: 65_536,
        held_bytes_per_source: 9_216,
    };
    assert_eq!(limits(all), expected);
    assert!(expected.is_valid() && FragmentLimits::default().is_valid());
    // A share without a key is at most the whole, and does not grow with it.
    let small = limits("entries = 100\nheld_bytes = 100000");
    assert_eq!((small.entries_per_source, small.held_bytes_per_source), (100, 100_000));
    let large = limits("entries = 1048576\nheld_bytes = 268435456");
    assert_eq!((large.entries_per_source, large.held_bytes_per_source), (2_048, 1 << 20));
    for (text, expected) in [
        ("ttl_ms = 9", "2: fragments: ttl_ms: found 9; allowed: a number from 10 to 60000"),
        ("ttl_ms = 60001", "2: fragments: ttl_ms: found 60001; allowed: a number from 10 to 60000"),
        ("entries = 63", "2: fragments: entries: found 63; allowed: a number from 64 to 1048576"),
        (
            "held_packets = 65537",
            "2: fragments: held_packets: found 65537; allowed: a number from 16 to 65536",
        ),
        (
            "held_bytes = 268435457",
            "2: fragments: held_bytes: found 268435457; allowed: a number from 65536 to 268435456",
        ),
        (
            "entries = 100\nentries_per_source = 101",
            "3: fragments: entries_per_source: found 101; allowed: a number from 1 to 100, which is entries",
        ),
        (
            "held_bytes_per_source = 16777217",
            "2: fragments: held_bytes_per_source: found 16777217; allowed: a number from 9216 to 16777216, which is \
             held_bytes",
        ),
        (
            "ttl = 200",
            "2: fragments: ttl: found an unknown key; allowed: ttl_ms, entries, entries_per_source, held_packets, \
             held_bytes, held_bytes_per_source",
        ),
    ] {
        assert_eq!(complaint_about(&format!("[fragments]\n{text}\n")), expected);
    }
    // The limit of a share is not derived from a value that is itself refused.
    for (text, key, expected) in [
        (
            "entries = 63\nentries_per_source = 0",
            "entries_per_source",
            "found 0; allowed: a number from 1 to entries, at most 1048576",
        ),
        (
            "held_bytes = 'all'\nheld_bytes_per_source = 9215",
            "held_bytes_per_source",
            "found 9215; allowed: a number from 9216 to held_bytes, at most 268435456",
        ),
    ] {
        let errors = Config::parse("f", &format!("{WHOLE}[fragments]\n{text}\n")).unwrap_err().0;
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors[1].to_string().ends_with(&format!("fragments: {key}: {expected}")), "{}", errors[1]);
    }
}

#[test]
fn what_is_set_up_in_routing_besides_is_read() {
    let balancer = |lines: &str| {
        let text = WHOLE.replacen("queues = \"0-1\"", &format!("queues = \"0-1\"\n{lines}"), 1);
        Config::parse("f", &text).unwrap().balancer
    };
    assert_eq!((balancer("").rule_priority, balancer("").blackhole), (None, vec![]));
    let other = balancer("rule_priority = 300\nblackhole = [\"10.0.0.0/24\", \"1000::/112\", \"10.9.9.9\"]");
    assert_eq!(other.rule_priority, Some(300));
    let prefixes: Vec<String> = other.blackhole.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["10.0.0.0/24", "1000::/112", "10.9.9.9/32"]);
    for (line, expected) in [
        ("rule_priority = 0", "rule_priority: found 0; allowed: a number from 1 to 9000"),
        ("rule_priority = 9001", "rule_priority: found 9001; allowed: a number from 1 to 9000"),
        (
            "blackhole = \"10.0.0.1/24\"",
            "blackhole: found \"10.0.0.1/24\"; allowed: a prefix without host bits, such as 10.0.0.0/24",
        ),
        (
            "blackhole = [\"10.0.0.0/24\", \"10.0.0.0/24\"]",
            "blackhole: found \"10.0.0.0/24\"; allowed: each once",
        ),
    ] {
        assert_eq!(complaint("queues = \"0-1\"", line), format!("lb.toml:6: balancer: {expected}"));
    }
}

#[test]
fn steering_gre_in_kernel_entries_pmtu_floor_busy_poll_and_offload_are_read() {
    let balancer = |lines: &str| {
        let text = WHOLE.replacen("queues = \"0-1\"", &format!("queues = \"0-1\"\n{lines}"), 1);
        Config::parse("f", &text).unwrap().balancer
    };
    let default = balancer("");
    let read = |balancer: &Balancer| (balancer.steering, balancer.gre_in, balancer.kernel_entries);
    assert_eq!(read(&default), (Steering::SynOnly, false, 1_048_576));
    let other = balancer("steering = \"every-packet\"\ngre_in = true\nkernel_entries = 0");
    assert_eq!(read(&other), (Steering::EveryPacket, true, 0));
    assert_eq!(
        complaint("queues = \"0-1\"", "kernel_entries = 16777217"),
        "lb.toml:6: balancer: kernel_entries: found 16777217; allowed: a number from 0 to 16777216"
    );
    assert_eq!((default.offload, balancer("offload = false").offload), (true, false));
    assert_eq!((default.busy_poll_us, balancer("busy_poll_us = 200").busy_poll_us), (0, 200));
    assert_eq!(balancer("notify = [\"/bin/tell\", \"a b\"]").notify, ["/bin/tell", "a b"]);
    assert!(
        complaint("queues = \"0-1\"", "notify = [\"tell\"]").contains("balancer: notify: found \"tell\"")
    );
    assert_eq!(
        complaint("queues = \"0-1\"", "busy_poll_us = 10001"),
        "lb.toml:6: balancer: busy_poll_us: found 10001; allowed: a number from 0 to 10000"
    );
    assert_eq!((default.pmtu_floor, balancer("pmtu_floor = 552").pmtu_floor), (1280, 552));
    assert_eq!(
        complaint("queues = \"0-1\"", "pmtu_floor = 551"),
        "lb.toml:6: balancer: pmtu_floor: found 551; allowed: a number from 552 to 65535"
    );
    assert_eq!(
        complaint("queues = \"0-1\"", "steering = \"all\""),
        "lb.toml:6: balancer: steering: found \"all\"; allowed: \"syn-only\" or \"every-packet\""
    );
    assert_eq!(
        complaint("queues = \"0-1\"", "gre_in = 1"),
        "lb.toml:6: balancer: gre_in: found 1; allowed: true or false"
    );
    assert_eq!(
        one("[balancer]\nname='a'\ninterfaces='eth1'\ngre_in=true\n"),
        "lb.toml:4: balancer: gre_in: found true; allowed: false, or an address in [balancer] address: it is the \
         tunnel's end"
    );
}

#[test]
fn a_tracer_has_receivers() {
    let tracer =
        |text: &str| Config::parse("f", &format!("{WHOLE}[tracer]\n{text}")).unwrap().balancer.tracer;
    assert_eq!(tracer(""), TracerSettings::default());
    let given = tracer("receivers = [\"192.168.2.0/24\", \"fd00::1\"]\nper_second = 7");
    let receivers: Vec<String> = given.receivers.iter().map(ToString::to_string).collect();
    assert_eq!((&receivers[..], given.per_second), (&["192.168.2.0/24".into(), "fd00::1/128".into()][..], 7));
    for (text, expected) in [
        (
            "receivers = \"192.168.2.1/24\"",
            "2: tracer: receivers: found \"192.168.2.1/24\"; allowed: a prefix without host bits, such as 192.168.2.0/24",
        ),
        ("per_second = 0", "2: tracer: per_second: found 0; allowed: a number from 1 to 10000"),
        ("rate = 1", "2: tracer: rate: found an unknown key; allowed: receivers, per_second"),
    ] {
        assert_eq!(complaint_about(&format!("[tracer]\n{text}\n")), expected);
    }
    let many =
        (0..=TracerSettings::RECEIVERS_MAX).map(|n| format!("'10.1.0.{n}'")).collect::<Vec<_>>().join(",");
    assert!(complaint_about(&format!("[tracer]\nreceivers = [{many}]\n")).ends_with("at most 64 prefixes"));
}

#[test]
fn http_is_served_where_the_file_says() {
    let http = |text: &str| Config::parse("f", &format!("{WHOLE}{text}")).unwrap().balancer.http;
    assert!(!http("").serves());
    assert_eq!(http("[http]"), HttpSettings { unix: true, ..HttpSettings::default() });
    let given = http(
        "[http]\nunix = false\nlisten = [\"127.0.0.1:9469\", \"[::1]:80\"]\nnames = \"lb1.example.net\"",
    );
    let listen: Vec<String> = given.listen.iter().map(ToString::to_string).collect();
    assert_eq!((given.unix, listen), (false, vec!["127.0.0.1:9469".to_owned(), "[::1]:80".to_owned()]));
    assert_eq!(given.names, ["lb1.example.net"]);
    for (text, expected) in [
        (
            "listen = \"127.0.0.1\"",
            "2: http: listen: found \"127.0.0.1\"; allowed: an address and a port, such as \"127.0.0.1:9469\" or \"[::1]:9469\"",
        ),
        (
            "listen = [\"127.0.0.1:1\", \"127.0.0.1:1\"]",
            "2: http: listen: found \"127.0.0.1:1\"; allowed: each address with its port once",
        ),
        (
            "names = \"LB1:80\"",
            "2: http: names: found \"LB1:80\"; allowed: a host name in lower case, such as \"lb1.example.net\", without a port",
        ),
        ("unix = 1", "2: http: unix: found 1; allowed: true or false"),
        ("port = 1", "2: http: port: found an unknown key; allowed: unix, listen, names"),
    ] {
        assert_eq!(complaint_about(&format!("[http]\n{text}\n")), expected);
    }
    let many = (1..=17).map(|n| format!("'127.0.0.1:{n}'")).collect::<Vec<_>>().join(",");
    assert!(complaint_about(&format!("[http]\nlisten = [{many}]\n")).ends_with("at most 16 addresses"));
}

#[test]
fn a_service_names_what_decides() {
    let with = |steering: &str| WHOLE.replace("hash = \"5-tuple\"", &format!("steering = \"{steering}\""));
    let decider = |text: &str| Config::parse("f", text).unwrap().services[0].decider;
    assert_eq!(
        [WHOLE, &with("syn-only"), &with("kernel")].map(decider),
        [Decider::Lbd, Decider::Lbd, Decider::Kernel]
    );
    assert_eq!(
        one(&with("every-packet")),
        "lb.toml:16: service \"web\": steering: found \"every-packet\"; allowed: \"syn-only\", as the balancer's, or \"kernel\""
    );
    let of_all =
        |text: String| text.replace("queues = \"0-1\"", "queues = \"0-1\"\nsteering = \"every-packet\"");
    assert_eq!(
        [of_all(with("every-packet")), of_all(with("kernel"))].map(|text| decider(&text)),
        [Decider::Lbd, Decider::Kernel]
    );
    assert!(
        one(&of_all(with("syn-only")))
            .ends_with("allowed: \"every-packet\", as the balancer's, or \"kernel\"")
    );
}

#[test]
fn outer_fragments_need_gre_over_ipv4() {
    let outer = WHOLE.replace("hash = \"5-tuple\"", "pmtu = \"fragment-outer\"");
    assert_eq!(Config::parse("f", &outer).unwrap().services[0].pmtu, Pmtu::FragmentOuter);
    assert_eq!(Config::parse("f", WHOLE).unwrap().services[0].pmtu, Pmtu::Icmp);
    assert_eq!(
        complaint("hash = \"5-tuple\"", "pmtu = \"clamp\""),
        "lb.toml:16: service \"web\": pmtu: found \"clamp\"; allowed: \"icmp\" or \"fragment-outer\""
    );
    let (other, none) = ("of tunnels, only that can do it", "without a tunnel there is no outer packet");
    let six = "address = \"fd00::1\"\nencap";
    for (old, new, found, why) in [
        (
            "encap = \"gre\"",
            "encap = \"ipip\"",
            "25: service \"web\": backend \"s1\": encap: found \"ipip\"",
            other,
        ),
        (
            "encap = \"gre\"",
            "encap = \"gue\"",
            "25: service \"web\": backend \"s1\": encap: found \"gue\"",
            other,
        ),
        (
            "address = \"192.168.1.1\"\nweight = 1\nencap = \"gre\"",
            &format!("{six} = \"gre\""),
            "23: service \"web\": backend \"s1\": address: found \"fd00::1\"",
            other,
        ),
        (
            "address = \"192.168.1.1\"\nweight = 1\nencap = \"gre\"",
            &format!("{six} = \"ip6gre\""),
            "24: service \"web\": backend \"s1\": encap: found \"ip6gre\"",
            other,
        ),
        (
            "address = \"192.168.1.1\"\nweight = 1\nencap = \"gre\"",
            &format!("{six} = \"direct\""),
            "24: service \"web\": backend \"s1\": encap: found \"direct\"",
            none,
        ),
        (
            "address = \"192.168.1.1\"\nweight = 1\nencap = \"gre\"",
            "encap = \"mark\"",
            "23: service \"web\": backend \"s1\": encap: found \"mark\"",
            none,
        ),
    ] {
        assert!(outer.contains(old), "{old}");
        assert_eq!(
            one(&outer.replacen(old, new, 1)),
            format!(
                "lb.toml:{found}; allowed: encap \"gre\" to an IPv4 address, as pmtu is \"fragment-outer\": {why}"
            )
        );
    }
}

#[test]
fn a_complaint_names_file_line_key_found_and_allowed() {
    assert_eq!(
        complaint("table_size = 65537", "table_size = 65536"),
        "lb.toml:17: service \"web\": table_size: found 65536; allowed: a prime; the nearest are 65521 and 65537"
    );
    assert_eq!(
        complaint("weight = 1", "weight = 101"),
        "lb.toml:24: service \"web\": backend \"s1\": weight: found 101; allowed: a number from 1 to 100"
    );
    assert_eq!(
        complaint("weight = 1", "wait = 1"),
        "lb.toml:24: service \"web\": backend \"s1\": wait: found an unknown key; allowed: name, address, weight, encap, active"
    );
    assert_eq!(
        complaint("name = \"lb201\"", ""),
        format!("lb.toml:2: balancer: name: found nothing; allowed: {NAME}")
    );
    assert!(complaint("queues = \"0-1\"", "queues = 0-1").starts_with("lb.toml:6: TOML: found "));
}

#[test]
fn every_key_has_limits() {
    for (old, new, expected) in [
        (
            "address = [\"192.168.1.201\", ",
            "address = [\"192.168.1.201\", \"192.168.1.202\", ",
            "at most one IPv4",
        ),
        ("interfaces = [\"eth1\"]", "interfaces = []", "names of network devices"),
        ("interfaces = [\"eth1\"]", "interfaces = [\"eth1\", \"eth1\"]", "each once"),
        ("interfaces = [\"eth1\"]", "interfaces = [\"a-name-too-long-1\"]", "1 to 15 bytes"),
        ("queues = \"0-1\"", "queues = \"1-0\"", "a range of at most 64"),
        ("queues = \"0-1\"", "queues = \"0-64\"", "a range of at most 64"),
        ("fragment_queue = 10", "fragment_queue = 1", "outside of queues, 0-1"),
        ("hash_seed = 3405691582", "hash_seed = 4294967296", "from 0 to 4294967295"),
        ("mark_mask = 0x0000ffff", "mark_mask = 0x0f0f", "the set bits are neighbours"),
        ("\"10.0.0.0/32\"", "\"10.0.0.1/24\"", "\"10.0.0.0/24\" or \"10.0.0.1/32\""),
        ("[\"udp\", \"tcp\"]", "[\"udp\", \"icmp\"]", "\"tcp\", \"udp\", \"sctp\""),
        (
            "protocols = [\"udp\", \"tcp\"]\nports = [\"8000-8010\", \"80\"]\nhash = \"5-tuple\"",
            "ports = [80]",
            "no ports without protocols",
        ),
        ("[\"8000-8010\", \"80\"]", "[\"80-70\"]", "ranges of them"),
        ("[\"8000-8010\", \"80\"]", "[\"80-90\", 85]", "each port once"),
        ("hash = \"5-tuple\"", "hash = \"4-tuple\"", "\"5-tuple\" or \"source\""),
        ("table_size = 65537", "table_size = 1048583", "a prime from 3 to 1048573"),
        ("name = \"s2\"", "name = \"s1\"", "each name once"),
        ("\"192.168.1.2\"", "\"192.168.1.1\"", "each target once"),
        ("\"192.168.1.2\"", "\"10.0.0.0\"", "outside of the service's own VIPs"),
        ("encap = \"gre\"", "encap = \"vxlan\"", "\"gre\", \"ipip\""),
        ("encap = \"gre\"", "encap = \"ip6gre\"", "an IPv6 address"),
        ("encap = \"gre\"", "encap = \"mark\"", "no address with"),
        ("encap = \"gre\"", "encap = \"direct\"", "next hop of both families"),
        ("active = true", "active = 1", "true or false"),
    ] {
        let message = complaint(old, new);
        assert!(message.contains(expected), "{new}: {message}");
    }
    for address in [
        "224.0.0.1",
        "127.0.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:10.0.0.1",
        "fe80::1",
        "febf::1",
        "ff02::1",
    ] {
        for old in ["\"10.0.0.0/32\"", "\"192.168.1.2\"", "\"192.168.1.201\""] {
            let text = WHOLE.replacen(old, &format!("\"{address}\""), 1);
            let message = Config::parse("f", &text).unwrap_err().to_string();
            assert!(
                message.contains("allowed: a unicast address") || message.contains("allowed: unicast"),
                "{message}"
            );
        }
    }
    for prefix in [
        "0.0.0.0/0",
        "0.0.0.0/1",
        "192.0.0.0/2",
        "127.1.0.0/16",
        "::/0",
        "::/1",
        "::ffff:0:0/95",
        "fe80::/64",
        "8000::/1",
    ] {
        let message = complaint("\"10.0.0.0/32\"", &format!("\"{prefix}\""));
        assert!(message.contains("allowed: unicast addresses or prefixes"), "{message}");
    }
    for prefix in ["1.0.0.0/8", "64.0.0.0/3", "169.254.1.1", "240.0.0.1", "2000::/3"] {
        Config::parse("f", &WHOLE.replacen("\"10.0.0.0/32\"", &format!("\"{prefix}\""), 1)).unwrap();
    }
    let only_six = WHOLE.replace("\"192.168.1.201\", ", "");
    let errors = Config::parse("f", &only_six).unwrap_err().0;
    assert_eq!(errors.len(), 2, "one for each backend: {errors:?}");
    assert!(errors[0].allowed.contains("it has no IPv4 one"));
}

#[test]
fn all_complaints_come_at_once_in_the_order_of_lines() {
    let text = WHOLE
        .replace("weight = 1", "weight = 0")
        .replace("queues = \"0-1\"", "queues = \"x\"")
        .replace("hash_seed", "hash_sead");
    let errors = Config::parse("f", &text).unwrap_err();
    assert_eq!(errors.0.iter().map(|e| e.line).collect::<Vec<_>>(), [6, 8, 24]);
    assert_eq!(errors.to_string().lines().count(), 3);
}

#[test]
fn services_that_claim_the_same_are_refused() {
    let second =
        "\n[[service]]\nname = \"web2\"\nvips = [\"10.0.0.0/32\"]\nprotocols = [\"tcp\"]\nports = [\"80\"]\n";
    let message = one(&format!("{WHOLE}{second}"));
    assert!(
        message.contains("service \"web2\": found 10.0.0.0 tcp port 80, which service \"web\" claims too"),
        "{message}"
    );
    let same_name = second.replace("web2", "web").replace("\"80\"", "\"81\"");
    assert!(one(&format!("{WHOLE}{same_name}")).contains("each name once"));
}

proptest::proptest! {
    #[test]
    fn no_text_causes_a_panic(at in 0usize..700, cut in 0usize..40, with in "[\\x00-\\x7f]{0,8}") {
        let at = at.min(WHOLE.len());
        let text = format!("{}{with}{}", &WHOLE[..at], &WHOLE[(at + cut).min(WHOLE.len())..]);
        let _ = Config::parse("f", &text);
    }
}

#[test]
fn the_example_of_the_package_is_valid() {
    let config = Config::parse("dist/synrail.toml", include_str!("../../../dist/synrail.toml")).unwrap();
    assert_eq!(config.services.len(), 1);
}

#[test]
fn announcements_have_a_table_of_their_own_and_a_least_number_of_backends() {
    let file = |table: &str, min: &str| {
        WHOLE.replacen("[balancer]\n", &format!("[balancer]\nannounce_table = {table}\n"), 1).replacen(
            "hash = \"5-tuple\"",
            &format!("announce = false\nannounce_min = {min}"),
            1,
        )
    };
    let config = Config::parse("lb.toml", &file("252", "4096")).unwrap();
    let announcing = config.services[0].announcing;
    assert_eq!(
        (config.balancer.announce_table, announcing.announce, announcing.min),
        (Some(252), false, 4096)
    );
    let silent = Config::parse("lb.toml", WHOLE).unwrap();
    assert_eq!(
        (silent.balancer.announce_table, silent.services[0].announcing),
        (None, Announcing::default())
    );
    for (table, min, key) in
        [("0", "1", "announce_table"), ("253", "1", "announce_table"), ("1", "0", "announce_min")]
    {
        let message = Config::parse("lb.toml", &file(table, min)).unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
    }
}
