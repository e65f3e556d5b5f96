//! The seam between deciding and the world: what a worker needs of the operating system. Each trait has exactly two
//! implementations, the OS's in `sys/` and the test world's in `tests/`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::{
    balance::{Verdict, counters::Counters},
    model::{InterfaceName, ids::QueueNum},
};

/// A queue of packets that wait for a verdict, which are taken and answered in batches.
pub trait BatchQueue {
    /// Its number.
    fn number(&self) -> QueueNum;

    /// Takes what waits, as much as a batch holds, in place of what was taken before. Waits a while for
    /// something to come, the first of it, as long as `busy_poll`, without sleep; but never for more of it. Says how many messages came, 0 when none did, so that the
    /// worker can look up.
    ///
    /// # Errors
    /// When the socket reports one; see [`QueueError`] for which of them end the queue.
    fn receive(&mut self, busy_poll: Duration) -> Result<usize, QueueError>;

    /// From now on [`BatchQueue::receive`] says at once that there is no packet.
    fn wait_no_more(&mut self);

    /// Asks `decide` about each packet that was taken, in the order they came: about its bytes from the IP
    /// header on, cut to the queue's copy range. Then tells the kernel all verdicts at once. Returns what
    /// went wrong with it, or with verdicts before.
    fn answer(&mut self, decide: impl FnMut(&[u8]) -> Verdict) -> Vec<QueueError>;
}

/// A queue of packets that wait for a verdict, which are taken and answered one by one.
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
pub trait CounterSink {
    /// Shows them. Failing to is no reason to stop deciding, so there is no error.
    fn counters(&mut self, counters: &mut Counters);
}

/// The way of the packet tracer's reports.
pub trait ReportSink {
    /// The name of the device of this index, if there is one.
    fn device(&self, index: u32) -> Option<InterfaceName>;

    /// Sends a UDP datagram, and never waits.
    ///
    /// # Errors
    /// When it cannot be sent now.
    fn send_report(&mut self, receiver: SocketAddr, report: &[u8]) -> io::Result<()>;
}

/// What `lbctl` needs to trace packets.
pub trait Prober {
    /// How much time has passed since some fixed moment.
    fn now(&mut self) -> Duration;

    /// A number that nobody can guess.
    ///
    /// # Errors
    /// When there is none to be had.
    fn nonce(&mut self) -> io::Result<u64>;

    /// The address that this host would send from to `destination`.
    ///
    /// # Errors
    /// When there is no route.
    fn address_towards(&mut self, destination: IpAddr) -> io::Result<IpAddr>;

    /// Receives datagrams at an address of this host from now on; says with which port. The same address has one port.
    ///
    /// # Errors
    /// When it is no address of this host.
    fn listen(&mut self, address: IpAddr) -> io::Result<SocketAddr>;

    /// Sends a packet, which begins with its IP header.
    ///
    /// # Errors
    /// When that is not allowed, or there is no route.
    fn send(&mut self, destination: IpAddr, packet: &[u8]) -> io::Result<()>;

    /// The next datagram; `None` when none came within `wait`.
    ///
    /// # Errors
    /// When a socket reports one.
    fn receive(&mut self, wait: Duration) -> io::Result<Option<Vec<u8>>>;
}
