//! What becomes of flows in the maps of off-table flows. The table's backend has mark 3, theirs has mark 4.

use super::{
    packets::{counted_by, patient, ruleset_for},
    steering::{ACK, Lb, SYN, VIPS, client_of, conntrack_entries, packets_of, tcp, tcp_at, udp},
    *,
};
use crate::{
    balance::pins::{Flow, Held, OffTable},
    model::ids::Mark,
    packet::Packet,
    plan::elements::{Element, Way},
    sys::namespace::shell,
};
use arc_swap::ArcSwap;
use std::sync::Arc;

const FIN: u8 = 1;
const RST: u8 = 4;
const PSH: u8 = 8;
/// What leaves: by the target that its mark names, and whether it is tracked.
const LEAVING: &str = "table inet pins { counter three { }
    counter four { }
    counter untracked { }
    chain leaving { type filter hook forward priority 1
        ct state untracked counter name untracked
        meta mark & 0xffff == 3 counter name three
        meta mark & 0xffff == 4 counter name four; }
    }";

/// A balancer, and its queue, whose packets take this way.
fn lb_with(way: Way) -> (Lb, Ruleset) {
    let mut state = state();
    state.balancer.queues = QueueRange::new(0, 0).unwrap();
    let mut ruleset = ruleset_for(&state, "client");
    patient(&mut ruleset);
    ruleset.elements.set_way(way);
    let lb = Lb::with(&ruleset, "client");
    nft("a test", &["-f", "-"], Some(LEAVING)).unwrap();
    (lb, ruleset)
}

/// What has left for the targets 3 and 4, and untracked.
fn left() -> [u64; 3] {
    ["three", "four", "untracked"].map(|name| packets_of("pins", name))
}

fn map_of(map: &str, vip: &str) -> String {
    format!("{map}{}", if vip.contains(':') { 6 } else { 4 })
}

/// Adds a flow to port 80 of a VIP, with mark 4.
fn add(map: &str, vip: &str, protocol: &str, port: u16) {
    let (map, client) = (map_of(map, vip), client_of(vip));
    let text = format!(
        "add element inet synrail {map} {{ {client} . {vip} . {protocol} . {port} . 80 timeout 100s : 4 }}\n"
    );
    nft("a test", &["-f", "-"], Some(&text)).unwrap();
}

/// Of each flow in a map: its client's port, mark and lifetime.
fn flows(map: &str, vip: &str) -> Vec<(u64, u64, u64)> {
    let json = nft("a listing", &["-j", "list", "map", "inet", TABLE, &map_of(map, vip)], None).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let elements = json["nftables"][1]["map"]["elem"].as_array().cloned().unwrap_or_default();
    let flow = |element: &serde_json::Value| {
        let flow = &element[0]["elem"];
        let left = flow["expires"].as_u64().unwrap();
        (flow["val"]["concat"][3].as_u64().unwrap(), element[1].as_u64().unwrap(), left)
    };
    elements.iter().map(flow).collect()
}

/// The clients' ports of the flows in a map.
fn ports(map: &str, vip: &str) -> Vec<u64> {
    let mut ports: Vec<u64> = flows(map, vip).into_iter().map(|(port, ..)| port).collect();
    ports.sort_unstable();
    ports
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn off_table_flows_go_by_the_map_whatever_their_packets_are() {
    for way in [Way::OffTable, Way::Untracked] {
        in_namespace(move || {
            let (mut lb, _) = lb_with(way);
            for (vip, round) in VIPS.into_iter().zip(1..) {
                add("off_table", vip, "tcp", 1);
                add("off_table", vip, "udp", 2);
                // An open connection's packets, and a SYN that is late, forged, or of a new connection.
                for bytes in [tcp(vip, 1, ACK), tcp(vip, 1, SYN), tcp(vip, 1, ACK | PSH), udp(vip, 2)] {
                    lb.send(&bytes);
                }
                assert_eq!(left(), [0, 4 * round, 4 * round], "{vip} {way:?}");
                // Each packet renews its flow, with its own lifetime.
                let mut renewed = flows("off_table", vip);
                renewed.sort_unstable();
                let [(1, 4, tcp), (2, 4, udp)] = renewed[..] else { panic!("{renewed:?}") };
                assert!((7430..=7440).contains(&tcp) && (110..=120).contains(&udp), "{tcp} {udp}");
            }
            assert_eq!((counted_by("off_table"), conntrack_entries()), (8, 0));
            // Others go as ever, and a mark of another's does not pass for an answer.
            for vip in VIPS {
                for bytes in [tcp(vip, 9, SYN), udp(vip, 9)] {
                    lb.steer(&bytes, Mark(3));
                }
            }
            let untracked = if way == Way::Untracked { 4 } else { 2 };
            assert_eq!(left(), [4, 8, 8 + untracked], "{way:?}");
        });
    }
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn a_closing_flow_keeps_its_backend_and_yields_to_a_new_connection() {
    in_namespace(|| {
        let (mut lb, _) = lb_with(Way::OffTable);
        for (vip, before) in VIPS.into_iter().zip([0, 1]) {
            let [three, four, untracked] = left();
            // Forged or not, the end of a connection leaves it where it is; data of the client brings it back.
            for (end, port) in [(FIN, 1), (RST, 2)] {
                add("off_table", vip, "tcp", port);
                lb.send(&tcp(vip, port, end | ACK));
                assert_eq!(flows("off_table", vip), [], "{vip} {port}");
                let closing = flows("off_closing", vip);
                let [(_, 4, left)] = closing[..] else { panic!("{closing:?}") };
                assert!((230..=240).contains(&left), "{vip} {port}: {left}");
                lb.send(&tcp(vip, port, ACK | PSH));
                assert_eq!((ports("off_table", vip), ports("off_closing", vip)), (vec![port.into()], vec![]));
                // It is closed at last.
                lb.send(&tcp(vip, port, end | ACK | PSH));
                let gone = format!("flush map inet {TABLE} {}\n", map_of("off_closing", vip));
                assert_eq!(ports("off_closing", vip), [u64::from(port)]);
                nft("a test", &["-f", "-"], Some(&gone)).unwrap();
            }
            assert_eq!(left(), [three, four + 6, untracked + 6], "{vip}");

            // Half-closed: a forged SYN takes nothing from it, and the client's ACKs renew it.
            add("off_closing", vip, "tcp", 3);
            lb.steer(&tcp_at(vip, 3, SYN, 0x7777_0000), Mark(3));
            let listing = nft("a listing", &["list", "set", "inet", TABLE, &map_of("reopened", vip)], None);
            // For as long as a backend repeats its answer.
            assert!(listing.as_ref().unwrap().contains("expires 1m"), "{listing:?}");
            lb.send(&tcp_at(vip, 3, ACK, 0x1111_0000));
            assert_eq!([left()[0], left()[1]], [three + 1, four + 7], "{vip}");
            let [(3, 4, renewed)] = flows("off_closing", vip)[..] else { panic!("{vip}") };
            assert!((230..=240).contains(&renewed), "{vip}: {renewed}");
            // What continues the SYN is a new connection, and the old one is gone.
            lb.send(&tcp_at(vip, 3, ACK, 0x7777_0001));
            assert_eq!(ports("off_closing", vip), [] as [u64; 0], "{vip}");
            lb.send(&tcp_at(vip, 3, ACK | PSH, 0x1111_0000));
            assert_eq!([left()[0], left()[1]], [three + 3, four + 7], "{vip}");
            assert_eq!(counted_by("handshake"), before + 1, "{vip}");
            // A SYN whose lower half is all ones follows the map, and so does its ACK.
            add("off_closing", vip, "tcp", 4);
            lb.send(&tcp_at(vip, 4, SYN, 0x2222_ffff));
            lb.send(&tcp_at(vip, 4, ACK, 0x2223_0000));
            assert_eq!([left()[0], left()[1]], [three + 3, four + 9], "{vip}");
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn only_what_follows_the_syn_ends_a_closing_flow() {
    in_namespace(|| {
        let (mut lb, _) = lb_with(Way::OffTable);
        // With 0, 1, 5 and 15 trailing one bits, and those that change the most.
        for (isn, port) in [0x1111_0000, 0x1111_0001, 0x1111_001f, 0x1111_7fff, 0x1110_7fff, 0xffff_fffe]
            .into_iter()
            .zip(1..)
        {
            for vip in VIPS {
                // A late copy of the connection's own SYN; the client has sent 256 bytes.
                let [three, four, _] = left();
                add("off_closing", vip, "tcp", port);
                lb.steer(&tcp_at(vip, port, SYN, isn), Mark(3));
                for sent in [0, 2, 256, 0x1_0000] {
                    lb.send(&tcp_at(vip, port, ACK, isn.wrapping_add(sent)));
                }
                assert_eq!(ports("off_closing", vip), [u64::from(port)], "{vip} {isn:#x}");
                assert_eq!([left()[0], left()[1]], [three + 1, four + 4], "{vip} {isn:#x}");
                lb.send(&tcp_at(vip, port, ACK, isn.wrapping_add(1)));
                assert_eq!(ports("off_closing", vip), [] as [u64; 0], "{vip} {isn:#x}");
                assert_eq!([left()[0], left()[1]], [three + 2, four + 4], "{vip} {isn:#x}");
            }
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn marks_of_packets_to_others_stay_as_they_are() {
    const MARKED: &str = "table inet marked { counter theirs { }
        chain before { type filter hook prerouting priority -310; meta mark set 0x3fffffff; notrack; }
        chain leaving { type filter hook forward priority 2; meta mark 0x3fffffff counter name theirs; }
        }";
    for way in [Way::OffTable, Way::Untracked] {
        in_namespace(move || {
            let (lb, _) = lb_with(way);
            nft("a test", &["-f", "-"], Some(MARKED)).unwrap();
            for (other, sent) in ["192.0.2.200", "2001:db8::81"].into_iter().zip(1..) {
                lb.send(&udp(other, 1));
                assert_eq!(packets_of("marked", "theirs"), sent, "{other} {way:?}");
            }
        });
    }
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn an_off_table_flow_of_a_removed_target_is_a_flow_like_any_other() {
    in_namespace(|| {
        let (mut lb, mut ruleset) = lb_with(Way::OffTable);
        ruleset.elements = without_target_4(&ruleset.elements);
        apply(&ruleset).unwrap();
        for vip in VIPS {
            add("off_table", vip, "tcp", 1);
            add("off_closing", vip, "tcp", 2);
            for bytes in [tcp(vip, 1, ACK), tcp(vip, 2, ACK)] {
                lb.steer(&bytes, Mark(3));
            }
            assert_eq!((ports("off_table", vip), ports("off_closing", vip)), (vec![], vec![]), "{vip}");
        }
        assert_eq!((left(), conntrack_entries()), ([4, 0, 0], 4));
    });
}

/// A balancer whose maps and sets of what the kernel remembers take two elements.
fn lb_with_room_for_two() -> Lb {
    let mut state = state();
    state.balancer.queues = QueueRange::new(0, 0).unwrap();
    let mut ruleset = ruleset_for(&state, "client");
    ruleset.structure.text = ruleset.structure.text.replace("size 65536", "size 2");
    ruleset.elements.set_way(Way::OffTable);
    let lb = Lb::with(&ruleset, "client");
    nft("a test", &["-f", "-"], Some(LEAVING)).unwrap();
    lb
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn a_full_map_of_closing_flows_leaves_a_flow_where_it_was() {
    in_namespace(|| {
        let lb = lb_with_room_for_two();
        for (vip, round) in VIPS.into_iter().zip(1..) {
            add("off_table", vip, "tcp", 1);
            add("off_closing", vip, "tcp", 2);
            add("off_closing", vip, "tcp", 3);
            lb.send(&tcp(vip, 1, ACK | FIN));
            assert_eq!((ports("off_table", vip), ports("off_closing", vip)), (vec![1], vec![2, 3]), "{vip}");
            assert_eq!(left(), [0, round, round]);
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn a_syn_that_cannot_be_remembered_follows_the_map() {
    in_namespace(|| {
        let mut lb = lb_with_room_for_two();
        for (vip, round) in VIPS.into_iter().zip(0..) {
            add("off_closing", vip, "tcp", 1);
            lb.steer(&tcp_at(vip, 1, SYN, 0x1000), Mark(3));
            lb.send(&tcp_at(vip, 1, SYN, 0x2000));
            // `reopened` is full.
            lb.send(&tcp_at(vip, 1, SYN, 0x3000));
            lb.send(&tcp_at(vip, 1, ACK, 0x3001));
            assert_eq!(left()[..2], [3 * round + 2, 2 * round + 2], "{vip}");
            lb.send(&tcp_at(vip, 1, ACK, 0x2001));
            assert_eq!(left()[..2], [3 * round + 3, 2 * round + 2], "{vip}");
        }
    });
}

#[test]
#[ignore = "needs root, nf_tables, nfnetlink_queue and /dev/net/tun"]
fn the_way_changes_by_elements_alone() {
    in_namespace(|| {
        let (mut lb, mut ruleset) = lb_with(Way::Tracked);
        for vip in VIPS {
            add("off_table", vip, "tcp", 1);
            lb.steer(&tcp(vip, 1, ACK), Mark(3));
        }
        for (way, rounds) in [(Way::OffTable, 1), (Way::Untracked, 2), (Way::OffTable, 3)] {
            ruleset.elements.set_way(way);
            assert!(!in_force(&ruleset).unwrap(), "{way:?}");
            assert_eq!(apply(&ruleset).unwrap().structure, StructureApplied::Kept, "{way:?}");
            assert!(in_force(&ruleset).unwrap(), "{way:?}");
            for vip in VIPS {
                lb.send(&tcp(vip, 1, ACK));
            }
            assert_eq!(left(), [2, 2 * rounds, 2 * rounds], "{way:?}");
        }
        // The maps are not asked.
        ruleset.elements.set_way(Way::Tracked);
        apply(&ruleset).unwrap();
        for vip in VIPS {
            lb.send(&tcp(vip, 1, ACK));
        }
        assert_eq!(left(), [4, 6, 6]);
    });
}

fn without_target_4(elements: &Elements) -> Elements {
    let mut without = Elements::default();
    for set in SetName::ALL {
        for element in elements.of(set) {
            if !matches!(element, Element::Mark(4) | Element::Kept(_, 4)) {
                without.insert(set, element.clone());
            }
        }
    }
    without
}

/// Packets of an off-table flow come as soon as the ruleset is there again, and the next audit is up to 2 s later.
#[test]
#[ignore = "needs root and nf_tables"]
fn flows_are_in_their_maps_before_packets_go_by_a_ruleset_that_is_made_anew() {
    in_namespace(|| {
        let packet = |vip: &str| Packet::parse(&tcp(vip, 1000, ACK)).unwrap();
        let held = |closing| Held { mark: Mark(4), closing, left_seconds: 100 };
        let mut known = OffTable::default();
        for (vip, closing) in VIPS.into_iter().zip([false, true]) {
            known.insert(Flow::of(&packet(vip)).unwrap(), held(closing));
        }
        let mut tables = Tables::restoring(Arc::new(ArcSwap::from_pointee(known.clone())));
        let mut ruleset = ruleset_for(&state(), "client");
        ruleset.elements.set_way(Way::OffTable);
        let flows = || flow_maps::off_table().unwrap().iter().count();
        for spoil in ["true", "nft flush ruleset", "nft delete table inet synrail"] {
            shell(spoil);
            mend(&ruleset, &mut tables).unwrap();
            assert_eq!(flows(), 2, "{spoil}");
        }
        // Maps that stay keep what packets have made of them.
        shell(
            "nft flush map inet synrail off_table4; nft add chain inet synrail queue_flow '{ }'; nft flush chain inet synrail queue_flow",
        );
        mend(&ruleset, &mut tables).unwrap();
        assert_eq!(flows(), 1, "of the map that was emptied the next audit takes care");
    });
}
