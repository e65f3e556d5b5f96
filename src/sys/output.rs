//! What programs say: answers on standard output, complaints and the log on standard error. Nothing said may end a process,
//! whatever is behind the descriptor: a full disk, a pipe without a reader, nothing at all.
//!
//! The macros of std panic where they cannot write, and std itself takes a closed descriptor for a written one; so nothing
//! but this module names standard output or error (clippy.toml, `print_stdout`, `print_stderr`). Descriptors 0 to 2 that are
//! closed at the start are opened on /dev/null by Rust's runtime before `main`, so that no file or socket gets their number.
//!
//! - [`Out`]: an answer. It waits for its reader, and every error is told: an answer that is lost is a failure.
//! - [`Complaints`]: a line for a person. It waits; what cannot be written is lost.
//! - [`Log`]: never fails, and waits 20 ms at most, once for all lines that are lost. Lines that cannot be written are counted, and told before the next one that can.
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

/// The exit status where the reader of an answer has ended: 128 and the number of SIGPIPE, as of programs that die of it.
pub const READER_GONE: u8 = 141;
/// What a pipe with any room takes at once, without waiting (`PIPE_BUF`).
const CHUNK_BYTES: usize = 4096;
/// How long a line of a log waits for its reader, if the line before was written.
const PATIENCE_MS: u8 = 20;

/// Makes a file's size limit (`ulimit -f`) an error of writing instead of the end of the process. Comes first in `main`.
#[allow(unsafe_code)]
pub fn prepare() {
    // SAFETY: no handler is installed, and none is replaced that anybody relies on.
    let ignored = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    // Refused for signals that cannot be ignored only, which this one can.
    let _ = ignored;
}

/// Whether standard error is a terminal.
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
        // Nowhere is left to tell an error.
        Ok(write_waiting(io::stderr(), bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says an answer, with a newline; how it went is the exit status.
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

/// Says what is wrong, each line with the program's name before it.
pub fn complain(program: &str, complaint: impl fmt::Display) {
    for line in complaint.to_string().lines() {
        let _ = Complaints.write_all(format!("{program}: {line}\n").as_bytes());
    }
}

/// Says what clap has to say: help and the version are answers, all else is a complaint.
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
            // Who shares the descriptor has made it so.
            Err(Errno::EAGAIN) => wait_for_room(&to, PollTimeout::NONE).map(drop)?,
            written => return Ok(written?),
        }
    }
}

/// Whether there is something to be had: room, or an error.
fn wait_for_room(to: &impl AsFd, limit: PollTimeout) -> io::Result<bool> {
    match poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], limit) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Some of the bytes to standard error, if that takes any at once, or soon.
fn write_soon(bytes: &[u8], may_wait: bool) -> io::Result<usize> {
    let to = io::stderr();
    if !wait_for_room(&to, if may_wait { PollTimeout::from(PATIENCE_MS) } else { PollTimeout::ZERO })? {
        return Err(io::Error::new(io::ErrorKind::WouldBlock, "its reader does not read"));
    }
    Ok(nix::unistd::write(&to, &bytes[..bytes.len().min(CHUNK_BYTES)])?)
}

/// The log of a daemon, a line in each write; for all threads.
#[derive(Debug, Default)]
pub struct Log(Mutex<Lines>);

impl Log {
    /// Writes also what panics say by it.
    pub fn take_panics(self: &Arc<Self>, program: &'static str) {
        let log = Arc::clone(self);
        std::panic::set_hook(Box::new(move |panic| {
            let backtrace = Backtrace::capture();
            let mut text = format!("{program}: {panic}\n");
            if backtrace.status() == BacktraceStatus::Captured {
                text += &format!("{backtrace}\n");
            }
            // A panic amid a line of this thread's own must not wait for itself.
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

/// What became of the lines so far.
#[derive(Debug, Default)]
struct Lines {
    /// Lines that were not written, or not to their end, since the last one that was.
    lost: u64,
    /// Why the first of them was not.
    why: String,
    /// Whether what was written last is part of a line.
    amid_line: bool,
}

impl Lines {
    /// `put` writes some of the bytes, and is told whether it may wait a little.
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

    /// What is to be told before the next line.
    fn note(&self) -> String {
        if self.lost == 0 {
            return String::new();
        }
        let end = if self.amid_line { "\n" } else { "" };
        format!("{end}log: {} lines before this one could not be written: {}\n", self.lost, self.why)
    }
}

/// How much was written, and why not all.
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

    /// A file with room for so many bytes.
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
    fn lost_lines_are_counted_and_told_when_it_works_again() {
        let mut disk = Disk { room: 10, written: Vec::new() };
        let mut lines = Lines::default();
        for line in ["one\n", "two and more\n", "three\n", "four\n"] {
            lines.line(line.as_bytes(), &mut |bytes, _| disk.put(bytes));
        }
        assert_eq!((lines.lost, disk.written.as_slice()), (3, &b"one\ntwo an"[..]));
        // Room for a part of what is to be told first.
        disk.room = 20;
        lines.line(b"five\n", &mut |bytes, _| disk.put(bytes));
        assert_eq!(lines.lost, 4);
        disk.room = 1000;
        for line in ["six\n", "seven\n"] {
            lines.line(line.as_bytes(), &mut |bytes, _| disk.put(bytes));
        }
        let text = String::from_utf8(disk.written).unwrap();
        let told = "log: 4 lines before this one could not be written: No space left on device (os error 28)\nsix\nseven\n";
        assert!(text.ends_with(&format!("\n{told}")), "{text}");
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
