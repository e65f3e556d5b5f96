//! `which`: prints where a new flow would go, and why.

use std::{io, path::Path};

use super::{Env, Status, args::WhichArguments, batch, error::CtlError};
use crate::{
    status::{
        owner::OwnerView,
        question::Question,
        which::{Answer, Outcome, Steered, Which},
    },
    sys::region::{Region, RegionName},
};

/// `lbctl which PROTO SRC SPORT DST DPORT`.
pub(super) fn which(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &WhichArguments,
) -> Result<Status, CtlError> {
    let words: Vec<&str> = args.flow.iter().map(String::as_str).collect();
    let question = Question::parse(&words).map_err(CtlError::Usage)?;
    let which = Which::read_for(&question, &mut Region::open_to_read(name)?, &env.sources)?;
    let answer = which.answer(&question, args.fragment);
    if json {
        env.json(&answer)?;
    } else {
        print(env, &answer)?;
        if let Some(kept) = &answer.host {
            env.warn(kept)?;
        }
    }
    Ok(if matches!(answer.outcome, Outcome::Steered(_)) { Status::Done } else { Status::No })
}

/// `lbctl which --batch FILE`.
pub(super) fn batch(
    env: &mut Env<'_>,
    name: &RegionName,
    file: &Path,
    fragment: bool,
) -> Result<Status, CtlError> {
    let which = Which::read(&mut Region::open_to_read(name)?, &env.sources)?;
    let Env { input, out, .. } = env;
    batch::each(*input, file, |question| {
        serde_json::to_writer(&mut **out, &which.answer(&question, fragment)).map_err(io::Error::from)?;
        Ok(out.write_all(b"\n")?)
    })?;
    Ok(Status::Done)
}

fn print(env: &mut Env<'_>, answer: &Answer) -> Result<(), CtlError> {
    match &answer.outcome {
        Outcome::Steered(Steered {
            service,
            hash,
            index,
            table_size,
            backend,
            of_service,
            target,
            decider,
            ..
        }) => {
            let of_service = of_service.as_ref().map_or_else(String::new, |of| format!(" of service {of}"));
            let device = target.device.as_ref().map_or_else(String::new, |d| format!(" through {d}"));
            env.print(format_args!("service  {service}"))?;
            env.print(format_args!("backend  {backend}{of_service}"))?;
            env.print(format_args!("path     {}{device}", target.path()))?;
            env.print(format_args!("mark     {:#x} ({})", target.mark, target.mark))?;
            env.print(format_args!("decider  {decider}"))?;
            env.print(format_args!("hash     {hash:#010x}"))?;
            env.print(format_args!("index    {index} of {table_size}"))?;
        }
        Outcome::NoBackend { rejected: true, .. } => env.print(format_args!("not steered: rejected"))?,
        Outcome::NoBackend { .. } | Outcome::Unclaimed => env.print(format_args!("not steered"))?,
    }
    if let Some(owner) = answer.owner.as_ref().and_then(OwnerView::line) {
        env.print(format_args!("owner    {owner}"))?;
    }
    for (line, reason) in answer.reason.iter().enumerate() {
        let label = if line == 0 { "why" } else { "" };
        env.print(format_args!("{label:<8} {reason}"))?;
    }
    Ok(())
}
