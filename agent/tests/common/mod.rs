//! A server that is asked by a Unix socket and by TCP on loopback, beside a region and an lbd that is played.

use std::{
    cell::Cell,
    future::Future,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener as StdTcpListener,
    os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    path::PathBuf,
    time::Duration,
};

use lbagent::{
    http::{listen::Opened, read::Started},
    lbd::Link,
    reader::Reader,
};
use serde_json::Value;
use synrail::{
    config::{Config, HttpSettings},
    model::{AgentHealth, AgentMode, Name, Override, Percent, Remark, Reported, Silent},
    ops::{Reply, Request},
    state::{Report, State},
    status::Sources,
    sys::region::{Region, RegionName},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

const FILE: &str = "
balancer = { name = 'lb1', address = '192.0.2.201', interfaces = ['lo'] }
http = { listen = '127.0.0.1:1', names = 'lb1.example.net' }
service = [
    { name = 'web', vips = '198.51.100.1', protocols = 'tcp', ports = 80, table_size = 97, health = { kind = 'tcp', agent_port = 5555 },
      backend = [ { name = 's1', address = '192.0.2.1' }, { name = 's2', address = '192.0.2.2', weight = 2 } ] } ]";

/// All that the agent on s2 can report.
fn report() -> Report {
    let (since, reason) = (Override::time(1000), Remark::new("disk full"));
    let silent = reason.clone().map(|reason| Silent { since, reason });
    let reported = Reported {
        weight_percent: Percent::nearest(50),
        mode: AgentMode::Maint,
        health: AgentHealth::Stopped,
        since,
        reason,
        silent,
    };
    Report { service: Name::new("web").unwrap(), backend: Name::new("s2").unwrap(), reported }
}

struct Removed(RegionName);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = Region::remove(&self.0);
    }
}

/// A server that runs as long as the test.
pub(crate) struct World {
    pub(crate) unix: PathBuf,
    pub(crate) tcp: std::net::SocketAddr,
}

/// What came back.
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Got {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn has(&self, header: &str) -> bool {
        self.head.to_ascii_lowercase().contains(&header.to_ascii_lowercase())
    }
}

pub(crate) async fn send(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Got {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{request}: {answer}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Got { status, head: head.to_owned(), body: body.to_owned() }
}

impl World {
    pub(crate) async fn unix(&self, request: &str) -> Got {
        send(UnixStream::connect(&self.unix).await.unwrap(), request).await
    }

    pub(crate) async fn tcp(&self, request: &str) -> Got {
        send(TcpStream::connect(self.tcp).await.unwrap(), request).await
    }
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

pub(crate) fn post(path: &str, media: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {media}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// An lbd that does what it is asked for a region without a kernel.
fn play_lbd(listener: &StdUnixListener, name: &RegionName) {
    let Ok((stream, _)) = listener.accept() else { return };
    let mut region = Region::open(name).unwrap();
    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
        let Ok(line) = line else { return };
        let request: Request = serde_json::from_str(&line).unwrap();
        let reply = match &request {
            Request::Admin { service, names, order } => {
                let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                let changed = region.update(|live| {
                    let next = live.set_admin(service.as_ref().map(|name| name.as_str()), &names, order);
                    let next = next.map_err(synrail::ops::OpsError::from)?;
                    let changes = live.changes(&next);
                    Ok::<_, synrail::ops::OpsError>((Some(next), changes))
                });
                changed.map_or_else(
                    |error| Reply::failed(&error),
                    |(generation, changes)| Reply { generation: Some(generation), ..Reply::done(changes) },
                )
            }
            Request::Beat { .. } | Request::Observe { .. } | Request::Kill { .. } | Request::Apply { .. } => {
                Reply { warnings: vec![format!("{request:?}")], ..Reply::done(Vec::new()) }
            }
        };
        let line = serde_json::to_string(&reply).unwrap() + "\n";
        if (&stream).write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}

pub(crate) fn in_world<F: Future<Output = ()>>(test: impl FnOnce(World) -> F) {
    thread_local!(static NUMBER: Cell<u32> = const { Cell::new(0) });
    let number = NUMBER.replace(NUMBER.get() + 1);
    let thread = format!("{:?}", std::thread::current().id()).replace(|c: char| !c.is_ascii_digit(), "");
    let name: RegionName = format!("lbagent-http-{}-{thread}-{number}", std::process::id()).parse().unwrap();
    let state = State::new(&Config::parse("test", FILE).unwrap()).unwrap().hear(&[report()]);
    let _removed = Removed(name.clone());
    Region::create(&name, &state).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let unix = directory.path().join("test.http");
    let listener = StdUnixListener::bind(&unix).unwrap();
    listener.set_nonblocking(true).unwrap();
    let tcp = StdTcpListener::bind("127.0.0.1:0").unwrap();
    tcp.set_nonblocking(true).unwrap();
    let at = tcp.local_addr().unwrap();
    let (ours, its) = StdUnixStream::pair().unwrap();
    let of_reader = name.clone();
    std::thread::spawn(move || Reader::new(of_reader, Sources::of_host()).serve(its));
    let lbd = directory.path().join("lbd.sock");
    let of_lbd = StdUnixListener::bind(&lbd).unwrap();
    std::thread::spawn(move || play_lbd(&of_lbd, &name));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let settings = HttpSettings { names: vec!["lb1.example.net".to_owned()], ..state.balancer.http };
        let opened = Opened::of(settings, Some(listener), vec![tcp], Started::of(ours));
        let _serving = opened.serve(Link::start(&lbd, None).unwrap()).unwrap();
        test(World { unix, tcp: at }).await;
    });
}
