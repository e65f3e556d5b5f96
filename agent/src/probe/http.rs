//! A request over HTTP/1.1, and what comes back: the status, and the beginning of the body if that matters.

use std::error::Error as _;

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::Builder,
    header::{ACCEPT, CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use synrail::model::HttpProbe;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Failed, Found, Target, contains, socket, tcp};

/// How many headers an answer may have.
const HEADERS_MAX: usize = 100;
/// How long they may be together. The buffer of the connection has the same limit.
const HEADERS_BYTES_MAX: usize = 64 << 10;
const AGENT: &str = concat!("synrail-lbagent/", env!("CARGO_PKG_VERSION"));

/// Asks a server.
pub async fn probe(target: &Target, probe: &HttpProbe) -> Found {
    let stream = tcp::connect(target).await?;
    exchange(stream, target, probe, 80).await
}

/// Sends the request and judges the answer. `port` is the one that a URL need not name.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    target: &Target,
    probe: &HttpProbe,
    port: u16,
) -> Found {
    target.wait_for("response");
    let request = request(target, probe, port)?;
    let mut builder = Builder::new();
    builder.max_headers(HEADERS_MAX).max_header_size(HEADERS_BYTES_MAX).max_buf_size(HEADERS_BYTES_MAX);
    let opened = builder.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = opened.map_err(|error| words(&error))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| words(&error))?;
        judge(response, target, probe).await
    };
    // The connection does the reading and writing. Its errors reach the request.
    let connection = async {
        let _ = connection.await;
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        found = answer => found,
        never = connection => match never {},
    }
}

fn request(target: &Target, probe: &HttpProbe, port: u16) -> Result<Request<Empty<Bytes>>, Failed> {
    let host = match &probe.host {
        Some(host) => host.clone(),
        None if target.to.port() == port && target.to.is_ipv6() => format!("[{}]", target.to.ip()),
        None if target.to.port() == port => target.to.ip().to_string(),
        None => target.to.to_string(),
    };
    Request::builder()
        .method(probe.method.as_str())
        .uri(probe.path.as_str())
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| Failed::Host(format!("this request cannot be sent: {error}")))
}

async fn judge(response: Response<Incoming>, target: &Target, probe: &HttpProbe) -> Found {
    let status = response.status().as_u16();
    let said = format!("status {status}");
    if !probe.status.iter().any(|range| range.contains(status)) {
        return Err(said.into());
    }
    let Some(text) = &probe.body else { return Ok(said) };
    target.wait_for("end of the body");
    let (mut read, mut body) = (Vec::new(), response.into_body());
    while read.len() < HttpProbe::BODY_BYTES_MAX {
        let Some(frame) = body.frame().await else {
            let why = if read.is_empty() { format!("{said}, without a body") } else { has_no(text) };
            return Err(why.into());
        };
        let frame = frame.map_err(|error| format!("{said}, but the body: {}", words(&error)))?;
        let Some(data) = frame.data_ref() else { continue };
        let room = HttpProbe::BODY_BYTES_MAX - read.len();
        // The text may have begun in what was read before.
        let from = read.len().saturating_sub(text.len());
        read.extend_from_slice(&data[..data.len().min(room)]);
        if contains(&read[from..], text.as_bytes()) {
            return Ok(format!("{said}, the body has {text:?}"));
        }
    }
    Err(format!("the first {} KiB of the body have no {text:?}", HttpProbe::BODY_BYTES_MAX >> 10).into())
}

fn has_no(text: &str) -> String {
    format!("the body has no {text:?}")
}

/// Returns what an error means for the backend.
fn words(error: &hyper::Error) -> String {
    let system = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    // hyper has a method for it in servers only.
    if error.is_parse() && error.to_string().contains("too large") {
        format!("more than {HEADERS_MAX} headers, or {} KiB of them", HEADERS_BYTES_MAX >> 10)
    } else if error.is_parse() {
        format!("not HTTP: {}", error.source().map_or_else(|| error.to_string(), ToString::to_string))
    } else if error.is_canceled() {
        "it speaks before it is asked: not HTTP".to_owned()
    } else if error.is_incomplete_message() {
        "closed without a whole response".to_owned()
    } else if let Some(system) = system {
        socket::words(system)
    } else {
        error.to_string()
    }
}
