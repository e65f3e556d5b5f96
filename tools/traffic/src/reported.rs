//! A report, read again: what `analyze` and `graph` work on. PURE but for reading the file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::history::{Event, Sample};

/// Of a client's JSON report what is of use here; other fields are left aside, and only `hold` has a history.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Reported {
    pub(crate) command: String,
    pub(crate) seconds: f64,
    pub(crate) interrupted: bool,
    pub(crate) opened: u64,
    pub(crate) failed: u64,
    pub(crate) lost: u64,
    pub(crate) moved: u64,
    pub(crate) lost_datagrams: u64,
    pub(crate) servers: BTreeMap<String, u64>,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) limited_by: Option<String>,
    #[serde(default)]
    pub(crate) reconnected: u64,
    #[serde(default)]
    pub(crate) retransmissions: u64,
    pub(crate) ready_at: Option<f64>,
    pub(crate) held_until: Option<f64>,
    #[serde(default)]
    pub(crate) sample_ms: u64,
    #[serde(default)]
    pub(crate) samples: Vec<Sample>,
    #[serde(default)]
    pub(crate) events: Vec<Event>,
}

/// The time from one event to the next, and what happened in it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Phase {
    /// The event at its beginning, or one of the run's own: `opening`, `all open`, `closing`.
    pub(crate) name: String,
    pub(crate) from: f64,
    pub(crate) until: f64,
    /// At its beginning.
    pub(crate) open: u64,
    pub(crate) opened: u64,
    pub(crate) failed: u64,
    pub(crate) lost: u64,
    pub(crate) moved: u64,
    pub(crate) reconnected: u64,
    pub(crate) retransmissions: u64,
    /// Of those that were open at its beginning; nothing if none was.
    pub(crate) loss_percent: Option<f64>,
    pub(crate) lost_by_server: BTreeMap<String, u64>,
}

impl Reported {
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no report of a client", path.display()))
    }

    /// What it counted, in a line.
    pub(crate) fn summary(&self) -> String {
        format!("{} opened, {} lost, {} failed", self.opened, self.lost, self.failed)
    }

    /// The run, cut at its events.
    pub(crate) fn phases(&self) -> Vec<Phase> {
        let Some(last) = self.samples.last() else { return Vec::new() };
        let mut cuts = vec![(0.0, "opening")];
        cuts.extend(self.ready_at.map(|at| (at, "all open")));
        cuts.extend(self.events.iter().map(|event| (event.seconds, event.name.as_str())));
        cuts.extend(self.held_until.map(|at| (at, "closing")));
        cuts.sort_by(|a, b| a.0.total_cmp(&b.0));
        let ends = cuts.iter().skip(1).map(|cut| cut.0).chain([last.seconds]);
        let ends: Vec<f64> = ends.collect();
        cuts.iter().zip(ends).map(|(&(from, name), until)| self.phase(name, from, until)).collect()
    }

    fn phase(&self, name: &str, from: f64, until: f64) -> Phase {
        let (before, after) = (self.sample_at(from), self.sample_at(until));
        let lost = after.lost - before.lost;
        let lost_of = |sample: &Sample, server: &str| sample.servers.get(server).map_or(0, |of| of.lost);
        let lost_by_server = after.servers.keys().filter_map(|server| {
            let lost = lost_of(&after, server) - lost_of(&before, server);
            (lost > 0).then(|| (server.clone(), lost))
        });
        Phase {
            name: name.to_owned(),
            from,
            until,
            open: before.open,
            opened: after.opened - before.opened,
            failed: after.failed - before.failed,
            lost,
            moved: after.moved - before.moved,
            reconnected: after.reconnected - before.reconnected,
            retransmissions: after.retransmissions - before.retransmissions,
            loss_percent: percent(lost, before.open),
            lost_by_server: lost_by_server.collect(),
        }
    }

    /// The last sample up to then; before the first there was nothing.
    fn sample_at(&self, seconds: f64) -> Sample {
        self.samples.iter().rfind(|sample| sample.seconds <= seconds).cloned().unwrap_or_default()
    }
}

/// To a tenth.
pub(crate) fn percent(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| (part as f64 * 1000.0 / of as f64).round() / 10.0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::history::OfServer;

    /// 100 connections on 5 servers; s1 is taken away at 2 s, which costs its 20, and 4 of s2.
    pub(crate) fn report() -> Reported {
        let sample = |seconds, open, opened, [lost1, lost2]: [u64; 2]| Sample {
            seconds,
            open,
            opened,
            lost: lost1 + lost2,
            reconnected: opened - 100_u64.min(opened),
            servers: [("s1", lost1), ("s2", lost2)]
                .map(|(name, lost)| (name.to_owned(), OfServer { open: 20 - lost, opened: 20, lost }))
                .into(),
            ..Sample::default()
        };
        let samples = vec![
            Sample::default(),
            sample(0.5, 100, 100, [0, 0]),
            sample(1.0, 100, 100, [0, 0]),
            sample(2.0, 100, 100, [0, 0]),
            sample(2.001, 100, 100, [0, 0]),
            sample(3.0, 100, 124, [20, 4]),
            sample(4.0, 100, 124, [20, 4]),
            sample(4.2, 0, 124, [20, 4]),
        ];
        Reported {
            command: "hold".to_owned(),
            seconds: 4.2,
            interrupted: false,
            opened: 124,
            failed: 0,
            lost: 24,
            moved: 4,
            lost_datagrams: 0,
            servers: BTreeMap::new(),
            errors: [("reset".to_owned(), 24)].into(),
            limited_by: None,
            reconnected: 24,
            retransmissions: 0,
            ready_at: Some(0.5),
            held_until: Some(4.0),
            sample_ms: 1000,
            samples,
            events: vec![Event { seconds: 2.001, name: "s1 <deactivated>".to_owned() }],
        }
    }

    #[test]
    fn a_run_is_cut_at_its_events() {
        let phases = report().phases();
        let told: Vec<_> =
            phases.iter().map(|p| (p.name.as_str(), p.open, p.opened, p.lost, p.loss_percent)).collect();
        let expected = [
            ("opening", 0, 100, 0, None),
            ("all open", 100, 0, 0, Some(0.0)),
            ("s1 <deactivated>", 100, 24, 24, Some(24.0)),
            ("closing", 100, 0, 0, Some(0.0)),
        ];
        assert_eq!(told, expected);
        assert_eq!(phases[2].lost_by_server, [("s1".to_owned(), 20), ("s2".to_owned(), 4)].into());
        assert_eq!((phases[2].from, phases[2].until), (2.001, 4.0));
    }
}
