//! The commands that make a Linux host a backend. PURE: the commands are printed, and an operator pastes them
//! into `sh` as root.
//!
//! What a backend needs, and why:
//! - a tunnel that accepts packets from **any** balancer (`remote any`), at one local address, since the
//!   kernel distinguishes such tunnels by it. Its name ends in a digest of the address, so that a host with
//!   several addresses has several tunnels. One `sit` or `ip6tnl` device serves ipip and gue alike;
//! - no reverse path filter on the tunnel: the packets that come out were sent by a client whose route leads
//!   elsewhere;
//! - the VIPs on `lo`, and no ARP answers for them;
//! - a smaller segment size in answers from the VIPs (`advmss`), so that the clients' packets fit into the
//!   tunnel: the balancer never sees a SYN-ACK and cannot change it. Only answers that leave from a VIP by
//!   the default route are changed. Routes to particular networks stay in table main, unchanged (a client
//!   behind one finds the limit by path MTU discovery). The default routes are copied; the commands must be
//!   pasted again when these change.
//!
//! Pasting twice changes nothing. Several services may share a host: what they share has the same name, and
//! tables and priorities follow the tunnel's overhead, where the larger overhead takes precedence for a VIP
//! that has both.
//!
//! Packets between the balancer and the backend are assumed to be at most [`UNDERLAY_MTU_BYTES`] long. If the
//! balancer sends larger ones in fragments, the kernel reassembles them before the tunnel sees them. The
//! commands still ask for segments that fit, since these cost less.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;
use thiserror::Error;

use super::{
    routing::PROTOCOL,
    tunnel::{Kind, Wrap, fit, fragmenting, overhead_bytes, wrap},
};
use crate::{
    model::{GUE_PORT, Path, ids::TargetId},
    state::{Service, State},
};

/// MTU of the network between balancers and backends.
pub const UNDERLAY_MTU_BYTES: u16 = 1500;
/// Routing table for answers: this plus the tunnel's overhead. It is outside of the balancer's own tables, so
/// that a balancer's cleanup does not touch it.
pub const ANSWER_TABLE_BASE: u32 = 30_000;
/// Priority of the rule for answers: this minus the tunnel's overhead. The rule at [`SPECIFIC_PRIORITY`]
/// comes just before it.
pub const ANSWER_PRIORITY_BASE: u32 = 9_900;
/// Priority of the rule that sends answers by the routes of table main to particular networks.
pub const SPECIFIC_PRIORITY: u32 = 9_800;

/// Why there are no commands.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SetupError {
    /// There is no service of this name.
    #[error("there is no service {0:?}")]
    NoService(String),
    /// There is no backend of this name.
    #[error("service {service:?} has no backend {backend:?}")]
    NoBackend {
        /// The service that was searched.
        service: String,
        /// The name that was searched for.
        backend: String,
    },
    /// The service has no VIP.
    #[error("service {0:?} has no VIPs that a backend could answer for")]
    NoVips(String),
    /// The backend has no address, so synrail routes no packets to it.
    #[error("backend {0:?} has no address: its packets are only marked, and carried by rules of your own")]
    MarkOnly(String),
}

/// Returns the commands that make a host this backend.
///
/// # Errors
/// When the names do not lead to a backend with an address, or the service has no VIPs.
pub fn commands(state: &State, service: &str, backend: &str) -> Result<String, SetupError> {
    let (service, target, path) = find(state, service, backend)?;
    let Path::Via(encap, address) = path else { return Err(SetupError::MarkOnly(backend.to_owned())) };
    if service.vips.is_empty() {
        return Err(SetupError::NoVips(service.name.to_string()));
    }
    let mut sh = Script::new();
    sh.note(&format!("{} backend {backend} at {address}, {}", service.name, encap.name()));
    sh.note("Paste into sh as root. Doing so again changes nothing.");
    match wrap(encap) {
        Some(wrap) => {
            receive(&mut sh, wrap, address);
            if fragmenting(state).contains(&target) {
                sh.note("Large packets come in fragments of GRE, put together here: no firewall on the way, and no rule of this");
                sh.note("host that sees packets before that (netdev, prerouting before -400), may drop IPv4 fragments");
            }
        }
        None => {
            sh.note("If answers leave by another interface than packets come in, and rp_filter is 1 there or in \"all\":");
            sh.note("set it to 2, or packets from clients are dropped");
        }
    }
    let mut answered = service.vips.clone();
    for other in state.stands_in_for(service) {
        sh.note(&format!("It stands in for the backends of service {} (no_backend)", other.name));
        let new: Vec<IpNet> = other.vips.iter().copied().filter(|vip| !answered.contains(vip)).collect();
        answered.extend(new);
    }
    vips(&mut sh, &answered);
    if wrap(encap).is_some() {
        answers(&mut sh, &answered, path);
    }
    Ok(sh.0)
}

fn find<'a>(
    state: &'a State,
    service: &str,
    backend: &str,
) -> Result<(&'a Service, TargetId, Path), SetupError> {
    let found = state.service(service).ok_or_else(|| SetupError::NoService(service.to_owned()))?;
    let no_backend = || SetupError::NoBackend { service: service.to_owned(), backend: backend.to_owned() };
    let known = found.backends.iter().find(|known| known.name.as_str() == backend).ok_or_else(no_backend)?;
    let path = state.path(known.target).ok_or_else(no_backend)?;
    Ok((found, known.target, path))
}

/// Writes the commands for the tunnel by which packets come in.
fn receive(sh: &mut Script, wrap: Wrap, address: IpAddr) {
    let kind = kind(wrap, address);
    let device = device(wrap, address);
    let (gue_modules, gue_ip, gue_shown) =
        if address.is_ipv4() { ("fou", "ip", " *$") } else { ("fou fou6", "ip -6", " -6") };
    sh.note("The tunnel: takes packets from every balancer");
    let modules = if wrap == Wrap::Gue { format!(" {gue_modules}") } else { String::new() };
    sh.run(&format!("modprobe -qa {}{modules} 2>/dev/null || :", kind.module()));
    let options = match kind {
        Kind::Gre => "",
        Kind::Ip6Gre => " encaplimit none",
        Kind::Sit => " mode any",
        Kind::Ip6Tnl => " mode any encaplimit none",
    };
    sh.run(&format!(
        "ip link show {device} >/dev/null 2>&1 || ip link add {device} type {} local {address} remote any{options}",
        kind.name()
    ));
    sh.run(&format!(
        "ip link set {device} alias \"synrail: {} for {address}\" addrgenmode none",
        kind.name()
    ));
    sh.run(&format!("ip link set {device} up"));
    if wrap == Wrap::Gue {
        sh.run(&format!(
            "ip fou show | grep -q '^port {GUE_PORT} gue{gue_shown}' || {gue_ip} fou add port {GUE_PORT} gue"
        ));
    }
    sh.note("No reverse path filter on it. The larger of \"all\" and the device's own value counts, so a value in");
    sh.note("\"all\" moves to every other device first");
    sh.run(REVERSE_PATH_FILTER);
    sh.run(&format!("echo 0 > /proc/sys/net/ipv4/conf/{device}/rp_filter"));
}

const REVERSE_PATH_FILTER: &str = "\
conf=/proc/sys/net/ipv4/conf; all=$(cat $conf/all/rp_filter)
if [ \"$all\" -gt 0 ]; then
  for f in $conf/*/rp_filter; do
    case $f in */conf/all/*|*/conf/lb-*) continue ;; esac
    if [ \"$(cat \"$f\")\" -lt \"$all\" ]; then echo \"$all\" > \"$f\"; fi
  done
  echo 0 > $conf/all/rp_filter
fi";

/// Writes the commands for the virtual addresses that the backend answers for.
fn vips(sh: &mut Script, answered: &[IpNet]) {
    sh.note("The virtual addresses, of which only the balancer may speak on the network");
    sh.run("echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore");
    sh.run("echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce");
    for vip in answered {
        let ip = ip(*vip);
        if is_host(*vip) {
            let nodad = if matches!(vip, IpNet::V6(_)) { " nodad" } else { "" };
            sh.run(&format!("{ip} addr replace {vip} dev lo{nodad}"));
        } else {
            sh.run(&format!("{ip} route replace local {vip} dev lo proto {PROTOCOL}"));
        }
    }
}

/// Writes the commands for segment sizes that fit into the tunnel.
fn answers(sh: &mut Script, answered: &[IpNet], path: Path) {
    let overhead = u32::from(overhead_bytes(path));
    let (table, priority) = (ANSWER_TABLE_BASE + overhead, ANSWER_PRIORITY_BASE - overhead);
    let fit = fit(path, UNDERLAY_MTU_BYTES);
    sh.note(&format!("Answers ask clients for segments that fit: the tunnel takes {} bytes", fit.mtu_bytes));
    let families = [(4, fit.mss4_bytes), (6, fit.mss6_bytes)];
    for (family, mss) in families {
        let mut of_family =
            answered.iter().filter(|vip| matches!(vip, IpNet::V4(_)) == (family == 4)).peekable();
        if of_family.peek().is_none() {
            continue;
        }
        sh.run(&format!(
            "ip -{family} route flush table {table} 2>/dev/null\n\
             ip -{family} -o route show default table main | sed -E 's/\\\\/ /g; s/ ({DROPPED})//g; \
             s/^default/default table {table} proto {PROTOCOL} advmss {mss}/' |\n\
             while read -r route; do\n  \
             ip -{family} route replace $route\ndone"
        ));
        for vip in of_family {
            for (priority, what) in [
                (SPECIFIC_PRIORITY, "table main suppress_prefixlength 0".to_owned()),
                (priority, format!("table {table}")),
            ] {
                let rule = format!("pref {priority} from {vip}");
                sh.run(&format!(
                    "ip -{family} rule del {rule} 2>/dev/null; ip -{family} rule add {rule} {what} protocol {PROTOCOL}"
                ));
            }
        }
    }
}

/// An extended regular expression for what `ip route show` prints but `ip route replace` does not take, or
/// what is set anew.
const DROPPED: &str = "linkdown|dead|offload|trap|rt_[a-z_]+|pref [a-z]+|expires [0-9]+sec|proto [a-z0-9_]+|\
                       advmss [0-9]+|error -?[0-9]+|hoplimit [0-9]+";

fn kind(wrap: Wrap, address: IpAddr) -> Kind {
    Kind::of(wrap, address.is_ipv6())
}

/// Returns a name such as `lb-gre-c0a80101`: the address in hexadecimal digits, or for IPv6 a hash of it.
fn device(wrap: Wrap, address: IpAddr) -> String {
    let short = match kind(wrap, address) {
        Kind::Gre => "gre",
        Kind::Ip6Gre => "gr6",
        Kind::Sit => "sit",
        Kind::Ip6Tnl => "tn6",
    };
    let digest = match address {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => fold(address),
    };
    format!("lb-{short}-{digest:08x}")
}

/// Returns the FNV-1a hash of the address's bytes.
fn fold(address: Ipv6Addr) -> u32 {
    address
        .octets()
        .iter()
        .fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn ip(vip: IpNet) -> &'static str {
    match vip {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip -6",
    }
}

fn is_host(vip: IpNet) -> bool {
    vip.prefix_len() == vip.max_prefix_len()
}

/// Lines of shell commands.
struct Script(String);

impl Script {
    fn new() -> Self {
        Self(String::new())
    }

    fn note(&mut self, text: &str) {
        self.line(&format!("# {text}"));
    }

    fn run(&mut self, command: &str) {
        self.line(command);
    }

    fn line(&mut self, text: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{text}");
    }
}

#[cfg(test)]
mod tests;
