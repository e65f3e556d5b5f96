//! `drain --wait`: waits until a backend has no flow left. `kill`: ends the flows that a backend has now.

use std::time::Duration;

use serde::Serialize;

use super::{
    Env, Status,
    args::{DrainArguments, KillArguments},
    change,
    daemon::{Adoption, wait_adopted},
    error::CtlError,
    text::count,
};
use crate::{
    model::{Admin, ids::Generation},
    ops::{self, Affected, Killed, Published},
    state::Scope,
    status::{
        flows::Live,
        lbd::{DaemonView, PinsView, once_command},
    },
    sys::{
        clock,
        region::{Region, RegionName},
    },
};

/// How often flows are counted.
const COUNTED_EVERY: Duration = Duration::from_secs(1);
/// How many counts there are to a line of progress, where that is no terminal.
const COUNTS_PER_LINE: u32 = 5;
/// How many times as long a kill may take as the adoption of a state: lbd reads all of connection tracking.
const KILL_PATIENCE: u32 = 5;

/// `lbctl drain`.
pub(super) fn drain(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &DrainArguments,
) -> Result<Status, CtlError> {
    if args.wait && !(env.sources.may_ask_about_flows)() {
        return Err(CtlError::MayNotCount);
    }
    let (status, published) = change::set_backends(env, name, json, &args.what, Admin::Draining)?;
    if !args.wait {
        return Ok(status);
    }
    let (generation, kept) = (published.generation, matches!(published.saved, Ok(None)));
    let waited = wait(env, json, args, published).map_err(|error| error.after(generation))?;
    Ok(if waited == Status::Done && !kept { Status::Pending } else { waited })
}

/// What `drain --wait` prints with `--json`, after what was changed.
#[derive(Serialize)]
struct Waited {
    /// Whether no flow is left.
    drained: bool,
    /// The last count.
    #[serde(flatten)]
    live: Live,
    /// How long it took.
    seconds: u64,
}

/// Why there is nothing to wait for any more.
enum End {
    Drained,
    /// A name of one that is enabled again.
    Enabled(String),
}

fn wait(
    env: &mut Env<'_>,
    json: bool,
    args: &DrainArguments,
    Published { mut region, generation, .. }: Published,
) -> Result<Status, CtlError> {
    let (service, names) = (args.what.service.as_deref(), &args.what.backends[..]);
    if wait_adopted(&mut region, generation, args.timeout.0)? != Adoption::InForce {
        env.warn("no lbd decides by this yet, so new flows may still begin there: it is not waited for")?;
        return Ok(Status::Pending);
    }
    env.out.flush()?;
    let began = (env.sources.monotonic)();
    let (mut first, mut live, mut counts) = (None, Live::default(), 0);
    let end = clock::wait_for(args.timeout.0, COUNTED_EVERY, || {
        let counted = look(&mut region, env, service, names);
        match counted {
            Ok((Some(enabled), _)) => return Some(Ok(End::Enabled(enabled))),
            Ok((None, now)) => live = now,
            Err(error) => return Some(Err(error)),
        }
        if live.is_none() {
            return Some(Ok(End::Drained));
        }
        let first = *first.get_or_insert(live.flows);
        let passed = (env.sources.monotonic)().saturating_sub(began);
        progress(env, counts, live, first, passed);
        counts += 1;
        None
    });
    if env.terminal && counts > 0 {
        let _ = writeln!(env.err);
    }
    let seconds = (env.sources.monotonic)().saturating_sub(began).as_secs();
    let status = match end.transpose()? {
        Some(End::Enabled(name)) => {
            env.warn(&format!("{name} is enabled again, so it is not waited for"))?;
            return Ok(Status::Pending);
        }
        Some(End::Drained) => Status::Done,
        None => Status::TimedOut,
    };
    let drained = status == Status::Done;
    if json {
        env.json(&Waited { drained, live, seconds })?;
        return Ok(status);
    }
    let closing = match live.closing {
        0 => String::new(),
        n => format!(" ({n} of closed connections are forgotten later)"),
    };
    if drained {
        env.print(format_args!("drained: no flow is left{closing}"))?;
    } else {
        env.print(format_args!(
            "not drained: {} left after {seconds} s; `lbctl flows {}` lists them, `lbctl kill` ends them",
            left(live),
            names.join(" ")
        ))?;
    }
    Ok(status)
}

/// Counts the flows, if none of the backends is enabled again.
fn look(
    region: &mut Region,
    env: &Env<'_>,
    service: Option<&str>,
    names: &[String],
) -> Result<(Option<String>, Live), CtlError> {
    if !region.is_current().unwrap_or(true) {
        return Err(CtlError::Gone(region.name().clone()));
    }
    let (_, state) = region.state_with_tables(|_| Vec::new())?;
    // One that was removed has no flows.
    let mut there = names.to_vec();
    there.retain(|name| state.find_backends(service, std::slice::from_ref(name)).is_ok());
    let mut found = state.find_backends(service, &there).unwrap_or_default().into_iter();
    let enabled = found.find_map(|(service, backend)| {
        let service = &state.services[service];
        let backend = &service.backends[backend];
        backend.enabled().then(|| format!("{}/{}", service.name, backend.name))
    });
    if enabled.is_some() || there.is_empty() {
        return Ok((enabled, Live::default()));
    }
    Ok((None, Live::read(region, &env.sources, service, &there)?))
}

fn left(live: Live) -> String {
    let opening = match live.opening {
        0 => String::new(),
        n => format!(" and {n} just opening"),
    };
    format!("{}{opening}", count(usize::try_from(live.flows).unwrap_or(usize::MAX), "flow"))
}

/// On a terminal one line that is written again and again, else a line now and then.
fn progress(env: &mut Env<'_>, counts: u32, live: Live, first: u64, passed: Duration) {
    let ended = first.saturating_sub(live.flows);
    let tenths = (ended * 10).checked_div(passed.as_secs()).unwrap_or(0);
    let text = format!("{} left, {ended} ended, {}.{} a second", left(live), tenths / 10, tenths % 10);
    if env.terminal {
        let _ = write!(env.err, "\r\x1b[Klbctl: {text}");
    } else if counts.is_multiple_of(COUNTS_PER_LINE) {
        env.progress(format_args!("{text}"));
    }
}

/// What `kill` prints with `--json`.
#[derive(Serialize)]
struct Ended<'a> {
    /// The backends that were meant.
    backends: &'a [String],
    /// Those of them that may get the same flows again.
    enabled: &'a [String],
    generation: u64,
    lbd: Adoption,
    /// How many flows were ended; null if lbd has not done it yet.
    ended: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_kept: Option<&'a str>,
}

/// `lbctl kill`.
pub(super) fn kill(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &KillArguments,
) -> Result<Status, CtlError> {
    let before = PinsView::read(&mut Region::open_to_read(name)?)?.ended;
    let Killed { affected, when, published } =
        ops::kill(&env.host(name), name, args.service.as_deref(), &args.backends)?;
    let generation = published.generation;
    tell_killed(env, json, &affected, (when, before), published).map_err(|error| error.after(generation))
}

fn tell_killed(
    env: &mut Env<'_>,
    json: bool,
    affected: &[Affected],
    (when, before): (u64, u64),
    Published { mut region, generation, saved, .. }: Published,
) -> Result<Status, CtlError> {
    let lbd = wait_adopted(&mut region, generation, env.adoption_wait * KILL_PATIENCE)?;
    let ended = match lbd {
        Adoption::InForce => wait_killed(env, &mut region, when, before)?,
        Adoption::NotYet | Adoption::NoDaemon => None,
    };
    let names = |of: &dyn Fn(&Affected) -> bool| -> Vec<String> {
        affected.iter().filter(|one| of(one)).map(|one| one.scope.to_string()).collect()
    };
    let (backends, enabled) = (names(&|_| true), names(&|one| one.is == Admin::Enabled));
    if json {
        let not_kept = saved.as_ref().err().map(ToString::to_string);
        let not_kept = not_kept.as_deref();
        env.json(&Ended {
            backends: &backends,
            enabled: &enabled,
            generation: generation.0,
            lbd,
            ended,
            not_kept,
        })?;
    } else {
        match ended {
            Some(ended) => {
                let flows = count(usize::try_from(ended).unwrap_or(usize::MAX), "flow");
                env.print(format_args!("{}: {flows} ended", backends.join(", ")))?;
            }
            None => env.print(format_args!("written: generation {generation}"))?,
        }
    }
    if ended.is_none() {
        warn_pending(env, &mut region, generation, lbd)?;
    } else if !enabled.is_empty() {
        let backends =
            affected.iter().filter(|one| one.is == Admin::Enabled).filter_map(|one| match &one.scope {
                Scope::Backend { backend, .. } => Some(backend.as_str()),
                Scope::Tier { .. } | Scope::Balancer { .. } => None,
            });
        let mut backends: Vec<&str> = backends.collect();
        backends.dedup();
        env.warn(&format!(
            "{} may get the same flows again, being enabled; `lbctl disable {}` ends them for good",
            enabled.join(", "),
            backends.join(" ")
        ))?;
    }
    let kept = change::print_saved(env, &saved)?;
    Ok(if ended.is_none() || !kept { Status::Pending } else { Status::Done })
}

/// Waits until lbd has carried out the kill of this time. Returns how many flows it has ended since there were
/// `before`; `None` if it has not in time.
fn wait_killed(env: &Env<'_>, region: &mut Region, when: u64, before: u64) -> Result<Option<u64>, CtlError> {
    let patience = env.adoption_wait * KILL_PATIENCE;
    let done = clock::wait_for(patience, Duration::from_millis(5), || match PinsView::read(region) {
        // An lbd that has started meanwhile counts from 0.
        Ok(pins) if pins.killed >= when => Some(Ok(pins.ended.checked_sub(before).unwrap_or(pins.ended))),
        Ok(_) => None,
        Err(error) => Some(Err(error.into())),
    });
    done.transpose()
}

fn warn_pending(
    env: &mut Env<'_>,
    region: &mut Region,
    generation: Generation,
    lbd: Adoption,
) -> Result<(), CtlError> {
    if lbd == Adoption::NoDaemon {
        let once = once_command(region.name());
        env.warn(&format!(
            "no lbd follows this region now: the flows are ended when one starts, or by `{once}`"
        ))?;
        return Ok(());
    }
    let pid = DaemonView::of(region)?.map_or(0, |daemon| daemon.pid);
    env.warn(&format!(
        "generation {generation} is written, but lbd (process {pid}) has not ended the flows yet; \
         `lbctl show` counts those that it ends, its log says why not"
    ))?;
    Ok(())
}
