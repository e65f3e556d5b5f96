//! Against the kernel that runs. Run as root: `cargo test daemon -- --ignored`.

use super::{kernel::Wanted, *};
use crate::{
    sys::namespace::{in_namespace, shell},
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

/// A region of this test alone, removed when it ends.
struct Name(RegionName);

impl Drop for Name {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0.path());
    }
}

/// An lbd without workers, that has done nothing yet.
fn lbd(name: &RegionName, state: &State) -> Lbd {
    let region = Region::create(name, state).unwrap();
    let generation = Generation(1);
    let shared = Arc::new(Shared::new(Forwarding::new(state, generation).unwrap()));
    let mut kernel = Kernel::open(state, nft::queue_by().unwrap(), &shared).unwrap();
    kernel.wanted = Some(Wanted::by(state, generation, kernel.queue_by).unwrap());
    Lbd {
        config: None,
        shown: Arc::new(ArcSwap::new(region.mapping())),
        region,
        kernel,
        tun: Arc::new(Tun::open().unwrap()),
        workers: Workers::default(),
        daemon: Daemon { adopted: generation, ..Daemon::default() },
        checks: 0,
        trouble: Trouble::default(),
        mending: Trouble::default(),
    }
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn what_cannot_be_mended_holds_up_nothing_else() {
    in_namespace(|| {
        let name = Name(format!("synrail-daemon-{}", std::process::id()).parse().unwrap());
        let state = State::new(&Config::parse("a test", FILE).unwrap()).unwrap();
        let mut lbd = lbd(&name.0, &state);
        // Somebody else's, where the tier's tunnel should be.
        shell("ip tuntap add dev sr-1 mode tun");
        let in_the_way = |lbd: &mut Lbd| {
            let error = lbd.repair().unwrap_err().to_string();
            assert!(error.contains("sr-1") && error.contains("not synrail's"), "{error}");
        };
        in_the_way(&mut lbd);
        for spoil in ["ip link del sr-frag", "ip link set sr-frag down", "nft flush ruleset"] {
            shell(spoil);
            in_the_way(&mut lbd);
            assert!(!lbd.tun.renew().unwrap(), "{spoil}");
            assert!(!lbd.kernel.routing.set_up_fragments_device().unwrap(), "{spoil}");
            assert!(nft::in_force(&lbd.kernel.wanted.as_ref().unwrap().ruleset).unwrap(), "{spoil}");
            let links = Links { tun: lbd.tun.index(), tier: links::indexes(&["sr-1".to_owned()]) };
            assert_eq!(**lbd.kernel.shared.links.load(), links, "{spoil}");
        }
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
        for _ in 0..CHECKS_PER_REPAIR {
            lbd.look_at_region(true);
        }
        assert!(!lbd.trouble.0.is_empty());
        assert_eq!(lbd.mending.0, "");
        assert!(nft::in_force(&lbd.kernel.wanted.as_ref().unwrap().ruleset).unwrap());
    });
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn what_must_wait_for_the_ruleset_does_so_when_that_cannot_be_had() {
    in_namespace(|| {
        let name = Name(format!("synrail-waits-{}", std::process::id()).parse().unwrap());
        let state = State::empty(Config::parse("a test", FILE).unwrap().balancer);
        let mut lbd = lbd(&name.0, &state);
        let good = lbd.kernel.wanted.as_ref().unwrap().ruleset.clone();
        let refused = || {
            let mut ruleset = good.clone();
            ruleset.structure.text = "no ruleset at all".to_owned();
            ruleset
        };
        for mend in [|lbd: &mut Lbd| _ = lbd.repair(), |lbd: &mut Lbd| lbd.kernel.go_back()] {
            // A rule that nobody wants any more: pure removals wait as entrances do.
            shell("nft flush ruleset; ip rule add priority 12000 fwmark 5 lookup 20005 protocol 201");
            lbd.kernel.wanted.as_mut().unwrap().ruleset = refused();
            mend(&mut lbd);
            shell("ip rule | grep -q ^12000:");
            lbd.kernel.wanted.as_mut().unwrap().ruleset = good.clone();
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
        let good = lbd.kernel.wanted.as_ref().unwrap().ruleset.clone();
        // What it finds by itself, whatever lbd thinks that it knows.
        let differ = || nft::Tables::default().apply(&good.tables).unwrap();
        lbd.repair().unwrap();
        assert_eq!((good.tables[0].entries().len(), differ()), (97, 0));
        // A change that fails when the kernel has the new tables already.
        let other = state.set_active(None, &["a".to_owned()], false).unwrap();
        let other = Wanted::by(&other, Generation(2), lbd.kernel.queue_by).unwrap().ruleset;
        nft::apply(&other, &mut lbd.kernel.tables).unwrap();
        assert!(lbd.kernel.tables.apply(&other.tables).unwrap() > 40);
        lbd.kernel.go_back();
        assert_eq!(differ(), 0);
        let flush = format!("nft flush map inet synrail {}", good.tables[0].map);
        for spoil in ["nft flush ruleset", &flush] {
            shell(spoil);
            lbd.repair().unwrap();
            assert_eq!(differ(), 0, "{spoil}");
        }
    });
}
