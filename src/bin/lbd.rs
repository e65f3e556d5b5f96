//! The daemon: decides about new flows.

use std::{fmt::Write as _, path::Path, process::ExitCode, sync::Arc};

use clap::Parser as _;
use synrail::{
    daemon::{self, Arguments, DaemonError},
    host::Tally,
    sys::output::{self, Log},
};

/// The answer to `--check`: that the file is valid, and with `host` what is not as it should be on this host.
fn check(file: &Path, host: bool) -> Result<String, DaemonError> {
    let (config, state) = daemon::check(file)?;
    let (services, targets) = (config.services.len(), state.targets_used().count());
    let mut answer = format!("{}: valid; services: {services}, targets: {targets}", file.display());
    if !host {
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

fn main() -> ExitCode {
    output::prepare();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(complaint) => return output::usage("lbd", &complaint),
    };
    let log = Arc::<Log>::default();
    log.take_panics("lbd");
    tracing_subscriber::fmt()
        .with_max_level(arguments.log)
        .with_writer(log)
        .log_internal_errors(false)
        .with_ansi(output::errors_to_terminal())
        .with_target(false)
        .init();
    let answer = match arguments {
        Arguments { check: true, config: Some(file), host, .. } => check(&file, host).map(Some),
        Arguments { cleanup: true, shm, state_dir, .. } => daemon::cleanup(&shm, &state_dir).map(|removed| {
            let removed =
                if removed.is_empty() { vec!["nothing: nothing was there".to_owned()] } else { removed };
            Some(removed.into_iter().map(|what| format!("removed {what}")).collect::<Vec<_>>().join("\n"))
        }),
        Arguments { once: true, config, shm, state_dir, .. } => {
            daemon::once(config.as_deref(), &shm, &state_dir)
                .map(|generation| Some(format!("generation {generation} is in force in the kernel")))
        }
        Arguments { config, shm, state_dir, .. } => daemon::run(config, &shm, &state_dir).map(|()| None),
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
