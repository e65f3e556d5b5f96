//! `which`: where a new flow goes, and why. It uses the same [`Forwarding`] as lbd.

use serde::{Serialize, Serializer};

use super::{
    Sources, StatusError,
    flows::{self, FlowView},
    lbd::PinsView,
    owner::OwnerView,
    question::{self, Question},
    view::TargetView,
};
use crate::{
    balance::{
        Decision, Forwarding,
        pins::{Flow, OffTable},
    },
    host::{Local, Snapshot},
    lookup::classifier::{Classifier, Explanation, Match, Scope},
    model::{Decider, PortRange, Protocols, Steering},
    plan::kernel_tables,
    state::{Backend, NewFlows, Service, State},
    sys::region::Region,
};

/// Where a flow goes, and why.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// Where it goes.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The kernel's element for this flow, if it is off-table.
    pub off_table: Option<FlowView>,
    /// The balancer that handles its fragments, if that was requested.
    #[serde(flatten)]
    pub owner: Option<OwnerView>,
    /// Why, in sentences.
    pub reason: Vec<String>,
    /// A warning that this host takes such packets for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// Where a flow goes. In JSON all outcomes have the same fields; those that have no value are null.
#[derive(Debug)]
pub enum Outcome {
    /// To a backend.
    Steered(Steered),
    /// Its packets are dropped or rejected: no backend gets new flows of the service.
    NoBackend {
        /// The service.
        service: String,
        /// Whether they are rejected.
        rejected: bool,
        /// M, the number of entries of the service's table.
        table_size: u32,
    },
    /// No service claims it.
    Unclaimed,
}

/// The backend that a flow goes to.
#[derive(Debug)]
pub struct Steered {
    /// The service.
    pub service: String,
    /// The hash of the flow.
    pub hash: u32,
    /// The entry of the table that the hash leads to.
    pub index: u32,
    /// M, the number of entries of the table.
    pub table_size: u32,
    /// Rank of the backend among those that get the service's new flows.
    pub rank: u16,
    /// The backend.
    pub backend: String,
    /// The service that the backend belongs to, if it stands in for the flow's own.
    pub of_service: Option<String>,
    /// Where its packets go.
    pub target: TargetView,
    /// Whether lbd or the kernel decides about the flow's first packet, if that is whole.
    pub decider: Decider,
}

/// An [`Outcome`] in JSON.
#[derive(Default, Serialize)]
struct Fields<'a> {
    steered: bool,
    service: Option<&'a str>,
    hash: Option<u32>,
    index: Option<u32>,
    table_size: Option<u32>,
    rank: Option<u16>,
    backend: Option<&'a str>,
    of_service: Option<&'a str>,
    mark: Option<u32>,
    number: Option<u32>,
    device: Option<&'a str>,
    path: Option<String>,
    decider: Option<Decider>,
    rejected: bool,
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = match self {
            Self::Steered(Steered {
                service,
                hash,
                index,
                table_size,
                rank,
                backend,
                of_service,
                target,
                decider,
            }) => Fields {
                steered: true,
                service: Some(service),
                hash: Some(*hash),
                index: Some(*index),
                table_size: Some(*table_size),
                rank: Some(*rank),
                backend: Some(backend),
                of_service: of_service.as_deref(),
                mark: Some(target.mark),
                number: Some(target.number),
                device: target.device.as_deref(),
                path: Some(target.path()),
                decider: Some(*decider),
                rejected: false,
            },
            Self::NoBackend { service, rejected, table_size } => Fields {
                service: Some(service),
                table_size: Some(*table_size),
                rejected: *rejected,
                ..Fields::default()
            },
            Self::Unclaimed => Fields::default(),
        };
        fields.serialize(serializer)
    }
}

/// The data that answers are computed from.
pub struct Which {
    state: State,
    forwarding: Forwarding,
    /// Flows that do not follow the tables.
    held: OffTable,
    /// For each service, whether lbd or the kernel decides.
    deciders: Vec<Decider>,
    host: Snapshot,
}

impl Which {
    /// Reads what answers any question.
    ///
    /// # Errors
    /// When the region cannot be read.
    pub fn read(region: &mut Region, sources: &Sources) -> Result<Self, StatusError> {
        Self::with_tables(region, sources, |state| (0..state.services.len()).collect())
    }

    /// Reads what answers one question: no table but that of its service.
    ///
    /// # Errors
    /// When the region cannot be read.
    pub fn read_for(
        question: &Question,
        region: &mut Region,
        sources: &Sources,
    ) -> Result<Self, StatusError> {
        Self::with_tables(region, sources, |state| {
            let service = Classifier::new(&scopes(state)).ok().and_then(|of| of.service_of(&question.packet));
            service.into_iter().collect()
        })
    }

    fn with_tables(
        region: &mut Region,
        sources: &Sources,
        services: impl Fn(&State) -> Vec<usize>,
    ) -> Result<Self, StatusError> {
        let (generation, state) = region.state_with_tables(services)?;
        let forwarding = Forwarding::new(&state, generation)?;
        let held = flows::known(sources, &state, &PinsView::read(region)?);
        let (deciders, host) = (kernel_tables::deciders(&state), (sources.look)(&state));
        Ok(Self { state, forwarding, held, deciders, host })
    }

    /// Returns the answer to a question, with that about fragments if it is requested.
    #[must_use]
    pub fn answer(&self, question: &Question, fragment: bool) -> Answer {
        let Self { state, forwarding, held, .. } = self;
        let (outcome, mut reason) = self.outcome(question);
        let off_table = Flow::of(&question.packet)
            .and_then(|flow| Some(FlowView::new(state, forwarding, flow, held.get(&flow)?)));
        reason.extend(off_table.as_ref().map(FlowView::reason));
        let owner = fragment.then(|| OwnerView::new(state, forwarding.tier(), &question.packet));
        reason.extend(owner.iter().flat_map(|owner| owner.reason(state)));
        Answer { outcome, off_table, owner, reason, host: kept(&self.host, question) }
    }

    fn outcome(&self, question: &Question) -> (Outcome, Vec<String>) {
        let Self { state, forwarding, deciders, .. } = self;
        let mut reason = match forwarding.classifier().explain(&scopes(state), &question.packet) {
            Explanation::Claimed(by) => vec![matched(state, question, &by)],
            Explanation::Unclaimed { here } => unclaimed(state, question, &here),
        };
        let outcome = match forwarding.decide(&question.packet) {
            Decision::Steered { service, hash, index, rank, target, mark } => {
                let (service, decider) = (&state.services[service], deciders[service]);
                let target = TargetView::new(state, target);
                let backend = state.serving(service).nth(rank.into());
                let backend = backend.map_or_else(String::new, |backend| backend.name.to_string());
                let (table_size, actives) = (service.table_size.get(), state.serving(service).count());
                let of_service = match state.new_flows(service) {
                    NewFlows::Other(other) => Some(other.name.to_string()),
                    NewFlows::Own | NewFlows::Rejected | NewFlows::Dropped => None,
                };
                reason.extend(of_service.as_ref().map(|other| {
                    format!("none of its own backends is active: new flows go to those of service {other}, as no_backend says")
                }));
                reason.extend([
                    question.hashed(service.hash, state.balancer.hash_seed, hash),
                    question::looked_up(hash, table_size, index, &backend, rank, actives),
                    format!("mark {mark} is target {}: {}", target.number, target.route()),
                    match forwarding.steering() {
                        Steering::SynOnly => "this is about a new flow: an established one stays with the backend that it has, as long as that is one of its service's",
                        Steering::EveryPacket => "this is about each packet of the flow: with steering \"every-packet\" nothing is pinned",
                    }
                    .to_owned(),
                ]);
                let service = service.name.to_string();
                Outcome::Steered(Steered {
                    service,
                    hash,
                    index,
                    table_size,
                    rank,
                    backend,
                    of_service,
                    target,
                    decider,
                })
            }
            Decision::NoBackend { service } => {
                let service = &state.services[service];
                let new_flows = state.new_flows(service);
                let Service { name, backends, table_size, .. } = service;
                let advice = if !backends.is_empty() && backends.iter().all(Backend::enabled) {
                    "`lbctl show` says what checks and agents found of each".to_owned()
                } else {
                    format!("`lbctl enable --service {name} BACKEND` changes that")
                };
                reason.push(format!(
                    "none of its backends is active (of {}), so its new flows {new_flows}; {advice}",
                    backends.len()
                ));
                if let Some(other) = state.stand_in(service) {
                    reason.push(format!("nor is one of service {}, which no_backend names", other.name));
                }
                let rejected = new_flows == NewFlows::Rejected;
                Outcome::NoBackend { service: name.to_string(), rejected, table_size: table_size.get() }
            }
            Decision::NoService | Decision::Fragment { .. } => Outcome::Unclaimed,
        };
        (outcome, reason)
    }
}

fn scopes(state: &State) -> Vec<Scope<'_>> {
    state.services.iter().map(Service::scope).collect()
}

/// Warns if the kernel keeps such packets for this host itself, whatever was decided.
fn kept(host: &Snapshot, question: &Question) -> Option<String> {
    host.local(question.dst).map(|Local { kind, device, .. }| {
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

/// Returns what a scope claims, in a few words.
fn claim(scope: &Scope<'_>) -> String {
    let protocols = match scope.protocols {
        Protocols::Any => return "every protocol".to_owned(),
        Protocols::Named(named) => named.iter().map(|protocol| protocol.name()).collect::<Vec<_>>().join(" "),
    };
    if *scope.ports == [PortRange::ALL] {
        return format!("{protocols}, all ports");
    }
    let ports: Vec<String> = scope.ports.iter().map(ToString::to_string).collect();
    format!("{protocols}, ports {}", ports.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_outcomes_have_the_same_fields_in_json() {
        let target = TargetView {
            number: 3,
            mark: 0x300,
            encap: Some("gre"),
            address: Some("192.168.1.1".parse().unwrap()),
            device: Some("sr-3".to_owned()),
        };
        let (service, backend) = ("web".to_owned(), "s1".to_owned());
        let steered = Outcome::Steered(Steered {
            service: service.clone(),
            hash: 7,
            index: 5,
            table_size: 97,
            rank: 1,
            backend,
            of_service: None,
            target,
            decider: Decider::Kernel,
        });
        let nulls = r#""rank":null,"backend":null,"of_service":null,"mark":null,"number":null,"device":null,"path":null,"decider":null"#;
        for (outcome, fields) in [
            (
                steered,
                r#""steered":true,"service":"web","hash":7,"index":5,"table_size":97,"rank":1,"backend":"s1","of_service":null,"mark":768,"number":3,"device":"sr-3","path":"gre 192.168.1.1","decider":"kernel","rejected":false"#.to_owned(),
            ),
            (
                Outcome::NoBackend { service, rejected: true, table_size: 97 },
                format!(r#""steered":false,"service":"web","hash":null,"index":null,"table_size":97,{nulls},"rejected":true"#),
            ),
            (
                Outcome::Unclaimed,
                format!(r#""steered":false,"service":null,"hash":null,"index":null,"table_size":null,{nulls},"rejected":false"#),
            ),
        ] {
            let answer = Answer { outcome, off_table: None, owner: None, reason: vec!["so".to_owned()], host: None };
            let json = serde_json::to_string(&answer).unwrap();
            assert_eq!(json, format!(r#"{{{fields},"off_table":null,"reason":["so"]}}"#));
        }
    }
}
