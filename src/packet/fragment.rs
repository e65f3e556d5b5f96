//! Fragments (RFC 791, section 3.2; RFC 8200, section 4.5): which packet each belongs to, and which part of
//! it each holds.
//!
//! A fragment holds bytes `start..end` of the packet's fragmentable part. In IPv4 that is everything after
//! the header. In IPv6 it is everything after the fragment header, which follows at most
//! [`EXTENSIONS_MAX`](super::EXTENSIONS_MAX) other headers.

use super::{Addresses, Malformed, Packet, ip, l4};

/// What the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source and destination.
    pub addresses: Addresses,
    /// The protocol of an IPv4 packet. 0 for IPv6, where the fragments of one packet may name different
    /// protocols.
    pub protocol: u8,
    /// The identification; 16 bits in IPv4.
    pub id: u32,
}

/// The facts about a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// The packet that it belongs to.
    pub key: FragmentKey,
    /// The offset of its first byte in the fragmentable part; a multiple of 8.
    pub start: u16,
    /// The offset after its last byte; more than `start`.
    pub end: u16,
    /// Whether other fragments follow. Then `end` is a multiple of 8, too.
    pub more: bool,
    /// The fragment with its headers and without padding; `None` if it was cut to the queue's copy range.
    pub bytes: Option<&'a [u8]>,
    /// The facts of the packet, if this is its first fragment. A first fragment must have the whole transport
    /// header without its options (RFC 1858, RFC 7112), so that no other fragment has a part of it.
    pub first: Option<Result<Packet, Malformed>>,
    /// Whether the fragment would overwrite a TCP header's flags if a first fragment with only the ports came
    /// (RFC 1858, 2.2).
    pub over_tcp_flags: bool,
}

impl<'a> Fragment<'a> {
    /// Reads a fragment that starts at its IP header. Returns `None` for a whole packet, including one in a
    /// single ("atomic") IPv6 fragment (RFC 6946).
    ///
    /// # Errors
    /// The first fault of the fragment that is found. Faults of the packet are in `first`.
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

/// Reads the facts of a packet from its first fragment. For ICMP, parsing requires its 8 bytes of header
/// anyway.
fn first(bytes: &[u8]) -> Result<Packet, Malformed> {
    let header = ip::parse(bytes)?;
    if header.payload.len() < l4::header_bytes(header.protocol) {
        return Err(Malformed::L4Header);
    }
    Packet::from_ip_header(&header)
}
