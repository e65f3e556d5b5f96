//! lbd's looks at the host: at the start what is needed is an error; later, what differs from the last look is logged.

use ipnet::IpNet;
use tracing::{error, info, warn};

use super::{DaemonError, kernel::Kernel};
use crate::{
    host::{self, Finding, Severity, Snapshot, Tally, Told},
    plan::ruleset::Means,
    shm::stats,
    state::State,
    sys::{
        probe::{self, Probe},
        region::Region,
    },
};

/// What there is of a host when lbd begins.
pub(super) struct HostSeen {
    /// What this kernel has of what may be missing.
    pub(super) means: Means,
    /// Addresses of this host.
    pub(super) own: Vec<IpNet>,
    /// Looks at it from then on.
    pub(super) watch: HostWatch,
}

/// Looks at the host again and again.
pub(super) struct HostWatch {
    /// What lbd does now.
    state: State,
    /// Missing parts of the kernel, which are looked for at the start only.
    parts: Vec<Finding>,
    told: Told,
}

/// The first look, which changes nothing: what this kernel has and what is missing, and the host.
fn first_look(state: &State) -> Result<(Means, Vec<Finding>, Snapshot), DaemonError> {
    let Probe { means, missing } = probe::probe(&state.balancer)?;
    Ok((means, missing, probe::look(state)))
}

/// Everything that is not as it should be on this host, worst first.
///
/// # Errors
/// When it cannot be looked at.
pub(super) fn findings(state: &State) -> Result<Vec<Finding>, DaemonError> {
    let (_, mut findings, snapshot) = first_look(state)?;
    findings.extend(host::judge(state, &snapshot));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(findings)
}

/// The first look; logs what is found.
///
/// # Errors
/// When lbd cannot start on this host, or it cannot be looked at.
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
    watch.tell(found);
    Ok(HostSeen { means, own: own(&snapshot), watch })
}

fn own(snapshot: &Snapshot) -> Vec<IpNet> {
    snapshot.locals.iter().map(|local| local.net).collect()
}

impl HostWatch {
    /// One that has told nothing yet, for what lbd does by this state, with these parts of the kernel missing.
    pub(super) fn new(state: &State, parts: Vec<Finding>) -> Self {
        Self { state: state.clone(), parts, told: Told::default() }
    }

    /// What the last look has found.
    #[cfg(test)]
    pub(super) fn findings(&self) -> &[Finding] {
        self.told.findings()
    }

    /// lbd does this from now on.
    pub(super) fn judge_by(&mut self, state: &State) {
        self.state = state.clone();
    }

    /// Logs what differs from the last look, and lets the ruleset know the host's addresses.
    ///
    /// # Errors
    /// When the ruleset cannot be changed.
    pub(super) fn look(&mut self, kernel: &mut Kernel) -> Result<(), DaemonError> {
        let snapshot = probe::look_with(&mut kernel.routing, &self.state);
        self.tell(host::judge(&self.state, &snapshot));
        // A host has some; else they could not be read.
        if !snapshot.locals.is_empty() && kernel.set_own(own(&snapshot))? {
            info!("addresses of this host in prefixes of VIPs are others now: those stay the host's own");
        }
        Ok(())
    }

    /// Shows in the region how much the last look has found. A region that is gone is noticed elsewhere.
    pub(super) fn show(&self, region: &Region) {
        let _ = stats::write_host(&mut region.mapping(), Tally::of(self.told.findings()));
    }

    fn tell(&mut self, judged: Vec<Finding>) {
        let news = self.told.look(self.parts.iter().cloned().chain(judged).collect());
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
