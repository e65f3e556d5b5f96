//! What the kernel says is asked in a network namespace of its own; run as root:
//! `cargo test sys::conntrack -- --ignored`.

use std::net::{SocketAddr, UdpSocket};

use nix::sys::socket::{SockaddrStorage, sendto};

use super::*;
use crate::sys::{
    namespace::{in_namespace, shell},
    nft::nft,
};

fn packet(protocol: u8, src: &str, dst: &str, ports: (u16, u16)) -> Packet {
    let ports = Ports { src: ports.0, dst: ports.1 };
    Packet::described(protocol, src.parse().unwrap(), dst.parse().unwrap(), ports).unwrap()
}

#[test]
fn a_question_is_laid_out_as_the_kernel_reads_it() {
    let question = Question::new(&packet(17, "10.0.0.1", "10.0.0.2", (1, 2)), 7).unwrap();
    let native = |value: u16| value.to_ne_bytes();
    let mut expected = Vec::new();
    expected.extend(72u32.to_ne_bytes());
    expected.extend([native(0x0101), native(1)].concat());
    expected.extend([7u32.to_ne_bytes(), [0; 4], [2, 0, 0, 0]].concat());
    expected.extend([native(52), native(0x8001)].concat());
    expected.extend([native(20), native(0x8001)].concat());
    expected.extend([&native(8)[..], &native(1), &[10, 0, 0, 1]].concat());
    expected.extend([&native(8)[..], &native(2), &[10, 0, 0, 2]].concat());
    expected.extend([native(28), native(0x8002)].concat());
    expected.extend([&native(5)[..], &native(1), &[17, 0, 0, 0]].concat());
    expected.extend([&native(6)[..], &native(2), &[0, 1, 0, 0]].concat());
    expected.extend([&native(6)[..], &native(3), &[0, 2, 0, 0]].concat());
    assert_eq!(question.bytes(), expected);
}

#[test]
fn the_longest_question_fits() {
    let question = Question::new(&packet(58, "1000::1", "1000::2", (9, 0)), 1).unwrap();
    assert_eq!(question.bytes().len(), 104);
}

#[test]
fn what_the_kernel_tells_apart_by_more_than_is_known_is_not_asked() {
    for (protocol, asked) in [(GRE, false), (DCCP, false), (UDP_LITE, false), (50, true), (89, true)] {
        let packet = packet(protocol, "10.0.0.1", "10.0.0.2", (0, 0));
        assert_eq!(Question::new(&packet, 1).is_some(), asked, "{protocol}");
    }
    let mut fragment = packet(17, "10.0.0.1", "10.0.0.2", (0, 0));
    fragment.l4 = L4::LaterFragment;
    assert!(Question::new(&fragment, 1).is_none());
}

#[test]
fn answers_are_read_whatever_they_hold() {
    let answer = |kind: u16, sequence: u32, rest: &[u8]| {
        let mut answer = vec![0; 4];
        answer.extend([kind.to_ne_bytes(), [0; 2]].concat());
        answer.extend([sequence.to_ne_bytes(), [0; 4]].concat());
        answer.extend(rest);
        answer
    };
    let error = |code: i32| answer(NLMSG_ERROR, 5, &(-code).to_ne_bytes());
    assert!(read_answer(&error(libc::ENOENT), 4).is_none(), "another question's");
    assert_eq!(read_answer(&error(libc::ENOENT), 5).unwrap().unwrap(), None);
    let refused = read_answer(&error(libc::EPERM), 5).unwrap().unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    for unreadable in [error(0), answer(NLMSG_ERROR, 5, &[]), answer(9, 5, &[]), vec![1, 2, 3]] {
        assert!(read_answer(&unreadable, 5).unwrap().is_err(), "{unreadable:?}");
    }
    let attribute = |bytes: u16, kind: u16, value: &[u8]| {
        let mut attribute = [bytes.to_ne_bytes(), kind.to_ne_bytes()].concat();
        attribute.extend(value);
        attribute
    };
    let flow = |attributes: &[Vec<u8>]| {
        answer(IPCTNL_MSG_CT_NEW, 5, &[&[2, 0, 0, 0], &attributes.concat()[..]].concat())
    };
    let other = attribute(6, CTA_TUPLE_ORIG | NLA_F_NESTED, &[1, 1, 0, 0]);
    let mark = attribute(8, CTA_MARK, &[0, 0, 1, 2]);
    let read = |answer: &[u8]| read_answer(answer, 5).unwrap().unwrap();
    assert_eq!(read(&flow(&[other.clone(), mark])), Some(Mark(0x0102)));
    assert_eq!(read(&flow(std::slice::from_ref(&other))), Some(Mark(0)));
    for cut in [attribute(0, 3, &[]), attribute(200, CTA_MARK, &[1]), attribute(5, CTA_MARK, &[1])] {
        assert_eq!(read(&flow(&[other.clone(), cut])), Some(Mark(0)));
    }
}

#[test]
#[ignore = "needs root, nf_tables and nf_conntrack_netlink"]
fn the_kernel_tells_marks_of_flows() {
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
            assert_eq!(conntrack.mark_of(&flow).unwrap(), None);
            socket.send_to(b"x", (address, 9)).unwrap();
            assert_eq!(conntrack.mark_of(&flow).unwrap(), Some(Mark(0x17)), "{address}");
            let other = packet(17, address, address, (from, 10));
            assert_eq!(conntrack.mark_of(&other).unwrap(), None);
            let other = packet(6, address, address, (from, 9));
            assert_eq!(conntrack.mark_of(&other).unwrap(), None);
        }
        for (protocol, address) in [(1, "127.0.0.1"), (58, "::1")] {
            let echo = |id| packet(protocol, address, address, (id, 0));
            assert_eq!(conntrack.mark_of(&echo(77)).unwrap(), None);
            send_echo_request(address);
            assert_eq!(conntrack.mark_of(&echo(77)).unwrap(), Some(Mark(0x17)), "{address}");
            assert_eq!(conntrack.mark_of(&echo(78)).unwrap(), None);
        }
        // Protocols without ports, and SCTP, are questions that the kernel understands.
        for protocol in [50, 132] {
            assert_eq!(conntrack.mark_of(&packet(protocol, "10.0.0.1", "10.0.0.2", (1, 2))).unwrap(), None);
        }
    });
}

/// With identifier 77; the checksum is left to the kernel, or wrong, which nobody minds on the way out.
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
