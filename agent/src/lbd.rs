//! The connection to lbd: a Unix stream socket, a JSON object a line in each direction.
//!
//! Nothing is queued for an lbd that does not answer: a beat that is lost is followed by the next one, and what checks
//! found is sent again until it is in the region ([`synrail::control::health::Checks::observations`]).

use std::{
    cell::{Cell, RefCell},
    io, mem,
    net::IpAddr,
    os::unix::net,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use synrail::ops::{LINE_BYTES_MAX, Reply, Request};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::UnixStream,
    sync::{Notify, mpsc, oneshot},
    time::{Instant, timeout},
};

use crate::notice::Notice;

/// How many observations are in one request.
pub const FOUND_MAX: usize = 1000;
/// How long lbd may take to answer. A change with large tables takes a second.
const PATIENCE: Duration = Duration::from_secs(10);
const BACK_OFF_MIN: Duration = Duration::from_millis(250);
const BACK_OFF_MAX: Duration = Duration::from_secs(4);

/// The end of the connection that the event loop has.
#[derive(Clone, Debug)]
pub struct Link {
    requests: mpsc::Sender<Asked>,
    refused: Rc<Cell<bool>>,
    undelivered: Rc<Undelivered>,
}

/// What lbd has told of packets that were not delivered, and nothing has taken yet.
#[derive(Debug, Default)]
struct Undelivered {
    addresses: RefCell<Vec<IpAddr>>,
    told: Notify,
}

/// A request, and where its answer goes if that is waited for.
type Asked = (Request, Option<oneshot::Sender<io::Result<Reply>>>);

impl Link {
    /// Starts a task that keeps the connection: first `opened`, which may need rights that this process no longer has,
    /// then others. It ends when the link is dropped.
    ///
    /// # Errors
    /// When the operating system refuses to wait for `opened`.
    pub fn start(socket: &Path, opened: Option<net::UnixStream>) -> io::Result<Self> {
        let (to, requests) = mpsc::channel(2);
        let refused = Rc::new(Cell::new(false));
        let undelivered = Rc::new(Undelivered::default());
        let opened = opened.map(|stream| {
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        });
        let mut connection = Connection {
            socket: socket.to_owned(),
            stream: opened.transpose()?.map(BufStream::new),
            no_right: Rc::clone(&refused),
            undelivered: Rc::clone(&undelivered),
            back_off: BACK_OFF_MIN,
            not_before: Instant::now(),
            absent: Notice::default(),
            refused: Notice::default(),
        };
        tokio::task::spawn_local(async move { connection.serve(requests).await });
        Ok(Self { requests: to, refused, undelivered })
    }

    /// Reports whether this process has no right to connect again.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.refused.get()
    }

    /// Waits until lbd tells addresses of backends to which a packet was not delivered.
    pub async fn undelivered(&self) -> Vec<IpAddr> {
        self.undelivered.told.notified().await;
        self.undelivered.addresses.take()
    }

    /// Hands over a request. Returns false if those before it are not done yet.
    #[must_use]
    pub fn offer(&self, request: Request) -> bool {
        self.requests.try_send((request, None)).is_ok()
    }

    /// Hands over a request when those before it are done, and waits for its answer.
    ///
    /// # Errors
    /// When lbd is not there, or does not answer in time.
    pub async fn ask(&self, request: Request) -> io::Result<Reply> {
        let (to, answer) = oneshot::channel();
        let absent = || io::Error::new(io::ErrorKind::NotConnected, "lbd does not answer");
        let asked = async {
            self.requests.send((request, Some(to))).await.map_err(|_| absent())?;
            answer.await.map_err(|_| absent())?
        };
        timeout(PATIENCE * 2, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

struct Connection {
    socket: PathBuf,
    stream: Option<BufStream<UnixStream>>,
    /// Set when the operating system refuses to connect.
    no_right: Rc<Cell<bool>>,
    undelivered: Rc<Undelivered>,
    back_off: Duration,
    /// No connection is tried before.
    not_before: Instant,
    absent: Notice,
    refused: Notice,
}

impl Connection {
    async fn serve(&mut self, mut requests: mpsc::Receiver<Asked>) {
        while let Some((request, answer)) = requests.recv().await {
            if self.stream.is_none() && Instant::now() < self.not_before {
                continue;
            }
            let waited_for = answer.is_some();
            let exchanged = timeout(PATIENCE, self.exchange(&request)).await;
            let exchanged = exchanged.unwrap_or_else(|_| Err(io::Error::other("no answer in time")));
            match exchanged {
                Ok(mut reply) => {
                    self.back_off = BACK_OFF_MIN;
                    self.absent.clear("lbd answers again");
                    if !reply.undelivered.is_empty() {
                        // What nothing took in a second gives way.
                        self.undelivered.addresses.replace(mem::take(&mut reply.undelivered));
                        self.undelivered.told.notify_one();
                    }
                    match &reply.error {
                        _ if waited_for => {}
                        None => self.refused.clear("lbd accepts requests again"),
                        Some(error) => self.refused.raise("lbd refuses a request", error),
                    }
                    if let Some(answer) = answer {
                        let _ = answer.send(Ok(reply));
                    }
                }
                Err(error) => {
                    self.no_right.set(error.kind() == io::ErrorKind::PermissionDenied);
                    self.stream = None;
                    self.not_before = Instant::now() + self.back_off;
                    self.back_off = (self.back_off * 2).min(BACK_OFF_MAX);
                    let what = format!(
                        "lbd does not answer at {}; what checks find is told when it does",
                        self.socket.display()
                    );
                    self.absent.raise(&what, &error);
                    if let Some(answer) = answer {
                        let _ = answer.send(Err(error));
                    }
                }
            }
        }
    }

    /// Sends a request and returns the answer. If it is dropped, so must be the stream: the answer may come later.
    async fn exchange(&mut self, request: &Request) -> io::Result<Reply> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => BufStream::new(UnixStream::connect(&self.socket).await?),
        };
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        stream.flush().await?;
        let mut reply = Vec::new();
        (&mut stream).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut reply).await?;
        if reply.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let reply = serde_json::from_slice(&reply)?;
        self.stream = Some(stream);
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One socket, lbds that come and go: one that answers, one that closes, one that answers nonsense.
    #[tokio::test]
    async fn a_lost_lbd_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("lbd.sock");
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let link = Link::start(&socket, None).unwrap();
                let telling = "{\"ok\":true,\"undelivered\":[\"192.0.2.1\",\"2001:db8::1\"]}\n";
                assert!(
                    link.offer(Request::Beat { pid: 1, not_made: 0 }),
                    "nothing is there, and nothing waits"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
                let listener = tokio::net::UnixListener::bind(&socket).unwrap();
                for answer in ["", "nonsense\n", "{\"ok\":false,\"error\":\"no\"}\n", telling] {
                    let accepted = loop {
                        let _ = link.offer(Request::Beat { pid: 2, not_made: 0 });
                        match timeout(Duration::from_millis(50), listener.accept()).await {
                            Ok(accepted) => break accepted.unwrap().0,
                            Err(_) => continue,
                        }
                    };
                    let mut stream = BufStream::new(accepted);
                    let mut line = String::new();
                    stream.read_line(&mut line).await.unwrap();
                    assert_eq!(line, "{\"do\":\"beat\",\"pid\":2,\"not_made\":0}\n");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                }
                assert_eq!(
                    link.undelivered().await,
                    ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().unwrap())
                );
            })
            .await;
    }
}
