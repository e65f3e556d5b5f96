//! `flows --off-table`: lists the flows that stay on their backend although their service's table now names
//! another one.

use super::{Env, Status, error::CtlError, text::Table};
use crate::{
    status::{
        flows::{FlowView, Flows},
        words::duration,
    },
    sys::region::{Region, RegionName},
};

/// `lbctl flows --off-table`.
pub(super) fn off_table(env: &mut Env<'_>, name: &RegionName, json: bool) -> Result<Status, CtlError> {
    let flows = Flows::read(&mut Region::open(name)?, &env.sources)?;
    if flows.elsewhere > 0 {
        env.warn(&format!(
            "lbd has found {} off-table flows, and there are none here: if lbd runs in another network \
             namespace, run this there (ip netns exec NAME lbctl ...)",
            flows.elsewhere
        ))?;
    }
    if json {
        return env.json(&flows);
    }
    let mut table = Table::new(&["PROTOCOL", "CLIENT", "VIP", "BACKEND", ">LEFT", ""]);
    for flow in &flows.flows {
        table.row(row(flow));
    }
    env.text(&table.render(""))
}

fn row(flow: &FlowView) -> [String; 6] {
    let end = |address: &str, port| {
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    };
    let closing = if flow.closing { "closing" } else { "" };
    [
        flow.protocol.clone(),
        end(&flow.source, flow.source_port),
        end(&flow.destination, flow.destination_port),
        flow.backend.clone().unwrap_or_else(|| format!("mark {:#x}", flow.mark)),
        duration(flow.left_seconds.into()),
        closing.to_owned(),
    ]
}
