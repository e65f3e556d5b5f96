use proptest::prelude::*;

use super::{super::NFQNL_MSG_CONFIG, *};

const MASK: MarkMask = MarkMask::DEFAULT;

/// A message of this type: both headers, then what is behind them.
fn message(kind: u16, rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADERS_BYTES + rest.len()).unwrap().to_ne_bytes();
    [&length[..], &kind.to_ne_bytes(), &[0; 10], &[2, 0, 0, 7], rest].concat()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap().to_ne_bytes();
    let mut bytes = [&length[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// As the kernel orders the attributes, one of those that do not matter here among them.
fn packet(id: u32, mark: Option<u32>, payload: &[u8]) -> Vec<u8> {
    let header = [&id.to_be_bytes()[..], &[8, 0, 0]].concat();
    let mark = mark.map(|mark| attribute(NFQA_MARK, &mark.to_be_bytes()));
    let attributes = [
        attribute(NFQA_PACKET_HDR, &header),
        attribute(5, &[0, 0, 0, 3]),
        mark.unwrap_or_default(),
        attribute(0x7ff, b"of a kernel to come"),
        attribute(NFQA_PAYLOAD, payload),
    ];
    message(NFQNL_MSG_PACKET, &attributes.concat())
}

/// What the kernel says about an earlier verdict, which it quotes.
fn error(code: i32) -> Vec<u8> {
    let quoted = message(NFQNL_MSG_VERDICT, &attribute(NFQA_VERDICT_HDR, &[0; 8]));
    let mut bytes = [&[0; 16][..], &code.to_ne_bytes(), &quoted].concat();
    let length = u32::try_from(bytes.len()).unwrap().to_ne_bytes();
    bytes[..4].copy_from_slice(&length);
    bytes[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
    bytes
}

fn is_unreadable(read: &Result<Packet<'_>, QueueError>) -> bool {
    matches!(read, Err(QueueError::Other(error)) if error.kind() == io::ErrorKind::InvalidData)
}

#[test]
fn messages_that_came_at_once_are_read_one_by_one() {
    let payload: Vec<u8> = (0..=20).collect();
    let received =
        [packet(1, None, &payload), error(-libc::ENOENT), packet(u32::MAX, Some(0x8000_0001), &[7])].concat();
    let read: Vec<_> = packets(&received).collect();
    let [first, too_late, last] = &read[..] else { panic!("{read:?}") };
    assert_eq!(*first.as_ref().unwrap(), Packet { id: 1, mark: 0, bytes: &payload });
    assert!(matches!(too_late, Err(QueueError::TooLate)), "{too_late:?}");
    assert_eq!(*last.as_ref().unwrap(), Packet { id: u32::MAX, mark: 0x8000_0001, bytes: &[7] });
    assert_eq!(packets(&[]).count(), 0);
}

#[test]
fn reports_of_the_kernel_are_distinguished() {
    let read = |code: i32| packets(&error(code)).collect::<Vec<_>>().pop().unwrap().unwrap_err();
    assert!(matches!(read(-libc::ENOENT), QueueError::TooLate));
    assert!(matches!(read(-libc::ENOBUFS), QueueError::Overrun));
    for code in [libc::EPERM, libc::ENODEV] {
        assert!(
            matches!(read(-code), QueueError::Closed(error) if error.raw_os_error() == Some(code)),
            "{code}"
        );
    }
    assert!(
        matches!(read(-libc::EINVAL), QueueError::Other(error) if error.raw_os_error() == Some(libc::EINVAL))
    );
    // No acknowledgement was requested.
    assert!(is_unreadable(&Err(read(0))));
}

#[test]
fn a_packet_without_its_bytes_gets_a_verdict_too() {
    let id = attribute(NFQA_PACKET_HDR, &[0, 0, 0, 9, 0, 0, 0]);
    let payload = attribute(NFQA_PAYLOAD, &[1; 20]);
    // Behind an attribute that is shorter than its header, or longer than the message, nothing can be read.
    for rest in [vec![], [&[3, 0, 1, 0], &payload[..]].concat(), [&[255, 255, 1, 0], &payload[..]].concat()] {
        let bytes = message(NFQNL_MSG_PACKET, &[&id[..], &rest].concat());
        let read: Vec<_> = packets(&bytes).map(Result::unwrap).collect();
        assert_eq!(read, [Packet { id: 9, mark: 0, bytes: &[] }], "{rest:?}");
    }
}

#[test]
fn what_cannot_be_read_is_one_error() {
    let whole = packet(1, Some(5), &[1; 40]);
    for cut in 1..whole.len() {
        let read: Vec<_> = packets(&whole[..cut]).collect();
        assert!(matches!(&read[..], [read] if is_unreadable(read)), "{cut}: {read:?}");
    }
    let attributes = |attributes: &[&[u8]]| message(NFQNL_MSG_PACKET, &attributes.concat());
    let (id, payload) = (&attribute(NFQA_PACKET_HDR, &[0; 7])[..], &attribute(NFQA_PAYLOAD, &[1; 20])[..]);
    for (what, bytes) in [
        ("no attributes", attributes(&[])),
        ("no id", attributes(&[payload])),
        ("a short id", attributes(&[&attribute(NFQA_PACKET_HDR, &[0; 3]), payload])),
        ("a short mark", attributes(&[id, &attribute(NFQA_MARK, &[0; 3]), payload])),
        ("another message of the queue", message(NFQNL_MSG_CONFIG, &[0; 8])),
        ("a message of another subsystem", message(0x0a00, &[0; 8])),
        ("a message of netlink's own", message(1, &[])),
        ("a message shorter than its header", vec![3; 8]),
        ("a message that says it is empty", vec![0; 32]),
    ] {
        // What follows is read, unless it cannot be known where it begins.
        let read: Vec<_> = packets(&bytes).collect();
        assert!(matches!(&read[..], [read] if is_unreadable(read)), "{what}: {read:?}");
    }
    let good = packet(9, None, &[3; 20]);
    let both = [message(NFQNL_MSG_CONFIG, &[]), good].concat();
    let read: Vec<_> = packets(&both).collect();
    assert!(matches!(&read[..], [bad, Ok(Packet { id: 9, .. })] if is_unreadable(bad)), "{read:?}");
}

proptest! {
    #[test]
    fn any_bytes_have_a_limited_number_of_packets(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(packets(&bytes).count() <= bytes.len());
    }

    /// Nearly sound messages reach further than random ones.
    #[test]
    fn a_changed_message_has_a_limited_number_of_packets(
        changes in prop::collection::vec((0..200usize, any::<u8>()), 1..6),
        cut in 0..200usize,
    ) {
        let mut bytes = [packet(1, Some(2), &[3; 30]), packet(4, None, &[5; 9])].concat();
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(cut);
        prop_assert!(packets(&bytes).count() <= bytes.len());
    }
}

/// The message that says this code, and this mark, about packet 0x01020304.
fn expected(code: u8, mark: Option<[u8; 4]>) -> Vec<u8> {
    let mark = mark.map(|mark| [&[8, 0, 3, 0][..], &mark].concat()).unwrap_or_default();
    [
        &u32::try_from(32 + mark.len()).unwrap().to_ne_bytes()[..],
        &[1, 3, 1, 0],  // a verdict, and NLM_F_REQUEST
        &[0; 8],        // sequence and port
        &[0, 0, 0, 7],  // queue 7
        &[12, 0, 2, 0], // the verdict
        &[0, 0, 0, code, 1, 2, 3, 4],
        &mark,
    ]
    .concat()
}

#[test]
fn a_verdict_changes_our_bits_of_the_mark_alone() {
    let packet = Packet { id: 0x0102_0304, mark: 0xabcd_0123, bytes: &[] };
    let cases = [
        (Verdict::Steer(Mark(0x42)), expected(1, Some([0xab, 0xcd, 0, 0x42]))),
        (Verdict::Pass, expected(1, None)),
        (Verdict::Drop, expected(0, None)),
    ];
    let mut all = Writer::default();
    for (verdict, bytes) in &cases {
        let mut one = Writer::default();
        write(&mut one, QueueNum(7), packet, *verdict, MASK);
        assert_eq!(one.bytes(), bytes, "{verdict:?}");
        write(&mut all, QueueNum(7), packet, *verdict, MASK);
    }
    assert_eq!(all.bytes(), cases.map(|(_, bytes)| bytes).concat(), "one behind the other");
}
