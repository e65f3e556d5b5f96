//! The messages of a queue as bytes: reads packets, writes verdicts (`linux/netfilter/nfnetlink_queue.h`).
//! PURE.
//!
//! Received bytes are not trusted: every length is checked, and a message that cannot be read is an error,
//! which is counted.

use std::io;

use super::classify;
use crate::{
    balance::Verdict,
    io::QueueError,
    model::ids::{Mark, MarkMask, QueueNum},
    sys::netlink::{
        HEADERS_BYTES, NLMSG_ERROR, Writer, attributes, done, kind, message_type, messages, narrow,
    },
};

const NFQNL_MSG_PACKET: u16 = message_type(libc::NFNL_SUBSYS_QUEUE, libc::NFQNL_MSG_PACKET);
const NFQNL_MSG_VERDICT: u16 = message_type(libc::NFNL_SUBSYS_QUEUE, libc::NFQNL_MSG_VERDICT);
const NFQA_PACKET_HDR: u16 = narrow(libc::NFQA_PACKET_HDR);
const NFQA_VERDICT_HDR: u16 = narrow(libc::NFQA_VERDICT_HDR);
const NFQA_MARK: u16 = narrow(libc::NFQA_MARK);
const NFQA_PAYLOAD: u16 = narrow(libc::NFQA_PAYLOAD);
const NF_DROP: u32 = libc::NF_DROP.cast_unsigned();
const NF_ACCEPT: u32 = libc::NF_ACCEPT.cast_unsigned();

/// A packet as the kernel delivers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    /// The number by which the verdict names the packet.
    id: u32,
    mark: u32,
    /// The packet from its IP header on, cut to the queue's copy range.
    pub(super) bytes: &'a [u8],
}

/// Iterates over the packets in the bytes of one receive, and over the errors that arrived in place of
/// packets.
pub(super) fn packets(mut received: &[u8]) -> impl Iterator<Item = Result<Packet<'_>, QueueError>> {
    std::iter::from_fn(move || {
        if received.is_empty() {
            return None;
        }
        let message = messages(received).next();
        let bytes = message.map_or(received.len(), |message| message.len().next_multiple_of(4));
        received = received.get(bytes..).unwrap_or_default();
        Some(message.ok_or_else(unreadable).and_then(read))
    })
}

fn read(message: &[u8]) -> Result<Packet<'_>, QueueError> {
    match kind(message) {
        Some(NFQNL_MSG_PACKET) => packet(message).ok_or_else(unreadable),
        // An error about an earlier verdict.
        Some(NLMSG_ERROR) => Err(done(message).map_or_else(classify, |()| unreadable())),
        _ => Err(unreadable()),
    }
}

/// Reads a packet. A packet without payload counts as malformed for the balancer, and gets the verdict for
/// that. A packet without a number cannot get a verdict.
fn packet(message: &[u8]) -> Option<Packet<'_>> {
    let (mut id, mut mark, mut payload) = (None, 0, None);
    for (kind, value) in attributes(message.get(HEADERS_BYTES..)?) {
        match kind {
            NFQA_PACKET_HDR => id = Some(u32::from_be_bytes(*value.first_chunk()?)),
            NFQA_MARK => mark = u32::from_be_bytes(*value.first_chunk()?),
            NFQA_PAYLOAD => payload = Some(value),
            _ => {}
        }
    }
    Some(Packet { id: id?, mark, bytes: payload.unwrap_or_default() })
}

fn unreadable() -> QueueError {
    QueueError::Other(io::Error::new(io::ErrorKind::InvalidData, "a message that cannot be read"))
}

/// Writes the verdict on a packet of this queue. Only bits within `mask` of its mark change.
pub(super) fn write(to: &mut Writer, queue: QueueNum, packet: Packet<'_>, verdict: Verdict, mask: MarkMask) {
    let (code, mark) = match verdict {
        Verdict::Steer(Mark(mark)) => (NF_ACCEPT, Some(packet.mark & !mask.bits() | mark)),
        Verdict::Pass => (NF_ACCEPT, None),
        Verdict::Drop => (NF_DROP, None),
    };
    let [high, low] = queue.0.to_be_bytes();
    to.message(NFQNL_MSG_VERDICT, 0, 0, [0, 0, high, low], |message| {
        message.value(NFQA_VERDICT_HDR, [code.to_be_bytes(), packet.id.to_be_bytes()].as_flattened());
        if let Some(mark) = mark {
            message.number(NFQA_MARK, mark);
        }
    });
}

#[cfg(test)]
mod tests;
