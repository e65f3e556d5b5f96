//! The lbd that follows a region, as the region describes it; and waiting until lbd has taken over a change.

use std::time::Duration;

use serde::Serialize;

use super::Env;
use super::error::CtlError;
use super::text::{count, duration};
use crate::{
    config::Balancer,
    host::Tally,
    lease,
    model::{Steering, ids::Generation},
    shm::{
        RegionError,
        stats::{self, Daemon, Pins, nearly_full},
    },
    sys::{
        clock,
        region::{AccessError, NAME_DEFAULT, Region, RegionName},
    },
};

/// A running lbd.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct DaemonView {
    pub pid: u64,
    /// The generation in force: while lbd runs, its workers decide by it; otherwise the kernel decides by its
    /// copies of the tables.
    pub adopted: u64,
    /// The last generation of which the kernel had all tables.
    pub in_kernel: u64,
    pub started_unix_seconds: u64,
    pub workers: u64,
    /// The result of its last check of this host.
    pub host: Tally,
}

impl DaemonView {
    /// Returns the lbd that follows the region now.
    pub(super) fn of(region: &mut Region) -> Result<Option<Self>, CtlError> {
        if region.is_followed()? { Ok(Some(view(region, true)?)) } else { Ok(None) }
    }

    /// Returns one line about this lbd.
    pub(super) fn line(&self, live: Generation, unix_seconds: u64) -> String {
        let since = duration(unix_seconds.saturating_sub(self.started_unix_seconds));
        let workers = count(usize::try_from(self.workers).unwrap_or(usize::MAX), "worker");
        let adopted = match self.adopted {
            adopted if adopted >= live.0 && self.in_kernel < adopted => {
                format!("generation {adopted} in force, its tables NOT YET in the kernel")
            }
            adopted if adopted >= live.0 => format!("generation {adopted} in force"),
            0 => "nothing taken over yet".to_owned(),
            adopted => format!("generation {adopted} in force, {live} NOT YET taken over"),
        };
        format!("process {}, {workers}, for {since}, {adopted}", self.pid)
    }
}

/// Returns one line about the lbd that follows the region, or about what the last one has left.
pub(super) fn line(env: &Env<'_>, region: &mut Region, live: Generation) -> Result<String, CtlError> {
    let followed = region.is_followed()?;
    let last = view(region, followed)?;
    if followed {
        let hangs = hangs(env, region)?.map_or_else(String::new, |hangs| hangs.text());
        let gone = if last.adopted > 0 && has_ruleset(env) == Some(false) { NO_RULESET } else { "" };
        return Ok(last.line(live, env.unix_seconds) + gone + &hangs);
    }
    let left = match last.adopted {
        0 => String::new(),
        _ if has_ruleset(env) == Some(false) => NO_RULESET.to_owned(),
        adopted if adopted >= live.0 => format!("; generation {adopted} was put in force last"),
        adopted => {
            let once = once_command(region.name());
            format!("; generation {adopted} was put in force last, {live} NOT YET: start lbd, or `{once}`")
        }
    };
    Ok(format!("none follows this region{left}"))
}

const NO_RULESET: &str = "; the kernel has NO RULESET of synrail in this network namespace";

/// Reports whether the kernel has a ruleset of synrail here; `None` if that cannot be read.
pub(super) fn has_ruleset(env: &Env<'_>) -> Option<bool> {
    (env.ruleset_counters)().map(|counters| !counters.is_empty())
}

/// An lbd that follows the region, but does not answer, at all or on some queues.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Hangs {
    /// How long the whole process has been silent, in milliseconds; null if it is not.
    process_ms: Option<u64>,
    /// The queues whose workers hang.
    queues: Vec<u16>,
}

/// After this time without a sign of life lbd counts as hung: its lease has expired.
const SILENT: Duration = lease::LEASE;

/// Reports whether the lbd that follows the region hangs.
pub(super) fn hangs(env: &Env<'_>, region: &mut Region) -> Result<Option<Hangs>, CtlError> {
    if !region.is_followed()? {
        return Ok(None);
    }
    let name = region.name().clone();
    let workers = usize::try_from(last(region)?.workers).unwrap_or(usize::MAX);
    let looked = stats::last_look(region).and_then(|look| Ok((look, stats::hanging(region, workers)?)));
    let (look, queues) = looked.map_err(|error| unusable(&name, error))?;
    let silent = look.map_or(Duration::ZERO, |look| env.monotonic.saturating_sub(look));
    let process_ms = (silent >= SILENT).then(|| u64::try_from(silent.as_millis()).unwrap_or(u64::MAX));
    let queues: Vec<u16> = queues.into_iter().map(|queue| queue.0).collect();
    Ok((process_ms.is_some() || !queues.is_empty()).then_some(Hangs { process_ms, queues }))
}

impl Hangs {
    fn text(&self) -> String {
        if let Some(silent) = self.process_ms {
            let silent = duration(silent / 1000);
            return format!("; HANGS for {silent}: the kernel's tables decide");
        }
        format!("; the workers of these queues HANG, the kernel's tables decide: {}", self.queues())
    }

    /// Describes it in a few words.
    pub(super) fn value(&self) -> String {
        match self.process_ms {
            Some(silent) => format!("hanging for {}", duration(silent / 1000)),
            None => format!("with hanging workers of queues {}", self.queues()),
        }
    }

    fn queues(&self) -> String {
        let queues: Vec<String> = self.queues.iter().map(ToString::to_string).collect();
        queues.join(" ")
    }
}

/// Returns the command that puts this region in force without an lbd that stays.
pub(super) fn once_command(region: &RegionName) -> String {
    if region.to_string() == NAME_DEFAULT {
        "lbd --once".to_owned()
    } else {
        format!("lbd --once --shm {region}")
    }
}

/// Returns the record of the last lbd, whether it still runs or not.
pub(super) fn last(region: &mut Region) -> Result<DaemonView, CtlError> {
    let followed = region.is_followed()?;
    view(region, followed)
}

fn view(region: &mut Region, followed: bool) -> Result<DaemonView, CtlError> {
    let name = region.name().clone();
    let daemon = Daemon::read(region).map_err(|error| unusable(&name, error))?;
    Ok(DaemonView {
        pid: daemon.pid,
        adopted: if followed { daemon.adopted.0 } else { daemon.in_kernel.0 },
        in_kernel: daemon.in_kernel.0,
        started_unix_seconds: daemon.started_unix_seconds,
        workers: daemon.workers,
        host: stats::read_host(region).map_err(|error| unusable(&name, error))?,
    })
}

/// The results of the audit of pins, and how full connection tracking is, as lbd reports them.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct PinsView {
    /// How many flows stay on their backend although the table names another one.
    pub off_table: u64,
    /// How many such flows had no room in their map, at the last audit of all entries.
    pub no_room: u64,
    /// How many flows connection tracking does not drop in favour of others.
    pub protected: u64,
    /// How many more flows would be protected without the limit.
    pub not_protected: u64,
    /// How many flows go by the flowtable.
    pub promoted: u64,
    /// Whether connection tracking is nearly full, so that packets to VIPs go untracked.
    pub nearly_full: bool,
}

/// What a nearly full connection tracking table means, and what to do.
pub(super) const NEARLY_FULL: &str = "NEARLY FULL: packets to VIPs go untracked, by the kernel's tables; \
     raise net.netfilter.nf_conntrack_max, and nf_conntrack_buckets with it, at 1 to 4 entries a bucket";

impl PinsView {
    pub(super) fn read(region: &mut Region) -> Result<Self, CtlError> {
        let name = region.name().clone();
        let read = Pins::read(region).and_then(|pins| Ok((pins, nearly_full(region)?)));
        let (pins, nearly_full) = read.map_err(|error| unusable(&name, error))?;
        let Pins { off_table, no_room, protected, not_protected, promoted } = pins;
        Ok(Self { off_table, no_room, protected, not_protected, promoted, nearly_full })
    }

    /// Returns one line about these results.
    pub(super) fn line(&self) -> String {
        let Self { off_table, no_room, protected, not_protected, promoted, nearly_full: _ } = self;
        let no_room = match no_room {
            0 => String::new(),
            _ => format!(" ({no_room} had NO ROOM in the maps)"),
        };
        let not_protected = match not_protected {
            0 => String::new(),
            _ => format!(", {not_protected} more NOT: half of nf_conntrack_max is reached"),
        };
        let promoted = match promoted {
            0 => String::new(),
            _ => format!(", {promoted} of them promoted"),
        };
        format!(
            "{off_table} off-table{no_room}; {protected} protected in connection tracking{promoted}{not_protected}"
        )
    }
}

/// Whether long flows are promoted, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Offload {
    On,
    /// The setting turns it off.
    Off,
    /// Every packet is queued for a decision, so there is nothing to promote.
    EveryPacket,
    /// This kernel has no flowtable.
    NotInKernel,
}

impl Offload {
    pub(super) fn of(region: &mut Region, balancer: &Balancer) -> Result<Self, CtlError> {
        let name = region.name().clone();
        let flowtable = stats::read_flowtable(region).map_err(|error| unusable(&name, error))?;
        Ok(match (balancer.offload, balancer.steering, flowtable) {
            (false, ..) => Self::Off,
            (true, Steering::EveryPacket, _) => Self::EveryPacket,
            (true, Steering::SynOnly, Some(false)) => Self::NotInKernel,
            (true, Steering::SynOnly, Some(true) | None) => Self::On,
        })
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::On => "on: long flows are promoted to the kernel's flowtable",
            Self::Off => "off, by the setting",
            Self::EveryPacket => "none: every packet is asked about",
            Self::NotInKernel => "NOT IN THIS KERNEL: long flows go by the ruleset as others do",
        }
    }
}

pub(super) fn unusable(name: &RegionName, error: RegionError) -> CtlError {
    AccessError::Unusable { name: name.clone(), error }.into()
}

/// What happened to a generation that was just published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Adoption {
    /// lbd decides by it.
    InForce,
    /// An lbd runs, but has not taken over the generation in time.
    NotYet,
    /// No lbd runs.
    NoDaemon,
}

/// Waits at most `timeout` until the lbd that follows the region, if any, decides by `generation`.
pub(super) fn wait_adopted(
    region: &mut Region,
    generation: Generation,
    timeout: Duration,
) -> Result<Adoption, CtlError> {
    let adopted = clock::wait_for(timeout, Duration::from_millis(5), || match DaemonView::of(region) {
        Ok(None) => Some(Ok(Adoption::NoDaemon)),
        Ok(Some(daemon)) => (daemon.adopted >= generation.0).then_some(Ok(Adoption::InForce)),
        Err(error) => Some(Err(error)),
    });
    adopted.unwrap_or(Ok(Adoption::NotYet))
}
