//! Allows one lbd per network namespace, which has one ruleset and one set of routes. The lock is an abstract
//! unix socket: its name belongs to the network namespace, and is freed when the process ends, however it
//! ends.

use std::{
    fs, io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use thiserror::Error;

use super::process;

const NAME: &str = "synrail";

/// While this value lives, this process is the only one that sets up the kernel for synrail in its network
/// namespace.
pub struct InstanceLock(#[expect(dead_code, reason = "held, not used")] UnixListener);

/// Why the lock was not acquired.
#[derive(Debug, Error)]
pub enum AlreadyRunning {
    /// Another process holds the lock.
    #[error(
        "another lbd, {0}, has the queues, ruleset and routes of this network namespace; end that one first"
    )]
    Other(String),
    /// A system call failed.
    #[error("making sure that no other lbd is at work: {0}")]
    Os(#[from] io::Error),
}

impl InstanceLock {
    /// Reports whether a process of this network namespace holds the lock. Leaves no trace at that process.
    ///
    /// # Errors
    /// Returns an error if the kernel's list of unix sockets cannot be read.
    pub fn is_held() -> io::Result<bool> {
        let sockets = fs::read_to_string("/proc/thread-self/net/unix")?;
        // An abstract name is shown behind an `@` (`unix_seq_show`).
        Ok(sockets.lines().any(|line| line.split_ascii_whitespace().nth(7) == Some("@synrail")))
    }

    /// Acquires the lock.
    ///
    /// # Errors
    /// Returns an error if another process holds the lock, and names that process.
    pub fn acquire() -> Result<Self, AlreadyRunning> {
        let address = SocketAddr::from_abstract_name(NAME)?;
        match UnixListener::bind_addr(&address) {
            Ok(listener) => Ok(Self(listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(AlreadyRunning::Other(holder(&address)))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Describes the process that listens at this address.
fn holder(address: &SocketAddr) -> String {
    let peer =
        UnixStream::connect_addr(address).ok().and_then(|stream| getsockopt(&stream, PeerCredentials).ok());
    match peer.map(|peer| peer.pid()) {
        Some(pid) => u64::try_from(pid).ok().and_then(process).unwrap_or_else(|| format!("process {pid}")),
        None => "a process of which nothing more is known".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::namespace::in_namespace;

    #[test]
    #[ignore = "needs root"]
    fn it_is_of_one_network_namespace_and_seen_there() {
        in_namespace(|| {
            assert!(!InstanceLock::is_held().unwrap());
            let lock = InstanceLock::acquire().unwrap();
            assert!(InstanceLock::is_held().unwrap());
            assert!(matches!(InstanceLock::acquire(), Err(AlreadyRunning::Other(_))));
            drop(lock);
            assert!(!InstanceLock::is_held().unwrap());
        });
    }
}
