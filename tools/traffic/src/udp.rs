//! UDP flows: each a connected socket from the next source address, which asks and waits for the answer, message
//! after message. What has no answer in time is a lost datagram, and its flow a lost flow; an answer that comes too
//! late changes nothing. After [`UNANSWERED_MAX`] in a row the flow gives up: nobody is there.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use crate::cli::UdpArgs;
use crate::clock;
use crate::datagram::{self, DATAGRAM_BYTES_MAX, Id};
use crate::fault::Fault;
use crate::name::Name;
use crate::pace::{Pace, each};
use crate::run::{self, Outcome};
use crate::socket;
use crate::stream::Stream;
use crate::tally::Tally;

const UNANSWERED_MAX: u32 = 3;
/// An answer is the question and a name.
const ANSWER_EXTRA_BYTES: usize = 1 + Name::BYTES_MAX + 16;

pub(crate) async fn run(args: UdpArgs) -> anyhow::Result<ExitCode> {
    let at_once = args.flows.min(args.starts.concurrency.into());
    run::prepare(&args.remote, at_once)?;
    let tally = Arc::new(Tally::default());
    let args = Arc::new(args);
    let traffic = async {
        let pace = Pace::new(args.starts.rate, clock::now());
        let (for_jobs, count) = (args.clone(), tally.clone());
        let job = move |index| flow(for_jobs.clone(), count.clone(), index);
        each(args.flows, usize::from(args.starts.concurrency), pace, job).await?;
        Ok(Outcome::default())
    };
    run::traffic("udp", &*args, &args.output, tally.clone(), traffic).await
}

async fn flow(args: Arc<UdpArgs>, tally: Arc<Tally>, index: u64) {
    let socket = socket::udp_client(args.remote.address, run::source(&args.remote, index))
        .and_then(UdpSocket::from_std);
    match socket {
        Err(error) => tally.failed(error.into()),
        Ok(socket) => {
            tally.opened();
            Flow::new(&args, &tally, index, socket).run().await;
        }
    }
}

/// One flow while it lasts.
struct Flow<'a> {
    args: &'a UdpArgs,
    tally: &'a Tally,
    socket: UdpSocket,
    id: Id,
    server: Option<Name>,
    moved: bool,
    question: Vec<u8>,
    answer: Vec<u8>,
}

impl<'a> Flow<'a> {
    fn new(args: &'a UdpArgs, tally: &'a Tally, index: u64, socket: UdpSocket) -> Self {
        let flow = u32::try_from(index).unwrap_or(u32::MAX); // --flows is bounded below it
        let answer = vec![0; (args.message_bytes + ANSWER_EXTRA_BYTES).min(DATAGRAM_BYTES_MAX)];
        let id = Id { run: std::process::id(), flow, seq: 0 };
        Self { args, tally, socket, id, server: None, moved: false, question: Vec::new(), answer }
    }

    async fn run(mut self) {
        let mut lost = false;
        let mut unanswered_in_row = 0;
        for seq in 0..self.args.messages {
            if seq > 0 && self.args.interval_ms > 0 {
                sleep(Duration::from_millis(self.args.interval_ms)).await;
            }
            self.id.seq = seq;
            match self.ask().await {
                Ok(server) => {
                    unanswered_in_row = 0;
                    self.tally.answered(self.args.message_bytes as u64);
                    self.served_by(server);
                }
                Err(why) => {
                    lost = true;
                    unanswered_in_row += 1;
                    self.tally.datagram_lost(why);
                }
            }
            if unanswered_in_row == UNANSWERED_MAX {
                break;
            }
        }
        self.tally.flow_ended(lost, self.moved);
    }

    /// Sends one question and waits for exactly its answer.
    async fn ask(&mut self) -> Result<Name, Fault> {
        let padding = padding(self.id, self.args.message_bytes);
        datagram::question(&mut self.question, self.id, &padding);
        self.socket.send(&self.question).await?;
        let deadline = Duration::from_millis(self.args.remote.timeout_ms);
        let answer = awaited_answer(&self.socket, self.id, &padding, &mut self.answer);
        timeout(deadline, answer).await.map_err(|_| Fault::NoAnswer)?
    }

    fn served_by(&mut self, name: Name) {
        match &self.server {
            Some(server) => self.moved |= *server != name,
            None => {
                self.tally.served_by(&name);
                self.server = Some(name);
            }
        }
    }
}

/// What fills a question.
pub(crate) fn padding(id: Id, bytes: usize) -> Vec<u8> {
    let mut padding = vec![0; bytes];
    Stream::new((u64::from(id.flow) << 32) ^ u64::from(id.seq)).fill(&mut padding);
    padding
}

/// Waits for exactly the answer to one question.
pub(crate) async fn awaited_answer(
    socket: &UdpSocket,
    asked: Id,
    padding: &[u8],
    buffer: &mut [u8],
) -> Result<Name, Fault> {
    loop {
        let length = socket.recv(buffer).await?;
        match datagram::parse_answer(&buffer[..length]) {
            Some((id, name, back)) if id == asked => {
                return if back == padding { Ok(name) } else { Err(Fault::WrongAnswer) };
            }
            Some(_) => {} // late, and counted as lost already
            None => return Err(Fault::Malformed),
        }
    }
}

const _: () = assert!(datagram::PADDING_BYTES_MAX + ANSWER_EXTRA_BYTES <= DATAGRAM_BYTES_MAX);
