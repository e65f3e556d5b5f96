//! Signals as something to wait for; no code runs in a handler.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

/// What a signal asks of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM or SIGINT: end.
    Shutdown,
    /// SIGHUP: read the configuration file again.
    Reload,
}

/// Receives the signals that the process would otherwise die of.
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals in this thread, and in those it starts from now on.
    ///
    /// # Errors
    /// When the operating system says no.
    pub fn take() -> io::Result<Self> {
        let set = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// The next signal that has come, if any has.
    ///
    /// # Errors
    /// When the operating system says no.
    pub fn read(&mut self) -> io::Result<Option<Request>> {
        let Some(signal) = self.0.read_signal()? else { return Ok(None) };
        let hang_up = i32::try_from(signal.ssi_signo) == Ok(Signal::SIGHUP as i32);
        Ok(Some(if hang_up { Request::Reload } else { Request::Shutdown }))
    }
}

impl AsFd for Signals {
    /// Readable when a signal has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
