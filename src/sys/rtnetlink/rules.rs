//! Policy rules.
//!
//! The kernel does not compare the target of a jump when it looks for a rule to remove, nor when it looks for
//! a duplicate (`fib_rules.c`, `rule_find`, `rule_exists`). So rules are added without `NLM_F_EXCL`. Of two
//! rules that differ only in their target, a removal takes the older one, and
//! [`crate::plan::rule_tree::changes`] relies on this.

use std::{collections::BTreeSet, io, net::IpAddr};

use rtnetlink::{
    Handle,
    packet_core::NLM_F_CREATE,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::RouteProtocol,
        rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
    },
};

use super::{batch::Change, dump};
use crate::plan::{
    routing::{Family, ForeignRule, PROTOCOL, inbound::entrance},
    rule_tree::{self, Action, DeviceName, PRIORITY_AROUND, PRIORITY_FIRST, PRIORITY_GUARD, Rule},
};

/// The kernel's table `local`.
const TABLE_LOCAL: u32 = 255;

/// Returns our rules, and other programs' rules before the tree.
pub(super) async fn current(
    handle: &mut Handle,
) -> io::Result<(BTreeSet<(Family, Rule)>, BTreeSet<ForeignRule>)> {
    let (mut ours, mut foreign) = (BTreeSet::new(), BTreeSet::new());
    for family in Family::ALL {
        let mut request = RuleMessage::default();
        request.header.family = address_family(family);
        dump(handle, RouteNetlinkMessage::GetRule(request), |message| {
            if let RouteNetlinkMessage::NewRule(message) = message {
                let Seen { rule, is_ours, is_inverted } = seen(&message);
                let Rule { priority, from: _, iif, mark, mask, action } = rule;
                let of_local = priority == 0 && action == Action::Lookup(TABLE_LOCAL);
                if is_ours {
                    ours.insert((family, rule));
                } else if priority < PRIORITY_AROUND && !of_local {
                    // An inverted rule excludes little, so it is treated as a rule without conditions.
                    let (iif, mark) = if is_inverted { (None, (0, 0)) } else { (iif, (mark, mask)) };
                    foreign.insert(ForeignRule { family, priority, iif, mark });
                }
            }
        })
        .await?;
    }
    Ok((ours, foreign))
}

pub(super) fn addition(family: Family, rule: &Rule) -> Change {
    (RouteNetlinkMessage::NewRule(message(family, rule)), NLM_F_CREATE)
}

pub(super) fn removal(family: Family, rule: &Rule) -> Change {
    (RouteNetlinkMessage::DelRule(message(family, rule)), 0)
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn message(family: Family, rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = address_family(family);
    message.header.src_len = rule.from.map_or(0, bits);
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)));
    attributes.extend(rule.from.map(RuleAttribute::Source));
    attributes.extend(rule.iif.map(|device| RuleAttribute::Iifname(device.as_str().to_owned())));
    if rule.mask != 0 {
        attributes.push(RuleAttribute::FwMark(rule.mark));
        attributes.push(RuleAttribute::FwMask(rule.mask));
    }
    message.header.action = match rule.action {
        Action::Goto(priority) => {
            attributes.push(RuleAttribute::Goto(priority));
            RuleAction::Goto
        }
        Action::Lookup(table) => {
            attributes.push(RuleAttribute::Table(table));
            RuleAction::ToTable
        }
        Action::Nop => RuleAction::Nop,
        Action::Blackhole => RuleAction::Blackhole,
    };
    message
}

/// The length of a prefix that is this one address.
fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

struct Seen {
    rule: Rule,
    is_ours: bool,
    is_inverted: bool,
}

fn seen(message: &RuleMessage) -> Seen {
    let (mut priority, mut mark, mut mask, mut goto, mut table) =
        (0, 0, 0, 0, u32::from(message.header.table));
    let (mut protocol, mut iif, mut from) = (0, None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::FwMark(value) => mark = *value,
            RuleAttribute::FwMask(value) => mask = *value,
            RuleAttribute::Goto(value) => goto = *value,
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::Protocol(value) => protocol = u8::from(*value),
            RuleAttribute::Source(address) => from = Some(*address),
            RuleAttribute::Iifname(name) => iif = DeviceName::new(name),
            _ => {}
        }
    }
    let action = match message.header.action {
        RuleAction::Goto => Action::Goto(goto),
        RuleAction::ToTable => Action::Lookup(table),
        RuleAction::Blackhole => Action::Blackhole,
        _ => Action::Nop,
    };
    let rule = Rule { priority, from, iif, mark, mask, action };
    let by_entrance = iif.is_none_or(|device| entrance(device.as_str()).is_some());
    let of_tree = if from.is_some() {
        priority == PRIORITY_GUARD
    } else {
        (PRIORITY_FIRST..=PRIORITY_GUARD).contains(&priority) && by_entrance
    };
    let is_inverted = message.header.flags.contains(RuleFlags::Invert);
    // Ours are from one address or from all.
    let from_whole = from.map_or(0, bits) == message.header.src_len;
    let is_ours =
        protocol == PROTOCOL && !is_inverted && from_whole && (of_tree || rule_tree::is_entry(&rule));
    Seen { rule, is_ours, is_inverted }
}
