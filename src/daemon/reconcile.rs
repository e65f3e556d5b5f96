//! The steps that bring the kernel and the workers to a desired state: their order, and how they differ between a change, a
//! roll-back and a repair. `kernel.rs` carries them out.
//!
//! The steps, in the order of a change:
//!
//! 1. [`Step::RoutingBefore`]: GRE ingress devices that are no longer desired are removed, before the ruleset loses the rules
//!    that filter what they bring. Devices, routes and rules are added before marks lead to them.
//! 2. [`Step::Ruleset`]: chains, rules and the elements of sets. A new service's fallback table is filled here.
//! 3. [`Step::Workers`]: the workers decide by the desired tables, whose targets the kernel now has.
//! 4. [`Step::Fallback`]: the fallback tables, by which the kernel decides when lbd does not.
//! 5. [`Step::RoutingAfter`]: GRE ingress devices open, now that the ruleset filters what they bring. Routes are removed that
//!    entries of the former tables led to. This step needs 1 and 2.
//! 6. [`Step::Tier`]: tunnels that have left the tier no longer count as such for fragments.
//!
//! Tunnels to backends and to the tier are up before the rules that drop what they bring for no VIP, because their routes
//! need them to be up. At a first start that is for as long as one run of nft takes. They take packets of their remote ends
//! only.
//!
//! | | a failure | the ruleset and routing | first | large fallback tables |
//! |---|---|---|---|---|
//! | [`Policy::Change`] | ends it | as lbd left them, if it knows that | routing | may follow later |
//! | [`Policy::RollBack`] | is recorded | compared with the kernel's | routing | at once |
//! | [`Policy::Repair`] | is recorded | compared with the kernel's | ruleset | those that are due stay due |
//! | [`Policy::Look`] | is recorded | compared, and left as they are | ruleset | compared |
//!
//! A repair begins with the ruleset, since reading all of the routing may take seconds on a router, and nothing is steered
//! while the ruleset is missing. A change and a roll-back cannot: they may have devices to remove first.
//!
//! A look has those steps of a repair that find differences, and reports what a repair would change (`lbctl check`).

use tracing::{info, warn};

use super::DaemonError;
use crate::{
    plan::routing::{FRAGMENTS_DEVICE, Note, Op},
    sys::{
        nft::{Applied, Differences, FallbackDifference},
        rtnetlink::RoutingError,
    },
};

/// How the uses of a reconciliation differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// To a new state: at a start, after a change, or by `--once`. If it fails, the caller rolls back.
    Change,
    /// To the last good state, after a change that failed half-way.
    RollBack,
    /// To the state in force, of which other programs may have changed something.
    Repair,
    /// What [`Policy::Repair`] would change. Changes nothing.
    Look,
}

/// A part of a reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Changes of routing that the ruleset waits for ([`crate::plan::routing::Diff::around_ruleset`]).
    RoutingBefore,
    /// The ruleset, except the entries of existing fallback tables.
    Ruleset,
    /// The tables of the workers.
    Workers,
    /// The entries of the fallback tables.
    Fallback,
    /// Changes of routing that wait for the ruleset.
    RoutingAfter,
    /// The devices by which fragments come from the tier.
    Tier,
}

impl Policy {
    /// All steps, in order.
    fn steps(self) -> &'static [Step] {
        use Step::{Fallback, RoutingAfter, RoutingBefore, Ruleset, Tier, Workers};
        match self {
            Self::Change | Self::RollBack => &[RoutingBefore, Ruleset, Workers, Fallback, RoutingAfter, Tier],
            Self::Repair => &[Ruleset, RoutingBefore, Workers, Fallback, RoutingAfter, Tier],
            Self::Look => &[Ruleset, RoutingBefore, Fallback],
        }
    }

    /// Whether the first failure ends it. Otherwise failures are recorded, and the other steps follow.
    fn ends_at_failure(self) -> bool {
        self == Self::Change
    }

    /// Whether the kernel may differ from what lbd last put there.
    pub(super) fn compares(self) -> bool {
        self != Self::Change
    }
}

impl Step {
    /// The steps without which this one must not be done.
    fn needs(self) -> &'static [Self] {
        match self {
            Self::RoutingAfter => &[Self::RoutingBefore, Self::Ruleset],
            Self::RoutingBefore | Self::Ruleset | Self::Workers | Self::Fallback | Self::Tier => &[],
        }
    }
}

/// What a reconciliation has changed, and what is left undone.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The changes of devices, routes and rules. A look reports what a repair would change.
    pub(super) routing: Vec<Op>,
    /// The change of the ruleset and, where it was compared, what differed.
    pub(super) ruleset: Option<(Differences, Applied)>,
    /// How many entries of fallback tables were changed.
    pub(super) entries: usize,
    /// Of a look: the fallback tables that differ.
    pub(super) fallback: Vec<FallbackDifference>,
    /// Whether the device by which held fragments come back was made or set up.
    pub(super) fragments_device: bool,
    /// What the operator should know about routing; `None` if it was not read.
    pub(super) notes: Option<Vec<Note>>,
    /// What could not be done. A repair tries it again.
    pub(super) left: Vec<DaemonError>,
    failed: Vec<Step>,
}

impl Report {
    /// Records changes of routing, except those of routes whose next hops are out of reach.
    pub(super) fn add_routing(&mut self, ops: &[Op], out_of_reach: Vec<RoutingError>) {
        let refused = |op: &&Op| {
            !out_of_reach.is_empty()
                && out_of_reach.iter().any(|error| error.refused() == Some(&op.to_string()))
        };
        self.routing.extend(ops.iter().filter(|op| !refused(op)).cloned());
        self.left.extend(out_of_reach.into_iter().map(DaemonError::OutOfReach));
    }

    /// Whether all next hops are in reach.
    pub(super) fn all_in_reach(&self) -> bool {
        !self.left.iter().any(|problem| matches!(problem, DaemonError::OutOfReach(_)))
    }

    /// Whether the kernel has all of the desired routing.
    pub(super) fn routing_is_right(&self) -> bool {
        let needed = [Step::RoutingBefore, Step::Ruleset, Step::RoutingAfter];
        self.all_in_reach() && !needed.iter().any(|step| self.failed.contains(step))
    }

    /// Whether anything was changed.
    pub(super) fn any(&self) -> bool {
        !self.routing.is_empty() || self.ruleset.is_some() || self.entries > 0 || self.fragments_device
    }

    /// Logs a change.
    pub(super) fn log_change(&self) {
        let Some((_, applied)) = &self.ruleset else { return };
        info!(
            routing_changes = self.routing.len(), rules = ?applied.structure, elements_added = applied.elements_added,
            elements_deleted = applied.elements_deleted, entries_changed = self.entries,
            "in force"
        );
    }

    /// Logs what a repair has found wrong and made right.
    pub(super) fn log_repair(&self) {
        if let Some((differed, applied)) = &self.ruleset {
            warn!(
                rules = ?applied.structure, elements = applied.elements_added,
                "our ruleset was not as it should be; it is mended: {differed}"
            );
        }
        if let Some(first) = self.routing.first() {
            let changes = self.routing.len();
            warn!(changes, %first, "our devices, routes or rules were not as they should be; they are mended");
        }
        if self.entries > 0 {
            warn!(entries = self.entries, "the fallback tables were not as they should be; they are mended");
        }
        if self.fragments_device {
            warn!(device = FRAGMENTS_DEVICE, "our device was not as it should be; it is mended");
        }
    }
}

/// Carries out the steps of a policy.
///
/// # Errors
/// The first failure, where the policy ends at it.
pub(super) fn run(
    policy: Policy,
    mut carry_out: impl FnMut(Step, &mut Report) -> Result<(), DaemonError>,
) -> Result<Report, DaemonError> {
    let mut report = Report::default();
    for &step in policy.steps() {
        if step.needs().iter().any(|needed| report.failed.contains(needed)) {
            continue;
        }
        if let Err(error) = carry_out(step, &mut report) {
            if policy.ends_at_failure() {
                return Err(error);
            }
            report.left.push(error);
            report.failed.push(step);
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::{
        Step::{Fallback, RoutingAfter, RoutingBefore, Ruleset, Tier, Workers},
        *,
    };

    /// The steps that are carried out if some fail, and the result.
    fn steps(policy: Policy, failing: &[Step]) -> (Vec<Step>, Result<Report, DaemonError>) {
        let mut steps = Vec::new();
        let result = run(policy, |step, report| {
            steps.push(step);
            if failing.contains(&step) {
                return Err(DaemonError::NotAllowed);
            }
            report.entries += 1;
            Ok(())
        });
        (steps, result)
    }

    #[test]
    fn a_change_ends_at_its_first_failure() {
        let all = [RoutingBefore, Ruleset, Workers, Fallback, RoutingAfter, Tier];
        let (done, report) = steps(Policy::Change, &[]);
        assert_eq!((done.as_slice(), report.unwrap().entries), (all.as_slice(), 6));
        for (index, failing) in all.into_iter().enumerate() {
            let (done, result) = steps(Policy::Change, &[failing, Tier]);
            assert_eq!(done, all[..=index]);
            assert!(result.is_err());
        }
    }

    #[test]
    fn a_failure_holds_up_only_what_needs_its_step() {
        for (policy, failing, expected) in [
            (Policy::RollBack, vec![], vec![RoutingBefore, Ruleset, Workers, Fallback, RoutingAfter, Tier]),
            (Policy::RollBack, vec![RoutingBefore], vec![RoutingBefore, Ruleset, Workers, Fallback, Tier]),
            (Policy::Repair, vec![], vec![Ruleset, RoutingBefore, Workers, Fallback, RoutingAfter, Tier]),
            (Policy::Repair, vec![Ruleset], vec![Ruleset, RoutingBefore, Workers, Fallback, Tier]),
            (
                Policy::Repair,
                vec![Workers, Fallback],
                vec![Ruleset, RoutingBefore, Workers, Fallback, RoutingAfter, Tier],
            ),
            (Policy::Look, vec![Ruleset], vec![Ruleset, RoutingBefore, Fallback]),
        ] {
            let (done, report) = steps(policy, &failing);
            let report = report.unwrap();
            assert_eq!(done, expected, "{policy:?} {failing:?}");
            assert_eq!((report.left.len(), report.entries), (failing.len(), done.len() - failing.len()));
            let of_routing = [RoutingBefore, Ruleset, RoutingAfter];
            assert_eq!(report.routing_is_right(), !failing.iter().any(|step| of_routing.contains(step)));
        }
    }

    #[test]
    fn a_next_hop_out_of_reach_is_left_and_all_else_counts() {
        let op = |name: &str| Op::RemoveDevice(name.to_owned());
        let refusal = |op: &Op| RoutingError::Apply {
            op: op.to_string(),
            source: std::io::Error::from_raw_os_error(libc::ENETUNREACH),
            hint: String::new(),
        };
        let ops = [op("sr-1"), op("sr-2"), op("sr-3")];
        let mut report = Report::default();
        assert!(!report.any() && report.routing_is_right());
        report.add_routing(&ops, vec![refusal(&ops[0])]);
        assert_eq!((report.routing.as_slice(), report.left.len()), (&ops[1..], 1));
        assert!(report.any() && !report.all_in_reach() && !report.routing_is_right());
        report.add_routing(&[op("sr-4")], Vec::new());
        assert_eq!((report.routing.len(), &report.routing[0]), (3, &ops[1]));
    }
}
