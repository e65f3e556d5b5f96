//! Descriptions of every key of the configuration file: one table for the parser, docs/configuration.md and
//! the manual page. PURE.
//!
//! Text is Markdown. `cargo run --example reference` writes the pages that are made from it.

use std::fmt;

/// A table of the file.
#[derive(Debug)]
pub struct Section {
    /// The header as in the file, such as `[balancer]`.
    pub header: &'static str,
    /// How many tables of this kind there may be; empty for one.
    pub limit: &'static str,
    /// What the table is about; empty if its name says that.
    pub about: &'static str,
    /// The keys of the table.
    pub keys: &'static [Key],
    /// Arrays of tables in the table. These are sections of their own.
    pub nested: &'static [&'static str],
}

/// A key of a table.
#[derive(Debug)]
pub struct Key {
    /// The name as in the file.
    pub name: &'static str,
    /// What the key does, and which values are allowed.
    pub meaning: &'static str,
    /// What applies without the key.
    pub default: Default,
}

/// What applies without a key.
#[derive(Clone, Copy, Debug)]
pub enum Default {
    /// Nothing: the key is required, and a file without it is refused.
    Needed,
    /// This value, in TOML.
    Value(&'static str),
    /// What these words describe.
    Words(&'static str),
}

impl fmt::Display for Default {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Needed => f.write_str("needed"),
            Self::Value(text) if text.starts_with('"') => write!(f, "`{text}`"),
            Self::Value(text) | Self::Words(text) => f.write_str(text),
        }
    }
}

impl Section {
    /// Returns the names of everything that may stand in the table.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).chain(self.nested.iter().copied()).collect()
    }
}

const fn key(name: &'static str, meaning: &'static str, default: Default) -> Key {
    Key { name, meaning, default }
}

/// All sections, in the order of the pages.
pub const SECTIONS: [&Section; 9] =
    [&BALANCER, &TIMEOUTS, &FRAGMENTS, &TRACER, &HTTP, &TIER, &SERVICE, &HEALTH, &BACKEND];

/// `[balancer]`.
pub const BALANCER: Section = Section {
    header: "[balancer]",
    limit: "",
    about: "",
    keys: &[
        key("name", "of this balancer", Default::Needed),
        key(
            "address",
            "outer source addresses of tunnels, at most one of each family",
            Default::Words("none"),
        ),
        key("interfaces", "where packets to VIPs come in", Default::Needed),
        key(
            "queues",
            "NFQUEUE numbers, `\"20200-20203\"`, at most 64; not those of other programs, which mostly take 0",
            Default::Value("\"20200\""),
        ),
        key("fragment_queue", "NFQUEUE number of fragments, outside of `queues`", Default::Value("20199")),
        key("hash_seed", "the same on every balancer of a cluster", Default::Value("3405691582")),
        key("mark_mask", "our bits of fwmark: neighbours, 13 or more", Default::Value("0x0000ffff")),
        key(
            "steering",
            "which packets are decided about: `\"syn-only\"`, or `\"every-packet\"`: see below",
            Default::Value("\"syn-only\""),
        ),
        key(
            "gre_in",
            "whether routers also send packets to VIPs in GRE, to `address`: see [GRE in](gre-in.md)",
            Default::Value("false"),
        ),
        key(
            "rule_priority",
            "where lbd's policy rules begin, 1 to 9000: see [Other rules and filters](host.md#other-rules-and-filters)",
            Default::Words("900, or before rules of others"),
        ),
        key(
            "blackhole",
            "prefixes that routers send here, at most 256: what of them is for no VIP is dropped, instead of going back to the router until its TTL ends",
            Default::Words("none"),
        ),
        key(
            "pmtu_floor",
            "what an ICMP error may lower the path MTU to a backend to, 552 to 65535; over IPv6 not below 1280: see [SECURITY.md](../SECURITY.md)",
            Default::Value("1280"),
        ),
        key(
            "busy_poll_us",
            "how long a worker of new flows looks for more packets before it sleeps, 0 to 10000 microseconds: a flow that comes meanwhile need not wait until it wakes; each worker takes a whole CPU while flows come that often. For 0 a worker sleeps at once: see [figures](performance.md)",
            Default::Value("0"),
        ),
        key(
            "notify",
            "a program with its whole path, and its arguments: lbagent runs it for each change of a backend's health or state, and of what becomes of \
             a service's new flows; see [Monitoring](monitoring.md)",
            Default::Words("none"),
        ),
        key(
            "offload",
            "whether long flows are promoted to the kernel's flowtable, where it has one: see [Long flows](configuration.md#long-flows)",
            Default::Value("true"),
        ),
        key(
            "allow_own_addresses",
            "whether prefixes of VIPs may have addresses of this host in them: see [The host](host.md)",
            Default::Value("false"),
        ),
        key(
            "kernel_entries",
            "how many table entries the kernel holds, for services with `steering = \"kernel\"` and for when lbd does not decide, up to 16777216; 0 for none: see [When lbd is dead](fallback.md)",
            Default::Value("1048576"),
        ),
        key(
            "announce_table",
            "the kernel's routing table, 1 to 252, that gets a route for each VIP that this balancer can serve, for a routing daemon to announce: see [Announcements](announcements.md)",
            Default::Words("none"),
        ),
    ],
    nested: &[],
};

/// `[timeouts]`.
pub const TIMEOUTS: Section = Section {
    header: "[timeouts]",
    limit: "",
    about: "of connection tracking, for flows to VIPs only",
    keys: &[
        key("tcp_established_seconds", "RFC 5382 asks for 7440 at least", Default::Value("7440")),
        key("tcp_closing_seconds", "since the last packet; RFC 5382 asks for 240", Default::Value("240")),
        key("udp_seconds", "since the last packet", Default::Value("120")),
    ],
    nested: &[],
};

/// `[fragments]`.
pub const FRAGMENTS: Section = Section {
    header: "[fragments]",
    limit: "",
    about: "limits of the fragment table",
    keys: &[
        key(
            "ttl_ms",
            "how long a packet is remembered after its last fragment, 10 to 60000",
            Default::Value("200"),
        ),
        key("entries", "packets of which something is remembered, 64 to 1048576", Default::Value("16384")),
        key(
            "entries_per_source",
            "of one source (an IPv4 address, an IPv6 /64), not above `entries`",
            Default::Words("2048, or `entries` if that is less"),
        ),
        key("held_packets", "fragments that wait for their first one, 16 to 65536", Default::Value("8192")),
        key("held_bytes", "their bytes, 65536 to 268435456", Default::Value("16777216")),
        key(
            "held_bytes_per_source",
            "of one source, 9216 to `held_bytes`; each fragment counts as `held_bytes` / `held_packets` (2048) at least",
            Default::Words("1048576, or `held_bytes` if that is less"),
        ),
    ],
    nested: &[],
};

/// `[tracer]`.
pub const TRACER: Section = Section {
    header: "[tracer]",
    limit: "",
    about: "",
    keys: &[
        key(
            "receivers",
            "addresses or prefixes that reports may be sent to, up to 64",
            Default::Words("none"),
        ),
        key(
            "per_second",
            "probes that are answered, 1 to 10000, and as many at once after a pause",
            Default::Value("100"),
        ),
    ],
    nested: &[],
};

/// `[http]`.
pub const HTTP: Section = Section {
    header: "[http]",
    limit: "",
    about: "lbagent shows what there is, by HTTP; without this table it does not: see [HTTP](http.md)",
    keys: &[
        key(
            "unix",
            "whether it listens on `/run/synrail/REGION.http`, where root and the group `synrail` may also change what gets new flows",
            Default::Value("true"),
        ),
        key(
            "listen",
            "where else it listens, such as `\"127.0.0.1:9469\"`, up to 16; a client can read there, and change nothing",
            Default::Words("none"),
        ),
        key(
            "names",
            "host names by which it is called, besides addresses and `localhost`, up to 16: a request for another host is refused",
            Default::Words("none"),
        ),
    ],
    nested: &[],
};

/// `[[tier.balancer]]`.
pub const TIER: Section = Section {
    header: "[[tier.balancer]]",
    limit: "up to 64",
    about: "the balancers that share the work of fragments, this one among them",
    keys: &[
        key("name", "its `[balancer] name`", Default::Needed),
        key(
            "address",
            "its `[balancer] address`, at most one of each family; every two balancers share a family, and IPv4 is taken where both have it",
            Default::Needed,
        ),
        key(
            "active",
            "whether it owns fragments; what `lbctl tier activate` and `deactivate` said goes before, until this changes",
            Default::Words("`true`"),
        ),
    ],
    nested: &[],
};

/// `[[service]]`.
pub const SERVICE: Section = Section {
    header: "[[service]]",
    limit: "up to 1024",
    about: "",
    keys: &[
        key("name", "unique", Default::Needed),
        key(
            "renamed_from",
            "its name before, which the file no longer has: what is set of its backends goes on. It does nothing where that is done",
            Default::Words("none"),
        ),
        key("vips", "addresses or prefixes, up to 256", Default::Needed),
        key("protocols", "of `tcp`, `udp`, `sctp`", Default::Words("every protocol, hashed on addresses")),
        key("ports", "`\"80\"`, `\"8000-8010\"`", Default::Words("all")),
        key("hash", "`\"5-tuple\"`, or `\"source\"`: one client, one backend", Default::Value("\"5-tuple\"")),
        key(
            "pmtu",
            "of packets too large for a tunnel: `\"icmp\"` tells the sender what fits; `\"fragment-outer\"` sends the tunnel's packets in fragments, which only `gre` over IPv4 can (for every service that shares the tunnel)",
            Default::Value("\"icmp\""),
        ),
        key(
            "steering",
            "`\"kernel\"`: the kernel decides about new flows, not lbd; see below. Otherwise as `[balancer] steering`",
            Default::Value("\"syn-only\""),
        ),
        key(
            "no_backend",
            "what happens to new flows while none of its backends is active: `\"drop\"`; `\"reject\"` tells clients at once, by a TCP reset or ICMP \"port unreachable\"; `\"service:NAME\"` gives them to the backends of that service: see [No backend left](operations.md#no-backend-left)",
            Default::Value("\"drop\""),
        ),
        key("table_size", "a prime up to 1048573; 100 times the backends or more", Default::Value("65537")),
        key(
            "announce",
            "with `announce_table`: whether its VIPs are announced while it can be served: see [Announcements](announcements.md)",
            Default::Value("true"),
        ),
        key(
            "announce_min",
            "how many backends must be enabled and healthy for that, 1 to 4096",
            Default::Value("1"),
        ),
    ],
    nested: &["health", "backend"],
};

/// `[service.health]`.
pub const HEALTH: Section = Section {
    header: "[service.health]",
    limit: "",
    about: "how lbagent checks the backends of the service: see [Health checks](health.md)",
    keys: &[
        key("kind", "`tcp`, `http`, `https`, `udp`, `dns`, `icmp` or `exec`", Default::Needed),
        key(
            "via",
            "`\"tunnel\"`: to the VIP, through the backend's own tunnel, as packets of clients; `\"direct\"`: to the backend's `address`",
            Default::Value("\"tunnel\""),
        ),
        key("port", "where to, 1 to 65535", Default::Words("the first of the service's `ports`")),
        key(
            "interval_ms",
            "from the start of a check to the start of the next one, 100 to 3600000",
            Default::Value("2000"),
        ),
        key(
            "timeout_ms",
            "how long a check may take, 10 to 60000, and not more than `interval_ms`",
            Default::Value("1000"),
        ),
        key(
            "jitter_percent",
            "by how much an interval may be shorter or longer, 0 to 50, so that checks do not come at once",
            Default::Value("10"),
        ),
        key(
            "rise",
            "how many checks in a row must succeed before a backend that is down counts as up, 1 to 100",
            Default::Value("2"),
        ),
        key(
            "fall",
            "how many checks in a row must fail before a backend that is up counts as down, 1 to 100",
            Default::Value("3"),
        ),
        key(
            "grace_ms",
            "how long failures of a backend that was never up do not count, 0 to 3600000",
            Default::Value("0"),
        ),
        key(
            "panic_below_percent",
            "all enabled backends count as up while less than this share of their weight is up, 0 to 100; 0 for never",
            Default::Value("30"),
        ),
        key(
            "on_down",
            "`\"keep\"`, or `\"kill\"`: flows of a backend that goes down end, and go on at another one that takes new flows",
            Default::Words("keep for TCP and SCTP, kill for all else"),
        ),
        key(
            "agent_port",
            "the port of an agent on each backend (HAProxy's `agent-check`), 1 to 65535, which may lower its weight or take it out: see [The agent on a backend](health.md#the-agent-on-a-backend)",
            Default::Words("none is asked"),
        ),
        key(
            "agent_interval_ms",
            "from the start of a question to that agent to the start of the next one, 100 to 3600000",
            Default::Words("`interval_ms`"),
        ),
        key(
            "agent_send",
            "text that is sent to that agent first, up to 1024 bytes; HAProxy's `agent-send`",
            Default::Words("none"),
        ),
        key("method", "of `http` and `https`", Default::Value("\"GET\"")),
        key("path", "of `http` and `https`", Default::Value("\"/\"")),
        key("host", "the header of `http` and `https`", Default::Words("the address and the port")),
        key(
            "status",
            "of `http` and `https`: which status codes count as success, such as `[\"200-299\", \"401\"]`",
            Default::Value("\"200-399\""),
        ),
        key(
            "body",
            "of `http` and `https`: text that the first 65536 bytes of the body must contain",
            Default::Words("any"),
        ),
        key(
            "verify",
            "of `https`: whether the certificate must be valid for `server_name`",
            Default::Value("true"),
        ),
        key(
            "server_name",
            "of `https`: the name in the certificate, which is also sent (SNI)",
            Default::Words("`host`, or the address"),
        ),
        key(
            "ca_file",
            "of `https`: the certificates that are trusted (PEM), with the whole path",
            Default::Words("those of this host"),
        ),
        key("send", "of `udp`: the payload", Default::Words("empty")),
        key(
            "expect",
            "of `udp`: text that the answer must contain; of `dns`: an address that it must contain",
            Default::Words(
                "`udp`: no answer is needed, unless the port is unreachable; `dns`: any answer without an error",
            ),
        ),
        key("query", "of `dns`: the name that is asked for", Default::Words("none; `dns` needs it")),
        key("record", "of `dns`: `A`, `AAAA`, `SOA` or `TXT`", Default::Words("`\"A\"`")),
        key(
            "command",
            "of `exec`: the program with its whole path, and its arguments, up to 32; there is no shell",
            Default::Words("none; `exec` needs it"),
        ),
    ],
    nested: &[],
};

/// `[[service.backend]]`.
pub const BACKEND: Section = Section {
    header: "[[service.backend]]",
    limit: "up to 4096 targets",
    about: "",
    keys: &[
        key("name", "seeds its place in the table: keep it", Default::Needed),
        key("address", "IPv4 or IPv6; none with `encap = \"mark\"`", Default::Needed),
        key("weight", "1 to 100", Default::Value("1")),
        key(
            "encap",
            "`gre`, `ipip`, `gue`, `direct` (next hop on one segment); `ip6gre`, `ip6tnl` (the same, IPv6 only); `mark` (only the mark is set, you route it)",
            Default::Value("\"gre\""),
        ),
        key(
            "active",
            "whether it gets new flows; what `lbctl enable`, `drain` and `disable` said goes before, until this changes, also under a new name with the same `address` and `encap`",
            Default::Words("`true`"),
        ),
    ],
    nested: &[],
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// Parses a file in which this key of this section has this value, or is left out.
    fn file(header: &str, set: Option<(&str, &str)>) -> Config {
        let line = |of: &str| match set {
            Some((name, value)) if of == header => format!("{name} = {value}\n"),
            _ => String::new(),
        };
        let text = format!(
            "[balancer]\nname = 'lb'\ninterfaces = 'eth1'\naddress = ['192.0.2.1', '2001:db8::1']\n{}\
             [timeouts]\n{}[fragments]\n{}[tracer]\n{}[http]\n{}\
             [[tier.balancer]]\nname = 'lb'\naddress = ['192.0.2.1', '2001:db8::1']\n{}\
             [[service]]\nname = 'web'\nvips = '198.51.100.1'\nprotocols = 'tcp'\n{}\
             [service.health]\nkind = 'https'\nport = 443\n{}\
             [[service.backend]]\nname = 's1'\naddress = '192.0.2.9'\n{}",
            line("[balancer]"),
            line("[timeouts]"),
            line("[fragments]"),
            line("[tracer]"),
            line("[http]"),
            line("[[tier.balancer]]"),
            line("[[service]]"),
            line("[service.health]"),
            line("[[service.backend]]"),
        );
        Config::parse("a test", &text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn defaults_of_keys_are_those_of_the_pages() {
        let mut values = 0;
        for section in SECTIONS {
            let without = file(section.header, None);
            for key in section.keys {
                if let Default::Value(value) = key.default {
                    assert_eq!(
                        file(section.header, Some((key.name, value))),
                        without,
                        "{} {}",
                        section.header,
                        key.name
                    );
                    values += 1;
                }
            }
        }
        assert!(values > 20, "{values}");
    }

    #[test]
    fn each_key_stands_once() {
        for section in SECTIONS {
            let mut names = section.names();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), section.keys.len() + section.nested.len(), "{}", section.header);
        }
    }
}
