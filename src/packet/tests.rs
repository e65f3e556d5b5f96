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

/// A UDP fragment of the packet that [`v4`] makes, by its field of flags and offset.
fn fragment4(id: u16, field: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = v4(17, payload);
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&field.to_be_bytes());
    packet
}

/// A fragment header, with the next one's number.
fn header6(next: u8, field: u16, id: u32) -> Vec<u8> {
    let mut bytes = vec![next, 0];
    bytes.extend(field.to_be_bytes());
    bytes.extend(id.to_be_bytes());
    bytes
}

#[test]
fn a_fragment_has_its_packets_identity_and_its_place() {
    let ports = &tcp(0)[..8];
    let packet = fragment4(0xfffe, 0x2000, ports);
    let whole = Packet::parse(&v4(17, ports));
    let expected = Fragment {
        key: FragmentKey { addresses: whole.unwrap().addresses, protocol: 17, id: 0xfffe },
        start: 0,
        end: 8,
        more: true,
        bytes: Some(&packet),
        first: Some(whole),
        over_tcp_flags: false,
    };
    assert_eq!(Fragment::parse(&packet), Ok(Some(expected)));
    let packet = fragment4(0xfffe, 3, &[1, 2, 3]);
    let expected =
        Fragment { start: 24, end: 27, more: false, bytes: Some(&packet), first: None, ..expected };
    assert_eq!(Fragment::parse(&packet), Ok(Some(expected)));
    // The reserved bit and "don't fragment" make no fragment.
    assert_eq!(Fragment::parse(&fragment4(1, 0xc000, ports)), Ok(None));
    // Padding is no part of it, and what was cut is known by the length field.
    let padded = [&packet[..], &[0; 9]].concat();
    assert_eq!(Fragment::parse(&padded), Ok(Some(expected)));
    let cut = Fragment { bytes: None, ..expected };
    assert_eq!(Fragment::parse(&packet[..22]), Ok(Some(cut)));
    assert_eq!(Fragment::parse(&packet[..19]), Err(Malformed::IpHeader));
}

#[test]
fn an_ipv6_fragment_lies_behind_other_headers() {
    let ports = &tcp(0)[..8];
    let addresses = Packet::parse(&v6(17, ports)).unwrap().addresses;
    // Hop by hop, routing, destination options: 8, 16 and 8 bytes. AH comes behind the fragment header.
    let before = [&[43, 0, 0, 0, 0, 0, 0, 0, 60, 1][..], &[0; 14], &[44, 0, 0, 0, 0, 0, 0, 0]].concat();
    let behind = [&[17, 1][..], &[0; 10], ports, &[9; 4]].concat();
    let packet = v6(0, &[before.clone(), header6(51, 1, 0xdead_beef), behind].concat());
    let fragment = Fragment::parse(&packet).unwrap().unwrap();
    assert_eq!(fragment.key, FragmentKey { addresses, protocol: 0, id: 0xdead_beef });
    assert_eq!(
        (fragment.start, fragment.end, fragment.more, fragment.bytes),
        (0, 24, true, Some(&packet[..]))
    );
    assert_eq!(fragment.first, Some(Ok(Packet::parse(&v6(17, ports)).unwrap())));
    let later = v6(0, &[before.clone(), header6(6, 8, 7), vec![1]].concat());
    let fragment = Fragment::parse(&later).unwrap().unwrap();
    assert_eq!((fragment.start, fragment.end, fragment.more), (8, 9, false));
    assert_eq!((fragment.first, fragment.over_tcp_flags, fragment.key.protocol), (None, true, 0));
    // Atomic: whole. So is what has no fragment header at all, and what has one that says nothing behind the first.
    assert_eq!(Fragment::parse(&v6(0, &[before, header6(17, 0, 7), ports.to_vec()].concat())), Ok(None));
    assert_eq!(Fragment::parse(&v6(17, ports)), Ok(None));
    // A malformed header behind the fragment header is an error of the packet only.
    let cut = v6(44, &[header6(60, 1, 7), vec![17, 9, 0, 0, 0, 0, 0, 0]].concat());
    let fragment = Fragment::parse(&cut).unwrap().unwrap();
    assert_eq!(fragment.first, Some(Err(Malformed::Extension)));
    // One before it is an error of the fragment too.
    assert_eq!(Fragment::parse(&v6(60, &[44, 9, 0, 0, 0, 0, 0, 0])), Err(Malformed::Extension));
    assert_eq!(Fragment::parse(&v6(44, &[17, 0, 0])), Err(Malformed::Extension));
    let chain = [60u8, 0, 0, 0, 0, 0, 0, 0].repeat(EXTENSIONS_MAX + 1);
    assert_eq!(Fragment::parse(&v6(60, &chain)), Err(Malformed::TooManyExtensions));
}

#[test]
fn a_fragment_has_a_possible_length() {
    let length = Err(Malformed::FragmentLength);
    assert_eq!(Fragment::parse(&fragment4(1, 0x2000, &[0; 12])), length);
    assert_eq!(Fragment::parse(&fragment4(1, 1, &[])), length);
    assert!(Fragment::parse(&fragment4(1, 0x1fff, &[0; 8])).is_err());
    // Of 65535 bytes, the IPv4 header takes 20.
    assert_eq!(Fragment::parse(&fragment4(1, 65512 / 8, &[0; 4])), length);
    assert_eq!(Fragment::parse(&fragment4(1, 65512 / 8, &[0; 3])).unwrap().unwrap().end, 65515);
    let six = |len: usize| v6(44, &[header6(17, 65528, 1), vec![0; len]].concat());
    assert_eq!(Fragment::parse(&six(8)), length);
    assert_eq!(Fragment::parse(&six(7)).unwrap().unwrap().end, 65535);
    // Lengths of 0, as big packets have, are none.
    let mut big = fragment4(1, 0x2000, &[0; 8]);
    big[2..4].fill(0);
    assert_eq!(Fragment::parse(&big), length);
    let mut jumbo = v6(44, &[header6(17, 1, 1), vec![0; 8]].concat());
    jumbo[4..6].fill(0);
    assert_eq!(Fragment::parse(&jumbo), length);
}

/// What errors quote is what routers saw: fragments, packets with extension headers, and as little as they like.
#[test]
fn an_icmp_error_may_quote_a_fragment() {
    let quoted = |packet: &[u8]| Packet::parse(packet).map(|packet| (packet.protocol, packet.l4));
    let udp = Ok((17, L4::Udp(PORTS)));
    let later = Ok((17, L4::LaterFragment));
    // The first one has the ports, also where it is all that is quoted of a larger packet.
    let mut first = answer(fragment4(1, 0x2000, &ANSWER_PORTS));
    first[2..4].copy_from_slice(&1500u16.to_be_bytes());
    assert_eq!(quoted(&error4(11, &first)), udp);
    assert_eq!(quoted(&error4(11, &answer(fragment4(1, 0x2001, &ANSWER_PORTS)))), later);
    for field in [0, 1] {
        let first = answer(v6(44, &[header6(17, field, 7), ANSWER_PORTS.to_vec()].concat()));
        assert_eq!(quoted(&error6(2, &first)), udp, "atomic, or with more behind it");
    }
    assert_eq!(quoted(&error6(2, &answer(v6(44, &header6(17, 8, 7))))), later);
    // Behind options.
    let mut options = answer(v4(17, &[&[1; 8][..], &ANSWER_PORTS].concat()));
    options[0] = 0x47;
    assert_eq!(quoted(&error4(3, &options)), udp);
    // Behind hop by hop, routing, destination options and AH, and a fragment header among them.
    let headers = [
        &[43, 0, 0, 0, 0, 0, 0, 0, 44, 1][..],
        &[0; 14],
        &header6(60, 1, 7),
        &[51, 0, 0, 0, 0, 0, 0, 0, 17, 1],
        &[0; 10],
        &ANSWER_PORTS,
    ];
    assert_eq!(quoted(&error6(2, &answer(v6(0, &headers.concat())))), udp);
    // Four bytes of ports are enough, three are not; nor are headers that end before the ports.
    for (len, expected) in [(4, udp), (3, Err(Malformed::IcmpQuote))] {
        let answer4 = answer(v4(17, &ANSWER_PORTS));
        assert_eq!(quoted(&error4(3, &answer4[..20 + len])), expected);
        let answer6 = answer(v6(60, &[&[17, 0, 0, 0, 0, 0, 0, 0], &ANSWER_PORTS[..]].concat()));
        assert_eq!(quoted(&error6(2, &answer6[..48 + len])), expected);
        assert_eq!(quoted(&error6(2, &answer6[..40 + len])), Err(Malformed::IcmpQuote));
    }
    // The pong to a ping, cut behind its identifier.
    let pong = answer(v4(1, &[0, 0, 0, 0, 0x12, 0x34, 0, 1]));
    assert_eq!(quoted(&error4(11, &pong[..26])), Ok((1, L4::Echo { id: 0x1234 })));
    assert_eq!(quoted(&error4(11, &pong[..24])), Err(Malformed::IcmpQuote));
}

/// An error that comes in fragments itself: the first one shows where all go.
#[test]
fn a_fragmented_icmp_error_is_about_the_flow_it_quotes() {
    let mut error = error4(3, &answer(v4(17, &[&ANSWER_PORTS[..], &[0; 36]].concat())));
    error[6] = 0x20;
    let fragment = Fragment::parse(&error).unwrap().unwrap();
    assert_eq!(fragment.first.unwrap().unwrap().l4, L4::Udp(PORTS));
}

proptest! {
    #[test]
    fn no_bytes_cause_a_panic_in_a_fragment(
        six: bool, field: u16, next in prop::sample::select(vec![0u8, 6, 17, 43, 44, 58, 60]),
        payload in prop::collection::vec(any::<u8>(), 0..80), cut in 0usize..160,
    ) {
        let mut packet = if six { v6(44, &[header6(next, field, 1), payload].concat()) } else { fragment4(1, field, &payload) };
        packet.truncate(cut);
        if let Ok(Some(fragment)) = Fragment::parse(&packet) {
            prop_assert!(fragment.start < fragment.end);
            prop_assert_eq!(fragment.first.is_some(), fragment.start == 0);
            prop_assert!(!fragment.more || fragment.end % 8 == 0);
        }
    }
}
