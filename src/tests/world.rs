//! A world of balancers: each has a state, a worker with a fake queue, and shows its counters here.

use std::{
    collections::VecDeque,
    io,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use crate::{
    balance::{
        Forwarding, Verdict,
        counters::{Counter, Counters},
    },
    config::Config,
    ids::{Generation, QueueNum},
    io::{Message, Queue, QueueError, Report},
    state::State,
    worker::{Shared, Worker},
};

/// What a fake queue does next.
pub(super) enum Event {
    Packet(Vec<u8>),
    Nothing,
    Fails(QueueError),
}

/// A queue of which the test knows both ends.
#[derive(Default)]
pub(super) struct FakeQueue {
    pub events: VecDeque<Event>,
    pub verdicts: Vec<Verdict>,
    /// What the next verdict's sending reports.
    pub answer_error: Option<QueueError>,
}

pub(super) struct FakeMessage(Vec<u8>);

impl Message for FakeMessage {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn arrived_by(&self) -> u32 {
        0
    }
}

impl Queue for FakeQueue {
    type Message = FakeMessage;

    fn number(&self) -> QueueNum {
        QueueNum(0)
    }

    fn receive(&mut self) -> Result<Option<FakeMessage>, QueueError> {
        match self.events.pop_front() {
            Some(Event::Packet(bytes)) => Ok(Some(FakeMessage(bytes))),
            Some(Event::Nothing) | None => Ok(None),
            Some(Event::Fails(error)) => Err(error),
        }
    }

    fn answer(&mut self, _message: FakeMessage, verdict: Verdict) -> Result<(), QueueError> {
        self.verdicts.push(verdict);
        self.answer_error.take().map_or(Ok(()), Err)
    }
}

/// Where a worker's counters were last shown.
#[derive(Clone, Default)]
pub(super) struct FakeReport(Arc<Mutex<Vec<u64>>>);

impl Report for FakeReport {
    fn counters(&mut self, counters: &mut Counters) {
        *self.0.lock().unwrap() = counters.values().to_vec();
    }
}

/// A balancer with one worker.
pub(super) struct Lb {
    pub state: State,
    shared: Arc<Shared>,
    worker: Worker<FakeQueue, FakeReport>,
    report: FakeReport,
    generation: Generation,
    seen: Vec<u64>,
}

impl Lb {
    pub(super) fn new(config: &str) -> Self {
        let state = State::new(&Config::parse("world", config).unwrap()).unwrap();
        let shared = Arc::new(Shared::new(Forwarding::new(&state, Generation(1)).unwrap()));
        let report = FakeReport::default();
        let worker = Worker::new(FakeQueue::default(), report.clone(), Arc::clone(&shared));
        Self { state, shared, worker, report, generation: Generation(1), seen: vec![0; Counter::ALL.len()] }
    }

    /// Puts another state in force, as lbd does.
    pub(super) fn adopt(&mut self, state: State) {
        self.generation.0 += 1;
        self.shared.forwarding.store(Arc::new(Forwarding::new(&state, self.generation).unwrap()));
        self.state = state;
    }

    pub(super) fn deactivate(&mut self, backend: &str) {
        self.adopt(self.state.set_active(None, &[backend.to_owned()], false).unwrap());
    }

    pub(super) fn activate(&mut self, backend: &str) {
        self.adopt(self.state.set_active(None, &[backend.to_owned()], true).unwrap());
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
            Verdict::Drop => None,
        }
    }

    pub(super) fn fail_next_answer(&mut self, error: QueueError) {
        self.worker.parts().0.answer_error = Some(error);
    }

    /// Exactly which counters have moved since the last call, as shown outside.
    pub(super) fn moved(&mut self) -> Vec<(&'static str, u64)> {
        let shown = self.report.0.lock().unwrap().clone();
        let shown = if shown.is_empty() { self.seen.clone() } else { shown };
        let names = Counter::ALL.iter().map(|counter| counter.name());
        let moved = names.zip(shown.iter().zip(&self.seen)).map(|(name, (now, then))| (name, now - then));
        let moved = moved.filter(|&(_, by)| by > 0).collect();
        self.seen = shown;
        moved
    }
}

/// A packet of the transport protocol, with some payload.
pub(super) fn packet(protocol: u8, src: &str, sport: u16, dst: &str, dport: u16, flags: u8) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(sport.to_be_bytes());
    l4.extend(dport.to_be_bytes());
    l4.extend([0; 8]);
    l4.extend([0x50, flags]);
    l4.extend([0; 30]);
    ip(protocol, src, dst, &l4)
}

/// An IP packet with this behind its header.
pub(super) fn ip(protocol: u8, src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap();
    let mut bytes;
    match (src.parse().unwrap(), dst.parse().unwrap()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            bytes = vec![0x45, 0];
            bytes.extend((20 + len).to_be_bytes());
            bytes.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            bytes = vec![0x60, 0, 0, 0];
            bytes.extend(len.to_be_bytes());
            bytes.extend([protocol, 64]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
        }
        mixed => panic!("{mixed:?}"),
    }
    bytes.extend(payload);
    bytes
}

pub(super) fn syn(src: &str, sport: u16, dst: &str, dport: u16) -> Vec<u8> {
    packet(6, src, sport, dst, dport, 0x02)
}
