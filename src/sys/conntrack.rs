//! Asks connection tracking for the mark that a flow is pinned with (ctnetlink, kernel module `nf_conntrack_netlink`).
//!
//! Fragments are never tracked, yet belong to a flow that may be: a first fragment is asked about, so that it goes where
//! the flow's whole packets go. The kernel answers while the question is being sent, so nothing is ever waited for; the
//! time limit is for a kernel that does not answer at all. Flows in conntrack zones of an operator's own are not found.
//!
//! Layout of a question (`linux/netfilter/nfnetlink_conntrack.h`): netlink header (16 bytes), nfnetlink header (4), and
//! the flow's tuple as nested attributes.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send,
        setsockopt, socket, sockopt::ReceiveTimeout,
    },
    time::{TimeVal, TimeValLike as _},
};

use crate::{
    ids::Mark,
    io::Pins,
    packet::{Addresses, L4, Packet, Ports},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(100);
/// Answers to earlier questions that came too late; more than these are not waded through.
const STALE_ANSWERS_MAX: usize = 16;
/// The longest question, about an IPv6 echo request, takes 104 bytes.
const QUESTION_BYTES_MAX: usize = 128;
/// An answer takes a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 4096;

const NETLINK_HEADER_BYTES: usize = 16;
const HEADERS_BYTES: usize = NETLINK_HEADER_BYTES + 4;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const IPCTNL_MSG_CT_NEW: u16 = 1 << 8;
const IPCTNL_MSG_CT_GET: u16 = 1 << 8 | 1;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_MARK: u16 = 8;
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

const ICMP: u8 = 1;
const DCCP: u8 = 33;
const GRE: u8 = 47;
const ICMPV6: u8 = 58;
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
        let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
        let limit = TimeVal::milliseconds(i64::try_from(PATIENCE.as_millis()).unwrap_or(i64::MAX));
        setsockopt(&socket, ReceiveTimeout, &limit)?;
        // To the kernel, and only the kernel can answer.
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let mut conntrack = Self { socket, sequence: 0, missing: None };
        let (unspecified, ports) = (IpAddr::from([0; 4]), Ports { src: 0, dst: 0 });
        if let Some(nobody) = Packet::described(17, unspecified, unspecified, ports) {
            conntrack.missing = conntrack.mark_of(&nobody).err().and_then(|error| error.raw_os_error());
        }
        Ok(conntrack)
    }

    /// Why it cannot be asked, if so: mostly the kernel lacks `nf_conntrack_netlink`.
    #[must_use]
    pub fn missing(&self) -> Option<io::Error> {
        self.missing.map(io::Error::from_raw_os_error)
    }

    fn answer(&self) -> io::Result<Option<Mark>> {
        let mut answer = [0; ANSWER_BYTES_MAX];
        for _ in 0..STALE_ANSWERS_MAX {
            let bytes = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            if let Some(answer) = read_answer(&answer[..bytes], self.sequence) {
                return answer;
            }
        }
        Err(io::Error::other("connection tracking answers other questions"))
    }
}

impl Pins for Conntrack {
    fn mark_of(&mut self, packet: &Packet) -> io::Result<Option<Mark>> {
        if let Some(error) = self.missing() {
            return Err(error);
        }
        self.sequence = self.sequence.wrapping_add(1);
        let Some(question) = Question::new(packet, self.sequence) else { return Ok(None) };
        send(self.socket.as_raw_fd(), question.bytes(), MsgFlags::empty())?;
        self.answer()
    }
}

/// The kernel's answer to question `sequence`; `None` if it answers another one.
fn read_answer(bytes: &[u8], sequence: u32) -> Option<io::Result<Option<Mark>>> {
    let unreadable = || Some(Err(io::Error::from(io::ErrorKind::InvalidData)));
    let word = |at: usize| bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
    let (Some(kind), Some(answered)) = (bytes.get(4..).and_then(|kind| kind.first_chunk()), word(8)) else {
        return unreadable();
    };
    if answered != sequence {
        return None;
    }
    match u16::from_ne_bytes(*kind) {
        NLMSG_ERROR => Some(match word(NETLINK_HEADER_BYTES).map(|error| -error.cast_signed()) {
            Some(libc::ENOENT) => Ok(None),
            Some(error) if error > 0 => Err(io::Error::from_raw_os_error(error)),
            Some(_) | None => return unreadable(),
        }),
        IPCTNL_MSG_CT_NEW => {
            let attributes = bytes.get(HEADERS_BYTES..).unwrap_or_default();
            // The kernel leaves out a mark of 0.
            Some(Ok(Some(Mark(attribute(attributes, CTA_MARK).map_or(0, u32::from_be_bytes)))))
        }
        _ => unreadable(),
    }
}

/// The value of the attribute of that kind, which is 4 bytes long.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<[u8; 4]> {
    loop {
        let &[l0, l1, k0, k1] = attributes.first_chunk()?;
        let (bytes, kind) = (usize::from(u16::from_ne_bytes([l0, l1])), u16::from_ne_bytes([k0, k1]));
        if kind & NLA_TYPE_MASK == wanted {
            return attributes.get(4..bytes)?.first_chunk().copied();
        }
        attributes = attributes.get(bytes.max(4).next_multiple_of(4)..)?;
    }
}

/// A question under construction.
struct Question {
    buffer: [u8; QUESTION_BYTES_MAX],
    bytes: usize,
}

impl Question {
    /// What is the mark of the flow that `packet` belongs to? `None` where the kernel tells flows apart by more than is
    /// known of the packet.
    fn new(packet: &Packet, sequence: u32) -> Option<Self> {
        if matches!(packet.l4, L4::LaterFragment)
            || (matches!(packet.l4, L4::Other)
                && matches!(packet.protocol, ICMP | DCCP | GRE | ICMPV6 | UDP_LITE))
        {
            return None;
        }
        let family = match packet.addresses {
            Addresses::V4 { .. } => libc::AF_INET,
            Addresses::V6 { .. } => libc::AF_INET6,
        };
        let mut question = Self { buffer: [0; QUESTION_BYTES_MAX], bytes: 0 };
        question.put(&[0; 4]); // the length, see below
        question.put(&IPCTNL_MSG_CT_GET.to_ne_bytes());
        question.put(&NLM_F_REQUEST.to_ne_bytes());
        question.put(&sequence.to_ne_bytes());
        question.put(&[0; 4]); // port
        question.put(&[u8::try_from(family).unwrap_or(0), 0, 0, 0]);
        question.nested(CTA_TUPLE_ORIG, |tuple| {
            tuple.nested(CTA_TUPLE_IP, |ip| match packet.addresses {
                Addresses::V4 { src, dst } => {
                    ip.attribute(CTA_IP_V4_SRC, &src.octets());
                    ip.attribute(CTA_IP_V4_DST, &dst.octets());
                }
                Addresses::V6 { src, dst } => {
                    ip.attribute(CTA_IP_V6_SRC, &src.octets());
                    ip.attribute(CTA_IP_V6_DST, &dst.octets());
                }
            });
            tuple.nested(CTA_TUPLE_PROTO, |protocol| protocol.transport(packet));
        });
        let bytes = u32::try_from(question.bytes).unwrap_or(0).to_ne_bytes();
        question.buffer[..4].copy_from_slice(&bytes);
        Some(question)
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
