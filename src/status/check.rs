//! `check`: whether the region is followed and in force, and what on this host ([`crate::host`]) keeps packets
//! from backends. It needs no privileges, and changes nothing.

use serde::Serialize;

use super::{
    Sources,
    lbd::{DaemonView, Lbd, Offload, once_command},
};
use crate::{
    host::{self, Finding, Severity},
    model::ids::Generation,
    state::State,
    sys::region::{AccessError, Region, RegionName},
};

/// The worst of some findings; notes are well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Neither warnings nor errors.
    Ok,
    /// Warnings, and no errors.
    Warning,
    /// Errors.
    Error,
}

/// What is not as it should be.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The worst of it.
    pub status: Health,
    /// All of it, the worst first.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Looks at a region and at this host. A region that cannot be read is a finding.
    #[must_use]
    pub fn of(name: &RegionName, sources: &Sources) -> Self {
        let mut findings = Vec::new();
        match Seen::read(name, sources) {
            Ok(seen) => {
                findings.extend(seen.findings());
                findings.extend(host::judge(&seen.state, &(sources.look)(&seen.state)));
            }
            Err(error) => {
                let (name, advice) = (format!("region \"{name}\""), error.to_string());
                let wanted = "a region that lbd follows";
                findings.push(Finding::new(Severity::Error, &name, "unusable", wanted, advice));
            }
        }
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        let status = match findings.first().map(|finding| finding.severity) {
            Some(Severity::Error) => Health::Error,
            Some(Severity::Warning) => Health::Warning,
            Some(Severity::Note) | None => Health::Ok,
        };
        Self { status, findings }
    }
}

/// What findings about a region and its lbd are made of.
struct Seen {
    name: RegionName,
    live: Generation,
    state: State,
    lbd: Lbd,
    offload: Offload,
}

impl Seen {
    fn read(name: &RegionName, sources: &Sources) -> Result<Self, AccessError> {
        let mut region = Region::open(name)?;
        let (live, state) = region.state()?;
        let lbd = Lbd::read(&mut region, sources)?;
        let offload = Offload::of(&mut region, &state.balancer)?;
        Ok(Self { name: name.clone(), live, state, lbd, offload })
    }

    /// Returns the findings about the region and its lbd.
    fn findings(&self) -> Vec<Finding> {
        let Self { name, live, state, lbd, offload } = self;
        let &Lbd { followed, last: DaemonView { adopted, in_kernel, .. }, ruleset_gone: gone, .. } = lbd;
        let once = once_command(name);
        let mut findings = Vec::new();
        let mut found = |severity, what: &str, value: &str, wanted: &str, advice: String| {
            findings.push(Finding::new(severity, what, value, wanted, advice));
        };
        if state.balancer.interfaces.is_empty() {
            let advice = "nothing is steered: give the region a configuration (lbctl apply FILE)".to_owned();
            found(Severity::Error, "interfaces", "empty", "where packets to VIPs come in", advice);
        }
        if !followed && adopted == 0 {
            let advice =
                format!("the kernel steers nothing yet: start lbd, or put it in force without one: {once}");
            found(Severity::Error, "lbd", "not running", "following this region", advice);
        } else if !followed && !gone {
            let advice =
                "the kernel goes on by itself; what others change in ruleset and routes is not mended: start lbd"
                    .to_owned();
            found(Severity::Warning, "lbd", "not running", "following this region", advice);
        }
        if gone {
            let advice = if followed {
                "nothing is steered; lbd puts it back at once, or its log says why not".to_owned()
            } else {
                format!("nothing is steered: start lbd, or put it in force without one: {once}")
            };
            found(Severity::Error, "the ruleset", "missing", "table inet synrail", advice);
        }
        for service in state.services.iter().filter(|service| service.active().next().is_none()) {
            let advice =
                format!("its new flows are dropped: lbctl activate --service {} BACKEND", service.name);
            found(
                Severity::Warning,
                &format!("service {}", service.name),
                "without an active backend",
                "with one",
                advice,
            );
        }
        if let Some(hangs) = &lbd.hangs {
            let advice =
                "the kernel's tables decide about new flows meanwhile; what others change is not mended: \
                          look at its log, then restart it"
                    .to_owned();
            found(Severity::Error, "lbd", &hangs.value(), "answering", advice);
        }
        if *offload == Offload::NotInKernel {
            let advice = "long flows go by the ruleset as others do".to_owned();
            found(Severity::Note, "offload", "not in this kernel", "a flowtable", advice);
        }
        if in_kernel < adopted {
            let advice =
                "it follows; should lbd end by force now, new flows go by the tables before".to_owned();
            let value = format!("of generation {in_kernel}, and {adopted} is in force");
            found(Severity::Note, "what the kernel has of the tables", &value, "the same", advice);
        }
        if adopted != 0 && adopted < live.0 {
            let advice = if followed {
                "lbd has not taken it over yet, and goes on with the last good state: its log says why"
                    .to_owned()
            } else {
                format!("start lbd, or put it in force without one: {once}")
            };
            let value = format!("generation {live}, and {adopted} is in force");
            found(Severity::Warning, "the region's state", &value, "in force", advice);
        }
        findings
    }
}
