//! `lbd --once`: the kernel is brought up to date, and nobody stays. No queue is opened, so no packet is taken meanwhile from
//! the kernel, which decides by its own tables; no signal is caught, since what was done so far harms nobody.

use std::{path::Path, sync::Arc};

use tracing::warn;

use super::{
    DaemonError,
    kernel::{Kernel, look_at_host},
    start, take_place,
};
use crate::{
    balance::Forwarding,
    ids::Generation,
    plan::kernel_tables,
    shm::stats::Daemon,
    state::State,
    sys::region::{AccessError, RegionName},
    worker::Shared,
};

/// How often it begins anew since the state has changed meanwhile.
const STATES_MAX: usize = 16;

/// Puts the region's state in force in the kernel and ends: new flows go by its copies of the tables then, as they do when
/// an lbd has ended. Says which generation it is.
///
/// # Errors
/// When not all of it can be put in force, or the state is changed all the time.
pub fn once(config: Option<&Path>, name: &RegionName) -> Result<Generation, DaemonError> {
    let (_alone, given) = take_place(config)?;
    let (mut region, mut generation, mut kernel) =
        start(name, given.as_ref(), |region, generation, state| {
            let shared = Arc::new(Shared::new(Forwarding::new(&state, generation)?));
            let mut kernel = Kernel::open(&state, look_at_host(&state)?, &shared)?;
            kernel.put_in_force(&state, generation)?;
            Ok((region, generation, kernel))
        })?;
    for _ in 0..STATES_MAX {
        let (live, state) = region.state()?;
        if live == generation {
            kernel.repair()?; // it says what is not in force
            warn_without_copy(&state);
            let mut mapping = region.mapping();
            Daemon::read(&mut mapping)
                .and_then(|last| Daemon { pid: 0, adopted: generation, ..last }.write(&mut mapping))
                .map_err(|error| AccessError::Unusable { name: name.clone(), error })?;
            return Ok(generation);
        }
        kernel.put_in_force(&state, live).inspect_err(|_| kernel.go_back())?;
        generation = live;
    }
    Err(DaemonError::Unsettled(name.clone()))
}

/// Services of which new flows find nobody who decides.
fn warn_without_copy(state: &State) {
    let services = state.services.iter().zip(kernel_tables::covered(state));
    for (service, _) in services.filter(|(_, covered)| !covered) {
        warn!(
            service = %service.name,
            "the kernel has no copy of its table (kernel_entries): new flows of it wait until lbd runs"
        );
    }
}
