//! The form of the tunnel to a target, and its overhead. PURE.
//!
//! | encap | over IPv4: kind, headers, MTU at 1500 | over IPv6 |
//! |---|---|---|
//! | gre  | `gre`, IPv4 20 + GRE 4: 1476 | `ip6gre`, IPv6 40 + GRE 4: 1456 |
//! | ipip | `sit` mode any, IPv4 20: 1480 | `ip6tnl` mode any, IPv6 40: 1460 |
//! | gue  | `sit` + UDP 8 + GUE 4: 1468 | `ip6tnl` + UDP 8 + GUE 4: 1448 |
//!
//! Every kind carries IPv4 and IPv6 in one device. `sit` in mode `any` is the only IPv4 kind that does so
//! without a GRE header: inner IPv4 is sent as protocol 4, inner IPv6 as protocol 41. Over IPv6 the
//! encapsulation limit is off; it would cost 8 bytes and an extension header that routers handle badly.
//!
//! A tunnel that fragments ([`Tunnel::fragment_outer`]) takes packets of any size up to its device's MTU. A
//! larger packet is refused with an ICMP error (`tnl_update_pmtu` in the kernel), or fragmented before it
//! enters the tunnel. So a device that is to fragment has the largest possible MTU.
//!
//! **Small underlay** ([`Tunnel::over`]). IPv6 guarantees its users 1280 bytes, and a device with a smaller
//! MTU has no IPv6. If the network to the other end leaves less, the device still has an MTU of 1280, and
//! packets that are too large for the network are sent in fragments: those of GRE over IPv4 because the
//! tunnel then fragments, those of other kinds by the kernel itself, which fragments inner IPv6
//! (`ipip6_tunnel_xmit`, `ip6_tnl_xmit`). An inner IPv4 packet that must not be fragmented is answered with
//! the size that fits. One that may be fragmented, and is larger than that although cut to 1280, is lost in
//! the other kinds.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    model::{Encap, Path, Pmtu, ids::TargetId},
    state::State,
};

/// Time to live, or hop limit, of the outer header. It is fixed, so that an inner packet with a small TTL
/// still arrives.
pub const OUTER_TTL: u8 = 64;

/// The size of the largest packet of IPv4, and of IPv6 without jumbograms.
const PACKET_BYTES_MAX: u32 = 65_535;
/// What every network must carry for IPv6 (RFC 8200, 5). The kernel gives a device with a smaller MTU no
/// IPv6.
pub const IPV6_MTU_BYTES_MIN: u32 = 1280;

/// The headers that a tunnel puts between the outer IP header and the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wrap {
    /// A GRE header without options.
    Gre,
    /// Nothing.
    Ipip,
    /// UDP and a GUE header.
    Gue,
}

/// The outer addresses. By construction, both are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ends {
    /// IPv4.
    V4 {
        /// Our address.
        local: Ipv4Addr,
        /// The backend's address; unspecified for an entrance, which accepts packets from any address.
        remote: Ipv4Addr,
    },
    /// IPv6.
    V6 {
        /// Our address.
        local: Ipv6Addr,
        /// The backend's address; unspecified as for IPv4.
        remote: Ipv6Addr,
    },
}

impl Ends {
    /// Returns the two addresses as ends of a tunnel, or `None` if their families differ.
    #[must_use]
    pub fn new(local: IpAddr, remote: IpAddr) -> Option<Self> {
        match (local, remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => Some(Self::V4 { local, remote }),
            (IpAddr::V6(local), IpAddr::V6(remote)) => Some(Self::V6 { local, remote }),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }
}

impl Ends {
    /// Returns the backend's end.
    #[must_use]
    pub fn remote(self) -> IpAddr {
        match self {
            Self::V4 { remote, .. } => remote.into(),
            Self::V6 { remote, .. } => remote.into(),
        }
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4 { local, remote } if remote.is_unspecified() => write!(f, "{local} from anywhere"),
            Self::V6 { local, remote } if remote.is_unspecified() => write!(f, "{local} from anywhere"),
            Self::V4 { local, remote } => write!(f, "{local} to {remote}"),
            Self::V6 { local, remote } => write!(f, "{local} to {remote}"),
        }
    }
}

/// A kind of device, as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// GRE over IPv4.
    Gre,
    /// GRE over IPv6.
    Ip6Gre,
    /// IPv4 or IPv6 in IPv4.
    Sit,
    /// IPv4 or IPv6 in IPv6.
    Ip6Tnl,
}

impl Kind {
    /// Returns the kind that puts `wrap` over IPv6, or over IPv4.
    #[must_use]
    pub fn of(wrap: Wrap, over_ipv6: bool) -> Self {
        match (wrap, over_ipv6) {
            (Wrap::Gre, false) => Self::Gre,
            (Wrap::Gre, true) => Self::Ip6Gre,
            (Wrap::Ipip | Wrap::Gue, false) => Self::Sit,
            (Wrap::Ipip | Wrap::Gue, true) => Self::Ip6Tnl,
        }
    }

    /// Returns the name that `ip link add type` takes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gre => "gre",
            Self::Ip6Gre => "ip6gre",
            Self::Sit => "sit",
            Self::Ip6Tnl => "ip6tnl",
        }
    }

    /// Returns the kernel module that provides the kind.
    #[must_use]
    pub fn module(self) -> &'static str {
        match self {
            Self::Gre => "ip_gre",
            Self::Ip6Gre => "ip6_gre",
            Self::Sit => "sit",
            Self::Ip6Tnl => "ip6_tunnel",
        }
    }
}

/// A tunnel to one target, or from any router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tunnel {
    /// The headers between the outer IP header and the packet.
    pub wrap: Wrap,
    /// The outer addresses.
    pub ends: Ends,
    /// Whether outer packets that are too large are sent in fragments, as long as the device accepts the
    /// inner packet. Only GRE over IPv4 can do this: `sit` with a fixed TTL always sets "don't fragment"
    /// (`ipip6_netlink_parms`), and over IPv6 this is not a setting of the tunnel.
    pub fragment_outer: bool,
}

impl Tunnel {
    /// Returns the device's kind.
    #[must_use]
    pub fn kind(self) -> Kind {
        Kind::of(self.wrap, matches!(self.ends, Ends::V6 { .. }))
    }

    /// Returns the kernel module that GUE needs besides [`Kind::module`].
    #[must_use]
    pub fn encap_module(self) -> Option<&'static str> {
        match (self.wrap, self.ends) {
            (Wrap::Gre | Wrap::Ipip, _) => None,
            (Wrap::Gue, Ends::V4 { .. }) => Some("fou"),
            (Wrap::Gue, Ends::V6 { .. }) => Some("fou6"),
        }
    }

    /// Returns how many bytes an underlay network leaves, if that is too few for IPv6 and the tunnel's
    /// packets are not sent in fragments, as over IPv6.
    #[must_use]
    pub fn too_small_for_ipv6(self, underlay_mtu_bytes: u32) -> Option<u32> {
        let over_ipv6 = matches!(self.ends, Ends::V6 { .. });
        let room_bytes = underlay_mtu_bytes.saturating_sub(u32::from(overhead(self.wrap, over_ipv6)));
        (over_ipv6 && room_bytes < IPV6_MTU_BYTES_MIN).then_some(room_bytes)
    }

    /// Returns this tunnel over a network that carries packets of `underlay_mtu_bytes`, and the MTU of its
    /// device. The MTU is `None` if the kernel chooses it, since the network is not known.
    #[must_use]
    pub fn over(self, underlay_mtu_bytes: Option<u32>) -> (Self, Option<u32>) {
        let overhead = overhead(self.wrap, matches!(self.ends, Ends::V6 { .. }));
        let room = |mtu_bytes: u32| mtu_bytes.min(PACKET_BYTES_MAX).saturating_sub(u32::from(overhead));
        match underlay_mtu_bytes.map(room) {
            // The largest possible MTU (`ip_tunnel_change_mtu`).
            _ if self.fragment_outer => (self, Some(room(PACKET_BYTES_MAX))),
            Some(mtu_bytes) if mtu_bytes < IPV6_MTU_BYTES_MIN => {
                (Self { fragment_outer: self.kind() == Kind::Gre, ..self }, Some(IPV6_MTU_BYTES_MIN))
            }
            mtu_bytes => (self, mtu_bytes),
        }
    }
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gue = if self.wrap == Wrap::Gue { " with gue" } else { "" };
        let fragments = if self.fragment_outer { " in fragments" } else { "" };
        write!(f, "{}{gue}{fragments} {}", self.kind().name(), self.ends)
    }
}

/// Returns what `encap` puts around a packet, or `None` if it needs no tunnel.
#[must_use]
pub fn wrap(encap: Encap) -> Option<Wrap> {
    match encap {
        Encap::Gre => Some(Wrap::Gre),
        Encap::Ipip => Some(Wrap::Ipip),
        Encap::Gue => Some(Wrap::Gue),
        Encap::Direct => None,
    }
}

/// Returns the targets whose tunnels fragment ([`Tunnel::fragment_outer`]): those of services that request
/// it, and the tier's, since fragments are often as large as their senders' networks allow. Only targets
/// whose tunnels can fragment are returned.
#[must_use]
pub fn fragmenting(state: &State) -> BTreeSet<TargetId> {
    let services = state.services.iter().filter(|service| service.pmtu == Pmtu::FragmentOuter);
    let backends = services.flat_map(|service| &service.backends).map(|backend| backend.target);
    let tier = state.tier.iter().filter_map(|member| member.target);
    let can = |target: &TargetId| matches!(state.path(*target), Some(Path::Via(Encap::Gre, IpAddr::V4(_))));
    backends.chain(tier).filter(can).collect()
}

/// Returns how many bytes a path puts in front of a packet.
#[must_use]
pub fn overhead_bytes(path: Path) -> u16 {
    let Path::Via(encap, remote) = path else { return 0 };
    wrap(encap).map_or(0, |wrap| overhead(wrap, remote.is_ipv6()))
}

fn overhead(wrap: Wrap, over_ipv6: bool) -> u16 {
    let inner = match wrap {
        Wrap::Ipip => 0,
        Wrap::Gre => 4,
        Wrap::Gue => 8 + 4,
    };
    inner + if over_ipv6 { 40 } else { 20 }
}

/// The sizes of the largest packets and segments that pass a path whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Bytes of an inner packet, including its IP header.
    pub mtu_bytes: u16,
    /// TCP payload over inner IPv4.
    pub mss4_bytes: u16,
    /// TCP payload over inner IPv6.
    pub mss6_bytes: u16,
}

/// Returns what fits through `path` if the network to the backend carries packets of `underlay_mtu_bytes`.
#[must_use]
pub fn fit(path: Path, underlay_mtu_bytes: u16) -> Fit {
    let mtu_bytes = underlay_mtu_bytes.saturating_sub(overhead_bytes(path));
    Fit { mtu_bytes, mss4_bytes: mtu_bytes.saturating_sub(40), mss6_bytes: mtu_bytes.saturating_sub(60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mtu_and_mss_are_those_that_the_kernel_sets() {
        let cases = [
            (Encap::Gre, "192.168.1.1", 1476),
            (Encap::Gre, "fd00::1", 1456),
            (Encap::Ipip, "192.168.1.1", 1480),
            (Encap::Ipip, "fd00::1", 1460),
            (Encap::Gue, "192.168.1.1", 1468),
            (Encap::Gue, "fd00::1", 1448),
            (Encap::Direct, "192.168.1.1", 1500),
        ];
        for (encap, remote, mtu_bytes) in cases {
            let fit = fit(Path::Via(encap, remote.parse().unwrap()), 1500);
            assert_eq!(fit, Fit { mtu_bytes, mss4_bytes: mtu_bytes - 40, mss6_bytes: mtu_bytes - 60 });
        }
        assert_eq!(fit(Path::MarkOnly, 1500).mtu_bytes, 1500);
    }

    #[test]
    fn a_device_never_has_less_than_ipv6_needs() {
        let [v4, v6] = [("192.168.1.201", "192.168.1.1"), ("fd00::201", "fd00::1")]
            .map(|(local, remote)| Ends::new(local.parse().unwrap(), remote.parse().unwrap()).unwrap());
        let over = |wrap, ends, underlay| {
            let (tunnel, mtu_bytes) = Tunnel { wrap, ends, fragment_outer: false }.over(underlay);
            (tunnel.fragment_outer, mtu_bytes)
        };
        for (wrap, least) in [(Wrap::Gre, 1304), (Wrap::Ipip, 1300), (Wrap::Gue, 1312)] {
            assert_eq!(over(wrap, v4, Some(least)), (false, Some(1280)), "{wrap:?}");
            assert_eq!(over(wrap, v4, Some(least + 1)), (false, Some(1281)), "{wrap:?}");
            for underlay in [least - 1, 1280, 576, 0] {
                assert_eq!(over(wrap, v4, Some(underlay)), (wrap == Wrap::Gre, Some(1280)), "{wrap:?}");
            }
            assert_eq!(over(wrap, v6, Some(least + 20)), (false, Some(1280)), "{wrap:?}");
            assert_eq!(over(wrap, v6, Some(1280)), (false, Some(1280)), "{wrap:?}");
            assert_eq!(over(wrap, v4, None), (false, None));
        }
        assert_eq!(over(Wrap::Gre, v4, Some(65_536)), (false, Some(65_511)));
        let fragmenting = Tunnel { wrap: Wrap::Gre, ends: v4, fragment_outer: true };
        for underlay in [None, Some(1280), Some(9000)] {
            assert_eq!(fragmenting.over(underlay), (fragmenting, Some(65_511)));
        }
    }

    #[test]
    fn ends_are_of_one_family() {
        let (v4, v6) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        assert!(Ends::new(v4, v4).is_some() && Ends::new(v6, v6).is_some());
        assert!(Ends::new(v4, v6).is_none() && Ends::new(v6, v4).is_none());
    }
}
