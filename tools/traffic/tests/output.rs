//! The tool with a full disk, or an ended reader, behind what it says.

mod common;

use std::fs::OpenOptions;
use std::io::pipe;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Server, run};

const TRAFFIC: &str = env!("CARGO_BIN_EXE_traffic");

fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").expect("Linux has it").into()
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the tool itself is what is tested")]
fn an_answer_that_is_lost_is_a_failure_and_a_complaint_is_not() {
    let server = Server::start("--tcp 127.0.0.1:0 --name s1");
    let connect = format!("connect --address {} --connections 1 --progress", server.addresses[0]);
    for (arguments, kept, lost) in [(connect.as_str(), 0, 2), ("--help", 0, 2), ("--nonsense", 2, 2)] {
        let tool = || {
            let mut command = Command::new(TRAFFIC);
            command.args(arguments.split_whitespace()).stdout(Stdio::null());
            command
        };
        assert_eq!(tool().stderr(full()).status().unwrap().code(), Some(kept), "{arguments}");
        assert_eq!(tool().stdout(full()).stderr(full()).status().unwrap().code(), Some(lost), "{arguments}");
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let unread = tool().stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let answered = kept == 0;
        assert_eq!(unread.status.code(), Some(if answered { 141 } else { kept }), "{arguments}");
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the tool itself is what is tested")]
fn a_server_serves_though_it_cannot_say_so() {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let child = Command::new(TRAFFIC)
        .args(["server", "--name", "s1", "--tcp", &address.to_string()])
        .stdout(full())
        .stderr(full())
        .spawn()
        .unwrap();
    let mut server = Server { child, addresses: vec![address] };
    for _ in 0..500 {
        assert!(server.child.try_wait().unwrap().is_none());
        let ran = run(&format!("connect --address {address} --connections 1 --timeout-ms 5000 --json"));
        if ran.code == Some(0) {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    panic!("nothing is served");
}
