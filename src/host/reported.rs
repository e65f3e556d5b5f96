//! The findings that were already reported about a host: only differences are reported again.

use super::Finding;

/// The findings of the last check.
#[derive(Debug, Default)]
pub struct Reported(Vec<Finding>);

/// What is to be reported after a check.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Findings that are new since the last check, or differ from it; the worst first.
    pub new: Vec<Finding>,
    /// Findings of the last check for whose name there is no finding now.
    pub over: Vec<Finding>,
    /// How many more lines there would have been.
    pub left_out: usize,
}

impl Reported {
    /// The maximum number of lines after one check.
    pub const LINES_MAX: usize = 20;

    /// Takes over the findings of a check, and returns what is to be reported.
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

    /// Returns the findings of the last check.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.0
    }
}
