//! What deciding needs from connection tracking: the interface between the two.

use std::io;

use crate::{
    model::ids::{Mark, MarkMask},
    packet::Packet,
};

/// What connection tracking holds for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowMark {
    /// The connection mark; 0 if there is none.
    pub mark: Mark,
    /// How long the entry is kept if no more packets come; `None` if the flowtable manages that.
    pub left_seconds: Option<u32>,
}

/// Connection tracking, as far as deciding needs it. `sys/` implements it for the kernel, and tests have an
/// implementation of their own.
pub trait FlowTable {
    /// Returns what is known about the flow that `packet` belongs to, or `None` if it has no entry.
    ///
    /// # Errors
    /// When the kernel cannot be queried.
    fn lookup(&mut self, packet: &Packet) -> io::Result<Option<FlowMark>>;

    /// Gives the UDP flow that `packet` belongs to these bits of a mark and this lifetime from now on.
    /// Changes the flow's entry, or creates one.
    ///
    /// # Errors
    /// When the kernel refuses; most likely there is no room for another entry.
    fn pin(&mut self, packet: &Packet, mark: Mark, mask: MarkMask, seconds: u32) -> io::Result<()>;
}
