use super::*;
use crate::{
    plan::routing::{Op, Route, Via},
    state::State,
    sys::{
        clock,
        namespace::{in_namespace, shell},
        rtnetlink::Routing,
    },
    tests::fixture,
};

const OURS: u32 = 4711;

/// A message of this type and sender about a route of this table and protocol.
fn route(kind: u16, port: u32, table: u8, wide: Option<u32>, protocol: u8) -> Vec<u8> {
    let mut message = vec![0; HEADER_BYTES + ROUTE_HEADER_BYTES];
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[12..16].copy_from_slice(&port.to_ne_bytes());
    (message[TABLE_AT], message[PROTOCOL_AT]) = (table, protocol);
    if let Some(wide) = wide {
        message.extend([8u16.to_ne_bytes(), libc::RTA_TABLE.to_ne_bytes()].concat());
        message.extend(wide.to_ne_bytes());
    }
    let length = u32::try_from(message.len()).unwrap();
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

#[test]
fn of_routes_those_concern_lbd_that_are_its_own_or_in_its_tables_and_that_others_change() {
    let concern = |message: &[u8]| is_concern(message, OURS);
    for kind in [libc::RTM_NEWROUTE, libc::RTM_DELROUTE] {
        assert!(concern(&route(kind, 1, 254, None, routing::PROTOCOL)), "one of ours is gone");
        assert!(concern(&route(kind, 0, 252, Some(20_001), 3)), "another one in our table");
        assert!(!concern(&route(kind, 1, 254, Some(254), 186)), "BGP");
        assert!(!concern(&route(kind, OURS, 254, None, routing::PROTOCOL)), "our own change");
    }
    for kind in [libc::RTM_NEWRULE, libc::RTM_DELRULE] {
        assert!(concern(&route(kind, 0, 254, None, 0)));
        assert!(!concern(&route(kind, OURS, 254, None, 0)));
    }
    for kind in [libc::RTM_NEWLINK, libc::RTM_DELLINK, libc::RTM_NEWADDR, libc::RTM_DELADDR] {
        assert!(concern(&route(kind, OURS, 0, None, 0)));
    }
    assert!(!concern(&route(libc::RTM_NEWNEIGH, 0, 0, None, 0)));
    let whole = route(libc::RTM_DELROUTE, 1, 252, Some(20_001), 3);
    for cut in 0..whole.len() {
        assert!(!concern(&whole[..cut]), "{cut} bytes");
    }
}

/// A region of this test alone, removed when it ends.
struct Of(Region);

impl Of {
    fn test(name: &str) -> Self {
        let name = format!("synrail-{name}-{}", std::process::id()).parse().unwrap();
        let state = State::empty(fixture::balancer("interfaces = 'lo'").config().balancer);
        let mut region = Region::create(&name, &state).unwrap();
        region.follow().unwrap();
        Self(region)
    }
}

impl Drop for Of {
    fn drop(&mut self) {
        let _ = Region::remove(self.0.name());
    }
}

const LONG: Duration = Duration::from_secs(5);

fn routing(seen: Seen) -> bool {
    seen.routing
}

/// Whether this is seen before the time is over. Other things may wake it as well, such as changes of the host's own network.
fn sees(events: &mut Events, region: &Region, within: Duration, what: impl Fn(Seen) -> bool) -> bool {
    let end = clock::now() + within;
    loop {
        let left = end.saturating_duration_since(clock::now());
        if what(events.wait(left, region, None).unwrap()) {
            return true;
        }
        if left.is_zero() {
            return false;
        }
    }
}

#[test]
fn publishing_a_state_or_removing_the_region_wakes_lbd() {
    let of = Of::test("events");
    let mut events = Events::open(Signals::take().unwrap(), OURS).unwrap();
    let mut changes = |within| sees(&mut events, &of.0, within, |seen| seen.region);
    assert!(!changes(Duration::ZERO), "nothing has happened");
    let mut other = Region::open(of.0.name()).unwrap();
    let published = other.update(|state| Ok::<_, crate::sys::region::AccessError>((Some(state.clone()), ())));
    published.unwrap();
    assert!(changes(LONG));
    assert!(!changes(Duration::ZERO), "once");
    let mut mapping = of.0.mapping();
    crate::shm::stats::set_nearly_full(&mut mapping, true).unwrap();
    assert!(!changes(Duration::ZERO), "statistics do not count");
    Region::remove(of.0.name()).unwrap();
    assert!(changes(LONG));
}

#[test]
#[ignore = "needs root"]
fn what_others_change_of_links_addresses_routes_and_rules_wakes_lbd() {
    in_namespace(|| {
        let of = Of::test("others");
        let mut events = Events::open(Signals::take().unwrap(), OURS).unwrap();
        for change in [
            "ip link set lo up",
            "ip tuntap add dev sr-1 mode tun",
            "ip addr add 192.0.2.1/24 dev sr-1",
            "ip link set sr-1 up",
            "ip -6 addr add 2001:db8::1/64 dev sr-1 nodad",
            "ip route add default dev sr-1 table 20001",
            "ip -6 route add default dev sr-1 table 20001",
            "ip route add blackhole 10.0.0.0/24 proto 201",
            "ip rule add priority 100 fwmark 1 lookup 20001",
            "ip -6 rule add priority 100 fwmark 1 lookup 20001",
            "ip rule flush",
            "ip link set sr-1 down",
            "ip link del sr-1",
        ] {
            shell(change);
            assert!(sees(&mut events, &of.0, LONG, routing), "{change}");
            // The kernel reports some of it a moment later.
            while sees(&mut events, &of.0, Duration::from_millis(20), routing) {}
        }
    });
}

/// By `lo`, of which the kernel has nothing to report later, as it does of other devices for more than a second.
#[test]
#[ignore = "needs root"]
fn routes_that_are_not_of_lbd_do_not_wake_it() {
    in_namespace(|| {
        let of = Of::test("routes");
        shell("ip link set lo up");
        let mut events = Events::open(Signals::take().unwrap(), OURS).unwrap();
        shell(
            "ip route add 198.51.100.0/24 dev lo; ip route del 198.51.100.0/24; ip -6 route add 2001:db8::/64 dev lo",
        );
        assert!(
            !sees(&mut events, &of.0, Duration::from_millis(100), routing),
            "by their table and protocol"
        );
        shell("ip route add 198.51.100.0/24 dev lo proto 201");
        assert!(sees(&mut events, &of.0, LONG, routing), "by its protocol");
    });
}

#[test]
#[ignore = "needs root"]
fn changes_of_lbd_itself_do_not_wake_it() {
    in_namespace(|| {
        let of = Of::test("own");
        shell("ip link set lo up");
        let mut kernel = Routing::open().unwrap();
        let mut events = Events::open(Signals::take().unwrap(), kernel.port().unwrap()).unwrap();
        let route = |to: &str| {
            let (table, to) = (routing::TABLE_MAIN, to.parse().unwrap());
            Route { table, to, metric: routing::BLACKHOLE_METRIC, via: Via::Blackhole }
        };
        let ops = ["10.0.0.0/24", "1000::/112"].map(|to| Op::AddRoute(route(to)));
        kernel.apply(&ops).unwrap();
        assert!(!sees(&mut events, &of.0, Duration::from_millis(100), routing), "its own");
        shell("ip route del blackhole 10.0.0.0/24 metric 1000000");
        assert!(sees(&mut events, &of.0, LONG, routing), "the same route, by another program");
    });
}
