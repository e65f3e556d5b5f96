//! `[tracer]`: where decisions about probes may be reported, and how many probes are answered.

use super::{Item, Reader, prefix};
use crate::config::{TracerSettings, keys};

const RECEIVERS: &str = "unicast addresses or prefixes, such as \"192.168.2.0/24\" or \"fd00::/64\"";

pub(super) fn read(reader: &mut Reader<'_>, item: Item<'_>) -> Option<TracerSettings> {
    let mut table = item.table(reader)?;
    let mut settings = TracerSettings::default();
    let items = table.take("receivers").map(Item::list).unwrap_or_default();
    if let Some(item) = items.get(TracerSettings::RECEIVERS_MAX) {
        item.diagnose(reader, format_args!("at most {} prefixes", TracerSettings::RECEIVERS_MAX));
    }
    for item in items {
        let Some(receiver) = item.string(reader, RECEIVERS, prefix) else { continue };
        if receiver.trunc() != receiver {
            item.diagnose(reader, format_args!("a prefix without host bits, such as {}", receiver.trunc()));
        } else {
            settings.receivers.push(receiver);
        }
    }
    if let Some(item) = table.take("per_second") {
        settings.per_second = item.integer(reader, TracerSettings::PER_SECOND).unwrap_or(settings.per_second);
    }
    table.finish(reader, &keys::TRACER.names());
    Some(settings)
}
