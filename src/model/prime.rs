//! Table sizes: primes, so that every skip of a Maglev permutation visits every entry (Maglev paper, 3.4).

use thiserror::Error;

use super::values::as_number;

/// M, the number of entries of a Maglev table: a prime from 3 to [`TableSize::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableSize(u32);

/// Why a number is not a valid [`TableSize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TableSizeError {
    /// The number is not a prime. The nearest primes that are allowed are given.
    #[error("not a prime; the nearest are {below} and {above}")]
    NotPrime {
        /// The next prime below.
        below: u32,
        /// The next prime above.
        above: u32,
    },
    /// The number is too small or too large.
    #[error("out of range: a prime from {} to {}", TableSize::MIN, TableSize::MAX)]
    OutOfRange,
}

impl TableSizeError {
    /// Returns a description of the allowed values.
    #[must_use]
    pub fn allowed(self) -> String {
        match self {
            Self::NotPrime { below, above } => format!("a prime; the nearest are {below} and {above}"),
            Self::OutOfRange => format!("a prime from {} to {}", TableSize::MIN, TableSize::MAX),
        }
    }
}

impl TableSize {
    /// The smallest size.
    pub const MIN: u32 = 3;
    /// The largest size, a prime: 2^20 - 3.
    pub const MAX: u32 = 1_048_573;
    /// 65537, as in the Maglev paper.
    pub const DEFAULT: Self = Self(65537);

    /// Makes a table size of `size`.
    ///
    /// # Errors
    /// When it is not a prime, or out of range.
    pub fn new(size: u64) -> Result<Self, TableSizeError> {
        let size = u32::try_from(size).map_err(|_| TableSizeError::OutOfRange)?;
        if !(Self::MIN..=Self::MAX).contains(&size) {
            return Err(TableSizeError::OutOfRange);
        }
        if is_prime(size) {
            return Ok(Self(size));
        }
        // Both ends of the range are primes, so there is a prime on either side.
        let below = (Self::MIN..size).rev().find(|&n| is_prime(n)).unwrap_or(Self::MIN);
        let above = (size..Self::MAX).find(|&n| is_prime(n)).unwrap_or(Self::MAX);
        Err(TableSizeError::NotPrime { below, above })
    }

    /// Returns the largest prime not above `size`.
    ///
    /// # Errors
    /// When `size` is out of range.
    pub fn at_most(size: u64) -> Result<Self, TableSizeError> {
        match Self::new(size) {
            Err(TableSizeError::NotPrime { below, .. }) => Ok(Self(below)),
            other => other,
        }
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// Returns the number of entries as a `usize`, to allocate a table.
    #[must_use]
    pub fn entries(self) -> usize {
        self.0 as usize
    }
}

as_number!(TableSize, u32, |size: u32| TableSize::new(size.into()).ok(), TableSize::get, "table size");

/// Trial division: numbers are below 2^20, so at most 500 odd divisors.
fn is_prime(n: u32) -> bool {
    n == 2
        || (n > 2 && n % 2 == 1 && (3..).step_by(2).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_taken_and_others_name_their_neighbours() {
        for prime in [3, 97, 997, 65537, 655_373, 1_048_573] {
            assert_eq!(TableSize::new(prime).map(TableSize::get), Ok(u32::try_from(prime).unwrap()));
        }
        assert_eq!(TableSize::new(65536), Err(TableSizeError::NotPrime { below: 65521, above: 65537 }));
        assert_eq!(TableSize::new(4), Err(TableSizeError::NotPrime { below: 3, above: 5 }));
        for out in [0, 2, 1_048_574, 1_048_583, 1 << 40] {
            assert_eq!(TableSize::new(out), Err(TableSizeError::OutOfRange));
        }
    }

    #[test]
    fn the_largest_prime_below_is_found() {
        assert_eq!(TableSize::at_most(100).map(TableSize::get), Ok(97));
        assert_eq!(TableSize::at_most(97).map(TableSize::get), Ok(97));
        assert_eq!(TableSize::at_most(2), Err(TableSizeError::OutOfRange));
    }
}
