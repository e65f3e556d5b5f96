//! The worker of the fragment queue. Like a [`crate::worker::Worker`] it receives, decides and answers. In
//! addition, it lets the balancer ask connection tracking about first fragments, and sends held fragments in
//! again by the TUN device. Probes of the packet tracer arrive in the same queue: they are dropped, and then
//! reported.
//!
//! The verdict on a first fragment is given before the fragments that waited for it are sent in, so the
//! backend gets the first one first. The worker has its own clock: it reads the time once for each wake-up.
//!
//! Fragments that are sent in come back through the same queue, and thousands may be released at once. So
//! only a few are under way at a time (`backlog`), and the others wait until these have come back, however
//! small the queue is.

mod backlog;

use std::{io, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, Cache};
use backlog::Backlog;

use crate::{
    balance::{
        Forwarding, Verdict,
        counters::Counter,
        flow_table::FlowTable,
        fragments::{FragmentBalancer, Origin},
        pins::{OffTable, WithOffTable},
        tracer::{self, Trace},
    },
    io::{CounterSink, Inject, Message, Queue, QueueError, ReportSink},
    packet::{Probe, ProbeError},
    worker::{self, Beat, Links, Shared},
};

/// How long stopping may take: new fragments may arrive for ever, and connection tracking may not answer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The worker of the fragment queue.
pub struct FragmentWorker<Q, P, I, T, R, C> {
    queue: Q,
    flows: P,
    inject: I,
    reports: T,
    sink: R,
    shared: Arc<Shared>,
    forwarding: Cache<Arc<ArcSwap<Forwarding>>, Arc<Forwarding>>,
    off_table: Cache<Arc<ArcSwap<OffTable>>, Arc<OffTable>>,
    clock: C,
    balancer: FragmentBalancer,
    /// Held fragments that were released; empty between turns.
    released: Vec<Box<[u8]>>,
    backlog: Backlog,
    /// Whether the counters published last stay valid as long as nothing arrives.
    idle: bool,
}

impl<Q: Queue, P: FlowTable, I: Inject, T: ReportSink, R: CounterSink, C: FnMut() -> Duration>
    FragmentWorker<Q, P, I, T, R, C>
{
    /// Creates a worker for `queue`. `clock` returns how much time has passed since some fixed moment.
    pub fn new(queue: Q, flows: P, inject: I, reports: T, sink: R, shared: Arc<Shared>, clock: C) -> Self {
        let mut forwarding = Cache::new(Arc::clone(&shared.forwarding));
        let off_table = Cache::new(Arc::clone(&shared.off_table));
        let balancer = FragmentBalancer::new(forwarding.load().fragments());
        let (released, backlog) = (Vec::new(), Backlog::default());
        let idle = false;
        Self {
            queue,
            flows,
            inject,
            reports,
            sink,
            shared,
            forwarding,
            off_table,
            clock,
            balancer,
            released,
            backlog,
            idle,
        }
    }

    /// Works until it is stopped, as [`crate::worker::Worker::run`] does. But fragments that were sent in may
    /// take a moment to come back, so the worker waits for them, for a second at most.
    ///
    /// # Errors
    /// Returns an error if the queue is gone.
    pub fn run(mut self, drain_max: u32, beat: &Beat) -> io::Result<()> {
        worker::run(&Arc::clone(&self.shared), beat, || self.turn())?;
        let end = (self.clock)() + DRAIN_TIMEOUT;
        worker::drain(drain_max, || Ok(usize::from((self.clock)() < end && self.turn()?)))
    }

    /// Handles at most one fragment or probe, or else forgets entries that are too old; then sends in
    /// released fragments. Returns whether anything arrived, or is still under way.
    ///
    /// # Errors
    /// Returns an error if the queue is gone.
    pub fn turn(&mut self) -> io::Result<bool> {
        let received = self.queue.receive();
        let now = (self.clock)();
        let idle = matches!(received, Ok(None));
        let result = match received {
            Ok(Some(message)) => self.handle(now, message),
            Ok(None) => {
                self.backlog.nothing_came();
                self.balancer.tick(now, self.forwarding.load());
                Ok(())
            }
            Err(error) => Err(error),
        };
        worker::count_errors(result.err(), self.queue.number(), &mut self.balancer.counters)?;
        self.send_in(now);
        // An idle worker does not write to the region once its levels no longer change.
        if !(idle && self.idle) {
            self.sink.counters(&mut self.balancer.counters);
            self.idle = idle && self.balancer.counters.get(Counter::FragmentEntriesNow) == 0;
        }
        Ok(!idle || self.backlog.is_under_way())
    }

    fn handle(&mut self, now: Duration, message: Q::Message) -> Result<(), QueueError> {
        let for_vip = self.forwarding.load().is_for_vip(message.bytes());
        if let Some(probe) = Probe::parse(message.bytes()).transpose().filter(|_| for_vip) {
            return self.trace(probe, message);
        }
        let Self { flows, balancer, released, backlog, .. } = self;
        let forwarding = self.forwarding.load();
        let origin = origin(message.arrived_by(), &self.shared.links.load());
        if origin == Origin::Held {
            backlog.came_back(now);
        }
        let pins = &mut WithOffTable { off_table: self.off_table.load(), pins: flows };
        let verdict = balancer.handle(now, forwarding, origin, message.bytes(), pins, released);
        let result = self.queue.answer(message, verdict);
        for fragment in released.drain(..) {
            if let Err(refused) = backlog.push(fragment, forwarding.fragments()) {
                balancer.inject_failed(&refused);
            }
        }
        result
    }

    /// Drops a probe, and reports to its receiver what happens to packets like it.
    fn trace(&mut self, probe: Result<Probe, ProbeError>, message: Q::Message) -> Result<(), QueueError> {
        let device = message.arrived_by();
        let counters = &mut self.balancer.counters;
        let pins = &mut WithOffTable { off_table: self.off_table.load(), pins: &mut self.flows };
        let answer = tracer::answer(counters, self.forwarding.load(), pins, probe);
        let result = self.queue.answer(message, Verdict::Drop);
        if let Some((receiver, trace)) = answer {
            let trace = Trace { device: self.reports.device(device), ..trace };
            let report = serde_json::to_vec(&trace).map_err(io::Error::from);
            counters.count(match report.and_then(|report| self.reports.send_report(receiver, &report)) {
                Ok(()) => Counter::ProbesReported,
                Err(error) => {
                    tracing::debug!(%receiver, %error, "a report of the packet tracer cannot be sent");
                    Counter::ProbesUnsent
                }
            });
        }
        result
    }

    /// Sends in as many fragments as may be under way. Afterwards fragments wait only if some are under way.
    fn send_in(&mut self, now: Duration) {
        while let Some(fragment) = self.backlog.next(now) {
            match self.inject.inject(&fragment) {
                Ok(()) => {
                    self.backlog.sent(now);
                    self.balancer.counters.count(Counter::FragmentInjected);
                }
                Err(error) => {
                    self.balancer.inject_failed(&fragment);
                    tracing::debug!(%error, "a held fragment cannot be sent in");
                }
            }
        }
    }

    /// Returns the worker's queue, for tests.
    #[cfg(test)]
    pub(crate) fn queue(&mut self) -> &mut Q {
        &mut self.queue
    }
}

/// Returns where a fragment comes from, by the device that it arrived by.
fn origin(device: u32, links: &Links) -> Origin {
    if device == 0 {
        Origin::Outside
    } else if device == links.tun {
        Origin::Held
    } else if links.tier.contains(&device) {
        Origin::Tier
    } else {
        Origin::Outside
    }
}
