//! The lease: how long the kernel keeps queueing packets after lbd has last shown that it answers. PURE.
//!
//! A process that hangs keeps its queues open, so the kernel would wait for its verdicts for ever. Therefore
//! the ruleset queues packets only while its sets `lease_flows` and `lease_fragments` have an element, which
//! expires after [`LEASE`]. Without an element, packets pass as if no program listened on the queue, and the
//! fallback tables decide. A thread of lbd checks all workers every [`LOOK`]. It renews the
//! element by sending a packet ([`renewal`]) through the device of held fragments. So no transaction of
//! nf_tables is needed, and whatever stops the process or the thread ends the lease.
//!
//! A worker hangs when it has taken no turn for [`HANG`]; an idle worker takes a turn every 200 ms. So the
//! time from a worker's last turn to the end of the lease is at most `LOOK + HANG + LEASE`, less than 2 s.
//! For a stopped process it is at most [`LEASE`].

use std::{net::Ipv4Addr, time::Duration};

/// How long the kernel queues packets after a renewal.
pub const LEASE: Duration = Duration::from_millis(900);
/// How often the workers are checked, and the lease is renewed.
pub const LOOK: Duration = Duration::from_millis(150);
/// How long one turn of a worker may take.
pub const HANG: Duration = Duration::from_millis(800);

/// The protocol of renewals, one of those that are reserved for experiments (RFC 3692). All other packets
/// that lbd sends in are fragments, and a renewal is not.
pub const PROTOCOL: u8 = 253;

/// The kinds of packets that lbd decides about. Each kind has a lease of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Packets of new flows.
    Flows,
    /// Fragments, and probes of the tracer.
    Fragments,
}

impl Kind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Flows, Self::Fragments];

    /// Returns the destination address of a renewal. No packet that comes in by a cable can have such a
    /// destination.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        match self {
            Self::Flows => Ipv4Addr::new(127, 0, 0, 1),
            Self::Fragments => Ipv4Addr::new(127, 0, 0, 2),
        }
    }
}

/// Returns the packet that renews a lease: an IPv4 header without payload.
#[must_use]
pub fn renewal(kind: Kind) -> [u8; 20] {
    let [a, b, c, d] = kind.address().octets();
    let mut header = [0x45, 0, 0, 20, 0, 0, 0, 0, 1, PROTOCOL, 0, 0, 127, 0, 0, 1, a, b, c, d];
    let sum: u32 = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let [_, _, high, low] = (!((sum & 0xffff) + (sum >> 16))).to_be_bytes();
    (header[10], header[11]) = (high, low);
    header
}

/// The state of all workers, as seen by the checks.
#[derive(Debug)]
pub struct Watch {
    workers: Vec<Watched>,
    looked: Duration,
}

#[derive(Debug)]
struct Watched {
    kind: Kind,
    turns: u64,
    /// When the number of turns last changed, or when it could first be seen that it does not.
    since: Duration,
    hangs: bool,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The kinds whose leases are to be renewed.
    pub renew: Vec<Kind>,
    /// The changes since the last check.
    pub news: Vec<News>,
}

/// A change since the last check. Workers are identified by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A worker has taken no turn for [`HANG`].
    Hangs(usize),
    /// The worker goes on, after this time.
    GoesOn(usize, Duration),
    /// There was no check for this time: the process was stopped, or got no processor time.
    Away(Duration),
}

impl Watch {
    /// Starts watching workers of these kinds, which are just being started.
    #[must_use]
    pub fn new(now: Duration, kinds: impl IntoIterator<Item = Kind>) -> Self {
        let watched = |kind| Watched { kind, turns: 0, since: now, hangs: false };
        Self { workers: kinds.into_iter().map(watched).collect(), looked: now }
    }

    /// Checks how many turns each worker has taken so far. After a long time without checks, a worker has had
    /// no chance to show that it works, so it gets a new period: whatever stopped the checks may also have
    /// stopped the worker.
    #[must_use]
    pub fn look(&mut self, now: Duration, turns: impl IntoIterator<Item = u64>) -> Look {
        let mut news = Vec::new();
        let away = now.saturating_sub(self.looked);
        self.looked = now;
        if away >= HANG {
            news.push(News::Away(away));
        }
        for (place, (worker, turns)) in self.workers.iter_mut().zip(turns).enumerate() {
            if worker.turns != turns {
                if worker.hangs {
                    news.push(News::GoesOn(place, now.saturating_sub(worker.since)));
                }
                (worker.turns, worker.since, worker.hangs) = (turns, now, false);
            } else if worker.hangs {
                // This was reported before.
            } else if away >= HANG {
                worker.since = now;
            } else if now.saturating_sub(worker.since) >= HANG {
                worker.hangs = true;
                news.push(News::Hangs(place));
            }
        }
        let answers = |kind: &Kind| !self.workers.iter().any(|worker| worker.hangs && worker.kind == *kind);
        Look { renew: Kind::ALL.into_iter().filter(answers).collect(), news }
    }

    /// Returns whether each worker hangs, as of the last check.
    pub fn hangs(&self) -> impl Iterator<Item = bool> {
        self.workers.iter().map(|worker| worker.hangs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Kind; 2] = Kind::ALL;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Returns the results of checks at regular times until `until`, of two workers of flows and one of
    /// fragments. `turns` returns the turns at a time.
    fn looked(watch: &mut Watch, from: u64, until: u64, turns: impl Fn(u64) -> [u64; 3]) -> Vec<(u64, Look)> {
        let times = (from..until).step_by(150);
        times.map(|now| (now, watch.look(ms(now), turns(now)))).collect()
    }

    fn watch() -> Watch {
        Watch::new(ms(0), [Kind::Flows, Kind::Flows, Kind::Fragments])
    }

    #[test]
    fn the_times_add_up_to_less_than_two_seconds() {
        assert!(LOOK + HANG + LEASE < Duration::from_secs(2));
        assert!(LOOK * 4 < LEASE, "a few renewals may be late");
    }

    #[test]
    fn a_renewal_is_a_sound_ipv4_header() {
        for kind in Kind::ALL {
            let packet = renewal(kind);
            let sum: u32 = packet.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
            assert_eq!((packet[9], packet[16..].to_vec()), (PROTOCOL, kind.address().octets().to_vec()));
            assert_eq!(packet[6..8], [0, 0], "no fragment");
        }
    }

    #[test]
    fn workers_that_take_turns_keep_both_leases() {
        let idle = |now| [now / 200, now / 200, now / 200];
        for (now, look) in looked(&mut watch(), 150, 20_000, idle) {
            assert_eq!(look, Look { renew: BOTH.to_vec(), news: vec![] }, "{now}");
        }
    }

    #[test]
    fn a_worker_that_hangs_ends_the_lease_of_its_kind_alone_until_it_goes_on() {
        for (stuck, left) in [(1, Kind::Fragments), (2, Kind::Flows)] {
            let mut watch = watch();
            let turns = |now: u64| {
                let mut turns = [now; 3];
                if (3000..9000).contains(&now) {
                    turns[stuck] = 2999;
                }
                turns
            };
            let looks = looked(&mut watch, 150, 12_000, turns);
            let ended: Vec<u64> =
                looks.iter().filter(|(_, look)| look.renew == [left]).map(|(now, _)| *now).collect();
            // The worker's last turn was taken at 3000, and seen at the same time.
            assert_eq!((ended.first(), ended.last()), (Some(&3900), Some(&8850)));
            let news: Vec<News> = looks.iter().flat_map(|(_, look)| look.news.clone()).collect();
            assert_eq!(news, [News::Hangs(stuck), News::GoesOn(stuck, ms(6000))]);
            assert!(looks.iter().all(|(now, look)| look.renew == BOTH || ended.contains(now)));
            assert!(watch.hangs().all(|hangs| !hangs));
        }
    }

    #[test]
    fn a_stopped_process_reports_no_worker_when_it_goes_on() {
        let mut watch = watch();
        let turns = |now: u64| [if now < 3000 { now } else { now + 1 }; 3];
        looked(&mut watch, 150, 3000, turns);
        // A minute passes. The workers get to run after the check.
        let look = watch.look(ms(62_850), [2850; 3]);
        assert_eq!(look, Look { renew: BOTH.to_vec(), news: vec![News::Away(ms(60_000))] });
        for (now, look) in looked(&mut watch, 63_000, 65_000, turns) {
            assert_eq!(look, Look { renew: BOTH.to_vec(), news: vec![] }, "{now}");
        }
        // One of the workers does not go on: it is detected as usual.
        let look = watch.look(ms(125_000), [64_951; 3]);
        assert_eq!(look.news, [News::Away(ms(125_000 - 64_950))]);
        let stuck = |now| [64_951, now, now];
        let looks = looked(&mut watch, 125_150, 127_000, stuck);
        let hangs = looks.iter().find(|(_, look)| !look.news.is_empty()).unwrap();
        assert_eq!(*hangs, (125_900, Look { renew: vec![Kind::Fragments], news: vec![News::Hangs(0)] }));
    }

    #[test]
    fn a_worker_that_hung_before_a_pause_still_hangs_after_it() {
        let mut watch = watch();
        looked(&mut watch, 150, 2000, |now| [0, now, now]);
        assert_eq!(watch.hangs().collect::<Vec<_>>(), [true, false, false]);
        let look = watch.look(ms(50_000), [0, 1, 1]);
        assert_eq!(look.renew, [Kind::Fragments]);
        assert_eq!(watch.look(ms(50_150), [1, 2, 2]).news, [News::GoesOn(0, ms(50_150))]);
    }

    #[test]
    fn a_clock_that_goes_backwards_harms_nothing() {
        let mut watch = watch();
        let _ = watch.look(ms(5000), [1; 3]);
        assert_eq!(watch.look(ms(10), [2; 3]), Look { renew: BOTH.to_vec(), news: vec![] });
        assert_eq!(watch.look(ms(5), [2; 3]).renew, BOTH);
    }
}
