use super::*;

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

#[test]
fn reads_a_whole_file() {
    let config = Config::parse("lb.toml", WHOLE).unwrap();
    assert_eq!(config.balancer.address4, Some([192, 168, 1, 201].into()));
    assert_eq!(config.balancer.queues, QueueRange::new(0, 1).unwrap());
    assert_eq!(config.balancer.timeouts, Timeouts::default());
    let [web] = &config.services[..] else { panic!("{config:?}") };
    assert_eq!(web.protocols, Protocols::Named(vec![Protocol::Tcp, Protocol::Udp]));
    assert_eq!(web.ports, [PortRange { first: 80, last: 80 }, PortRange { first: 8000, last: 8010 }]);
    let names: Vec<_> = web.backends.iter().map(|b| (b.name.as_str(), b.active)).collect();
    assert_eq!(names, [("s1", Some(true)), ("s2", None)], "sorted");
    assert_eq!(web.backends[0].path, Path::Via(Encap::Gre, [192, 168, 1, 1].into()));
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let text = "[balancer]\nname='a'\ninterfaces='eth1'\n[[service]]\nname='w'\nvips='10.0.0.1'\n";
    let config = Config::parse("f", text).unwrap();
    assert_eq!(config.balancer.hash_seed, 3_405_691_582);
    assert_eq!(config.balancer.mark_mask, MarkMask::DEFAULT);
    assert_eq!(config.services[0].protocols, Protocols::Any);
    assert_eq!(config.services[0].hash, HashMode::Addresses);
    assert_eq!(config.services[0].table_size, TableSize::DEFAULT);
    assert_eq!(config.services[0].ports, [PortRange::ALL]);
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
        ("\"10.0.0.0/32\"", "\"224.0.0.1\"", "unicast"),
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
