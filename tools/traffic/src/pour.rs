//! Many packets at little cost each: of flows that begin at a steady rate, or of one flow as fast as they can be sent.
//! One system call sends a batch, and no answer is waited for, so that what is measured is what forwards them.
//!
//! Time goes in steps, one for each new flow. In step `s` packet `k` of flow `s - k * lag` is sent, so that the
//! packets of one flow are `lag` steps apart, and those of others are between.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, sendmmsg};
use serde_json::json;
use socket2::{SockAddr, Socket};
use tokio::time::Instant;

use crate::cli::{PourArgs, Poured};
use crate::clock;
use crate::draw::Draws;
use crate::forge::{datagram, source};
use crate::output;
use crate::run::EXIT_LOSSES;
use crate::segment::{ACK, SYN, Segment};
use crate::socket;

/// Packets of one system call.
const BATCH: usize = 64;
/// Steps between two looks at the clock at most: few enough that no burst overruns the queue of a device.
const STEPS_BY_CLOCK: u64 = 8;
/// As many looks a second as there are steps, up to this: few packets of a second go one by one.
const LOOKS_PER_SECOND: u64 = 4000;
/// Between the packets that begin the one flow: enough for who decides about it in user space.
const BEGINNING: Duration = Duration::from_millis(100);

pub(crate) fn run(args: &PourArgs) -> anyhow::Result<ExitCode> {
    let to = args.address;
    ensure!(
        args.source_cidr.is_ipv4() == to.is_ipv4(),
        "the source {} is of another address family than --address {to}",
        args.source_cidr
    );
    let raw = socket::raw(to.ip()).context("a raw socket: it needs root, or CAP_NET_RAW")?;
    raw.connect(&SockAddr::from(SocketAddr::new(to.ip(), 0)))?;
    let mut batch = Batch { socket: raw, packets: Vec::with_capacity(BATCH), sent: 0, failed: None };
    let (flows, seconds) = if args.one_flow { one(args, &mut batch) } else { many(args, &mut batch) };
    let failed = batch.failed.as_ref().map_or(0, |(times, _)| *times);
    let report = json!({ "command": "pour", "flows": flows, "sent": batch.sent, "failed": failed, "seconds": seconds });
    output::answer(&format!("{report}\n"))?;
    let Some((times, why)) = batch.failed else { return Ok(ExitCode::SUCCESS) };
    output::say(format_args!("traffic: {times} times a batch could not be sent: {why}\n"));
    Ok(ExitCode::from(EXIT_LOSSES))
}

fn one(args: &PourArgs, batch: &mut Batch) -> (u64, f64) {
    for number in 0..2 {
        batch.add(packet(args, args.first, number));
        batch.send();
        clock::sleep_all(BEGINNING);
    }
    batch.sent = 0;
    batch.packets = vec![packet(args, args.first, 2); BATCH];
    let (start, duration) = (clock::now(), Duration::from_millis(args.duration_ms));
    loop {
        batch.send_keeping();
        let passed = clock::now() - start;
        if passed >= duration {
            return (1, passed.as_secs_f64());
        }
    }
}

fn many(args: &PourArgs, batch: &mut Batch) -> (u64, f64) {
    let start = clock::now();
    let begin_until = start + Duration::from_millis(args.duration_ms);
    let rate = args.rate.map(|rate| u64::from(rate.get()));
    let lag = rate.map_or(0, |rate| rate * args.interval_ms / 1000);
    let packets = u64::from(args.packets.get());
    let mut flows = None;
    let steps_by_clock =
        rate.map_or(STEPS_BY_CLOCK, |rate| (rate / LOOKS_PER_SECOND).clamp(1, STEPS_BY_CLOCK));
    for step in 0.. {
        if step % steps_by_clock == 0 {
            if flows.is_none() && clock::now() >= begin_until {
                flows = Some(step);
            }
            if let Some(flows) = flows
                && step >= flows + (packets - 1) * lag
            {
                break;
            }
            if let Some(rate) = rate {
                let due = start + Duration::from_secs_f64(step as f64 / rate as f64);
                wait_until(due, batch);
            }
        }
        for number in 0..packets {
            let Some(flow) = step.checked_sub(number * lag) else { break };
            if flows.is_none_or(|flows| flow < flows) {
                batch.add(packet(args, args.first + flow, number));
            }
        }
    }
    batch.send();
    (flows.unwrap_or(0), (clock::now() - start).as_secs_f64())
}

fn wait_until(due: Instant, batch: &mut Batch) {
    if due > clock::now() {
        batch.send();
        clock::sleep_all(due.saturating_duration_since(clock::now()));
    }
}

/// Packet `number` of a flow.
fn packet(args: &PourArgs, flow: u64, number: u64) -> Vec<u8> {
    let from = source(args.source_cidr, flow, None);
    let mut draws = Draws::new(0, flow);
    let mut any = || u32::try_from(draws.between(1, u32::MAX as usize / 2)).unwrap_or(1);
    let (id, sequence, acknowledged) = (any(), any(), any());
    match args.protocol {
        Poured::Udp => datagram(from, args.address, id),
        Poured::Tcp if number == 0 => {
            Segment { flags: SYN, sequence, acknowledged }.packet(from, args.address, id)
        }
        Poured::Tcp => {
            Segment { flags: ACK, sequence: sequence + 1, acknowledged }.packet(from, args.address, id)
        }
    }
}

struct Batch {
    socket: Socket,
    packets: Vec<Vec<u8>>,
    sent: u64,
    /// How often, and why the last time.
    failed: Option<(u64, io::Error)>,
}

impl Batch {
    fn add(&mut self, packet: Vec<u8>) {
        self.packets.push(packet);
        if self.packets.len() == BATCH {
            self.send();
        }
    }

    fn send(&mut self) {
        self.send_keeping();
        self.packets.clear();
    }

    /// What is in the batch stays there, to be sent again.
    fn send_keeping(&mut self) {
        let slices: Vec<[IoSlice<'_>; 1]> =
            self.packets.iter().map(|packet| [IoSlice::new(packet)]).collect();
        let mut rest = &slices[..];
        while !rest.is_empty() {
            let mut headers = MultiHeaders::<()>::preallocate(rest.len(), None);
            let to_peer = vec![None; rest.len()];
            match sendmmsg(self.socket.as_raw_fd(), &mut headers, rest, to_peer, [], MsgFlags::empty()) {
                Ok(sent) => {
                    let sent = sent.count();
                    self.sent += sent as u64;
                    rest = &rest[sent..];
                }
                Err(Errno::EINTR) => {}
                Err(error) => {
                    let times = self.failed.as_ref().map_or(0, |(times, _)| *times);
                    self.failed = Some((times + 1, error.into()));
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(more: &str) -> PourArgs {
        let line = format!("traffic pour --address 10.0.0.0:7000 --source-cidr 60.0.0.0/15 {more}");
        let Command::Pour(args) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            unreachable!("{line}")
        };
        args
    }

    #[test]
    fn packets_of_a_flow_have_its_addresses_and_ports_and_flows_differ() {
        let flow = |packet: &[u8]| packet[12..24].to_vec();
        for args in [args(""), args("--protocol udp")] {
            let [first, second] = [0, 1].map(|number| packet(&args, 7, number));
            assert_eq!(flow(&first), flow(&second));
            let flows: std::collections::BTreeSet<_> =
                (0..200_000).map(|n| flow(&packet(&args, n, 0))).collect();
            assert_eq!(flows.len(), 200_000, "more than there are ports or addresses");
        }
    }

    #[test]
    fn a_connection_is_a_syn_and_then_acks_that_follow_it() {
        let args = args("--rate 10 --packets 3");
        let [syn, ack, next] = [0, 1, 2].map(|number| packet(&args, 7, number));
        assert_eq!([syn[33], ack[33], next[33]], [SYN, ACK, ACK]);
        let sequence = |packet: &[u8]| u32::from_be_bytes(packet[24..28].try_into().unwrap());
        assert_eq!(sequence(&ack), sequence(&syn) + 1);
        assert_eq!(next, ack);
    }
}
