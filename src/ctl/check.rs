//! `check`: prints what is not as it should be, with the exit status that monitoring expects: 0 nothing, 1
//! warnings, 2 errors.

use super::{Env, Status, error::CtlError};
use crate::{
    status::check::{Health, Report},
    sys::region::RegionName,
};

/// `lbctl check`.
pub(super) fn check(env: &mut Env<'_>, name: &RegionName, json: bool) -> Result<Status, CtlError> {
    let report = Report::of(name, &env.sources);
    let status = match report.status {
        Health::Ok => Status::Done,
        Health::Warning => Status::Warnings,
        Health::Error => Status::Errors,
    };
    if json {
        env.json(&report)?;
        return Ok(status);
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
