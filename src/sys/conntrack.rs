//! Asks connection tracking for the mark that a flow is pinned with, and pins flows (ctnetlink, kernel module
//! `nf_conntrack_netlink`).
//!
//! Fragments are never tracked, but they belong to a flow that may be tracked. So lbd looks up the flow of a
//! first fragment, and the fragment goes where the flow's whole packets go. A UDP flow is also pinned by its
//! fragmented datagrams. The kernel answers while the request is being sent, so nothing ever waits for an
//! answer; the time limit is for a kernel that does not answer at all. Flows in conntrack zones of an
//! operator's own are not found.
//!
//! A pin is one request: the kernel changes the flow's entry if there is one, and otherwise creates one. The
//! request changes only our bits of the entry's mark, and sets its lifetime. An entry that is created this
//! way is confirmed from the start: if the flow's first whole datagram waits in a queue meanwhile, the kernel
//! gives it this entry when it leaves the queue.
//!
//! An entry created here lacks the lifetime policy (`ct timeout`) that the ruleset gives to others: ctnetlink
//! cannot attach one, and the ruleset cannot attach one to a confirmed entry. So each whole datagram sets the
//! entry's lifetime to the host's own timeout (`net.netfilter.nf_conntrack_udp_timeout`, 30 s), until a
//! fragmented datagram renews it.
//!
//! Layout of a request (`linux/netfilter/nfnetlink_conntrack.h`): netlink header (16 bytes), nfnetlink header
//! (4), the flow's tuple as nested attributes. A request that pins also has the reply tuple, the lifetime,
//! and the mark with its mask.

mod dump;
mod fill;
mod forget;

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

pub use dump::{Changed, Entry, FlowName, Marked, Request, Seen, dump_tracked};
pub use fill::{Fill, fill};
use nix::sys::socket::{MsgFlags, recv, send};

use super::netlink::{
    HEADERS_BYTES, NFPROTO_IPV4, NFPROTO_IPV6, NLM_F_ACK, NLM_F_CREATE, Writer, byte, kind, message_type,
    netfilter, number, take,
};
use crate::{
    balance::flow_table::{FlowMark, FlowTable},
    model::ids::{Mark, MarkMask},
    packet::{Addresses, ICMP, ICMPV6, L4, Packet, Ports},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(100);
/// How many late answers to earlier requests are skipped; after that the request fails.
const STALE_ANSWERS_MAX: usize = 16;
/// An answer takes a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 4096;

// `linux/netfilter/nfnetlink_conntrack.h`.
const IPCTNL_MSG_CT_NEW: u16 = message_type(libc::NFNL_SUBSYS_CTNETLINK, 0);
const IPCTNL_MSG_CT_GET: u16 = message_type(libc::NFNL_SUBSYS_CTNETLINK, 1);
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
/// Attributes for the identifier, type and code.
const CTA_PROTO_ICMP: [u16; 3] = [4, 5, 6];
const CTA_PROTO_ICMPV6: [u16; 3] = [7, 8, 9];

const DCCP: u8 = byte(libc::IPPROTO_DCCP);
const GRE: u8 = byte(libc::IPPROTO_GRE);
const UDP_LITE: u8 = byte(libc::IPPROTO_UDPLITE);
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST6: u8 = 128;

/// A connection to connection tracking.
pub struct Conntrack {
    socket: OwnedFd,
    sequence: u32,
    /// The last request, whose memory is used again for the next one.
    request: Writer,
    /// Why connection tracking cannot be asked, as an error number. Without this, the kernel would look for
    /// its module at every request.
    missing: Option<i32>,
}

impl Conntrack {
    /// Opens a connection in the network namespace of the calling thread. [`Conntrack::missing`] reports
    /// whether the kernel answers.
    ///
    /// # Errors
    /// Returns an error if no socket can be opened.
    pub fn open() -> io::Result<Self> {
        let mut conntrack =
            Self { socket: netfilter(PATIENCE)?, sequence: 0, request: Writer::default(), missing: None };
        let (unspecified, ports) = (IpAddr::from([0; 4]), Ports { src: 0, dst: 0 });
        if let Some(unknown) = Packet::synthetic(17, unspecified, unspecified, ports) {
            conntrack.missing = conntrack.pin_of(&unknown).err().and_then(|error| error.raw_os_error());
        }
        Ok(conntrack)
    }

    /// Returns why connection tracking cannot be asked, if it cannot: usually the kernel lacks
    /// `nf_conntrack_netlink`.
    #[must_use]
    pub fn missing(&self) -> Option<io::Error> {
        self.missing.map(io::Error::from_raw_os_error)
    }

    fn pin_of(&mut self, packet: &Packet) -> io::Result<Option<FlowMark>> {
        if !can_be_found(packet) {
            return Ok(None);
        }
        match self.ask(IPCTNL_MSG_CT_GET, 0, family(packet), |request| question(request, packet)) {
            Ok(Answer::Entry(pin)) => Ok(Some(pin)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Ok(Answer::Done) => Err(io::ErrorKind::InvalidData.into()),
            Err(error) => Err(error),
        }
    }

    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        fill: impl FnOnce(&mut Writer),
    ) -> io::Result<Answer> {
        if let Some(error) = self.missing() {
            return Err(error);
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.request.clear();
        self.request.message(kind, flags, self.sequence, [family, 0, 0, 0], fill);
        send(self.socket.as_raw_fd(), self.request.bytes(), MsgFlags::empty())?;
        let mut answer = [0; ANSWER_BYTES_MAX];
        for _ in 0..STALE_ANSWERS_MAX {
            let bytes = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            if let Some(answer) = read_answer(&answer[..bytes], self.sequence)? {
                return Ok(answer);
            }
        }
        Err(io::Error::other("connection tracking answers other requests"))
    }
}

impl FlowTable for Conntrack {
    fn lookup(&mut self, packet: &Packet) -> io::Result<Option<FlowMark>> {
        self.pin_of(packet).inspect_err(|error| {
            tracing::debug!(%error, "connection tracking cannot be asked");
        })
    }

    fn pin(&mut self, packet: &Packet, mark: Mark, mask: MarkMask, seconds: u32) -> io::Result<()> {
        let L4::Udp(ports) = packet.l4 else { return Err(io::ErrorKind::InvalidInput.into()) };
        let asked = self.ask(IPCTNL_MSG_CT_NEW, NLM_F_CREATE | NLM_F_ACK, family(packet), |request| {
            order(request, packet, ports, mark, mask, seconds);
        });
        let done = asked.and_then(|answer| match answer {
            Answer::Done => Ok(()),
            Answer::Entry(_) => Err(io::ErrorKind::InvalidData.into()),
        });
        done.inspect_err(|error| tracing::debug!(%error, "connection tracking does not pin a flow"))
    }
}

/// An answer of the kernel other than an error.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// The entry of a flow.
    Entry(FlowMark),
    /// The request is done.
    Done,
}

/// Reads the kernel's answer to request `asked`; `None` if these are answers to others.
fn read_answer(bytes: &[u8], asked: u32) -> io::Result<Option<Answer>> {
    let mut entry = None;
    let done = take(bytes, Some(asked), |message| {
        if kind(message) != Some(IPCTNL_MSG_CT_NEW) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let attributes = message.get(HEADERS_BYTES..).unwrap_or_default();
        // The kernel omits a mark of 0.
        let mark = Mark(number(attributes, CTA_MARK).unwrap_or(0));
        entry = Some(Answer::Entry(FlowMark { mark, left_seconds: number(attributes, CTA_TIMEOUT) }));
        Ok(())
    })?;
    Ok(entry.or_else(|| done.then_some(Answer::Done)))
}

/// Reports whether the parsed fields of this packet are enough for the kernel to find its flow.
fn can_be_found(packet: &Packet) -> bool {
    match packet.l4 {
        L4::LaterFragment => false,
        L4::Other => !matches!(packet.protocol, ICMP | DCCP | GRE | ICMPV6 | UDP_LITE),
        L4::Tcp { .. } | L4::Udp(_) | L4::Sctp(_) | L4::Echo { .. } => true,
    }
}

/// Returns the kernel's number for the address family of the packet.
fn family(packet: &Packet) -> u8 {
    match packet.addresses {
        Addresses::V4 { .. } => NFPROTO_IPV4,
        Addresses::V6 { .. } => NFPROTO_IPV6,
    }
}

/// Writes a request for the entry of the flow that `packet` belongs to.
fn question(request: &mut Writer, packet: &Packet) {
    request.nested(CTA_TUPLE_ORIG, |of| tuple(of, packet));
}

/// Writes a request that sets the mark of the UDP flow that `packet` belongs to.
fn order(request: &mut Writer, packet: &Packet, ports: Ports, mark: Mark, mask: MarkMask, seconds: u32) {
    let answer = Packet {
        addresses: packet.addresses.swapped(),
        l4: L4::Udp(Ports { src: ports.dst, dst: ports.src }),
        ..*packet
    };
    request.nested(CTA_TUPLE_ORIG, |of| tuple(of, packet));
    request.nested(CTA_TUPLE_REPLY, |of| tuple(of, &answer));
    request.number(CTA_TIMEOUT, seconds);
    request.number(CTA_MARK, mark.0);
    request.number(CTA_MARK_MASK, mask.bits());
}

fn tuple(tuple: &mut Writer, packet: &Packet) {
    tuple.nested(CTA_TUPLE_IP, |ip| match packet.addresses {
        Addresses::V4 { src, dst } => {
            ip.value(CTA_IP_V4_SRC, &src.octets());
            ip.value(CTA_IP_V4_DST, &dst.octets());
        }
        Addresses::V6 { src, dst } => {
            ip.value(CTA_IP_V6_SRC, &src.octets());
            ip.value(CTA_IP_V6_DST, &dst.octets());
        }
    });
    tuple.nested(CTA_TUPLE_PROTO, |protocol| transport(protocol, packet));
}

fn transport(protocol: &mut Writer, packet: &Packet) {
    protocol.value(CTA_PROTO_NUM, &[packet.protocol]);
    match packet.l4 {
        L4::Tcp { ports, .. } | L4::Udp(ports) | L4::Sctp(ports) => {
            protocol.value(CTA_PROTO_SRC_PORT, &ports.src.to_be_bytes());
            protocol.value(CTA_PROTO_DST_PORT, &ports.dst.to_be_bytes());
        }
        L4::Echo { id } => {
            let ([id_kind, kind_kind, code_kind], kind) = match packet.protocol {
                ICMPV6 => (CTA_PROTO_ICMPV6, ECHO_REQUEST6),
                _ => (CTA_PROTO_ICMP, ECHO_REQUEST),
            };
            protocol.value(id_kind, &id.to_be_bytes());
            protocol.value(kind_kind, &[kind]);
            protocol.value(code_kind, &[0]);
        }
        L4::Other | L4::LaterFragment => {}
    }
}

#[cfg(test)]
mod tests;
