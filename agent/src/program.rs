//! Programs of the operator: without a shell, in a process group of their own, with an end. What one prints is read up to
//! a limit, and the rest passed over. It ends with everything that it has started: when it is no longer waited for, and
//! when it has ended itself.

use std::{
    fs::File,
    io,
    process::{ExitStatus, Stdio},
};

use nix::{
    sys::{
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe,
    process::Command,
    signal::unix::{SignalKind, signal},
};

/// How many bytes of output are kept.
pub const OUTPUT_BYTES_MAX: usize = synrail::model::ExecProbe::OUTPUT_BYTES_MAX;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What became of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed, both streams, from the beginning.
    pub output: Vec<u8>,
}

impl Ended {
    /// Returns its last line that is not blank, or else how it ended.
    #[must_use]
    pub fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.output);
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        line.map_or_else(|| self.status.to_string(), str::to_owned)
    }
}

/// Returns a command with nothing of the agent's own environment. `None` if there is no program.
#[must_use]
pub fn command(words: &[String]) -> Option<Command> {
    let (program, arguments) = words.split_first()?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .process_group(0);
    Some(command)
}

/// Runs a program to its end. If this is dropped before, the program and all it has started are killed.
///
/// # Errors
/// When it cannot be started, or is lost.
pub async fn run(mut command: Command) -> io::Result<Ended> {
    let mut children = signal(SignalKind::child())?;
    let (reader, writer) = io::pipe()?;
    let mut output = pipe::Receiver::from_owned_fd(reader.into())?;
    command.stdout(writer.try_clone()?).stderr(writer);
    // Declared in this order: the group is killed before the child is left to be reaped.
    let mut child = command.spawn()?;
    let group = Group::of(child.id())?;
    // It has copies of the pipe's other end.
    drop(command);
    let mut text = Vec::new();
    let (mut buffer, mut open) = ([0; 1024], true);
    while !group.has_ended() {
        tokio::select! {
            read = output.read(&mut buffer), if open => match read {
                Ok(0) | Err(_) => open = false,
                Ok(length) => take(&mut text, &buffer[..length]),
            },
            _ = children.recv() => {}
        }
    }
    // The number is its own until it is reaped, so this ends no other program.
    drop(group);
    // What is left in the pipe. It does not wait for a program that has left the group and holds the other end.
    let mut output = File::from(output.into_nonblocking_fd()?);
    while text.len() < OUTPUT_BYTES_MAX
        && let Ok(length @ 1..) = io::Read::read(&mut output, &mut buffer)
    {
        take(&mut text, &buffer[..length]);
    }
    Ok(Ended { status: child.wait().await?, output: text })
}

/// Keeps output up to the limit.
fn take(text: &mut Vec<u8>, read: &[u8]) {
    let room = OUTPUT_BYTES_MAX - text.len();
    text.extend_from_slice(&read[..read.len().min(room)]);
}

/// A process group, killed when it is dropped. Its first process must not be reaped before.
struct Group(Pid);

impl Group {
    fn of(id: Option<u32>) -> io::Result<Self> {
        let id = id.and_then(|id| i32::try_from(id).ok());
        id.map(|id| Self(Pid::from_raw(id))).ok_or_else(|| io::Error::other("it has no number"))
    }

    /// Reports whether its first process has ended, without reaping it.
    fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(self.0), flags), Ok(WaitStatus::StillAlive))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // If nothing is left of it, there is nothing to do.
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}
