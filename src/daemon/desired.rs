//! What a state asks of the kernel and of the workers.

use std::sync::Arc;

use ipnet::IpNet;
use tracing::warn;

use super::DaemonError;
use crate::{
    balance::Forwarding,
    config::Balancer,
    model::{
        QueueRange,
        ids::{Generation, MarkMask, QueueNum},
    },
    plan::{
        elements::{Claims, Elements, Way},
        routing,
        ruleset::{Means, Ruleset},
    },
    state::State,
};

/// Settings that stay the same as long as the workers run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct StartupSettings {
    queues: QueueRange,
    fragment_queue: QueueNum,
    mark_mask: MarkMask,
}

impl StartupSettings {
    pub(super) fn of(balancer: &Balancer) -> Self {
        Self {
            queues: balancer.queues,
            fragment_queue: balancer.fragment_queue,
            mark_mask: balancer.mark_mask,
        }
    }

    pub(super) fn mark_mask(self) -> MarkMask {
        self.mark_mask
    }

    /// Puts these settings in the place of those of a new state, and logs if they differ.
    pub(super) fn keep_in(self, balancer: &mut Balancer) {
        if self == Self::of(balancer) {
            return;
        }
        let mask = format!("{:#x}", balancer.mark_mask.bits());
        warn!(
            queues = %balancer.queues, fragment_queue = balancer.fragment_queue.0, mark_mask = mask,
            "other queues or marks are used from the next start on"
        );
        let Self { queues, fragment_queue, mark_mask } = self;
        (balancer.queues, balancer.fragment_queue, balancer.mark_mask) = (queues, fragment_queue, mark_mask);
    }
}

/// What one state asks of the kernel and of the workers.
pub(super) struct Desired {
    pub(super) forwarding: Arc<Forwarding>,
    pub(super) routing: routing::Desired,
    pub(super) ruleset: Ruleset,
    /// The elements of the ruleset before addresses of this host are cut out.
    elements: Elements,
    /// The names of the tunnels to the tier ([`routing::tier_devices`]).
    pub(super) tier_devices: Vec<String>,
}

impl Desired {
    /// Plans for a state, on a host with these addresses.
    pub(super) fn by(
        state: &State,
        generation: Generation,
        means: Means,
        own: &[IpNet],
    ) -> Result<Self, DaemonError> {
        let forwarding = Arc::new(Forwarding::new(state, generation)?);
        let mut ruleset = Ruleset::new(state, &Claims::of(forwarding.classifier()), means)?;
        let without_own = ruleset.elements.without(own);
        let elements = std::mem::replace(&mut ruleset.elements, without_own);
        Ok(Self {
            routing: routing::desired(state)?,
            ruleset,
            elements,
            tier_devices: routing::tier_devices(state).collect(),
            forwarding,
        })
    }

    /// The host has these addresses now: in prefixes of VIPs they stay the host's own. Returns whether that changes the
    /// ruleset. The way of packets may have changed since the ruleset was applied, which is no such change.
    pub(super) fn set_own(&mut self, own: &[IpNet], way: Way) -> bool {
        let mut elements = self.elements.without(own);
        elements.set_way(way);
        self.ruleset.elements.set_way(way);
        let changes = elements != self.ruleset.elements;
        self.ruleset.elements = elements;
        changes
    }
}
