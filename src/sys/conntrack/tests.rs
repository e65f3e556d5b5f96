//! What the kernel says is asked in a network namespace of its own; run as root:
//! `cargo test sys::conntrack -- --ignored`.

use std::net::{SocketAddr, UdpSocket};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket};

use super::*;
use crate::sys::{
    namespace::{in_namespace, shell},
    netlink::{HEADER_BYTES, NLMSG_ERROR},
    nft::nft,
};

pub(super) fn packet(protocol: u8, src: &str, dst: &str, ports: (u16, u16)) -> Packet {
    let ports = Ports { src: ports.0, dst: ports.1 };
    Packet::synthetic(protocol, src.parse().unwrap(), dst.parse().unwrap(), ports).unwrap()
}

#[test]
fn requests_are_laid_out_as_the_kernel_reads_them() {
    let native = |value: u16| value.to_ne_bytes();
    let header = |bytes: u32, kind, flags| {
        [&bytes.to_ne_bytes()[..], &native(kind), &native(flags), &7u32.to_ne_bytes(), &[0; 4], &[2, 0, 0, 0]]
            .concat()
    };
    let tuple = |kind: u16, (src, sport): (u8, u8), (dst, dport): (u8, u8)| {
        let mut tuple = [native(52), native(0x8000 | kind)].concat();
        tuple.extend([native(20), native(0x8001)].concat());
        tuple.extend([&native(8)[..], &native(1), &[10, 0, 0, src]].concat());
        tuple.extend([&native(8)[..], &native(2), &[10, 0, 0, dst]].concat());
        tuple.extend([native(28), native(0x8002)].concat());
        tuple.extend([&native(5)[..], &native(1), &[17, 0, 0, 0]].concat());
        tuple.extend([&native(6)[..], &native(2), &[0, sport, 0, 0]].concat());
        tuple.extend([&native(6)[..], &native(3), &[0, dport, 0, 0]].concat());
        tuple
    };
    let flow = packet(17, "10.0.0.1", "10.0.0.2", (3, 4));
    let ports = Ports { src: 3, dst: 4 };
    let written = |kind, flags, fill: &dyn Fn(&mut Writer)| {
        let mut request = Writer::default();
        request.message(kind, flags, 7, [family(&flow), 0, 0, 0], fill);
        request.bytes().to_owned()
    };
    let request = written(IPCTNL_MSG_CT_GET, 0, &|request| question(request, &flow));
    assert_eq!(request, [header(72, 0x0101, 1), tuple(1, (1, 3), (2, 4))].concat());

    let request = written(IPCTNL_MSG_CT_NEW, NLM_F_CREATE | NLM_F_ACK, &|request| {
        order(request, &flow, ports, Mark(0x0102), MarkMask::DEFAULT, 120);
    });
    let word = |kind, value: [u8; 4]| [&native(8)[..], &native(kind), &value].concat();
    let expected = [
        header(148, 0x0100, 0x405),
        tuple(1, (1, 3), (2, 4)),
        tuple(2, (2, 4), (1, 3)),
        word(7, [0, 0, 0, 120]),
        word(8, [0, 0, 1, 2]),
        word(21, [0, 0, 0xff, 0xff]),
    ];
    assert_eq!(request, expected.concat());
}

#[test]
fn flows_of_protocols_with_unknown_keys_are_not_asked_about() {
    for (protocol, asked) in [(GRE, false), (DCCP, false), (UDP_LITE, false), (50, true), (89, true)] {
        let packet = packet(protocol, "10.0.0.1", "10.0.0.2", (0, 0));
        assert_eq!(can_be_found(&packet), asked, "{protocol}");
    }
    let mut fragment = packet(17, "10.0.0.1", "10.0.0.2", (0, 0));
    fragment.l4 = L4::LaterFragment;
    assert!(!can_be_found(&fragment));
}

#[test]
fn answers_are_read_whatever_they_hold() {
    let answer = |kind: u16, sequence: u32, rest: &[u8]| {
        let mut answer = u32::try_from(HEADER_BYTES + rest.len()).unwrap().to_ne_bytes().to_vec();
        answer.extend([kind.to_ne_bytes(), [0; 2]].concat());
        answer.extend([sequence.to_ne_bytes(), [0; 4]].concat());
        answer.extend(rest);
        answer
    };
    let error = |code: i32| answer(NLMSG_ERROR, 5, &(-code).to_ne_bytes());
    assert_eq!(read_answer(&error(libc::ENOENT), 4).unwrap(), None, "another request's");
    assert_eq!(read_answer(&[1, 2, 3], 5).unwrap(), None, "no whole message");
    assert_eq!(read_answer(&error(0), 5).unwrap(), Some(Answer::Done));
    for code in [libc::ENOENT, libc::EPERM] {
        let refused = read_answer(&error(code), 5).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(code));
    }
    for unreadable in [error(-1), answer(NLMSG_ERROR, 5, &[]), answer(9, 5, &[])] {
        assert!(read_answer(&unreadable, 5).is_err(), "{unreadable:?}");
    }
    let attribute = |bytes: u16, kind: u16, value: &[u8]| {
        let mut attribute = [bytes.to_ne_bytes(), kind.to_ne_bytes()].concat();
        attribute.extend(value);
        attribute
    };
    let flow = |attributes: &[Vec<u8>]| {
        answer(IPCTNL_MSG_CT_NEW, 5, &[&[2, 0, 0, 0], &attributes.concat()[..]].concat())
    };
    let other = attribute(6, CTA_TUPLE_ORIG | 0x8000, &[1, 1, 0, 0]);
    let (left, mark) = (attribute(8, CTA_TIMEOUT, &[0, 0, 1, 4]), attribute(8, CTA_MARK, &[0, 0, 1, 2]));
    let read = |answer: &[u8]| read_answer(answer, 5).unwrap().unwrap();
    let entry = |mark, left_seconds| Answer::Entry(FlowMark { mark: Mark(mark), left_seconds });
    assert_eq!(read(&flow(&[other.clone(), left.clone(), mark.clone()])), entry(0x0102, Some(260)));
    assert_eq!(read(&flow(&[other.clone(), mark])), entry(0x0102, None));
    assert_eq!(read(&flow(&[other.clone(), left])), entry(0, Some(260)));
    for cut in [attribute(0, 3, &[]), attribute(200, CTA_MARK, &[1]), attribute(5, CTA_MARK, &[1])] {
        assert_eq!(read(&flow(&[other.clone(), cut])), entry(0, None));
    }
}

#[test]
#[ignore = "needs root, nf_tables and nf_conntrack_netlink"]
fn the_kernel_returns_marks_of_flows() {
    in_namespace(|| {
        let rules = "table inet t { chain c { type filter hook output priority 0; ct mark set 0x17; }\n}\n";
        nft("a test", &["-f", "-"], Some(rules)).unwrap();
        let mut conntrack = Conntrack::open().unwrap();
        assert_eq!(conntrack.missing().map(|error| error.to_string()), None);
        shell("ip link set lo up");
        for address in ["127.0.0.1", "::1"] {
            let socket = UdpSocket::bind((address, 0)).unwrap();
            let from = socket.local_addr().unwrap().port();
            let flow = packet(17, address, address, (from, 9));
            assert_eq!(conntrack.lookup(&flow).unwrap(), None);
            socket.send_to(b"x", (address, 9)).unwrap();
            assert_eq!(mark_of(&mut conntrack, &flow), Some(Mark(0x17)), "{address}");
            let other = packet(17, address, address, (from, 10));
            assert_eq!(conntrack.lookup(&other).unwrap(), None);
            let other = packet(6, address, address, (from, 9));
            assert_eq!(conntrack.lookup(&other).unwrap(), None);
        }
        for (protocol, address) in [(1, "127.0.0.1"), (58, "::1")] {
            let echo = |id| packet(protocol, address, address, (id, 0));
            assert_eq!(conntrack.lookup(&echo(77)).unwrap(), None);
            send_echo_request(address);
            assert_eq!(mark_of(&mut conntrack, &echo(77)), Some(Mark(0x17)), "{address}");
            assert_eq!(conntrack.lookup(&echo(78)).unwrap(), None);
        }
        // Protocols without ports, and SCTP, are requests that the kernel understands.
        for protocol in [50, 132] {
            assert_eq!(conntrack.lookup(&packet(protocol, "10.0.0.1", "10.0.0.2", (1, 2))).unwrap(), None);
        }
    });
}

fn mark_of(conntrack: &mut Conntrack, packet: &Packet) -> Option<Mark> {
    conntrack.lookup(packet).unwrap().map(|pin| pin.mark)
}

#[test]
#[ignore = "needs root, nf_tables and nf_conntrack_netlink"]
fn the_kernel_pins_flows() {
    in_namespace(|| {
        // So that whole datagrams are tracked, with a mark of others and our own, and a lifetime of their own.
        let rules = "table inet t {
            ct timeout long4 {
                protocol udp
                l3proto ip
                policy = { unreplied : 100, replied : 100 }
            }
            ct timeout long6 {
                protocol udp
                l3proto ip6
                policy = { unreplied : 100, replied : 100 }
            }
            chain c {
                type filter hook output priority 0
                ct mark != 0 accept
                ct mark set 0x50017
                meta nfproto ipv4 ct timeout set \"long4\"
                meta nfproto ipv6 ct timeout set \"long6\"
            }
        }
        ";
        nft("a test", &["-f", "-"], Some(rules)).unwrap();
        shell("ip link set lo up");
        let mut conntrack = Conntrack::open().unwrap();
        let (ours, theirs) = (MarkMask::DEFAULT, 0x5_0000);
        for address in ["127.0.0.1", "::1"] {
            let socket = UdpSocket::bind((address, 0)).unwrap();
            let flow = |port| packet(17, address, address, (socket.local_addr().unwrap().port(), port));
            // `seconds` have begun to pass.
            let expect = |conntrack: &mut Conntrack, port, mark, seconds: u32| {
                let pin = conntrack.lookup(&flow(port)).unwrap().unwrap();
                assert_eq!(pin.mark, Mark(mark), "{address}");
                let left = pin.left_seconds.unwrap();
                assert!((seconds - 5..=seconds).contains(&left), "{address}: {left} of {seconds}");
            };
            // There is no entry: it is made, and a whole datagram finds it and gives it the host's own time.
            conntrack.pin(&flow(9), Mark(0x21), ours, 120).unwrap();
            expect(&mut conntrack, 9, 0x21, 120);
            socket.send_to(b"x", (address, 9)).unwrap();
            expect(&mut conntrack, 9, 0x21, 30);
            conntrack.pin(&flow(9), Mark(0x21), ours, 120).unwrap();
            expect(&mut conntrack, 9, 0x21, 120);
            // There is one: it is changed, but not the bits of others, nor what a whole datagram gives it.
            socket.send_to(b"x", (address, 10)).unwrap();
            expect(&mut conntrack, 10, theirs | 0x17, 100);
            conntrack.pin(&flow(10), Mark(0x22), ours, 600).unwrap();
            expect(&mut conntrack, 10, theirs | 0x22, 600);
            socket.send_to(b"x", (address, 10)).unwrap();
            expect(&mut conntrack, 10, theirs | 0x22, 100);
            assert_eq!(conntrack.lookup(&flow(11)).unwrap(), None);
        }
        for protocol in [1, 6, 50, 132] {
            let packet = packet(protocol, "10.0.0.1", "10.0.0.2", (1, 2));
            let refused = conntrack.pin(&packet, Mark(1), ours, 1).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "only UDP is pinned, {protocol} is not");
        }
    });
}

/// With identifier 77; the checksum is left to the kernel, or wrong, which is not checked on the way out.
fn send_echo_request(address: &str) {
    let to = SocketAddr::new(address.parse().unwrap(), 0);
    let (family, protocol, kind) = match to {
        SocketAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, ECHO_REQUEST),
        SocketAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, ECHO_REQUEST6),
    };
    let socket = socket(family, SockType::Raw, SockFlag::empty(), protocol).unwrap();
    let request = [kind, 0, 0, 0, 0, 77, 0, 1];
    let sent = sendto(socket.as_raw_fd(), &request, &SockaddrStorage::from(to), MsgFlags::empty());
    assert_eq!(sent.unwrap(), request.len());
}
