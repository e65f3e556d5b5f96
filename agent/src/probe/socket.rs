//! Sockets of probes: with the mark and the source of the check, and errors in words.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Failed, Target};

/// Opens a socket that does not block.
pub(super) fn open(target: &Target, kind: Type, protocol: Option<Protocol>) -> Result<Socket, Failed> {
    let opened = Socket::new(Domain::for_address(target.to), kind.nonblocking(), protocol);
    let socket = opened.map_err(|error| cannot("opening a socket", "CAP_NET_RAW", &error))?;
    if let Some(mark) = target.mark {
        let needed = "CAP_NET_RAW (Linux 5.17, else CAP_NET_ADMIN)";
        socket.set_mark(mark.0).map_err(|error| cannot("marking packets for the tunnel", needed, &error))?;
    }
    if let Some(from) = target.from {
        socket.bind(&SocketAddr::new(from, 0).into()).map_err(|error| cannot_bind(from, &error))?;
    }
    Ok(socket)
}

fn cannot(what: &str, needed: &str, error: &io::Error) -> Failed {
    Failed::Host(if error.kind() == io::ErrorKind::PermissionDenied {
        format!("lbagent needs {needed}: {what} is not allowed")
    } else {
        format!("{what}: {}", words(error))
    })
}

fn cannot_bind(from: IpAddr, error: &io::Error) -> Failed {
    Failed::Host(if error.kind() == io::ErrorKind::AddrNotAvailable {
        format!("{from} of [balancer] address is no address of this host")
    } else {
        format!("sending from {from}: {}", words(error))
    })
}

/// Returns an error of this host alone.
pub(super) fn of_host(error: &io::Error) -> Failed {
    Failed::Host(words(error))
}

/// Returns what an error of a connection means.
pub(super) fn cannot_connect(target: &Target, error: &io::Error) -> Failed {
    let short =
        [Errno::EADDRNOTAVAIL, Errno::EAGAIN, Errno::ENOBUFS, Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE];
    if error.raw_os_error().is_some_and(|number| short.map(|error| error as i32).contains(&number)) {
        return of_host(error);
    }
    let no_route = [Errno::EINVAL, Errno::ENETUNREACH].map(|error| error as i32);
    if target.mark.is_some() && error.raw_os_error().is_some_and(|number| no_route.contains(&number)) {
        return "no route through its tunnel on this host; `lbctl check` says more".into();
    }
    words(error).into()
}

/// Returns an error of the operating system in plain words.
#[expect(clippy::wildcard_enum_match_arm, reason = "io::ErrorKind is open")]
pub(super) fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "connection reset".to_owned(),
        io::ErrorKind::UnexpectedEof => "closed too early".to_owned(),
        io::ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        io::ErrorKind::TimedOut => "no answer".to_owned(),
        _ => error.to_string(),
    }
}
