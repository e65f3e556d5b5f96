//! Continuous traffic: connections or flows that stay, each with a round trip every interval, until the time is over or
//! a file says so; then each makes a last one, so that none that broke meanwhile is taken for whole, and is closed. A
//! signal ends it without that, and the report says `interrupted`.
//!
//! ```text
//! each place:    turn (rate, concurrency) -> open -> first round trip -> [interval -> round trip]* -> last -> close
//!                ^------------------------- lost, with --reconnect; its --lifetime-ms is over -----------'
//! all together:  .............................................. ready file ......... end: seconds, file, none left
//! meanwhile:     a sample of all counts every --sample-ms; lines of the event file (history.rs)
//! ```
//! The ready file is written when every connection has been tried, and says how many are open; without --reconnect
//! those that failed are not tried again, and show in the exit status. An idle connection that breaks is lost at that
//! moment, not at its next round trip.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep, sleep_until};

use crate::cli::HoldArgs;
use crate::clock;
use crate::fault::Fault;
use crate::follow::{Changes, Follower};
use crate::history::{History, Recorder};
use crate::limits::Speed;
use crate::line::{Line, Trip};
use crate::run::{self, Outcome, Shared};

/// How often the until-file is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// One that failed, or was lost at once, is not replaced sooner.
const PAUSE: Duration = Duration::from_millis(200);
/// A time that does not come.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What all places share.
#[derive(Debug)]
struct Hold {
    shared: Shared<HoldArgs>,
    recorder: Recorder,
    events: Option<Mutex<Follower>>,
    opening: Semaphore,
    next_number: AtomicU64,
    opening_speed: OnceLock<Option<Speed>>,
}

/// A connection while it is held.
#[derive(Debug)]
struct Held {
    line: Line,
    opened: Instant,
    retransmissions: u64,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Failed,
    Lost,
    /// Its lifetime was over.
    Aged,
    /// The end of all has come.
    Over,
}

pub(crate) async fn run(args: HoldArgs) -> anyhow::Result<ExitCode> {
    run::prepare(&args.client.remote, args.connections)?;
    let watch = |path: &PathBuf| Changes::of(path).with_context(|| format!("watching {}", path.display()));
    let changes = args.event_file.as_ref().map(watch).transpose()?;
    let hold = Arc::new(Hold {
        recorder: Recorder::new(args.sample_ms, args.records),
        events: args.event_file.as_deref().map(Follower::new).map(Mutex::new),
        opening: Semaphore::new(args.client.starts.concurrency.into()),
        next_number: AtomicU64::new(args.connections),
        opening_speed: OnceLock::new(),
        shared: Shared::new(args),
    });
    let Shared { args, tally, .. } = &hold.shared;
    let traffic = async {
        tokio::select! {
            ended = traffic(hold.clone()) => ended,
            Err(error) = hold.record(changes) => Err(error),
        }
    };
    let outcome = || {
        let history = hold.recorder.finish(&tally.snapshot());
        Outcome { speed: hold.speed(&history), history: Some(history), ..Outcome::default() }
    };
    run::traffic("hold", args, &args.client.output, tally, traffic, outcome).await
}

async fn traffic(hold: Arc<Hold>) -> anyhow::Result<()> {
    let Shared { args, tally, pace } = &hold.shared;
    hold.note_events()?; // what stands in the file already is of the start
    let (end, ended) = watch::channel(false);
    let (tried, mut all_tried) = mpsc::channel::<()>(1);
    let mut places = JoinSet::new();
    for place in 0..args.connections {
        places.spawn(hold_one(hold.clone(), place, tried.clone(), ended.clone()));
    }
    drop(tried);
    all_tried.recv().await; // nothing is sent; each place drops its end when it has been tried
    hold.opening_speed.get_or_init(|| pace.speed());
    let counts = tally.snapshot();
    hold.recorder.ready(&counts);
    if let Some(path) = &args.ready_file {
        let ready =
            format!(r#"{{"opened":{},"failed":{},"lost":{}}}"#, counts.opened, counts.failed, counts.lost);
        write_whole(path, &ready).with_context(|| format!("writing {}", path.display()))?;
    }
    let all_ended = async {
        while let Some(place) = places.join_next().await {
            place?;
        }
        anyhow::Ok(())
    };
    tokio::pin!(all_ended);
    tokio::select! {
        ended = &mut all_ended => return ended, // none is left to hold
        () = sleep(Duration::from_secs(args.seconds)) => {}
        () = exists(args.until_file.as_ref()) => {}
    }
    hold.note_events()?;
    hold.recorder.held(&tally.snapshot());
    end.send_replace(true);
    all_ended.await
}

/// Holds one connection, and those that take its place.
async fn hold_one(hold: Arc<Hold>, place: u64, tried: mpsc::Sender<()>, mut ended: watch::Receiver<bool>) {
    let mut tried = Some(tried);
    let mut number = place;
    let mut until = None;
    let mut replaces_lost = false;
    loop {
        let start = clock::now();
        let opened = tokio::select! {
            opened = hold.open(number, replaces_lost) => opened,
            _ = ended.wait_for(|end| *end) => return,
        };
        let fate = match opened {
            Ok((held, permit)) => {
                until = hold.until(place, until);
                let guards = (permit, tried.take());
                hold.hold(held, place, until, guards, &mut ended).await
            }
            Err(why) => {
                hold.shared.tally.failed(why);
                Fate::Failed
            }
        };
        tried = None;
        match fate {
            Fate::Aged => replaces_lost = false,
            Fate::Lost | Fate::Failed if hold.shared.args.reconnect => {
                replaces_lost |= fate == Fate::Lost;
                tokio::select! {
                    () = sleep_until(start + PAUSE) => {}
                    _ = ended.wait_for(|end| *end) => return,
                }
            }
            Fate::Lost | Fate::Failed | Fate::Over => return,
        }
        number = hold.next_number.fetch_add(1, Ordering::Relaxed);
    }
}

impl Hold {
    async fn open(&self, number: u64, replaces_lost: bool) -> Result<(Held, SemaphorePermit<'_>), Fault> {
        let Shared { args, tally, pace } = &self.shared;
        let permit = self.opening.acquire().await.map_err(|_| Fault::Other)?; // it is never closed
        pace.turn().await;
        let line = Line::open(args.udp, &args.client.remote, number).await?;
        tally.opened();
        if replaces_lost {
            self.recorder.reconnected();
        }
        Ok((Held { line, opened: clock::now(), retransmissions: 0 }, permit))
    }

    /// The guards say that it is being opened, until its first round trip is over.
    async fn hold<G>(
        &self,
        mut held: Held,
        place: u64,
        until: Option<Instant>,
        guards: G,
        ended: &mut watch::Receiver<bool>,
    ) -> Fate {
        let first = self.round_trip(&mut held).await;
        drop(guards);
        let kept = match first {
            Ok(()) => self.keep(&mut held, place, until, ended).await,
            Err(why) => Err(why),
        };
        let closed = match kept {
            Ok(fate) => held.line.close(self.shared.args.close).await.map(|()| fate),
            Err(why) => Err(why),
        };
        let lost = closed.err();
        if held.line.is_udp() {
            self.shared.tally.flow_ended(lost.is_some(), lost == Some(Fault::ServerChanged));
        } else {
            self.shared.tally.ended(lost);
        }
        self.recorder.ended(held.line.source().ok(), held.line.server(), held.opened, lost);
        closed.unwrap_or(Fate::Lost)
    }

    async fn keep(
        &self,
        held: &mut Held,
        place: u64,
        until: Option<Instant>,
        ended: &mut watch::Receiver<bool>,
    ) -> Result<Fate, Fault> {
        let now = clock::now();
        let every = self.interval();
        let mut ticks = interval_at(now + self.share(every, place), every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let aged = sleep_until(until.unwrap_or(now + NEVER));
        tokio::pin!(aged);
        loop {
            let over = tokio::select! {
                _ = ended.wait_for(|end| *end) => true,
                () = &mut aged => return Ok(Fate::Aged),
                why = held.line.broken() => return Err(why),
                _ = ticks.tick() => false,
            };
            self.round_trip(held).await?;
            if over {
                return Ok(Fate::Over);
            }
        }
    }

    async fn round_trip(&self, held: &mut Held) -> Result<(), Fault> {
        let Shared { args, tally, .. } = &self.shared;
        let trip = held.line.round_trip(args.length.message_bytes).await;
        let retransmissions = held.line.retransmissions();
        if retransmissions > held.retransmissions {
            self.recorder.retransmitted(retransmissions - held.retransmissions);
            held.retransmissions = retransmissions;
        }
        match trip {
            Ok(Trip::First(server)) => {
                tally.served_by(&server);
                self.recorder.served(&server);
            }
            Ok(Trip::Answered) => {}
            Ok(Trip::Unanswered(why)) => {
                tally.datagram_lost(why);
                return Ok(());
            }
            Err(why) => {
                if held.line.is_udp() && why != Fault::ServerChanged {
                    tally.datagram_lost(why);
                }
                return Err(why);
            }
        }
        tally.answered(args.length.message_bytes as u64);
        Ok(())
    }

    /// Between the round trips of a connection.
    fn interval(&self) -> Duration {
        let args = &self.shared.args;
        match args.message_rate {
            Some(rate) => Duration::from_secs_f64(args.connections as f64 / f64::from(rate.get())),
            None => Duration::from_millis(args.interval_ms),
        }
    }

    /// When a connection of this place has lived long enough. The first ones' times are spread, so that not all are
    /// replaced at once; later ones keep to the place's beat, unless it has fallen behind.
    fn until(&self, place: u64, before: Option<Instant>) -> Option<Instant> {
        let lifetime = Duration::from_millis(self.shared.args.lifetime_ms?);
        let now = clock::now();
        Some(match before {
            None => now + self.share(lifetime, place),
            Some(before) if before + lifetime > now => before + lifetime,
            Some(_) => now + lifetime,
        })
    }

    /// A part of the time, another one for each place.
    fn share(&self, of: Duration, place: u64) -> Duration {
        of.mul_f64((place + 1) as f64 / self.shared.args.connections as f64)
    }

    /// Samples and events, until the future is dropped or the event file cannot be read.
    async fn record(&self, mut changes: Option<Changes>) -> anyhow::Result<()> {
        let mut due = clock::now();
        loop {
            let change = async {
                match &mut changes {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                told = change => {
                    told.context("watching the event file")?;
                    self.note_events()?;
                }
                () = sleep_until(due) => {
                    self.note_events()?; // the file may be another machine's
                    self.recorder.sample(&self.shared.tally.snapshot());
                    due += self.recorder.interval();
                }
            }
        }
    }

    fn note_events(&self) -> anyhow::Result<()> {
        let Some(events) = &self.events else { return Ok(()) };
        let mut events = events.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(lines) = events.lines().context("reading the event file")? {
            for name in lines {
                self.recorder.event(&name, &self.shared.tally.snapshot());
            }
        }
        Ok(())
    }

    /// With lifetimes, that of replacing while all are held; otherwise that of opening.
    fn speed(&self, history: &History) -> Option<Speed> {
        let args = &self.shared.args;
        let Some(lifetime_ms) = args.lifetime_ms else { return self.opening_speed.get().copied().flatten() };
        let mut asked = args.connections as f64 * 1e3 / lifetime_ms as f64;
        if let Some(rate) = args.client.starts.rate {
            asked = asked.min(rate.get().into());
        }
        Some(Speed { asked, reached: history.opened_per_second()? })
    }
}

async fn exists(path: Option<&PathBuf>) {
    let Some(path) = path else { return std::future::pending().await };
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !path.exists() {
        looks.tick().await;
    }
}

/// The file is complete as soon as it is there.
fn write_whole(path: &Path, line: &str) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    writeln!(fs::File::create(&partial)?, "{line}")?;
    fs::rename(partial, path)
}
