//! The capabilities of this process.

use std::fs;

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

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

/// Gives up all capabilities of this thread but these, as far as it has them, for good. Programs that it starts have them as
/// well, if `inherited`, also where it is not root.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn keep_only(kept: &[Capability], inherited: bool) -> Result<(), CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    if permitted.contains(&Capability::CAP_SETPCAP) {
        let others = caps::all().into_iter().filter(|other| !kept.contains(other));
        for other in others.filter(|other| caps::has_cap(None, CapSet::Bounding, *other).unwrap_or(false)) {
            caps::drop(None, CapSet::Bounding, other)?;
        }
    }
    let kept: CapsHashSet = permitted.into_iter().filter(|one| kept.contains(one)).collect();
    let inheritable = if inherited { kept.clone() } else { CapsHashSet::new() };
    caps::set(None, CapSet::Inheritable, &inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    for one in inheritable {
        // A sandbox may forbid it; root's programs have them anyway.
        let _ = caps::raise(None, CapSet::Ambient, one);
    }
    Ok(())
}
