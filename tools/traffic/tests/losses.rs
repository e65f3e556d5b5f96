//! Peers that misbehave a known number of times: the tool must count exactly that.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{Act, Flip, Peer, Server, corrupting_proxy, finish, run, run_until, start, udp_peer};
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
fn hold_replaces_each_lost_connection_once() {
    // Of the first hundred every seventh breaks, and of those that take their places every second.
    static LAST_IS_USED: AtomicBool = AtomicBool::new(false);
    let peer = Peer::start(|connection, message| {
        LAST_IS_USED.fetch_or(connection == 120, Ordering::Relaxed);
        match (connection, message) {
            (0..100, 2..) if connection % 7 == 3 => Act::Close,
            (100..114, 1..) if connection % 2 == 1 => Act::Close,
            _ => Act::Answer("s1"),
        }
    });
    let hold = format!("hold --address {} --connections 100 --interval-ms 50 --reconnect", peer.address);
    let ran = run_until(&format!("{hold} --sample-ms 50"), || LAST_IS_USED.load(Ordering::Relaxed));
    assert_eq!(ran.code, Some(1), "{ran}");
    let report = ran.json();
    let lost = 14 + 7;
    for (name, value) in
        [("opened", 100 + lost), ("lost", lost), ("reconnected", lost), ("closed", 100), ("failed", 0)]
    {
        assert_eq!(report[name], value, "{name}: {ran}");
    }
    assert_eq!(report["errors"], json!({ "closed_by_server": lost }));
    let records = report["connections"].as_array().unwrap();
    assert_eq!(records.iter().filter(|record| record["why"] == "closed_by_server").count(), lost);
    assert_eq!(records.iter().filter(|record| record["closed_at"].is_f64()).count(), 100);
    assert!(records.iter().all(|record| record["server"] == "s1"));
    let samples = report["samples"].as_array().unwrap();
    let last = samples.last().unwrap();
    assert_eq!(last["servers"]["s1"], json!({ "open": 0, "opened": 100 + lost, "lost": lost }));
    assert!(samples.iter().all(|sample| sample["open"].as_u64().unwrap() <= 100), "{ran}");
}

#[test]
fn hold_of_flows_counts_what_moved_and_what_fell_silent() {
    // All that is to go wrong has begun when these have been asked.
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let address = udp_peer(|flow, message| {
        let marks = matches!((flow, message), (0..5 | 9, 3) | (5..9, 4));
        ASKED.fetch_add(marks.into(), Ordering::Relaxed);
        match (flow, message) {
            (0..5, 3..) => Act::Answer("s2"),
            (5..9, 2..) | (9, 2) => Act::Silence,
            _ => Act::Answer("s1"),
        }
    });
    let hold = format!("hold --udp --address {address} --connections 20 --interval-ms 50 --timeout-ms 1000");
    let ran = run_until(&hold, || ASKED.load(Ordering::Relaxed) == 10);
    assert_eq!(ran.code, Some(1), "{ran}");
    let report = ran.json();
    for (name, value) in
        [("opened", 20), ("lost", 9), ("moved", 5), ("lost_datagrams", 4 * 3 + 1), ("closed", 11)]
    {
        assert_eq!(report[name], value, "{name}: {ran}");
    }
    assert_eq!(report["errors"], json!({ "no_answer_in_time": 13, "server_changed": 5 }));
}

#[test]
fn an_idle_connection_is_lost_when_it_breaks_not_when_it_is_used() {
    let mut server = Server::start("--tcp 127.0.0.1:0 --name s1");
    let directory = tempfile::tempdir().unwrap();
    let [ready, events] = ["ready", "events"].map(|name| directory.path().join(name));
    std::fs::write(&events, "s1 will be killed\n").unwrap(); // it is read before the first connection is tried
    let child = start(&format!(
        "hold --address {} --connections 10 --seconds 600 --interval-ms 3600000 --message-bytes 0 --json \
         --ready-file {} --event-file {}",
        server.addresses[0],
        ready.display(),
        events.display()
    ));
    while !ready.exists() {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    server.child.kill().unwrap();
    let ran = finish(child); // ends since none is left, an hour before any is used
    let report = ran.json();
    assert_eq!((ran.code, &report["lost"]), (Some(1), &json!(10)), "{ran}");
    assert_eq!(report["events"][0]["name"], "s1 will be killed");

    let file = directory.path().join("report.json");
    std::fs::write(&file, &ran.stdout).unwrap();
    let analysis = run(&format!("analyze --json {}", file.display())).json();
    let phases = analysis["files"][0]["phases"].as_array().unwrap();
    let told: Vec<_> =
        phases.iter().map(|phase| (&phase["name"], &phase["lost"], &phase["loss_percent"])).collect();
    let expected = [
        (&json!("opening"), &json!(0), &json!(null)),
        (&json!("s1 will be killed"), &json!(0), &json!(null)),
        (&json!("all open"), &json!(10), &json!(100.0)),
    ];
    assert_eq!(told, expected);
    assert_eq!(analysis["total"]["servers"]["s1"], json!({ "opened": 10, "lost": 10 }));
    let svg = directory.path().join("run.svg");
    let drawn = run(&format!("graph {} -o {}", file.display(), svg.display()));
    assert_eq!(drawn.code, Some(0), "{drawn}");
    assert!(std::fs::read_to_string(&svg).unwrap().contains("s1 will be killed"));
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
fn connections_without_a_server_fail() {
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
fn udp_without_a_server_is_lost() {
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
