//! IP packets made by hand: a message, its headers and checksums (RFC 768, 791, 792, 4443, 8200), and any piece of it
//! as a fragment. PURE.
//!
//! ```text
//! IPv4:  | IPv4, id, offset | piece of: UDP or ICMP header, message
//! IPv6:  | IPv6 | Hop-by-Hop or Destination Options | Fragment, id, offset | piece of: Destination Options, UDP .., message
//!                 '- with extension headers only -'                                '- likewise -----'
//! ```
//! A piece that is all of it makes an ordinary packet, without a fragment header.

use std::net::{IpAddr, SocketAddr};

/// The header of UDP, and of an echo request.
pub(crate) const TRANSPORT_HEADER_BYTES: usize = 8;
/// The options header, before the fragment header and behind it.
pub(crate) const OPTIONS_BYTES: usize = 8;

const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
const HOPS: u8 = 64;

/// What carries the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    Udp,
    /// Echo requests; the source's port is their identifier.
    Echo {
        number: u16,
    },
}

/// IPv6 extension headers: one before the fragment header, which is in every fragment, and options behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extensions {
    None,
    HopByHop,
    Destination,
}

/// Bytes of a packet's fragmentable part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// A multiple of 8.
    pub(crate) offset: usize,
    /// A multiple of 8, unless it is the last piece.
    pub(crate) length: usize,
}

/// A packet before it is cut.
#[derive(Debug, Clone)]
pub(crate) struct Whole {
    source: IpAddr,
    destination: IpAddr,
    /// Of the fragments; IPv4 takes the lower half, which must not be 0: the kernel would put in one of its own.
    id: u32,
    extensions: Extensions,
    /// Of the fragmentable part.
    protocol: u8,
    fragmentable: Vec<u8>,
}

impl Whole {
    pub(crate) fn new(
        from: SocketAddr,
        to: SocketAddr,
        id: u32,
        carrier: Carrier,
        extensions: Extensions,
        message: &[u8],
    ) -> Self {
        let (source, destination) = (from.ip(), to.ip());
        let extensions = if source.is_ipv6() { extensions } else { Extensions::None };
        let transport = match (carrier, source) {
            (Carrier::Udp, _) => UDP,
            (Carrier::Echo { .. }, IpAddr::V4(_)) => ICMP,
            (Carrier::Echo { .. }, IpAddr::V6(_)) => ICMPV6,
        };
        let mut fragmentable = Vec::new();
        let mut protocol = transport;
        if extensions != Extensions::None {
            fragmentable.extend(options(transport));
            protocol = DESTINATION_OPTIONS;
        }
        let start = fragmentable.len();
        let length = length16(TRANSPORT_HEADER_BYTES + message.len());
        let (header, checksum_at) = match carrier {
            Carrier::Udp => ([from.port(), to.port(), length, 0], 6),
            Carrier::Echo { number } => {
                let kind = if source.is_ipv4() { 8 << 8 } else { 128 << 8 };
                ([kind, 0, from.port(), number], 2)
            }
        };
        fragmentable.extend(header.iter().flat_map(|field| field.to_be_bytes()));
        fragmentable.extend_from_slice(message);
        let pseudo = if transport == ICMP { Vec::new() } else { pseudo_header(from, to, transport, length) };
        let sum = match checksum(&[&pseudo, &fragmentable[start..]]) {
            0 if carrier == Carrier::Udp => u16::MAX, // 0 would say that there is none
            sum => sum,
        };
        fragmentable[start + checksum_at..][..2].copy_from_slice(&sum.to_be_bytes());
        Self { source, destination, id, extensions, protocol, fragmentable }
    }

    /// One whose part that can be cut is `bytes`, of this protocol.
    pub(crate) fn carrying(
        source: IpAddr,
        destination: IpAddr,
        id: u32,
        protocol: u8,
        bytes: Vec<u8>,
    ) -> Self {
        Self { source, destination, id, extensions: Extensions::None, protocol, fragmentable: bytes }
    }

    /// The packet with this piece.
    pub(crate) fn packet(&self, piece: Piece) -> Vec<u8> {
        let Piece { offset, length } = piece;
        let more = offset + length < self.fragmentable.len();
        let mut packet = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ipv4(source.octets(), destination.octets(), piece, more)
            }
            (source, destination) => self.ipv6(source, destination, piece, more),
        };
        packet.extend_from_slice(&self.fragmentable[offset..offset + length]);
        packet
    }

    fn ipv4(&self, source: [u8; 4], destination: [u8; 4], piece: Piece, more: bool) -> Vec<u8> {
        let [.., id1, id0] = self.id.to_be_bytes();
        let total = length16(overhead_bytes(true, self.extensions, false) + piece.length).to_be_bytes();
        // In units of 8 bytes, below the flags; 0x2000 is "more fragments".
        let cut = (length16(piece.offset / 8) | if more { 0x2000 } else { 0 }).to_be_bytes();
        let mut header =
            vec![0x45, 0, total[0], total[1], id1, id0, cut[0], cut[1], HOPS, self.protocol, 0, 0];
        header.extend(source);
        header.extend(destination);
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn ipv6(&self, source: IpAddr, destination: IpAddr, piece: Piece, more: bool) -> Vec<u8> {
        let cut = more || piece.offset > 0;
        let behind = if cut { FRAGMENT } else { self.protocol };
        let first = match self.extensions {
            Extensions::None => behind,
            Extensions::HopByHop => HOP_BY_HOP,
            Extensions::Destination => DESTINATION_OPTIONS,
        };
        let length = overhead_bytes(false, self.extensions, cut) - IPV6_BYTES + piece.length;
        let length = length16(length).to_be_bytes();
        let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], first, HOPS];
        packet.extend(octets(source));
        packet.extend(octets(destination));
        if self.extensions != Extensions::None {
            packet.extend(options(behind));
        }
        if cut {
            let offset = (length16(piece.offset) | u16::from(more)).to_be_bytes();
            packet.extend([self.protocol, 0, offset[0], offset[1]]);
            packet.extend(self.id.to_be_bytes());
        }
        packet
    }
}

const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const FRAGMENT_HEADER_BYTES: usize = 8;

/// The bytes of a packet before its piece.
pub(crate) fn overhead_bytes(ipv4: bool, extensions: Extensions, cut: bool) -> usize {
    if ipv4 {
        return IPV4_BYTES;
    }
    let options = if extensions == Extensions::None { 0 } else { OPTIONS_BYTES };
    IPV6_BYTES + options + if cut { FRAGMENT_HEADER_BYTES } else { 0 }
}

/// An options header with nothing in it but PadN.
fn options(next: u8) -> [u8; OPTIONS_BYTES] {
    [next, 0, 1, 4, 0, 0, 0, 0]
}

pub(crate) fn pseudo_header(from: SocketAddr, to: SocketAddr, protocol: u8, length: u16) -> Vec<u8> {
    let mut header = octets(from.ip());
    header.extend(octets(to.ip()));
    header.extend([0, protocol]);
    header.extend(length.to_be_bytes());
    header
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071) of the parts behind each other; all but the last have even lengths.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let pairs = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 =
        pairs.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX) // the loop ends at 16 bits
}

/// No packet is longer: the command line bounds the message.
fn length16(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM4: &str = "50.0.0.1:1000";
    const TO4: &str = "10.0.0.0:5001";

    fn whole(from: &str, to: &str, carrier: Carrier, extensions: Extensions, message: &[u8]) -> Whole {
        Whole::new(from.parse().unwrap(), to.parse().unwrap(), 0x0102_0304, carrier, extensions, message)
    }

    #[test]
    fn an_ipv4_fragment_byte_by_byte() {
        let whole = whole(FROM4, TO4, Carrier::Udp, Extensions::None, b"0123456789abcdef");
        let first = whole.packet(Piece { offset: 0, length: 8 });
        let header = [0x45, 0, 0, 28, 3, 4, 0x20, 0, 64, 17, 0x1b, 0xcd, 50, 0, 0, 1, 10, 0, 0, 0];
        assert_eq!(first[..20], header);
        assert_eq!(first[20..26], [3, 232, 19, 137, 0, 24]);
        let last = whole.packet(Piece { offset: 8, length: 16 });
        assert_eq!((&last[2..8], &last[20..]), (&[0, 36, 3, 4, 0, 1][..], &b"0123456789abcdef"[..]));
        for packet in [first, last] {
            assert_eq!(checksum(&[&packet[..20]]), 0);
        }
    }

    #[test]
    fn an_ipv6_fragment_with_extension_headers_byte_by_byte() {
        let whole =
            whole("[2000::1]:1000", "[1000::]:5001", Carrier::Udp, Extensions::HopByHop, b"0123456789");
        let first = whole.packet(Piece { offset: 0, length: 16 });
        assert_eq!(first[..8], [0x60, 0, 0, 0, 0, 32, 0, 64]);
        assert_eq!(first[40..48], [44, 0, 1, 4, 0, 0, 0, 0], "hop by hop, then the fragment header");
        assert_eq!(first[48..56], [60, 0, 0, 1, 1, 2, 3, 4], "then destination options");
        assert_eq!(first[56..64], [17, 0, 1, 4, 0, 0, 0, 0], "then UDP");
        assert_eq!(first[64..70], [3, 232, 19, 137, 0, 18]);
        let last = whole.packet(Piece { offset: 16, length: 10 });
        assert_eq!((&last[4..6], &last[48..56]), (&[0, 26][..], &[60, 0, 0, 16, 1, 2, 3, 4][..]));
        assert_eq!(&last[56..], b"0123456789");
        let uncut = whole.packet(Piece { offset: 0, length: 26 });
        assert_eq!(
            (&uncut[4..8], &uncut[40..42], &uncut[48..50]),
            (&[0, 34, 0, 64][..], &[60, 0][..], &[17, 0][..])
        );
    }

    #[test]
    fn the_checksums_are_right() {
        // RFC 1071, section 3.
        assert_eq!(checksum(&[&[0, 1, 0xf2, 3], &[0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        for (from, to, protocol) in [(FROM4, TO4, 17), ("[2000::1]:1000", "[1000::]:5001", 17)] {
            let whole = whole(from, to, Carrier::Udp, Extensions::None, b"odd");
            let udp = &whole.fragmentable;
            let pseudo = pseudo_header(from.parse().unwrap(), to.parse().unwrap(), protocol, 11);
            assert_eq!((udp.len(), checksum(&[&pseudo, udp])), (11, 0));
        }
        let echo = Carrier::Echo { number: 7 };
        let ping = whole("50.0.0.1:9", TO4, echo, Extensions::None, b"abc").fragmentable;
        assert_eq!((&ping[..2], &ping[4..], checksum(&[&ping])), (&[8, 0][..], &b"\0\x09\0\x07abc"[..], 0));
        let (from, to) = ("[2000::1]:9", "[1000::]:0");
        let ping = whole(from, to, echo, Extensions::None, b"abc").fragmentable;
        let pseudo = pseudo_header(from.parse().unwrap(), to.parse().unwrap(), 58, 11);
        assert_eq!((&ping[..2], checksum(&[&pseudo, &ping])), (&[128, 0][..], 0));
    }

    #[test]
    fn a_udp_checksum_of_0_is_sent_as_its_other_form() {
        // The message makes the sum 0xffff, so that its complement is 0.
        let plain = whole(FROM4, TO4, Carrier::Udp, Extensions::None, &[0, 0]).fragmentable;
        let sum = &plain[6..8];
        let zero = whole(FROM4, TO4, Carrier::Udp, Extensions::None, sum).fragmentable;
        assert_eq!(zero[6..8], [0xff, 0xff]);
    }
}
