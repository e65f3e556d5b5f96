//! Chance from a seed: the same seed draws the same, everywhere. PURE.

use crate::stream::Stream;

/// Draws, one after another.
#[derive(Debug, Clone)]
pub(crate) struct Draws(Stream);

impl Draws {
    /// Those of one of many numbered things, whose draws have nothing to do with the others'.
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        Self(Stream::new(Stream::new(seed).word() ^ number))
    }

    /// A number from `least` to `most`, both included; `least` where that is none.
    pub(crate) fn between(&mut self, least: usize, most: usize) -> usize {
        let Some(choices) = most.checked_sub(least) else { return least };
        let drawn = (u128::from(self.0.word()) * (choices as u128 + 1)) >> 64;
        least + usize::try_from(drawn).unwrap_or(choices) // it is at most `choices`
    }

    /// True in so many of 100 cases.
    pub(crate) fn percent(&mut self, percent: u8) -> bool {
        self.between(1, 100) <= usize::from(percent)
    }

    /// Any order, each as likely as another.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.between(0, at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_drawn_and_no_other() {
        let mut draws = Draws::new(1, 2);
        let mut seen = [0; 7];
        (0..700).for_each(|_| seen[draws.between(2, 6)] += 1);
        assert!(seen[..2] == [0, 0] && seen[2..].iter().all(|&times| times > 90), "{seen:?}");
        assert_eq!((draws.between(5, 5), draws.between(5, 4)), (5, 5));
        assert!((0..200).all(|_| draws.percent(100) && !draws.percent(0)));
    }

    #[test]
    fn a_seed_and_a_number_say_it_all() {
        let drawn = |seed, number| Draws::new(seed, number).between(0, usize::MAX);
        assert_eq!(drawn(1, 2), drawn(1, 2));
        assert_ne!(drawn(1, 2), drawn(1, 3));
        assert_ne!(drawn(1, 2), drawn(2, 2));
    }

    #[test]
    fn a_shuffle_loses_nothing() {
        let mut items: Vec<usize> = (0..100).collect();
        Draws::new(3, 4).shuffle(&mut items);
        assert!(!items.is_sorted());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
