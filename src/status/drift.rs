//! What differs between the kernel and the state in force, as findings: what differs, what that breaks, and what
//! mends it. PURE.

use std::fmt::Display;

use crate::{
    daemon::{DaemonError, Drift},
    host::{Finding, Severity},
    plan::{
        kernel_tables,
        nf_table::{Difference, Thing},
        routing::{self, ALIAS_PREFIX, Device, FRAGMENTS_DEVICE, Op, Route, TABLE_MAIN},
    },
    state::State,
    sys::{
        nft::{FallbackDifference, NftError},
        rtnetlink::RoutingError,
    },
};

/// At most so many findings of each part; the number of the others is told.
const SHOWN_MAX: usize = 50;

/// What the findings are about.
pub(super) struct Context<'a> {
    pub(super) state: &'a State,
    /// Whether an lbd follows the region.
    pub(super) running: bool,
}

/// The name of the finding that there is no ruleset.
pub(super) const RULESET: &str = "the ruleset";

impl Context<'_> {
    /// Returns what mends it.
    fn mended_by(&self) -> &'static str {
        if self.running {
            "lbd mends it within ten seconds, or its log says why not"
        } else {
            "mended by `lbctl check --repair`, and when lbd starts"
        }
    }

    fn error(&self, name: impl Display, value: impl Display, wanted: &str, breaks: impl Display) -> Finding {
        let advice = format!("{breaks}; {}", self.mended_by());
        Finding::new(Severity::Error, &name.to_string(), &value.to_string(), wanted, advice)
    }

    /// Returns what a comparison has found.
    pub(super) fn findings(&self, drift: &Drift) -> Vec<Finding> {
        let Drift { ruleset, routing, fallback, unheard, taken, fragments_device, unread } = drift;
        let mut findings = Vec::new();
        // Without the table everything in it is missing.
        let is_missing = ruleset.iter().any(|one| one.thing == Thing::Table && one.to_string() == NO_TABLE);
        if is_missing {
            let breaks = "nothing is steered, and what comes out of tunnels is not filtered";
            findings.push(self.error(RULESET, "missing", "table inet synrail", breaks));
        } else {
            limited(&mut findings, RULESET, ruleset.iter().map(|one| self.of_ruleset(one)));
            limited(&mut findings, "the fallback tables", fallback.iter().map(|one| self.of_fallback(one)));
        }
        limited(&mut findings, "routing", routing.iter().map(|op| self.of_routing(op)));
        findings.extend(unheard.iter().map(|queue| {
            let advice =
                "its packets go on undecided, by the fallback tables: look at the log of lbd, and restart it";
            Finding::new(
                Severity::Error,
                &format!("queue {}", queue.0),
                "without a listener",
                "lbd",
                advice.to_owned(),
            )
        }));
        findings.extend(taken.iter().map(|queue| {
            let advice = "lbd cannot start: end that program (/proc/net/netfilter/nfnetlink_queue has its netlink port, mostly \
                          its process ID), or give [balancer] queues and fragment_queue other numbers";
            let name = format!("queue {}", queue.0);
            Finding::new(Severity::Error, &name, "listened to by another program", "free", advice.to_owned())
        }));
        findings.extend(fragments_device.map(|is| {
            let breaks = "held fragments do not come back, and lbd holds no lease, so the kernel decides";
            self.error(format_args!("device {FRAGMENTS_DEVICE}"), is, "that of lbd", breaks)
        }));
        findings.extend(unread.iter().map(not_compared));
        findings
    }

    fn of_ruleset(&self, difference: &Difference) -> Finding {
        let breaks = match &difference.thing {
            Thing::Table => "no packet meets any rule: nothing is steered or filtered",
            Thing::Chain(name) if kernel_tables::is_our_chain(name) => TABLES_BREAK,
            Thing::Chain(_) => "packets to VIPs may be dropped, or go where they should not",
            Thing::Set(name) if kernel_tables::is_our_map(name) => TABLES_BREAK,
            Thing::Set(name) => of_set(name),
            Thing::Object(name) if name.starts_with("promoted") => {
                "long flows by that device meet every rule, or none where they should"
            }
            Thing::Object(_) => "flows are remembered for other times, or packets are not counted",
        };
        self.error("table inet synrail", format_args!("changed ({difference})"), "as lbd has made it", breaks)
    }

    fn of_routing(&self, op: &Op) -> Finding {
        match op {
            Op::AddDevice(device) => self.of_device(device, "missing"),
            Op::Ready(device) => {
                self.of_device(device, "not set up as it should be (up, MTU, alias, sysctls)")
            }
            Op::RemoveDevice(name) => {
                let breaks = "packets may come in, or go out, by a tunnel that nothing asks for";
                self.error(format_args!("device {name}"), "not wanted, or another tunnel", "none", breaks)
            }
            Op::AddRoute(route) => self.of_route(route, "missing", "present"),
            Op::ReplaceRoute(route) => self.of_route(route, "another one", "this one"),
            Op::RemoveRoute(route) => self.of_route(route, "not wanted", "none"),
            Op::AddRule(family, rule) => {
                let breaks = "packets to some backends do not find their route, and are dropped";
                self.error(format_args!("{family} {rule}"), "missing", "present", breaks)
            }
            Op::RemoveRule(family, rule) => {
                let breaks = "packets may go to another backend than lbd has chosen";
                self.error(format_args!("{family} {rule}"), "not wanted", "none", breaks)
            }
        }
    }

    fn of_device(&self, device: &Device, is: &str) -> Finding {
        let users = device.alias.strip_prefix(ALIAS_PREFIX).map_or("", str::trim);
        let breaks = format!("packets of {users} are lost, or not whole");
        self.error(format_args!("device {}", device.name), is, &device.tunnel.to_string(), breaks)
    }

    fn of_route(&self, route: &Route, is: &str, wanted: &str) -> Finding {
        let breaks = if routing::is_announcing(route) {
            format!(
                "routers send packets to {} here, or elsewhere, against what this balancer can do",
                route.to
            )
        } else if route.table == TABLE_MAIN {
            format!("packets to {} that nothing steers go back to the routers, again and again", route.to)
        } else {
            format!("packets to {} are lost, or go elsewhere", self.users(route.table))
        };
        self.error(route, is, wanted, breaks)
    }

    /// Returns what stands behind a target's table.
    fn users(&self, table: u32) -> String {
        let target = routing::target_of_table(table);
        let users = self.state.names().filter(|(of, _)| Some(*of) == target).map(|(_, name)| name);
        let users: Vec<String> = users.collect();
        if users.is_empty() { format!("the target of table {table}") } else { users.join(" ") }
    }

    fn of_fallback(&self, difference: &FallbackDifference) -> Finding {
        match difference {
            FallbackDifference::Entries { service, entries } => {
                let name = self.state.services.get(*service).map_or("?", |service| service.name.as_str());
                let is = format!("changed (entries: {entries})");
                self.error(
                    format_args!("fallback table of service {name}"),
                    is,
                    "the table of lbd",
                    TABLES_BREAK,
                )
            }
            FallbackDifference::NotWanted(name) => {
                let breaks = "it takes memory, and is of no service";
                self.error(format_args!("{name} in table inet synrail"), "not wanted", "none", breaks)
            }
        }
    }
}

const NO_TABLE: &str = "there is no table";
const TABLES_BREAK: &str =
    "where the kernel decides, new flows go to other backends than at other balancers, or are lost";

/// What other elements of a set, or another set, break.
fn of_set(name: &str) -> &'static str {
    let begins = |with: &[&str]| with.iter().any(|with| name.starts_with(with));
    if begins(&["interfaces", "ways", "steer_ways", "full"]) {
        "packets that come in by some device are not steered, or in another way"
    } else if begins(&["vip", "claimed"]) {
        "packets to some VIPs are not steered, or dropped"
    } else if begins(&["targets", "given", "kept_targets", "long_targets"]) {
        "open flows of some backends are steered anew, or are lost"
    } else if begins(&["kernel_"]) {
        TABLES_BREAK
    } else if begins(&["off_"]) {
        "open flows of backends that were drained may move to others"
    } else if begins(&["local", "remotes", "tunnels", "gre_in"]) {
        "what tunnels and routers send here is filtered otherwise"
    } else {
        "connections that are being opened may go to another backend, or are lost"
    }
}

/// Adds findings, up to a limit.
fn limited(to: &mut Vec<Finding>, what: &str, mut from: impl ExactSizeIterator<Item = Finding>) {
    let more = from.len().saturating_sub(SHOWN_MAX);
    to.extend(from.by_ref().take(SHOWN_MAX));
    if more > 0 {
        let advice = "only the first ones are listed".to_owned();
        to.push(Finding::new(
            Severity::Error,
            what,
            &format!("changed in {more} more places"),
            "unchanged",
            advice,
        ));
    }
}

/// Returns what could not be compared, and why.
pub(super) fn not_compared(error: &DaemonError) -> Finding {
    let lacks = if matches!(error, DaemonError::NotAllowed) {
        Some("it takes CAP_NET_ADMIN and CAP_SYS_ADMIN: run it as root")
    } else if matches!(error, DaemonError::Nft(NftError::NoNamespace(_))) {
        Some("it takes CAP_SYS_ADMIN: run it as root")
    } else {
        None
    };
    // Without the right to look nothing is known to be wrong.
    let severity = if lacks.is_some() || matches!(error, DaemonError::OtherKeeper { .. }) {
        Severity::Note
    } else if matches!(error, DaemonError::Routing(RoutingError::InTheWay(_))) {
        Severity::Error
    } else {
        Severity::Warning
    };
    let advice = lacks.map_or_else(|| error.to_string(), ToOwned::to_owned);
    Finding::new(
        severity,
        "the kernel's side",
        "not compared",
        "ruleset, devices, routes and rules as lbd makes them",
        advice,
    )
}
