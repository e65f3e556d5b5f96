//! `stats`: prints what the workers counted, how many packets each backend got, and the state of the kernel's
//! queues.

use super::{
    Env, Status,
    daemon::{self, NEARLY_FULL},
    error::CtlError,
    text::{Table, bar, percent},
};
use crate::{
    shm::stats::QueueLine,
    status::stats::{Conntrack, Fragments, Packets, Stats, Worker},
    sys::region::{Region, RegionName},
};

/// At most so many workers are shown side by side.
const COLUMNS_MAX: usize = 8;

/// `lbctl stats`.
pub(super) fn stats(env: &mut Env<'_>, name: &RegionName, json: bool) -> Result<Status, CtlError> {
    let stats = Stats::read(&mut Region::open_to_read(name)?, &env.sources)?;
    if json {
        return env.json(&stats);
    }
    let mut lbd = daemon::line(env, name, stats.generation, &stats.daemon);
    if !stats.daemon.followed && !stats.workers.is_empty() {
        lbd += "; the counters are those of the last one";
    }
    env.print(format_args!("lbd  {lbd}\n"))?;
    env.text(&counter_table(&stats))?;
    env.print(format_args!("\n{}", fragments(&stats.fragments)))?;
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
    env.print(format_args!("flows      {}", daemon::pins(&stats.flows)))?;
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

fn fragments(table: &Fragments) -> String {
    let of = |now, max, what| format!("{now} of {max} {what} ({})", percent(now, max));
    format!(
        "fragments: {}, {} and {} held, for {} ms",
        of(table.entries, table.entries_max, "entries"),
        of(table.held_packets, table.held_packets_max, "packets"),
        of(table.held_bytes, table.held_bytes_max, "bytes"),
        table.ttl_ms,
    )
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
