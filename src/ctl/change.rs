//! `create`, `apply`, `activate`, `deactivate`, those of `tier` too: how a region comes to be and changes.
//!
//! `apply` makes out the differences without the lock, prints them, and publishes only if nobody changed the region
//! meanwhile; so what was printed is what was done, and a slow reader of the output holds nobody up.

use super::{
    Env, Status,
    args::{ActivateArguments, ApplyArguments, CreateArguments},
    daemon::{Adoption, wait_adopted},
    error::CtlError,
    text::count,
};
use crate::{
    config::{Balancer, Config},
    host,
    model::{Name, Steering, TableSize, ids::Generation},
    plan::routing,
    state::{Change, Losses, Plan, Service, State, StateError, TierMember},
    status::lbd::{DaemonView, once_command},
    sys::region::{AccessError, NAME_DEFAULT, Region, RegionName},
};
use serde::Serialize;
use serde_json::json;

/// How often `apply` begins again because others changed the region.
const TRIES: usize = 8;

/// `lbctl create`.
pub(super) fn create(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &CreateArguments,
) -> Result<Status, CtlError> {
    let n = args.n as usize;
    if args.active > n {
        return Err(CtlError::Usage(format!("-i {}: there are only {}", args.active, count(n, "backend"))));
    }
    let size =
        TableSize::at_most(args.m).map_err(|error| CtlError::Usage(format!("M {}: {error}", args.m)))?;
    let state = State::unconfigured(size, n, args.active)?;
    let mut region = Region::create(name, &state)?;
    let (generation, _) = region.state()?;
    tell_created(env, name, json, args, (size, generation)).map_err(|error| error.after(generation))
}

fn tell_created(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &CreateArguments,
    (size, generation): (TableSize, Generation),
) -> Result<Status, CtlError> {
    let n = args.n as usize;
    if json {
        return env.json(&json!({
            "region": name.to_string(), "generation": generation.0,
            "table_size": size.get(), "backends": n, "active": args.active,
        }));
    }
    let lowered = if u64::from(size.get()) == args.m {
        String::new()
    } else {
        format!(" (the prime below {})", args.m)
    };
    if n > size.entries() {
        env.warn("M is less than the backends: some can never get a flow")?;
    }
    let names = if n == 1 { "backend 0".to_owned() } else { format!("backends 0 to {}", n - 1) };
    env.print(format_args!(
        "region {name} made: service default, M {}{lowered}, {names}, {} active",
        size.get(),
        args.active
    ))?;
    env.out.flush()?;
    Ok(Status::Done)
}

/// What `apply`, `activate` and `deactivate` print with `--json`.
#[derive(Clone, Copy, Serialize)]
struct Outcome<'a> {
    changes: &'a [Change],
    #[serde(skip_serializing_if = "Option::is_none")]
    losses: Option<&'a Losses>,
    /// The live generation; null where there is no region.
    generation: Option<u64>,
    published: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    lbd: Option<Adoption>,
}

impl<'a> Outcome<'a> {
    fn published(changes: &'a [Change], generation: Generation) -> Self {
        Self { published: true, ..Self::not_published(changes, Some(generation)) }
    }

    fn not_published(changes: &'a [Change], generation: Option<Generation>) -> Self {
        let generation = generation.map(|generation| generation.0);
        Self { changes, losses: None, generation, published: false, lbd: None }
    }
}

/// `lbctl apply`.
pub(super) fn apply(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &ApplyArguments,
) -> Result<Status, CtlError> {
    let (file, text) = env.read(&args.file)?;
    let config = Config::parse(&file, &text)?;
    let mut printed: Option<(Vec<Change>, Losses)> = None;
    for _ in 0..TRIES {
        let mut region = match Region::open(name) {
            Ok(region) => Some(region),
            Err(AccessError::Missing(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let live = region.as_mut().map(|region| region.state_with_tables(|_| Vec::new())).transpose()?;
        let base =
            live.as_ref().map_or_else(|| State::empty(config.balancer.clone()), |(_, state)| state.clone());
        let Plan { mut next, changes, losses } = base.plan(&config)?;
        if live.is_none() {
            next = State::taking_over(&config, &(env.numbers_in_kernel)(), &next)?;
        }
        let told = (changes, losses);
        let (changes, losses) = &told;
        // What lbd could not put in force must not be published.
        routing::desired(&next)?;
        let generation = live.as_ref().map(|(generation, _)| *generation);
        let nothing = live.is_some() && changes.is_empty();
        if !json && printed.as_ref() != Some(&told) {
            if printed.is_some() {
                env.print(format_args!("\nothers changed the region meanwhile; the differences now are:"))?;
            }
            print_changes(env, name, live.is_none(), changes)?;
            print_losses(env, losses, args)?;
        }
        let followed = region.as_mut().map(DaemonView::of).transpose()?.flatten().is_some();
        let own = host::new_own_vips(&base, &next, &(env.sources.look)(&next));
        if !own.is_empty() && followed && !args.dry_run {
            return Err(CtlError::OwnVips(own));
        }
        for finding in &own {
            env.warn(&finding.to_string())?;
        }
        let refused = !losses.in_use.is_empty() && !args.allow_removal;
        if nothing || args.dry_run || refused {
            if json {
                let outcome = Outcome { losses: Some(losses), ..Outcome::not_published(changes, generation) };
                env.json(&outcome)?;
            }
            if refused && !args.dry_run {
                let command = format!("`lbctl apply --allow-removal{}`", on_region(name, &args.file));
                return Err(CtlError::Removal { losses: losses.listed(), command });
            }
            return Ok(if nothing { Status::Done } else { Status::No });
        }
        let warnings = warnings(&base, &next);
        let published = match region {
            Some(mut region) => publish_if(&mut region, &base, next)?.map(|generation| (region, generation)),
            None => create_if(name, &next)?,
        };
        if let Some((mut region, generation)) = published {
            let outcome = Outcome { losses: Some(losses), ..Outcome::published(changes, generation) };
            let told = finish(env, json, &mut region, outcome, &warnings).and_then(|status| {
                warn_of_settings(env, &mut region, &base.balancer, &config.balancer)?;
                env.out.flush()?;
                Ok(status)
            });
            return told.map_err(|error| error.after(generation));
        }
        printed = Some(told);
    }
    Err(CtlError::Busy(name.clone()))
}

fn print_changes(
    env: &mut Env<'_>,
    name: &RegionName,
    new: bool,
    changes: &[Change],
) -> Result<(), CtlError> {
    if new {
        env.print(format_args!("+ region {name}"))?;
    } else if changes.is_empty() {
        env.print(format_args!("nothing to change"))?;
    }
    for change in changes {
        env.print(format_args!("{change}"))?;
    }
    // They are to be seen before anything happens.
    Ok(env.out.flush()?)
}

/// What goes besides, and whether that is refused.
fn print_losses(env: &mut Env<'_>, losses: &Losses, args: &ApplyArguments) -> Result<(), CtlError> {
    for loss in losses.in_use.iter().chain(&losses.forgotten) {
        env.print(format_args!("loss: {loss}"))?;
    }
    if args.dry_run && !args.allow_removal && !losses.in_use.is_empty() {
        env.print(format_args!("refused without --allow-removal: it takes away what is in use"))?;
    }
    Ok(env.out.flush()?)
}

/// The rest of a command about a region and a file.
fn on_region(name: &RegionName, file: &std::path::Path) -> String {
    let region = if name.to_string() == NAME_DEFAULT { String::new() } else { format!(" --shm {name}") };
    format!("{region} {}", file.display())
}

/// What of `[balancer]` does not do what one may think.
fn warn_of_settings(
    env: &mut Env<'_>,
    region: &mut Region,
    before: &Balancer,
    after: &Balancer,
) -> Result<(), CtlError> {
    let at_start = |balancer: &Balancer| (balancer.queues, balancer.fragment_queue, balancer.mark_mask);
    if at_start(before) != at_start(after) && DaemonView::of(region)?.is_some() {
        env.warn("other queues, fragment_queue or mark_mask are used by lbd from its next start on")?;
    }
    if before.steering == Steering::SynOnly && after.steering == Steering::EveryPacket {
        env.warn("with steering \"every-packet\" open flows follow the table from now on, and break where it names another backend")?;
    }
    let devices = std::fs::read_to_string(env.sources.proc.join("net/dev")).unwrap_or_default();
    let known: Vec<&str> = devices.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    for interface in
        after.interfaces.iter().filter(|name| !known.is_empty() && !known.contains(&name.as_str()))
    {
        env.warn(&format!("there is no device \"{interface}\" here: nothing comes in by it"))?;
    }
    Ok(())
}

/// Publishes `next` if `base` is still live.
fn publish_if(region: &mut Region, base: &State, next: State) -> Result<Option<Generation>, CtlError> {
    let (generation, unchanged) = region.update(|live| {
        let unchanged = live == base;
        Ok::<_, CtlError>((unchanged.then_some(next), unchanged))
    })?;
    Ok(unchanged.then_some(generation))
}

/// Makes the region if there is still none.
fn create_if(name: &RegionName, next: &State) -> Result<Option<(Region, Generation)>, CtlError> {
    let mut region = match Region::create(name, next) {
        Err(AccessError::Exists(_)) => return Ok(None),
        created => created?,
    };
    let (generation, _) = region.state()?;
    Ok(Some((region, generation)))
}

/// Says what came of a change that was published, when lbd has taken it over or time is up.
fn finish(
    env: &mut Env<'_>,
    json: bool,
    region: &mut Region,
    outcome: Outcome<'_>,
    warnings: &[String],
) -> Result<Status, CtlError> {
    let generation = Generation(outcome.generation.unwrap_or_default());
    if !region.is_current().unwrap_or(true) {
        return Err(CtlError::Gone(region.name().clone()));
    }
    let adoption = wait_adopted(region, generation, env.adoption_wait)?;
    if json {
        env.json(&Outcome { lbd: Some(adoption), ..outcome })?;
    }
    match adoption {
        Adoption::InForce if !json => {
            let behind = DaemonView::last(region)?.in_kernel < generation.0;
            let follow =
                if behind { "; the kernel's tables, for when lbd does not decide, follow" } else { "" };
            env.print(format_args!("in force: generation {generation}{follow}"))?;
        }
        Adoption::NoDaemon if !json => {
            // With a ruleset in place that is of this region the kernel goes on, by what it was given last.
            let kernel = if DaemonView::last(region)?.adopted > 0 && env.sources.has_ruleset() == Some(true) {
                let once = once_command(region.name());
                format!(
                    "; the kernel goes by the tables that it was given last, until one does or `{once}` is run"
                )
            } else {
                String::new()
            };
            env.print(format_args!(
                "written: generation {generation}; no lbd follows this region now{kernel}"
            ))?;
        }
        Adoption::InForce | Adoption::NoDaemon => {}
        Adoption::NotYet => {
            let pid = DaemonView::of(region)?.map_or(0, |daemon| daemon.pid);
            env.warn(&format!(
                "generation {generation} is written, but lbd (process {pid}) has not taken it over yet; \
                 `lbctl stats` shows when it has, its log why not"
            ))?;
        }
    }
    for warning in warnings {
        env.warn(warning)?;
    }
    Ok(if adoption == Adoption::NotYet { Status::Pending } else { Status::Done })
}

/// Of services and the tier: which have lost their last active one, or never had one.
fn warnings(before: &State, after: &State) -> Vec<String> {
    let empty = |service: &Service| service.active().next().is_none();
    let was = |service: &Service| before.service(service.name.as_str()).is_some_and(empty);
    let now = after.services.iter().filter(|service| empty(service) && !was(service));
    let mut warnings: Vec<String> = now
        .map(|service| {
            format!("service \"{}\" has no active backend: its new flows are dropped", service.name)
        })
        .collect();
    let empty = |state: &State| !state.tier.is_empty() && state.tier_active().next().is_none();
    if empty(after) && !empty(before) {
        warnings.push(
            "no balancer of the tier is active: every balancer handles the fragments that it gets".to_owned(),
        );
    }
    warnings
}

/// `lbctl activate` and `lbctl deactivate`.
pub(super) fn activate(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &ActivateArguments,
    active: bool,
) -> Result<Status, CtlError> {
    let (service, names) = (args.service.as_deref(), &args.backends[..]);
    change(env, name, json, |live| {
        let next = live.set_active(service, names, active)?;
        Ok((next, activation_lines(live, service, names, active)))
    })
}

/// `lbctl tier activate` and `lbctl tier deactivate`.
pub(super) fn activate_tier(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    names: &[String],
    active: bool,
) -> Result<Status, CtlError> {
    change(env, name, json, |live| {
        let next = live.set_tier_active(names, active)?;
        let of_name = |name: &String| live.tier.iter().find(|member| member.name.as_str() == name);
        let line = |member: &TierMember| activation_line("tier", &member.name, member.active, active);
        Ok((next, each_once(names.iter().filter_map(of_name).map(line))))
    })
}

/// Publishes what `change` makes of the live state, if anything differs, after the lines that it says.
fn change(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    change: impl Fn(&State) -> Result<(State, Vec<String>), StateError>,
) -> Result<Status, CtlError> {
    let mut region = Region::open(name)?;
    let (generation, (changes, lines, warnings)) = region.update(|live| {
        let (next, lines) = change(live)?;
        let (changes, warnings) = (live.changes(&next), warnings(live, &next));
        Ok::<_, CtlError>(((!changes.is_empty()).then_some(next), (changes, lines, warnings)))
    })?;
    if !changes.is_empty() {
        let lines = if json { vec![] } else { lines };
        let told = lines.iter().try_for_each(|line| env.print(format_args!("{line}")));
        let told = told.map_err(CtlError::from).and_then(|()| {
            let outcome = Outcome::published(&changes, generation);
            let status = finish(env, json, &mut region, outcome, &warnings)?;
            env.out.flush()?;
            Ok(status)
        });
        return told.map_err(|error| error.after(generation));
    }
    if !json {
        for line in lines {
            env.print(format_args!("{line}"))?;
        }
    }
    if json {
        env.json(&Outcome::not_published(&changes, Some(generation)))?;
    } else {
        env.print(format_args!("nothing to change"))?;
    }
    Ok(Status::Done)
}

/// What happens to each backend that is meant.
fn activation_lines(live: &State, service: Option<&str>, names: &[String], active: bool) -> Vec<String> {
    let services = || {
        live.services.iter().filter(|candidate| service.is_none_or(|name| candidate.name.as_str() == name))
    };
    let of_name = |name: &String| {
        let found =
            services().flat_map(|service| service.backends.iter().map(move |backend| (service, backend)));
        found
            .filter(|(_, backend)| backend.name.as_str() == name)
            .map(|(service, backend)| {
                activation_line(service.name.as_str(), &backend.name, backend.active, active)
            })
            .collect::<Vec<_>>()
    };
    each_once(names.iter().flat_map(of_name))
}

fn activation_line(of: &str, name: &Name, was: bool, active: bool) -> String {
    let now = if active { "active" } else { "inactive" };
    let was = if was == active { "already" } else { "now" };
    format!("{of}/{name}: {was} {now}")
}

/// In the same order.
fn each_once(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    lines.filter(|line| seen.insert(line.clone())).collect()
}
