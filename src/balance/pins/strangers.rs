//! Strangers in the off-table maps: flows that were not kept when they were moved there. PURE.
//!
//! A single forged packet makes an entry of connection tracking. In a map, each further packet would renew it
//! for the whole lifetime of an open connection. So strangers have a small share ([`STRANGERS_MAX`]), which
//! leaves room for kept flows, and an audit takes back the lifetime beyond the short one that a packet has
//! given them. A stranger that two audits have found renewed has proved as much as a flow with three packets,
//! and is no longer a stranger. All packets between two audits count as one. If the configured lifetime is
//! not longer than the short one, renewals cannot be seen and nothing has to be taken back.
//!
//! Packets move flows between `off_table` and `off_closing`, so the share covers both maps together.
//!
//! Only lbd's memory records which flows are strangers. After a restart all flows in the maps are taken as
//! they are, since a kept flow must not lose its lifetime. At most the share of them were strangers, and
//! without packets these end when they would have ended anyway.

use std::collections::HashMap;

use super::{Flow, Held, OFF_TABLE_FLOWS_MAX, OffTable, PROBATION_SECONDS, UDP_PROBATION_SECONDS, map_of};
use crate::{model::ids::Mark, packet::UDP};

/// The maximum number of strangers, for IPv4 and for IPv6 each.
pub const STRANGERS_MAX: usize = OFF_TABLE_FLOWS_MAX / 8;

/// What is known about a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stranger {
    /// The mark. A flow with another mark is a different flow.
    mark: Mark,
    /// Whether an audit has found it renewed.
    renewed: bool,
    /// Whether it was in no map at the last audit; it may have been on its way between two maps.
    missed: bool,
}

pub(super) type Strangers = HashMap<Flow, Stranger>;

impl Flow {
    /// Returns the longest lifetime of a stranger.
    #[must_use]
    pub fn short_seconds(&self) -> u32 {
        if self.protocol == UDP { UDP_PROBATION_SECONDS } else { PROBATION_SECONDS }
    }
}

impl OffTable {
    /// Reports whether a flow is a stranger.
    #[must_use]
    pub fn is_stranger(&self, flow: &Flow) -> bool {
        self.strangers.contains_key(flow)
    }

    /// Returns the number of strangers in the maps, for IPv4 and IPv6.
    #[must_use]
    pub fn strangers(&self) -> [usize; 2] {
        let mut counts = [0; 2];
        for flow in self.strangers.keys().filter(|flow| self.flows.contains_key(flow)) {
            counts[map_of(flow, false).0] += 1;
        }
        counts
    }

    /// Takes over from the last audit which flows are strangers; these maps were just read. Returns the flows
    /// whose lifetime is to be shortened again, because packets have renewed it.
    #[must_use]
    pub fn follow(&mut self, last: &Self) -> Vec<(Flow, Held)> {
        let mut shorten = Vec::new();
        for (&flow, &known) in &last.strangers {
            let Some(held) = self.get(&flow) else {
                if !known.missed {
                    self.strangers.insert(flow, Stranger { missed: true, ..known });
                }
                continue;
            };
            let renewed = held.left_seconds > flow.short_seconds();
            if held.mark != known.mark || (renewed && known.renewed) {
                continue;
            }
            self.strangers.insert(flow, Stranger { missed: false, ..known });
            if renewed {
                shorten.push((flow, Held { left_seconds: flow.short_seconds(), ..held }));
            }
        }
        shorten
    }

    /// Records that these flows were shortened.
    pub fn shortened(&mut self, flows: &[(Flow, Held)]) {
        for (flow, held) in flows {
            self.insert(*flow, *held);
            if let Some(stranger) = self.strangers.get_mut(flow) {
                stranger.renewed = true;
            }
        }
    }

    /// Adds a flow that is moved into a map. `stranger` says whether it is a stranger.
    pub fn enter(&mut self, flow: Flow, held: Held, stranger: bool) {
        self.insert(flow, held);
        if !stranger {
            self.strangers.remove(&flow);
        } else if self.strangers.get(&flow).is_none_or(|known| known.mark != held.mark) {
            self.strangers.insert(flow, Stranger { mark: held.mark, renewed: false, missed: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{Packet, Ports, TCP};

    fn flow(protocol: u8, six: bool) -> Flow {
        let (client, vip) = if six { ("2000::1", "1000::1") } else { ("50.0.0.1", "10.0.0.1") };
        let ports = Ports { src: 1, dst: 80 };
        Flow::of(&Packet::synthetic(protocol, client.parse().unwrap(), vip.parse().unwrap(), ports).unwrap())
            .unwrap()
    }

    /// Returns what the maps hold for a flow, as the next audit reads it.
    fn read(flow: Flow, mark: u32, left_seconds: u32) -> OffTable {
        [(flow, Held { mark: Mark(mark), closing: false, left_seconds })].into_iter().collect()
    }

    #[test]
    fn a_newer_flow_of_the_same_port_is_no_stranger_by_the_older_one() {
        let flow = flow(TCP, false);
        let mut last = read(flow, 1, 60);
        last.enter(flow, last.get(&flow).unwrap(), true);
        assert_eq!(last.strangers(), [1, 0]);
        let mut other = read(flow, 2, 7000);
        assert_eq!((other.follow(&last), other.is_stranger(&flow)), (vec![], false));
        // The flow is moved into the map as a stranger again, or is found to be kept.
        last.enter(flow, Held { mark: Mark(2), closing: false, left_seconds: 60 }, true);
        let mut again = read(flow, 2, 7000);
        assert_eq!(again.follow(&last).len(), 1);
        last.enter(flow, last.get(&flow).unwrap(), false);
        assert_eq!(last.strangers(), [0, 0]);
    }

    #[test]
    fn what_was_not_shortened_does_not_count_as_renewed_again() {
        let flow = flow(UDP, true);
        let mut last = read(flow, 1, 30);
        last.enter(flow, last.get(&flow).unwrap(), true);
        for _ in 0..3 {
            let mut now = read(flow, 1, 118);
            let [(_, short)] = now.follow(&last)[..] else { panic!("{now:?}") };
            assert_eq!(short.left_seconds, 30);
            last = now;
        }
        assert_eq!(last.strangers(), [0, 1]);
    }

    proptest! {
        /// At each audit the flow is missing, not renewed, or renewed.
        #[test]
        fn a_stranger_is_one_until_it_was_renewed_twice(
            is_udp in any::<bool>(),
            six in any::<bool>(),
            audits in prop::collection::vec(0..3u8, 0..12),
        ) {
            let flow = flow(if is_udp { UDP } else { TCP }, six);
            let short = flow.short_seconds();
            let mut last = read(flow, 1, short);
            last.enter(flow, last.get(&flow).unwrap(), true);
            let (mut renewed, mut missed) = (0, 0);
            for audit in audits {
                missed = if audit == 0 { missed + 1 } else { 0 };
                if missed == 2 {
                    let mut now = OffTable::default();
                    prop_assert_eq!(now.follow(&last), vec![]);
                    prop_assert!(!now.is_stranger(&flow), "it has ended");
                    break;
                }
                renewed += u8::from(audit == 2);
                let mut now = match audit {
                    0 => OffTable::default(),
                    1 => read(flow, 1, short),
                    _ => read(flow, 1, short + 1),
                };
                let shorten = now.follow(&last);
                now.shortened(&shorten);
                prop_assert_eq!(now.is_stranger(&flow), renewed < 2);
                let counted = now.strangers()[usize::from(six)];
                prop_assert_eq!(counted, usize::from(renewed < 2 && audit != 0), "it takes no room where it is not");
                let left = now.get(&flow).map(|held| held.left_seconds);
                let expected = (audit != 0).then(|| if renewed >= 2 && audit == 2 { short + 1 } else { short });
                prop_assert_eq!(left, expected);
                last = now;
            }
        }
    }
}
