//! Whether a balancer does its work: lbd runs and answers, and a table is in force.

use serde::Serialize;

use super::{
    Sources,
    lbd::{DaemonView, Lbd},
};
use crate::sys::region::{AccessError, Region};

/// Whether a balancer does its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// Whether it does.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
}

impl Ready {
    /// Reads it. A region that cannot be read is a reason.
    #[must_use]
    pub fn read(region: Result<&mut Region, AccessError>, sources: &Sources) -> Self {
        let lbd = region.and_then(|region| Lbd::read(region, sources));
        lbd.map_or_else(|error| Self::not(vec![error.to_string()]), |lbd| Self::of(&lbd))
    }

    fn of(lbd: &Lbd) -> Self {
        let Lbd { followed, last: DaemonView { adopted, .. }, hangs, ruleset_gone } = lbd;
        let reasons = [
            (!followed).then(|| "no lbd follows the region".to_owned()),
            hangs.as_ref().map(|hangs| format!("lbd is {}", hangs.value())),
            (*adopted == 0).then(|| "no table is in force yet".to_owned()),
            ruleset_gone.then(|| "the kernel has no ruleset of synrail".to_owned()),
        ];
        Self::not(reasons.into_iter().flatten().collect())
    }

    fn not(reasons: Vec<String>) -> Self {
        Self { ready: reasons.is_empty(), reasons }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{host::Tally, status::lbd::Hangs};

    fn lbd(followed: bool, adopted: u64) -> Lbd {
        let host = Tally::default();
        let last =
            DaemonView { pid: 7, adopted, in_kernel: adopted, started_unix_seconds: 0, workers: 1, host };
        Lbd { followed, last, hangs: None, ruleset_gone: false }
    }

    #[test]
    fn every_reason_is_given() {
        assert_eq!(Ready::of(&lbd(true, 1)), Ready { ready: true, reasons: Vec::new() });
        assert_eq!(
            Ready::of(&lbd(false, 0)).reasons,
            ["no lbd follows the region", "no table is in force yet"]
        );
        let hangs = Some(Hangs { process_ms: Some(4000), queues: Vec::new() });
        let bad = Lbd { hangs, ruleset_gone: true, ..lbd(true, 3) };
        assert_eq!(
            Ready::of(&bad).reasons,
            ["lbd is hanging for 4 s", "the kernel has no ruleset of synrail"]
        );
        assert!(!Ready::of(&bad).ready);
    }
}
