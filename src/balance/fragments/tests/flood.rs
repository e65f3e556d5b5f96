//! Floods of fragments that belong to nothing, and honest datagrams among them.

use super::*;

/// Pseudo-random numbers (xorshift), the same at every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % limit).unwrap()
    }
}

/// A fragment of the flood, by how many there were before it: its id, where it begins, and its length.
type Kind = fn(&mut Numbers, usize) -> (usize, usize, usize);

const HONEST: usize = 400;
/// Fragments of one honest datagram come within so many of the flood.
const SPREAD: u64 = 2_000;
const FLOOD: usize = 60_000;

/// A million fragments a second. Says how many of the honest datagrams went to one backend as a whole.
fn flood(sources: u64, kind: Kind) -> (Lb, usize) {
    let limits = FragmentLimits::default();
    let mut lb = Lb::new(limits);
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut honest: Vec<(usize, usize, Vec<u8>)> = Vec::new();
    for number in 0..HONEST {
        let begin = numbers.below(FLOOD as u64);
        let src = format!("51.0.{}.{}", number / 200, number % 200 + 1);
        let datagram = packet(17, &src, 4000, "10.0.0.0", 80, 0);
        let datagram = [&datagram[..], &[7; 3000]].concat();
        for piece in cut(&datagram, 1, 1480, None) {
            honest.push((begin + numbers.below(SPREAD), number, piece));
        }
    }
    honest.sort();
    let mut steered = vec![Vec::new(); HONEST];
    let mut due = honest.into_iter().peekable();
    for at in 0..FLOOD + usize::try_from(SPREAD).unwrap() {
        lb.now_ms = at as u64 / 1000;
        while let Some((_, number, piece)) = due.next_if(|(when, ..)| *when <= at) {
            steered[number].extend(give_all(&mut lb, &piece));
        }
        let source = numbers.below(sources);
        let src = format!("50.{}.{}.{}", source / 65536, source / 256 % 256, source % 256);
        let (id, start, len) = kind(&mut numbers, at);
        let payload: Vec<u8> = FIRST.into_iter().chain(std::iter::repeat(0)).take(len).collect();
        give_all(&mut lb, &from_source(&src, u32::try_from(id).unwrap(), start, &payload));
        let level = |counter| lb.balancer.counters.get(counter);
        assert!(level(Counter::FragmentEntriesNow) <= limits.entries.into());
        assert!(level(Counter::FragmentHeldPacketsNow) <= limits.held_packets.into());
        assert!(level(Counter::FragmentHeldBytesNow) <= limits.held_bytes.into());
    }
    let whole =
        steered.iter().filter(|marks| marks.len() == 3 && marks.iter().all(|m| *m == marks[0])).count();
    (lb, whole)
}

/// Gives a fragment, and then those that it releases. Says where they went.
fn give_all(lb: &mut Lb, bytes: &[u8]) -> Vec<Mark> {
    let mut marks: Vec<_> = lb.give(bytes).into_iter().collect();
    for bytes in std::mem::take(&mut lb.released) {
        marks.extend(lb.from(Origin::Held, &bytes));
    }
    marks
}

/// Later fragments, which are held; first ones; both; and the smallest later ones, of few packets, one behind another.
fn kinds() -> [Kind; 4] {
    [
        |numbers, _| (numbers.below(65536), 8 * (1 + numbers.below(1000)), 1400),
        |numbers, _| (numbers.below(65536), 0, 24),
        |numbers, _| {
            let id = numbers.below(65536);
            if numbers.below(2) == 0 { (id, 0, 24) } else { (id, 8 * (1 + numbers.below(1000)), 400) }
        },
        |_, at| (at / 4000, 8 * (1 + at % 4000), 8),
    ]
}

#[test]
fn honest_datagrams_pass_a_flood_from_one_source() {
    for kind in kinds() {
        let (lb, whole) = flood(1, kind);
        assert!(whole * 100 >= HONEST * 95, "{whole} of {HONEST}");
        assert!(lb.balancer.counters.get(Counter::DropFragmentSource) > 1000);
        assert_eq!(
            lb.balancer.counters.get(Counter::FragmentEvicted),
            0,
            "the fragments of the flood stay within their source's share, and replace no others"
        );
    }
}

#[test]
fn honest_datagrams_pass_a_flood_from_many_sources() {
    for kind in kinds() {
        let (lb, whole) = flood(10_000, kind);
        assert!(whole * 100 >= HONEST * 95, "{whole} of {HONEST}");
        assert_eq!(lb.balancer.counters.get(Counter::DropFragmentSource), 0);
        assert!(lb.balancer.counters.get(Counter::FragmentEvicted) > 1000);
    }
}
