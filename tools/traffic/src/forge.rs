//! Packets as a stranger sends them, each from a source that need not be ours: no answer is waited for, and what was
//! sent is counted.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use serde_json::json;

use crate::cidr::Cidr;
use crate::cli::{ForgeArgs, Forged};
use crate::clock;
use crate::draw::Draws;
use crate::output;
use crate::pace::Pace;
use crate::packet::{Carrier, Extensions, Piece, TRANSPORT_HEADER_BYTES, Whole};
use crate::raw::RawSender;
use crate::run::EXIT_LOSSES;
use crate::segment::{self, ACK, FIN, IcmpError, RST, SYN, Segment};

/// More is no capture of a few packets.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Without --source-port, ports from here on, all that there are.
const PORT_FIRST: u16 = 1024;
const MESSAGE: [u8; 32] = [0; 32];

pub(crate) async fn run(args: ForgeArgs) -> anyhow::Result<ExitCode> {
    let to = args.address;
    if let Some(cidr) = args.source_cidr {
        ensure!(
            cidr.is_ipv4() == to.is_ipv4(),
            "the source {cidr} is of another address family than --address {to}"
        );
    }
    let copies = match (args.kind, &args.file) {
        (Forged::Copy, Some(file)) => copies(file, to.ip())?,
        _ => Vec::new(),
    };
    let raw = RawSender::open(to.ip())?;
    let count = if args.kind == Forged::Copy { copies.len() as u64 } else { args.packets };
    let (start, pace) = (clock::now(), Pace::new(args.rate, clock::now()));
    let (mut sent, mut failed, mut why) = (0_u64, 0_u64, None);
    for number in 0..count {
        let packet = match copies.get(usize::try_from(number)?) {
            Some(copy) => copy.clone(),
            None => packet(&args, number)?,
        };
        for _ in 0..args.repeat {
            pace.turn().await;
            match raw.send(&packet).await {
                Ok(()) => sent += 1,
                Err(error) => {
                    failed += 1;
                    why = Some(error);
                }
            }
        }
    }
    let seconds = clock::now().duration_since(start).as_secs_f64();
    let report = json!({ "command": "forge", "sent": sent, "failed": failed, "seconds": seconds });
    output::answer(&format!("{report}\n"))?;
    let Some(why) = why else { return Ok(ExitCode::SUCCESS) };
    output::say(format_args!("traffic: {failed} packets could not be sent: {why}\n"));
    Ok(ExitCode::from(EXIT_LOSSES))
}

fn copies(file: &Path, to: IpAddr) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut bytes = Vec::new();
    let reading = || format!("reading {}", file.display());
    File::open(file)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .with_context(reading)?;
    ensure!(bytes.len() as u64 <= FILE_BYTES_MAX, "{} has more than {FILE_BYTES_MAX} bytes", file.display());
    let packets = segment::captured(&bytes, to).with_context(reading)?;
    ensure!(!packets.is_empty(), "{} has no packet to {to}", file.display());
    Ok(packets)
}

fn packet(args: &ForgeArgs, number: u64) -> anyhow::Result<Vec<u8>> {
    let Some(cidr) = args.source_cidr else { bail!("--source-cidr says where they come from") };
    let to = args.address;
    let from = source(cidr, number, args.source_port);
    let mut draws = Draws::new(args.seed, number);
    let mut any = || u32::try_from(draws.between(1, u32::MAX as usize)).unwrap_or(1);
    let id = any();
    let mut segment = |flags| Segment { flags, sequence: any(), acknowledged: any() }.packet(from, to, id);
    let about = |error| -> anyhow::Result<Vec<u8>> {
        let (source, near) = (ipv4(from.ip())?, ipv4(to.ip())?);
        Ok(segment::icmp_error(error, source, near, args.about.unwrap_or(near), id))
    };
    Ok(match args.kind {
        Forged::Syn => segment(SYN),
        Forged::Ack => segment(ACK),
        Forged::Rst => segment(RST),
        Forged::Fin => segment(FIN | ACK),
        Forged::Datagram => datagram(from, to, id),
        Forged::Unreachable => about(IcmpError::HostUnreachable)?,
        Forged::TooBig => about(IcmpError::TooBig(args.mtu))?,
        Forged::Copy => bail!("--file says what to copy"),
    })
}

/// Who sends the packet, or the flow, of this number.
pub(crate) fn source(cidr: Cidr, number: u64, port: Option<NonZeroU16>) -> SocketAddr {
    let ports = u64::from(u16::MAX - PORT_FIRST) + 1;
    let any = u16::try_from(number % ports).map_or(u16::MAX, |port| PORT_FIRST + port);
    SocketAddr::new(cidr.nth(number), port.map_or(any, NonZeroU16::get))
}

pub(crate) fn datagram(from: SocketAddr, to: SocketAddr, id: u32) -> Vec<u8> {
    Whole::new(from, to, id, Carrier::Udp, Extensions::None, &MESSAGE)
        .packet(Piece { offset: 0, length: TRANSPORT_HEADER_BYTES + MESSAGE.len() })
}

fn ipv4(address: IpAddr) -> anyhow::Result<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => bail!("errors about tunnels are made for IPv4 only"),
    }
}
