//! The version of the kernel.

use std::{fs, path::Path};

/// Returns it, from the procfs at `proc`; empty if it cannot be read.
#[must_use]
pub fn release(proc: &Path) -> String {
    fs::read_to_string(proc.join("sys/kernel/osrelease")).unwrap_or_default().trim().to_owned()
}
