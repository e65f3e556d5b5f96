//! Against the kernel that runs. Run as root: `cargo test daemon -- --ignored`.

use super::{announce::Announced, desired::Desired, *};
use crate::model::{
    Admin, Override,
    ids::{MarkMask, QueueNum},
};
use crate::{
    shm::stats::Identity,
    sys::{
        clock::wait_for,
        namespace::{in_namespace, shell},
        nfqueue::FlowQueue,
        nft::{self, differing},
    },
    worker::Links,
};

/// A balancer of a tier, which needs nothing but the tunnel to the other one.
const FILE: &str = r#"
[balancer]
name = "lb201"
address = "192.168.1.201"
interfaces = ["lo"]
[[tier.balancer]]
name = "lb201"
address = "192.168.1.201"
[[tier.balancer]]
name = "lb202"
address = "192.168.1.202"
"#;

#[test]
fn what_is_no_file_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    for path in [pipe.as_path(), directory.path(), Path::new("/dev/zero")] {
        let error = check(path).unwrap_err().to_string();
        assert!(error.ends_with("it is no regular file"), "{error}");
    }
}

/// A region of this test alone, removed when it ends.
pub(super) struct Name(pub(super) RegionName);

impl Drop for Name {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0.path());
    }
}

/// An lbd without workers, that has done nothing yet.
pub(super) fn lbd(name: &RegionName, state: &State) -> Lbd {
    let region = Region::create(name, state).unwrap();
    let generation = Generation(1);
    let shared = Arc::new(Shared::new(Forwarding::new(state, generation).unwrap()));
    let mut kernel =
        Kernel::open(nft::means().unwrap(), Vec::new(), &shared, Some(StartupSettings::of(&state.balancer)))
            .unwrap();
    kernel.desired = Some(Desired::by(state, generation, kernel.means, &[]).unwrap());
    Lbd {
        config: None,
        overrides: OverridesFile::new(Path::new("/proc/nonexistent"), name),
        shown: Arc::new(ArcSwap::new(region.mapping())),
        region,
        kernel,
        tun: Arc::new(Tun::open().unwrap()),
        workers: Workers::default(),
        auditing: Auditing::default(),
        watch: FillWatch::default(),
        nearly_full: false,
        started: clock::now(),
        daemon: Daemon { adopted: generation, ..Daemon::default() },
        region_error: ErrorLatch::default(),
        repair_error: ErrorLatch::default(),
        queues_error: ErrorLatch::default(),
        host: HostWatch::new(state, Vec::new()),
        control: None,
        undelivered_sets: UndeliveredSets::default(),
        undelivered: Undelivered::default(),
        agent: Agent::new(None, name.clone()),
        announcer: Announcer::default(),
    }
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn queues_are_in_the_region_as_long_as_they_are_there() {
    in_namespace(|| {
        let name = Name(format!("synrail-queues-{}", std::process::id()).parse().unwrap());
        let state = State::new(&Config::parse("a test", FILE).unwrap()).unwrap();
        let mut lbd = lbd(&name.0, &state);
        lbd.daemon.workers = 1;
        let identity = Identity { queue: QueueNum(7), fragments: false };
        stats::identify(&mut lbd.region.mapping(), 0, identity).unwrap();
        let queue = FlowQueue::open(identity.queue, MarkMask::DEFAULT).unwrap();
        let shown = |lbd: &mut Lbd| {
            lbd.show_queues();
            stats::read(&mut lbd.region.mapping(), 1).unwrap()[0].line.map(|line| line.queue)
        };
        assert_eq!(shown(&mut lbd), Some(7));
        drop(queue);
        assert_eq!(shown(&mut lbd), None);
    });
}

/// Repairs, and leaves nothing.
fn repair(lbd: &mut Lbd) {
    let left = lbd.repair().left;
    assert!(left.is_empty(), "{left:?}");
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn what_cannot_be_mended_holds_up_nothing_else() {
    in_namespace(|| {
        let name = Name(format!("synrail-daemon-{}", std::process::id()).parse().unwrap());
        let state = State::new(&Config::parse("a test", FILE).unwrap()).unwrap();
        let mut lbd = lbd(&name.0, &state);
        // Another program's, where the tier's tunnel should be.
        shell("ip tuntap add dev sr-1 mode tun");
        let in_the_way = |lbd: &mut Lbd| {
            let error = lbd.repair().left[0].to_string();
            assert!(error.contains("sr-1") && error.contains("not synrail's"), "{error}");
        };
        in_the_way(&mut lbd);
        for spoil in ["ip link del sr-frag", "ip link set sr-frag down", "nft flush ruleset"] {
            shell(spoil);
            in_the_way(&mut lbd);
            assert!(!lbd.tun.renew().unwrap(), "{spoil}");
            assert!(!lbd.kernel.routing.set_up_fragments_device().unwrap(), "{spoil}");
            assert!(nft::in_force(&lbd.kernel.desired.as_ref().unwrap().ruleset).unwrap(), "{spoil}");
            let links = Links { tun: lbd.tun.index(), tier: links::indexes(&["sr-1".to_owned()]) };
            assert_eq!(**lbd.kernel.shared.links.load(), links, "{spoil}");
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn packets_do_not_stay_untracked_when_it_ends() {
    in_namespace(|| {
        let name = Name(format!("synrail-ends-{}", std::process::id()).parse().unwrap());
        let state = State::empty(Config::parse("a test", FILE).unwrap().balancer);
        let mut lbd = lbd(&name.0, &state);
        repair(&mut lbd);
        let tracked = lbd.kernel.desired.as_ref().unwrap().ruleset.clone();
        lbd.kernel.ways.lock().set_nearly_full(true).unwrap();
        assert!(!nft::in_force(&tracked).unwrap());
        lbd.end();
        assert!(nft::in_force(&tracked).unwrap());
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn the_kernel_is_mended_whatever_is_wrong_with_the_region() {
    in_namespace(|| {
        let name = Name(format!("synrail-spoiled-{}", std::process::id()).parse().unwrap());
        let state = State::empty(Config::parse("a test", FILE).unwrap().balancer);
        let mut lbd = lbd(&name.0, &state);
        std::fs::OpenOptions::new().write(true).open(name.0.path()).unwrap().set_len(0).unwrap();
        lbd.follow_region();
        lbd.repair();
        assert!(!lbd.region_error.0.is_empty());
        assert_eq!(lbd.repair_error.0, "");
        assert!(nft::in_force(&lbd.kernel.desired.as_ref().unwrap().ruleset).unwrap());
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn a_change_that_fails_leaves_the_last_good_state_in_force() {
    in_namespace(|| {
        let name = Name(format!("synrail-fails-{}", std::process::id()).parse().unwrap());
        let with_tier = State::new(&Config::parse("a test", FILE).unwrap()).unwrap();
        let state = State::empty(with_tier.balancer.clone());
        let mut lbd = lbd(&name.0, &state);
        repair(&mut lbd);
        let good = lbd.kernel.desired.as_ref().unwrap().ruleset.clone();
        // Another program's device, in the place of the tier's tunnel.
        shell("ip tuntap add dev sr-1 mode tun; nft flush ruleset");
        let error =
            lbd.kernel.apply(&with_tier, Generation(2), Announced::default()).unwrap_err().to_string();
        assert!(error.contains("sr-1") && error.contains("not synrail's"), "{error}");
        assert!(nft::in_force(&good).unwrap());
        assert_eq!(lbd.kernel.shared.forwarding.load().generation(), Generation(1));
        assert!(lbd.kernel.shared.links.load().tier.is_empty());

        assert!(lbd.kernel.apply(&state, Generation(3), Announced::default()).unwrap().left.is_empty());
        assert_eq!(lbd.kernel.shared.forwarding.load().generation(), Generation(3));
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn a_change_that_leaves_routing_alone_does_not_read_it() {
    in_namespace(|| {
        let name = Name(format!("synrail-alone-{}", std::process::id()).parse().unwrap());
        let (head, _) = FILE.split_once("[[tier.balancer]]").unwrap();
        let service = "[[service]]\nname = 'web'\nvips = '10.0.0.0/32'\ntable_size = 97\n\
                       backend = [{ name = 'a', encap = 'mark' }, { name = 'b', encap = 'mark' }]\n";
        let state = State::new(&Config::parse("a test", &format!("{head}{service}")).unwrap()).unwrap();
        let mut lbd = lbd(&name.0, &state);
        assert!(lbd.kernel.apply(&state, Generation(2), Announced::default()).unwrap().left.is_empty());
        let spoil = "ip rule add priority 12000 fwmark 5 lookup 20005 protocol 201";
        shell(spoil);
        let drained =
            state.set_admin(None, &["a".to_owned()], &Override::unattributed(Admin::Draining)).unwrap();
        assert!(lbd.kernel.apply(&drained, Generation(3), Announced::default()).unwrap().left.is_empty());
        shell("ip rule | grep -q ^12000:");
        repair(&mut lbd);
        shell("! ip rule | grep -q ^12000:");
        // Without the service there is other routing.
        shell(spoil);
        let empty = State::empty(state.balancer.clone());
        assert!(lbd.kernel.apply(&empty, Generation(4), Announced::default()).unwrap().left.is_empty());
        shell("! ip rule | grep -q ^12000:");
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn what_must_wait_for_the_ruleset_does_so_when_that_cannot_be_had() {
    in_namespace(|| {
        let name = Name(format!("synrail-waits-{}", std::process::id()).parse().unwrap());
        let state = State::empty(Config::parse("a test", FILE).unwrap().balancer);
        let mut lbd = lbd(&name.0, &state);
        let good = lbd.kernel.desired.as_ref().unwrap().ruleset.clone();
        let refused = || {
            let mut ruleset = good.clone();
            ruleset.structure.text = "no ruleset at all".to_owned();
            ruleset
        };
        for mend in [|lbd: &mut Lbd| _ = lbd.repair(), |lbd: &mut Lbd| lbd.kernel.roll_back()] {
            // A rule that is no longer desired: pure removals wait as entrances do.
            shell("nft flush ruleset; ip rule add priority 12000 fwmark 5 lookup 20005 protocol 201");
            lbd.kernel.desired.as_mut().unwrap().ruleset = refused();
            mend(&mut lbd);
            shell("ip rule | grep -q ^12000:");
            lbd.kernel.desired.as_mut().unwrap().ruleset = good.clone();
            mend(&mut lbd);
            shell("! ip rule | grep -q ^12000:");
            assert!(nft::in_force(&good).unwrap());
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn the_kernels_tables_are_those_of_the_last_good_state() {
    in_namespace(|| {
        let name = Name(format!("synrail-tables-{}", std::process::id()).parse().unwrap());
        let service = "[[service]]\nname = 'web'\nvips = '10.0.0.0/32'\ntable_size = 97\n\
                       backend = [{ name = 'a', encap = 'mark' }, { name = 'b', encap = 'mark' }]\n";
        let (head, _) = FILE.split_once("[[tier.balancer]]").unwrap();
        let state = State::new(&Config::parse("a test", &format!("{head}{service}")).unwrap()).unwrap();
        let mut lbd = lbd(&name.0, &state);
        let good = lbd.kernel.desired.as_ref().unwrap().ruleset.clone();
        // What it finds by itself, whatever lbd has recorded.
        let differ = || nft::Tables::default().apply(&good.tables).unwrap();
        repair(&mut lbd);
        assert_eq!((good.tables[0].contents().entries().len(), differ()), (97, 0));
        // A change that fails when the kernel has the new tables already.
        let other =
            state.set_admin(None, &["a".to_owned()], &Override::unattributed(Admin::Draining)).unwrap();
        let other = Desired::by(&other, Generation(2), lbd.kernel.means, &[]).unwrap().ruleset;
        nft::apply(&other, &mut lbd.kernel.tables).unwrap();
        assert!(lbd.kernel.tables.apply(&other.tables).unwrap() > 40);
        lbd.kernel.roll_back();
        assert_eq!(differ(), 0);
        let flush = format!("nft flush map inet synrail {}", good.tables[0].map);
        for spoil in ["nft flush ruleset", &flush] {
            shell(spoil);
            repair(&mut lbd);
            assert_eq!(differ(), 0, "{spoil}");
        }
    });
}

/// A change of hundreds of services is in force before hundreds of thousands of the kernel's entries are changed.
#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn the_kernels_tables_follow_a_change_and_give_way_to_the_next() {
    in_namespace(|| {
        let name = Name(format!("synrail-follow-{}", std::process::id()).parse().unwrap());
        // Tables of this size are changed one at a time.
        let service = |name, vip| {
            format!(
                "[[service]]\nname = '{name}'\nvips = '{vip}'\ntable_size = 131071\nbackend = [\
                 {{ name = 'a', encap = 'mark' }}, {{ name = 'b', encap = 'mark' }}, {{ name = '{name}', encap = 'mark' }}]\n"
            )
        };
        let (head, _) = FILE.split_once("[[tier.balancer]]").unwrap();
        let text = head.to_owned() + &service("web", "10.0.0.0") + &service("dns", "10.0.0.1");
        let state = State::new(&Config::parse("a test", &text).unwrap()).unwrap();
        let mut lbd = lbd(&name.0, &state);
        repair(&mut lbd);
        lbd.adopted(Generation(1));
        let reported = |lbd: &mut Lbd| {
            let daemon = Daemon::read(&mut lbd.region).unwrap();
            (daemon.adopted.0, daemon.in_kernel.0)
        };
        assert_eq!(reported(&mut lbd), (1, 1));
        let set = |lbd: &mut Lbd, backend: &str, active| {
            let change = |state: &State| {
                state.set_admin(None, &[backend.to_owned()], &Override::unattributed(Admin::when(active)))
            };
            lbd.region.update(|state| Ok::<_, DaemonError>((Some(change(state)?), ()))).unwrap();
            lbd.region.state().unwrap()
        };

        let (generation, state) = set(&mut lbd, "a", false);
        assert!(lbd.kernel.apply(&state, generation, Announced::default()).unwrap().left.is_empty());
        assert_eq!(lbd.kernel.shared.forwarding.load().generation(), generation);
        lbd.adopted(generation);
        assert_eq!((lbd.kernel.fallback(), reported(&mut lbd)), (Fallback::Due, (2, 1)));
        lbd.fill_fallback(false);
        assert_eq!((lbd.kernel.fallback(), reported(&mut lbd)), (Fallback::Due, (2, 1)));
        // A repair does not take it for a change by another program.
        repair(&mut lbd);
        let tables = |lbd: &Lbd| lbd.kernel.desired.as_ref().unwrap().ruleset.tables.clone();
        let desired = tables(&lbd);
        let differ = desired.iter().map(|table| differing(std::slice::from_ref(table)) > 0);
        assert_eq!(differ.collect::<Vec<_>>(), [false, true], "one of two was filled");

        let (generation, _) = set(&mut lbd, "b", false);
        lbd.adopt().unwrap();
        assert_eq!((generation.0, lbd.kernel.fallback(), reported(&mut lbd)), (3, Fallback::Due, (3, 1)));
        lbd.fill_fallback(true);
        assert_eq!((lbd.kernel.fallback(), reported(&mut lbd)), (Fallback::Right, (3, 3)));
        assert_eq!((tables(&lbd).len(), differing(&tables(&lbd))), (2, 0));

        // A shutdown leaves in the kernel what is in force.
        set(&mut lbd, "a", true);
        lbd.adopt().unwrap();
        let last = tables(&lbd);
        assert!(differing(&last) > 20_000);
        lbd.end();
        assert_eq!(differing(&last), 0);
    });
}

#[test]
#[ignore = "needs root, nf_tables and nft_hash"]
fn once_reports_what_is_in_force_and_what_is_not() {
    in_namespace(|| {
        let name = Name(format!("synrail-once-{}", std::process::id()).parse().unwrap());
        shell("ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward");
        let (head, _) = FILE.split_once("[[tier.balancer]]").unwrap();
        let file = |entries, far: &str| {
            let service = |name, vip, more: &str| {
                format!(
                    "[[service]]\nname = '{name}'\nvips = '{vip}'\ntable_size = 97\n\
                     backend = [{{ name = 'a', encap = 'mark' }}, {{ name = 'b', encap = 'mark' }}{more}]\n"
                )
            };
            let head = head.replace("interfaces", &format!("kernel_entries = {entries}\ninterfaces"));
            let text = head + &service("web", "10.0.0.0", far) + &service("dns", "10.0.0.1", "");
            Config::parse("a test", &text).unwrap()
        };
        let far = ", { name = 'far', address = '192.0.2.9', encap = 'direct' }";
        let mut region = Region::create(&name.0, &State::new(&file(97, far)).unwrap()).unwrap();
        let not_all = once(None, &name.0, Path::new("/proc/nonexistent"));
        let Err(DaemonError::NotAll { generation, left }) = &not_all else { panic!("{not_all:?}") };
        assert_eq!((*generation, left.len()), (Generation(1), 2), "{left:?}");
        assert!(
            left[0].starts_with("a target is out of reach: ")
                && left[0].contains("192.0.2.9")
                && left[1].contains("\"dns\""),
            "{left:?}"
        );
        let reported = |region: &mut Region| {
            let Daemon { pid, adopted, .. } = Daemon::read(region).unwrap();
            (pid, adopted)
        };
        assert_eq!(reported(&mut region), (0, Generation(1)));

        let update = |region: &mut Region, entries| {
            let merge = |state: &State| Ok::<_, DaemonError>((Some(state.merge(&file(entries, ""))?), ()));
            region.update(merge).unwrap();
        };
        update(&mut region, 200);
        assert_eq!(once(None, &name.0, Path::new("/proc/nonexistent")).unwrap(), Generation(2));
        assert_eq!(reported(&mut region), (0, Generation(2)));
        let (_, state) = region.state().unwrap();
        let desired = Desired::by(&state, Generation(2), nft::means().unwrap(), &[]).unwrap().ruleset;
        assert!(nft::in_force(&desired).unwrap());
        assert_eq!((desired.tables.len(), nft::Tables::default().apply(&desired.tables).unwrap()), (2, 0));

        let _other = InstanceLock::acquire().unwrap();
        assert!(matches!(
            once(None, &name.0, Path::new("/proc/nonexistent")),
            Err(DaemonError::AlreadyRunning(_))
        ));
    });
}

#[test]
#[ignore = "needs root, nf_tables, /dev/net/tun, veth and bridges"]
fn what_changes_on_the_host_is_found_and_its_own_addresses_stay_its_own() {
    in_namespace(|| {
        let name = Name(format!("synrail-host-{}", std::process::id()).parse().unwrap());
        let (head, _) = FILE.split_once("[[tier.balancer]]").unwrap();
        let head = head.replace("\"lo\"", "\"in0\"").replace("address = \"192.168.1.201\"\n", "");
        let service = "[[service]]\nname = 'web'\nvips = ['10.0.0.0', '10.1.0.0/24', '1000::/112']\ntable_size = 97\n\
                       backend = [{ name = 'a', encap = 'mark' }]\n";
        let state = State::new(&Config::parse("a test", &format!("{head}{service}")).unwrap()).unwrap();
        let mut lbd = lbd(&name.0, &state);
        shell(
            "ip link set lo up; ip link add in0 type veth peer name out0; ip link set out0 up; ip link set in0 up; ip addr add 192.168.2.201/24 dev in0
             echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
        );
        repair(&mut lbd);
        let mut found = || {
            lbd.look_at_host();
            let findings = lbd.host.findings().iter();
            let found: Vec<String> =
                findings.map(|finding| format!("{} {}", finding.name, finding.value)).collect();
            let ruleset = &lbd.kernel.desired.as_ref().unwrap().ruleset;
            let vip = |address: &str| ruleset.elements.has_vip(address.parse().unwrap());
            (found, nft::in_force(ruleset).unwrap(), ["10.1.0.7", "10.1.0.8", "1000::5"].map(vip))
        };
        let nothing = || (Vec::new(), true, [true; 3]);
        let flowtable = nft::means().unwrap().flowtable;
        assert_eq!(found(), nothing());
        for (change, undo, finding, vips) in [
            (
                "sysctl -qw net.ipv4.ip_forward=0",
                "sysctl -qw net.ipv4.ip_forward=1",
                "net.ipv4.ip_forward 0",
                [true; 3],
            ),
            (
                "sysctl -qw net.ipv6.conf.all.forwarding=0",
                "sysctl -qw net.ipv6.conf.all.forwarding=1",
                "net.ipv6.conf.all.forwarding 0",
                [true; 3],
            ),
            ("ip link set in0 down", "ip link set in0 up", "interface in0 down", [true; 3]),
            // Before Linux 6.2 only a device that is down can be renamed.
            (
                "ip link set in0 down; ip link set in0 name in1; ip link set in1 up",
                "ip link set in1 down; ip link set in1 name in0; ip link set in0 up",
                "interface in0 missing",
                [true; 3],
            ),
            (
                "ip link add br0 type bridge; ip link set in0 master br0",
                "ip link del br0",
                "interface in0 a port of br0",
                [true; 3],
            ),
            (
                "nft 'table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }'",
                "nft delete table ip filter",
                "chain FORWARD of table ip filter, hook forward policy drop",
                [true; 3],
            ),
            (
                "ip addr add 10.0.0.0/32 dev lo",
                "ip addr del 10.0.0.0/32 dev lo",
                "VIP 10.0.0.0/32 an address of this host, on lo",
                [true; 3],
            ),
            (
                "ip addr add 10.1.0.7/32 dev in0",
                "ip addr del 10.1.0.7/32 dev in0",
                "VIP 10.1.0.0/24 a prefix with addresses of this host in it: 10.1.0.7 (in0)",
                [false, true, true],
            ),
            (
                "ip addr add 1000::5/128 dev lo nodad",
                "ip addr del 1000::5/128 dev lo",
                "VIP 1000::/112 a prefix with addresses of this host in it: 1000::5 (lo)",
                [true, true, false],
            ),
        ] {
            // The kernel adds an IPv6 address a moment after the command.
            let mut comes = |expected, after: &str| {
                let is_there = || (found() == expected).then_some(());
                let came = wait_for(Duration::from_secs(10), Duration::from_millis(10), is_there);
                assert!(came.is_some(), "{after}: {:?}, and not {expected:?}", found());
            };
            shell(change);
            // A flowtable names the device as it is called now.
            let in_force = finding != "interface in0 missing" || !flowtable;
            comes((vec![finding.to_owned()], in_force, vips), change);
            shell(undo);
            comes(nothing(), undo);
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn a_reload_takes_nothing_away_that_is_in_use() {
    in_namespace(|| {
        let name = Name(format!("synrail-reload-{}", std::process::id()).parse().unwrap());
        let file = tempfile::NamedTempFile::new().unwrap();
        let head = FILE.split_once("[[tier").unwrap().0;
        let service = |name: &str, vip: &str| {
            let backend = "{ name = 'a', encap = 'mark' }, { name = 'b', encap = 'mark' }";
            format!("[[service]]\nname = '{name}'\nvips = '{vip}'\ntable_size = 97\nbackend = [{backend}]\n")
        };
        let both = format!("{head}{}{}", service("web", "10.0.0.0"), service("dns", "10.0.0.1"));
        let state = State::new(&Config::parse("a test", &both).unwrap()).unwrap();
        let mut lbd = lbd(&name.0, &state);
        lbd.config = Some(file.path().to_owned());
        let mut reload = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            lbd.reload();
            lbd.region.state().unwrap()
        };
        let web = format!("{head}{}", service("web", "10.0.0.0"));
        for cut in [
            head,
            &web,
            &both.replace("lb201", "lb202"),
            &both.replace("'a'", "'c'").replace("'b'", "'d'"),
            "",
        ] {
            assert_eq!(reload(cut), (Generation(1), state.clone()), "{cut}");
        }
        let more = format!("{both}{}", service("more", "10.0.0.2"));
        let (generation, with_more) = reload(&more);
        assert_eq!((generation, with_more.services.len()), (Generation(2), 3));
        // What is out of use may go.
        let names = ["a".to_owned(), "b".to_owned()];
        let out = |state: &State| {
            Ok::<_, DaemonError>((
                Some(state.set_admin(Some("dns"), &names, &Override::unattributed(Admin::Draining))?),
                (),
            ))
        };
        Region::open(&name.0).unwrap().update(out).unwrap();
        assert_eq!(reload(&web).1.services.len(), 3, "\"more\" is in use");
        let without = format!("{head}{}{}", service("web", "10.0.0.0"), service("more", "10.0.0.2"));
        assert_eq!(reload(&without).1.services.len(), 2);
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn what_checks_find_and_operators_say_by_the_socket_is_put_in_the_region() {
    in_namespace(|| {
        let name = Name(format!("synrail-requests-{}", std::process::id()).parse().unwrap());
        let file = format!(
            "{FILE}[http]\n[[service]]\nname = \"web\"\nvips = \"10.0.0.1\"\nprotocols = \"tcp\"\nports = 80\ntable_size = 97\n\
             health = {{ kind = \"tcp\" }}\nbackend = [ {{ name = \"s1\", address = \"192.168.1.1\" }}, \
             {{ name = \"s2\", address = \"192.168.1.2\" }} ]\n"
        );
        let state = State::new(&Config::parse("a test", &file).unwrap()).unwrap();
        let mut lbd = lbd(&name.0, &state);
        lbd.agent.adopt(&state);
        let active = |lbd: &mut Lbd| -> Vec<String> {
            let (_, state) = lbd.region.state().unwrap();
            state.services[0].active().map(|backend| backend.name.to_string()).collect()
        };
        let found = r#"{"do":"observe","found":[{"service":"web","backend":"s1","health":"down","since":"2026-11-29T12:00:00Z","reason":"connection refused"}]}"#;
        let reply = lbd.answer(found.as_bytes());
        assert!(reply.contains(r#""ok":true"#) && reply.contains("down: connection refused"), "{reply}");
        assert_eq!(active(&mut lbd), ["s2"]);
        assert_eq!(lbd.answer(found.as_bytes()), r#"{"ok":true}"#, "nothing new");
        let asked = r#"{"do":"admin","names":["s2"],"order":{"admin":"disabled","by":"alice","since":"2026-11-29T12:00:00Z"}}"#;
        assert!(lbd.answer(asked.as_bytes()).contains(r#""ok":true"#));
        assert_eq!(
            active(&mut lbd),
            ["s1"],
            "none of those that are enabled is up, so all of them count as up"
        );
        let kill = br#"{"do":"kill","service":"web","names":["s1"],"by":"alice"}"#;
        assert!(lbd.answer(kill).contains(r#""ok":true,"generation":"#));
        assert!(lbd.region.state().unwrap().1.services[0].backends[0].killed > 0);
        let apply = |lbd: &mut Lbd, text: &str, dry_run: bool| {
            let request =
                serde_json::json!({ "do": "apply", "text": text, "dry_run": dry_run, "by": "alice" });
            lbd.answer(request.to_string().as_bytes())
        };
        assert!(apply(&mut lbd, "[balancer]", false).contains("the file:"), "what is wrong with it");
        let heavier = file.replace("\"192.168.1.1\"", "\"192.168.1.1\", weight = 2");
        let told = apply(&mut lbd, &heavier, true);
        assert!(told.contains("weight") && !told.contains("generation"), "{told}");
        assert!(apply(&mut lbd, &heavier, false).contains("generation"));
        assert_eq!(lbd.region.state().unwrap().1.services[0].backends[0].weight.get(), 2);
        let without = file.split("[[service]]").next().unwrap();
        assert!(apply(&mut lbd, without, false).contains("takes away what is in use"));
        let (_, state) = lbd.region.state().unwrap();
        lbd.agent.adopt(&State {
            balancer: crate::config::Balancer {
                http: crate::config::HttpSettings::default(),
                ..state.balancer.clone()
            },
            ..state
        });
        for order in [kill, asked.as_bytes()] {
            assert!(lbd.answer(order).contains("not to take orders"));
        }
        lbd.agent.adopt(&lbd.region.state().unwrap().1);
        let unknown = lbd.answer(asked.replace("s2", "s9").as_bytes());
        assert!(unknown.contains(r#""ok":false"#) && unknown.contains("no backend"), "{unknown}");
        assert!(lbd.answer(b"{").contains("not a request"));
        let beat = lbd.answer(br#"{"do":"beat","pid":77,"not_made":2}"#);
        assert_eq!(beat, r#"{"ok":true}"#);
        let shown = stats::Beat::read(&mut lbd.region.mapping()).unwrap();
        assert_eq!(shown.map(|beat| (beat.pid, beat.not_made)), Some((77, 2)));
        let set = |six: &str, element: &str| {
            format!("set undelivered{six} {{ flags dynamic,timeout; timeout 8s; size 9; {element} }}\n")
        };
        let four = set("4", "type ipv4_addr; elements = { 192.168.1.2, 192.168.1.1 timeout 8s expires 3s }");
        let six = set("6", "type ipv6_addr; elements = { fd00::2 }");
        nft::nft("a test", &["-f", "-"], Some(&format!("table inet synrail {{ {four} {six} }}\n"))).unwrap();
        let old_enough = |(_, ago): &(_, Duration)| *ago > Duration::from_millis(200);
        let aged = || lbd.undelivered_sets.read().unwrap().iter().all(old_enough).then_some(());
        wait_for(Duration::from_secs(5), Duration::from_millis(50), aged).unwrap();
        let mut beat = || lbd.answer(br#"{"do":"beat","pid":77}"#);
        assert_eq!(beat(), r#"{"ok":true,"undelivered":["192.168.1.2","fd00::2"]}"#);
        assert_eq!(beat(), r#"{"ok":true}"#, "no error has come meanwhile");
    });
}
