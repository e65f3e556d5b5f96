//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo requests, and errors with the packet that they quote.
//!
//! A router on the way to the client may return an error about a packet that a backend sent from the virtual
//! address. The error must reach that backend, which is the one that the flow's own packets reach. So an
//! error is read as a packet of that flow: the quoted header with source and destination exchanged.

use super::{Addresses, L4, Malformed, Packet, Ports, bytes_at, ip, l4};

/// Protocol number of ICMP (IANA).
pub(crate) const ICMP: u8 = 1;
/// Protocol number of ICMPv6 (IANA).
pub(crate) const ICMPV6: u8 = 58;
/// The length of the header of both protocols: type, code, checksum, and four bytes that depend on the type.
const HEADER_BYTES: usize = 8;

/// The kind of an ICMP message.
pub(super) enum Icmp<'a> {
    /// An echo request; the identifier distinguishes the requests of one sender from those of others.
    Echo { id: u16 },
    /// An error about the quoted packet.
    Error { quoted: &'a [u8] },
    /// Any other message, and every other protocol.
    Other,
}

pub(super) fn parse(protocol: u8, payload: &[u8]) -> Result<Icmp<'_>, Malformed> {
    if !matches!(protocol, ICMP | ICMPV6) {
        return Ok(Icmp::Other);
    }
    let [kind, _, _, _, id0, id1, _, _]: [u8; HEADER_BYTES] =
        bytes_at(payload, 0).ok_or(Malformed::L4Header)?;
    Ok(match (protocol, kind) {
        (ICMP, 8) | (ICMPV6, 128) => Icmp::Echo { id: u16::from_be_bytes([id0, id1]) },
        // ICMP: unreachable, time exceeded, parameter problem. ICMPv6: unreachable, too big, time exceeded,
        // parameter problem.
        (ICMP, 3 | 11 | 12) | (ICMPV6, 1..=4) => Icmp::Error { quoted: &payload[HEADER_BYTES..] },
        _ => Icmp::Other,
    })
}

/// Returns the flow that an error with the addresses `error` quotes, as a packet to the VIP. The VIP must
/// have sent the quoted packet: otherwise the flow is not handled here, or the error is forged.
pub(super) fn quoted_flow(error: Addresses, quoted: &[u8]) -> Result<Packet, Malformed> {
    let header = ip::parse(quoted).map_err(|_| Malformed::IcmpQuote)?;
    let addresses = header.addresses.swapped();
    if addresses.destination() != error.destination() {
        return Err(Malformed::IcmpQuote);
    }
    let l4 =
        if header.later_fragment { L4::LaterFragment } else { answered(header.protocol, header.payload)? };
    Ok(Packet { addresses, protocol: header.protocol, l4, quoted: true })
}

/// Reads the transport header of a reply and turns it into that of the request. Only eight bytes of it may be
/// there.
fn answered(protocol: u8, payload: &[u8]) -> Result<L4, Malformed> {
    match (protocol, payload.first()) {
        (ICMP, Some(0)) | (ICMPV6, Some(129)) => {
            let id = bytes_at(payload, 4).ok_or(Malformed::IcmpQuote)?;
            Ok(L4::Echo { id: u16::from_be_bytes(id) })
        }
        _ => {
            let Some(Ports { src, dst }) = l4::ports(protocol, payload).map_err(|_| Malformed::IcmpQuote)?
            else {
                return Ok(L4::Other);
            };
            let ports = Ports { src: dst, dst: src };
            Ok(match protocol {
                l4::TCP => L4::Tcp { ports, syn: false },
                l4::UDP => L4::Udp(ports),
                _ => L4::Sctp(ports),
            })
        }
    }
}
