//! # The journey of a packet
//!
//! The client's SYN to a virtual address reaches the kernel. There the ruleset ([`plan::ruleset`],
//! `nft/synrail.nft`) leaves it untracked and queues it. A [`worker`] receives it ([`sys::nfqueue`], through
//! the interface [`io`]). The bytes become facts ([`packet`]), and the facts become a decision ([`balance`]):
//! which service, which entry of its Maglev table ([`lookup`]), which mark. The kernel remembers the mark,
//! and policy routing ([`plan::routing`]) sends the packet through the tunnel of that backend, which answers
//! the client directly. The client's next packet finds the mark and pins it to the connection; no later
//! packet is queued.
//!
//! The balancer decides by a [`state`]. It is made from a configuration file ([`config`]), stored in shared
//! memory ([`shm`]), changed by `lbctl` ([`ctl`]) and followed by lbd ([`daemon`]), which does what
//! [`control`] says is due.
//!
//! # Layers
//!
//! Each module uses only those above it in this list; `tools/lib/layers` checks that.
//!
//! - [`model`]: numbers, names and other values that cannot be invalid
//! - [`packet`]: bytes to facts
//! - [`lookup`]: which service, which entry of its table
//! - [`config`]: the file to values
//! - [`state`]: what is in force
//! - [`balance`]: facts to a verdict
//! - [`lease`]: whether lbd answers
//! - [`plan`]: a state to ruleset, routing and commands, as values
//! - [`host`]: what is wrong on a host
//! - [`control`]: what is due when
//! - [`shm`]: the region's layout
//! - [`io`]: what a worker needs of the operating system
//! - [`sys`]: the operating system
//! - [`worker`]: a thread that decides about new flows
//! - [`fragment_worker`]: the thread that decides about fragments, and answers the tracer
//! - [`ops`]: what changes a region
//! - [`daemon`]: what lbd does
//! - [`status`]: snapshots of region, lbd and kernel, as values
//! - [`ctl`]: what lbctl does
//!
//! All modules above [`io`] are pure: bytes, time and configuration in, values out. Only [`sys`] touches the
//! operating system and holds unsafe code.

pub mod balance;
pub mod config;
pub mod control;
pub mod ctl;
pub mod daemon;
pub mod fragment_worker;
pub mod host;
pub mod io;
pub mod lease;
pub mod lookup;
pub mod model;
pub mod ops;
pub mod packet;
pub mod plan;
pub mod shm;
pub mod state;
pub mod status;
pub mod sys;
pub mod worker;

#[cfg(test)]
mod tests;
