//! `traffic`: a server that says its name, and clients that count.
//!
//! What a load balancer does is seen from outside: which server answers, which connections live. So each server
//! answers with its name, and each client keeps to the first name it heard, checks every byte, and counts what never
//! opened (`failed`), what broke (`lost`) and what changed its server (`moved`). The files, in the order of use:
//!
//! - `cli` the command line; `run` the frame around each client: limits, progress, signals, report, exit status
//! - `connect` `hold` `udp` `transfer` `fragments` (and `flood`) the clients; `forge` packets that no client sends, `pour` very many;
//!   `server` `answering` their peer
//! - `link` a client's connection, `line` that or a flow; `pace` rates and concurrency; `socket` socket options; `raw`
//!   packets as they are; `follow` the event file
//! - `frame` `datagram` `stream` `cidr` `name` pure: bytes to facts and back; `packet` `plan` `draw` for fragments, `segment` for `forge`
//! - `tally` what is counted, `history` when, `limits` how fast and why no faster, `fault` what can go wrong, `report`
//!   what is said of it all; `output` how; `clock`
//! - `analyze` `graph` what reports tell, `reported` a report read again
//!
//! One thread unless more are asked for, no busy loop: it also runs in small, slow virtual machines. It knows nothing of
//! any load balancer.

mod analyze;
mod answering;
mod cidr;
mod cli;
mod clock;
mod connect;
mod datagram;
mod draw;
mod fault;
mod flood;
mod follow;
mod forge;
mod fragments;
mod frame;
mod graph;
mod history;
mod hold;
mod limits;
mod line;
mod link;
mod name;
mod output;
mod pace;
mod packet;
mod plan;
mod pour;
mod raw;
mod report;
mod reported;
mod run;
mod segment;
mod server;
mod socket;
mod stream;
mod tally;
mod transfer;
mod udp;

use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::Builder;

use cli::{Cli, Command};
use output::{READER_GONE, Unsaid};

/// Wrong usage (clap's own status too), or it cannot start.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    match Cli::try_parse().map_or_else(|complaint| usage(&complaint), run) {
        Ok(code) => code,
        Err(error) if error.downcast_ref().is_some_and(Unsaid::reader_gone) => READER_GONE.into(),
        Err(error) => {
            output::say(format_args!("traffic: {error:#}\n"));
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Help and the version are answers, all else of clap's is a complaint.
fn usage(complaint: &clap::Error) -> anyhow::Result<ExitCode> {
    let text = complaint.render().to_string();
    if complaint.use_stderr() {
        output::say(text);
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    output::answer(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = match cli.threads.get() {
        1 => Builder::new_current_thread().enable_all().build()?,
        threads => Builder::new_multi_thread().worker_threads(threads).enable_all().build()?,
    };
    runtime.block_on(async {
        match cli.command {
            Command::Server(args) => server::run(args).await,
            Command::Connect(args) => connect::run(args).await,
            Command::Hold(args) => hold::run(args).await,
            Command::Udp(args) => udp::run(args).await,
            Command::Fragments(args) => fragments::run(args).await,
            Command::Transfer(args) => transfer::run(args).await,
            Command::Forge(args) => forge::run(args).await,
            Command::Pour(args) => pour::run(&args),
            Command::Analyze(args) => analyze::run(&args),
            Command::Graph(args) => graph::run(&args),
            Command::Bars(args) => graph::bars::run(&args),
        }
    })
}
