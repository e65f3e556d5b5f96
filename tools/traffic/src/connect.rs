//! Many connections, each from the next source address: opened, some round trips, closed.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::cli::ConnectArgs;
use crate::fault::Fault;
use crate::link::{Link, Target};
use crate::run::{self, Shared};
use crate::tally::Tally;

pub(crate) async fn run(args: ConnectArgs) -> anyhow::Result<ExitCode> {
    let count = args.connections;
    run::each("connect", args, count, connection).await
}

async fn connection(shared: Arc<Shared<ConnectArgs>>, index: u64) {
    let Shared { args, tally, .. } = &*shared;
    let remote = &args.client.remote;
    match Link::open(Target::of(remote), run::source(remote, index), index).await {
        Err(why) => tally.failed(why),
        Ok(mut link) => {
            tally.opened();
            tally.ended(use_it(args, tally, &mut link).await.err());
        }
    }
}

async fn use_it(args: &ConnectArgs, tally: &Tally, link: &mut Link) -> Result<(), Fault> {
    let messages = &args.messages;
    for number in 0..messages.messages {
        if number > 0 && messages.interval_ms > 0 {
            sleep(Duration::from_millis(messages.interval_ms)).await;
        }
        if let Some(server) = link.round_trip(messages.length.message_bytes).await? {
            tally.served_by(server);
        }
        tally.answered(messages.length.message_bytes as u64);
    }
    link.close(args.close).await
}

impl Target {
    pub(crate) fn of(remote: &crate::cli::Remote) -> Self {
        Self { address: remote.address, timeout: Duration::from_millis(remote.timeout_ms) }
    }
}
