//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers, down to the transport header.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Addresses, EXTENSIONS_MAX, Malformed, bytes_at};

/// An IP header that was read, and what lies behind it.
pub(super) struct IpHeader<'a> {
    pub addresses: Addresses,
    /// Behind all extension headers.
    pub protocol: u8,
    /// A fragment whose offset is not 0.
    pub later_fragment: bool,
    /// From the transport header on, without what the length field excludes (padding).
    pub payload: &'a [u8],
}

pub(super) fn parse(bytes: &[u8]) -> Result<IpHeader<'_>, Malformed> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => parse_v4(bytes),
        Some(6) => parse_v6(bytes),
        _ => Err(Malformed::Version),
    }
}

fn parse_v4(bytes: &[u8]) -> Result<IpHeader<'_>, Malformed> {
    let fixed: [u8; 20] = bytes_at(bytes, 0).ok_or(Malformed::IpHeader)?;
    let header_len = usize::from(fixed[0] & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    // A total of 0 stands for more than 65535 bytes (IPv4 BIG TCP, linux/ip.h: iph_totlen).
    if header_len < fixed.len() || (total_len != 0 && total_len < header_len) {
        return Err(Malformed::IpLength);
    }
    let end = if total_len == 0 { bytes.len() } else { bytes.len().min(total_len) };
    let payload = bytes.get(header_len..end).ok_or(Malformed::IpHeader)?;
    let offset = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff;
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = fixed;
    let addresses = Addresses::V4 { src: Ipv4Addr::new(s0, s1, s2, s3), dst: Ipv4Addr::new(d0, d1, d2, d3) };
    Ok(IpHeader { addresses, protocol: fixed[9], later_fragment: offset != 0, payload })
}

fn parse_v6(bytes: &[u8]) -> Result<IpHeader<'_>, Malformed> {
    let fixed: [u8; 40] = bytes_at(bytes, 0).ok_or(Malformed::IpHeader)?;
    let src: [u8; 16] = bytes_at(&fixed, 8).ok_or(Malformed::IpHeader)?;
    let dst: [u8; 16] = bytes_at(&fixed, 24).ok_or(Malformed::IpHeader)?;
    let payload_len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    // A length of 0 stands for a jumbogram (RFC 2675): what is there counts.
    let end = if payload_len == 0 { bytes.len() } else { bytes.len().min(fixed.len() + payload_len) };
    let payload = bytes.get(fixed.len()..end).ok_or(Malformed::IpHeader)?;
    let upper = walk_extensions(fixed[6], payload)?;
    Ok(IpHeader {
        addresses: Addresses::V6 { src: Ipv6Addr::from(src), dst: Ipv6Addr::from(dst) },
        protocol: upper.protocol,
        later_fragment: upper.later_fragment,
        payload: upper.payload,
    })
}

/// What lies behind the extension headers.
struct Upper<'a> {
    protocol: u8,
    later_fragment: bool,
    payload: &'a [u8],
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// Walks at most [`EXTENSIONS_MAX`] headers. Behind a fragment header with an offset nothing more can be read.
fn walk_extensions(first: u8, payload: &[u8]) -> Result<Upper<'_>, Malformed> {
    let (mut protocol, mut rest) = (first, payload);
    for _ in 0..=EXTENSIONS_MAX {
        let header_len = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HIP | SHIM6 => {
                let [_, len] = bytes_at(rest, 0).ok_or(Malformed::Extension)?;
                (usize::from(len) + 1) * 8
            }
            // RFC 4302, 2.2: in units of 4 bytes, minus 2.
            AUTHENTICATION => {
                let [_, len] = bytes_at(rest, 0).ok_or(Malformed::Extension)?;
                (usize::from(len) + 2) * 4
            }
            FRAGMENT => {
                let [next, _, high, low, ..]: [u8; 8] = bytes_at(rest, 0).ok_or(Malformed::Extension)?;
                if u16::from_be_bytes([high, low]) >> 3 != 0 {
                    return Ok(Upper { protocol: next, later_fragment: true, payload: &[] });
                }
                8
            }
            _ => return Ok(Upper { protocol, later_fragment: false, payload: rest }),
        };
        protocol = *rest.first().ok_or(Malformed::Extension)?;
        rest = rest.get(header_len..).ok_or(Malformed::Extension)?;
    }
    Err(Malformed::TooManyExtensions)
}
