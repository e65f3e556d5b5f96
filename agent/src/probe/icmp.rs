//! An echo request (RFC 792, RFC 4443), by a raw socket. The kernel passes only the answer to it: a filter compares its
//! number, since every raw socket gets every ICMP packet.

use socket2::{Protocol, SockFilter, Type};
use tokio::net::UdpSocket;

use super::{Found, Target, random, socket};

const PAYLOAD: &[u8; 24] = b"synrail health check ...";
const REQUEST4: u8 = 8;
const REPLY4: u8 = 0;
const REQUEST6: u8 = 128;
const REPLY6: u8 = 129;

/// Asks a host for an echo.
pub async fn probe(target: &Target) -> Found {
    target.wait_for("echo reply");
    let is_ipv4 = target.to.is_ipv4();
    let protocol = if is_ipv4 { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let socket = socket::open(target, Type::RAW, Some(protocol))?;
    let number = (random() & 0xffff_ffff) as u32;
    let system = |error: std::io::Error| socket::cannot_connect(target, &error);
    socket.attach_filter(&filter(is_ipv4, number)).map_err(|error| socket::of_host(&error))?;
    let mut to = target.to;
    to.set_port(0);
    socket.connect(&to.into()).map_err(system)?;
    // To tokio it is a socket for datagrams as any other.
    let socket = UdpSocket::from_std(socket.into()).map_err(|error| socket::of_host(&error))?;
    socket.send(&request(is_ipv4, number)).await.map_err(system)?;
    loop {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).await.map_err(system)?;
        if is_reply(is_ipv4, number, &buffer[..length]) {
            return Ok("echo reply".to_owned());
        }
    }
}

/// Identifier and sequence number, in one word behind type, code and checksum.
fn request(is_ipv4: bool, number: u32) -> Vec<u8> {
    let kind = if is_ipv4 { REQUEST4 } else { REQUEST6 };
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(number.to_be_bytes());
    packet.extend(PAYLOAD);
    if is_ipv4 {
        // That of ICMPv6 needs the addresses, and the kernel makes it.
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.as_chunks().0.iter().map(|word| u32::from(u16::from_be_bytes(*word)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    u16::try_from(!(folded + (folded >> 16)) & 0xffff).unwrap_or(0)
}

/// A raw socket for IPv4 receives the IP header too, one for IPv6 does not.
fn is_reply(is_ipv4: bool, number: u32, bytes: &[u8]) -> bool {
    let header = if is_ipv4 { bytes.first().map_or(0, |first| usize::from(first & 0xf) * 4) } else { 0 };
    let Some((head, payload)) = bytes.get(header..).and_then(|icmp| icmp.split_first_chunk::<8>()) else {
        return false;
    };
    let reply = if is_ipv4 { REPLY4 } else { REPLY6 };
    head[..2] == [reply, 0] && head[4..] == number.to_be_bytes() && payload == PAYLOAD
}

/// A program for the kernel (`linux/filter.h`): passes packets with this number.
fn filter(is_ipv4: bool, number: u32) -> Vec<SockFilter> {
    let code = |code: u32| u16::try_from(code).unwrap_or(0);
    let head = if is_ipv4 {
        // X = length of the IP header; A = the word at X + 4
        vec![
            SockFilter::new(code(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH), 0, 0, 0),
            SockFilter::new(code(libc::BPF_LD | libc::BPF_W | libc::BPF_IND), 0, 0, 4),
        ]
    } else {
        vec![SockFilter::new(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), 0, 0, 4)]
    };
    let tail = [
        SockFilter::new(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), 0, 1, number),
        SockFilter::new(code(libc::BPF_RET | libc::BPF_K), 0, 0, u32::MAX),
        SockFilter::new(code(libc::BPF_RET | libc::BPF_K), 0, 0, 0),
    ];
    head.into_iter().chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_over_a_packet_with_its_checksum_is_zero() {
        for number in [0, 1, 0xffff_ffff, 0x1234_5678] {
            assert_eq!(checksum(&request(true, number)), 0);
        }
    }

    #[test]
    fn only_the_reply_to_this_request_counts() {
        let mut packet = request(false, 7);
        assert!(!is_reply(false, 7, &packet), "a request");
        packet[0] = REPLY6;
        assert!(is_reply(false, 7, &packet));
        assert!(!is_reply(false, 8, &packet));
        assert!((0..packet.len()).all(|length| !is_reply(false, 7, &packet[..length])));
        let mut with_header = [[0x45_u8].as_slice(), &[0; 19], &request(true, 7)].concat();
        with_header[20] = REPLY4;
        assert!(is_reply(true, 7, &with_header));
        assert!((0..with_header.len()).all(|length| !is_reply(true, 7, &with_header[..length])));
    }
}
