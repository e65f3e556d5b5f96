//! The worker threads: one for each queue of flows, and one for fragments.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    thread::{self, JoinHandle},
};

use arc_swap::ArcSwap;
use tracing::error;

use super::{
    DaemonError,
    lease::{self, Beats},
};
use crate::{
    balance::counters::Counters,
    config::Balancer,
    fragment_worker::FragmentWorker,
    io::{BatchQueue as _, CounterSink, Queue as _},
    shm::{
        RegionError,
        stats::{self, Identity},
    },
    sys::{
        clock,
        conntrack::Conntrack,
        nfqueue::{Capacity, FlowQueue, FragmentQueue},
        region::Mapping,
        tracer::ReportSender,
        tun::Tun,
    },
    worker::{Beat, Shared, Worker},
};

/// The queues and sockets of the workers, opened before rules send packets to the queues.
pub(super) struct Opened {
    queues: Vec<FlowQueue>,
    fragments: FragmentQueue,
    conntrack: Conntrack,
    reports: ReportSender,
    tun: Arc<Tun>,
}

impl Opened {
    pub(super) fn open(balancer: &Balancer) -> Result<Self, DaemonError> {
        let mask = balancer.mark_mask;
        let open = |number| FlowQueue::open(number, mask);
        Ok(Self {
            queues: balancer.queues.iter().map(open).collect::<Result<_, _>>()?,
            fragments: FragmentQueue::open(balancer.fragment_queue, mask)?,
            conntrack: Conntrack::open().map_err(|error| {
                let doing = "opening a socket to connection tracking";
                DaemonError::Os { doing, error }
            })?,
            reports: ReportSender::open().map_err(|error| {
                let doing = "opening sockets for the packet tracer's reports";
                DaemonError::Os { doing, error }
            })?,
            tun: Arc::new(Tun::open()?),
        })
    }

    /// Returns how many workers there will be.
    pub(super) fn workers(&self) -> usize {
        self.queues.len() + 1
    }

    pub(super) fn tun(&self) -> Arc<Tun> {
        Arc::clone(&self.tun)
    }
}

/// Puts a worker's counters into the region that lbd follows, which may be another one later.
struct Show {
    region: Arc<ArcSwap<Mapping>>,
    worker: usize,
    identity: Identity,
}

impl CounterSink for Show {
    fn counters(&mut self, counters: &mut Counters) {
        // The control thread notices if the region was truncated.
        let _ = stats::write(&mut self.region.load_full(), self.worker, self.identity, counters);
    }
}

/// The running threads. Their blocks of statistics are in the order in which they were started.
#[derive(Default)]
pub(super) struct Workers {
    threads: Vec<(Identity, JoinHandle<io::Result<()>>)>,
    /// The thread that holds the lease ([`lease::hold`]).
    lease: Option<JoinHandle<()>>,
}

impl Workers {
    pub(super) fn start(
        &mut self,
        opened: Opened,
        shared: &Arc<Shared>,
        shown: &Arc<ArcSwap<Mapping>>,
    ) -> Result<(), DaemonError> {
        let Opened { queues, fragments, conntrack, reports, tun } = opened;
        let mut beats = Beats::new();
        let mut beat_of = |identity| {
            let beat = Arc::new(Beat::default());
            beats.push((identity, Arc::clone(&beat)));
            beat
        };
        for queue in queues {
            let number = queue.number();
            let identity = Identity { queue: number, fragments: false };
            let worker = Worker::new(queue, self.show(identity, shown), Arc::clone(shared));
            let beat = beat_of(identity);
            self.spawn(identity, move || worker.run(Capacity::FLOWS.packets_max, &beat))?;
        }
        let identity = Identity { queue: fragments.number(), fragments: true };
        let started = clock::now();
        let clock = move || clock::now().duration_since(started);
        let show = self.show(identity, shown);
        let sent_in = Arc::clone(&tun);
        let worker =
            FragmentWorker::new(fragments, conntrack, sent_in, reports, show, Arc::clone(shared), clock);
        let beat = beat_of(identity);
        self.spawn(identity, move || worker.run(Capacity::FRAGMENTS.packets_max, &beat))?;
        self.lease = Some(lease::hold(beats, tun, shared, shown)?);
        Ok(())
    }

    /// Returns the sink of the next worker to be started.
    fn show(&self, identity: Identity, region: &Arc<ArcSwap<Mapping>>) -> Show {
        let mut show = Show { region: Arc::clone(region), worker: self.threads.len(), identity };
        // The block shows its worker before that has counted anything.
        show.counters(&mut Counters::default());
        show
    }

    fn spawn(
        &mut self,
        identity: Identity,
        work: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<(), DaemonError> {
        let thread = thread::Builder::new().name(format!("queue-{}", identity.queue.0)).spawn(work);
        let thread = thread.map_err(|error| DaemonError::Os { doing: "starting a thread", error })?;
        self.threads.push((identity, thread));
        Ok(())
    }

    /// Writes into another region whose the blocks are. An idle worker would not.
    pub(super) fn identify(&self, region: &mut Arc<Mapping>) -> Result<(), RegionError> {
        let mut workers = self.threads.iter().enumerate();
        workers.try_for_each(|(worker, &(identity, _))| stats::identify(region, worker, identity))
    }

    /// Checks that all threads still run.
    pub(super) fn check(&mut self) -> Result<(), DaemonError> {
        if self.lease.as_ref().is_some_and(JoinHandle::is_finished) {
            let error = io::Error::other("its thread ended");
            return Err(DaemonError::Os { doing: "holding the lease", error });
        }
        let Some(ended) = self.threads.iter().position(|(_, thread)| thread.is_finished()) else {
            return Ok(());
        };
        let (Identity { queue, .. }, thread) = self.threads.swap_remove(ended);
        let error = match thread.join() {
            Ok(Ok(())) => io::Error::other("its worker ended"),
            Ok(Err(error)) => error,
            Err(_) => io::Error::other("its worker panicked"),
        };
        Err(DaemonError::Worker { queue, error })
    }

    /// Ends the threads, once they have answered all queued packets.
    pub(super) fn end(&mut self, shared: &Shared) {
        shared.stop.store(true, Ordering::Relaxed);
        if self.lease.take().is_some_and(|thread| thread.join().is_err()) {
            error!("the thread that holds the lease ended badly");
        }
        for (Identity { queue, .. }, thread) in self.threads.drain(..) {
            if let Err(error) = thread.join().unwrap_or_else(|_| Err(io::Error::other("its worker panicked")))
            {
                error!(queue = queue.0, %error, "a worker ended badly");
            }
        }
    }
}
