//! The configuration file of lbd: read, checked, and compared with the host.

use std::{io, path::Path};

use super::{DaemonError, host};
use crate::{
    balance::Forwarding,
    config::{Config, FILE_BYTES_MAX},
    host::Finding,
    model::ids::Generation,
    plan::routing,
    state::State,
};

/// Reads and checks a configuration file, as far as that goes without the kernel.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check(file: &Path) -> Result<(Config, State), DaemonError> {
    let text = read(file).map_err(|error| DaemonError::File { file: file.to_owned(), error })?;
    let config = Config::parse(&file.display().to_string(), &text)?;
    let state = State::new(&config)?;
    Forwarding::new(&state, Generation::default())?;
    routing::desired(&state)?;
    Ok((config, state))
}

/// Finds what on this host is not as it should be for a configuration file, worst first. Changes nothing.
///
/// # Errors
/// When the file is wrong, or the host cannot be examined.
pub fn check_host(file: &Path) -> Result<Vec<Finding>, DaemonError> {
    host::findings(&check(file)?.1)
}

/// Reads the text of a file. Anything but a regular file might block for ever, or have no end.
fn read(file: &Path) -> io::Result<String> {
    let metadata = std::fs::metadata(file)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read_to_string(file)
}
