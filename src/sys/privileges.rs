//! What lbd may do once it has started: CAP_NET_ADMIN, no new privileges, and no system call that a balancer never needs.
//! What takes more, its helper does ([`super::helper`]).

use caps::{Capability, errors::CapsError};
use nix::{
    errno::Errno,
    sys::prctl,
    unistd::{Gid, getgroups, setgroups},
};
use thiserror::Error;

use super::{capability, control_socket, seccomp};

/// For netfilter, routing, queues, devices and connection tracking.
const KEPT: [Capability; 1] = [Capability::CAP_NET_ADMIN];

/// Why the privileges could not be reduced.
#[derive(Debug, Error)]
pub enum PrivilegesError {
    /// A system call failed.
    #[error("giving up capabilities: {0}")]
    Capabilities(#[from] CapsError),
    /// A system call failed.
    #[error("giving up new privileges: {0}")]
    NewPrivileges(Errno),
    /// The kernel has no seccomp filters, or refused this one.
    #[error("giving up system calls: {0}")]
    Filter(#[from] seccompiler::Error),
}

/// Gives up what lbd does not need, for good. Threads that this one starts from now on have no more than it.
///
/// # Errors
/// When the kernel refuses.
pub fn reduce() -> Result<(), PrivilegesError> {
    capability::keep_only(&KEPT, false)?;
    prctl::set_no_new_privs().map_err(PrivilegesError::NewPrivileges)?;
    seccomp::confine()?;
    Ok(())
}

/// Joins the group of readers: the owner of a file may give it to a group that it is in, without any capability.
pub fn join_readers() {
    let Some(group) = readers() else { return };
    let Ok(mut groups) = getgroups() else { return };
    if !groups.contains(&group) {
        groups.push(group);
        // Without the right to it, what lbd makes is for its own user alone.
        let _ = setgroups(&groups);
    }
}

/// The group that may read the region, and ask lbd, if this host has one.
pub(super) fn readers() -> Option<Gid> {
    nix::unistd::Group::from_name(control_socket::GROUP).ok().flatten().map(|group| group.gid)
}
