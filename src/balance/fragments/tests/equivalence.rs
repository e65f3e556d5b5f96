//! Fragments in any order get what the whole packet gets.

use proptest::prelude::*;

use super::*;

/// What is in the packet behind the IP header, and how many bytes of it the first fragment must have.
fn payload(kind: u8, port: u16, six: bool, quoted_by: (&str, &str)) -> (u8, Vec<u8>, usize) {
    let ports = [0x9c, 0x40, port.to_be_bytes()[0], port.to_be_bytes()[1]];
    let (icmp, echo, error) = if six { (58, 128, 2) } else { (1, 8, 3) };
    match kind {
        0 => (17, [&ports[..], &[0; 4]].concat(), 8),
        1 => (6, [&ports[..], &[0; 8], &[0x50, 2, 0, 0, 0, 0, 0, 0]].concat(), 20),
        2 => (132, [&ports[..], &[0; 8]].concat(), 12),
        3 => (icmp, vec![echo, 0, 0, 0, ports[2], ports[3], 0, 1], 8),
        4 => {
            let (src, dst) = quoted_by;
            let answer = [ports[2], ports[3], ports[0], ports[1], 0, 0, 0, 0];
            let message = [&[error, 4, 0, 0, 0, 0, 5, 0x14], &ip(17, dst, src, &answer)[..]].concat();
            let len = message.len().next_multiple_of(8);
            (icmp, message, len)
        }
        _ => (47, vec![0; 8], 8),
    }
}

proptest! {
    #[test]
    fn fragments_get_what_the_whole_packet_gets(
        six: bool,
        kind in 0u8..6,
        port in prop::sample::select(vec![80u16, 81, 443]),
        vip in 0usize..2,
        host in 1u8..250,
        more in 0usize..3000,
        size in 1usize..80,
        extensions in prop::collection::vec((prop::sample::select(vec![0u8, 43, 60]), any::<bool>()), 0..3),
        fragmentable in prop::option::of(Just(60u8)),
        order in prop::collection::vec(any::<prop::sample::Index>(), 400),
        returns in prop::collection::vec(any::<prop::sample::Index>(), 400),
    ) {
        let (src, dst) = if six { (format!("2000::{host}"), ["1000::", "1000::2"][vip]) } else {
            (format!("50.0.0.{host}"), ["10.0.0.0", "10.0.0.2"][vip]) };
        let (protocol, mut body, mut needed) = payload(kind, port, six, (&src, dst));
        body.resize(body.len() + more, 0xaa);
        // In IPv6: headers that every fragment has, and one behind the fragment header.
        let mut unfragmentable = None;
        let mut first_header = protocol;
        if six {
            if let Some(kind) = fragmentable {
                body = [&[first_header, 0, 0, 0, 0, 0, 0, 0], &body[..]].concat();
                needed += 8;
                first_header = kind;
            }
            let mut headers = Vec::new();
            let mut last = 0;
            for &(kind, long) in extensions.iter().rev() {
                let len = if long { 16 } else { 8 };
                let mut header = vec![0; len];
                (header[0], header[1]) = (first_header, u8::from(long));
                if headers.is_empty() { last = len; }
                header.extend(&headers);
                headers = header;
                first_header = kind;
            }
            if !extensions.is_empty() {
                unfragmentable = Some((headers.len(), headers.len() - last));
                body = [&headers[..], &body].concat();
            }
        }
        let packet = ip(first_header, &src, dst, &body);
        // 120 fragments in any order never lie in more than 60 pieces.
        let size = (size * 8).max(needed.next_multiple_of(8)).max((body.len() / 120 + 1).next_multiple_of(8));
        let mut lb = Lb::new(FragmentLimits::default());
        let expected = whole(&lb.forwarding, &packet);

        let mut waiting: Vec<_> =
            cut(&packet, 77, size, unfragmentable).into_iter().map(|bytes| (Origin::Outside, bytes)).collect();
        let count = waiting.len();
        let (mut verdicts, mut step) = (Vec::new(), 0);
        while !waiting.is_empty() {
            let (origin, bytes) = waiting.swap_remove(order[step % order.len()].index(waiting.len()));
            let held = lb.balancer.counters.get(Counter::FragmentHeld);
            let verdict = lb.from(origin, &bytes);
            if lb.balancer.counters.get(Counter::FragmentHeld) == held {
                verdicts.push(verdict);
            }
            for bytes in lb.released.drain(..) {
                let at = returns[step % returns.len()].index(waiting.len() + 1);
                waiting.insert(at, (Origin::Held, bytes.into_vec()));
            }
            step += 1;
        }
        // What was held when the first fragment was dropped shares its fate.
        let poisoned = count - verdicts.len();
        prop_assert!(expected.is_none() || poisoned == 0);
        prop_assert!(verdicts.iter().all(|verdict| *verdict == expected), "{verdicts:?} {expected:?}");
        prop_assert_eq!(lb.balancer.counters.get(Counter::FragmentHeldPacketsNow), 0);
        prop_assert_eq!(lb.balancer.counters.get(Counter::FragmentEntriesNow), u64::from(count > 1 && expected.is_none()));
    }
}
