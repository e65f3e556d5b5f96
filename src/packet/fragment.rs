//! Fragments (RFC 791, section 3.2; RFC 8200, section 4.5): of which packet, and which part of it.
//!
//! A fragment holds bytes `start..end` of the packet's fragmentable part. In IPv4 that is all behind the header, in IPv6 all
//! behind the fragment header, and that is found behind at most [`EXTENSIONS_MAX`](super::EXTENSIONS_MAX) others.

use super::{Addresses, Malformed, Packet, ip, l4};

/// What the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source and destination.
    pub addresses: Addresses,
    /// The protocol of an IPv4 packet. 0 for IPv6: there the fragments of one packet may name different ones.
    pub protocol: u8,
    /// The identification; 16 bits in IPv4.
    pub id: u32,
}

/// The facts about a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Of which packet.
    pub key: FragmentKey,
    /// Its first byte's place in the fragmentable part; a multiple of 8.
    pub start: u16,
    /// The place behind its last byte; more than `start`.
    pub end: u16,
    /// Whether others follow it: then `end` is a multiple of 8, too.
    pub more: bool,
    /// The fragment with its headers and without padding; `None` when it was cut to the queue's copy range.
    pub bytes: Option<&'a [u8]>,
    /// The facts of the packet, where this is its first fragment. That must have the whole transport header without its
    /// options (RFC 1858, RFC 7112), so that no other fragment has a part of it.
    pub first: Option<Result<Packet, Malformed>>,
    /// Whether it would lie over a TCP header's flags, if a first one with just the ports came (RFC 1858, 2.2).
    pub over_tcp_flags: bool,
}

impl<'a> Fragment<'a> {
    /// Reads a fragment that starts at its IP header; `None` for a packet that is whole, which one in a single ("atomic")
    /// IPv6 fragment (RFC 6946) is too.
    ///
    /// # Errors
    /// The first thing that is wrong with it as a fragment. What is wrong with the packet stands in `first`.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let Some(header) = ip::fragment(bytes)? else { return Ok(None) };
        let (start, end) = (header.start, header.start + header.len);
        let whole_fits = u16::try_from(header.headers_len + end).is_ok();
        if header.len == 0 || !whole_fits || (header.more && !header.len.is_multiple_of(8)) {
            return Err(Malformed::FragmentLength);
        }
        let place = |at: usize| u16::try_from(at).map_err(|_| Malformed::FragmentLength);
        let protocol = match header.addresses {
            Addresses::V4 { .. } => header.protocol,
            Addresses::V6 { .. } => 0,
        };
        Ok(Some(Self {
            key: FragmentKey { addresses: header.addresses, protocol, id: header.id },
            start: place(start)?,
            end: place(end)?,
            more: header.more,
            bytes: bytes.get(..header.packet_len),
            first: (start == 0).then(|| first(bytes)),
            over_tcp_flags: start == 8 && header.protocol == l4::TCP,
        }))
    }
}

/// The facts of a packet by its first fragment. ICMP is not looked at without its 8 bytes anyway.
fn first(bytes: &[u8]) -> Result<Packet, Malformed> {
    let header = ip::parse(bytes)?;
    if header.payload.len() < l4::header_bytes(header.protocol) {
        return Err(Malformed::L4Header);
    }
    Packet::from_ip_header(&header)
}
