//! Findings about what a host does to packets to virtual addresses. PURE.
//!
//! [`sys::probe`](crate::sys::probe) takes a [`Snapshot`]: settings, devices, addresses, other programs'
//! filters. [`judge`] makes [`Finding`]s from it, each with advice. lbd takes a snapshot at its start and at
//! every repair, `lbctl check` and `lbd --check --host` whenever they run. Everything that silently prevents
//! packets from reaching backends belongs here.
//!
//! A finding contains no number that changes by itself, because a finding that was reported is reported again
//! only if it differs ([`Reported`]).

mod judge;
mod nat;
mod own;
mod reported;
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
pub use reported::Reported;
pub use ways::{Way, ways};

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Works, but perhaps not as expected.
    Note,
    /// Something that may be needed will not work.
    Warning,
    /// Balancing cannot work, at least for some packets.
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

/// Something on the host that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// How serious it is.
    pub severity: Severity,
    /// What was checked: a kernel part, a sysctl by its full name, a device, a VIP.
    pub name: String,
    /// The value that was found.
    pub value: String,
    /// The value that it should have.
    pub wanted: String,
    /// What the finding means, and what to do about it.
    pub advice: String,
    /// Whether lbd refuses to start because of it. A finding that appears later does not end lbd.
    #[serde(skip)]
    pub stops_start: bool,
}

impl Finding {
    /// Makes a finding that does not prevent lbd from starting.
    #[must_use]
    pub fn new(severity: Severity, name: &str, value: &str, wanted: &str, advice: String) -> Self {
        let (name, value, wanted) = (name.to_owned(), value.to_owned(), wanted.to_owned());
        Self { severity, name, value, wanted, advice, stops_start: false }
    }

    /// Returns the finding, changed to prevent lbd from starting.
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

/// The number of errors and warnings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Findings of severity error.
    pub errors: u64,
    /// Findings of severity warning.
    pub warnings: u64,
}

impl Tally {
    /// Counts the findings.
    #[must_use]
    pub fn of(findings: &[Finding]) -> Self {
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count() as u64;
        Self { errors: count(Severity::Error), warnings: count(Severity::Warning) }
    }
}

/// The state of a host at one moment, as far as it concerns packets to VIPs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The settings named by [`settings`] that exist: their paths below `/proc/sys`, and values.
    pub settings: BTreeMap<String, u32>,
    /// Devices, by name.
    pub links: BTreeMap<String, Link>,
    /// The addresses that the kernel delivers to this host itself.
    pub locals: Vec<Local>,
    /// The destinations of [`ways`] to which the kernel has no route.
    pub unreachable: Vec<IpAddr>,
    /// Base chains of other programs that drop packets which none of their rules accepts.
    pub drops: Vec<ForeignChain>,
    /// Base chains of other programs that translate addresses.
    pub nats: Vec<NatChain>,
    /// The older iptables ("legacy") that have a table `filter`: "iptables" or "ip6tables".
    pub legacy: Vec<&'static str>,
    /// What could not be read, and why.
    pub unread: Vec<(&'static str, String)>,
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether the device is set up.
    pub up: bool,
    /// Whether the cable, or its equivalent, is connected.
    pub carrier: bool,
    /// The bridge or bond that the device is a port of: packets come in by that device.
    pub port_of: Option<String>,
    /// The VRF that the device is in.
    pub vrf: Option<String>,
}

/// Addresses that the kernel's table `local` delivers to this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// The addresses; mostly a single one.
    pub net: IpNet,
    /// The device that has the addresses.
    pub device: String,
    /// The kind of the addresses.
    pub kind: LocalKind,
    /// Whether the kernel made the route from an address; otherwise an operator or program added it.
    pub by_address: bool,
    /// The table of the route: [`TABLE_LOCAL`], or that of a VRF.
    pub table: u32,
}

/// The kernel's table `local`.
pub const TABLE_LOCAL: u32 = 255;

/// The kind of a local address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalKind {
    /// An address of the host's own.
    Own,
    /// A network's broadcast address.
    Broadcast,
    /// An address that several hosts have, such as that of all routers of a network.
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

/// A base chain of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignChain {
    /// "ip", "ip6" or "inet".
    pub family: &'static str,
    /// The chain's table.
    pub table: String,
    /// The chain's name.
    pub chain: String,
    /// The hook as nft names it, such as "prerouting".
    pub hook: &'static str,
}

impl fmt::Display for ForeignChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, table, chain, hook } = self;
        write!(f, "chain {chain} of table {family} {table}, hook {hook}")
    }
}

impl Local {
    /// Makes a single address of the host's own.
    #[must_use]
    pub fn own(address: IpAddr, device: &str) -> Self {
        let (net, device) = (address.into(), device.to_owned());
        Self { net, device, kind: LocalKind::Own, by_address: true, table: TABLE_LOCAL }
    }
}

impl Snapshot {
    /// Reports whether the host has this address as its own.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        self.local(address).is_some_and(|local| local.kind == LocalKind::Own)
    }

    /// Returns what makes the kernel deliver packets to this address here.
    #[must_use]
    pub fn local(&self, address: IpAddr) -> Option<&Local> {
        self.locals.iter().find(|local| local.net.contains(&address))
    }

    /// Returns the value of a setting, if it exists.
    fn setting(&self, path: &str) -> Option<u32> {
        self.settings.get(path).copied()
    }
}

/// Reports whether a prefix is all addresses of its family, as in a region that was made without a file.
fn is_everything(net: &IpNet) -> bool {
    let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    net.prefix_len() == 0 && any.contains(&net.addr())
}

#[cfg(test)]
mod tests;
