//! What a balancer reports about a probe of the packet tracer (Eisenbud et al., NSDI 2016, section 4.4).
//! PURE.
//!
//! A probe asks what becomes of packets with its header, here and now. The answer comes from the table or, if
//! the flow is pinned, from connection tracking. The choice between them is the ruleset's: a TCP SYN always
//! follows the table, and packets of an existing connection follow its pin; a UDP datagram (and an SCTP
//! packet) follows the pin, if there is one to a target in use. With every-packet steering there are no pins.
//! The SYN of a connection that is less than ten seconds old may have been steered by an older table; this is
//! not checked.
//!
//! # What senders of probes can do
//! Every host that can send packets to a VIP can send probes. At most `[tracer] per_second` of them come here
//! (fragments are never probes), and all of them are dropped, whatever the answer is. A report goes only to
//! an address in `[tracer] receivers` (by default there is none), and never to a well-known port. So a
//! stranger can use up the rate that tracing has, and make the balancer send that many datagrams a second, of
//! some 400 bytes each, to the allowed receivers. If the stranger varies the port, each datagram makes an
//! entry of connection tracking for half a minute. The stranger receives nothing. A report has the probe's
//! nonce, so only a host that saw the probe can forge one.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{
    Decision, Forwarding,
    counters::{Counter, Counters},
};
use crate::{
    balance::flow_table::FlowTable,
    model::{
        HashMode, InterfaceName, Name, Protocol, Steering,
        ids::{Mark, TargetId},
    },
    packet::{Probe, ProbeError},
};

/// Ports below this belong to well-known services; no report goes there.
pub const RECEIVER_PORT_MIN: u16 = 1024;

/// A report: one datagram of JSON, at most [`Trace::BYTES_MAX`] long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The probe's nonce, in hexadecimal digits: it is too long for a JSON number.
    pub nonce: Nonce,
    /// The balancer that reports.
    pub balancer: Name,
    /// The generation of its state.
    pub generation: u64,
    /// The device that the probe came in by; null if it has no name any more.
    pub device: Option<InterfaceName>,
    /// The probe's TTL on arrival.
    pub ttl: u8,
    /// Whether packets of a flow follow its pin or the table on this balancer.
    pub steering: Steering,
    /// What decides about a packet like the probe.
    pub by: By,
    /// The backend that gets such a packet; null if it is dropped.
    pub backend: Option<Name>,
    /// The service that claims such a packet.
    pub service: Option<Name>,
    /// The table's answer; null if there is no service, or no backend gets its new flows.
    pub table: Option<Entry>,
    /// Whether a packet that no backend gets is rejected, and not only dropped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rejected: bool,
    /// The pin of the flow; null if the flow has no mark of a target in use.
    pub pinned: Option<Pinned>,
    /// Whether the query to connection tracking succeeded.
    pub conntrack: bool,
}

/// What decides about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The Maglev table.
    Table,
    /// The mark of the flow's entry in connection tracking.
    Pin,
    /// No service claims the packet. It is dropped.
    NoService,
    /// No backend gets new flows of the packet's service. It is dropped, or rejected.
    NoBackend,
}

/// The table's answer, with the steps that lead to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The backend.
    pub backend: Name,
    /// The service that the backend belongs to, if it stands in for the one that claims the packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_service: Option<Name>,
    /// The number of the backend's target.
    pub target: u32,
    /// The mark that leads to the target.
    pub mark: u32,
    /// Which fields are hashed.
    pub hash_mode: HashMode,
    /// The seed of the hash.
    pub seed: u32,
    /// The flow hash.
    pub hash: u32,
    /// Index into the table.
    pub index: u32,
    /// The number of entries in the table.
    pub table_size: u32,
    /// Rank of the backend among those that get the service's new flows.
    pub rank: u16,
    /// The number of these backends.
    pub active: usize,
}

/// The pin of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// The service that the backend belongs to.
    pub service: Option<Name>,
    /// The backend; null if no backend has the target.
    pub backend: Option<Name>,
    /// The number of the target.
    pub target: u32,
    /// Our bits of the connection mark.
    pub mark: u32,
    /// How long the pin stays if no more packets come; null if the flowtable manages that.
    pub left_seconds: Option<u32>,
}

/// Identifies a probe in its reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nonce(pub u64);

impl Serialize for Nonce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        u64::from_str_radix(&digits, 16).map(Self).map_err(D::Error::custom)
    }
}

impl Trace {
    /// Longer than any report, and short enough for every link (IPv6 requires 1280).
    pub const BYTES_MAX: usize = 1200;
}

/// Returns the report about a probe and its receiver, or `None` if nothing is to be reported. The probe must
/// be dropped in any case. Everything is counted, except whether the report could be sent.
pub fn answer(
    counters: &mut Counters,
    forwarding: &Forwarding,
    pins: &mut dyn FlowTable,
    probe: Result<Probe, ProbeError>,
) -> Option<(SocketAddr, Trace)> {
    counters.count(Counter::Packets);
    counters.count(Counter::Probes);
    let Ok(probe) = probe else {
        counters.count(Counter::ProbesMalformed);
        return None;
    };
    let receiver = probe.receiver;
    let allowed = forwarding.tracer.receivers.iter().any(|prefix| prefix.contains(&receiver.ip()));
    if !allowed || receiver.port() < RECEIVER_PORT_MIN {
        counters.count(Counter::ProbesRefused);
        return None;
    }
    let trace = forwarding.trace(pins, &probe);
    if !trace.conntrack {
        counters.count(Counter::ConntrackError);
    }
    Some((receiver, trace))
}

impl Forwarding {
    /// Returns what becomes of packets with the header of `probe`.
    fn trace(&self, pins: &mut dyn FlowTable, probe: &Probe) -> Trace {
        let packet = probe.packet();
        let decision = self.decide(&packet);
        let (service, table) = match decision {
            Decision::Steered { service, hash, index, rank, target, mark } => {
                let lookup = &self.services[service];
                let other = lookup.served_by_other.map(|other| &self.services[other]);
                let named = &other.unwrap_or(lookup).named;
                let entry = named.get(usize::from(rank)).map(|(_, backend)| Entry {
                    backend: backend.clone(),
                    of_service: other.map(|other| other.name.clone()),
                    target: target.number(),
                    mark: mark.0,
                    hash_mode: lookup.hash,
                    seed: self.seed,
                    hash,
                    index,
                    table_size: u32::try_from(lookup.table.len()).unwrap_or(u32::MAX),
                    rank,
                    active: lookup.backends.len(),
                });
                (Some(service), entry)
            }
            Decision::NoBackend { service } => (Some(service), None),
            Decision::NoService | Decision::Fragment { .. } => (None, None),
        };
        let (pinned, conntrack) = match self.steering {
            Steering::EveryPacket => (None, true),
            Steering::SynOnly => match pins.lookup(&packet) {
                Ok(pin) => {
                    let pinned =
                        pin.and_then(|pin| Some((self.pinned_flow(&packet, pin.mark)?, pin.left_seconds)));
                    (pinned.map(|(to, left_seconds)| self.pinned_to(service, to, left_seconds)), true)
                }
                Err(_) => (None, false),
            },
        };
        let followed = pinned.as_ref().filter(|_| probe.protocol != Protocol::Tcp);
        let (by, backend) = match (followed, &table, service) {
            (Some(pinned), ..) => (By::Pin, pinned.backend.clone()),
            (None, Some(entry), _) => (By::Table, Some(entry.backend.clone())),
            (None, None, Some(_)) => (By::NoBackend, None),
            (None, None, None) => (By::NoService, None),
        };
        Trace {
            nonce: Nonce(probe.nonce),
            balancer: self.balancer.clone(),
            generation: self.generation.0,
            device: None,
            ttl: probe.ttl,
            steering: self.steering,
            by,
            backend,
            service: service.map(|service| self.services[service].name.clone()),
            rejected: by == By::NoBackend && service.is_some_and(|service| self.services[service].rejected),
            table,
            pinned,
            conntrack,
        }
    }

    /// Adds names to a pin: those of the service that claims the packet now, if it has such a backend,
    /// otherwise of the one that stands in for it, otherwise of any service.
    fn pinned_to(
        &self,
        service: Option<usize>,
        (target, mark): (TargetId, Mark),
        left_seconds: Option<u32>,
    ) -> Pinned {
        let stand_in = service.and_then(|service| self.services[service].stand_in);
        let likely = service.into_iter().chain(stand_in).chain(0..self.services.len());
        let likely = likely.map(|service| &self.services[service]);
        let mut named = likely.flat_map(|lookup| {
            let of_target = lookup.named.iter().filter(|(of, _)| *of == target);
            of_target.map(|(_, backend)| (lookup.name.clone(), backend.clone()))
        });
        let (service, backend) = named.next().unzip();
        Pinned { service, backend, target: target.number(), mark: mark.0, left_seconds }
    }
}
