//! What others have changed in the kernel is made again as it should be, and told; what is right is not touched.

use tracing::warn;

use super::{DaemonError, kernel::Kernel, links};
use crate::{
    plan::{
        routing::{self, FRAGMENTS_DEVICE, Note, Op},
        ruleset::Ruleset,
    },
    sys::{
        nft::{self, NftError},
        rtnetlink::{Routing, RoutingError},
        tun::Tun,
    },
};

/// What a repair has come to.
pub(super) struct Mended {
    /// Whether anything was not as it should be, and is now.
    pub(super) any: bool,
    /// The first thing that cannot be mended.
    pub(super) left: Result<(), DaemonError>,
}

impl Mended {
    /// Of one thing: whether it was mended, or why it cannot be.
    pub(super) fn of<E: Into<DaemonError>>(one: Result<bool, E>) -> Self {
        one.map_or_else(Self::failed, |any| Self { any, left: Ok(()) })
    }

    /// Nothing was mended.
    pub(super) fn failed<E: Into<DaemonError>>(error: E) -> Self {
        Self { any: false, left: Err(error.into()) }
    }

    /// Of both.
    pub(super) fn and(self, other: Self) -> Self {
        Self { any: self.any || other.any, left: self.left.and(other.left) }
    }
}

/// Makes sure of the device by which held fragments come back; says whether anything was to do.
pub(super) fn tend_tun(tun: &Tun, kernel: &mut Kernel) -> Result<bool, DaemonError> {
    let new = tun.renew()?;
    links::set_tun(&kernel.shared, tun.index());
    Ok(kernel.routing.set_up_fragments_device()? || new)
}

/// As [`tend_tun`], for what another program has changed; logs it.
pub(super) fn mend_tun(tun: &Tun, kernel: &mut Kernel) -> Result<bool, DaemonError> {
    let mended = tend_tun(tun, kernel)?;
    if mended {
        warn!(device = FRAGMENTS_DEVICE, "our device was not as it should be; it is mended");
    }
    Ok(mended)
}

/// Does what comes before the last good state's ruleset ([`routing::Diff::around_ruleset`]), and returns what comes after.
pub(super) fn restore_before_ruleset(
    routing: &mut Routing,
    wanted: &routing::Desired,
) -> Result<Vec<Op>, RoutingError> {
    let (before, after) = routing::diff(&routing.current(wanted)?, wanted)?.around_ruleset();
    routing.apply_reachable(&before)?;
    Ok(after)
}

/// What must wait for the ruleset does so if that is not in force.
pub(super) fn mend_routing(
    routing: &mut Routing,
    wanted: &routing::Desired,
    in_force: bool,
    told: &mut Vec<Note>,
) -> Result<Mended, RoutingError> {
    let mut diff = routing::diff(&routing.current(wanted)?, wanted)?;
    tell(told, std::mem::take(&mut diff.notes));
    let (mut ops, after) = diff.around_ruleset();
    if in_force {
        ops.extend(after);
    }
    let left = routing.apply_reachable(&ops)?;
    let changes = ops.len() - left.len();
    if changes > 0 {
        let refused = |op: &String| left.iter().any(|problem| problem.refused() == Some(op));
        let first = ops.iter().map(ToString::to_string).find(|op| !refused(op)).unwrap_or_default();
        warn!(changes, first, "our devices, routes or rules were not as they should be; they are mended");
    }
    let left = left.into_iter().next().map_or(Ok(()), |problem| Err(problem.into()));
    Ok(Mended { any: changes > 0, left })
}

/// What a person should know is said when it becomes so.
pub(super) fn tell(told: &mut Vec<Note>, notes: Vec<Note>) {
    for note in notes.iter().filter(|note| !told.contains(note)) {
        warn!("{note}");
    }
    *told = notes;
}

/// The ruleset, but for entries of services' tables; says whether anything was to do.
pub(super) fn mend_ruleset(wanted: &Ruleset, tables: &mut nft::Tables) -> Result<bool, NftError> {
    let mended = nft::mend(wanted, tables)?;
    if let Some((differed, applied)) = &mended {
        warn!(
            rules = ?applied.structure, elements = applied.elements_added,
            "our ruleset was not as it should be; it is mended: {differed}"
        );
    }
    Ok(mended.is_some())
}

/// The kernel's copies of services' tables: some of their entries are looked at, and what is not as it should be is mended. Says
/// whether anything was.
pub(super) fn mend_tables(tables: &mut nft::Tables, wanted: &Ruleset) -> Result<bool, NftError> {
    tables.sample(&wanted.tables);
    let entries = tables.apply(&wanted.tables)?;
    if entries > 0 {
        warn!(entries, "the kernel's copies of the tables were not as they should be; they are mended");
    }
    Ok(entries > 0)
}
