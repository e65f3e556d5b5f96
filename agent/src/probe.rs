//! What is sent to a backend, and what counts as an answer.
//!
//! A probe takes bytes of strangers, so each has limits: 100 headers of 64 KiB together and 64 KiB of a body
//! ([`http`]), one datagram ([`udp`], [`dns`], [`icmp`]), 4 KiB of output ([`exec`]), a line of 1 KiB ([`ask`]), and the check's
//! timeout for all of it. Redirections are not followed. A panic ends the probe, not the agent.
//!
//! What was found is a short line for the operator: "connection refused", "status 500", "no connection within 1000 ms".

mod agent;
pub mod dns;
pub mod exec;
pub mod http;
pub mod icmp;
mod reverse_path;
mod socket;
pub mod tcp;
pub mod tls;
pub mod udp;

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    time::Duration,
};

use futures_util::{FutureExt as _, future::join_all};
use synrail::{
    control::{
        agent_reports::{Answer, Ask},
        health::{Job, Outcome},
    },
    model::{Name, OuterAddresses, Probe, Remark, ids::Mark},
};
use tokio::time::timeout;

use reverse_path::ReversePath;
use tls::Trust;

/// What probes need to know of this host, read when it is needed.
#[derive(Clone, Debug, Default)]
pub struct Host {
    trust: Trust,
    reverse_path: ReversePath,
}

/// What a probe found, in words.
pub type Found = Result<String, Failed>;

/// Why a probe did not succeed, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It is the backend's.
    Backend(String),
    /// It is this host's: of the backend nothing was found.
    Host(String),
}

impl From<String> for Failed {
    fn from(reason: String) -> Self {
        Self::Backend(reason)
    }
}

impl From<&str> for Failed {
    fn from(reason: &str) -> Self {
        Self::Backend(reason.to_owned())
    }
}

/// One destination of a check.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where to.
    pub to: SocketAddr,
    /// The address of this host that it is sent from, if that matters.
    pub from: Option<IpAddr>,
    /// The mark of the packets.
    pub mark: Option<Mark>,
    /// How long it may take.
    pub timeout: Duration,
    /// A service of the backend, and the backend.
    pub names: (Name, Name),
    /// What is waited for, for the reason if that takes too long.
    step: Cell<&'static str>,
}

impl Target {
    /// Returns a destination of a job.
    #[must_use]
    pub fn of(job: &Job, to: SocketAddr) -> Self {
        Self::new(to, (job.mark, job.from), job.timeout, job.names.clone())
    }

    fn new(
        to: SocketAddr,
        (mark, from): (Option<Mark>, OuterAddresses),
        timeout: Duration,
        names: (Name, Name),
    ) -> Self {
        // Packets through a tunnel have the source that the routing rules of checks look for. Others have what the
        // kernel chooses.
        let from = mark.and_then(|_| from.like(to.ip()));
        Self { to, from, mark, timeout, names, step: Cell::new("answer") }
    }

    /// Says what is waited for from now on.
    fn wait_for(&self, what: &'static str) {
        self.step.set(what);
    }
}

/// Runs a check. Every destination must answer.
pub async fn run(job: &Job, host: &Host) -> Outcome {
    let found = join_all(job.to.iter().map(|to| probe(job, *to, host))).await;
    let (mut said, mut not_made) = (None, None);
    for (to, found) in job.to.iter().zip(found) {
        let named = |reason| if job.to.len() > 1 { format!("{}: {reason}", to.ip()) } else { reason };
        match found {
            Ok(reason) => said = said.or(Some(reason)),
            Err(Failed::Backend(reason)) => return Outcome::Failed(remark(&named(reason))),
            Err(Failed::Host(reason)) => not_made = not_made.or(Some(named(reason))),
        }
    }
    if let Some(reason) = not_made {
        return Outcome::NotMade(remark(&reason));
    }
    Outcome::Succeeded(remark(&said.unwrap_or_else(|| "nothing to ask".to_owned())))
}

async fn probe(job: &Job, to: SocketAddr, host: &Host) -> Found {
    let target = Target::of(job, to);
    let probe = async {
        match &job.probe {
            Probe::Tcp => tcp::probe(&target).await,
            Probe::Http(probe) => http::probe(&target, probe).await,
            Probe::Https(probe) => tls::probe(&target, probe, &host.trust).await,
            Probe::Udp(probe) => udp::probe(&target, probe).await,
            Probe::Dns(probe) => dns::probe(&target, probe).await,
            Probe::Icmp => icmp::probe(&target).await,
            Probe::Exec(probe) => exec::probe(&target, probe).await,
        }
    };
    limited(&target, host, probe).await
}

/// Asks the agent on a backend. Why there is no answer does not matter to it: it changes nothing.
pub async fn ask(ask: &Ask, host: &Host) -> Answer {
    let target = Target::new(ask.to, (ask.mark, ask.from), ask.timeout, ask.names.clone());
    match limited(&target, host, agent::ask(&target, &ask.send)).await {
        Ok(words) => Answer::Words(words),
        Err(Failed::Backend(reason) | Failed::Host(reason)) => Answer::Nothing(remark(&reason)),
    }
}

/// Runs a probe until its timeout.
async fn limited<T>(
    target: &Target,
    host: &Host,
    probe: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    match AssertUnwindSafe(timeout(target.timeout, probe)).catch_unwind().await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) => {
            let late = format!("no {} within {} ms", target.step.get(), target.timeout.as_millis());
            let why = host.reverse_path.drops(target).map_or_else(String::new, |why| format!(" ({why})"));
            Err(Failed::Backend(late + &why))
        }
        Err(_) => Err(Failed::Host("an error in lbagent ended the check; its log says more".to_owned())),
    }
}

/// Makes a line for the region of what may have words of a backend.
fn remark(text: &str) -> Remark {
    Remark::cleaned(text).or_else(|| Remark::new("no reason given")).expect("a short line")
}

/// Returns a number that others cannot guess.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0_u8)
}

/// Reports whether `bytes` contain `text`.
fn contains(bytes: &[u8], text: &[u8]) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text)
}

#[cfg(test)]
mod tests;
