//! `traffic analyze`: what reports tell, as tables or as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::AnalyzeArgs;
use crate::output;
use crate::reported::{Phase, Reported, percent};

/// So many times at which something was lost are printed.
const LOSSES_SHOWN: usize = 20;

/// All files.
#[derive(Debug, Serialize)]
struct Analysis {
    files: Vec<Analyzed>,
    total: Total,
}

/// One file.
#[derive(Debug, Serialize)]
struct Analyzed {
    file: String,
    command: String,
    seconds: f64,
    interrupted: bool,
    #[serde(flatten)]
    total: Total,
    #[serde(skip_serializing_if = "Option::is_none")]
    limited_by: Option<String>,
    phases: Vec<Phase>,
    /// When something was lost.
    losses: Vec<Losses>,
}

#[derive(Debug, Default, Clone, Serialize)]
struct Total {
    opened: u64,
    failed: u64,
    lost: u64,
    /// Of those opened.
    loss_percent: Option<f64>,
    moved: u64,
    reconnected: u64,
    lost_datagrams: u64,
    retransmissions: u64,
    servers: BTreeMap<String, Server>,
    errors: BTreeMap<String, u64>,
}

/// A server's connections.
#[derive(Debug, Default, Clone, Serialize)]
struct Server {
    opened: u64,
    /// Only `hold` knows it.
    lost: Option<u64>,
}

/// So many between two samples.
#[derive(Debug, Serialize)]
struct Losses {
    from: f64,
    until: f64,
    lost: u64,
}

pub(crate) fn run(args: &AnalyzeArgs) -> anyhow::Result<ExitCode> {
    let mut files = Vec::new();
    for path in &args.files {
        files.push(Analyzed::new(path.display().to_string(), &Reported::read(path)?));
    }
    let mut total = Total::default();
    files.iter().for_each(|file| total.add(&file.total));
    let analysis = Analysis { files, total };
    let text = if args.json { serde_json::to_string(&analysis)? + "\n" } else { analysis.tables() };
    output::answer(&text)?;
    Ok(ExitCode::SUCCESS)
}

impl Analyzed {
    fn new(file: String, report: &Reported) -> Self {
        let losses = report.samples.windows(2).filter_map(|pair| {
            let lost = pair[1].lost - pair[0].lost;
            (lost > 0).then_some(Losses { from: pair[0].seconds, until: pair[1].seconds, lost })
        });
        Self {
            file,
            command: report.command.clone(),
            seconds: report.seconds,
            interrupted: report.interrupted,
            total: Total::of(report),
            limited_by: report.limited_by.clone(),
            phases: report.phases(),
            losses: losses.collect(),
        }
    }
}

impl Total {
    fn of(report: &Reported) -> Self {
        let last = report.samples.last();
        let servers = report.servers.iter().map(|(name, &opened)| {
            let lost = last.map(|sample| sample.servers.get(name).map_or(0, |of| of.lost));
            (name.clone(), Server { opened, lost })
        });
        Self {
            opened: report.opened,
            failed: report.failed,
            lost: report.lost,
            loss_percent: percent(report.lost, report.opened),
            moved: report.moved,
            reconnected: report.reconnected,
            lost_datagrams: report.lost_datagrams,
            retransmissions: report.retransmissions,
            servers: servers.collect(),
            errors: report.errors.clone(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.failed += other.failed;
        self.lost += other.lost;
        self.loss_percent = percent(self.lost, self.opened);
        self.moved += other.moved;
        self.reconnected += other.reconnected;
        self.lost_datagrams += other.lost_datagrams;
        self.retransmissions += other.retransmissions;
        for (name, server) in &other.servers {
            let sum = self.servers.entry(name.clone()).or_default();
            sum.opened += server.opened;
            sum.lost = server.lost.map(|lost| lost + sum.lost.unwrap_or(0)).or(sum.lost);
        }
        for (why, times) in &other.errors {
            *self.errors.entry(why.clone()).or_default() += times;
        }
    }
}

// Writing to a String does not fail, so its results are let go.
impl Analysis {
    fn tables(&self) -> String {
        let mut out = String::new();
        for file in &self.files {
            let interrupted = if file.interrupted { ", INTERRUPTED" } else { "" };
            let _ = writeln!(out, "{}: {}, {:.2} s{interrupted}", file.file, file.command, file.seconds);
            if let Some(why) = &file.limited_by {
                let _ = writeln!(out, "  limited: {why}");
            }
            file.total.table(&mut out);
            phases(&mut out, &file.phases);
            losses(&mut out, &file.losses);
        }
        if self.files.len() > 1 {
            let _ = writeln!(out, "all {} together", self.files.len());
            self.total.table(&mut out);
        }
        out
    }
}

impl Total {
    fn table(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "  {} opened, {} lost ({} %), {} failed, {} moved, {} reconnected, {} retransmissions, {} lost datagrams",
            self.opened,
            self.lost,
            or_dash(self.loss_percent),
            self.failed,
            self.moved,
            self.reconnected,
            self.retransmissions,
            self.lost_datagrams
        );
        for (why, times) in &self.errors {
            let _ = writeln!(out, "  {times:>8} {why}");
        }
        if !self.servers.is_empty() {
            let width = self.servers.keys().map(String::len).max().unwrap_or(0).max(6);
            let _ = writeln!(out, "  {:<width$} {:>8} {:>8}", "server", "opened", "lost");
            for (name, server) in &self.servers {
                let lost = or_dash(server.lost);
                let _ = writeln!(out, "  {name:<width$} {:>8} {lost:>8}", server.opened);
            }
        }
    }
}

fn phases(out: &mut String, phases: &[Phase]) {
    if phases.is_empty() {
        return;
    }
    let width = phases.iter().map(|phase| phase.name.chars().count()).max().unwrap_or(0).max(5);
    let _ = writeln!(
        out,
        "  {:<width$} {:>8} {:>8} {:>8} {:>8} {:>8} {:>6} {:>8}  lost by server",
        "phase", "from s", "to s", "open", "opened", "lost", "%", "failed"
    );
    for phase in phases {
        let by: Vec<String> =
            phase.lost_by_server.iter().map(|(name, lost)| format!("{name} {lost}")).collect();
        let line = format!(
            "  {:<width$} {:>8.2} {:>8.2} {:>8} {:>8} {:>8} {:>6} {:>8}  {}",
            phase.name,
            phase.from,
            phase.until,
            phase.open,
            phase.opened,
            phase.lost,
            or_dash(phase.loss_percent),
            phase.failed,
            by.join(", ")
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

fn losses(out: &mut String, losses: &[Losses]) {
    for loss in losses.iter().take(LOSSES_SHOWN) {
        let _ = writeln!(out, "  lost {:>6} from {:.2} s to {:.2} s", loss.lost, loss.from, loss.until);
    }
    if losses.len() > LOSSES_SHOWN {
        let _ = writeln!(out, "  and at {} other times (--json has them)", losses.len() - LOSSES_SHOWN);
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reported::tests::report;

    fn analysis(count: usize) -> Analysis {
        let mut report = report();
        report.servers = [("s1".to_owned(), 20), ("s2".to_owned(), 20)].into();
        let files: Vec<_> =
            (0..count).map(|number| Analyzed::new(format!("{number}.json"), &report)).collect();
        let mut total = Total::default();
        files.iter().for_each(|file| total.add(&file.total));
        Analysis { files, total }
    }

    #[test]
    fn the_tables_name_phases_servers_and_times() {
        let tables = analysis(1).tables();
        for line in [
            "0.json: hold, 4.20 s",
            "  124 opened, 24 lost (19.4 %), 0 failed, 4 moved, 24 reconnected, 0 retransmissions, 0 lost datagrams",
            "        24 reset",
            "  s1           20       20",
            "  s1 <deactivated>     2.00     4.00      100       24       24     24        0  s1 20, s2 4",
            "  lost     24 from 2.00 s to 3.00 s",
        ] {
            assert!(tables.lines().any(|has| has == line), "{line:?} in\n{tables}");
        }
        assert!(!tables.contains("together"));
    }

    #[test]
    fn several_files_are_added_up() {
        let two = analysis(2);
        assert!(two.tables().contains("all 2 together\n  248 opened, 48 lost (19.4 %)"), "{}", two.tables());
        let json: serde_json::Value = serde_json::to_value(&two).unwrap();
        assert_eq!(json["total"]["servers"]["s1"], serde_json::json!({ "opened": 40, "lost": 40 }));
        assert_eq!(json["files"][1]["phases"][2]["lost_by_server"]["s2"], 4);
        assert_eq!(json["files"][0]["losses"].as_array().unwrap().len(), 1);
    }
}
