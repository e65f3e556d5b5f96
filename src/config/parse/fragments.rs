//! `[fragments]`: limits of the fragment table. A source's share is never above the whole. A share that the
//! file does not name is lowered to the whole if necessary.

use super::{Item, Reader};
use crate::config::{FragmentLimits, keys};

pub(super) fn read(reader: &mut Reader<'_>, item: Item<'_>) -> Option<FragmentLimits> {
    let mut table = item.table(reader)?;
    let mut limits = FragmentLimits::default();
    let mut refused = Vec::new();
    for (key, value, range) in [
        ("ttl_ms", &mut limits.ttl_ms, FragmentLimits::TTL_MS),
        ("entries", &mut limits.entries, FragmentLimits::ENTRIES),
        ("held_packets", &mut limits.held_packets, FragmentLimits::HELD_PACKETS),
        ("held_bytes", &mut limits.held_bytes, FragmentLimits::HELD_BYTES),
    ] {
        if let Some(item) = table.take(key) {
            *value = item.integer(reader, range.clone()).unwrap_or_else(|| {
                // The error is recorded only once: the share is compared with the largest allowed value.
                refused.push(key);
                *range.end()
            });
        }
    }
    for (key, share, whole, whole_key, min) in [
        (
            "entries_per_source",
            &mut limits.entries_per_source,
            limits.entries,
            "entries",
            FragmentLimits::ENTRIES_PER_SOURCE_MIN,
        ),
        (
            "held_bytes_per_source",
            &mut limits.held_bytes_per_source,
            limits.held_bytes,
            "held_bytes",
            FragmentLimits::HELD_BYTES_PER_SOURCE_MIN,
        ),
    ] {
        *share = (*share).min(whole);
        let Some(item) = table.take(key) else { continue };
        match item.as_i128().and_then(|value| u32::try_from(value).ok()) {
            Some(value) if (min..=whole).contains(&value) => *share = value,
            _ if refused.contains(&whole_key) => {
                item.diagnose(reader, format_args!("a number from {min} to {whole_key}, at most {whole}"));
            }
            _ => {
                item.diagnose(reader, format_args!("a number from {min} to {whole}, which is {whole_key}"));
            }
        }
    }
    table.finish(reader, &keys::FRAGMENTS.names());
    Some(limits)
}
