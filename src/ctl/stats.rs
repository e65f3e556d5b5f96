//! `stats`: what the workers counted, how many packets each backend got, and the state of the kernel's
//! queues.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{
    Env, Status,
    daemon::{self, DaemonView, NEARLY_FULL, PinsView, last, unusable},
    error::CtlError,
    text::{Table, bar, natural, percent},
    view::{TargetView, names_by_target},
};
use crate::{
    balance::counters::Counter,
    config::FragmentLimits,
    model::ids::TargetId,
    shm::stats::{self, Block},
    state::State,
    sys::{
        conntrack::{Fill, fill},
        nfqueue::{QueueLine, queue_lines},
        region::{Region, RegionName},
    },
};

/// At most so many workers are shown side by side.
const COLUMNS_MAX: usize = 8;

/// All statistics; what `--json` prints.
#[derive(Serialize)]
struct Stats {
    /// The lbd that follows the region, or null: then the counters are those of the last lbd.
    daemon: Option<DaemonView>,
    generation: u64,
    /// The sums over all workers, without levels.
    counters: Values,
    fragments: Fragments,
    workers: Vec<Worker>,
    backends: Vec<Packets>,
    /// The state of the kernel's queues; null if it cannot be read.
    queues: Option<Vec<QueueLine>>,
    /// How full the table of connections is; null if that cannot be read.
    conntrack: Option<Conntrack>,
    /// The flows that lbd has found.
    flows: PinsView,
    /// The ruleset's counters, in packets; null if they cannot be read, or there is no ruleset.
    ruleset: Option<BTreeMap<String, u64>>,
}

/// Counters in the order of [`Counter::ALL`]. In JSON they are an object, without levels.
#[derive(Clone)]
struct Values(Vec<u64>);

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (counter, value) in self.counts() {
            map.serialize_entry(counter.name(), &value)?;
        }
        map.end()
    }
}

impl Values {
    fn get(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or(0)
    }

    fn counts(&self) -> impl Iterator<Item = (Counter, u64)> {
        let all = Counter::ALL.iter().copied().zip(self.0.iter().copied());
        all.filter(|(counter, _)| !counter.is_level())
    }
}

/// How full the fragment table is, and how full it may be.
#[derive(Serialize)]
struct Fragments {
    entries: u64,
    entries_max: u64,
    held_packets: u64,
    held_packets_max: u64,
    held_bytes: u64,
    held_bytes_max: u64,
    ttl_ms: u32,
}

impl Fragments {
    fn new(limits: FragmentLimits, levels: &Values) -> Self {
        Self {
            entries: levels.get(Counter::FragmentEntriesNow),
            entries_max: limits.entries.into(),
            held_packets: levels.get(Counter::FragmentHeldPacketsNow),
            held_packets_max: limits.held_packets.into(),
            held_bytes: levels.get(Counter::FragmentHeldBytesNow),
            held_bytes_max: limits.held_bytes.into(),
            ttl_ms: limits.ttl_ms,
        }
    }

    fn line(&self) -> String {
        let of = |now, max, what| format!("{now} of {max} {what} ({})", percent(now, max));
        format!(
            "fragments: {}, {} and {} held, for {} ms",
            of(self.entries, self.entries_max, "entries"),
            of(self.held_packets, self.held_packets_max, "packets"),
            of(self.held_bytes, self.held_bytes_max, "bytes"),
            self.ttl_ms,
        )
    }
}

#[derive(Serialize)]
struct Worker {
    queue: u16,
    /// Whether this is the fragment worker.
    fragments: bool,
    counters: Values,
}

/// Packets that were steered to a target, without those that follow the first packet of a flow: usually one
/// per flow.
#[derive(Serialize)]
struct Packets {
    /// All names that the target has, as service/backend or tier/balancer; empty if it is no longer in use.
    names: Vec<String>,
    #[serde(flatten)]
    target: TargetView,
    /// Packets that lbd has steered.
    packets: u64,
    /// Packets that the kernel's copies of services' tables have steered.
    by_kernel: u64,
}

impl Packets {
    fn all(&self) -> u64 {
        self.packets + self.by_kernel
    }
}

/// Connection tracking of this network namespace.
#[derive(Serialize)]
struct Conntrack {
    entries: u64,
    max: u64,
}

impl Conntrack {
    fn read(env: &Env<'_>) -> Option<Self> {
        let Fill { entries, max } = fill(&env.proc).ok()?;
        Some(Self { entries, max })
    }
}

/// `lbctl stats`.
pub(super) fn stats(env: &mut Env<'_>, name: &RegionName, json: bool) -> Result<Status, CtlError> {
    let mut region = Region::open(name)?;
    let (generation, state) = region.state()?;
    let daemon = DaemonView::of(&mut region)?;
    let workers = usize::try_from(last(&mut region)?.workers).unwrap_or(usize::MAX);
    let blocks = stats::read(&mut region, workers).map_err(|error| unusable(name, error))?;
    // Select the queues by the workers' own records: the state may already name other queues.
    let ours = |line: &QueueLine| blocks.iter().any(|block| block.identity.queue.0 == line.queue);
    let queues = queue_lines(&env.proc).ok();
    let queues = queues.map(|queues| queues.into_iter().filter(ours).collect());
    let counters = Values(sum(blocks.iter().map(|block| &block.counters[..]), Counter::ALL.len()));
    // The levels of the last lbd ended with it.
    let none = Values(Vec::new());
    let fragments =
        Fragments::new(state.balancer.fragments, if daemon.is_some() { &counters } else { &none });
    let stats = Stats {
        daemon,
        generation: generation.0,
        counters,
        fragments,
        backends: by_target(&state, &blocks, &(env.given)()),
        workers: blocks
            .into_iter()
            .map(|block| Worker {
                queue: block.identity.queue.0,
                fragments: block.identity.fragments,
                counters: Values(block.counters),
            })
            .collect(),
        queues,
        conntrack: Conntrack::read(env),
        flows: PinsView::read(&mut region)?,
        ruleset: (env.ruleset_counters)().filter(|counters| !counters.is_empty()),
    };
    if json {
        return env.json(&stats);
    }
    let mut lbd = daemon::line(env, &mut region, generation)?;
    if stats.daemon.is_none() && !stats.workers.is_empty() {
        lbd += "; the counters are those of the last one";
    }
    env.print(format_args!("lbd  {lbd}\n"))?;
    env.text(&counter_table(&stats))?;
    env.print(format_args!("\n{}", stats.fragments.line()))?;
    if !stats.backends.is_empty() {
        env.print(format_args!(""))?;
        env.text(&packet_table(&stats.backends))?;
    }
    if let Some(queues) = stats.queues.as_ref().filter(|queues| !queues.is_empty()) {
        env.print(format_args!(""))?;
        env.text(&queue_table(queues))?;
    }
    if let Some(Conntrack { entries, max }) = stats.conntrack {
        let full = if stats.flows.nearly_full { format!("; {NEARLY_FULL}") } else { String::new() };
        env.print(format_args!("\nconntrack  {entries} of at most {max} entries{full}"))?;
    }
    env.print(format_args!("flows      {}", stats.flows.line()))?;
    if let Some(ruleset) = &stats.ruleset {
        let mut table = Table::new(&["RULESET", ">PACKETS"]);
        for (name, packets) in ruleset {
            table.row([name.clone(), packets.to_string()]);
        }
        env.print(format_args!(""))?;
        env.text(&table.render(""))?;
    }
    Ok(Status::Done)
}

fn sum<'a>(of: impl Iterator<Item = &'a [u64]>, len: usize) -> Vec<u64> {
    of.fold(vec![0; len], |mut sum, values| {
        for (sum, value) in sum.iter_mut().zip(values) {
            *sum = sum.saturating_add(*value);
        }
        sum
    })
}

/// Returns packets by target: all targets that are in use, and former ones that got packets.
fn by_target(state: &State, blocks: &[Block], given: &BTreeMap<u32, u64>) -> Vec<Packets> {
    let mask = state.balancer.mark_mask;
    let by_lbd = sum(blocks.iter().map(|block| &block.targets[..]), crate::model::ids::TARGETS_MAX);
    let names = names_by_target(state);
    let targets = by_lbd.iter().enumerate().filter_map(|(index, &packets)| {
        let target = TargetId::new(index)?;
        Some(Packets {
            names: names.get(&target).cloned().unwrap_or_default(),
            target: TargetView::new(state, target),
            packets,
            by_kernel: given.get(&mask.mark(target).0).copied().unwrap_or(0),
        })
    });
    let mut all: Vec<Packets> =
        targets.filter(|packets| packets.all() > 0 || !packets.names.is_empty()).collect();
    all.sort_by_cached_key(|packets| {
        (packets.names.is_empty(), packets.names.first().map(|name| natural(name)))
    });
    all
}

fn counter_table(stats: &Stats) -> String {
    let side_by_side = (2..=COLUMNS_MAX).contains(&stats.workers.len());
    let shown = if side_by_side { &stats.workers[..] } else { &[] };
    let heading = |worker: &Worker| {
        if worker.fragments { ">FRAGMENTS".to_owned() } else { format!(">QUEUE {}", worker.queue) }
    };
    let queues: Vec<String> = shown.iter().map(heading).collect();
    let columns: Vec<&str> =
        ["COUNTER", ">VALUE"].into_iter().chain(queues.iter().map(String::as_str)).chain(["WHAT"]).collect();
    let mut table = Table::new(&columns);
    for (counter, value) in stats.counters.counts() {
        let each = shown.iter().map(|worker| worker.counters.get(counter).to_string());
        table.row(
            [counter.name().to_owned(), value.to_string()]
                .into_iter()
                .chain(each)
                .chain([counter.help().to_owned()]),
        );
    }
    table.render("")
}

fn packet_table(backends: &[Packets]) -> String {
    let mut table = Table::new(&["BACKEND", "PATH", ">MARK", ">BY LBD", ">BY KERNEL", ">SHARE", ""]);
    let all = backends.iter().map(Packets::all).sum();
    let largest = backends.iter().map(Packets::all).max().unwrap_or(0);
    for backend in backends {
        let names = if backend.names.is_empty() { "(removed)".to_owned() } else { backend.names.join(" ") };
        let path = if backend.names.is_empty() { String::new() } else { backend.target.path() };
        let share = percent(backend.all(), all);
        let [by_lbd, by_kernel] = [backend.packets, backend.by_kernel].map(|packets| packets.to_string());
        let mark = format!("{:#x}", backend.target.mark);
        table.row([names, path, mark, by_lbd, by_kernel, share, bar(backend.all(), largest)]);
    }
    table.render("")
}

fn queue_table(queues: &[QueueLine]) -> String {
    let mut table = Table::new(&[">QUEUE", ">PORTID", ">WAITING", ">QUEUED", ">QUEUE FULL", ">SOCKET FULL"]);
    for queue in queues {
        let numbers = [
            u64::from(queue.queue),
            queue.portid.into(),
            queue.waiting,
            queue.packets,
            queue.dropped,
            queue.user_dropped,
        ];
        table.row(numbers.map(|number| number.to_string()));
    }
    table.render("")
}
