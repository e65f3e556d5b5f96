//! The reader: a process of its own that makes the snapshots that HTTP shows. It is lbagent again, started before that
//! gives up root's rights; it asks the kernel for counters and flows, which takes CAP_NET_ADMIN, and has nothing else.
//!
//! It hears nothing but what the server asks by its standard input, a socket: a line of JSON ([`Ask`]) for each answer,
//! which is a line of JSON ([`Head`]) and a body. So requests of strangers are parsed in the process that may do least,
//! and reading many tables, or a million flows, delays no health check.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
};

use serde::{Deserialize, Serialize};
use serde_json::json;
use synrail::{
    status::{
        Sources, StatusError,
        flows::{Asked, Flows},
        live::{HealthView, Live, Overview},
        metrics::{Format, Metrics, Scope},
        question::Question,
        ready::Ready,
        stats::Stats,
        view::{ServiceView, backends},
        which::Which,
    },
    sys::{
        clock,
        region::{AccessError, Region, RegionName},
    },
};

/// The length of the longest question, in bytes.
const ASK_BYTES_MAX: u64 = 64 << 10;
/// The media type of what went wrong (RFC 9457).
pub const PROBLEM: &str = "application/problem+json";
const JSON: &str = "application/json";

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "get", rename_all = "snake_case")]
pub enum Ask {
    /// Whether the balancer does its work.
    Ready,
    /// The region without its tables.
    State,
    /// What goes on now, in numbers.
    Live,
    /// What `lbctl stats` shows.
    Stats,
    /// The services.
    Services,
    /// The backends, of one service or of all.
    Backends {
        /// The service.
        service: Option<String>,
    },
    /// What gets no new flows, and why.
    Health,
    /// Which backend a flow gets.
    Which {
        /// Protocol, source and its port, destination and its port.
        words: [String; 5],
        /// Whether to tell the owner of its fragments, too.
        fragment: bool,
    },
    /// The flows that are pinned.
    Flows {
        /// Of this service.
        service: Option<String>,
        /// Of these backends.
        backends: Vec<String>,
        /// Those alone that stay on a backend that the table does not name for them.
        off_table: bool,
        /// How many at most.
        limit: usize,
    },
    /// The text for Prometheus.
    Metrics {
        /// Whether in the format OpenMetrics.
        openmetrics: bool,
        /// What of it; nothing means all.
        scopes: Vec<Scope>,
    },
}

/// What stands before a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The status of HTTP.
    pub status: u16,
    /// The media type.
    pub media: String,
    /// Names what the body depends on, if that is known.
    pub etag: Option<String>,
    /// The length of the body.
    pub bytes: usize,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What stands before the body.
    pub head: Head,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, media: &str, body: Vec<u8>) -> Self {
        Self { head: Head { status, media: media.to_owned(), etag: None, bytes: body.len() }, body }
    }

    fn json(value: &impl Serialize) -> Self {
        serde_json::to_vec(value)
            .map_or_else(|error| Self::problem(500, &error.to_string()), |body| Self::new(200, JSON, body))
    }

    fn problem(status: u16, detail: &str) -> Self {
        Self::new(status, PROBLEM, problem(status, detail).to_string().into_bytes())
    }
}

/// Returns what went wrong, as RFC 9457 has it.
#[must_use]
pub fn problem(status: u16, detail: &str) -> serde_json::Value {
    let title = hyper::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    json!({ "type": "about:blank", "title": title.unwrap_or("Error"), "status": status, "detail": detail })
}

/// Makes answers from a region.
pub struct Reader {
    name: RegionName,
    region: Option<Region>,
    sources: Sources,
}

impl Reader {
    /// Opens the region, if it is there.
    #[must_use]
    pub fn new(name: RegionName, sources: Sources) -> Self {
        let region = Region::open_to_read(&name).ok();
        Self { name, region, sources }
    }

    /// Answers what comes by standard input, until its other end is closed.
    ///
    /// # Errors
    /// When it is no socket, or its other end sends what is no question.
    pub fn run(&mut self) -> io::Result<()> {
        self.serve(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
    }

    /// As [`Reader::run`], by a socket.
    ///
    /// # Errors
    /// As [`Reader::run`].
    pub fn serve(&mut self, mut stream: UnixStream) -> io::Result<()> {
        let mut input = BufReader::new(stream.try_clone()?);
        loop {
            let mut line = Vec::new();
            if (&mut input).take(ASK_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let Answer { head, body } = self.answer(&serde_json::from_slice(&line)?);
            let mut head = serde_json::to_vec(&head)?;
            head.push(b'\n');
            stream.write_all(&head)?;
            stream.write_all(&body)?;
        }
    }

    /// Answers.
    pub fn answer(&mut self, ask: &Ask) -> Answer {
        self.read(ask).unwrap_or_else(|error| {
            let status = match &error {
                StatusError::Unknown(_) => 404,
                StatusError::Access(_)
                | StatusError::Conflict(_)
                | StatusError::OffTable(_)
                | StatusError::Tracked(_) => 503,
            };
            Answer::problem(status, &error.to_string())
        })
    }

    fn read(&mut self, ask: &Ask) -> Result<Answer, StatusError> {
        let region = open(&mut self.region, &self.name);
        let sources = &self.sources;
        Ok(match ask {
            Ask::Ready => {
                let ready = Ready::read(region, sources);
                if ready.ready {
                    return Ok(Answer::json(&ready));
                }
                let mut body = problem(503, &ready.reasons.join("; "));
                body["reasons"] = json!(ready.reasons);
                Answer::new(503, PROBLEM, body.to_string().into_bytes())
            }
            Ask::Metrics { openmetrics, scopes } => {
                let scopes = if scopes.is_empty() { &Scope::ALL[..] } else { &scopes[..] };
                let format = if *openmetrics { Format::OpenMetrics } else { Format::Prometheus };
                // That the region cannot be read is a metric, too.
                let (metrics, _) = match region {
                    Ok(region) => Metrics::of_region(region, sources, scopes),
                    Err(_) => Metrics::read(&self.name, sources, scopes),
                };
                Answer::new(200, format.media_type(), metrics.text(format).into_bytes())
            }
            Ask::State => {
                let overview = Overview::read(region?)?;
                let mut answer = Answer::json(&overview);
                // A region that is made anew begins with generation 1, and has another reader.
                answer.head.etag = Some(format!("\"{}-{}\"", std::process::id(), overview.generation));
                answer
            }
            Ask::Live => Answer::json(&Live::read(region?, sources)?),
            Ask::Stats => Answer::json(&Stats::read(region?, sources)?),
            Ask::Services => {
                let (_, state) = region?.state_with_tables(|_| Vec::new())?;
                Answer::json(&ServiceView::all(&state))
            }
            Ask::Backends { service } => {
                let (generation, state) = region?.state()?;
                if service.is_some() {
                    state.find_backends(service.as_deref(), &[])?;
                }
                let meant = |name: &str| service.as_deref().is_none_or(|wanted| wanted == name);
                let services = state.services.iter().filter(|service| meant(service.name.as_str()));
                let mut views: Vec<_> = services.flat_map(|service| backends(&state, service)).collect();
                synrail::status::flows::tell(views.iter_mut(), (generation, &state), sources)?;
                Answer::json(&views)
            }
            Ask::Health => Answer::json(&HealthView::read(region?, sources)?),
            Ask::Which { words, fragment } => {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                match Question::parse(&words) {
                    Ok(question) => Answer::json(
                        &Which::read_for(&question, region?, sources)?.answer(&question, *fragment),
                    ),
                    Err(complaint) => Answer::problem(400, &complaint),
                }
            }
            Ask::Flows { service, backends, off_table, limit } => {
                let asked = Asked { service: service.as_deref(), backends, off_table: *off_table };
                let Flows { flows, left_out, .. } =
                    Flows::read(region?, sources, asked, *limit, clock::unix_seconds())?;
                Answer::json(&json!({ "flows": flows, "left_out": left_out }))
            }
        })
    }
}

/// Returns the region, opened again if it was made anew and this process may.
fn open<'a>(region: &'a mut Option<Region>, name: &RegionName) -> Result<&'a mut Region, AccessError> {
    if region.as_ref().is_some_and(|region| !region.is_current().unwrap_or(true)) {
        *region = None;
    }
    match region {
        Some(open) => {
            open.recover()?;
            Ok(open)
        }
        None => Ok(region.insert(Region::open_to_read(name)?)),
    }
}

#[cfg(test)]
mod tests;
