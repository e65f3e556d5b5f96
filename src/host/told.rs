//! What was told of a host already: only what differs is told again.

use super::Finding;

/// The findings of the last look.
#[derive(Debug, Default)]
pub struct Told(Vec<Finding>);

/// What to tell after a look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Not there at the last look, or other than then; worst first.
    pub new: Vec<Finding>,
    /// There at the last look, and nothing of their name is now.
    pub over: Vec<Finding>,
    /// How many lines more there would have been.
    pub left_out: usize,
}

impl Told {
    /// At most so many lines after one look.
    pub const LINES_MAX: usize = 20;

    /// Takes over what a look has found; says what of it is news.
    pub fn look(&mut self, found: Vec<Finding>) -> News {
        let last = std::mem::replace(&mut self.0, found);
        let mut new: Vec<Finding> =
            self.0.iter().filter(|finding| !last.contains(finding)).cloned().collect();
        new.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        let gone = |finding: &Finding| self.0.iter().all(|now| now.name != finding.name);
        let mut over: Vec<Finding> = last.into_iter().filter(gone).collect();
        let left_out = (new.len() + over.len()).saturating_sub(Self::LINES_MAX);
        new.truncate(Self::LINES_MAX);
        over.truncate(Self::LINES_MAX - new.len());
        News { new, over, left_out }
    }

    /// What the last look has found.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.0
    }
}
