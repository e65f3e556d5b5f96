//! One long transfer, byte-exact: an upload that the server checks, or a download that is checked here.

use std::cell::Cell;
use std::process::ExitCode;

use crate::cli::TransferArgs;
use crate::fault::Fault;
use crate::frame::Extent;
use crate::link::{Closing, Link, Target};
use crate::run::{self, Outcome};
use crate::tally::Tally;

pub(crate) async fn run(args: TransferArgs) -> anyhow::Result<ExitCode> {
    let remote = args.remote();
    run::prepare(&remote, 1)?;
    let tally = Tally::default();
    let mismatch = Cell::new(None);
    let traffic = async {
        match Link::open(Target::of(&remote), run::source(&remote, 0), 0).await {
            Err(why) => tally.failed(why),
            Ok(mut link) => {
                tally.opened();
                tally.ended(transfer(&args, &tally, &mut link, &mismatch).await.err());
            }
        }
        Ok(())
    };
    let outcome = || Outcome { mismatch_offset: mismatch.get(), ..Outcome::default() };
    run::traffic("transfer", &args, &args.output, &tally, traffic, outcome).await
}

async fn transfer(
    args: &TransferArgs,
    tally: &Tally,
    link: &mut Link,
    found: &Cell<Option<u64>>,
) -> Result<(), Fault> {
    let seed = args.seed;
    let moved = |bytes| tally.moved_bytes(bytes);
    let mismatch = if let Some(length) = args.direction.upload {
        let (server, mismatch) = link.upload(Extent { length, seed }, moved).await?;
        tally.served_by(&server);
        mismatch
    } else {
        let extent = Extent { length: args.direction.download.unwrap_or(0), seed };
        tally.served_by(&link.ask_download(extent, args.half_close).await?);
        link.download(extent, moved).await?
    };
    found.set(mismatch);
    if mismatch.is_some() {
        return Err(Fault::Corrupted);
    }
    tally.answered(0);
    link.close(Closing::Server).await
}
