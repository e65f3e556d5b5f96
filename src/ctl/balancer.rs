//! `balancer`: shows which VIPs this balancer announces.

use super::{
    Env, Status, daemon,
    error::CtlError,
    text::{Table, count},
};
use crate::{
    status::{
        announce::{AnnounceView, VipView},
        lbd::Lbd,
    },
    sys::region::{Region, RegionName},
};

/// `lbctl balancer`.
pub(super) fn balancer(env: &mut Env<'_>, name: &RegionName, json: bool) -> Result<Status, CtlError> {
    let mut region = Region::open_to_read(name)?;
    let (generation, state) = region.state_with_tables(|_| Vec::new())?;
    let lbd = Lbd::read(&mut region, &env.sources)?;
    let view = AnnounceView::new(&state, lbd.followed, &env.sources);
    if json {
        return env.json(&view);
    }
    let lbd = daemon::line(env, name, generation.0, &lbd);
    env.print(format_args!("balancer  {}", view.balancer))?;
    env.print(format_args!("lbd       {lbd}"))?;
    env.print(format_args!("announce  {}", summary(&view)))?;
    if !view.vips.is_empty() {
        let mut table = Table::new(&["VIP", "ANNOUNCED", "WHY"]);
        for VipView { vip, announced, why } in &view.vips {
            let announced = match announced {
                Some(true) => "yes",
                Some(false) => "no",
                None => "?",
            };
            table.row([vip.clone(), announced.to_owned(), why.clone().unwrap_or_default()]);
        }
        env.print(format_args!(""))?;
        env.text(&table.render("  "))?;
    }
    Ok(Status::Done)
}

/// Says how many VIPs are announced, and what an operator said.
pub(super) fn summary(view: &AnnounceView) -> String {
    let order = view.admission.in_force().map_or_else(String::new, |order| format!("; {order}"));
    let Some(table) = view.table else {
        return format!("nothing: [balancer] announce_table is not set{order}");
    };
    let announced = view.vips.iter().filter(|vip| vip.announced == Some(true)).count();
    if view.vips.iter().any(|vip| vip.announced.is_none()) {
        return format!("by table {table}, which cannot be read{order}");
    }
    format!("{announced} of {} by table {table}{order}", count(view.vips.len(), "VIP"))
}
