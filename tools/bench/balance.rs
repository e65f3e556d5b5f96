//! What deciding costs: building tables, one decision, publishing a state and taking it over.
//!
//! `cargo bench` prints times; they hold for the machine and the moment. The Maglev paper (5.3) gives 1.8 ms and 22.9 ms
//! for tables of 65537 and 655373 entries on Google's machines of 2016.

#![expect(clippy::unwrap_used, reason = "a benchmark")]

use std::{hint::black_box, io, time::Duration};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use synrail::model::{Admin, Override};
use synrail::{
    balance::{
        Balancer, Forwarding, Verdict,
        counters::Counter,
        flow_table::{FlowMark, FlowTable},
        fragments::{FragmentBalancer, Origin},
        pins::{OffTable, WithOffTable},
    },
    config::Config,
    lookup::maglev,
    model::{
        TableSize, Weight,
        ids::{Generation, Mark, MarkMask},
    },
    packet::Packet,
    state::State,
    sys::region::{AccessError, Region, RegionName},
};

const SEED: u32 = 0xcafe_babe;

fn names(count: usize) -> Vec<String> {
    let mut names: Vec<_> = (0..count).map(|index| format!("backend-{index}")).collect();
    names.sort();
    names
}

fn tables(c: &mut Criterion) {
    let mut group = c.benchmark_group("table");
    group.sample_size(20);
    for (entries, backends) in [(65537, 100), (65537, 1000), (655_373, 1000)] {
        let names = names(backends);
        let size = TableSize::new(entries).unwrap();
        let equal = || names.iter().map(|name| (name.as_str(), Weight::ONE));
        group.bench_function(format!("{entries}x{backends}"), |b| {
            b.iter(|| maglev::build(SEED, size, equal()));
        });
        let weighted =
            || names.iter().zip((1..=100).cycle()).map(|(name, w)| (name.as_str(), Weight::new(w).unwrap()));
        group.bench_function(format!("{entries}x{backends} weighted 1..100"), |b| {
            b.iter(|| maglev::build(SEED, size, weighted()));
        });
    }
}

/// 100 services with IPv4 and IPv6, TCP and UDP, 10 backends each.
fn hundred_services() -> State {
    let mut text =
        "[balancer]\nname='lb'\naddress=['192.168.1.201','fd00::201']\ninterfaces=['eth2']\n".to_owned();
    for service in 0..100 {
        text += &format!(
            "[[service]]\nname='v{service}'\nvips=['10.0.{service}.0/24','1000::{service}/128']\nprotocols=['tcp','udp']\nports=['80','8000-8010']\n"
        );
        for backend in 0..10 {
            text += &format!("[[service.backend]]\nname='s{backend}'\naddress='192.168.1.{}'\n", backend + 1);
        }
    }
    State::new(&Config::parse("bench", &text).unwrap()).unwrap()
}

fn v4(protocol: u8, client: u32, sport: u16, service: u8) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    bytes.extend((0x3200_0000 + client).to_be_bytes());
    bytes.extend([10, 0, service, 1]);
    bytes.extend(sport.to_be_bytes());
    bytes.extend(80u16.to_be_bytes());
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    bytes
}

fn v6(client: u16, sport: u16, service: u16) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
    bytes.extend([0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(client.to_be_bytes());
    bytes.extend([0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // Written in decimal digits, as the VIPs above are.
    bytes.extend(u16::from_str_radix(&service.to_string(), 16).unwrap().to_be_bytes());
    bytes.extend(sport.to_be_bytes());
    bytes.extend(80u16.to_be_bytes());
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    bytes
}

/// Each iteration takes another packet, so that no branch or cache line is learned by heart.
fn decisions(c: &mut Criterion) {
    let state = hundred_services();
    let forwarding = Forwarding::new(&state, Generation(1)).unwrap();
    let spread = |n: u32| (n.wrapping_mul(2_654_435_761) >> 8, u16::try_from(n % 50_000).unwrap() + 1024);
    type Make = Box<dyn Fn(u32) -> Vec<u8>>;
    let kinds: [(&str, Make); 3] = [
        (
            "tcp ipv4",
            Box::new(move |n| v4(6, spread(n).0 & 0xffff, spread(n).1, u8::try_from(n % 100).unwrap())),
        ),
        (
            "udp ipv4",
            Box::new(move |n| v4(17, spread(n).0 & 0xffff, spread(n).1, u8::try_from(n % 100).unwrap())),
        ),
        (
            "tcp ipv6",
            Box::new(move |n| {
                v6(u16::try_from(spread(n).0 & 0xffff).unwrap(), spread(n).1, u16::try_from(n % 100).unwrap())
            }),
        ),
    ];
    let off_table = OffTable::default();
    let mut group = c.benchmark_group("decision, 100 services");
    for (kind, make) in &kinds {
        let packets: Vec<Vec<u8>> = (0..4096).map(make).collect();
        let mut balancer = Balancer::default();
        let mut next = 0;
        group.bench_function(format!("{kind}: parse, classify, hash, look up, count"), |b| {
            b.iter(|| {
                next = (next + 1) % packets.len();
                black_box(balancer.handle(&forwarding, &off_table, black_box(&packets[next])))
            });
        });
        let dropped = Counter::ALL.iter().filter(|counter| counter.name().starts_with("drop_"));
        let dropped: u64 = dropped.map(|&counter| balancer.counters.get(counter)).sum();
        assert_eq!(dropped, 0, "{kind}: every packet is steered");
        group.bench_function(format!("{kind}: parse alone"), |b| {
            b.iter(|| {
                next = (next + 1) % packets.len();
                black_box(Packet::parse(black_box(&packets[next])))
            });
        });
    }
}

/// A fragment of 1500 bytes, the first with ports.
fn fragment(client: u32, id: u16, index: u16, last: u16) -> Vec<u8> {
    let mut bytes = v4(17, client, 4000, 1);
    bytes.resize(1500, 0);
    let field = (index * (1480 / 8)) | (u16::from(index < last) << 13);
    bytes[2..4].copy_from_slice(&1500u16.to_be_bytes());
    bytes[4..6].copy_from_slice(&id.to_be_bytes());
    bytes[6..8].copy_from_slice(&field.to_be_bytes());
    bytes
}

/// Connection tracking that knows no flow: what the kernel takes to answer is not measured here.
struct NoPins;

impl FlowTable for NoPins {
    fn lookup(&mut self, _packet: &Packet) -> io::Result<Option<FlowMark>> {
        Ok(None)
    }

    fn pin(&mut self, _packet: &Packet, _mark: Mark, _mask: MarkMask, _seconds: u32) -> io::Result<()> {
        Ok(())
    }
}

/// Gives a fragment, and then those that it releases, as the TUN device does.
fn give(balancer: &mut FragmentBalancer, forwarding: &Forwarding, bytes: &[u8]) -> Verdict {
    let mut released = Vec::new();
    let now = Duration::from_secs(1);
    let pins = &mut WithOffTable { off_table: &OffTable::default(), pins: &mut NoPins };
    let verdict = balancer.handle(now, forwarding, Origin::Outside, bytes, pins, &mut released);
    for bytes in &released {
        balancer.handle(now, forwarding, Origin::Held, bytes, pins, &mut Vec::new());
    }
    verdict
}

fn fragments(c: &mut Criterion) {
    let forwarding = Forwarding::new(&hundred_services(), Generation(1)).unwrap();
    let limits = forwarding.fragments();
    let now = |balancer: &FragmentBalancer| balancer.counters.get(Counter::FragmentEntriesNow);
    let mut group = c.benchmark_group("fragments, 100 services");
    for filled in [0, limits.entries - 512] {
        let mut balancer = FragmentBalancer::new(limits);
        for n in 0..filled {
            give(&mut balancer, &forwarding, &fragment(1 << 20 | n, 1, 0, 1));
        }
        // Packets come and go as a whole, so that the table is as full at the end as at the beginning.
        assert_eq!(now(&balancer), u64::from(filled));
        let packet =
            |n: u16, last: u16| (0..=last).map(move |index| fragment(u32::from(n) * 7, n, index, last));
        let threes: Vec<Vec<_>> = (0..512).map(|n| packet(n, 2).collect()).collect();
        let mut next = 0;
        for (order, what) in [([0, 1, 2], "in order"), ([1, 2, 0], "two held and back")] {
            group.bench_function(format!("{filled} others: datagram of 3, {what}"), |b| {
                b.iter(|| {
                    next = (next + 1) % threes.len();
                    for index in order {
                        black_box(give(&mut balancer, &forwarding, black_box(&threes[next][index])));
                    }
                });
            });
            assert_eq!(now(&balancer), u64::from(filled));
        }
        // Most of these are later ones whose mark is known.
        let large: Vec<Vec<_>> = (0..128).map(|n| packet(n, 42).collect()).collect();
        group.bench_function(format!("{filled} others: datagrams of 43, 128 at a time, in order"), |b| {
            b.iter(|| {
                for index in 0..43 {
                    for packet in &large {
                        black_box(give(&mut balancer, &forwarding, black_box(&packet[index])));
                    }
                }
            });
        });
        assert_eq!(now(&balancer), u64::from(filled));
    }
    // Floods: the table is full, and each fragment sends another packet away.
    for (index, what) in [(0, "first"), (1, "later")] {
        let flood: Vec<_> = (0..20_000).map(|n| fragment(n * 7, 1, index, 2)).collect();
        let mut balancer = FragmentBalancer::new(limits);
        // Full before anything is measured, whatever is measured.
        for fragment in &flood {
            give(&mut balancer, &forwarding, fragment);
        }
        assert!(balancer.counters.get(Counter::FragmentEvicted) > 0, "it is full");
        let mut next = 0;
        group.bench_function(format!("flood of {what} fragments"), |b| {
            b.iter(|| {
                next = (next + 1) % flood.len();
                black_box(give(&mut balancer, &forwarding, black_box(&flood[next])))
            });
        });
    }
}

/// A region of this benchmark alone.
struct Private(RegionName);

impl Drop for Private {
    fn drop(&mut self) {
        let _ = Region::remove(&self.0);
    }
}

fn publishing(c: &mut Criterion) {
    let name = Private(format!("synrail-bench-{}", std::process::id()).parse().unwrap());
    let state = State::unconfigured(TableSize::DEFAULT, 1000, 999).unwrap();
    let mut writer = Region::create(&name.0, &state).unwrap();
    let mut reader = Region::open(&name.0).unwrap();
    let mut group = c.benchmark_group("region, 65537x1000");
    group.sample_size(20);
    group.bench_function("publish", |b| {
        b.iter(|| writer.update(|_| Ok::<_, AccessError>((Some(state.clone()), ()))).unwrap());
    });
    group.bench_function("take over: copy, verify, make ready", |b| {
        b.iter_batched(
            || (),
            |()| {
                let (generation, state) = reader.state().unwrap();
                Forwarding::new(&state, generation).unwrap()
            },
            BatchSize::SmallInput,
        );
    });
    let mut last = true;
    group.bench_function("deactivate or activate one backend: rebuild and publish", |b| {
        b.iter(|| {
            last = !last;
            let change = |state: &State| {
                let next = state
                    .set_admin(None, &["999".to_owned()], &Override::unattributed(Admin::when(last)))
                    .unwrap();
                Ok::<_, AccessError>((Some(next), ()))
            };
            writer.update(change).unwrap()
        });
    });
}

criterion_group!(benches, tables, decisions, fragments, publishing);
criterion_main!(benches);
