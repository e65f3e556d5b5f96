//! The agent: checks the backends of a region, and answers HTTP. All it does is in the library.

use std::{os::unix::net::UnixStream, process::ExitCode};

use clap::Parser as _;
use lbagent::{Arguments, http::Opened, once, privileges, reader::Reader, run};
use synrail::{status::Sources, sys::output};
use tracing::warn;

fn main() -> ExitCode {
    output::prepare();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(complaint) => return output::usage("lbagent", &complaint),
    };
    output::log("lbagent", arguments.log, !arguments.once);
    privileges::raise_descriptors();
    if arguments.reader {
        return read(&arguments);
    }
    // A region that only root may read, and a socket for root alone, are opened before.
    let mut follower = run::Follower::new(arguments.shm.clone());
    let socket = arguments.socket();
    let opened = if arguments.once { None } else { UnixStream::connect(&socket).ok() };
    let http = match (arguments.once, std::env::current_exe()) {
        (false, Ok(program)) => {
            Opened::open(follower.http(), &arguments.shm, &program, arguments.user.as_deref())
        }
        (true, _) | (_, Err(_)) => Opened::default(),
    };
    // Becoming another user ends the kernel's promise of a signal when the parent ends.
    let parent = privileges::parent();
    match privileges::reduce(arguments.user.as_deref(), privileges::OF_CHECKS) {
        Ok(true) => {}
        Ok(false) => warn!("without CAP_NET_RAW checks through tunnels and ICMP checks fail"),
        Err(error) => {
            output::complain("lbagent", error);
            return ExitCode::FAILURE;
        }
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain("lbagent", format_args!("the event loop cannot be started: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let local = tokio::task::LocalSet::new();
    if arguments.once {
        return match local.block_on(&runtime, once::run(follower)) {
            Ok(results) => {
                let written = output::answer("lbagent", results.show(arguments.json));
                if results.all_succeed() { written } else { ExitCode::FAILURE }
            }
            Err(error) => {
                output::complain("lbagent", error);
                ExitCode::FAILURE
            }
        };
    }
    let ended = local.block_on(&runtime, run::run(follower, (&socket, opened), http, parent));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain("lbagent", format_args!("waiting for signals or lbd: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Makes snapshots for the lbagent that has started this.
fn read(arguments: &Arguments) -> ExitCode {
    let mut reader = Reader::new(arguments.shm.clone(), Sources::of_host());
    match privileges::reduce(arguments.user.as_deref(), privileges::OF_READER) {
        Ok(true) => {}
        Ok(false) => warn!("without CAP_NET_ADMIN the ruleset's counters and flows are missing by HTTP"),
        Err(error) => {
            output::complain("lbagent", error);
            return ExitCode::FAILURE;
        }
    }
    match reader.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain("lbagent", format_args!("reading for HTTP: {error}"));
            ExitCode::FAILURE
        }
    }
}
