//! A program that runs beside this one, and ends with it.

use std::{
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{self, ExitStatus, Stdio},
};

use nix::{
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
    },
    unistd::Pid,
};

/// A child process. It gets SIGTERM when this value goes, or when this process ends, however that comes.
pub struct Child(process::Child);

impl Child {
    /// Starts a program. It inherits standard error, and nothing else that is open.
    ///
    /// # Errors
    /// Returns an error if the program cannot be started.
    pub fn start(program: &Path, arguments: &[&str]) -> io::Result<Self> {
        Self::start_with(program, arguments, Stdio::null())
    }

    /// As [`Child::start`], with this as standard input.
    ///
    /// # Errors
    /// Returns an error if the program cannot be started.
    #[expect(unsafe_code, reason = "what a child does before it becomes another program")]
    #[expect(clippy::disallowed_methods, reason = "one of the places where programs are started")]
    pub fn start_with(program: &Path, arguments: &[&str], input: impl Into<Stdio>) -> io::Result<Self> {
        let mut command = process::Command::new(program);
        command.args(arguments).stdin(input).stdout(Stdio::null());
        let ready = || {
            // lbd takes signals by a descriptor, and a mask is inherited.
            SigSet::empty().thread_set_mask()?;
            prctl::set_pdeathsig(Signal::SIGTERM)?;
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made that are safe then; nothing is allocated.
        unsafe { command.pre_exec(ready) };
        command.spawn().map(Self)
    }

    /// Returns its process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Returns how it has ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<io::Result<ExitStatus>> {
        self.0.try_wait().transpose()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended().is_none()
            && let Ok(pid) = i32::try_from(self.0.id())
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        // One that does not end is left to the reaper of this process.
        let _ = super::clock::wait_for(
            std::time::Duration::from_millis(500),
            std::time::Duration::from_millis(10),
            || self.ended(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_seen_to_end_and_ends_with_its_value() {
        let mut short = Child::start(Path::new("/bin/sh"), &["-c", "exit 3"]).unwrap();
        let limit = std::time::Duration::from_secs(10);
        let step = std::time::Duration::from_millis(5);
        let how = super::super::clock::wait_for(limit, step, || short.ended()).unwrap();
        assert_eq!(how.unwrap().code(), Some(3));
        let long = Child::start(Path::new("/bin/sleep"), &["100"]).unwrap();
        let pid = Pid::from_raw(i32::try_from(long.pid()).unwrap());
        drop(long);
        assert!(kill(pid, None).is_err(), "it is gone");
        assert!(Child::start(Path::new("/nowhere/lbagent"), &[]).is_err());
    }
}
