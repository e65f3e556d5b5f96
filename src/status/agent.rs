//! The lbagent that runs the health checks of a region, as the region describes it.

use std::time::Duration;

use serde::Serialize;

use super::{Sources, lbd::usable, words::duration};
use crate::{
    shm::stats,
    state::State,
    sys::region::{AccessError, Region},
};

/// After this time without a sign of life, what checks found counts as old.
const SILENT: Duration = Duration::from_secs(5);

/// What runs the health checks of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AgentView {
    /// How many services ask for checks.
    pub services: usize,
    /// The process that ran checks last; null if none has.
    pub pid: Option<u64>,
    /// How old its last sign of life is, in milliseconds.
    pub age_ms: Option<u64>,
    /// Whether that is recent enough for checks to be running.
    pub running: bool,
    /// How many checks it could not make the last time, for reasons of this host; null if none has run.
    pub not_made: Option<u64>,
}

impl AgentView {
    /// Reads it; `None` if no service has health checks.
    ///
    /// # Errors
    /// When the region cannot be read.
    pub fn read(region: &mut Region, state: &State, sources: &Sources) -> Result<Option<Self>, AccessError> {
        let services = state.services.iter().filter(|service| service.health.is_some()).count();
        if services == 0 {
            return Ok(None);
        }
        let read = stats::Beat::read(region);
        let last = usable(region, read)?;
        let age = last.map(|last| (sources.monotonic)().saturating_sub(last.at));
        Ok(Some(Self {
            services,
            pid: last.map(|last| last.pid),
            age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            running: age.is_some_and(|age| age < SILENT),
            not_made: last.map(|last| last.not_made),
        }))
    }

    /// Describes it in a few words.
    #[must_use]
    pub fn value(&self) -> String {
        match (self.pid, self.age_ms) {
            (Some(pid), Some(_)) if self.running => match self.not_made {
                None | Some(0) => format!("checks run (process {pid})"),
                Some(n) => {
                    format!("checks run (process {pid}), but {n} CANNOT BE MADE; `lbagent --once` says why")
                }
            },
            (Some(_), Some(age)) => format!("NO CHECKS RUN; what they found is {} old", duration(age / 1000)),
            _ => "no check has run yet".to_owned(),
        }
    }
}
