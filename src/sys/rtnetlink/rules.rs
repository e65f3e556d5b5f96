//! Policy rules.
//!
//! The kernel compares neither the jump's aim when it looks for a rule to remove nor when it looks for a duplicate
//! (`fib_rules.c`, `rule_find`, `rule_exists`). So rules are added without `NLM_F_EXCL`, and of two that differ in
//! their aim only, a removal takes the older one: just what [`crate::plan::rule_tree::changes`] wants.

use std::{collections::BTreeSet, io};

use rtnetlink::{
    Handle,
    packet_core::NLM_F_CREATE,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::RouteProtocol,
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};

use super::{change, dump};
use crate::plan::{
    routing::{Family, PROTOCOL, inbound::entrance},
    rule_tree::{Action, PRIORITY_FIRST, PRIORITY_GUARD, Rule},
};

pub(super) async fn current(handle: &mut Handle) -> io::Result<BTreeSet<(Family, Rule)>> {
    let mut rules = BTreeSet::new();
    for family in Family::ALL {
        let mut request = RuleMessage::default();
        request.header.family = address_family(family);
        dump(handle, RouteNetlinkMessage::GetRule(request), |message| {
            if let RouteNetlinkMessage::NewRule(message) = message {
                rules.extend(ours(&message).map(|rule| (family, rule)));
            }
        })
        .await?;
    }
    Ok(rules)
}

pub(super) async fn add(handle: &mut Handle, family: Family, rule: &Rule) -> io::Result<()> {
    change(handle, RouteNetlinkMessage::NewRule(message(family, rule)), NLM_F_CREATE).await
}

pub(super) async fn remove(handle: &mut Handle, family: Family, rule: &Rule) -> io::Result<()> {
    change(handle, RouteNetlinkMessage::DelRule(message(family, rule)), 0).await
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
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)));
    attributes.extend(rule.iif.map(|device| RuleAttribute::Iifname(device.to_owned())));
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

fn ours(message: &RuleMessage) -> Option<Rule> {
    let (mut priority, mut mark, mut mask, mut goto, mut table) =
        (0, 0, 0, 0, u32::from(message.header.table));
    let (mut protocol, mut iif) = (0, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::FwMark(value) => mark = *value,
            RuleAttribute::FwMask(value) => mask = *value,
            RuleAttribute::Goto(value) => goto = *value,
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::Protocol(value) => protocol = u8::from(*value),
            RuleAttribute::Iifname(name) => iif = Some(entrance(name)?),
            _ => {}
        }
    }
    if protocol != PROTOCOL || !(PRIORITY_FIRST..=PRIORITY_GUARD).contains(&priority) {
        return None;
    }
    let action = match message.header.action {
        RuleAction::Goto => Action::Goto(goto),
        RuleAction::ToTable => Action::Lookup(table),
        RuleAction::Blackhole => Action::Blackhole,
        _ => Action::Nop,
    };
    Some(Rule { priority, iif, mark, mask, action })
}
