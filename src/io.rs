//! The seam between deciding and the world: what a worker needs of the operating system. Each trait has exactly two
//! implementations, the OS's in `sys/` and the test world's in `tests/`.

use std::io;

use crate::{
    balance::{Verdict, counters::Counters},
    ids::{Mark, MarkMask, QueueNum},
    packet::Packet,
};

/// A queue of packets that wait for a verdict.
pub trait Queue {
    /// A packet, as the queue hands it out.
    type Message: Message;

    /// Its number.
    fn number(&self) -> QueueNum;

    /// The next packet, or `None` when none came for a while, so that the worker can look up.
    ///
    /// # Errors
    /// When the socket reports one; see [`QueueError`] for which of them end the queue.
    fn receive(&mut self) -> Result<Option<Self::Message>, QueueError>;

    /// Tells the kernel what to do with a packet. Every packet must get a verdict, in the order they came.
    ///
    /// # Errors
    /// When the socket reports one.
    fn answer(&mut self, message: Self::Message, verdict: Verdict) -> Result<(), QueueError>;
}

/// A packet that waits for a verdict.
pub trait Message {
    /// Its bytes from the IP header on, cut to the queue's copy range.
    fn bytes(&self) -> &[u8];

    /// The index of the device that it came in by; 0 when that is not known.
    fn arrived_by(&self) -> u32;
}

/// What connection tracking knows of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The connection mark; 0 when there is none.
    pub mark: Mark,
    /// How long it is kept if nothing more comes; `None` when that is up to somebody else (a flow that is offloaded).
    pub left_seconds: Option<u32>,
}

/// What connection tracking knows of flows, and is told about them.
pub trait Pins {
    /// What is known of the flow that `packet` belongs to; `None` when it has no entry.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    fn mark_of(&mut self, packet: &Packet) -> io::Result<Option<Pin>>;

    /// Gives the flow that `packet` belongs to, which is UDP, these bits of a mark and so much time from now: in its entry,
    /// or a new one.
    ///
    /// # Errors
    /// When the kernel does not do it: most likely, there is no room for one more.
    fn pin(&mut self, packet: &Packet, mark: Mark, mask: MarkMask, seconds: u32) -> io::Result<()>;
}

/// A way back into the kernel for packets that were held.
pub trait Inject {
    /// Lets the kernel receive a packet, which begins with its IP header, as if it had just come in.
    ///
    /// # Errors
    /// When the kernel does not take it.
    fn inject(&mut self, packet: &[u8]) -> io::Result<()>;
}

/// What the socket of a queue may report.
#[derive(Debug)]
pub enum QueueError {
    /// ENOBUFS: packets came faster than they were read. Those lost went on undecided.
    Overrun,
    /// ENOENT: the packet of an earlier verdict was already gone.
    TooLate,
    /// The queue is not ours, or no more: nothing will ever come.
    Closed(io::Error),
    /// Anything else. The queue goes on.
    Other(io::Error),
}

/// Where a worker's counters are shown.
pub trait Report {
    /// Shows them. Failing to is no reason to stop deciding, so there is no error.
    fn counters(&mut self, counters: &mut Counters);
}
