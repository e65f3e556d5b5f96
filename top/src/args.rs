//! The command line of `lbtop`.

use std::time::Duration;

use clap::{CommandFactory as _, Parser};
use synrail::sys::region::{NAME_DEFAULT, RegionName};

/// The command line, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Shows a region as it changes: services, backends, their health, shares, rates and flows, and what was dropped.
///
/// Reads what `lbctl show` and `lbctl stats` read, and changes nothing. Without CAP_NET_ADMIN the counters of the
/// ruleset and the numbers of flows are left out.
#[derive(Debug, Parser)]
#[command(name = "lbtop", version, after_help = HELP)]
pub struct Arguments {
    /// The region in shared memory.
    #[arg(long, value_name = "NAME", default_value = NAME_DEFAULT)]
    pub shm: RegionName,
    /// How often it is read, in seconds: 0.2 to 60.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub interval: Duration,
    /// Only services with this text in their name, or in that of a backend.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub filter: String,
    /// Print one screen after one interval, as text, and end. Needs no terminal.
    #[arg(long)]
    pub once: bool,
    /// With --once: how many columns the screen has.
    #[arg(long, value_name = "N", default_value_t = 120, requires = "once", value_parser = clap::value_parser!(u16).range(40..=500))]
    pub width: u16,
    /// With --once: how many lines it has.
    #[arg(long, value_name = "N", default_value_t = 40, requires = "once", value_parser = clap::value_parser!(u16).range(12..=5000))]
    pub height: u16,
}

fn interval(text: &str) -> Result<Duration, &'static str> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is expected")?;
    if !(0.2..=60.0).contains(&seconds) {
        return Err("0.2 to 60 seconds");
    }
    Ok(Duration::from_secs_f64(seconds))
}

const HELP: &str = "\
Keys:
  up down PgUp PgDn  choose a service; its backends are below
  tab                choose among the backends instead
  /                  filter by a name; Enter ends it, Esc clears it
  space              stand still, or go on
  q, Esc             end

NEW/s is what a target got: lbd and the kernel's fallback tables count new flows there. Backends of several
services with one address and encapsulation are one target, and show the same.

Examples:
  lbtop
  lbtop --filter web --interval 0.5
  lbtop --once | less           one screen, for a report
  lbctl stats --json            the same numbers for programs

Exit status: 0 ended as asked; 1 the region cannot be read, or this is no terminal; 2 wrong usage.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
        let arguments = Arguments::parse_from(["lbtop", "--interval", "0.5"]);
        assert_eq!(arguments.interval, Duration::from_millis(500));
        for bad in
            [&["--interval", "0"][..], &["--interval", "x"], &["--interval", "NaN"], &["--width", "80"]]
        {
            assert!(Arguments::try_parse_from([&["lbtop"], bad].concat()).is_err(), "{bad:?}");
        }
    }
}
