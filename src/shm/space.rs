//! Where new data can be put in a region: the gaps between the data that must stay, then the end of the
//! region. PURE.
//!
//! First fit: new data goes into the first gap that is long enough. There are few sizes of tables, so gaps
//! are filled again.

use std::ops::Range;

/// The bytes of a region that are free.
#[derive(Debug)]
pub(super) struct Space {
    /// In ascending order.
    gaps: Vec<Range<usize>>,
    end: usize,
}

impl Space {
    /// Returns all bytes from `start` on, except the ranges `taken`, which may overlap.
    pub(super) fn new(start: usize, mut taken: Vec<Range<usize>>) -> Self {
        taken.sort_unstable_by_key(|range| range.start);
        let mut space = Self { gaps: Vec::new(), end: start };
        for range in taken {
            if range.start > space.end {
                space.gaps.push(space.end..range.start);
            }
            space.end = space.end.max(range.end);
        }
        space
    }

    /// Takes `len` bytes, and returns where they begin.
    pub(super) fn take(&mut self, len: usize) -> usize {
        let gap = self.gaps.iter_mut().find(|gap| gap.len() >= len);
        let at = gap.map_or(&mut self.end, |gap| &mut gap.start);
        let taken = *at;
        *at = taken.saturating_add(len);
        taken
    }

    /// Returns the end that the region must have to hold what stays and what was taken.
    pub(super) fn end(&self) -> usize {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_filled_first_and_in_order() {
        let mut space = Space::new(100, vec![200..300, 120..150, 120..140, 310..400]);
        // Gaps: 100..120, 150..200, 300..310.
        assert_eq!([30, 16, 20, 10, 4, 1].map(|len| space.take(len)), [150, 100, 180, 300, 116, 400]);
        assert_eq!(space.end(), 401);
    }

    #[test]
    fn a_space_of_which_nothing_is_taken_is_all_free() {
        let mut space = Space::new(64, Vec::new());
        assert_eq!((space.end(), space.take(8), space.take(0), space.end()), (64, 64, 72, 72));
    }
}
