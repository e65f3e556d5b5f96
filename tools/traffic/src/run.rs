//! The frame around every client command: it raises the limit of open files, shows progress once a second, ends at a
//! signal, and reports. A command brings only its own future.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::cli::{Output, Remote};
use crate::clock;
use crate::report::Report;
use crate::socket::{self, Source};
use crate::tally::Tally;

const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Losses or failures, as opposed to 2: wrong usage, or it cannot start.
pub(crate) const EXIT_LOSSES: u8 = 1;

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub(crate) struct Signals(Signal, Signal);

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    }

    pub(crate) async fn any(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// How a command's traffic ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) mismatch_offset: Option<u64>,
}

/// Runs the traffic, then reports what the tally has.
pub(crate) async fn traffic<P: Serialize>(
    command: &'static str,
    parameters: &P,
    output: &Output,
    tally: Arc<Tally>,
    traffic: impl Future<Output = anyhow::Result<Outcome>>,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let start = clock::now();
    let (outcome, interrupted) = tokio::select! {
        outcome = traffic => (outcome?, false),
        () = signals.any() => (Outcome::default(), true),
        () = progress(output, start, &tally) => bail!("progress never ends"),
    };
    let report = Report {
        command,
        counts: tally.snapshot(),
        seconds: clock::now().duration_since(start).as_secs_f64(),
        interrupted,
        mismatch_offset: outcome.mismatch_offset,
        parameters,
    };
    let text = if output.json { report.json()? + "\n" } else { report.table() };
    io::stdout().write_all(text.as_bytes()).context("writing the report")?;
    Ok(if report.all_well() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_LOSSES) })
}

/// What is checked before any traffic: that the source fits the address, and that there are enough files.
pub(crate) fn prepare(remote: &Remote, at_once: u64) -> anyhow::Result<()> {
    if let Some(cidr) = remote.source_cidr {
        ensure!(
            cidr.is_ipv4() == remote.address.is_ipv4(),
            "the source {cidr} is of another address family than --address {}",
            remote.address
        );
    }
    let allowed = socket::allow_connections(at_once).context("the limit of open files")?;
    ensure!(
        allowed >= at_once,
        "{at_once} connections at once need more open files than the limit (ulimit -Hn) allows: it is enough for {allowed}"
    );
    Ok(())
}

/// Where the connection of the given number comes from.
pub(crate) fn source(remote: &Remote, index: u64) -> Option<Source> {
    let port = remote.source_port.map_or(0, std::num::NonZeroU16::get);
    match remote.source_cidr {
        Some(cidr) => Some(Source { address: cidr.nth(index), port }),
        None if port != 0 => Some(Source { address: remote.unspecified(), port }),
        None => None,
    }
}

async fn progress(output: &Output, start: Instant, tally: &Tally) {
    if !output.progress && !io::stderr().is_terminal() {
        return std::future::pending().await;
    }
    let mut ticks = interval_at(start + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut before = 0;
    loop {
        let seconds = ticks.tick().await.duration_since(start).as_secs();
        let counts = tally.snapshot();
        let line = format!(
            "{seconds:>4} s: {} open, {} opened (+{}), {} failed, {} lost, {} moved, {} messages, {} bytes\n",
            counts.open(),
            counts.opened,
            counts.opened - before,
            counts.failed,
            counts.lost,
            counts.moved,
            counts.messages,
            counts.bytes,
        );
        before = counts.opened;
        let _ = io::stderr().write_all(line.as_bytes()); // nobody looks: the traffic goes on
    }
}
