//! The fields of a packet that are hashed, laid out like an nft concatenation: one word (4 bytes) per field,
//! or four for an IPv6 address, in network order; shorter fields are followed by zeros.
//!
//! | hash        | nft expression                                                   | words v4 / v6 |
//! |-------------|------------------------------------------------------------------|---------------|
//! | `5-tuple`   | `ip saddr . ip daddr . th sport . th dport . meta l4proto`       | 5 / 11        |
//! | `source`    | `ip saddr`                                                       | 1 / 4         |
//! | `addresses` | `ip saddr . ip daddr`                                            | 2 / 8         |

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Addresses, Packet, jhash::jhash};
use crate::model::HashMode;

/// Returns the flow hash of a packet. A packet without ports is hashed as if both were 0.
#[must_use]
pub fn flow_hash(packet: &Packet, mode: HashMode, seed: u32) -> u32 {
    match packet.addresses {
        Addresses::V4 { src, dst } => {
            let (src, dst) = (word4(src), word4(dst));
            match mode {
                HashMode::FiveTuple => {
                    let [sport, dport, protocol] = tail(packet);
                    jhash(&[src, dst, sport, dport, protocol], seed)
                }
                HashMode::Source => jhash(&[src], seed),
                HashMode::Addresses => jhash(&[src, dst], seed),
            }
        }
        Addresses::V6 { src, dst } => {
            let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (words6(src), words6(dst));
            match mode {
                HashMode::FiveTuple => {
                    let [sport, dport, protocol] = tail(packet);
                    jhash(&[s0, s1, s2, s3, d0, d1, d2, d3, sport, dport, protocol], seed)
                }
                HashMode::Source => jhash(&[s0, s1, s2, s3], seed),
                HashMode::Addresses => jhash(&[s0, s1, s2, s3, d0, d1, d2, d3], seed),
            }
        }
    }
}

/// Returns the hash that selects the balancer of the tier that owns a fragment. It covers both addresses, and
/// in IPv4 the protocol.
#[must_use]
pub fn tier_hash(addresses: Addresses, protocol: u8, seed: u32) -> u32 {
    match addresses {
        Addresses::V4 { src, dst } => {
            jhash(&[word4(src), word4(dst), u32::from_ne_bytes([protocol, 0, 0, 0])], seed)
        }
        Addresses::V6 { src, dst } => {
            let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (words6(src), words6(dst));
            jhash(&[s0, s1, s2, s3, d0, d1, d2, d3], seed)
        }
    }
}

/// Returns source port, destination port and protocol, each padded to a word.
fn tail(packet: &Packet) -> [u32; 3] {
    let (src, dst) = packet.l4.ports().map_or((0, 0), |ports| (ports.src, ports.dst));
    let pad = |[high, low]: [u8; 2]| u32::from_ne_bytes([high, low, 0, 0]);
    [pad(src.to_be_bytes()), pad(dst.to_be_bytes()), u32::from_ne_bytes([packet.protocol, 0, 0, 0])]
}

fn word4(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

fn words6(address: Ipv6Addr) -> [u32; 4] {
    let o = address.octets();
    let word = |at: usize| u32::from_ne_bytes([o[at], o[at + 1], o[at + 2], o[at + 3]]);
    [word(0), word(4), word(8), word(12)]
}
