//! One worker per queue: receives a batch, decides, answers, and publishes its counters. A worker owns its
//! queue and its counters, and shares only the configuration in force. It reads how long to poll before
//! packets arrive, and everything else when they are there.
//!
//! No packet and no error of the socket ends a worker: errors are counted. A worker ends only when its queue
//! is gone.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwap, Cache};

use crate::{
    balance::{
        Balancer, Forwarding,
        counters::{Counter, Counters},
        pins::OffTable,
    },
    io::{BatchQueue, CounterSink, QueueError},
    model::ids::QueueNum,
};

/// The state that all workers share.
pub struct Shared {
    /// The configuration in force.
    pub forwarding: Arc<ArcSwap<Forwarding>>,
    /// The flows that do not follow the configuration in force, as of the last audit.
    pub off_table: Arc<ArcSwap<OffTable>>,
    /// Which devices are ours, for the fragment worker.
    pub links: ArcSwap<Links>,
    /// Set once, to end all workers.
    pub stop: AtomicBool,
}

/// Indexes of the devices by which fragments arrive a second time: after lbd has held them, or from another
/// balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// The TUN device of held fragments; 0 if there is none.
    pub tun: u32,
    /// The tunnels from other balancers of the tier.
    pub tier: Vec<u32>,
}

impl Shared {
    /// Creates the shared state with this configuration in force.
    #[must_use]
    pub fn new(forwarding: Forwarding) -> Self {
        Self {
            forwarding: Arc::new(ArcSwap::from_pointee(forwarding)),
            off_table: Arc::default(),
            links: ArcSwap::default(),
            stop: AtomicBool::new(false),
        }
    }
}

/// Counts a worker's turns, so that others can check that it makes progress.
#[derive(Debug, Default)]
pub struct Beat(AtomicU64);

impl Beat {
    fn took_turn(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many turns the worker has taken.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The worker of one queue.
pub struct Worker<Q, R> {
    queue: Q,
    sink: R,
    shared: Arc<Shared>,
    forwarding: Cache<Arc<ArcSwap<Forwarding>>, Arc<Forwarding>>,
    off_table: Cache<Arc<ArcSwap<OffTable>>, Arc<OffTable>>,
    balancer: Balancer,
}

impl<Q: BatchQueue, R: CounterSink> Worker<Q, R> {
    /// Creates a worker for `queue`.
    pub fn new(queue: Q, sink: R, shared: Arc<Shared>) -> Self {
        let forwarding = Cache::new(Arc::clone(&shared.forwarding));
        let off_table = Cache::new(Arc::clone(&shared.off_table));
        Self { queue, sink, shared, forwarding, off_table, balancer: Balancer::default() }
    }

    /// Works until it is stopped, and then until no packet waits any more, since closing the queue would drop
    /// waiting packets. It does not wait for further packets then, and ends after the batch in which it
    /// reaches `drain_max` packets, since new ones may arrive for ever.
    ///
    /// # Errors
    /// Returns an error if the queue is gone.
    pub fn run(mut self, drain_max: u32, beat: &Beat) -> io::Result<()> {
        run(&Arc::clone(&self.shared), beat, || self.turn())?;
        self.queue.wait_no_more();
        drain(drain_max, || self.turn())
    }

    /// Handles the waiting packets, at most one batch. Returns how many messages were received; an error
    /// counts as one.
    ///
    /// # Errors
    /// Returns an error if the queue is gone.
    pub fn turn(&mut self) -> io::Result<usize> {
        let busy_poll = self.forwarding.load().busy_poll();
        let (came, errors) = match self.queue.receive(busy_poll) {
            Ok(0) => return Ok(0),
            Ok(came) => {
                let (forwarding, off_table) = (self.forwarding.load(), self.off_table.load());
                (came, self.queue.answer(|bytes| self.balancer.handle(forwarding, off_table, bytes)))
            }
            Err(error) => (1, vec![error]),
        };
        count_errors(errors, self.queue.number(), &mut self.balancer.counters)?;
        self.sink.counters(&mut self.balancer.counters);
        Ok(came)
    }

    /// Returns the worker's parts, for tests.
    #[cfg(test)]
    pub(crate) fn parts(&mut self) -> (&mut Q, &mut R, &mut Balancer) {
        (&mut self.queue, &mut self.sink, &mut self.balancer)
    }
}

/// Takes turns until the workers are stopped.
pub(crate) fn run<T>(
    shared: &Shared,
    beat: &Beat,
    mut turn: impl FnMut() -> io::Result<T>,
) -> io::Result<()> {
    while !shared.stop.load(Ordering::Relaxed) {
        turn()?;
        beat.took_turn();
    }
    Ok(())
}

/// Takes turns until one finds nothing, or the sum of what they have found reaches `drain_max`.
pub(crate) fn drain(drain_max: u32, mut turn: impl FnMut() -> io::Result<usize>) -> io::Result<()> {
    let mut left = drain_max as usize;
    while left > 0 {
        match turn()? {
            0 => break,
            found => left = left.saturating_sub(found),
        }
    }
    Ok(())
}

/// Counts the errors that a queue reported. Returns only the error that ends the queue.
pub(crate) fn count_errors(
    errors: impl IntoIterator<Item = QueueError>,
    queue: QueueNum,
    counters: &mut Counters,
) -> io::Result<()> {
    for error in errors {
        match error {
            QueueError::Overrun => counters.count(Counter::SocketOverrun),
            QueueError::TooLate => counters.count(Counter::VerdictTooLate),
            QueueError::Other(error) => {
                counters.count(Counter::SocketError);
                tracing::debug!(queue = queue.0, %error, "socket error");
            }
            QueueError::Closed(error) => return Err(error),
        }
    }
    Ok(())
}
