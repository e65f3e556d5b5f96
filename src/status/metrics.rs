//! `metrics`: region, lbd and kernel as metrics of Prometheus. They are made from a snapshot when they are asked
//! for, and nothing is registered anywhere, since the values live in the region and in the kernel.
//!
//! [`families`] is the one list of metrics: the text, JSON and docs/metrics.md are made of it. Names follow
//! Prometheus' conventions: base units, `_total` for what only grows, `_info` for what is told by labels. A
//! counter begins anew when lbd starts, or what it belongs to is made anew.
//!
//! **How many series**: those of a [`Scope`] grow with the services, backends or targets of the state, at most
//! 1024 services, and 4096 targets and counters for each. No label holds anything that a client can choose.

mod specs;
mod text;

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use super::{
    Sources,
    agent::AgentView,
    announce::AnnounceView,
    lbd::Offload,
    stats::Stats,
    view::{ServiceView, TierView},
};
use crate::{
    balance::counters::Counter,
    model::ids::Generation,
    state::State,
    sys::{
        devices::{self, Sent},
        region::{AccessError, Region, RegionName},
    },
};
use specs::SPECS;
pub use text::Format;

/// A part of the metrics that may be asked for by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The region, its lbd, the host, the tier; sums of services and backends.
    Lbd,
    /// Packets, queues, fragments, flows and connection tracking, without who got them.
    Packets,
    /// What there is of each service.
    Services,
    /// What there is of each backend of each service.
    Backends,
    /// What each target got: the backends of one address and encapsulation.
    Targets,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 5] = [Self::Lbd, Self::Packets, Self::Services, Self::Backends, Self::Targets];

    /// Returns the name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lbd => "lbd",
            Self::Packets => "packets",
            Self::Services => "services",
            Self::Backends => "backends",
            Self::Targets => "targets",
        }
    }

    /// Returns what is in it, and how many series that are.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::Lbd => {
                "The region, its lbd, the host, the tier, and sums: about 20 series, and one of each balancer of the tier."
            }
            Self::Packets => {
                "Packets, queues, fragments, flows and connection tracking, without who got them: about 90 series, and 4 of each queue."
            }
            Self::Services => {
                "5 series of each service, 1 more of one with health checks, and 1 of each VIP that may be announced."
            }
            Self::Backends => {
                "5 series of each backend of each service, and 2 more of one with health checks."
            }
            Self::Targets => {
                "A target is an address with an encapsulation; backends of several services may share one. 5 series of each target, and 1 \
                 of each backend."
            }
        }
    }

    /// Returns the scope of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Only grows, until what it belongs to begins anew.
    Counter,
    /// Goes up and down.
    Gauge,
    /// 1, with labels that tell something.
    Info,
}

/// A value of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A count.
    Whole(u64),
    /// A ratio.
    Part(f64),
}

/// The labels of a series.
pub type Labels = Vec<(&'static str, String)>;

/// A series at the moment of the snapshot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// What distinguishes it from the others of its family.
    #[serde(serialize_with = "labels")]
    pub labels: Labels,
    /// Its value.
    pub value: Value,
}

fn labels<S: serde::Serializer>(labels: &Labels, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(labels.iter().map(|(name, value)| (name, value)))
}

/// All series of one name.
#[derive(Clone, Debug, Serialize)]
pub struct Family {
    /// The name, as queries have it.
    pub name: String,
    /// The names of its labels.
    pub labels: Vec<&'static str>,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The scope that it is in.
    pub scope: Scope,
    /// What it counts or shows.
    pub help: Cow<'static, str>,
    /// The series.
    pub samples: Vec<Sample>,
}

/// The metrics of a region. In JSON they are an array of families.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Metrics {
    families: Vec<Family>,
}

impl Metrics {
    /// Reads these scopes, once. The error says why the region could not be read: then there is little more than
    /// `synrail_region_readable` 0.
    #[must_use]
    pub fn read(name: &RegionName, sources: &Sources, scopes: &[Scope]) -> (Self, Option<AccessError>) {
        match Region::open_to_read(name) {
            Ok(mut region) => Self::of_region(&mut region, sources, scopes),
            Err(error) => (Self::of_seen(None, scopes), Some(error)),
        }
    }

    /// As [`Metrics::read`], of a region that is open already.
    #[must_use]
    pub fn of_region(
        region: &mut Region,
        sources: &Sources,
        scopes: &[Scope],
    ) -> (Self, Option<AccessError>) {
        let (seen, error) = match Seen::read(region, sources, scopes) {
            Ok(seen) => (Some(seen), None),
            Err(error) => (None, Some(error)),
        };
        (Self::of_seen(seen.as_ref(), scopes), error)
    }

    fn of_seen(seen: Option<&Seen>, scopes: &[Scope]) -> Self {
        let mut families = families(seen);
        families.retain(|family| scopes.contains(&family.scope) && !family.samples.is_empty());
        Self { families }
    }

    /// Returns the families.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// Returns how many series there are.
    #[must_use]
    pub fn series(&self) -> usize {
        self.families.iter().map(|family| family.samples.len()).sum()
    }

    /// Returns the text that Prometheus reads.
    #[must_use]
    pub fn text(self, format: Format) -> String {
        text::of(self.families, format)
    }
}

/// The snapshot that metrics are made of.
pub struct Seen {
    generation: Generation,
    /// With the tables of services only if a scope needs them.
    state: State,
    services: Vec<ServiceView>,
    tier: TierView,
    offload: Offload,
    agent: Option<AgentView>,
    announce: AnnounceView,
    stats: Stats,
    /// What each device of this network namespace has sent.
    sent: BTreeMap<String, Sent>,
}

impl Seen {
    fn read(region: &mut Region, sources: &Sources, scopes: &[Scope]) -> Result<Self, AccessError> {
        let tables = scopes.iter().any(|scope| matches!(scope, Scope::Services | Scope::Backends));
        let pick = |state: &State| if tables { (0..state.services.len()).collect() } else { Vec::new() };
        let (generation, state) = region.state_with_tables(pick)?;
        let stats = Stats::of(region, sources, generation, &state)?;
        Ok(Self {
            generation,
            announce: AnnounceView::new(&state, stats.daemon.followed, sources),
            services: ServiceView::all(&state),
            tier: TierView::new(&state),
            offload: Offload::of(region, &state.balancer)?,
            agent: AgentView::read(region, &state, sources)?,
            stats,
            // Without procfs there are no bytes of tunnels.
            sent: devices::sent(&sources.proc).unwrap_or_default(),
            state,
        })
    }
}

/// Returns every family that there is, with the series of a snapshot; without series if there is none.
#[must_use]
pub fn families(seen: Option<&Seen>) -> Vec<Family> {
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    let mut families = vec![
        Family {
            name: "synrail_build_info".to_owned(),
            labels: vec!["version"],
            kind: Kind::Info,
            scope: Scope::Lbd,
            help: "The program that made these metrics.".into(),
            samples: vec![Sample { labels: version, value: Value::Whole(1) }],
        },
        Family {
            name: "synrail_region_readable".to_owned(),
            labels: Vec::new(),
            kind: Kind::Gauge,
            scope: Scope::Lbd,
            help: "Whether the region could be read: 1, or 0 if it is missing or corrupt, and most metrics are missing with it.".into(),
            samples: vec![Sample { labels: Vec::new(), value: Value::Whole(seen.is_some().into()) }],
        },
    ];
    families.extend(SPECS.iter().map(|spec| {
        let (name, labels) = spec.name.split_once('{').unwrap_or((spec.name, ""));
        Family {
            name: name.to_owned(),
            labels: labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).collect(),
            kind: spec.kind,
            scope: spec.scope,
            help: spec.help.into(),
            samples: seen.map(spec.read).unwrap_or_default(),
        }
    }));
    families.extend(of_workers(seen));
    families.sort_by_key(|family| family.scope);
    families
}

/// The counters of lbd's workers: those of packets that were steered, and of those that were dropped, each
/// together; every other one by itself.
fn of_workers(seen: Option<&Seen>) -> Vec<Family> {
    let value = |counter| seen.map(|seen| Value::Whole(seen.stats.counters.get(counter)));
    let counters = || Counter::ALL.iter().copied().filter(|counter| !counter.is_level());
    let group = |prefix: &'static str, name: &str, label: &'static str, what: &str| {
        let of_group = || counters().filter_map(move |one| Some((one, one.name().strip_prefix(prefix)?)));
        let helps: Vec<String> =
            of_group().map(|(counter, short)| format!("{short}: {}", plain(counter.help()))).collect();
        Family {
            name: name.to_owned(),
            labels: vec![label],
            kind: Kind::Counter,
            scope: Scope::Packets,
            help: format!("{what} {}.", helps.join("; ")).into(),
            samples: of_group()
                .filter_map(|(counter, short)| {
                    Some(Sample { labels: vec![(label, short.to_owned())], value: value(counter)? })
                })
                .collect(),
        }
    };
    let others = counters().filter(|one| !["steered_", "drop_"].iter().any(|of| one.name().starts_with(of)));
    let others = others.map(|counter| Family {
        name: format!("synrail_worker_{}_total", counter.name()),
        labels: Vec::new(),
        kind: Kind::Counter,
        scope: Scope::Packets,
        help: counter.help().into(),
        samples: value(counter).map(|value| Sample { labels: Vec::new(), value }).into_iter().collect(),
    });
    let steered = group("steered_", "synrail_steered_packets_total", "kind", "Packets that lbd has steered.");
    let dropped = group("drop_", "synrail_dropped_packets_total", "reason", "Packets that lbd has dropped.");
    [steered, dropped].into_iter().chain(others).collect()
}

/// Returns the help of a counter as a part of a longer text.
fn plain(help: &str) -> &str {
    let help = help.strip_prefix("Dropped: ").unwrap_or(help);
    help.trim_end_matches('.')
}
