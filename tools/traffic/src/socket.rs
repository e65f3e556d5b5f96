//! Sockets with the options that this tool needs, and the limit of open files. The only file that sets options.
//!
//! A client that connects many times from one address must not use up its ephemeral ports: with
//! IP_BIND_ADDRESS_NO_PORT the bind reserves none, and the connect may take any that is free for its 4-tuple.
//! An IPv6 source may be from a prefix that is local by its route only (`ip route add local 2000::/112 dev lo`),
//! which no program can bind to, or answer from, without IPV6_FREEBIND; IPv4 needs nothing for it.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use nix::libc::{self, IPPROTO_RAW};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::{getsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Open files besides the connections: standard ones, the runtime's, signals.
const FILES_RESERVE: u64 = 64;
const BACKLOG: i32 = 4096;
/// Asked for; the kernel gives what its own limit allows.
const UDP_BUFFER_BYTES: usize = 4 << 20;

sockopt_impl!(
    /// The first words of the kernel's `tcp_info`, up to the last one that is read here. Newer kernels know more than
    /// older ones; every one fills as much as it is asked for, if it has that.
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    [u32; TOTAL_RETRANS + 1]
);
/// Where `tcpi_total_retrans` is, in words.
const TOTAL_RETRANS: usize = std::mem::offset_of!(libc::tcp_info, tcpi_total_retrans) / 4;

/// Where connections come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) address: IpAddr,
    /// 0: any.
    pub(crate) port: u16,
}

/// A TCP socket that has its source and is ready to connect.
pub(crate) fn tcp_client(to: SocketAddr, source: Option<Source>) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        socket.set_reuse_address(true)?;
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        bind(&socket, source)?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// A UDP socket, connected.
pub(crate) fn udp_client(to: SocketAddr, source: Option<Source>) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if let Some(source) = source {
        bind(&socket, source)?;
    }
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// A raw socket whose packets bring their headers, to the family of `to`.
pub(crate) fn raw(to: IpAddr) -> io::Result<Socket> {
    // With this protocol the kernel takes the header as it is, IPv6's too.
    let socket = Socket::new(domain(to), Type::RAW, Some(Protocol::from(IPPROTO_RAW)))?;
    socket.set_send_buffer_size(UDP_BUFFER_BYTES)?;
    Ok(socket)
}

/// The same for the runtime.
pub(crate) fn raw_sender(to: IpAddr) -> io::Result<tokio::net::UdpSocket> {
    let socket = raw(to)?;
    socket.set_nonblocking(true)?;
    tokio::net::UdpSocket::from_std(socket.into())
}

/// A raw socket for ICMP from `to`.
pub(crate) fn icmp_client(to: IpAddr, source: Option<Source>) -> io::Result<tokio::net::UdpSocket> {
    let protocol = if to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let socket = Socket::new(domain(to), Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if let Some(source) = source {
        bind(&socket, Source { port: 0, ..source })?;
    }
    socket.connect(&SocketAddr::new(to, 0).into())?;
    tokio::net::UdpSocket::from_std(socket.into())
}

fn domain(of: IpAddr) -> Domain {
    Domain::for_address(SocketAddr::new(of, 0))
}

/// A listening TCP socket; an IPv6 wildcard leaves IPv4 to another one.
pub(crate) fn tcp_server(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A UDP socket for a server; an IPv6 wildcard leaves IPv4 to another one.
pub(crate) fn udp_server(at: SocketAddr) -> io::Result<tokio::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(UDP_BUFFER_BYTES)?;
    socket.set_send_buffer_size(UDP_BUFFER_BYTES)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&at.into())?;
    tokio::net::UdpSocket::from_std(socket.into())
}

/// How many segments of the connection had to be sent again.
pub(crate) fn retransmissions(stream: &TcpStream) -> io::Result<u64> {
    Ok(getsockopt(stream, TcpInfo)?[TOTAL_RETRANS].into())
}

/// Raises the limit of open files as far as `connections` need and the system allows; returns for how many
/// connections it is enough, at most as many as asked for.
pub(crate) fn allow_connections(connections: u64) -> io::Result<u64> {
    let wanted = connections.saturating_add(FILES_RESERVE);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= wanted {
        return Ok(connections);
    }
    // Beyond the hard limit root may go; others stay at it.
    if wanted > hard && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(connections);
    }
    let reached = wanted.min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, reached, hard)?;
    Ok(reached.saturating_sub(FILES_RESERVE))
}

fn bind(socket: &Socket, source: Source) -> io::Result<()> {
    if source.address.is_ipv6() {
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&SocketAddr::new(source.address, source.port).into())
}
