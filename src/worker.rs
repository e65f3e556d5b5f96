//! One worker per queue: receive, decide, answer, and show what was counted. It owns its queue and its counters and
//! shares nothing but the configuration in force, which it looks at once per packet with one atomic load.
//!
//! No packet and no error of the socket ends a worker: they are counted. Only a queue that is gone does.

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
    ids::QueueNum,
    io::{Message, Queue, QueueError, Report},
};

/// What all workers look at.
pub struct Shared {
    /// The configuration in force.
    pub forwarding: Arc<ArcSwap<Forwarding>>,
    /// The flows that do not go by it, as of the last audit.
    pub off_table: Arc<ArcSwap<OffTable>>,
    /// Which devices are ours, for the worker of fragments.
    pub links: ArcSwap<Links>,
    /// Set once, to end all workers.
    pub stop: AtomicBool,
}

/// Indexes of the devices by which fragments come that were somewhere else before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// The TUN device of held fragments; 0 when there is none.
    pub tun: u32,
    /// The tunnels from other balancers of the tier.
    pub tier: Vec<u32>,
}

impl Shared {
    /// Workers shall decide by this.
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

/// Counts a worker's turns, for others to see that it goes on.
#[derive(Debug, Default)]
pub struct Beat(AtomicU64);

impl Beat {
    fn took_turn(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One queue's worker.
pub struct Worker<Q, R> {
    queue: Q,
    report: R,
    shared: Arc<Shared>,
    forwarding: Cache<Arc<ArcSwap<Forwarding>>, Arc<Forwarding>>,
    off_table: Cache<Arc<ArcSwap<OffTable>>, Arc<OffTable>>,
    balancer: Balancer,
}

impl<Q: Queue, R: Report> Worker<Q, R> {
    /// A worker for `queue`.
    pub fn new(queue: Q, report: R, shared: Arc<Shared>) -> Self {
        let forwarding = Cache::new(Arc::clone(&shared.forwarding));
        let off_table = Cache::new(Arc::clone(&shared.off_table));
        Self { queue, report, shared, forwarding, off_table, balancer: Balancer::default() }
    }

    /// Works until told to stop, and then until nothing waits any more: closing the queue would drop it. That is not waited
    /// for, and it ends after `rest_max` packets, since new ones may come for ever.
    ///
    /// # Errors
    /// When the queue is gone.
    pub fn run(mut self, rest_max: u32, beat: &Beat) -> io::Result<()> {
        run(&Arc::clone(&self.shared), beat, || self.turn())?;
        self.queue.wait_no_more();
        rest(rest_max, || self.turn())
    }

    /// Handles at most one packet; says whether anything came.
    ///
    /// # Errors
    /// When the queue is gone.
    pub fn turn(&mut self) -> io::Result<bool> {
        let result = match self.queue.receive() {
            Ok(Some(message)) => {
                let forwarding = self.forwarding.load();
                let verdict = self.balancer.handle(forwarding, self.off_table.load(), message.bytes());
                self.queue.answer(message, verdict)
            }
            Ok(None) => return Ok(false),
            Err(error) => Err(error),
        };
        settle(result, self.queue.number(), &mut self.balancer.counters)?;
        self.report.counters(&mut self.balancer.counters);
        Ok(true)
    }

    /// What it decided, for tests.
    #[cfg(test)]
    pub(crate) fn parts(&mut self) -> (&mut Q, &mut R, &mut Balancer) {
        (&mut self.queue, &mut self.report, &mut self.balancer)
    }
}

/// Takes turns until told to stop.
pub(crate) fn run(
    shared: &Shared,
    beat: &Beat,
    mut turn: impl FnMut() -> io::Result<bool>,
) -> io::Result<()> {
    while !shared.stop.load(Ordering::Relaxed) {
        turn()?;
        beat.took_turn();
    }
    Ok(())
}

/// Takes turns until one finds nothing, at most `rest_max` of them.
pub(crate) fn rest(rest_max: u32, mut turn: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    for _ in 0..rest_max {
        if !turn()? {
            break;
        }
    }
    Ok(())
}

/// Counts what a queue reported; only its end is an error.
pub(crate) fn settle(
    result: Result<(), QueueError>,
    queue: QueueNum,
    counters: &mut Counters,
) -> io::Result<()> {
    match result {
        Ok(()) => {}
        Err(QueueError::Overrun) => counters.count(Counter::SocketOverrun),
        Err(QueueError::TooLate) => counters.count(Counter::VerdictTooLate),
        Err(QueueError::Other(error)) => {
            counters.count(Counter::SocketError);
            tracing::debug!(queue = queue.0, %error, "socket error");
        }
        Err(QueueError::Closed(error)) => return Err(error),
    }
    Ok(())
}
