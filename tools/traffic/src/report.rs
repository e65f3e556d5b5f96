//! What a run says at its end: one JSON object, or a table for people with a bar per server.

use std::fmt::Write as _;

use serde::Serialize;

use crate::history::History;
use crate::limits::Load;
use crate::tally::Counts;

const BAR_COLUMNS: u64 = 40;

/// A finished run. Its JSON is read by scripts: names are only ever added.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a, P: Serialize> {
    pub(crate) command: &'static str,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// From the first connection to the last answer.
    pub(crate) seconds: f64,
    /// Ended by a signal before everything was done.
    pub(crate) interrupted: bool,
    #[serde(flatten)]
    pub(crate) load: Load,
    /// Why it was slower than asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limited_by: Option<String>,
    /// Of `hold` only.
    #[serde(flatten)]
    pub(crate) history: Option<History>,
    /// Transfers: the offset of the first wrong byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mismatch_offset: Option<u64>,
    pub(crate) parameters: &'a P,
}

impl<P: Serialize> Report<'_, P> {
    pub(crate) fn all_well(&self) -> bool {
        self.counts.all_well() && !self.interrupted
    }

    pub(crate) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    pub(crate) fn table(&self) -> String {
        let counts = &self.counts;
        let verdict = match (self.interrupted, counts.all_well()) {
            (true, _) => "INTERRUPTED",
            (false, true) => "all well",
            (false, false) => "LOSSES",
        };
        let mut out = format!("{}: {verdict}, {:.2} s\n", self.command, self.seconds);
        let mut line = |name: &str, value: u64| {
            let _ = writeln!(out, "  {name:<22} {value:>12}"); // writing to a String does not fail
        };
        line("opened", counts.opened);
        line("failed", counts.failed);
        line("lost", counts.lost);
        line("moved", counts.moved);
        if let Some(history) = &self.history {
            line("closed", history.closed);
            line("reconnected", history.reconnected);
            line("retransmissions", history.retransmissions);
        }
        if matches!(self.command, "udp" | "fragments") || counts.lost_datagrams > 0 {
            line("lost datagrams", counts.lost_datagrams);
        }
        if let Some(fragments) = &counts.fragments {
            line("datagrams", fragments.datagrams);
            line("  whole", fragments.whole);
            line("  overlapped", fragments.overlapped);
            line("  one fragment left out", fragments.left_out);
            line("  of these two, answered", fragments.unexpected);
            line("fragments", fragments.fragments);
            line("  duplicates", fragments.duplicates);
        }
        line("messages", counts.messages);
        line("bytes", counts.bytes);
        if let Some(offset) = self.mismatch_offset {
            line("first wrong byte at", offset);
        }
        for (why, times) in &counts.errors {
            line(why, *times);
        }
        if let Some(rate) =
            self.history.as_ref().and_then(History::opened_per_second).filter(|rate| *rate > 0.0)
        {
            let _ = writeln!(out, "  new in a second        {rate:>12.0}");
        }
        let _ = writeln!(out, "  this process           {:>12.0} % of a CPU", self.load.cpu_percent);
        if let Some(why) = &self.limited_by {
            let _ = writeln!(out, "  limited: {why}");
        }
        out.push_str(&bars(counts));
        out
    }
}

fn bars(counts: &Counts) -> String {
    let total: u64 = counts.servers.values().sum();
    let most = counts.servers.values().copied().max().unwrap_or(0).max(1);
    let width = counts.servers.keys().map(String::len).max().unwrap_or(0);
    let mut out = String::new();
    for (name, &count) in &counts.servers {
        let tenths = count.saturating_mul(1000) / total.max(1);
        let bar: String = (0..count.saturating_mul(BAR_COLUMNS).div_ceil(most)).map(|_| '#').collect();
        let _ = writeln!(out, "  {name:<width$} {count:>8} {:>3}.{} % {bar}", tenths / 10, tenths % 10);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(counts: Counts) -> Report<'static, u8> {
        let parameters = &7;
        Report {
            command: "connect",
            counts,
            seconds: 1.5,
            interrupted: false,
            load: Load { cpu_percent: 10.0, machine_percent: None, threads: 1 },
            limited_by: None,
            history: None,
            mismatch_offset: None,
            parameters,
        }
    }

    #[test]
    fn the_json_has_the_promised_names() {
        let json: serde_json::Value =
            serde_json::from_str(&report(Counts::default()).json().unwrap()).unwrap();
        let names = json.as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>().join(" ");
        let expected = "bytes command cpu_percent errors failed interrupted lost lost_datagrams machine_percent \
                        messages moved opened parameters seconds servers";
        assert_eq!(names, expected);
    }

    #[test]
    fn the_table_has_a_bar_per_server() {
        let servers = [("s1".to_owned(), 30), ("s10".to_owned(), 10)].into();
        let table = report(Counts { opened: 40, servers, ..Counts::default() }).table();
        assert!(table.starts_with("connect: all well, 1.50 s\n"), "{table}");
        assert!(table.contains(&format!("  s1        30  75.0 % {}\n", "#".repeat(40))), "{table}");
        assert!(table.contains(&format!("  s10       10  25.0 % {}\n", "#".repeat(14))), "{table}");
    }
}
