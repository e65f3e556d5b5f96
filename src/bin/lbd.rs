//! The daemon: decides about new flows.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Parser;
use synrail::{
    daemon::{self, DaemonError},
    host::Tally,
    sys::{
        output::{self, Log},
        region::{NAME_DEFAULT, RegionName},
    },
};

/// Balances new flows to virtual addresses over backends; the kernel carries the rest.
///
/// Follows the region that `lbctl` changes. Needs CAP_NET_ADMIN and CAP_SYS_ADMIN. Ends at SIGTERM and leaves
/// the kernel as it is, so that existing flows go on; reads its file again at SIGHUP.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// The configuration file. The region is made from it if there is none.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The region in shared memory to follow.
    #[arg(long, value_name = "NAME", default_value = NAME_DEFAULT)]
    shm: RegionName,
    /// Only check the configuration file.
    #[arg(long, requires = "config", conflicts_with = "cleanup")]
    check: bool,
    /// With --check: look at this host as well, and say what there keeps packets from backends.
    #[arg(long, requires = "check")]
    host: bool,
    /// Put what the region says in force in the kernel, and end: the kernel decides by its own tables while no lbd runs.
    #[arg(long, conflicts_with_all = ["check", "cleanup"])]
    once: bool,
    /// Remove everything that lbd has set up: ruleset, rules, routes, devices and the region.
    #[arg(long)]
    cleanup: bool,
    /// How much to log: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: tracing::Level,
}

const EXAMPLES: &str = "\
Examples:
  lbd --config /etc/synrail.toml            start, or take over what is there
  lbd --config /etc/synrail.toml --check    say what is wrong with the file, change nothing
  lbd --config /etc/synrail.toml --check --host   and what is wrong with this host for it
  lbd --once                                while no lbd runs: puts in force what lbctl has changed
  lbd --config /etc/synrail.toml --once     the same at boot, when there is no region yet
  lbd --cleanup                             leave nothing behind

Exit status: 0 ended as asked, or the file is valid; 1 could not start or go on, (--host) there is an
error on this host, or (--once) not all is in force, or the answer could not be written; 2 wrong usage;
141 the reader of the answer has ended.

The log goes to standard error. Where that takes no more (a full disk, a reader that has ended or does
not read), lbd goes on without it, counts the lines that are lost, and says how many when it works again.";

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
            // The exit status tells of the host, whatever becomes of the answer.
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
        Arguments { cleanup: true, shm, .. } => daemon::cleanup(&shm).map(|removed| {
            let removed =
                if removed.is_empty() { vec!["nothing: nothing was there".to_owned()] } else { removed };
            Some(removed.into_iter().map(|what| format!("removed {what}")).collect::<Vec<_>>().join("\n"))
        }),
        Arguments { once: true, config, shm, .. } => daemon::once(config.as_deref(), &shm)
            .map(|generation| Some(format!("generation {generation} is in force in the kernel"))),
        Arguments { config, shm, .. } => daemon::run(config, &shm).map(|()| None),
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
