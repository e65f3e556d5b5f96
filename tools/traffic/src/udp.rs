//! UDP flows: each a connected socket from the next source address, which asks and waits for the answer, message
//! after message. What has no answer in time is a lost datagram, and its flow a lost flow; an answer that comes too
//! late changes nothing. After [`UNANSWERED_MAX`] in a row the flow gives up: no server is there.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use crate::cli::{Remote, UdpArgs};
use crate::datagram::{self, DATAGRAM_BYTES_MAX, Id};
use crate::fault::Fault;
use crate::name::Name;
use crate::run::{self, Shared};
use crate::socket;
use crate::stream::Stream;
use crate::tally::Tally;

const UNANSWERED_MAX: u32 = 3;
/// An answer is the question and a name.
const ANSWER_EXTRA_BYTES: usize = 1 + Name::BYTES_MAX + 16;

pub(crate) async fn run(args: UdpArgs) -> anyhow::Result<ExitCode> {
    let count = args.flows;
    run::each("udp", args, count, flow).await
}

async fn flow(shared: Arc<Shared<UdpArgs>>, index: u64) {
    let Shared { args, tally, .. } = &*shared;
    match Flow::open(&args.client.remote, index) {
        Err(error) => tally.failed(error.into()),
        Ok(flow) => {
            tally.opened();
            use_it(args, tally, flow).await;
        }
    }
}

async fn use_it(args: &UdpArgs, tally: &Tally, mut flow: Flow) {
    let messages = &args.messages;
    let (mut lost, mut moved) = (false, false);
    for number in 0..messages.messages {
        if number > 0 && messages.interval_ms > 0 {
            sleep(Duration::from_millis(messages.interval_ms)).await;
        }
        match flow.round_trip(messages.length.message_bytes).await {
            Ok(Answer::First(server)) => tally.served_by(&server),
            Ok(Answer::Again) => {}
            Ok(Answer::Other) => moved = true,
            Err(why) => {
                lost = true;
                tally.datagram_lost(why);
                if flow.given_up() {
                    break;
                }
                continue;
            }
        }
        tally.answered(messages.length.message_bytes as u64);
    }
    tally.flow_ended(lost, moved);
}

/// Who answered, as compared with the answers before.
#[derive(Debug)]
pub(crate) enum Answer {
    First(Name),
    Again,
    Other,
}

/// One flow while it lasts.
#[derive(Debug)]
pub(crate) struct Flow {
    socket: UdpSocket,
    timeout: Duration,
    next: Id,
    server: Option<Name>,
    unanswered_in_row: u32,
    question: Vec<u8>,
    answer: Vec<u8>,
}

impl Flow {
    pub(crate) fn open(remote: &Remote, index: u64) -> io::Result<Self> {
        let socket = socket::udp_client(remote.address, run::source(remote, index))?;
        let flow = u32::try_from(index).unwrap_or(u32::MAX); // so many that it does not matter
        Ok(Self {
            socket: UdpSocket::from_std(socket)?,
            timeout: Duration::from_millis(remote.timeout_ms),
            next: Id { run: std::process::id(), flow, seq: 0 },
            server: None,
            unanswered_in_row: 0,
            question: Vec::new(),
            answer: Vec::new(),
        })
    }

    /// Sends one question and waits for exactly its answer.
    pub(crate) async fn round_trip(&mut self, message_bytes: usize) -> Result<Answer, Fault> {
        let asked = self.next;
        self.next.seq += 1;
        let padding = padding(asked, message_bytes);
        datagram::question(&mut self.question, asked, &padding);
        self.answer.resize((message_bytes + ANSWER_EXTRA_BYTES).min(DATAGRAM_BYTES_MAX), 0);
        let (deadline, Self { socket, question, answer, .. }) = (self.timeout, &mut *self);
        let answered = async {
            socket.send(question).await?;
            let answer = awaited_answer(socket, asked, &padding, answer);
            timeout(deadline, answer).await.map_err(|_| Fault::NoAnswer)?
        };
        match answered.await {
            Ok(name) => {
                self.unanswered_in_row = 0;
                Ok(self.served_by(name))
            }
            Err(why) => {
                self.unanswered_in_row += 1;
                Err(why)
            }
        }
    }

    /// So many questions had no answer that no server is there.
    pub(crate) fn given_up(&self) -> bool {
        self.unanswered_in_row >= UNANSWERED_MAX
    }

    /// Which server answered first, if one has.
    pub(crate) fn server(&self) -> Option<&Name> {
        self.server.as_ref()
    }

    pub(crate) fn source(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn served_by(&mut self, name: Name) -> Answer {
        match &self.server {
            Some(server) if *server == name => Answer::Again,
            Some(_) => Answer::Other,
            None => Answer::First(self.server.insert(name).clone()),
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
