//! `[balancer]` and `[timeouts]`.

use ipnet::IpNet;

use super::{Item, NAME, Reader, Table, health, prefix, read_addresses};
use crate::{
    config::{
        ANNOUNCE_TABLES, BLACKHOLE_MAX, BUSY_POLL_US, Balancer, HASH_SEED_DEFAULT, KERNEL_ENTRIES,
        KERNEL_ENTRIES_DEFAULT, PMTU_FLOOR, PMTU_FLOOR_DEFAULT, RULE_PRIORITY, Timeouts, keys,
    },
    model::{
        InterfaceName, Name, QueueRange, Steering,
        ids::{MarkMask, QUEUES_MAX, QueueNum},
    },
};

const BLACKHOLE: &str = "unicast addresses or prefixes, such as \"10.0.0.0/24\" or \"1000::/112\"";
const INTERFACE: &str = "names of network devices, 1 to 15 bytes each";

pub(super) fn read(reader: &mut Reader<'_>, mut table: Table<'_>) -> Option<Balancer> {
    let mut balancer = Balancer::unconfigured();
    let name = table.require(reader, "name", NAME);
    let name = name.and_then(|item| item.string(reader, NAME, Name::new));
    let addresses = table.take("address").map(Item::list).unwrap_or_default();
    let addresses_named = addresses.len();
    balancer.address = read_addresses(reader, addresses, |_, _, _| {});
    if let Some(item) = table.require(reader, "interfaces", INTERFACE) {
        for item in item.non_empty_list(reader, INTERFACE) {
            match item.string(reader, INTERFACE, InterfaceName::new) {
                Some(interface) if balancer.interfaces.contains(&interface) => {
                    item.diagnose(reader, "each once");
                }
                interface => balancer.interfaces.extend(interface),
            }
        }
    }
    if let Some(item) = table.take("queues") {
        balancer.queues = read_queues(reader, &item).unwrap_or(balancer.queues);
    }
    if let Some(item) = table.take("fragment_queue") {
        let number = item.integer(reader, 0..=u16::MAX);
        balancer.fragment_queue = number.map_or(balancer.fragment_queue, QueueNum);
        if number.is_some() && balancer.queues.contains(balancer.fragment_queue) {
            item.diagnose(reader, format_args!("a number outside of queues, {}", balancer.queues));
        }
    } else if balancer.queues.contains(balancer.fragment_queue) {
        let key = table.key("fragment_queue");
        let allowed = format!("a number outside of queues, {}", balancer.queues);
        reader.diagnose(
            &table.at,
            &key,
            format_args!("nothing, which means {}", balancer.fragment_queue.0),
            allowed,
        );
    }
    if let Some(item) = table.take("hash_seed") {
        balancer.hash_seed = item.integer(reader, 0..=u32::MAX).unwrap_or(HASH_SEED_DEFAULT);
    }
    if let Some(item) = table.take("mark_mask")
        && let Some(bits) = item.integer(reader, 0..=u32::MAX)
    {
        match MarkMask::new(bits) {
            Ok(mask) => balancer.mark_mask = mask,
            Err(error) => reader.diagnose(
                &item.at,
                &item.key,
                format_args!("{bits:#010x}"),
                format_args!("a mask of which {error}"),
            ),
        }
    }
    if let Some(item) = table.take("steering") {
        let steering = item.string(reader, "\"syn-only\" or \"every-packet\"", Steering::named);
        balancer.steering = steering.unwrap_or(balancer.steering);
    }
    if let Some(item) = table.take("gre_in") {
        balancer.gre_in = item.bool(reader).unwrap_or(false);
        if balancer.gre_in && addresses_named == 0 {
            item.diagnose(reader, "false, or an address in [balancer] address: it is the tunnel's end");
        }
    }
    if let Some(item) = table.take("rule_priority") {
        balancer.rule_priority = item.integer(reader, RULE_PRIORITY);
    }
    if let Some(item) = table.take("blackhole") {
        balancer.blackhole = read_blackhole(reader, item);
    }
    if let Some(item) = table.take("allow_own_addresses") {
        balancer.allow_own_addresses = item.bool(reader).unwrap_or(false);
    }
    if let Some(item) = table.take("kernel_entries") {
        balancer.kernel_entries = item.integer(reader, KERNEL_ENTRIES).unwrap_or(KERNEL_ENTRIES_DEFAULT);
    }
    if let Some(item) = table.take("pmtu_floor") {
        balancer.pmtu_floor = item.integer(reader, PMTU_FLOOR).unwrap_or(PMTU_FLOOR_DEFAULT);
    }
    if let Some(item) = table.take("busy_poll_us") {
        balancer.busy_poll_us = item.integer(reader, BUSY_POLL_US).unwrap_or(0);
    }
    if let Some(item) = table.take("notify") {
        balancer.notify = health::read_command(reader, item).unwrap_or_default();
    }
    if let Some(item) = table.take("offload") {
        balancer.offload = item.bool(reader).unwrap_or(true);
    }
    if let Some(item) = table.take("announce_table") {
        balancer.announce_table = item.integer(reader, ANNOUNCE_TABLES);
    }
    table.finish(reader, &keys::BALANCER.names());
    balancer.name = name?;
    Some(balancer)
}

fn read_blackhole(reader: &mut Reader<'_>, item: Item<'_>) -> Vec<IpNet> {
    let items = item.list();
    if let Some(item) = items.get(BLACKHOLE_MAX) {
        item.diagnose(reader, format_args!("at most {BLACKHOLE_MAX} prefixes"));
        return Vec::new();
    }
    let mut prefixes = Vec::new();
    for item in items {
        match item.string(reader, BLACKHOLE, prefix) {
            Some(prefix) if prefix.trunc() != prefix => {
                item.diagnose(reader, format_args!("a prefix without host bits, such as {}", prefix.trunc()));
            }
            Some(prefix) if prefixes.contains(&prefix) => item.diagnose(reader, "each once"),
            prefix => prefixes.extend(prefix),
        }
    }
    prefixes
}

fn read_queues(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<QueueRange> {
    let text = item.as_i128().map(|number| number.to_string());
    let queues: Option<QueueRange> =
        text.as_deref().or(item.value.as_str()).and_then(|text| text.parse().ok());
    if queues.is_none() {
        item.diagnose(
            reader,
            format_args!("a number from 0 to 65535 or a range of at most {QUEUES_MAX}, such as \"0-1\""),
        );
    }
    queues
}

pub(super) fn read_timeouts(reader: &mut Reader<'_>, item: Item<'_>) -> Option<Timeouts> {
    let mut table = item.table(reader)?;
    let mut timeouts = Timeouts::default();
    for (key, value) in [
        ("tcp_established_seconds", &mut timeouts.tcp_established_seconds),
        ("tcp_closing_seconds", &mut timeouts.tcp_closing_seconds),
        ("udp_seconds", &mut timeouts.udp_seconds),
    ] {
        if let Some(item) = table.take(key) {
            *value = item.integer(reader, Timeouts::SECONDS).unwrap_or(*value);
        }
    }
    table.finish(reader, &keys::TIMEOUTS.names());
    Some(timeouts)
}
