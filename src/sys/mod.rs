//! THE OS: the only place that holds unsafe code, calls libc, starts programs or reads the clock. Every module here
//! is safe from outside and owns its descriptors.

pub mod clock;
pub mod nfqueue;
pub mod nft;
pub mod probe;
pub mod region;
pub mod rtnetlink;
mod sigbus;
pub mod signal;
