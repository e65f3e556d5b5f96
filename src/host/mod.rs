//! What a host does to packets to virtual addresses, judged. PURE.
//!
//! [`sys::probe`](crate::sys::probe) takes a [`Snapshot`]: settings, devices, addresses, other programs' filters.
//! [`judge`] makes [`Finding`]s of it, each with what to do. lbd takes one at its start and at every repair, `lbctl check`
//! and `lbd --check --host` whenever they are asked. Whatever keeps packets from backends without a trace belongs here.
//!
//! A finding names no number that changes by itself: what was told once is told again only when it differs ([`Told`]).

mod judge;
mod nat;
mod own;
mod told;
mod ways;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::Serialize;

pub use judge::{judge, settings};
pub use nat::{Condition, Device, Effect, NatChain, NatRule, What};
pub use own::{new_own_vips, own_vips};
pub use told::Told;
pub use ways::{Way, ways};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Works, but otherwise than one might think.
    Note,
    /// Something that may be wanted will not work.
    Warning,
    /// Balancing cannot work, for some packets at least.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at: a kernel part, a sysctl by its full name, a device, a VIP.
    pub name: String,
    /// What was found.
    pub value: String,
    /// What is wanted.
    pub wanted: String,
    /// What it means, and what to do about it.
    pub advice: String,
    /// Whether lbd does not start with it. What comes later ends no lbd.
    #[serde(skip)]
    pub stops_start: bool,
}

impl Finding {
    /// A finding with which lbd starts.
    #[must_use]
    pub fn new(severity: Severity, name: &str, value: &str, wanted: &str, advice: String) -> Self {
        let (name, value, wanted) = (name.to_owned(), value.to_owned(), wanted.to_owned());
        Self { severity, name, value, wanted, advice, stops_start: false }
    }

    /// The same, and lbd does not start with it.
    #[must_use]
    pub fn stopping_start(self) -> Self {
        Self { stops_start: true, ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, wanted, advice, .. } = self;
        write!(f, "{name} is {value}, wanted {wanted}: {advice}")
    }
}

/// How many findings there are that matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Of severity error.
    pub errors: u64,
    /// Of severity warning.
    pub warnings: u64,
}

impl Tally {
    /// Counts them.
    #[must_use]
    pub fn of(findings: &[Finding]) -> Self {
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count() as u64;
        Self { errors: count(Severity::Error), warnings: count(Severity::Warning) }
    }
}

/// A host as it was at one moment, as far as it concerns packets to VIPs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Of the settings that [`settings`] names, those that there are: their paths below `/proc/sys`, and values.
    pub settings: BTreeMap<String, u32>,
    /// Devices, by name.
    pub links: BTreeMap<String, Link>,
    /// What the kernel delivers to this host itself.
    pub locals: Vec<Local>,
    /// Those of [`ways`] that the kernel knows no route for.
    pub unreachable: Vec<IpAddr>,
    /// Base chains of other programs that drop what none of their rules accepts.
    pub drops: Vec<ForeignChain>,
    /// Base chains of other programs that translate addresses.
    pub nats: Vec<NatChain>,
    /// The older iptables ("legacy") that have a table `filter`: "iptables" or "ip6tables".
    pub legacy: Vec<&'static str>,
    /// What could not be looked at, and why.
    pub unread: Vec<(&'static str, String)>,
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether it is set up.
    pub up: bool,
    /// Whether its cable, or what stands for it, is in.
    pub carrier: bool,
    /// The bridge or bond that it is a port of: packets come in by that one.
    pub port_of: Option<String>,
    /// The VRF that it is in.
    pub vrf: Option<String>,
}

/// Addresses that the kernel's table `local` delivers to this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Mostly a single one.
    pub net: IpNet,
    /// The device that has it.
    pub device: String,
    /// What for.
    pub kind: LocalKind,
    /// Whether the kernel has made the route of an address; else somebody has added it.
    pub by_address: bool,
    /// The table of the route: [`TABLE_LOCAL`], or that of a VRF.
    pub table: u32,
}

/// The kernel's table `local`.
pub const TABLE_LOCAL: u32 = 255;

/// What a local address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalKind {
    /// The host's own.
    Own,
    /// A network's broadcast address.
    Broadcast,
    /// One that several hosts have, such as that of all routers of a network.
    Anycast,
}

impl fmt::Display for LocalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "an address",
            Self::Broadcast => "a broadcast address",
            Self::Anycast => "an anycast address",
        })
    }
}

/// A base chain of another program's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignChain {
    /// "ip", "ip6" or "inet".
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// As nft names it: "prerouting", say.
    pub hook: &'static str,
}

impl fmt::Display for ForeignChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, table, chain, hook } = self;
        write!(f, "chain {chain} of table {family} {table}, hook {hook}")
    }
}

impl Local {
    /// One address of the host's own.
    #[must_use]
    pub fn own(address: IpAddr, device: &str) -> Self {
        let (net, device) = (address.into(), device.to_owned());
        Self { net, device, kind: LocalKind::Own, by_address: true, table: TABLE_LOCAL }
    }
}

impl Snapshot {
    /// Whether the host has this address for its own.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        self.local(address).is_some_and(|local| local.kind == LocalKind::Own)
    }

    /// What makes the kernel deliver packets to this address here.
    #[must_use]
    pub fn local(&self, address: IpAddr) -> Option<&Local> {
        self.locals.iter().find(|local| local.net.contains(&address))
    }

    /// What of the settings is there.
    fn setting(&self, path: &str) -> Option<u32> {
        self.settings.get(path).copied()
    }
}

/// Whether a prefix is all addresses of its family, as a region has it that was made without a file.
fn is_everything(net: &IpNet) -> bool {
    let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    net.prefix_len() == 0 && any.contains(&net.addr())
}

#[cfg(test)]
mod tests;
