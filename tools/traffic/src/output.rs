//! What the tool says: answers on standard output, all else on standard error. Where these cannot be written, traffic goes on;
//! an answer that is lost is a failure at the end, a complaint that is lost is none.
#![expect(clippy::disallowed_methods, reason = "the one place that knows standard output and error")]

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};

/// The exit status where the reader of an answer has ended: 128 and the number of SIGPIPE, as of programs that die of it.
pub(crate) const READER_GONE: u8 = 141;

/// An answer could not be written.
#[derive(Debug)]
pub(crate) struct Unsaid(io::Error);

impl Unsaid {
    /// Whether the reader has ended, as in `traffic analyze | head`.
    pub(crate) fn reader_gone(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

impl fmt::Display for Unsaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer cannot be written: {}", self.0)
    }
}

impl std::error::Error for Unsaid {}

/// Writes an answer.
pub(crate) fn answer(text: &str) -> Result<(), Unsaid> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Unsaid)
}

/// Writes for a person, if that can be done.
pub(crate) fn say(text: impl fmt::Display) {
    let _ = write!(io::stderr().lock(), "{text}");
}

/// Whether a person looks on.
pub(crate) fn errors_to_terminal() -> bool {
    io::stderr().is_terminal()
}
