//! From facts to a decision. PURE: never reads a clock, never sees a socket.
//!
//! [`Balancer::handle`] is the function to read first. It takes the bytes of a packet, counts it and returns
//! a [`Verdict`]. It decides with a [`Forwarding`], which is made once from a [`State`] and is then only
//! read. The steps are: classify (which service), hash (the kernel's `jhash`), look up (the Maglev table).
//! The result is the backend's mark.

pub mod counters;
pub mod flow_table;
pub mod fragments;
pub mod pins;
pub mod tier;
pub mod tracer;
pub mod watch;

use std::time::Duration;

use crate::{
    config::{FragmentLimits, Timeouts, TracerSettings},
    lookup::{
        classifier::{Classifier, Conflict, Scope},
        maglev::Table,
    },
    model::{
        Admin, HashMode, Name, OnDown, Steering,
        ids::{Generation, Mark, MarkMask, TargetId},
    },
    packet::{self, L4, Packet, jhash, key},
    state::{NewFlows, State},
};
use counters::{Counter, Counters};
use pins::OffTable;
use tier::Tier;

/// What is to be done with a queued packet. The caller must do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Accept it with this mark, which routes it to the target.
    Steer(Mark),
    /// Accept the packet unchanged: it is not for a virtual address, so a rule of another program has sent it
    /// here.
    Pass,
    /// Drop it.
    Drop,
}

/// A decision with its reasons, as `lbctl which` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A backend was chosen.
    Steered {
        /// Index of the service.
        service: usize,
        /// The flow hash.
        hash: u32,
        /// Index into the service's Maglev table.
        index: u32,
        /// Rank of the backend among those that get new flows of the service ([`State::serving`]).
        rank: u16,
        /// The target that the packet goes to.
        target: TargetId,
        /// The mark that leads there.
        mark: Mark,
    },
    /// No service claims the packet.
    NoService,
    /// A later fragment, whose ports are not known.
    Fragment {
        /// Whether an ICMP error quotes it.
        quoted: bool,
    },
    /// No backend gets new flows of the service.
    NoBackend {
        /// Index of the service.
        service: usize,
    },
}

impl Decision {
    /// Returns where the packet goes, or the reason for dropping it.
    fn outcome(self) -> Result<(TargetId, Mark), Counter> {
        match self {
            Self::Steered { target, mark, .. } => Ok((target, mark)),
            Self::NoService => Err(Counter::DropNoService),
            Self::Fragment { quoted: false } => Err(Counter::DropFragment),
            Self::Fragment { quoted: true } => Err(Counter::DropIcmpQuote),
            Self::NoBackend { .. } => Err(Counter::DropNoBackend),
        }
    }
}

/// One generation of the state, prepared for deciding.
#[derive(Clone, Debug)]
pub struct Forwarding {
    generation: Generation,
    seed: u32,
    classifier: Classifier,
    services: Vec<Lookup>,
    /// Whether a backend is disabled, or down.
    ends_any: bool,
    last_kill: u64,
    tier: Tier,
    steering: Steering,
    fragments: FragmentLimits,
    timeouts: Timeouts,
    mark_mask: MarkMask,
    busy_poll: Duration,
    /// Which targets are in use, by [`TargetId::index`]. Flows may be pinned to these.
    in_use: Vec<bool>,
    /// The name of this balancer.
    balancer: Name,
    tracer: TracerSettings,
}

/// A service's table, and what its entries mean.
#[derive(Clone, Debug)]
struct Lookup {
    hash: HashMode,
    table: Table,
    /// The mark and target of each backend that gets new flows, by rank.
    backends: Vec<(Mark, TargetId)>,
    /// The service's name.
    name: Name,
    /// The names of its backends: the active ones by rank, then the others.
    named: Vec<(TargetId, Name)>,
    /// The targets that its flows may be pinned to, ascending: those of its backends, and of `stand_in`.
    targets: Vec<TargetId>,
    /// Index of the service that its `no_backend` names.
    stand_in: Option<usize>,
    /// Index of the service whose backends get its new flows, unless that is itself.
    served_by_other: Option<usize>,
    /// Whether its new flows are rejected.
    rejected: bool,
    /// The targets of disabled backends, ascending.
    disabled: Vec<TargetId>,
    /// The targets of backends that are down, ascending, and what their checks say of their flows.
    down: Vec<(TargetId, Option<OnDown>)>,
    /// Targets whose flows an operator has ended, and when.
    killed: Vec<(TargetId, u64)>,
}

impl Lookup {
    /// Whether flows of this service and `protocol` that go to `target` are to be ended: it is disabled, or down and
    /// its check says so, or there was a kill after `since`.
    fn ends(&self, target: TargetId, protocol: u8, since: u64) -> bool {
        let down = self.down.binary_search_by_key(&target, |(target, _)| *target);
        self.disabled.binary_search(&target).is_ok()
            || down.is_ok_and(|at| OnDown::of(self.down[at].1, protocol) == OnDown::Kill)
            || self.killed.iter().any(|&(killed, when)| killed == target && when > since)
    }
}

impl Forwarding {
    /// Prepares a state for deciding. Tables are shared with the state, not copied.
    ///
    /// # Errors
    /// When two services claim the same packets (a state made from a configuration never has such services).
    pub fn new(state: &State, generation: Generation) -> Result<Self, Conflict> {
        let scopes: Vec<Scope<'_>> = state.services.iter().map(crate::state::Service::scope).collect();
        let mask = state.balancer.mark_mask;
        let lookup = |service: &crate::state::Service| {
            let stand_in = state.stand_in(service);
            let new_flows = state.new_flows(service);
            // The backends that its flows may be pinned to: its own, and those of the stand-in with other targets.
            let is_own = |other: &&crate::state::Backend| {
                service.backends.iter().any(|backend| backend.target == other.target)
            };
            let others = stand_in.map_or(&[][..], |other| &other.backends);
            let pinned = || service.backends.iter().chain(others.iter().filter(move |other| !is_own(other)));
            let is_taken_over = state.serving(service).next().is_some();
            let index = |other: &crate::state::Service| {
                state.services.iter().position(|known| known.name == other.name)
            };
            Lookup {
                hash: service.hash,
                table: service.table.clone(),
                backends: state
                    .serving(service)
                    .map(|backend| (mask.mark(backend.target), backend.target))
                    .collect(),
                name: service.name.clone(),
                targets: {
                    let mut targets: Vec<_> = pinned().map(|backend| backend.target).collect();
                    targets.sort_unstable();
                    targets
                },
                disabled: {
                    let backends = pinned().filter(|backend| backend.admin() == Admin::Disabled);
                    let mut disabled: Vec<_> = backends.map(|backend| backend.target).collect();
                    disabled.sort_unstable();
                    disabled
                },
                // If no other backend takes new flows, those that there are stay.
                down: {
                    let of_others = stand_in.into_iter().flat_map(crate::state::Service::down);
                    let of_others = of_others.filter(|(backend, _)| !is_own(backend));
                    let all = service.down().chain(of_others).filter(|_| is_taken_over);
                    let mut down: Vec<_> = all.map(|(backend, on_down)| (backend.target, on_down)).collect();
                    down.sort_unstable_by_key(|(target, _)| *target);
                    down
                },
                killed: {
                    let killed = pinned().filter(|backend| backend.killed > 0);
                    killed.map(|backend| (backend.target, backend.killed)).collect()
                },
                named: {
                    let all = service.active().chain(service.inactive());
                    all.map(|backend| (backend.target, backend.name.clone())).collect()
                },
                stand_in: stand_in.and_then(index),
                served_by_other: stand_in.and_then(index).filter(|_| matches!(new_flows, NewFlows::Other(_))),
                rejected: new_flows == NewFlows::Rejected,
            }
        };
        let services: Vec<Lookup> = state.services.iter().map(lookup).collect();
        Ok(Self {
            generation,
            ends_any: services.iter().any(|of| !(of.disabled.is_empty() && of.down.is_empty())),
            last_kill: services.iter().flat_map(|of| &of.killed).map(|(_, when)| *when).max().unwrap_or(0),
            seed: state.balancer.hash_seed,
            classifier: Classifier::new(&scopes)?,
            services,
            tier: Tier::new(state),
            busy_poll: Duration::from_micros(state.balancer.busy_poll_us.into()),
            steering: state.balancer.steering,
            fragments: state.balancer.fragments,
            timeouts: state.balancer.timeouts,
            mark_mask: mask,
            in_use: state.targets.iter().map(Option::is_some).collect(),
            balancer: state.balancer.name.clone(),
            tracer: state.balancer.tracer.clone(),
        })
    }

    /// Returns the generation of the region that this was made from.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Reports whether a packet, which starts at its IP header, is for a virtual address.
    #[must_use]
    pub fn is_for_vip(&self, bytes: &[u8]) -> bool {
        packet::destination(bytes).is_some_and(|destination| self.classifier.has_vip(destination))
    }

    /// Returns the classifier, which finds the service of a packet.
    #[must_use]
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// Returns the tier, which finds the balancer that handles a fragment.
    #[must_use]
    pub fn tier(&self) -> &Tier {
        &self.tier
    }

    /// Returns whether flows stay where they are pinned, or follow the table.
    #[must_use]
    pub fn steering(&self) -> Steering {
        self.steering
    }

    /// Returns how long a worker of new flows polls for packets before it sleeps.
    #[must_use]
    pub fn busy_poll(&self) -> Duration {
        self.busy_poll
    }

    /// Returns the limits of the fragment table.
    #[must_use]
    pub fn fragments(&self) -> FragmentLimits {
        self.fragments
    }

    /// Returns how long a UDP flow stays pinned after its last packet.
    #[must_use]
    pub fn udp_seconds(&self) -> u32 {
        self.timeouts.udp_seconds
    }

    /// Returns the bits of a mark that are ours.
    #[must_use]
    pub fn mark_mask(&self) -> MarkMask {
        self.mark_mask
    }

    /// Reports whether flows of the service may be pinned to a target: whether it is a backend, active or not,
    /// of the service, or of the one that its `no_backend` names.
    fn serves(&self, service: usize, target: TargetId) -> bool {
        let lookup = self.services.get(service);
        lookup.is_some_and(|lookup| lookup.targets.binary_search(&target).is_ok())
    }

    /// Returns the target that a connection mark pins a flow to, and the mark without the bits of others.
    /// Returns `None` if there is no such target, or it is not in use.
    #[must_use]
    pub fn pinned(&self, mark: Mark) -> Option<(TargetId, Mark)> {
        let target = self.mark_mask.target(mark)?;
        self.in_use.get(target.index())?.then(|| (target, self.mark_mask.mark(target)))
    }

    /// Returns the time of the last `lbctl kill`, in seconds since 1970; 0 if there was none.
    #[must_use]
    pub fn last_kill(&self) -> u64 {
        self.last_kill
    }

    /// Reports whether the flow of a packet, pinned with this mark, is to be ended: for the service that claims it,
    /// the mark's backend is disabled, or down and its check says so ([`OnDown`]), or its flows were killed after
    /// `since` ([`crate::state::Backend::killed`]).
    #[must_use]
    pub fn ends(&self, packet: &Packet, mark: Mark, since: u64) -> bool {
        if !self.ends_any && self.last_kill <= since {
            return false;
        }
        let pinned = self.classifier.service_of(packet).zip(self.mark_mask.target(mark));
        pinned.is_some_and(|(service, target)| {
            self.services.get(service).is_some_and(|lookup| lookup.ends(target, packet.protocol, since))
        })
    }

    /// As [`Forwarding::pinned`], for the flow of this packet: `None` also if it is to be ended
    /// ([`Forwarding::ends`]).
    #[must_use]
    pub fn pinned_flow(&self, packet: &Packet, mark: Mark) -> Option<(TargetId, Mark)> {
        self.pinned(mark).filter(|_| !self.ends(packet, mark, u64::MAX))
    }

    /// Decides where a packet goes, and why.
    #[must_use]
    pub fn decide(&self, packet: &Packet) -> Decision {
        let Some(service) = self.classifier.service_of(packet) else {
            return match packet.l4 {
                L4::LaterFragment => Decision::Fragment { quoted: packet.quoted },
                L4::Tcp { .. } | L4::Udp(_) | L4::Sctp(_) | L4::Echo { .. } | L4::Other => {
                    Decision::NoService
                }
            };
        };
        let lookup = &self.services[service];
        let hash = key::flow_hash(packet, lookup.hash, self.seed);
        // The length of a table is a `TableSize`, far below 2^32.
        let index = jhash::index(hash, u32::try_from(lookup.table.len()).unwrap_or(0));
        let Some(&rank) = lookup.table.get(index as usize) else { return Decision::NoBackend { service } };
        let Some(&(mark, target)) = lookup.backends.get(usize::from(rank)) else {
            return Decision::NoBackend { service };
        };
        Decision::Steered { service, hash, index, rank, target, mark }
    }
}

/// Decides about packets, and counts the decisions. Each worker has one.
#[derive(Clone, Debug, Default)]
pub struct Balancer {
    /// What was counted since the start.
    pub counters: Counters,
}

impl Balancer {
    /// Returns the verdict on one queued packet, which starts at its IP header.
    pub fn handle(&mut self, forwarding: &Forwarding, off_table: &OffTable, bytes: &[u8]) -> Verdict {
        self.counters.count(Counter::Packets);
        handle_whole(&mut self.counters, forwarding, off_table, bytes)
    }
}

/// Returns the verdict on a packet that is decided by itself alone.
fn handle_whole(
    counters: &mut Counters,
    forwarding: &Forwarding,
    off_table: &OffTable,
    bytes: &[u8],
) -> Verdict {
    let decided = Packet::parse(bytes).map_err(Counter::from).and_then(|packet| {
        let (target, mark) = match off_table.pinned(forwarding, &packet) {
            Some(pinned) => {
                counters.count(Counter::FollowedOffTable);
                pinned
            }
            None => forwarding.decide(&packet).outcome()?,
        };
        Ok((packet, target, mark))
    });
    match decided {
        Ok((packet, target, mark)) => {
            counters.count(match packet.l4 {
                _ if packet.quoted => Counter::SteeredIcmpError,
                L4::Echo { .. } => Counter::SteeredEcho,
                L4::Tcp { syn: true, .. } => Counter::SteeredSyn,
                L4::Tcp { syn: false, .. } => Counter::SteeredMidstream,
                L4::Udp(_) => Counter::SteeredUdp,
                L4::Sctp(_) => Counter::SteeredSctp,
                L4::Other | L4::LaterFragment => Counter::SteeredOther,
            });
            counters.count_target(target);
            Verdict::Steer(mark)
        }
        Err(reason) => refuse(counters, forwarding, bytes, reason),
    }
}

/// Returns the verdict on a packet that cannot be steered. A packet for a virtual address is dropped for this
/// reason; any other is accepted unchanged. A packet that can be steered always has a virtual address as its
/// destination, so this check is needed only here.
fn refuse(counters: &mut Counters, forwarding: &Forwarding, bytes: &[u8], reason: Counter) -> Verdict {
    if forwarding.is_for_vip(bytes) {
        counters.count(reason);
        Verdict::Drop
    } else {
        counters.count(Counter::Foreign);
        Verdict::Pass
    }
}
