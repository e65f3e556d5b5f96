//! `create`, `apply`, `enable`, `drain`, `disable`, and those of `tier` and `balancer`: what [`crate::ops`]
//! does, as text and JSON.
//!
//! `apply` prints a proposal before it is published, so a slow reader of the output holds up no other writer. If
//! others change the region meanwhile, the differences are made out and printed again.

use super::{
    Env, Status,
    args::{AdminArguments, ApplyArguments, CreateArguments, OrderArguments, TierActivateArguments},
    daemon::{Adoption, wait_adopted},
    error::CtlError,
    text::count,
};
use crate::{
    config::{Balancer, Config},
    model::{Admin, Override, Remark, Steering, TableSize, ids::Generation},
    ops::{self, Affected, Created, OpsError, Proposal, Published, Saved, Subject},
    state::{Change, Losses, Scope},
    status::lbd::{DaemonView, once_command},
    sys::region::{NAME_DEFAULT, Region, RegionName},
};
use serde::Serialize;
use serde_json::json;

/// How often `apply` begins again because others changed the region.
const TRIES: usize = 8;

impl OrderArguments {
    /// Returns the override that the command gives, with the user's name.
    fn order(&self, env: &Env<'_>, admin: Admin) -> Override {
        let unknown = Override::unattributed(admin);
        Override {
            reason: self.reason.clone(),
            runtime: self.runtime,
            by: Remark::new(&env.user).unwrap_or(unknown.by),
            since: Override::time(env.unix_seconds),
            admin,
        }
    }
}

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
    let created = ops::create(&env.host(name), name, size, n, args.active)?;
    let answered = print_created(env, name, json, args, (size, &created)).and_then(|status| {
        created.notes.iter().try_for_each(|note| env.warn(note))?;
        Ok(if print_saved(env, &created.saved)? { status } else { Status::Pending })
    });
    answered.map_err(|error| error.after(created.generation))
}

fn print_created(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &CreateArguments,
    (size, created): (TableSize, &Created),
) -> Result<Status, CtlError> {
    let n = args.n as usize;
    if json {
        return env.json(&json!({
            "region": name.to_string(), "generation": created.generation.0,
            "table_size": size.get(), "backends": n, "active": created.active,
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
        created.active
    ))?;
    env.out.flush()?;
    Ok(Status::Done)
}

/// What `apply`, `enable`, `drain` and `disable` print with `--json`.
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
    /// Why overrides will not outlive a reboot.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_kept: Option<&'a str>,
}

impl<'a> Outcome<'a> {
    fn published(changes: &'a [Change], generation: Generation) -> Self {
        Self { published: true, ..Self::not_published(changes, Some(generation)) }
    }

    fn not_published(changes: &'a [Change], generation: Option<Generation>) -> Self {
        let generation = generation.map(|generation| generation.0);
        Self { changes, losses: None, generation, published: false, lbd: None, not_kept: None }
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
    let host = env.host(name);
    let mut printed: Option<(Vec<Change>, Losses)> = None;
    for _ in 0..TRIES {
        let proposal = ops::propose(&host, name, &config)?;
        let shown = (proposal.changes.clone(), proposal.losses.clone());
        let (changes, losses) = &shown;
        if !json && printed.as_ref() != Some(&shown) {
            if printed.is_some() {
                env.print(format_args!("\nothers changed the region meanwhile; the differences now are:"))?;
            }
            print_changes(env, name, &proposal)?;
            print_losses(env, losses, args)?;
        }
        let Proposal { own_vips, notes, .. } = &proposal;
        if !own_vips.is_empty() && proposal.followed && !args.dry_run {
            return Err(OpsError::OwnVips(own_vips.clone()).into());
        }
        for finding in own_vips {
            env.warn(&finding.to_string())?;
        }
        notes.iter().try_for_each(|note| env.warn(note))?;
        let refused = !losses.in_use.is_empty() && !args.allow_removal;
        if proposal.is_nothing() || args.dry_run || refused {
            if json {
                let outcome = Outcome::not_published(changes, proposal.generation);
                env.json(&Outcome { losses: Some(losses), ..outcome })?;
            }
            if refused && !args.dry_run {
                let command = format!("`lbctl apply --allow-removal{}`", on_region(name, &args.file));
                return Err(CtlError::Removal { losses: losses.listed(), command });
            }
            return Ok(if proposal.is_nothing() { Status::Done } else { Status::No });
        }
        let before = proposal.base().balancer.clone();
        if let Some(mut published) = proposal.publish(&host)? {
            let generation = published.generation;
            let outcome = Outcome { losses: Some(losses), ..Outcome::published(changes, generation) };
            let answered = finish(env, json, &mut published, outcome).and_then(|status| {
                warn_of_settings(env, &mut published.region, &before, &config.balancer)?;
                env.out.flush()?;
                Ok(status)
            });
            return answered.map_err(|error| error.after(generation));
        }
        printed = Some(shown);
    }
    Err(CtlError::Busy(name.clone()))
}

fn print_changes(env: &mut Env<'_>, name: &RegionName, proposal: &Proposal) -> Result<(), CtlError> {
    if proposal.makes_region() {
        env.print(format_args!("+ region {name}"))?;
    } else if proposal.changes.is_empty() {
        env.print(format_args!("nothing to change"))?;
    }
    for change in &proposal.changes {
        env.print(format_args!("{change}"))?;
    }
    // The changes are shown before anything is changed.
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

/// Says what came of a change that was published, when lbd has taken it over or time is up.
fn finish(
    env: &mut Env<'_>,
    json: bool,
    published: &mut Published,
    outcome: Outcome<'_>,
) -> Result<Status, CtlError> {
    let region = &mut published.region;
    let generation = Generation(outcome.generation.unwrap_or_default());
    if !region.is_current().unwrap_or(true) {
        return Err(CtlError::Gone(region.name().clone()));
    }
    let adoption = wait_adopted(region, generation, env.adoption_wait)?;
    if json {
        let not_kept = published.saved.as_ref().err().map(ToString::to_string);
        env.json(&Outcome { lbd: Some(adoption), not_kept: not_kept.as_deref(), ..outcome })?;
    }
    match adoption {
        Adoption::InForce if !json => {
            let behind = DaemonView::last(region)?.in_kernel < generation.0;
            let follow = if behind { "; the fallback tables follow" } else { "" };
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
    for warning in &published.warnings {
        env.warn(warning)?;
    }
    let kept = print_saved(env, &published.saved)?;
    Ok(if adoption == Adoption::NotYet || !kept { Status::Pending } else { Status::Done })
}

/// Prints what came of keeping overrides, and returns whether all that were kept count, and will outlive a reboot.
pub(super) fn print_saved(env: &mut Env<'_>, saved: &Saved) -> Result<bool, CtlError> {
    match saved {
        Ok(None) => {}
        Ok(Some(aside)) => env.warn(&format!("the damaged file is kept as {}", aside.display()))?,
        Err(error) => env.warn(&format!("overrides will not outlive a reboot: {error}"))?,
    }
    Ok(matches!(saved, Ok(None)))
}

/// `lbctl enable`, `drain` and `disable`, and `activate` and `deactivate`, which are the first two. Returns also the
/// region with the generation that is live now.
pub(super) fn set_backends(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &AdminArguments,
    admin: Admin,
) -> Result<(Status, Published), CtlError> {
    let subject = Subject::Backends { service: args.service.as_deref(), names: &args.backends };
    set_admin(env, name, json, subject, &args.order.order(env, admin))
}

/// `lbctl tier activate` and `lbctl tier deactivate`.
pub(super) fn activate_tier(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &TierActivateArguments,
    active: bool,
) -> Result<Status, CtlError> {
    let order = args.order.order(env, Admin::when(active));
    set_admin(env, name, json, Subject::Tier { names: &args.balancers }, &order).map(|(status, _)| status)
}

/// `lbctl balancer drain` and `lbctl balancer enable`.
pub(super) fn set_balancer(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &OrderArguments,
    admin: Admin,
) -> Result<Status, CtlError> {
    let order = args.order(env, admin);
    let (status, mut published) = set_admin(env, name, json, Subject::Balancer, &order)?;
    let generation = published.generation;
    let (_, state) = published.region.state_with_tables(|_| Vec::new())?;
    if state.balancer.announce_table.is_none() {
        let warned = env.warn("[balancer] announce_table is not set, so no VIP is announced anyway");
        warned.map_err(|error| CtlError::from(error).after(generation))?;
    }
    Ok(status)
}

fn set_admin(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    subject: Subject<'_>,
    order: &Override,
) -> Result<(Status, Published), CtlError> {
    let ops::Ordered { affected, changes, mut published } =
        ops::set_admin(&env.host(name), name, subject, order)?;
    let generation = published.generation;
    if !json {
        let printed = affected.iter().try_for_each(|one| env.print(format_args!("{}", line(one))));
        printed.map_err(|error| CtlError::from(error).after_if(!changes.is_empty(), generation))?;
    }
    if changes.is_empty() {
        if json {
            env.json(&Outcome::not_published(&changes, Some(generation)))?;
        } else {
            env.print(format_args!("nothing to change"))?;
        }
        let status = if print_saved(env, &published.saved)? { Status::Done } else { Status::Pending };
        return Ok((status, published));
    }
    let answered = finish(env, json, &mut published, Outcome::published(&changes, generation));
    let answered = answered.and_then(|status| {
        env.out.flush()?;
        Ok(status)
    });
    answered.map(|status| (status, published)).map_err(|error| error.after(generation))
}

fn line(Affected { scope, was, is }: &Affected) -> String {
    let now = match (scope, is) {
        (Scope::Backend { .. } | Scope::Balancer { .. }, admin) => admin.name(),
        (Scope::Tier { .. }, Admin::Enabled) => "active",
        (Scope::Tier { .. }, Admin::Draining | Admin::Disabled) => "inactive",
    };
    format!("{scope}: {} {now}", if was == is { "already" } else { "now" })
}
