//! `lbd --once`: puts the region's state in force in the kernel, and ends. No queue is opened, so meanwhile the kernel decides
//! by the fallback tables. A signal ends it between two states, never during a change.

use std::{path::Path, sync::Arc, time::Duration};

use super::{
    DaemonError,
    announce::Announced,
    audit::{Auditor, Scope},
    host::{HostSeen, look_at_host},
    kernel::Kernel,
    open::{show, with_region},
    read_and_lock, take_signals,
    watch::FillWatch,
};
use crate::{
    balance::Forwarding,
    model::ids::Generation,
    plan::kernel_tables,
    shm::stats::{self, Daemon, Pins},
    state::State,
    sys::{
        overrides::OverridesFile,
        region::{AccessError, Region, RegionName},
        signal::Request,
    },
    worker::Shared,
};

/// How many states it puts in force, if the region changes each time meanwhile.
const TRIES: usize = 16;

/// Puts the region's state in force in the kernel. New flows go by the fallback tables then, as they do after an lbd has
/// ended. Returns the generation of the state.
///
/// # Errors
/// When not all of it is in force, or the region changes each time.
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
            // The next step notices if the region is gone.
            let _ = stats::set_nearly_full(&mut region.mapping(), nearly_full);
            let _ = stats::write_flowtable(&mut region.mapping(), means.flowtable);
            let left = kernel.apply(&state, generation, Announced::without_lbd(&state))?.left;
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
        left = kernel.apply(&state, live, Announced::without_lbd(&state))?.left;
        generation = live;
    }
    show(&region, |last| Daemon { pid: 0, adopted: generation, in_kernel: generation, ..last })?;
    Err(DaemonError::Unsettled(generation))
}

/// Audits pins once: flows that the tables no longer name get into the maps of off-table flows, since no audit follows.
fn audit(kernel: &Kernel, region: &Region) -> Result<(), DaemonError> {
    let unusable = |error| AccessError::Unusable { name: region.name().clone(), error };
    let mut auditor = Auditor::open(&kernel.shared, &kernel.ways)?;
    auditor.succeed(Pins::read(&mut region.mapping()).map_err(unusable)?);
    let pins = auditor.audit(Scope::All)?;
    Ok(pins.write(&mut region.mapping()).map_err(unusable)?)
}

/// Returns, as problems, the services whose new flows the kernel cannot decide about.
fn without_table(state: &State) -> impl Iterator<Item = String> {
    let services = state.services.iter().zip(kernel_tables::shortages(state));
    services.filter(|(service, _)| state.serving(service).next().is_some()).filter_map(|(service, why)| {
        let (name, why) = (&service.name, why?);
        Some(format!(
            "service \"{name}\": the kernel has no table of it ({why}), so its new flows wait until lbd runs"
        ))
    })
}
