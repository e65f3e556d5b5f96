//! How full the table of connections is.

use std::{fs, io, path::Path};

/// How full it is, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// There are so many now.
    pub entries: u64,
    /// There may be so many.
    pub max: u64,
}

/// Reads it below this procfs, for the network namespace of the calling process.
///
/// # Errors
/// When it cannot be read: there is no connection tracking, or it is somewhere else.
pub fn fill(proc: &Path) -> io::Result<Fill> {
    let number = |name: &str| {
        let text = fs::read_to_string(proc.join("sys/net/netfilter").join(name))?;
        text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    };
    Ok(Fill { entries: number("nf_conntrack_count")?, max: number("nf_conntrack_max")? })
}
