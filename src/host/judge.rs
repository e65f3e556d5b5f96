//! Makes findings from a snapshot.

use std::net::IpAddr;

use super::{Finding, Severity, Snapshot, nat::translated, own::own_vips, ways::unreachable};
use crate::{
    config::Balancer,
    model::{Encap, InterfaceName, Path, Steering},
    plan::announce,
    state::State,
};

/// In tenths: connection tracking that is at least this full is reported.
const CONNTRACK_TENTHS: u64 = 9;

const FORWARD4: &str = "net/ipv4/ip_forward";
const FORWARD6: &str = "net/ipv6/conf/all/forwarding";
const LOOSE: &str = "net/netfilter/nf_conntrack_tcp_loose";
const REFLECT: [&str; 2] = ["net/ipv4/fwmark_reflect", "net/ipv6/fwmark_reflect"];
const RP_FILTER_ALL: &str = "net/ipv4/conf/all/rp_filter";
const CONNTRACK: [&str; 2] = ["net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max"];
const CONNTRACK_BUCKETS: &str = "net/netfilter/nf_conntrack_buckets";

/// Returns the settings that [`judge`] reads: paths below `/proc/sys`.
#[must_use]
pub fn settings(balancer: &Balancer) -> Vec<String> {
    let of_host = [FORWARD4, FORWARD6, LOOSE, RP_FILTER_ALL].into_iter().chain(REFLECT).chain(CONNTRACK);
    let of_devices = balancer.interfaces.iter().flat_map(|device| {
        [forwarding4(device), rp_filter(device), disable_ipv6(device), forwarding6(device)]
    });
    of_host.map(str::to_owned).chain(of_devices).collect()
}

fn forwarding4(device: &InterfaceName) -> String {
    format!("net/ipv4/conf/{device}/forwarding")
}

fn forwarding6(device: &InterfaceName) -> String {
    format!("net/ipv6/conf/{device}/forwarding")
}

fn rp_filter(device: &InterfaceName) -> String {
    format!("net/ipv4/conf/{device}/rp_filter")
}

fn disable_ipv6(device: &InterfaceName) -> String {
    format!("net/ipv6/conf/{device}/disable_ipv6")
}

/// Returns the usual name of a setting, with dots.
fn dotted(path: &str) -> String {
    path.replace('/', ".")
}

/// The families of the packets that a state balances.
#[derive(Clone, Copy)]
struct Families {
    four: bool,
    six: bool,
}

impl Families {
    fn of(state: &State) -> Self {
        let has = |four| state.services.iter().flat_map(|s| &s.vips).any(|vip| vip.addr().is_ipv4() == four);
        Self { four: has(true), six: has(false) }
    }

    fn has(self, family: &str) -> bool {
        match family {
            "ip" => self.four,
            "ip6" => self.six,
            _ => true,
        }
    }
}

/// Returns everything that is not as it should be on this host, for a balancer with this state; the worst
/// first.
#[must_use]
pub fn judge(state: &State, snapshot: &Snapshot) -> Vec<Finding> {
    let (balancer, families) = (&state.balancer, Families::of(state));
    let mut findings = own_vips(state, snapshot);
    findings.extend(forwarding(families, snapshot));
    findings.extend(connection_tracking(balancer, snapshot));
    findings.extend(reflection(families, snapshot));
    findings.extend(interfaces(balancer, families, snapshot));
    findings.extend(ends(state, snapshot));
    findings.extend(unreachable(state, snapshot));
    findings.extend(filters(state, families, snapshot));
    findings.extend(translated(state, snapshot));
    findings.extend(announce::never(state).iter().map(never_announced));
    for (what, why) in &snapshot.unread {
        let advice = "whether it keeps packets from backends is not known".to_owned();
        findings.push(Finding::new(
            Severity::Note,
            what,
            &format!("not to be read ({why})"),
            "readable",
            advice,
        ));
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn never_announced(never: &announce::Never) -> Finding {
    let (name, wanted) =
        (format!("announce_min of service {}", never.service), format!("at most {}", never.backends));
    let advice = "neither it nor the one that stands in for it has more backends, so it never lets its VIPs be announced".to_owned();
    Finding::new(Severity::Warning, &name, &never.needed.to_string(), &wanted, advice)
}

/// Returns a finding if a setting is `value`, which it should not be.
fn setting(
    snapshot: &Snapshot,
    severity: Severity,
    path: &str,
    (value, wanted): (u32, u32),
    meaning: &str,
) -> Option<Finding> {
    (snapshot.setting(path) == Some(value)).then(|| {
        let advice = format!("{meaning}: sysctl -w {path}={wanted}");
        Finding::new(severity, &dotted(path), &value.to_string(), &wanted.to_string(), advice)
    })
}

fn forwarding(families: Families, snapshot: &Snapshot) -> Vec<Finding> {
    let four = setting(snapshot, Severity::Error, FORWARD4, (0, 1), "IPv4 is not forwarded to backends");
    let six = setting(snapshot, Severity::Error, FORWARD6, (0, 1), "IPv6 is not forwarded to backends");
    let four = four.filter(|_| families.four).map(Finding::stopping_start);
    four.into_iter().chain(six.filter(|_| families.six)).collect()
}

fn connection_tracking(balancer: &Balancer, snapshot: &Snapshot) -> Vec<Finding> {
    if balancer.steering == Steering::EveryPacket {
        return Vec::new();
    }
    let meaning = "connections are picked up at their second packet, which this forbids";
    let loose = setting(snapshot, Severity::Error, LOOSE, (0, 1), meaning).map(Finding::stopping_start);
    let [count, max] = CONNTRACK.map(|path| snapshot.setting(path).map(u64::from));
    let full = count.zip(max).filter(|&(count, max)| max > 0 && count * 10 >= max * CONNTRACK_TENTHS);
    let full = full.map(|(_, max)| {
        let value = format!("{max}, and {CONNTRACK_TENTHS} tenths or more of that are in use");
        let advice = format!(
            "packets to VIPs go untracked meanwhile, others that find no room are dropped: sysctl -w {}={}, and \
             {CONNTRACK_BUCKETS} with it, at 1 to 4 entries a bucket",
            CONNTRACK[1],
            max * 4
        );
        Finding::new(Severity::Warning, &dotted(CONNTRACK[1]), &value, "more", advice)
    });
    loose.into_iter().chain(full).collect()
}

fn reflection(families: Families, snapshot: &Snapshot) -> Vec<Finding> {
    let meaning = "an ICMP error about a steered packet gets that packet's mark, and follows it to the backend instead of \
                   reaching its sender (path MTU discovery fails)";
    let used = [families.four, families.six];
    let one = |(path, used)| setting(snapshot, Severity::Warning, path, (1, 0), meaning).filter(|_| used);
    REFLECT.into_iter().zip(used).filter_map(one).collect()
}

fn interfaces(balancer: &Balancer, families: Families, snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    let dead: Vec<Option<Finding>> =
        balancer.interfaces.iter().map(|device| link(device, snapshot)).collect();
    // With gre_in, packets also come in by the entrances.
    let none_left = !balancer.gre_in && dead.iter().all(Option::is_some);
    let severity = if none_left { Severity::Error } else { Severity::Warning };
    findings.extend(dead.into_iter().flatten().map(|finding| Finding { severity, ..finding }));
    for device in &balancer.interfaces {
        if families.four {
            let meaning = "IPv4 from it is not forwarded";
            let forwarding = setting(snapshot, Severity::Error, &forwarding4(device), (0, 1), meaning);
            // If nothing at all is forwarded, that is reported once.
            let forwarding = forwarding.filter(|_| snapshot.setting(FORWARD4) == Some(1));
            findings.extend(forwarding.map(Finding::stopping_start));
            findings.extend(reverse_path_filter(device, snapshot));
        }
        if families.six {
            let meaning = "IPv6 is off there, and what comes in by it is dropped";
            findings.extend(setting(snapshot, Severity::Error, &disable_ipv6(device), (1, 0), meaning));
            let meaning = "IPv6 from it is forwarded all the same, but neighbours there do not see a router in this host";
            let host = setting(snapshot, Severity::Note, &forwarding6(device), (0, 1), meaning);
            findings.extend(host.filter(|_| snapshot.setting(FORWARD6) == Some(1)));
        }
    }
    findings
}

/// Returns what prevents packets from coming in by this device.
fn link(device: &InterfaceName, snapshot: &Snapshot) -> Option<Finding> {
    let name = format!("interface {device}");
    let finding = |value: &str, wanted: &str, advice: String| {
        Some(Finding::new(Severity::Warning, &name, value, wanted, advice))
    };
    if snapshot.links.is_empty() {
        return None; // they could not be read
    }
    let Some(link) = snapshot.links.get(device.as_str()) else {
        let advice = "no packets to VIPs come in by it until it is there: was it renamed (ip link), or does `interfaces` in \
                      [balancer] name another?";
        return finding("missing", "present", advice.to_owned());
    };
    if let Some(port_of) = &link.port_of {
        let advice = format!("packets come in by {port_of} then: name that in `interfaces` of [balancer]");
        return finding(&format!("a port of {port_of}"), "no port of another device", advice);
    }
    if !link.up {
        return finding("down", "up", format!("nothing comes in by it: ip link set {device} up"));
    }
    if !link.carrier {
        return finding(
            "without carrier",
            "connected",
            "nothing comes in by it: look at its cable, or its other end".to_owned(),
        );
    }
    None
}

/// The kernel uses the larger of the setting for all devices and the device's own.
fn reverse_path_filter(device: &InterfaceName, snapshot: &Snapshot) -> Option<Finding> {
    let path = rp_filter(device);
    let effective = snapshot.setting(RP_FILTER_ALL)?.max(snapshot.setting(&path)?);
    (effective == 1).then(|| {
        let value = "1 (the larger of it and net.ipv4.conf.all.rp_filter)";
        let advice =
            format!(
                "packets of clients whose route leads elsewhere are dropped, and IPv4 answers to health checks through tunnels: sysctl -w {path}=2"
            );
        Finding::new(Severity::Warning, &dotted(&path), value, "0 or 2", advice)
    })
}

/// Checks that tunnels begin at an address of this host, and that none ends at one.
fn ends(state: &State, snapshot: &Snapshot) -> Vec<Finding> {
    if snapshot.locals.is_empty() {
        return Vec::new(); // they could not be read
    }
    let mut findings = Vec::new();
    let remotes: Vec<IpAddr> = state
        .targets_used()
        .filter_map(|(_, path)| match path {
            Path::Via(Encap::Gre | Encap::Ipip | Encap::Gue, remote) => Some(remote),
            Path::Via(Encap::Direct, _) | Path::MarkOnly => None,
        })
        .collect();
    for address in state.balancer.address.iter().filter(|address| !snapshot.has(*address)) {
        let used = remotes.iter().any(|remote| remote.is_ipv4() == address.is_ipv4());
        let severity = if used { Severity::Error } else { Severity::Warning };
        let advice = "the kernel sends nothing by tunnels from an address that the host has not, and what comes to it does not \
                      arrive: ip address add, or correct `address` in [balancer]";
        let (name, value) = (format!("[balancer] address {address}"), "no address of this host");
        findings.push(Finding::new(severity, &name, value, "an address of this host", advice.to_owned()));
    }
    for (_, path) in state.targets_used() {
        let Path::Via(_, remote) = path else { continue };
        if snapshot.has(remote) {
            let advice = "its packets never leave this host: correct its `address`".to_owned();
            let (name, wanted) = (format!("backend address {remote}"), "an address of another host");
            findings.push(Finding::new(Severity::Error, &name, "an address of this host", wanted, advice));
        }
    }
    findings
}

/// Returns the filters of other programs that drop packets unless one of their rules accepts them. Whether
/// one does cannot be determined here.
fn filters(state: &State, families: Families, snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    let comes_in_tunnels = state.balancer.gre_in || !state.tier.is_empty();
    for drop in snapshot.drops.iter().filter(|drop| families.has(drop.family)) {
        let super::ForeignChain { family, table, chain, hook } = drop;
        let (severity, meaning) = match *hook {
            "input" if comes_in_tunnels => (
                Severity::Note,
                "GRE from routers and from other balancers is dropped there, unless a rule accepts it by its addresses"
                    .to_owned(),
            ),
            "input" => continue,
            _ => (
                Severity::Warning,
                format!(
                    "packets to VIPs are dropped there, unless a rule accepts them by their address (not by ct state, which \
                     does not know flows that are seen in one direction); docker and ufw make such chains. Have one: nft insert rule {family} {table} {chain} {} VIP accept (docker: iptables -I DOCKER-USER \
                     -d VIP -j ACCEPT; ufw: ufw route allow to VIP; firewalld: a policy, or zone, that accepts them)",
                    if *family == "ip6" { "ip6 daddr" } else { "ip daddr" },
                ),
            ),
        };
        findings.push(Finding::new(
            severity,
            &drop.to_string(),
            "policy drop",
            "rules that accept packets to VIPs",
            meaning,
        ));
    }
    for program in &snapshot.legacy {
        let advice = format!(
            "what its rules do to packets to VIPs is not seen by nf_tables, nor here: {program}-legacy -S FORWARD lists them"
        );
        let name = format!("{program}-legacy");
        findings.push(Finding::new(
            Severity::Note,
            &name,
            "in use (table filter)",
            "rules that accept packets to VIPs",
            advice,
        ));
    }
    findings
}
