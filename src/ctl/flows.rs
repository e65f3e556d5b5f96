//! `flows`: lists, or counts, the flows that are pinned; `--off-table` those that stay on their backend although
//! their service's table now names another one.

use super::{Env, Status, args::FlowsArguments, error::CtlError, text::Table};
use crate::{
    status::{
        flows::{Asked, FlowCount, FlowCounts, FlowView, Flows},
        words::duration,
    },
    sys::region::{Region, RegionName},
};

/// How many flows are listed, unless the command line says.
const LIMIT: usize = 1000;

/// `lbctl flows`.
pub(super) fn flows(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &FlowsArguments,
) -> Result<Status, CtlError> {
    let asked =
        Asked { service: args.service.as_deref(), backends: &args.backends, off_table: args.off_table };
    let mut region = Region::open_to_read(name)?;
    if args.count {
        let counts = FlowCounts::read(&mut region, &env.sources, asked)?;
        warn_elsewhere(env, counts.elsewhere)?;
        if json {
            return env.json(&counts);
        }
        let mut table = Table::new(&["SERVICE", "BACKEND", ">FLOWS", ">OFF-TABLE", ">PROMOTED", ">CLOSING"]);
        counts.counts.into_iter().for_each(|count| table.row(count_row(count)));
        return env.text(&table.render(""));
    }
    // The maps are small.
    let limit = args.limit.unwrap_or(if args.off_table { usize::MAX } else { LIMIT });
    let flows = Flows::read(&mut region, &env.sources, asked, limit, env.unix_seconds)?;
    warn_elsewhere(env, flows.elsewhere)?;
    if json {
        env.json(&flows)?;
    } else {
        let columns = [
            "PROTOCOL", "CLIENT", "VIP", "SERVICE", "BACKEND", "STATE", ">AGE", ">PACKETS", ">BYTES", ">LEFT",
        ];
        let mut table = Table::new(&columns);
        flows.flows.iter().for_each(|flow| table.row(row(flow)));
        env.text(&table.render(""))?;
    }
    if flows.left_out > 0 {
        env.warn(&format!(
            "{} more flows are left out, those with fewer packets; --limit N lists more, --count counts all",
            flows.left_out
        ))?;
    }
    Ok(Status::Done)
}

fn warn_elsewhere(env: &mut Env<'_>, elsewhere: u64) -> Result<(), CtlError> {
    if elsewhere > 0 {
        env.warn(&format!(
            "lbd has found {elsewhere} off-table flows, and there are none here: if lbd runs in another network \
             namespace, run this there (ip netns exec NAME lbctl ...)"
        ))?;
    }
    Ok(())
}

fn count_row(count: FlowCount) -> [String; 6] {
    let FlowCount { service, backend, flows, off_table, promoted, closing } = count;
    let name = |name: Option<String>| name.unwrap_or_else(|| "-".to_owned());
    let [flows, off_table, promoted, closing] =
        [flows, off_table, promoted, closing].map(|number| number.to_string());
    [name(service), name(backend), flows, off_table, promoted, closing]
}

fn row(flow: &FlowView) -> [String; 10] {
    let end = |address: &str, port: Option<u16>| match port {
        None => address.to_owned(),
        Some(port) if address.contains(':') => format!("[{address}]:{port}"),
        Some(port) => format!("{address}:{port}"),
    };
    let or_none = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let time = |seconds: Option<u64>| seconds.map_or_else(|| "-".to_owned(), duration);
    let states = [(flow.closing, "closing"), (flow.promoted, "promoted"), (flow.off_table, "off-table")];
    let states: Vec<&str> = states.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
    [
        flow.protocol.clone(),
        end(&flow.source, flow.source_port),
        end(&flow.destination, flow.destination_port),
        flow.service.clone().unwrap_or_else(|| "-".to_owned()),
        flow.backend.clone().unwrap_or_else(|| format!("mark {:#x}", flow.mark)),
        if states.is_empty() { "open".to_owned() } else { states.join(",") },
        time(flow.age_seconds),
        or_none(flow.packets),
        or_none(flow.bytes),
        time(flow.left_seconds.map(u64::from)),
    ]
}
