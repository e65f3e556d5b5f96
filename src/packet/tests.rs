use proptest::prelude::*;

use super::*;

fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 50, 0, 0, 1, 10, 0, 0, 0];
    let total = u16::try_from(20 + payload.len()).unwrap();
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    bytes[4..6].copy_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend("2000::1".parse::<Ipv6Addr>().unwrap().octets());
    bytes.extend("1000::".parse::<Ipv6Addr>().unwrap().octets());
    bytes.extend(payload);
    bytes
}

fn tcp(flags: u8) -> Vec<u8> {
    let mut bytes = vec![0x9c, 0x40, 0x13, 0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags];
    bytes.resize(20, 0);
    bytes
}

const PORTS: Ports = Ports { src: 40000, dst: 5001 };

#[test]
fn reads_ports_and_the_syn() {
    for (flags, syn) in
        [(0x02, true), (0xc2, true), (0x12, false), (0x10, false), (0x04, false), (0x03, false)]
    {
        for packet in [v4(6, &tcp(flags)), v6(6, &tcp(flags))] {
            let parsed = Packet::parse(&packet).unwrap();
            assert_eq!(parsed.l4, L4::Tcp { ports: PORTS, syn });
        }
    }
    let ports = &tcp(0)[..8];
    assert_eq!(Packet::parse(&v4(17, ports)).unwrap().l4, L4::Udp(PORTS));
    assert_eq!(Packet::parse(&v6(132, ports)).unwrap().l4, L4::Sctp(PORTS));
    assert_eq!(Packet::parse(&v4(1, ports)).unwrap().l4, L4::Other);
    let parsed = Packet::parse(&v4(6, &tcp(2))).unwrap();
    assert_eq!(parsed.addresses, Addresses::V4 { src: [50, 0, 0, 1].into(), dst: [10, 0, 0, 0].into() });
}

#[test]
fn ports_lie_behind_ipv4_options() {
    let mut packet = v4(17, &[]);
    packet[0] = 0x47;
    packet[2..4].copy_from_slice(&36u16.to_be_bytes());
    packet.extend([1; 8]);
    packet.extend(&tcp(0)[..8]);
    assert_eq!(Packet::parse(&packet).unwrap().l4, L4::Udp(PORTS));
}

#[test]
fn ports_lie_behind_extension_headers() {
    let mut payload = vec![43, 0, 0, 0, 0, 0, 0, 0]; // hop by hop, 8 bytes, then routing
    payload.extend([60, 1]); // routing, 16 bytes, then destination options
    payload.extend([0; 14]);
    payload.extend([51, 0, 0, 0, 0, 0, 0, 0]); // destination options, then AH
    payload.extend([44, 4]); // AH of 24 bytes, then fragment
    payload.extend([0; 22]);
    payload.extend([17, 0, 0, 1, 0, 0, 0, 9]); // first fragment, then UDP
    payload.extend(&tcp(0)[..8]);
    let parsed = Packet::parse(&v6(0, &payload)).unwrap();
    assert_eq!((parsed.protocol, parsed.l4), (17, L4::Udp(PORTS)));
    // No next header (RFC 8200, 4.7) is a protocol like any other.
    assert_eq!(Packet::parse(&v6(59, &[])).unwrap().l4, L4::Other);
}

#[test]
fn the_walk_over_extension_headers_is_bounded() {
    let chain = |n: usize| [60u8, 0, 0, 0, 0, 0, 0, 0].repeat(n);
    let mut allowed = chain(EXTENSIONS_MAX);
    let end = allowed.len() - 8;
    allowed[end] = 17;
    allowed.extend(&tcp(0)[..8]);
    assert_eq!(Packet::parse(&v6(60, &allowed)).unwrap().l4, L4::Udp(PORTS));
    assert_eq!(Packet::parse(&v6(60, &chain(EXTENSIONS_MAX + 1))), Err(Malformed::TooManyExtensions));
}

#[test]
fn later_fragments_have_no_ports() {
    let mut packet = v4(17, &tcp(0)[..8]);
    packet[7] = 1;
    assert_eq!(Packet::parse(&packet).unwrap().l4, L4::LaterFragment);
    packet[6..8].copy_from_slice(&[0x20, 0]); // more fragments, offset 0: the first
    assert_eq!(Packet::parse(&packet).unwrap().l4, L4::Udp(PORTS));
    let parsed = Packet::parse(&v6(44, &[17, 0, 0, 8, 0, 0, 0, 9, 1, 2, 3])).unwrap();
    assert_eq!((parsed.protocol, parsed.l4), (17, L4::LaterFragment));
}

#[test]
fn every_fault_has_its_reason() {
    let with = |mut packet: Vec<u8>, at: usize, byte: u8| {
        packet[at] = byte;
        Packet::parse(&packet)
    };
    assert_eq!(Packet::parse(&[]), Err(Malformed::Version));
    assert_eq!(Packet::parse(&[0x50; 40]), Err(Malformed::Version));
    assert_eq!(Packet::parse(&v4(6, &[])[..19]), Err(Malformed::IpHeader));
    assert_eq!(Packet::parse(&v6(6, &[])[..39]), Err(Malformed::IpHeader));
    assert_eq!(with(v4(6, &tcp(2)), 0, 0x44), Err(Malformed::IpLength));
    assert_eq!(with(v4(6, &tcp(2)), 3, 19), Err(Malformed::IpLength));
    assert_eq!(with(v4(6, &[]), 0, 0x46), Err(Malformed::IpLength));
    assert_eq!(Packet::parse(&v4(6, &tcp(2)[..13])), Err(Malformed::L4Header));
    assert_eq!(Packet::parse(&v4(17, &[0, 1, 2])), Err(Malformed::L4Header));
    assert_eq!(Packet::parse(&v6(60, &[17, 1, 0, 0, 0, 0, 0, 0])), Err(Malformed::Extension));
    assert_eq!(Packet::parse(&v6(44, &[17, 0, 0])), Err(Malformed::Extension));
    // Padding behind the length is no transport header.
    assert_eq!(with(v4(17, &tcp(0)[..8]), 3, 22), Err(Malformed::L4Header));
}

#[test]
fn a_length_of_zero_stands_for_a_big_packet() {
    let mut packet = v4(6, &tcp(2));
    packet[2..4].copy_from_slice(&[0, 0]);
    assert!(Packet::parse(&packet).is_ok());
    let mut packet = v6(6, &tcp(2));
    packet[4..6].copy_from_slice(&[0, 0]);
    assert!(Packet::parse(&packet).is_ok());
}

proptest! {
    #[test]
    fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Packet::parse(&bytes);
    }

    /// Valid packets with some bytes changed reach deeper than random ones.
    #[test]
    fn no_change_of_a_valid_packet_causes_a_panic(
        six: bool, next in prop::sample::select(vec![0u8, 6, 17, 43, 44, 51, 59, 60, 132]),
        mut payload in prop::collection::vec(any::<u8>(), 0..120), cut in 0usize..160, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        payload.insert(0, next);
        let mut packet = if six { v6(next, &payload) } else { v4(next, &payload) };
        for (at, byte) in changes {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        let _ = Packet::parse(&packet[..cut.min(packet.len())]);
    }
}

/// An ICMP error of this type to the VIP, quoting a packet from it.
fn error4(kind: u8, quoted: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 4, 0, 0, 0, 0, 5, 0x14];
    message.extend(quoted);
    v4(1, &message)
}

fn error6(kind: u8, quoted: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 5, 0x14];
    message.extend(quoted);
    v6(58, &message)
}

/// The packet with source and destination address exchanged, as the backend sends it.
fn answer(mut packet: Vec<u8>) -> Vec<u8> {
    let (src, len) = if packet[0] >> 4 == 4 { (12, 4) } else { (8, 16) };
    let (from, to) = packet[src..src + 2 * len].split_at_mut(len);
    from.swap_with_slice(to);
    packet
}

const ANSWER_PORTS: [u8; 8] = [0x13, 0x89, 0x9c, 0x40, 0, 0, 0, 0];

#[test]
fn an_icmp_error_is_about_the_flow_it_quotes() {
    let flow = |packet: &[u8]| {
        let packet = Packet::parse(packet).unwrap();
        assert!(packet.quoted);
        (packet.addresses, packet.protocol, packet.l4)
    };
    let expected4 = Packet::parse(&v4(17, &tcp(0)[..8])).unwrap();
    let expected6 = Packet::parse(&v6(17, &tcp(0)[..8])).unwrap();
    for kind in [3, 11, 12] {
        let udp = answer(v4(17, &ANSWER_PORTS));
        assert_eq!(flow(&error4(kind, &udp)), (expected4.addresses, 17, L4::Udp(PORTS)));
        // TCP: eight bytes suffice, and the length field says more than is quoted (RFC 792).
        let mut segment = answer(v4(6, &ANSWER_PORTS));
        segment[2..4].copy_from_slice(&1500u16.to_be_bytes());
        assert_eq!(flow(&error4(kind, &segment)).2, L4::Tcp { ports: PORTS, syn: false });
    }
    for kind in 1..=4 {
        // Behind an extension header.
        let udp = answer(v6(60, &[&[17, 0, 0, 0, 0, 0, 0, 0], &ANSWER_PORTS[..]].concat()));
        assert_eq!(flow(&error6(kind, &udp)), (expected6.addresses, 17, L4::Udp(PORTS)));
    }
    let pong = answer(v4(1, &[0, 0, 0, 0, 0x12, 0x34, 0, 1]));
    assert_eq!(flow(&error4(3, &pong)).2, L4::Echo { id: 0x1234 });
    let mut later = answer(v4(17, &ANSWER_PORTS));
    later[7] = 1;
    assert_eq!(flow(&error4(3, &later)).2, L4::LaterFragment);
}

#[test]
fn an_icmp_error_that_quotes_nothing_of_its_receiver_is_refused() {
    for bad in [
        error4(3, &[]),
        error4(3, &answer(v4(17, &ANSWER_PORTS))[..22]),
        error4(3, &v4(17, &ANSWER_PORTS)),
        error6(2, &v6(17, &ANSWER_PORTS)),
        error6(2, &answer(v4(17, &ANSWER_PORTS))),
    ] {
        assert_eq!(Packet::parse(&bad), Err(Malformed::IcmpQuote));
    }
    assert_eq!(Packet::parse(&v4(1, &[3, 4, 0, 0])), Err(Malformed::L4Header));
    // Redirects and all that is no error are not about flows.
    assert_eq!(Packet::parse(&error4(5, &answer(v4(17, &ANSWER_PORTS)))).unwrap().l4, L4::Other);
}

#[test]
fn an_echo_request_has_an_identifier() {
    let ping = [0, 0, 0, 0, 0x12, 0x34, 0, 1];
    for (packet, kind) in [(v4(1, &ping), 8), (v6(58, &ping), 128)] {
        let mut packet = packet;
        let at = packet.len() - ping.len();
        packet[at] = kind;
        let parsed = Packet::parse(&packet).unwrap();
        assert_eq!((parsed.l4, parsed.quoted), (L4::Echo { id: 0x1234 }, false));
    }
}
