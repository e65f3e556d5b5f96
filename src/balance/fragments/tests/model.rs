//! The table against one without an index, lists or sums: a vector from the least to the most recently used packet, a
//! bitmap for the bytes of each. Whatever comes in whatever order, both must give the same verdicts, release the same
//! fragments, move the same counters, show the same levels and pin the same flows.

use proptest::prelude::*;

use super::*;

/// No packet here is longer; nothing reaches the limit of 64 pieces.
const BYTES_MAX: usize = 64;

#[derive(Clone, Debug)]
struct Fact {
    source: u8,
    id: u8,
    start: usize,
    len: usize,
    more: bool,
    /// Of the destination port, in the first fragment.
    known_port: bool,
    tcp: bool,
    cut: bool,
    from_tier: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Give(Fact),
    /// A released fragment comes back.
    Return(prop::sample::Index),
    /// A released fragment cannot be sent.
    Lose(prop::sample::Index),
    /// The clock shows something else.
    Clock(u64),
    Tick,
    Limits(bool),
    /// Time passes in connection tracking.
    Seconds(u32),
    /// Connection tracking is broken, full, or neither.
    Failures(bool, bool),
}

#[derive(Clone, Copy, PartialEq)]
enum Known {
    Holding,
    To(Mark),
    Poisoned,
}

struct Remembered {
    key: (u8, u8, bool),
    known: Known,
    bytes: [bool; BYTES_MAX],
    total: Option<usize>,
    held: Vec<Vec<u8>>,
    outstanding: usize,
    used: u64,
}

#[derive(Default)]
struct Model {
    packets: Vec<Remembered>,
    clock: u64,
    passed: u64,
    /// What moved in the last step, and the limits in force.
    moved: BTreeMap<&'static str, i64>,
    limits: FragmentLimits,
    /// Seconds that are left to the pinned flow of each source; each has one that is not dropped.
    flows: BTreeMap<u8, u32>,
    broken: bool,
    full: bool,
}

fn held_bytes<'a>(packets: impl IntoIterator<Item = &'a Remembered>) -> usize {
    packets.into_iter().flat_map(|packet| &packet.held).map(Vec::len).sum()
}

fn held_packets<'a>(packets: impl IntoIterator<Item = &'a Remembered>) -> usize {
    packets.into_iter().map(|packet| packet.held.len()).sum()
}

impl Model {
    fn count(&mut self, name: &'static str, by: usize) {
        if by > 0 {
            *self.moved.entry(name).or_default() += i64::try_from(by).unwrap();
        }
    }

    fn levels(&self) -> [u64; 3] {
        [self.packets.len(), held_packets(&self.packets), held_bytes(&self.packets)].map(|level| level as u64)
    }

    fn time(&mut self, now: u64) {
        self.passed += now.saturating_sub(self.clock);
        self.clock = now;
        let (passed, ttl) = (self.passed, u64::from(self.limits.ttl_ms));
        let (old, young): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.packets).into_iter().partition(|packet| passed - packet.used >= ttl);
        self.count("drop_fragment_expired", held_packets(&old));
        self.packets = young;
    }

    fn adapt(&mut self, limits: FragmentLimits) {
        if limits != self.limits {
            while !self.packets.is_empty() {
                self.evict(0);
            }
            self.limits = limits;
        }
    }

    fn evict(&mut self, at: usize) {
        let gone = self.packets.remove(at);
        self.count("fragment_evicted", 1);
        self.count("drop_fragment_evicted", gone.held.len());
    }

    fn position(&self, key: (u8, u8, bool)) -> Option<usize> {
        self.packets.iter().position(|packet| packet.key == key)
    }

    /// Makes a packet the last one.
    fn use_now(&mut self, key: (u8, u8, bool)) -> &mut Remembered {
        let at = self.position(key).unwrap();
        let mut packet = self.packets.remove(at);
        packet.used = self.passed;
        self.packets.push(packet);
        self.packets.last_mut().unwrap()
    }

    fn done(&mut self, key: (u8, u8, bool)) {
        self.packets.retain(|packet| {
            let complete = packet.total.is_some_and(|total| packet.bytes[..total].iter().all(|seen| *seen));
            packet.key != key || packet.outstanding > 0 || !complete
        });
    }

    fn entry(&mut self, key: (u8, u8, bool)) -> bool {
        if self.position(key).is_some() {
            return true;
        }
        let of_source = self.packets.iter().filter(|packet| packet.key.0 == key.0).count();
        if of_source >= self.limits.entries_per_source as usize {
            return false;
        }
        while self.packets.len() >= self.limits.entries as usize {
            self.evict(0);
        }
        self.packets.push(Remembered {
            key,
            known: Known::Holding,
            bytes: [false; BYTES_MAX],
            total: None,
            held: Vec::new(),
            outstanding: 0,
            used: self.passed,
        });
        true
    }

    fn poison(&mut self, key: (u8, u8, bool), reason: &'static str) -> Result<Mark, &'static str> {
        let packet = self.use_now(key);
        packet.known = Known::Poisoned;
        let held = std::mem::take(&mut packet.held).len();
        self.count("drop_fragment_poisoned", held);
        Err(reason)
    }

    fn seen(&mut self, key: (u8, u8, bool), fact: &Fact) {
        let packet = self.use_now(key);
        packet.bytes[fact.start..fact.start + fact.len].fill(true);
        if !fact.more {
            packet.total = Some(fact.start + fact.len);
        }
        self.done(key);
    }

    fn give(
        &mut self,
        fact: &Fact,
        bytes: &[u8],
        mark: Result<Mark, &'static str>,
        released: &mut Vec<Vec<u8>>,
    ) -> Result<Mark, &'static str> {
        let key = (fact.source, fact.id, fact.tcp);
        let at = self.position(key);
        let known = at.map_or(Known::Holding, |at| self.packets[at].known);
        if known == Known::Poisoned {
            return Err("drop_fragment_poisoned");
        }
        if fact.tcp && fact.start == 8 {
            return if self.entry(key) {
                self.poison(key, "drop_fragment_tiny")
            } else {
                Err("drop_fragment_source")
            };
        }
        let end = fact.start + fact.len;
        if let Some(packet) = at.map(|at| &self.packets[at]) {
            let reaches = packet.bytes.iter().rposition(|seen| *seen).map_or(0, |last| last + 1);
            let contradicts = match (packet.total, fact.more) {
                (Some(total), true) => end >= total,
                (Some(total), false) => end != total,
                (None, true) => false,
                (None, false) => reaches >= end,
            };
            let there = packet.bytes[fact.start..end].iter().filter(|seen| **seen).count();
            if contradicts || (there > 0 && there < fact.len) {
                return self.poison(key, "drop_fragment_overlap");
            }
            if there > 0 {
                return Err("drop_fragment_duplicate");
            }
        }
        match known {
            _ if fact.start == 0 => {
                if !self.entry(key) {
                    return Err("drop_fragment_source");
                }
                self.pin(fact, mark.is_ok());
                let mark = match mark {
                    Ok(mark) => mark,
                    Err(reason) => return self.poison(key, reason),
                };
                let packet = self.use_now(key);
                packet.known = Known::To(mark);
                packet.outstanding = packet.held.len();
                released.append(&mut packet.held);
                self.seen(key, fact);
                Ok(mark)
            }
            Known::To(mark) => {
                self.seen(key, fact);
                Ok(mark)
            }
            Known::Holding | Known::Poisoned => {
                let own = || at.map(|at| &self.packets[at]);
                let limits = self.limits;
                if fact.cut
                    || held_packets(own()) + 1 > limits.held_packets as usize
                    || held_bytes(own()) + bytes.len() > limits.held_bytes as usize
                {
                    return Err("drop_fragment_full");
                }
                let of_source = self.packets.iter().filter(|packet| packet.key.0 == fact.source);
                let least = (limits.held_bytes / limits.held_packets) as usize;
                let held = of_source.flat_map(|packet| &packet.held).map(Vec::len).chain([bytes.len()]);
                if held.map(|len| len.max(least)).sum::<usize>() > limits.held_bytes_per_source as usize
                    || !self.entry(key)
                {
                    return Err("drop_fragment_source");
                }
                while held_packets(&self.packets) + 1 > limits.held_packets as usize
                    || held_bytes(&self.packets) + bytes.len() > limits.held_bytes as usize
                {
                    let victim = |packet: &Remembered| packet.key != key && packet.known == Known::Holding;
                    let victim = self.packets.iter().position(victim).unwrap();
                    self.evict(victim);
                }
                self.use_now(key).held.push(bytes.to_vec());
                self.seen(key, fact);
                Err("fragment_held")
            }
        }
    }

    /// What becomes of the flow of a first fragment.
    fn pin(&mut self, fact: &Fact, steered: bool) {
        if self.broken {
            return self.count("conntrack_error", 1);
        }
        if fact.tcp || !steered {
            return;
        }
        let left = self.flows.get(&fact.source).copied();
        self.count("fragment_pinned", usize::from(left.is_some()));
        if left.is_none() && self.full {
            self.count("conntrack_error", 1);
        } else if left.is_none_or(|left| left < 60) {
            self.count("fragment_pins", 1);
            self.flows.insert(fact.source, 120);
        }
    }

    fn came_back(&mut self, key: (u8, u8, bool)) {
        if let Some(at) = self.position(key) {
            self.packets[at].outstanding = self.packets[at].outstanding.saturating_sub(1);
            self.done(key);
        }
    }

    fn give_back(&mut self, key: (u8, u8, bool)) -> Result<Mark, &'static str> {
        match self.position(key).map(|at| self.packets[at].known) {
            Some(Known::To(mark)) => {
                self.came_back(key);
                Ok(mark)
            }
            Some(Known::Poisoned) => Err("drop_fragment_poisoned"),
            Some(Known::Holding) | None => Err("drop_fragment_late"),
        }
    }
}

fn bytes(fact: &Fact) -> Vec<u8> {
    let payload: Vec<u8> =
        [15, 160, 0, if fact.known_port { 80 } else { 81 }].into_iter().chain([0; 80]).collect();
    let src = format!("50.0.0.{}", fact.source);
    let piece = Piece {
        src: &src,
        protocol: if fact.tcp { 6 } else { 17 },
        more: fact.more,
        ..udp4(fact.id.into(), fact.start, true, &payload[..fact.len])
    };
    let mut bytes = piece.bytes();
    if fact.cut {
        bytes.pop();
    }
    bytes
}

fn fact() -> impl Strategy<Value = Fact> {
    let place = (0..BYTES_MAX / 8, 1usize..4, 0usize..8).prop_map(|(start, units, less)| {
        let start = start * 8;
        // A third of all lengths are no multiple of 8; those fragments are the last.
        let len = (units * 8).min(BYTES_MAX - start) - if less > 4 { less } else { 0 };
        (start, len, less > 4)
    });
    let flags = (prop::bool::weighted(0.75), prop::bool::weighted(0.9), prop::bool::weighted(0.1));
    let odds = (prop::bool::weighted(0.05), prop::bool::weighted(0.1));
    (0u8..3, 0u8..3, place, flags, odds).prop_map(
        |(source, id, (start, len, odd), (more, known_port, tcp), (cut, from_tier))| {
            // A first fragment shows its flags, and is not the whole packet.
            let (len, more) = if start == 0 { (24, true) } else { (len, more && !odd) };
            Fact { source, id, start, len, more, known_port, tcp, cut: cut && start > 0, from_tier }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => fact().prop_map(Step::Give),
        3 => any::<prop::sample::Index>().prop_map(Step::Return),
        1 => any::<prop::sample::Index>().prop_map(Step::Lose),
        2 => (0u64..1500).prop_map(Step::Clock),
        1 => Just(Step::Tick),
        1 => prop::bool::weighted(0.9).prop_map(Step::Limits),
        1 => (1u32..100).prop_map(Step::Seconds),
        1 => (prop::bool::weighted(0.1), prop::bool::weighted(0.2)).prop_map(|(a, b)| Step::Failures(a, b)),
    ]
}

/// In a quarter of all steps, time goes on by more than a quarter of this.
const LIMITS: [FragmentLimits; 2] = [
    FragmentLimits { ttl_ms: 600, entries: 7, ..SMALL },
    FragmentLimits { ttl_ms: 900, entries: 5, held_bytes: 200, ..SMALL },
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]
    #[test]
    fn the_table_does_what_a_simple_one_does(steps in prop::collection::vec(step(), 1..250)) {
        both_do_the_same(steps)?;
    }
}

/// Once these two packets of a source had more than its share.
#[test]
fn the_table_does_what_a_simple_one_does_with_two_packets_of_a_source() {
    let early = |id, start, more| {
        let (known_port, tcp, cut, from_tier) = (false, false, false, false);
        Step::Give(Fact { source: 2, id, start, len: 8, more, known_port, tcp, cut, from_tier })
    };
    both_do_the_same(vec![early(1, 8, true), early(0, 32, false), early(0, 8, true)]).unwrap();
}

fn both_do_the_same(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let forwardings = LIMITS.map(|limits| ready(&state(limits)));
    let mut lb = Lb::new(LIMITS[0]);
    let mut model = Model { limits: LIMITS[0], ..Model::default() };
    let (mut now, mut limits) = (0, LIMITS[0]);
    let mut away: Vec<(Vec<u8>, (u8, u8, bool))> = Vec::new();
    for step in steps {
        model.moved.clear();
        match step {
            Step::Clock(time) => {
                // Mostly forward a little, sometimes to anywhere.
                now = if time < 1300 { now + time / 10 } else { time };
                lb.now_ms = now;
            }
            Step::Tick => {
                model.time(now);
                model.adapt(limits);
                lb.tick(now);
            }
            Step::Limits(first) => {
                let which = usize::from(!first);
                limits = LIMITS[which];
                lb.forwarding = forwardings[which].clone();
            }
            Step::Seconds(seconds) => {
                lb.pins.known().pass(seconds);
                for left in model.flows.values_mut() {
                    *left = left.saturating_sub(seconds);
                }
                model.flows.retain(|_, left| *left > 0);
            }
            Step::Failures(broken, full) => {
                (model.broken, model.full) = (broken, full);
                (lb.pins.known().broken, lb.pins.known().full) = (broken, full);
            }
            Step::Give(fact) => {
                let bytes = bytes(&fact);
                model.time(now);
                model.adapt(limits);
                model.count("packets", 1);
                model.count("fragments", 1);
                model.count("fragment_from_tier", usize::from(fact.from_tier));
                let mark = whole(&lb.forwarding, &alone(&bytes)).ok_or("drop_no_service");
                let mut released = Vec::new();
                let expected = model.give(&fact, &bytes, mark, &mut released);
                model.count(expected.err().unwrap_or("steered_fragment"), 1);
                let origin = if fact.from_tier { Origin::Tier } else { Origin::Outside };
                prop_assert_eq!(lb.from(origin, &bytes), expected.ok());
                let got: Vec<Vec<u8>> = lb.released.drain(..).map(<[u8]>::into_vec).collect();
                prop_assert_eq!(&got, &released);
                away.extend(got.into_iter().map(|bytes| (bytes, (fact.source, fact.id, fact.tcp))));
            }
            Step::Return(which) if !away.is_empty() => {
                let (bytes, key) = away.remove(which.index(away.len()));
                model.time(now);
                model.adapt(limits);
                model.count("packets", 1);
                let expected = model.give_back(key);
                model.count(expected.err().unwrap_or("steered_fragment"), 1);
                prop_assert_eq!(lb.from(Origin::Held, &bytes), expected.ok());
            }
            Step::Lose(which) if !away.is_empty() => {
                let (bytes, key) = away.remove(which.index(away.len()));
                model.count("fragment_inject_failed", 1);
                model.came_back(key);
                lb.balancer.inject_failed(&bytes);
            }
            Step::Return(_) | Step::Lose(_) => {}
        }
        let levels =
            [Counter::FragmentEntriesNow, Counter::FragmentHeldPacketsNow, Counter::FragmentHeldBytesNow];
        prop_assert_eq!(levels.map(|level| lb.balancer.counters.get(level)), model.levels());
        let counts = lb.moved().into_iter().filter(|(name, _)| !name.ends_with("_now"));
        prop_assert_eq!(&counts.collect::<BTreeMap<_, _>>(), &model.moved);
        prop_assert_eq!(lb.pins.known().len(), model.flows.len());
    }
    Ok(())
}

/// A first fragment as if it were the packet.
fn alone(first: &[u8]) -> Vec<u8> {
    let mut bytes = first.to_vec();
    bytes[6..8].fill(0);
    bytes
}
