//! Datagrams in fragments of our own cutting (plan.rs), sent as raw packets; their answers are received whole, by an
//! ordinary socket bound to the flow's source, which is also what keeps the port for the flow.
//!
//! ```text
//! a group:  up to 4 flows; in each round a datagram of each
//! a round:  plans -> fragments, one datagram after another or interleaved -> answers, until the timeout -> next round
//! ```
//! Only datagrams that can arrive are waited for as lost or not; the others must stay without an answer, and their
//! round lasts until the timeout.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout_at};

use crate::cli::FragmentsArgs;
use crate::clock;
use crate::datagram::{self, DATAGRAM_BYTES_MAX, Id, PADDING_BYTES_MAX};
use crate::draw::Draws;
use crate::fault::Fault;
use crate::flood;
use crate::name::Name;
use crate::pace::{Pace, each};
use crate::packet::{Carrier, Whole};
use crate::plan::{self, Order, Plan, Shape, Spoiled};
use crate::raw::{EchoSocket, RawSender};
use crate::run::{self, Outcome};
use crate::socket;
use crate::tally::{Served, Tally};
use crate::udp;

/// Flows whose datagrams go together.
const GROUP: u8 = 4;
/// Keeps the draws of groups apart from those of datagrams.
const GROUP_SEED: u64 = 0x6772_6f75_7000_0000;

/// What all flows share.
struct Shared {
    args: FragmentsArgs,
    flows: u64,
    shape: Shape,
    tally: Tally,
    raw: RawSender,
    pace: Pace,
    numbers: Numbers,
}

pub(crate) async fn run(args: FragmentsArgs) -> anyhow::Result<ExitCode> {
    if let Some(kind) = args.incomplete {
        return flood::run(args, kind).await;
    }
    let flows = args.flows.unwrap_or(args.datagrams).min(args.datagrams);
    let at_once = flows.min(args.client.starts.concurrency.into()).div_ceil(GROUP.into());
    run::prepare(&args.client.remote, at_once * u64::from(GROUP))?;
    let shared = Arc::new(Shared {
        flows,
        shape: shape(&args),
        tally: Tally::default(),
        raw: RawSender::open(args.client.remote.address.ip())?,
        pace: Pace::new(args.client.starts.rate, clock::now()),
        numbers: Numbers::new(args.client.remote.address.is_ipv4()),
        args,
    });
    let for_jobs = shared.clone();
    let job = move |group| Group::run(for_jobs.clone(), group); // it paces its datagrams
    let traffic = each(flows.div_ceil(GROUP.into()), usize::try_from(at_once)?, job);
    let outcome = || Outcome { speed: shared.pace.speed(), ..Outcome::default() };
    let args = &shared.args;
    run::traffic("fragments", args, &args.client.output, &shared.tally, traffic, outcome).await
}

fn shape(args: &FragmentsArgs) -> Shape {
    // The head of a question is part of the message that is cut.
    let head = datagram::HEAD_BYTES;
    Shape {
        ipv4: args.client.remote.address.is_ipv4(),
        fragments: (args.fragments.least, args.fragments.most),
        packet_bytes: args.fragment_bytes.into(),
        message_bytes: args.message_bytes.map(|span| (span.least + head, span.most + head)),
        message_limits: (head, PADDING_BYTES_MAX),
        whole: args.whole,
        tiny: args.tiny,
        duplicate: args.duplicate,
        overlap: args.overlap,
        drop: args.drop,
        extension_headers: args.extension_headers,
    }
}

/// Identifications of packets: no two of a run are the same soon, and runs start anywhere.
pub(crate) struct Numbers {
    ipv4: bool,
    first: usize,
}

impl Numbers {
    pub(crate) fn new(ipv4: bool) -> Self {
        Self { ipv4, first: Draws::new(std::process::id().into(), 0).between(0, 0xffff_ffff) }
    }

    /// IPv4: 16 bits, and never 0.
    pub(crate) fn of(&self, datagram: u64) -> u32 {
        let number = (self.first as u64).wrapping_add(datagram);
        let number = if self.ipv4 { 1 + number % 0xffff } else { number % 0xffff_ffff };
        u32::try_from(number).unwrap_or(u32::MAX) // it is below
    }
}

/// Some flows while they last.
struct Group {
    shared: Arc<Shared>,
    number: u64,
    flows: Vec<Flow>,
    answer: Vec<u8>,
}

/// A datagram that was asked with.
struct Question {
    /// Index of its flow in the group.
    flow: usize,
    bytes: Vec<u8>,
    id: Id,
    spoiled: bool,
    sent: Result<(), Fault>,
}

impl Group {
    async fn run(shared: Arc<Shared>, number: u64) {
        let mut group = Self { shared, number, flows: Vec::new(), answer: vec![0; DATAGRAM_BYTES_MAX] };
        let Shared { args, flows, tally, .. } = &*group.shared;
        for flow in (number * u64::from(GROUP)..*flows).take(GROUP.into()) {
            match Flow::open(args, flow) {
                Ok(flow) => {
                    tally.opened();
                    group.flows.push(flow);
                }
                Err(error) => tally.failed(error.into()),
            }
        }
        for round in 0..args.datagrams.div_ceil(*flows) {
            if round > 0 && group.shared.args.interval_ms > 0 {
                sleep(Duration::from_millis(group.shared.args.interval_ms)).await;
            }
            group.round(round).await;
        }
        for flow in group.flows {
            flow.end(&group.shared.tally);
        }
    }

    async fn round(&mut self, round: u64) {
        let order = self.shared.args.order.at(self.number + round);
        let mut questions = Vec::new();
        let mut packets = Vec::new();
        for (at, flow) in self.flows.iter().enumerate() {
            let datagram = round * self.shared.flows + u64::from(flow.number);
            if datagram < self.shared.args.datagrams {
                self.shared.pace.turn().await;
                let (question, fragments) = self.shared.ask(flow, at, datagram, order);
                questions.push(question);
                packets.push(fragments);
            }
        }
        self.send(&mut questions, packets, order, round).await;
        let timeout = Duration::from_millis(self.shared.args.client.remote.timeout_ms);
        let deadline = clock::now() + timeout;
        for question in questions {
            let flow = &mut self.flows[question.flow];
            flow.hear(&self.shared, &question, deadline, &mut self.answer).await;
        }
    }

    async fn send(&self, questions: &mut [Question], packets: Vec<Vec<Vec<u8>>>, order: Order, round: u64) {
        let delay = Duration::from_millis(self.shared.args.delay_ms);
        let packets = if order == Order::Interleaved {
            let number = round * self.shared.flows + self.number;
            plan::interleave(&mut Draws::new(self.shared.args.seed ^ GROUP_SEED, number), packets)
        } else {
            plan::in_turn(packets)
        };
        for (at, (question, packet)) in packets.into_iter().enumerate() {
            if at > 0 && !delay.is_zero() {
                sleep(delay).await;
            }
            if let Err(error) = self.shared.raw.send(&packet).await {
                questions[question].sent = Err(error.into());
            }
        }
    }
}

impl Shared {
    /// The question, and its packets in the order in which they go.
    fn ask(&self, flow: &Flow, at: usize, datagram: u64, order: Order) -> (Question, Vec<Vec<u8>>) {
        let plan = self.shape.plan(&mut Draws::new(self.args.seed, datagram), order);
        let seq = u32::try_from(datagram / self.flows).unwrap_or(u32::MAX); // --datagrams is bounded below it
        let id = Id { run: std::process::id(), flow: flow.number, seq };
        let mut bytes = Vec::new();
        let padding = udp::padding(id, plan.message_bytes - datagram::HEAD_BYTES);
        datagram::question(&mut bytes, id, &padding);
        let carrier = match flow.ear {
            Ear::Udp(_) => Carrier::Udp,
            Ear::Echo(_) => Carrier::Echo { number: low16(seq) },
        };
        let to = self.args.client.remote.address;
        let whole = Whole::new(flow.from, to, self.numbers.of(datagram), carrier, plan.extensions, &bytes);
        let packets = plan.pieces.iter().map(|piece| whole.packet(*piece)).collect();
        self.count(&plan);
        let spoiled = plan.spoiled != Spoiled::No;
        (Question { flow: at, bytes, id, spoiled, sent: Ok(()) }, packets)
    }

    fn count(&self, plan: &Plan) {
        self.tally.fragments(|counts| {
            counts.datagrams += 1;
            counts.whole += u64::from(plan.whole);
            counts.fragments += if plan.whole { 0 } else { plan.pieces.len() as u64 };
            counts.duplicates += u64::from(plan.duplicated);
            counts.overlapped += u64::from(plan.spoiled == Spoiled::Overlapped);
            counts.left_out += u64::from(plan.spoiled == Spoiled::LeftOut);
        });
    }
}

fn low16(number: u32) -> u16 {
    let [.., high, low] = number.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// What a flow hears its answers with.
enum Ear {
    Udp(UdpSocket),
    Echo(EchoSocket),
}

struct Flow {
    number: u32,
    /// Of an echo, the port is its identifier.
    from: SocketAddr,
    ear: Ear,
    /// Datagrams answered by each; echoes carry no name.
    servers: BTreeMap<Name, u64>,
    lost: bool,
}

impl Flow {
    fn open(args: &FragmentsArgs, number: u64) -> io::Result<Self> {
        let (to, source) = (args.client.remote.address, run::source(&args.client.remote, number));
        let number = u32::try_from(number).unwrap_or(u32::MAX); // --flows is bounded below it
        let (from, ear) = if args.echo {
            let ear = EchoSocket::open(to.ip(), source)?;
            let identifier = low16(std::process::id().wrapping_add(number));
            (SocketAddr::new(ear.local_ip()?, identifier), Ear::Echo(ear))
        } else {
            let socket = UdpSocket::from_std(socket::udp_client(to, source)?)?;
            (socket.local_addr()?, Ear::Udp(socket))
        };
        Ok(Self { number, from, ear, servers: BTreeMap::new(), lost: false })
    }

    async fn hear(&mut self, shared: &Shared, question: &Question, deadline: Instant, buffer: &mut [u8]) {
        let tally = &shared.tally;
        let answer = match question.sent {
            Ok(()) => {
                timeout_at(deadline, self.answer(question, buffer)).await.unwrap_or(Err(Fault::NoAnswer))
            }
            Err(why) => Err(why),
        };
        match (answer, question.spoiled) {
            (Ok(server), false) => {
                tally.answered((question.bytes.len() - datagram::HEAD_BYTES) as u64);
                self.served_by(tally, server);
            }
            (Ok(_), true) => tally.fragments(|counts| counts.unexpected += 1),
            (Err(why), false) => {
                self.lost = true;
                tally.datagram_lost(why);
            }
            (Err(_), true) => {}
        }
    }

    async fn answer(&self, question: &Question, buffer: &mut [u8]) -> Result<Option<Name>, Fault> {
        match &self.ear {
            Ear::Udp(socket) => {
                let padding = &question.bytes[datagram::HEAD_BYTES..];
                udp::awaited_answer(socket, question.id, padding, buffer).await.map(Some)
            }
            Ear::Echo(socket) => loop {
                let (identifier, message) = socket.reply(buffer).await?;
                let ours = identifier == self.from.port();
                if ours && message == question.bytes {
                    return Ok(None);
                } else if ours && message.starts_with(&question.bytes[..datagram::HEAD_BYTES]) {
                    return Err(Fault::WrongAnswer);
                }
            },
        }
    }

    fn served_by(&mut self, tally: &Tally, server: Option<Name>) {
        let Some(server) = server else { return };
        if self.servers.is_empty() {
            tally.served_by(&server);
        }
        *self.servers.entry(server).or_default() += 1;
    }

    fn end(self, tally: &Tally) {
        tally.flow_ended(self.lost, self.servers.len() > 1);
        let (source, port) = (self.from.ip(), self.from.port());
        tally.fragments(|counts| {
            counts.served.extend(self.servers.into_iter().map(|(server, datagrams)| Served {
                source,
                port,
                server: server.as_str().to_owned(),
                datagrams,
            }));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifications_are_distinct_and_never_0_in_ipv4() {
        for first in [0, 0xfffe, 0xffff, 0xffff_ffff] {
            let ids = |ipv4| (0..0xffff).map(move |datagram| Numbers { ipv4, first }.of(datagram));
            let lower: std::collections::BTreeSet<u16> = ids(true).map(low16).collect();
            assert!(lower.len() == 0xffff && !lower.contains(&0));
            assert_eq!(ids(false).collect::<std::collections::BTreeSet<_>>().len(), 0xffff);
        }
    }
}
