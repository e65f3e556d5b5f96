//! Against the kernel that runs. Run as root: `cargo test sys::rtnetlink -- --ignored`.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
    rc::Rc,
};

use tun_tap::{Iface, Mode};

use super::*;
use crate::{
    host::{LocalKind, Snapshot, own_vips},
    model::ids::MarkMask,
    plan::{
        routing::{ALIAS_BYTES_MAX, Family, ForeignRule, Route, Via},
        rule_tree::{DeviceName, guard},
        tunnel::{Ends, Tunnel, Wrap},
    },
    state::State,
    sys::{
        interface_index,
        namespace::{in_namespace, shell},
    },
    tests::fixture,
};

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_device_by_which_the_tier_sends_is_announced_before_it_is_up() {
    in_namespace(|| {
        let announced = Rc::new(RefCell::new(Vec::new()));
        let announcing = Rc::clone(&announced);
        let mut routing = Routing::open_announcing(move |index| {
            shell("! ip -o link show sr-1 | grep -q '[<,]UP[,>]'");
            announcing.borrow_mut().push(index);
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
        assert_eq!(*announced.borrow(), [interface_index("sr-1").unwrap()]);
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
        let rules = entrances.map(|name| guard(DeviceName::new(name).unwrap(), MarkMask::DEFAULT));
        let rules = rules.into_iter().flat_map(|rule| Family::ALL.map(|family| (family, rule))).collect();
        let desired = Desired { rules, ..Desired::default() };
        assert_eq!(routing.converge(&desired).unwrap().changes, 4);
        shell(&is_not);
        // What is marked for others goes on behind them, and they do not match what comes in elsewhere.
        shell(&format!("{way} mark 7 | grep -q 'dev out'; {way6} mark 7 | grep -q 'dev out'"));
        shell("ip route get 172.31.0.1 from 50.0.0.1 iif out | grep -q 'dev out'");
        // The same rule for another device is not one of ours.
        let foreign = "priority 22289 iif out fwmark 0/0xffff blackhole protocol 201";
        shell(&format!("ip rule add {foreign}; ip -6 rule del priority 22289 iif sr-in4"));
        assert_eq!(routing.converge(&desired).unwrap().changes, 1);
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

/// A TUN device stands for the tunnel, which not every kernel has.
#[test]
#[ignore = "needs root and /dev/net/tun"]
fn what_has_an_alias_of_ours_and_another_name_is_removed() {
    in_namespace(|| {
        let mut routing = Routing::open().unwrap();
        for (name, alias, is_ours) in [
            ("foo0", "synrail: web/s1, tier/lb202", true),
            ("foo1", "synrail: gre_in", true),
            ("lb-gre-c0a80101", "synrail: gre for 192.168.1.1", false),
            ("foo2", "web/s1", false),
        ] {
            shell(&format!("ip tuntap add dev {name} mode tun; ip link set {name} alias '{alias}'"));
            assert_eq!(routing.cleanup().unwrap().changes, usize::from(is_ours), "{name}");
            assert_eq!(interface_index(name).is_none(), is_ours, "{name}");
        }
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
        let mut desired = Desired::default();
        for (number, (ends, _)) in asked.iter().enumerate() {
            let name = format!("sr-{}", number + 1);
            let tunnel = Tunnel { wrap: Wrap::Gre, ends: *ends, fragment_outer: false };
            let device =
                Device { name: name.clone(), tunnel, mtu_bytes: None, alias: String::new(), inbound: false };
            desired.devices.insert(name, device);
        }
        let mut routing = Routing::open().unwrap();
        let mut seen = || routing.current(&desired).unwrap().underlay_mtu_bytes;
        assert_eq!(seen(), asked.iter().filter_map(|(ends, mtu)| Some((*ends, (*mtu)?))).collect());
        shell("ip link set under mtu 1280");
        assert_eq!(seen()[&asked[0].0], 1280);
        assert_eq!(seen()[&asked[2].0], 1280);
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_way_without_a_route_is_found() {
    in_namespace(|| {
        shell(
            "ip tuntap add dev under mode tun; ip link set under up; ip link set lo up
             ip addr add 192.168.1.201/24 dev under; ip -6 addr add fd00::201/64 dev under nodad
             ip route add 10.9.0.0/16 via 192.168.1.1; ip -6 route add fd00:9::/64 via fd00::1
             ip route add blackhole 10.8.0.0/16; ip -6 route add blackhole fd00:8::/64; ip -6 route add unreachable fd00:7::/64",
        );
        let to = |to: &str, from: Option<&str>, is_next_hop| Way {
            to: to.parse().unwrap(),
            from: from.map(|from| from.parse().unwrap()),
            is_next_hop,
        };
        let (four, six) = (Some("192.168.1.201"), Some("fd00::201"));
        let mut routing = Routing::open().unwrap();
        for (way, is_there) in [
            (to("192.168.1.1", four, false), true),
            (to("192.168.1.1", None, true), true),
            (to("fd00::1", six, false), true),
            (to("fd00::1", None, true), true),
            (to("10.9.0.1", four, false), true),
            (to("10.9.0.1", None, true), false),
            (to("fd00:9::1", six, false), true),
            (to("fd00:9::1", None, true), false),
            (to("10.7.0.1", four, false), false),
            (to("10.8.0.1", None, false), false),
            (to("fd00:7::1", six, false), false),
            (to("fd00:8::1", None, false), false),
            (to("fd00:6::1", six, false), false),
        ] {
            let without = routing.unreachable(&[way]).unwrap();
            assert_eq!(without.is_empty(), is_there, "{way:?}");
            assert!(without.iter().all(|to| *to == way.to));
        }
        // A rule by mark is for what is marked.
        shell("ip rule add fwmark 1 table 500; ip route add default dev under table 500");
        assert_eq!(routing.unreachable(&[to("10.7.0.1", four, false)]).unwrap().len(), 1);
    });
}

/// The commands that `host/own.rs` advises.
#[test]
#[ignore = "needs root and /dev/net/tun"]
fn what_the_kernel_keeps_for_the_host_goes_by_the_advised_command() {
    in_namespace(|| {
        shell(
            "ip link set lo up; ip tuntap add dev under mode tun; ip link set under up
             echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; ip -6 addr add 1000::5/112 dev under nodad
             ip addr add 10.1.0.9/24 brd 10.1.0.0 dev under; ip route add local 10.0.0.0/24 dev lo",
        );
        let mut routing = Routing::open().unwrap();
        let mut seen = |net: &str| {
            let net: ipnet::IpNet = net.parse().unwrap();
            routing.host().unwrap().1.into_iter().find(|local| local.net == net)
        };
        for (net, device, kind, by_address) in [
            ("10.0.0.0/24", "lo", LocalKind::Own, false),
            ("10.1.0.0/32", "under", LocalKind::Broadcast, true),
            ("1000::/128", "under", LocalKind::Anycast, true),
        ] {
            let local = seen(net).unwrap();
            assert_eq!((local.device.as_str(), local.kind, local.by_address), (device, kind, by_address));
            let vip = local.net.network().to_string();
            let state = fixture::balancer("address = '192.168.1.201'").service("web", &vip, "").state();
            let host = Snapshot { locals: vec![local], ..Snapshot::default() };
            let advice = own_vips(&state, &host).remove(0).advice;
            let (_, command) = advice.split_once("(ip route del ").unwrap();
            shell(&format!("ip route del {}", command.split([')', ';']).next().unwrap()));
            assert_eq!(seen(net), None);
        }
        assert!(seen("10.1.0.9/32").unwrap().by_address);
    });
}

/// An ICMP error says, for a while, that a way takes less. The MTU that the operator gave the route is asked for all the same.
#[test]
#[ignore = "needs root and /dev/net/tun"]
fn what_an_icmp_error_says_of_a_way_hides_no_mtu_of_its_route() {
    in_namespace(|| {
        let under = Iface::without_packet_info("under", Mode::Tun).unwrap();
        shell(
            "ip link set under mtu 1400 up; ip tuntap add dev other mode tun; ip link set other up
             ip addr add 192.168.1.201/24 dev under; ip -6 addr add fd00::201/64 dev under nodad
             ip route add 192.168.9.0/24 dev under mtu 1350; ip -6 route add fd00:9::/64 dev under mtu 1350
             ip route add 192.168.7.0/24 mtu 1340 nexthop dev under nexthop dev other",
        );
        let asked = [
            ("192.168.1.201", "192.168.9.1", 1350),
            ("fd00::201", "fd00:9::1", 1350),
            ("192.168.1.201", "192.168.7.1", 1340),
            ("192.168.1.201", "192.168.1.1", 1400),
            ("fd00::201", "fd00::1", 1400),
        ]
        .map(|(local, remote, mtu_bytes)| {
            (Ends::new(local.parse().unwrap(), remote.parse().unwrap()).unwrap(), remote, mtu_bytes)
        });
        let expected: BTreeMap<_, _> = asked.iter().map(|(ends, _, mtu_bytes)| (*ends, *mtu_bytes)).collect();
        let mut desired = Desired::default();
        for (number, (ends, ..)) in asked.iter().enumerate() {
            let name = format!("sr-{}", number + 1);
            let tunnel = Tunnel { wrap: Wrap::Gre, ends: *ends, fragment_outer: false };
            let device =
                Device { name: name.clone(), tunnel, mtu_bytes: None, alias: String::new(), inbound: false };
            desired.devices.insert(name, device);
        }
        let mut routing = Routing::open().unwrap();
        let mut seen = || routing.current(&desired).unwrap().underlay_mtu_bytes;
        assert_eq!(seen(), expected);
        for (ends, remote, _) in asked {
            let packet = too_big(ends, 1290);
            assert_eq!(under.send(&packet).unwrap(), packet.len());
            shell(&format!(
                "timeout 5 sh -c 'until ip route get {remote} | grep -q \"mtu 1290\"; do sleep 0.05; done'"
            ));
        }
        assert_eq!(seen(), expected);
    });
}

/// "Too big", from the other end, about an echo reply that this host seems to have sent there.
fn too_big(ends: Ends, mtu_bytes: u16) -> Vec<u8> {
    let mtu = mtu_bytes.to_be_bytes();
    match ends {
        Ends::V4 { local, remote } => {
            let header = |from: Ipv4Addr, to: Ipv4Addr, payload_bytes: u8| {
                let fixed = [0x45, 0, 0, 20 + payload_bytes, 0, 0, 0x40, 0, 64, 1, 0, 0];
                let mut header = [&fixed[..], &from.octets(), &to.octets()].concat();
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum);
                header
            };
            let mut error = [&[3, 4, 0, 0, 0, 0][..], &mtu, &header(local, remote, 8), &[0; 8]].concat();
            let sum = checksum(&error);
            error[2..4].copy_from_slice(&sum);
            [header(remote, local, 36), error].concat()
        }
        Ends::V6 { local, remote } => {
            let header = |from: Ipv6Addr, to: Ipv6Addr, payload_bytes: u8| {
                [&[0x60, 0, 0, 0, 0, payload_bytes, 58, 64][..], &from.octets(), &to.octets()].concat()
            };
            let quoted = [header(local, remote, 8), vec![129, 0, 0, 0, 0, 0, 0, 0]].concat();
            let mut error = [&[2, 0, 0, 0, 0, 0][..], &mtu, &quoted].concat();
            let pseudo = [&remote.octets()[..], &local.octets(), &[0, 0, 0, 56, 0, 0, 0, 58]].concat();
            let sum = checksum(&[&pseudo[..], &error].concat());
            error[2..4].copy_from_slice(&sum);
            [header(remote, local, 56), error].concat()
        }
    }
}

/// Of an even number of bytes (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()).to_be_bytes()
}

/// Two networks of TUN devices: packets to VIPs come in by eth2, a direct backend is behind eth1. The routing for that.
fn direct_between_two_networks(balancer: &str) -> Desired {
    direct_with_service(balancer, "")
}

/// With these keys of the service.
fn direct_with_service(balancer: &str, service: &str) -> Desired {
    shell(
        "for dev in eth1 eth2 vpn; do ip tuntap add dev $dev mode tun; ip link set $dev up; done; ip link set lo up
         ip addr add 192.168.1.201/24 dev eth1; ip addr add 192.168.2.201/24 dev eth2; ip addr add 192.168.9.1/24 dev vpn
         ip -6 addr add fd00:1::201/64 dev eth1 nodad; ip -6 addr add fd00:2::201/64 dev eth2 nodad
         ip route add default via 192.168.2.254; ip -6 route add default via fd00:2::254
         echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
    );
    direct_state(balancer, service)
}

fn direct_state(balancer: &str, service: &str) -> Desired {
    let state = fixture::balancer(&format!("address = '192.168.1.201'\n{balancer}"))
        .service("web", "10.0.0.0/32 1000::/128", service)
        .backend("s1", "address = 'fd00:1::1'\nencap = 'direct'")
        .state();
    crate::plan::routing::desired(&state).unwrap()
}

const TO_VIP: &str = "ip route get 10.0.0.0 from 50.0.0.1 iif eth2";
const TO_VIP6: &str = "ip -6 route get 1000:: from 2000::1 iif eth2";

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn no_rule_of_others_catches_what_is_marked_and_each_keeps_the_rest() {
    in_namespace(|| {
        let desired = direct_between_two_networks("");
        let mut routing = Routing::open().unwrap();
        routing.converge(&desired).unwrap();
        let is_balanced = format!(
            "{TO_VIP} mark 1 | grep -q 'via inet6 fd00:1::1 dev eth1'; {TO_VIP6} mark 1 | grep -q 'dev eth1'"
        );
        shell(&is_balanced);
        shell("ip route add default dev vpn table 500; ip -6 route add default dev vpn table 500");
        let others = [
            // Two uplinks; a VPN of everything, whose rules get priorities before ours; a VRF's.
            "rule add pref 500 iif eth2 lookup 500",
            "rule add not fwmark 51820 lookup 500",
            "rule add table main suppress_prefixlength 0",
            "rule add pref 300 from all lookup 500",
        ];
        for other in others {
            shell(&format!("ip {other}; ip -6 {other}"));
            let notes = routing.converge(&desired).unwrap().notes;
            assert!(notes.iter().all(|note| matches!(note, Note::EntriesMove { .. })), "{other}: {notes:?}");
            shell(&is_balanced);
            // What is not marked goes by them.
            shell("ip route get 10.7.7.7 from 50.0.0.1 iif eth2 | grep -q 'dev vpn'");
        }
        // And so does a reverse path lookup, which has the mark.
        shell(
            "ip route get 50.0.0.1 mark 1 | grep -q 'dev vpn'; ip -6 route get 2000::1 mark 1 | grep -q 'dev vpn'",
        );
        // No room left: there is a note.
        shell("ip rule add pref 2 lookup 500");
        let notes = routing.converge(&desired).unwrap().notes;
        assert!(
            matches!(notes[..], [.., Note::EarlierRule(ForeignRule { priority: 2, .. }, 1)]),
            "{notes:?}"
        );
        shell("ip rule del pref 2");
        assert_eq!(routing.converge(&desired).unwrap().notes, []);
        // They are not ours.
        routing.cleanup().unwrap();
        shell("[ $(ip rule | wc -l) = 7 ] && [ $(ip -6 rule | wc -l) = 6 ]");
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_reverse_path_filter_that_looks_by_mark_finds_the_way_back() {
    in_namespace(|| {
        let desired = direct_between_two_networks("");
        shell(
            "for dev in all eth2; do echo 1 > /proc/sys/net/ipv4/conf/$dev/rp_filter; done
             echo 1 > /proc/sys/net/ipv4/conf/all/src_valid_mark",
        );
        let mut routing = Routing::open().unwrap();
        routing.converge(&desired).unwrap();
        shell(&format!("{TO_VIP} mark 1 | grep -q 'dev eth1'"));
        // The filter does its work: no route leads back there by eth2.
        shell("! ip route get 10.0.0.0 from 192.168.9.9 iif eth2 mark 1");
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_health_check_through_a_tunnel_goes_by_its_mark() {
    in_namespace(|| {
        let desired = direct_with_service("", "health = { kind = 'tcp', port = 80 }");
        shell(
            "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter; echo 1 > /proc/sys/net/ipv4/conf/all/src_valid_mark",
        );
        let mut routing = Routing::open().unwrap();
        routing.converge(&desired).unwrap();
        let check = "ip route get 10.0.0.0 from 192.168.1.201";
        shell(&format!("{check} mark 1 | grep -q 'via inet6 fd00:1::1 dev eth1'"));
        // Not without its mark, nor from another address; and clients' reverse paths are what they were.
        shell(&format!(
            "{check} | grep -q 'dev lo table 20000'; ! ip route get 10.0.0.0 from 192.168.2.201 mark 1"
        ));
        shell(&format!("{TO_VIP} mark 1 | grep -q 'dev eth1'"));
        assert_eq!(routing.converge(&desired).unwrap().changes, 0, "it is read as it was made");
        // Without checks the rule goes.
        routing.converge(&direct_state("", "")).unwrap();
        shell(&format!("! {check} mark 1"));
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_configured_priority_holds_and_rules_before_it_are_noted() {
    in_namespace(|| {
        let desired = direct_between_two_networks("rule_priority = 700");
        shell(
            "ip rule add pref 500 lookup 500; ip rule add pref 600 iif eth1 lookup 500; ip rule add pref 701 fwmark 1 lookup 500",
        );
        let mut routing = Routing::open().unwrap();
        let notes = routing.converge(&desired).unwrap().notes;
        let places: Vec<u32> = notes
            .iter()
            .filter_map(|note| match note {
                Note::EarlierRule(rule, 700) => Some(rule.priority),
                Note::ForeignRoute(_)
                | Note::EarlierRule(..)
                | Note::EntriesMove { .. }
                | Note::Ipv6TooLarge { .. } => None,
            })
            .collect();
        assert_eq!(places, [500, 701], "{notes:?}");
        shell("ip rule | grep -q '^700:.*goto 702'");
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn what_a_thousand_targets_take_is_sent_in_few_sends() {
    const TARGETS: usize = 1000;
    in_namespace(|| {
        shell(
            "ip tuntap add dev eth1 mode tun; ip link set eth1 up; ip addr add 172.20.0.1/16 dev eth1
             ip route add default dev eth1; echo 1 > /proc/sys/net/ipv4/ip_forward",
        );
        let state = |targets: usize| {
            let web = fixture::balancer("address = '172.20.0.1'\ninterfaces = 'eth1'").service(
                "web",
                "10.0.0.0/32",
                "table_size = 1009",
            );
            let backend = |file: fixture::Fixture, n: usize| {
                let address = format!("172.20.{}.{}", n / 250 + 1, n % 250 + 1);
                file.backend(&format!("b{n:04}"), &format!("address = '{address}'\nencap = 'direct'"))
            };
            (1..=targets).fold(web, backend).state()
        };
        let mut routing = Routing::open().unwrap();
        let sent = |routing: &mut Routing, state: Option<&State>| {
            let desired =
                state.map(|state| crate::plan::routing::desired(state).unwrap()).unwrap_or_default();
            let before = routing.batch.sent;
            let changes = routing.converge(&desired).unwrap().changes;
            assert_eq!(routing.batch.sent.0 - before.0, changes);
            (changes, routing.batch.sent.1 - before.1)
        };
        let all = state(TARGETS);
        // A route and a rule each, for each four of them a fork and an exit, and less than ten others.
        let made = TARGETS * 2 + TARGETS / 2;
        let (changes, sends) = sent(&mut routing, Some(&all));
        assert!((made..made + 10).contains(&changes), "{changes}");
        assert!(sends <= changes.div_ceil(batch::MESSAGES_MAX) + 2, "{sends}");
        shell(
            "[ $(ip -6 rule | wc -l) = 2 ] && ip route get 10.0.0.0 from 10.9.0.1 iif eth1 mark 1000 | grep -q 'via 172.20.'",
        );
        assert_eq!(sent(&mut routing, Some(&all)), (0, 0));
        // One more takes a route, a rule, and a fork or an exit where it has no neighbours.
        let (changes, sends) = sent(&mut routing, Some(&state(TARGETS + 1)));
        assert!(changes <= 4 && sends <= 2, "{changes} {sends}");
        let (changes, sends) = sent(&mut routing, None);
        assert!(changes >= made && sends <= changes.div_ceil(batch::MESSAGES_MAX) + 2, "{changes} {sends}");
        shell("[ $(ip rule | wc -l) = 3 ] && [ -z \"$(ip route show table all proto 201)\" ]");
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_refusal_amid_others_names_its_operation() {
    in_namespace(|| {
        shell("ip tuntap add dev eth1 mode tun; ip link set eth1 up; ip addr add 172.20.0.1/24 dev eth1");
        let route = |target: u32, gateway: &str| Route {
            table: 20_000 + target,
            to: "0.0.0.0/0".parse().unwrap(),
            metric: 0,
            via: Via::Gateway(gateway.parse().unwrap()),
        };
        let mut ops: Vec<Op> = (1..=300).map(|target| Op::AddRoute(route(target, "172.20.0.2"))).collect();
        let count = |table: u32| shell(&format!("ip route show table {table} | grep -q 172.20.0.2"));
        for far in [7, 200] {
            ops[far] = Op::AddRoute(route(u32::try_from(far).unwrap() + 1, "192.0.2.1"));
        }
        let mut routing = Routing::open().unwrap();
        let refused = routing.apply_reachable(&ops).unwrap();
        let refused: Vec<&String> = refused.iter().filter_map(RoutingError::refused).collect();
        let refusal = |target: u32| format!("add route 0.0.0.0/0 via 192.0.2.1 table {target} metric 0");
        assert_eq!(refused, [&refusal(20_008), &refusal(20_201)]);
        count(20_300);
        // It ends at the first refusal, before what removes.
        ops.push(Op::RemoveRoute(route(300, "172.20.0.2")));
        let error = routing.apply(&ops[7..]).unwrap_err();
        assert_eq!(error.refused(), Some(&refusal(20_008)), "{error}");
        count(20_300);
        // What is gone is no refusal.
        let gone = Op::RemoveRoute(route(300, "172.20.0.2"));
        routing.apply(&[gone.clone(), gone]).unwrap();
        shell("[ -z \"$(ip route show table 20300 2> /dev/null)\" ]");
    });
}

/// Such as a former version made: the kernel would learn path MTUs for them, at a price for each packet.
#[test]
#[ignore = "needs root and /dev/net/tun"]
fn ipv4_routes_of_tunnels_learn_no_path_mtu_and_former_ones_are_replaced() {
    in_namespace(|| {
        shell("ip tuntap add dev sr-1 mode tun; ip link set sr-1 up");
        let to_device = |to: &str, metric| Route {
            table: 20_001,
            to: to.parse().unwrap(),
            metric,
            via: Via::Device("sr-1".to_owned()),
        };
        let (four, six) = (to_device("0.0.0.0/0", 0), to_device("::/0", 1024));
        let mut routing = Routing::open().unwrap();
        let mut routes = |ops: &[Op]| {
            routing.current(&Desired::default()).unwrap();
            routing.apply(ops).unwrap();
            routing.current(&Desired::default()).unwrap().routes
        };
        let locked = "ip route show table 20001 | grep -q 'default dev sr-1 .*mtu lock'";
        let both = BTreeSet::from([four.clone(), six.clone()]);
        assert_eq!(routes(&[Op::AddRoute(four.clone()), Op::AddRoute(six.clone())]), both);
        shell(locked);
        shell("ip route replace default dev sr-1 table 20001 protocol 201 scope link");
        let former = BTreeSet::from([Route { via: Via::Other, ..four }, six]);
        assert_eq!(routes(&[]), former, "they are distinguished");
        assert_eq!(routes(&[Op::ReplaceRoute(four)]), both);
        shell(locked);
        // With a next hop the kernel would take it for one of 576 bytes.
        shell("ip addr add 192.0.2.1/24 dev sr-1");
        shell("ip route add default via 192.0.2.2 table 20002 protocol 201 mtu lock 0");
        let of_next_hop = routes(&[]).into_iter().find(|route| route.table == 20_002);
        assert_eq!(of_next_hop.map(|route| route.via), Some(Via::Other));
    });
}
