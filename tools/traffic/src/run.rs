//! The frame around every client command: it raises the limit of open files, shows progress once a second, ends at a
//! signal, and reports. A command brings only its own future; most only what is to be done with each connection.

use std::future::Future;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::cli::{Client, Output, Remote};
use crate::clock;
use crate::history::History;
use crate::limits::{self, Speed, Usage};
use crate::output;
use crate::pace::{self, Pace};
use crate::report::Report;
use crate::socket::{self, Source};
use crate::tally::Tally;

const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// To the line's start, and what was there is gone.
const SAME_LINE: &str = "\r\x1b[K";

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

/// What all connections of a command share.
#[derive(Debug)]
pub(crate) struct Shared<A> {
    pub(crate) args: A,
    pub(crate) tally: Tally,
    pub(crate) pace: Pace,
}

impl<A: AsRef<Client>> Shared<A> {
    pub(crate) fn new(args: A) -> Self {
        let pace = Pace::new(args.as_ref().starts.rate, clock::now());
        Self { args, tally: Tally::default(), pace }
    }
}

/// What a command has to add to the report, however it ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) mismatch_offset: Option<u64>,
    pub(crate) history: Option<History>,
    pub(crate) speed: Option<Speed>,
}

/// A command whose connections or flows end by themselves: runs `job` for each, by its number, then reports.
pub(crate) async fn each<A, F>(
    command: &'static str,
    args: A,
    count: u64,
    job: fn(Arc<Shared<A>>, u64) -> F,
) -> anyhow::Result<ExitCode>
where
    A: AsRef<Client> + Serialize + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let shared = Arc::new(Shared::new(args));
    let Shared { args, tally, pace } = &*shared;
    let concurrency = args.as_ref().starts.concurrency;
    prepare(&args.as_ref().remote, count.min(concurrency.into()))?;
    let for_jobs = shared.clone();
    let all = pace::each(count, concurrency.into(), move |index| {
        let shared = for_jobs.clone();
        async move {
            shared.pace.turn().await;
            job(shared, index).await;
        }
    });
    let outcome = || Outcome { speed: pace.speed(), ..Outcome::default() };
    traffic(command, args, &args.as_ref().output, tally, all, outcome).await
}

/// Runs the traffic, then reports what the tally and the outcome have.
pub(crate) async fn traffic<P: Serialize>(
    command: &'static str,
    parameters: &P,
    output: &Output,
    tally: &Tally,
    traffic: impl Future<Output = anyhow::Result<()>>,
    outcome: impl FnOnce() -> Outcome,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let (start, usage) = (clock::now(), Usage::so_far()?);
    let interrupted = tokio::select! {
        ended = traffic => { ended?; false }
        () = signals.any() => true,
        () = progress(output, start, tally) => bail!("progress never ends"),
    };
    if output.progress_shown() == Some(Shown::OnOneLine) {
        output::say(SAME_LINE); // the report says more
    }
    let elapsed = clock::now().duration_since(start);
    let (counts, outcome) = (tally.snapshot(), outcome());
    let load = Usage::so_far()?.since(&usage, elapsed);
    let report = Report {
        command,
        limited_by: outcome.speed.and_then(|speed| limits::why(speed, &load, &counts)),
        counts,
        seconds: elapsed.as_secs_f64(),
        interrupted,
        load,
        mismatch_offset: outcome.mismatch_offset,
        history: outcome.history,
        parameters,
    };
    let text = if output.json { report.json()? + "\n" } else { report.table() };
    output::answer(&text)?;
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

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    OnOneLine,
    LineByLine,
}

impl Output {
    fn progress_shown(&self) -> Option<Shown> {
        if output::errors_to_terminal() {
            return Some(Shown::OnOneLine);
        }
        self.progress.then_some(Shown::LineByLine)
    }
}

async fn progress(output: &Output, start: Instant, tally: &Tally) {
    let Some(shown) = output.progress_shown() else { return std::future::pending().await };
    let mut ticks = interval_at(start + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut before = 0;
    loop {
        let seconds = ticks.tick().await.duration_since(start).as_secs();
        let counts = tally.snapshot();
        let line = format!(
            "{seconds:>4} s: {} open, {} opened (+{}), {} failed, {} lost, {} moved, {} messages, {} bytes",
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
        let line = match shown {
            Shown::OnOneLine => format!("{SAME_LINE}{line}"),
            Shown::LineByLine => line + "\n",
        };
        output::say(line); // no reader is left: the traffic goes on
    }
}
