//! Why a command failed: a message for a person, with what to do next.

use std::io;

use thiserror::Error;

use crate::{
    config::ConfigErrors,
    model::ids::Generation,
    ops::OpsError,
    status::StatusError,
    sys::region::{AccessError, RegionName},
};

/// Why a command failed. Nothing was changed, unless the message says so.
#[derive(Debug, Error)]
pub(super) enum CtlError {
    /// The region cannot be used.
    #[error(transparent)]
    Access(AccessError),
    /// There is no snapshot to print.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The configuration file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// An action was not done.
    #[error(transparent)]
    Ops(#[from] OpsError),
    /// A file cannot be read.
    #[error("{file}: {error}")]
    Input {
        /// The file's name, or "standard input".
        file: String,
        /// The error of the system call.
        error: io::Error,
    },
    /// A file cannot be written. It is as it was.
    #[error("{file}: {error}; the file is as it was")]
    Unwritten {
        /// The file's name.
        file: String,
        /// The error of the system call.
        error: io::Error,
    },
    /// A line of a batch cannot be parsed.
    #[error("{file}:{line}: {complaint}")]
    Batch {
        /// The file's name.
        file: String,
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong.
        complaint: String,
    },
    /// The arguments do not fit together, though each is valid by itself.
    #[error("{0}")]
    Usage(String),
    /// The file removes something that is in use.
    #[error("the file takes away what is in use:\n  {}\nnothing was changed; {command} does it all the same", .losses.join("\n  "))]
    Removal {
        /// What would be removed, one line each.
        losses: Vec<String>,
        /// The command that does it all the same.
        command: String,
    },
    /// Other programs changed the region each time before this command could publish its change.
    #[error(
        "region \"{0}\" was changed by others while the differences were made out; nothing was changed, try again"
    )]
    Busy(RegionName),
    /// The region was removed after it was opened.
    #[error("region \"{0}\" was removed or made anew meanwhile; the change went with it, do it again")]
    Gone(RegionName),
    /// The kernel cannot be asked about flows.
    #[error(
        "to count flows takes CAP_NET_ADMIN (root), which lbctl does not have; nothing was changed; without --wait no flows are counted"
    )]
    MayNotCount,
    /// There are no commands to set up this backend.
    #[error("{0}")]
    Setup(String),
    /// A probe cannot be sent, or its reports cannot be received.
    #[error("{doing}: {}", explain_probing(.error))]
    Probing {
        /// What was tried.
        doing: String,
        /// The error of the system call.
        error: io::Error,
    },
    /// No balancer has reported about some probes.
    #[error("{0}")]
    Untraced(String),
    /// The output cannot be written.
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
    /// The output cannot be written, but the change was made.
    #[error(
        "generation {generation} is written to the region, but what came of it cannot be told: writing the output: {error}"
    )]
    Untold {
        /// The published generation.
        generation: Generation,
        /// The error of the system call.
        error: io::Error,
    },
}

impl CtlError {
    /// Returns why the output cannot be written, if this is that error.
    pub(super) fn output(&self) -> Option<&io::Error> {
        if let Self::Output(error) | Self::Untold { error, .. } = self { Some(error) } else { None }
    }

    /// As [`CtlError::after`], if the command has published something.
    pub(super) fn after_if(self, published: bool, generation: Generation) -> Self {
        if published { self.after(generation) } else { self }
    }

    /// Returns this error as that of a command that has already published a generation.
    pub(super) fn after(self, generation: Generation) -> Self {
        if let Self::Output(error) = self { Self::Untold { generation, error } } else { self }
    }
}

impl From<AccessError> for CtlError {
    fn from(error: AccessError) -> Self {
        Self::Access(error)
    }
}

/// Explains why a socket cannot do what the tracer needs.
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
