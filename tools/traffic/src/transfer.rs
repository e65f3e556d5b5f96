//! One long transfer, byte-exact: an upload that the server checks, or a download that is checked here.

use std::process::ExitCode;
use std::sync::Arc;

use crate::cli::TransferArgs;
use crate::fault::Fault;
use crate::frame::Extent;
use crate::link::{Closing, Link, Target};
use crate::run::{self, Outcome};
use crate::tally::Tally;

pub(crate) async fn run(args: TransferArgs) -> anyhow::Result<ExitCode> {
    let remote = args.remote();
    run::prepare(&remote, 1)?;
    let tally = Arc::new(Tally::default());
    let traffic = async {
        let mut outcome = Outcome::default();
        match Link::open(Target::of(&remote), run::source(&remote, 0), 0).await {
            Err(why) => tally.failed(why),
            Ok(link) => {
                tally.opened();
                tally.ended(transfer(&args, &tally, link, &mut outcome).await.err());
            }
        }
        Ok(outcome)
    };
    run::traffic("transfer", &args, &args.output, tally.clone(), traffic).await
}

async fn transfer(
    args: &TransferArgs,
    tally: &Tally,
    mut link: Link,
    outcome: &mut Outcome,
) -> Result<(), Fault> {
    let seed = args.seed;
    let moved = |bytes| tally.moved_bytes(bytes);
    let mismatch = if let Some(length) = args.direction.upload {
        let (server, mismatch) = link.upload(Extent { length, seed }, moved).await?;
        tally.served_by(&server);
        mismatch
    } else {
        let extent = Extent { length: args.direction.download.unwrap_or(0), seed };
        tally.served_by(&link.ask_download(extent).await?);
        link.download(extent, moved).await?
    };
    outcome.mismatch_offset = mismatch;
    if mismatch.is_some() {
        return Err(Fault::Corrupted);
    }
    tally.answered(0);
    link.close(Closing::Server).await
}
