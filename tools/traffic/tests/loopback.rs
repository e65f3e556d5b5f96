//! The tool against its own server on loopback: each subcommand, its report and its exit status.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use common::{Server, finish, run, signal, start};
use nix::sys::signal::Signal;
use serde_json::json;
use socket2::{Domain, Socket, Type};

#[test]
fn connect_counts_connections_messages_and_servers_over_ipv4_and_ipv6() {
    let server = Server::start("--tcp 127.0.0.1:0 [::1]:0 --name s1");
    for (address, cidr) in server.addresses.iter().zip(["127.50.0.0/24", "::1/128"]) {
        let ran = run(&format!(
            "connect --address {address} --connections 300 --messages 5 --source-cidr {cidr} --json"
        ));
        assert_eq!(ran.code, Some(0), "{ran}");
        let report = ran.json();
        for (name, value) in [("opened", 300), ("failed", 0), ("lost", 0), ("moved", 0), ("messages", 1500)] {
            assert_eq!(report[name], value, "{name}: {ran}");
        }
        assert_eq!(report["bytes"], 1500 * 64);
        assert_eq!(report["servers"], json!({ "s1": 300 }));
        assert_eq!(report["errors"], json!({}));
        assert_eq!(report["parameters"]["source_cidr"], cidr);
    }
}

#[test]
fn every_way_to_close_and_every_length_of_a_message_works() {
    let server = Server::start("--tcp 127.0.0.1:0 --name s1");
    let address = server.addresses[0];
    for options in [
        "--close client",
        "--close reset",
        "--message-bytes 0",
        "--message-bytes 65000",
        "--messages 0",
        "--rate 1000",
        "--concurrency 1 --interval-ms 1",
    ] {
        let ran = run(&format!("connect --address {address} --json --connections 20 {options}"));
        assert_eq!(ran.code, Some(0), "{options}: {ran}");
    }
}

#[test]
fn a_source_port_can_be_used_again_at_once() {
    let server = Server::start("--tcp 127.0.0.1:0 --name s1");
    let source = "--source-cidr 127.0.0.77 --source-port 21077";
    for _ in 0..3 {
        let ran = run(&format!(
            "connect --address {} --connections 3 --concurrency 1 {source}",
            server.addresses[0]
        ));
        assert_eq!(ran.code, Some(0), "{ran}");
    }
}

#[test]
fn a_source_port_that_is_not_free_yet_is_waited_for() {
    let server = Server::start("--tcp 127.0.0.1:0 --name s1");
    let before = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    before.set_reuse_address(true).unwrap();
    before.bind(&SocketAddr::from(([127, 0, 0, 78], 21078)).into()).unwrap();
    before.connect(&server.addresses[0].into()).unwrap();
    before.set_linger(Some(Duration::ZERO)).unwrap(); // so its end is a reset, which is not acknowledged
    let connect = format!(
        "connect --address {} --connections 1 --source-cidr 127.0.0.78 --source-port 21078 --json",
        server.addresses[0]
    );
    let given_up = run(&connect);
    assert_eq!(given_up.code, Some(1), "{given_up}");
    assert_eq!(given_up.json()["errors"], json!({ "address_not_available": 1 }));
    let child = start(&connect);
    std::thread::park_timeout(Duration::from_millis(200)); // it tries meanwhile
    drop(before);
    let ran = finish(child);
    assert_eq!(ran.code, Some(0), "{ran}");
}

#[test]
fn hold_says_when_all_are_open_and_ends_by_a_file() {
    let server = Server::start("--tcp 127.0.0.1:0 --name s1");
    let directory = tempfile::tempdir().unwrap();
    let (ready, until) = (directory.path().join("ready"), directory.path().join("until"));
    let child = start(&format!(
        "hold --address {} --connections 50 --seconds 60 --interval-ms 20 --ready-file {} --until-file {} --json",
        server.addresses[0],
        ready.display(),
        until.display()
    ));
    while !ready.exists() {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert_eq!(fs::read_to_string(&ready).unwrap(), "{\"opened\":50,\"failed\":0,\"lost\":0}\n");
    fs::write(&until, "").unwrap();
    let ran = finish(child);
    assert_eq!(ran.code, Some(0), "{ran}");
    let report = ran.json();
    assert_eq!((&report["opened"], &report["lost"]), (&json!(50), &json!(0)));
    assert_eq!(report["servers"], json!({ "s1": 50 }));
    assert!(report["messages"].as_u64().unwrap() >= 100, "the first and the last round trip of each: {ran}");
}

#[test]
fn udp_flows_are_answered_over_ipv4_and_ipv6() {
    let server = Server::start("--udp 127.0.0.1:0 [::1]:0 --name s1");
    for (address, cidr) in server.addresses.iter().zip(["127.50.0.0/24", "::1/128"]) {
        for bytes in [0, 64, 20_000] {
            let flows = "--flows 50 --messages 4 --concurrency 10";
            let ran = run(&format!(
                "udp --address {address} {flows} --source-cidr {cidr} --message-bytes {bytes} --json"
            ));
            assert_eq!(ran.code, Some(0), "{ran}");
            let report = ran.json();
            assert_eq!((&report["opened"], &report["messages"]), (&json!(50), &json!(200)));
            assert_eq!(report["servers"], json!({ "s1": 50 }));
        }
    }
}

#[test]
fn transfers_are_byte_exact() {
    let server = Server::start("--tcp 127.0.0.1:0 [::1]:0 --name s1");
    for address in &server.addresses {
        let directions = [
            "--upload 1",
            "--upload 3M",
            "--download 1",
            "--download 3M --seed 99",
            "--download 3M --half-close",
        ];
        for direction in directions {
            let ran = run(&format!("transfer --address {address} {direction} --json"));
            assert_eq!(ran.code, Some(0), "{ran}");
            let report = ran.json();
            let bytes = if direction.contains("3M") { 3_000_000 } else { 1 };
            assert_eq!((&report["bytes"], &report["messages"]), (&json!(bytes), &json!(1)));
            assert_eq!(report["servers"], json!({ "s1": 1 }));
            assert!(report.get("mismatch_offset").is_none());
        }
    }
}

#[test]
fn ipv4_and_ipv6_wildcards_coexist() {
    let first = Server::start("--tcp 0.0.0.0:0 --udp 0.0.0.0:0 --name s4");
    let [tcp, udp] = [first.addresses[0].port(), first.addresses[1].port()];
    let _second = Server::start(&format!("--tcp [::]:{tcp} --udp [::]:{udp} --name s6"));
    for (address, name) in [(format!("127.0.0.1:{tcp}"), "s4"), (format!("[::1]:{tcp}"), "s6")] {
        let ran = run(&format!("connect --address {address} --connections 1 --json"));
        assert_eq!(ran.json()["servers"], json!({ name: 1 }), "{ran}");
    }
}

#[test]
fn a_udp_wildcard_answers_from_the_address_that_was_asked() {
    let server = Server::start("--udp 0.0.0.0:0 [::]:0 --name s1");
    let [v4, v6] = [server.addresses[0].port(), server.addresses[1].port()];
    for address in [format!("127.0.0.1:{v4}"), format!("127.77.0.7:{v4}"), format!("[::1]:{v6}")] {
        // The client's socket is connected: an answer from another address does not reach it.
        let ran = run(&format!("udp --address {address} --flows 5 --timeout-ms 2000 --json"));
        assert_eq!(ran.code, Some(0), "{ran}");
    }
}

#[test]
fn a_server_ends_well_by_a_signal_even_with_open_connections() {
    for which in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = Server::start("--tcp 127.0.0.1:0");
        let _open = std::net::TcpStream::connect(server.addresses[0]).unwrap();
        signal(&server.child, which);
        assert_eq!(server.child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_client_that_is_interrupted_still_reports() {
    let server = Server::start("--tcp 127.0.0.1:0 --name s1");
    let directory = tempfile::tempdir().unwrap();
    let ready = directory.path().join("ready");
    let address = server.addresses[0];
    let child =
        start(&format!("hold --address {address} --seconds 60 --ready-file {} --json", ready.display()));
    while !ready.exists() {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    signal(&child, Signal::SIGTERM);
    let ran = finish(child);
    assert_eq!(ran.code, Some(1), "{ran}");
    assert_eq!((&ran.json()["interrupted"], &ran.json()["opened"]), (&json!(true), &json!(100)));
}

#[test]
fn hold_replaces_connections_at_the_end_of_their_lives() {
    let server = Server::start("--tcp 127.0.0.1:0 --udp 127.0.0.1:0 --name s1");
    for (udp, address) in [("", server.addresses[0]), ("--udp", server.addresses[1])] {
        let ran = run(&format!(
            "hold {udp} --address {address} --connections 20 --lifetime-ms 100 --seconds 2 --records 30 --threads 2 --json"
        ));
        assert_eq!(ran.code, Some(0), "{ran}");
        let report = ran.json();
        let opened = report["opened"].as_u64().unwrap();
        let most = 20.0 * (report["seconds"].as_f64().unwrap() / 0.1 + 2.0);
        assert!(opened > 30 && opened as f64 <= most, "20 at a time live a tenth of a second each: {ran}");
        assert_eq!((&report["closed"], &report["reconnected"]), (&json!(opened), &json!(0)));
        assert_eq!(report["connections"].as_array().unwrap().len(), 30);
        assert_eq!(report["connections_left_out"], opened - 30);
    }
}

#[test]
fn a_message_rate_is_that_of_all_connections_together() {
    let server = Server::start("--tcp 127.0.0.1:0 --name s1");
    let address = server.addresses[0];
    let ran = run(&format!("hold --address {address} --connections 10 --seconds 2 --message-rate 50 --json"));
    let report = ran.json();
    let most = 50.0 * report["seconds"].as_f64().unwrap() + 30.0;
    assert!(
        report["messages"].as_f64().unwrap() <= most,
        "50 a second, a first and a last one of each: {ran}"
    );
    assert!(report["messages"].as_u64().unwrap() > 20, "{ran}");
}

#[test]
fn a_run_that_is_too_slow_says_why() {
    let server = Server::start("--tcp 127.0.0.1:0 --name s1");
    let ran = run(&format!(
        "connect --address {} --connections 20 --messages 2 --interval-ms 100 --concurrency 1 --rate 1000 --json",
        server.addresses[0]
    ));
    assert_eq!(ran.code, Some(0), "{ran}");
    let why = ran.json()["limited_by"].as_str().unwrap().to_owned();
    assert!(why.contains("of 1000 a second: "), "{why}");
}

#[test]
fn one_connection_too_many_is_refused() {
    let server = Server::start("--tcp 127.0.0.1:0 --connections-max 5 --name s1");
    let ran = run(&format!("hold --address {} --connections 8 --seconds 0 --json", server.addresses[0]));
    assert_eq!(ran.code, Some(1), "{ran}");
    let report = ran.json();
    assert_eq!((&report["opened"], &report["lost"]), (&json!(8), &json!(3)));
    assert_eq!(report["errors"], json!({ "server_full": 3 }));
}

#[test]
fn garbage_does_not_disturb_a_server() {
    use std::io::{Read, Write};
    let server = Server::start("--tcp 127.0.0.1:0 --udp 127.0.0.1:0 --name s1");
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"E\xff\xff\xff\xff", b"U\0\0\0\x01x", b"E\0\0"] {
        let mut stream = std::net::TcpStream::connect(server.addresses[0]).unwrap();
        stream.write_all(garbage).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = stream.read_to_end(&mut Vec::new()); // closed or reset, but ended
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(garbage, server.addresses[1]).unwrap();
    }
    let [tcp, udp] = [server.addresses[0], server.addresses[1]];
    assert_eq!(run(&format!("connect --address {tcp}")).code, Some(0));
    assert_eq!(run(&format!("udp --address {udp}")).code, Some(0));
}

#[test]
fn usage_errors_are_clear_and_have_status_2() {
    for (arguments, said) in [
        ("connect --address 1000::7000", "IPv6 in brackets"),
        ("connect --address 127.0.0.1:1 --source-cidr ::1/128", "another address family"),
        ("transfer --address [::1]:1 --upload 1 --source 127.0.0.1", "another address family"),
        ("connect --address 127.0.0.1:1 --source-cidr 50.0.0.1/16", "50.0.0.0/16 is meant"),
        ("connect --address 127.0.0.1:1 --message-bytes 65001", "expected 0 to 65000"),
        ("transfer --address 127.0.0.1:1 --upload 1 --download 1", "cannot be used with"),
        ("transfer --address 127.0.0.1:1", "required"),
        ("transfer --address 127.0.0.1:1 --upload 1 --half-close", "cannot be used with"),
        ("forge --kind syn --address 127.0.0.1:1", "--source-cidr"),
        ("forge --kind syn --address 127.0.0.1:1 --source-cidr ::1/128", "another address family"),
        ("forge --kind too-big --address 127.0.0.1:1 --source-cidr 127.0.0.1", "--about"),
        ("forge --kind copy --address 127.0.0.1:1 --source-cidr 127.0.0.1", "--file"),
        ("forge --kind copy --address 127.0.0.1:1 --file Cargo.toml", "it is no pcap file"),
        ("fragments --address 127.0.0.1:1 --fragments 1-3", "from 2 to 8000"),
        ("fragments --address 127.0.0.1:1 --incomplete both", "--rate"),
        ("fragments --address 127.0.0.1:1 --source-cidr ::1/128", "another address family"),
        ("hold --address 127.0.0.1:1 --interval-ms 5 --message-rate 5", "cannot be used with"),
        ("analyze /nonexistent", "reading /nonexistent"),
        ("graph Cargo.toml -o /nonexistent", "Cargo.toml is no report of a client"),
        ("server", "required"),
        ("server --tcp 192.0.2.1:1", "tcp 192.0.2.1:1"),
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, Some(2), "{arguments}: {ran}");
        assert!(ran.stderr.contains(said), "{arguments}: {ran}");
    }
}

#[test]
fn every_subcommand_has_examples() {
    for command in ["server", "connect", "hold", "udp", "fragments", "transfer", "forge", "analyze", "graph"]
    {
        let ran = run(&format!("{command} --help"));
        assert_eq!(ran.code, Some(0));
        assert!(ran.stdout.contains(&format!("Examples:\n  traffic {command} ")), "{ran}");
    }
}
