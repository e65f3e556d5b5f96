use super::{
    super::{
        Asked, look, mend,
        tests::{Name, lbd},
    },
    *,
};
use crate::{
    model::{Admin, Override, ids::Generation},
    plan::routing::is_announcing,
    sys::namespace::{in_namespace, shell},
    tests::fixture,
};

/// Two services; the kernel has room for the table of the first.
fn state() -> State {
    fixture::balancer("announce_table = 201\nkernel_entries = 97\ninterfaces = 'lo'")
        .service("web", "10.0.0.1 1000::1", "table_size = 97")
        .backend("s1", "address = 'fd00:0:0:1::1'\nencap = 'direct'")
        .service("api", "10.0.0.2", "table_size = 97")
        .backend("s2", "address = '192.168.1.2'\nencap = 'direct'")
        .state()
}

fn vips(announced: &Announced) -> Vec<String> {
    announced.routes().iter().map(|route| route.to.to_string()).collect()
}

fn drained(state: &State) -> State {
    state.set_balancer_admin(&Override::unattributed(Admin::Draining))
}

#[test]
fn an_end_withdraws_what_the_kernel_does_not_serve() {
    let (all, by_kernel) = (["10.0.0.1/32", "10.0.0.2/32", "1000::1/128"], ["10.0.0.1/32", "1000::1/128"]);
    let mut announcer = Announcer::default();
    announcer.adopt(&state(), Duration::ZERO);
    assert_eq!(vips(&announcer.announced()), all);
    assert_eq!(vips(&announcer.without_lbd()), by_kernel);
    assert_eq!(vips(&Announced::without_lbd(&state())), by_kernel);
}

#[test]
fn a_drained_balancer_announces_nothing_and_an_enabled_one_at_once() {
    let mut announcer = Announcer::default();
    announcer.adopt(&drained(&state()), Duration::ZERO);
    for announced in
        [announcer.announced(), announcer.without_lbd(), Announced::without_lbd(&drained(&state()))]
    {
        assert_eq!(vips(&announced), [""; 0]);
    }
    announcer.adopt(&state(), Duration::from_secs(9));
    assert_eq!(vips(&announcer.announced()).len(), 3);
}

#[test]
fn a_backend_that_comes_back_waits_and_time_announces_it() {
    let names = ["s2".to_owned()];
    let out = state().set_admin(None, &names, &Override::unattributed(Admin::Draining)).unwrap();
    let mut announcer = Announcer::default();
    announcer.adopt(&state(), Duration::ZERO);
    announcer.adopt(&out, Duration::from_secs(1));
    assert_eq!(vips(&announcer.announced()), ["10.0.0.1/32", "1000::1/128"]);
    announcer.adopt(&state(), Duration::from_secs(2));
    announcer.pass(Duration::from_secs(6));
    assert_eq!(vips(&announcer.announced()).len(), 2);
    announcer.pass(Duration::from_secs(7));
    assert_eq!(vips(&announcer.announced()).len(), 3);
}

/// The announcements that the kernel has.
fn in_kernel(routing: &mut Routing) -> Vec<String> {
    routing.announcing().unwrap().iter().map(ToString::to_string).collect()
}

const WEB: [&str; 2] =
    ["route blackhole 10.0.0.1/32 table 201 metric 0", "route blackhole 1000::1/128 table 201 metric 1024"];
const API: &str = "route blackhole 10.0.0.2/32 table 201 metric 0";

#[test]
#[ignore = "needs root"]
fn the_kernel_has_what_is_announced_and_nothing_of_others_is_touched() {
    in_namespace(|| {
        shell("ip link set lo up");
        // Others' routes in the same table, and a route that is no announcement.
        shell("ip route add blackhole 10.9.0.1/32 table 201 proto static");
        shell("ip route add 10.9.0.2/32 dev lo table 201 proto 201");
        let mut announcer = Announcer::default();
        announcer.adopt(&state(), Duration::ZERO);
        let mut routing = Routing::open().unwrap();
        assert_eq!(routing.announce(&announcer.announced().routes()).unwrap(), 3);
        assert_eq!(in_kernel(&mut routing), [WEB[0], API, WEB[1]]);
        assert_eq!(routing.announce(&announcer.announced().routes()).unwrap(), 0);
        assert_eq!(routing.announce(&announcer.without_lbd().routes()).unwrap(), 1);
        assert_eq!(in_kernel(&mut routing), WEB);
        // The whole of routing sees them as its own, and cleans them up.
        let now = routing.current(&routing::Desired::default()).unwrap();
        assert_eq!(now.routes.iter().filter(|route| is_announcing(route)).count(), 2);
        routing.cleanup().unwrap();
        assert_eq!(in_kernel(&mut routing), [""; 0]);
        shell("[ $(ip route show table 201 | wc -l) = 2 ]");
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn a_killed_lbd_leaves_what_it_announced_until_it_is_withdrawn() {
    in_namespace(|| {
        let name: RegionName = format!("synrail-withdraw-{}", std::process::id()).parse().unwrap();
        let mut routing = Routing::open().unwrap();
        let mut announcer = Announcer::default();
        announcer.adopt(&state(), Duration::ZERO);
        let all = announcer.announced().routes();
        routing.announce(&all).unwrap();
        let _region = Region::create(&name, &state()).unwrap();
        shell("ip link set lo up; nft 'table inet synrail { counter steered {}; }'");
        let gone: Vec<String> = withdraw(&name).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(gone, ["10.0.0.2/32"]);
        assert_eq!(in_kernel(&mut routing), WEB);
        assert_eq!(withdraw(&name).unwrap(), []);
        // Without the ruleset nothing is steered.
        shell("nft flush ruleset");
        assert_eq!(withdraw(&name).unwrap().len(), 2);
        routing.announce(&all).unwrap();
        shell("nft 'table inet synrail { counter steered {}; }'");
        std::fs::remove_file(name.path()).unwrap();
        assert_eq!(withdraw(&name).unwrap().len(), 3, "nothing says what is served");
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn an_lbd_takes_over_what_is_announced_and_mends_it() {
    in_namespace(|| {
        let name = Name(format!("synrail-announce-{}", std::process::id()).parse().unwrap());
        shell(
            "ip link add eth0 type veth peer name peer; for device in lo eth0 peer; do ip link set $device up; done",
        );
        shell("ip addr add 192.168.1.201/24 dev eth0; ip addr add fd00:0:0:1::201/64 dev eth0 nodad");
        let mut routing = Routing::open().unwrap();
        routing.announce(&Announced::without_lbd(&state()).routes()).unwrap();
        let mut lbd = lbd(&name.0, &state());
        lbd.announcer.adopt(&state(), Duration::ZERO);
        // Workers do not run yet.
        let announced = lbd.announcer.announced();
        assert!(lbd.kernel.apply(&state(), Generation(1), announced.if_there()).unwrap().left.is_empty());
        assert_eq!(in_kernel(&mut routing), WEB);
        lbd.announce();
        assert_eq!(in_kernel(&mut routing), [WEB[0], API, WEB[1]]);
        shell(
            "ip route del blackhole 10.0.0.2 table 201; ip route add blackhole 10.0.0.3 table 201 proto 201",
        );
        let report = lbd.kernel.mend();
        assert_eq!((report.routing.len(), report.left.len()), (2, 0), "{:?}", report.routing);
        assert_eq!(in_kernel(&mut routing), [WEB[0], API, WEB[1]]);
        // A drained balancer keeps all else.
        lbd.announcer.adopt(&drained(&state()), Duration::from_secs(1));
        let announced = lbd.announcer.announced();
        assert!(lbd.kernel.apply(&drained(&state()), Generation(2), announced).unwrap().left.is_empty());
        assert_eq!(in_kernel(&mut routing), [""; 0]);
        shell("[ $(ip route show table main proto 201 | wc -l) = 2 ]");
        lbd.announcer.adopt(&state(), Duration::from_secs(2));
        lbd.announce();
        lbd.end();
        assert_eq!(in_kernel(&mut routing), WEB, "the kernel has no table of the other");
    });
}

#[test]
#[ignore = "needs root and nf_tables"]
fn a_check_without_lbd_names_what_the_kernel_serves_and_mends_it() {
    in_namespace(|| {
        shell(
            "ip link add eth0 type veth peer name peer; for device in lo eth0 peer; do ip link set $device up; done",
        );
        shell("ip addr add 192.168.1.201/24 dev eth0; ip addr add fd00:0:0:1::201/64 dev eth0 nodad");
        let mut routing = Routing::open().unwrap();
        routing.announce(&announcements(201, &BTreeSet::from(["10.0.0.2/32".parse().unwrap()]))).unwrap();
        let state = state();
        let asked =
            Asked { state: &state, generation: Generation(1), running: None, patience: Duration::ZERO };
        let differs = || -> Vec<String> {
            let drift = look(&asked).unwrap();
            drift.routing.iter().map(ToString::to_string).filter(|op| op.contains("table 201")).collect()
        };
        let (add, remove) = (WEB.map(|route| format!("add {route}")), format!("remove {API}"));
        assert_eq!(differs(), [remove, add[0].clone(), add[1].clone()]);
        mend(&asked).unwrap();
        assert_eq!(differs(), [""; 0]);
        assert_eq!(in_kernel(&mut routing), WEB);
    });
}
