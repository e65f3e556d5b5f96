//! Changes of routes and rules, many in one send.
//!
//! The kernel handles the messages of a send one by one, even if some before were refused. It reports
//! refusals without being asked; an acknowledgement is requested only for the last message. So thousands of
//! changes take only as many system calls as there are hundreds. The rtnetlink crate builds the messages.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::sys::socket::{NetlinkAddr, SockProtocol, getsockname};
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage},
    packet_route::RouteNetlinkMessage,
};

use crate::sys::netlink::{self, DUMP_BYTES_MAX, change_all};

/// How many messages go in one send: if all are refused, the answers still fit into the socket's buffer.
pub(super) const MESSAGES_MAX: usize = 128;
/// How long an answer may take. Routes and rules are changed under a lock that other programs hold for
/// seconds while they remove devices.
const PATIENCE: Duration = Duration::from_secs(60);

/// A change, and its netlink flags.
pub(super) type Change = (RouteNetlinkMessage, u16);

/// A connection to the kernel's routing.
pub(super) struct Batch {
    socket: OwnedFd,
    sequence: u32,
    answers: Vec<u8>,
    /// How many messages were sent, and in how many sends.
    #[cfg(test)]
    pub(super) sent: (usize, usize),
}

impl Batch {
    /// Opens a connection in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let socket = netlink::open(SockProtocol::NetlinkRoute, PATIENCE)?;
        let answers = vec![0; DUMP_BYTES_MAX];
        Ok(Self {
            socket,
            sequence: 0,
            answers,
            #[cfg(test)]
            sent: (0, 0),
        })
    }

    /// Returns the socket's netlink port.
    pub(super) fn port(&self) -> io::Result<u32> {
        Ok(getsockname::<NetlinkAddr>(self.socket.as_raw_fd())?.pid())
    }

    /// Lets the kernel make these changes, [`MESSAGES_MAX`] at most, in this order. Returns the refused ones
    /// by their places in `changes`.
    pub(super) fn send(&mut self, changes: Vec<Change>) -> io::Result<Vec<(usize, io::Error)>> {
        let Some(last) = changes.len().checked_sub(1) else { return Ok(Vec::new()) };
        let first = self.sequence;
        let mut bytes = Vec::new();
        for (place, (message, flags)) in changes.into_iter().enumerate() {
            let mut message = NetlinkMessage::from(message);
            message.header.flags = NLM_F_REQUEST | flags | if place == last { NLM_F_ACK } else { 0 };
            message.header.sequence_number = self.sequence;
            self.sequence = self.sequence.wrapping_add(1);
            message.finalize();
            let at = bytes.len();
            bytes.resize(at + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[at..]);
        }
        let mut refused = Vec::new();
        change_all(&self.socket, &bytes, (first, last + 1), &mut self.answers, |place, error| {
            refused.push((place, error));
        })?;
        #[cfg(test)]
        {
            self.sent = (self.sent.0 + last + 1, self.sent.1 + 1);
        }
        Ok(refused)
    }
}
