//! Which balancer of the tier handles the fragments of a flow, and why: the second half of `which
//! --fragment`. PURE.

use std::net::IpAddr;

use serde::Serialize;

use super::view::TargetView;
use crate::{
    balance::tier::{Explained, Owner, TABLE_SIZE, Tier},
    packet::{Addresses, Packet},
    state::{State, TierMember},
};

/// What `--json` prints about the owner.
#[derive(Debug, Serialize)]
pub struct OwnerView {
    /// The balancer's name. Null if no table decides, so that each balancer handles the fragments that it
    /// gets, and if no balancer handles any.
    pub owner: Option<String>,
    /// Whether this balancer is the owner.
    pub owner_here: bool,
    /// `None` if the destination is no VIP: fragments to it are not queued.
    #[serde(skip)]
    explained: Option<Explained>,
    /// The fields that were hashed.
    #[serde(skip)]
    hashed: String,
    /// The target that leads to the owner.
    #[serde(skip)]
    target: Option<TargetView>,
}

impl OwnerView {
    /// Returns which balancer handles the fragments of a packet's flow.
    #[must_use]
    pub fn new(state: &State, tier: &Tier, packet: &Packet) -> Self {
        let (dst, hashed): (IpAddr, _) = match packet.addresses {
            Addresses::V4 { src, dst } => (dst.into(), format!("({src}, {dst}, {})", packet.protocol)),
            Addresses::V6 { src, dst } => (dst.into(), format!("({src}, {dst})")),
        };
        let vip = state.services.iter().flat_map(|service| &service.vips).any(|vip| vip.contains(&dst));
        let explained = vip.then(|| tier.explain(packet.addresses, packet.protocol));
        let rank = explained.and_then(|explained| explained.rank);
        let of_rank = |rank: u16| state.tier_active().nth(rank.into());
        let (here, target) = match explained.map(|explained| explained.owner) {
            Some(Owner::Here) => (true, None),
            Some(Owner::Member { target, .. }) => (false, Some(TargetView::new(state, target))),
            None => (false, None),
        };
        Self {
            owner: rank.and_then(of_rank).map(|member: &TierMember| member.name.to_string()),
            owner_here: here,
            explained,
            hashed,
            target,
        }
    }

    /// Returns the answer in a few words; `None` if there are no fragments to handle.
    #[must_use]
    pub fn line(&self) -> Option<String> {
        self.explained?;
        Some(match (&self.owner, &self.target) {
            (Some(owner), Some(target)) => format!("{owner} (tier: {})", target.route()),
            (Some(owner), None) => format!("{owner} (tier: this balancer)"),
            (None, _) => "this balancer".to_owned(),
        })
    }

    /// Returns why this balancer is the owner.
    #[must_use]
    pub fn reason(&self, state: &State) -> Vec<String> {
        let Some(Explained { hash, index, rank, .. }) = self.explained else {
            return vec!["fragments: none is queued where the destination is no VIP".to_owned()];
        };
        let Some((owner, rank)) = self.owner.as_ref().zip(rank) else {
            let why = if state.tier.is_empty() {
                "there is no [tier]"
            } else {
                "no balancer of the tier is active"
            };
            return vec![format!("fragments: {why}, so every balancer handles those that it gets")];
        };
        let mut reason = vec![
            format!(
                "fragments: jhash of {} with seed {} gives {hash:#010x}",
                self.hashed, state.balancer.hash_seed
            ),
            format!(
                "({hash} * {}) >> 32 = {index}, and that entry of the tier's table is {owner} (rank {rank} of {} active)",
                TABLE_SIZE.get(),
                state.tier_active().count()
            ),
        ];
        if let Some(target) = &self.target {
            reason.push(format!(
                "mark {:#x} is target {}: those that come here are sent to {owner}, once",
                target.mark, target.number
            ));
        }
        reason
    }
}
