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
//! - [`log`]: never fails, and waits 20 ms at most, once for all lines that are lost in a row. Lines that
//!   cannot be written are counted, and the count is logged before the next line that can.
//!
//! If standard error leads to systemd's journal, what a daemon complains of has its priority there, as the log has, and the
//! log its fields (journal.rs).
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
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

use super::journal::{self, Entry, Journal, ToJournal};

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

/// Starts the log of a program, to standard error, up to this level. `lasting` is whether the process stays until it is asked
/// to end. Must be called once.
pub fn log(program: &'static str, level: tracing::Level, lasting: bool) {
    let log = Arc::<Log>::default();
    log.take_panics(program);
    if journal::is_behind_stderr() {
        let journal = lasting.then(|| Journal::new(program).ok()).flatten();
        let level = LevelFilter::from_level(level);
        tracing_subscriber::registry().with(level).with(ToJournal { journal, log }).init();
        return;
    }
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(log)
        .log_internal_errors(false)
        .with_ansi(errors_to_terminal())
        .with_target(false)
        .init();
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
    let to_journal = journal::is_behind_stderr();
    for line in complaint.to_string().lines() {
        let line = format!("{program}: {line}\n");
        let line = if to_journal { journal::with_priority(journal::ERROR, &line) } else { line };
        let _ = Complaints.write_all(line.as_bytes());
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
pub(super) struct Log(Mutex<Lines>);

impl Log {
    /// Logs an entry of the journal.
    pub(super) fn entry(&self, entry: &Entry, journal: Option<&Journal>) {
        let send = || journal.is_some_and(|journal| journal.send(entry).is_ok());
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.entry(send, &entry.line(), &mut write_soon);
    }

    /// Makes panic messages go to this log too.
    fn take_panics(self: &Arc<Self>, program: &'static str) {
        let log = Arc::clone(self);
        let to_journal = journal::is_behind_stderr();
        std::panic::set_hook(Box::new(move |panic| {
            let backtrace = Backtrace::capture();
            let mut text = format!("{program}: {panic}\n");
            if backtrace.status() == BacktraceStatus::Captured {
                text += &format!("{backtrace}\n");
            }
            if to_journal {
                text = journal::with_priority(journal::CRITICAL, &text);
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

    /// Sends an entry with `send`, or writes its line if that fails. After lines were lost the line is first, since it tells how
    /// many; an entry that is taken then is none that is lost.
    fn entry(
        &mut self,
        send: impl FnOnce() -> bool,
        line: &str,
        put: &mut dyn FnMut(&[u8], bool) -> io::Result<usize>,
    ) {
        if self.lost == 0 {
            if !send() {
                self.line(line.as_bytes(), put);
            }
            return;
        }
        self.line(line.as_bytes(), put);
        if self.lost > 0 && send() {
            self.lost -= 1;
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
    fn an_entry_that_is_not_taken_becomes_a_line_and_so_does_one_after_a_loss() {
        let mut disk = Disk { room: 5, written: Vec::new() };
        let mut lines = Lines::default();
        let mut log = |disk: &mut Disk, taken: bool, line: &str| {
            let mut sent = false;
            let send = || {
                sent = taken;
                taken
            };
            lines.entry(send, line, &mut |bytes, _| disk.put(bytes));
            sent
        };
        assert!(log(&mut disk, true, "<6>one\n"));
        assert!(disk.written.is_empty());
        assert!(!log(&mut disk, false, "<6>two\n"), "and there is no room for all of its line");
        disk.room = 1000;
        assert!(!log(&mut disk, true, "<6>three\n"), "a line tells of the loss");
        assert!(log(&mut disk, true, "<6>four\n"));
        let text = String::from_utf8(disk.written).unwrap();
        assert!(text.starts_with("<6>tw\nlog: 1 lines before") && text.ends_with("\n<6>three\n"), "{text}");
    }

    #[test]
    fn entries_go_on_where_lines_do_not_and_count_as_none_that_is_lost() {
        let mut lines = Lines::default();
        let mut log = |taken: bool| {
            let mut sent = false;
            let send = || {
                sent = taken;
                taken
            };
            lines.entry(send, "<6>one\n", &mut |_, _| Err(Errno::EPIPE.into()));
            (sent, lines.lost)
        };
        assert_eq!(
            [log(false), log(true), log(true), log(false)],
            [(false, 1), (true, 1), (true, 1), (false, 2)]
        );
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
