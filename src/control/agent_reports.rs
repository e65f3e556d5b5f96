//! Which agent on a backend is asked when (HAProxy's `agent-check`), and when what it reports comes into force. PURE: a state,
//! answers and the time in, jobs and reports out, as for checks ([`super::health`]).
//!
//! An agent that is asked in the same way for backends of several services is asked once. What it does not say stays as it
//! was, and so does everything while it does not answer: that alone takes nothing from a backend. An agent can only lower: what an
//! operator has taken out stays out.
//!
//! Each change of a weight makes new tables, which moves entries. So what takes a backend out (`0%`, `drain`, `maint`, `down` and its kin)
//! comes into force at once, and all else, that an agent does not answer too, for all agents together at most once in [`SPACING`]: agents
//! that say something else each time cost no more than that. A weight changes in steps, and when it is a whole step away
//! ([`Percent::followed_by`]).

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    agent_line::Words,
    health::{jittered, splitmix},
};
use crate::{
    model::{
        AgentCheck, AgentHealth, AgentMode, HealthCheck, Name, OuterAddresses, Path, Percent, Remark,
        Reported, Silent,
        ids::{Mark, TargetId},
    },
    state::{Report, Service, State},
};

/// How many agents are asked at once; further ones wait until one has ended.
pub const RUNNING_MAX: usize = 128;
/// The time between two changes that are not urgent.
pub const SPACING: Duration = Duration::from_secs(10);

/// What makes two agents the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    target: TargetId,
    to: SocketAddr,
    check: AgentCheck,
    timeout_ms: u32,
    jitter_percent: u8,
    fall: u8,
}

/// The number of an agent, for as long as it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentId(u64);

/// An agent that is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// For [`Agents::finished`].
    pub id: AgentId,
    /// Where it listens.
    pub to: SocketAddr,
    /// What is sent first.
    pub send: String,
    /// The mark that leads through the backend's tunnel; `None` to send it as any other packet.
    pub mark: Option<Mark>,
    /// The addresses that it is sent from with a mark, where there is one of the family.
    pub from: OuterAddresses,
    /// How long all of it may take.
    pub timeout: Duration,
    /// A service of the backend, and the backend.
    pub names: (Name, Name),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A line with words.
    Words(Words),
    /// Nothing that counts, and why.
    Nothing(Remark),
}

/// What is in force has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Every service that has the backend, and its name there.
    pub names: Vec<(Name, Name)>,
    /// What was; `None` if nothing was known.
    pub from: Option<Reported>,
    /// What is now.
    pub to: Reported,
}

/// The last answer of an agent, for people: the backends, what came, and how long it took.
pub type AgentView<'a> = (&'a [(Name, Name)], &'a Answer, Duration);

#[derive(Debug)]
struct Agent {
    identity: Identity,
    mark: Option<Mark>,
    names: Vec<(Name, Name)>,
    /// What it says; of this, the times do not matter.
    says: Reported,
    /// What of it is in force; `None` until something is.
    holds: Option<Reported>,
    /// How often in a row it did not answer.
    failures: u8,
    /// When it is asked next, or when the asking that goes on began.
    at: Duration,
    running: bool,
    last: Option<(Answer, Duration)>,
}

/// All agents. Times are since one fixed moment, and never go back.
#[derive(Debug)]
pub struct Agents {
    agents: HashMap<AgentId, Agent>,
    ids: HashMap<Identity, AgentId>,
    /// Those that are not asked just now, by the time when they are next.
    waiting: BTreeSet<(Duration, AgentId)>,
    /// Those of which not all that they say is in force.
    unsettled: BTreeSet<AgentId>,
    /// When such things last came into force.
    settled: Option<Duration>,
    from: OuterAddresses,
    next_id: u64,
    random: u64,
    running: usize,
}

impl Agents {
    /// Without agents. `seed` differs between balancers, so that they do not ask at once.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            agents: HashMap::new(),
            ids: HashMap::new(),
            waiting: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            settled: None,
            from: OuterAddresses::default(),
            next_id: 0,
            random: seed,
            running: 0,
        }
    }

    /// Goes on with the agents of this state. Those that it does not have are asked no more.
    pub fn update(&mut self, state: &State, now: Duration) {
        self.from = state.balancer.address;
        self.agents.values_mut().for_each(|agent| agent.names.clear());
        for service in &state.services {
            let Some(health @ HealthCheck { agent: Some(check), .. }) = &service.health else { continue };
            for backend in &service.backends {
                let mark = state.balancer.mark_mask.mark(backend.target);
                let Some((to, mark)) = destination(service, check, state.path(backend.target), mark) else {
                    continue;
                };
                let identity = Identity {
                    target: backend.target,
                    to,
                    check: check.clone(),
                    timeout_ms: health.timeout_ms,
                    jitter_percent: health.jitter_percent,
                    fall: health.fall,
                };
                let name = (service.name.clone(), backend.name.clone());
                if let Some(agent) = self.ids.get(&identity).and_then(|id| self.agents.get_mut(id)) {
                    agent.names.push(name);
                    // The first of its services may be one that was not asked for before.
                    if agent.holds.is_none() && agent.last.is_none() {
                        agent.knows(backend.reported.as_ref());
                    }
                    continue;
                }
                // What is known can wait for its turn.
                let wait = match backend.reported {
                    Some(_) => splitmix(&mut self.random) % u64::from(check.interval_ms),
                    None => 0,
                };
                let (id, at) = (AgentId(self.next_id), now + Duration::from_millis(wait));
                self.next_id += 1;
                self.ids.insert(identity.clone(), id);
                self.waiting.insert((at, id));
                let mut agent = Agent {
                    identity,
                    mark,
                    names: vec![name],
                    says: Reported::nothing(Timestamp::UNIX_EPOCH),
                    holds: None,
                    failures: 0,
                    at,
                    running: false,
                    last: None,
                };
                agent.knows(backend.reported.as_ref());
                self.agents.insert(id, agent);
            }
        }
        let Self { agents, ids, waiting, unsettled, running, .. } = self;
        agents.retain(|id, agent| {
            let stays = !agent.names.is_empty();
            if !stays {
                ids.remove(&agent.identity);
                waiting.remove(&(agent.at, *id));
                unsettled.remove(id);
                *running -= usize::from(agent.running);
            }
            stays
        });
    }

    /// Returns an agent that is due, and counts it as being asked; the one that waits longest comes first.
    pub fn next(&mut self, now: Duration) -> Option<Ask> {
        let &(at, id) = self.waiting.first().filter(|(at, _)| *at <= now && self.running < RUNNING_MAX)?;
        self.waiting.remove(&(at, id));
        let agent = self.agents.get_mut(&id)?;
        (agent.running, agent.at) = (true, now);
        self.running += 1;
        Some(Ask {
            id,
            to: agent.identity.to,
            send: agent.identity.check.send.clone(),
            mark: agent.mark,
            from: self.from,
            timeout: Duration::from_millis(agent.identity.timeout_ms.into()),
            names: agent.names.first()?.clone(),
        })
    }

    /// Returns how long nothing is due, neither to be asked nor to come into force; `None` until something changes.
    #[must_use]
    pub fn timeout(&self, now: Duration) -> Option<Duration> {
        let ask = self.waiting.first().filter(|_| self.running < RUNNING_MAX).map(|(at, _)| *at);
        let settle = (!self.unsettled.is_empty()).then(|| self.settles_at());
        [ask, settle].into_iter().flatten().min().map(|at| at.saturating_sub(now))
    }

    fn settles_at(&self) -> Duration {
        self.settled.map_or(Duration::ZERO, |settled| settled + SPACING)
    }

    /// Takes an answer. `time` is the calendar's. Returns what of it comes into force at once; the rest is for
    /// [`Agents::settle`].
    pub fn finished(&mut self, id: AgentId, answer: Answer, now: Duration, time: Timestamp) -> Option<Turn> {
        let agent = self.agents.get_mut(&id).filter(|agent| agent.running)?;
        let Identity { check: AgentCheck { interval_ms, .. }, jitter_percent, .. } = agent.identity;
        let wait = jittered(interval_ms, jitter_percent, &mut self.random);
        let began = agent.at;
        agent.running = false;
        self.running -= 1;
        agent.at = (began + wait).max(now);
        self.waiting.insert((agent.at, id));
        agent.last = Some((answer.clone(), now.saturating_sub(began)));
        let turn = agent.takes(answer, time);
        if agent.is_settled() {
            self.unsettled.remove(&id);
        } else {
            self.unsettled.insert(id);
        }
        turn
    }

    /// Puts into force what is not urgent, if it is time for that. Returns what it changes.
    pub fn settle(&mut self, now: Duration, time: Timestamp) -> Vec<Turn> {
        if self.unsettled.is_empty() || now < self.settles_at() {
            return Vec::new();
        }
        self.settled = Some(now);
        let ids = std::mem::take(&mut self.unsettled);
        let settle = |id| {
            let agent = self.agents.get_mut(&id)?;
            agent.hold(agent.says.clone(), time)
        };
        ids.into_iter().filter_map(settle).collect()
    }

    /// Returns what is in force and the state does not have.
    #[must_use]
    pub fn reports(&self, state: &State) -> Vec<Report> {
        let mut reports = Vec::new();
        for agent in self.agents.values() {
            let Some(holds) = &agent.holds else { continue };
            for (service, backend) in &agent.names {
                let has = state
                    .service(service.as_str())
                    .and_then(|service| service.backends.iter().find(|one| one.name == *backend));
                if has.is_some_and(|has| has.reported.as_ref().map(parts) != Some(parts(holds))) {
                    let (service, backend) = (service.clone(), backend.clone());
                    reports.push(Report { service, backend, reported: holds.clone() });
                }
            }
        }
        reports.sort_by(|a, b| (&a.service, &a.backend).cmp(&(&b.service, &b.backend)));
        reports
    }

    /// Returns how many agents there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.agents.len()
    }

    /// Reports whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty()
    }

    /// Returns every agent that was asked.
    pub fn iter(&self) -> impl Iterator<Item = AgentView<'_>> {
        self.agents.values().filter_map(|agent| {
            let (answer, took) = agent.last.as_ref()?;
            Some((&agent.names[..], answer, *took))
        })
    }
}

impl Agent {
    /// Begins with what the region has of it.
    fn knows(&mut self, reported: Option<&Reported>) {
        if let Some(reported) = reported {
            (self.says, self.holds) = (reported.clone(), Some(reported.clone()));
        }
    }

    fn takes(&mut self, answer: Answer, time: Timestamp) -> Option<Turn> {
        let mut next = self.holds.clone().unwrap_or_else(|| Reported::nothing(time));
        match answer {
            Answer::Nothing(reason) => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= self.identity.fall && self.says.silent.is_none() {
                    self.says.silent = Some(Silent { since: time, reason });
                }
                None
            }
            Answer::Words(words) => {
                self.failures = 0;
                let says = &mut self.says;
                says.silent = None;
                if let Some(percent) = words.weight_percent {
                    says.weight_percent = match &self.holds {
                        Some(holds) => holds.weight_percent.followed_by(percent),
                        None => Percent::nearest(percent.into()),
                    };
                }
                says.mode = words.mode.unwrap_or(says.mode);
                says.health = words.health.unwrap_or(says.health);
                says.reason = words.reason;
                if says.weight_percent == Percent::NONE {
                    next.weight_percent = says.weight_percent;
                }
                if next.mode == AgentMode::Ready {
                    next.mode = says.mode;
                }
                if next.health == AgentHealth::Up {
                    next.health = says.health;
                }
                // The first words are no two changes.
                if self.holds.is_none() && !next.lowers() && self.says.lowers() {
                    return None;
                }
                self.hold(next, time)
            }
        }
    }

    /// Puts it into force, if it is anything new. Another reason alone is not: it may be another one each time.
    fn hold(&mut self, next: Reported, time: Timestamp) -> Option<Turn> {
        let from = self.holds.take();
        let same = from.as_ref().is_some_and(|from| words(from) == words(&next));
        // What keeps the backend out goes on, with another weight.
        let goes_on = |from: &&Reported| {
            (from.mode, from.health) == (next.mode, next.health)
                && (from.is_down() || from.mode != AgentMode::Ready)
        };
        let former = from.as_ref().filter(|from| same || goes_on(from));
        let since = former.map_or(time, |from| from.since);
        let said = self.says.reason.clone().filter(|_| !same);
        let reason = said.or_else(|| former?.reason.clone());
        let to = Reported { since, reason, ..next };
        self.holds = Some(to.clone());
        (from.as_ref().map(parts) != Some(parts(&to))).then(|| Turn { names: self.names.clone(), from, to })
    }

    fn is_settled(&self) -> bool {
        self.holds.as_ref().map_or(!self.says.is_notable(), |holds| parts(holds) == parts(&self.says))
    }
}

/// What an agent says, without why and since when.
fn words(of: &Reported) -> (Percent, AgentMode, AgentHealth) {
    (of.weight_percent, of.mode, of.health)
}

/// What a region must have.
fn parts(of: &Reported) -> ((Percent, AgentMode, AgentHealth), bool) {
    (words(of), of.silent.is_some())
}

/// Returns where the agent on a backend listens: at the backend's own address, or if that has none at a VIP, through its
/// tunnel.
fn destination(
    service: &Service,
    check: &AgentCheck,
    path: Option<Path>,
    mark: Mark,
) -> Option<(SocketAddr, Option<Mark>)> {
    let at = |address: IpAddr| SocketAddr::new(address, check.port.get());
    match path? {
        Path::Via(_, address) => Some((at(address), None)),
        Path::MarkOnly => service.vips.first().map(|vip| (at(vip.addr()), Some(mark))),
    }
}

#[cfg(test)]
mod tests;
