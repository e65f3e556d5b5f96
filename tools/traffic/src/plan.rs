//! How a datagram is cut and in which order its pieces go, drawn from a seed; and what is done to it on purpose. PURE.

use clap::ValueEnum;
use serde::Serialize;

use crate::draw::Draws;
use crate::packet::{Extensions, OPTIONS_BYTES, Piece, TRANSPORT_HEADER_BYTES, overhead_bytes};

/// Fragments are cut at multiples of it.
pub(crate) const UNIT_BYTES: usize = 8;

/// The order in which fragments are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// First to last
    #[value(name = "in-order")]
    #[serde(rename = "in-order")]
    Forward,
    /// Last to first
    Reversed,
    /// Any
    Random,
    /// The last one, then the others in order
    LastFirst,
    /// Random, and those of up to four datagrams of different flows among each other
    Interleaved,
    /// Each of these in turn
    Mixed,
}

impl Order {
    /// Mixed is each of the others in turn.
    pub(crate) fn at(self, turn: u64) -> Self {
        match self {
            Self::Mixed => match turn % 5 {
                0 => Self::Forward,
                1 => Self::Reversed,
                2 => Self::Random,
                3 => Self::LastFirst,
                _ => Self::Interleaved,
            },
            Self::Forward | Self::Reversed | Self::Random | Self::LastFirst | Self::Interleaved => self,
        }
    }

    fn arrange(self, pieces: &mut [Piece], draws: &mut Draws) {
        match self {
            Self::Forward => {}
            Self::Reversed => pieces.reverse(),
            Self::LastFirst => pieces.rotate_right(1),
            Self::Random | Self::Interleaved | Self::Mixed => draws.shuffle(pieces),
        }
    }
}

/// What datagrams are made like; percentages are of datagrams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) ipv4: bool,
    pub(crate) fragments: (usize, usize),
    /// The most bytes of a packet, IP header included.
    pub(crate) packet_bytes: usize,
    /// Of the message; otherwise the number of fragments decides.
    pub(crate) message_bytes: Option<(usize, usize)>,
    /// A message is not shorter, and not longer.
    pub(crate) message_limits: (usize, usize),
    pub(crate) whole: u8,
    pub(crate) tiny: u8,
    pub(crate) duplicate: u8,
    pub(crate) overlap: u8,
    pub(crate) drop: u8,
    pub(crate) extension_headers: u8,
}

/// What is done to a datagram so that it cannot arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoiled {
    /// Nothing.
    No,
    /// One more fragment overlaps two others, before the last one goes.
    Overlapped,
    /// One fragment is left out.
    LeftOut,
}

/// A datagram's plan.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) message_bytes: usize,
    pub(crate) extensions: Extensions,
    /// In the order of sending.
    pub(crate) pieces: Vec<Piece>,
    pub(crate) whole: bool,
    pub(crate) duplicated: bool,
    pub(crate) spoiled: Spoiled,
}

impl Shape {
    /// The plan of one datagram.
    pub(crate) fn plan(&self, draws: &mut Draws, order: Order) -> Plan {
        let extensions = match (!self.ipv4 && draws.percent(self.extension_headers), draws.between(0, 1)) {
            (false, _) => Extensions::None,
            (true, 0) => Extensions::HopByHop,
            (true, _) => Extensions::Destination,
        };
        let whole = draws.percent(self.whole);
        let wanted = if whole { 1 } else { draws.between(self.fragments.0, self.fragments.1) };
        let tiny = draws.percent(self.tiny);
        let header = TRANSPORT_HEADER_BYTES + if extensions == Extensions::None { 0 } else { OPTIONS_BYTES };
        let most = (self.packet_bytes - overhead_bytes(self.ipv4, extensions, !whole)) / UNIT_BYTES;
        let (message_bytes, count) = self.length(draws, header, (wanted, tiny), most);
        let mut cut =
            Cut { count, first: header / UNIT_BYTES, most, tiny }.pieces(draws, header + message_bytes);

        let spoiled = if cut.len() < 2 {
            Spoiled::No
        } else if draws.percent(self.overlap) {
            Spoiled::Overlapped
        } else if draws.percent(self.drop) {
            Spoiled::LeftOut
        } else {
            Spoiled::No
        };
        order.arrange(&mut cut, draws);
        let mut pieces = cut;
        // Sent again behind an overlap, a fragment may complete the packet for one who started anew.
        let duplicated = pieces.len() > 1 && spoiled != Spoiled::Overlapped && draws.percent(self.duplicate);
        match spoiled {
            Spoiled::No => {}
            Spoiled::Overlapped => overlap(&mut pieces, header + message_bytes),
            Spoiled::LeftOut => drop(pieces.remove(draws.between(0, pieces.len() - 1))),
        }
        if duplicated {
            let first = draws.between(0, pieces.len() - 1);
            let again = draws.between(first + 1, pieces.len());
            pieces.insert(again, pieces[first]);
        }
        Plan { message_bytes, extensions, pieces, whole, duplicated, spoiled }
    }

    /// The message's length, and in how many fragments of at most `most` units it goes, near to what is `wanted`; a `tiny`
    /// first one needs room in the others.
    fn length(
        &self,
        draws: &mut Draws,
        header: usize,
        (wanted, tiny): (usize, bool),
        most: usize,
    ) -> (usize, usize) {
        let (shortest, longest) = self.message_limits;
        let longest = longest.min(if wanted == 1 { most * UNIT_BYTES - header } else { longest });
        let message = match self.message_bytes {
            Some((least, most)) => draws.between(least, most),
            None => {
                let units = draws.between(
                    wanted + 1,
                    if tiny && wanted > 1 { 1 + (wanted - 1) * most } else { wanted * most },
                );
                (units * UNIT_BYTES).saturating_sub(header + draws.between(0, UNIT_BYTES - 1))
            }
        };
        let message = message.clamp(shortest, longest);
        let units = (header + message).div_ceil(UNIT_BYTES);
        (message, wanted.clamp(units.div_ceil(most), units + 1 - header / UNIT_BYTES))
    }
}

/// How a packet is cut; all but `count` in units.
struct Cut {
    count: usize,
    /// The first piece has at least so much: all headers (RFC 7112).
    first: usize,
    most: usize,
    /// The first piece has no more.
    tiny: bool,
}

impl Cut {
    /// Random cuts, in order.
    fn pieces(&self, draws: &mut Draws, bytes: usize) -> Vec<Piece> {
        let mut left = bytes.div_ceil(UNIT_BYTES);
        let mut sizes = Vec::new();
        for behind in (0..self.count).rev() {
            let first = sizes.is_empty();
            let least = left.saturating_sub(behind * self.most).max(if first { self.first } else { 1 });
            let most = left.saturating_sub(behind).min(self.most);
            let size = if first && self.tiny {
                least
            } else {
                draws.between(least, most.min(2 * left / (behind + 1)))
            };
            sizes.push(size);
            left = left.saturating_sub(size);
        }
        let mut offset = 0;
        let piece = |units: &usize| {
            let piece = Piece { offset, length: (units * UNIT_BYTES).min(bytes - offset) };
            offset += piece.length;
            piece
        };
        sizes.iter().map(piece).collect()
    }
}

/// Puts a fragment before the last one sent, that overlaps it and a neighbour that was sent before. So every host that
/// knows that neighbour sees the overlap, and no host has the whole packet yet.
fn overlap(pieces: &mut Vec<Piece>, bytes: usize) {
    let Some(&last) = pieces.last() else { return };
    let boundary = if last.offset > 0 { last.offset } else { last.length };
    let offset = boundary - UNIT_BYTES;
    let length = (2 * UNIT_BYTES).min(bytes - offset);
    pieces.insert(pieces.len() - 1, Piece { offset, length });
}

/// One sequence after another; items keep the number of their sequence.
pub(crate) fn in_turn<T>(sequences: Vec<Vec<T>>) -> Vec<(usize, T)> {
    let numbered = sequences.into_iter().enumerate();
    numbered.flat_map(|(number, items)| items.into_iter().map(move |item| (number, item))).collect()
}

/// Mixes sequences into one, each of which stays in its order; items keep the number of their sequence.
pub(crate) fn interleave<T>(draws: &mut Draws, sequences: Vec<Vec<T>>) -> Vec<(usize, T)> {
    let numbers = sequences.iter().enumerate();
    let mut turns: Vec<usize> =
        numbers.flat_map(|(number, items)| items.iter().map(move |_| number)).collect();
    draws.shuffle(&mut turns);
    let mut sequences: Vec<_> = sequences.into_iter().map(Vec::into_iter).collect();
    turns.into_iter().filter_map(|number| Some((number, sequences[number].next()?))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::packet::{Carrier, Whole};

    const SHAPE: Shape = Shape {
        ipv4: true,
        fragments: (2, 20),
        packet_bytes: 1200,
        message_bytes: None,
        message_limits: (16, 65_000),
        whole: 0,
        tiny: 0,
        duplicate: 0,
        overlap: 0,
        drop: 0,
        extension_headers: 0,
    };

    fn plans(shape: Shape, order: Order) -> impl Iterator<Item = Plan> {
        (0..500).map(move |number| shape.plan(&mut Draws::new(1, number), order))
    }

    /// Every byte of the packet, with how many pieces hold it.
    fn coverage(plan: &Plan) -> Vec<usize> {
        let bytes = plan.pieces.iter().map(|piece| piece.offset + piece.length).max().unwrap();
        let mut times = vec![0; bytes];
        for piece in &plan.pieces {
            times[piece.offset..][..piece.length].iter_mut().for_each(|times| *times += 1);
        }
        times
    }

    #[test]
    fn orders() {
        let offsets = |order| -> Vec<Vec<usize>> {
            let shape = Shape { fragments: (4, 4), ..SHAPE };
            plans(shape, order).map(|plan| plan.pieces.iter().map(|piece| piece.offset).collect()).collect()
        };
        assert!(offsets(Order::Forward).iter().all(|offsets| offsets.is_sorted()));
        assert!(offsets(Order::Reversed).iter().all(|offsets| offsets.iter().rev().is_sorted()));
        assert!(offsets(Order::LastFirst).iter().all(|o| o[0] > o[3] && o[1..].is_sorted() && o[1] == 0));
        assert!(offsets(Order::Random).iter().any(|o| o[0] > 0 && o[3] > 0 && !o.iter().rev().is_sorted()));
        let turns: Vec<Order> = (0..6).map(|turn| Order::Mixed.at(turn)).collect();
        let five = [Order::Forward, Order::Reversed, Order::Random, Order::LastFirst, Order::Interleaved];
        assert_eq!((&turns[..5], turns[5]), (&five[..], Order::Forward));
        assert_eq!(Order::Random.at(1), Order::Random);
    }

    #[test]
    fn what_is_asked_for_is_made() {
        let counts: BTreeMap<usize, usize> =
            plans(SHAPE, Order::Random).fold(BTreeMap::new(), |mut counts, plan| {
                *counts.entry(plan.pieces.len()).or_default() += 1;
                counts
            });
        assert!(counts.keys().copied().eq(2..=20), "{counts:?}");
        assert!(
            plans(Shape { whole: 100, ..SHAPE }, Order::Random)
                .all(|plan| plan.whole && plan.pieces.len() == 1)
        );
        let tiny = Shape { tiny: 100, fragments: (3, 3), ..SHAPE };
        assert!(plans(tiny, Order::Forward).all(|plan| plan.pieces[0].length == 8));
        let exact = Shape { message_bytes: Some((2992, 2992)), fragments: (3, 3), ..SHAPE };
        assert!(
            plans(exact, Order::Forward).all(|plan| plan.message_bytes == 2992 && plan.pieces.len() == 3)
        );
    }

    #[test]
    fn a_left_out_fragment_leaves_a_hole_or_an_end() {
        for plan in plans(Shape { drop: 100, duplicate: 50, ..SHAPE }, Order::Random) {
            assert_eq!(plan.spoiled, Spoiled::LeftOut);
            let covered = coverage(&plan);
            assert!(covered.contains(&0) || covered.len() < plan.message_bytes + TRANSPORT_HEADER_BYTES);
        }
    }

    #[test]
    fn an_overlap_comes_before_the_last_fragment_and_shares_bytes_with_it_and_with_one_sent_before() {
        for order in [Order::Forward, Order::Reversed, Order::LastFirst, Order::Random] {
            for mut plan in plans(Shape { overlap: 100, duplicate: 100, ..SHAPE }, order) {
                assert!(plan.spoiled == Spoiled::Overlapped && !plan.duplicated);
                let shared =
                    |a: Piece, b: Piece| a.offset < b.offset + b.length && b.offset < a.offset + a.length;
                let (last, overlap) = (plan.pieces.pop().unwrap(), plan.pieces.pop().unwrap());
                assert!(shared(last, overlap));
                let before: Vec<_> = plan.pieces.iter().filter(|piece| shared(**piece, overlap)).collect();
                assert_eq!(before.len(), 1, "{plan:?}");
                assert!(
                    before[0].offset > overlap.offset
                        || before[0].offset + before[0].length < overlap.offset + overlap.length
                );
            }
        }
    }

    #[test]
    fn interleaved_sequences_keep_their_orders() {
        let sequences = vec![vec![1, 2, 3], vec![4, 5, 6, 7], vec![], vec![8]];
        let mixed = interleave(&mut Draws::new(5, 6), sequences.clone());
        for (number, sequence) in sequences.into_iter().enumerate() {
            let own: Vec<_> =
                mixed.iter().filter(|(from, _)| *from == number).map(|(_, item)| *item).collect();
            assert_eq!(own, sequence);
        }
        assert!(!mixed.iter().map(|(_, item)| item).is_sorted());
    }

    /// Puts packets together as a receiver does, knowing nothing but their bytes.
    fn reassemble(packets: &[Vec<u8>]) -> Vec<u8> {
        let mut parts = BTreeMap::new();
        let mut end = None;
        for packet in packets {
            let (cut, data, length) = match packet[0] >> 4 {
                4 => (u16::from_be_bytes([packet[6], packet[7]]).rotate_left(3), 20, [packet[2], packet[3]]),
                _ => {
                    let header = if packet[6] == 44 { 40 } else { 48 };
                    assert!(header == 40 || packet[40] == 44);
                    (
                        u16::from_be_bytes([packet[header + 2], packet[header + 3]]),
                        header + 8,
                        [packet[4], packet[5]],
                    )
                }
            };
            let fixed = if packet[0] >> 4 == 4 { 0 } else { 40 };
            assert_eq!(usize::from(u16::from_be_bytes(length)) + fixed, packet.len());
            let (offset, more) = (usize::from(cut & !7), cut & 1 == 1);
            assert!(!more || (packet.len() - data).is_multiple_of(8));
            if !more {
                end = Some(offset + packet.len() - data);
            }
            parts.insert(offset, packet[data..].to_vec());
        }
        let mut whole = Vec::new();
        for (offset, part) in parts {
            assert_eq!(offset, whole.len(), "a hole");
            whole.extend(part);
        }
        assert_eq!(Some(whole.len()), end);
        whole
    }

    proptest! {
        #[test]
        fn fragments_fit_and_make_the_datagram_again(
            seed: u64,
            ipv4: bool,
            fragments in (2usize..50, 0usize..50).prop_map(|(least, more)| (least, least + more)),
            packet_bytes in 128usize..1500,
            message in proptest::option::of(0usize..20_000),
            (tiny, duplicate, extension_headers) in (0u8..=100, 0u8..=100, 0u8..=100),
        ) {
            let message_bytes = message.map(|bytes| (bytes, bytes + 100));
            let shape =
                Shape { ipv4, fragments, packet_bytes, message_bytes, tiny, duplicate, extension_headers, ..SHAPE };
            let plan = shape.plan(&mut Draws::new(seed, 0), Order::Random);
            let message: Vec<u8> = (0..plan.message_bytes).map(|byte| u8::try_from(byte % 251).unwrap()).collect();
            let [from, to] = if ipv4 { ["1.2.3.4:5", "6.7.8.9:10"] } else { ["[1::2]:5", "[3::4]:10"] };
            let whole =
                Whole::new(from.parse().unwrap(), to.parse().unwrap(), 7, Carrier::Udp, plan.extensions, &message);
            let packets: Vec<_> = plan.pieces.iter().map(|piece| whole.packet(*piece)).collect();
            prop_assert!(packets.iter().all(|packet| packet.len() <= packet_bytes));
            let options = if plan.extensions == Extensions::None { 0 } else { OPTIONS_BYTES };
            prop_assert!(plan.pieces.iter().all(|piece| piece.length > 0));
            let first = plan.pieces.iter().find(|piece| piece.offset == 0).unwrap();
            prop_assert!(first.length >= options + TRANSPORT_HEADER_BYTES);
            let again = reassemble(&packets);
            prop_assert_eq!(&again, &whole.packet(Piece { offset: 0, length: again.len() })[whole_header(&plan, ipv4)..]);
            prop_assert_eq!(&again[options + TRANSPORT_HEADER_BYTES..], &message);
        }
    }

    fn whole_header(plan: &Plan, ipv4: bool) -> usize {
        overhead_bytes(ipv4, plan.extensions, false)
    }
}
