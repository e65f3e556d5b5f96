//! lbagent, which lbd lets its helper start: it runs as long as a service has health checks, HTTP is served, or a
//! program is notified, and is started again when it ends, later each time. What it finds stays in force meanwhile.

use std::{path::PathBuf, process::ExitStatus, time::Duration};

use tracing::{info, warn};

use crate::{
    state::State,
    sys::{control_socket, helper, region::RegionName},
};

/// The pause before the first new start, and the longest one.
const PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
/// One that ran so long was well.
const WELL: Duration = Duration::from_secs(60);

/// Starts lbagent, and knows when to start it again. Times are since one fixed moment.
pub(super) struct Agent {
    /// `None` if another program starts it.
    program: Option<PathBuf>,
    region: RegionName,
    wanted: bool,
    checks: bool,
    takes_orders: bool,
    child: Option<helper::Agent>,
    started: Duration,
    pause: Duration,
}

impl Agent {
    pub(super) fn new(program: Option<PathBuf>, region: RegionName) -> Self {
        Self {
            program,
            region,
            wanted: false,
            checks: false,
            takes_orders: false,
            child: None,
            started: Duration::ZERO,
            pause: Duration::ZERO,
        }
    }

    /// Takes note of what a state asks of it.
    pub(super) fn adopt(&mut self, state: &State) {
        let http = &state.balancer.http;
        self.checks = state.services.iter().any(|service| service.health.is_some());
        self.wanted = self.checks || http.serves() || !state.balancer.notify.is_empty();
        self.takes_orders = http.unix;
    }

    /// Reports whether operators may give their orders to it.
    pub(super) fn takes_orders(&self) -> bool {
        self.takes_orders
    }

    /// Reports whether a service has health checks.
    pub(super) fn checks(&self) -> bool {
        self.checks
    }

    /// Ends it, and removes the socket that it can no longer remove itself.
    fn end(&mut self) {
        if self.child.take().is_some() {
            control_socket::remove_http(&self.region);
        }
    }

    /// Starts or ends it, if that is due.
    pub(super) fn keep(&mut self, now: Duration) {
        let Some(program) = self.program.clone() else { return };
        if let Some(child) = &self.child {
            match child.ended() {
                None if self.wanted => return,
                None => {
                    self.end();
                    info!(
                        "lbagent ends: no service has health checks, no HTTP is served, and no program is notified"
                    );
                    return;
                }
                Some(how) => {
                    self.end();
                    // One that ends by itself, to be started with other rights, is as well as one that ran long.
                    let by_itself = how.as_ref().is_ok_and(ExitStatus::success);
                    let well = by_itself || now.saturating_sub(self.started) >= WELL;
                    let next = if well { Duration::ZERO } else { self.pause * 2 };
                    self.pause = next.clamp(*PAUSE.start(), *PAUSE.end());
                    let how = how.map_or_else(|error| error.to_string(), |status| status.to_string());
                    warn!(
                        how,
                        again_in_s = self.pause.as_secs(),
                        "lbagent has ended; what its checks found last stays in force"
                    );
                    self.started = now;
                }
            }
        }
        if !self.wanted || now < self.started + self.pause {
            return;
        }
        self.started = now;
        match helper::Agent::start(&self.region) {
            Ok(child) => {
                info!(program = %program.display(), pid = child.pid(), "lbagent runs");
                self.child = Some(child);
            }
            Err(error) => {
                self.pause = (self.pause * 2).clamp(*PAUSE.start(), *PAUSE.end());
                warn!(program = %program.display(), %error, "lbagent cannot be started: no health checks run, and no HTTP is served");
            }
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}
