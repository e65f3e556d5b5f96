//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers, down to the transport header.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Addresses, EXTENSIONS_MAX, Malformed, bytes_at};

/// An IP header that was read, and what follows it.
pub(super) struct IpHeader<'a> {
    pub addresses: Addresses,
    /// The protocol after all extension headers.
    pub protocol: u8,
    /// Whether it is a fragment whose offset is not 0.
    pub later_fragment: bool,
    /// The bytes from the transport header on, without those that the length field excludes (padding).
    pub payload: &'a [u8],
}

pub(super) fn parse(bytes: &[u8]) -> Result<IpHeader<'_>, Malformed> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => {
            let V4 { addresses, protocol, offset, payload, .. } = V4::read(bytes)?;
            Ok(IpHeader { addresses, protocol, later_fragment: offset != 0, payload })
        }
        Some(6) => {
            let V6 { addresses, next, payload, .. } = V6::read(bytes)?;
            let Found { protocol, later_fragment, rest } = walk_extensions(next, payload, |_| false)?;
            Ok(IpHeader { addresses, protocol, later_fragment, payload: rest })
        }
        _ => Err(Malformed::Version),
    }
}

/// The header fields of a fragment.
pub(super) struct FragmentHeader {
    pub addresses: Addresses,
    /// The protocol of the fragmentable part, as this fragment names it.
    pub protocol: u8,
    pub id: u32,
    /// Where its bytes begin in the fragmentable part.
    pub start: usize,
    /// The number of these bytes, by the length field.
    pub len: usize,
    pub more: bool,
    /// The part of the headers that counts in the length field of the whole packet.
    pub headers_len: usize,
    /// The length of the fragment with all its headers, by the length field.
    pub packet_len: usize,
}

/// Reads a packet as far as needed to recognize a fragment. Returns `None` for a whole packet, including one
/// with an atomic fragment header (RFC 6946).
pub(super) fn fragment(bytes: &[u8]) -> Result<Option<FragmentHeader>, Malformed> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => {
            let header = V4::read(bytes)?;
            Ok((header.offset != 0 || header.more).then(|| FragmentHeader {
                addresses: header.addresses,
                protocol: header.protocol,
                id: header.id.into(),
                start: header.offset,
                len: header.total_len.saturating_sub(header.len),
                more: header.more,
                headers_len: header.len,
                packet_len: header.total_len,
            }))
        }
        Some(6) => {
            let header = V6::read(bytes)?;
            let found = walk_extensions(header.next, header.payload, |protocol| protocol == FRAGMENT)?;
            if found.protocol != FRAGMENT {
                return Ok(None);
            }
            let fields = FragmentFields::read(found.rest)?;
            let headers_len = header.payload.len() - found.rest.len();
            Ok((fields.offset != 0 || fields.more).then(|| FragmentHeader {
                addresses: header.addresses,
                protocol: fields.next,
                id: fields.id,
                start: fields.offset,
                len: header.payload_len.saturating_sub(headers_len + FragmentFields::BYTES),
                more: fields.more,
                headers_len,
                packet_len: V6_BYTES + header.payload_len,
            }))
        }
        _ => Err(Malformed::Version),
    }
}

/// An IPv4 header. The fields are as in the packet, except that lengths and the offset are in bytes.
struct V4<'a> {
    addresses: Addresses,
    protocol: u8,
    len: usize,
    total_len: usize,
    id: u16,
    offset: usize,
    more: bool,
    payload: &'a [u8],
}

impl<'a> V4<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let fixed: [u8; 20] = bytes_at(bytes, 0).ok_or(Malformed::IpHeader)?;
        let len = usize::from(fixed[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        // A total length of 0 means more than 65535 bytes (IPv4 BIG TCP, linux/ip.h: iph_totlen).
        if len < fixed.len() || (total_len != 0 && total_len < len) {
            return Err(Malformed::IpLength);
        }
        let end = if total_len == 0 { bytes.len() } else { bytes.len().min(total_len) };
        let payload = bytes.get(len..end).ok_or(Malformed::IpHeader)?;
        let field = u16::from_be_bytes([fixed[6], fixed[7]]);
        let [.., s0, s1, s2, s3, d0, d1, d2, d3] = fixed;
        Ok(Self {
            addresses: Addresses::V4 {
                src: Ipv4Addr::new(s0, s1, s2, s3),
                dst: Ipv4Addr::new(d0, d1, d2, d3),
            },
            protocol: fixed[9],
            len,
            total_len,
            id: u16::from_be_bytes([fixed[4], fixed[5]]),
            offset: usize::from(field & 0x1fff) * 8,
            more: field & 0x2000 != 0,
            payload,
        })
    }
}

const V6_BYTES: usize = 40;

/// The fixed IPv6 header.
struct V6<'a> {
    addresses: Addresses,
    next: u8,
    payload_len: usize,
    payload: &'a [u8],
}

impl<'a> V6<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let fixed: [u8; V6_BYTES] = bytes_at(bytes, 0).ok_or(Malformed::IpHeader)?;
        let src: [u8; 16] = bytes_at(&fixed, 8).ok_or(Malformed::IpHeader)?;
        let dst: [u8; 16] = bytes_at(&fixed, 24).ok_or(Malformed::IpHeader)?;
        let payload_len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        // A length of 0 means a jumbogram (RFC 2675): all bytes that are there count.
        let end = if payload_len == 0 { bytes.len() } else { bytes.len().min(fixed.len() + payload_len) };
        let payload = bytes.get(fixed.len()..end).ok_or(Malformed::IpHeader)?;
        let addresses = Addresses::V6 { src: Ipv6Addr::from(src), dst: Ipv6Addr::from(dst) };
        Ok(Self { addresses, next: fixed[6], payload_len, payload })
    }
}

/// The IPv6 fragment header, with its offset in bytes.
struct FragmentFields {
    next: u8,
    offset: usize,
    more: bool,
    id: u32,
}

impl FragmentFields {
    const BYTES: usize = 8;

    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let [next, _, high, low, id @ ..]: [u8; Self::BYTES] =
            bytes_at(bytes, 0).ok_or(Malformed::Extension)?;
        let field = u16::from_be_bytes([high, low]);
        Ok(Self { next, offset: usize::from(field & !7), more: field & 1 != 0, id: u32::from_be_bytes(id) })
    }
}

/// Where the walk over extension headers ended.
struct Found<'a> {
    /// The header that `rest` begins with.
    protocol: u8,
    /// Whether a fragment header with an offset was found, so that `rest` is empty.
    later_fragment: bool,
    rest: &'a [u8],
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// Walks over at most [`EXTENSIONS_MAX`] headers, up to the one that is `wanted` or the first that is no
/// extension header. It ends at a fragment header with an offset, since nothing after that can be read.
fn walk_extensions(first: u8, payload: &[u8], wanted: impl Fn(u8) -> bool) -> Result<Found<'_>, Malformed> {
    let (mut protocol, mut rest) = (first, payload);
    for _ in 0..=EXTENSIONS_MAX {
        if wanted(protocol) {
            return Ok(Found { protocol, later_fragment: false, rest });
        }
        let header_len = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HIP | SHIM6 => {
                let [_, len] = bytes_at(rest, 0).ok_or(Malformed::Extension)?;
                (usize::from(len) + 1) * 8
            }
            // RFC 4302, 2.2: the length is in units of 4 bytes, minus 2.
            AUTHENTICATION => {
                let [_, len] = bytes_at(rest, 0).ok_or(Malformed::Extension)?;
                (usize::from(len) + 2) * 4
            }
            FRAGMENT => {
                let fields = FragmentFields::read(rest)?;
                if fields.offset != 0 {
                    return Ok(Found { protocol: fields.next, later_fragment: true, rest: &[] });
                }
                FragmentFields::BYTES
            }
            _ => return Ok(Found { protocol, later_fragment: false, rest }),
        };
        protocol = *rest.first().ok_or(Malformed::Extension)?;
        rest = rest.get(header_len..).ok_or(Malformed::Extension)?;
    }
    Err(Malformed::TooManyExtensions)
}
