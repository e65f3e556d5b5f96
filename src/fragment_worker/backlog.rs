//! Released fragments that wait to be sent in, and how many are under way. PURE.
//!
//! One that comes back makes room for the next. One that the kernel has lost never does: when the queue is empty, or
//! nothing has come back for [`LOST_AFTER`], all that were under way count as through.

use std::{collections::VecDeque, time::Duration};

use crate::config::FragmentLimits;

/// So many are under way at a time: far less than any queue takes.
const UNDER_WAY_MAX: usize = 64;

/// Longer than a full queue takes to be read.
const LOST_AFTER: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: VecDeque<Box<[u8]>>,
    /// Bytes of them.
    bytes: usize,
    under_way: usize,
    /// When one was last sent in or came back.
    moved: Duration,
}

impl Backlog {
    /// Takes one, or hands it back when as many wait as may be held.
    pub(super) fn push(&mut self, fragment: Box<[u8]>, limits: FragmentLimits) -> Result<(), Box<[u8]>> {
        let bytes = self.bytes + fragment.len();
        let within = |amount: usize, limit: u32| u32::try_from(amount).is_ok_and(|amount| amount <= limit);
        if !within(self.waiting.len() + 1, limits.held_packets) || !within(bytes, limits.held_bytes) {
            return Err(fragment);
        }
        self.bytes = bytes;
        self.waiting.push_back(fragment);
        Ok(())
    }

    /// The next one to be sent in, if another may be under way.
    pub(super) fn next(&mut self, now: Duration) -> Option<Box<[u8]>> {
        // A clock that jumped back must not be waited for.
        self.moved = self.moved.min(now);
        if now - self.moved >= LOST_AFTER {
            self.under_way = 0;
        }
        if self.under_way >= UNDER_WAY_MAX {
            return None;
        }
        let fragment = self.waiting.pop_front()?;
        self.bytes -= fragment.len();
        Some(fragment)
    }

    /// One was sent in.
    pub(super) fn sent(&mut self, now: Duration) {
        self.under_way += 1;
        self.moved = now;
    }

    /// One came back.
    pub(super) fn came_back(&mut self, now: Duration) {
        self.under_way = self.under_way.saturating_sub(1);
        self.moved = now;
    }

    /// The queue was empty: nothing is under way.
    pub(super) fn nothing_came(&mut self) {
        self.under_way = 0;
    }

    /// Whether something has yet to come back.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way > 0
    }
}
