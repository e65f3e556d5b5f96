//! Probes against real servers on loopback, good ones and hostile ones.

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use synrail::{
    config::Config,
    control::health::{Checks, Job},
    state::State,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

use super::*;

const LOOPBACK: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);
/// What a server can have sent to a probe that has read up to its limit: the buffers of two sockets.
const SENT_MAX: usize = 32 << 20;

/// A direct check of this address.
fn job(health: &str, to: SocketAddr) -> Job {
    let timeout = if health.contains("timeout_ms") { "" } else { "timeout_ms = 2000, " };
    let text = format!(
        "
        balancer = {{ name = 'lb1', address = '192.168.1.201', interfaces = ['eth0'] }}
        service = [ {{ name = 'web', vips = '10.0.0.1', table_size = 97,
            health = {{ port = 1, via = 'direct', {timeout}{health} }},
            backend = [ {{ name = 's1', address = '192.168.1.1' }} ] }} ]"
    );
    let state = State::new(&Config::parse("test", &text).unwrap()).unwrap();
    let mut checks = Checks::new(1);
    checks.update(&state, Duration::ZERO);
    let mut job = checks.next(Duration::ZERO).unwrap();
    job.to = vec![to];
    job
}

fn said(outcome: &Outcome) -> Result<String, String> {
    let reason = outcome.reason().as_str().to_owned();
    match outcome {
        Outcome::Succeeded(_) => Ok(reason),
        Outcome::Failed(_) => Err(reason),
        Outcome::NotMade(_) => Err(format!("not made: {reason}")),
    }
}

async fn check(health: &str, to: SocketAddr) -> Result<String, String> {
    said(&run(&job(health, to), &Host::default()).await)
}

/// An address at which nothing listens.
async fn closed() -> SocketAddr {
    TcpListener::bind(LOOPBACK).await.unwrap().local_addr().unwrap()
}

/// What a server answers.
#[derive(Clone)]
struct Answer {
    head: String,
    /// Sent behind the head, as often as the client takes it.
    again: String,
}

/// A server that answers each request, counts requests, and the bytes that were taken of its answers.
struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
}

impl Server {
    /// One that sends this, and waits until the client closes.
    async fn start(whole: &str) -> Self {
        Self::serve(None, Answer { head: whole.to_owned(), again: String::new() }).await
    }

    /// One that never comes to an end.
    async fn endless(head: &str, again: &str) -> Self {
        Self::serve(None, Answer { head: head.to_owned(), again: again.repeat(1000) }).await
    }

    async fn over_tls(tls: TlsAcceptor, whole: &str) -> Self {
        Self::serve(Some(tls), Answer { head: whole.to_owned(), again: String::new() }).await
    }

    async fn serve(tls: Option<TlsAcceptor>, answer: Answer) -> Self {
        let listener = TcpListener::bind(LOOPBACK).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let server = Self { address, requests: requests.clone(), sent: sent.clone() };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                requests.fetch_add(1, Ordering::Relaxed);
                let (answer, tls, sent) = (answer.clone(), tls.clone(), sent.clone());
                tokio::spawn(async move {
                    match tls {
                        None => give(stream, &answer, &sent).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                give(stream, &answer, &sent).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }
}

/// Reads a request up to its empty line, and answers it.
async fn give(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &Answer, sent: &AtomicUsize) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let _ = stream.write_all(answer.head.as_bytes()).await;
    while !answer.again.is_empty() && stream.write_all(answer.again.as_bytes()).await.is_ok() {
        sent.fetch_add(answer.again.len(), Ordering::Relaxed);
    }
    let _ = stream.flush().await;
    let _ = stream.read_u8().await;
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nit is ok";

#[tokio::test]
async fn tcp_connects_and_leaves_nothing() {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(check("kind = 'tcp'", address).await, Ok("connected".into()));
    let (mut stream, _) = listener.accept().await.unwrap();
    // Reset, so neither side keeps the connection.
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(check("kind = 'tcp'", closed().await).await, Err("connection refused".into()));
}

#[tokio::test]
async fn tcp_without_an_answer_ends_at_the_timeout() {
    // A full backlog takes no SYN.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(LOOPBACK).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let one =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM.nonblocking(), None).unwrap();
        let _ = one.connect(&address.into());
        waiting.push(one);
    }
    let found = check("kind = 'tcp', timeout_ms = 100", address).await;
    assert_eq!(found, Err("no connection within 100 ms".into()));
}

#[tokio::test]
async fn every_destination_must_answer() {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let mut job = job("kind = 'tcp'", listener.local_addr().unwrap());
    job.to.push(closed().await);
    let found = said(&run(&job, &Host::default()).await);
    assert_eq!(found, Err("127.0.0.1: connection refused".into()));
}

#[tokio::test]
async fn http_looks_at_status_and_body() {
    let server = Server::start(OK).await;
    let at = server.address;
    assert_eq!(check("kind = 'http'", at).await, Ok("status 200".into()));
    assert_eq!(
        check("kind = 'http', body = 'is ok'", at).await,
        Ok("status 200, the body has \"is ok\"".into())
    );
    assert_eq!(check("kind = 'http', body = 'well'", at).await, Err("the body has no \"well\"".into()));
    assert_eq!(check("kind = 'http', status = 204", at).await, Err("status 200".into()));
    let failing = Server::start("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(check("kind = 'http'", failing.address).await, Err("status 500".into()));
    assert_eq!(check("kind = 'http'", closed().await).await, Err("connection refused".into()));
}

#[tokio::test]
async fn http_says_what_it_asks_for() {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).await.unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    let health = "kind = 'http', method = 'HEAD', path = '/health?deep=1', host = 'www.example.org:8080'";
    assert_eq!(check(health, address).await, Err("closed without a whole response".into()));
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("HEAD /health?deep=1 HTTP/1.1\r\n"), "{asked}");
    for header in ["host: www.example.org:8080\r\n", "connection: close\r\n", "user-agent: synrail-lbagent/"]
    {
        assert!(asked.contains(header), "{asked}");
    }
}

#[tokio::test]
async fn http_does_not_follow_redirections() {
    let head = "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n";
    let server = Server::start(head).await;
    assert_eq!(check("kind = 'http', status = '200-299'", server.address).await, Err("status 302".into()));
    assert_eq!(server.requests.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn http_survives_what_a_server_sends() {
    let garbage = Server::start("\u{0}\u{1}garbage\r\n\r\n").await;
    let found = check("kind = 'http'", garbage.address).await.unwrap_err();
    assert!(found.starts_with("not HTTP"), "{found}");
    let headers = Server::endless("HTTP/1.1 200 OK\r\n", "X-More: and more\r\n").await;
    let found = check("kind = 'http'", headers.address).await.unwrap_err();
    assert_eq!(found, "more than 100 headers, or 64 KiB of them");
    assert!(headers.sent() < SENT_MAX, "{}", headers.sent());
    let first = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = first.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = first.accept().await.unwrap();
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
        let _ = stream.read(&mut [0; 1024]).await;
        tokio::time::sleep(Duration::from_secs(9)).await;
    });
    let found = check("kind = 'http'", address).await.unwrap_err();
    assert!(found.contains("not HTTP"), "{found}");
    let one_header = Server::endless("HTTP/1.1 200 OK\r\nX-Long: ", "and more ").await;
    let found = check("kind = 'http'", one_header.address).await.unwrap_err();
    assert_eq!(found, "more than 100 headers, or 64 KiB of them");
    assert!(one_header.sent() < SENT_MAX, "{}", one_header.sent());
    let body = Server::endless("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n", "0123456789").await;
    let found = check("kind = 'http', body = 'not there'", body.address).await.unwrap_err();
    assert_eq!(found, "the first 64 KiB of the body have no \"not there\"");
    assert!(body.sent() < SENT_MAX, "{}", body.sent());
    let chunks = Server::endless(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        &format!("100\r\n{}\r\n", "x".repeat(256)),
    )
    .await;
    let found = check("kind = 'http', body = 'y'", chunks.address).await.unwrap_err();
    assert_eq!(found, "the first 64 KiB of the body have no \"y\"");
}

#[tokio::test]
async fn http_that_is_slow_ends_at_the_timeout() {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap();
    let found = check("kind = 'http', timeout_ms = 100", address).await;
    assert_eq!(found, Err("no response within 100 ms".into()), "it never answers");
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await;
                while stream.write_all(b".").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
    });
    let found = check("kind = 'http', body = 'x', timeout_ms = 200", address).await;
    assert_eq!(found, Err("no end of the body within 200 ms".into()), "a byte now and then");
}

/// A certificate authority, as a file, and a server's certificate.
struct Certificates {
    directory: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, directory.path().display().to_string());
        let key = KeyPair::generate().unwrap();
        fs::write(directory.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { directory, issuer: Issuer::new(params, key) }
    }

    fn ca_file(&self) -> String {
        self.directory.path().join("ca.pem").display().to_string()
    }

    fn server(&self, name: &str, year: i32) -> TlsAcceptor {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(year, 1, 1));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

#[tokio::test]
async fn https_looks_at_the_certificate() {
    let certificates = Certificates::new();
    let serve = async |name: &str, year| Server::over_tls(certificates.server(name, year), OK).await.address;
    let good = serve("www.example.org", 2100).await;
    let trusted = format!("kind = 'https', host = 'www.example.org', ca_file = '{}'", certificates.ca_file());
    assert_eq!(
        check(&format!("{trusted}, body = 'ok'"), good).await.unwrap(),
        "status 200, the body has \"ok\""
    );
    let other = format!("{trusted}, server_name = 'api.example.org'");
    let found = check(&other, good).await.unwrap_err();
    assert_eq!(found, "certificate of another name than api.example.org");
    let ended = serve("www.example.org", 2020).await;
    assert_eq!(check(&trusted, ended).await.unwrap_err(), "certificate expired");
    assert_eq!(check("kind = 'https', verify = false", ended).await.unwrap(), "status 200");
    let strange = Certificates::new();
    let strange = format!("kind = 'https', host = 'www.example.org', ca_file = '{}'", strange.ca_file());
    assert_eq!(check(&strange, good).await.unwrap_err(), "certificate of an issuer that is not trusted");
    let by_address = serve("127.0.0.1", 2100).await;
    let found = check(&format!("kind = 'https', ca_file = '{}'", certificates.ca_file()), by_address).await;
    assert_eq!(found.unwrap(), "status 200");
}

#[tokio::test]
async fn https_says_what_is_wrong_with_tls() {
    let plain = Server::start(OK).await;
    let found = check("kind = 'https', verify = false, timeout_ms = 300", plain.address).await;
    assert_eq!(found, Err("no TLS handshake within 300 ms".into()), "it waits for the end of a request");
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for answer in [&b""[..], b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 4096];
            let _ = stream.read(&mut hello).await;
            let _ = stream.write_all(answer).await;
        }
    });
    assert_eq!(
        check("kind = 'https', verify = false", address).await,
        Err("closed amid the TLS handshake".into())
    );
    assert_eq!(check("kind = 'https', verify = false", address).await, Err("not TLS".into()));
    let missing = check("kind = 'https', ca_file = '/nonexistent'", address).await.unwrap_err();
    assert!(missing.starts_with("not made: ca_file cannot be read: "), "{missing}");
}

#[tokio::test]
async fn what_this_host_lacks_is_no_failure_of_the_backend() {
    let server = Server::start(OK).await;
    // It has no address that packets through a tunnel come from.
    let mut job = job("kind = 'tcp'", server.address);
    (job.mark, job.from.v4) = (Some(Mark(0)), Some(Ipv4Addr::new(192, 0, 2, 201)));
    let unbound = said(&run(&job, &Host::default()).await).unwrap_err();
    assert!(unbound.starts_with("not made: "), "{unbound}");
    // One destination that fails says more than another that cannot be asked.
    job.to = vec![server.address, closed().await];
    job.mark = None;
    assert_eq!(said(&run(&job, &Host::default()).await), Err("127.0.0.1: connection refused".into()));
}

#[tokio::test]
async fn certificates_are_read_again_when_their_file_changes() {
    let (first, second) = (Certificates::new(), Certificates::new());
    let server = Server::over_tls(first.server("127.0.0.1", 2100), OK).await;
    let job = job(&format!("kind = 'https', ca_file = '{}'", second.ca_file()), server.address);
    let host = Host::default();
    assert!(said(&run(&job, &host).await).is_err());
    // Other bytes in the same instant have another length.
    let text = fs::read_to_string(first.ca_file()).unwrap() + "\n\n";
    fs::write(second.ca_file(), text).unwrap();
    assert_eq!(said(&run(&job, &host).await), Ok("status 200".into()));
}

#[tokio::test]
async fn udp_takes_an_answer_or_silence() {
    let server = UdpSocket::bind(LOOPBACK).await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        loop {
            let (length, from) = server.recv_from(&mut buffer).await.unwrap();
            if &buffer[..length] == b"ping" {
                let _ = server.send_to(b"this is pong", from).await;
            }
        }
    });
    assert_eq!(
        check("kind = 'udp', send = 'ping', expect = 'pong'", address).await,
        Ok("the answer has \"pong\"".into())
    );
    let found = check("kind = 'udp', send = 'ping', expect = 'pang'", address).await;
    assert_eq!(found, Err("the answer has no \"pang\"".into()));
    assert_eq!(check("kind = 'udp', send = 'ping'", address).await, Ok("answered".into()));
    let silent = check("kind = 'udp', send = 'hush', timeout_ms = 100", address).await;
    assert_eq!(silent, Ok("port not unreachable".into()));
    let silent = check("kind = 'udp', send = 'hush', expect = 'x', timeout_ms = 100", address).await;
    assert_eq!(silent, Err("no answer within 100 ms".into()));
    let nothing = UdpSocket::bind(LOOPBACK).await.unwrap().local_addr().unwrap();
    assert_eq!(check("kind = 'udp', send = 'ping'", nothing).await, Err("port unreachable".into()));
}

#[tokio::test]
async fn dns_asks_and_compares() {
    let server = UdpSocket::bind(LOOPBACK).await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (length, from) = server.recv_from(&mut buffer).await.unwrap();
            // Something else first, which must be passed over.
            let _ = server.send_to(b"garbage", from).await;
            let mut answer = buffer[..length].to_vec();
            answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 7]);
            let _ = server.send_to(&answer, from).await;
        }
    });
    let asked = "kind = 'dns', query = 'www.example.org'";
    assert_eq!(check(asked, address).await, Ok("1 records".into()));
    assert_eq!(
        check(&format!("{asked}, expect = '192.0.2.7'"), address).await,
        Ok("the answer has 192.0.2.7".into())
    );
    let found = check(&format!("{asked}, expect = '192.0.2.8'"), address).await;
    assert_eq!(found, Err("the answer has no 192.0.2.8".into()));
}

#[tokio::test]
#[ignore = "needs CAP_NET_RAW"]
async fn icmp_gets_an_echo() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let address = address.parse().unwrap();
        assert_eq!(check("kind = 'icmp'", address).await, Ok("echo reply".into()), "{address}");
        // Many at once: each gets its own answer only.
        let all = join_all((0..64).map(|_| check("kind = 'icmp'", address))).await;
        assert!(all.iter().all(Result::is_ok));
    }
}

#[tokio::test]
async fn exec_takes_the_exit_status_and_the_last_line() {
    let at = SocketAddr::from(([192, 0, 2, 1], 80));
    let sh = |script: &str| format!("kind = 'exec', command = ['/bin/sh', '-c', '{script}']");
    assert_eq!(check(&sh("echo one; echo two; exit 0"), at).await, Ok("two".into()));
    assert_eq!(check(&sh("echo bad >&2; exit 3"), at).await, Err("bad".into()));
    assert_eq!(check(&sh("exit 3"), at).await, Err("exit status: 3".into()));
    assert!(check(&sh("kill -9 $$"), at).await.unwrap_err().contains("signal: 9"));
    let found = check(&sh("echo $SYNRAIL_SERVICE/$SYNRAIL_BACKEND $SYNRAIL_ADDRESS $SYNRAIL_PORT"), at).await;
    assert_eq!(found, Ok("web/s1 192.0.2.1 80".into()));
    assert_eq!(check(&sh("env | grep -vc ^SYNRAIL_ ; pwd; read x; echo end"), at).await, Ok("end".into()));
    let missing = check("kind = 'exec', command = ['/nonexistent']", at).await.unwrap_err();
    assert!(missing.starts_with("not made: the program cannot be started: "), "{missing}");
}

#[tokio::test]
async fn exec_passes_nothing_of_its_own_environment() {
    let at = SocketAddr::from(([192, 0, 2, 1], 80));
    let found = check("kind = 'exec', command = ['/usr/bin/env']", at).await.unwrap();
    assert!(found.starts_with("SYNRAIL_") || found.starts_with("PATH="), "{found}");
    let others = "kind = 'exec', command = ['/bin/sh', '-c', '/usr/bin/env | grep -c HOME; exit 0']";
    assert_eq!(check(others, at).await, Ok("0".into()));
}

#[tokio::test]
async fn exec_ends_with_all_it_started() {
    let at = SocketAddr::from(([192, 0, 2, 1], 80));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
    let found =
        check(&format!("kind = 'exec', command = ['/bin/sh', '-c', '{script}'], timeout_ms = 500"), at).await;
    assert_eq!(found, Err("no end of the program within 500 ms".into()));
    let started = fs::read_to_string(&file).unwrap();
    let gone = |pid: &str| {
        let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        !state.contains(") S ") && !state.contains(") R ")
    };
    for _ in 0..100 {
        if gone(&started) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(gone(&started), "what it has started is killed too");
    // One that leaves something behind and ends well.
    let script = format!("sleep 1000 & echo $! > {}; echo done", file.display());
    let found = check(&format!("kind = 'exec', command = ['/bin/sh', '-c', '{script}']"), at).await;
    assert_eq!(found, Ok("done".into()));
}

#[tokio::test]
async fn exec_output_is_bounded() {
    let at = SocketAddr::from(([192, 0, 2, 1], 80));
    let found = check("kind = 'exec', command = ['/usr/bin/yes'], timeout_ms = 300", at).await;
    assert_eq!(found, Err("no end of the program within 300 ms".into()));
    let much = "kind = 'exec', command = ['/bin/sh', '-c', 'head -c 1000000 /dev/zero; exit 0']";
    assert!(check(much, at).await.is_ok());
}

#[test]
fn words_of_strangers_make_a_line() {
    assert_eq!(remark("a\r\nb\u{202e}c").as_str(), "a  b c");
    assert_eq!(remark(&"ä".repeat(300)).as_str().len(), Remark::BYTES_MAX);
    assert_eq!(remark("\n").as_str(), "no reason given");
}
