//! The lbd that follows a region, as the region describes it.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{Sources, words::duration};
use crate::{
    config::Balancer,
    host::Tally,
    lease,
    model::Steering,
    shm::{
        RegionError,
        stats::{self, Daemon, Pins, nearly_full},
    },
    sys::region::{AccessError, NAME_DEFAULT, Region, RegionName},
};

/// What an lbd says of itself.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DaemonView {
    /// Its process ID.
    pub pid: u64,
    /// The generation in force: while lbd runs, its workers decide by it; otherwise the kernel decides by
    /// the fallback tables. 0: none yet.
    pub adopted: u64,
    /// The last generation of which the kernel had all fallback tables.
    pub in_kernel: u64,
    /// When it started, in seconds since 1970.
    pub started_unix_seconds: u64,
    /// How many workers it has.
    pub workers: u64,
    /// The result of its last check of this host.
    pub host: Tally,
}

impl DaemonView {
    /// Returns the lbd that follows the region now.
    ///
    /// # Errors
    /// When the region cannot be read.
    pub fn of(region: &mut Region) -> Result<Option<Self>, AccessError> {
        if region.is_followed()? { Ok(Some(Self::read(region, true)?)) } else { Ok(None) }
    }

    /// Returns the record of the last lbd, whether it still runs or not.
    ///
    /// # Errors
    /// When the region cannot be read.
    pub fn last(region: &mut Region) -> Result<Self, AccessError> {
        let followed = region.is_followed()?;
        Self::read(region, followed)
    }

    fn read(region: &mut Region, followed: bool) -> Result<Self, AccessError> {
        let read = Daemon::read(region).and_then(|daemon| Ok((daemon, stats::read_host(region)?)));
        let (daemon, host) = usable(region, read)?;
        Ok(Self {
            pid: daemon.pid,
            adopted: if followed { daemon.adopted.0 } else { daemon.in_kernel.0 },
            in_kernel: daemon.in_kernel.0,
            started_unix_seconds: daemon.started_unix_seconds,
            workers: daemon.workers,
            host,
        })
    }

    /// Returns how many workers it has, as a length.
    #[must_use]
    pub fn workers(&self) -> usize {
        usize::try_from(self.workers).unwrap_or(usize::MAX)
    }
}

/// The lbd of a region. In JSON it is what the lbd says that follows the region, or null.
#[derive(Clone, Debug)]
pub struct Lbd {
    /// Whether an lbd follows the region now.
    pub followed: bool,
    /// What this lbd says, or what the last one has left.
    pub last: DaemonView,
    /// That it does not answer.
    pub hangs: Option<Hangs>,
    /// Whether a state was put in force, and the kernel has no ruleset of synrail here.
    pub ruleset_gone: bool,
}

impl Lbd {
    /// Reads what a region says of its lbd.
    ///
    /// # Errors
    /// When the region cannot be read.
    pub fn read(region: &mut Region, sources: &Sources) -> Result<Self, AccessError> {
        Self::with(region, sources, || sources.has_ruleset())
    }

    /// Reads it where something else has looked for the ruleset.
    pub(super) fn with(
        region: &mut Region,
        sources: &Sources,
        has_ruleset: impl FnOnce() -> Option<bool>,
    ) -> Result<Self, AccessError> {
        let followed = region.is_followed()?;
        let last = DaemonView::read(region, followed)?;
        let hangs = if followed { Hangs::read(region, sources, last.workers())? } else { None };
        let ruleset_gone = last.adopted > 0 && has_ruleset() == Some(false);
        Ok(Self { followed, last, hangs, ruleset_gone })
    }

    /// Returns the lbd that follows the region.
    #[must_use]
    pub fn running(&self) -> Option<&DaemonView> {
        self.followed.then_some(&self.last)
    }
}

impl Serialize for Lbd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.running().serialize(serializer)
    }
}

/// An lbd that follows the region, but does not answer, at all or on some queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hangs {
    /// How long the whole process has been silent, in milliseconds; null if it is not.
    pub process_ms: Option<u64>,
    /// The queues whose workers hang.
    pub queues: Vec<u16>,
}

/// After this time without a sign of life lbd counts as hung: its lease has expired.
const SILENT: Duration = lease::LEASE;

impl Hangs {
    fn read(region: &mut Region, sources: &Sources, workers: usize) -> Result<Option<Self>, AccessError> {
        let looked = stats::last_look(region).and_then(|look| Ok((look, stats::hanging(region, workers)?)));
        let (look, queues) = usable(region, looked)?;
        let silent = look.map_or(Duration::ZERO, |look| (sources.monotonic)().saturating_sub(look));
        let process_ms = (silent >= SILENT).then(|| u64::try_from(silent.as_millis()).unwrap_or(u64::MAX));
        let queues: Vec<u16> = queues.into_iter().map(|queue| queue.0).collect();
        Ok((process_ms.is_some() || !queues.is_empty()).then_some(Self { process_ms, queues }))
    }

    /// Describes it in a few words.
    #[must_use]
    pub fn value(&self) -> String {
        match self.process_ms {
            Some(silent) => format!("hanging for {}", duration(silent / 1000)),
            None => format!("with hanging workers of queues {}", self.queues()),
        }
    }

    /// Returns the queues as text.
    #[must_use]
    pub fn queues(&self) -> String {
        let queues: Vec<String> = self.queues.iter().map(ToString::to_string).collect();
        queues.join(" ")
    }
}

/// Returns the command that puts this region in force without an lbd that stays.
#[must_use]
pub fn once_command(region: &RegionName) -> String {
    if region.to_string() == NAME_DEFAULT {
        "lbd --once".to_owned()
    } else {
        format!("lbd --once --shm {region}")
    }
}

/// The results of the audit of pins, and how full connection tracking is, as lbd reports them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PinsView {
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
    /// How many flows were ended since lbd started: their backend was disabled, or by `lbctl kill`.
    pub ended: u64,
    /// The time of the last `lbctl kill` that was carried out, in seconds since 1970; 0 if none was.
    #[serde(skip)]
    pub killed: u64,
    /// Whether connection tracking is nearly full, so that packets to VIPs go untracked.
    pub nearly_full: bool,
}

impl PinsView {
    /// Reads what lbd has found.
    ///
    /// # Errors
    /// When the region cannot be read.
    pub fn read(region: &mut Region) -> Result<Self, AccessError> {
        let read = Pins::read(region).and_then(|pins| Ok((pins, nearly_full(region)?)));
        let (pins, nearly_full) = usable(region, read)?;
        let Pins { off_table, no_room, protected, not_protected, promoted, ended, killed } = pins;
        Ok(Self { off_table, no_room, protected, not_protected, promoted, ended, killed, nearly_full })
    }
}

/// Whether long flows are promoted, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Offload {
    /// They are.
    On,
    /// The setting turns it off.
    Off,
    /// Every packet is queued for a decision, so there is nothing to promote.
    EveryPacket,
    /// This kernel has no flowtable.
    NotInKernel,
}

impl Offload {
    /// Returns it by the settings, and by what lbd has found of the kernel.
    ///
    /// # Errors
    /// When the region cannot be read.
    pub fn of(region: &mut Region, balancer: &Balancer) -> Result<Self, AccessError> {
        let read = stats::read_flowtable(region);
        let flowtable = usable(region, read)?;
        Ok(match (balancer.offload, balancer.steering, flowtable) {
            (false, ..) => Self::Off,
            (true, Steering::EveryPacket, _) => Self::EveryPacket,
            (true, Steering::SynOnly, Some(false)) => Self::NotInKernel,
            (true, Steering::SynOnly, Some(true) | None) => Self::On,
        })
    }
}

/// Adds the region's name to why its contents cannot be used.
pub(super) fn usable<T>(region: &Region, read: Result<T, RegionError>) -> Result<T, AccessError> {
    read.map_err(|error| AccessError::Unusable { name: region.name().clone(), error })
}
