//! Connections that stay: all are opened, each makes a round trip every interval, until the time is over or a file
//! says so; then each makes a last one, so that none that broke meanwhile is taken for whole, and is closed. A signal
//! ends it without that, and the report says `interrupted`.
//!
//! ```text
//! each connection:  turn (rate, concurrency) -> open -> first round trip -> [interval -> round trip]* -> last -> close
//! all together:     .............................................. ready file ......... end: seconds, file, none left
//! ```
//! The ready file is written when every connection has been tried, and says how many are open; those that failed
//! are not tried again, and show in the exit status.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, interval_at, sleep};

use crate::cli::HoldArgs;
use crate::clock;
use crate::fault::Fault;
use crate::link::{Link, Target};
use crate::pace::Pace;
use crate::run::{self, Outcome};
use crate::tally::Tally;

/// How often the until-file is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// What all connections share.
#[derive(Debug)]
struct Shared {
    args: HoldArgs,
    tally: Arc<Tally>,
    pace: Pace,
    opening: Semaphore,
}

pub(crate) async fn run(args: HoldArgs) -> anyhow::Result<ExitCode> {
    run::prepare(&args.remote, args.connections)?;
    let tally = Arc::new(Tally::default());
    let shared = Arc::new(Shared {
        tally: tally.clone(),
        pace: Pace::new(args.starts.rate, clock::now()),
        opening: Semaphore::new(args.starts.concurrency.into()),
        args,
    });
    let args = &shared.args;
    run::traffic("hold", args, &args.output, tally, hold(shared.clone())).await
}

async fn hold(shared: Arc<Shared>) -> anyhow::Result<Outcome> {
    let (end, ended) = watch::channel(false);
    let (tried, mut all_tried) = mpsc::channel::<()>(1);
    let mut connections = JoinSet::new();
    for index in 0..shared.args.connections {
        connections.spawn(connection(shared.clone(), index, tried.clone(), ended.clone()));
    }
    drop(tried);
    all_tried.recv().await; // nobody sends; each connection drops its end when it has been tried
    if let Some(path) = &shared.args.ready_file {
        write_ready(path, &shared.tally).with_context(|| format!("writing {}", path.display()))?;
    }
    let all_ended = async {
        while let Some(connection) = connections.join_next().await {
            connection?;
        }
        anyhow::Ok(())
    };
    tokio::pin!(all_ended);
    tokio::select! {
        ended = &mut all_ended => return ended.map(|()| Outcome::default()), // none is left to hold
        () = sleep(Duration::from_secs(shared.args.seconds)) => {}
        () = exists(shared.args.until_file.as_ref()) => {}
    }
    end.send_replace(true);
    all_ended.await?;
    Ok(Outcome::default())
}

async fn connection(shared: Arc<Shared>, index: u64, tried: mpsc::Sender<()>, ended: watch::Receiver<bool>) {
    let Shared { args, tally, pace, opening } = &*shared;
    let Ok(place) = opening.acquire().await else { return };
    pace.turn().await;
    let mut link = match Link::open(Target::of(&args.remote), run::source(&args.remote, index), index).await {
        Ok(link) => link,
        Err(why) => return tally.failed(why),
    };
    tally.opened();
    let first = round_trip(args, tally, &mut link).await;
    drop((place, tried));
    tally.ended(match first {
        Ok(()) => keep(args, tally, link, ended).await.err(),
        Err(why) => Some(why),
    });
}

async fn keep(
    args: &HoldArgs,
    tally: &Tally,
    mut link: Link,
    mut ended: watch::Receiver<bool>,
) -> Result<(), Fault> {
    let every = Duration::from_millis(args.interval_ms);
    let mut ticks = interval_at(clock::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let last = tokio::select! {
            _ = ended.wait_for(|end| *end) => true,
            _ = ticks.tick() => false,
        };
        round_trip(args, tally, &mut link).await?;
        if last {
            return link.close(args.close).await;
        }
    }
}

async fn round_trip(args: &HoldArgs, tally: &Tally, link: &mut Link) -> Result<(), Fault> {
    if let Some(server) = link.round_trip(args.message_bytes).await? {
        tally.served_by(server);
    }
    tally.answered(args.message_bytes as u64);
    Ok(())
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
fn write_ready(path: &Path, tally: &Tally) -> anyhow::Result<()> {
    let counts = tally.snapshot();
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let mut file = fs::File::create(&partial)?;
    writeln!(file, r#"{{"opened":{},"failed":{},"lost":{}}}"#, counts.opened, counts.failed, counts.lost)?;
    Ok(fs::rename(partial, path)?)
}
