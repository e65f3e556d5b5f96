//! What is counted while traffic runs: one set of counters that all connections share and that progress and report
//! read. What each count means stands at [`Counts`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::fault::Fault;
use crate::name::Name;

/// So many servers are counted by name, the others together.
const SERVERS_MAX: usize = 4096;
const OTHER_SERVERS: &str = "(others)";

/// The counters; their names are those of the report.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct Counts {
    /// Connections established; for UDP, flows with a socket that could send.
    pub(crate) opened: u64,
    /// Connections never established.
    pub(crate) failed: u64,
    /// Opened, then broken, without an answer in time, answered wrongly or by another server; for UDP, flows with
    /// at least one datagram without an answer.
    pub(crate) lost: u64,
    /// Answered by another server than at first. A TCP connection that moved is lost too.
    pub(crate) moved: u64,
    /// Ended, well or not.
    #[serde(skip)]
    pub(crate) ended: u64,
    /// Datagrams without an answer.
    pub(crate) lost_datagrams: u64,
    /// Connections or flows by the server that answered first.
    pub(crate) servers: BTreeMap<String, u64>,
    /// Round trips, or transfers, that were right.
    pub(crate) messages: u64,
    /// Their payload, counted once; for transfers, all that was sent or received.
    pub(crate) bytes: u64,
    /// What went wrong, how often.
    pub(crate) errors: BTreeMap<&'static str, u64>,
    /// Of fragments only.
    #[serde(flatten)]
    pub(crate) fragments: Option<FragmentCounts>,
}

/// What was sent in fragments, and who had it.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct FragmentCounts {
    /// Sent, whatever was done to them.
    pub(crate) datagrams: u64,
    /// Of these, uncut.
    pub(crate) whole: u64,
    /// Sent, of all the others together.
    pub(crate) fragments: u64,
    /// Fragments sent twice.
    pub(crate) duplicates: u64,
    /// Datagrams with an overlapping fragment: no answer to them may come.
    pub(crate) overlapped: u64,
    /// Datagrams without one of their fragments.
    pub(crate) left_out: u64,
    /// Answers to datagrams that could not arrive.
    pub(crate) unexpected: u64,
    /// Flows that have ended, once for each server that answered them.
    pub(crate) served: Vec<Served>,
}

/// A flow, and who answered so many of its datagrams.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Served {
    pub(crate) source: IpAddr,
    pub(crate) port: u16,
    pub(crate) server: String,
    pub(crate) datagrams: u64,
}

impl Counts {
    /// Connections that are open now.
    pub(crate) fn open(&self) -> u64 {
        self.opened.saturating_sub(self.ended)
    }

    pub(crate) fn all_well(&self) -> bool {
        let unexpected = self.fragments.as_ref().map_or(0, |fragments| fragments.unexpected);
        self.failed == 0 && self.lost == 0 && self.moved == 0 && unexpected == 0
    }
}

/// The shared counters.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

impl Tally {
    pub(crate) fn opened(&self) {
        self.counts().opened += 1;
    }

    pub(crate) fn failed(&self, why: Fault) {
        let mut counts = self.counts();
        counts.failed += 1;
        counts.error(why);
    }

    /// An opened one ended; `fault` says whether and why it is lost.
    pub(crate) fn ended(&self, fault: Option<Fault>) {
        let mut counts = self.counts();
        counts.ended += 1;
        if let Some(why) = fault {
            counts.lost += 1;
            counts.moved += u64::from(why == Fault::ServerChanged);
            counts.error(why);
        }
    }

    /// A UDP flow ended.
    pub(crate) fn flow_ended(&self, lost: bool, moved: bool) {
        let mut counts = self.counts();
        counts.ended += 1;
        counts.lost += u64::from(lost);
        counts.moved += u64::from(moved);
        if moved {
            counts.error(Fault::ServerChanged);
        }
    }

    pub(crate) fn datagram_lost(&self, why: Fault) {
        let mut counts = self.counts();
        counts.lost_datagrams += 1;
        counts.error(why);
    }

    /// A first answer: the connection or flow counts for this server.
    pub(crate) fn served_by(&self, name: &Name) {
        let servers = &mut self.counts().servers;
        *servers.entry(server_key(servers, name)).or_default() += 1;
    }

    pub(crate) fn answered(&self, bytes: u64) {
        let mut counts = self.counts();
        counts.messages += 1;
        counts.bytes += bytes;
    }

    pub(crate) fn moved_bytes(&self, bytes: u64) {
        self.counts().bytes += bytes;
    }

    /// Counts something about fragments.
    pub(crate) fn fragments(&self, count: impl FnOnce(&mut FragmentCounts)) {
        count(self.counts().fragments.get_or_insert_default());
    }

    pub(crate) fn snapshot(&self) -> Counts {
        self.counts().clone()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Under which name a server is counted: when there are too many, not its own.
pub(crate) fn server_key<T>(servers: &BTreeMap<String, T>, name: &Name) -> String {
    let full = servers.len() >= SERVERS_MAX && !servers.contains_key(name.as_str());
    if full { OTHER_SERVERS } else { name.as_str() }.to_owned()
}

impl Counts {
    fn error(&mut self, why: Fault) {
        *self.errors.entry(why.as_str()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_moves_is_lost_too() {
        let tally = Tally::default();
        tally.opened();
        tally.opened();
        tally.ended(Some(Fault::ServerChanged));
        let counts = tally.snapshot();
        assert_eq!((counts.opened, counts.open(), counts.lost, counts.moved), (2, 1, 1, 1));
        assert!(!counts.all_well());
        assert_eq!(counts.errors.get("server_changed"), Some(&1));
    }

    #[test]
    fn the_servers_are_bounded() {
        let tally = Tally::default();
        for number in 0..SERVERS_MAX + 10 {
            tally.served_by(&format!("s{number}").parse().unwrap());
        }
        let servers = tally.snapshot().servers;
        assert_eq!(servers.len(), SERVERS_MAX + 1);
        assert_eq!(servers.get(OTHER_SERVERS), Some(&10));
    }
}
