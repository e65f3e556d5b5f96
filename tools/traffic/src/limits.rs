//! How fast a run was, and if it was slower than asked for, what stopped it.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::Serialize;

use crate::fault::Fault;
use crate::tally::Counts;

/// Slower than this part of what was asked for is worth a reason.
const NEARLY: f64 = 0.97;
/// In percent: a thread, or a machine, that is busy to this degree can do no more.
const FULL: f64 = 85.0;

/// New connections, flows or datagrams a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Speed {
    pub(crate) asked: f64,
    pub(crate) reached: f64,
}

/// What was used since the start of the process, and of the machine.
#[derive(Debug)]
pub(crate) struct Usage {
    process: Duration,
    machine: Option<Machine>,
}

/// All CPUs together, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Machine {
    busy: u64,
    all: u64,
}

/// How busy process and machine were.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Load {
    /// This process, in percent of one CPU: two threads can use 200.
    pub(crate) cpu_percent: f64,
    /// All CPUs of the machine, in percent of them.
    pub(crate) machine_percent: Option<f64>,
    #[serde(skip)]
    pub(crate) threads: usize,
}

impl Usage {
    pub(crate) fn so_far() -> nix::Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        let machine = fs::read_to_string("/proc/stat").ok().and_then(|text| Machine::parse(&text));
        Ok(Self { process: Duration::from_micros(u64::try_from(micros).unwrap_or(0)), machine })
    }

    pub(crate) fn since(&self, before: &Self, elapsed: Duration) -> Load {
        let used = self.process.saturating_sub(before.process).as_secs_f64();
        let machine_percent = self.machine.zip(before.machine).and_then(|(now, before)| {
            let [busy, all] = [now.busy - before.busy, now.all - before.all].map(|ticks| ticks as f64);
            (all > 0.0).then(|| tenths(100.0 * busy / all))
        });
        let cpu_percent = tenths(100.0 * used / elapsed.as_secs_f64().max(1e-6));
        let threads =
            tokio::runtime::Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers());
        Load { cpu_percent, machine_percent, threads }
    }
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

impl Machine {
    /// Reads the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal (and guests, which
    /// user has too).
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> =
            line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
        let idle = ticks.get(3)? + ticks.get(4)?;
        let all: u64 = ticks.iter().sum();
        Some(Self { busy: all - idle, all })
    }
}

/// Why the run was slower than asked for; nothing if it was not.
pub(crate) fn why(speed: Speed, load: &Load, counts: &Counts) -> Option<String> {
    let Speed { asked, reached } = speed;
    if reached >= NEARLY * asked {
        return None;
    }
    let own = format!("this process used {:.0} % of a CPU", load.cpu_percent);
    let machine = load.machine_percent.unwrap_or(0.0);
    let no_port = [Fault::AddressNotAvailable, Fault::AddressInUse]
        .map(|fault| counts.errors.get(fault.as_str()).copied().unwrap_or(0))
        .into_iter()
        .sum::<u64>();
    let reason = if no_port > 0 {
        format!("no source port was free {no_port} times; more addresses (--source-cidr) bring more ports")
    } else if load.cpu_percent >= FULL * load.threads as f64 {
        format!("{own} with {} thread(s) (--threads)", load.threads)
    } else if machine >= FULL {
        format!("the machine's CPUs were {machine:.0} % busy ({own})")
    } else {
        format!(
            "{own}, the machine's were {machine:.0} % busy: answers came too late (the path, the server), \
             or too few may be under way (--concurrency)"
        )
    };
    Some(format!("{reached:.0} of {asked:.0} a second: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(cpu_percent: f64, machine: f64, threads: usize) -> Load {
        Load { cpu_percent, machine_percent: Some(machine), threads }
    }

    fn said(reached: f64, load: &Load, counts: &Counts) -> String {
        why(Speed { asked: 20000.0, reached }, load, counts).unwrap_or_default()
    }

    #[test]
    fn what_stopped_a_run_is_named() {
        let counts = Counts::default();
        assert_eq!(said(19990.0, &load(100.0, 100.0, 1), &counts), "");
        let cpu = said(14000.0, &load(99.8, 70.0, 1), &counts);
        assert_eq!(
            cpu,
            "14000 of 20000 a second: this process used 100 % of a CPU with 1 thread(s) (--threads)"
        );
        assert!(said(14000.0, &load(120.0, 98.0, 2), &counts).contains("the machine's CPUs were 98 % busy"));
        assert!(said(14000.0, &load(20.0, 30.0, 1), &counts).contains("--concurrency"));
        let ports = Counts { errors: [("address_not_available", 7)].into(), ..Counts::default() };
        assert!(said(14000.0, &load(99.8, 70.0, 1), &ports).contains("no source port was free 7 times"));
    }

    #[test]
    fn the_machines_ticks() {
        let stat = "cpu  100 5 50 800 20 1 4 20 9 9\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(Machine::parse(stat), Some(Machine { busy: 180, all: 1000 }));
        assert_eq!(Machine::parse("cpu  1 2\n"), None);
        assert_eq!(Machine::parse(""), None);
    }
}
