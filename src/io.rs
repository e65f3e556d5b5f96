//! The interface between deciding and the operating system: what a worker needs of it. Each trait has exactly
//! two implementations: the real one in `sys/`, and one for tests in `tests/`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::{
    balance::{Verdict, counters::Counters},
    model::{InterfaceName, ids::QueueNum},
};

/// A queue of packets that wait for a verdict. Packets are taken and answered in batches.
pub trait BatchQueue {
    /// Returns the queue's number.
    fn number(&self) -> QueueNum;

    /// Takes the waiting packets, at most one batch, and replaces those that were taken before. If none
    /// waits, it waits a while for the first one, without sleeping for as long as `busy_poll`. It never waits
    /// for more than the first. Returns the number of messages; 0 if none came, so that the worker can do
    /// other things.
    ///
    /// # Errors
    /// When the socket reports one; see [`QueueError`] for which of them end the queue.
    fn receive(&mut self, busy_poll: Duration) -> Result<usize, QueueError>;

    /// From now on, [`BatchQueue::receive`] returns at once if there is no packet.
    fn wait_no_more(&mut self);

    /// Calls `decide` for each packet that was taken, in the order in which they came, with the packet's
    /// bytes from the IP header on, cut to the queue's copy range. Then sends all verdicts to the kernel at
    /// once. Returns the errors of these verdicts, and of earlier ones.
    fn answer(&mut self, decide: impl FnMut(&[u8]) -> Verdict) -> Vec<QueueError>;
}

/// A queue of packets that wait for a verdict. Packets are taken and answered one by one.
pub trait Queue {
    /// A packet of this queue.
    type Message: Message;

    /// Returns the queue's number.
    fn number(&self) -> QueueNum;

    /// Returns the next packet, or `None` if none came for a while, so that the worker can do other things.
    ///
    /// # Errors
    /// When the socket reports one; see [`QueueError`] for which of them end the queue.
    fn receive(&mut self) -> Result<Option<Self::Message>, QueueError>;

    /// Sends the verdict on a packet to the kernel. Every packet must get a verdict, in the order in which
    /// they came.
    ///
    /// # Errors
    /// When the socket reports one.
    fn answer(&mut self, message: Self::Message, verdict: Verdict) -> Result<(), QueueError>;
}

/// A packet that waits for a verdict.
pub trait Message {
    /// Returns the packet's bytes from the IP header on, cut to the queue's copy range.
    fn bytes(&self) -> &[u8];

    /// Returns the index of the device that the packet came in by; 0 if it is not known.
    fn arrived_by(&self) -> u32;
}

/// Sends held packets back into the kernel.
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
    /// ENOBUFS: packets came faster than they were read. The lost ones passed without a verdict.
    Overrun,
    /// ENOENT: the packet of an earlier verdict was already gone.
    TooLate,
    /// The queue is not ours, or no longer ours: no packet will ever come.
    Closed(io::Error),
    /// Any other error. The queue continues.
    Other(io::Error),
}

/// Publishes a worker's counters.
pub trait CounterSink {
    /// Publishes the counters. There is no error, since deciding goes on if this fails.
    fn counters(&mut self, counters: &mut Counters);
}

/// Sends the packet tracer's reports.
pub trait ReportSink {
    /// Returns the name of the device with this index, if there is one.
    fn device(&self, index: u32) -> Option<InterfaceName>;

    /// Sends a UDP datagram, and never waits.
    ///
    /// # Errors
    /// When it cannot be sent now.
    fn send_report(&mut self, receiver: SocketAddr, report: &[u8]) -> io::Result<()>;
}

/// What `lbctl` needs to trace packets.
pub trait Prober {
    /// Returns how much time has passed since some fixed moment.
    fn now(&mut self) -> Duration;

    /// Returns a number that cannot be guessed.
    ///
    /// # Errors
    /// When no random number is available.
    fn nonce(&mut self) -> io::Result<u64>;

    /// Returns the address that this host would send from to `destination`.
    ///
    /// # Errors
    /// When there is no route.
    fn address_towards(&mut self, destination: IpAddr) -> io::Result<IpAddr>;

    /// Receives datagrams at an address of this host from now on, and returns the socket's address with its
    /// port. Calls with the same address return the same port.
    ///
    /// # Errors
    /// When it is not an address of this host.
    fn listen(&mut self, address: IpAddr) -> io::Result<SocketAddr>;

    /// Sends a packet, which begins with its IP header.
    ///
    /// # Errors
    /// When that is not allowed, or there is no route.
    fn send(&mut self, destination: IpAddr, packet: &[u8]) -> io::Result<()>;

    /// Returns the next datagram, or `None` if none came within `wait`.
    ///
    /// # Errors
    /// When a socket reports one.
    fn receive(&mut self, wait: Duration) -> io::Result<Option<Vec<u8>>>;
}
