//! Small numbers that are easily confused: each has a type of its own.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::values::{as_number, as_string};

/// The maximum number of services in one configuration.
pub const SERVICES_MAX: usize = 1024;
/// The maximum number of targets (distinct tunnel ends), and of backends in one service.
pub const TARGETS_MAX: usize = 4096;
/// The maximum number of queues, and so of workers, in one daemon.
pub const QUEUES_MAX: usize = 64;

/// One of the [`TARGETS_MAX`] targets: an index into the region's table of targets.
///
/// A target keeps its number as long as any backend uses it, so the mark that a connection was pinned with
/// keeps leading to the same tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(u16);

impl TargetId {
    /// Makes the target at `index`. Returns `None` from [`TARGETS_MAX`] on.
    #[must_use]
    pub fn new(index: usize) -> Option<Self> {
        u16::try_from(index).ok().filter(|_| index < TARGETS_MAX).map(Self)
    }

    /// Returns the index into the table of targets.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Returns the number that is visible to operators: in the device (`sr-N`), the routing table and the
    /// mark. It counts from 1, since a mark of 0 means that nothing has been decided yet.
    #[must_use]
    pub fn number(self) -> u32 {
        u32::from(self.0) + 1
    }

    /// The inverse of [`TargetId::number`].
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::new(usize::try_from(number.checked_sub(1)?).ok()?)
    }
}

/// A firewall mark (`skb->mark`): all 32 bits, as in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mark(pub u32);

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The bits of a mark that belong to synrail: one run of neighbouring bits, wide enough for every target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkMask(u32);

/// Why a number is not a valid [`MarkMask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MarkMaskError {
    /// The set bits are not neighbours.
    #[error("the set bits are neighbours")]
    NotContiguous,
    /// Fewer than 13 bits: too few for [`TARGETS_MAX`] targets and the mark 0.
    #[error("at least 13 bits are set, for 4096 targets")]
    TooNarrow,
}

impl MarkMask {
    /// The lower 16 bits.
    pub const DEFAULT: Self = Self(0xffff);

    /// Makes a mask of these bits.
    ///
    /// # Errors
    /// When the bits are not one run, or fewer than 13.
    pub fn new(bits: u32) -> Result<Self, MarkMaskError> {
        let run = bits.checked_shr(bits.trailing_zeros()).unwrap_or(0);
        if run & run.wrapping_add(1) != 0 {
            return Err(MarkMaskError::NotContiguous);
        }
        if bits.count_ones() < 13 {
            return Err(MarkMaskError::TooNarrow);
        }
        Ok(Self(bits))
    }

    /// Returns the bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Returns how far a target's number is shifted to lie in the mask.
    #[must_use]
    pub fn shift(self) -> u32 {
        self.0.trailing_zeros()
    }

    /// Returns the mark of a target: its number within the mask; the other bits are 0.
    #[must_use]
    pub fn mark(self, target: TargetId) -> Mark {
        Mark(target.number() << self.shift())
    }

    /// Returns the target of a mark or connection mark. Returns `None` if our bits are 0 or stand for no
    /// target.
    #[must_use]
    pub fn target(self, mark: Mark) -> Option<TargetId> {
        TargetId::from_number((mark.0 & self.target_bits()) >> self.shift())
    }

    /// Returns the bit of a connection mark that is set when two packets of the flow were tracked. It is
    /// never in a packet's mark.
    #[must_use]
    pub fn second(self) -> u32 {
        self.spare_bits()[1]
    }

    /// Returns the bit of a connection mark that is set when three packets of the flow were tracked. It is
    /// never in a packet's mark.
    #[must_use]
    pub fn kept(self) -> u32 {
        self.spare_bits()[0]
    }

    /// Returns the connection mark of a flow of three packets or more that goes to the target of this mark.
    #[must_use]
    pub fn kept_mark(self, Mark(mark): Mark) -> Mark {
        Mark(mark | self.second() | self.kept())
    }

    /// Returns the bits of a connection mark that hold the target: those of the mask, without
    /// [`MarkMask::second`] and [`MarkMask::kept`].
    #[must_use]
    pub fn target_bits(self) -> u32 {
        self.0 & !(self.second() | self.kept())
    }

    /// Returns the two highest bits outside of the mask. If the mask leaves fewer, the highest bits inside
    /// are taken: a mask of 31 bits or more has bits that no target needs.
    fn spare_bits(self) -> [u32; 2] {
        let highest = |bits: u32| bits & (1u32 << 31).wrapping_shr(bits.leading_zeros());
        let next = |taken: u32| match highest(!self.0 & !taken) {
            0 => highest(self.0 & !taken),
            bit => bit,
        };
        let kept = next(0);
        [kept, next(kept)]
    }
}

/// An NFQUEUE number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QueueNum(pub u16);

/// The number of the configurations that a region has had. Its lowest bit selects the live slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// The number that its mark shows.
as_number!(TargetId, u32, TargetId::from_number, TargetId::number, "number of a target");

impl fmt::Display for MarkMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

impl FromStr for MarkMask {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let bits = text.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
        bits.and_then(|bits| Self::new(bits).ok()).ok_or(())
    }
}

as_string!(MarkMask, "mark mask");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_one_run_of_at_least_thirteen_bits() {
        assert_eq!(MarkMask::new(0), Err(MarkMaskError::TooNarrow));
        assert_eq!(MarkMask::new(0xf0f), Err(MarkMaskError::NotContiguous));
        assert_eq!(MarkMask::new(0xfff), Err(MarkMaskError::TooNarrow));
        for bits in [0x1fff, 0xffff, 0xffff_0000, u32::MAX, 0x1fff << 19] {
            assert_eq!(MarkMask::new(bits).map(MarkMask::bits), Ok(bits));
        }
    }

    #[test]
    fn bits_beside_the_target_do_not_touch_it() {
        for (bits, kept, second) in [
            (0xffff, 1 << 31, 1 << 30),
            (0xffff_0000, 1 << 15, 1 << 14),
            (0x7fff_fffe, 1 << 31, 1),
            (0x7fff_ffff, 1 << 31, 1 << 30),
            (0xffff_fffe, 1, 1 << 31),
            (u32::MAX, 1 << 31, 1 << 30),
        ] {
            let mask = MarkMask::new(bits).unwrap();
            assert_eq!((mask.kept(), mask.second()), (kept, second), "{bits:#x}");
            assert_eq!(mask.target_bits(), bits & !kept & !second, "{bits:#x}");
            let last = TargetId::new(TARGETS_MAX - 1).unwrap();
            let mark = mask.mark(last);
            assert_eq!(mark.0 & (kept | second), 0, "{bits:#x}");
            assert_eq!(mask.target(Mark(mark.0 | kept | second)), Some(last), "{bits:#x}");
        }
    }

    #[test]
    fn every_target_has_a_mark_in_the_mask_and_is_found_by_it() {
        for bits in [0x1fff, 0xffff, 0x1fff << 19] {
            let mask = MarkMask::new(bits).unwrap();
            for index in [0, 1, 255, TARGETS_MAX - 1] {
                let target = TargetId::new(index).unwrap();
                let mark = mask.mark(target);
                assert_eq!(mark.0 & !bits, 0);
                assert_ne!(mark.0, 0);
                assert_eq!(mask.target(Mark(mark.0 | !bits)), Some(target));
            }
            assert_eq!(mask.target(Mark(!bits)), None);
        }
        assert_eq!(TargetId::new(TARGETS_MAX), None);
    }
}
