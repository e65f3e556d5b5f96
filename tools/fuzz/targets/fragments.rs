//! Any bytes as a history of fragments: given, held, given back, lost, while time jumps and limits change. Whatever
//! comes: one verdict each with one reason, levels within the limits, and all that was held is accounted for.

#![no_main]

use std::{io, sync::LazyLock, time::Duration};

use libfuzzer_sys::fuzz_target;
use synrail::{
    balance::{
        Forwarding, Verdict,
        counters::{Counter, Counters},
        flow_table::{FlowMark, FlowTable},
        fragments::{FragmentBalancer, Origin},
        pins::{OffTable, WithOffTable},
    },
    config::FragmentLimits,
    model::{
        TableSize,
        ids::{Generation, Mark, MarkMask},
    },
    packet::{L4, Packet},
    state::State,
};

const LIMITS: [FragmentLimits; 2] = [
    FragmentLimits {
        ttl_ms: 100,
        entries: 6,
        entries_per_source: 4,
        held_packets: 5,
        held_bytes: 600,
        held_bytes_per_source: 400,
    },
    FragmentLimits {
        ttl_ms: 1,
        entries: 1,
        entries_per_source: 1,
        held_packets: 1,
        held_bytes: 100,
        held_bytes_per_source: 1000,
    },
];

/// Every packet has a backend; one state for each of the limits.
static FORWARDINGS: LazyLock<[Forwarding; 2]> = LazyLock::new(|| {
    LIMITS.map(|limits| {
        let mut state = State::unconfigured(TableSize::at_most(100).unwrap(), 10, 5).unwrap();
        state.balancer.fragments = limits;
        Forwarding::new(&state, Generation(1)).unwrap()
    })
});

/// Why fragments were steered, held, dropped or left alone: each that is handled moves one of these.
fn reasons(counters: &Counters) -> u64 {
    let all = Counter::ALL.iter().filter(|counter| {
        let name = counter.name();
        name.starts_with("drop_")
            || name.starts_with("steered_")
            || ["fragment_held", "foreign"].contains(&name)
    });
    all.map(|&counter| counters.get(counter)).sum()
}

/// What is dropped while another fragment is handled.
fn beside(counters: &Counters) -> u64 {
    counters.get(Counter::DropFragmentEvicted) + counters.get(Counter::DropFragmentExpired)
}

/// Takes the next `N` bytes.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*bytes)
}

/// A fragment of one of few packets.
fn fragment(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let [who, start, len, flags] = take(rest)?;
    let payload = vec![0; usize::from(len)];
    let field = u16::from(start) * 8;
    let more = u16::from(flags & 1);
    let protocol = [6, 17, 1, 58, 60, 44, 47, 0][usize::from(flags >> 1) % 8];
    let (source, id) = (who & 3, (who >> 2) & 3);
    Some(if who & 0x80 == 0 {
        let mut bytes = vec![0x45, 0];
        bytes.extend((20 + u16::from(len)).to_be_bytes());
        bytes.extend([0, id]);
        bytes.extend(((field / 8) | (more << 13)).to_be_bytes());
        bytes.extend([64, protocol, 0, 0, 50, 0, 0, source, 10, 0, 0, 0]);
        bytes.extend(payload);
        bytes
    } else {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend((8 + u16::from(len)).to_be_bytes());
        bytes.extend([44, 64]);
        bytes.extend([source; 16]);
        bytes.extend([0x10; 16]);
        bytes.extend([protocol, 0]);
        bytes.extend((field | more).to_be_bytes());
        bytes.extend([0, 0, 0, id]);
        bytes.extend(payload);
        bytes
    })
}

/// Connection tracking that gives any answer: a byte says which.
struct AnyPins(u8);

impl FlowTable for AnyPins {
    fn lookup(&mut self, _packet: &Packet) -> io::Result<Option<FlowMark>> {
        let left = u32::from(self.0);
        match self.0 >> 5 {
            0 | 1 => Ok(None),
            2 => Err(io::ErrorKind::Unsupported.into()),
            3 => Ok(Some(FlowMark { mark: Mark(left), left_seconds: None })),
            4 => Ok(Some(FlowMark { mark: Mark(left), left_seconds: Some(u32::MAX) })),
            _ => Ok(Some(FlowMark { mark: Mark(left & 0xf), left_seconds: Some(left) })),
        }
    }

    fn pin(&mut self, packet: &Packet, mark: Mark, mask: MarkMask, seconds: u32) -> io::Result<()> {
        assert!(matches!(packet.l4, L4::Udp(_)) && !packet.quoted);
        assert!(mask.target(mark).is_some() && mark.0 & !mask.bits() == 0 && seconds > 0);
        if self.0 & 1 == 0 { Ok(()) } else { Err(io::ErrorKind::OutOfMemory.into()) }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    let mut which = 0;
    let mut balancer = FragmentBalancer::new(LIMITS[which]);
    let mut now = Duration::ZERO;
    let mut away: Vec<Box<[u8]>> = Vec::new();
    let mut released_in_all = 0;
    while let Some([step]) = take(&mut rest) {
        let (origin, packet) = match step % 8 {
            0 => {
                let Some(time) = take(&mut rest) else { break };
                now = Duration::from_millis(u64::from_le_bytes(time));
                balancer.tick(now, &FORWARDINGS[which]);
                continue;
            }
            1 => {
                now = now.saturating_add(Duration::from_millis(u64::from(step >> 3)));
                continue;
            }
            2 if step & 0x80 != 0 => {
                which = usize::from(step & 0x40 != 0);
                continue;
            }
            2 | 3 => {
                let Some(back) = away.pop() else { continue };
                if step & 0x10 != 0 {
                    balancer.inject_failed(&back);
                    continue;
                }
                (Origin::Held, back.into_vec())
            }
            4 => {
                let Some([len]) = take(&mut rest) else { break };
                let (raw, behind) = rest.split_at(rest.len().min(len.into()));
                rest = behind;
                (Origin::Outside, raw.to_vec())
            }
            5 => {
                let Some(mut packet) = fragment(&mut rest) else { break };
                packet.truncate(packet.len() - usize::from(step >> 3).min(packet.len()));
                (Origin::Tier, packet)
            }
            _ => {
                let Some(packet) = fragment(&mut rest) else { break };
                (if step & 0x80 == 0 { Origin::Outside } else { Origin::Held }, packet)
            }
        };
        let (reasons_before, beside_before) = (reasons(&balancer.counters), beside(&balancer.counters));
        let poisoned_before = balancer.counters.get(Counter::DropFragmentPoisoned);
        let held_before = balancer.counters.get(Counter::FragmentHeldPacketsNow);
        let mut released = Vec::new();
        let pins =
            &mut WithOffTable { off_table: &OffTable::default(), pins: &mut AnyPins(step.wrapping_mul(31)) };
        let forwarding = &FORWARDINGS[which];
        let verdict = balancer.handle(now, forwarding, origin, &packet, pins, &mut released);
        let counters = &balancer.counters;

        // Held fragments that are poisoned are dropped beside the one that is handled.
        let moved = reasons(counters) - reasons_before - (beside(counters) - beside_before);
        let poisoned = counters.get(Counter::DropFragmentPoisoned) - poisoned_before;
        assert!(moved == 1 || (moved == 1 + poisoned && poisoned <= held_before), "{moved} reasons");
        assert!(released.is_empty() || matches!(verdict, Verdict::Steer(_)));
        assert!(origin != Origin::Held || released.is_empty());
        let limits = LIMITS[which];
        let level = |counter| counters.get(counter);
        assert!(level(Counter::FragmentEntriesNow) <= limits.entries.into());
        assert!(level(Counter::FragmentHeldPacketsNow) <= limits.held_packets.into());
        assert!(level(Counter::FragmentHeldBytesNow) <= limits.held_bytes.into());
        released_in_all += released.len() as u64;
        let gone = level(Counter::FragmentHeldPacketsNow) + released_in_all + beside(counters);
        assert!(gone <= level(Counter::FragmentHeld));
        assert!(level(Counter::FragmentHeld) <= gone + level(Counter::DropFragmentPoisoned));
        away.extend(released);
    }
    // In the end, nothing stays.
    let end = now.saturating_add(Duration::from_secs(1));
    balancer.tick(Duration::ZERO, &FORWARDINGS[which]);
    balancer.tick(end.max(Duration::from_secs(1)), &FORWARDINGS[which]);
    for counter in
        [Counter::FragmentEntriesNow, Counter::FragmentHeldPacketsNow, Counter::FragmentHeldBytesNow]
    {
        assert_eq!(balancer.counters.get(counter), 0);
    }
});
