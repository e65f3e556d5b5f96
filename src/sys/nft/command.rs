//! Runs the nft command. nft reads text from standard input; its output or its error message
//! is returned.

use std::{
    io::{self, Write as _},
    process::Stdio,
};

use super::NftError;
use crate::sys::program::program;

/// How many lines of nft's message are kept: nft repeats the offending line, and one error causes many more.
const MESSAGE_LINES_MAX: usize = 12;

/// Runs `nft` with these arguments and returns its output.
pub(crate) fn nft(what: &'static str, arguments: &[&str], text: Option<&str>) -> Result<String, NftError> {
    let stdin = if text.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut command = program("nft");
    let child = command.args(arguments).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let not_found = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let mut child =
        child.map_err(|error| if not_found(&error) { NftError::NoCommand } else { NftError::Run(error) })?;
    // A separate thread writes, so that neither side waits for the other with a full pipe.
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        if let (Some(mut stdin), Some(text)) = (stdin, text) {
            // If nft ends before it has read everything, its own message says why, and is the error to
            // report.
            scope.spawn(move || drop(stdin.write_all(text.as_bytes())));
        }
        child.wait_with_output()
    });
    let output = output.map_err(NftError::Run)?;
    if output.status.success() {
        return String::from_utf8(output.stdout).map_err(|error| NftError::Unreadable(error.to_string()));
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = message.lines().take(MESSAGE_LINES_MAX).map(str::trim_end).collect();
    let message = if lines.is_empty() { output.status.to_string() } else { lines.join("\n") };
    Err(NftError::Refused { what, message })
}
