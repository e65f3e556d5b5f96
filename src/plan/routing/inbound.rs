//! Entrances: devices by which packets to VIPs come in GRE from routers in front (`gre_in`). PURE.
//!
//! There is one for each family of `[balancer] address`, with that address as local end and any address as
//! remote end: `sr-in4` and `sr-in6`. Each carries IPv4 and IPv6. No packets are ever sent by them. A tunnel
//! whose remote end is a balancer of the tier or a backend is more specific, and the kernel gives it the
//! packets that come from there (`ip_tunnel_lookup`, `ip6gre_tunnel_lookup`). The same applies to an
//! operator's own tunnel to a router.
//!
//! Every host can send into an entrance, and whatever comes out would be forwarded like any packet. Two
//! things prevent this. First, the ruleset drops packets that are for no VIP. So an entrance is made in the
//! state down, set up when the ruleset has it ([`Op::opens`]), and removed before it is removed from the
//! ruleset ([`Op::closes`]). Second, a rule after the tree of marks drops packets without a mark
//! ([`rule_tree::guard`]), whatever happens to the ruleset. This rule comes too late for packets to this host
//! itself, which the kernel's own first rule (table `local`) delivers; against these there is only the
//! ruleset.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ALIAS_PREFIX, Device, Op, Tunnel, target_of_device};
use crate::{
    config::Balancer,
    plan::{
        rule_tree::{self, DeviceName, Rule},
        tunnel::{Ends, Wrap},
    },
};

/// The entrance over IPv4.
const DEVICE4: &str = "sr-in4";
/// The entrance over IPv6.
const DEVICE6: &str = "sr-in6";
/// The user of the entrances, in their aliases.
pub(super) const USER: &str = "gre_in";

/// Returns the addresses at which GRE from routers ends; none without `gre_in`.
pub fn addresses(balancer: &Balancer) -> impl Iterator<Item = IpAddr> {
    balancer.address.iter().filter(|_| balancer.gre_in)
}

/// Returns the names of the desired entrances.
pub fn device_names(balancer: &Balancer) -> impl Iterator<Item = &'static str> {
    addresses(balancer).map(device_name)
}

/// Returns the desired entrances.
pub(super) fn devices(balancer: &Balancer) -> impl Iterator<Item = Device> {
    addresses(balancer).map(|address| {
        let ends = match address {
            IpAddr::V4(local) => Ends::V4 { local, remote: Ipv4Addr::UNSPECIFIED },
            IpAddr::V6(local) => Ends::V6 { local, remote: Ipv6Addr::UNSPECIFIED },
        };
        Device {
            name: device_name(address).to_owned(),
            tunnel: Tunnel { wrap: Wrap::Gre, ends, fragment_outer: false },
            mtu_bytes: None,
            alias: format!("{ALIAS_PREFIX} {USER}"),
            inbound: true,
        }
    })
}

/// Returns the rules that prevent forwarding of packets that come in by the entrances and have no mark.
pub(super) fn guards(balancer: &Balancer) -> impl Iterator<Item = Rule> {
    let names = device_names(balancer).filter_map(DeviceName::new);
    names.map(|name| rule_tree::guard(name, balancer.mark_mask))
}

/// Returns the entrance of this name.
#[must_use]
pub fn entrance(name: &str) -> Option<&'static str> {
    [DEVICE4, DEVICE6].into_iter().find(|entrance| *entrance == name)
}

/// Reports whether a device of this name is, or would be, ours: an entrance, or the device of a target.
#[must_use]
pub fn is_our_name(name: &str) -> bool {
    entrance(name).is_some() || target_of_device(name).is_some()
}

fn device_name(address: IpAddr) -> &'static str {
    if address.is_ipv4() { DEVICE4 } else { DEVICE6 }
}

impl Device {
    /// Reports whether the device is an entrance.
    #[must_use]
    pub fn is_entrance(&self) -> bool {
        entrance(&self.name).is_some()
    }

    /// Reports whether fragments that another balancer of the tier has sent come in by the device.
    #[must_use]
    pub fn is_from_tier(&self) -> bool {
        self.inbound && !self.is_entrance()
    }
}

impl Op {
    /// Reports whether the change opens an entrance, which must wait for the ruleset.
    #[must_use]
    pub fn opens(&self) -> bool {
        matches!(self, Self::Ready(device) if device.is_entrance())
    }

    /// Reports whether the change closes an entrance, which must be done before the ruleset is removed.
    #[must_use]
    pub fn closes(&self) -> bool {
        matches!(self, Self::RemoveDevice(name) if entrance(name).is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{
        super::tests::{DUAL, converge, perform, state, with_tier},
        *,
    };
    use crate::{
        model::ids::MarkMask,
        plan::{
            elements::{Claims, Elements, SetName},
            routing::{Desired, DeviceNow, FRAGMENTS_DEVICE, RoutingNow, desired, diff},
        },
        state::State,
    };

    fn with_gre_in() -> State {
        let mut state = state(DUAL, &["address = \"192.168.1.1\""]);
        state.balancer.gre_in = true;
        state
    }

    fn names(ops: &[Op]) -> Vec<String> {
        ops.iter().map(Op::to_string).collect()
    }

    #[test]
    fn each_address_has_an_entrance_and_none_without_the_setting() {
        let entrances = |state: &State| -> Vec<(String, String, String)> {
            let devices = desired(state).unwrap().devices.into_values().filter(|device| device.inbound);
            devices.map(|device| (device.name, device.tunnel.to_string(), device.alias)).collect()
        };
        let four = ("sr-in4", "gre 192.168.1.201 from anywhere", "synrail: gre_in");
        let six = ("sr-in6", "ip6gre fd00:0:0:1::201 from anywhere", "synrail: gre_in");
        let owned = |(name, tunnel, alias): (&str, &str, &str)| (name.into(), tunnel.into(), alias.into());
        let mut state = state(DUAL, &[]);
        assert_eq!(entrances(&state), []);
        state.balancer.gre_in = true;
        assert_eq!(entrances(&state), [owned(four), owned(six)]);
        state.balancer.address.v4 = None;
        assert_eq!(entrances(&state), [owned(six)]);
    }

    #[test]
    fn the_ruleset_has_the_entrances_and_their_addresses() {
        let elements = |state: &State| {
            let elements = Elements::desired(state, &Claims::default(), &[]);
            [SetName::Interfaces, SetName::Tunnels, SetName::GreIn4, SetName::GreIn6]
                .map(|set| elements.of(set).iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let mut state = with_gre_in();
        let interfaces = r#""eth1" "sr-frag" "sr-in4" "sr-in6""#;
        let tunnels = r#""sr-1" "sr-frag" "sr-in4" "sr-in6""#;
        assert_eq!(elements(&state), [interfaces, tunnels, "192.168.1.201", "fd00:0:0:1::201"]);
        state.balancer.gre_in = false;
        assert_eq!(elements(&state), [r#""eth1" "sr-frag""#, r#""sr-1" "sr-frag""#, "", ""]);
    }

    #[test]
    fn the_ruleset_has_every_device_of_ours() {
        let at = |n: u8, encap: &str| format!("address = \"fd00:0:0:1::{n}\"\nencap = \"{encap}\"");
        let [gre, ipip, direct] = [at(1, "gre"), at(2, "ipip"), at(3, "direct")];
        let mut state = state(DUAL, &[&gre, &ipip, &direct, "encap = \"mark\""]);
        state.balancer.gre_in = true;
        let state = with_tier(state, &["192.168.1.202"]);
        let devices = desired(&state).unwrap().devices;
        let names: Vec<&str> = devices.keys().map(String::as_str).collect();
        assert_eq!(names, ["sr-1", "sr-2", "sr-5", "sr-in4", "sr-in6"]);
        let names = names.into_iter().chain([FRAGMENTS_DEVICE]).map(|name| format!("\"{name}\""));
        let known = Elements::desired(&state, &Claims::default(), &[]);
        let known = known.of(SetName::Tunnels).iter().map(ToString::to_string);
        assert_eq!(known.collect::<BTreeSet<_>>(), names.collect());
    }

    #[test]
    fn an_entrance_is_made_first_and_opened_when_all_else_is_there() {
        let mut now = RoutingNow::default();
        let first = desired(&with_gre_in()).unwrap();
        let ops = converge(&mut now, &first);
        let made = |op: &Op| matches!(op, Op::AddDevice(_));
        assert_eq!(ops.iter().take_while(|op| made(op)).count(), 3);
        assert_eq!(names(&ops)[ops.len() - 2..], ["set up device sr-in4", "set up device sr-in6"]);
        assert_eq!(ops.iter().filter(|op| op.opens()).count(), 2);
        // One entrance was set down by another program, and the other one removed.
        now.devices.get_mut("sr-in4").unwrap().ready = false;
        now.devices.remove("sr-in6");
        let ops = converge(&mut now, &first);
        let mended = [
            "add device sr-in6 (ip6gre fd00:0:0:1::201 from anywhere)",
            "set up device sr-in4",
            "set up device sr-in6",
        ];
        assert_eq!(names(&ops), mended);
        // Removals come after it. An entrance at another address is another device.
        let mut moved = with_gre_in();
        moved.balancer.address.v4 = Some("192.168.1.202".parse().unwrap());
        moved.services.clear();
        moved.targets.clear();
        let ops = names(&converge(&mut now, &desired(&moved).unwrap()));
        assert_eq!(ops[..2], ["remove device sr-in4", "add device sr-in4 (gre 192.168.1.202 from anywhere)"]);
        assert_eq!(ops[2], "set up device sr-in4");
        assert!(ops.len() > 3 && ops[3..].iter().all(|op| op.starts_with("remove ")), "{ops:?}");
    }

    #[test]
    fn without_the_setting_the_entrances_are_removed_and_nothing_else() {
        let mut now = RoutingNow::default();
        let mut state = with_gre_in();
        converge(&mut now, &desired(&state).unwrap());
        state.balancer.gre_in = false;
        let ops = converge(&mut now, &desired(&state).unwrap());
        let removed = [
            "remove device sr-in4",
            "remove device sr-in6",
            "remove IPv4 rule 901: iif sr-in4 goto 10000",
            "remove IPv4 rule 901: iif sr-in6 goto 10000",
            "remove IPv4 rule 22289: iif sr-in4 fwmark 0x0/0xffff blackhole",
            "remove IPv4 rule 22289: iif sr-in6 fwmark 0x0/0xffff blackhole",
            "remove IPv6 rule 901: iif sr-in4 goto 10000",
            "remove IPv6 rule 901: iif sr-in6 goto 10000",
            "remove IPv6 rule 22289: iif sr-in4 fwmark 0x0/0xffff blackhole",
            "remove IPv6 rule 22289: iif sr-in6 fwmark 0x0/0xffff blackhole",
        ];
        assert_eq!(names(&ops), removed);
        let rest = converge(&mut now, &Desired::default());
        assert!(!rest.is_empty() && !rest.iter().any(Op::closes));
        assert_eq!(now, RoutingNow::default());
    }

    /// Returns the changes before and after a change of the ruleset.
    fn around_ruleset(now: &RoutingNow, desired: &Desired) -> (Vec<String>, Vec<String>) {
        let (before, after) = diff(now, desired).unwrap().around_ruleset();
        (names(&before), names(&after))
    }

    #[test]
    fn entrances_open_after_the_ruleset_has_them_and_close_before_they_leave_it() {
        let mut now = RoutingNow::default();
        let with = desired(&with_gre_in()).unwrap();
        let (before, after) = around_ruleset(&now, &with);
        assert_eq!(after, ["set up device sr-in4", "set up device sr-in6"]);
        assert_eq!(before.iter().filter(|op| op.ends_with(" blackhole")).count(), 4, "{before:?}");
        converge(&mut now, &with);
        // Nothing is added. Entrances close at once; the other removals wait.
        let (before, after) = around_ruleset(&now, &Desired::default());
        assert_eq!(before, ["remove device sr-in4", "remove device sr-in6"]);
        assert!(after.len() > 4 && after.iter().all(|op| op.starts_with("remove ")), "{after:?}");
        // With another mark mask, no entrance is ever without its rule.
        let mut masked = with_gre_in();
        masked.balancer.mark_mask = MarkMask::new(0x1fff).unwrap();
        let ops = names(&converge(&mut now, &desired(&masked).unwrap()));
        let of_guards: Vec<_> = ops.iter().filter(|op| op.contains("IPv6 rule 22289: iif sr-in4")).collect();
        assert_eq!(
            of_guards,
            [
                "add IPv6 rule 22289: iif sr-in4 fwmark 0x0/0x1fff blackhole",
                "remove IPv6 rule 22289: iif sr-in4 fwmark 0x0/0xffff blackhole",
            ]
        );
    }

    #[test]
    fn an_entrance_that_was_made_and_never_opened_is_ours() {
        let first = desired(&with_gre_in()).unwrap();
        let mut now = RoutingNow::default();
        perform(&mut now, &Op::AddDevice(first.devices["sr-in4"].clone()));
        assert!(!now.devices["sr-in4"].ready);
        assert_eq!(names(&diff(&now, &Desired::default()).unwrap().ops), ["remove device sr-in4"]);
        let mut moved = with_gre_in();
        moved.balancer.address.v4 = Some("192.168.1.202".parse().unwrap());
        let ops = names(&converge(&mut now, &desired(&moved).unwrap()));
        assert_eq!(ops[0], "remove device sr-in4");
    }

    #[test]
    fn what_is_not_ours_is_in_the_way_by_its_name_or_its_ends() {
        let desired = desired(&with_gre_in()).unwrap();
        let mut right = RoutingNow::default();
        converge(&mut right, &desired);
        let refused = |name: &str, change: fn(&mut DeviceNow)| {
            let mut device = right.devices["sr-in4"].clone();
            device.name = name.to_owned();
            change(&mut device);
            let mut now = RoutingNow::default();
            now.devices.insert(name.to_owned(), device);
            diff(&now, &desired).map_err(|error| error.to_string())
        };
        let named = refused("sr-in4", |device| device.alias = "mine".to_owned()).unwrap_err();
        assert!(
            named.starts_with("device sr-in4 (kind \"gre\", alias \"mine\") exists and is not synrail's")
        );
        let same = refused("gre1", |device| device.alias.clear()).unwrap_err();
        let expected = "device gre1 is not synrail's and is the same tunnel (gre 192.168.1.201 from anywhere) that sr-in4";
        assert!(same.starts_with(expected), "{same}");
        // A tunnel to one router, and the kernel's own device for everything, are not in the way.
        let to_router = |device: &mut DeviceNow| {
            let ends = Ends::V4 {
                local: "192.168.1.201".parse().unwrap(),
                remote: "192.168.1.254".parse().unwrap(),
            };
            (device.alias, device.ends) = (String::new(), Some(ends));
        };
        assert!(refused("gre1", to_router).is_ok());
        let any = |device: &mut DeviceNow| {
            let ends = Ends::V4 { local: Ipv4Addr::UNSPECIFIED, remote: Ipv4Addr::UNSPECIFIED };
            (device.alias, device.ends) = (String::new(), Some(ends));
        };
        assert!(refused("gre0", any).is_ok());
    }

    #[test]
    fn only_the_tiers_tunnels_bring_fragments_from_the_tier() {
        let state = with_tier(with_gre_in(), &["192.168.1.202"]);
        let devices = desired(&state).unwrap().devices;
        let from_tier: Vec<_> = devices.values().filter(|device| device.is_from_tier()).collect();
        assert_eq!(from_tier.len(), 1);
        assert_eq!(from_tier[0].name, "sr-2");
        assert_eq!(devices.values().filter(|device| device.inbound).count(), 3);
    }

    #[test]
    fn names_of_ours_are_distinguished_from_others() {
        for ours in [DEVICE4, DEVICE6, "sr-1"] {
            assert!(is_our_name(ours), "{ours}");
            assert_eq!(entrance(ours).is_some(), target_of_device(ours).is_none());
        }
        for other in ["sr-in", "sr-in5", "gre0", FRAGMENTS_DEVICE] {
            assert!(!is_our_name(other), "{other}");
        }
    }
}
