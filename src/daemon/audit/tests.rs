//! Against the kernel that runs. Run as root: `cargo test daemon::audit -- --ignored`.

use std::net::IpAddr;

use super::*;
use crate::{
    balance::{Decision, pins::UDP_PROBATION_SECONDS},
    config::Config,
    daemon::{desired::Desired, watch},
    model::{
        Admin, Override,
        ids::{Generation, Mark, MarkMask},
    },
    packet::{Packet, Ports, UDP},
    plan::elements::Way,
    state::State,
    sys::{
        namespace::{in_namespace, shell},
        nft,
    },
    tests::fixture,
};

type Services<'a> = &'a [(&'a str, u16, &'a [&'a str])];

/// Services of UDP at one VIP, each with its port and its backends, of which those that begin with `-` are not active.
fn config(steering: &str, services: Services<'_>) -> Config {
    let mut file =
        fixture::balancer(&format!("address = '192.168.1.201'\ninterfaces = 'lo'\nsteering = '{steering}'"));
    for (name, port, backends) in services {
        file = file.service(name, "10.0.0.1/32 1000::1/128", &format!("protocols = 'udp'\nports = [{port}]"));
        for backend in *backends {
            let (backend, active) = backend.strip_prefix('-').map_or((*backend, true), |name| (name, false));
            file =
                file.backend(backend, &format!("address = '192.168.1.{}'\nactive = {active}", &backend[1..]));
        }
    }
    file.config()
}

/// A kernel whose ruleset and tables follow a state, without devices and routes.
struct World {
    state: State,
    shared: Arc<Shared>,
    ways: Arc<Ways>,
    auditor: Auditor,
    conntrack: Conntrack,
}

impl World {
    fn new(services: Services<'_>) -> Self {
        let state = State::new(&config("syn-only", services)).unwrap();
        let shared = Arc::new(Shared::new(Forwarding::new(&state, Generation(1)).unwrap()));
        let ways = Arc::<Ways>::default();
        let auditor = Auditor::open(&shared, &ways).unwrap();
        let conntrack = Conntrack::open().unwrap();
        let mut world = Self { state, shared, ways, auditor, conntrack };
        world.apply();
        world
    }

    /// Something else is in force from now on.
    fn change(&mut self, steering: &str, services: Services<'_>) {
        self.state = self.state.merge(&config(steering, services)).unwrap();
        self.apply();
    }

    fn apply(&mut self) {
        let mut wanted = Desired::by(&self.state, Generation(2), nft::means().unwrap(), &[]).unwrap();
        let mut tables = nft::Tables::default();
        let mut ways = self.ways.lock();
        ways.with(&mut wanted.ruleset, |ruleset, _| nft::apply(ruleset, &mut tables)).unwrap();
        ways.adopt(&self.shared, &wanted.forwarding);
    }

    /// So many flows of each family, pinned where the table places them.
    fn pin(&mut self, flows: u16, port: u16) -> Vec<(Packet, Mark)> {
        let forwarding = self.shared.forwarding.load_full();
        let mut pinned = Vec::new();
        for (client, vip) in [("50.0.0.1", "10.0.0.1"), ("2000::1", "1000::1")] {
            for sport in 0..flows {
                let packet = packet(client, vip, (sport, port));
                let Decision::Steered { mark, .. } = forwarding.decide(&packet) else { panic!("{packet:?}") };
                self.conntrack.pin(&packet, mark, MarkMask::DEFAULT, 100).unwrap();
                pinned.push((packet, mark));
            }
        }
        pinned
    }

    /// The marks that connection tracking, the maps and the workers know.
    fn found(&mut self, packet: &Packet) -> [Option<Mark>; 3] {
        let held = flow_maps::off_table().unwrap().held(packet);
        let in_workers = self.shared.off_table.load().held(packet);
        let pinned = self.conntrack.lookup(packet).unwrap();
        [pinned.map(|pin| pin.mark), held.map(|held| held.mark), in_workers.map(|held| held.mark)]
    }

    /// Whether the kernel has the way that is chosen, and which that is.
    fn way(&self) -> Way {
        let way = self.ways.lock().way();
        let mut wanted = Desired::by(&self.state, Generation(2), nft::means().unwrap(), &[]).unwrap();
        wanted.ruleset.elements.set_way(way);
        assert!(nft::in_force(&wanted.ruleset).unwrap(), "{way:?}");
        way
    }

    fn audit(&mut self) -> Pins {
        self.auditor.audit(Scope::All).unwrap()
    }
}

fn packet(client: &str, vip: &str, (src, dst): (u16, u16)) -> Packet {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    Packet::synthetic(UDP, address(client), address(vip), Ports { src, dst }).unwrap()
}

const ALL: &[&str] = &["s1", "s2", "s3"];
const DRAINED: &[&str] = &["-s1", "s2", "s3"];

#[test]
#[ignore = "needs root, nf_tables and nf_conntrack_netlink"]
fn a_drained_backend_keeps_its_flows_in_the_maps() {
    in_namespace(|| {
        let mut world = World::new(&[("log", 514, ALL)]);
        let flows = world.pin(300, 514);
        let stranger = packet("50.0.0.1", "10.0.0.9", (1, 514));
        world.conntrack.pin(&stranger, Mark(1), MarkMask::DEFAULT, 100).unwrap();
        assert_eq!(world.audit(), Pins::default(), "nothing is off-table");
        assert_eq!(world.way(), Way::Tracked);

        world.change("syn-only", &[("log", 514, DRAINED)]);
        let of_s1 = flows.iter().filter(|(_, mark)| *mark == Mark(1)).count();
        assert!(of_s1 > 100);
        for _ in 0..2 {
            let pins = world.audit();
            assert!(usize::try_from(pins.off_table).unwrap() >= of_s1, "{pins:?}");
            assert_eq!(world.way(), Way::OffTable);
            for (packet, mark) in &flows {
                let at = Some(*mark);
                match world.found(packet) {
                    [None, held, in_workers] => assert!(held == at && in_workers == at, "{packet:?}"),
                    found => assert!(*mark != Mark(1) && found == [at, None, None], "{packet:?} {found:?}"),
                }
            }
        }
        assert_eq!(world.found(&stranger)[0], Some(Mark(1)), "not to a VIP");

        // Another program empties the maps.
        let before = world.shared.off_table.load().len();
        shell("nft flush map inet synrail off_table4; nft flush map inet synrail off_table6");
        assert_eq!(usize::try_from(world.audit().off_table).unwrap(), before);
        assert_eq!(flow_maps::off_table().unwrap().len(), before);
        // It deletes the whole table, and lbd makes it anew.
        shell("nft delete table inet synrail");
        world.apply();
        assert_eq!(world.way(), Way::OffTable);
        assert_eq!(usize::try_from(world.audit().off_table).unwrap(), before);
        assert_eq!(flow_maps::off_table().unwrap().len(), before);
        // Another lbd takes over.
        let ways = Arc::<Ways>::default();
        let shared = Arc::new(Shared::new(Forwarding::clone(&world.shared.forwarding.load())));
        Auditor::open(&shared, &ways).unwrap().take_over().unwrap();
        assert_eq!((shared.off_table.load().len(), ways.lock().way()), (before, Way::OffTable));

        world.change("syn-only", &[("log", 514, ALL)]);
        assert_eq!(world.audit().off_table, 0, "the table names them again");
        assert_eq!(world.way(), Way::OffTable);
        // Again, before any packet of theirs has come.
        world.change("syn-only", &[("log", 514, DRAINED)]);
        assert!(usize::try_from(world.audit().off_table).unwrap() >= of_s1);
        for (packet, mark) in flows.iter().filter(|(_, mark)| *mark == Mark(1)) {
            assert_eq!(world.found(packet), [None, Some(*mark), Some(*mark)], "{packet:?}");
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables and nf_conntrack_netlink"]
fn flows_of_few_packets_have_a_small_share_of_the_maps_and_a_short_time() {
    const SHORT: u32 = UDP_PROBATION_SECONDS;
    in_namespace(|| {
        const ONE: &[&str] = &["s1"];
        let mut world = World::new(&[("log", 514, ONE)]);
        let whole = MarkMask::new(u32::MAX).unwrap();
        let all = world.pin(9000, 514);
        let (kept, strangers): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(packet, _)| packet.l4.ports().is_some_and(|ports| ports.src < 100));
        for (packet, mark) in &kept {
            let mark = Mark(mark.0 | MarkMask::DEFAULT.kept());
            world.conntrack.pin(packet, mark, whole, 100).unwrap();
        }
        world.change("syn-only", &[("log", 514, &["-s1", "s2"])]);
        let pins = world.audit();
        let (room, share) = (kept.len() + 2 * STRANGERS_MAX, 2 * STRANGERS_MAX as u64);
        assert_eq!(pins.no_room, strangers.len() as u64 - share);
        // Those that came first may have ended.
        let read = flow_maps::off_table().unwrap();
        assert!(read.len() <= room && kept.iter().all(|(packet, _)| read.held(packet).is_some()), "{pins:?}");
        let of_few = |packet: &Packet| read.held(packet).filter(|held| held.left_seconds <= SHORT);
        let there = |of: &[(Packet, Mark)]| of.iter().filter(|(packet, _)| of_few(packet).is_some()).count();
        assert!(there(&strangers) > 0 && there(&kept) == 0);

        // Packets renew one again and again.
        let (packet, mark) = strangers.iter().find(|(packet, _)| of_few(packet).is_some()).unwrap();
        let renewed = Held { mark: *mark, closing: false, left_seconds: 120 };
        let flow = Flow::of(packet).unwrap();
        let left = || flow_maps::off_table().unwrap().get(&flow).map(|held| held.left_seconds);
        for is_stranger in [true, false] {
            flow_maps::put_off_table(&[(flow, renewed)], &flow_maps::off_table().unwrap()).unwrap();
            for _ in 0..2 {
                world.auditor.audit(Scope::Kept).unwrap();
                assert_eq!(left().unwrap() <= SHORT, is_stranger, "{:?}", left());
                assert_eq!(world.shared.off_table.load().is_stranger(&flow), is_stranger);
            }
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables and nf_conntrack_netlink"]
fn a_pin_ends_with_its_service() {
    in_namespace(|| {
        let two: Services<'_> = &[("log", 514, ALL), ("web", 80, ALL)];
        let mut world = World::new(two);
        let (log, web) = (world.pin(200, 514), world.pin(200, 80));
        let pending = "nft add element inet synrail pending4 '{ 50.0.0.1 . 9 . 10.0.0.1 . 80 : 1 }'";
        shell(pending);
        world.audit();
        // s1 is removed from one of them; no TCP is claimed at all, so nothing may be pending.
        assert!(flow_maps::pending(MarkMask::DEFAULT).unwrap().is_empty());
        world.change("syn-only", &[("log", 514, &["s2", "s3"]), ("web", 80, ALL)]);
        world.audit();
        for (packet, mark) in &log {
            let found = world.found(packet);
            assert_eq!(found.iter().any(Option::is_some), *mark != Mark(1), "{packet:?} {found:?}");
        }
        for (packet, mark) in &web {
            assert_eq!(world.found(packet), [Some(*mark), None, None]);
        }
        // The service is gone, and so are all of its flows, also those in maps.
        world.change("syn-only", &[("log", 514, &["-s2", "s3"]), ("web", 80, ALL)]);
        assert!(world.audit().off_table > 0);
        world.change("syn-only", &[("web", 80, ALL)]);
        assert_eq!(world.audit().off_table, 0);
        assert!(log.iter().all(|(packet, _)| world.found(packet) == [None; 3]));
        assert!(flow_maps::off_table().unwrap().is_empty());
    });
}

/// What has flows, and of which backend they are ended.
fn ended(world: &mut World, flows: &[(Packet, Mark)], of: Option<Mark>, what: &str) {
    for (packet, mark) in flows {
        let found = world.found(packet);
        assert_eq!(found.iter().all(Option::is_none), Some(*mark) == of, "{what}: {packet:?} {found:?}");
    }
}

#[test]
#[ignore = "needs root, nf_tables and nf_conntrack_netlink"]
fn flows_of_a_disabled_backend_end_by_mark_and_service() {
    in_namespace(|| {
        let admin = |world: &mut World, admin| {
            let (s1, order) = (["s1".to_owned()], Override::unattributed(admin));
            world.state = world.state.set_admin(Some("log"), &s1, &order).unwrap();
            world.apply();
        };
        let mut world = World::new(&[("log", 514, ALL), ("web", 80, ALL)]);
        let (log, web) = (world.pin(200, 514), world.pin(200, 80));
        let of_s1 = log.iter().filter(|(_, mark)| *mark == Mark(1)).count() as u64;
        assert_eq!(world.audit().ended, 0);
        // In connection tracking.
        admin(&mut world, Admin::Disabled);
        let pins = world.audit();
        assert!(of_s1 > 0 && pins.ended == of_s1, "{pins:?}");
        ended(&mut world, &log, Some(Mark(1)), "disabled");
        ended(&mut world, &web, None, "of another service");
        // In the maps.
        admin(&mut world, Admin::Enabled);
        let again: Vec<_> = world.pin(200, 514);
        admin(&mut world, Admin::Draining);
        assert!(world.audit().off_table >= of_s1);
        ended(&mut world, &again, None, "draining");
        admin(&mut world, Admin::Disabled);
        assert_eq!(world.audit().ended, 2 * of_s1);
        ended(&mut world, &again, Some(Mark(1)), "disabled later");
        ended(&mut world, &web, None, "of another service");
        assert!(!world.shared.off_table.load().iter().any(|(_, held)| held.mark == Mark(1)));
        // A SYN that was answered before does not bring one back; lbd that starts again finds it.
        let packet = again.iter().find(|(_, mark)| *mark == Mark(1)).unwrap().0;
        world.conntrack.pin(&packet, Mark(1), MarkMask::DEFAULT, 100).unwrap();
        world.auditor = Auditor::open(&world.shared, &world.ways).unwrap();
        assert_eq!(world.audit().ended, 1);
        assert_eq!(world.found(&packet), [None; 3]);
        // One that is in a map and in connection tracking is one flow.
        let (flow, held) =
            (Flow::of(&packet).unwrap(), Held { mark: Mark(1), closing: false, left_seconds: 100 });
        flow_maps::put_off_table(&[(flow, held)], &OffTable::default()).unwrap();
        world.conntrack.pin(&packet, Mark(1), MarkMask::DEFAULT, 100).unwrap();
        assert_eq!(world.audit().ended, 2);
        assert_eq!(world.found(&packet), [None; 3]);
    });
}

#[test]
#[ignore = "needs root, nf_tables and nf_conntrack_netlink"]
fn a_kill_is_carried_out_once() {
    in_namespace(|| {
        let kill = |world: &mut World, when| {
            world.state = world.state.kill(Some("log"), &["s1".to_owned()], when).unwrap().0;
            world.apply();
        };
        let mut world = World::new(&[("log", 514, ALL), ("web", 80, ALL)]);
        let (log, web) = (world.pin(200, 514), world.pin(200, 80));
        let of_s1 = log.iter().filter(|(_, mark)| *mark == Mark(1)).count() as u64;
        kill(&mut world, 1000);
        let pins = world.audit();
        assert_eq!((pins.ended, pins.killed), (of_s1, 1000));
        ended(&mut world, &log, Some(Mark(1)), "killed");
        ended(&mut world, &web, None, "of another service");
        // What begins later stays, also for an lbd that starts then.
        let again: Vec<_> = world.pin(200, 514);
        assert_eq!(world.audit().ended, of_s1);
        world.auditor = Auditor::open(&world.shared, &world.ways).unwrap();
        world.auditor.succeed(pins);
        assert_eq!(world.audit().ended, 0);
        ended(&mut world, &again, None, "after the kill");
        // Off-table ones, which are not put back; by an lbd that starts after the kill.
        world.change("syn-only", &[("log", 514, DRAINED), ("web", 80, ALL)]);
        assert!(world.audit().off_table >= of_s1);
        kill(&mut world, 1000);
        world.auditor = Auditor::open(&world.shared, &world.ways).unwrap();
        world.auditor.succeed(pins);
        world.auditor.take_over().unwrap();
        for _ in 0..2 {
            let pins = world.audit();
            assert_eq!((pins.ended, pins.killed), (of_s1, 1001));
            ended(&mut world, &again, Some(Mark(1)), "killed off-table");
        }
        ended(&mut world, &web, None, "of another service");
    });
}

#[test]
#[ignore = "needs root, nf_tables and nf_conntrack_netlink"]
fn what_was_judged_by_another_table_is_thrown_away() {
    in_namespace(|| {
        let mut world = World::new(&[("log", 514, ALL)]);
        world.pin(100, 514);
        world.change("syn-only", &[("log", 514, DRAINED)]);
        let old = world.shared.forwarding.load_full();
        let off_table = world.audit().off_table;
        world.change("syn-only", &[("log", 514, ALL)]);
        let mut steps = 0;
        let ended = world.auditor.steps(&old, &[0; 10], |_, _, _| {
            steps += 1;
            Ok(())
        });
        assert!(matches!(ended, Err(Ended::Superseded)) && steps == 0);
        assert!(matches!(
            world.auditor.finish(&old, OffTable::default(), Scope::All),
            Err(Ended::Superseded)
        ));
        assert_eq!(flow_maps::off_table().unwrap().len() as u64, off_table);

        // Where nothing is pinned nothing is kept.
        world.change("every-packet", &[("log", 514, DRAINED)]);
        assert_eq!(world.audit(), Pins::default());
        assert!(flow_maps::off_table().unwrap().is_empty());
    });
}

#[test]
#[ignore = "needs root, nf_tables and nf_conntrack_netlink"]
fn flows_are_placed_before_a_table_is_in_force_that_does_not_name_them() {
    in_namespace(|| {
        let mut world = World::new(&[("log", 514, ALL)]);
        let flows = world.pin(100, 514);
        let next = world.state.merge(&config("syn-only", &[("log", 514, DRAINED)])).unwrap();
        let next = Forwarding::new(&next, Generation(3)).unwrap();
        let ways = Arc::clone(&world.ways);
        world.auditor.place(&next, &mut ways.lock()).unwrap();
        assert_eq!(world.way(), Way::OffTable);
        for (packet, mark) in flows.iter().filter(|(_, mark)| *mark == Mark(1)) {
            assert_eq!(world.found(packet), [Some(*mark); 3], "its entry stays until the audit");
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables and nf_conntrack_netlink"]
fn flows_of_a_new_table_are_placed_when_connection_tracking_is_full_before_their_audit() {
    in_namespace(|| {
        let mut world = World::new(&[("log", 514, ALL)]);
        let flows = world.pin(100, 514);
        world.audit();
        for audited in [true, false] {
            if !audited {
                world.change("syn-only", &[("log", 514, DRAINED)]);
                world.auditor.audit(Scope::Kept).unwrap();
            }
            watch::turn(&world.shared, &world.ways, true).unwrap();
            assert_eq!(world.way(), Way::Untracked);
            for (packet, mark) in flows.iter().filter(|(_, mark)| *mark == Mark(1)) {
                let [_, held, in_workers] = world.found(packet);
                let placed = (!audited).then_some(*mark);
                assert_eq!((held, in_workers), (placed, placed), "{packet:?}");
            }
            watch::turn(&world.shared, &world.ways, false).unwrap();
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables and nf_conntrack_netlink"]
fn a_new_connection_of_the_same_port_is_not_put_back() {
    in_namespace(|| {
        let mut world = World::new(&[("log", 514, ALL)]);
        let flows = world.pin(100, 514);
        world.change("syn-only", &[("log", 514, DRAINED)]);
        world.audit();
        let forwarding = world.shared.forwarding.load_full();
        let now_at_s2 = |packet: &Packet| matches!(forwarding.decide(packet), Decision::Steered { mark, .. } if mark == Mark(2));
        let of_s1 = flows.iter().filter(|(packet, mark)| *mark == Mark(1) && now_at_s2(packet));
        let of_s1: Vec<Packet> = of_s1.map(|(packet, _)| *packet).collect();
        let (again, other) = (of_s1[0], of_s1[1]);
        shell("nft flush map inet synrail off_table4; nft flush map inet synrail off_table6");
        world.conntrack.pin(&again, Mark(2), MarkMask::DEFAULT, 100).unwrap();
        // A new auditor does not know how old the workers' flows are, and puts nothing back by them.
        let mut restarted = Auditor::open(&world.shared, &world.ways).unwrap();
        let of_workers = world.shared.off_table.load_full();
        restarted.audit(Scope::All).unwrap();
        assert_eq!(world.found(&other), [None; 3]);
        world.shared.off_table.store(of_workers);
        world.audit();
        assert!(!world.found(&again).contains(&Some(Mark(1))), "{:?}", world.found(&again));
        assert_eq!(world.found(&other), [None, Some(Mark(1)), Some(Mark(1))]);
    });
}

#[test]
#[ignore = "needs root, nf_tables and nf_conntrack_netlink"]
fn maps_of_another_kind_do_not_hold_up_the_start() {
    in_namespace(|| {
        shell("nft add table inet synrail");
        shell("nft 'add map inet synrail off_table4 { type ipv4_addr : mark; }'");
        shell("nft 'add element inet synrail off_table4 { 50.0.0.1 : 1 }'");
        let state = State::new(&config("syn-only", &[("log", 514, ALL)])).unwrap();
        let shared = Arc::new(Shared::new(Forwarding::new(&state, Generation(1)).unwrap()));
        let ways = Arc::<Ways>::default();
        Auditor::open(&shared, &ways).unwrap().take_over().unwrap();
        assert!(shared.off_table.load().is_empty() && ways.lock().way() == Way::Tracked);
    });
}

#[test]
#[ignore = "needs root, nf_tables and nf_conntrack_netlink"]
fn kept_flows_are_protected_up_to_half_of_all() {
    in_namespace(|| {
        let mut world = World::new(&[("log", 514, ALL)]);
        let kept = MarkMask::DEFAULT.kept();
        let protected = |world: &mut World| {
            let mut protected = 0;
            let count = |entry: &conntrack::Entry<'_>| {
                protected += usize::from(entry.tracked().is_some_and(|tracked| tracked.protected));
                Ok(())
            };
            world.conntrack.dump(None, count).unwrap();
            protected
        };
        for (packet, mark) in world.pin(100, 514) {
            let odd = packet.l4.ports().is_some_and(|ports| ports.src % 2 == 1);
            let bits = if odd { kept } else { 0 };
            let whole = MarkMask::new(u32::MAX).unwrap();
            world.conntrack.pin(&packet, Mark(mark.0 | bits), whole, 100).unwrap();
        }
        let pins = world.auditor.audit(Scope::Kept).unwrap();
        assert_eq!((protected(&mut world), pins.protected, pins.not_protected), (100, 100, 0));
        assert_eq!(world.audit().protected, 100);
    });
}

/// What an audit costs of a CPU; printed with `--nocapture`.
#[test]
#[ignore = "needs root, nf_tables and nf_conntrack_netlink; takes seconds"]
fn an_audit_of_many_entries_takes_little() {
    in_namespace(|| {
        let mut world = World::new(&[("log", 514, ALL)]);
        let flows = world.pin(50_000, 514).len();
        let time = |world: &mut World, what: &str| {
            let begun = clock::thread_cpu();
            let pins = world.audit();
            let took = clock::thread_cpu().saturating_sub(begun);
            println!("{what}: {flows} entries, {} off-table, {took:?}", pins.off_table);
            took
        };
        let nothing = time(&mut world, "nothing to do");
        world.change("syn-only", &[("log", 514, DRAINED)]);
        time(&mut world, "a third is moved");
        time(&mut world, "again");
        assert!(nothing.as_secs() < 2, "{nothing:?}");
    });
}
