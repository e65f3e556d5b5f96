//! The command line of `lbd`: what there is to say, with its help.

use std::path::PathBuf;

use clap::{CommandFactory as _, Parser};

use crate::sys::{
    overrides,
    region::{NAME_DEFAULT, RegionName},
};

/// The command line, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Balances new flows to virtual addresses over backends; the kernel carries the rest.
///
/// Follows the region that `lbctl` changes. Started with CAP_NET_ADMIN and CAP_SYS_ADMIN, as root has them, it
/// keeps the first; a helper process that it forks keeps the second. Ends at SIGTERM and leaves the kernel as it
/// is, so that existing flows go on; reads its file again at SIGHUP.
#[derive(Debug, Parser)]
#[command(name = "lbd", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// The configuration file. The region is made from it if there is none.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The region in shared memory to follow.
    #[arg(long, value_name = "NAME", default_value = NAME_DEFAULT)]
    pub shm: RegionName,
    /// The directory that keeps over a reboot what `lbctl enable`, `drain` and `disable` said.
    #[arg(long, value_name = "DIRECTORY", default_value = overrides::DIRECTORY_DEFAULT)]
    pub state_dir: PathBuf,
    /// The program that lbd starts if a service has health checks; "none" if something else starts it. Without this
    /// it is the lbagent in lbd's own directory, if there is one.
    #[arg(long, value_name = "PROGRAM")]
    pub agent: Option<PathBuf>,
    /// Only check the configuration file.
    #[arg(long, requires = "config", conflicts_with = "cleanup")]
    pub check: bool,
    /// With --check: look at this host as well, and say what there keeps packets from backends.
    #[arg(long, requires = "check")]
    pub host: bool,
    /// Put what the region says in force in the kernel, and end: the kernel decides by its own tables while no lbd runs.
    #[arg(long, conflicts_with_all = ["check", "cleanup"])]
    pub once: bool,
    /// Withdraw the VIPs that nothing here serves while no lbd runs: those of which the kernel has no table. For when
    /// lbd has ended by force.
    #[arg(long, conflicts_with_all = ["check", "once", "cleanup"])]
    pub withdraw: bool,
    /// Remove everything that lbd has set up: ruleset, rules, routes, devices, the region, and what lbctl said.
    #[arg(long)]
    pub cleanup: bool,
    /// How much to log: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: tracing::Level,
}

const EXAMPLES: &str = "\
Examples:
  lbd --config /etc/synrail.toml            start, or take over what is there
  lbd --config /etc/synrail.toml --check    say what is wrong with the file, change nothing
  lbd --config /etc/synrail.toml --check --host   and what is wrong with this host for it
  lbd --once                                while no lbd runs: puts in force what lbctl has changed
  lbd --config /etc/synrail.toml --once     the same at boot, when there is no region yet
  lbd --withdraw                            after lbd was killed: withdraws the VIPs that nothing here serves
  lbd --cleanup                             leave nothing behind

Exit status: 0 ended as asked, or the file is valid; 1 could not start or go on, (--host) there is an
error on this host, or (--once) not all is in force, or the answer could not be written; 2 wrong usage;
141 the reader of the answer has ended.

The log goes to standard error. Where that takes no more (a full disk, a reader that has ended or does
not read), lbd goes on without it, counts the lines that are lost, and says how many when it works again.";
