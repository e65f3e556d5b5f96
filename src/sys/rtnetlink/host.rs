//! The host's devices, and the addresses that its kernel delivers locally.

use std::{collections::BTreeMap, io};

use ipnet::IpNet;
use rtnetlink::{
    Handle,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::{InfoData, InfoPortKind, InfoVrf, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType},
    },
};

use super::{dump, routes};
use crate::{
    host::{Link, Local, LocalKind, TABLE_LOCAL},
    plan::routing::{FRAGMENTS_DEVICE, inbound::is_our_name},
};

/// Returns all devices but our own, by name, and what the kernel delivers to this host. Addresses of our own
/// devices are left out, since they identify no host.
pub(super) async fn current(handle: &mut Handle) -> io::Result<(BTreeMap<String, Link>, Vec<Local>)> {
    let (mut seen, mut names, mut tables) = (Vec::<Device>::new(), BTreeMap::new(), vec![TABLE_LOCAL]);
    dump(handle, RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| {
        let RouteNetlinkMessage::NewLink(message) = message else { return };
        let device = Device::read(&message);
        tables.extend(device.vrf_table);
        names.insert(message.header.index, device.name.clone());
        seen.push(device);
    })
    .await?;
    let ours = |name: &str| is_our_name(name) || name == FRAGMENTS_DEVICE;
    let vrfs: Vec<String> =
        seen.iter().filter(|one| one.vrf_table.is_some()).map(|one| one.name.clone()).collect();
    let link = |device: Device| {
        let controller = device.controller.and_then(|index| names.get(&index).cloned());
        let vrf = controller.clone().filter(|name| vrfs.contains(name));
        let port_of = controller.filter(|_| device.is_port);
        (device.name, Link { up: device.up, carrier: device.carrier, port_of, vrf })
    };
    let links = seen.into_iter().filter(|device| !ours(&device.name)).map(link).collect();
    let mut locals = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for table in &tables {
            dump(handle, RouteNetlinkMessage::GetRoute(request(family, *table)), |message| {
                if let RouteNetlinkMessage::NewRoute(message) = message
                    && routes::table(&message) == *table
                {
                    locals.extend(local(&message, &names).filter(|local| !ours(&local.device)));
                }
            })
            .await?;
        }
    }
    Ok((links, locals))
}

/// Requests a table's routes. A table of a VRF may hold many routes, so only addresses of this host are
/// requested.
fn request(family: AddressFamily, table: u32) -> RouteMessage {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    request.attributes.push(RouteAttribute::Table(table));
    if table != TABLE_LOCAL {
        request.header.kind = RouteType::Local;
    }
    request
}

fn local(message: &RouteMessage, names: &BTreeMap<u32, String>) -> Option<Local> {
    let kind = match message.header.kind {
        RouteType::Local => LocalKind::Own,
        RouteType::Broadcast => LocalKind::Broadcast,
        RouteType::Anycast => LocalKind::Anycast,
        _ => return None,
    };
    let net: IpNet = routes::prefix(message)?;
    let index = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let device = index.and_then(|index| names.get(&index).cloned()).unwrap_or_else(|| "no device".to_owned());
    let by_address = message.header.protocol == RouteProtocol::Kernel;
    Some(Local { net, device, kind, by_address, table: routes::table(message) })
}

/// The contents of a message about a device.
#[derive(Default)]
struct Device {
    name: String,
    up: bool,
    carrier: bool,
    /// The number of the bridge, bond or VRF that the device belongs to.
    controller: Option<u32>,
    /// Whether the controller is a bridge, bond or team.
    is_port: bool,
    vrf_table: Option<u32>,
}

impl Device {
    fn read(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut device = Self {
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name.clone_from(name),
                LinkAttribute::Controller(index) => device.controller = Some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::PortKind(kind) => {
                                device.is_port = matches!(
                                    kind,
                                    InfoPortKind::Bridge | InfoPortKind::Bond | InfoPortKind::Team
                                );
                            }
                            LinkInfo::Data(InfoData::Vrf(infos)) => {
                                device.vrf_table = infos.iter().find_map(|info| match info {
                                    InfoVrf::TableId(table) => Some(*table),
                                    _ => None,
                                });
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        device
    }
}
