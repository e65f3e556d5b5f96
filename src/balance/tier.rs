//! Finds the balancer of the tier that owns a fragment (Eisenbud et al., NSDI 2016, section 4.3). PURE.
//!
//! The fragments of one packet may reach different balancers, and only the first fragment has the ports. So
//! one balancer owns all fragments between two addresses. A Maglev table over the active members names the
//! owner, and is the same on all balancers. The others send the fragments that they get to the owner, once.
//!
//! The hash of an IPv4 fragment includes the protocol. That of an IPv6 fragment does not: RFC 8200 (section
//! 4.5) allows the fragments of one packet to differ in it.

use crate::{
    lookup::maglev,
    model::{
        TableSize, Weight,
        ids::{Mark, TargetId},
    },
    packet::{Addresses, jhash, key},
    state::State,
};

/// M (the size) of the table of owners.
pub const TABLE_SIZE: TableSize = TableSize::DEFAULT;

/// The balancer that handles a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This balancer.
    Here,
    /// Another balancer of the tier.
    Member {
        /// Its index in [`State::tier`].
        index: usize,
        /// The target whose tunnel leads there.
        target: TargetId,
        /// Its mark.
        mark: Mark,
    },
}

/// An owner and how it was found, as `lbctl which` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The owner.
    pub owner: Owner,
    /// The hash.
    pub hash: u32,
    /// Index into the table.
    pub index: u32,
    /// Rank of the owner among the active members; `None` if there are none.
    pub rank: Option<u16>,
}

/// The tier, prepared for deciding.
#[derive(Clone, Debug)]
pub struct Tier {
    seed: u32,
    /// Ranks of active members; empty when there are none.
    table: Vec<u16>,
    /// The active members, by rank.
    owners: Vec<Owner>,
}

impl Tier {
    /// Prepares the tier of a state for deciding. Without active members, every balancer handles the
    /// fragments that it gets.
    #[must_use]
    pub fn new(state: &State) -> Self {
        let active = || state.tier.iter().enumerate().filter(|(_, member)| member.active());
        let owner = |(index, member): (usize, &crate::state::TierMember)| match member.target {
            None => Owner::Here,
            Some(target) => Owner::Member { index, target, mark: state.balancer.mark_mask.mark(target) },
        };
        let seed = state.balancer.hash_seed;
        let names = active().map(|(_, member)| (member.name.as_str(), Weight::ONE));
        Self { seed, table: maglev::build(seed, TABLE_SIZE, names), owners: active().map(owner).collect() }
    }

    /// Returns the owner of fragments between these addresses. `protocol` is that of the IP header, and
    /// matters only in IPv4.
    #[must_use]
    pub fn owner(&self, addresses: Addresses, protocol: u8) -> Owner {
        self.explain(addresses, protocol).owner
    }

    /// Returns the owner, and how it was found.
    #[must_use]
    pub fn explain(&self, addresses: Addresses, protocol: u8) -> Explained {
        let hash = key::tier_hash(addresses, protocol, self.seed);
        let index = jhash::index(hash, u32::try_from(self.table.len()).unwrap_or(0));
        let rank = self.table.get(index as usize).copied();
        let owner = rank.and_then(|rank| self.owners.get(usize::from(rank)).copied()).unwrap_or(Owner::Here);
        Explained { owner, hash, index, rank }
    }

    /// Returns the Maglev table: ranks of active members; empty if there are none.
    #[must_use]
    pub fn table(&self) -> &[u16] {
        &self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{balance::fragments::tests::with_tier, config::Balancer};

    const NAMES: [&str; 3] = ["lb1", "lb2", "lb3"];

    fn tier_of(own: &str) -> State {
        with_tier(State::empty(Balancer::unconfigured()), own)
    }

    fn addresses(n: u16) -> Addresses {
        let [high, low] = n.to_be_bytes();
        Addresses::V4 { src: [50, 0, high, low].into(), dst: [10, 0, 0, 0].into() }
    }

    /// Returns the owners of the fragments of 3000 sources, as balancer `own` sees them.
    fn owners(state: &State, own: &str) -> Vec<usize> {
        let tier = Tier::new(state);
        let here = NAMES.iter().position(|name| *name == own).unwrap();
        let owner = |n| match tier.owner(addresses(n), 17) {
            Owner::Here => here,
            Owner::Member { index, target, mark } => {
                assert_eq!(state.tier[index].target, Some(target));
                assert_eq!(state.balancer.mark_mask.target(mark), Some(target));
                index
            }
        };
        (0..3000).map(owner).collect()
    }

    #[test]
    fn all_balancers_agree_and_share_alike() {
        let [first, second, third] = NAMES.map(|own| owners(&tier_of(own), own));
        assert_eq!(first, second);
        assert_eq!(first, third);
        for index in 0..3 {
            let share = first.iter().filter(|owner| **owner == index).count();
            assert!((900..1100).contains(&share), "{index}: {share}");
        }
    }

    #[test]
    fn without_a_member_the_others_take_over_and_keep_theirs() {
        let mut state = tier_of("lb1");
        let before = owners(&state, "lb1");
        state.tier[1].admission.configured = Some(false);
        let after = owners(&state, "lb1");
        assert!(!after.contains(&1));
        let moved = before.iter().zip(&after).filter(|(b, a)| **b != 1 && b != a).count();
        assert!(moved < 150, "{moved} moved besides those of lb2");
        // No member is active, or there is no tier: every balancer handles the fragments that it gets.
        for member in &mut state.tier {
            member.admission.configured = Some(false);
        }
        assert_eq!(owners(&state, "lb1"), vec![0; 3000]);
        state.tier.clear();
        assert_eq!(owners(&state, "lb1"), vec![0; 3000]);
    }

    #[test]
    fn the_protocol_counts_in_ipv4_only() {
        let tier = Tier::new(&tier_of("lb1"));
        let differ = |addresses| tier.owner(addresses, 6) != tier.owner(addresses, 17);
        assert!((0..100).any(|n| differ(addresses(n))));
        let six = |n: u16| Addresses::V6 {
            src: [0x2000, 0, 0, 0, 0, 0, 0, n].into(),
            dst: [0x1000, 0, 0, 0, 0, 0, 0, 0].into(),
        };
        assert!(!(0..100).any(|n| differ(six(n))));
    }
}
