//! `check`: reports what is not as it should be, with the exit status that monitoring expects: 0 nothing, 1
//! warnings, 2 errors.
//!
//! It checks the region, whether an lbd follows it, and this host ([`crate::host`]). It needs no privileges,
//! and changes nothing.

use serde::Serialize;

use super::{
    Env, Status,
    daemon::{self, Offload},
    error::CtlError,
};
use crate::{
    host::{self, Finding, Severity},
    state::State,
    sys::region::{Region, RegionName},
};

/// What `check --json` prints.
#[derive(Serialize)]
struct Report<'a> {
    /// "ok", or the worst severity; notes are ok.
    status: &'static str,
    findings: &'a [Finding],
}

/// `lbctl check`.
pub(super) fn check(env: &mut Env<'_>, name: &RegionName, json: bool) -> Result<Status, CtlError> {
    let mut findings = Vec::new();
    match region(env, name) {
        Ok((state, about)) => {
            findings.extend(about);
            findings.extend(host::judge(&state, &(env.look)(&state)));
        }
        Err(error) => {
            let advice = error.to_string();
            let name = format!("region \"{name}\"");
            findings.push(Finding::new(
                Severity::Error,
                &name,
                "unusable",
                "a region that lbd follows",
                advice,
            ));
        }
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let (status, worst) = match findings.first().map(|finding| finding.severity) {
        Some(Severity::Error) => (Status::Errors, "error"),
        Some(Severity::Warning) => (Status::Warnings, "warning"),
        Some(Severity::Note) | None => (Status::Done, "ok"),
    };
    if json {
        env.json(&Report { status: worst, findings: &findings })?;
        return Ok(status);
    }
    for finding in &findings {
        env.print(format_args!("{}: {finding}", finding.severity))?;
    }
    if status == Status::Done {
        env.print(format_args!(
            "ok: region \"{name}\" is followed, and nothing keeps packets from backends"
        ))?;
    }
    Ok(status)
}

/// Returns the region's state, and the findings about the region and the lbd that follows it.
fn region(env: &Env<'_>, name: &RegionName) -> Result<(State, Vec<Finding>), CtlError> {
    let mut region = Region::open(name)?;
    let (live, state) = region.state()?;
    let mut findings = Vec::new();
    let mut found = |severity, what: &str, value: &str, wanted: &str, advice: String| {
        findings.push(Finding::new(severity, what, value, wanted, advice));
    };
    if state.balancer.interfaces.is_empty() {
        let advice = "nothing is steered: give the region a configuration (lbctl apply FILE)".to_owned();
        found(Severity::Error, "interfaces", "empty", "where packets to VIPs come in", advice);
    }
    let followed = region.is_followed()?;
    let daemon::DaemonView { adopted, in_kernel, .. } = daemon::last(&mut region)?;
    let gone = adopted != 0 && daemon::has_ruleset(env) == Some(false);
    let once = daemon::once_command(name);
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
        let advice = format!("its new flows are dropped: lbctl activate --service {} BACKEND", service.name);
        found(
            Severity::Warning,
            &format!("service {}", service.name),
            "without an active backend",
            "with one",
            advice,
        );
    }
    if let Some(hangs) = daemon::hangs(env, &mut region)? {
        let advice =
            "the kernel's tables decide about new flows meanwhile; what others change is not mended: \
                      look at its log, then restart it"
                .to_owned();
        found(Severity::Error, "lbd", &hangs.value(), "answering", advice);
    }
    if Offload::of(&mut region, &state.balancer)? == Offload::NotInKernel {
        let advice = "long flows go by the ruleset as others do".to_owned();
        found(Severity::Note, "offload", "not in this kernel", "a flowtable", advice);
    }
    if in_kernel < adopted {
        let advice = "it follows; should lbd end by force now, new flows go by the tables before".to_owned();
        let value = format!("of generation {in_kernel}, and {adopted} is in force");
        found(Severity::Note, "what the kernel has of the tables", &value, "the same", advice);
    }
    if adopted != 0 && adopted < live.0 {
        let advice = if followed {
            "lbd has not taken it over yet, and goes on with the last good state: its log says why".to_owned()
        } else {
            format!("start lbd, or put it in force without one: {once}")
        };
        let value = format!("generation {live}, and {adopted} is in force");
        found(Severity::Warning, "the region's state", &value, "in force", advice);
    }
    Ok((state, findings))
}
