//! The operating system.

pub mod rtnetlink;
