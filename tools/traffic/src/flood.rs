//! A flood of fragments, each of another packet that never becomes complete. Nothing answers; what was sent is counted.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::{FragmentsArgs, Incomplete};
use crate::clock;
use crate::draw::Draws;
use crate::fragments::Numbers;
use crate::pace::Pace;
use crate::packet::{Carrier, Extensions, Piece, TRANSPORT_HEADER_BYTES, Whole, overhead_bytes};
use crate::plan::UNIT_BYTES;
use crate::raw::RawSender;
use crate::run::{self, Outcome};
use crate::tally::Tally;

/// Where they say they come from, and to whom their answers would go.
const PORT: u16 = 4;

pub(crate) async fn run(args: FragmentsArgs, kind: Incomplete) -> anyhow::Result<ExitCode> {
    run::prepare(&args.client.remote, 0)?;
    let raw = RawSender::open(args.client.remote.address.ip())?;
    let tally = Tally::default();
    let pace = Pace::new(args.client.starts.rate, clock::now());
    let traffic = flood(&args, kind, &raw, &tally, &pace);
    let outcome = || Outcome { speed: pace.speed(), ..Outcome::default() };
    run::traffic("fragments", &args, &args.client.output, &tally, traffic, outcome).await
}

async fn flood(
    args: &FragmentsArgs,
    kind: Incomplete,
    raw: &RawSender,
    tally: &Tally,
    pace: &Pace,
) -> anyhow::Result<()> {
    let to = args.client.remote.address;
    let numbers = Numbers::new(to.is_ipv4());
    let mut draws = Draws::new(args.seed, 0);
    let end = clock::now() + Duration::from_secs(args.seconds);
    let room = usize::from(args.fragment_bytes) - overhead_bytes(to.is_ipv4(), Extensions::None, true);
    let length = room / UNIT_BYTES * UNIT_BYTES;
    // Three pieces, of which one is sent.
    let message = vec![0; 3 * length - TRANSPORT_HEADER_BYTES];
    for number in 0.. {
        pace.turn().await;
        if clock::now() >= end {
            break;
        }
        let Some(source) = run::source(&args.client.remote, number % args.sources) else { break };
        let from = SocketAddr::new(source.address, PORT);
        let later = match kind {
            Incomplete::First => 0,
            Incomplete::Later => 1,
            Incomplete::Both => draws.between(0, 1),
        };
        let whole = Whole::new(from, to, numbers.of(number), Carrier::Udp, Extensions::None, &message);
        match raw.send(&whole.packet(Piece { offset: later * length, length })).await {
            Ok(()) => tally.fragments(|counts| counts.fragments += 1),
            Err(error) => tally.failed(error.into()),
        }
    }
    Ok(())
}
