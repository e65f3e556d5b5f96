//! Which VIPs this balancer announces, and why others are withheld.

use serde::Serialize;

use super::Sources;
use crate::{
    model::Admission,
    plan::announce::{Decides, vips},
    state::State,
};

/// The announcements of a balancer.
#[derive(Debug, Serialize)]
pub struct AnnounceView {
    /// The name of this balancer.
    pub balancer: String,
    /// The routing table that a routing daemon announces; null if there is none.
    pub table: Option<u8>,
    /// Whether operators let it announce VIPs.
    pub enabled: bool,
    /// What operators say about that: `override`.
    #[serde(flatten)]
    pub admission: Admission,
    /// Every VIP that is announced while it can be served, sorted; none without a table.
    pub vips: Vec<VipView>,
}

/// A VIP.
#[derive(Debug, Serialize)]
pub struct VipView {
    /// The prefix.
    pub vip: String,
    /// Whether the table has it; null if that cannot be read.
    pub announced: Option<bool>,
    /// Why it has none, or should have none.
    pub why: Option<String>,
}

impl AnnounceView {
    /// Returns what a state says, and what the kernel has. `followed` says whether an lbd runs.
    #[must_use]
    pub fn new(state: &State, followed: bool, sources: &Sources) -> Self {
        let table = state.balancer.announce_table;
        let present = table.and_then(|table| (sources.announced)(table));
        let drained = state.admission.in_force().filter(|_| !state.admission.active());
        let decides = if followed { Decides::Lbd } else { Decides::Kernel };
        let view = |(vip, served): (ipnet::IpNet, Result<(), crate::plan::announce::Why>)| {
            let announced = present.as_ref().map(|present| present.contains(&vip));
            let why = match (drained, served) {
                (Some(order), _) => Some(order.to_string()),
                (None, Err(why)) => Some(why.to_string()),
                (None, Ok(())) if announced != Some(false) => None,
                (None, Ok(())) if followed => Some(
                    "it could not be served, and comes back when it has been served for a while".to_owned(),
                ),
                (None, Ok(())) => Some("no lbd runs: `lbctl check --repair` announces it".to_owned()),
            };
            VipView { vip: vip.to_string(), announced, why }
        };
        Self {
            balancer: state.balancer.name.to_string(),
            table,
            enabled: state.admission.active(),
            admission: state.admission.clone(),
            vips: vips(state, decides).into_iter().map(view).collect(),
        }
    }
}
