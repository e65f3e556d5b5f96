//! The region in shared memory: the state, in two slots, and the workers' statistics. PURE, over [`Memory`].
//!
//! `lbctl` writes, `lbd` reads, and neither waits for the other. There is one writer at a time, under an
//! exclusive lock that the writer's death releases. It writes what is new where the live state has nothing,
//! and describes it in the slot that is not live. Only then does it store the new generation, whose lowest
//! bit selects the live slot. A reader copies the parts of the live state that it does not have yet, and uses
//! them only if the checksums and the generation are right. So a torn, half-written or foreign table is never
//! used, wherever a writer is killed.
//!
//! ```text
//!        0  magic, layout version, byte order, sizes, checksum       never change
//!       64  generation                                               the live slot is generation & 1
//!      128  slot 0: offset, length, generation, checksum of the document
//!      192  slot 1: the same
//!      256  daemon: process, generations in force, start              written by lbd
//!     4096  65 statistics blocks, one a worker                       written by that worker alone
//!           documents, where the slots say, and tables, where a document says; grows at the end
//! ```
//!
//! `layout.rs` defines the layout of a state, `slots.rs` how a state is published and read, `space.rs` where
//! there is room, `stats.rs` what workers and the daemon leave for `lbctl`.

pub mod layout;
pub mod layout4;
pub mod slots;
mod space;
pub mod stats;

use std::io;

use thiserror::Error;

/// The bytes of a region, shared with other processes. The real implementation is in `sys/region.rs`; tests
/// have one that fails on demand.
pub trait Memory {
    /// Returns the present size in bytes.
    ///
    /// # Errors
    /// When it cannot be determined.
    fn size(&mut self) -> io::Result<usize>;
    /// Returns the word at `offset`, a multiple of 8. Acquires everything that was written before the word
    /// was stored.
    ///
    /// # Errors
    /// When the region does not reach that far.
    fn load(&mut self, offset: usize) -> io::Result<u64>;
    /// Stores a word at `offset`, a multiple of 8, and releases everything that was written before.
    ///
    /// # Errors
    /// When the region does not reach that far.
    fn store(&mut self, offset: usize, value: u64) -> io::Result<()>;
    /// Returns a copy of `len` bytes from `offset`, both multiples of 8.
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

/// What an operator can do about a region of another version.
fn what_to_do(found: u32, known: u32) -> &'static str {
    if found == layout4::VERSION {
        "lbd converts it when it starts"
    } else if found > known {
        "it was made by a newer version: use that one, or make the region anew with `lbctl clean --keep-overrides` and \
         `lbctl apply FILE`"
    } else {
        "make it anew with `lbctl clean` and `lbctl apply FILE`. Both forget what lbctl has deactivated: note it before with \
         `lbctl show` of the version that made the region, and deactivate it again"
    }
}

/// Why a region cannot be used. Nothing was changed in it.
#[derive(Debug, Error)]
pub enum RegionError {
    /// The memory holds something else, or nothing yet.
    #[error("it is no region of synrail (wrong magic)")]
    NotARegion,
    /// The region was made by another version of this program.
    #[error(
        "its layout is version {found}, this program knows version {known}; {}", what_to_do(*found, *known)
    )]
    ForeignVersion {
        /// The region's version.
        found: u32,
        /// The version that this program supports.
        known: u32,
    },
    /// The region was made on a machine with the other byte order.
    #[error("it was made on a machine of another byte order")]
    ForeignByteOrder,
    /// The region is shorter than it says.
    #[error("it is truncated: {found} bytes where {needed} are described")]
    Truncated {
        /// The number of bytes that are there.
        found: usize,
        /// The number of bytes that should be there.
        needed: usize,
    },
    /// Checksums or values are wrong.
    #[error("it is corrupt: {0}")]
    Corrupt(&'static str),
    /// The document of a state cannot be read.
    #[error("it is corrupt: its state: {0}")]
    Document(#[from] serde_json::Error),
    /// The region changed again and again while it was read.
    #[error("it is being changed faster than it can be read")]
    Unstable,
    /// The state needs more than a region may hold.
    #[error("with the new state it needs {needed} bytes; a region has at most {allowed}")]
    TooLarge {
        /// The number of bytes that are needed.
        needed: usize,
        /// The number of bytes that are allowed.
        allowed: usize,
    },
    /// The operating system reported an error.
    #[error(transparent)]
    Os(#[from] io::Error),
}
