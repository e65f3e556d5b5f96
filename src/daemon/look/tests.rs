//! Those that are ignored run against the kernel, as root: `cargo test daemon::look -- --ignored`.

use super::*;
use crate::{
    config::Config,
    sys::{
        namespace::{in_namespace, output, shell},
        tun::Tun,
    },
};

#[test]
fn what_a_running_lbd_keeps_until_it_ends_is_compared() {
    let worker = |queue, fragments| Identity { queue: QueueNum(queue), fragments };
    let mask = MarkMask::new(0x1fff_0000).unwrap();
    let running = Running {
        workers: vec![worker(7, false), worker(6, false), worker(3, true)],
        mark_mask: Some(mask),
        fills: false,
    };
    let mut balancer = Balancer::unconfigured();
    running.keep_in(&mut balancer);
    assert_eq!((balancer.queues.first().0, balancer.queues.last().0), (6, 7));
    assert_eq!((balancer.fragment_queue.0, balancer.mark_mask), (3, mask));
    let before = balancer.clone();
    Running { workers: Vec::new(), mark_mask: None, fills: false }.keep_in(&mut balancer);
    assert_eq!(balancer, before);
}

const FILE: &str = r#"
[balancer]
name = "lb201"
address = "192.168.1.201"
interfaces = ["eth0"]
[[service]]
name = "web"
vips = ["10.0.0.0/32"]
table_size = 97
[[service.backend]]
name = "s1"
address = "192.168.1.1"
encap = "direct"
[[service.backend]]
name = "s2"
address = "192.168.1.2"
encap = "direct"
"#;

/// Objects of other programs, some of which look nearly like ours.
const OTHERS: &str = "ip link add eth0 type veth peer name peer
    for device in eth0 peer; do ip link set $device addrgenmode none; done; ip link set eth0 up; ip link set peer up
    ip address add 192.168.1.201/24 dev eth0
    ip route add blackhole 10.0.0.0/32 metric 99
    ip route add 172.16.0.0/12 via 192.168.1.9 table 20001
    ip rule add priority 12000 fwmark 5 lookup 77
    nft 'add table inet others; add chain inet others c { type filter hook forward priority 0; }; add set inet others s { type ipv4_addr; }; add element inet others s { 192.0.2.1 }'";

/// Everything of this network namespace, without what was counted and without what expires.
fn listing() -> String {
    let commands = "ip -d link; ip address; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; \
                    nft -s list ruleset | grep -v expires";
    output(commands)
}

/// Returns the lines that only one of two listings has, in whatever order.
fn differing(one: &str, other: &str) -> Vec<String> {
    let lines = |text: &str| -> Vec<String> { text.lines().map(|line| line.trim().to_owned()).collect() };
    let (mut gone, mut new) = (lines(one), Vec::new());
    for line in lines(other) {
        match gone.iter().position(|old| *old == line) {
            Some(place) => _ = gone.swap_remove(place),
            None => new.push(format!("+ {line}")),
        }
    }
    gone.into_iter().map(|line| format!("- {line}")).chain(new).collect()
}

/// What is spoiled, and how the difference is named.
const SPOILS: [(&str, &str); 17] = [
    ("nft delete table inet synrail", "there is no table"),
    ("nft 'add table inet synrail { flags dormant; }'", "the table is dormant"),
    ("nft flush chain inet synrail queue_flow", "chain queue_flow has 0 rules"),
    ("nft insert rule inet synrail steer drop", "chain steer has"),
    ("nft add chain inet synrail more", "chain more is not wanted"),
    ("nft flush set inet synrail vip4", "set vip4 has other elements"),
    ("nft add element inet synrail targets '{ 77 }'", "set targets has other elements"),
    ("nft flush map inet synrail steer_ways", "set steer_ways has other elements"),
    ("nft add set inet synrail more '{ type ipv4_addr; }'", "set more is not wanted"),
    ("nft add counter inet synrail more", "object more is not wanted"),
    (
        "for map in $(nft list maps inet | sed -n 's/^.*map \\(table_[^ ]*\\) .*/\\1/p'); do nft flush map inet synrail $map; done",
        "Entries",
    ),
    ("ip route del default table 20001", "add route 0.0.0.0/0 via 192.168.1.1 table 20001"),
    ("ip route replace default via 192.168.1.7 table 20002 proto 201", "via 192.168.1.2 table 20002"),
    (
        "ip route add default via 192.168.1.7 table 20009 proto 201",
        "remove route 0.0.0.0/0 via 192.168.1.7 table 20009",
    ),
    ("ip route del blackhole 10.0.0.0/32 metric 1000000", "add route blackhole 10.0.0.0/32"),
    ("ip rule del priority $(ip rule | sed -n 's/:.*20001.*//p')", "add IPv4"),
    ("ip rule add priority 11999 fwmark 9 lookup 20009 protocol 201", "remove IPv4"),
];

#[test]
#[ignore = "needs root and nf_tables"]
fn what_is_looked_for_is_named_and_mended_and_nothing_else() {
    in_namespace(|| {
        shell(OTHERS);
        let others = listing();
        let state = State::new(&Config::parse("a test", FILE).unwrap()).unwrap();
        let asked =
            Asked { state: &state, generation: Generation(1), running: None, patience: Duration::ZERO };
        let named = || {
            let drift = look(&asked).unwrap();
            assert!(drift.unread.is_empty(), "{:?}", drift.unread);
            let Drift { ruleset, routing, fallback, .. } = &drift;
            let mut named: Vec<String> = ruleset.iter().map(ToString::to_string).collect();
            named.extend(routing.iter().map(ToString::to_string));
            named.extend(fallback.iter().map(|one| format!("{one:?}")));
            assert_eq!(drift.is_empty(), named.is_empty(), "{drift:?}");
            named
        };
        assert!(named().contains(&"there is no table".to_owned()));
        assert_eq!(differing(&others, &listing()), [""; 0], "a look changes nothing");
        assert!(mend(&asked).unwrap().is_empty());
        assert_eq!(named(), [""; 0]);
        let whole = listing();
        for (spoil, expected) in SPOILS {
            shell(spoil);
            let spoiled = listing();
            let found = named();
            assert!(found.iter().any(|one| one.contains(expected)), "{spoil}: {found:?}");
            assert_eq!(differing(&spoiled, &listing()), [""; 0], "{spoil}: a look changes nothing");
            assert!(mend(&asked).unwrap().is_empty(), "{spoil}");
            assert_eq!(named(), [""; 0], "{spoil}");
            assert_eq!(differing(&whole, &listing()), [""; 0], "{spoil}");
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn which_lbd_keeps_the_kernel_is_looked_at_first() {
    in_namespace(|| {
        let state = State::new(&Config::parse("a test", FILE).unwrap()).unwrap();
        let dead =
            Asked { state: &state, generation: Generation(1), running: None, patience: Duration::ZERO };
        let workers = vec![Identity { queue: QueueNum(20200), fragments: false }];
        let running = Some(Running { workers, mark_mask: None, fills: false });
        let alive = Asked { running, ..dead.clone() };
        assert!(matches!(look(&alive), Err(DaemonError::OtherKeeper { here: false })));
        let lock = InstanceLock::acquire().unwrap();
        assert!(matches!(look(&dead), Err(DaemonError::OtherKeeper { here: true })));
        assert!(matches!(mend(&dead), Err(DaemonError::AlreadyRunning(_))));
        // A worker that has ended, and its device.
        let drift = look(&alive).unwrap();
        assert_eq!((drift.unheard, drift.fragments_device), (vec![QueueNum(20200)], Some("missing")));
        let _tun = Tun::open().unwrap();
        assert_eq!(look(&alive).unwrap().fragments_device, Some("not set up as it should be"));
        drop(lock);
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn what_lbd_leaves_behind_is_as_it_should_be() {
    in_namespace(|| {
        shell(OTHERS);
        let state = State::new(&Config::parse("a test", FILE).unwrap()).unwrap();
        let asked =
            Asked { state: &state, generation: Generation(1), running: None, patience: Duration::ZERO };
        assert!(mend(&asked).unwrap().is_empty());
        // A VIP of an earlier state keeps its route.
        shell("ip route add blackhole 10.0.0.9/32 metric 1000000 proto 201");
        assert!(look(&asked).unwrap().is_empty());
        assert!(mend(&asked).unwrap().is_empty());
        shell("ip route | grep -q 'blackhole 10.0.0.9 '");
        // An off-table flow, and the way that leads to it.
        let kernel = open(&asked).unwrap();
        let mut ruleset = kernel.desired.unwrap().ruleset;
        let before = ruleset.elements.clone();
        ruleset.elements.set_way(Way::OffTable);
        nft::change_elements(&before, &ruleset.elements).unwrap();
        assert!(look(&asked).unwrap().is_empty());
        // Without lbd nothing would end this.
        let before = ruleset.elements.clone();
        ruleset.elements.set_way(Way::Untracked);
        nft::change_elements(&before, &ruleset.elements).unwrap();
        assert!(!look(&asked).unwrap().is_empty());
    });
}
