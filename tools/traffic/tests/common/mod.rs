//! Peers for the tests: the tool itself as a child process, and peers that misbehave in a known way. These speak the
//! protocol by hand, from its description alone, so that they also guard the bytes on the wire.

#![allow(dead_code, reason = "not every test file uses every peer")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's peer fails by panicking, as the test does")]
#![allow(clippy::disallowed_methods, reason = "tests start the tool as a child process")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A finished run of the tool.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The report, which must be the only thing on stdout.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "code {:?}, stdout {:?}, stderr {:?}", self.code, self.stdout, self.stderr)
    }
}

/// Starts the tool; arguments are separated by spaces.
pub(crate) fn start(arguments: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_traffic"))
        .args(arguments.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub(crate) fn finish(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

pub(crate) fn run(arguments: &str) -> Ran {
    finish(start(arguments))
}

/// Runs `hold`, its report as JSON, until the condition holds.
pub(crate) fn run_until(hold: &str, condition: impl Fn() -> bool) -> Ran {
    let directory = tempfile::tempdir().unwrap();
    let until = directory.path().join("until");
    let child = start(&format!("{hold} --seconds 600 --until-file {} --json", until.display()));
    while !condition() {
        thread::park_timeout(Duration::from_millis(5));
    }
    std::fs::write(&until, "").unwrap();
    finish(child)
}

pub(crate) fn signal(child: &Child, which: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), which).unwrap();
}

/// `traffic server`, listening; killed when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Server {
    pub(crate) fn start(arguments: &str) -> Self {
        let mut child = start(&format!("server {arguments}"));
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(ready, "ready\n", "{:?}", lines.collect::<Vec<_>>());
        let count = arguments.split_whitespace().filter(|word| word.contains(':')).count();
        let addresses = lines.by_ref().filter_map(|line| line.strip_prefix("listening: ")?[4..].parse().ok());
        let addresses = addresses.take(count).collect();
        thread::spawn(move || lines.for_each(drop)); // what it still says must not block it
        Self { child, addresses }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the misbehaving peer does with the message of this number on the connection of that number.
#[derive(Clone, Copy)]
pub(crate) enum Act {
    Answer(&'static str),
    Close,
    Silence,
}

/// A TCP peer that acts by (connection, message); it remembers who connected.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) clients: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Peer {
    pub(crate) fn start(act: impl Fn(usize, usize) -> Act + Copy + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let clients = Arc::new(Mutex::new(Vec::new()));
        let seen = clients.clone();
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let stream = stream.unwrap();
                seen.lock().unwrap().push(stream.peer_addr().unwrap());
                thread::spawn(move || converse(stream, |message| act(number, message)));
            }
        });
        Self { address, clients }
    }
}

/// `E length body` is answered by `e length name-length name body`; anything else, such as `B`, ends it.
fn converse(mut stream: TcpStream, act: impl Fn(usize) -> Act) {
    for message in 0.. {
        let mut header = [0; 5];
        if stream.read_exact(&mut header).is_err() || header[0] != b'E' {
            return;
        }
        let mut body = vec![0; u32::from_be_bytes(header[1..].try_into().unwrap()) as usize];
        stream.read_exact(&mut body).unwrap();
        match act(message) {
            Act::Close => return,
            Act::Silence => {}
            Act::Answer(name) => {
                let length = u32::try_from(1 + name.len() + body.len()).unwrap();
                let mut out = vec![b'e'];
                out.extend(length.to_be_bytes());
                out.push(name.len().try_into().unwrap());
                out.extend(name.as_bytes());
                out.extend(body);
                stream.write_all(&out).unwrap();
            }
        }
    }
}

/// A UDP peer that acts by (flow, message): `Close` is `Silence` here.
pub(crate) fn udp_peer(act: impl Fn(u32, u32) -> Act + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut datagram = [0; 2000];
        loop {
            let (length, from) = socket.recv_from(&mut datagram).unwrap();
            let number = |at: usize| u32::from_be_bytes(datagram[at..at + 4].try_into().unwrap());
            if let Act::Answer(name) = act(number(8), number(12)) {
                let mut out = b"sra1".to_vec();
                out.extend(&datagram[4..16]);
                out.push(name.len().try_into().unwrap());
                out.extend(name.as_bytes());
                out.extend(&datagram[16..length]);
                socket.send_to(&out, from).unwrap();
            }
        }
    });
    address
}

/// Which byte of a connection is changed on its way.
#[derive(Clone, Copy)]
pub(crate) struct Flip {
    pub(crate) to_server: bool,
    pub(crate) offset: usize,
}

/// A proxy to `server` that changes one byte of each connection.
pub(crate) fn corrupting_proxy(server: SocketAddr, flip: Flip) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(server).unwrap();
            let [up, down] = [flip.to_server, !flip.to_server].map(|this| this.then_some(flip.offset));
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || copy(from, to, up));
            thread::spawn(move || copy(server, client, down));
        }
    });
    address
}

fn copy(mut from: TcpStream, mut to: TcpStream, flip: Option<usize>) {
    let mut buffer = [0; 4096];
    let mut offset = 0;
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if let Some(at) = flip.and_then(|flip| flip.checked_sub(offset)).filter(|at| *at < length) {
            buffer[at] ^= 0x10;
        }
        offset += length;
        if to.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}
