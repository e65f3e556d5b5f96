//! Against the kernel that runs. Run as root: `cargo test sys::rtnetlink -- --ignored`.

use std::{cell::RefCell, rc::Rc};

use super::*;
use crate::{
    ids::MarkMask,
    plan::{
        routing::ALIAS_BYTES_MAX,
        rule_tree::guard,
        tunnel::{Ends, Tunnel, Wrap},
    },
    sys::{
        interface_index,
        namespace::{in_namespace, shell},
    },
};

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_device_by_which_the_tier_sends_is_told_before_it_is_up() {
    in_namespace(|| {
        let told = Rc::new(RefCell::new(Vec::new()));
        let telling = Rc::clone(&told);
        let mut routing = Routing::open_telling(move |index| {
            shell("! ip -o link show sr-1 | grep -q '[<,]UP[,>]'");
            telling.borrow_mut().push(index);
        })
        .unwrap();
        // From the tier, to a backend, from routers.
        for (name, inbound) in [("sr-1", true), ("sr-2", false), ("sr-in4", true)] {
            let name = name.to_owned();
            shell(&format!("ip tuntap add dev {name} mode tun"));
            let ends = Ends::V4 {
                local: "192.168.1.201".parse().unwrap(),
                remote: "192.168.1.202".parse().unwrap(),
            };
            let tunnel = Tunnel { wrap: Wrap::Gre, ends, fragment_outer: false };
            let device =
                Device { name, tunnel, alias: format!("{ALIAS_PREFIX} test"), mtu_bytes: None, inbound };
            routing.apply(&[Op::Ready(device)]).unwrap();
        }
        assert_eq!(*told.borrow(), [interface_index("sr-1").unwrap()]);
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn what_comes_in_by_an_entrance_without_a_mark_is_never_forwarded() {
    in_namespace(|| {
        shell(
            "ip tuntap add dev sr-in4 mode tun; ip tuntap add dev out mode tun
             ip link set sr-in4 up; ip link set out up
             ip route add default dev out; ip -6 route add default dev out
             echo 1 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter
             echo 0 > /proc/sys/net/ipv4/conf/sr-in4/rp_filter; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
        );
        let way = "ip route get 172.31.0.1 from 50.0.0.1 iif sr-in4";
        let way6 = "ip -6 route get fd99::1 from 2000::1 iif sr-in4";
        let is_forwarded = format!("{way} | grep -q 'dev out'; {way6} | grep -q 'dev out'");
        let is_not = format!("! ({way} || {way6}) 2>&1 | grep 'dev out'");
        shell(&is_forwarded);
        let mut routing = Routing::open().unwrap();
        let entrances = ["sr-in4", "sr-in6"];
        let rules = entrances.map(|name| guard(name, MarkMask::DEFAULT)).into();
        let wanted = Desired { rules, ..Desired::default() };
        assert_eq!(routing.converge(&wanted).unwrap().changes, 4);
        shell(&is_not);
        // What is marked for others goes on behind them, and what comes in elsewhere is none of their business.
        shell(&format!("{way} mark 7 | grep -q 'dev out'; {way6} mark 7 | grep -q 'dev out'"));
        shell("ip route get 172.31.0.1 from 50.0.0.1 iif out | grep -q 'dev out'");
        // The same rule for another device is nobody's of ours.
        let foreign = "priority 22289 iif out fwmark 0/0xffff blackhole protocol 201";
        shell(&format!("ip rule add {foreign}; ip -6 rule del priority 22289 iif sr-in4"));
        assert_eq!(routing.converge(&wanted).unwrap().changes, 1);
        shell(&is_not);
        assert_eq!(routing.cleanup().unwrap().changes, 4);
        shell(&format!("ip rule del {foreign}; ! (ip rule; ip -6 rule) | grep 22289"));
        shell(&is_forwarded);
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_device_is_known_for_ours_before_it_is_up() {
    in_namespace(|| {
        shell("ip tuntap add dev sr-in4 mode tun");
        let Routing { runtime, mut handle, .. } = Routing::open().unwrap();
        let alias = format!("{ALIAS_PREFIX} gre_in");
        let device = links::Settings { name: "sr-in4", alias: &alias, mtu_bytes: None, inbound: true };
        let index = interface_index("sr-in4").unwrap();
        let now = runtime.block_on(async {
            links::configure(&mut handle, index, device).await.unwrap();
            links::now(&mut handle, "sr-in4").await.unwrap()
        });
        assert!(now.alias == alias && now.inbound && !now.ready, "{now:?}");
        shell("! ip -o link show sr-in4 | grep -q '[<,]UP[,>]'");
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn the_longest_alias_is_one_that_the_kernel_takes() {
    in_namespace(|| {
        shell("ip tuntap add dev sr-1 mode tun");
        let mut routing = Routing::open().unwrap();
        let ends =
            Ends::V4 { local: "192.168.1.201".parse().unwrap(), remote: "192.168.1.1".parse().unwrap() };
        let tunnel = Tunnel { wrap: Wrap::Gre, ends, fragment_outer: false };
        let mut ready = |bytes: usize| {
            let alias = format!("{ALIAS_PREFIX} {}", "x".repeat(bytes - ALIAS_PREFIX.len() - 1));
            let device = Device {
                name: "sr-1".to_owned(),
                tunnel,
                mtu_bytes: None,
                alias: alias.clone(),
                inbound: false,
            };
            routing
                .apply(&[Op::Ready(device)])
                .map(|()| routing.current(&Desired::default()).unwrap().devices["sr-1"].alias == alias)
        };
        assert!(ready(ALIAS_BYTES_MAX).unwrap());
        assert!(ready(ALIAS_BYTES_MAX + 1).is_err());
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn the_network_below_a_tunnel_is_that_of_its_route() {
    in_namespace(|| {
        shell(
            "ip tuntap add dev under mode tun; ip link set under mtu 1400 up; ip tuntap add dev other mode tun; ip link set other up
             ip addr add 192.168.1.201/24 dev under; ip -6 addr add fd00::201/64 dev under nodad
             ip route add 192.168.9.0/24 dev under mtu 1290; ip route add 192.168.8.0/24 dev other",
        );
        let ends =
            |local: &str, remote: &str| Ends::new(local.parse().unwrap(), remote.parse().unwrap()).unwrap();
        let asked = [
            (ends("192.168.1.201", "192.168.1.1"), Some(1400)),
            (ends("fd00::201", "fd00::1"), Some(1400)),
            (ends("192.168.1.201", "192.168.9.1"), Some(1290)),
            (ends("192.168.1.201", "192.168.8.1"), Some(1500)),
            (ends("192.168.1.201", "10.9.9.9"), None),
            (ends("192.168.1.201", "0.0.0.0"), None),
        ];
        let mut wanted = Desired::default();
        for (number, (ends, _)) in asked.iter().enumerate() {
            let name = format!("sr-{}", number + 1);
            let tunnel = Tunnel { wrap: Wrap::Gre, ends: *ends, fragment_outer: false };
            let device =
                Device { name: name.clone(), tunnel, mtu_bytes: None, alias: String::new(), inbound: false };
            wanted.devices.insert(name, device);
        }
        let mut routing = Routing::open().unwrap();
        let mut seen = || routing.current(&wanted).unwrap().underlay_mtu_bytes;
        assert_eq!(seen(), asked.iter().filter_map(|(ends, mtu)| Some((*ends, (*mtu)?))).collect());
        shell("ip link set under mtu 1280");
        assert_eq!(seen()[&asked[0].0], 1280);
        assert_eq!(seen()[&asked[2].0], 1280);
    });
}
