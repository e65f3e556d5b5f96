//! What deciding asks connection tracking: the seam between the two.

use std::io;

use crate::{
    model::ids::{Mark, MarkMask},
    packet::Packet,
};

/// What connection tracking knows of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowMark {
    /// The connection mark; 0 when there is none.
    pub mark: Mark,
    /// How long it is kept if nothing more comes; `None` when the flowtable manages that.
    pub left_seconds: Option<u32>,
}

/// Connection tracking, as far as deciding needs it. `sys/` has the kernel's, tests have one of their own.
pub trait FlowTable {
    /// What is known of the flow that `packet` belongs to; `None` when it has no entry.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    fn lookup(&mut self, packet: &Packet) -> io::Result<Option<FlowMark>>;

    /// Gives the flow that `packet` belongs to, which is UDP, these bits of a mark and so much time from now: in its entry,
    /// or a new one.
    ///
    /// # Errors
    /// When the kernel does not do it: most likely, there is no room for one more.
    fn pin(&mut self, packet: &Packet, mark: Mark, mask: MarkMask, seconds: u32) -> io::Result<()>;
}
