//! How lbd examines the host. At the start, what lbd cannot work without is an error. Later, what differs from the last look is
//! logged.

use ipnet::IpNet;
use tracing::{error, info, warn};

use super::{DaemonError, kernel::Kernel};
use crate::{
    host::{self, Finding, Reported, Severity, Snapshot, Tally},
    plan::ruleset::Means,
    shm::stats,
    state::State,
    sys::{
        probe::{self, Probe},
        region::Region,
    },
};

/// The host at the start of lbd.
pub(super) struct HostSeen {
    /// Which optional features this kernel has.
    pub(super) means: Means,
    /// The addresses of this host.
    pub(super) own: Vec<IpNet>,
    /// For later looks.
    pub(super) watch: HostWatch,
}

/// Repeated looks at the host.
pub(super) struct HostWatch {
    /// The state in force.
    state: State,
    /// Missing parts of the kernel, as found at the start.
    parts: Vec<Finding>,
    logged: Reported,
}

/// Examines the kernel and the host. Changes nothing.
fn first_look(state: &State) -> Result<(Means, Vec<Finding>, Snapshot), DaemonError> {
    let Probe { means, missing } = probe::probe(&state.balancer)?;
    Ok((means, missing, probe::look(state)))
}

/// Returns everything that is not as it should be on this host, worst first.
///
/// # Errors
/// When the kernel cannot be examined.
pub(super) fn findings(state: &State) -> Result<Vec<Finding>, DaemonError> {
    let (_, mut findings, snapshot) = first_look(state)?;
    findings.extend(host::judge(state, &snapshot));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(findings)
}

/// Takes the first look, and logs what is found.
///
/// # Errors
/// When lbd cannot work on this host, or the kernel cannot be examined.
pub(super) fn look_at_host(state: &State) -> Result<HostSeen, DaemonError> {
    info!("looking at this host and what its kernel has");
    let (means, parts, snapshot) = first_look(state)?;
    let found = host::judge(state, &snapshot);
    let fatal = |finding: &&Finding| finding.stops_start;
    let fatal: Vec<String> = parts.iter().chain(&found).filter(fatal).map(ToString::to_string).collect();
    if !fatal.is_empty() {
        return Err(DaemonError::Host(fatal.join("\n  ")));
    }
    let mut watch = HostWatch::new(state, parts);
    watch.log(found);
    Ok(HostSeen { means, own: own(&snapshot), watch })
}

fn own(snapshot: &Snapshot) -> Vec<IpNet> {
    snapshot.locals.iter().map(|local| local.net).collect()
}

impl HostWatch {
    /// Has logged nothing yet. `parts` are missing parts of the kernel.
    pub(super) fn new(state: &State, parts: Vec<Finding>) -> Self {
        Self { state: state.clone(), parts, logged: Reported::default() }
    }

    /// Returns what the last look has found.
    #[cfg(test)]
    pub(super) fn findings(&self) -> &[Finding] {
        self.logged.findings()
    }

    /// Judges by this state from now on.
    pub(super) fn judge_by(&mut self, state: &State) {
        self.state = state.clone();
    }

    /// Logs what differs from the last look, and cuts the host's addresses out of the ruleset.
    ///
    /// # Errors
    /// When the ruleset cannot be changed.
    pub(super) fn look(&mut self, kernel: &mut Kernel) -> Result<(), DaemonError> {
        let snapshot = probe::look_with(&mut kernel.routing, &self.state);
        self.log(host::judge(&self.state, &snapshot));
        // Every host has addresses. Without any, they could not be read.
        if !snapshot.locals.is_empty() && kernel.set_own(own(&snapshot))? {
            info!("addresses of this host in prefixes of VIPs are others now: those stay the host's own");
        }
        Ok(())
    }

    /// Shows in the region how much the last look has found. The next check notices if the region is gone.
    pub(super) fn show(&self, region: &Region) {
        let _ = stats::write_host(&mut region.mapping(), Tally::of(self.logged.findings()));
    }

    fn log(&mut self, judged: Vec<Finding>) {
        let news = self.logged.look(self.parts.iter().cloned().chain(judged).collect());
        for Finding { severity, name, value, wanted, advice, .. } in &news.new {
            match severity {
                Severity::Note => info!(name, value, wanted, "{advice}"),
                Severity::Warning => warn!(name, value, wanted, "{advice}"),
                Severity::Error => error!(name, value, wanted, "{advice}"),
            }
        }
        for Finding { name, value, .. } in &news.over {
            info!(name, was = value, "this is over");
        }
        if news.left_out > 0 {
            warn!(
                more = news.left_out,
                "more is otherwise on this host than at the last look; `lbctl check` lists what is not right"
            );
        }
    }
}
