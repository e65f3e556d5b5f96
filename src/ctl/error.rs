//! Why a command failed: one line for a person, with what to do next.

use std::io;

use thiserror::Error;

use crate::{
    config::ConfigErrors,
    host::Finding,
    lookup::classifier::Conflict,
    model::ids::Generation,
    plan::routing::PlanError,
    state::StateError,
    sys::{
        nft::NftError,
        region::{AccessError, RegionName},
    },
};

/// Why a command failed. Nothing was changed, unless it says so.
#[derive(Debug, Error)]
pub(super) enum CtlError {
    /// The region cannot be used.
    #[error(transparent)]
    Access(AccessError),
    /// The configuration file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The state cannot become what was asked.
    #[error(transparent)]
    State(#[from] StateError),
    /// lbd could not put it in force.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The region holds services that contradict each other; only another program can have written that.
    #[error("the region contradicts itself: {0}; `lbctl apply FILE` puts it right")]
    Conflict(#[from] Conflict),
    /// A file cannot be read.
    #[error("{file}: {error}")]
    Input {
        /// Which.
        file: String,
        /// Why.
        error: io::Error,
    },
    /// A line of a batch is no question.
    #[error("{file}:{line}: {complaint}")]
    Batch {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        complaint: String,
    },
    /// The arguments, each right by itself, make no sense together.
    #[error("{0}")]
    Usage(String),
    /// A file takes away what is in use.
    #[error("the file takes away what is in use:\n  {}\nnothing was changed; {command} does it all the same", .losses.join("\n  "))]
    Removal {
        /// What goes, a line each.
        losses: Vec<String>,
        /// What to say.
        command: String,
    },
    /// Others changed the region each time when this command was about to.
    #[error(
        "region \"{0}\" was changed by others while the differences were made out; nothing was changed, try again"
    )]
    Busy(RegionName),
    /// The region was removed after it was opened.
    #[error("region \"{0}\" was removed or made anew meanwhile; the change went with it, do it again")]
    Gone(RegionName),
    /// An lbd follows what should be removed.
    #[error(
        "region \"{name}\" is followed by lbd, process {pid}; end that first (`kill {pid}`), or use --force"
    )]
    Followed {
        /// The region.
        name: RegionName,
        /// The daemon.
        pid: u64,
    },
    /// What should be removed may be somebody else's.
    #[error("{0}; --force removes it all the same")]
    NotRemoved(AccessError),
    /// There are no commands for the backend.
    #[error("{0}")]
    Setup(String),
    /// A probe cannot be sent, or its reports cannot be heard.
    #[error("{doing}: {}", explain_probing(.error))]
    Probing {
        /// What was tried.
        doing: String,
        /// Why not.
        error: io::Error,
    },
    /// Probes that nobody has reported about.
    #[error("{0}")]
    Untraced(String),
    /// The kernel does not say which flows are off-table.
    #[error("{0}; it takes CAP_NET_ADMIN, and the network namespace of lbd")]
    OffTable(#[from] NftError),
    /// A change would bring VIPs that are addresses of this host.
    #[error("{}\nnothing was changed", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    OwnVips(Vec<Finding>),
    /// The output cannot be written.
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
    /// Likewise, when the change was made.
    #[error(
        "generation {generation} is written to the region, but what came of it cannot be told: writing the output: {error}"
    )]
    Untold {
        /// The one that was published.
        generation: Generation,
        /// Why.
        error: io::Error,
    },
}

impl CtlError {
    /// Why the output cannot be written, if it is that.
    pub(super) fn output(&self) -> Option<&io::Error> {
        if let Self::Output(error) | Self::Untold { error, .. } = self { Some(error) } else { None }
    }

    /// This error, of a command that had published a generation before.
    pub(super) fn after(self, generation: Generation) -> Self {
        if let Self::Output(error) = self { Self::Untold { generation, error } } else { self }
    }
}

impl From<AccessError> for CtlError {
    fn from(error: AccessError) -> Self {
        Self::Access(error)
    }
}

/// Why a socket does not do what a tracer needs.
fn explain_probing(error: &io::Error) -> String {
    let advice = if error.kind() == io::ErrorKind::PermissionDenied {
        "; a probe is sent by a raw socket, which needs root or CAP_NET_RAW, and the host's own rules must let it out"
    } else if error.kind() == io::ErrorKind::AddrNotAvailable {
        "; reports can be heard at an address of this host only"
    } else {
        ""
    };
    format!("{error}{advice}")
}
