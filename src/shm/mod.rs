//! The region in shared memory: the state, in two slots, and the workers' statistics. PURE, over [`Memory`].
//!
//! `lbctl` writes, `lbd` reads, and neither waits for the other. A writer (one at a time, under an exclusive lock that
//! its death releases) puts what is new where the live state has nothing, describes it in the slot that is not live, and only
//! then stores the new generation, whose lowest bit names the live slot. A reader copies of the live state what it does not
//! have yet, and takes it only if its checksums and its generation are right. So a torn, half-written or foreign table is
//! never used, wherever a writer is killed.
//!
//! ```text
//!        0  magic, layout version, byte order, sizes, checksum       never change
//!       64  generation                                               the live slot is generation & 1
//!      128  slot 0: offset, length, generation, checksums of records
//!      192  slot 1: the same
//!      256  daemon: process, generations in force, start              written by lbd
//!     4096  65 statistics blocks, one a worker                       written by that worker alone
//!           records, where the slots say, and tables, where the records say; grows at the end
//! ```
//!
//! `layout.rs` says what a state looks like, `slots.rs` how one is published and read, `space.rs` where there is room,
//! `stats.rs` what workers and the daemon leave for `lbctl`.

pub mod layout;
pub mod slots;
mod space;
pub mod stats;

use std::io;

use thiserror::Error;

/// The bytes of a region, shared with other processes. The OS's is in `sys/region.rs`; tests have one that fails on
/// demand.
pub trait Memory {
    /// The size in bytes, now.
    ///
    /// # Errors
    /// When it cannot be told.
    fn size(&mut self) -> io::Result<usize>;
    /// The word at `offset`, a multiple of 8; acquires what was written before it was stored.
    ///
    /// # Errors
    /// When the region does not reach that far.
    fn load(&mut self, offset: usize) -> io::Result<u64>;
    /// Stores a word at `offset`, a multiple of 8, and with it releases everything written before.
    ///
    /// # Errors
    /// When the region does not reach that far.
    fn store(&mut self, offset: usize, value: u64) -> io::Result<()>;
    /// A copy of `len` bytes from `offset`, both multiples of 8.
    ///
    /// # Errors
    /// When the region does not reach that far.
    fn read(&mut self, offset: usize, len: usize) -> io::Result<Vec<u8>>;
    /// Writes bytes, a multiple of 8, to `offset`, a multiple of 8.
    ///
    /// # Errors
    /// When the region does not reach that far.
    fn write(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()>;
    /// Makes the region at least `len` bytes long.
    ///
    /// # Errors
    /// When there is no space.
    fn grow(&mut self, len: usize) -> io::Result<()>;
}

/// Why a region cannot be used. Nothing was changed in it.
#[derive(Debug, Error)]
pub enum RegionError {
    /// Something else, or nothing yet.
    #[error("it is no region of synrail (wrong magic)")]
    NotARegion,
    /// Made by another version of this program.
    #[error(
        "its layout is version {found}, this program knows version {known}; make it anew with `lbctl clean` and `lbctl apply FILE`. \
         Both forget what lbctl has deactivated. To keep it, note it before with `lbctl show` of the version that made the \
         region, and deactivate it again, or set `active = false` in FILE"
    )]
    ForeignVersion {
        /// The region's.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Made on a machine of the other byte order.
    #[error("it was made on a machine of another byte order")]
    ForeignByteOrder,
    /// Shorter than it says.
    #[error("it is truncated: {found} bytes where {needed} are described")]
    Truncated {
        /// Bytes there are.
        found: usize,
        /// Bytes there should be.
        needed: usize,
    },
    /// Checksums or values are wrong.
    #[error("it is corrupt: {0}")]
    Corrupt(&'static str),
    /// It changed again and again while it was read.
    #[error("it is being changed faster than it can be read")]
    Unstable,
    /// More than a region may hold.
    #[error("with the new state it needs {needed} bytes; a region has at most {allowed}")]
    TooLarge {
        /// Bytes needed.
        needed: usize,
        /// Bytes allowed.
        allowed: usize,
    },
    /// The operating system said no.
    #[error(transparent)]
    Os(#[from] io::Error),
}
