//! Packets that a stranger could send: single TCP segments with any number in them, and ICMP errors about a GRE packet
//! that was never sent (RFC 792, 2784, 9293); and the packets of a capture file, to be sent once more. PURE.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, bail, ensure};

use crate::packet::{ICMP, Piece, Whole, checksum, pseudo_header};

pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const FIN: u8 = 0x01;

const TCP: u8 = 6;
const GRE: u8 = 47;
const TCP_BYTES: u8 = 20;
const CHECKSUM_AT: usize = 16;
const WINDOW: u16 = 8192;

/// A segment without data or options.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
}

impl Segment {
    pub(crate) fn packet(self, from: SocketAddr, to: SocketAddr, id: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(TCP_BYTES.into());
        bytes.extend(from.port().to_be_bytes());
        bytes.extend(to.port().to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        let acknowledged = if self.flags & ACK == 0 { 0 } else { self.acknowledged };
        bytes.extend(acknowledged.to_be_bytes());
        bytes.extend([(TCP_BYTES / 4) << 4, self.flags]);
        bytes.extend(WINDOW.to_be_bytes());
        bytes.extend([0; 4]); // checksum, urgent
        let sum = checksum(&[&pseudo_header(from, to, TCP, TCP_BYTES.into()), &bytes]);
        bytes[CHECKSUM_AT..][..2].copy_from_slice(&sum.to_be_bytes());
        uncut(&Whole::carrying(from.ip(), to.ip(), id, TCP, bytes), TCP_BYTES.into())
    }
}

/// What an ICMP error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IcmpError {
    HostUnreachable,
    /// Fragmentation needed, to this many bytes.
    TooBig(u16),
}

/// From `source` to the end of a GRE tunnel, about a packet to its other end.
pub(crate) fn icmp_error(
    error: IcmpError,
    source: Ipv4Addr,
    near: Ipv4Addr,
    far: Ipv4Addr,
    id: u32,
) -> Vec<u8> {
    let (code, mtu) = match error {
        IcmpError::HostUnreachable => (1, 0),
        IcmpError::TooBig(mtu) => (4, mtu),
    };
    let mut bytes = vec![3, code, 0, 0, 0, 0];
    bytes.extend(mtu.to_be_bytes());
    let gre = [0, 0, 8, 0, 0x45, 0, 5, 0x64]; // no options, then the first bytes of an IPv4 packet
    let quoted = Whole::carrying(near.into(), far.into(), id, GRE, gre.to_vec());
    bytes.extend(uncut(&quoted, gre.len()));
    let sum = checksum(&[&bytes]);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    let length = bytes.len();
    uncut(&Whole::carrying(source.into(), near.into(), id, ICMP, bytes), length)
}

fn uncut(whole: &Whole, length: usize) -> Vec<u8> {
    whole.packet(Piece { offset: 0, length })
}

const FILE_HEADER_BYTES: usize = 24;
const RECORD_HEADER_BYTES: usize = 16;
/// Little-endian, with micro- or nanoseconds.
const MAGICS: [u32; 2] = [0xa1b2_c3d4, 0xa1b2_3c4d];
const ETHERNET: u32 = 1;
const ETHERNET_BYTES: usize = 14;

/// The packets of one destination in a capture of Ethernet frames (pcap, as tcpdump writes it on a little-endian machine).
pub(crate) fn captured(file: &[u8], to: IpAddr) -> anyhow::Result<Vec<Vec<u8>>> {
    let word = |bytes: &[u8], at: usize| {
        let word = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(word))
    };
    ensure!(word(file, 0).is_some_and(|magic| MAGICS.contains(&magic)), "it is no pcap file");
    ensure!(word(file, FILE_HEADER_BYTES - 4) == Some(ETHERNET), "it is no capture of Ethernet frames");
    let mut packets = Vec::new();
    let mut rest = &file[FILE_HEADER_BYTES..];
    while !rest.is_empty() {
        let (Some(kept), Some(sent)) = (word(rest, 8), word(rest, 12)) else { bail!("it is cut off") };
        let frame = rest[RECORD_HEADER_BYTES..].get(..usize::try_from(kept)?).context("it is cut off")?;
        rest = &rest[RECORD_HEADER_BYTES + frame.len()..];
        let Some(packet) = frame.get(ETHERNET_BYTES..).and_then(|packet| whole_to(packet, to)) else {
            continue;
        };
        ensure!(kept == sent, "it has the beginnings of packets only (tcpdump -s 0)");
        packets.push(packet);
    }
    Ok(packets)
}

/// The packet without the padding of its frame, if it goes there.
fn whole_to(bytes: &[u8], to: IpAddr) -> Option<Vec<u8>> {
    let length = |at: usize| Some(usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
    let (found, length): (IpAddr, _) = match bytes.first()? >> 4 {
        4 => (<[u8; 4]>::try_from(bytes.get(16..20)?).ok()?.into(), length(2)?),
        6 => (<[u8; 16]>::try_from(bytes.get(24..40)?).ok()?.into(), length(4)? + 40),
        _ => return None,
    };
    (found == to).then(|| bytes[..length.min(bytes.len())].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_have_right_checksums_and_only_what_their_flags_mean() {
        for (from, to) in [("50.0.0.1:1000", "10.0.0.0:5001"), ("[2000::1]:1000", "[1000::]:5001")] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            for flags in [SYN, ACK, RST, FIN | ACK] {
                let packet = Segment { flags, sequence: 7, acknowledged: 9 }.packet(from, to, 1);
                let tcp = &packet[packet.len() - usize::from(TCP_BYTES)..];
                assert_eq!(tcp[..4], [3, 232, 19, 137]);
                assert_eq!(tcp[4..8], [0, 0, 0, 7]);
                assert_eq!(tcp[8..14], [0, 0, 0, if flags & ACK == 0 { 0 } else { 9 }, 0x50, flags]);
                assert_eq!(checksum(&[&pseudo_header(from, to, TCP, 20), tcp]), 0);
            }
        }
    }

    #[test]
    fn an_icmp_error_quotes_a_packet_of_the_tunnel() {
        let [source, near, far] = [[50, 0, 0, 1], [192, 168, 1, 201], [192, 168, 1, 1]].map(Ipv4Addr::from);
        let packet = icmp_error(IcmpError::TooBig(552), source, near, far, 5);
        assert_eq!((packet.len(), packet[9]), (20 + 8 + 20 + 8, 1));
        assert_eq!((&packet[12..16], &packet[16..20]), (&source.octets()[..], &near.octets()[..]));
        assert_eq!((&packet[20..22], &packet[24..28]), (&[3, 4][..], &[0, 0, 2, 40][..]));
        assert_eq!(checksum(&[&packet[20..]]), 0);
        let quoted = &packet[28..];
        assert_eq!((quoted[9], &quoted[12..20]), (47, &[near.octets(), far.octets()].concat()[..]));
        assert_eq!(quoted[20..24], [0, 0, 8, 0]);
        let unreachable = icmp_error(IcmpError::HostUnreachable, source, near, far, 5);
        assert_eq!((&unreachable[20..22], &unreachable[24..28]), (&[3, 1][..], &[0; 4][..]));
    }

    /// A capture of these packets, each in a frame that is padded to 60 bytes, with so many bytes of it kept.
    fn capture(packets: &[&[u8]], kept: usize) -> Vec<u8> {
        let mut file = MAGICS[0].to_le_bytes().to_vec();
        file.extend([0; 16]);
        file.extend(ETHERNET.to_le_bytes());
        for packet in packets {
            let mut frame = vec![0; ETHERNET_BYTES];
            frame.extend_from_slice(packet);
            frame.resize(frame.len().max(60), 0);
            let kept = kept.min(frame.len());
            file.extend([0; 8]);
            for length in [kept, frame.len()] {
                file.extend(u32::try_from(length).unwrap().to_le_bytes());
            }
            file.extend_from_slice(&frame[..kept]);
        }
        file
    }

    #[test]
    fn the_packets_of_a_capture_are_had_as_they_were() {
        let syn = Segment { flags: SYN, sequence: 1, acknowledged: 0 };
        let at = |address: &str| address.parse::<SocketAddr>().unwrap();
        let to = at("10.0.0.0:5001");
        let ours = syn.packet(at("50.0.0.1:1000"), to, 1);
        let six = syn.packet(at("[2000::1]:1000"), at("[1000::]:5001"), 1);
        let elsewhere = syn.packet(at("50.0.0.1:1000"), at("10.0.0.1:5001"), 1);
        let file = capture(&[&ours, b"short", &six, &elsewhere, &ours], usize::MAX);
        assert_eq!(captured(&file, to.ip()).unwrap(), [&ours[..], &ours]);
        assert_eq!(captured(&file, at("[1000::]:1").ip()).unwrap(), [&six[..]]);
        assert_eq!(captured(&capture(&[], 0), to.ip()).unwrap(), Vec::<Vec<u8>>::new());
        for length in [0, 3, 23, 30, file.len() - 1] {
            assert!(captured(&file[..length], to.ip()).is_err(), "{length}");
        }
        assert!(captured(&capture(&[&ours], 40), to.ip()).unwrap_err().to_string().contains("-s 0"));
    }
}
