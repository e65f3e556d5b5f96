//! The server: says its name to every client that asks, over TCP (frame.rs) and UDP (datagram.rs).
//!
//! One task per socket and per connection, on one thread. At most `connections_max` connections are served at
//! once; one more is told so by a `refused` frame and closed, which clients report as `server_full`. A connection
//! that is silent for [`Options::idle`] is closed. An answer to a datagram comes from the address that was asked
//! (answering.rs).

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::answering::AnsweringSocket;
use crate::cli::ServerArgs;
use crate::datagram::{self, DATAGRAM_BYTES_MAX};
use crate::frame::{self, Extent, Reply, Request};
use crate::link::part;
use crate::name::Name;
use crate::output;
use crate::run::Signals;
use crate::socket;
use crate::stream::{CHUNK_BYTES, Checker, Stream};

/// Small: there are many connections, and long messages pass it by.
const BUFFER_BYTES: usize = 512;
/// Buffers that grew beyond this for one long message are not kept.
const KEEP_BYTES: usize = 4096;
/// The rest after an error that may last, such as no free file.
const REST: Duration = Duration::from_millis(100);

pub(crate) async fn run(args: ServerArgs) -> anyhow::Result<ExitCode> {
    let allowed = socket::allow_connections(args.connections_max).context("the limit of open files")?;
    if allowed < args.connections_max {
        output::say(format_args!(
            "traffic: the limit of open files is enough for {allowed} connections only\n"
        ));
    }
    let options = Options {
        name: args.name.map_or_else(host_name, Ok)?,
        connections_max: usize::try_from(allowed)?,
        idle: Duration::from_secs(args.idle_s),
    };
    let mut signals = Signals::new()?;
    let server = Server::listen(&args.tcp, &args.udp)?;
    for (protocol, address) in server.addresses()? {
        output::say(format_args!("listening: {protocol} {address}\n"));
    }
    if let Err(unsaid) = output::answer("ready\n") {
        output::say(format_args!("traffic: ready; {unsaid}\n"));
    }
    let served = Arc::new(Served::default());
    tokio::select! {
        ended = server.serve(options, served.clone()) => ended?,
        () = signals.any() => {}
    }
    output::say(format_args!("{served}\n"));
    Ok(ExitCode::SUCCESS)
}

fn host_name() -> anyhow::Result<Name> {
    let host = nix::unistd::gethostname().context("the host's name")?;
    Name::from_bytes(host.as_encoded_bytes())
        .with_context(|| format!("the host's name {host:?} cannot be used: give --name"))
}

/// What the server is to do.
#[derive(Debug)]
struct Options {
    name: Name,
    connections_max: usize,
    idle: Duration,
}

/// What the server did.
#[derive(Debug, Default)]
struct Served {
    connections: AtomicU64,
    refused: AtomicU64,
    broken: AtomicU64,
    datagrams: AtomicU64,
    not_ours: AtomicU64,
    socket_errors: AtomicU64,
}

impl std::fmt::Display for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(
            f,
            "served: {} connections ({} broken, {} refused), {} datagrams ({} not ours), {} socket errors",
            get(&self.connections),
            get(&self.broken),
            get(&self.refused),
            get(&self.datagrams),
            get(&self.not_ours),
            get(&self.socket_errors)
        )
    }
}

/// All sockets, listening.
#[derive(Debug)]
struct Server {
    tcp: Vec<TcpListener>,
    udp: Vec<AnsweringSocket>,
}

impl Server {
    fn listen(tcp: &[SocketAddr], udp: &[SocketAddr]) -> anyhow::Result<Self> {
        let tcp = tcp.iter().map(|&at| socket::tcp_server(at).with_context(|| format!("tcp {at}")));
        let udp = udp.iter().map(|&at| AnsweringSocket::bind(at).with_context(|| format!("udp {at}")));
        Ok(Self { tcp: tcp.collect::<Result<_, _>>()?, udp: udp.collect::<Result<_, _>>()? })
    }

    /// The addresses it listens at, with the ports that the kernel chose for port 0.
    fn addresses(&self) -> io::Result<Vec<(&'static str, SocketAddr)>> {
        let tcp = self.tcp.iter().map(|socket| Ok(("tcp", socket.local_addr()?)));
        let udp = self.udp.iter().map(|socket| Ok(("udp", socket.local_addr()?)));
        tcp.chain(udp).collect()
    }

    /// Serves until the future is dropped.
    async fn serve(self, options: Options, served: Arc<Served>) -> anyhow::Result<()> {
        let places = Arc::new(Semaphore::new(options.connections_max));
        let options = Arc::new(options);
        let mut sockets = JoinSet::new();
        for listener in self.tcp {
            sockets.spawn(accept(listener, places.clone(), options.clone(), served.clone()));
        }
        for socket in self.udp {
            sockets.spawn(answer_datagrams(socket, options.clone(), served.clone()));
        }
        while let Some(ended) = sockets.join_next().await {
            ended?;
        }
        Ok(())
    }
}

async fn accept(listener: TcpListener, places: Arc<Semaphore>, options: Arc<Options>, served: Arc<Served>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            count(&served.socket_errors);
            sleep(REST).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            count(&served.refused);
            refuse(&stream);
            continue;
        };
        count(&served.connections);
        let (options, served) = (options.clone(), served.clone());
        connections.spawn(async move {
            if connection(stream, &options).await.is_err() {
                count(&served.broken);
            }
            drop(place);
        });
    }
}

/// The socket's buffer is empty yet, so the frame fits; if not, closing says enough.
fn refuse(stream: &TcpStream) {
    let mut out = Vec::new();
    Reply::Refused.encode(&mut out);
    let _ = stream.try_write(&out);
}

async fn connection(stream: TcpStream, options: &Options) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(BUFFER_BYTES, stream);
    let (mut body, mut out) = (Vec::new(), Vec::new());
    loop {
        let Some(kind) = timeout(options.idle, frame::read(&mut stream, &mut body)).await?? else {
            return Ok(());
        };
        let name = options.name.clone();
        out.clear();
        match Request::decode(kind, &body)? {
            Request::Echo(message) => Reply::Echo { name, message }.encode(&mut out),
            Request::Upload(extent) => {
                let mismatch = check_upload(&mut stream, extent, options.idle).await?;
                Reply::Uploaded { name, mismatch }.encode(&mut out);
            }
            Request::Download(extent) => {
                Reply::Download { name }.encode(&mut out);
                timeout(options.idle, stream.write_all(&out)).await??;
                send_download(&mut stream, extent, options.idle).await?;
                out.clear();
            }
            Request::Bye => return Ok(()),
        }
        timeout(options.idle, stream.write_all(&out)).await??;
        body.clear();
        body.shrink_to(KEEP_BYTES);
        out.shrink_to(KEEP_BYTES);
    }
}

/// Takes the whole stream, also after a wrong byte: the client is still sending and could not hear of it.
async fn check_upload(
    stream: &mut BufReader<TcpStream>,
    extent: Extent,
    idle: Duration,
) -> io::Result<Option<u64>> {
    let mut checker = Checker::new(extent.seed);
    let mut left = extent.length;
    let mut chunk = vec![0; CHUNK_BYTES];
    while left > 0 {
        let part = part(&mut chunk, left);
        let got = timeout(idle, stream.read(part)).await??;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        checker.take(&part[..got]);
        left -= got as u64;
    }
    Ok(checker.mismatch())
}

async fn send_download(stream: &mut BufReader<TcpStream>, extent: Extent, idle: Duration) -> io::Result<()> {
    let mut bytes = Stream::new(extent.seed);
    let mut left = extent.length;
    let mut chunk = vec![0; CHUNK_BYTES];
    while left > 0 {
        let part = part(&mut chunk, left);
        bytes.fill(part);
        timeout(idle, stream.write_all(part)).await??;
        left -= part.len() as u64;
    }
    Ok(())
}

async fn answer_datagrams(mut socket: AnsweringSocket, options: Arc<Options>, served: Arc<Served>) {
    let mut question = vec![0; DATAGRAM_BYTES_MAX];
    let mut out = Vec::new();
    loop {
        let Ok((length, asker)) = socket.receive(&mut question).await else {
            count(&served.socket_errors);
            sleep(REST).await;
            continue;
        };
        if !datagram::answer(&mut out, &question[..length], &options.name) {
            count(&served.not_ours);
            continue;
        }
        match socket.answer(&asker, &out).await {
            Ok(()) => count(&served.datagrams),
            Err(_) => count(&served.socket_errors),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
