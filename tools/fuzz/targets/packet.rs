//! Any bytes as a queued packet: parsed, decided, counted once; never a panic.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use synrail::{
    balance::{Balancer, Forwarding, counters::Counter, pins::OffTable},
    model::{TableSize, ids::Generation},
    state::State,
};

/// Two services that take every packet there is.
static FORWARDING: LazyLock<Forwarding> = LazyLock::new(|| {
    let state = State::unconfigured(TableSize::at_most(100).unwrap(), 10, 5).unwrap();
    Forwarding::new(&state, Generation(1)).unwrap()
});

fuzz_target!(|bytes: &[u8]| {
    let mut balancer = Balancer::default();
    let _ = balancer.handle(&FORWARDING, &OffTable::default(), bytes);
    let counted: u64 = balancer.counters.values().iter().sum();
    assert_eq!(balancer.counters.get(Counter::Packets), 1);
    assert_eq!(counted, 2, "the packet, and exactly one reason");
});
