//! From bytes to facts: what a queued packet is. PURE.
//!
//! [`Packet::parse`] checks every length once, so callers need not check its results again. Packets start at
//! the network layer (no Ethernet header), are cut to the queue's copy range, and may be larger than any MTU
//! (GSO). A length field may therefore cover more than the bytes at hand, but never less than the headers it
//! covers.
//!
//! Every fault of a packet is a [`Malformed`] reason that is counted, never a panic.

mod fragment;
mod icmp;
mod ip;
pub mod jhash;
pub mod key;
mod l4;
mod probe;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use fragment::{Fragment, FragmentKey};
use icmp::Icmp;
pub(crate) use icmp::{ICMP, ICMPV6};
pub(crate) use l4::{SCTP, TCP, UDP};
pub use probe::{Probe, ProbeError};
use thiserror::Error;

/// The facts that decide where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source and destination.
    pub addresses: Addresses,
    /// IANA number of the protocol behind all extension headers.
    pub protocol: u8,
    /// The part of the transport header that could be read.
    pub l4: L4,
    /// Whether the packet is an ICMP error. Then all other fields are those of the flow that it quotes, as in
    /// a packet to the VIP.
    pub quoted: bool,
}

impl Packet {
    /// Returns the packet with source and destination exchanged, and also the ports.
    #[must_use]
    pub fn swapped(self) -> Self {
        let ports = |Ports { src, dst }: Ports| Ports { src: dst, dst: src };
        let l4 = match self.l4 {
            L4::Tcp { ports: of, syn } => L4::Tcp { ports: ports(of), syn },
            L4::Udp(of) => L4::Udp(ports(of)),
            L4::Sctp(of) => L4::Sctp(ports(of)),
            same @ (L4::Echo { .. } | L4::Other | L4::LaterFragment) => same,
        };
        Self { addresses: self.addresses.swapped(), l4, ..self }
    }
}

/// Source and destination of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// IPv4 (RFC 791).
    V4 {
        /// Source.
        src: Ipv4Addr,
        /// Destination.
        dst: Ipv4Addr,
    },
    /// IPv6 (RFC 8200).
    V6 {
        /// Source.
        src: Ipv6Addr,
        /// Destination.
        dst: Ipv6Addr,
    },
}

impl Addresses {
    /// Returns the pair, or `None` if the families differ.
    #[must_use]
    pub fn new(src: IpAddr, dst: IpAddr) -> Option<Self> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Some(Self::V4 { src, dst }),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Some(Self::V6 { src, dst }),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }

    /// Returns the addresses of a reply: source and destination exchanged.
    #[must_use]
    pub fn swapped(self) -> Self {
        match self {
            Self::V4 { src, dst } => Self::V4 { src: dst, dst: src },
            Self::V6 { src, dst } => Self::V6 { src: dst, dst: src },
        }
    }

    /// Returns the source.
    #[must_use]
    pub fn source(self) -> IpAddr {
        match self {
            Self::V4 { src, .. } => src.into(),
            Self::V6 { src, .. } => src.into(),
        }
    }

    /// Returns the destination.
    #[must_use]
    pub fn destination(self) -> IpAddr {
        match self {
            Self::V4 { dst, .. } => dst.into(),
            Self::V6 { dst, .. } => dst.into(),
        }
    }
}

/// The transport header, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// TCP (RFC 9293).
    Tcp {
        /// The ports.
        ports: Ports,
        /// Whether the segment opens a connection: SYN, and none of ACK, RST, FIN.
        syn: bool,
    },
    /// UDP (RFC 768).
    Udp(Ports),
    /// SCTP (RFC 9260).
    Sctp(Ports),
    /// An ICMP or ICMPv6 echo request.
    Echo {
        /// The identifier.
        id: u16,
    },
    /// A protocol whose ports, if any, are not known here.
    Other,
    /// A fragment after the first: the transport header is in another packet.
    LaterFragment,
}

impl L4 {
    /// Returns the ports, if there are any. For an echo request these are its identifier and 0.
    #[must_use]
    pub fn ports(self) -> Option<Ports> {
        match self {
            Self::Tcp { ports, .. } | Self::Udp(ports) | Self::Sctp(ports) => Some(ports),
            Self::Echo { id } => Some(Ports { src: id, dst: 0 }),
            Self::Other | Self::LaterFragment => None,
        }
    }
}

/// Source and destination port, in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    /// Source.
    pub src: u16,
    /// Destination.
    pub dst: u16,
}

/// What is wrong with a packet. Each reason has its own counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// No bytes, or a version that is neither 4 nor 6.
    #[error("neither IPv4 nor IPv6")]
    Version,
    /// The fixed IP header or its options are incomplete.
    #[error("IP header cut short")]
    IpHeader,
    /// A length field contradicts the header that holds it.
    #[error("IP length field contradicts the header")]
    IpLength,
    /// An IPv6 extension header is incomplete.
    #[error("IPv6 extension header cut short")]
    Extension,
    /// More extension headers than [`EXTENSIONS_MAX`].
    #[error("too many IPv6 extension headers")]
    TooManyExtensions,
    /// The transport header is incomplete.
    #[error("transport header cut short")]
    L4Header,
    /// The packet that an ICMP error quotes cannot be read, or its source is not the receiver of the error.
    #[error("ICMP error that quotes no packet of its receiver")]
    IcmpQuote,
    /// The fragment is empty, reaches beyond the largest packet, or is not the last one although its length
    /// is no multiple of 8 bytes.
    #[error("fragment of impossible length")]
    FragmentLength,
}

/// The maximum number of IPv6 extension headers that are read. RFC 8200 names six kinds, of which one may
/// come twice.
pub const EXTENSIONS_MAX: usize = 8;

/// The number of bytes of a packet that are copied to decide about it. It is enough for an IP header with its
/// options, the header of an ICMP error, and the headers that the error quotes. Packets with IPv6 extension
/// headers are copied whole, by another queue.
pub const HEADER_BYTES_MAX: u16 = 256;

impl Packet {
    /// Reads a packet that starts at its IP header.
    ///
    /// # Errors
    /// The first fault that is found.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::from_ip_header(&ip::parse(bytes)?)
    }

    /// Reads what follows the IP header.
    fn from_ip_header(header: &ip::IpHeader<'_>) -> Result<Self, Malformed> {
        let l4 = if header.later_fragment {
            L4::LaterFragment
        } else {
            match icmp::parse(header.protocol, header.payload)? {
                Icmp::Error { quoted } => return icmp::quoted_flow(header.addresses, quoted),
                Icmp::Echo { id } => L4::Echo { id },
                Icmp::Other => l4::parse(header.protocol, header.payload)?,
            }
        };
        Ok(Self { addresses: header.addresses, protocol: header.protocol, l4, quoted: false })
    }

    /// Returns a packet made from a description, to ask what would become of it. TCP is taken as a SYN, ICMP
    /// as an echo request whose identifier is the source port. Returns `None` if the addresses are of two
    /// families.
    #[must_use]
    pub fn synthetic(protocol: u8, src: IpAddr, dst: IpAddr, ports: Ports) -> Option<Self> {
        let l4 = match protocol {
            TCP => L4::Tcp { ports, syn: true },
            UDP => L4::Udp(ports),
            SCTP => L4::Sctp(ports),
            ICMP | ICMPV6 => L4::Echo { id: ports.src },
            _ => L4::Other,
        };
        Some(Self { addresses: Addresses::new(src, dst)?, protocol, l4, quoted: false })
    }
}

/// Returns the destination of a packet that starts at its IP header, whatever else is in it.
#[must_use]
pub fn destination(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.first()? >> 4 {
        4 => bytes_at::<4>(bytes, 16).map(IpAddr::from),
        6 => bytes_at::<16>(bytes, 24).map(IpAddr::from),
        _ => None,
    }
}

/// Returns the `N` bytes at `offset`, if they are there.
fn bytes_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests;
