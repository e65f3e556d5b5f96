//! What becomes of fragments. PURE. (Skeleton: the theory and the table come with the next commit.)

use std::time::Duration;

use super::{Forwarding, Verdict, counters::Counters};
use crate::{config::FragmentLimits, ids::Mark, packet::Packet};

/// Where a fragment was before it came to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Outside: it comes for the first time.
    Outside,
    /// At another balancer of the tier, which does not own it.
    Tier,
    /// Here: it was held, and came back by the TUN device.
    Held,
}

/// Decides about fragments and counts what it decided. There is one, and one queue for it.
#[derive(Debug)]
pub struct FragmentBalancer {
    /// What was counted since the start.
    pub counters: Counters,
}

impl FragmentBalancer {
    /// One that holds no more than this.
    #[must_use]
    pub fn new(_limits: FragmentLimits) -> Self {
        Self { counters: Counters::default() }
    }

    /// The verdict on one queued fragment, which starts at its IP header. `now` is the time since some fixed moment.
    /// `mark_of` asks connection tracking. Held fragments that may go now are put into `released`, in the order in which
    /// they came.
    pub fn handle(
        &mut self,
        _now: Duration,
        _forwarding: &Forwarding,
        _origin: Origin,
        _bytes: &[u8],
        _mark_of: &mut dyn FnMut(&Packet) -> Option<Mark>,
        _released: &mut Vec<Box<[u8]>>,
    ) -> Verdict {
        Verdict::Drop
    }

    /// Forgets what is too old, and brings the levels among the counters up to date.
    pub fn tick(&mut self, _now: Duration) {}
}
