//! Why an action was not done.

use thiserror::Error;

use crate::{
    host::Finding,
    plan::routing::PlanError,
    state::StateError,
    sys::region::{AccessError, RegionName},
};

/// Why an action was not done. Nothing was changed.
#[derive(Debug, Error)]
pub enum OpsError {
    /// The region cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The requested change of the state is not possible.
    #[error(transparent)]
    State(#[from] StateError),
    /// lbd could not put the state in force.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The change would add VIPs that are addresses of this host.
    #[error("{}\nnothing was changed", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    OwnVips(Vec<Finding>),
    /// An lbd follows the region that should be removed.
    #[error(
        "region \"{name}\" is followed by lbd, process {pid}; end that first (`kill {pid}`), or use --force"
    )]
    Followed {
        /// The region's name.
        name: RegionName,
        /// The process ID of that lbd.
        pid: u64,
    },
    /// The file that should be removed may belong to another program.
    #[error("{0}; --force removes it all the same")]
    NotRemoved(AccessError),
}
