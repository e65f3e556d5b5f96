//! `show`, `services`, `backends`: the state, read and printed.

use std::collections::HashMap;

use serde::Serialize;

use super::{
    Env, Status,
    daemon::{self, DaemonView, Hangs, NEARLY_FULL, Offload, PinsView},
    error::CtlError,
    text::{Table, bar, count, natural, percent},
    view::{
        BackendView, BalancerView, ServiceView, TargetView, TierView, backends, mask_text, names_by_target,
        table_digest,
    },
};
use crate::{
    config::Balancer,
    host::Tally,
    model::{Decider, ids::Generation},
    ops::OpsError,
    plan::kernel_tables::Shortage,
    shm::slots::LAYOUT_VERSION,
    state::{State, StateError, TierMember},
    sys::region::{Region, RegionName},
};

/// What `show --json` prints.
#[derive(Serialize)]
struct Everything<'a> {
    region: RegionView,
    /// The lbd that follows the region, or null.
    lbd: Option<DaemonView>,
    /// What it has found of flows.
    flows: PinsView,
    /// That it does not answer, or null.
    hangs: Option<Hangs>,
    balancer: BalancerView,
    /// Whether long flows are promoted.
    offload: Offload,
    tier: TierView,
    services: Vec<WholeService<'a>>,
    targets: Vec<NamedTarget>,
}

#[derive(Serialize)]
struct RegionView {
    name: String,
    path: String,
    generation: u64,
    /// The one that an lbd has put in force last; when it does not run, of those that the kernel has by itself. 0: none yet.
    in_force: u64,
    layout_version: u32,
}

#[derive(Serialize)]
struct WholeService<'a> {
    #[serde(flatten)]
    service: ServiceView,
    backends: Vec<BackendView>,
    table_digest: String,
    table: &'a [u16],
}

#[derive(Serialize)]
struct NamedTarget {
    #[serde(flatten)]
    target: TargetView,
    /// Everything that it stands for, as service/backend or tier/balancer.
    names: Vec<String>,
}

/// `lbctl show`.
pub(super) fn show(env: &mut Env<'_>, name: &RegionName, json: bool) -> Result<Status, CtlError> {
    let mut region = Region::open(name)?;
    let (generation, state) = region.state()?;
    if json {
        show_json(env, &mut region, generation, &state)
    } else {
        show_text(env, &mut region, generation, &state)
    }
}

fn show_json(
    env: &mut Env<'_>,
    region: &mut Region,
    generation: Generation,
    state: &State,
) -> Result<Status, CtlError> {
    let whole = |(service, view)| WholeService {
        service: view,
        backends: backends(state, service),
        table_digest: table_digest(service),
        table: &service.table,
    };
    let named = |(target, names)| NamedTarget { target: TargetView::new(state, target), names };
    let last = daemon::last(region)?;
    let lbd = region.is_followed()?.then_some(last);
    env.json(&Everything {
        region: RegionView {
            name: region.name().to_string(),
            path: region.name().path().display().to_string(),
            generation: generation.0,
            in_force: last.adopted,
            layout_version: LAYOUT_VERSION,
        },
        lbd,
        flows: PinsView::read(region)?,
        hangs: daemon::hangs(env, region)?,
        balancer: BalancerView::new(&state.balancer),
        offload: Offload::of(region, &state.balancer)?,
        tier: TierView::new(state),
        services: state.services.iter().zip(ServiceView::all(state)).map(whole).collect(),
        targets: names_by_target(state).into_iter().map(named).collect(),
    })
}

fn show_text(
    env: &mut Env<'_>,
    region: &mut Region,
    generation: Generation,
    state: &State,
) -> Result<Status, CtlError> {
    let balancer = &state.balancer;
    let lbd = daemon::line(env, region, generation)?;
    env.print(format_args!("region    {}, generation {generation}", region.name()))?;
    env.print(format_args!("lbd       {lbd}"))?;
    if let Some(DaemonView { host: Tally { errors, warnings }, .. }) = DaemonView::of(region)?
        && errors + warnings > 0
    {
        env.print(format_args!("host      errors {errors}, warnings {warnings}: `lbctl check` tells them"))?;
    }
    let pins = PinsView::read(region)?;
    env.print(format_args!("flows     {}", pins.line()))?;
    if pins.nearly_full {
        env.print(format_args!("conntrack {NEARLY_FULL}"))?;
    }
    let interfaces: Vec<&str> = balancer.interfaces.iter().map(|interface| interface.as_str()).collect();
    let interfaces =
        if interfaces.is_empty() { String::new() } else { format!(", from {}", interfaces.join(" ")) };
    let polled = match balancer.busy_poll_us {
        0 => String::new(),
        us => format!(" (polled for {us} us)"),
    };
    env.print(format_args!(
        "balancer  {}{interfaces}, queues {}{polled}, hash seed {}, mark mask {}",
        balancer.name,
        balancer.queues,
        balancer.hash_seed,
        mask_text(balancer.mark_mask),
    ))?;
    let limits = balancer.fragments;
    env.print(format_args!(
        "fragments queue {}, {} ms, {} entries ({} a source), held {} packets and {} bytes ({} a source)",
        balancer.fragment_queue.0,
        limits.ttl_ms,
        limits.entries,
        limits.entries_per_source,
        limits.held_packets,
        limits.held_bytes,
        limits.held_bytes_per_source,
    ))?;
    let gre_in = if balancer.gre_in { ", GRE in" } else { "" };
    env.print(format_args!("steering  {}{gre_in}", balancer.steering.name()))?;
    env.print(format_args!("offload   {}", Offload::of(region, balancer)?.text()))?;
    let views = ServiceView::all(state);
    env.print(format_args!("kernel    {}", copies(balancer, &views)))?;
    let tracer = &balancer.tracer;
    let receivers: Vec<String> = tracer.receivers.iter().map(ToString::to_string).collect();
    let receivers = if receivers.is_empty() { "nobody".to_owned() } else { receivers.join(" ") };
    env.print(format_args!("tracer    reports to {receivers}, {} probes a second", tracer.per_second))?;
    if !state.tier.is_empty() {
        let member = |member: &TierMember| {
            let here = if member.target.is_none() { " (this one)" } else { "" };
            format!("{}{here}{}", member.name, if member.active() { "" } else { " (not active)" })
        };
        let members: Vec<String> = state.tier.iter().map(member).collect();
        env.print(format_args!("tier      {}", members.join(", ")))?;
    }
    for (service, view) in state.services.iter().zip(views) {
        let (active, all) = (view.active.len(), view.active.len() + view.inactive.len());
        env.print(format_args!(
            "\nservice {}: {active} of {} active, hash {}, M {}",
            view.name,
            count(all, "backend"),
            view.hash,
            view.table_size,
        ))?;
        env.print(format_args!("  vips       {}", view.vips.join(" ")))?;
        env.print(format_args!("  protocols  {}", view.protocols()))?;
        env.print(format_args!("  ports      {}", view.ports()))?;
        env.print(format_args!("  pmtu       {}", view.pmtu))?;
        env.print(format_args!("  steering   {}\n", view.decided()))?;
        let rows = backends(state, service);
        env.text(&backend_table(rows, false))?;
    }
    Ok(Status::Done)
}

/// Of which services the kernel has copies of the tables.
fn copies(balancer: &Balancer, views: &[ServiceView]) -> String {
    let of: Vec<&ServiceView> = views.iter().filter(|view| view.kernel_copy).collect();
    let (entries, max) = (of.iter().map(|view| view.table_size).sum::<u32>(), balancer.kernel_entries);
    let of_most = format!("{entries} of at most {max} entries");
    let decides = match of.iter().filter(|view| view.decider == Decider::Kernel).count() {
        0 => "decides where lbd does not".to_owned(),
        services => format!("decides for {}, and where lbd does not", count(services, "service")),
    };
    let without: Vec<String> = [Shortage::Entries, Shortage::Copies]
        .into_iter()
        .filter_map(|why| {
            let without = views.iter().filter(|view| view.shortage == Some(why));
            let names: Vec<&str> = without.map(|view| view.name.as_str()).collect();
            (!names.is_empty()).then(|| format!("{} ({why})", names.join(" ")))
        })
        .collect();
    if without.is_empty() {
        return format!("{decides}; {of_most}");
    }
    format!("{decides}, but NOT for {}; {of_most}", without.join(", nor for "))
}

/// `lbctl services`.
pub(super) fn services(env: &mut Env<'_>, name: &RegionName, json: bool) -> Result<Status, CtlError> {
    let (_, state) = Region::open(name)?.state()?;
    let views = ServiceView::all(&state);
    if json {
        return env.json(&views);
    }
    let mut table = Table::new(&["SERVICE", "ACTIVE", "HASH", ">M", "PROTOCOLS", "PORTS", "VIPS"]);
    for view in views {
        let active = format!("{} of {}", view.active.len(), view.active.len() + view.inactive.len());
        let (m, protocols, ports) = (view.table_size.to_string(), view.protocols(), view.ports());
        table.row([view.name, active, view.hash.to_owned(), m, protocols, ports, view.vips.join(" ")]);
    }
    env.text(&table.render(""))
}

/// `lbctl backends`.
pub(super) fn list_backends(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    service: Option<&str>,
) -> Result<Status, CtlError> {
    let (_, state) = Region::open(name)?.state()?;
    if let Some(wanted) = service
        && state.service(wanted).is_none()
    {
        let known: Vec<&str> = state.services.iter().map(|service| service.name.as_str()).collect();
        let unknown = StateError::NoService { name: wanted.to_owned(), known: known.join(", ") };
        return Err(OpsError::from(unknown).into());
    }
    let meant =
        state.services.iter().filter(|candidate| service.is_none_or(|name| candidate.name.as_str() == name));
    let views: Vec<BackendView> = meant.flat_map(|service| backends(&state, service)).collect();
    if json { env.json(&views) } else { env.text(&backend_table(views, true)) }
}

/// Backends as a table; in each service the fullest bar is that of the largest share.
fn backend_table(mut views: Vec<BackendView>, with_service: bool) -> String {
    if !with_service {
        views.sort_by_cached_key(|view| natural(&view.name));
    }
    let columns = ["SERVICE", "BACKEND", "PATH", ">MARK", ">WEIGHT", "ACTIVE", ">SHARE", ""];
    let (columns, indent) = if with_service { (&columns[..], "") } else { (&columns[1..], "  ") };
    let mut table = Table::new(columns);
    let mut largest: HashMap<String, u64> = HashMap::new();
    for view in &views {
        let largest = largest.entry(view.service.clone()).or_default();
        *largest = view.entries.max(*largest);
    }
    for view in views {
        let bar = bar(view.entries, largest[&view.service]);
        let active = if view.active { "yes" } else { "no" }.to_owned();
        let share = percent(view.entries, view.table_size.into());
        let (mark, weight) = (format!("{:#x}", view.target.mark), view.weight.to_string());
        let path = view.target.path();
        let service = with_service.then_some(view.service);
        let rest = [view.name, path, mark, weight, active, share, bar];
        table.row(service.into_iter().chain(rest));
    }
    table.render(indent)
}
