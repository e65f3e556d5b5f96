//! VIPs that are addresses of this host. The kernel's first rule delivers packets to these here, whatever
//! mark a packet has.

use ipnet::IpNet;

use super::{Finding, Local, LocalKind, Severity, Snapshot, TABLE_LOCAL, is_everything};
use crate::state::State;

/// The maximum number of addresses that a finding names.
const NAMED_MAX: usize = 4;

/// The meaning of the finding, and what to do instead. `{remove}` is how to remove the cause from the kernel.
const IS_LOCAL: &str = "the kernel keeps packets to it for itself, and no backend gets any: {remove}. To announce it without: let the \
                        routing daemon announce a static route, or lbd's own blackhole route (ip route show proto 201); with \
                        keepalived, hold an address that is no VIP and route VIPs to it";
const COVERS: &str = "what is sent to these from outside would be taken for a VIP's and dropped (ssh to this host, say): name \
                      VIPs without them, or set `allow_own_addresses = true` in [balancer]; then they stay the host's own and \
                      are not balanced";
const COVERS_ALLOWED: &str = "these stay the host's own (allow_own_addresses) and are not balanced";

/// Returns the VIPs of a state that are addresses of this host, or that contain some.
#[must_use]
pub fn own_vips(state: &State, snapshot: &Snapshot) -> Vec<Finding> {
    let mut vips: Vec<IpNet> =
        state.services.iter().flat_map(|service| service.vips.iter().copied()).collect();
    vips.sort_unstable();
    vips.dedup();
    let allowed = state.balancer.allow_own_addresses;
    vips.iter().filter_map(|vip| own_vip(vip, allowed, snapshot)).collect()
}

/// Returns the findings that are errors and that `base` does not have already. A change that brings them
/// should not be made.
#[must_use]
pub fn new_own_vips(base: &State, next: &State, snapshot: &Snapshot) -> Vec<Finding> {
    let known = own_vips(base, snapshot);
    let new = own_vips(next, snapshot).into_iter();
    new.filter(|finding| finding.severity == Severity::Error && !known.contains(finding)).collect()
}

fn own_vip(vip: &IpNet, allowed: bool, snapshot: &Snapshot) -> Option<Finding> {
    if is_everything(vip) {
        return None;
    }
    let name = format!("VIP {vip}");
    if let Some(local) = snapshot.locals.iter().find(|local| local.net.contains(vip)) {
        let value = format!("{} of this host, on {}", local.kind, local.device);
        let advice = IS_LOCAL.replace("{remove}", &removal(vip, local));
        let finding = Finding::new(Severity::Error, &name, &value, "an address of no host", advice);
        return Some(finding.stopping_start());
    }
    let inside: Vec<&Local> = snapshot.locals.iter().filter(|local| vip.contains(&local.net)).collect();
    if inside.is_empty() {
        return None;
    }
    let mut named: Vec<String> = inside
        .iter()
        .take(NAMED_MAX)
        .map(|local| format!("{} ({})", local.net.addr(), local.device))
        .collect();
    if inside.len() > NAMED_MAX {
        named.push(format!("and {} more", inside.len() - NAMED_MAX));
    }
    let value = format!("a prefix with addresses of this host in it: {}", named.join(", "));
    let finding = |severity, advice: &str| {
        Finding::new(severity, &name, &value, "a prefix without these", advice.to_owned())
    };
    Some(if allowed {
        finding(Severity::Note, COVERS_ALLOWED)
    } else {
        finding(Severity::Error, COVERS).stopping_start()
    })
}

/// Returns the command that removes what makes the kernel keep packets to this VIP.
fn removal(vip: &IpNet, local: &Local) -> String {
    let Local { net, device, kind, by_address, table } = local;
    let of_table = if *table == TABLE_LOCAL { String::new() } else { format!(" table {table}") };
    let route = |kind: &str| format!("ip route del {kind} {net} dev {device}{of_table}");
    let comes_again = format!("; it comes again with an address of {device} that has it");
    let again = if *by_address { comes_again.as_str() } else { "" };
    match kind {
        LocalKind::Own if *by_address => format!(
            "remove the address (ip address del {vip} dev {device}, but with the prefix length that ip address show to {vip} names)"
        ),
        LocalKind::Own => format!("remove its route, which is of no address ({})", route("local")),
        LocalKind::Broadcast => {
            format!(
                "give {device} another broadcast address, and remove its route ({}{again})",
                route("broadcast")
            )
        }
        LocalKind::Anycast => {
            format!(
                "take a VIP that is not the first address of a network, or remove its route ({}{again})",
                route("anycast")
            )
        }
    }
}
