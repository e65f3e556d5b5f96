//! Packets and fragments, byte by byte.

use std::net::IpAddr;

/// A packet of the transport protocol, with some payload.
pub(crate) fn packet(protocol: u8, src: &str, sport: u16, dst: &str, dport: u16, flags: u8) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(sport.to_be_bytes());
    l4.extend(dport.to_be_bytes());
    l4.extend([0; 8]);
    l4.extend([0x50, flags]);
    l4.extend([0; 30]);
    ip(protocol, src, dst, &l4)
}

/// An IP packet with this behind its header.
pub(crate) fn ip(protocol: u8, src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap();
    let mut bytes;
    match (src.parse().unwrap(), dst.parse().unwrap()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            bytes = vec![0x45, 0];
            bytes.extend((20 + len).to_be_bytes());
            bytes.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            bytes = vec![0x60, 0, 0, 0];
            bytes.extend(len.to_be_bytes());
            bytes.extend([protocol, 64]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
        }
        mixed => panic!("{mixed:?}"),
    }
    bytes.extend(payload);
    bytes
}

pub(crate) fn syn(src: &str, sport: u16, dst: &str, dport: u16) -> Vec<u8> {
    packet(6, src, sport, dst, dport, 0x02)
}

/// One fragment.
#[derive(Clone, Debug)]
pub(crate) struct Piece<'a> {
    pub src: &'a str,
    pub dst: &'a str,
    /// Of the fragmentable part.
    pub protocol: u8,
    pub id: u32,
    pub start: usize,
    pub more: bool,
    pub payload: &'a [u8],
}

impl Piece<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        if self.src.contains(':') {
            let header = fragment_header(self.protocol, self.id, self.start, self.more);
            ip(44, self.src, self.dst, &[&header, self.payload].concat())
        } else {
            let mut bytes = ip(self.protocol, self.src, self.dst, self.payload);
            make_fragment(&mut bytes, self.id, self.start, self.more);
            bytes
        }
    }
}

/// A packet's fragments of at most `size` bytes each. IPv6 extension headers that every fragment must have take
/// `unfragmentable` bytes, and the last of them begins at `last` bytes into them.
pub(crate) fn cut(
    packet: &[u8],
    id: u32,
    size: usize,
    unfragmentable: Option<(usize, usize)>,
) -> Vec<Vec<u8>> {
    let four = packet[0] >> 4 == 4;
    let fixed = if four { usize::from(packet[0] & 15) * 4 } else { 40 };
    let headers = fixed + unfragmentable.map_or(0, |(len, _)| len);
    let payload = &packet[headers..];
    let pieces = payload.chunks(size).zip((0..).step_by(size));
    let piece = |(part, start): (&[u8], usize)| {
        let more = start + part.len() < payload.len();
        let mut bytes = packet[..headers].to_vec();
        if four {
            make_fragment(&mut bytes, id, start, more);
        } else {
            let next_at = unfragmentable.map_or(6, |(_, last)| fixed + last);
            let next = std::mem::replace(&mut bytes[next_at], 44);
            bytes.extend(fragment_header(next, id, start, more));
        }
        bytes.extend(part);
        let (at, covered) = if four { (2, bytes.len()) } else { (4, bytes.len() - 40) };
        bytes[at..at + 2].copy_from_slice(&u16::try_from(covered).unwrap().to_be_bytes());
        bytes
    };
    pieces.map(piece).collect()
}

/// Writes the fields of a fragment into an IPv4 header.
fn make_fragment(header: &mut [u8], id: u32, start: usize, more: bool) {
    let field = u16::try_from(start / 8).unwrap() | (u16::from(more) << 13);
    header[4..6].copy_from_slice(&u16::try_from(id).unwrap().to_be_bytes());
    header[6..8].copy_from_slice(&field.to_be_bytes());
}

/// The IPv6 fragment header.
fn fragment_header(next: u8, id: u32, start: usize, more: bool) -> [u8; 8] {
    let [high, low] = (u16::try_from(start).unwrap() | u16::from(more)).to_be_bytes();
    let [i0, i1, i2, i3] = id.to_be_bytes();
    [next, 0, high, low, i0, i1, i2, i3]
}
