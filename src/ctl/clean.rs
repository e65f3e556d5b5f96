//! `clean`: removes a region, unless it is still in use.

use super::{Env, Status, args::CleanArguments, error::CtlError};
use crate::{
    ops::{self, Cleaned},
    sys::region::RegionName,
};

/// `lbctl clean`.
pub(super) fn clean(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &CleanArguments,
) -> Result<Status, CtlError> {
    let host = env.host(name);
    let Cleaned { region, overrides } = ops::clean(&host, name, args.force, args.keep_overrides)?;
    let failed = overrides.as_ref().err().map(ToString::to_string);
    let overrides = overrides.unwrap_or(false);
    if json {
        let removed = region.then(|| name.to_string());
        let left = &failed;
        env.json(&serde_json::json!({ "removed": removed, "overrides_removed": overrides, "overrides_left": left }))?;
    } else {
        if region {
            env.print(format_args!("region {name} removed"))?;
        }
        if overrides {
            env.print(format_args!("overrides removed, {}", host.overrides.path().display()))?;
        }
    }
    let Some(error) = failed else { return Ok(Status::Done) };
    env.warn(&format!("overrides stay for the region that is made next: {error}"))?;
    Ok(Status::Pending)
}
