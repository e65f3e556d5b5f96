//! The thread that holds the lease ([`crate::lease`]): it looks whether all workers go on, and tells the kernel and the region.

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

/// Workers as they are watched, in the order of their blocks.
pub(super) type Beats = Vec<(Identity, Arc<Beat>)>;

struct Holder {
    beats: Beats,
    watch: Watch,
    tun: Arc<Tun>,
    region: Arc<ArcSwap<Mapping>>,
    /// What kept the lease from being renewed last.
    trouble: Option<String>,
}

/// Holds the lease from now on, until workers are told to stop.
pub(super) fn hold(
    beats: Beats,
    tun: Arc<Tun>,
    shared: &Arc<Shared>,
    region: &Arc<ArcSwap<Mapping>>,
) -> Result<JoinHandle<()>, DaemonError> {
    let kinds = beats.iter().map(|(identity, _)| kind(*identity));
    let watch = Watch::new(clock::monotonic(), kinds);
    let mut holder = Holder { watch, beats, tun, region: Arc::clone(region), trouble: None };
    // So that it is held as soon as lbd is ready.
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
        self.tell(&news, &renewed);
        let mut region = self.region.load_full();
        // A region that was truncated shows nothing; its follower notices and says so.
        let _ = stats::looked(&mut region, now, self.watch.hangs());
    }

    fn tell(&mut self, news: &[News], renewed: &io::Result<()>) {
        for news in news {
            match *news {
                News::Hangs(worker) => warn!(
                    queue = self.queue(worker),
                    "the worker of this queue hangs; the kernel's tables decide about what it does not take"
                ),
                News::GoesOn(worker, after) => info!(
                    queue = self.queue(worker),
                    seconds = after.as_secs_f32(),
                    "the worker of this queue goes on"
                ),
                News::Away(time) => warn!(
                    seconds = time.as_secs_f32(),
                    "lbd was stopped or got no processor time; the kernel's tables decided meanwhile"
                ),
            }
        }
        let trouble = renewed.as_ref().err().map(ToString::to_string);
        if self.trouble != trouble {
            match &trouble {
                Some(problem) => warn!(
                    problem,
                    "the kernel cannot be told that lbd answers (device sr-frag); its own tables decide"
                ),
                None => info!("the kernel is told again that lbd answers"),
            }
            self.trouble = trouble;
        }
    }

    fn queue(&self, worker: usize) -> Option<u16> {
        self.beats.get(worker).map(|(identity, _)| identity.queue.0)
    }
}
