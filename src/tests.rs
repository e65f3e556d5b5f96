//! Worlds: whole balancers with fake queues, in one process, without root. Each test says which packets come, and then
//! which verdicts and which counters it expects, all of them.

mod backlog;
pub(crate) mod bytes;
pub(crate) mod fixture;
mod fragments;
pub(crate) mod pins;
mod scenarios;
mod tracer;
mod world;
