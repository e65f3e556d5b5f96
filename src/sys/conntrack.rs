//! Asks connection tracking for the mark that a flow is pinned with, and pins flows (ctnetlink, kernel module
//! `nf_conntrack_netlink`).
//!
//! Fragments are never tracked, yet belong to a flow that may be: a first fragment is asked about, so that it goes where
//! the flow's whole packets go; and a UDP flow is pinned by its fragmented datagrams as well. The kernel answers while the
//! request is being sent, so nothing is ever waited for; the time limit is for a kernel that does not answer at all.
//! Flows in conntrack zones of an operator's own are not found.
//!
//! A pin is one request: the kernel changes the flow's entry if there is one, and makes one else. Of an entry's mark only
//! our bits change; its lifetime is set, and nothing else. An entry that is made so is confirmed from the start: if the
//! flow's first whole datagram waits in a queue meanwhile, the kernel gives it this entry when it goes on.
//!
//! What an entry made here lacks is the lifetime policy (`ct timeout`) that the ruleset gives to others: ctnetlink cannot
//! attach one, and the ruleset cannot to an entry that is confirmed. So each whole datagram gives it the host's own time
//! (`net.netfilter.nf_conntrack_udp_timeout`, 30 s), until a fragmented one renews it.
//!
//! Layout of a request (`linux/netfilter/nfnetlink_conntrack.h`): netlink header (16 bytes), nfnetlink header (4), the
//! flow's tuple as nested attributes; to pin it also the tuple of answers, the lifetime, and the mark with its mask.

mod forget;

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::sys::socket::{MsgFlags, recv, send};

use super::netlink::{
    HEADER_BYTES, HEADERS_BYTES, NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NLMSG_ERROR,
    attribute, kind, netfilter, word,
};
use crate::{
    ids::{Mark, MarkMask},
    io::{Pin, Pins},
    packet::{Addresses, ICMP, ICMPV6, L4, Packet, Ports},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(100);
/// Answers to earlier questions that came too late; more than these are not waded through.
const STALE_ANSWERS_MAX: usize = 16;
/// The longest request, to pin an IPv6 flow, takes 196 bytes.
const REQUEST_BYTES_MAX: usize = 256;
/// An answer takes a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 4096;

const IPCTNL_MSG_CT_NEW: u16 = 1 << 8;
const IPCTNL_MSG_CT_GET: u16 = 1 << 8 | 1;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TIMEOUT: u16 = 7;
const CTA_MARK: u16 = 8;
const CTA_MARK_MASK: u16 = 21;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
/// Identifier, type and code.
const CTA_PROTO_ICMP: [u16; 3] = [4, 5, 6];
const CTA_PROTO_ICMPV6: [u16; 3] = [7, 8, 9];

const DCCP: u8 = 33;
const GRE: u8 = 47;
const UDP_LITE: u8 = 136;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST6: u8 = 128;

/// A connection to connection tracking.
pub struct Conntrack {
    socket: OwnedFd,
    sequence: u32,
    /// Why it cannot be asked, as an error number. The kernel would look for its module at every question.
    missing: Option<i32>,
}

impl Conntrack {
    /// Opens a connection in the network namespace of the calling thread. Whether anybody answers is told by
    /// [`Conntrack::missing`].
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub fn open() -> io::Result<Self> {
        let mut conntrack = Self { socket: netfilter(PATIENCE)?, sequence: 0, missing: None };
        let (unspecified, ports) = (IpAddr::from([0; 4]), Ports { src: 0, dst: 0 });
        if let Some(nobody) = Packet::described(17, unspecified, unspecified, ports) {
            conntrack.missing = conntrack.pin_of(&nobody).err().and_then(|error| error.raw_os_error());
        }
        Ok(conntrack)
    }

    /// Why it cannot be asked, if so: mostly the kernel lacks `nf_conntrack_netlink`.
    #[must_use]
    pub fn missing(&self) -> Option<io::Error> {
        self.missing.map(io::Error::from_raw_os_error)
    }

    fn pin_of(&mut self, packet: &Packet) -> io::Result<Option<Pin>> {
        self.sequence = self.sequence.wrapping_add(1);
        let Some(request) = Request::mark_of(packet, self.sequence) else { return Ok(None) };
        match self.ask(&request) {
            Ok(Answer::Entry(pin)) => Ok(Some(pin)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Ok(Answer::Done) => Err(io::ErrorKind::InvalidData.into()),
            Err(error) => Err(error),
        }
    }

    fn ask(&self, request: &Request) -> io::Result<Answer> {
        if let Some(error) = self.missing() {
            return Err(error);
        }
        send(self.socket.as_raw_fd(), request.bytes(), MsgFlags::empty())?;
        let mut answer = [0; ANSWER_BYTES_MAX];
        for _ in 0..STALE_ANSWERS_MAX {
            let bytes = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            if let Some(answer) = read_answer(&answer[..bytes], self.sequence) {
                return answer;
            }
        }
        Err(io::Error::other("connection tracking answers other requests"))
    }
}

impl Pins for Conntrack {
    fn mark_of(&mut self, packet: &Packet) -> io::Result<Option<Pin>> {
        self.pin_of(packet).inspect_err(|error| {
            tracing::debug!(%error, "connection tracking cannot be asked");
        })
    }

    fn pin(&mut self, packet: &Packet, mark: Mark, mask: MarkMask, seconds: u32) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = Request::pin(packet, mark, mask, seconds, self.sequence);
        let request = request.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let done = self.ask(&request).and_then(|answer| match answer {
            Answer::Done => Ok(()),
            Answer::Entry(_) => Err(io::ErrorKind::InvalidData.into()),
        });
        done.inspect_err(|error| tracing::debug!(%error, "connection tracking does not pin a flow"))
    }
}

/// What the kernel answers, other than errors.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// What it knows of a flow.
    Entry(Pin),
    /// It has done what it was told.
    Done,
}

/// The kernel's answer to request `sequence`; `None` if it answers another one.
fn read_answer(bytes: &[u8], sequence: u32) -> Option<io::Result<Answer>> {
    let unreadable = || Some(Err(io::Error::from(io::ErrorKind::InvalidData)));
    let (Some(kind), Some(answered)) = (kind(bytes), word(bytes, 8)) else {
        return unreadable();
    };
    if answered != sequence {
        return None;
    }
    match kind {
        NLMSG_ERROR => match word(bytes, HEADER_BYTES).map(u32::cast_signed) {
            Some(0) => Some(Ok(Answer::Done)),
            Some(error @ ..0) => Some(Err(io::Error::from_raw_os_error(error.saturating_neg()))),
            Some(_) | None => unreadable(),
        },
        IPCTNL_MSG_CT_NEW => {
            let attributes = bytes.get(HEADERS_BYTES..).unwrap_or_default();
            // The kernel leaves out a mark of 0.
            let mark = Mark(number(attributes, CTA_MARK).map_or(0, u32::from_be_bytes));
            let left_seconds = number(attributes, CTA_TIMEOUT).map(u32::from_be_bytes);
            Some(Ok(Answer::Entry(Pin { mark, left_seconds })))
        }
        _ => unreadable(),
    }
}

/// The value of the attribute of that kind, which is 4 bytes long.
fn number(attributes: &[u8], wanted: u16) -> Option<[u8; 4]> {
    attribute(attributes, wanted)?.first_chunk().copied()
}

/// A request under construction.
struct Request {
    buffer: [u8; REQUEST_BYTES_MAX],
    bytes: usize,
}

impl Request {
    /// What is the mark of the flow that `packet` belongs to? `None` where the kernel tells flows apart by more than is
    /// known of the packet.
    fn mark_of(packet: &Packet, sequence: u32) -> Option<Self> {
        if matches!(packet.l4, L4::LaterFragment)
            || (matches!(packet.l4, L4::Other)
                && matches!(packet.protocol, ICMP | DCCP | GRE | ICMPV6 | UDP_LITE))
        {
            return None;
        }
        let mut request = Self::new(IPCTNL_MSG_CT_GET, 0, packet.addresses, sequence);
        request.nested(CTA_TUPLE_ORIG, |tuple| tuple.tuple(packet));
        Some(request.ended())
    }

    /// The flow that `packet` belongs to gets a mark. `None` if it is not UDP.
    fn pin(packet: &Packet, mark: Mark, mask: MarkMask, seconds: u32, sequence: u32) -> Option<Self> {
        let L4::Udp(Ports { src, dst }) = packet.l4 else { return None };
        let answer = Packet {
            addresses: packet.addresses.swapped(),
            l4: L4::Udp(Ports { src: dst, dst: src }),
            ..*packet
        };
        let mut request = Self::new(IPCTNL_MSG_CT_NEW, NLM_F_CREATE | NLM_F_ACK, packet.addresses, sequence);
        request.nested(CTA_TUPLE_ORIG, |tuple| tuple.tuple(packet));
        request.nested(CTA_TUPLE_REPLY, |tuple| tuple.tuple(&answer));
        request.attribute(CTA_TIMEOUT, &seconds.to_be_bytes());
        request.attribute(CTA_MARK, &mark.0.to_be_bytes());
        request.attribute(CTA_MARK_MASK, &mask.bits().to_be_bytes());
        Some(request.ended())
    }

    /// The two headers, of a request about a flow between these addresses.
    fn new(kind: u16, flags: u16, addresses: Addresses, sequence: u32) -> Self {
        let family = match addresses {
            Addresses::V4 { .. } => libc::AF_INET,
            Addresses::V6 { .. } => libc::AF_INET6,
        };
        Self::of_family(kind, flags, u8::try_from(family).unwrap_or(0), sequence)
    }

    fn of_family(kind: u16, flags: u16, family: u8, sequence: u32) -> Self {
        let mut request = Self { buffer: [0; REQUEST_BYTES_MAX], bytes: 0 };
        request.put(&[0; 4]); // the length, see below
        request.put(&kind.to_ne_bytes());
        request.put(&(NLM_F_REQUEST | flags).to_ne_bytes());
        request.put(&sequence.to_ne_bytes());
        request.put(&[0; 4]); // port
        request.put(&[family, 0, 0, 0]);
        request
    }

    fn ended(mut self) -> Self {
        let bytes = u32::try_from(self.bytes).unwrap_or(0).to_ne_bytes();
        self.buffer[..4].copy_from_slice(&bytes);
        self
    }

    fn tuple(&mut self, packet: &Packet) {
        self.nested(CTA_TUPLE_IP, |ip| match packet.addresses {
            Addresses::V4 { src, dst } => {
                ip.attribute(CTA_IP_V4_SRC, &src.octets());
                ip.attribute(CTA_IP_V4_DST, &dst.octets());
            }
            Addresses::V6 { src, dst } => {
                ip.attribute(CTA_IP_V6_SRC, &src.octets());
                ip.attribute(CTA_IP_V6_DST, &dst.octets());
            }
        });
        self.nested(CTA_TUPLE_PROTO, |protocol| protocol.transport(packet));
    }

    fn transport(&mut self, packet: &Packet) {
        self.attribute(CTA_PROTO_NUM, &[packet.protocol]);
        match packet.l4 {
            L4::Tcp { ports, .. } | L4::Udp(ports) | L4::Sctp(ports) => {
                self.attribute(CTA_PROTO_SRC_PORT, &ports.src.to_be_bytes());
                self.attribute(CTA_PROTO_DST_PORT, &ports.dst.to_be_bytes());
            }
            L4::Echo { id } => {
                let ([id_kind, kind_kind, code_kind], kind) = match packet.protocol {
                    ICMPV6 => (CTA_PROTO_ICMPV6, ECHO_REQUEST6),
                    _ => (CTA_PROTO_ICMP, ECHO_REQUEST),
                };
                self.attribute(id_kind, &id.to_be_bytes());
                self.attribute(kind_kind, &[kind]);
                self.attribute(code_kind, &[0]);
            }
            L4::Other | L4::LaterFragment => {}
        }
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes;
        self.attribute(kind | NLA_F_NESTED, &[]);
        fill(self);
        let bytes = u16::try_from(self.bytes - start).unwrap_or(0).to_ne_bytes();
        self.buffer[start..start + 2].copy_from_slice(&bytes);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.put(&u16::try_from(4 + value.len()).unwrap_or(0).to_ne_bytes());
        self.put(&kind.to_ne_bytes());
        self.put(value);
        self.bytes = self.bytes.next_multiple_of(4);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.buffer[self.bytes..self.bytes + bytes.len()].copy_from_slice(bytes);
        self.bytes += bytes.len();
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.bytes]
    }
}

#[cfg(test)]
mod tests;
