//! What the kernel should be set up with, as values. PURE: state in, values out; `sys/` puts them in force.

pub mod elements;
pub mod ruleset;
