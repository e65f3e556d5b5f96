//! Detects changes of nf_tables by other programs, without reading what changed: the kernel counts the
//! transactions of all programs, and lbd counts its own.

use std::sync::atomic::Ordering;

use super::{NftError, reader::Reader, transaction::TAKEN};

/// Detects changes by other programs.
#[derive(Default)]
pub struct OthersWatch {
    reader: Option<Reader>,
    /// How many generations other programs have made, plus a constant.
    others: Option<u32>,
}

impl OthersWatch {
    /// Reports whether other programs have changed rules or sets of any table since the last look; the first
    /// look returns false. Elements that packets add to sets do not count. The result is exact as long as no
    /// other thread of this process changes anything meanwhile.
    ///
    /// # Errors
    /// Returns an error if the kernel does not answer.
    pub fn look(&mut self) -> Result<bool, NftError> {
        let failed = |error| NftError::Table { what: "the generation", error };
        let mut reader = self.reader.take().map_or_else(Reader::open, Ok).map_err(failed)?;
        let generation = reader.generation().map_err(failed)?;
        self.reader = Some(reader);
        let others = generation.wrapping_sub(TAKEN.load(Ordering::Relaxed));
        Ok(self.others.replace(others).is_some_and(|last| last != others))
    }
}
