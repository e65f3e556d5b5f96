//! What the kernel says is asked in a network namespace of its own; run as root:
//! `cargo test sys::conntrack -- --ignored`.

use super::*;
use crate::{
    balance::flow_table::FlowTable as _,
    model::ids::MarkMask,
    sys::{
        conntrack::tests::packet,
        namespace::{in_namespace, shell},
    },
};

fn message(kind: u16, fill: &dyn Fn(&mut Writer)) -> Writer {
    let mut message = Writer::default();
    message.message(kind, 0, 1, [2, 0, 0, 0], fill);
    message
}

fn tuple4(tuple: &mut Writer, protocol: u8) {
    tuple.nested(CTA_TUPLE_IP, |ip| {
        ip.value(CTA_IP_V4_SRC, &[10, 0, 0, 1]);
        ip.value(CTA_IP_V4_DST, &[10, 0, 0, 2]);
    });
    tuple.nested(CTA_TUPLE_PROTO, |of| {
        of.value(CTA_PROTO_NUM, &[protocol]);
        of.value(CTA_PROTO_SRC_PORT, &1000u16.to_be_bytes());
        of.value(CTA_PROTO_DST_PORT, &80u16.to_be_bytes());
        of.value(CTA_PROTO_ICMP[0], &77u16.to_be_bytes());
    });
}

#[test]
fn an_entry_is_read_whatever_it_holds() {
    let whole = |protocol, state: u8| {
        message(IPCTNL_MSG_CT_NEW, &|entry| {
            entry.nested(CTA_TUPLE_ORIG, |tuple| tuple4(tuple, protocol));
            entry.value(CTA_ID, &[1, 2, 3, 4]);
            entry.value(CTA_MARK, &[0, 0, 1, 2]);
            entry.value(CTA_STATUS, &(PROTECTED | 8).to_be_bytes());
            entry.value(CTA_TIMEOUT, &299u32.to_be_bytes());
            entry.nested(CTA_PROTOINFO, |of| {
                of.nested(CTA_PROTOINFO_TCP, |of| of.value(CTA_PROTOINFO_TCP_STATE, &[state]));
            });
        })
    };
    for (protocol, state, phase) in [
        (TCP, 3, Some(Phase::Open)),
        (TCP, 4, Some(Phase::Closing)),
        (TCP, 8, Some(Phase::Closing)),
        (TCP, 9, Some(Phase::Open)),
        (UDP, 0, None),
        (SCTP, 0, None),
        (ICMP, 0, None),
        (47, 0, None),
    ] {
        let message = whole(protocol, state);
        let entry = Entry::read(message.bytes()).unwrap();
        let mut expected = packet(protocol, "10.0.0.1", "10.0.0.2", (1000, 80));
        match &mut expected.l4 {
            L4::Tcp { syn, .. } => *syn = false,
            L4::Echo { id } => *id = 77,
            L4::Udp(_) | L4::Sctp(_) | L4::Other | L4::LaterFragment => {}
        }
        let tracked = Tracked {
            packet: expected,
            mark: Mark(0x102),
            left_seconds: 299,
            protected: true,
            promotion: Promotion::No,
            phase,
        };
        assert_eq!(entry.tracked(), Some(tracked), "{protocol}");
        assert_eq!(entry.to(), Some(IpAddr::from([10, 0, 0, 2])));
        let name = entry.name();
        assert_eq!((name.family, name.status), (2, PROTECTED | 8));
        let named: Vec<u16> = attributes(&name.attributes).map(|(kind, _)| kind).collect();
        assert_eq!(named, [CTA_TUPLE_ORIG, CTA_ID]);
        let all = message.bytes();
        for cut in 0..all.len() {
            let _ = Entry::read(&all[..cut]).map(|entry| (entry.tracked(), entry.name(), entry.to()));
        }
    }
    // The kernel says neither how long a promoted flow is kept nor how far it is.
    let promoted = message(IPCTNL_MSG_CT_NEW, &|entry| {
        entry.nested(CTA_TUPLE_ORIG, |tuple| tuple4(tuple, TCP));
        entry.value(CTA_STATUS, &(PROTECTED | IPS_OFFLOAD | 8).to_be_bytes());
    });
    let tracked = Entry::read(promoted.bytes()).unwrap().tracked().unwrap();
    assert_eq!((tracked.promotion, tracked.phase), (Promotion::Now, Some(Phase::Open)));
    assert!(tracked.protected);
    let bare = message(IPCTNL_MSG_CT_NEW, &|entry| entry.value(CTA_MARK, &[0, 0, 1, 2]));
    assert_eq!(Entry::read(bare.bytes()), None);
}

/// So many TCP connections and UDP flows of either family, each with a mark.
fn fill(conntrack: &mut Conntrack, flows: u16) {
    for n in 0..flows {
        for (src, dst) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
            conntrack.pin(&packet(UDP, src, dst, (n, 53)), Mark(0x1_0007), MarkMask::DEFAULT, 100).unwrap();
        }
    }
}

fn all(conntrack: &mut Conntrack, bits: Option<u32>) -> Vec<(FlowName, Tracked)> {
    let mut all = Vec::new();
    let each = |entry: &Entry<'_>| {
        all.push((entry.name(), entry.tracked().unwrap()));
        Ok(())
    };
    conntrack.dump(bits.map(|bits| Marked { value: bits, mask: bits }), each).unwrap();
    all
}

#[test]
#[ignore = "needs root and nf_conntrack_netlink"]
fn the_kernel_dumps_protects_extends_and_deletes() {
    in_namespace(|| {
        let mut conntrack = Conntrack::open().unwrap();
        fill(&mut conntrack, 500);
        let before = all(&mut conntrack, None);
        assert_eq!(before.len(), 1000);
        assert!(before.iter().all(|(_, tracked)| !tracked.protected && tracked.left_seconds > 90));
        assert_eq!(all(&mut conntrack, Some(0x1_0000)).len(), 1000);
        assert_eq!(all(&mut conntrack, Some(0x5)).len(), 1000);
        assert_eq!(all(&mut conntrack, Some(0x8)).len(), 0);
        for (value, mask, found) in
            [(0x7, 0xffff, 1000), (0x5, 0xffff, 0), (0x1_0000, 0x1_0008, 1000), (0, 0x8, 1000)]
        {
            let mut count = 0;
            let marked = Some(Marked { value, mask });
            dump_tracked(marked, &mut |_| {
                count += 1;
                Ok(())
            })
            .unwrap();
            assert_eq!(count, found, "{marked:?}");
        }

        let some = |request| move |(name, _): &(FlowName, Tracked)| (name.clone(), request);
        let set = Request::Set { protect: true, seconds: Some(5000) };
        let set: Vec<_> = before[..300].iter().map(some(set)).collect();
        let delete: Vec<_> = before[200..400].iter().map(some(Request::Delete)).collect();
        let Changed { done, gone, refused } = conntrack.change(&set).unwrap();
        assert_eq!((done, gone, refused.map(|error| error.to_string())), (300, 0, None));
        let after = all(&mut conntrack, None);
        assert_eq!(after.iter().filter(|(_, tracked)| tracked.protected).count(), 300);
        assert_eq!(after.iter().filter(|(_, tracked)| tracked.left_seconds > 4990).count(), 300);

        let Changed { done, gone, .. } = conntrack.change(&delete).unwrap();
        assert_eq!((done, gone), (200, 0));
        let Changed { done, gone, refused } =
            conntrack.change(&[&delete[..], &set[190..210]].concat()).unwrap();
        assert_eq!((done, gone, refused.map(|error| error.to_string())), (10, 210, None));
        assert_eq!(all(&mut conntrack, None).len(), 800);
        // Other requests are answered as before. The dump's order differs from run to run: both flows come from it.
        let mark_of = |conntrack: &mut Conntrack, at: usize| {
            conntrack.lookup(&before[at].1.packet).unwrap().map(|pin| pin.mark)
        };
        assert_eq!(mark_of(&mut conntrack, 500), Some(Mark(0x1_0007)));
        assert_eq!(mark_of(&mut conntrack, 300), None);
    });
}

#[test]
#[ignore = "needs root and nf_conntrack_netlink"]
fn tcp_is_recognized_by_its_state() {
    in_namespace(|| {
        shell(
            "ip link set lo up; ip addr add 10.0.0.1/24 dev lo
             nft add table t; nft add chain t c '{ type filter hook output priority 0; }'
             nft add rule t c ct mark set 0x7",
        );
        let server = std::net::TcpListener::bind("10.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let mut conntrack = Conntrack::open().unwrap();
        let phase = |conntrack: &mut Conntrack| {
            all(conntrack, Some(7)).iter().map(|(_, tracked)| tracked.phase).collect::<Vec<_>>()
        };
        assert_eq!(phase(&mut conntrack), [Some(Phase::Open)]);
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(phase(&mut conntrack), [Some(Phase::Closing)]);
    });
}
