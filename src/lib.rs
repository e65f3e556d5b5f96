//! # The journey of a packet
//!
//! The client's SYN to a virtual address reaches the kernel, where the ruleset ([`plan::ruleset`], `nft/synrail.nft`)
//! leaves it untracked and queues it. A [`worker`] receives it ([`sys::nfqueue`], through the seam [`io`]), the bytes
//! become facts ([`packet`]), the facts a decision ([`balance`]): which service, which entry of its Maglev table,
//! which mark. The kernel remembers the mark, and policy routing ([`plan::routing`]) sends the packet through the
//! tunnel of that backend, which answers the client directly. The client's next packet finds the mark and pins it to
//! the connection; no later one is queued.
//!
//! What the balancer decides by is a [`state`]: made from a configuration file ([`config`]), kept in shared memory
//! ([`shm`]), changed by `lbctl` ([`ctl`]), followed by lbd ([`daemon`]).
//!
//! # Walls
//!
//! `packet`, `balance`, `config`, `control`, `state`, `plan`, `host`, `lease` and `shm` are pure: bytes, time and configuration in, values out.
//! `sys` alone touches the operating system and holds all unsafe code. `worker`, `fragment_worker` and `daemon` join the two.

pub mod balance;
pub mod config;
pub mod control;
pub mod ctl;
pub mod daemon;
pub mod fragment_worker;
pub mod host;
pub mod ids;
pub mod io;
pub mod lease;
pub mod packet;
pub mod plan;
pub mod shm;
pub mod state;
pub mod sys;
pub mod worker;

#[cfg(test)]
mod tests;
