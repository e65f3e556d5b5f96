//! The daemon: decides about new flows.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use synrail::{
    daemon::{self, DaemonError},
    host::Tally,
    sys::region::{NAME_DEFAULT, RegionName},
};

/// Balances new flows to virtual addresses over backends; the kernel carries the rest.
///
/// Follows the region that `lbctl` changes. Needs CAP_NET_ADMIN. Ends at SIGTERM and leaves the kernel as it is, so
/// that existing flows go on; reads its file again at SIGHUP.
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
error on this host, or (--once) not all is in force; 2 wrong usage.";

/// Prints what is not as it should be on this host.
fn check_host(file: &Path) -> Result<(), DaemonError> {
    let findings = daemon::check_host(file)?;
    for finding in &findings {
        println!("{}: {finding}", finding.severity);
    }
    match Tally::of(&findings) {
        Tally { errors: 0, warnings: 0 } => println!("this host: nothing keeps packets from backends"),
        Tally { errors: 0, .. } => {}
        Tally { errors, .. } => return Err(DaemonError::HostErrors(errors)),
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_max_level(arguments.log)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let result = match arguments {
        Arguments { check: true, config: Some(file), host, .. } => {
            daemon::check(&file).and_then(|(config, state)| {
                let (services, targets) = (config.services.len(), state.targets_used().count());
                println!("{}: valid; services: {services}, targets: {targets}", file.display());
                if host { check_host(&file) } else { Ok(()) }
            })
        }
        Arguments { cleanup: true, shm, .. } => daemon::cleanup(&shm).map(|removed| {
            let removed =
                if removed.is_empty() { vec!["nothing: nothing was there".to_owned()] } else { removed };
            for what in removed {
                println!("removed {what}");
            }
        }),
        Arguments { once: true, config, shm, .. } => daemon::once(config.as_deref(), &shm)
            .map(|generation| println!("generation {generation} is in force in the kernel")),
        Arguments { config, shm, .. } => daemon::run(config, &shm),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.to_string().lines() {
                eprintln!("lbd: {line}");
            }
            ExitCode::FAILURE
        }
    }
}
