//! Signals as events to wait for. No code runs in a signal handler.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

/// The request that a signal makes to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM or SIGINT: end.
    Shutdown,
    /// SIGHUP: read the configuration file again.
    Reload,
}

/// Receives the signals that would otherwise end the process.
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals in this thread, and in threads that it starts from now on.
    ///
    /// # Errors
    /// Returns an error if a system call fails.
    pub fn take() -> io::Result<Self> {
        let set = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// Returns the next signal that has been received, if any.
    ///
    /// # Errors
    /// Returns an error if a system call fails.
    pub fn read(&mut self) -> io::Result<Option<Request>> {
        let Some(signal) = self.0.read_signal()? else { return Ok(None) };
        let hang_up = i32::try_from(signal.ssi_signo) == Ok(Signal::SIGHUP as i32);
        Ok(Some(if hang_up { Request::Reload } else { Request::Shutdown }))
    }
}

impl AsFd for Signals {
    /// The descriptor is readable when a signal has been received.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
