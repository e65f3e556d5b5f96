//! `tracer send`: sends a probe to ask the balancers on the way what happens to such a packet. It needs no
//! region: it prints what balancers report ([`crate::balance::tracer`]).

use std::{collections::HashMap, io, net::IpAddr, time::Duration};

use serde::Serialize;

use super::{Env, Status, args::TracerSendArguments, batch, error::CtlError, text::count};
use crate::{
    balance::tracer::{By, Entry, Nonce, Pinned, Trace},
    model::{Protocol, Steering},
    packet::Probe,
    status::{
        question::{Question, looked_up},
        words::duration,
    },
};

/// How many headers can be traced at a time.
const HEADERS_MAX: usize = 100_000;
/// How many reports about one header are kept.
const REPORTS_MAX: usize = 64;
/// How many datagrams that have already arrived are read after the time is over; a sender of more is no
/// balancer.
const LATE_MAX: u32 = 1024;
/// How often a batch prints its progress.
const PROGRESS: Duration = Duration::from_secs(1);

/// A header, and the reports about it.
struct Traced {
    question: Question,
    protocol: Protocol,
    /// The address to which reports were to be sent.
    receiver: Option<IpAddr>,
    reports: Vec<Trace>,
}

/// What `--json` prints about one header.
#[derive(Serialize)]
struct Answer<'a> {
    protocol: &'static str,
    source: IpAddr,
    source_port: u16,
    destination: IpAddr,
    destination_port: u16,
    /// One report from each balancer that got the probe, in the order of arrival.
    reports: &'a [Trace],
}

/// `lbctl tracer send PROTO SRC SPORT DST DPORT`, and `--batch FILE`.
pub(super) fn send(env: &mut Env<'_>, json: bool, args: &TracerSendArguments) -> Result<Status, CtlError> {
    let mut traced = headers(env, args)?;
    ask(env, &mut traced, args)?;
    for one in &traced {
        if json {
            env.json(&one.answer())?;
        } else {
            one.print(env, args.batch.is_some())?;
        }
    }
    let untraced: Vec<&Traced> = traced.iter().filter(|one| one.reports.is_empty()).collect();
    match untraced[..] {
        [] => Ok(Status::Done),
        [first, ..] => Err(CtlError::Untraced(hints(first, untraced.len(), traced.len()))),
    }
}

fn headers(env: &mut Env<'_>, args: &TracerSendArguments) -> Result<Vec<Traced>, CtlError> {
    let mut all = Vec::new();
    let mut take = |question: Question| {
        let protocol = question.named().ok_or_else(|| {
            CtlError::Usage(format!("protocol {}: a probe is tcp, udp or sctp", question.protocol))
        })?;
        if all.len() >= HEADERS_MAX {
            return Err(CtlError::Usage(format!("more than {HEADERS_MAX} headers: trace them in parts")));
        }
        all.push(Traced { question, protocol, receiver: args.receiver, reports: Vec::new() });
        Ok(())
    };
    match &args.batch {
        Some(file) => batch::each(&mut *env.input, file, take)?,
        None => {
            let words: Vec<&str> = args.flow.iter().map(String::as_str).collect();
            take(Question::parse(&words).map_err(CtlError::Usage)?)?;
        }
    }
    Ok(all)
}

/// Sends a probe for each header, at even intervals, and collects reports until `--wait` after the last one.
fn ask(env: &mut Env<'_>, traced: &mut [Traced], args: &TracerSendArguments) -> Result<(), CtlError> {
    let interval = Duration::from_secs(1) / args.per_second;
    let mut heard = Heard { by_nonce: HashMap::new(), answered: 0 };
    let (mut due, mut said) = (env.prober.now(), env.prober.now());
    for sent in 0..traced.len() {
        heard.listen(env, traced, due)?;
        let now = env.prober.now();
        if args.batch.is_some() && now.saturating_sub(said) >= PROGRESS {
            said = now;
            env.progress(format_args!("{sent} of {} probes sent, {} answered", traced.len(), heard.answered));
        }
        // Lost time is not made up for: never are more probes sent in a second than were requested.
        due = due.max(now) + interval;
        let probe = probe(env, &mut traced[sent])?;
        heard.by_nonce.insert(Nonce(probe.nonce), sent);
        let dst = probe.addresses.destination();
        env.prober
            .send(dst, &probe.bytes())
            .map_err(|error| CtlError::Probing { doing: format!("sending a probe to {dst}"), error })?;
    }
    let end = env.prober.now() + Duration::from_millis(args.wait);
    heard.listen(env, traced, end)?;
    if args.batch.is_some() {
        let reports: usize = traced.iter().map(|one| one.reports.len()).sum();
        env.progress(format_args!(
            "{} sent, {} answered, {}",
            count(traced.len(), "probe"),
            heard.answered,
            count(reports, "report")
        ));
    }
    Ok(())
}

/// Returns the probe for a header. From now on its reports are received.
fn probe(env: &mut Env<'_>, of: &mut Traced) -> Result<Probe, CtlError> {
    let failed = |doing: String| move |error: io::Error| CtlError::Probing { doing, error };
    let Question { dst, ports, packet, .. } = of.question;
    let receiver = match of.receiver {
        Some(receiver) => receiver,
        None => {
            let towards = env.prober.address_towards(dst);
            towards.map_err(failed(format!("finding this host's address towards {dst}")))?
        }
    };
    of.receiver = Some(receiver);
    Ok(Probe {
        addresses: packet.addresses,
        protocol: of.protocol,
        ports,
        receiver: env.prober.listen(receiver).map_err(failed(format!("listening at {receiver}")))?,
        nonce: env.prober.nonce().map_err(failed("drawing a random number".to_owned()))?,
        ttl: Probe::TTL,
    })
}

/// The reports received so far.
struct Heard {
    by_nonce: HashMap<Nonce, usize>,
    /// How many headers have at least one report.
    answered: usize,
}

impl Heard {
    /// Receives reports until `end`, and those that have arrived by then. Ignores datagrams that are no
    /// report about one of the headers.
    fn listen(&mut self, env: &mut Env<'_>, traced: &mut [Traced], end: Duration) -> Result<(), CtlError> {
        let mut late = 0;
        loop {
            let left = end.saturating_sub(env.prober.now());
            late += u32::from(left.is_zero());
            let doing = || "hearing reports".to_owned();
            let datagram =
                env.prober.receive(left).map_err(|error| CtlError::Probing { doing: doing(), error })?;
            if left.is_zero() && (datagram.is_none() || late >= LATE_MAX) {
                return Ok(());
            }
            let Some(Ok(report)) = datagram.map(|bytes| serde_json::from_slice::<Trace>(&bytes)) else {
                continue;
            };
            let Some(&of) = self.by_nonce.get(&report.nonce) else { continue };
            let reports = &mut traced[of].reports;
            self.answered += usize::from(reports.is_empty());
            if reports.len() < REPORTS_MAX {
                reports.push(report);
            }
        }
    }
}

impl Traced {
    fn answer(&self) -> Answer<'_> {
        let Question { src, dst, ports, .. } = self.question;
        Answer {
            protocol: self.protocol.name(),
            source: src,
            source_port: ports.src,
            destination: dst,
            destination_port: ports.dst,
            reports: &self.reports,
        }
    }

    /// Returns the header as it was requested.
    fn header(&self) -> String {
        let Question { src, dst, ports, .. } = &self.question;
        format!("{} {src} {} {dst} {}", self.protocol.name(), ports.src, ports.dst)
    }

    /// Prints a line for each report. If there is only one header, also prints how the balancer decided.
    fn print(&self, env: &mut Env<'_>, batch: bool) -> Result<(), CtlError> {
        for report in &self.reports {
            let service = report.service.as_ref().map_or("-", |name| name.as_str());
            let backend = report.backend.as_ref().map_or("-", |name| name.as_str());
            let header = if batch { self.header() + "  " } else { String::new() };
            let (balancer, sentence) = (&report.balancer, self.sentence(report));
            env.print(format_args!("{header}{balancer}  {service}  {backend}  {sentence}"))?;
            if !batch {
                for reason in self.reasons(report) {
                    env.print(format_args!("    {reason}"))?;
                }
            }
        }
        Ok(())
    }

    /// Returns what happens to such packets.
    fn sentence(&self, report: &Trace) -> String {
        let tcp = self.protocol == Protocol::Tcp;
        let new = match report.steering {
            Steering::EveryPacket => "every packet like it",
            Steering::SynOnly if tcp => "a new connection",
            Steering::SynOnly => "a new flow",
        };
        let table = match (&report.table, &report.service) {
            (Some(Entry { backend, of_service: Some(other), .. }), Some(service)) => format!(
                "{new} goes to {backend} of service {other}, as {service} has no active backend of its own"
            ),
            (Some(Entry { backend, .. }), _) => format!("{new} goes to {backend}, as the table says"),
            (None, Some(service)) => {
                let refused = if report.rejected { "rejected" } else { "dropped" };
                format!("{new} is {refused}: {service} has no active backend")
            }
            (None, None) => format!("{new} is dropped: {}", self.question.unclaimed()),
        };
        let pinned = match &report.pinned {
            Some(pinned) => format!("; the one in place is pinned to {}", pinned_to(pinned)),
            None if report.steering == Steering::EveryPacket => "; no flow is pinned there".to_owned(),
            None if report.conntrack => "; none is in place here".to_owned(),
            None => "; connection tracking could not be asked".to_owned(),
        };
        let wins = if report.by == By::Pin { ", and this packet follows it" } else { "" };
        format!("{table}{pinned}{wins}")
    }

    /// Returns how the balancer decided.
    fn reasons(&self, report: &Trace) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Some(Entry { backend, hash_mode, seed, hash, index, table_size, rank, active, .. }) =
            &report.table
        {
            reasons.push(self.question.hashed(*hash_mode, *seed, *hash));
            reasons.push(looked_up(*hash, *table_size, *index, backend.as_str(), *rank, *active));
        }
        let device = report.device.as_ref().map_or("a device that is gone", |name| name.as_str());
        reasons.push(format!(
            "it came in by {device} with TTL {}, and generation {} is in force there",
            report.ttl, report.generation
        ));
        reasons
    }
}

fn pinned_to(pinned: &Pinned) -> String {
    let backend = match &pinned.backend {
        Some(backend) => backend.to_string(),
        None => format!("target {}", pinned.target),
    };
    match pinned.left_seconds {
        Some(left) => format!("{backend} for another {}", duration(left.into())),
        None => backend,
    }
}

/// Returns what to check if no balancer has reported.
fn hints(first: &Traced, untraced: usize, all: usize) -> String {
    let Question { src, dst, .. } = first.question;
    let which = match (untraced, all) {
        (_, 1) => format!("no balancer has reported about {}", first.header()),
        _ => format!(
            "no balancer has reported about {untraced} of {all} headers, the first: {}",
            first.header()
        ),
    };
    let receiver = first.receiver.map_or_else(String::new, |receiver| receiver.to_string());
    format!(
        "{which}\n\
         is {dst} a VIP, and is it routed from here to a balancer?  `ip route get {dst}`, `lbctl services` there\n\
         did it come by one of `interfaces` there, or by GRE that `gre_in` takes (no key, no checksum)?  what comes by \
         GRE for no VIP is counted in not_for_vip\n\
         does lbd run there?  else the ruleset's counter probe_unanswered of `lbctl stats` grows\n\
         does [tracer] receivers there contain {receiver}?  else probes_refused grows\n\
         were there too many probes in a second?  then probe_limited grows: use a smaller --per-second\n\
         does a router on the way drop packets from {src} that come from here, or UDP on its way back?"
    )
}
