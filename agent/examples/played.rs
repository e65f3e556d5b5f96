//! A balancer that is played, for tools/lib/page: a real region, reader and server, with an lbd that does what it is
//! told, and a kernel that is files and functions of the clock. It steers nothing.
//!
//! `played --services N --directory DIRECTORY` prints where it listens, obeys lines of standard input (`down
//! web/s1 REASON`, `up`, `drain`, `enable`), and says `done` after each. It ends with its standard input.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a program of tests")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::TcpListener,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use clap::Parser;
use lbagent::{
    http::{listen::Opened, read::Started},
    lbd::Link,
    reader::Reader,
};
use serde_json::json;
use synrail::{
    balance::{
        counters::{Counter, Counters},
        pins::{Phase, Promotion, Tracked},
    },
    config::Config,
    host::Tally,
    model::{
        Admin, Health, Name, Observed, Override, Remark,
        ids::{Generation, MarkMask, TargetId},
    },
    ops::{OpsError, Reply, Request},
    packet::{Packet, Ports},
    shm::{
        slots,
        stats::{self, Daemon, Identity, Pins},
    },
    state::{Observation, State},
    status::Sources,
    sys::{
        clock,
        conntrack::Seen,
        output,
        region::{Region, RegionName},
    },
};

/// How often counters go on.
const TICK: Duration = Duration::from_millis(100);

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    services: usize,
    #[arg(long)]
    directory: PathBuf,
}

/// A region that goes with this value.
struct Played(RegionName);

impl Drop for Played {
    fn drop(&mut self) {
        let _ = Region::remove(&self.0);
    }
}

fn file(services: usize) -> String {
    let mut text =
        "balancer = { name = \"lb201\", address = \"192.0.2.201\", interfaces = \"eth1\" }\nhttp = {}\n"
            .to_owned();
    if services < 10 {
        let backend =
            |n: usize| format!("{{ name = \"s{n}\", address = \"192.0.2.{n}\", weight = {} }}", 1 + n % 2);
        let web: Vec<String> = (1..=6).map(backend).collect();
        let dns: Vec<String> =
            (1..=3).map(|n| format!("{{ name = \"d{n}\", address = \"192.0.2.{n}\" }}")).collect();
        let _ = write!(
            text,
            "[[service]]\nname = \"web\"\nvips = [\"198.51.100.10\", \"2001:db8::10\"]\nprotocols = \"tcp\"\nports = [\"80\", \"443\"]\ntable_size = 997\n\
             health = {{ kind = \"http\", port = 80 }}\nbackend = [ {} ]\n\
             [[service]]\nname = \"dns\"\nvips = \"198.51.100.53\"\nprotocols = \"udp\"\nports = 53\ntable_size = 997\nhealth = {{ kind = \"dns\", query = \"example.org\" }}\n\
             backend = [ {} ]\n",
            web.join(", "),
            dns.join(", ")
        );
        return text;
    }
    for service in 0..services {
        let backend = |n: usize| {
            let (high, low) = (service / 64, service % 64 * 4 + n - 1);
            format!("{{ name = \"b{n}\", address = \"10.9.{high}.{low}\", encap = \"ipip\" }}")
        };
        let backends: Vec<String> = (1..=4).map(backend).collect();
        let _ = write!(
            text,
            "[[service]]\nname = \"service-{service:04}\"\nvips = \"10.8.{}.{}\"\nprotocols = \"tcp\"\nports = 443\ntable_size = 499\nhealth = {{ kind = \"tcp\" }}\nbackend = [ {} ]\n",
            service / 256,
            service % 256,
            backends.join(", ")
        );
    }
    text
}

/// Something that goes up and down with time, and differs from target to target: 0 to 2, mostly about 1.
fn wave(index: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let (t, n) = (clock::monotonic().as_secs_f64(), index as f64);
    1.0 + 0.6 * (t / (5.0 + n % 7.0) + n).sin() + 0.3 * (t * 1.7 + n * n).sin()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "neither large nor negative")]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

fn ruleset() -> Option<BTreeMap<String, u64>> {
    let rates = [
        ("handshake", 310.0),
        ("restored", 52_000.0),
        ("queued_syn", 330.0),
        ("queued_udp", 80.0),
        ("unclaimed", 2.5),
        ("not_for_vip", 0.4),
        ("promoted", 1.0),
    ];
    let seconds = clock::monotonic().as_secs_f64();
    Some(rates.into_iter().map(|(name, rate)| (name.to_owned(), whole(rate * seconds))).collect())
}

/// Flows of the first targets to the first service.
fn tracked(
    _: Option<synrail::sys::conntrack::Marked>,
    each: &mut dyn FnMut(&Seen) -> io::Result<()>,
) -> io::Result<()> {
    for n in 0..600_u16 {
        let target = TargetId::new(usize::from(n) * usize::from(n) % 6).unwrap();
        let source = format!("203.0.113.{}", n % 250).parse().unwrap();
        let ports = Ports { src: 20_000 + n, dst: 443 };
        let packet = Packet::synthetic(6, source, "198.51.100.10".parse().unwrap(), ports).unwrap();
        let mark = MarkMask::DEFAULT.mark(target);
        let promotion = if n % 50 == 0 { Promotion::Now } else { Promotion::No };
        let tracked = Tracked {
            packet,
            mark,
            left_seconds: 7000,
            protected: true,
            promotion,
            phase: Some(Phase::Open),
        };
        let packets = u64::from(n) * 37;
        each(&Seen {
            tracked,
            packets: Some(packets),
            bytes: Some(packets * 900),
            began_unix_seconds: Some(clock::unix_seconds() - u64::from(n)),
        })?;
    }
    Ok(())
}

fn sources(proc: PathBuf) -> Sources {
    Sources {
        monotonic: clock::monotonic,
        proc,
        ruleset_counters: ruleset,
        given: BTreeMap::new,
        off_table: || Ok(Default::default()),
        pending: |_| Ok(Vec::new()),
        tracked,
        may_ask_about_flows: || true,
        announced: |_| None,
        look: |_| Default::default(),
        compare: |_| Ok(Default::default()),
    }
}

/// The kernel's files, as far as they are looked at.
fn write_files(proc: &Path, bytes: &[u64]) {
    let mut dev = String::from("Inter-|\n face |\n");
    for (index, bytes) in bytes.iter().enumerate() {
        let _ = writeln!(
            dev,
            "sr-{}: 0 0 0 0 0 0 0 0 {bytes} 1 0 0 0 0 0 0",
            TargetId::new(index).unwrap().number()
        );
    }
    let entries = whole(20_000.0 + 3000.0 * wave(3));
    for (name, text) in [
        ("net/dev", dev),
        ("sys/net/netfilter/nf_conntrack_count", entries.to_string()),
        ("sys/net/netfilter/nf_conntrack_max", "262144".to_owned()),
        ("net/netfilter/nfnetlink_queue", format!("20200 77 {} 2 128 0 0 9000 1\n", whole(wave(1)))),
        ("sys/kernel/osrelease", "6.1.0-50-amd64\n".to_owned()),
    ] {
        let path = proc.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // A reader never sees half of it.
        fs::write(proc.join("new"), text).unwrap();
        fs::rename(proc.join("new"), path).unwrap();
    }
}

/// What lbd, its workers, lbagent and the kernel would leave.
fn go_on(name: &RegionName, proc: &Path, targets: usize) {
    let mut region = Region::open(name).unwrap();
    region.follow().unwrap();
    let mut mapping = region.mapping();
    stats::clear(&mut mapping, 1).unwrap();
    stats::write_flowtable(&mut mapping, true).unwrap();
    stats::write_host(&mut mapping, Tally { errors: 0, warnings: 1 }).unwrap();
    let identity = Identity { queue: synrail::model::ids::QueueNum(20200), fragments: false };
    let (mut counters, mut bytes) = (Counters::default(), vec![0; targets]);
    let started = clock::unix_seconds() - 86_400 * 3;
    loop {
        let generation = slots::generation(&mut region).unwrap_or(Generation(0));
        let daemon = Daemon {
            pid: process::id().into(),
            adopted: generation,
            in_kernel: generation,
            started_unix_seconds: started,
            workers: 1,
        };
        daemon.write(&mut mapping).unwrap();
        stats::looked(&mut mapping, clock::monotonic(), [false]).unwrap();
        let beat = stats::Beat { pid: process::id().into(), not_made: 0, at: clock::monotonic() };
        beat.write(&mut mapping).unwrap();
        let pins = Pins { off_table: 12, protected: 9000, promoted: 12, ended: 4, ..Pins::default() };
        pins.write(&mut mapping).unwrap();
        for (index, bytes) in bytes.iter_mut().enumerate() {
            let target = TargetId::new(index).unwrap();
            let flows = if targets > 100 { u64::from(wave(index) > 1.5) } else { whole(6.0 * wave(index)) };
            (0..flows).for_each(|_| counters.count_target(target));
            *bytes += flows * 90_000;
        }
        counters.add(Counter::SteeredSyn, 30);
        counters.add(Counter::DropNoService, 1);
        stats::write(&mut mapping, 0, identity, &mut counters).unwrap();
        write_files(proc, &bytes);
        thread::sleep(TICK);
    }
}

/// Does what lbagent asks.
fn obey(listener: &UnixListener, name: &RegionName) {
    let (stream, _) = listener.accept().unwrap();
    let mut region = Region::open(name).unwrap();
    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
        let reply = match serde_json::from_str(&line.unwrap()).unwrap() {
            Request::Admin { service, names, order } => {
                let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                change(&mut region, |live| {
                    live.set_admin(service.as_ref().map(Name::as_str), &names, &order).map_err(OpsError::from)
                })
                .map_or_else(|error| Reply::failed(&error), |()| Reply::done(Vec::new()))
            }
            Request::Beat { .. } | Request::Observe { .. } | Request::Kill { .. } | Request::Apply { .. } => {
                Reply::done(Vec::new())
            }
        };
        let line = serde_json::to_string(&reply).unwrap() + "\n";
        (&stream).write_all(line.as_bytes()).unwrap();
    }
}

fn change(region: &mut Region, of: impl FnOnce(&State) -> Result<State, OpsError>) -> Result<(), OpsError> {
    region.update(|live| Ok::<_, OpsError>((Some(of(live)?), ()))).map(drop)
}

/// Does what a line of standard input says.
fn happen(region: &mut Region, line: &str) -> Option<()> {
    let mut words = line.splitn(3, ' ');
    let (what, of, why) = (words.next()?, words.next()?, words.next());
    let (service, backend) = of.split_once('/')?;
    let since = Override::time(clock::unix_seconds());
    let admin = |admin| Override {
        admin,
        reason: why.and_then(Remark::new),
        by: Remark::new("alice").unwrap(),
        since,
        runtime: false,
    };
    let order = match what {
        "drain" => Some(admin(Admin::Draining)),
        "enable" => Some(admin(Admin::Enabled)),
        _ => None,
    };
    if let Some(order) = order {
        let names = [backend.to_owned()];
        return change(region, |live| Ok(live.set_admin(Some(service), &names, &order)?)).ok();
    }
    let health = Health::named(what)?;
    let found = [Observation {
        service: Name::new(service)?,
        backend: Name::new(backend)?,
        observed: Observed { health, since, reason: Remark::new(why?)? },
    }];
    change(region, |live| Ok(live.observe(&found))).ok()
}

fn main() {
    let Arguments { services, directory } = Arguments::parse();
    let name: RegionName = format!("synrail-played-{}", process::id()).parse().unwrap();
    let state = State::new(&Config::parse("the file", &file(services)).unwrap()).unwrap();
    let up: Vec<Observation> = state
        .services
        .iter()
        .flat_map(|service| {
            service.backends.iter().map(|backend| Observation {
                service: service.name.clone(),
                backend: backend.name.clone(),
                observed: Observed {
                    health: Health::Up,
                    since: Override::time(clock::unix_seconds() - 7200),
                    reason: Remark::new(if service.name.as_str() == "dns" {
                        "answered"
                    } else {
                        "status 200"
                    })
                    .unwrap(),
                },
            })
        })
        .collect();
    let state = state.observe(&up);
    let targets = state.targets_used().count();
    let played = Played(name.clone());
    let mut region = Region::create(&name, &state).unwrap();
    let proc = directory.join("proc");
    write_files(&proc, &vec![0; targets]);
    let (of_lbd, at) = (name.clone(), proc.clone());
    thread::spawn(move || go_on(&of_lbd, &at, targets));

    let (lbd, unix) = (directory.join("lbd.sock"), directory.join("page.http"));
    let listener = UnixListener::bind(&lbd).unwrap();
    let of_lbd = name.clone();
    thread::spawn(move || obey(&listener, &of_lbd));
    let (ours, its) = UnixStream::pair().unwrap();
    let of_reader = name;
    thread::spawn(move || Reader::new(of_reader, sources(proc)).serve(its));
    let listener = UnixListener::bind(&unix).unwrap();
    listener.set_nonblocking(true).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    tcp.set_nonblocking(true).unwrap();
    let at = json!({ "tcp": tcp.local_addr().unwrap().to_string(), "unix": unix });
    let settings = state.balancer.http;
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async move {
            let opened = Opened::of(settings, Some(listener), vec![tcp], Started::of(ours));
            let _serving = opened.serve(Link::start(&lbd, None).unwrap()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    writeln!(output::Out, "{at}").unwrap();
    for line in io::stdin().lines() {
        let done = happen(&mut region, &line.unwrap());
        writeln!(output::Out, "{}", if done.is_some() { "done" } else { "not understood" }).unwrap();
    }
    drop(played);
}
