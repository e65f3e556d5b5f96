//! Which balancer of the tier a fragment belongs to (Eisenbud et al., NSDI 2016, section 4.3). PURE.
//!
//! The fragments of one packet may reach different balancers, and only the first one has the ports. So one balancer owns
//! all fragments between two addresses: a Maglev table over the active members says which, the same on all of them. The
//! others send what they get to it, once.
//!
//! IPv4 fragments are hashed with their protocol. That of IPv6 fragments stays out: RFC 8200 (section 4.5) lets the
//! fragments of one packet differ in it.

use crate::{
    balance::maglev,
    config::{TableSize, Weight},
    ids::{Mark, TargetId},
    packet::{Addresses, jhash, key},
    state::State,
};

/// M of the table of owners.
pub const TABLE_SIZE: TableSize = TableSize::DEFAULT;

/// Who handles a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This balancer.
    Here,
    /// Another one of the tier.
    Member {
        /// Its index in [`State::tier`].
        index: usize,
        /// The target whose tunnel leads there.
        target: TargetId,
        /// Its mark.
        mark: Mark,
    },
}

/// An owner with the reasons, as `lbctl which` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Who it is.
    pub owner: Owner,
    /// The hash.
    pub hash: u32,
    /// Index into the table.
    pub index: u32,
    /// Rank of the owner among the active members; `None` without any.
    pub rank: Option<u16>,
}

/// The tier, made ready for deciding.
#[derive(Clone, Debug)]
pub struct Tier {
    seed: u32,
    /// Ranks of active members; empty when there are none.
    table: Vec<u16>,
    /// By rank.
    owners: Vec<Owner>,
}

impl Tier {
    /// Makes the tier of a state ready. Without active members, every balancer handles what it gets.
    #[must_use]
    pub fn new(state: &State) -> Self {
        let active = || state.tier.iter().enumerate().filter(|(_, member)| member.active);
        let owner = |(index, member): (usize, &crate::state::TierMember)| match member.target {
            None => Owner::Here,
            Some(target) => Owner::Member { index, target, mark: state.balancer.mark_mask.mark(target) },
        };
        let seed = state.balancer.hash_seed;
        let names = active().map(|(_, member)| (member.name.as_str(), Weight::ONE));
        Self { seed, table: maglev::build(seed, TABLE_SIZE, names), owners: active().map(owner).collect() }
    }

    /// Who handles fragments between these addresses; `protocol` is that of the IP header, and counts in IPv4 only.
    #[must_use]
    pub fn owner(&self, addresses: Addresses, protocol: u8) -> Owner {
        self.explain(addresses, protocol).owner
    }

    /// The same, with the reasons.
    #[must_use]
    pub fn explain(&self, addresses: Addresses, protocol: u8) -> Explained {
        let hash = key::tier_hash(addresses, protocol, self.seed);
        let index = jhash::index(hash, u32::try_from(self.table.len()).unwrap_or(0));
        let rank = self.table.get(index as usize).copied();
        let owner = rank.and_then(|rank| self.owners.get(usize::from(rank)).copied()).unwrap_or(Owner::Here);
        Explained { owner, hash, index, rank }
    }

    /// The Maglev table: ranks of active members; empty when there are none.
    #[must_use]
    pub fn table(&self) -> &[u16] {
        &self.table
    }
}
