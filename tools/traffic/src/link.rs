//! A client's connection: opened from a given source, used for round trips or one transfer, closed in order.
//! Every step has a deadline, and every way to go wrong is a [`Fault`]. Each message is different (its bytes come
//! from the connection's number and the message's), so an old or foreign answer is a wrong one; and a connection
//! belongs to the server that answered first, so another name is a fault.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::fault::Fault;
use crate::frame::{self, Extent, Reply, Request};
use crate::name::Name;
use crate::socket::{self, Source};
use crate::stream::{CHUNK_BYTES, Checker, Stream};

/// Small: there are many connections, and long messages pass it by.
const BUFFER_BYTES: usize = 512;

/// A source port is free again when the peer has acknowledged the FIN of its last connection: so long it is waited for.
const PORT_WAIT: Duration = Duration::from_secs(1);
const PORT_LOOK: Duration = Duration::from_millis(1);

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Closing {
    /// The server closes first, asked to: no TIME_WAIT here, so a port can be used again at once
    Server,
    /// The client closes first and keeps the port in TIME_WAIT for a minute
    Client,
    /// The client ends it by a reset
    Reset,
}

/// Where to and how long to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) timeout: Duration,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    stream: BufReader<TcpStream>,
    timeout: Duration,
    number: u64,
    sent: u64,
    half_closed: bool,
    server: Option<Name>,
    out: Vec<u8>,
    body: Vec<u8>,
}

impl Link {
    /// Connects; an error means that there never was a connection.
    pub(crate) async fn open(target: Target, source: Option<Source>, number: u64) -> Result<Self, Fault> {
        let stream = match timeout(target.timeout, connect(target, source)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => return Err(Fault::NoConnection),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(Fault::NoConnection),
        };
        Ok(Self {
            stream: BufReader::with_capacity(BUFFER_BYTES, stream),
            timeout: target.timeout,
            number,
            sent: 0,
            half_closed: false,
            server: None,
            out: Vec::new(),
            body: Vec::new(),
        })
    }

    /// Sends a message and waits for its answer. Returns the server's name if it is the first answer.
    pub(crate) async fn round_trip(&mut self, message_bytes: usize) -> Result<Option<&Name>, Fault> {
        let mut message = vec![0; message_bytes];
        Stream::new((self.number << 32) ^ self.sent).fill(&mut message);
        self.sent += 1;
        let deadline = self.timeout;
        timeout(deadline, self.exchange(&message)).await.map_err(|_| Fault::NoAnswer)?
    }

    async fn exchange(&mut self, message: &[u8]) -> Result<Option<&Name>, Fault> {
        let sent = self.send(&Request::Echo(message)).await;
        let kind = self.receive(sent).await?;
        match Reply::decode(kind, &self.body) {
            Ok(Reply::Echo { name, message: answer }) if answer == message => self.served_by(name),
            Ok(Reply::Echo { .. } | Reply::Uploaded { .. } | Reply::Download { .. }) => {
                Err(Fault::WrongAnswer)
            }
            Ok(Reply::Refused) => Err(Fault::ServerFull),
            Err(frame::Malformed) => Err(Fault::Malformed),
        }
    }

    /// Sends a stream and lets the server check it; `moved` hears of each part. Returns the server's name and the
    /// offset of the first wrong byte.
    pub(crate) async fn upload(
        &mut self,
        extent: Extent,
        moved: impl Fn(u64),
    ) -> Result<(Name, Option<u64>), Fault> {
        let deadline = self.timeout;
        let mut sent = self.send(&Request::Upload(extent)).await;
        let mut stream = Stream::new(extent.seed);
        let mut left = extent.length;
        let mut chunk = vec![0; CHUNK_BYTES];
        while left > 0 && sent.is_ok() {
            let part = part(&mut chunk, left);
            stream.fill(part);
            sent = timeout(deadline, self.stream.write_all(part)).await.map_err(|_| Fault::NoAnswer)?;
            left -= part.len() as u64;
            moved(part.len() as u64);
        }
        let kind = timeout(deadline, self.receive(sent)).await.map_err(|_| Fault::NoAnswer)??;
        match Reply::decode(kind, &self.body) {
            Ok(Reply::Uploaded { name, mismatch }) => Ok((name, mismatch)),
            Ok(Reply::Echo { .. } | Reply::Download { .. }) => Err(Fault::WrongAnswer),
            Ok(Reply::Refused) => Err(Fault::ServerFull),
            Err(frame::Malformed) => Err(Fault::Malformed),
        }
    }

    /// Asks for a stream; [`Link::download`] then receives it. With `last` it says that it will ask nothing more (FIN)
    /// before there is an answer. Returns the server's name.
    pub(crate) async fn ask_download(&mut self, extent: Extent, last: bool) -> Result<Name, Fault> {
        let mut sent = self.send(&Request::Download(extent)).await;
        if last && sent.is_ok() {
            sent = self.stream.shutdown().await;
            self.half_closed = true;
        }
        let deadline = self.timeout;
        let kind = timeout(deadline, self.receive(sent)).await.map_err(|_| Fault::NoAnswer)??;
        match Reply::decode(kind, &self.body) {
            Ok(Reply::Download { name }) => Ok(name),
            Ok(Reply::Echo { .. } | Reply::Uploaded { .. }) => Err(Fault::WrongAnswer),
            Ok(Reply::Refused) => Err(Fault::ServerFull),
            Err(frame::Malformed) => Err(Fault::Malformed),
        }
    }

    /// Receives a stream up to its end or its first wrong byte, which it returns.
    pub(crate) async fn download(
        &mut self,
        extent: Extent,
        moved: impl Fn(u64),
    ) -> Result<Option<u64>, Fault> {
        let mut checker = Checker::new(extent.seed);
        let mut left = extent.length;
        let mut chunk = vec![0; CHUNK_BYTES];
        while left > 0 && checker.mismatch().is_none() {
            let part = part(&mut chunk, left);
            let got = timeout(self.timeout, self.stream.read(part)).await.map_err(|_| Fault::NoAnswer)??;
            if got == 0 {
                return Err(Fault::Closed);
            }
            checker.take(&part[..got]);
            left -= got as u64;
            moved(got as u64);
        }
        Ok(checker.mismatch())
    }

    /// Which server answered, if one has.
    pub(crate) fn server(&self) -> Option<&Name> {
        self.server.as_ref()
    }

    pub(crate) fn source(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().local_addr()
    }

    /// How many segments had to be sent again.
    pub(crate) fn retransmissions(&self) -> io::Result<u64> {
        socket::retransmissions(self.stream.get_ref())
    }

    /// Waits, while nothing is asked, until the connection breaks.
    pub(crate) async fn broken(&mut self) -> Fault {
        match self.stream.fill_buf().await {
            Ok([]) => Fault::Closed,
            Ok(_) => self.unasked().await,
            Err(error) => error.into(),
        }
    }

    /// What a server says without a question is why it will not serve, or wrong.
    async fn unasked(&mut self) -> Fault {
        match self.receive(Ok(())).await.map(|kind| Reply::decode(kind, &self.body)) {
            Ok(Ok(Reply::Refused)) => Fault::ServerFull,
            Ok(Ok(_)) => Fault::WrongAnswer,
            Ok(Err(frame::Malformed)) => Fault::Malformed,
            Err(why) => why,
        }
    }

    /// Ends the connection in order: both ends have closed when it returns.
    pub(crate) async fn close(&mut self, how: Closing) -> Result<(), Fault> {
        if how == Closing::Reset {
            return Ok(self.stream.get_ref().set_zero_linger()?);
        }
        let deadline = self.timeout;
        let end = async {
            match how {
                _ if self.half_closed => {}
                Closing::Server => self.send(&Request::Bye).await?,
                Closing::Client | Closing::Reset => self.stream.shutdown().await?,
            }
            self.stream.read(&mut [0]).await
        };
        match timeout(deadline, end).await {
            Ok(Ok(0)) => Ok(()),
            Ok(Ok(_)) => Err(Fault::WrongAnswer),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Fault::NoClose),
        }
    }

    async fn send(&mut self, request: &Request<'_>) -> io::Result<()> {
        self.out.clear();
        request.encode(&mut self.out);
        self.stream.write_all(&self.out).await
    }

    /// Reads a frame. When sending already failed, the server may still have said why.
    async fn receive(&mut self, sent: io::Result<()>) -> Result<u8, Fault> {
        match (frame::read(&mut self.stream, &mut self.body).await, sent) {
            (Ok(Some(kind)), _) => Ok(kind),
            (_, Err(error)) => Err(error.into()),
            (Ok(None), Ok(())) => Err(Fault::Closed),
            (Err(error), Ok(())) => Err(error.into()),
        }
    }

    fn served_by(&mut self, name: Name) -> Result<Option<&Name>, Fault> {
        match &self.server {
            Some(server) if *server == name => Ok(None),
            Some(_) => Err(Fault::ServerChanged),
            None => Ok(Some(self.server.insert(name))),
        }
    }
}

/// As much of the chunk as is left to do.
pub(crate) fn part(chunk: &mut [u8], left: u64) -> &mut [u8] {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
    &mut chunk[..length]
}

async fn connect(target: Target, source: Option<Source>) -> io::Result<TcpStream> {
    let to = target.address;
    let given_up = clock::now() + PORT_WAIT.min(target.timeout / 2);
    let fixed = source.is_some_and(|source| source.port != 0);
    loop {
        match socket::tcp_client(to, source)?.connect(to).await {
            Err(error)
                if error.kind() == io::ErrorKind::AddrNotAvailable && fixed && clock::now() < given_up =>
            {
                sleep(PORT_LOOK).await;
            }
            connected => return connected,
        }
    }
}
