//! The commands of `lbctl`, testable without a process: [`run`] takes arguments and an [`Env`], prints into
//! it and returns a [`Status`]. A command that reads prints a snapshot of [`crate::status`].
//!
//! Nouns read (`show`, `services`, `backends`, `tier`, `balancer`, `stats`, `metrics`, `check`, `flows`, `which`), verbs
//! change
//! (`create`, `apply`, `enable`, `drain`, `disable`, `kill`, `clean`). `tracer` asks balancers by sending packets, and
//! needs no region. Reading takes no lock. A change is made from the live state and published as a whole,
//! under the writers' lock of the region; if anything is wrong, nothing is changed.

mod args;
mod backend_setup;
mod balancer;
mod batch;
mod change;
mod check;
mod clean;
mod daemon;
mod drain;
mod error;
mod flows;
mod metrics;
mod show;
mod stats;
pub mod text;
mod tier;
mod tracer;
mod which;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    io::{self, Read, Write},
    path::Path,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory as _, Parser as _};
use serde::Serialize;

use crate::{
    config::FILE_BYTES_MAX,
    daemon::{Asked, DaemonError},
    io::Prober,
    model::{self, Admin, ids::TargetId},
    ops,
    status::Sources,
    sys::{output::READER_GONE, overrides::OverridesFile, region::RegionName},
};
use args::{AdminArguments, Arguments, BalancerCommand, Command, TierCommand, TracerCommand};
use error::CtlError;

/// Everything outside of the process that a command uses, besides its region.
pub struct Env<'a> {
    /// Receives answers.
    pub out: &'a mut dyn Write,
    /// Receives complaints.
    pub err: &'a mut dyn Write,
    /// Is read if a file name is `-`.
    pub input: &'a mut dyn Read,
    /// The time, in seconds since 1970.
    pub unix_seconds: u64,
    /// The directory that keeps overrides over a reboot, unless the command line names another.
    pub state_directory: PathBuf,
    /// The user who gives the command.
    pub user: String,
    /// Where the snapshots come from that answers are made of.
    pub sources: Sources,
    /// Returns the numbers that targets had, as far as the kernel still has them; an empty map if they cannot
    /// be read.
    pub numbers_in_kernel: fn() -> BTreeMap<TargetId, model::Path>,
    /// Repairs the kernel's side where no lbd runs.
    pub mend: fn(&Asked<'_>) -> Result<Vec<DaemonError>, DaemonError>,
    /// How long to wait until lbd has taken over a change.
    pub adoption_wait: Duration,
    /// Sends probes and receives reports.
    pub prober: &'a mut dyn Prober,
    /// Whether complaints go to a terminal, where a line of progress can be written again.
    pub terminal: bool,
}

/// How a command ended; the exit status for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Done,
    /// Not done; nothing was changed.
    Failed,
    /// The command line is wrong.
    Usage,
    /// The answer is no, or there are differences.
    No,
    /// The change is published, but the lbd that follows the region has not taken it over yet, or it will not
    /// outlive a reboot.
    Pending,
    /// `drain --wait` has waited for as long as it may, and flows are left.
    TimedOut,
    /// `check` has found warnings, and no errors.
    Warnings,
    /// `check` has found errors.
    Errors,
    /// The reader of the output has ended.
    ReaderGone,
}

impl Status {
    /// Returns the exit status. For `check` it is what monitoring takes for a warning or an error.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed | Self::Warnings => 1,
            Self::Usage | Self::Errors => 2,
            Self::No => 3,
            Self::Pending => 4,
            Self::TimedOut => 5,
            Self::ReaderGone => READER_GONE,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.code())
    }
}

impl Env<'_> {
    /// Returns what actions need besides a region.
    fn host(&self, region: &RegionName) -> ops::Host {
        ops::Host {
            overrides: OverridesFile::new(&self.state_directory, region),
            numbers_in_kernel: self.numbers_in_kernel,
            look: self.sources.look,
            unix_seconds: self.unix_seconds,
        }
    }

    /// Prints a line of the answer.
    fn print(&mut self, line: fmt::Arguments<'_>) -> io::Result<()> {
        self.out.write_fmt(line)?;
        self.out.write_all(b"\n")
    }

    /// Prints an answer that is text.
    fn text(&mut self, text: &str) -> Result<Status, CtlError> {
        self.out.write_all(text.as_bytes())?;
        Ok(Status::Done)
    }

    /// Prints an answer as JSON.
    fn json(&mut self, answer: &impl Serialize) -> Result<Status, CtlError> {
        serde_json::to_writer(&mut *self.out, answer).map_err(io::Error::from)?;
        self.out.write_all(b"\n")?;
        Ok(Status::Done)
    }

    /// Prints a warning, which is no failure, after everything that was printed before.
    fn warn(&mut self, warning: &str) -> io::Result<()> {
        self.out.flush()?;
        // A warning that cannot be written does not change the result of the command.
        let _ = writeln!(self.err, "lbctl: warning: {warning}");
        Ok(())
    }

    /// Prints how far a command is that takes long.
    fn progress(&mut self, progress: fmt::Arguments<'_>) {
        let _ = writeln!(self.err, "lbctl: {progress}");
    }

    /// Reads the text of a file, or of standard input for `-`. Returns the name for messages, and the text.
    fn read(&mut self, file: &Path) -> Result<(String, String), CtlError> {
        let mut text = String::new();
        let (name, result) = if file == Path::new("-") {
            ("standard input".to_owned(), read_all(self.input, &mut text))
        } else {
            let opened = std::fs::File::open(file);
            (file.display().to_string(), opened.and_then(|mut opened| read_all(&mut opened, &mut text)))
        };
        result.map_err(|error| CtlError::Input { file: name.clone(), error })?;
        Ok((name, text))
    }
}

/// Reads all of the text, up to a limit, since the input may have no end.
fn read_all(from: &mut dyn Read, text: &mut String) -> io::Result<()> {
    from.take(FILE_BYTES_MAX + 1).read_to_string(text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// Returns the command line's definition, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the command that the arguments give; the first argument is the program's name.
pub fn run<T: Into<OsString> + Clone>(args: impl IntoIterator<Item = T>, env: &mut Env<'_>) -> Status {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(complaint) => return usage(&complaint, env),
    };
    let changes = arguments.command.changes();
    let result = dispatch(arguments, env).and_then(|status| {
        env.out.flush()?;
        Ok(status)
    });
    result.unwrap_or_else(|error| failed(&error, changes, env))
}

/// Prints why a command failed.
fn failed(error: &CtlError, changes: bool, env: &mut Env<'_>) -> Status {
    let reader_gone = error.output().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
    // The reader has read enough, as in `lbctl show | head`.
    if reader_gone && !changes {
        return Status::ReaderGone;
    }
    // If not even a complaint can be written, only the exit status reports the failure.
    if error.output().is_none() {
        let _ = env.out.flush();
    }
    for line in error.to_string().lines() {
        // A name that was given may hold anything.
        let line = line.replace(char::is_control, "?");
        let _ = writeln!(env.err, "lbctl: {line}");
    }
    if reader_gone {
        Status::ReaderGone
    } else if matches!(error, CtlError::Usage(_)) {
        Status::Usage
    } else {
        Status::Failed
    }
}

/// Prints a message of clap: help and the version are answers, all else is a complaint.
fn usage(complaint: &clap::Error, env: &mut Env<'_>) -> Status {
    let text = complaint.render();
    if complaint.use_stderr() {
        let _ = write!(env.err, "{text}");
        return Status::Usage;
    }
    let written = write!(env.out, "{text}").and_then(|()| env.out.flush());
    written.map_or_else(|error| failed(&error.into(), false, env), |()| Status::Done)
}

fn dispatch(arguments: Arguments, env: &mut Env<'_>) -> Result<Status, CtlError> {
    let (name, json) = (&arguments.global.shm, arguments.global.json);
    if let Some(directory) = &arguments.global.state_dir {
        env.state_directory.clone_from(directory);
    }
    match arguments.command {
        Command::Show => show::show(env, name, json),
        Command::Services => show::services(env, name, json),
        Command::Backends(args) => show::list_backends(env, name, json, args.service.as_deref()),
        Command::Stats => stats::stats(env, name, json),
        Command::Metrics(args) => metrics::metrics(env, name, json, &args),
        Command::Flows(args) => flows::flows(env, name, json, &args),
        Command::Check(args) => check::check(env, name, json, &args),
        Command::Which(args) => match &args.batch {
            Some(file) => which::batch(env, name, file, args.fragment),
            None => which::which(env, name, json, &args),
        },
        Command::Tier(args) => match args.command {
            None => tier::tier(env, name, json),
            Some(TierCommand::Activate(args)) => change::activate_tier(env, name, json, &args, true),
            Some(TierCommand::Deactivate(args)) => change::activate_tier(env, name, json, &args, false),
        },
        Command::Balancer(args) => match args.command {
            None => balancer::balancer(env, name, json),
            Some(BalancerCommand::Drain(args)) => {
                change::set_balancer(env, name, json, &args, Admin::Draining)
            }
            Some(BalancerCommand::Enable(args)) => {
                change::set_balancer(env, name, json, &args, Admin::Enabled)
            }
        },
        Command::Tracer(args) => match args.command {
            TracerCommand::Send(args) => tracer::send(env, json, &args),
        },
        Command::Create(args) => change::create(env, name, json, &args),
        Command::Apply(args) => change::apply(env, name, json, &args),
        Command::Enable(args) | Command::Activate(args) => admin(env, name, json, &args, Admin::Enabled),
        Command::Drain(args) => drain::drain(env, name, json, &args),
        Command::Deactivate(args) => admin(env, name, json, &args, Admin::Draining),
        Command::Disable(args) => admin(env, name, json, &args, Admin::Disabled),
        Command::Kill(args) => drain::kill(env, name, json, &args),
        Command::BackendSetup(args) => backend_setup::backend_setup(env, name, json, &args),
        Command::Clean(args) => clean::clean(env, name, json, &args),
    }
}

fn admin(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &AdminArguments,
    admin: Admin,
) -> Result<Status, CtlError> {
    change::set_backends(env, name, json, args, admin).map(|(status, _)| status)
}

#[cfg(test)]
pub(crate) mod tests;
