//! The output of the programs: answers on standard output, complaints and the log on standard error. Output
//! must never end a process, whatever is behind the descriptor: a full disk, a pipe without a reader, or
//! nothing at all.
//!
//! The macros of std panic when they cannot write, and std itself reports success for writes to a closed
//! descriptor. So only this module uses standard output and standard error (clippy.toml, `print_stdout`,
//! `print_stderr`). If descriptors 0 to 2 are closed at the start, Rust's runtime opens them on /dev/null
//! before `main`, so that no file or socket gets their number.
//!
//! - [`Out`]: an answer. It waits for its reader, and reports every error: a lost answer is a failure.
//! - [`Complaints`]: a line for a person. It waits for its reader; a line that cannot be written is lost.
//! - [`Log`]: never fails, and waits 20 ms at most, once for all lines that are lost in a row. Lines that
//!   cannot be written are counted, and the count is logged before the next line that can.
#![expect(clippy::disallowed_methods, reason = "the one place that knows standard output and error")]

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt,
    io::{self, IsTerminal as _, Write},
    os::fd::AsFd,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError, TryLockError},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{SigHandler, Signal, signal},
};

/// The exit status if the reader of an answer has ended: 128 plus the number of SIGPIPE, as for programs that
/// this signal ends.
pub const READER_GONE: u8 = 141;
/// How many bytes a pipe with any room accepts at once, without waiting (`PIPE_BUF`).
const CHUNK_BYTES: usize = 4096;
/// How long a log line waits for its reader, if the line before was written.
const PATIENCE_MS: u8 = 20;

/// Turns a file's size limit (`ulimit -f`) into a write error instead of the end of the process. Must be
/// called first in `main`.
#[allow(unsafe_code)]
pub fn prepare() {
    // SAFETY: no handler is installed, and no code relies on the one that is replaced.
    let ignored = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    // Refused only for signals that cannot be ignored, which does not include this one.
    let _ = ignored;
}

/// Reports whether standard error is a terminal.
#[must_use]
pub fn errors_to_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Standard output, unbuffered.
#[derive(Debug)]
pub struct Out;

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_waiting(io::stdout(), bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error, unbuffered.
#[derive(Debug)]
pub struct Complaints;

impl Write for Complaints {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // No place is left to report an error.
        Ok(write_waiting(io::stderr(), bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints an answer, with a newline. Returns the exit status, which reports whether it was written.
#[must_use]
pub fn answer(program: &str, answer: impl fmt::Display) -> ExitCode {
    let written = Out.write_all(format!("{answer}\n").as_bytes());
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => READER_GONE.into(),
        Err(error) => {
            complain(
                program,
                format_args!("what was asked is done, but its answer cannot be written: {error}"),
            );
            ExitCode::FAILURE
        }
    }
}

/// Prints what is wrong, each line with the program's name before it.
pub fn complain(program: &str, complaint: impl fmt::Display) {
    for line in complaint.to_string().lines() {
        let _ = Complaints.write_all(format!("{program}: {line}\n").as_bytes());
    }
}

/// Prints a message of clap: help and the version are answers, all else is a complaint.
#[must_use]
pub fn usage(program: &str, complaint: &clap::Error) -> ExitCode {
    let text = complaint.render();
    if complaint.use_stderr() {
        let _ = Complaints.write_all(text.to_string().as_bytes());
        return ExitCode::from(2);
    }
    answer(program, text.to_string().trim_end_matches('\n'))
}

fn write_waiting(to: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match nix::unistd::write(&to, bytes) {
            // Another process that shares the descriptor has made it non-blocking.
            Err(Errno::EAGAIN) => wait_for_room(&to, PollTimeout::NONE).map(drop)?,
            written => return Ok(written?),
        }
    }
}

/// Waits until a write would not block. Returns whether there is room, or an error to report.
fn wait_for_room(to: &impl AsFd, limit: PollTimeout) -> io::Result<bool> {
    match poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], limit) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Writes some of the bytes to standard error, if it accepts any at once or within [`PATIENCE_MS`].
fn write_soon(bytes: &[u8], may_wait: bool) -> io::Result<usize> {
    let to = io::stderr();
    if !wait_for_room(&to, if may_wait { PollTimeout::from(PATIENCE_MS) } else { PollTimeout::ZERO })? {
        return Err(io::Error::new(io::ErrorKind::WouldBlock, "its reader does not read"));
    }
    Ok(nix::unistd::write(&to, &bytes[..bytes.len().min(CHUNK_BYTES)])?)
}

/// The log of a daemon, one line per write; for all threads.
#[derive(Debug, Default)]
pub struct Log(Mutex<Lines>);

impl Log {
    /// Makes panic messages go to this log too.
    pub fn take_panics(self: &Arc<Self>, program: &'static str) {
        let log = Arc::clone(self);
        std::panic::set_hook(Box::new(move |panic| {
            let backtrace = Backtrace::capture();
            let mut text = format!("{program}: {panic}\n");
            if backtrace.status() == BacktraceStatus::Captured {
                text += &format!("{backtrace}\n");
            }
            // A panic while this thread writes a line must not wait for the lock that this thread holds.
            match log.0.try_lock() {
                Ok(mut lines) => lines.line(text.as_bytes(), &mut write_soon),
                Err(TryLockError::Poisoned(lines)) => {
                    lines.into_inner().line(text.as_bytes(), &mut write_soon);
                }
                Err(TryLockError::WouldBlock) => {}
            }
        }));
    }
}

impl Write for &Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).line(line, &mut write_soon);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The state of the lines written so far.
#[derive(Debug, Default)]
struct Lines {
    /// How many lines were not written completely since the last line that was.
    lost: u64,
    /// Why the first of them was not written.
    why: String,
    /// Whether the last output ended within a line.
    amid_line: bool,
}

impl Lines {
    /// Writes a line with `put`, which writes some of the bytes; its second argument says whether it may
    /// wait.
    fn line(&mut self, line: &[u8], put: &mut dyn FnMut(&[u8], bool) -> io::Result<usize>) {
        let note = self.note();
        let text = [note.as_bytes(), line].concat();
        let may_wait = self.lost == 0;
        let (written, why) = put_all(&text, &mut |bytes| put(bytes, may_wait));
        if let Some(&last) = written.checked_sub(1).and_then(|last| text.get(last)) {
            self.amid_line = last != b'\n';
        }
        if written >= note.len() {
            self.lost = 0;
        }
        if let Some(why) = why {
            if self.lost == 0 {
                self.why = why.to_string();
            }
            self.lost = self.lost.saturating_add(1);
        }
    }

    /// Returns the note about lost lines that precedes the next line.
    fn note(&self) -> String {
        if self.lost == 0 {
            return String::new();
        }
        let end = if self.amid_line { "\n" } else { "" };
        format!("{end}log: {} lines before this one could not be written: {}\n", self.lost, self.why)
    }
}

/// Returns how many bytes were written, and why not all.
fn put_all(bytes: &[u8], put: &mut dyn FnMut(&[u8]) -> io::Result<usize>) -> (usize, Option<io::Error>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match put(rest) {
            Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
            Ok(some) => written += some,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with room for `room` bytes.
    struct Disk {
        room: usize,
        written: Vec<u8>,
    }

    impl Disk {
        fn put(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(Errno::ENOSPC.into());
            }
            let some = bytes.len().min(self.room).min(7);
            self.room -= some;
            self.written.extend_from_slice(&bytes[..some]);
            Ok(some)
        }
    }

    #[test]
    fn lost_lines_are_counted_and_reported_when_output_works_again() {
        let mut disk = Disk { room: 10, written: Vec::new() };
        let mut lines = Lines::default();
        for line in ["one\n", "two and more\n", "three\n", "four\n"] {
            lines.line(line.as_bytes(), &mut |bytes, _| disk.put(bytes));
        }
        assert_eq!((lines.lost, disk.written.as_slice()), (3, &b"one\ntwo an"[..]));
        // There is room for only a part of the note.
        disk.room = 20;
        lines.line(b"five\n", &mut |bytes, _| disk.put(bytes));
        assert_eq!(lines.lost, 4);
        disk.room = 1000;
        for line in ["six\n", "seven\n"] {
            lines.line(line.as_bytes(), &mut |bytes, _| disk.put(bytes));
        }
        let text = String::from_utf8(disk.written).unwrap();
        let expected = "log: 4 lines before this one could not be written: No space left on device (os error 28)\nsix\nseven\n";
        assert!(text.ends_with(&format!("\n{expected}")), "{text}");
        assert_eq!(lines.lost, 0);
    }

    #[test]
    fn a_put_that_is_interrupted_is_made_again() {
        let (mut lines, mut calls, mut written) = (Lines::default(), 0, Vec::new());
        lines.line(b"a line\n", &mut |bytes, _| {
            calls += 1;
            if calls % 2 == 1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            written.push(bytes[0]);
            Ok(1)
        });
        assert_eq!((lines.lost, written.as_slice()), (0, &b"a line\n"[..]));
    }
}
