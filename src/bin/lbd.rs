//! The daemon: decides about new flows.

use std::{
    env,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser as _;
use synrail::{
    daemon::{self, Arguments, DaemonError},
    host::Tally,
    plan::announce,
    sys::output,
};

/// The answer to `--check`: that the file is valid, and with `host` what is not as it should be on this host.
fn check(file: &Path, host: bool) -> Result<String, DaemonError> {
    let (config, state) = daemon::check(file)?;
    let (services, targets) = (config.services.len(), state.targets_used().count());
    let mut answer = format!("{}: valid; services: {services}, targets: {targets}", file.display());
    if !host {
        for never in announce::never(&state) {
            // Writing to a String cannot fail.
            let _ = write!(answer, "\nwarning: {never}");
        }
        return Ok(answer);
    }
    let findings = daemon::check_host(file)?;
    for finding in &findings {
        // Writing to a String cannot fail.
        let _ = write!(answer, "\n{}: {finding}", finding.severity);
    }
    match Tally::of(&findings) {
        Tally { errors: 0, warnings: 0 } => answer += "\nthis host: nothing keeps packets from backends",
        Tally { errors: 0, .. } => {}
        Tally { errors, .. } => {
            // The exit status reports the errors of the host, also if the answer cannot be written.
            let _ = output::answer("lbd", answer);
            return Err(DaemonError::HostErrors(errors));
        }
    }
    Ok(answer)
}

/// The program that runs health checks, if lbd starts one.
fn agent_program(asked: Option<PathBuf>) -> Option<PathBuf> {
    match asked {
        Some(none) if none.as_os_str() == "none" => None,
        Some(program) => Some(program),
        None => {
            env::current_exe().ok().map(|lbd| lbd.with_file_name("lbagent")).filter(|agent| agent.exists())
        }
    }
}

fn main() -> ExitCode {
    output::prepare();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(complaint) => return output::usage("lbd", &complaint),
    };
    let Arguments { check: checks, cleanup, withdraw, once, .. } = arguments;
    output::log("lbd", arguments.log, !(checks || cleanup || withdraw || once));
    let answer = match arguments {
        Arguments { check: true, config: Some(file), host, .. } => check(&file, host).map(Some),
        Arguments { cleanup: true, shm, state_dir, .. } => daemon::cleanup(&shm, &state_dir).map(|removed| {
            let removed =
                if removed.is_empty() { vec!["nothing: nothing was there".to_owned()] } else { removed };
            Some(removed.into_iter().map(|what| format!("removed {what}")).collect::<Vec<_>>().join("\n"))
        }),
        Arguments { withdraw: true, shm, .. } => daemon::withdraw(&shm).map(|vips| {
            let withdrawn: Vec<String> = vips.iter().map(|vip| format!("withdrawn: {vip}")).collect();
            Some(if withdrawn.is_empty() { "nothing to withdraw".to_owned() } else { withdrawn.join("\n") })
        }),
        Arguments { once: true, config, shm, state_dir, .. } => {
            daemon::once(config.as_deref(), &shm, &state_dir)
                .map(|generation| Some(format!("generation {generation} is in force in the kernel")))
        }
        Arguments { config, shm, state_dir, agent, .. } => {
            daemon::run(config, &shm, &state_dir, agent_program(agent)).map(|()| None)
        }
    };
    match answer {
        Ok(Some(answer)) => output::answer("lbd", answer),
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain("lbd", error);
            ExitCode::FAILURE
        }
    }
}
