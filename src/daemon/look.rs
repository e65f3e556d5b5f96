//! How the kernel's side differs from what a state asks of it, and its repair where no lbd runs: for `lbctl check`.
//!
//! Both are [`Kernel::reconcile`](super::kernel::Kernel), so a look reports what a repair would change, and nothing else. A
//! repair takes the lock of lbd's instances: where an lbd runs, that one repairs.

use std::{path::Path, sync::Arc, time::Duration};

use super::{DaemonError, announce::Announced, audit::Auditor, desired::Desired, kernel::Kernel};
use crate::{
    balance::Forwarding,
    config::Balancer,
    model::{
        QueueRange,
        ids::{Generation, MarkMask, QueueNum},
    },
    plan::{elements::Way, nf_table::Difference, routing::Op},
    shm::stats::Identity,
    state::State,
    sys::{
        capability, clock,
        instance_lock::InstanceLock,
        nfqueue::queue_lines,
        nft::{self, FallbackDifference},
    },
    worker::Shared,
};

/// How often the kernel is compared while an lbd may repair it.
const INTERVAL: Duration = Duration::from_millis(500);
const PROC: &str = "/proc/thread-self";

/// What the kernel is compared with.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The state in force, with all tables.
    pub state: &'a State,
    /// Its generation.
    pub generation: Generation,
    /// The lbd that follows the region; `None` if none does.
    pub running: Option<Running>,
    /// How long to wait until that lbd has repaired what differs.
    pub patience: Duration,
}

/// What a running lbd shows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its workers. It uses their queues until it ends, whatever the state says.
    pub workers: Vec<Identity>,
    /// The bits of the mark that it uses until it ends; `None` if it does not say.
    pub mark_mask: Option<MarkMask>,
    /// Whether it is still bringing fallback tables up to date.
    pub fills: bool,
}

/// The differences between the kernel and a state.
#[derive(Debug, Default)]
pub struct Drift {
    /// Differences of table inet synrail.
    pub ruleset: Vec<Difference>,
    /// What a repair would change of devices, routes and rules.
    pub routing: Vec<Op>,
    /// Differences of fallback tables.
    pub fallback: Vec<FallbackDifference>,
    /// Queues of a running lbd that have no listener.
    pub unheard: Vec<QueueNum>,
    /// Where no lbd runs: queues of the state at which another program listens.
    pub taken: Vec<QueueNum>,
    /// What is wrong with the device of held fragments of a running lbd.
    pub fragments_device: Option<&'static str>,
    /// What could not be compared.
    pub unread: Vec<DaemonError>,
}

impl Drift {
    /// Reports whether everything that was compared is as it should be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { ruleset, routing, fallback, unheard, taken, fragments_device, unread: _ } = self;
        let queues = unheard.is_empty() && taken.is_empty();
        ruleset.is_empty()
            && routing.is_empty()
            && fallback.is_empty()
            && queues
            && fragments_device.is_none()
    }
}

/// Compares the kernel with what is asked. Changes nothing.
///
/// # Errors
/// When nothing can be compared: without the rights, or where another lbd has the kernel.
pub fn look(asked: &Asked<'_>) -> Result<Drift, DaemonError> {
    if !capability::may_administer_network() {
        return Err(DaemonError::NotAllowed);
    }
    let doing = "looking for an lbd in this network namespace";
    let held = InstanceLock::is_held().map_err(|error| DaemonError::Os { doing, error })?;
    if held != asked.running.is_some() {
        return Err(DaemonError::OtherKeeper { here: held });
    }
    let mut last = None;
    let done = clock::wait_for(asked.patience, INTERVAL, || match look_once(asked) {
        Ok(drift) if !drift.is_empty() && asked.running.is_some() => {
            last = Some(drift);
            None
        }
        done => Some(done),
    });
    done.or(last.map(Ok)).unwrap_or_else(|| look_once(asked))
}

fn look_once(asked: &Asked<'_>) -> Result<Drift, DaemonError> {
    let mut kernel = open(asked)?;
    let report = kernel.look();
    let mut drift = Drift {
        ruleset: report.ruleset.map(|(differences, _)| differences.0).unwrap_or_default(),
        routing: report.routing,
        fallback: report.fallback,
        unread: report.left,
        ..Drift::default()
    };
    // Before the kernel's first queue there is no such file.
    let listened: Vec<QueueNum> =
        queue_lines(Path::new(PROC)).unwrap_or_default().iter().map(|line| QueueNum(line.queue)).collect();
    match &asked.running {
        Some(running) => {
            let queues = running.workers.iter().map(|worker| worker.queue);
            drift.unheard = queues.filter(|queue| !listened.contains(queue)).collect();
            drift.fragments_device = match kernel.routing.is_fragments_device_right() {
                Ok(true) => None,
                Ok(false) => Some("not set up as it should be"),
                Err(_) => Some("missing"),
            };
        }
        None => {
            let Balancer { queues, fragment_queue, .. } = asked.state.balancer;
            let ours = queues.iter().chain([fragment_queue]);
            drift.taken = ours.filter(|queue| listened.contains(queue)).collect();
        }
    }
    Ok(drift)
}

/// Repairs what [`look`] finds, where no lbd runs. Returns what could not be repaired.
///
/// # Errors
/// When nothing can be repaired: without the rights, or where an lbd runs.
pub fn mend(asked: &Asked<'_>) -> Result<Vec<DaemonError>, DaemonError> {
    if !capability::may_administer_network() {
        return Err(DaemonError::NotAllowed);
    }
    let _lock = InstanceLock::acquire()?;
    let mut kernel = open(&Asked { running: None, ..asked.clone() })?;
    let mut report = kernel.mend();
    if report.any() {
        // The flowtable gets a device that was made anew when the ruleset is compared next.
        report = kernel.mend();
    }
    Ok(report.left)
}

/// Returns the kernel's side of what is asked. Changes nothing yet.
fn open(asked: &Asked<'_>) -> Result<Kernel, DaemonError> {
    let Asked { state, generation, running, .. } = asked;
    let mut state = (*state).clone();
    if let Some(running) = running {
        running.keep_in(&mut state.balancer);
    }
    let shared = Arc::new(Shared::new(Forwarding::new(&state, *generation)?));
    let mut kernel = Kernel::open(nft::means()?, Vec::new(), &shared, None)?;
    let own: Vec<_> = kernel.routing.host()?.1.iter().map(|local| local.net).collect();
    let mut desired = Desired::by(&state, *generation, kernel.means, &own)?;
    let announced = match running {
        // lbd may let one wait that can be served again.
        Some(_) => Announced::that_may_be(&state),
        None => Announced::without_lbd(&state),
    };
    announced.put_in(&mut desired.routing);
    desired.routing.keep_former(&kernel.routing.current(&desired.routing)?);
    let way = nft::way_in_force(&desired.ruleset)?;
    if let Some(running) = running {
        // lbd chooses the way, as flows and connection tracking have it.
        let mut ways = kernel.ways.lock();
        ways.set_off_table(way == Way::OffTable)?;
        ways.set_nearly_full(way == Way::Untracked)?;
        drop(ways);
        if running.fills {
            kernel.fallback_follows();
        }
    } else {
        Auditor::open(&kernel.shared, &kernel.ways)?.take_over()?;
        if way == Way::OffTable {
            // Packets may be looked up in maps that have become empty meanwhile.
            kernel.ways.lock().set_off_table(true)?;
        }
    }
    kernel.desired = Some(desired);
    Ok(kernel)
}

impl Running {
    /// Puts the settings that stay until lbd ends into those of a newer state.
    fn keep_in(&self, balancer: &mut Balancer) {
        let of = |fragments| {
            let workers = self.workers.iter().filter(move |worker| worker.fragments == fragments);
            workers.map(|worker| worker.queue.0)
        };
        let queues = of(false).min().zip(of(false).max());
        if let Some(queues) = queues.and_then(|(first, last)| QueueRange::new(first, last)) {
            balancer.queues = queues;
        }
        if let Some(queue) = of(true).next() {
            balancer.fragment_queue = QueueNum(queue);
        }
        if let Some(mask) = self.mark_mask {
            balancer.mark_mask = mask;
        }
    }
}

#[cfg(test)]
mod tests;
