//! The lbd that follows a region, as it shows itself there; and waiting until it has taken over a change.

use std::time::Duration;

use serde::Serialize;

use super::error::CtlError;
use super::text::{count, duration};
use crate::{
    ids::Generation,
    shm::{RegionError, stats::Daemon},
    sys::{
        clock,
        region::{AccessError, Region},
    },
};

/// An lbd that runs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct DaemonView {
    pub pid: u64,
    /// The generation that its workers decide by.
    pub adopted: u64,
    pub started_unix_seconds: u64,
    pub workers: u64,
}

impl DaemonView {
    /// The lbd that follows the region now.
    pub(super) fn of(region: &mut Region) -> Result<Option<Self>, CtlError> {
        if region.is_followed()? { Ok(Some(last(region)?)) } else { Ok(None) }
    }

    /// One line about it.
    pub(super) fn line(&self, live: Generation, unix_seconds: u64) -> String {
        let since = duration(unix_seconds.saturating_sub(self.started_unix_seconds));
        let workers = count(usize::try_from(self.workers).unwrap_or(usize::MAX), "worker");
        let adopted = match self.adopted {
            adopted if adopted >= live.0 => format!("generation {adopted} in force"),
            0 => "nothing taken over yet".to_owned(),
            adopted => format!("generation {adopted} in force, {live} NOT YET taken over"),
        };
        format!("process {}, {workers}, for {since}, {adopted}", self.pid)
    }
}

/// One line about the lbd that follows the region, or that none does.
pub(super) fn line(region: &mut Region, live: Generation, unix_seconds: u64) -> Result<String, CtlError> {
    if let Some(lbd) = DaemonView::of(region)? {
        return Ok(lbd.line(live, unix_seconds));
    }
    let left = match last(region)?.adopted {
        0 => String::new(),
        adopted if adopted >= live.0 => format!("; generation {adopted} is in force in the kernel"),
        adopted => format!(
            "; generation {adopted} is in force in the kernel, {live} NOT YET: start lbd, or `lbd --once`"
        ),
    };
    Ok(format!("none follows this region{left}"))
}

/// What the last lbd left, whether it lives or not.
pub(super) fn last(region: &mut Region) -> Result<DaemonView, CtlError> {
    let name = region.name().clone();
    let daemon = Daemon::read(region).map_err(|error| unusable(&name, error))?;
    Ok(DaemonView {
        pid: daemon.pid,
        adopted: daemon.adopted.0,
        started_unix_seconds: daemon.started_unix_seconds,
        workers: daemon.workers,
    })
}

pub(super) fn unusable(name: &crate::sys::region::RegionName, error: RegionError) -> CtlError {
    AccessError::Unusable { name: name.clone(), error }.into()
}

/// What became of a generation that was just published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Adoption {
    /// lbd decides by it.
    InForce,
    /// There is an lbd, and it has not taken it over in time.
    NotYet,
    /// There is no lbd.
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
