//! `which`: where a new flow would go, and why. It uses the same [`Forwarding`] as lbd.

use std::{io, path::Path};

use serde::Serialize;

use super::{
    Env, Status,
    args::WhichArguments,
    daemon::PinsView,
    error::CtlError,
    flows::{self, FlowView},
    owner::OwnerView,
    question::{self, Question},
    view::{TargetView, claim},
};
use crate::{
    balance::{
        Decision, Forwarding,
        pins::{Flow, OffTable},
    },
    host::{Local, Snapshot},
    lookup::classifier::{Classifier, Explanation, Match, Scope},
    model::{Decider, PortRange, Steering},
    plan::kernel_tables,
    state::{Service, State},
    sys::region::{Region, RegionName},
};

/// What `--json` prints. If the packet is not steered, only `steered`, `reason` and perhaps `service` have
/// values.
#[derive(Debug, Default, Serialize)]
struct Answer<'a> {
    steered: bool,
    service: Option<&'a str>,
    hash: Option<u32>,
    index: Option<u32>,
    table_size: Option<u32>,
    rank: Option<u16>,
    backend: Option<&'a str>,
    mark: Option<u32>,
    number: Option<u32>,
    device: Option<String>,
    path: Option<String>,
    /// Whether lbd or the kernel decides about the flow's first packet, if that is whole.
    decider: Option<Decider>,
    /// The kernel's element for this flow, if it is off-table.
    off_table: Option<FlowView>,
    /// The balancer that handles its fragments, if that was requested.
    #[serde(flatten)]
    owner: Option<OwnerView<'a>>,
    reason: Vec<String>,
    /// A warning that this host takes such packets for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
}

/// `lbctl which PROTO SRC SPORT DST DPORT`.
pub(super) fn which(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &WhichArguments,
) -> Result<Status, CtlError> {
    let words: Vec<&str> = args.flow.iter().map(String::as_str).collect();
    let question = Question::parse(&words).map_err(CtlError::Usage)?;
    // Only the table of this service is needed.
    let by = By::read(env, name, |state| {
        let scopes: Vec<Scope<'_>> = state.services.iter().map(Service::scope).collect();
        let service = Classifier::new(&scopes).ok().and_then(|of| of.service_of(&question.packet));
        service.into_iter().collect()
    })?;
    let mut answer = by.whole_answer(&question, args.fragment);
    answer.host = kept(&(env.look)(&by.state), &question);
    let status = if answer.steered { Status::Done } else { Status::No };
    if json {
        env.json(&answer)?;
    } else {
        print(env, &answer)?;
        if let Some(kept) = &answer.host {
            env.warn(kept)?;
        }
    }
    Ok(status)
}

/// `lbctl which --batch FILE`.
pub(super) fn batch(
    env: &mut Env<'_>,
    name: &RegionName,
    file: &Path,
    fragment: bool,
) -> Result<Status, CtlError> {
    let by = By::read(env, name, |state| (0..state.services.len()).collect())?;
    let snapshot = (env.look)(&by.state);
    let Env { input, out, .. } = env;
    question::each(*input, file, |question| {
        let mut answer = by.whole_answer(&question, fragment);
        answer.host = kept(&snapshot, &question);
        serde_json::to_writer(&mut **out, &answer).map_err(io::Error::from)?;
        Ok(out.write_all(b"\n")?)
    })?;
    Ok(Status::Done)
}

/// The data that answers are computed from.
struct By {
    state: State,
    forwarding: Forwarding,
    /// Flows that do not follow the tables.
    held: OffTable,
    /// For each service, whether lbd or the kernel decides.
    deciders: Vec<Decider>,
}

impl By {
    /// Reads the state with the tables of these services, and all else.
    fn read(
        env: &Env<'_>,
        name: &RegionName,
        services: impl Fn(&State) -> Vec<usize>,
    ) -> Result<Self, CtlError> {
        let mut region = Region::open(name)?;
        let (generation, state) = region.state_with_tables(services)?;
        let forwarding = Forwarding::new(&state, generation)?;
        let held = flows::known(env, &state, &PinsView::read(&mut region)?);
        let deciders = kernel_tables::deciders(&state);
        Ok(Self { state, forwarding, held, deciders })
    }

    /// Returns the answer, with that about fragments if it is requested.
    fn whole_answer(&self, question: &Question, fragment: bool) -> Answer<'_> {
        let Self { state, forwarding, held, .. } = self;
        let mut answer = self.answer(question);
        if let Some((flow, held)) = Flow::of(&question.packet).and_then(|flow| Some((flow, held.get(&flow)?)))
        {
            let view = FlowView::new(state, forwarding, flow, held);
            answer.reason.push(view.reason());
            answer.off_table = Some(view);
        }
        if fragment {
            let owner = OwnerView::new(state, forwarding.tier(), &question.packet);
            answer.reason.extend(owner.reason(state));
            answer.owner = Some(owner);
        }
        answer
    }

    fn answer(&self, question: &Question) -> Answer<'_> {
        let Self { state, forwarding, deciders, .. } = self;
        let scopes: Vec<Scope<'_>> = state.services.iter().map(Service::scope).collect();
        let why = match forwarding.classifier().explain(&scopes, &question.packet) {
            Explanation::Claimed(by) => vec![matched(state, question, &by)],
            Explanation::Unclaimed { here } => unclaimed(state, question, &here),
        };
        match forwarding.decide(&question.packet) {
            Decision::Steered { service, hash, index, rank, target, mark } => {
                let (service, decider) = (&state.services[service], deciders[service]);
                let view = TargetView::new(state, target);
                let backend = service.active().nth(rank.into()).map_or("", |backend| backend.name.as_str());
                let actives = service.active().count();
                let steered = [
                    question.hashed(service.hash, state.balancer.hash_seed, hash),
                    question::looked_up(hash, service.table_size.get(), index, backend, rank, actives),
                    format!("mark {mark} is target {}: {}", target.number(), view.route()),
                    match forwarding.steering() {
                        Steering::SynOnly => "this is about a new flow: an established one stays with the backend that it has, as long as that is one of its service's",
                        Steering::EveryPacket => "this is about each packet of the flow: with steering \"every-packet\" nothing is pinned",
                    }
                    .to_owned(),
                ];
                Answer {
                    steered: true,
                    service: Some(service.name.as_str()),
                    hash: Some(hash),
                    index: Some(index),
                    table_size: Some(service.table_size.get()),
                    rank: Some(rank),
                    backend: Some(backend),
                    mark: Some(mark.0),
                    number: Some(target.number()),
                    path: Some(view.path()),
                    decider: Some(decider),
                    device: view.device,
                    off_table: None,
                    owner: None,
                    reason: why.into_iter().chain(steered).collect(),
                    host: None,
                }
            }
            Decision::NoBackend { service } => {
                let service = &state.services[service];
                let all = service.backends.len();
                let empty = format!(
                    "none of its backends is active (of {all}); `lbctl activate --service {} BACKEND` changes that",
                    service.name
                );
                Answer {
                    service: Some(service.name.as_str()),
                    table_size: Some(service.table_size.get()),
                    reason: why.into_iter().chain([empty]).collect(),
                    ..Answer::default()
                }
            }
            Decision::NoService | Decision::Fragment { .. } => Answer { reason: why, ..Answer::default() },
        }
    }
}

fn print(env: &mut Env<'_>, answer: &Answer<'_>) -> Result<(), CtlError> {
    if let (Some(service), Some(backend)) = (answer.service, answer.backend) {
        let (mark, device) = (answer.mark.unwrap_or(0), answer.device.as_deref());
        let (path, device) = (
            answer.path.as_deref().unwrap_or(""),
            device.map_or_else(String::new, |d| format!(" through {d}")),
        );
        env.print(format_args!("service  {service}"))?;
        env.print(format_args!("backend  {backend}"))?;
        env.print(format_args!("path     {path}{device}"))?;
        env.print(format_args!("mark     {mark:#x} ({mark})"))?;
        if let Some(decider) = answer.decider {
            env.print(format_args!("decider  {decider}"))?;
        }
        env.print(format_args!("hash     {:#010x}", answer.hash.unwrap_or(0)))?;
        env.print(format_args!(
            "index    {} of {}",
            answer.index.unwrap_or(0),
            answer.table_size.unwrap_or(0)
        ))?;
    } else {
        env.print(format_args!("not steered"))?;
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

/// Warns if the kernel keeps such packets for this host itself, whatever was decided.
fn kept(snapshot: &Snapshot, question: &Question) -> Option<String> {
    snapshot.local(question.dst).map(|Local { kind, device, .. }| {
        format!(
            "{} is {kind} of this host, on {device}: its kernel keeps such packets, and no backend gets them (lbctl check)",
            question.dst
        )
    })
}

/// Returns by which claim the packet belongs to the service, and which other services it takes precedence
/// over.
fn matched(state: &State, question: &Question, by: &Match) -> String {
    let Match { service, vip, ports, before } = by;
    let ports = match ports {
        None => String::new(),
        Some(PortRange::ALL) => ", all ports".to_owned(),
        Some(ports) if ports.first == ports.last => format!(", port {ports}"),
        Some(ports) => format!(", ports {ports}"),
    };
    let name = |service: usize| &state.services[service].name;
    let before: Vec<String> =
        before.iter().map(|&(other, rule)| format!("{} ({})", name(other), rule.name())).collect();
    let before = if before.is_empty() { String::new() } else { format!(", before {}", before.join(", ")) };
    format!("{} belongs to service {}: {vip}{ports}{before}", question.destination(), name(*service))
}

/// Returns that no service claims the packet, and what those claim that have the address.
fn unclaimed(state: &State, question: &Question, here: &[usize]) -> Vec<String> {
    let mut reason = vec![question.unclaimed()];
    reason.extend(here.iter().map(|&service| {
        let service = &state.services[service];
        format!("service {} there claims {}", service.name, claim(&service.scope()))
    }));
    if here.is_empty() {
        reason.push(format!("{} is no service's address; `lbctl services` lists them", question.dst));
    }
    reason
}
