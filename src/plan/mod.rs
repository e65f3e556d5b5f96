//! PURE: desired state as values, and what must change to reach it. Nothing here touches the kernel.

pub mod backend_setup;
pub mod routing;
pub mod rule_tree;
pub mod tunnel;
