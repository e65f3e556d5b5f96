//! Listeners and the reader, opened while this process may still do so; then connections, each a task.

use std::{
    cell::RefCell,
    io,
    net::{self, IpAddr, SocketAddr},
    ops::RangeInclusive,
    os::unix::net::UnixListener as StdUnixListener,
    path::Path,
    rc::Rc,
    time::Duration,
};

use nix::unistd::{Uid, User};
use synrail::{
    config::HttpSettings,
    sys::{control_socket, region::RegionName},
};
use tokio::net::{TcpListener, UnixListener};
use tracing::{error, info, warn};

use super::{
    limits::{Bucket, Counters, Refused, count},
    read::{Asker, Started},
    serve::{self, Server},
};
use crate::{lbd::Link, notice::Notice};

/// How long no connection is taken after one could not be, such as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// How long after it could not be had an address is tried again: at first, and at most.
const AGAIN: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// What the configuration asks for, opened.
#[derive(Default)]
pub struct Opened {
    settings: HttpSettings,
    unix: Option<StdUnixListener>,
    tcp: Vec<net::TcpListener>,
    later: Vec<Later>,
    reader: Option<Started>,
}

impl Opened {
    /// Opens what it can; what it cannot is logged. `program` is that of the reader.
    #[must_use]
    pub fn open(settings: HttpSettings, region: &RegionName, program: &Path, user: Option<&str>) -> Self {
        if !settings.serves() {
            return Self::default();
        }
        let reader = Started::start(program, region, user)
            .inspect_err(|error| error!(%error, "the reader cannot be started: HTTP shows nothing"));
        let path = control_socket::http_path(region);
        let unix = settings.unix.then(|| {
            control_socket::listen(&path)
                .inspect(|_| info!(path = %path.display(), "HTTP"))
                .inspect_err(|error| error!(path = %path.display(), %error, "no HTTP here"))
                .ok()
        });
        let (mut tcp, mut later) = (Vec::new(), Vec::new());
        for &at in &settings.listen {
            let mut at = Later { at, notice: Notice::default() };
            match at.bind() {
                Some(listener) => tcp.push(listener),
                None => later.push(at),
            }
        }
        Self { unix: unix.flatten(), tcp, later, reader: reader.ok(), settings }
    }

    /// As [`Opened::open`], of listeners that are open, and a reader that runs.
    #[must_use]
    pub fn of(
        settings: HttpSettings,
        unix: Option<StdUnixListener>,
        tcp: Vec<net::TcpListener>,
        reader: Started,
    ) -> Self {
        Self { settings, unix, tcp, later: Vec::new(), reader: Some(reader) }
    }

    /// Starts to serve.
    ///
    /// # Errors
    /// When the operating system does not wait for what is open.
    pub fn serve(self, lbd: Link) -> io::Result<Serving> {
        let Self { settings, unix, tcp, later, reader } = self;
        let asker = reader.map(Asker::start).transpose()?;
        let server = Rc::new(Server {
            names: settings.names.clone(),
            asker: asker.clone(),
            lbd,
            counters: Counters::default(),
            open: RefCell::default(),
            bucket: RefCell::new(Bucket::new(synrail::sys::clock::monotonic())),
        });
        if let Some(listener) = unix {
            let listener = UnixListener::from_std(listener)?;
            tokio::task::spawn_local(take_unix(Rc::clone(&server), listener));
        }
        for listener in tcp {
            let listener = TcpListener::from_std(listener)?;
            tokio::task::spawn_local(take_tcp(Rc::clone(&server), listener));
        }
        for at in later {
            tokio::task::spawn_local(take_later(Rc::clone(&server), at));
        }
        Ok(Serving { settings, asker, notice: Notice::default() })
    }
}

/// What is served.
pub struct Serving {
    settings: HttpSettings,
    asker: Option<Asker>,
    notice: Notice,
}

impl Serving {
    /// Reports whether that is what the configuration asks for.
    #[must_use]
    pub fn is(&self, settings: &HttpSettings) -> bool {
        self.settings == *settings || !(self.settings.serves() || settings.serves())
    }

    /// Logs that it is not what it should be.
    pub fn tell(&mut self) {
        let why =
            if self.reader_has_ended() { "the process that reads has ended" } else { "[http] has changed" };
        self.notice.raise("HTTP is not served as the region says until lbagent is started again", &why);
    }

    /// Reports whether the reader has ended.
    #[must_use]
    pub fn reader_has_ended(&self) -> bool {
        self.asker.as_ref().is_some_and(Asker::has_ended)
    }
}

/// Counts a connection as long as it is there.
struct Counted {
    server: Rc<Server>,
    source: Option<IpAddr>,
}

impl Counted {
    fn new(server: &Rc<Server>, source: Option<IpAddr>) -> Option<Self> {
        let counters = &server.counters;
        count(if source.is_some() { &counters.connections_tcp } else { &counters.connections_unix });
        match server.open.borrow_mut().add(source) {
            Ok(()) => Some(Self { server: Rc::clone(server), source }),
            Err(refused) => {
                count(match refused {
                    Refused::Full => &counters.refused_connections,
                    Refused::Source => &counters.refused_per_source,
                });
                None
            }
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.server.open.borrow_mut().remove(self.source);
    }
}

async fn take_unix(server: Rc<Server>, listener: UnixListener) {
    let mut notice = Notice::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Some(counted) = Counted::new(&server, None) else { continue };
                let uid = stream.peer_cred().map(|peer| peer.uid()).ok();
                let server = Rc::clone(&server);
                tokio::task::spawn_local(async move {
                    // A directory service may take long.
                    let by = match uid {
                        Some(uid) => tokio::task::spawn_blocking(move || name(uid)).await.ok(),
                        None => None,
                    };
                    let by = serve::Client { source: None, by };
                    serve::connection(&server, stream, by).await;
                    drop(counted);
                });
            }
            Err(error) => pause(&mut notice, &error).await,
        }
    }
}

async fn take_tcp(server: Rc<Server>, listener: TcpListener) {
    let mut notice = Notice::default();
    loop {
        match listener.accept().await {
            Ok((stream, source)) => {
                let source = source.ip();
                let Some(counted) = Counted::new(&server, Some(source)) else { continue };
                let server = Rc::clone(&server);
                tokio::task::spawn_local(async move {
                    let by = serve::Client { source: Some(source), by: None };
                    serve::connection(&server, stream, by).await;
                    drop(counted);
                });
            }
            Err(error) => pause(&mut notice, &error).await,
        }
    }
}

/// An address that may be had later, as when a device comes up or another program ends.
struct Later {
    at: SocketAddr,
    notice: Notice,
}

impl Later {
    /// Listens there. What keeps it from that is logged once.
    fn bind(&mut self) -> Option<net::TcpListener> {
        let Self { at, notice } = self;
        let listener = net::TcpListener::bind(*at).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        listener
            .inspect(|_| info!(%at, "HTTP, to read only"))
            .inspect_err(|error| notice.raise(&format!("no HTTP at {at} yet; it is tried again"), error))
            .ok()
    }
}

async fn take_later(server: Rc<Server>, mut at: Later) {
    let mut pause = *AGAIN.start();
    loop {
        tokio::time::sleep(pause).await;
        match at.bind().map(TcpListener::from_std) {
            Some(Ok(listener)) => return take_tcp(server, listener).await,
            Some(Err(error)) => at.notice.raise("no HTTP yet; it is tried again", &error),
            None => {}
        }
        pause = (pause * 2).min(*AGAIN.end());
    }
}

async fn pause(notice: &mut Notice, error: &io::Error) {
    notice.raise("a connection of HTTP cannot be taken; it is tried again", error);
    tokio::time::sleep(PAUSE).await;
}

/// Returns the name of a user.
fn name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid));
    user.inspect_err(|error| warn!(uid, %error, "the user's name"))
        .ok()
        .flatten()
        .map_or_else(|| format!("user {uid}"), |user| user.name)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        task::LocalSet,
        time::Instant,
    };

    use super::*;

    /// On a clock that jumps.
    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_there_later_is_served_then() {
        let other = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = other.local_addr().unwrap();
        let settings = HttpSettings { listen: vec![at], unix: false, ..HttpSettings::default() };
        let region = "lbagent-listen-test".parse().unwrap();
        let opened = Opened::open(settings, &region, Path::new("/bin/true"), None);
        assert!(opened.tcp.is_empty());
        let serve = async {
            let link = Link::start(Path::new("/nowhere"), None).unwrap();
            let _serving = opened.serve(link).unwrap();
            let began = Instant::now();
            let mut other = Some(other);
            let answer = loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if other.is_some() {
                    if began.elapsed() > *AGAIN.end() * 4 {
                        other = None;
                    }
                    continue;
                }
                let Ok(mut stream) = TcpStream::connect(at).await else { continue };
                let ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
                stream.write_all(ask).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                break answer;
            };
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(began.elapsed() < *AGAIN.end() * 6, "{:?}", began.elapsed());
        };
        LocalSet::new().run_until(serve).await;
    }
}
