//! `[service.health]`: how the backends of a service are checked.

use std::net::IpAddr;

use super::{Item, Reader, Table};
use crate::{
    config::keys,
    model::{
        AgentCheck, DnsProbe, DnsRecord, ExecProbe, HealthCheck, HttpProbe, HttpsProbe, OnDown, PortRange,
        Probe, ProbeKind, Protocols, StatusRange, UdpProbe, Via,
    },
};

const KIND: &str = "\"tcp\", \"http\", \"https\", \"udp\", \"dns\", \"icmp\" or \"exec\"";
const TEXT: &str = "text of at most 1024 bytes";
const HOST: &str = "1 to 255 of A-Z a-z 0-9 . - _ : [ ]";
const COMMAND: &str = "a program with its whole path, and its arguments, up to 32 words without NUL";

/// Reads the table. `protocols` and `ports` are those of the service; `pins` is whether flows stay when a table changes.
pub(super) fn read(
    reader: &mut Reader<'_>,
    item: Item<'_>,
    (protocols, ports): (&Protocols, &[PortRange]),
    pins: bool,
) -> Option<HealthCheck> {
    let mut table = item.table(reader)?;
    let kind = table.require(reader, "kind", KIND)?;
    let kind = kind.string(reader, KIND, ProbeKind::named)?;
    let probe = read_probe(reader, &mut table, kind);
    let mut check = HealthCheck::of(probe.clone().unwrap_or(Probe::Tcp));
    if let Some(item) = table.take("via") {
        check.via = item.string(reader, "\"tunnel\" or \"direct\"", Via::named).unwrap_or(check.via);
    }
    let port = table.take("port");
    check.port = port.as_ref().and_then(|item| item.integer(reader, 1..=u16::MAX));
    let needs_port = !matches!(check.probe, Probe::Icmp | Probe::Exec(_));
    if port.is_none()
        && needs_port
        && (*protocols == Protocols::Any || ports.first().is_none_or(|p| p.first == 0))
    {
        reader.diagnose(
            &table.at,
            &table.key("port"),
            "nothing",
            "a port from 1 to 65535, since the service does not say which one is served",
        );
    }
    let mut number = |key: &str, range: std::ops::RangeInclusive<u32>, value: &mut u32| {
        let item = table.take(key);
        *value = item.as_ref().and_then(|item| item.integer(reader, range)).unwrap_or(*value);
        item
    };
    number("interval_ms", HealthCheck::INTERVAL_MS, &mut check.interval_ms);
    let timeout = number("timeout_ms", HealthCheck::TIMEOUT_MS, &mut check.timeout_ms);
    number("grace_ms", HealthCheck::GRACE_MS, &mut check.grace_ms);
    match timeout {
        // The default may be more than an interval that is meant to be short.
        None => check.timeout_ms = check.timeout_ms.min(check.interval_ms),
        Some(item) if check.timeout_ms > check.interval_ms => {
            item.diagnose(reader, format_args!("at most interval_ms, {}", check.interval_ms));
        }
        Some(_) => {}
    }
    let mut small = |key: &str, range: std::ops::RangeInclusive<u8>, value: &mut u8| {
        let read = table.take(key).and_then(|item| item.integer(reader, range));
        *value = read.unwrap_or(*value);
    };
    small("jitter_percent", HealthCheck::JITTER_PERCENT, &mut check.jitter_percent);
    small("rise", HealthCheck::STREAK, &mut check.rise);
    small("fall", HealthCheck::STREAK, &mut check.fall);
    small("panic_below_percent", HealthCheck::PANIC_BELOW_PERCENT, &mut check.panic_below_percent);
    if let Some(item) = table.take("on_down") {
        check.on_down = item.string(reader, "\"keep\" or \"kill\"", OnDown::named);
    }
    check.agent = read_agent(reader, &mut table, (check.interval_ms, pins));
    table.finish(reader, &known(kind));
    probe.map(|_| check)
}

/// The keys of one kind, or of some.
const OF_KINDS: [(&str, &[ProbeKind]); 13] = [
    ("method", &[ProbeKind::Http, ProbeKind::Https]),
    ("path", &[ProbeKind::Http, ProbeKind::Https]),
    ("host", &[ProbeKind::Http, ProbeKind::Https]),
    ("status", &[ProbeKind::Http, ProbeKind::Https]),
    ("body", &[ProbeKind::Http, ProbeKind::Https]),
    ("verify", &[ProbeKind::Https]),
    ("server_name", &[ProbeKind::Https]),
    ("ca_file", &[ProbeKind::Https]),
    ("send", &[ProbeKind::Udp]),
    ("expect", &[ProbeKind::Udp, ProbeKind::Dns]),
    ("query", &[ProbeKind::Dns]),
    ("record", &[ProbeKind::Dns]),
    ("command", &[ProbeKind::Exec]),
];

/// The keys that a check of this kind may have.
fn known(kind: ProbeKind) -> Vec<&'static str> {
    let fits = |key: &&str| {
        OF_KINDS.iter().find(|(name, _)| name == key).is_none_or(|(_, kinds)| kinds.contains(&kind))
    };
    keys::HEALTH.names().into_iter().filter(fits).collect()
}

fn read_probe(reader: &mut Reader<'_>, table: &mut Table<'_>, kind: ProbeKind) -> Option<Probe> {
    Some(match kind {
        ProbeKind::Tcp => Probe::Tcp,
        ProbeKind::Icmp => Probe::Icmp,
        ProbeKind::Http => Probe::Http(read_http(reader, table)?),
        ProbeKind::Https => Probe::Https(HttpsProbe {
            http: read_http(reader, table)?,
            verify: table.take("verify").and_then(|item| item.bool(reader)).unwrap_or(true),
            server_name: text(reader, table, "server_name", HOST, HttpProbe::is_host),
            ca_file: text(reader, table, "ca_file", "a file with its whole path", |file| {
                file.starts_with('/') && short(file)
            }),
        }),
        ProbeKind::Udp => Probe::Udp(UdpProbe {
            send: text(reader, table, "send", TEXT, short).unwrap_or_default(),
            expect: text(reader, table, "expect", TEXT, short),
        }),
        ProbeKind::Dns => {
            let allowed = "a name such as \"www.example.org\", up to 253 bytes";
            let query = table.require(reader, "query", allowed)?;
            let record = table
                .take("record")
                .map(|item| item.string(reader, "\"A\", \"AAAA\", \"SOA\" or \"TXT\"", DnsRecord::named));
            let expect = table.take("expect");
            Probe::Dns(DnsProbe {
                query: query
                    .string(reader, allowed, |name| DnsProbe::is_name(name).then(|| name.to_owned()))?,
                record: record.unwrap_or(Some(DnsRecord::A))?,
                expect: expect
                    .and_then(|item| item.string(reader, "an address", |text| text.parse::<IpAddr>().ok())),
            })
        }
        ProbeKind::Exec => {
            let item = table.require(reader, "command", COMMAND)?;
            Probe::Exec(ExecProbe { command: read_command(reader, item)? })
        }
    })
}

fn read_http(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<HttpProbe> {
    let method = text(reader, table, "method", "a method in capitals, such as \"GET\"", HttpProbe::is_method);
    let path = text(reader, table, "path", "a path such as \"/health\", without blanks", HttpProbe::is_path);
    let host = text(reader, table, "host", HOST, HttpProbe::is_host);
    let allowed = "status codes from 100 to 599 or ranges of them, such as \"200-299\" or \"401\"";
    let status = match table.take("status") {
        None => vec![StatusRange { first: 200, last: 399 }],
        Some(item) => {
            let mut ranges = Vec::new();
            for item in item.non_empty_list(reader, allowed) {
                let number = item.as_i128().map(|number| number.to_string());
                match number.as_deref().or(item.value.as_str()).and_then(|text| text.parse().ok()) {
                    Some(range) => ranges.push(range),
                    None => item.diagnose(reader, allowed),
                }
            }
            ranges
        }
    };
    let body = text(reader, table, "body", TEXT, short);
    let (method, path) = (method.unwrap_or_else(|| "GET".to_owned()), path.unwrap_or_else(|| "/".to_owned()));
    Some(HttpProbe { method, path, host, status, body })
}

/// Reads how the agent on each backend is asked.
fn read_agent(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    (interval_ms, pins): (u32, bool),
) -> Option<AgentCheck> {
    let port = table.take("agent_port");
    let interval = table.take("agent_interval_ms");
    let send = table.take("agent_send");
    let Some(port) = port else {
        for item in [interval, send].into_iter().flatten() {
            item.diagnose(reader, "nothing without agent_port, which has the agent asked");
        }
        return None;
    };
    if !pins {
        port.diagnose(
            reader,
            "no agent with steering = \"every-packet\" in [balancer]: no flow is pinned, so each change of a weight would break flows",
        );
        return None;
    }
    let port = port.integer(reader, 1..=u16::MAX).and_then(|port| port.try_into().ok());
    let interval = interval.map(|item| item.integer(reader, HealthCheck::INTERVAL_MS));
    let send = send.map(|item| item.string(reader, TEXT, |text| short(text).then(|| text.to_owned())));
    Some(AgentCheck {
        port: port?,
        interval_ms: interval.unwrap_or(Some(interval_ms))?,
        send: send.unwrap_or(Some(String::new()))?,
    })
}

/// Reads a program with its arguments.
pub(super) fn read_command(reader: &mut Reader<'_>, item: Item<'_>) -> Option<Vec<String>> {
    let items = item.non_empty_list(reader, COMMAND);
    if let Some(item) = items.get(ExecProbe::WORDS_MAX) {
        item.diagnose(reader, COMMAND);
        return None;
    }
    let mut words = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let valid = |word: &str| ExecProbe::is_word(word) && (index > 0 || word.starts_with('/'));
        words.push(item.string(reader, COMMAND, |word| valid(word).then(|| word.to_owned()))?);
    }
    (!words.is_empty()).then_some(words)
}

fn text(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    key: &str,
    allowed: &str,
    valid: impl Fn(&str) -> bool,
) -> Option<String> {
    let item = table.take(key)?;
    item.string(reader, allowed, |text| valid(text).then(|| text.to_owned()))
}

fn short(text: &str) -> bool {
    text.len() <= HttpProbe::TEXT_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use crate::{
        config::Config,
        model::{HealthCheck, OnDown, Probe, ProbeKind, Via},
    };

    fn file(service: &str, health: &str, encap: &str) -> String {
        format!(
            "balancer = {{ name = 'lb1', address = '192.168.1.201', interfaces = 'eth0' }}\n\
             [[service]]\nname = 'web'\nvips = '10.0.0.1'\n{service}\n\
             [service.health]\n{health}\n\
             [[service.backend]]\nname = 's1'\n{encap}\n"
        )
    }

    fn read(health: &str) -> HealthCheck {
        let text = file("protocols = 'tcp'\nports = 80", health, "address = '192.168.1.1'");
        Config::parse("lb.toml", &text).unwrap_or_else(|error| panic!("{text}: {error}")).services[0]
            .health
            .clone()
            .unwrap()
    }

    fn complaint(service: &str, health: &str, encap: &str) -> String {
        let errors = Config::parse("lb.toml", &file(service, health, encap)).unwrap_err().0;
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors[0].to_string()
    }

    #[test]
    fn every_kind_is_read() {
        let check = read("kind = 'tcp'\nvia = 'direct'\nport = 8080\nfall = 5\non_down = 'kill'");
        assert_eq!((check.via, check.port, check.fall), (Via::Direct, Some(8080), 5));
        assert_eq!(check.on_down, Some(OnDown::Kill));
        let check =
            read("kind = 'http'\nstatus = [204, '300-302']\nbody = 'ok'\npath = '/health'\nhost = 'a.b'");
        let Probe::Http(http) = check.probe else { panic!("{check:?}") };
        let status: Vec<String> = http.status.iter().map(ToString::to_string).collect();
        assert_eq!((status.join(" "), http.path.as_str()), ("204 300-302".to_owned(), "/health"));
        let check = read("kind = 'https'\nverify = false\nserver_name = 'a.b'\nca_file = '/etc/ca.pem'");
        let Probe::Https(https) = check.probe else { panic!("{check:?}") };
        assert!(!https.verify && https.ca_file.is_some());
        let check = read("kind = 'dns'\nquery = 'example.org'\nrecord = 'AAAA'\nexpect = '2001:db8::1'");
        assert_eq!(check.probe.kind(), "dns");
        assert_eq!(read("kind = 'udp'\nsend = 'ping'\nexpect = 'pong'").probe.kind(), "udp");
        assert_eq!(read("kind = 'exec'\ncommand = ['/bin/check', '-v']").probe.kind(), "exec");
        let check = read("kind = 'tcp'\ninterval_ms = 3000\nagent_port = 5555");
        let agent = check.agent.unwrap();
        assert_eq!((agent.port.get(), agent.interval_ms, agent.send.as_str()), (5555, 3000, ""));
        let check = read("kind = 'icmp'\nagent_port = 1\nagent_interval_ms = 500\nagent_send = \"web\\n\"");
        let agent = check.agent.unwrap();
        assert_eq!((agent.interval_ms, agent.send.as_str()), (500, "web\n"));
        assert_eq!(read("kind = 'icmp'\ninterval_ms = 500").timeout_ms, 500, "not more than the interval");
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let (web, s1) = ("protocols = 'tcp'\nports = 80", "address = '192.168.1.1'");
        for kind in ProbeKind::ALL {
            assert!(super::KIND.contains(&format!("\"{}\"", kind.name())), "{kind:?} is not told of");
        }
        for (health, part) in [
            ("via = 'tunnel'", "health: kind: found nothing"),
            ("kind = 'smtp'", "allowed: \"tcp\", \"http\""),
            ("kind = 'tcp'\npath = '/'", "path: found an unknown key"),
            ("kind = 'tcp'\nport = 0", "a number from 1 to 65535"),
            ("kind = 'tcp'\ninterval_ms = 99", "a number from 100 to 3600000"),
            ("kind = 'tcp'\ntimeout_ms = 2001", "at most interval_ms, 2000"),
            ("kind = 'tcp'\non_down = 'drop'", "\"keep\" or \"kill\""),
            ("kind = 'http'\npath = 'health'", "a path such as"),
            ("kind = 'http'\nstatus = 99", "status codes from 100 to 599"),
            ("kind = 'http'\nstatus = []", "an empty array"),
            ("kind = 'dns'", "query: found nothing"),
            ("kind = 'exec'\ncommand = 'check'", "a program with its whole path"),
            (
                "kind = 'tcp'\nagent_port = 0",
                "health: agent_port: found 0; allowed: a number from 1 to 65535",
            ),
            ("kind = 'tcp'\nagent_port = 5555\nagent_interval_ms = 99", "a number from 100 to 3600000"),
            (
                "kind = 'tcp'\nagent_port = 5555\nagent_send = 7",
                "agent_send: found 7; allowed: text of at most 1024",
            ),
            (
                "kind = 'tcp'\nagent_interval_ms = 1000",
                "agent_interval_ms: found 1000; allowed: nothing without agent_port",
            ),
            (
                "kind = 'tcp'\nagent_send = 'a'",
                "agent_send: found \"a\"; allowed: nothing without agent_port",
            ),
        ] {
            let message = complaint(web, health, s1);
            assert!(message.contains(part), "{message}");
        }
        let agent = file(web, "kind = 'tcp'\nagent_port = 5555", s1);
        let every_packet =
            agent.replace("interfaces = 'eth0'", "interfaces = 'eth0', steering = 'every-packet'");
        let errors = Config::parse("lb.toml", &every_packet).unwrap_err().0;
        let message = errors[0].to_string();
        let part = "agent_port: found 5555; allowed: no agent with steering = \"every-packet\" in [balancer]";
        assert!(errors.len() == 1 && message.contains(part), "{errors:?}");
        let message = complaint("", "kind = 'tcp'", s1);
        assert!(message.contains("health: port: found nothing"), "{message}");
        let message = complaint(web, "kind = 'tcp'\nvia = 'direct'", "encap = 'mark'");
        assert!(message.contains("backend \"s1\" has no address"), "{message}");
    }
}
