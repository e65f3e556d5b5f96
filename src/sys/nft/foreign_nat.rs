//! Rules of other programs' nat chains, as far as they are simple to read: which fields they compare with
//! which values, and what they do.
//!
//! A rule is a list of expressions: one loads a field into a register, another masks it, a third compares it.
//! Every expression that is not known here counts as the condition [`What::Unknown`].

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

use super::messages::{
    NFT_GOTO, NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_IMMEDIATE_DATA,
    NFTA_RULE_EXPRESSIONS, NFTA_VERDICT_CODE,
};
use crate::{
    host::{Condition, Device, Effect, NatRule, What},
    sys::netlink::{NFPROTO_IPV4, attribute, attributes, number, text},
};

// From `linux/netfilter/nf_tables.h`.
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_TARGET_NAME: u16 = 1;
const NETWORK_HEADER: u32 = libc::NFT_PAYLOAD_NETWORK_HEADER.cast_unsigned();
const TRANSPORT_HEADER: u32 = libc::NFT_PAYLOAD_TRANSPORT_HEADER.cast_unsigned();
const META_IIFNAME: u32 = libc::NFT_META_IIFNAME.cast_unsigned();
const META_OIFNAME: u32 = libc::NFT_META_OIFNAME.cast_unsigned();
const META_NFPROTO: u32 = libc::NFT_META_NFPROTO.cast_unsigned();
const META_L4PROTO: u32 = libc::NFT_META_L4PROTO.cast_unsigned();
const CMP_EQ: u32 = libc::NFT_CMP_EQ.cast_unsigned();
const CMP_NEQ: u32 = libc::NFT_CMP_NEQ.cast_unsigned();
const NAT_SNAT: u32 = libc::NFT_NAT_SNAT.cast_unsigned();
const REGISTER_VERDICT: u32 = libc::NFT_REG_VERDICT.cast_unsigned();
/// The verdict continues with the next rule, at once or after another chain.
const GOING_ON: [u32; 2] = [libc::NFT_CONTINUE.cast_unsigned(), libc::NFT_JUMP.cast_unsigned()];
/// Targets of iptables that translate addresses.
const TARGETS: [&str; 5] = ["MASQUERADE", "SNAT", "DNAT", "REDIRECT", "NETMAP"];

/// A field in a register.
#[derive(Clone, Copy)]
enum Field {
    Family,
    Protocol,
    To4,
    To6,
    From,
    ToPort,
    ComesBy,
    LeavesBy,
}

/// Reads a rule from its attributes.
pub(super) fn read(rule: &[u8]) -> NatRule {
    let mut reading = Reading::default();
    let expressions = attribute(rule, NFTA_RULE_EXPRESSIONS).unwrap_or_default();
    for (_, expression) in attributes(expressions) {
        let data = attribute(expression, NFTA_EXPR_DATA).unwrap_or_default();
        reading.take(text(expression, NFTA_EXPR_NAME).unwrap_or_default(), data);
    }
    NatRule { conditions: reading.conditions, effect: reading.effect.unwrap_or(Effect::GoesOn) }
}

#[derive(Default)]
struct Reading {
    /// The field in each register, and the mask that was applied to it.
    fields: HashMap<u32, (Field, Option<Vec<u8>>)>,
    conditions: Vec<Condition>,
    effect: Option<Effect>,
}

impl Reading {
    fn take(&mut self, name: &str, data: &[u8]) {
        match name {
            "payload" => self.load(number(data, NFTA_PAYLOAD_DREG), payload(data)),
            "meta" => self.load(number(data, NFTA_META_DREG), meta(data)),
            "bitwise" => self.mask(data),
            "cmp" => self.compare(data),
            "immediate" if number(data, NFTA_IMMEDIATE_DREG) == Some(REGISTER_VERDICT) => {
                let verdict =
                    attribute(data, NFTA_IMMEDIATE_DATA).and_then(|it| attribute(it, NFTA_DATA_VERDICT));
                let code = verdict.and_then(|verdict| number(verdict, NFTA_VERDICT_CODE)).unwrap_or(NFT_GOTO);
                let effect = if GOING_ON.contains(&code) { Effect::GoesOn } else { Effect::Ends };
                self.effect = Some(effect);
            }
            "masq" => self.translate("masquerade"),
            "redir" => self.translate("redirect"),
            "nat" if number(data, NFTA_NAT_TYPE) == Some(NAT_SNAT) => self.translate("snat"),
            "nat" => self.translate("dnat"),
            "target" => {
                let target = text(data, NFTA_TARGET_NAME).unwrap_or_default();
                if TARGETS.contains(&target) {
                    self.translate(&target.to_lowercase());
                }
            }
            // The values that these have in registers are no conditions.
            "counter" | "log" | "immediate" => {}
            _ => self.conditions.push(Condition { is: true, what: What::Unknown }),
        }
    }

    fn translate(&mut self, by: &str) {
        self.effect = Some(Effect::Translates(by.to_owned()));
    }

    fn load(&mut self, register: Option<u32>, field: Option<Field>) {
        let Some(register) = register else { return };
        match field {
            Some(field) => _ = self.fields.insert(register, (field, None)),
            None => _ = self.fields.remove(&register),
        }
    }

    fn mask(&mut self, data: &[u8]) {
        let from = number(data, NFTA_BITWISE_SREG).and_then(|register| self.fields.get(&register).cloned());
        let Some(to) = number(data, NFTA_BITWISE_DREG) else { return };
        let mask = attribute(data, NFTA_BITWISE_MASK).and_then(|mask| attribute(mask, NFTA_DATA_VALUE));
        match (from, mask) {
            (Some((field, None)), Some(mask)) => _ = self.fields.insert(to, (field, Some(mask.to_vec()))),
            _ => _ = self.fields.remove(&to),
        }
    }

    fn compare(&mut self, data: &[u8]) {
        let field = number(data, NFTA_CMP_SREG).and_then(|register| self.fields.get(&register));
        let value = attribute(data, NFTA_CMP_DATA).and_then(|data| attribute(data, NFTA_DATA_VALUE));
        let what = field.zip(value).and_then(|((field, mask), value)| what(*field, mask.as_deref(), value));
        let condition = match (number(data, NFTA_CMP_OP), what) {
            (Some(op @ (CMP_EQ | CMP_NEQ)), Some(what)) => Condition { is: op == CMP_EQ, what },
            _ => Condition { is: true, what: What::Unknown },
        };
        self.conditions.push(condition);
    }
}

/// Reads which field is loaded. If the prefix of an address ends at a byte boundary, nft loads only the
/// prefix.
fn payload(data: &[u8]) -> Option<Field> {
    let [base, offset, bytes] =
        [NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_OFFSET, NFTA_PAYLOAD_LEN].map(|kind| number(data, kind));
    // The field is recognized by offset and length, which differ between the families.
    match (base?, offset?, bytes?) {
        (NETWORK_HEADER, 9 | 6, 1) => Some(Field::Protocol),
        (NETWORK_HEADER, 12, 1..=4) | (NETWORK_HEADER, 8, 1..=16) => Some(Field::From),
        (NETWORK_HEADER, 16, 1..=4) => Some(Field::To4),
        (NETWORK_HEADER, 24, 1..=16) => Some(Field::To6),
        (TRANSPORT_HEADER, 2, 2) => Some(Field::ToPort),
        _ => None,
    }
}

fn meta(data: &[u8]) -> Option<Field> {
    Some(match number(data, NFTA_META_KEY)? {
        META_IIFNAME => Field::ComesBy,
        META_OIFNAME => Field::LeavesBy,
        META_NFPROTO => Field::Family,
        META_L4PROTO => Field::Protocol,
        _ => return None,
    })
}

/// Reads a comparison; `None` if it cannot be read.
fn what(field: Field, mask: Option<&[u8]>, value: &[u8]) -> Option<What> {
    match (field, mask) {
        (Field::From, _) => Some(What::From),
        (Field::To4, mask) => Some(What::To(prefix(IpAddr::V4(padded(value)?.into()), value, mask)?)),
        (Field::To6, mask) => Some(What::To(prefix(IpAddr::V6(padded(value)?.into()), value, mask)?)),
        (Field::Family, None) => value.first().map(|family| What::Ipv4(*family == NFPROTO_IPV4)),
        (Field::Protocol, None) => value.first().map(|protocol| What::Protocol(*protocol)),
        (Field::ToPort, None) => Some(What::ToPort(u16::from_be_bytes(*value.first_chunk()?))),
        (Field::ComesBy, None) => device(value).map(What::ComesBy),
        (Field::LeavesBy, None) => device(value).map(What::LeavesBy),
        (_, Some(_)) => None,
    }
}

/// Returns the prefix that the mask gives, or without one the length of the value.
fn prefix(address: IpAddr, value: &[u8], mask: Option<&[u8]>) -> Option<IpNet> {
    let bits = match mask {
        None => value.len() * 8,
        Some(mask) => {
            let whole = mask.iter().take_while(|byte| **byte == u8::MAX).count();
            let bits = whole * 8 + mask.get(whole).map_or(0, |byte| byte.leading_ones() as usize);
            let all: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
            // A mask with gaps is no prefix.
            (all as usize == bits).then_some(bits)?
        }
    };
    IpNet::new(address, u8::try_from(bits).ok()?).ok()
}

fn padded<const BYTES: usize>(value: &[u8]) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    bytes.get_mut(..value.len())?.copy_from_slice(value);
    Some(bytes)
}

/// Reads a device name. The value of a complete name includes its NUL; that of a beginning of a name does
/// not.
fn device(value: &[u8]) -> Option<Device> {
    let end = value.iter().position(|byte| *byte == 0);
    let name = std::str::from_utf8(&value[..end.unwrap_or(value.len())]).ok()?;
    Some(Device { name: name.to_owned(), begins: end.is_none() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_with_gaps_is_no_prefix() {
        let address = IpAddr::from([10, 1, 2, 0]);
        let of = |mask: [u8; 4]| prefix(address, &[], Some(&mask)).map(|net| net.prefix_len());
        for (mask, bits) in [
            ([0, 0, 0, 0], Some(0)),
            ([255, 240, 0, 0], Some(12)),
            ([255, 255, 255, 255], Some(32)),
            ([240, 240, 0, 0], None),
            ([255, 0, 255, 0], None),
            ([255, 253, 0, 0], None),
        ] {
            assert_eq!(of(mask), bits, "{mask:?}");
        }
    }
}
