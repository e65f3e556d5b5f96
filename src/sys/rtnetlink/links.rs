//! Tunnel devices.
//!
//! A device is created down. Then it gets its alias, and generation of a link-local address is turned off,
//! which would send router solicitations into the tunnel. Then it is set up. The kernel accepts neither
//! setting when it creates a device. If one message has both the settings and the flag "up", the kernel sets
//! the device up first.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::StreamExt;
use rtnetlink::{
    Handle,
    packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, Nla},
    packet_route::{
        RouteNetlinkMessage,
        link::{
            AfSpecInet, AfSpecInet6, AfSpecUnspec, GreEncapType, GreIOFlags, In6AddrGenMode, InetDevConf,
            InfoData, InfoGre, InfoGre6, InfoIpTunnel, InfoKind, Ip6TunnelFlags, LinkAttribute, LinkFlags,
            LinkInfo, LinkMessage, TunnelEncapFlags, TunnelEncapType,
        },
    },
};

use super::{
    change, dump,
    inbound::{self, Inbound},
    inner, request,
};
use crate::{
    model::GUE_PORT,
    plan::{
        routing::{Device, DeviceNow, inbound::is_our_name},
        rule_tree::DeviceName,
        tunnel::{Ends, OUTER_TTL, Tunnel, Wrap},
    },
    sys::program::load_modules,
};

/// Attributes that the crate does not know, or cannot write.
const IFLA_IPTUN_PROTO: u16 = 9;
const IFLA_GRE_FLAGS: u16 = 13;
const IFLA_GRE_IGNORE_DF: u16 = 19;

/// The devices of this host.
#[derive(Default)]
pub(super) struct Links {
    /// Tunnels, devices with names like ours, and renamed devices that had such a name.
    pub(super) devices: BTreeMap<String, DeviceNow>,
    /// The numbers of all devices.
    pub(super) indexes: BTreeMap<String, u32>,
    /// The MTU of all devices, by number.
    pub(super) mtu_bytes: BTreeMap<u32, u32>,
    /// The VRF of each device that is in one.
    pub(super) vrfs: BTreeMap<DeviceName, DeviceName>,
}

pub(super) async fn current(handle: &mut Handle) -> io::Result<Links> {
    let mut links = Links::default();
    let (mut controlled, mut vrfs) = (Vec::new(), BTreeMap::new());
    let inbound = Inbound::current(handle).await?;
    dump(handle, RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| {
        let RouteNetlinkMessage::NewLink(message) = message else { return };
        let device = seen(&message, &inbound);
        links.indexes.insert(device.name.clone(), message.header.index);
        links.mtu_bytes.insert(message.header.index, device.mtu_bytes);
        let controller = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Controller(index) => Some(*index),
            _ => None,
        });
        let name = DeviceName::new(&device.name);
        controlled.extend(name.zip(controller));
        vrfs.extend(name.filter(|_| device.kind == "vrf").map(|name| (message.header.index, name)));
        if device.ends.is_some() || is_our_name(&device.name) || device.is_astray() {
            links.devices.insert(device.name.clone(), device);
        }
    })
    .await?;
    links.vrfs =
        controlled.into_iter().filter_map(|(name, index)| Some((name, *vrfs.get(&index)?))).collect();
    Ok(links)
}

/// Returns the number of a device.
pub(super) async fn index(handle: &mut Handle, name: &str) -> io::Result<u32> {
    Ok(get(handle, name).await?.header.index)
}

/// Reads a device, tunnel or not.
pub(super) async fn now(handle: &mut Handle, name: &str) -> io::Result<DeviceNow> {
    let inbound = Inbound::current(handle).await?;
    Ok(seen(&get(handle, name).await?, &inbound))
}

async fn get(handle: &mut Handle, name: &str) -> io::Result<LinkMessage> {
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetLink(named(name)));
    message.header.flags = NLM_F_REQUEST;
    let answer = request(handle, message)?.next().await.map(inner).transpose()?.flatten();
    match answer {
        Some(RouteNetlinkMessage::NewLink(message)) => Ok(message),
        _ => Err(io::Error::from_raw_os_error(libc::ENODEV)),
    }
}

/// Creates the device, down. The kernel itself loads the module for a kind of device, but not the module for
/// a GUE header.
pub(super) async fn add(handle: &mut Handle, device: &Device) -> io::Result<()> {
    let made = create(handle, device).await;
    match (made, device.tunnel.encap_module()) {
        (Err(error), Some(module))
            if error.raw_os_error() == Some(libc::EINVAL) && load_modules(&[module]) =>
        {
            create(handle, device).await
        }
        (made, _) => made,
    }
}

async fn create(handle: &mut Handle, device: &Device) -> io::Result<()> {
    let (kind, data) = info(device.tunnel);
    let mut message = named(&device.name);
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
    change(handle, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await
}

/// The settings of a device that can be changed at any time.
pub(super) struct Settings<'a> {
    pub(super) name: &'a str,
    pub(super) alias: &'a str,
    /// `None` leaves the MTU as it is.
    pub(super) mtu_bytes: Option<u32>,
    /// See [`Device::inbound`].
    pub(super) inbound: bool,
}

impl<'a> From<&'a Device> for Settings<'a> {
    fn from(device: &'a Device) -> Self {
        let Device { name, alias, mtu_bytes, inbound, .. } = device;
        Self { name, alias, mtu_bytes: *mtu_bytes, inbound: *inbound }
    }
}

/// Makes the device with this number ready for use.
pub(super) async fn ready(handle: &mut Handle, index: u32, device: Settings<'_>) -> io::Result<()> {
    let mut message = named(device.name);
    configure(handle, index, device).await?;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    change(handle, RouteNetlinkMessage::SetLink(message), 0).await
}

/// As [`ready`], but does not set the device up.
pub(super) async fn configure(handle: &mut Handle, index: u32, device: Settings<'_>) -> io::Result<()> {
    if let Some(mtu_bytes) = device.mtu_bytes {
        // The MTU comes first: below 1280 a device has no IPv6, and its IPv6 settings cannot be changed.
        let mut message = named(device.name);
        message.attributes.push(LinkAttribute::Mtu(mtu_bytes));
        change(handle, RouteNetlinkMessage::SetLink(message), 0).await?;
    }
    let mut message = named(device.name);
    message.attributes.push(LinkAttribute::IfAlias(device.alias.to_owned()));
    let inet6 = vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)];
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(inet6)]));
    change(handle, RouteNetlinkMessage::SetLink(message), 0).await?;
    fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", device.name), "0")?;
    if device.inbound {
        inbound::accept_any_source(handle, index, device.name).await
    } else {
        fs::write(format!("/proc/sys/net/ipv4/conf/{}/rp_filter", device.name), "0")
    }
}

/// Removes the device.
pub(super) async fn remove(handle: &mut Handle, name: &str) -> io::Result<()> {
    change(handle, RouteNetlinkMessage::DelLink(named(name)), 0).await
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

/// Returns the kernel's description of a tunnel. [`tunnel_of`] reads it back.
fn info(tunnel: Tunnel) -> (InfoKind, InfoData) {
    let (kind, data) = match (tunnel.wrap, tunnel.ends) {
        (Wrap::Gre, Ends::V4 { local, remote }) => {
            let fragment = tunnel.fragment_outer;
            let data = vec![
                InfoGre::Local(local),
                InfoGre::Remote(remote),
                InfoGre::Ttl(OUTER_TTL),
                InfoGre::PathMTUDiscovery(!fragment),
                InfoGre::Other(DefaultNla::new(IFLA_GRE_IGNORE_DF, vec![u8::from(fragment)])),
            ];
            return (InfoKind::GreTun, InfoData::GreTun(data));
        }
        (Wrap::Gre, Ends::V6 { local, remote }) => {
            let flags = Ip6TunnelFlags::IgnEncapLimit.bits().to_ne_bytes().to_vec();
            let data = vec![
                InfoGre6::Local(local),
                InfoGre6::Remote(remote),
                InfoGre6::Ttl(OUTER_TTL),
                InfoGre6::Other(DefaultNla::new(IFLA_GRE_FLAGS, flags)),
            ];
            return (InfoKind::GreTun6, InfoData::GreTun6(data));
        }
        (Wrap::Ipip | Wrap::Gue, Ends::V4 { local, remote }) => {
            let data = vec![
                InfoIpTunnel::Local(IpAddr::V4(local)),
                InfoIpTunnel::Remote(IpAddr::V4(remote)),
                InfoIpTunnel::PMtuDisc(true),
            ];
            (InfoKind::SitTun, data)
        }
        (Wrap::Ipip | Wrap::Gue, Ends::V6 { local, remote }) => {
            let data = vec![
                InfoIpTunnel::Local(IpAddr::V6(local)),
                InfoIpTunnel::Remote(IpAddr::V6(remote)),
                InfoIpTunnel::Ipv6Flags(Ip6TunnelFlags::IgnEncapLimit),
            ];
            (InfoKind::Ip6Tnl, data)
        }
    };
    let mut data = data;
    data.push(InfoIpTunnel::Ttl(OUTER_TTL));
    data.push(InfoIpTunnel::Other(DefaultNla::new(IFLA_IPTUN_PROTO, vec![0])));
    if tunnel.wrap == Wrap::Gue {
        data.push(InfoIpTunnel::EncapType(TunnelEncapType::Gue));
        data.push(InfoIpTunnel::EncapFlags(gue_flags(tunnel.ends)));
        data.push(InfoIpTunnel::EncapSPort(0));
        data.push(InfoIpTunnel::EncapDPort(GUE_PORT));
    }
    (kind, InfoData::IpTunnel(data))
}

/// UDP over IPv6 needs its checksum (RFC 8200, 8.1).
fn gue_flags(ends: Ends) -> TunnelEncapFlags {
    match ends {
        Ends::V4 { .. } => TunnelEncapFlags::empty(),
        Ends::V6 { .. } => TunnelEncapFlags::CSum6,
    }
}

fn seen(message: &LinkMessage, accepting: &Inbound) -> DeviceNow {
    let (mut name, mut kind, mut alias) = (String::new(), String::new(), String::new());
    let (mut tunnel, mut ends, mut mtu_bytes) = (None, None, 0);
    let (mut addressless, mut inet6, mut unfiltered, mut inbound) = (false, false, false, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name.clone_from(value),
            LinkAttribute::IfAlias(value) => alias.clone_from(value),
            LinkAttribute::Mtu(value) => mtu_bytes = *value,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(value) => kind = value.to_string(),
                        LinkInfo::Data(data) => (ends, tunnel) = tunnel_of(data, &kind),
                        _ => {}
                    }
                }
            }
            LinkAttribute::AfSpecUnspec(specs) => {
                for spec in specs {
                    match spec {
                        AfSpecUnspec::Inet(values) => {
                            let conf = values.iter().find_map(conf);
                            unfiltered = conf.is_some_and(|conf| conf.rp_filter == 0);
                            inbound = conf
                                .is_some_and(|conf| accepting.accepts_any_source(message.header.index, conf));
                        }
                        AfSpecUnspec::Inet6(values) => {
                            addressless = values.contains(&AfSpecInet6::AddrGenMode(In6AddrGenMode::None));
                            inet6 = values.iter().any(ipv6_is_on);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let up = message.header.flags.contains(LinkFlags::Up);
    let ready = up && addressless && inet6;
    DeviceNow { name, kind, alias, tunnel, ends, mtu_bytes, up, ready, unfiltered, inbound }
}

fn conf(spec: &AfSpecInet) -> Option<&InetDevConf> {
    match spec {
        AfSpecInet::DevConf(conf) => Some(conf),
        _ => None,
    }
}

fn ipv6_is_on(spec: &AfSpecInet6) -> bool {
    matches!(spec, AfSpecInet6::DevConf(conf) if conf.disable_ipv6 == 0)
}

/// Returns the ends of any tunnel, and the tunnel itself if we could have created it.
fn tunnel_of(data: &InfoData, kind: &str) -> (Option<Ends>, Option<Tunnel>) {
    let mut fragment_outer = false;
    let (ends, wrap) = match data {
        InfoData::GreTun(infos) => {
            fragment_outer = infos.contains(&InfoGre::PathMTUDiscovery(false));
            gre(infos, fragment_outer)
        }
        InfoData::GreTun6(infos) => gre6(infos),
        InfoData::IpTunnel(infos) => ip_tunnel(infos),
        _ => (None, None),
    };
    let tunnel = ends.zip(wrap).map(|(ends, wrap)| Tunnel { wrap, ends, fragment_outer });
    (ends, tunnel.filter(|tunnel| tunnel.kind().name() == kind))
}

/// With `fragment_outer`, "don't fragment" is neither set nor copied from the inner packet.
fn gre(infos: &[InfoGre], fragment_outer: bool) -> (Option<Ends>, Option<Wrap>) {
    let (mut local, mut remote) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
    let mut plain = true;
    for info in infos {
        plain &= match info {
            InfoGre::Local(address) => {
                local = *address;
                true
            }
            InfoGre::Remote(address) => {
                remote = *address;
                true
            }
            InfoGre::Ttl(ttl) => *ttl == OUTER_TTL,
            InfoGre::Tos(tos) => *tos == 0,
            InfoGre::PathMTUDiscovery(on) => *on != fragment_outer,
            InfoGre::IFlags(flags) | InfoGre::OFlags(flags) => *flags == GreIOFlags::empty(),
            InfoGre::EncapType(encap) => *encap == GreEncapType::None,
            InfoGre::Link(index) | InfoGre::FwMask(index) => *index == 0,
            InfoGre::CollectMetadata => false,
            InfoGre::Other(nla) if nla.kind() == IFLA_GRE_IGNORE_DF => {
                value(nla).iter().any(|byte| *byte != 0) == fragment_outer
            }
            _ => true,
        };
    }
    (Some(Ends::V4 { local, remote }), plain.then_some(Wrap::Gre))
}

fn gre6(infos: &[InfoGre6]) -> (Option<Ends>, Option<Wrap>) {
    let (mut local, mut remote) = (Ipv6Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
    let (mut plain, mut limit_is_off) = (true, false);
    for info in infos {
        plain &= match info {
            InfoGre6::Local(address) => {
                local = *address;
                true
            }
            InfoGre6::Remote(address) => {
                remote = *address;
                true
            }
            InfoGre6::Ttl(ttl) => *ttl == OUTER_TTL,
            InfoGre6::IFlags(flags) | InfoGre6::OFlags(flags) => *flags == GreIOFlags::empty(),
            InfoGre6::EncapType(encap) => *encap == GreEncapType::None,
            InfoGre6::Link(number) | InfoGre6::FwMask(number) | InfoGre6::FlowLabel(number) => *number == 0,
            InfoGre6::CollectMetadata => false,
            InfoGre6::Other(nla) if nla.kind() == IFLA_GRE_FLAGS => {
                let flags = value(nla).try_into().map(u32::from_ne_bytes).unwrap_or(0);
                limit_is_off =
                    Ip6TunnelFlags::from_bits_retain(flags).contains(Ip6TunnelFlags::IgnEncapLimit);
                true
            }
            _ => true,
        };
    }
    (Some(Ends::V6 { local, remote }), (plain && limit_is_off).then_some(Wrap::Gre))
}

fn ip_tunnel(infos: &[InfoIpTunnel]) -> (Option<Ends>, Option<Wrap>) {
    let (mut local, mut remote) = (None, None);
    let (mut plain, mut encap, mut limit_is_off) = (true, TunnelEncapType::None, false);
    let (mut encap_flags, mut ports) = (TunnelEncapFlags::empty(), (0, 0));
    for info in infos {
        match info {
            InfoIpTunnel::Local(address) => local = Some(*address),
            InfoIpTunnel::Remote(address) => remote = Some(*address),
            InfoIpTunnel::Ttl(ttl) => plain &= *ttl == OUTER_TTL,
            InfoIpTunnel::PMtuDisc(on) => plain &= *on,
            InfoIpTunnel::Protocol(protocol) => plain &= u8::from(*protocol) == 0,
            InfoIpTunnel::Link(number) | InfoIpTunnel::FlowInfo(number) | InfoIpTunnel::FwMark(number) => {
                plain &= *number == 0;
            }
            InfoIpTunnel::Ipv6Flags(flags) => limit_is_off = flags.contains(Ip6TunnelFlags::IgnEncapLimit),
            InfoIpTunnel::EncapType(value) => encap = *value,
            InfoIpTunnel::EncapFlags(value) => encap_flags = *value,
            InfoIpTunnel::EncapSPort(port) => ports.0 = *port,
            InfoIpTunnel::EncapDPort(port) => ports.1 = *port,
            InfoIpTunnel::CollectMetadata => plain = false,
            _ => {}
        }
    }
    let ends = local.zip(remote).and_then(|(local, remote)| Ends::new(local, remote));
    plain &= limit_is_off || matches!(ends, Some(Ends::V4 { .. }));
    let wrap = match encap {
        TunnelEncapType::None => Some(Wrap::Ipip),
        TunnelEncapType::Gue if ports == (0, GUE_PORT) && ends.map(gue_flags) == Some(encap_flags) => {
            Some(Wrap::Gue)
        }
        _ => None,
    };
    (ends, wrap.filter(|_| plain))
}

fn value(nla: &DefaultNla) -> Vec<u8> {
    let mut value = vec![0; nla.value_len()];
    nla.emit_value(&mut value);
    value
}
