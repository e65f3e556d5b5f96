//! What `hold` writes down as time goes by: samples of all counts, events, and what became of each connection.
//!
//! Everything is bounded. When there are [`SAMPLES_MAX`] samples every second one is dropped and they come half as
//! often from then on, so that a day fits as well as a minute; those at an event stay exact, since they are kept.
//! Of connections a given number of lost ones is kept, and as many others; the rest are only counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clock;
use crate::fault::Fault;
use crate::name::Name;
use crate::tally::{Counts, server_key};

const SAMPLES_MAX: usize = 10_000;
const EVENTS_MAX: usize = 1000;

/// A run over time. Times are seconds since its start.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct History {
    /// The time of day at the start.
    pub(crate) started_unix_ms: u64,
    /// When every connection had been tried.
    pub(crate) ready_at: Option<f64>,
    /// When the end came; then all made a last round trip and were closed.
    pub(crate) held_until: Option<f64>,
    /// Ended in order, at their age or at the end.
    pub(crate) closed: u64,
    /// Opened in place of lost ones; they are among `opened`.
    pub(crate) reconnected: u64,
    /// TCP segments sent again, counted after each round trip.
    pub(crate) retransmissions: u64,
    /// Between samples.
    pub(crate) sample_ms: u64,
    pub(crate) samples: Vec<Sample>,
    pub(crate) events: Vec<Event>,
    /// Lost ones first, each kind in the order of their ends.
    pub(crate) connections: Vec<Record>,
    /// Connections that the list has no room for.
    pub(crate) connections_left_out: u64,
}

/// All counts at one time; they are sums from the start, but for `open`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) open: u64,
    pub(crate) opened: u64,
    pub(crate) closed: u64,
    pub(crate) failed: u64,
    pub(crate) lost: u64,
    pub(crate) moved: u64,
    pub(crate) reconnected: u64,
    pub(crate) messages: u64,
    pub(crate) lost_datagrams: u64,
    pub(crate) bytes: u64,
    pub(crate) retransmissions: u64,
    /// Those that were answered, by the server that answered first.
    pub(crate) servers: BTreeMap<String, OfServer>,
}

/// One server's connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OfServer {
    pub(crate) open: u64,
    pub(crate) opened: u64,
    pub(crate) lost: u64,
}

/// What a person or a script did, by the event file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) seconds: f64,
    pub(crate) name: String,
}

/// What became of a connection or flow.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Record {
    /// Address and port.
    pub(crate) source: Option<SocketAddr>,
    pub(crate) server: Option<String>,
    pub(crate) opened_at: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) closed_at: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lost_at: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<&'static str>,
}

/// Writes it down, from all sides.
#[derive(Debug)]
pub(crate) struct Recorder {
    start: Instant,
    records_max: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    history: History,
    sampled_us: Option<u64>,
    servers: BTreeMap<String, OfServer>,
    lost: Vec<Record>,
    others: Vec<Record>,
}

impl Recorder {
    pub(crate) fn new(sample_ms: u64, records_max: usize) -> Self {
        let history = History { sample_ms, started_unix_ms: clock::unix_ms(), ..History::default() };
        let kept = Mutex::new(Kept { history, ..Kept::default() });
        Self { start: clock::now(), records_max, kept }
    }

    pub(crate) fn served(&self, server: &Name) {
        let servers = &mut self.kept().servers;
        let of = servers.entry(server_key(servers, server)).or_default();
        of.opened += 1;
        of.open += 1;
    }

    /// An open connection has come to its end.
    pub(crate) fn ended(
        &self,
        source: Option<SocketAddr>,
        server: Option<&Name>,
        opened: Instant,
        fault: Option<Fault>,
    ) {
        let now = seconds(self.microseconds(clock::now()));
        let mut kept = self.kept();
        let lost = fault.is_some();
        if let Some(server) = server {
            let key = server_key(&kept.servers, server);
            let of = kept.servers.entry(key).or_default();
            of.open = of.open.saturating_sub(1);
            of.lost += u64::from(lost);
        }
        kept.history.closed += u64::from(!lost);
        let list = if lost { &mut kept.lost } else { &mut kept.others };
        if list.len() < self.records_max {
            list.push(Record {
                source,
                server: server.map(|name| name.as_str().to_owned()),
                opened_at: seconds(self.microseconds(opened)),
                closed_at: (!lost).then_some(now),
                lost_at: lost.then_some(now),
                why: fault.map(Fault::as_str),
            });
        } else {
            kept.history.connections_left_out += 1;
        }
    }

    pub(crate) fn reconnected(&self) {
        self.kept().history.reconnected += 1;
    }

    pub(crate) fn retransmitted(&self, segments: u64) {
        self.kept().history.retransmissions += segments;
    }

    pub(crate) fn ready(&self, counts: &Counts) {
        let now = self.sample(counts);
        self.kept().history.ready_at = Some(now);
    }

    pub(crate) fn held(&self, counts: &Counts) {
        let now = self.sample(counts);
        self.kept().history.held_until = Some(now);
    }

    /// Also takes a sample, so that what was before and after can be told apart exactly.
    pub(crate) fn event(&self, name: &str, counts: &Counts) {
        let seconds = self.sample(counts);
        let events = &mut self.kept().history.events;
        if events.len() < EVENTS_MAX {
            events.push(Event { seconds, name: name.to_owned() });
        }
    }

    /// Takes a sample; returns its time, which no other has: a run is cut at such times.
    pub(crate) fn sample(&self, counts: &Counts) -> f64 {
        let mut kept = self.kept();
        let Kept { history, servers, sampled_us, .. } = &mut *kept;
        let now = self.microseconds(clock::now());
        let at = sampled_us.map_or(now, |last| now.max(last + 1));
        *sampled_us = Some(at);
        let seconds = seconds(at);
        // Before it is added, since it may be an event's, or the last.
        if history.samples.len() >= SAMPLES_MAX {
            history.thin();
        }
        history.samples.push(Sample {
            seconds,
            open: counts.open(),
            opened: counts.opened,
            closed: history.closed,
            failed: counts.failed,
            lost: counts.lost,
            moved: counts.moved,
            reconnected: history.reconnected,
            messages: counts.messages,
            lost_datagrams: counts.lost_datagrams,
            bytes: counts.bytes,
            retransmissions: history.retransmissions,
            servers: servers.clone(),
        });
        seconds
    }

    /// How long until the next sample.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_millis(self.kept().history.sample_ms)
    }

    /// All of it, at the end.
    pub(crate) fn finish(&self, counts: &Counts) -> History {
        self.sample(counts);
        let mut kept = std::mem::take(&mut *self.kept());
        kept.history.connections = kept.lost;
        kept.history.connections.append(&mut kept.others);
        kept.history
    }

    /// Since the start.
    fn microseconds(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.start).as_micros()).unwrap_or(u64::MAX)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    /// How many were opened a second while all were held; nothing is known if they never were, or for no time.
    pub(crate) fn opened_per_second(&self) -> Option<f64> {
        let sample_at = |time: f64| self.samples.iter().rfind(|sample| sample.seconds <= time);
        let first = sample_at(self.ready_at?)?;
        let last = sample_at(self.held_until.unwrap_or(f64::INFINITY))?;
        let seconds = last.seconds - first.seconds;
        (seconds > 0.0).then(|| (last.opened - first.opened) as f64 / seconds)
    }

    fn thin(&mut self) {
        self.sample_ms *= 2;
        let events = &self.events;
        let mut number = 0;
        self.samples.retain(|sample| {
            number += 1;
            number % 2 == 1 || events.iter().any(|event| event.seconds == sample.seconds)
        });
    }
}

fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_at_one_moment_are_kept_apart() {
        let recorder = Recorder::new(1000, 1);
        for opened in 0..100 {
            recorder.event(&format!("{opened} opened"), &Counts { opened, ..Counts::default() });
        }
        let history = recorder.finish(&Counts::default());
        for (opened, event) in history.events.iter().enumerate() {
            let sample = history.samples.iter().rfind(|sample| sample.seconds <= event.seconds).unwrap();
            assert_eq!(sample.opened, opened as u64, "{event:?}");
        }
    }

    #[test]
    fn a_long_run_has_fewer_samples_but_those_at_events() {
        let recorder = Recorder::new(10, 1);
        let counts = Counts::default();
        for _ in 0..SAMPLES_MAX - 1 {
            recorder.sample(&counts);
        }
        recorder.event("at the limit", &counts);
        recorder.sample(&counts);
        let history = recorder.finish(&counts);
        assert!(history.samples.len() < SAMPLES_MAX, "{}", history.samples.len());
        assert!(history.sample_ms > 10);
        assert!(history.samples.iter().any(|sample| sample.seconds == history.events[0].seconds));
    }

    #[test]
    fn the_last_counts_are_kept_whenever_the_end_comes() {
        for samples in SAMPLES_MAX - 2..SAMPLES_MAX + 2 {
            let recorder = Recorder::new(10, 1);
            for _ in 0..samples {
                recorder.sample(&Counts::default());
            }
            let history = recorder.finish(&Counts { opened: 7, ..Counts::default() });
            assert_eq!(history.samples.last().unwrap().opened, 7, "{samples}");
        }
    }

    #[test]
    fn records_are_bounded_and_lost_ones_come_first() {
        let recorder = Recorder::new(1000, 2);
        let server: Name = "s1".parse().unwrap();
        for number in 0..6 {
            recorder.served(&server);
            let fault = (number % 2 == 1).then_some(Fault::Reset);
            recorder.ended(None, Some(&server), clock::now(), fault);
        }
        recorder.served(&server);
        let history = recorder.finish(&Counts::default());
        let why: Vec<_> = history.connections.iter().map(|record| record.why).collect();
        assert_eq!(why, [Some("reset"), Some("reset"), None, None]);
        assert_eq!((history.connections_left_out, history.closed), (2, 3));
        assert_eq!(history.samples[0].servers["s1"], OfServer { open: 1, opened: 7, lost: 3 });
    }
}
