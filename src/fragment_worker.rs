//! The worker of the fragment queue. Like a [`crate::worker::Worker`] it receives, decides and answers; besides, it lets
//! the balancer talk to connection tracking about first fragments, and sends held ones in again by the TUN device.
//!
//! The verdict on a first fragment comes before those that waited for it are sent in, so the backend gets it first. It
//! owns its clock: the time is read once for each wake-up.

use std::{io, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, Cache};

use crate::{
    balance::{
        Forwarding,
        counters::Counter,
        fragments::{FragmentBalancer, Origin},
    },
    io::{Inject, Message, Pins, Queue, QueueError, Report},
    worker::{self, Links, Shared},
};

/// The fragment queue's worker.
pub struct FragmentWorker<Q, P, I, R, C> {
    queue: Q,
    pins: P,
    inject: I,
    report: R,
    shared: Arc<Shared>,
    forwarding: Cache<Arc<ArcSwap<Forwarding>>, Arc<Forwarding>>,
    clock: C,
    balancer: FragmentBalancer,
    /// Held fragments to be sent in; empty between turns.
    released: Vec<Box<[u8]>>,
}

impl<Q: Queue, P: Pins, I: Inject, R: Report, C: FnMut() -> Duration> FragmentWorker<Q, P, I, R, C> {
    /// A worker for `queue`. `clock` says how much time has passed since some fixed moment.
    pub fn new(queue: Q, pins: P, inject: I, report: R, shared: Arc<Shared>, clock: C) -> Self {
        let mut forwarding = Cache::new(Arc::clone(&shared.forwarding));
        let balancer = FragmentBalancer::new(forwarding.load().fragments());
        Self { queue, pins, inject, report, shared, forwarding, clock, balancer, released: Vec::new() }
    }

    /// Works until told to stop, as [`crate::worker::Worker::run`] does.
    ///
    /// # Errors
    /// When the queue is gone.
    pub fn run(mut self, rest_max: u32) -> io::Result<()> {
        worker::run(&Arc::clone(&self.shared), rest_max, || self.turn())
    }

    /// Handles at most one fragment, or else forgets what is too old; says whether anything came.
    ///
    /// # Errors
    /// When the queue is gone.
    pub fn turn(&mut self) -> io::Result<bool> {
        let received = self.queue.receive();
        let now = (self.clock)();
        let idle = matches!(received, Ok(None));
        let result = match received {
            Ok(Some(message)) => self.handle(now, message),
            Ok(None) => {
                self.balancer.tick(now, self.forwarding.load());
                Ok(())
            }
            Err(error) => Err(error),
        };
        worker::settle(result, self.queue.number(), &mut self.balancer.counters)?;
        self.report.counters(&mut self.balancer.counters);
        Ok(!idle)
    }

    fn handle(&mut self, now: Duration, message: Q::Message) -> Result<(), QueueError> {
        let Self { pins, balancer, released, .. } = self;
        let origin = origin(message.arrived_by(), &self.shared.links.load());
        let verdict = balancer.handle(now, self.forwarding.load(), origin, message.bytes(), pins, released);
        let result = self.queue.answer(message, verdict);
        for fragment in self.released.drain(..) {
            match self.inject.inject(&fragment) {
                Ok(()) => self.balancer.counters.count(Counter::FragmentInjected),
                Err(error) => {
                    self.balancer.inject_failed(&fragment);
                    tracing::debug!(%error, "a held fragment cannot be sent in");
                }
            }
        }
        result
    }

    /// Its queue, for tests.
    #[cfg(test)]
    pub(crate) fn queue(&mut self) -> &mut Q {
        &mut self.queue
    }
}

/// Where a fragment was, by the device that it came in by.
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
