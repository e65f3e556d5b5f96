//! The desired kernel configuration as values, and the changes needed to reach it. PURE: nothing here touches
//! the kernel. `sys/` applies it and reads it back.

pub mod announce;
pub mod backend_setup;
pub mod elements;
pub mod kernel_tables;
pub mod nf_table;
pub mod routing;
pub mod rule_tree;
pub mod ruleset;
pub mod template;
pub mod tunnel;
