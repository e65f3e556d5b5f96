//! The lbd that follows a region, in words; and waiting until lbd has taken over a change.

use std::time::Duration;

use serde::Serialize;

use super::{Env, error::CtlError, text::count};
use crate::{
    model::ids::Generation,
    status::{
        lbd::{DaemonView, Hangs, Lbd, Offload, PinsView, once_command},
        words::duration,
    },
    sys::{
        clock,
        region::{Region, RegionName},
    },
};

/// Returns one line about the lbd that follows the region, or about what the last one has left.
pub(super) fn line(env: &Env<'_>, name: &RegionName, live: u64, lbd: &Lbd) -> String {
    let Lbd { last, hangs, ruleset_gone, .. } = lbd;
    let gone = if *ruleset_gone { NO_RULESET } else { "" };
    if lbd.followed {
        let hangs = hangs.as_ref().map_or_else(String::new, hang);
        return running(last, live, env.unix_seconds) + gone + &hangs;
    }
    let left = match last.adopted {
        0 => String::new(),
        _ if *ruleset_gone => gone.to_owned(),
        adopted if adopted >= live => format!("; generation {adopted} was put in force last"),
        adopted => {
            let once = once_command(name);
            format!("; generation {adopted} was put in force last, {live} NOT YET: start lbd, or `{once}`")
        }
    };
    format!("none follows this region{left}")
}

fn running(lbd: &DaemonView, live: u64, unix_seconds: u64) -> String {
    let since = duration(unix_seconds.saturating_sub(lbd.started_unix_seconds));
    let adopted = match lbd.adopted {
        adopted if adopted >= live && lbd.in_kernel < adopted => {
            format!("generation {adopted} in force, its tables NOT YET in the kernel")
        }
        adopted if adopted >= live => format!("generation {adopted} in force"),
        0 => "nothing taken over yet".to_owned(),
        adopted => format!("generation {adopted} in force, {live} NOT YET taken over"),
    };
    format!("process {}, {}, for {since}, {adopted}", lbd.pid, count(lbd.workers(), "worker"))
}

const NO_RULESET: &str = "; the kernel has NO RULESET of synrail in this network namespace";

fn hang(hangs: &Hangs) -> String {
    if let Some(silent) = hangs.process_ms {
        let silent = duration(silent / 1000);
        return format!("; HANGS for {silent}: the fallback tables decide");
    }
    format!("; the workers of these queues HANG, the fallback tables decide: {}", hangs.queues())
}

/// What a nearly full connection tracking table means, and what to do.
pub(super) const NEARLY_FULL: &str = "NEARLY FULL: packets to VIPs go untracked, by the fallback tables; \
     raise net.netfilter.nf_conntrack_max, and nf_conntrack_buckets with it, at 1 to 4 entries a bucket";

/// Returns one line about what lbd has found of flows.
pub(super) fn pins(pins: &PinsView) -> String {
    let PinsView { off_table, no_room, protected, not_protected, promoted, ended, .. } = pins;
    let no_room = match no_room {
        0 => String::new(),
        _ => format!(" ({no_room} had NO ROOM in the maps)"),
    };
    let not_protected = match not_protected {
        0 => String::new(),
        _ => format!(", {not_protected} more NOT: half of nf_conntrack_max is reached"),
    };
    let promoted = match promoted {
        0 => String::new(),
        _ => format!(", {promoted} of them promoted"),
    };
    let ended = match ended {
        0 => String::new(),
        _ => format!("; {ended} ended by disable or kill"),
    };
    format!(
        "{off_table} off-table{no_room}; {protected} protected in connection tracking{promoted}{not_protected}{ended}"
    )
}

/// Returns whether long flows are promoted, in words.
pub(super) fn offload(offload: Offload) -> &'static str {
    match offload {
        Offload::On => "on: long flows are promoted to the kernel's flowtable",
        Offload::Off => "off, by the setting",
        Offload::EveryPacket => "none: every packet is asked about",
        Offload::NotInKernel => "NOT IN THIS KERNEL: long flows go by the ruleset as others do",
    }
}

/// What happened to a generation that was just published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Adoption {
    /// lbd decides by it.
    InForce,
    /// An lbd runs, but has not taken over the generation in time.
    NotYet,
    /// No lbd runs.
    NoDaemon,
}

/// Waits at most `timeout` until the lbd that follows the region, if any, decides by `generation`.
pub(super) fn wait_adopted(
    region: &mut Region,
    generation: Generation,
    timeout: Duration,
) -> Result<Adoption, CtlError> {
    let adopted = clock::wait_for(timeout, Duration::from_millis(5), || match DaemonView::of(region) {
        Ok(None) => Some(Ok(Adoption::NoDaemon)),
        Ok(Some(daemon)) => (daemon.adopted >= generation.0).then_some(Ok(Adoption::InForce)),
        Err(error) => Some(Err(error.into())),
    });
    adopted.unwrap_or(Ok(Adoption::NotYet))
}
