//! Reads all flows that connection tracking has (a dump, in as many answers as needed), and changes or
//! deletes many of them. Each flow is identified by the attributes that the kernel reported for it. One
//! message to the kernel holds many requests; the kernel reports those that it refuses, and acknowledges the
//! last one. A flow that has ended meanwhile is no error.

use std::{io, net::IpAddr};

use super::{
    CTA_IP_V4_DST, CTA_IP_V4_SRC, CTA_IP_V6_DST, CTA_IP_V6_SRC, CTA_MARK, CTA_MARK_MASK, CTA_PROTO_DST_PORT,
    CTA_PROTO_ICMP, CTA_PROTO_ICMPV6, CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_TIMEOUT, CTA_TUPLE_IP,
    CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, Conntrack, IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_NEW, PATIENCE,
};
use crate::{
    balance::pins::{PROBATION_SECONDS, Phase, Promotion, Tracked},
    model::ids::Mark,
    packet::{Addresses, ICMP, ICMPV6, L4, Packet, Ports, SCTP, TCP, UDP},
    sys::netlink::{
        DUMP_BYTES_MAX, HEADER_BYTES, HEADERS_BYTES, NLM_F_ACK, NLM_F_DUMP, Writer, attribute, attributes,
        change_all, dump, kind, message_type, netfilter, number,
    },
};

// `linux/netfilter/nfnetlink_conntrack.h`.
const IPCTNL_MSG_CT_DELETE: u16 = message_type(libc::NFNL_SUBSYS_CTNETLINK, 2);
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TIMESTAMP: u16 = 20;
const CTA_COUNTERS_PACKETS: u16 = 1;
const CTA_COUNTERS_BYTES: u16 = 2;
const CTA_TIMESTAMP_START: u16 = 1;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
/// `enum ip_conntrack_status` (`linux/netfilter/nf_conntrack_common.h`).
const IPS_SEEN_REPLY: u32 = 1 << 1;
const IPS_ASSURED: u32 = 1 << 2;
/// The flow is in a flowtable.
const IPS_OFFLOAD: u32 = 1 << 14;
const PROTECTED: u32 = IPS_SEEN_REPLY | IPS_ASSURED;
/// `enum tcp_conntrack` (`linux/netfilter/nf_conntrack_tcp.h`): FIN_WAIT to CLOSE.
const TCP_CLOSING: std::ops::RangeInclusive<u8> = 4..=8;
/// The kernel returns each refused request in full, and the socket's buffer must have room for all of them.
const REQUESTS_PER_MESSAGE: usize = 64;
/// The largest size of the answers to one such message.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A flow as a dump reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    family: u8,
    attributes: &'a [u8],
}

/// A flow as connection tracking has it, with what it has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The entry.
    pub tracked: Tracked,
    /// Its packets from the client; `None` where the host does not count (`net.netfilter.nf_conntrack_acct`).
    pub packets: Option<u64>,
    /// The bytes of these.
    pub bytes: Option<u64>,
    /// When it began, in seconds since 1970; `None` where the host does not record that
    /// (`net.netfilter.nf_conntrack_timestamp`).
    pub began_unix_seconds: Option<u64>,
}

/// Passes every flow to `each` whose tuple can be read; with `marked`, only those with such a mark.
///
/// # Errors
/// Returns an error if the kernel cannot be asked, or if `each` returns one.
pub fn dump_tracked(marked: Option<Marked>, each: &mut dyn FnMut(&Seen) -> io::Result<()>) -> io::Result<()> {
    Conntrack::open()?.dump(marked, |entry| entry.seen().map_or(Ok(()), |seen| each(&seen)))
}

/// Which marks are meant: those that have `value` in the bits of `mask` (`ctnetlink_filter_match_mark` in
/// `net/netfilter/nf_conntrack_netlink.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marked {
    /// The bits that are set, of the mask alone.
    pub value: u32,
    /// The bits that are compared.
    pub mask: u32,
}

/// Identifies a flow to the kernel, for longer than the answer of a dump lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowName {
    family: u8,
    /// The status of the flow, which a change must state in full.
    status: u32,
    /// The attributes [`NAMED_BY`], as the kernel wrote them.
    attributes: Vec<u8>,
}

/// The attributes that distinguish a flow from all others, also from a later one with the same addresses and
/// ports.
const NAMED_BY: [u16; 3] = [CTA_TUPLE_ORIG, CTA_ZONE, CTA_ID];

/// A change of a flow's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Deletes the entry.
    Delete,
    /// Sets what is given here; all else stays.
    Set {
        /// Whether to set SEEN_REPLY and ASSURED.
        protect: bool,
        /// The lifetime from now on; `None` keeps it.
        seconds: Option<u32>,
    },
}

/// The result of many requests.
#[derive(Debug, Default)]
pub struct Changed {
    /// How many requests are done.
    pub done: u64,
    /// How many requests named a flow that no longer existed.
    pub gone: u64,
    /// The first error of a refused request.
    pub refused: Option<io::Error>,
}

impl Conntrack {
    /// Passes every flow to `each`; with `marked`, only those with such a mark, which the kernel selects.
    ///
    /// # Errors
    /// Returns an error if the kernel cannot be asked, or if `each` returns one.
    pub fn dump(
        &mut self,
        marked: Option<Marked>,
        mut each: impl FnMut(&Entry<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Some(error) = self.missing() {
            return Err(error);
        }
        // The dump goes on while entries are changed, so it has its own socket.
        let socket = netfilter(PATIENCE)?;
        let mut request = Writer::default();
        request.message(IPCTNL_MSG_CT_GET, NLM_F_DUMP, 1, [0; 4], |request| {
            if let Some(Marked { value, mask }) = marked {
                request.number(CTA_MARK, value);
                request.number(CTA_MARK_MASK, mask);
            }
        });
        dump(&socket, &request, &mut vec![0; DUMP_BYTES_MAX], |message| {
            if kind(message) != Some(IPCTNL_MSG_CT_NEW) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            Entry::read(message).map_or(Ok(()), |entry| each(&entry))
        })
    }

    /// Carries out all requests.
    ///
    /// # Errors
    /// Returns an error if the requests cannot be sent or answers cannot be received. A request that the
    /// kernel refuses is in the result, and does not stop the others.
    pub fn change(&mut self, requests: &[(FlowName, Request)]) -> io::Result<Changed> {
        let mut changed = Changed::default();
        for requests in requests.chunks(REQUESTS_PER_MESSAGE) {
            self.change_some(requests, &mut changed)?;
        }
        Ok(changed)
    }

    fn change_some(&mut self, requests: &[(FlowName, Request)], changed: &mut Changed) -> io::Result<()> {
        if let Some(error) = self.missing() {
            return Err(error);
        }
        self.request.clear();
        let first = self.sequence.wrapping_add(1);
        for (n, (flow, request)) in (1..).zip(requests) {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = if n == requests.len() { NLM_F_ACK } else { 0 };
            flow.write(*request, flags, self.sequence, &mut self.request);
        }
        changed.done += requests.len() as u64;
        let (sent, mut answers) = ((first, requests.len()), vec![0; ANSWER_BYTES_MAX]);
        change_all(&self.socket, self.request.bytes(), sent, &mut answers, |_, error| {
            changed.done -= 1;
            if error.raw_os_error() == Some(libc::ENOENT) {
                changed.gone += 1;
            } else {
                changed.refused.get_or_insert(error);
            }
        })
    }
}

impl FlowName {
    fn write(&self, request: Request, flags: u16, sequence: u32, to: &mut Writer) {
        let kind = match request {
            Request::Delete => IPCTNL_MSG_CT_DELETE,
            Request::Set { .. } => IPCTNL_MSG_CT_NEW,
        };
        to.message(kind, flags, sequence, [self.family, 0, 0, 0], |message| {
            message.whole(&self.attributes);
            if let Request::Set { protect, seconds } = request {
                if protect {
                    message.number(CTA_STATUS, self.status | PROTECTED);
                }
                if let Some(seconds) = seconds {
                    message.number(CTA_TIMEOUT, seconds);
                }
            }
        });
    }
}

impl<'a> Entry<'a> {
    /// Reads the flow of a message; `None` if the message has no addresses.
    fn read(message: &'a [u8]) -> Option<Self> {
        let &family = message.get(HEADER_BYTES)?;
        let entry = Self { family, attributes: message.get(HEADERS_BYTES..)? };
        entry.addresses().map(|_| entry)
    }

    /// Returns the mark of the entry.
    #[must_use]
    pub fn mark(&self) -> Mark {
        // The kernel omits a mark of 0.
        Mark(self.number(CTA_MARK).unwrap_or(0))
    }

    /// Returns the destination of the flow.
    pub(super) fn to(&self) -> Option<IpAddr> {
        self.addresses().map(Addresses::destination)
    }

    /// Returns what identifies the flow to the kernel.
    #[must_use]
    pub fn name(&self) -> FlowName {
        let mut named = Writer::default();
        for (kind, value) in attributes(self.attributes) {
            if NAMED_BY.contains(&kind) {
                named.value(kind, value);
            }
        }
        let status = self.number(CTA_STATUS).unwrap_or(0);
        FlowName { family: self.family, status, attributes: named.bytes().to_owned() }
    }

    /// Returns the fields of the entry that the audit needs; `None` if the flow's tuple cannot be read.
    #[must_use]
    pub fn tracked(&self) -> Option<Tracked> {
        let transport = attribute(attribute(self.attributes, CTA_TUPLE_ORIG)?, CTA_TUPLE_PROTO)?;
        let &[protocol, ..] = attribute(transport, CTA_PROTO_NUM)? else { return None };
        let two = |of| attribute(transport, of)?.first_chunk().copied().map(u16::from_be_bytes);
        let ports = || Some(Ports { src: two(CTA_PROTO_SRC_PORT)?, dst: two(CTA_PROTO_DST_PORT)? });
        let l4 = match protocol {
            TCP => L4::Tcp { ports: ports()?, syn: false },
            UDP => L4::Udp(ports()?),
            SCTP => L4::Sctp(ports()?),
            ICMP => L4::Echo { id: two(CTA_PROTO_ICMP[0])? },
            ICMPV6 => L4::Echo { id: two(CTA_PROTO_ICMPV6[0])? },
            _ => L4::Other,
        };
        let status = self.number(CTA_STATUS).unwrap_or(0);
        Some(Tracked {
            packet: Packet { addresses: self.addresses()?, protocol, l4, quoted: false },
            mark: self.mark(),
            // For a promoted flow the kernel reports neither the timeout nor the TCP state, which is
            // established then.
            left_seconds: self.number(CTA_TIMEOUT).unwrap_or(PROBATION_SECONDS),
            protected: status & PROTECTED == PROTECTED,
            promotion: if status & IPS_OFFLOAD != 0 { Promotion::Now } else { Promotion::No },
            phase: (protocol == TCP).then(|| self.phase()),
        })
    }

    /// Returns the entry with what was counted; `None` if the flow's tuple cannot be read.
    #[must_use]
    pub fn seen(&self) -> Option<Seen> {
        let long = |of, wanted| {
            let value = attribute(attribute(self.attributes, of)?, wanted)?;
            value.first_chunk().copied().map(u64::from_be_bytes)
        };
        Some(Seen {
            tracked: self.tracked()?,
            packets: long(CTA_COUNTERS_ORIG, CTA_COUNTERS_PACKETS),
            bytes: long(CTA_COUNTERS_ORIG, CTA_COUNTERS_BYTES),
            // In nanoseconds.
            began_unix_seconds: long(CTA_TIMESTAMP, CTA_TIMESTAMP_START).map(|start| start / 1_000_000_000),
        })
    }

    fn phase(&self) -> Phase {
        let of_tcp =
            attribute(self.attributes, CTA_PROTOINFO).and_then(|of| attribute(of, CTA_PROTOINFO_TCP));
        let state = of_tcp.and_then(|of| attribute(of, CTA_PROTOINFO_TCP_STATE)?.first());
        if state.is_some_and(|state| TCP_CLOSING.contains(state)) { Phase::Closing } else { Phase::Open }
    }

    fn number(&self, of: u16) -> Option<u32> {
        number(self.attributes, of)
    }

    fn addresses(&self) -> Option<Addresses> {
        let addresses = attribute(attribute(self.attributes, CTA_TUPLE_ORIG)?, CTA_TUPLE_IP)?;
        let four = |of| Some(IpAddr::from(*attribute(addresses, of)?.first_chunk::<4>()?));
        let six = |of| Some(IpAddr::from(*attribute(addresses, of)?.first_chunk::<16>()?));
        let src = four(CTA_IP_V4_SRC).or_else(|| six(CTA_IP_V6_SRC))?;
        let dst = four(CTA_IP_V4_DST).or_else(|| six(CTA_IP_V6_DST))?;
        Addresses::new(src, dst)
    }
}

#[cfg(test)]
mod tests;
