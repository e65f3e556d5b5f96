//! The command line of `lbagent`.

use std::path::PathBuf;

use clap::{CommandFactory as _, Parser};
use synrail::sys::{
    control_socket,
    region::{NAME_DEFAULT, RegionName},
};

/// The command line, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Checks the backends of services that have `[service.health]`, and tells lbd which are up. Answers HTTP if the file has
/// `[http]`.
///
/// Follows the region that `lbctl` changes, and only reads it. Needs CAP_NET_RAW for checks through tunnels and for
/// ICMP (Linux 5.17; CAP_NET_ADMIN before). Started as root, it becomes another user and keeps only that. Ends at
/// SIGTERM; lbd goes on with what was found last.
#[derive(Debug, Parser)]
#[command(name = "lbagent", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// The region in shared memory to follow.
    #[arg(long, value_name = "NAME", default_value = NAME_DEFAULT)]
    pub shm: RegionName,
    /// The socket of lbd [default: /run/synrail/REGION.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Run each check once, ask each agent on a backend once, and print what they found. Needs no lbd if the checks need no tunnel.
    #[arg(long)]
    pub once: bool,
    /// With --once: print JSON.
    #[arg(long, requires = "once")]
    pub json: bool,
    /// The user to become if started as root [default: synrail, or user 65534 if there is none]
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Make snapshots for the process that serves HTTP, by standard input.
    #[arg(long, hide = true)]
    pub reader: bool,
    /// How much to log: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: tracing::Level,
}

impl Arguments {
    /// Returns the path of lbd's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| control_socket::path(&self.shm))
    }
}

const EXAMPLES: &str = "\
Examples:
  lbagent                    check until SIGTERM, beside the lbd of this host
  lbagent --once             what do checks find and agents on backends say now? Changes nothing
  lbagent --once --json | jq '.[] | select(.made and (.ok | not))'
  lbagent --shm test --socket /run/test.sock --log debug

Exit status: 0 ended as asked, or (--once) all checks succeeded and no agent said down (one that
does not answer is no failure); 1 could not start, or (--once) a check failed or an agent said down; 2 wrong usage; 141 the reader of the answer has ended.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
        let arguments = Arguments::parse_from(["lbagent", "--shm", "test"]);
        assert_eq!(arguments.socket(), PathBuf::from("/run/synrail/test.sock"));
        assert!(Arguments::try_parse_from(["lbagent", "--json"]).is_err());
    }
}
