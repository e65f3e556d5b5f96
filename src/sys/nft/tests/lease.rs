//! The lease: a listener that does not answer holds packets up no longer than it lasts.

use std::time::Duration;

use tun_tap::{Iface, Mode};

use super::{
    packets::{counted_by, first_fragment, packet, ruleset_for, without_lease},
    steering::{SYN, VIPS, tcp, udp},
    *,
};
use crate::{
    balance::Verdict,
    io::{BatchQueue as _, Queue as _},
    lease::{Kind, LEASE, renewal},
    plan::elements::Element,
    sys::{
        clock::{now, wait_for},
        namespace::shell,
        nfqueue::{FlowQueue, FragmentQueue},
    },
};

/// A balancer whose lbd has its queues open and hangs.
struct Hung {
    client: Iface,
    held: Iface,
    flows: FlowQueue,
    fragments: FragmentQueue,
}

impl Hung {
    fn new() -> Self {
        let held = Iface::without_packet_info("sr-frag", Mode::Tun).unwrap();
        let mut state = state();
        state.balancer.queues = QueueRange::new(0, 0).unwrap();
        let mut ruleset = ruleset_for(&state, "client");
        for set in [SetName::Tunnels, SetName::Interfaces] {
            ruleset.elements.insert(set, Element::Interface("sr-frag".to_owned()));
        }
        let client = without_lease(&ruleset);
        shell("ip link set sr-frag up");
        let flows = FlowQueue::open(state.balancer.queues.first(), MarkMask::DEFAULT).unwrap();
        let fragments = FragmentQueue::open(state.balancer.fragment_queue, MarkMask::DEFAULT).unwrap();
        Self { client, held, flows, fragments }
    }

    /// Sends these; how many are queued, to flows' queue and to that of fragments.
    fn queued(&mut self, packets: &[Vec<u8>]) -> [usize; 2] {
        for packet in packets {
            assert_eq!(self.client.send(packet).unwrap(), packet.len());
        }
        let mut queued = [0, 0];
        while self.flows.receive(Duration::ZERO).unwrap() > 0 {
            let errors = self.flows.answer(|_| {
                queued[0] += 1;
                Verdict::Drop
            });
            assert!(errors.is_empty(), "{errors:?}");
        }
        while let Some(message) = self.fragments.receive().unwrap() {
            self.fragments.answer(message, Verdict::Drop).unwrap();
            queued[1] += 1;
        }
        queued
    }

    fn renew(&self, kind: Kind) {
        assert_eq!(self.held.send(&renewal(kind)).unwrap(), 20);
    }
}

/// For each VIP a SYN, a datagram and a fragment.
fn packets() -> Vec<Vec<u8>> {
    let of = |vip| {
        let client = if vip == VIPS[0] { "10.9.0.2" } else { "fd09::2" };
        [tcp(vip, 1, SYN), udp(vip, 2), first_fragment(packet(17, 200, client, vip))]
    };
    VIPS.into_iter().flat_map(of).collect()
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn packets_are_queued_while_a_lease_lasts_and_no_longer() {
    in_namespace(|| {
        let (mut lb, packets) = (Hung::new(), packets());
        // It has not been renewed yet. Fragments go on to be put together.
        assert_eq!(lb.queued(&packets), [0, 0]);
        assert_eq!(["lease_ended", "fragments_unanswered", "unsteered"].map(counted_by), [6, 2, 4]);
        lb.renew(Kind::Flows);
        assert_eq!(lb.queued(&packets[..2]), [2, 0]);
        lb.renew(Kind::Flows);
        assert_eq!(lb.queued(&packets[..3]), [2, 0]);
        lb.renew(Kind::Fragments);
        assert_eq!(lb.queued(&packets[2..3]), [0, 1]);
        let last = now();
        Kind::ALL.into_iter().for_each(|kind| lb.renew(kind));
        // A listener that answers nothing: what comes is queued till the lease ends.
        let ended = counted_by("lease_ended");
        let passed = wait_for(LEASE * 4, LEASE / 50, || {
            lb.client.send(&packets[0]).unwrap();
            (counted_by("lease_ended") > ended).then(now)
        });
        let lasted = passed.expect("the lease ends").duration_since(last);
        assert!(lasted >= LEASE - LEASE / 20 && lasted < LEASE * 2, "{lasted:?}");
        Kind::ALL.into_iter().for_each(|kind| lb.renew(kind));
        lb.client.send(&packets[0]).unwrap();
        assert_eq!(counted_by("lease_ended"), ended + 1, "queued again");
    });
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn nothing_but_lbd_renews_a_lease() {
    in_namespace(|| {
        let (mut lb, packets) = (Hung::new(), packets());
        for kind in Kind::ALL {
            let whole = renewal(kind).to_vec();
            // From a client; and what lbd sends in for others, which is always a fragment.
            assert_eq!(lb.client.send(&whole).unwrap(), 20);
            let mut padded = whole.clone();
            padded.resize(48, 0);
            padded[3] = 48;
            lb.held.send(&first_fragment(padded)).unwrap();
            let address = kind.address().to_string();
            lb.held.send(&packet(17, 100, "10.9.0.2", &address)).unwrap();
        }
        assert_eq!(counted_by("not_for_vip"), 4);
        assert_eq!(lb.queued(&packets), [0, 0]);
    });
}
