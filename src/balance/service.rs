//! Which service a packet belongs to.

use crate::config::PortRange;

/// Neighbouring addresses of one family, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressRange {
    /// IPv4.
    V4(u32, u32),
    /// IPv6.
    V6(u128, u128),
}

/// A box of (destination, protocol, port) that belongs to one service. All boxes of a classifier are disjoint, as
/// nft's concatenated interval sets want them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The virtual addresses.
    pub addresses: AddressRange,
    /// Protocol numbers `first..=last`: one, or 0..=255.
    pub protocols: (u8, u8),
    /// The destination ports; all of them when protocols is 0..=255.
    pub ports: PortRange,
    /// Index of the service in [`crate::state::State::services`].
    pub service: usize,
}
