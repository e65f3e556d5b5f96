//! Many connections, each from the next source address: opened, some round trips, closed.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::cli::ConnectArgs;
use crate::clock;
use crate::fault::Fault;
use crate::link::{Link, Target};
use crate::pace::{Pace, each};
use crate::run::{self, Outcome};
use crate::tally::Tally;

pub(crate) async fn run(args: ConnectArgs) -> anyhow::Result<ExitCode> {
    let at_once = args.connections.min(args.starts.concurrency.into());
    run::prepare(&args.remote, at_once)?;
    let tally = Arc::new(Tally::default());
    let args = Arc::new(args);
    let traffic = async {
        let pace = Pace::new(args.starts.rate, clock::now());
        let (for_jobs, count) = (args.clone(), tally.clone());
        let job = move |index| connection(for_jobs.clone(), count.clone(), index);
        each(args.connections, usize::from(args.starts.concurrency), pace, job).await?;
        Ok(Outcome::default())
    };
    run::traffic("connect", &*args, &args.output, tally.clone(), traffic).await
}

async fn connection(args: Arc<ConnectArgs>, tally: Arc<Tally>, index: u64) {
    match Link::open(Target::of(&args.remote), run::source(&args.remote, index), index).await {
        Err(why) => tally.failed(why),
        Ok(link) => {
            tally.opened();
            tally.ended(use_it(&args, &tally, link).await.err());
        }
    }
}

async fn use_it(args: &ConnectArgs, tally: &Tally, mut link: Link) -> Result<(), Fault> {
    for number in 0..args.messages {
        if number > 0 && args.interval_ms > 0 {
            sleep(Duration::from_millis(args.interval_ms)).await;
        }
        if let Some(server) = link.round_trip(args.message_bytes).await? {
            tally.served_by(server);
        }
        tally.answered(args.message_bytes as u64);
    }
    link.close(args.close).await
}

impl Target {
    pub(crate) fn of(remote: &crate::cli::Remote) -> Self {
        Self { address: remote.address, timeout: Duration::from_millis(remote.timeout_ms) }
    }
}
