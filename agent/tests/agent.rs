//! The agent as a process, beside a region and an lbd that this test plays. In a network namespace of its own.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test, which starts programs"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use synrail::{
    config::Config,
    model::Health,
    ops::Request,
    state::{Backend, State},
    sys::{
        control_socket,
        region::{AccessError, Region, RegionName},
    },
};

const FILE: &str = "
balancer = { name = 'lb1', address = '10.7.9.9', interfaces = ['lo'] }
http = { listen = '127.0.0.1:9469' }
service = [ { name = 'web', vips = '10.0.0.1', protocols = 'tcp', ports = 80, table_size = 97,
    health = { kind = 'tcp', via = 'direct', port = 8080, interval_ms = 200, timeout_ms = 200, fall = 2, rise = 2 },
    backend = [ { name = 's1', address = '10.7.0.1' }, { name = 's2', address = '10.7.0.2' } ] } ]";

struct RegionOfTest(RegionName);

impl Drop for RegionOfTest {
    fn drop(&mut self) {
        let _ = Region::remove(&self.0);
        // As lbd does when it ends.
        let http = control_socket::http_path(&self.0);
        let _ = (fs::remove_file(&http), fs::remove_dir(http.parent().unwrap()));
    }
}

struct Agent(Child);

impl Agent {
    fn start(region: &RegionName, socket: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lbagent"));
        command.args(["--shm", &region.to_string(), "--socket"]).arg(socket);
        Self(command.spawn().unwrap())
    }

    /// The process that reads for HTTP.
    fn reader(&self) -> String {
        let id = self.0.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.trim().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a request of HTTP, and returns the connection.
fn ask<S: Write>(mut stream: S, method: &str, path: &str, body: &str) -> S {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn answer(mut stream: impl Read) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// What an lbd does with requests.
struct Lbd {
    region: Region,
    listener: UnixListener,
    stream: BufReader<UnixStream>,
}

impl Lbd {
    fn accept(&mut self) {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        self.stream = BufReader::new(stream);
    }

    /// Takes the next request, and puts what was found in the region.
    fn serve(&mut self) -> Request {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let request = serde_json::from_str(&line).unwrap();
        if let Request::Observe { found, reported } = &request {
            self.region
                .update(|live| Ok::<_, AccessError>((Some(live.observe(found).hear(reported)), ())))
                .unwrap();
        }
        self.stream.get_mut().write_all(b"{\"ok\":true}\n").unwrap();
        request
    }

    /// Serves until the backend is that.
    fn until(&mut self, backend: &str, health: Health) -> String {
        let found = self.until_some(backend, |of| of.observed.clone().filter(|now| now.health == health));
        found.unwrap_or_else(|| panic!("{backend} is not {health}")).reason.as_str().to_owned()
    }

    /// Serves until the agent on the backend is heard to say that.
    fn until_reported(&mut self, backend: &str, summary: &str) {
        let heard = |of: &Backend| of.reported.as_ref().filter(|now| now.summary() == summary).map(drop);
        self.until_some(backend, heard).unwrap_or_else(|| panic!("the agent on {backend} says no {summary}"));
    }

    fn until_some<T>(&mut self, backend: &str, of: impl Fn(&Backend) -> Option<T>) -> Option<T> {
        (0..100).find_map(|_| {
            self.serve();
            let (_, state) = self.region.state_with_tables(|_| Vec::new()).unwrap();
            of(state.services[0].backends.iter().find(|one| one.name.as_str() == backend).unwrap())
        })
    }
}

/// What a test has: a network namespace of its own, a region, and an lbagent that has found the lbd of this test.
struct World {
    lbd: Lbd,
    agent: Agent,
    socket: PathBuf,
    name: RegionName,
    _removed: (RegionOfTest, tempfile::TempDir),
}

impl World {
    fn start(of: &str, file: &str) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let set_up = "ip link set lo up && ip route add local 10.7.0.0/16 dev lo";
        assert!(Command::new("sh").args(["-c", set_up]).status().unwrap().success());
        let name: RegionName = format!("lbagent-{of}-{}", std::process::id()).parse().unwrap();
        let state = State::new(&Config::parse("test", file).unwrap()).unwrap();
        let removed = RegionOfTest(name.clone());
        let region = Region::create(&name, &state).unwrap();
        let directory = tempfile::tempdir().unwrap();
        // Started as root, the agent becomes another user.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let socket = directory.path().join("lbd.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
        let agent = Agent::start(&name, &socket);
        let stream = BufReader::new(listener.accept().unwrap().0);
        let lbd = Lbd { region, listener, stream };
        Self { lbd, agent, socket, name, _removed: (removed, directory) }
    }
}

#[test]
#[ignore = "needs root"]
fn lbd_learns_what_goes_down_and_comes_back_and_checks_go_on_from_there() {
    let World { mut lbd, agent, socket, name, _removed } = World::start("checks", FILE);
    let first = TcpListener::bind("10.7.0.1:8080").unwrap();
    let second = TcpListener::bind("10.7.0.2:8080").unwrap();
    assert_eq!(lbd.until("s1", Health::Up), "connected");
    assert_eq!(lbd.until("s2", Health::Up), "connected");
    let status = fs::read_to_string(format!("/proc/{}/status", agent.0.id())).unwrap();
    for wanted in [
        "CapEff:\t0000000000002000",
        "CapPrm:\t0000000000002000",
        "CapBnd:\t0000000000002000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(wanted), "{wanted}: {status}");
    }
    assert!(!status.contains("Uid:\t0"), "{status}");

    // HTTP: the socket is not for others, and what reads for it is a process with another right.
    let http = control_socket::http_path(&name);
    assert_eq!(fs::metadata(&http).unwrap().permissions().mode() & 0o117, 0);
    let status = fs::read_to_string(format!("/proc/{}/status", agent.reader())).unwrap();
    for wanted in ["CapEff:\t0000000000001000", "CapBnd:\t0000000000001000", "NoNewPrivs:\t1"] {
        assert!(status.contains(wanted), "{wanted}: {status}");
    }
    assert!(!status.contains("Uid:\t0"), "{status}");
    let connect = || UnixStream::connect(&http).unwrap();
    assert!(answer(ask(connect(), "GET", "/healthz", "")).starts_with("HTTP/1.1 200"));
    let shown = answer(ask(connect(), "GET", "/api/v1/state", ""));
    assert!(shown.contains("\"reason\":\"connected\""), "{shown}");
    let tcp = || TcpStream::connect("127.0.0.1:9469").unwrap();
    assert!(answer(ask(tcp(), "GET", "/metrics", "")).contains("synrail_region_readable 1"));
    let body = r#"{"backends":["s1"],"reason":"a test"}"#;
    assert!(answer(ask(tcp(), "POST", "/api/v1/drain", body)).starts_with("HTTP/1.1 403"));
    let asked = ask(connect(), "POST", "/api/v1/drain", body);
    let order = loop {
        if let Request::Admin { order, .. } = lbd.serve() {
            break order;
        }
    };
    assert_eq!((order.by.as_str(), order.admin.name()), ("root", "draining"));
    assert!(answer(asked).starts_with("HTTP/1.1 200"));

    drop(second);
    assert_eq!(lbd.until("s2", Health::Down), "connection refused");
    // Its death changes nothing, and the next one begins where it was.
    drop(agent);
    let (generation, _) = lbd.region.state_with_tables(|_| Vec::new()).unwrap();
    let mut agent = Agent::start(&name, &socket);
    lbd.accept();
    for _ in 0..3 {
        assert!(matches!(lbd.serve(), Request::Beat { .. }), "nothing is new");
    }
    assert_eq!(lbd.region.state_with_tables(|_| Vec::new()).unwrap().0, generation);
    let _second = TcpListener::bind("10.7.0.2:8080").unwrap();
    assert_eq!(lbd.until("s2", Health::Up), "connected");
    drop(first);
    // An lbd that goes and comes back is told what happened meanwhile.
    lbd.stream.get_ref().shutdown(std::net::Shutdown::Both).unwrap();
    lbd.accept();
    assert_eq!(lbd.until("s1", Health::Down), "connection refused");
    agent.signal(Signal::SIGTERM);
    assert!(agent.0.wait().unwrap().success());
    let once = Command::new(env!("CARGO_BIN_EXE_lbagent"))
        .args(["--once", "--shm", &name.to_string()])
        .output()
        .unwrap();
    let table = String::from_utf8(once.stdout).unwrap();
    assert_eq!(once.status.code(), Some(1), "{table}");
    assert!(table.contains("web/s1    tcp   FAILED") && table.contains("web/s2    tcp   ok"), "{table}");
}

/// Says what `line` has to each client, until the listener is taken away.
fn speak(listener: TcpListener, line: Arc<Mutex<&'static str>>) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let line = *line.lock().unwrap();
            if line.is_empty() {
                return;
            }
            let _ = stream.unwrap().write_all(line.as_bytes());
        }
    });
}

#[test]
#[ignore = "needs root"]
fn an_agent_on_a_backend_lowers_its_share_takes_it_out_and_gives_it_back() {
    let file =
        FILE.replace("fall = 2", "fall = 2, agent_port = 5555").replace("127.0.0.1:9469", "127.0.0.1:9470");
    let World { mut lbd, mut agent, name, _removed, .. } = World::start("said", &file);
    let serve = || ["10.7.0.1:8080", "10.7.0.2:8080"].map(|at| TcpListener::bind(at).unwrap());
    let servers = serve();
    let line = Arc::new(Mutex::new("up 100%\n"));
    let say = |what| *line.lock().unwrap() = what;
    let listen = || TcpListener::bind("10.7.0.2:5555").unwrap();
    speak(listen(), line.clone());
    lbd.until_reported("s2", "100%");
    lbd.until_reported("s1", "silent: connection refused");
    assert_eq!(lbd.until("s1", Health::Up), "connected", "that alone takes nothing from it");
    let table = |lbd: &mut Lbd| lbd.region.state().unwrap().1.services[0].table.to_vec();
    let of_s2 = |table: &[u16]| table.iter().filter(|rank| **rank == 1).count();
    let whole = table(&mut lbd);
    assert_eq!(of_s2(&whole), 48);

    say("50%\n");
    lbd.until_reported("s2", "50%");
    assert_eq!(of_s2(&table(&mut lbd)), 32);
    say("down #no database\n");
    lbd.until_reported("s2", "50%, down: no database");
    assert!(table(&mut lbd).iter().all(|rank| *rank == 0), "s1 alone is left");
    assert_eq!(lbd.until("s2", Health::Up), "connected", "by its check");
    // The agent ends with the next client.
    say("");
    lbd.until_reported("s2", "50%, down: no database; silent: connection refused");
    say("up 100%\n");
    speak(listen(), line.clone());
    lbd.until_reported("s2", "100%");
    assert_eq!(table(&mut lbd), whole);

    agent.signal(Signal::SIGTERM);
    assert!(agent.0.wait().unwrap().success());
    // Connections that were never accepted fill them.
    drop(servers);
    let _servers = serve();
    let once = || {
        let of = ["--once", "--shm", &name.to_string()];
        let done = Command::new(env!("CARGO_BIN_EXE_lbagent")).args(of).output().unwrap();
        (String::from_utf8(done.stdout).unwrap(), done.status.code())
    };
    let (table, status) = once();
    assert_eq!(status, Some(0), "{table}");
    assert!(table.contains("web/s1    agent  no answer") && table.contains("100% up"), "{table}");
    say("down #no database\n");
    let (table, status) = once();
    assert_eq!(status, Some(1), "{table}");
    assert!(table.contains("web/s2    agent  FAILED"), "{table}");
}
