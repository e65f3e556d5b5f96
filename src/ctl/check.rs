//! `check`: prints what is not as it should be, with the exit status that monitoring expects: 0 nothing, 1
//! warnings, 2 errors. `--repair` mends what of that lbd would mend.
//!
//! Two programs must not repair the kernel at once. So where an lbd runs, `--repair` waits until that one has done
//! it; where none does, it takes the lock of lbd's instances, which keeps an lbd from starting for as long.

use std::time::Duration;

use serde::Serialize;

use super::{Env, Status, args::CheckArguments, error::CtlError};
use crate::{
    daemon::DaemonError,
    host::{Finding, Severity},
    ops,
    status::check::{Health, Look, Report, with_asked},
    sys::region::{Region, RegionName},
};

/// How long a difference must last where an lbd runs, which mends most of them at once.
const LASTS: Duration = Duration::from_secs(1);
/// How long `--repair` waits for lbd, which compares the kernel every ten seconds.
const LBD_REPAIRS_IN: Duration = Duration::from_secs(15);

/// What `check --repair --json` prints.
#[derive(Serialize)]
struct Repaired<'a> {
    #[serde(flatten)]
    report: &'a Report,
    /// What was mended.
    mended: &'a [Finding],
}

/// `lbctl check`.
pub(super) fn check(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &CheckArguments,
) -> Result<Status, CtlError> {
    let mut report = look(env, name, LASTS);
    let mut mended = Vec::new();
    if args.repair {
        let before = std::mem::take(&mut report.findings);
        let failed = repair(env, name, &report);
        let patience = if report.repair.kernel.is_empty() { LASTS } else { LBD_REPAIRS_IN };
        let repairable = report.repair;
        report = look(env, name, patience);
        report.add(failed);
        let repairable = repairable.kernel.iter().chain(&repairable.overrides);
        mended.extend(repairable.filter(|one| !report.findings.contains(one)).cloned());
        // A finding that went by itself meanwhile was not mended here.
        mended.retain(|one| before.contains(one));
    }
    let status = match report.status {
        Health::Ok => Status::Done,
        Health::Warning => Status::Warnings,
        Health::Error => Status::Errors,
    };
    if json {
        if args.repair {
            env.json(&Repaired { report: &report, mended: &mended })?;
        } else {
            env.json(&report)?;
        }
        return Ok(status);
    }
    for Finding { name, value, wanted, .. } in &mended {
        env.print(format_args!("mended: {name} was {value}, wanted {wanted}"))?;
    }
    for finding in &report.findings {
        env.print(format_args!("{}: {finding}", finding.severity))?;
    }
    if status == Status::Done {
        env.print(format_args!(
            "ok: region \"{name}\" is followed, and nothing keeps packets from backends"
        ))?;
    }
    Ok(status)
}

fn look(env: &Env<'_>, name: &RegionName, patience: Duration) -> Report {
    let host = env.host(name);
    Report::of(name, &env.sources, Look { overrides: &host.overrides, patience })
}

/// Repairs what the report has found. Returns what could not be repaired.
fn repair(env: &mut Env<'_>, name: &RegionName, report: &Report) -> Vec<Finding> {
    let mut failed = Vec::new();
    let not_done = |what: &str, error: String| Finding::new(Severity::Error, what, "not done", "done", error);
    if report.repair.overrides.as_ref().is_some_and(|finding| finding.severity != Severity::Note) {
        let overrides = env.host(name).overrides;
        let saved =
            Region::open(name).and_then(|mut region| ops::save(&overrides, env.unix_seconds, &mut region));
        let error = match saved {
            Ok(saved) => saved.err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        failed.extend(error.map(|error| not_done("the repair of overrides", error)));
    }
    if report.repair.kernel.is_empty() {
        return failed;
    }
    if report.repair.by_lbd {
        env.progress(format_args!(
            "lbd runs, and mends this itself: waiting for it, {} s at most",
            LBD_REPAIRS_IN.as_secs()
        ));
        return failed;
    }
    let mend = env.mend;
    let mended = Region::open(name).and_then(|mut region| with_asked(&mut region, Duration::ZERO, mend));
    let left: Vec<DaemonError> = match mended {
        Ok(None) => Vec::new(),
        Ok(Some(Ok(left))) => left,
        Ok(Some(Err(error))) => vec![error],
        Err(error) => vec![error.into()],
    };
    failed.extend(left.iter().map(|error| not_done("the repair of the kernel's side", error.to_string())));
    failed
}
