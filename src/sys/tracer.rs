//! The sockets of the packet tracer: lbd sends reports by them, and `lbctl` sends probes and receives
//! reports.

use std::{
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    net::if_::if_indextoname,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, setsockopt,
        socket,
        sockopt::{Ipv6V6Only, RcvBuf},
    },
};

use super::clock;
use crate::{
    io::{Prober, ReportSink},
    model::InterfaceName,
};

/// Any port will do: the own address is found by connecting a UDP socket, which sends nothing.
const DISCARD_PORT: u16 = 9;
/// Larger than any report.
const DATAGRAM_BYTES_MAX: usize = 2048;

/// The sockets by which lbd sends reports. Packets that arrive at them are never read.
pub struct ReportSender {
    four: UdpSocket,
    /// `None` if the host has no IPv6.
    six: Option<UdpSocket>,
}

impl ReportSender {
    /// Opens the sockets in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Returns an error if no socket can be opened.
    pub fn open() -> io::Result<Self> {
        let four = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let six = match socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None) {
            Ok(socket) => {
                setsockopt(&socket, Ipv6V6Only, &true)?;
                Some(UdpSocket::from(socket))
            }
            Err(Errno::EAFNOSUPPORT) => None,
            Err(error) => return Err(error.into()),
        };
        for socket in [Some(&four), six.as_ref()].into_iter().flatten() {
            socket.set_nonblocking(true)?;
            // The smallest buffer that the kernel allows: packets that are sent here must not cost memory.
            setsockopt(socket, RcvBuf, &0)?;
        }
        Ok(Self { four, six })
    }
}

impl ReportSink for ReportSender {
    fn device(&self, index: u32) -> Option<InterfaceName> {
        InterfaceName::new(if_indextoname(index).ok()?.to_str().ok()?)
    }

    fn send_report(&mut self, receiver: SocketAddr, report: &[u8]) -> io::Result<()> {
        let socket = if receiver.is_ipv4() { Some(&self.four) } else { self.six.as_ref() };
        let socket = socket.ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
        match socket.send_to(report, receiver)? {
            sent if sent == report.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

/// The sockets by which `lbctl` traces. Each is opened when it is first needed.
pub struct Probes {
    started: Instant,
    /// Sends packets that include their IP header.
    raw4: Option<OwnedFd>,
    raw6: Option<OwnedFd>,
    listening: Vec<(IpAddr, UdpSocket)>,
}

impl Default for Probes {
    fn default() -> Self {
        Self { started: clock::now(), raw4: None, raw6: None, listening: Vec::new() }
    }
}

impl Prober for Probes {
    fn now(&mut self) -> Duration {
        clock::now().duration_since(self.started)
    }

    fn nonce(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn address_towards(&mut self, destination: IpAddr) -> io::Result<IpAddr> {
        let socket = UdpSocket::bind((unspecified(destination), 0))?;
        socket.connect((destination, DISCARD_PORT))?;
        Ok(socket.local_addr()?.ip())
    }

    fn listen(&mut self, address: IpAddr) -> io::Result<SocketAddr> {
        if let Some((_, socket)) = self.listening.iter().find(|(of, _)| *of == address) {
            return socket.local_addr();
        }
        let socket = UdpSocket::bind((address, 0))?;
        socket.set_nonblocking(true)?;
        let bound = socket.local_addr()?;
        self.listening.push((address, socket));
        Ok(bound)
    }

    fn send(&mut self, destination: IpAddr, packet: &[u8]) -> io::Result<()> {
        let (raw, family) = match destination {
            IpAddr::V4(_) => (&mut self.raw4, AddressFamily::Inet),
            IpAddr::V6(_) => (&mut self.raw6, AddressFamily::Inet6),
        };
        let raw = match raw {
            Some(raw) => &*raw,
            // With this protocol the sender provides the IP header, in both families (raw(7); net/ipv6/raw.c,
            // rawv6_init_sk).
            None => raw.insert(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?),
        };
        let to = SockaddrStorage::from(SocketAddr::new(destination, 0));
        match sendto(raw.as_raw_fd(), packet, &to, MsgFlags::empty())? {
            sent if sent == packet.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn receive(&mut self, wait: Duration) -> io::Result<Option<Vec<u8>>> {
        let mut ready: Vec<PollFd<'_>> =
            self.listening.iter().map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        // Round up: a wait of less than a millisecond must not become a busy loop.
        let wait = PollTimeout::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
        match poll(&mut ready, wait) {
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut datagram = [0; DATAGRAM_BYTES_MAX];
        for (_, socket) in &self.listening {
            match socket.recv(&mut datagram) {
                Ok(bytes) => return Ok(Some(datagram[..bytes].to_vec())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

fn unspecified(family_of: IpAddr) -> IpAddr {
    if family_of.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Protocol,
        packet::Probe,
        sys::namespace::{in_namespace, shell},
    };

    #[test]
    #[ignore = "needs root"]
    fn a_report_arrives_at_the_socket_that_waits_for_it() {
        in_namespace(|| {
            shell("ip link set lo up");
            let (mut probes, mut reports) = (Probes::default(), ReportSender::open().unwrap());
            for address in ["127.0.0.1", "::1"] {
                let address: IpAddr = address.parse().unwrap();
                assert_eq!(probes.address_towards(address).unwrap(), address);
                let receiver = probes.listen(address).unwrap();
                assert_eq!(probes.listen(address).unwrap(), receiver);
                reports.send_report(receiver, b"a report").unwrap();
                let heard = probes.receive(Duration::from_secs(10)).unwrap();
                assert_eq!(heard.as_deref(), Some(&b"a report"[..]));
            }
            assert_eq!(probes.receive(Duration::from_millis(1)).unwrap(), None);
            assert_eq!(reports.device(1).unwrap().as_str(), "lo");
            assert_eq!(reports.device(4711), None);
            assert!(probes.listen("192.0.2.1".parse().unwrap()).is_err());
            assert!(reports.send_report("192.0.2.1:5000".parse().unwrap(), b"nowhere").is_err());
        });
    }

    #[test]
    #[ignore = "needs root and /dev/net/tun"]
    fn a_probe_leaves_as_it_was_built() {
        in_namespace(|| {
            let out = tun_tap::Iface::without_packet_info("out", tun_tap::Mode::Tun).unwrap();
            out.set_non_blocking().unwrap();
            shell(
                "ip link set lo up; ip addr add 10.9.0.1/24 dev out; ip addr add fd09::1/64 dev out nodad
                ip link set out up; ip route add 192.0.2.0/24 dev out; ip route add 2001:db8::/64 dev out",
            );
            let mut probes = Probes::default();
            let flows = [("50.0.0.1", "192.0.2.7"), ("2000::1", "2001:db8::80")];
            for (protocol, (src, dst)) in Protocol::ALL.into_iter().flat_map(|p| flows.map(|flow| (p, flow)))
            {
                let nonce = probes.nonce().unwrap();
                let probe = Probe { nonce, ..Probe::example(protocol, src, dst) };
                probes.send(dst.parse().unwrap(), &probe.bytes()).unwrap();
                let mut packet = [0; 2048];
                let sent = clock::wait_for(Duration::from_secs(10), Duration::from_millis(1), || {
                    let bytes = out.recv(&mut packet).ok()?;
                    // The kernel sends packets of its own by a new device.
                    Probe::parse(&packet[..bytes]).unwrap()
                });
                assert_eq!(sent, Some(probe));
            }
        });
    }
}
