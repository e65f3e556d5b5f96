//! One lbd in a network namespace: it has one ruleset and one set of routes. An abstract unix socket is the lock: its
//! name lives in the network namespace and ends with the process, however that ends.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use thiserror::Error;

use super::process;

const NAME: &str = "synrail";

/// While it lives, this process is the only one that sets up the kernel for synrail in its network namespace.
pub struct InstanceLock(#[expect(dead_code, reason = "held, not used")] UnixListener);

/// Why the lock cannot be had.
#[derive(Debug, Error)]
pub enum AlreadyRunning {
    /// There is another.
    #[error(
        "another lbd, {0}, has the queues, ruleset and routes of this network namespace; end that one first"
    )]
    Other(String),
    /// The operating system said no.
    #[error("making sure that no other lbd is at work: {0}")]
    Os(#[from] io::Error),
}

impl InstanceLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// When another process has it, and which.
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

/// The process that listens there.
fn holder(address: &SocketAddr) -> String {
    let peer =
        UnixStream::connect_addr(address).ok().and_then(|stream| getsockopt(&stream, PeerCredentials).ok());
    match peer.map(|peer| peer.pid()) {
        Some(pid) => u64::try_from(pid).ok().and_then(process).unwrap_or_else(|| format!("process {pid}")),
        None => "a process of which nothing more is known".to_owned(),
    }
}
