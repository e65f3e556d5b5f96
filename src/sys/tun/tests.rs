//! Against the kernel that runs. Run as root: `cargo test sys::tun -- --ignored`.

use super::*;
use crate::sys::{
    namespace::{in_namespace, shell},
    nft::nft,
    rtnetlink::Routing,
};

/// A UDP packet from 10.1.1.1, to which no route leads, to 10.0.0.1.
const PACKET: [u8; 28] =
    [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x65, 0xcf, 10, 1, 1, 1, 10, 0, 0, 1, 0, 7, 0, 9, 0, 8, 0, 0];

/// Packets that the kernel forwards from the device.
const COUNT: &str = "table inet t { counter k { }\n\
                     chain c { type filter hook forward priority 0; iifname sr-frag counter name k; }\n}\n";

fn forwarded() -> u64 {
    let listing = nft("a listing", &["list", "counter", "inet", "t", "k"], None).unwrap();
    let words: Vec<&str> = listing.split_whitespace().collect();
    words.iter().skip_while(|word| **word != "packets").nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "needs root, nf_tables and /dev/net/tun"]
fn what_is_injected_is_forwarded_whatever_the_reverse_path_filter_is() {
    for all in ["0", "1", "2"] {
        in_namespace(move || {
            shell(
                "ip link add out type veth peer name back; ip link set out up; ip link set back up
                 ip addr add 10.0.0.2/24 dev out; ip route add default via 10.0.0.3
                 echo 1 > /proc/sys/net/ipv4/ip_forward",
            );
            shell(&format!("echo {all} > /proc/sys/net/ipv4/conf/all/rp_filter"));
            nft("a test", &["-f", "-"], Some(COUNT)).unwrap();
            let mut tun = Arc::new(Tun::open().unwrap());
            assert!(tun.inject(&PACKET).is_err(), "down");
            let mut routing = Routing::open().unwrap();
            assert!(routing.set_up_fragments_device().unwrap());
            assert!(!routing.set_up_fragments_device().unwrap(), "nothing is left to do");
            tun.inject(&PACKET).unwrap();
            assert_eq!(forwarded(), 1, "rp_filter {all}");
            assert!(!tun.renew().unwrap());
        });
    }
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn changes_of_the_device_by_others_are_mended() {
    in_namespace(|| {
        shell("ip link set lo up");
        let mut tun = Arc::new(Tun::open().unwrap());
        let mut routing = Routing::open().unwrap();
        routing.set_up_fragments_device().unwrap();
        for change in [
            "ip link set sr-frag down",
            "ip addr flush dev sr-frag",
            "echo 1 > /proc/sys/net/ipv6/conf/sr-frag/disable_ipv6",
            "echo 1 > /proc/sys/net/ipv4/conf/sr-frag/rp_filter",
            "ip link set sr-frag alias x",
            "ip link set sr-frag mtu 500",
        ] {
            shell(change);
            assert!(routing.set_up_fragments_device().unwrap(), "{change}");
            assert!(!routing.set_up_fragments_device().unwrap(), "{change}");
            tun.inject(&PACKET).unwrap();
        }
        let old = tun.index();
        shell("ip link del sr-frag");
        assert!(tun.inject(&PACKET).is_err());
        assert!(tun.renew().unwrap());
        assert_ne!(tun.index(), old);
        assert!(routing.set_up_fragments_device().unwrap());
        tun.inject(&PACKET).unwrap();
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_name_that_is_taken_is_named() {
    in_namespace(|| {
        let _tun = Tun::open().unwrap();
        assert!(matches!(Tun::open(), Err(TunError::Taken)));
    });
    // The kernel lets others have a persistent TUN device that no process is attached to.
    for taken in ["ip link add sr-frag type veth peer name x", "ip tuntap add dev sr-frag mode tun"] {
        in_namespace(move || {
            shell(taken);
            assert!(matches!(Tun::open(), Err(TunError::Taken)), "{taken}");
        });
    }
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn no_device_of_others_is_taken_for_one_that_was_removed() {
    in_namespace(|| {
        let tun = Tun::open().unwrap();
        shell("ip link del sr-frag; ip tuntap add dev sr-frag mode tun");
        assert!(matches!(tun.renew(), Err(TunError::Taken)));
        shell("ip link del sr-frag");
        assert!(tun.renew().unwrap());
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn the_end_of_a_device_that_is_being_removed_is_waited_for() {
    in_namespace(|| {
        let mut old = Some(Tun::open().unwrap());
        let mut attempts = 0;
        let made = unless_taken(|| {
            let made = Device::open();
            // The old device is removed between two attempts.
            old = None;
            attempts += 1;
            made
        });
        assert!(made.is_ok() && attempts == 2, "{attempts} attempts");
    });
}
