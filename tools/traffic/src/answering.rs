//! A UDP server's socket that answers from the very address that was asked, also when it is bound to a wildcard:
//! each datagram comes with its destination (IP_PKTINFO, IPV6_RECVPKTINFO), which becomes the answer's source. So one
//! wildcard serves all virtual addresses of a host, prefixes that are local only by their route included.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::libc::{in_addr, in_pktinfo, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::socket;

/// The socket, with the room for what comes with a datagram.
#[derive(Debug)]
pub(crate) struct AnsweringSocket {
    socket: UdpSocket,
    control: Vec<u8>,
}

/// Who asked, and at which address.
#[derive(Debug)]
pub(crate) struct Asker {
    from: SockaddrStorage,
    asked: Asked,
}

#[derive(Debug)]
enum Asked {
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

impl AnsweringSocket {
    pub(crate) fn bind(at: SocketAddr) -> io::Result<Self> {
        let socket = socket::udp_server(at)?;
        if at.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        Ok(Self { socket, control: nix::cmsg_space!(in6_pktinfo) }) // the larger of the two
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The next datagram's length, and who is to have the answer.
    pub(crate) async fn receive(&mut self, into: &mut [u8]) -> io::Result<(usize, Asker)> {
        let Self { socket, control } = self;
        let fd = socket.as_raw_fd();
        let receive = || {
            let mut buffers = [IoSliceMut::new(into)];
            let received = recvmsg::<SockaddrStorage>(
                fd,
                &mut buffers,
                Some(control.as_mut_slice()),
                MsgFlags::empty(),
            )?;
            let asked = received.cmsgs()?.find_map(|message| {
                if let ControlMessageOwned::Ipv4PacketInfo(info) = message {
                    Some(Asked::V4(info))
                } else if let ControlMessageOwned::Ipv6PacketInfo(info) = message {
                    Some(Asked::V6(info))
                } else {
                    None
                }
            });
            let asker = received.address.zip(asked).map(|(from, asked)| Asker { from, asked });
            Ok((received.bytes, asker.ok_or(io::ErrorKind::InvalidData)?))
        };
        socket.async_io(Interest::READABLE, receive).await
    }

    pub(crate) async fn answer(&self, asker: &Asker, answer: &[u8]) -> io::Result<()> {
        // Interface 0: the route decides, which need not lead back to where the question came in.
        let from4 =
            |info: &in_pktinfo| in_pktinfo { ipi_ifindex: 0, ipi_addr: in_addr { s_addr: 0 }, ..*info };
        let from6 = |info: &in6_pktinfo| in6_pktinfo { ipi6_ifindex: 0, ..*info };
        let send = |control: ControlMessage<'_>| {
            let (fd, to) = (self.socket.as_raw_fd(), Some(&asker.from));
            sendmsg(fd, &[IoSlice::new(answer)], &[control], MsgFlags::empty(), to)?;
            Ok(())
        };
        let send = || match &asker.asked {
            Asked::V4(info) => send(ControlMessage::Ipv4PacketInfo(&from4(info))),
            Asked::V6(info) => send(ControlMessage::Ipv6PacketInfo(&from6(info))),
        };
        self.socket.async_io(Interest::WRITABLE, send).await
    }
}
