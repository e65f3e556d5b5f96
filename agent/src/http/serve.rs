//! One connection: reads requests, and answers them.

use std::{cell::RefCell, convert::Infallible, net::IpAddr, rc::Rc};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{
        ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST, HeaderMap, HeaderName,
        HeaderValue, IF_NONE_MATCH, ORIGIN, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
    },
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use synrail::sys::clock;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    pin,
    time::{sleep, timeout},
};

use super::{
    Side,
    guard::{From, is_our_host},
    limits::{
        BODY_TIME, Bucket, CLOSING_TIME, CONNECTION_TIME, Counters, FILE_BYTES_MAX, HEADERS_BYTES_MAX,
        HEADERS_MAX, HEADERS_TIME, ORDER_BYTES_MAX, Open, count,
    },
    orders, page,
    read::Asker,
    route::{Action, NoRoute, route},
};
use crate::{
    lbd::Link,
    reader::{PROBLEM, problem},
};

const DESCRIPTION: &str = include_str!("openapi.json");

/// What all connections share.
pub(super) struct Server {
    pub(super) names: Vec<String>,
    /// `None` if there is no reader.
    pub(super) asker: Option<Asker>,
    pub(super) lbd: Link,
    pub(super) counters: Counters,
    pub(super) open: RefCell<Open>,
    pub(super) bucket: RefCell<Bucket>,
}

/// The other end of a connection.
pub(super) struct Client {
    /// Where it comes from; `None` for the Unix socket.
    pub(super) source: Option<IpAddr>,
    /// The user, by the Unix socket.
    pub(super) by: Option<String>,
}

type Answer = Response<Full<Bytes>>;

/// Serves a connection until it ends, or its time is up.
pub(super) async fn connection<S: AsyncRead + AsyncWrite + Unpin>(
    server: &Rc<Server>,
    stream: S,
    client: Client,
) {
    let client = &client;
    let service =
        service_fn(|request| async move { Ok::<_, Infallible>(server.answer(request, client).await) });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIME)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADERS_BYTES_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended.is_ok(),
        () = sleep(CONNECTION_TIME) => {
            connection.as_mut().graceful_shutdown();
            timeout(CLOSING_TIME, connection).await.is_ok_and(|ended| ended.is_ok())
        }
    };
    if !ended {
        count(&server.counters.closed);
    }
}

impl Server {
    async fn answer(&self, request: Request<Incoming>, client: &Client) -> Answer {
        count(&self.counters.requests);
        let side = if client.source.is_some() { Side::Tcp } else { Side::Unix };
        let mut answer = match self.act(request, side, client).await {
            Ok(answer) => answer,
            Err(refusal) => refusal.answer(),
        };
        let headers = answer.headers_mut();
        let fixed = [
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ];
        headers.extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
        // A state has an ETag, and must be asked for again all the same.
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
        headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static("default-src 'none'"));
        answer
    }

    async fn act(&self, request: Request<Incoming>, side: Side, client: &Client) -> Result<Answer, Refusal> {
        let counters = &self.counters;
        let (head, body) = request.into_parts();
        // A request of HTTP/1.1 may name the host in its target instead.
        let named = head.uri.authority().map(|authority| authority.as_str());
        let host = named.or_else(|| text(&head.headers, &HOST)).unwrap_or_default();
        if !is_our_host(host, &self.names) {
            count(&counters.refused_host);
            return Err(Refusal::new(
                StatusCode::MISDIRECTED_REQUEST,
                "this host has another name; use its address, or add the name to `names` of [http]",
            ));
        }
        if side == Side::Tcp && !self.bucket.borrow_mut().take(clock::monotonic()) {
            count(&counters.refused_rate);
            return Err(Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too many requests; ask again in a second",
            ));
        }
        let query = head.uri.query().unwrap_or_default();
        let action = route(head.method.as_str(), head.uri.path(), query, side).map_err(|none| {
            if none == NoRoute::UnixOnly {
                count(&counters.refused_forbidden);
            }
            Refusal::of(none)
        })?;
        let Some(media) = orders::media(&action) else {
            return Ok(self.show(action, &head.headers, side).await);
        };
        let site = HeaderName::from_static("sec-fetch-site");
        let from = From { host, origin: text(&head.headers, &ORIGIN), site: text(&head.headers, &site) };
        if !from.is_our_page() {
            count(&counters.refused_forbidden);
            return Err(Refusal::new(StatusCode::FORBIDDEN, "this comes from a page of another host"));
        }
        let given = text(&head.headers, &CONTENT_TYPE).unwrap_or_default();
        let given = given.split(';').next().unwrap_or_default().trim();
        if !given.eq_ignore_ascii_case(media) {
            return Err(Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("the body must be {media}"),
            ));
        }
        let limit = if matches!(action, Action::Apply { .. }) { FILE_BYTES_MAX } else { ORDER_BYTES_MAX };
        let body = match timeout(BODY_TIME, Limited::new(body, limit).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => {
                count(&counters.refused_body);
                let detail = format!("the body must come whole, and have at most {limit} bytes");
                return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
            }
            Err(_) => {
                count(&counters.refused_body);
                return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body comes too slowly"));
            }
        };
        self.order(&action, &body, client).await
    }

    async fn order(&self, action: &Action, body: &[u8], client: &Client) -> Result<Answer, Refusal> {
        let by = client.by.as_deref().unwrap_or("unknown");
        let request = orders::request(action, body, by, clock::unix_seconds())
            .map_err(|wrong| Refusal::new(StatusCode::BAD_REQUEST, wrong))?;
        let reply = self.lbd.ask(request).await.map_err(|error| {
            let late = error.kind() == std::io::ErrorKind::TimedOut;
            let status = if late { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::SERVICE_UNAVAILABLE };
            Refusal::new(status, format!("{error}; whether it was done the state shows"))
        })?;
        if let Some(error) = reply.error {
            let mut refusal = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error);
            refusal.losses = reply.losses;
            return Err(refusal);
        }
        count(&self.counters.orders);
        self.asker.iter().for_each(Asker::forget);
        let synrail::ops::Reply { changes, losses, warnings, generation, .. } = reply;
        let done = Done { changes, losses, warnings, generation: generation.map(|generation| generation.0) };
        Ok(json(StatusCode::OK, &done))
    }

    async fn show(&self, action: Action, headers: &HeaderMap, side: Side) -> Answer {
        match action {
            Action::Page => page::answer(side),
            Action::Alive => with(StatusCode::OK, "text/plain; charset=utf-8", Bytes::from_static(b"ok\n")),
            Action::Description => {
                with(StatusCode::OK, "application/json", Bytes::from_static(DESCRIPTION.as_bytes()))
            }
            Action::Counters => json(StatusCode::OK, &self.counters_now()),
            Action::Read(ask) => {
                let Some(asker) = &self.asker else {
                    return Refusal::new(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "the process that reads is not there",
                    )
                    .answer();
                };
                let answer = asker.ask(ask).await;
                let (head, body) = &*answer;
                let known = text(headers, &IF_NONE_MATCH);
                let etag = head.etag.as_deref();
                let unchanged = etag.is_some() && known == etag;
                let status = StatusCode::from_u16(head.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let mut answer = if unchanged {
                    with(StatusCode::NOT_MODIFIED, &head.media, Bytes::new())
                } else {
                    with(status, &head.media, body.clone())
                };
                if let Some(Ok(etag)) = etag.map(HeaderValue::from_str) {
                    answer.headers_mut().insert(ETAG, etag);
                }
                answer
            }
            Action::Admin(_) | Action::Kill | Action::Apply { .. } => {
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "an order is not shown").answer()
            }
        }
    }

    fn counters_now(&self) -> impl Serialize + '_ {
        #[derive(Serialize)]
        struct Now<'a> {
            #[serde(flatten)]
            counters: &'a Counters,
            open_unix: usize,
            open_tcp: usize,
        }
        let open = self.open.borrow();
        Now { counters: &self.counters, open_unix: open.count(Side::Unix), open_tcp: open.count(Side::Tcp) }
    }
}

/// What an order has changed.
#[derive(Serialize)]
struct Done {
    changes: Vec<synrail::state::Change>,
    losses: Vec<String>,
    warnings: Vec<String>,
    generation: Option<u64>,
}

/// Why a request is not done.
struct Refusal {
    status: StatusCode,
    detail: String,
    allow: Option<&'static str>,
    losses: Vec<String>,
}

impl Refusal {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), allow: None, losses: Vec::new() }
    }

    fn of(none: NoRoute) -> Self {
        match none {
            NoRoute::NotFound => {
                Self::new(StatusCode::NOT_FOUND, "there is no such path; see /api/v1/openapi.json")
            }
            NoRoute::UnixOnly => Self::new(StatusCode::FORBIDDEN, "the Unix socket alone does this"),
            NoRoute::Query(wrong) => Self::new(StatusCode::BAD_REQUEST, wrong),
            NoRoute::Method(method) => {
                let allow = if method == "GET" { "GET, HEAD" } else { method };
                let detail = format!("this path takes {allow}");
                Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, detail) }
            }
        }
    }

    fn answer(self) -> Answer {
        let mut body = problem(self.status.as_u16(), &self.detail);
        if !self.losses.is_empty() {
            body["losses"] = self.losses.into();
        }
        let mut answer = with(self.status, PROBLEM, Bytes::from(body.to_string()));
        let headers = answer.headers_mut();
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

/// Returns the value of a header. One that is no text, or that comes twice, is `?`, which is no value of ours: programs
/// between may take the other one.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().unwrap_or("?");
    Some(if values.next().is_some() { "?" } else { value })
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).unwrap_or_default();
    with(status, "application/json", Bytes::from(body))
}

/// Returns an answer of this type.
pub(super) fn with(status: StatusCode, media: &str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    if let Ok(media) = HeaderValue::from_str(media) {
        answer.headers_mut().insert(CONTENT_TYPE, media);
    }
    answer
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        task::LocalSet,
        time::Instant,
    };

    use super::*;

    /// Serves a client that `acts`, on a clock that jumps. Returns how long the connection lasted, and what is counted.
    async fn served(acts: impl AsyncFnOnce(&mut DuplexStream)) -> (u64, u64) {
        let local = LocalSet::new();
        local
            .run_until(async {
                let server = Rc::new(Server {
                    names: Vec::new(),
                    asker: None,
                    lbd: Link::start(std::path::Path::new("/nowhere"), None).unwrap(),
                    counters: Counters::default(),
                    open: RefCell::default(),
                    bucket: RefCell::new(Bucket::new(clock::monotonic())),
                });
                let (mut ours, its) = duplex(256);
                let began = Instant::now();
                let serving = Rc::clone(&server);
                let served = tokio::task::spawn_local(async move {
                    connection(&serving, its, Client { source: None, by: None }).await;
                });
                acts(&mut ours).await;
                served.await.unwrap();
                (began.elapsed().as_secs(), server.counters.closed.get())
            })
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_up_for_slow_clients() {
        let silent = served(async |_| {}).await;
        assert_eq!(silent.0, HEADERS_TIME.as_secs());
        let half =
            served(async |client| client.write_all(b"GET /healthz HTTP/1.1\r\nHo").await.unwrap()).await;
        assert_eq!(half, (HEADERS_TIME.as_secs(), 1));
        let order = b"POST /api/v1/drain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
        let body = served(async |client| {
            client.write_all(order).await.unwrap();
            let mut answer = [0; 12];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 408");
        })
        .await;
        assert!(body.0 <= (CONNECTION_TIME + CLOSING_TIME).as_secs(), "{body:?}");
        let page = b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let deaf = served(async |client| client.write_all(page).await.unwrap()).await;
        assert_eq!(deaf, ((CONNECTION_TIME + CLOSING_TIME).as_secs(), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_goes_on_and_on_is_asked_to_end() {
        let (lasted, closed) = served(async |client| {
            let mut all = Vec::new();
            for _ in 0..100 {
                let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
                if client.write_all(request).await.is_err() {
                    break;
                }
                client.read_buf(&mut all).await.unwrap();
                sleep(HEADERS_TIME / 5).await;
            }
        })
        .await;
        assert_eq!(closed, 0);
        assert!(lasted >= CONNECTION_TIME.as_secs());
    }
}
