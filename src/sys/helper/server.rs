//! The helper's own side.

use std::{
    io,
    os::{
        fd::AsRawFd as _,
        unix::{net::UnixStream, process::ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::ExitStatus,
};

use caps::Capability;
use nix::sys::{
    prctl,
    signal::{SigSet, Signal},
};
use tracing::warn;

use super::message::{self, Answer, Request};
use crate::sys::{
    capability,
    child::Child,
    nft::{self, Elsewhere},
    program,
};

/// The kernel loads neither the headers of GUE nor targets of xtables for a table of family inet.
pub(super) const MODULES: [&str; 4] = ["fou", "fou6", "nft_compat", "xt_NFQUEUE"];
/// To make network namespaces, and to load modules.
const KEPT: [Capability; 4] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_MODULE,
    Capability::CAP_SETPCAP,
];
/// Besides, to start lbagent, which becomes another user and keeps the first of these, and to end it.
const KEPT_FOR_AGENT: [Capability; 4] =
    [Capability::CAP_NET_RAW, Capability::CAP_SETUID, Capability::CAP_SETGID, Capability::CAP_KILL];

/// Does what the other end asks for, until that is closed.
pub(super) fn run(socket: UnixStream, agent: Option<PathBuf>) {
    let _ = prctl::set_name(c"lbd-helper");
    // A terminal sends its signals to all processes; lbd says when this one ends.
    let meant_for_lbd: SigSet =
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT].into_iter().collect();
    let _ = meant_for_lbd.thread_block();
    let for_agent = if agent.is_some() { &KEPT_FOR_AGENT[..] } else { &[] };
    let kept: Vec<Capability> = KEPT.iter().chain(for_agent).copied().collect();
    if let Err(error) = capability::keep_only(&kept, true) {
        warn!(%error, "the helper process keeps all of its rights");
    }
    let _ = prctl::set_no_new_privs();
    serve(socket, agent);
}

pub(super) fn serve(mut socket: UnixStream, agent: Option<PathBuf>) {
    let mut tasks = Tasks { program: agent, agent: None };
    while let Ok((request, _)) = message::receive::<Request<'_>>(&mut socket) {
        let (answer, sockets) = tasks.perform(request);
        let descriptors = sockets.as_ref().map(|made| [made.changes.as_raw_fd(), made.reads.as_raw_fd()]);
        if message::send(&mut socket, &answer, descriptors.as_ref().map_or(&[], |both| both)).is_err() {
            break;
        }
    }
}

struct Tasks {
    /// The program that may be started.
    program: Option<PathBuf>,
    agent: Option<Child>,
}

impl Tasks {
    fn perform(&mut self, request: Request<'_>) -> (Answer, Option<Elsewhere>) {
        let answer = match request {
            Request::Make { text } => match nft::make_here(&text) {
                Ok(made) => return (Answer::Made, Some(made)),
                Err(error) => Answer::Failed(error.into()),
            },
            Request::Check { texts } => {
                let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
                match nft::check_here("a text", &texts) {
                    Ok(answers) => Answer::Checked(answers),
                    Err(error) => Answer::Failed(error.into()),
                }
            }
            Request::LoadModules { names } => {
                let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
                let allowed = names.iter().all(|name| MODULES.contains(name));
                Answer::Loaded(allowed && program::load_modules_here(&names))
            }
            Request::StartAgent { region } => self.start(&region),
            Request::AgentEnded => {
                let ended = self.agent.as_mut().map(Child::ended);
                let ended = ended.unwrap_or_else(|| Some(Err(io::Error::other("it was not started"))));
                Answer::Ended(
                    ended.map(|how| how.map(ExitStatus::into_raw).map_err(|error| error.to_string())),
                )
            }
            Request::StopAgent => {
                self.agent = None;
                Answer::Stopped
            }
        };
        (answer, None)
    }

    fn start(&mut self, region: &str) -> Answer {
        let Some(program) = self.program.as_deref() else {
            return Answer::NotStarted("lbd was started without it".to_owned());
        };
        // An earlier one would go on beside it.
        self.agent = None;
        match start_agent(program, region) {
            Ok(child) => Answer::Started(self.agent.insert(child).pid()),
            Err(error) => Answer::NotStarted(error.to_string()),
        }
    }
}

fn start_agent(program: &Path, region: &str) -> io::Result<Child> {
    Child::start(program, &["--shm", region])
}
