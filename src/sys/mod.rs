//! The operating system: the only part with unsafe code, other programs and the clock.

pub mod nft;
pub mod probe;
