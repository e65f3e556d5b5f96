//! A program of the operator ([`program`]). It gets what the check is about in its environment.

use synrail::model::ExecProbe;
use tokio::process::Command;

use super::{Failed, Found, Target};
use crate::program;

/// Runs the program.
pub async fn probe(target: &Target, probe: &ExecProbe) -> Found {
    target.wait_for("end of the program");
    let command = command(target, probe).ok_or_else(|| Failed::Host("no program".to_owned()))?;
    let ended = program::run(command).await;
    let ended = ended.map_err(|error| Failed::Host(format!("the program cannot be started: {error}")))?;
    if ended.status.success() { Ok(ended.last_line()) } else { Err(ended.last_line().into()) }
}

fn command(target: &Target, probe: &ExecProbe) -> Option<Command> {
    let mut command = program::command(&probe.command)?;
    let (service, backend) = &target.names;
    command
        .env("SYNRAIL_SERVICE", service.as_str())
        .env("SYNRAIL_BACKEND", backend.as_str())
        .env("SYNRAIL_ADDRESS", target.to.ip().to_string())
        .env("SYNRAIL_PORT", target.to.port().to_string());
    if let Some(mark) = target.mark {
        command.env("SYNRAIL_MARK", mark.0.to_string());
    }
    if let Some(from) = target.from {
        command.env("SYNRAIL_SOURCE", from.to_string());
    }
    Some(command)
}
