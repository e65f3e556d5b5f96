//! `clean`: removes a region, unless it is still in use.

use super::{Env, Status, args::CleanArguments, error::CtlError};
use crate::{ops, sys::region::RegionName};

/// `lbctl clean`.
pub(super) fn clean(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &CleanArguments,
) -> Result<Status, CtlError> {
    let not_removed = ops::clean(&env.host(name), name, args.force, args.keep_overrides)?;
    if json {
        env.json(&serde_json::json!({ "removed": name.to_string() }))?;
    } else {
        env.print(format_args!("region {name} removed"))?;
    }
    let Some(error) = not_removed else { return Ok(Status::Done) };
    env.warn(&format!("what lbctl said stays for the region that is made next: {error}"))?;
    Ok(Status::Pending)
}
