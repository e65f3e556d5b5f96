//! Notices that others have changed nf_tables, without reading what: the kernel counts the transactions of all, lbd its own.

use std::sync::atomic::Ordering;

use super::{
    NftError,
    reader::{self, Reader},
    transaction::TAKEN,
};

/// Notices changes of others.
#[derive(Default)]
pub struct OthersWatch {
    reader: Option<Reader>,
    /// How many generations were not made by this process, up to some number.
    others: Option<u32>,
}

impl OthersWatch {
    /// Whether others have changed rules or sets of any table since the last look; false at the first one. What packets put into sets
    /// is no such change. No other thread of this process may change anything meanwhile. A transaction of its own that
    /// changed nothing looks like one of another program, or hides one: a repair by the timer finds that.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn look(&mut self) -> Result<bool, NftError> {
        let generation = reader::generation(&mut self.reader)?;
        let others = generation.wrapping_sub(TAKEN.load(Ordering::Relaxed));
        Ok(self.others.replace(others).is_some_and(|last| last != others))
    }
}
