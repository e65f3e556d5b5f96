//! A world of balancers: each has a state, a worker with a fake queue, and shows its counters here.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use super::pins::FakePins;
use crate::model::{Admin, Override};
use crate::{
    balance::{
        Forwarding, Verdict,
        counters::{Counter, Counters},
        pins::OffTable,
    },
    config::Config,
    fragment_worker::FragmentWorker,
    io::{BatchQueue, CounterSink, Inject, Message, Queue, QueueError, ReportSink},
    model::{
        InterfaceName,
        ids::{Generation, QueueNum},
    },
    state::State,
    worker::{Beat, Links, Shared, Worker},
};

/// What a fake queue does next.
pub(super) enum Event {
    Packet(Vec<u8>),
    /// A packet that came by the device of this index.
    By(u32, Vec<u8>),
    Nothing,
    Fails(QueueError),
}

/// A queue of which the test knows both ends.
#[derive(Default)]
pub(super) struct FakeQueue {
    pub events: VecDeque<Event>,
    /// What was taken and is not answered yet.
    taken: Vec<Vec<u8>>,
    pub verdicts: Vec<Verdict>,
    /// How many times verdicts were sent.
    answers: usize,
    /// What goes wrong with the next answer.
    pub answer_errors: Vec<QueueError>,
    /// Comes for ever, once no event is left.
    pub stream: Option<Vec<u8>>,
    /// Whether the worker may wait for a packet that does not come.
    pub waits: Waits,
}

#[derive(Default, PartialEq, Eq)]
pub(super) enum Waits {
    #[default]
    Allowed,
    /// Not before `wait_no_more`.
    Forbidden,
    Ended,
}

pub(super) struct FakeMessage {
    device: u32,
    bytes: Vec<u8>,
}

impl Message for FakeMessage {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn arrived_by(&self) -> u32 {
        self.device
    }
}

/// How many packets a fake queue hands out at a time.
pub(super) const BATCH: usize = 10;

impl FakeQueue {
    fn next(&mut self) -> Result<Option<FakeMessage>, QueueError> {
        match self.events.pop_front() {
            Some(Event::Packet(bytes)) => Ok(Some(FakeMessage { device: 0, bytes })),
            Some(Event::By(device, bytes)) => Ok(Some(FakeMessage { device, bytes })),
            Some(Event::Nothing) => Ok(None),
            None => {
                let next = self.stream.clone().map(|bytes| FakeMessage { device: 0, bytes });
                assert!(
                    next.is_some() || self.waits != Waits::Forbidden,
                    "a worker that stops does not wait for a packet"
                );
                Ok(next)
            }
            Some(Event::Fails(error)) => Err(error),
        }
    }
}

impl BatchQueue for FakeQueue {
    fn number(&self) -> QueueNum {
        QueueNum(0)
    }

    fn receive(&mut self, _busy_poll: Duration) -> Result<usize, QueueError> {
        self.taken.clear();
        while self.taken.len() < BATCH
            && (self.taken.is_empty()
                || self.stream.is_some()
                || matches!(self.events.front(), Some(Event::Packet(_))))
        {
            let Some(message) = self.next()? else { break };
            self.taken.push(message.bytes);
        }
        Ok(self.taken.len())
    }

    fn wait_no_more(&mut self) {
        self.waits = Waits::Ended;
    }

    fn answer(&mut self, mut decide: impl FnMut(&[u8]) -> Verdict) -> Vec<QueueError> {
        self.answers += 1;
        self.verdicts.extend(self.taken.drain(..).map(|bytes| decide(&bytes)));
        std::mem::take(&mut self.answer_errors)
    }
}

/// Where a worker's counters were last shown, and what a test has seen of them.
#[derive(Clone, Default)]
pub(super) struct FakeCounterSink(Arc<Mutex<Vec<u64>>>, Vec<u64>);

impl FakeCounterSink {
    /// Exactly which counters have moved since the last call, as shown outside.
    pub(super) fn moved(&mut self) -> Vec<(&'static str, i64)> {
        let shown = self.0.lock().unwrap().clone();
        let zeros = std::iter::repeat(&0);
        let by = |(now, then): (&u64, &u64)| i64::try_from(*now).unwrap() - i64::try_from(*then).unwrap();
        let names = Counter::ALL.iter().map(|counter| counter.name());
        let moved = names.zip(shown.iter().zip(self.1.iter().chain(zeros)).map(by));
        let moved = moved.filter(|&(_, by)| by != 0).collect();
        self.1 = shown;
        moved
    }
}

impl CounterSink for FakeCounterSink {
    fn counters(&mut self, counters: &mut Counters) {
        *self.0.lock().unwrap() = counters.values().to_vec();
    }
}

/// A balancer with one worker.
pub(super) struct Lb {
    pub state: State,
    shared: Arc<Shared>,
    worker: Worker<FakeQueue, FakeCounterSink>,
    report: FakeCounterSink,
    generation: Generation,
}

impl Lb {
    pub(super) fn new(config: &str) -> Self {
        let state = State::new(&Config::parse("world", config).unwrap()).unwrap();
        let shared = Arc::new(Shared::new(Forwarding::new(&state, Generation(1)).unwrap()));
        let report = FakeCounterSink::default();
        let worker = Worker::new(FakeQueue::default(), report.clone(), Arc::clone(&shared));
        Self { state, shared, worker, report, generation: Generation(1) }
    }

    /// Puts another state in force, as lbd does.
    pub(super) fn adopt(&mut self, state: State) {
        self.generation.0 += 1;
        self.shared.forwarding.store(Arc::new(Forwarding::new(&state, self.generation).unwrap()));
        self.state = state;
    }

    /// The audit has found these flows off-table.
    pub(super) fn know(&mut self, off_table: OffTable) {
        self.shared.off_table.store(Arc::new(off_table));
    }

    pub(super) fn deactivate(&mut self, backend: &str) {
        self.adopt(
            self.state
                .set_admin(None, &[backend.to_owned()], &Override::unattributed(Admin::Draining))
                .unwrap(),
        );
    }

    pub(super) fn activate(&mut self, backend: &str) {
        self.adopt(
            self.state
                .set_admin(None, &[backend.to_owned()], &Override::unattributed(Admin::Enabled))
                .unwrap(),
        );
    }

    /// One turn of the worker.
    pub(super) fn turn(&mut self, event: Event) -> io::Result<Option<Verdict>> {
        self.worker.parts().0.events.push_back(event);
        self.worker.turn()?;
        Ok(self.worker.parts().0.verdicts.pop())
    }

    /// The name of the backend that a packet is steered to, or `None` when it is dropped.
    pub(super) fn steer(&mut self, packet: Vec<u8>) -> Option<String> {
        match self.turn(Event::Packet(packet)).unwrap().expect("every packet gets a verdict") {
            Verdict::Steer(mark) => {
                let target = self.state.balancer.mark_mask.target(mark).unwrap();
                Some(self.state.names_of(target).next().unwrap())
            }
            Verdict::Pass | Verdict::Drop => None,
        }
    }

    /// How many packets the worker decides about when it is stopped while these wait, and then this comes for ever, or nothing.
    pub(super) fn stop(mut self, waiting: Vec<Vec<u8>>, stream: Option<Vec<u8>>, drain_max: u32) -> u64 {
        let events = waiting.into_iter().map(Event::Packet).collect();
        *self.worker.parts().0 =
            FakeQueue { events, stream, waits: Waits::Forbidden, ..FakeQueue::default() };
        self.shared.stop.store(true, Ordering::Relaxed);
        self.worker.run(drain_max, &Beat::default()).unwrap();
        let packets = self.report.moved().into_iter().find(|&(name, _)| name == "packets");
        packets.map_or(0, |(_, by)| by.unsigned_abs())
    }

    /// Turns of the worker, until nothing waits of these packets: the verdicts, and in how many answers they
    /// came.
    pub(super) fn turns(&mut self, packets: Vec<Vec<u8>>) -> (Vec<Verdict>, usize) {
        *self.worker.parts().0 =
            FakeQueue { events: packets.into_iter().map(Event::Packet).collect(), ..FakeQueue::default() };
        while self.worker.turn().unwrap() > 0 {}
        let queue = self.worker.parts().0;
        (std::mem::take(&mut queue.verdicts), queue.answers)
    }

    pub(super) fn fail_next_answer(&mut self, errors: impl Into<Vec<QueueError>>) {
        self.worker.parts().0.answer_errors = errors.into();
    }

    /// See [`FakeCounterSink::moved`].
    pub(super) fn moved(&mut self) -> Vec<(&'static str, i64)> {
        self.report.moved()
    }
}

/// The devices of a [`FragmentLb`].
pub(super) const TUN: u32 = 7;
pub(super) const TIER: [u32; 2] = [8, 9];
pub(super) const OUTSIDE: u32 = 3;

/// What a worker of fragments did to the world, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Verdict(Verdict),
    Injected(Vec<u8>),
    Report(SocketAddr, String),
}

/// What every part of a [`FragmentLb`] sees.
#[derive(Default)]
pub(super) struct Outside {
    pub acts: Vec<Act>,
    pub now: Duration,
    /// Whether the TUN device takes nothing.
    pub tun_full: bool,
    /// Whether no report can be sent.
    pub mute: bool,
}

type SharedOutside = Arc<Mutex<Outside>>;

pub(super) struct FragmentQueue(FakeQueue, SharedOutside);
pub(super) struct FakeInject(SharedOutside);
pub(super) struct FakeReportSink(SharedOutside);

impl Queue for FragmentQueue {
    type Message = FakeMessage;

    fn number(&self) -> QueueNum {
        QueueNum(10)
    }

    fn receive(&mut self) -> Result<Option<FakeMessage>, QueueError> {
        self.0.next()
    }

    fn answer(&mut self, _message: FakeMessage, verdict: Verdict) -> Result<(), QueueError> {
        self.1.lock().unwrap().acts.push(Act::Verdict(verdict));
        self.0.answer_errors.pop().map_or(Ok(()), Err)
    }
}

impl Inject for FakeInject {
    fn inject(&mut self, packet: &[u8]) -> io::Result<()> {
        let mut outside = self.0.lock().unwrap();
        if outside.tun_full {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        outside.acts.push(Act::Injected(packet.to_vec()));
        Ok(())
    }
}

impl ReportSink for FakeReportSink {
    fn device(&self, index: u32) -> Option<InterfaceName> {
        (index == OUTSIDE).then(|| InterfaceName::new("eth2").unwrap())
    }

    fn send_report(&mut self, receiver: SocketAddr, report: &[u8]) -> io::Result<()> {
        let mut outside = self.0.lock().unwrap();
        if outside.mute {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        outside.acts.push(Act::Report(receiver, String::from_utf8(report.to_vec()).unwrap()));
        Ok(())
    }
}

type FakeFragmentWorker = FragmentWorker<
    FragmentQueue,
    FakePins,
    FakeInject,
    FakeReportSink,
    FakeCounterSink,
    Box<dyn FnMut() -> Duration>,
>;

/// A balancer with the worker of fragments alone.
pub(super) struct FragmentLb {
    pub state: State,
    pub outside: SharedOutside,
    pub pins: FakePins,
    pub report: FakeCounterSink,
    shared: Arc<Shared>,
    worker: FakeFragmentWorker,
}

impl FragmentLb {
    /// Connection tracking knows nothing.
    pub(super) fn new(state: State) -> Self {
        let shared = Arc::new(Shared::new(Forwarding::new(&state, Generation(1)).unwrap()));
        shared.links.store(Arc::new(Links { tun: TUN, tier: TIER.to_vec() }));
        let outside = SharedOutside::default();
        let pins = FakePins::default();
        let report = FakeCounterSink::default();
        let clock = Arc::clone(&outside);
        let worker = FragmentWorker::new(
            FragmentQueue(FakeQueue::default(), Arc::clone(&outside)),
            pins.clone(),
            FakeInject(Arc::clone(&outside)),
            FakeReportSink(Arc::clone(&outside)),
            report.clone(),
            Arc::clone(&shared),
            Box::new(move || clock.lock().unwrap().now) as Box<dyn FnMut() -> Duration>,
        );
        Self { state, outside, pins, report, shared, worker }
    }

    /// The audit has found these flows off-table.
    pub(super) fn know(&mut self, off_table: OffTable) {
        self.shared.off_table.store(Arc::new(off_table));
    }

    /// Puts another state in force.
    pub(super) fn adopt(&mut self, state: State) {
        self.shared.forwarding.store(Arc::new(Forwarding::new(&state, Generation(1)).unwrap()));
        self.state = state;
    }

    /// One turn of the worker, and what it did.
    pub(super) fn turn(&mut self, event: Event) -> io::Result<Vec<Act>> {
        let queue = &mut self.worker.queue().0;
        queue.events.push_back(event);
        self.worker.turn()?;
        Ok(std::mem::take(&mut self.outside.lock().unwrap().acts))
    }

    /// What the worker does when it is stopped, and this comes for ever, or nothing more.
    pub(super) fn stop(mut self, stream: Option<Vec<u8>>, drain_max: u32) -> Vec<Act> {
        self.worker.queue().0.stream = stream;
        self.shared.stop.store(true, Ordering::Relaxed);
        self.worker.run(drain_max, &Beat::default()).unwrap();
        std::mem::take(&mut self.outside.lock().unwrap().acts)
    }

    pub(super) fn fail_next_answer(&mut self, error: QueueError) {
        self.worker.queue().0.answer_errors = vec![error];
    }
}
