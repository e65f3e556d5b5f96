//! How full the table of connections is.

use std::{fs, io, path::Path};

/// How full the table of connections is, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// How many entries there are now.
    pub entries: u64,
    /// How many entries there may be.
    pub max: u64,
}

/// Reads how full the table is from the procfs at `proc`, for the network namespace of the calling process.
///
/// # Errors
/// Returns an error if the files cannot be read: there is no connection tracking, or procfs is somewhere
/// else.
pub fn fill(proc: &Path) -> io::Result<Fill> {
    let number = |name: &str| {
        let text = fs::read_to_string(proc.join("sys/net/netfilter").join(name))?;
        text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    };
    Ok(Fill { entries: number("nf_conntrack_count")?, max: number("nf_conntrack_max")? })
}
