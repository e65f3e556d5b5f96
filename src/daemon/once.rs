//! `lbd --once`: the kernel is brought up to date, and nobody stays. No queue is opened, so no packet is taken meanwhile from
//! the kernel, which decides by its own tables. Who tells it to end is heard between two states, never amid one.

use std::{path::Path, sync::Arc, time::Duration};

use super::{
    DaemonError,
    audit::{Auditor, Scope},
    host::{HostSeen, look_at_host},
    kernel::Kernel,
    read_and_lock, show, take_signals,
    watch::FillWatch,
    with_region,
};
use crate::{
    balance::Forwarding,
    model::ids::Generation,
    plan::kernel_tables,
    shm::stats::{self, Daemon},
    state::State,
    sys::{
        overrides::OverridesFile,
        region::{AccessError, Region, RegionName},
        signal::Request,
    },
    worker::Shared,
};

/// How often it begins anew since the state has changed meanwhile.
const TRIES: usize = 16;

/// Puts the region's state in force in the kernel and ends: new flows go by its copies of the tables then, as they do when
/// an lbd has ended. Says which generation it is.
///
/// # Errors
/// When it is not all in force, or changed all the time.
pub fn once(config: Option<&Path>, name: &RegionName, state_dir: &Path) -> Result<Generation, DaemonError> {
    let mut signals = take_signals()?;
    let (_lock, given) = read_and_lock(config)?;
    let (mut region, mut generation, mut kernel, mut left) = with_region(
        name,
        given.as_ref(),
        &OverridesFile::new(state_dir, name),
        |region, generation, state| {
            let shared = Arc::new(Shared::new(Forwarding::new(&state, generation)?));
            let HostSeen { means, own, .. } = look_at_host(&state)?;
            let mut kernel = Kernel::open(means, own, &shared, None)?;
            Auditor::open(&kernel.shared, &kernel.ways)?.take_over()?;
            let nearly_full = FillWatch::default().look(Duration::ZERO, &kernel.shared, &kernel.ways);
            // A region that is gone is noticed below.
            let _ = stats::set_nearly_full(&mut region.mapping(), nearly_full);
            let _ = stats::write_flowtable(&mut region.mapping(), means.flowtable);
            let left = kernel.apply(&state, generation)?;
            Ok((region, generation, kernel, left))
        },
    )?;
    for _ in 0..TRIES {
        show(&region, |last| Daemon { adopted: generation, in_kernel: generation, ..last })?;
        let (live, state) = region.state()?;
        if live == generation {
            show(&region, |last| Daemon { pid: 0, ..last })?;
            if let Err(error) = audit(&kernel, &region) {
                left.push(error);
            }
            let left: Vec<String> =
                left.iter().map(ToString::to_string).chain(without_table(&state)).collect();
            return if left.is_empty() {
                Ok(generation)
            } else {
                Err(DaemonError::NotAll { generation, left })
            };
        }
        let request = signals.read();
        if request.map_err(|error| DaemonError::Os { doing: "looking for signals", error })?
            == Some(Request::Shutdown)
        {
            break;
        }
        left = kernel.apply(&state, live).inspect_err(|_| kernel.roll_back())?;
        generation = live;
    }
    show(&region, |last| Daemon { pid: 0, adopted: generation, in_kernel: generation, ..last })?;
    Err(DaemonError::Unsettled(generation))
}

/// Flows that the tables no longer name are kept apart, once: nobody will do it when this process has ended.
fn audit(kernel: &Kernel, region: &Region) -> Result<(), DaemonError> {
    let pins = Auditor::open(&kernel.shared, &kernel.ways)?.audit(Scope::All)?;
    let unusable = |error| AccessError::Unusable { name: region.name().clone(), error };
    Ok(pins.write(&mut region.mapping()).map_err(unusable)?)
}

/// Services of which new flows find nobody who decides.
fn without_table(state: &State) -> impl Iterator<Item = String> {
    let services = state.services.iter().zip(kernel_tables::shortages(state));
    services.filter(|(service, _)| service.active().next().is_some()).filter_map(|(service, why)| {
        let (name, why) = (&service.name, why?);
        Some(format!(
            "service \"{name}\": the kernel has no table of it ({why}), so its new flows wait until lbd runs"
        ))
    })
}
