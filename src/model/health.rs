//! Health checks of a service's backends, and what checks have found. PURE.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    AgentCheck, Protocol, Reported,
    overrides::Remark,
    values::{as_string, as_text, named},
};

/// How the backends of a service are checked: the table `[service.health]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is sent, and what counts as an answer.
    #[serde(flatten)]
    pub probe: Probe,
    /// Which way it is sent.
    pub via: Via,
    /// The port that it is sent to; `None` for the first port of the service.
    #[serde(default)]
    pub port: Option<u16>,
    /// The time from the start of a check to the start of the next one.
    pub interval_ms: u32,
    /// How long a check may take; not more than `interval_ms`.
    pub timeout_ms: u32,
    /// By how much an interval may be shorter or longer, in percent.
    pub jitter_percent: u8,
    /// How many checks in a row must succeed before a backend that is down counts as up.
    pub rise: u8,
    /// How many checks in a row must fail before a backend that is up counts as down.
    pub fall: u8,
    /// How long failures of a backend that was never up do not count.
    pub grace_ms: u32,
    /// All backends count as up if less than so many percent of the weight of those that are enabled is up; 0
    /// for never.
    pub panic_below_percent: u8,
    /// What happens to the flows of a backend that goes down; `None` for the default of each protocol ([`OnDown::of`]).
    #[serde(default)]
    pub on_down: Option<OnDown>,
    /// How the agent on each backend is asked; `None` if none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentCheck>,
}

impl HealthCheck {
    /// The values of `interval_ms`.
    pub const INTERVAL_MS: std::ops::RangeInclusive<u32> = 100..=3_600_000;
    /// The values of `timeout_ms`.
    pub const TIMEOUT_MS: std::ops::RangeInclusive<u32> = 10..=60_000;
    /// The values of `jitter_percent`.
    pub const JITTER_PERCENT: std::ops::RangeInclusive<u8> = 0..=50;
    /// The values of `rise` and `fall`.
    pub const STREAK: std::ops::RangeInclusive<u8> = 1..=100;
    /// The values of `grace_ms`.
    pub const GRACE_MS: std::ops::RangeInclusive<u32> = 0..=3_600_000;
    /// The values of `panic_below_percent`.
    pub const PANIC_BELOW_PERCENT: std::ops::RangeInclusive<u8> = 0..=100;

    /// Returns a check with this probe and the default of everything else.
    #[must_use]
    pub fn of(probe: Probe) -> Self {
        Self {
            probe,
            via: Via::Tunnel,
            port: None,
            interval_ms: 2000,
            timeout_ms: 1000,
            jitter_percent: 10,
            rise: 2,
            fall: 3,
            grace_ms: 0,
            panic_below_percent: 30,
            on_down: None,
            agent: None,
        }
    }

    /// Checks that nothing contradicts anything else.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        let in_range = Self::INTERVAL_MS.contains(&self.interval_ms)
            && Self::TIMEOUT_MS.contains(&self.timeout_ms)
            && Self::JITTER_PERCENT.contains(&self.jitter_percent)
            && Self::STREAK.contains(&self.rise)
            && Self::STREAK.contains(&self.fall)
            && Self::GRACE_MS.contains(&self.grace_ms)
            && Self::PANIC_BELOW_PERCENT.contains(&self.panic_below_percent);
        let of_agent = self
            .agent
            .as_ref()
            .is_none_or(|agent| Self::INTERVAL_MS.contains(&agent.interval_ms) && is_text(&agent.send));
        let holds = in_range && of_agent && self.timeout_ms <= self.interval_ms && self.port != Some(0);
        if holds { self.probe.check() } else { Err("a health check") }
    }
}

/// What a check sends, and what counts as an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Probe {
    /// A connection is opened, and closed again.
    Tcp,
    /// A request over HTTP/1.1.
    Http(HttpProbe),
    /// The same over TLS.
    Https(HttpsProbe),
    /// A datagram.
    Udp(UdpProbe),
    /// A query over UDP.
    Dns(DnsProbe),
    /// An echo request.
    Icmp,
    /// A program of the operator, without a shell.
    Exec(ExecProbe),
}

/// A request over HTTP/1.1. Redirections are not followed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpProbe {
    /// The method, in capitals.
    pub method: String,
    /// The path, beginning with `/`, and a query if there is one.
    pub path: String,
    /// The header `Host`; `None` for the address and port.
    #[serde(default)]
    pub host: Option<String>,
    /// The status codes that count as success.
    pub status: Vec<StatusRange>,
    /// Text that the first [`HttpProbe::BODY_BYTES_MAX`] bytes of the body must have.
    #[serde(default)]
    pub body: Option<String>,
}

impl HttpProbe {
    /// How much of a body is read. A longer one is cut off there.
    pub const BODY_BYTES_MAX: usize = 64 << 10;
    /// The maximum length of a header line, and of all of them together is this times 100.
    pub const TEXT_BYTES_MAX: usize = 1024;

    /// Reports whether `method` can be one.
    #[must_use]
    pub fn is_method(method: &str) -> bool {
        (1..=16).contains(&method.len()) && method.bytes().all(|byte| byte.is_ascii_uppercase())
    }

    /// Reports whether `path` can stand in a request.
    #[must_use]
    pub fn is_path(path: &str) -> bool {
        path.starts_with('/')
            && path.len() <= Self::TEXT_BYTES_MAX
            && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
    }

    /// Reports whether `host` can be the value of that header.
    #[must_use]
    pub fn is_host(host: &str) -> bool {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        (1..=255).contains(&host.len()) && host.bytes().all(allowed)
    }

    fn check(&self) -> Result<(), &'static str> {
        let holds = Self::is_method(&self.method)
            && Self::is_path(&self.path)
            && self.host.as_deref().is_none_or(Self::is_host)
            && !self.status.is_empty()
            && self.body.as_deref().is_none_or(is_text);
        if holds { Ok(()) } else { Err("an HTTP check") }
    }
}

/// A request over HTTP/1.1 and TLS 1.2 or 1.3.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpsProbe {
    /// The request.
    #[serde(flatten)]
    pub http: HttpProbe,
    /// Whether the server's certificate must be valid for `server_name`.
    pub verify: bool,
    /// The name in the server's certificate, which is also sent to it (SNI); `None` for `host`, or the address.
    #[serde(default)]
    pub server_name: Option<String>,
    /// A file with the certificates that are trusted (PEM), with its whole path; `None` for those of the host.
    #[serde(default)]
    pub ca_file: Option<String>,
}

/// A datagram.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UdpProbe {
    /// What is sent.
    pub send: String,
    /// What an answer must contain. Without it the check succeeds unless the port is unreachable.
    #[serde(default)]
    pub expect: Option<String>,
}

/// A query over UDP (RFC 1035).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DnsProbe {
    /// The name that is asked for.
    pub query: String,
    /// The type of the record.
    pub record: DnsRecord,
    /// An address that the answer must contain. Without it any answer without an error succeeds.
    #[serde(default)]
    pub expect: Option<std::net::IpAddr>,
}

impl DnsProbe {
    /// Reports whether `name` can be asked for: labels of 1 to 63 letters, digits, `-` or `_`, 253 bytes together.
    #[must_use]
    pub fn is_name(name: &str) -> bool {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        name == "." || (name.len() <= 253 && name.strip_suffix('.').unwrap_or(name).split('.').all(label))
    }
}

/// The type of a DNS record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DnsRecord {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
    /// The authority of a zone.
    Soa,
    /// Text.
    Txt,
}

named!(DnsRecord { A = "A", Aaaa = "AAAA", Soa = "SOA", Txt = "TXT" });

as_text!(DnsRecord, DnsRecord::named, |record: &DnsRecord| record.name(), "type of a DNS record");

/// A program of the operator. Exit status 0 is success; the last line of its output is the reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExecProbe {
    /// The program, with its whole path, and its arguments.
    pub command: Vec<String>,
}

impl ExecProbe {
    /// The maximum number of arguments, with the program.
    pub const WORDS_MAX: usize = 32;
    /// How much of the output is read.
    pub const OUTPUT_BYTES_MAX: usize = 4096;

    /// Reports whether a word can be an argument.
    #[must_use]
    pub fn is_word(word: &str) -> bool {
        word.len() <= HttpProbe::TEXT_BYTES_MAX && !word.contains('\0')
    }

    /// Reports whether words are a program with its whole path, and arguments.
    #[must_use]
    pub fn is_command(words: &[String]) -> bool {
        words.len() <= Self::WORDS_MAX
            && words.first().is_some_and(|program| program.starts_with('/'))
            && words.iter().all(|word| Self::is_word(word))
    }
}

/// The kind of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as the variants of Probe")]
pub enum ProbeKind {
    Tcp,
    Http,
    Https,
    Udp,
    Dns,
    Icmp,
    Exec,
}

named!(ProbeKind {
    Tcp = "tcp",
    Http = "http",
    Https = "https",
    Udp = "udp",
    Dns = "dns",
    Icmp = "icmp",
    Exec = "exec"
});

impl Probe {
    /// Returns the name of its kind, as in the configuration file.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        let kind = match self {
            Self::Tcp => ProbeKind::Tcp,
            Self::Http(_) => ProbeKind::Http,
            Self::Https(_) => ProbeKind::Https,
            Self::Udp(_) => ProbeKind::Udp,
            Self::Dns(_) => ProbeKind::Dns,
            Self::Icmp => ProbeKind::Icmp,
            Self::Exec(_) => ProbeKind::Exec,
        };
        kind.name()
    }

    fn check(&self) -> Result<(), &'static str> {
        let holds = match self {
            Self::Tcp | Self::Icmp => true,
            Self::Http(http) => return http.check(),
            Self::Https(https) => {
                https.http.check()?;
                https.server_name.as_deref().is_none_or(HttpProbe::is_host)
                    && https.ca_file.as_deref().is_none_or(|file| file.starts_with('/') && is_text(file))
            }
            Self::Udp(udp) => is_text(&udp.send) && udp.expect.as_deref().is_none_or(is_text),
            Self::Dns(dns) => DnsProbe::is_name(&dns.query),
            Self::Exec(exec) => ExecProbe::is_command(&exec.command),
        };
        if holds { Ok(()) } else { Err("a health check") }
    }
}

fn is_text(text: &str) -> bool {
    text.len() <= HttpProbe::TEXT_BYTES_MAX
}

/// Status codes `first..=last` of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StatusRange {
    /// The lowest, from 100.
    pub first: u16,
    /// The highest, to 599; not less than `first`.
    pub last: u16,
}

impl StatusRange {
    /// Reports whether `status` is one of them.
    #[must_use]
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

/// Reads "204" or "200-399".
impl std::str::FromStr for StatusRange {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let super::PortRange { first, last } = text.parse()?;
        if first >= 100 && last <= 599 { Ok(Self { first, last }) } else { Err(()) }
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::PortRange { first: self.first, last: self.last }.fmt(f)
    }
}

as_string!(StatusRange, "range of status codes");

/// Which way a check is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// To the virtual address, as packets of clients: with the backend's mark, through its own tunnel. So the
    /// tunnel, the address on the backend and the service are all checked.
    Tunnel,
    /// To the backend's own address, without the tunnel.
    Direct,
}

named!(Via { Tunnel = "tunnel", Direct = "direct" });

as_text!(Via, Via::named, |via: &Via| via.name(), "way of a health check");

/// What happens to the flows of a backend that goes down, if another one takes new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnDown {
    /// They stay, and go on when the backend is up again. Default for TCP and SCTP, whose connections no other
    /// backend can go on with.
    Keep,
    /// They end: the next packet of each is steered anew. Default for UDP and whatever else there is.
    Kill,
}

impl OnDown {
    /// Returns what holds for the flows of an IP protocol, by what the file says.
    #[must_use]
    pub fn of(said: Option<Self>, protocol: u8) -> Self {
        let connections = [Protocol::Tcp, Protocol::Sctp].map(Protocol::number);
        said.unwrap_or(if connections.contains(&protocol) { Self::Keep } else { Self::Kill })
    }
}

named!(OnDown { Keep = "keep", Kill = "kill" });

as_text!(OnDown, OnDown::named, |on_down: &OnDown| on_down.name(), "value of on_down");

/// What checks found of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Whether it answers.
    pub health: Health,
    /// Since when.
    pub since: Timestamp,
    /// What the check that changed it has found.
    pub reason: Remark,
}

/// "down since 2026-11-29T12:00:00Z: connection refused".
impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} since {}: {}", self.health, self.since, self.reason)
    }
}

/// Whether a backend answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// It does.
    Up,
    /// It does not.
    Down,
}

impl Health {
    /// Returns what follows from what checks found and what the agent on the backend reports: down if one of them says so; `None` if
    /// checks have found nothing.
    #[must_use]
    pub fn of(observed: Option<&Observed>, reported: Option<&Reported>) -> Option<Self> {
        let down = reported.filter(|reported| reported.is_down()).map(|_| Self::Down);
        down.or(observed.map(|observed| observed.health))
    }

    /// Returns why it is down by the same: what checks found comes before what the agent reports. `None` if it is not down.
    #[must_use]
    pub fn why_down(observed: Option<&Observed>, reported: Option<&Reported>) -> Option<String> {
        let found = observed.filter(|observed| observed.health == Self::Down);
        let found = found.map(|observed| observed.reason.as_str().to_owned());
        found.or_else(|| reported?.why_down())
    }
}

named!(Health { Up = "up", Down = "down" });

as_text!(Health, Health::named, |health: &Health| health.name(), "health");

#[cfg(test)]
mod tests {
    use super::*;

    fn http() -> HttpProbe {
        HttpProbe {
            method: "GET".into(),
            path: "/health?deep=1".into(),
            host: Some("www.example.org".into()),
            status: vec!["200-299".parse().unwrap(), "304".parse().unwrap()],
            body: Some("ok".into()),
        }
    }

    #[test]
    fn it_reads_back_as_it_was_written() {
        let https = HttpsProbe { http: http(), verify: true, server_name: None, ca_file: None };
        let probes = [
            Probe::Tcp,
            Probe::Http(http()),
            Probe::Https(https),
            Probe::Udp(UdpProbe { send: "ping".into(), expect: None }),
            Probe::Dns(DnsProbe {
                query: "example.org".into(),
                record: DnsRecord::Aaaa,
                expect: "2001:db8::1".parse().ok(),
            }),
            Probe::Icmp,
            Probe::Exec(ExecProbe { command: vec!["/bin/true".into()] }),
        ];
        for probe in probes {
            let agent =
                AgentCheck { port: 5555.try_into().unwrap(), interval_ms: 500, send: "weight\n".into() };
            let agent = Some(agent).filter(|_| probe != Probe::Tcp);
            let on_down = Some(OnDown::Kill);
            let check = HealthCheck { port: Some(8080), on_down, agent, ..HealthCheck::of(probe) };
            check.check().unwrap();
            let text = serde_json::to_string(&check).unwrap();
            assert!(text.contains(&format!(r#""kind":"{}""#, check.probe.kind())), "{text}");
            assert_eq!(serde_json::from_str::<HealthCheck>(&text).unwrap(), check);
        }
    }

    #[test]
    fn a_bad_value_of_an_agent_is_an_error() {
        let agent = AgentCheck { port: 5555.try_into().unwrap(), interval_ms: 500, send: String::new() };
        let check = HealthCheck { agent: Some(agent), ..HealthCheck::of(Probe::Tcp) };
        let text = serde_json::to_string(&check).unwrap();
        assert!(text.contains(r#""agent":{"port":5555,"interval_ms":500}"#), "{text}");
        for bad in [r#""port":0"#, r#""port":"a""#, r#""port":70000"#] {
            let bad = text.replace(r#""port":5555"#, bad);
            assert!(serde_json::from_str::<HealthCheck>(&bad).is_err(), "{bad}");
        }
        assert!(
            serde_json::from_str::<HealthCheck>(&text.replace("\"interval_ms\":500", "\"x\":1")).is_err()
        );
    }

    #[test]
    fn what_checks_found_comes_before_what_the_agent_reports() {
        let found = |health| Observed {
            health,
            since: Timestamp::UNIX_EPOCH,
            reason: Remark::new("no connection").unwrap(),
        };
        let (up, down) = (found(Health::Up), found(Health::Down));
        let ready = Reported::nothing(Timestamp::UNIX_EPOCH);
        let failed = Reported { health: crate::model::AgentHealth::Fail, ..ready.clone() };
        let why = |observed, reported| Health::why_down(observed, reported);
        assert_eq!(why(Some(&down), Some(&failed)).as_deref(), Some("no connection"));
        assert_eq!(why(Some(&up), Some(&failed)).as_deref(), Some("agent: fail"));
        assert_eq!(why(None, Some(&failed)).as_deref(), Some("agent: fail"));
        assert_eq!((why(Some(&up), Some(&ready)), why(None, None)), (None, None));
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        let of = |http: HttpProbe| HealthCheck::of(Probe::Http(http)).check();
        assert!(of(http()).is_ok());
        assert!(of(HttpProbe { method: "GET /".into(), ..http() }).is_err());
        assert!(of(HttpProbe { path: "/a\r\nHost: b".into(), ..http() }).is_err());
        assert!(of(HttpProbe { host: Some("a b".into()), ..http() }).is_err());
        assert!(of(HttpProbe { status: Vec::new(), ..http() }).is_err());
        for name in ["", "a..b", "a b", ".a", &format!("{}.org", "a".repeat(64))] {
            assert!(!DnsProbe::is_name(name), "{name:?}");
        }
        for name in [".", "a", "_dmarc.example.org", "example.org."] {
            assert!(DnsProbe::is_name(name), "{name:?}");
        }
        for status in ["99", "600", "300-200", "200-", "+200"] {
            assert!(status.parse::<StatusRange>().is_err(), "{status:?}");
        }
        let late = HealthCheck { timeout_ms: 3000, ..HealthCheck::of(Probe::Tcp) };
        assert!(late.check().is_err(), "longer than the interval");
        let relative = HealthCheck::of(Probe::Exec(ExecProbe { command: vec!["true".into()] }));
        assert!(relative.check().is_err());
    }
}
