//! What a process may do: started as root, it becomes another user and keeps one capability. That of checks is
//! CAP_NET_RAW, for marks on sockets (Linux 5.17, `sock_setsockopt`) and for ICMP; programs that it starts (`kind =
//! "exec"`) have the same. That of the reader ([`crate::reader`]) is CAP_NET_ADMIN, to ask the kernel for counters and
//! flows.

use std::ffi::CString;

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::{
    errno::Errno,
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
    },
    unistd::{Pid, User, geteuid, getppid, initgroups, setgid, setuid},
};
use thiserror::Error;
use tracing::info;

/// The users that are tried if none is given.
const USERS: [&str; 2] = ["synrail", "nobody"];
/// What checks need.
pub const OF_CHECKS: Capability = Capability::CAP_NET_RAW;
/// What the reader needs.
pub const OF_READER: Capability = Capability::CAP_NET_ADMIN;

/// Why the privileges could not be reduced.
#[derive(Debug, Error)]
pub enum PrivilegesError {
    /// There is no such user.
    #[error(
        "there is no user \"{0}\"; make one (`adduser --system --group {0}`), or name another with --user"
    )]
    NoUser(String),
    /// Only root can become another user.
    #[error("only root can become another user: start this as root, or without --user")]
    NotRoot,
    /// A system call failed.
    #[error("becoming user \"{0}\": {1}")]
    User(String, Errno),
    /// A system call failed.
    #[error("giving up capabilities: {0}")]
    Capabilities(#[from] CapsError),
    /// A system call failed.
    #[error("giving up new privileges: {0}")]
    NewPrivileges(Errno),
}

/// Returns the parent, if this process is meant to end with it, as one that lbd starts.
#[must_use]
pub fn parent() -> Option<Pid> {
    prctl::get_pdeathsig().ok().flatten().map(|_| getppid())
}

/// Allows as many descriptors as the host lets this process have: [`synrail::control::health::RUNNING_MAX`] checks of two
/// destinations each take more than the 1024 that are usual. If the host refuses, checks beyond them are not made.
pub fn raise_descriptors() {
    if let Ok((_, max)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, max, max);
    }
}

/// Gives up everything but `kept`, for good. Returns whether this process has that.
///
/// # Errors
/// When the user does not exist, or the kernel refuses.
pub fn reduce(user: Option<&str>, kept: Capability) -> Result<bool, PrivilegesError> {
    if geteuid().is_root() {
        become_user(&find(user)?, kept)?;
    } else if user.is_some() {
        return Err(PrivilegesError::NotRoot);
    }
    let kept: CapsHashSet =
        caps::read(None, CapSet::Permitted)?.into_iter().filter(|one| *one == kept).collect();
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::set(None, set, &kept)?;
    }
    for &one in &kept {
        // A sandbox may forbid it; then only programs of checks are without it.
        let _ = caps::raise(None, CapSet::Ambient, one);
    }
    prctl::set_no_new_privs().map_err(PrivilegesError::NewPrivileges)?;
    Ok(!kept.is_empty())
}

fn find(user: Option<&str>) -> Result<User, PrivilegesError> {
    let named = |name: &str| User::from_name(name).ok().flatten();
    match user {
        Some(name) => named(name).ok_or_else(|| PrivilegesError::NoUser(name.to_owned())),
        None => {
            USERS.iter().find_map(|name| named(name)).ok_or_else(|| PrivilegesError::NoUser(USERS[0].into()))
        }
    }
}

fn become_user(user: &User, kept: Capability) -> Result<(), PrivilegesError> {
    // While it is still allowed.
    for other in caps::all().into_iter().filter(|other| *other != kept) {
        if caps::has_cap(None, CapSet::Bounding, other).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, other)?;
        }
    }
    let failed = |error| PrivilegesError::User(user.name.clone(), error);
    let name = CString::new(user.name.as_str()).map_err(|_| failed(Errno::EINVAL))?;
    prctl::set_keepcaps(true).map_err(failed)?;
    initgroups(&name, user.gid).map_err(failed)?;
    setgid(user.gid).map_err(failed)?;
    setuid(user.uid).map_err(failed)?;
    info!(user = user.name, "running as this user");
    Ok(())
}
