//! Why lbd cannot start, or had to end.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::{
    config::ConfigErrors,
    host::Finding,
    lookup::classifier::Conflict,
    model::ids::{Generation, QueueNum},
    ops::OpsError,
    plan::{routing::PlanError, template::TemplateError},
    state::StateError,
    sys::{
        instance_lock::AlreadyRunning,
        nfqueue::OpenError,
        nft::NftError,
        privileges::PrivilegesError,
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
        /// What it takes away.
        losses: Vec<String>,
        /// The rest of the command: region and file.
        rest: String,
    },
    /// The region cannot be used.
    #[error(transparent)]
    Region(#[from] AccessError),
    /// The region cannot be converted.
    #[error(transparent)]
    Convert(#[from] OpsError),
    /// There is no region, and no file to make it from.
    #[error("there is no region \"{0}\" yet and no --config FILE to make it from")]
    NothingToStartFrom(RegionName),
    /// The region names no interfaces.
    #[error(
        "region \"{0}\" names no interfaces, so nothing would be steered; give it a configuration with `lbctl apply FILE`"
    )]
    NoInterfaces(RegionName),
    /// A next hop cannot be reached now.
    #[error("a target is out of reach: {0}")]
    OutOfReach(RoutingError),
    /// `lbd --once`: a part of the state is not in force.
    #[error("generation {generation} is in force in the kernel, but for:\n  {}", .left.join("\n  "))]
    NotAll {
        /// The generation of the state.
        generation: Generation,
        /// What is not in force, and why.
        left: Vec<String>,
    },
    /// `lbd --once`: the region changed each time meanwhile, or a signal came.
    #[error("generation {0} is in force in the kernel; there is a newer one: run lbd --once again")]
    Unsettled(Generation),
    /// The process has no right to set up the network.
    #[error("lbd needs CAP_NET_ADMIN; run it as root")]
    NotAllowed,
    /// lbd cannot give up the rights that it does not need.
    #[error(transparent)]
    Privileges(#[from] PrivilegesError),
    /// Parts of the kernel are missing, or something on the host keeps packets from backends.
    #[error("lbd cannot work on this host as it is:\n  {0}")]
    Host(String),
    /// A change would add VIPs that are addresses of this host.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    OwnVips(Vec<Finding>),
    /// `lbd --check --host` has found errors, and printed them.
    #[error("errors on this host: {0}")]
    HostErrors(u64),
    /// Another lbd runs in this network namespace.
    #[error(transparent)]
    AlreadyRunning(#[from] AlreadyRunning),
    /// The lbd that keeps the kernel of this network namespace is not the one that follows the region.
    #[error("{}", if *here {
        "another lbd, of another region, has the ruleset and routes of this network namespace"
    } else {
        "the lbd that follows the region runs in another network namespace: run it there"
    })]
    OtherKeeper {
        /// Whether an lbd runs in this network namespace.
        here: bool,
    },
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
    /// The operating system refused something.
    #[error("{doing}: {error}")]
    Os {
        /// What was tried.
        doing: &'static str,
        /// Why.
        error: io::Error,
    },
}
