//! The helper: a process that lbd forks at its start, before it gives up its rights, and that keeps those which single
//! tasks take. lbd, which reads what clients send, has CAP_NET_ADMIN and starts no program ([`super::privileges`]); the
//! helper reads nothing but lbd's requests, one at a time:
//!
//! - nft makes or checks rules from text in an empty network namespace (CAP_SYS_ADMIN). lbd gets sockets of that
//!   namespace, by which it adds rules and reads the result.
//! - modprobe loads one of the few modules that the kernel does not load by itself.
//! - lbagent is started, looked after and ended, where it has no unit of its own.
//!
//! It ends when lbd's end of the connection is closed, so with lbd, however that ends. A process that has no helper, such
//! as lbctl, does these things itself.

mod message;
mod server;

use std::{
    io,
    os::unix::{net::UnixStream, process::ExitStatusExt as _},
    path::PathBuf,
    process::ExitStatus,
    sync::{Mutex, OnceLock, PoisonError},
};

use nix::unistd::{ForkResult, fork};

use super::{
    nft::{Elsewhere, NftError},
    region::RegionName,
};
use message::{Answer, Request};

static RUNNING: OnceLock<Helper> = OnceLock::new();

/// The connection to the helper; `None` once it is lost.
pub(super) struct Helper(Mutex<Option<UnixStream>>);

/// Forks the helper of this process. `agent` is the program that it may be asked to start.
///
/// # Errors
/// When the operating system refuses, or this process has more than one thread.
#[expect(unsafe_code, reason = "fork, and the end of the process that it makes")]
pub fn start(agent: Option<PathBuf>) -> io::Result<()> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("this process has several threads already"));
    }
    let (ours, its) = UnixStream::pair()?;
    // SAFETY: this process has one thread, so no lock is held by another, and the child may do what it likes.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => {
            drop(its);
            RUNNING.set(Helper::over(ours)).map_err(|_| io::Error::other("there is a helper already"))
        }
        ForkResult::Child => {
            drop(ours);
            server::run(its, agent);
            // SAFETY: nothing here is to run at the end of the process; the parent has all that.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Returns the helper of this process, if it has one.
pub(super) fn running() -> Option<&'static Helper> {
    RUNNING.get()
}

impl Helper {
    fn over(socket: UnixStream) -> Self {
        Self(Mutex::new(Some(socket)))
    }

    /// Lets nft make what `text` says in an empty network namespace.
    pub(super) fn make(&self, text: &str) -> Result<Elsewhere, NftError> {
        match self.ask(&Request::Make { text: text.into() }).map_err(NftError::Run)? {
            (Answer::Made, Some(sockets)) => Ok(sockets),
            (Answer::Failed(failure), _) => Err(failure.with("the ruleset")),
            (answer, _) => Err(NftError::Run(unexpected(&answer))),
        }
    }

    /// Reports for each of these texts whether nft and the kernel accept it.
    pub(super) fn check(
        &self,
        what: &'static str,
        texts: &[&str],
    ) -> Result<Vec<Result<(), String>>, NftError> {
        let texts = texts.iter().map(|&text| text.into()).collect();
        let answer = self.ask(&Request::Check { texts }).map_err(NftError::Run)?.0;
        if let Answer::Checked(answers) = answer {
            return Ok(answers);
        }
        Err(if let Answer::Failed(failure) = answer {
            failure.with(what)
        } else {
            NftError::Run(unexpected(&answer))
        })
    }

    /// Loads kernel modules. Returns whether that was done.
    pub(super) fn load_modules(&self, names: &[&str]) -> bool {
        let names = names.iter().map(|&name| name.into()).collect();
        matches!(self.ask(&Request::LoadModules { names }), Ok((Answer::Loaded(true), _)))
    }

    fn ask(&self, request: &Request) -> io::Result<(Answer, Option<Elsewhere>)> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = || io::Error::other("the helper process of lbd has ended: restart lbd");
        let socket = connection.as_mut().ok_or_else(lost)?;
        let answer = message::send(socket, request, &[]).and_then(|()| message::receive(socket));
        answer.map_err(|error| {
            // What comes next could be the answer to this request.
            *connection = None;
            io::Error::new(error.kind(), format!("asking the helper process of lbd: {error}"))
        })
    }
}

fn unexpected(answer: &Answer) -> io::Error {
    io::Error::other(format!("the helper process of lbd answers something else: {answer:?}"))
}

/// The lbagent that the helper has started. It ends with this value.
pub struct Agent {
    helper: &'static Helper,
    pid: u32,
}

impl Agent {
    /// Lets the helper start the agent of a region.
    ///
    /// # Errors
    /// When there is no helper, or the program cannot be started.
    pub fn start(region: &RegionName) -> io::Result<Self> {
        let helper = running().ok_or_else(|| io::Error::other("this process has no helper"))?;
        let answer = helper.ask(&Request::StartAgent { region: region.to_string() })?.0;
        if let Answer::Started(pid) = answer {
            return Ok(Self { helper, pid });
        }
        Err(if let Answer::NotStarted(why) = answer { io::Error::other(why) } else { unexpected(&answer) })
    }

    /// Returns its process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns how it has ended; `None` while it runs.
    #[must_use]
    pub fn ended(&self) -> Option<io::Result<ExitStatus>> {
        match self.helper.ask(&Request::AgentEnded) {
            Ok((Answer::Ended(how), _)) => {
                how.map(|how| how.map(ExitStatus::from_raw).map_err(io::Error::other))
            }
            Ok((answer, _)) => Some(Err(unexpected(&answer))),
            Err(error) => Some(Err(error)),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.helper.ask(&Request::StopAgent);
    }
}

#[cfg(test)]
mod tests;
