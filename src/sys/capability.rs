//! The capabilities of this process.

use std::fs;

/// `CAP_NET_ADMIN` of `linux/capability.h`.
const NET_ADMIN: u32 = 12;

/// Whether this process may set up the network of its namespace.
#[must_use]
pub fn may_administer_network() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    // If the capabilities cannot be read, assume that it may: the kernel will refuse what is not allowed.
    effective.is_none_or(|set| set >> NET_ADMIN & 1 == 1)
}
