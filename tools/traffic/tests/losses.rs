//! Peers that misbehave a known number of times: the tool must count exactly that.

mod common;

use std::time::Duration;

use common::{Act, Flip, Peer, Server, corrupting_proxy, finish, run, start, udp_peer};
use serde_json::json;

/// No test listens at this address.
const NOBODY: &str = "127.0.0.99:9";

#[test]
fn hold_counts_exactly_the_connections_that_the_server_closes() {
    let peer = Peer::start(|connection, message| match (connection % 7, message) {
        (3, 2..) => Act::Close,
        _ => Act::Answer("s1"),
    });
    let ran = run(&format!(
        "hold --address {} --connections 100 --seconds 1 --interval-ms 50 --json",
        peer.address
    ));
    assert_eq!(ran.code, Some(1), "{ran}");
    let report = ran.json();
    assert_eq!(
        (&report["opened"], &report["failed"], &report["lost"]),
        (&json!(100), &json!(0), &json!(14)),
        "{ran}"
    );
    assert_eq!(report["errors"], json!({ "closed_by_server": 14 }));
    assert_eq!(report["servers"], json!({ "s1": 100 }));
}

#[test]
fn hold_finds_what_broke_just_before_the_end() {
    let peer = Peer::start(|connection, message| match (connection, message) {
        (0..9, 1) => Act::Close,
        _ => Act::Answer("s1"),
    });
    let ran = run(&format!(
        "hold --address {} --connections 20 --seconds 0 --interval-ms 60000 --json",
        peer.address
    ));
    assert_eq!((ran.code, &ran.json()["lost"]), (Some(1), &json!(9)), "{ran}");
}

#[test]
fn hold_ends_when_none_is_left() {
    let peer = Peer::start(|_, message| if message < 2 { Act::Answer("s1") } else { Act::Close });
    let ran = run(&format!(
        "hold --address {} --connections 5 --seconds 3600 --interval-ms 10 --json",
        peer.address
    ));
    assert_eq!((ran.code, &ran.json()["lost"]), (Some(1), &json!(5)), "{ran}");
}

#[test]
fn a_killed_server_loses_all_its_connections() {
    let mut server = Server::start("--tcp 127.0.0.1:0 --name s1");
    let directory = tempfile::tempdir().unwrap();
    let ready = directory.path().join("ready");
    let hold =
        format!("hold --address {} --connections 30 --seconds 60 --interval-ms 50", server.addresses[0]);
    let child = start(&format!("{hold} --ready-file {} --json", ready.display()));
    while !ready.exists() {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    server.child.kill().unwrap();
    let ran = finish(child);
    assert_eq!(
        (ran.code, &ran.json()["opened"], &ran.json()["lost"]),
        (Some(1), &json!(30), &json!(30)),
        "{ran}"
    );
}

#[test]
fn connect_counts_closed_silent_and_moved_connections_apart() {
    let peer = Peer::start(|connection, message| match (connection % 10, message) {
        (0, 1..) => Act::Close,
        (1 | 2, 3..) => Act::Silence,
        (3..=5, 2..) => Act::Answer("s2"),
        _ => Act::Answer("s1"),
    });
    let ran = run(&format!(
        "connect --address {} --connections 50 --messages 6 --timeout-ms 1000 --json",
        peer.address
    ));
    assert_eq!(ran.code, Some(1), "{ran}");
    let report = ran.json();
    assert_eq!(
        (&report["opened"], &report["lost"], &report["moved"]),
        (&json!(50), &json!(30), &json!(15)),
        "{ran}"
    );
    let errors = json!({ "closed_by_server": 5, "no_answer_in_time": 10, "server_changed": 15 });
    assert_eq!(report["errors"], errors);
}

#[test]
fn connections_to_nobody_fail() {
    let ran = run(&format!("connect --address {NOBODY} --connections 7 --json"));
    assert_eq!(ran.code, Some(1), "{ran}");
    assert_eq!((&ran.json()["opened"], &ran.json()["failed"]), (&json!(0), &json!(7)));
    assert_eq!(ran.json()["errors"], json!({ "refused": 7 }));
}

#[test]
fn source_addresses_are_taken_in_order() {
    let peer = Peer::start(|_, _| Act::Answer("s1"));
    let options = "--connections 6 --concurrency 1 --source-cidr 127.9.8.4/30";
    let ran = run(&format!("connect --address {} {options}", peer.address));
    assert_eq!(ran.code, Some(0), "{ran}");
    let clients: Vec<_> = peer.clients.lock().unwrap().iter().map(|client| client.ip().to_string()).collect();
    assert_eq!(clients, ["127.9.8.4", "127.9.8.5", "127.9.8.6", "127.9.8.7", "127.9.8.4", "127.9.8.5"]);
}

#[test]
fn udp_counts_lost_datagrams_lost_flows_and_moved_flows() {
    let address = udp_peer(|flow, message| match (flow, message) {
        (0..3, 4) | (1, 5) => Act::Silence,
        (5..10, 7..) => Act::Answer("s2"),
        (10, _) => Act::Silence,
        _ => Act::Answer("s1"),
    });
    let ran = run(&format!("udp --address {address} --flows 20 --messages 10 --timeout-ms 1000 --json"));
    assert_eq!(ran.code, Some(1), "{ran}");
    let report = ran.json();
    assert_eq!(
        (&report["opened"], &report["lost"], &report["moved"]),
        (&json!(20), &json!(4), &json!(5)),
        "{ran}"
    );
    assert_eq!(report["lost_datagrams"], 4 + 3, "the flow without any answer gives up after three");
    assert_eq!(report["servers"], json!({ "s1": 19 }));
    assert_eq!(report["errors"], json!({ "no_answer_in_time": 7, "server_changed": 5 }));
}

#[test]
fn udp_to_nobody_is_lost() {
    let ran = run(&format!("udp --address {NOBODY} --flows 4 --json"));
    assert_eq!((ran.code, &ran.json()["lost"]), (Some(1), &json!(4)), "{ran}");
    assert_eq!(ran.json()["errors"], json!({ "refused": 12 }));
}

#[test]
fn a_corrupted_byte_of_a_transfer_is_detected_where_it_is() {
    let server = Server::start("--tcp 127.0.0.1:0 --name s1");
    let (upload_head, download_head) = (5 + 16, 5 + 1 + 2);
    for (direction, to_server, head) in [("upload", true, upload_head), ("download", false, download_head)] {
        for at in [0, 54_321, 99_999] {
            let proxy = corrupting_proxy(server.addresses[0], Flip { to_server, offset: head + at });
            let ran = run(&format!("transfer --address {proxy} --{direction} 100000 --json"));
            assert_eq!(ran.code, Some(1), "{ran}");
            let report = ran.json();
            assert_eq!((&report["lost"], &report["mismatch_offset"]), (&json!(1), &json!(at)), "{ran}");
            assert_eq!(report["errors"], json!({ "corrupted": 1 }));
        }
    }
}

#[test]
fn a_corrupted_message_is_a_wrong_answer() {
    let server = Server::start("--tcp 127.0.0.1:0 --name s1");
    let proxy = corrupting_proxy(server.addresses[0], Flip { to_server: false, offset: 5 + 1 + 2 + 10 });
    let ran = run(&format!("connect --address {proxy} --connections 3 --json"));
    assert_eq!((ran.code, &ran.json()["lost"]), (Some(1), &json!(3)), "{ran}");
    assert_eq!(ran.json()["errors"], json!({ "wrong_answer": 3 }));
}
