//! `show`, `services`, `backends`: print what a region contains.

use std::collections::HashMap;

use super::{
    Env, Status,
    balancer::summary,
    daemon::{self, NEARLY_FULL},
    error::CtlError,
    text::{Table, bar, count, percent},
};
use crate::{
    config::Balancer,
    model::{Admission, Decider, Health, Percent},
    ops::OpsError,
    plan::kernel_tables::Shortage,
    state::StateError,
    status::{
        StatusError, flows,
        show::{Show, WholeService},
        view::{BackendView, MemberView, ServiceView, backends},
        words::natural,
    },
    sys::region::{Region, RegionName},
};

/// `lbctl show`.
pub(super) fn show(env: &mut Env<'_>, name: &RegionName, json: bool) -> Result<Status, CtlError> {
    let show = Show::read(&mut Region::open_to_read(name)?, &env.sources)?;
    if json {
        return env.json(&show);
    }
    let lbd = daemon::line(env, name, show.region.generation, &show.lbd);
    env.print(format_args!("region    {name}, generation {}", show.region.generation))?;
    env.print(format_args!("lbd       {lbd}"))?;
    if let Some(lbd) = show.lbd.running().filter(|lbd| lbd.host.errors + lbd.host.warnings > 0) {
        let (errors, warnings) = (lbd.host.errors, lbd.host.warnings);
        env.print(format_args!("host      errors {errors}, warnings {warnings}: `lbctl check` tells them"))?;
    }
    if let Some(agent) = &show.agent {
        env.print(format_args!("health    {}", agent.value()))?;
    }
    env.print(format_args!("flows     {}", daemon::pins(&show.flows)))?;
    if show.flows.nearly_full {
        env.print(format_args!("conntrack {NEARLY_FULL}"))?;
    }
    settings(env, &show)?;
    if !show.tier.members.is_empty() {
        let member = |member: &MemberView| {
            let here = if member.here { " (this one)" } else { "" };
            format!("{}{here}{}", member.name, if member.active { "" } else { " (not active)" })
        };
        let members: Vec<String> = show.tier.members.iter().map(member).collect();
        env.print(format_args!("tier      {}", members.join(", ")))?;
    }
    if show.announce.table.is_some() || show.announce.admission.in_force().is_some() {
        env.print(format_args!("announce  {}", summary(&show.announce)))?;
    }
    show.services.iter().try_for_each(|service| print_service(env, service))?;
    Ok(Status::Done)
}

fn settings(env: &mut Env<'_>, show: &Show) -> Result<(), CtlError> {
    let Balancer { interfaces, fragments: limits, tracer, .. } = &show.balancer;
    let interfaces =
        if interfaces.is_empty() { String::new() } else { format!(", from {}", named(interfaces, "")) };
    let polled = match show.balancer.busy_poll_us {
        0 => String::new(),
        us => format!(" (polled for {us} us)"),
    };
    env.print(format_args!(
        "balancer  {}{interfaces}, queues {}{polled}, hash seed {}, mark mask {}",
        show.balancer.name, show.balancer.queues, show.balancer.hash_seed, show.balancer.mark_mask,
    ))?;
    env.print(format_args!(
        "fragments queue {}, {} ms, {} entries ({} a source), held {} packets and {} bytes ({} a source)",
        show.balancer.fragment_queue.0,
        limits.ttl_ms,
        limits.entries,
        limits.entries_per_source,
        limits.held_packets,
        limits.held_bytes,
        limits.held_bytes_per_source,
    ))?;
    let gre_in = if show.balancer.gre_in { ", GRE in" } else { "" };
    env.print(format_args!("steering  {}{gre_in}", show.balancer.steering.name()))?;
    env.print(format_args!("offload   {}", daemon::offload(show.offload)))?;
    env.print(format_args!("kernel    {}", fallback_tables(show)))?;
    let receivers: Vec<String> = tracer.receivers.iter().map(ToString::to_string).collect();
    let receivers = if receivers.is_empty() { "no address".to_owned() } else { receivers.join(" ") };
    env.print(format_args!("tracer    reports to {receivers}, {} probes a second", tracer.per_second))?;
    Ok(())
}

fn print_service(env: &mut Env<'_>, whole: &WholeService) -> Result<(), CtlError> {
    let view = &whole.service;
    env.print(format_args!(
        "\nservice {}: {} of {} active, hash {}, M {}",
        view.name,
        view.active.len(),
        count(view.active.len() + view.inactive.len(), "backend"),
        view.hash,
        view.table_size,
    ))?;
    env.print(format_args!("  vips       {}", view.vips.join(" ")))?;
    env.print(format_args!("  protocols  {}", named(&view.protocols, "any")))?;
    env.print(format_args!("  ports      {}", named(&view.ports, "all")))?;
    env.print(format_args!("  pmtu       {}", view.pmtu))?;
    env.print(format_args!("  steering   {}", decided(view)))?;
    env.print(format_args!("  no backend {}", without_backend(view)))?;
    env.print(format_args!("  health     {}\n", checked(view)))?;
    env.text(&backend_table(&whole.backends, false))?;
    let named = || whole.backends.iter().map(|backend| (backend.name.as_str(), backend));
    overrides(env, named().map(|(name, backend)| (name, &backend.admission)))?;
    failures(env, named())?;
    reports(env, named())
}

/// Prints what operators said of backends, or of balancers of the tier.
pub(super) fn overrides<'a>(
    env: &mut Env<'_>,
    of: impl Iterator<Item = (&'a str, &'a Admission)>,
) -> Result<(), CtlError> {
    for (name, order) in of.filter_map(|(name, admission)| Some((name, admission.in_force()?))) {
        env.print(format_args!("  {name}: {order}"))?;
    }
    Ok(())
}

/// Prints which backends are down, and why.
fn failures<'a>(
    env: &mut Env<'_>,
    of: impl Iterator<Item = (&'a str, &'a BackendView)>,
) -> Result<(), CtlError> {
    for (name, observed) in of.filter_map(|(name, backend)| Some((name, backend.observed.as_ref()?))) {
        if observed.health == Health::Down {
            env.print(format_args!("  {name}: {observed}"))?;
        }
    }
    Ok(())
}

/// Prints what agents take from backends, and which do not answer.
fn reports<'a>(
    env: &mut Env<'_>,
    of: impl Iterator<Item = (&'a str, &'a BackendView)>,
) -> Result<(), CtlError> {
    for (name, reported) in of.filter_map(|(name, backend)| Some((name, backend.reported.as_ref()?))) {
        if reported.is_notable() {
            env.print(format_args!("  {name}: agent: {reported}"))?;
        }
    }
    Ok(())
}

/// How a service's backends are checked.
fn checked(view: &ServiceView) -> String {
    let Some(check) = &view.health else { return "not checked".to_owned() };
    let port = check.port.map_or_else(String::new, |port| format!(" port {port}"));
    let panic = if view.panic { "; IN PANIC: too few are up, so all count as up" } else { "" };
    let agent = check.agent.as_ref().map_or_else(String::new, |agent| {
        format!("; agent port {}, every {} ms", agent.port, agent.interval_ms)
    });
    format!(
        "{}{port} by {}, every {} ms, down after {}, up after {}{agent}{panic}",
        check.probe.kind(),
        check.via,
        check.interval_ms,
        check.fall,
        check.rise
    )
}

/// Joins names; if there are none, returns what that means.
fn named<T: AsRef<str>>(names: &[T], none: &str) -> String {
    if names.is_empty() {
        return none.to_owned();
    }
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    names.join(" ")
}

/// Returns what decides about new flows, and why if it is not what the file names.
fn decided(view: &ServiceView) -> String {
    match (view.decider, view.shortage) {
        (Decider::Lbd, _) => "lbd decides".to_owned(),
        (Decider::Kernel, None) => "the kernel decides".to_owned(),
        (Decider::Kernel, Some(why)) => {
            format!("lbd decides, NOT the kernel, which has no table ({why})")
        }
    }
}

/// Returns what happens to new flows while no backend is active, and whether that is so now.
fn without_backend(view: &ServiceView) -> String {
    let now = match (&view.served_by, view.rejected) {
        (Some(by), _) if *by == view.name => String::new(),
        (Some(by), _) => format!(": NOW its new flows go to the backends of service {by}"),
        (None, true) => ": NOW its new flows are rejected".to_owned(),
        (None, false) => ": NOW its new flows are dropped".to_owned(),
    };
    format!("{}{now}", view.no_backend)
}

/// Which services have fallback tables.
fn fallback_tables(show: &Show) -> String {
    let views: Vec<&ServiceView> = show.services.iter().map(|whole| &whole.service).collect();
    let of: Vec<&ServiceView> = views.iter().copied().filter(|view| view.fallback_table).collect();
    let (entries, max) = (of.iter().map(|view| view.table_size).sum::<u32>(), show.balancer.kernel_entries);
    let of_most = format!("{entries} of at most {max} entries");
    let decides = match of.iter().filter(|view| view.decider == Decider::Kernel).count() {
        0 => "decides where lbd does not".to_owned(),
        services => format!("decides for {}, and where lbd does not", count(services, "service")),
    };
    let without: Vec<String> = [Shortage::Entries, Shortage::Tables]
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
    let (_, state) = Region::open_to_read(name)?.state()?;
    let views = ServiceView::all(&state);
    if json {
        return env.json(&views);
    }
    let mut table = Table::new(&["SERVICE", "ACTIVE", "HASH", ">M", "PROTOCOLS", "PORTS", "VIPS"]);
    for view in views {
        let active = format!("{} of {}", view.active.len(), view.active.len() + view.inactive.len());
        let (m, protocols, ports) =
            (view.table_size.to_string(), named(&view.protocols, "any"), named(&view.ports, "all"));
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
    let (generation, state) = Region::open_to_read(name)?.state()?;
    if let Some(wanted) = service
        && state.service(wanted).is_none()
    {
        let known: Vec<&str> = state.services.iter().map(|service| service.name.as_str()).collect();
        let unknown = StateError::NoService { name: wanted.to_owned(), known: known.join(", ") };
        return Err(OpsError::from(unknown).into());
    }
    let meant =
        state.services.iter().filter(|candidate| service.is_none_or(|name| candidate.name.as_str() == name));
    let mut views: Vec<BackendView> = meant.flat_map(|service| backends(&state, service)).collect();
    flows::tell(views.iter_mut(), (generation, &state), &env.sources).map_err(StatusError::from)?;
    if json {
        return env.json(&views);
    }
    env.text(&backend_table(&views, true))?;
    let names: Vec<String> = views.iter().map(|view| format!("{}/{}", view.service, view.name)).collect();
    overrides(env, names.iter().map(String::as_str).zip(views.iter().map(|view| &view.admission)))?;
    failures(env, names.iter().map(String::as_str).zip(&views))?;
    reports(env, names.iter().map(String::as_str).zip(&views))?;
    Ok(Status::Done)
}

/// The weight, and what counts of it.
fn weight(view: &BackendView) -> String {
    let lower = view.reported.as_ref().map(|reported| reported.weight_percent);
    match lower.filter(|percent| *percent != Percent::ALL) {
        Some(percent) => format!("{percent} of {}", view.weight),
        None => view.weight.to_string(),
    }
}

/// Backends as a table; in each service the fullest bar is that of the largest share.
fn backend_table(views: &[BackendView], with_service: bool) -> String {
    let mut views: Vec<&BackendView> = views.iter().collect();
    if !with_service {
        views.sort_by_cached_key(|view| natural(&view.name));
    }
    // Where flows cannot be counted there is no column.
    let counted = views.iter().any(|view| view.flows.is_some());
    let indent = if with_service { "" } else { "  " };
    let columns = with_service.then_some("SERVICE").into_iter();
    let columns = columns.chain(["BACKEND", "PATH", ">MARK", ">WEIGHT", "STATE", "HEALTH"]);
    let columns: Vec<&str> = columns.chain(counted.then_some(">FLOWS")).chain([">SHARE", ""]).collect();
    let mut table = Table::new(&columns);
    let mut largest: HashMap<&str, u64> = HashMap::new();
    for view in &views {
        let largest = largest.entry(&view.service).or_default();
        *largest = view.entries.max(*largest);
    }
    for view in views {
        let bar = bar(view.entries, largest[view.service.as_str()]);
        let state = view.admin.name().to_owned();
        let health = view.health().map_or("-", Health::name).to_owned();
        let share = percent(view.entries, view.table_size.into());
        let (mark, weight) = (format!("{:#x}", view.target.mark), weight(view));
        let path = view.target.path();
        let service = with_service.then(|| view.service.clone());
        let flows = view.flows.map(|flows| flows.to_string()).filter(|_| counted);
        let first = [view.name.clone(), path, mark, weight, state, health];
        table.row(service.into_iter().chain(first).chain(flows).chain([share, bar]));
    }
    table.render(indent)
}
