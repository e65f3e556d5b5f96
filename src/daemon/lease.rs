//! The thread that holds the lease ([`crate::lease`]): while all workers go on, it renews the lease in the kernel and shows that in
//! the region.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    thread::{self, JoinHandle},
};

use arc_swap::ArcSwap;
use tracing::{info, warn};

use super::DaemonError;
use crate::{
    io::Inject as _,
    lease::{self, Kind, LOOK, Look, News, Watch},
    shm::stats::{self, Identity},
    sys::{clock, region::Mapping, tun::Tun},
    worker::{Beat, Shared},
};

/// The workers' signs of life, in the order of their blocks of statistics.
pub(super) type Beats = Vec<(Identity, Arc<Beat>)>;

struct Holder {
    beats: Beats,
    watch: Watch,
    tun: Arc<Tun>,
    region: Arc<ArcSwap<Mapping>>,
    /// Why the last renewal failed.
    trouble: Option<String>,
}

/// Holds the lease from now on, until the workers are stopped.
pub(super) fn hold(
    beats: Beats,
    tun: Arc<Tun>,
    shared: &Arc<Shared>,
    region: &Arc<ArcSwap<Mapping>>,
) -> Result<JoinHandle<()>, DaemonError> {
    let kinds = beats.iter().map(|(identity, _)| kind(*identity));
    let watch = Watch::new(clock::monotonic(), kinds);
    let mut holder = Holder { watch, beats, tun, region: Arc::clone(region), trouble: None };
    // The lease is held when lbd is ready.
    holder.turn();
    let shared = Arc::clone(shared);
    let stopped = move || shared.stop.load(Ordering::Relaxed).then_some(());
    let thread = thread::Builder::new().name("lease".to_owned()).spawn(move || {
        while clock::wait_for(LOOK, LOOK, &stopped).is_none() {
            holder.turn();
        }
    });
    thread.map_err(|error| DaemonError::Os { doing: "starting a thread", error })
}

fn kind(identity: Identity) -> Kind {
    if identity.fragments { Kind::Fragments } else { Kind::Flows }
}

impl Holder {
    fn turn(&mut self) {
        let now = clock::monotonic();
        let Look { renew, news } = self.watch.look(now, self.beats.iter().map(|(_, beat)| beat.turns()));
        let renewed = renew.into_iter().try_for_each(|kind| self.tun.inject(&lease::renewal(kind)));
        self.log(&news, &renewed);
        let mut region = self.region.load_full();
        // The control thread notices if the region was truncated.
        let _ = stats::looked(&mut region, now, self.watch.hangs());
    }

    fn log(&mut self, news: &[News], renewed: &io::Result<()>) {
        for news in news {
            match *news {
                News::Hangs(worker) => warn!(
                    queue = self.queue(worker),
                    "the worker of this queue hangs; the fallback tables decide about what it does not take"
                ),
                News::GoesOn(worker, after) => info!(
                    queue = self.queue(worker),
                    seconds = after.as_secs_f32(),
                    "the worker of this queue goes on"
                ),
                News::Away(time) => warn!(
                    seconds = time.as_secs_f32(),
                    "lbd was stopped or got no processor time; the fallback tables decided meanwhile"
                ),
            }
        }
        let trouble = renewed.as_ref().err().map(ToString::to_string);
        if self.trouble != trouble {
            match &trouble {
                Some(problem) => {
                    warn!(
                        problem,
                        "the lease cannot be renewed (device sr-frag); the fallback tables decide"
                    );
                }
                None => info!("the lease is renewed again"),
            }
            self.trouble = trouble;
        }
    }

    fn queue(&self, worker: usize) -> Option<u16> {
        self.beats.get(worker).map(|(identity, _)| identity.queue.0)
    }
}
