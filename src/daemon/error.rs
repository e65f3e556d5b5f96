//! Why lbd cannot start, or had to end.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::{
    config::ConfigErrors,
    host::Finding,
    lookup::classifier::Conflict,
    model::ids::{Generation, QueueNum},
    plan::{routing::PlanError, template::TemplateError},
    state::StateError,
    sys::{
        instance_lock::AlreadyRunning,
        nfqueue::OpenError,
        nft::NftError,
        region::{AccessError, RegionName},
        rtnetlink::RoutingError,
        tun::TunError,
    },
};

/// Why lbd cannot start, or had to end.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The configuration file cannot be read.
    #[error("{}: {error}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The configuration file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The configuration passes a limit.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file takes away what is in use.
    #[error("{} takes away what is in use: {}; `lbctl apply --allow-removal{}` does it", .file.display(), .losses.join("; "), .rest)]
    Removal {
        /// The file.
        file: PathBuf,
        /// What goes.
        losses: Vec<String>,
        /// Of the command: region and file.
        rest: String,
    },
    /// The region cannot be used.
    #[error(transparent)]
    Region(#[from] AccessError),
    /// No region, and no file to make one from.
    #[error("there is no region \"{0}\" yet and no --config FILE to make it from")]
    NothingToStartFrom(RegionName),
    /// A region without interfaces.
    #[error(
        "region \"{0}\" names no interfaces, so nothing would be steered; give it a configuration with `lbctl apply FILE`"
    )]
    NoInterfaces(RegionName),
    /// A next hop cannot be reached now.
    #[error("a target is out of reach: {0}")]
    OutOfReach(RoutingError),
    /// `lbd --once`: the kernel has the state, but not all of it.
    #[error("generation {generation} is in force in the kernel, but for:\n  {}", .left.join("\n  "))]
    NotAll {
        /// The state's.
        generation: Generation,
        /// What is not in force, and why.
        left: Vec<String>,
    },
    /// `lbd --once`: the region changes faster than the kernel can be made to follow, or it was told to end.
    #[error("generation {0} is in force in the kernel; there is a newer one: run lbd --once again")]
    Unsettled(Generation),
    /// No right to set up the network.
    #[error("lbd needs CAP_NET_ADMIN; run it as root")]
    NotAllowed,
    /// Parts of the kernel are missing, or something on the host keeps packets from backends.
    #[error("lbd cannot work on this host as it is:\n  {0}")]
    Host(String),
    /// A change would bring VIPs that are addresses of this host.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    OwnVips(Vec<Finding>),
    /// `lbd --check --host` has printed some.
    #[error("errors on this host: {0}")]
    HostErrors(u64),
    /// Another lbd is at work here.
    #[error(transparent)]
    AlreadyRunning(#[from] AlreadyRunning),
    /// A queue cannot be opened.
    #[error(transparent)]
    Queue(#[from] OpenError),
    /// The TUN device cannot be made.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The state contradicts itself.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// Routing cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Routing cannot be set up.
    #[error(transparent)]
    Routing(#[from] RoutingError),
    /// The ruleset cannot be made.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The ruleset cannot be set up.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// A worker's queue is gone.
    #[error("queue {} is gone: {error}", .queue.0)]
    Worker {
        /// The queue.
        queue: QueueNum,
        /// Why.
        error: io::Error,
    },
    /// The operating system said no.
    #[error("{doing}: {error}")]
    Os {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        error: io::Error,
    },
}
