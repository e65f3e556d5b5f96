//! The end of the reader that the server has: one question at a time, and answers that are kept for a moment, so that
//! many who ask the same cost one look.

use std::{cell::Cell, io, os::unix::net, path::Path, rc::Rc, time::Duration};

use hyper::body::Bytes;
use synrail::sys::{child::Child, region::RegionName};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::UnixStream,
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tracing::error;

use crate::reader::{Ask, Head, PROBLEM, problem};

/// How many questions wait at most.
const WAITING_MAX: usize = 64;
/// How long an answer may take: a million flows are looked at in seconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long an answer is used again.
const KEPT: Duration = Duration::from_millis(250);
/// How many answers are kept.
const KEPT_MAX: usize = 8;
/// How long an answer may be that is kept.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// The length of the longest head and the longest body, in bytes.
const HEAD_BYTES_MAX: u64 = 4096;
const BODY_BYTES_MAX: usize = 64 << 20;

/// An answer that several may have.
pub type Shared = Rc<(Head, Bytes)>;

/// A reader that was started, and its socket.
pub struct Started {
    child: Option<Child>,
    stream: net::UnixStream,
}

impl Started {
    /// Starts a reader, with the rights of this process.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn start(program: &Path, region: &RegionName, user: Option<&str>) -> io::Result<Self> {
        let (ours, its) = net::UnixStream::pair()?;
        let region = region.to_string();
        let mut arguments = vec!["--reader", "--shm", &region];
        arguments.extend(user.iter().flat_map(|user| ["--user", user]));
        let child = Child::start_with(program, &arguments, std::os::fd::OwnedFd::from(its))?;
        Ok(Self { child: Some(child), stream: ours })
    }

    /// Takes the socket of a reader that another has started.
    #[must_use]
    pub fn of(stream: net::UnixStream) -> Self {
        Self { child: None, stream }
    }
}

/// Asks the reader. It can be cloned; all ask the same one.
#[derive(Clone)]
pub struct Asker {
    questions: mpsc::Sender<(Ask, oneshot::Sender<Shared>)>,
    ended: Rc<Cell<bool>>,
    /// How often all that is kept was given up.
    forgotten: Rc<Cell<u64>>,
}

impl Asker {
    /// Starts a task that asks. It ends with the reader, or when no one can ask any more.
    ///
    /// # Errors
    /// When the operating system does not wait for the socket.
    pub fn start(started: Started) -> io::Result<Self> {
        let Started { child, stream } = started;
        stream.set_nonblocking(true)?;
        let mut stream = BufStream::new(UnixStream::from_std(stream)?);
        let (to, mut questions) = mpsc::channel::<(Ask, oneshot::Sender<Shared>)>(WAITING_MAX);
        let ended = Rc::new(Cell::new(false));
        let forgotten = Rc::new(Cell::new(0));
        let (has_ended, times) = (Rc::clone(&ended), Rc::clone(&forgotten));
        tokio::task::spawn_local(async move {
            // It ends with this task.
            let _child = child;
            let mut kept: Vec<(Instant, u64, Ask, Shared)> = Vec::new();
            while let Some((ask, to)) = questions.recv().await {
                kept.retain(|(when, then, ..)| when.elapsed() < KEPT && *then == times.get());
                if let Some((.., answer)) = kept.iter().find(|(_, _, known, _)| *known == ask) {
                    let _ = to.send(Rc::clone(answer));
                    continue;
                }
                let then = times.get();
                let exchanged = timeout(PATIENCE, exchange(&mut stream, &ask)).await;
                match exchanged.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok(answer) => {
                        let answer = Rc::new(answer);
                        let _ = to.send(Rc::clone(&answer));
                        if kept.len() == KEPT_MAX {
                            kept.remove(0);
                        }
                        if answer.1.len() <= KEPT_BYTES_MAX {
                            kept.push((Instant::now(), then, ask, answer));
                        }
                    }
                    Err(error) => {
                        error!(%error, "the reader has ended: HTTP shows nothing");
                        has_ended.set(true);
                        return;
                    }
                }
            }
        });
        Ok(Self { questions: to, ended, forgotten })
    }

    /// Reports whether the reader has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Keeps no answer that was made before now, since something was changed.
    pub fn forget(&self) {
        self.forgotten.set(self.forgotten.get() + 1);
    }

    /// Returns the answer.
    pub async fn ask(&self, ask: Ask) -> Shared {
        let (to, answer) = oneshot::channel();
        match self.questions.try_send((ask, to)) {
            Ok(()) => answer.await.unwrap_or_else(|_| unavailable("the process that reads has ended")),
            Err(mpsc::error::TrySendError::Full(_)) => unavailable("too many requests wait; ask again"),
            Err(mpsc::error::TrySendError::Closed(_)) => unavailable("the process that reads has ended"),
        }
    }
}

fn unavailable(why: &str) -> Shared {
    let body = Bytes::from(problem(503, why).to_string());
    Rc::new((Head { status: 503, media: PROBLEM.to_owned(), etag: None, bytes: body.len() }, body))
}

async fn exchange(stream: &mut BufStream<UnixStream>, ask: &Ask) -> io::Result<(Head, Bytes)> {
    let mut line = serde_json::to_vec(ask)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await?;
    let mut head = Vec::new();
    (&mut *stream).take(HEAD_BYTES_MAX).read_until(b'\n', &mut head).await?;
    if head.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let head: Head = serde_json::from_slice(&head)?;
    if head.bytes > BODY_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; head.bytes];
    stream.read_exact(&mut body).await?;
    Ok((head, body.into()))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};

    use super::*;

    #[tokio::test]
    async fn equal_questions_have_one_answer_and_an_end_is_an_answer() {
        let (ours, its) = net::UnixStream::pair().unwrap();
        let local = tokio::task::LocalSet::new();
        let reader = std::thread::spawn(move || {
            let mut input = BufReader::new(its.try_clone().unwrap());
            let mut asked = Vec::new();
            for _ in 0..2 {
                let mut line = String::new();
                input.read_line(&mut line).unwrap();
                asked.push(line);
                let head = "{\"status\":200,\"media\":\"text/plain\",\"etag\":null,\"bytes\":2}\nok";
                (&its).write_all(head.as_bytes()).unwrap();
            }
            asked
        });
        local
            .run_until(async {
                let asker = Asker::start(Started::of(ours)).unwrap();
                let (one, other) = tokio::join!(asker.ask(Ask::Ready), asker.ask(Ask::Ready));
                assert_eq!((&one.1[..], &other.1[..]), (&b"ok"[..], &b"ok"[..]));
                assert_eq!(asker.ask(Ask::Live).await.0.status, 200);
                assert_eq!(asker.ask(Ask::Stats).await.0.status, 503);
                assert!(asker.has_ended());
                assert_eq!(asker.ask(Ask::Stats).await.0.status, 503);
            })
            .await;
        assert_eq!(reader.join().unwrap(), ["{\"get\":\"ready\"}\n", "{\"get\":\"live\"}\n"]);
    }
}
