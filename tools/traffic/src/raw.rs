//! Packets as they are: a socket that sends IP packets with headers of our own, and one that hears echo replies.
//! Both are for root (CAP_NET_RAW) only. The runtime has no type for them: what it needs to know of a socket is the
//! same for all that send and receive datagrams, so they go by [`UdpSocket`].

use std::io;
use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use tokio::net::UdpSocket;

use crate::socket::{self, Source};

/// Sends IP packets to one destination.
#[derive(Debug)]
pub(crate) struct RawSender {
    socket: UdpSocket,
    to: SocketAddr,
}

impl RawSender {
    pub(crate) fn open(to: IpAddr) -> anyhow::Result<Self> {
        let socket = socket::raw_sender(to).context("a raw socket: it needs root, or CAP_NET_RAW")?;
        Ok(Self { socket, to: SocketAddr::new(to, 0) })
    }

    pub(crate) async fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.socket.send_to(packet, self.to).await.map(drop)
    }
}

/// Hears ICMP from one peer, and makes of it what echo requests bring back.
#[derive(Debug)]
pub(crate) struct EchoSocket {
    socket: UdpSocket,
    ipv4: bool,
}

const ECHO_REPLY_V4: u8 = 0;
const ECHO_REPLY_V6: u8 = 129;

impl EchoSocket {
    pub(crate) fn open(to: IpAddr, source: Option<Source>) -> io::Result<Self> {
        let socket = socket::icmp_client(to, source)?;
        Ok(Self { socket, ipv4: to.is_ipv4() })
    }

    pub(crate) fn local_ip(&self) -> io::Result<IpAddr> {
        Ok(self.socket.local_addr()?.ip())
    }

    /// The identifier and the message of the next echo reply.
    pub(crate) async fn reply<'a>(&self, buffer: &'a mut [u8]) -> io::Result<(u16, &'a [u8])> {
        loop {
            let length = self.socket.recv(buffer).await?;
            if let Some(at) = reply_at(self.ipv4, &buffer[..length]) {
                let identifier = u16::from_be_bytes([buffer[at - 4], buffer[at - 3]]);
                return Ok((identifier, &buffer[at..length]));
            }
        }
    }
}

/// Where the message of an echo reply starts. IPv4's raw sockets deliver the IP header too.
fn reply_at(ipv4: bool, packet: &[u8]) -> Option<usize> {
    let (header, kind) =
        if ipv4 { (usize::from(packet.first()? & 0x0f) * 4, ECHO_REPLY_V4) } else { (0, ECHO_REPLY_V6) };
    let message = header + 8;
    (*packet.get(header)? == kind && packet.len() >= message).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_echo_replies_that_are_whole_are_heard() {
        let v4 = |kind: u8| [&[0x46][..], &[0; 23], &[kind, 0, 0, 0, 0, 9, 0, 1], b"message"].concat();
        assert_eq!(reply_at(true, &v4(0)), Some(32));
        assert_eq!(reply_at(true, &v4(3)), None);
        assert_eq!(reply_at(true, &v4(0)[..31]), None);
        assert_eq!(reply_at(false, &[129, 0, 0, 0, 0, 9, 0, 1]), Some(8));
        assert_eq!(reply_at(false, &[128, 0, 0, 0, 0, 9, 0, 1]), None);
        assert_eq!(reply_at(true, &[]), None);
    }
}
