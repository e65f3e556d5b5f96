//! Finds missing parts of the kernel, and takes a snapshot of the host, which [`crate::host`] judges. Only
//! reads, and changes nothing.
//!
//! Parts of nf_tables are checked with `nft -c`, in an empty network namespace: the kernel accepts a small
//! ruleset, loads the modules that it needs, and discards it before anything is in force. Files are read
//! below a root directory that tests replace.

use std::{
    borrow::BorrowMut,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    conntrack::Conntrack,
    nft::{Foreign, NftError, check, foreign, means},
    rtnetlink::{Routing, RoutingError},
};
use crate::{
    config::Balancer,
    host::{self, Finding, Severity, Snapshot},
    plan::ruleset::{Means, QueueBy},
    state::State,
};

/// What was found on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which optional features this kernel has.
    pub means: Means,
    /// Parts of the kernel that are missing.
    pub missing: Vec<Finding>,
}

/// Checks the parts of the kernel that a balancer with these settings needs.
///
/// # Errors
/// Returns an error if there is no nft command.
pub fn probe(balancer: &Balancer) -> Result<Probe, NftError> {
    let mut findings = Vec::new();
    let hash = (balancer.kernel_entries > 0).then_some(&NFT_HASH);
    let parts: Vec<&NftPart> = NFT_PARTS.iter().chain(hash).collect();
    let texts: Vec<&str> = parts.iter().map(|part| part.text).collect();
    for (part, answer) in parts.iter().zip(check("a part of nf_tables", &texts)?) {
        if let Err(message) = answer {
            findings.push(missing(part.name, &first_line(&message), part.module));
        }
    }
    let means = means()?;
    if means.queue_by == QueueBy::Xtables {
        let advice = "the NFQUEUE target of xtables is used instead (modules nft_compat, xt_NFQUEUE)";
        findings.push(Finding::new(Severity::Note, "nft_queue", "missing", "present", advice.to_owned()));
    }
    if !means.flowtable && balancer.wants_flowtable() {
        let advice = "long flows are not promoted, and go by the ruleset as others do (balancer.offload; kernel modules \
                      nf_flow_table_inet, nft_flow_offload and nft_numgen)";
        findings.push(Finding::new(
            Severity::Note,
            "nft_flow_offload",
            "missing",
            "present",
            advice.to_owned(),
        ));
    }
    if !means.reject {
        let advice =
            "services with no_backend = \"reject\" drop new flows instead (kernel module nft_reject_inet)";
        findings.push(Finding::new(Severity::Note, "nft_reject", "missing", "present", advice.to_owned()));
    }
    findings.extend(connection_marks());
    findings.extend(Files::of_this_host().modules());
    Ok(Probe { means, missing: findings })
}

/// Takes a snapshot of what this host does to packets, for a balancer with this state. The snapshot names
/// what could not be read.
#[must_use]
pub fn look(state: &State) -> Snapshot {
    look_by(Routing::open(), state)
}

/// As [`look`], with a connection to routing that is open already.
pub fn look_with(routing: &mut Routing, state: &State) -> Snapshot {
    look_by(Ok(routing), state)
}

fn look_by<R: BorrowMut<Routing>>(routing: Result<R, RoutingError>, state: &State) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let read = routing.and_then(|mut routing| {
        let routing = routing.borrow_mut();
        (snapshot.links, snapshot.locals) = routing.host()?;
        snapshot.unreachable = routing.unreachable(&host::ways(state, &snapshot))?;
        Ok(())
    });
    if let Err(error) = read {
        snapshot.unread.push(("the host's devices, addresses and routes", error.to_string()));
    }
    let files = Files::of_this_host();
    for path in host::settings(&state.balancer) {
        if let Some(value) = files.setting(&path) {
            snapshot.settings.insert(path, value);
        }
    }
    match foreign() {
        Ok(Foreign { drops, nats }) => (snapshot.drops, snapshot.nats) = (drops, nats),
        Err(error) => snapshot.unread.push(("filters of other programs in nf_tables", error.to_string())),
    }
    match files.legacy() {
        Ok(legacy) => snapshot.legacy = legacy,
        Err(error) => snapshot.unread.push(("iptables-legacy", error.to_string())),
    }
    snapshot
}

/// A part of nf_tables, and a ruleset that needs it.
struct NftPart {
    name: &'static str,
    module: &'static str,
    text: &'static str,
}

const NFT_PARTS: [NftPart; 6] = [
    NftPart {
        name: "nf_tables, family inet",
        module: "nf_tables",
        text: "table inet synrail_check { chain c { type filter hook prerouting priority mangle; }\n}\n",
    },
    NftPart {
        name: "connection tracking in nf_tables",
        module: "nf_conntrack and nft_ct",
        text: "table inet synrail_check { chain c { ct mark 0 ct mark set meta mark; notrack; }\n}\n",
    },
    NftPart {
        name: "timeouts of connection tracking in nf_tables",
        module: "nft_ct (with CONFIG_NF_CONNTRACK_TIMEOUT) and nft_objref",
        text: "table inet synrail_check { ct timeout t { protocol tcp; l3proto ip; policy = { close : 9 }; }\n\
               chain c { ct timeout set \"t\"; }\n}\n",
    },
    NftPart {
        name: "sets of ranges with several fields in nf_tables",
        module: "nf_tables (pipapo sets)",
        text: "table inet synrail_check { set s { type ipv4_addr . inet_proto . inet_service; flags interval; }\n\
               chain c { ip daddr . meta l4proto . th dport @s accept; }\n}\n",
    },
    NftPart {
        name: "maps that rules update in nf_tables",
        module: "nf_tables (hash sets, dynset)",
        text: "table inet synrail_check { map m { type ipv4_addr : mark; size 9; flags dynamic,timeout; timeout 1s; }\n\
               chain c { update @m { ip saddr : meta mark }; delete @m { ip saddr : meta mark }; }\n}\n",
    },
    NftPart {
        name: "named counters in nf_tables",
        module: "nft_objref",
        text: "table inet synrail_check { counter k { }\nchain c { counter name k; }\n}\n",
    },
];

/// The part that fallback tables need.
const NFT_HASH: NftPart = NftPart {
    name: "hashes in nf_tables (not needed with kernel_entries = 0)",
    module: "nft_hash",
    text: "table inet synrail_check { map m { typeof numgen inc mod 3 : meta mark; size 3; }\n\
           chain c { meta mark set jhash ip saddr . ip daddr mod 3 seed 1 map @m; }\n}\n",
};

/// A finding about a missing part of the kernel without which nothing works.
fn missing(name: &str, value: &str, module: &str) -> Finding {
    let advice = format!("kernel module {module}; Debian: package linux-image-amd64");
    Finding::new(Severity::Error, name, value, "present", advice).stopping_start()
}

/// Reports a problem if connection tracking cannot be asked, which fragments need.
fn connection_marks() -> Option<Finding> {
    let error = match Conntrack::open() {
        Ok(conntrack) => conntrack.missing()?,
        Err(error) => error,
    };
    let advice = "fragments of a flow may reach another backend than its whole packets once the table has changed; \
                  kernel module nf_conntrack_netlink; Debian: package linux-image-amd64";
    let value = format!("not answering ({error})");
    Some(Finding::new(Severity::Warning, "nf_conntrack_netlink", &value, "present", advice.to_owned()))
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or("refused").to_owned()
}

/// The files of a host, below `root`.
struct Files {
    root: PathBuf,
}

impl Files {
    fn of_this_host() -> Self {
        Self { root: PathBuf::from("/") }
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok().map(|text| text.trim().to_owned())
    }

    fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.root.join(path).exists()
    }

    fn module(&self, name: &str) -> Option<bool> {
        if self.exists(format!("sys/module/{name}")) {
            return Some(true);
        }
        let release = self.read("proc/sys/kernel/osrelease")?;
        let file = format!("/{name}.ko");
        let listed = ["modules.dep", "modules.builtin"].map(|list| {
            let text = self.read(&format!("lib/modules/{release}/{list}"))?;
            Some(text.lines().any(|line| line.split(':').next().is_some_and(|path| path.contains(&file))))
        });
        match listed {
            [None, None] => None,
            known => Some(known.contains(&Some(true))),
        }
    }

    fn modules(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let queue_is_there = self.exists("proc/net/netfilter/nfnetlink_queue");
        if !queue_is_there && self.module("nfnetlink_queue") == Some(false) {
            let name = "nfnetlink_queue";
            findings.push(missing(name, "missing", name));
        }
        if !self.exists("dev/net/tun") {
            // Held fragments return to the kernel by this device.
            findings.push(missing("/dev/net/tun", "missing", "tun"));
        }
        findings
    }

    /// Reads a path below `/proc/sys`. Network settings are those of the calling thread's namespace.
    fn setting(&self, path: &str) -> Option<u32> {
        self.read(&format!("proc/sys/{path}"))?.parse().ok()
    }

    /// Returns the legacy iptables programs that have a table `filter` here.
    fn legacy(&self) -> io::Result<Vec<&'static str>> {
        let mut found = Vec::new();
        for (program, file) in [("iptables", "ip_tables_names"), ("ip6tables", "ip6_tables_names")] {
            let path = self.root.join("proc/thread-self/net").join(file);
            match fs::read_to_string(path) {
                Ok(tables) if tables.lines().any(|table| table == "filter") => found.push(program),
                Ok(_) => {}
                // Without its module there are no legacy rules.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Files) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = directory.path().to_owned();
        (directory, Files { root })
    }

    #[test]
    fn a_module_is_loaded_built_in_installed_missing_or_unknown() {
        let (_directory, host) = host(&[
            ("proc/sys/kernel/osrelease", "6.1.0\n"),
            ("sys/module/tun/x", ""),
            ("lib/modules/6.1.0/modules.dep", "kernel/net/ip_gre.ko.xz: kernel/net/gre.ko.xz\n"),
            ("lib/modules/6.1.0/modules.builtin", "kernel/net/unix.ko\n"),
        ]);
        for (name, there) in [("tun", true), ("ip_gre", true), ("unix", true), ("gre", false), ("re", false)]
        {
            assert_eq!(host.module(name), Some(there), "{name}");
        }
        let (_directory, bare) = self::host(&[("proc/sys/kernel/osrelease", "6.18.0\n")]);
        assert_eq!(bare.module("ip_gre"), None);
    }

    #[test]
    fn settings_and_older_tables_are_read() {
        let (_directory, host) = host(&[
            ("proc/sys/net/ipv4/conf/eth.2/rp_filter", "1\n"),
            ("proc/sys/net/ipv4/conf/eth.2/x", "one\n"),
            ("proc/thread-self/net/ip_tables_names", "nat\nfilter\n"),
            ("proc/thread-self/net/ip6_tables_names", "raw\n"),
        ]);
        assert_eq!(host.setting("net/ipv4/conf/eth.2/rp_filter"), Some(1));
        assert_eq!(host.setting("net/ipv4/conf/eth.2/x"), None);
        assert_eq!(host.setting("net/ipv4/ip_forward"), None);
        assert_eq!(host.legacy().unwrap(), ["iptables"]);
        let (_directory, bare) = self::host(&[]);
        assert_eq!(bare.legacy().unwrap(), [""; 0]);
    }
}
