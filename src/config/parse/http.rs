//! `[http]`: where lbagent answers HTTP.

use std::net::SocketAddr;

use super::{Item, Reader};
use crate::config::{HttpSettings, keys};

const LISTEN: &str = "an address and a port, such as \"127.0.0.1:9469\" or \"[::1]:9469\"";
const NAME: &str = "a host name in lower case, such as \"lb1.example.net\", without a port";

pub(super) fn read(reader: &mut Reader<'_>, item: Item<'_>) -> Option<HttpSettings> {
    let mut table = item.table(reader)?;
    let unix = table.take("unix").map_or(Some(true), |item| item.bool(reader)).unwrap_or(true);
    let mut settings = HttpSettings { unix, ..HttpSettings::default() };
    let items = table.take("listen").map(Item::list).unwrap_or_default();
    if let Some(item) = items.get(HttpSettings::LISTEN_MAX) {
        item.diagnose(reader, format_args!("at most {} addresses", HttpSettings::LISTEN_MAX));
    }
    let listen = |text: &str| text.parse::<SocketAddr>().ok().filter(|at| at.port() > 0);
    for item in items {
        let Some(at) = item.string(reader, LISTEN, listen) else { continue };
        if settings.listen.contains(&at) {
            item.diagnose(reader, "each address with its port once");
        }
        settings.listen.push(at);
    }
    let items = table.take("names").map(Item::list).unwrap_or_default();
    if let Some(item) = items.get(HttpSettings::NAMES_MAX) {
        item.diagnose(reader, format_args!("at most {} names", HttpSettings::NAMES_MAX));
    }
    for item in items {
        let name = |text: &str| HttpSettings::is_name(text).then(|| text.to_owned());
        settings.names.extend(item.string(reader, NAME, name));
    }
    table.finish(reader, &keys::HTTP.names());
    Some(settings)
}
