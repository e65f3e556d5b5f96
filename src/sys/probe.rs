//! What the host lacks: parts of the kernel, and settings that synrail depends on. Reads only, sets nothing; what it
//! finds is a value that lbd prints, and that `lbctl check` may.
//!
//! Parts of nf_tables are asked for with `nft -c`, in a network namespace where nothing else is: the kernel takes a small
//! ruleset, loads the modules it needs, and throws it away before anything is in force. Files are read below a root that tests replace.

use std::{
    fs,
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
};

use super::{
    conntrack::Conntrack,
    nft::{ForeignChain, Hook, NftError, check, foreign_drops, queue_by},
};
use crate::{
    config::{Balancer, InterfaceName},
    plan::ruleset::QueueBy,
};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Works, but otherwise than one might think.
    Note,
    /// Something that may be wanted will not work.
    Warning,
    /// Balancing cannot work.
    Error,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at: a kernel part, or a sysctl by its full name.
    pub name: String,
    /// What was found.
    pub value: String,
    /// What is wanted.
    pub wanted: String,
    /// How bad it is.
    pub severity: Severity,
    /// What to do about it.
    pub advice: String,
}

/// What was found on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// How this kernel can queue packets.
    pub queue_by: QueueBy,
    /// Everything that is not as it should be, worst first.
    pub findings: Vec<Finding>,
}

/// Looks at this host, whose balancer has these settings.
///
/// # Errors
/// When there is no nft command.
pub fn probe(balancer: &Balancer) -> Result<Probe, NftError> {
    let mut findings = Vec::new();
    let copies = (balancer.kernel_entries > 0).then_some(&NFT_HASH);
    let parts: Vec<&NftPart> = NFT_PARTS.iter().chain(copies).collect();
    let texts: Vec<&str> = parts.iter().map(|part| part.text).collect();
    for (part, answer) in parts.iter().zip(check("a part of nf_tables", &texts)?) {
        if let Err(message) = answer {
            findings.push(missing(part.name, &first_line(&message), Severity::Error, part.module));
        }
    }
    let queue_by = queue_by()?;
    if queue_by == QueueBy::Xtables {
        findings.push(Finding {
            name: "nft_queue".to_owned(),
            value: "missing".to_owned(),
            wanted: "present".to_owned(),
            severity: Severity::Note,
            advice: "the NFQUEUE target of xtables is used instead (modules nft_compat, xt_NFQUEUE)"
                .to_owned(),
        });
    }
    findings.extend(connection_marks());
    findings.extend(foreign_rules());
    let host = Host { root: PathBuf::from("/") };
    findings.extend(host.modules());
    findings.extend(host.sysctls(&balancer.interfaces));
    findings.extend(balancer.addresses().filter_map(address));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(Probe { queue_by, findings })
}

/// Whether tunnels can start and end at this address: only a socket of an address of this host can be bound to it.
fn address(address: IpAddr) -> Option<Finding> {
    let error = UdpSocket::bind((address, 0)).err()?;
    Some(Finding {
        name: "[balancer] address".to_owned(),
        value: format!("{address} ({error})"),
        wanted: "an address of this host".to_owned(),
        severity: Severity::Warning,
        advice: "what tunnels carry to it does not arrive, and firewalls may drop what comes from it"
            .to_owned(),
    })
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

/// Of the kernel's copies of tables.
const NFT_HASH: NftPart = NftPart {
    name: "hashes in nf_tables (not needed with kernel_entries = 0)",
    module: "nft_hash",
    text: "table inet synrail_check { map m { typeof numgen inc mod 3 : meta mark; size 3; }\n\
           chain c { meta mark set jhash ip saddr . ip daddr mod 3 seed 1 map @m; }\n}\n",
};

fn missing(name: &str, value: &str, severity: Severity, module: &str) -> Finding {
    Finding {
        name: name.to_owned(),
        value: value.to_owned(),
        wanted: "present".to_owned(),
        severity,
        advice: format!("kernel module {module}; Debian: package linux-image-amd64"),
    }
}

/// What rules of other programs may do to packets to VIPs. Nothing, where the kernel does not tell.
#[must_use]
pub fn foreign_rules() -> Vec<Finding> {
    foreign_drops().unwrap_or_default().iter().map(foreign_rule).collect()
}

fn foreign_rule(found: &ForeignChain) -> Finding {
    let ForeignChain { family, table, chain, hook, .. } = found;
    let what = match hook {
        Hook::Prerouting => "packets to VIPs are",
        Hook::Forward => "packets on their way to a backend are",
        Hook::Input => "what tunnels carry to this host (gre_in, other balancers of the tier) is",
    };
    Finding {
        name: format!("chain {chain} of nft table {family} {table}, hook {hook}"),
        value: "policy drop".to_owned(),
        wanted: "policy accept, or a rule that accepts".to_owned(),
        severity: Severity::Warning,
        advice: format!(
            "{what} dropped there unless a rule accepts them: accept what goes to VIPs by its addresses, not by ct state, \
             which does not know flows that are seen in one direction"
        ),
    }
}

/// Whether connection tracking can be asked, as is done for fragments.
fn connection_marks() -> Option<Finding> {
    let error = match Conntrack::open() {
        Ok(conntrack) => conntrack.missing()?,
        Err(error) => error,
    };
    Some(Finding {
        name: "nf_conntrack_netlink".to_owned(),
        value: format!("not answering ({error})"),
        wanted: "present".to_owned(),
        severity: Severity::Warning,
        advice: "fragments of a flow may reach another backend than its whole packets once the table has changed; \
                 kernel module nf_conntrack_netlink; Debian: package linux-image-amd64"
            .to_owned(),
    })
}

/// A sysctl that is 0 and should be 1.
fn not_set(name: String, severity: Severity, advice: String) -> Finding {
    Finding { name, value: "0".to_owned(), wanted: "1".to_owned(), severity, advice }
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or("refused").to_owned()
}

/// The files of a host.
struct Host {
    root: PathBuf,
}

impl Host {
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
            findings.push(missing(name, "missing", Severity::Error, name));
        }
        if !self.exists("dev/net/tun") {
            // Held fragments come back by it.
            findings.push(missing("/dev/net/tun", "missing", Severity::Error, "tun"));
        }
        findings
    }

    fn sysctl(&self, name: &str) -> Option<u32> {
        self.read(&format!("proc/sys/{}", name.replace('.', "/")))?.parse().ok()
    }

    fn sysctls(&self, interfaces: &[InterfaceName]) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut expect = |name: &str, severity, advice: &str| {
            if self.sysctl(name) == Some(0) {
                findings.push(not_set(name.to_owned(), severity, format!("{advice}: sysctl -w {name}=1")));
            }
        };
        expect("net.ipv4.ip_forward", Severity::Error, "IPv4 is not forwarded to backends");
        expect("net.ipv6.conf.all.forwarding", Severity::Warning, "IPv6 is not forwarded to backends");
        let loose = "net.netfilter.nf_conntrack_tcp_loose";
        expect(
            loose,
            Severity::Error,
            "connections are picked up at their second packet, which this forbids",
        );
        for name in ["net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect"] {
            if self.sysctl(name) == Some(1) {
                findings.push(Finding {
                    name: name.to_owned(),
                    value: "1".to_owned(),
                    wanted: "0".to_owned(),
                    severity: Severity::Warning,
                    advice: format!(
                        "an ICMP error about a steered packet gets that packet's mark, and follows it to the backend \
                         instead of reaching its sender (path MTU discovery fails): sysctl -w {name}=0"
                    ),
                });
            }
        }
        for interface in interfaces {
            findings.extend(self.interface(interface));
        }
        findings
    }

    /// What keeps packets of this interface from being forwarded.
    fn interface(&self, interface: &InterfaceName) -> Vec<Finding> {
        let settings = format!("net/ipv4/conf/{interface}");
        if !self.exists(format!("proc/sys/{settings}")) {
            return vec![Finding {
                name: format!("interface {interface}"),
                value: "missing".to_owned(),
                wanted: "present".to_owned(),
                severity: Severity::Warning,
                advice: "no packets to VIPs come in by it until it is there".to_owned(),
            }];
        }
        let mut findings: Vec<Finding> = self.reverse_path_filter(interface).into_iter().collect();
        let forwards = self.read(&format!("proc/sys/{settings}/forwarding"));
        if self.sysctl("net.ipv4.ip_forward") == Some(1) && forwards.as_deref() == Some("0") {
            let name = format!("net.ipv4.conf.{interface}.forwarding");
            let advice = format!("IPv4 from it is not forwarded: sysctl -w {settings}/forwarding=1");
            findings.push(not_set(name, Severity::Error, advice));
        }
        findings
    }

    /// The kernel uses the larger of the setting for all and the device's own.
    fn reverse_path_filter(&self, interface: &InterfaceName) -> Option<Finding> {
        let of = |device: &str| {
            self.read(&format!("proc/sys/net/ipv4/conf/{device}/rp_filter"))?.parse::<u32>().ok()
        };
        let effective = of("all")?.max(of(interface.as_str())?);
        (effective == 1).then(|| Finding {
            name: format!("net.ipv4.conf.{interface}.rp_filter"),
            value: "1 (the larger of it and net.ipv4.conf.all.rp_filter)".to_owned(),
            wanted: "0 or 2".to_owned(),
            severity: Severity::Warning,
            advice: format!(
                "packets of clients whose route leads elsewhere are dropped: sysctl -w \
                 net/ipv4/conf/{interface}/rp_filter=2"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = directory.path().to_owned();
        (directory, Host { root })
    }

    fn names(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.name.as_str()).collect()
    }

    #[test]
    fn an_address_of_somebody_else_is_found() {
        assert_eq!(address([127, 0, 0, 1].into()), None);
        let finding = address([192, 0, 2, 77].into()).unwrap();
        assert!(finding.value.starts_with("192.0.2.77 ("), "{finding:?}");
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
    fn settings_that_stop_packets_are_found() {
        let interfaces = [InterfaceName::new("eth1").unwrap(), InterfaceName::new("eth.2").unwrap()];
        let (_directory, host) = host(&[
            ("proc/sys/net/ipv4/ip_forward", "1\n"),
            ("proc/sys/net/ipv6/conf/all/forwarding", "0\n"),
            ("proc/sys/net/netfilter/nf_conntrack_tcp_loose", "0\n"),
            ("proc/sys/net/ipv4/conf/all/rp_filter", "0\n"),
            ("proc/sys/net/ipv4/conf/eth1/rp_filter", "2\n"),
            ("proc/sys/net/ipv4/conf/eth1/forwarding", "0\n"),
            ("proc/sys/net/ipv4/conf/eth.2/rp_filter", "1\n"),
            ("proc/sys/net/ipv4/conf/eth.2/forwarding", "1\n"),
            ("proc/sys/net/ipv4/fwmark_reflect", "0\n"),
            ("proc/sys/net/ipv6/fwmark_reflect", "1\n"),
        ]);
        let expected = [
            "net.ipv6.conf.all.forwarding",
            "net.netfilter.nf_conntrack_tcp_loose",
            "net.ipv6.fwmark_reflect",
            "net.ipv4.conf.eth1.forwarding",
            "net.ipv4.conf.eth.2.rp_filter",
        ];
        assert_eq!(names(&host.sysctls(&interfaces)), expected);
    }

    #[test]
    fn what_is_not_there_yet_is_no_finding_but_an_interface_is() {
        let (_directory, host) = host(&[]);
        assert_eq!(names(&host.sysctls(&[])), [""; 0]);
        assert_eq!(names(&host.sysctls(&[InterfaceName::new("eth1").unwrap()])), ["interface eth1"]);
        assert_eq!(names(&host.modules()), ["/dev/net/tun"]);
    }
}
