//! Probes of the packet tracer (Eisenbud et al., NSDI 2016, section 4.4). PURE.
//!
//! A probe is an ordinary packet that has exactly the header of the flow that it asks about, so that
//! everything on the way that hashes packets treats it as a packet of that flow. It has no IP options and no
//! extension headers, and is no fragment. It is a bare TCP SYN without options, a UDP datagram, or an SCTP
//! packet. A balancer that gets a probe does not forward it. It reports what it would do to the receiver that
//! the probe names.
//!
//! All probes of one family have the same length and end with the same 16 bytes, whatever the transport
//! protocol. So the ruleset spends one comparison on any other packet, and a few more on those of this
//! length. No other TCP segment may be taken for a probe: a segment of a connection that ended in these bytes
//! would be dropped, and sent again for ever. Whole datagrams of other programs with the same length and end
//! cannot be distinguished from probes.
//!
//! ```text
//!  IPv4 20 or IPv6 40      TTL 64
//!  TCP 20, UDP 8, SCTP 12  (SCTP: and 4 of a padding chunk, RFC 4820)
//!  version 1               1
//!  family 1                4 or 6: of the receiver
//!  port 2                  the receiver's UDP port
//!  nonce 8                 names the probe in the report
//!  address 16              the receiver's; an IPv4 address is followed by zeros
//!  zeros
//!  magic 16                the last bytes of the packet
//! ```
//!
//! The magic is the same in all versions: a balancer that does not support a version must drop the probe, not
//! forward it. The transport checksum is correct, and is checked, so that no report goes to an address that
//! was damaged on the way.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
};

use thiserror::Error;

use super::{Addresses, L4, Packet, Ports, bytes_at, ip, l4};
use crate::model::Protocol;

/// A probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Source and destination of the flow that the probe asks about.
    pub addresses: Addresses,
    /// The protocol of the flow.
    pub protocol: Protocol,
    /// The ports of the flow.
    pub ports: Ports,
    /// Where reports are to be sent.
    pub receiver: SocketAddr,
    /// Identifies the probe in its reports. Only hosts that see the probe or a report can know it.
    pub nonce: u64,
    /// How many more routers the probe may pass (TTL, or hop limit).
    pub ttl: u8,
}

/// Why a probe cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProbeError {
    /// The transport checksum is wrong.
    #[error("the checksum is wrong")]
    Checksum,
    /// The probe is of a version that is not supported.
    #[error("a probe of another version")]
    Version,
    /// The probe names no address and port that a report can be sent to.
    #[error("no receiver")]
    Receiver,
}

const VERSION: u8 = 1;
/// The bytes between the transport header and the zeros.
const BODY_BYTES: usize = 28;
/// The length from the transport header on, the same in both families.
const PAYLOAD_LEN: u8 = 108;
const PAYLOAD_BYTES: usize = PAYLOAD_LEN as usize;
const HEADER4_BYTES: usize = 20;
const TOTAL4_LEN: u8 = 20 + PAYLOAD_LEN;
/// The length of a TCP header without options, in words, as in the header's length field.
const TCP_WORDS: u8 = 5;
/// RFC 4820: a chunk of padding, which receivers ignore. Its length fills the packet.
const SCTP_PADDING: [u8; 4] = [0x84, 0, 0, 96];
const SCTP_CHECKSUM: Range<usize> = 8..12;

impl Probe {
    /// The last bytes of every probe.
    pub const MAGIC: [u8; 16] = *b"synrail-a-probe!";
    /// The length of a probe over IPv4, including its header.
    pub const BYTES4: usize = HEADER4_BYTES + PAYLOAD_BYTES;
    /// The length of a probe over IPv6, including its header.
    pub const BYTES6: usize = Self::HEADER6_BYTES + PAYLOAD_BYTES;
    /// The bytes that the length field of IPv6 does not count.
    pub const HEADER6_BYTES: usize = 40;
    /// The TTL, or hop limit, of a probe when it is sent.
    pub const TTL: u8 = 64;

    /// Reads a packet that starts at its IP header. Returns `None` if it is not a probe. The ruleset
    /// recognizes the same packets as probes (`plan::ruleset`).
    ///
    /// # Errors
    /// When it is a probe that cannot be answered.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, ProbeError> {
        let bytes = match bytes.first().map(|first| first >> 4) {
            Some(4) if length_field(bytes, 2) == Some(Self::BYTES4) => bytes.get(..Self::BYTES4),
            Some(6) if length_field(bytes, 4) == Some(PAYLOAD_BYTES) => bytes.get(..Self::BYTES6),
            _ => None,
        };
        let marked = bytes.filter(|bytes| bytes.ends_with(&Self::MAGIC));
        marked.and_then(Header::read).map(Self::read).transpose()
    }

    fn read(header: Header<'_>) -> Result<Self, ProbeError> {
        let Header { addresses, protocol, ports, ttl, payload } = header;
        if !checksum_is_right(addresses, protocol, payload) {
            return Err(ProbeError::Checksum);
        }
        let [version, family, p0, p1, n0, n1, n2, n3, n4, n5, n6, n7, address @ ..] =
            body_of(protocol, payload);
        if version != VERSION {
            return Err(ProbeError::Version);
        }
        let [a0, a1, a2, a3, ..] = address;
        let address: IpAddr = match family {
            4 => Ipv4Addr::new(a0, a1, a2, a3).into(),
            6 => Ipv6Addr::from(address).to_canonical(),
            _ => return Err(ProbeError::Receiver),
        };
        let port = u16::from_be_bytes([p0, p1]);
        if port == 0 {
            return Err(ProbeError::Receiver);
        }
        Ok(Self {
            addresses,
            protocol,
            ports,
            receiver: SocketAddr::new(address, port),
            nonce: u64::from_be_bytes([n0, n1, n2, n3, n4, n5, n6, n7]),
            ttl,
        })
    }

    /// Returns the bytes of the probe, from its IP header on.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut payload = self.transport();
        payload.extend(self.body());
        payload.resize(PAYLOAD_BYTES - Self::MAGIC.len(), 0);
        payload.extend(Self::MAGIC);
        self.sum_up(&mut payload);
        let mut bytes = self.ip_header();
        bytes.extend(payload);
        bytes
    }

    /// Returns the packet that the decision is about: the one that the probe stands for.
    #[must_use]
    pub fn packet(&self) -> Packet {
        let l4 = match self.protocol {
            Protocol::Tcp => L4::Tcp { ports: self.ports, syn: true },
            Protocol::Udp => L4::Udp(self.ports),
            Protocol::Sctp => L4::Sctp(self.ports),
        };
        Packet { addresses: self.addresses, protocol: self.protocol.number(), l4, quoted: false }
    }

    /// Returns the transport header, with checksum 0.
    fn transport(&self) -> Vec<u8> {
        let mut header = [self.ports.src.to_be_bytes(), self.ports.dst.to_be_bytes()].concat();
        match self.protocol {
            Protocol::Tcp => {
                // The initial sequence number; no ACK; five words, SYN; a window.
                let [.., s0, s1, s2, s3] = self.nonce.to_be_bytes();
                header.extend([s0, s1, s2, s3, 0, 0, 0, 0, 0x50, 0x02, 0xfa, 0xf0, 0, 0, 0, 0]);
            }
            Protocol::Udp => header.extend([0, PAYLOAD_LEN, 0, 0]),
            // Tag 0, as in an INIT.
            Protocol::Sctp => {
                header.extend([0; 8]);
                header.extend(SCTP_PADDING);
            }
        }
        header
    }

    fn body(&self) -> Vec<u8> {
        let (family, address) = match self.receiver.ip() {
            IpAddr::V4(address) => (4, [&address.octets()[..], &[0; 12]].concat()),
            IpAddr::V6(address) => (6, address.octets().to_vec()),
        };
        let mut body = vec![VERSION, family];
        body.extend(self.receiver.port().to_be_bytes());
        body.extend(self.nonce.to_be_bytes());
        body.extend(address);
        body
    }

    fn ip_header(&self) -> Vec<u8> {
        let protocol = self.protocol.number();
        match self.addresses {
            Addresses::V4 { src, dst } => {
                // "Don't fragment", as in TCP packets. The kernel fills in the identification.
                let mut header = vec![0x45, 0, 0, TOTAL4_LEN, 0, 0, 0x40, 0, self.ttl, protocol, 0, 0];
                header.extend([src.octets(), dst.octets()].concat());
                let sum = !ones_sum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                header
            }
            Addresses::V6 { src, dst } => {
                let mut header = vec![0x60, 0, 0, 0, 0, PAYLOAD_LEN, protocol, self.ttl];
                header.extend([src.octets(), dst.octets()].concat());
                header
            }
        }
    }

    /// Writes the transport checksum into `payload`.
    fn sum_up(&self, payload: &mut [u8]) {
        let ones = |payload: &[u8]| !ones_sum(&pseudo_packet(self.addresses, self.protocol, payload));
        match self.protocol {
            Protocol::Tcp => {
                let sum = ones(payload);
                payload[16..18].copy_from_slice(&sum.to_be_bytes());
            }
            Protocol::Udp => {
                // RFC 768: 0 means that there is no checksum.
                let sum = match ones(payload) {
                    0 => u16::MAX,
                    sum => sum,
                };
                payload[6..8].copy_from_slice(&sum.to_be_bytes());
            }
            Protocol::Sctp => {
                let sum = crc32c(payload).to_le_bytes();
                payload[SCTP_CHECKSUM].copy_from_slice(&sum);
            }
        }
    }
}

/// The headers of a packet that has the length and the end of a probe.
#[derive(Clone, Copy)]
struct Header<'a> {
    addresses: Addresses,
    protocol: Protocol,
    ports: Ports,
    ttl: u8,
    /// The bytes from the transport header on.
    payload: &'a [u8; PAYLOAD_BYTES],
}

impl<'a> Header<'a> {
    /// Returns `None` if these are not the headers of a probe.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let header = ip::parse(bytes).ok()?;
        if ip::fragment(bytes).ok()?.is_some() {
            return None;
        }
        let payload: &[u8; PAYLOAD_BYTES] = header.payload.try_into().ok()?;
        let (protocol, ports) = match l4::parse(header.protocol, payload).ok()? {
            L4::Tcp { ports, syn: true } if payload[12] >> 4 == TCP_WORDS => (Protocol::Tcp, ports),
            L4::Udp(ports) => (Protocol::Udp, ports),
            L4::Sctp(ports) => (Protocol::Sctp, ports),
            L4::Tcp { .. } | L4::Echo { .. } | L4::Other | L4::LaterFragment => return None,
        };
        let addresses = header.addresses;
        let ttl = match addresses {
            Addresses::V4 { .. } => bytes[8],
            Addresses::V6 { .. } => bytes[7],
        };
        Some(Self { addresses, protocol, ports, ttl, payload })
    }
}

fn length_field(bytes: &[u8], at: usize) -> Option<usize> {
    bytes_at(bytes, at).map(|length| usize::from(u16::from_be_bytes(length)))
}

/// Returns the bytes from the end of the transport header (and padding chunk) to the zeros.
fn body_of(protocol: Protocol, payload: &[u8; PAYLOAD_BYTES]) -> [u8; BODY_BYTES] {
    let padding = if protocol == Protocol::Sctp { SCTP_PADDING.len() } else { 0 };
    let start = l4::header_bytes(protocol.number()) + padding;
    std::array::from_fn(|at| payload[start + at])
}

fn checksum_is_right(addresses: Addresses, protocol: Protocol, payload: &[u8]) -> bool {
    match protocol {
        Protocol::Tcp | Protocol::Udp => ones_sum(&pseudo_packet(addresses, protocol, payload)) == u16::MAX,
        Protocol::Sctp => {
            let mut zeroed = payload.to_vec();
            zeroed[SCTP_CHECKSUM].fill(0);
            payload[SCTP_CHECKSUM] == crc32c(&zeroed).to_le_bytes()
        }
    }
}

/// Returns the bytes that the checksums of TCP and UDP cover (RFC 9293, section 3.1; RFC 8200, section 8.1).
fn pseudo_packet(addresses: Addresses, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
    let mut bytes = match addresses {
        Addresses::V4 { src, dst } => [src.octets(), dst.octets()].concat(),
        Addresses::V6 { src, dst } => [src.octets(), dst.octets()].concat(),
    };
    bytes.extend([0, PAYLOAD_LEN, 0, protocol.number()]);
    bytes.extend(payload);
    bytes
}

/// Returns the ones' complement sum of 16-bit words (RFC 1071) of an even number of bytes.
fn ones_sum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.as_chunks().0.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    let folded = (sum >> 16) + (sum & 0xffff);
    // With so few words, one more addition of the carry is enough.
    u16::try_from((folded >> 16) + (folded & 0xffff)).unwrap_or(u16::MAX)
}

/// Returns the CRC-32C of SCTP (RFC 9260, appendix A): reflected, polynomial 0x1edc6f41.
fn crc32c(bytes: &[u8]) -> u32 {
    let shift = |crc: u32| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| shift(crc)))
}

#[cfg(test)]
impl Probe {
    /// A probe from port 4000 to port 80.
    pub(crate) fn example(protocol: Protocol, src: &str, dst: &str) -> Self {
        Self {
            addresses: Addresses::new(src.parse().unwrap(), dst.parse().unwrap()).unwrap(),
            protocol,
            ports: Ports { src: 4000, dst: 80 },
            receiver: "192.168.2.221:5000".parse().unwrap(),
            nonce: 0x1234_5678_9abc_def0,
            ttl: Self::TTL,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_probe() -> impl Strategy<Value = Probe> {
        let addresses = prop_oneof![
            any::<(Ipv4Addr, Ipv4Addr)>().prop_map(|(src, dst)| Addresses::V4 { src, dst }),
            any::<(Ipv6Addr, Ipv6Addr)>().prop_map(|(src, dst)| Addresses::V6 { src, dst }),
        ];
        let receiver = (any::<IpAddr>(), 1u16..).prop_map(|(ip, port)| (ip.to_canonical(), port).into());
        let protocol = prop::sample::select(Protocol::ALL.to_vec());
        let ports = any::<(u16, u16)>().prop_map(|(src, dst)| Ports { src, dst });
        (addresses, protocol, ports, receiver, any::<u64>(), any::<u8>()).prop_map(
            |(addresses, protocol, ports, receiver, nonce, ttl)| Probe {
                addresses,
                protocol,
                ports,
                receiver,
                nonce,
                ttl,
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_built_is_read_again(probe in any_probe()) {
            let bytes = probe.bytes();
            let len = if bytes[0] >> 4 == 4 { Probe::BYTES4 } else { Probe::BYTES6 };
            prop_assert_eq!(bytes.len(), len);
            prop_assert_eq!(Probe::parse(&bytes), Ok(Some(probe)));
            // To all other code it is a packet of the flow that it stands for.
            prop_assert_eq!(Packet::parse(&bytes), Ok(probe.packet()));
            if len == Probe::BYTES4 {
                prop_assert_eq!(ones_sum(&bytes[..HEADER4_BYTES]), u16::MAX);
            }
            // The queue may deliver an incomplete packet.
            prop_assert_eq!(Probe::parse(&bytes[..len - 1]), Ok(None));
        }

        #[test]
        fn a_damaged_probe_is_none(probe in any_probe(), at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut bytes = probe.bytes();
            let payload_at = bytes.len() - PAYLOAD_BYTES;
            let at = payload_at + at.index(PAYLOAD_BYTES);
            bytes[at] ^= flip;
            let in_magic = at >= bytes.len() - Probe::MAGIC.len();
            // The data offset, and FIN, SYN, RST and ACK.
            let no_syn = probe.protocol == Protocol::Tcp
                && (at == payload_at + 12 && flip & 0xf0 != 0 || at == payload_at + 13 && flip & 0x17 != 0);
            let expected = if in_magic || no_syn { Ok(None) } else { Err(ProbeError::Checksum) };
            prop_assert_eq!(Probe::parse(&bytes), expected);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
            let mut bytes = bytes;
            if magic && bytes.len() >= Probe::BYTES4 {
                bytes.truncate(Probe::BYTES4);
                // The header of a datagram, and arbitrary contents.
                bytes[0] = 0x45;
                bytes[2..4].copy_from_slice(&[0, 128]);
                bytes[6..10].copy_from_slice(&[0, 0, 64, 17]);
                bytes[112..].copy_from_slice(&Probe::MAGIC);
                prop_assert_ne!(Probe::parse(&bytes), Ok(None));
            } else {
                prop_assert_eq!(Probe::parse(&bytes), Ok(None));
            }
        }
    }

    fn probe() -> Probe {
        Probe::example(Protocol::Udp, "50.0.0.1", "10.0.0.0")
    }

    /// Returns the probe with one byte of its payload changed, and a correct checksum.
    fn with(probe: Probe, at: usize, byte: u8) -> Vec<u8> {
        let mut bytes = probe.bytes();
        let (header, payload) = bytes.split_at_mut(HEADER4_BYTES);
        payload[at] = byte;
        match probe.protocol {
            Protocol::Tcp => payload[16..18].fill(0),
            Protocol::Udp => payload[6..8].fill(0),
            Protocol::Sctp => payload[8..12].fill(0),
        }
        probe.sum_up(payload);
        [header, payload].concat()
    }

    #[test]
    fn probes_that_cannot_be_answered_are_distinguished() {
        assert_eq!(Probe::parse(&with(probe(), 8, 2)), Err(ProbeError::Version));
        assert_eq!(Probe::parse(&with(probe(), 9, 5)), Err(ProbeError::Receiver));
        let no_port = Probe { receiver: SocketAddr::new(probe().receiver.ip(), 0), ..probe() };
        assert_eq!(Probe::parse(&no_port.bytes()), Err(ProbeError::Receiver));
        let mapped = Probe { receiver: "[::ffff:192.168.2.221]:5000".parse().unwrap(), ..probe() };
        assert_eq!(Probe::parse(&mapped.bytes()), Ok(Some(probe())));
    }

    /// Returns the probe with some bytes of its headers changed.
    fn changed(probe: Probe, changes: &[(usize, u8)]) -> Vec<u8> {
        let mut bytes = probe.bytes();
        for &(at, byte) in changes {
            bytes[at] = byte;
        }
        bytes
    }

    #[test]
    fn a_segment_of_a_connection_is_no_probe() {
        let (src, dst) = (Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED);
        let four = Probe { protocol: Protocol::Tcp, ..probe() };
        let six = Probe { addresses: Addresses::V6 { src, dst }, ..four };
        for (probe, transport) in [(four, HEADER4_BYTES), (six, Probe::HEADER6_BYTES)] {
            assert_eq!(Probe::parse(&probe.bytes()), Ok(Some(probe)));
            // ACK, PSH and ACK, FIN, RST, SYN and ACK, none.
            for flags in [0x10, 0x18, 0x11, 0x04, 0x12, 0] {
                let segment = changed(probe, &[(transport + 13, flags)]);
                assert_eq!(Probe::parse(&segment), Ok(None), "{flags:#x}");
            }
            // A SYN with options, as clients send it.
            for offset in [0x40, 0x60, 0xa0] {
                assert_eq!(Probe::parse(&changed(probe, &[(transport + 12, offset)])), Ok(None));
            }
        }
    }

    #[test]
    fn neither_a_fragment_nor_another_header_is_a_probe() {
        let (src, dst) = (Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED);
        let six = Probe { addresses: Addresses::V6 { src, dst }, ..probe() };
        // The first fragment, one in the middle, the last one; options; ICMP.
        for changes in [&[(6, 0x20)][..], &[(6, 0x20), (7, 3)], &[(6, 0), (7, 3)], &[(0, 0x46)], &[(9, 1)]] {
            assert_eq!(Probe::parse(&changed(probe(), changes)), Ok(None), "{changes:?}");
        }
        // The same over IPv6, including a fragment that is the whole packet; hop-by-hop options.
        let fragment = |low| [(6, 44), (40, 17), (41, 0), (42, 0), (43, low)];
        for changes in [
            fragment(1),
            fragment(9),
            fragment(8),
            fragment(0),
            [(6, 0), (40, 17), (41, 0), (42, 1), (43, 4)],
        ] {
            assert_eq!(Probe::parse(&changed(six, &changes)), Ok(None), "{changes:?}");
        }
        assert_eq!(Probe::parse(&changed(six, &[(6, 58)])), Ok(None));
    }

    #[test]
    fn checksums_are_those_of_the_standards() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        // RFC 1071, section 3.
        assert_eq!(ones_sum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }
}
