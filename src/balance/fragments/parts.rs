//! Which bytes of a packet have arrived: ascending ranges that do not touch each other.

/// A packet of more pieces than this is poisoned. Neighbouring pieces count as one, so any number may come in
/// order.
pub(super) const PARTS_MAX: usize = 64;

/// How a fragment fits with those that arrived before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// All its bytes are new.
    New,
    /// All its bytes have arrived before.
    Duplicate,
    /// Some of its bytes have arrived before, or it contradicts others about where the packet ends.
    Overlap,
    /// All its bytes are new, but there would be one piece too many.
    TooMany,
}

/// The bytes of one packet that have arrived.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    /// Each is `start..end`.
    ranges: Vec<(u16, u16)>,
    /// Where the packet ends; known once its last fragment has arrived.
    total: Option<u16>,
}

impl Parts {
    /// Reports how the bytes `start..end` fit. `more` says whether others follow them.
    pub(super) fn fit(&self, start: u16, end: u16, more: bool) -> Fit {
        let seen_to = self.ranges.last().map_or(0, |&(_, end)| end);
        let contradiction = match self.total {
            Some(total) if more => end >= total,
            Some(total) => end != total,
            // What arrived before had more behind it.
            None => !more && seen_to >= end,
        };
        if contradiction {
            return Fit::Overlap;
        }
        let Place { at, joins_before, joins_behind } = self.place(start, end);
        match self.ranges.get(at) {
            Some(&(from, to)) if from <= start && end <= to => Fit::Duplicate,
            Some(&(from, _)) if from < end => Fit::Overlap,
            _ if !joins_before && !joins_behind && self.ranges.len() == PARTS_MAX => Fit::TooMany,
            _ => Fit::New,
        }
    }

    /// Adds bytes that are [`Fit::New`].
    pub(super) fn insert(&mut self, start: u16, end: u16, more: bool) {
        if !more {
            self.total = Some(end);
        }
        let Place { at, joins_before, joins_behind } = self.place(start, end);
        match (joins_before, joins_behind) {
            (true, true) => self.ranges[at - 1].1 = self.ranges.remove(at).1,
            (true, false) => self.ranges[at - 1].1 = end,
            (false, true) => self.ranges[at].0 = start,
            (false, false) => self.ranges.insert(at, (start, end)),
        }
    }

    /// Reports whether all bytes have arrived.
    pub(super) fn complete(&self) -> bool {
        self.total.is_some_and(|total| self.ranges == [(0, total)])
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.ranges.clear();
        self.total = None;
    }

    fn place(&self, start: u16, end: u16) -> Place {
        let at = self.ranges.partition_point(|&(_, to)| to <= start);
        Place {
            at,
            joins_before: self.ranges[..at].last().is_some_and(|&(_, to)| to == start),
            joins_behind: self.ranges.get(at).is_some_and(|&(from, _)| from == end),
        }
    }
}

/// Where bytes belong among the ranges.
struct Place {
    /// The first range that ends behind their start.
    at: usize,
    joins_before: bool,
    joins_behind: bool,
}
