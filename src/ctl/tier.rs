//! `tier`: shows the balancers that share the work of fragments.

use super::{
    Env, Status, daemon,
    error::CtlError,
    show::overrides,
    text::{Table, bar, count, percent},
};
use crate::{
    status::{lbd::Lbd, view::TierView, words::natural},
    sys::region::{Region, RegionName},
};

/// `lbctl tier`.
pub(super) fn tier(env: &mut Env<'_>, name: &RegionName, json: bool) -> Result<Status, CtlError> {
    let mut region = Region::open_to_read(name)?;
    let (generation, state) = region.state()?;
    let mut view = TierView::new(&state);
    if json {
        return env.json(&view);
    }
    let lbd = daemon::line(env, name, generation.0, &Lbd::read(&mut region, &env.sources)?);
    let (all, active) = (view.members.len(), view.members.iter().filter(|member| member.active).count());
    if all == 0 {
        env.print(format_args!(
            "no tier: this balancer handles every fragment that it gets; [tier] makes one"
        ))?;
        env.print(format_args!("lbd    {lbd}"))?;
        return Ok(Status::Done);
    }
    env.print(format_args!(
        "tier of {}, {active} active; this is {}; M {}",
        count(all, "balancer"),
        view.balancer,
        view.table_size
    ))?;
    env.print(format_args!("lbd    {lbd}"))?;
    let table = match &view.table_digest {
        Some(digest) => format!(
            "table  digest {digest}, hash seed {}: both must be equal on all balancers of the tier",
            view.hash_seed
        ),
        None => "none is active: every balancer handles the fragments that it gets".to_owned(),
    };
    env.print(format_args!("{table}"))?;
    view.members.sort_by_cached_key(|member| natural(&member.name));
    let largest = view.members.iter().map(|member| member.entries).max().unwrap_or(0);
    let mut table = Table::new(&["BALANCER", "ADDRESS", "PATH", "DEVICE", ">MARK", "ACTIVE", ">SHARE", ""]);
    for member in &view.members {
        let addresses: Vec<String> = member.address.iter().map(ToString::to_string).collect();
        let (path, device, mark) = match &member.target {
            Some(target) => {
                (target.path(), target.device.clone().unwrap_or_default(), format!("{:#x}", target.mark))
            }
            None => ("this balancer".to_owned(), String::new(), String::new()),
        };
        let active = if member.active { "yes" } else { "no" }.to_owned();
        let share = percent(member.entries, view.table_size.into());
        let bar = bar(member.entries, largest);
        table.row([member.name.clone(), addresses.join(" "), path, device, mark, active, share, bar]);
    }
    env.print(format_args!(""))?;
    env.text(&table.render("  "))?;
    overrides(env, view.members.iter().map(|member| (member.name.as_str(), &member.admission)))?;
    Ok(Status::Done)
}
