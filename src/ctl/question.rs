//! A packet that a person asks about, described by five words. `which` and `tracer` take the same questions,
//! and word their reasons alike.

use std::{
    io::{BufRead as _, BufReader, Read},
    net::IpAddr,
    path::Path,
};

use super::error::CtlError;
use crate::{
    model::{HashMode, Protocol},
    packet::{ICMP, ICMPV6, Packet, Ports},
};

/// A packet that a person asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub protocol: u8,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub ports: Ports,
    pub packet: Packet,
}

impl Question {
    pub(super) fn parse(words: &[&str]) -> Result<Self, String> {
        let [protocol, src, sport, dst, dport] = words[..] else {
            return Err(format!("{} words; a question is: PROTO SRC SPORT DST DPORT", words.len()));
        };
        let address = |text: &str| {
            text.parse::<IpAddr>().map_err(|_| format!("{text}: an IPv4 or IPv6 address is needed"))
        };
        let (src, dst) = (address(src)?, address(dst)?);
        let protocol = match protocol {
            "icmp" if dst.is_ipv6() => ICMPV6,
            "icmp" => ICMP,
            text => match Protocol::named(text) {
                Some(protocol) => protocol.number(),
                None => text
                    .parse()
                    .map_err(|_| format!("{text}: a protocol is tcp, udp, sctp, icmp or a number to 255"))?,
            },
        };
        let named = Protocol::ALL.into_iter().any(|named| named.number() == protocol);
        let port = |text: &str| match text {
            "-" if !named => Ok(0),
            text => text.parse::<u16>().map_err(|_| format!("{text}: a port is a number to 65535")),
        };
        let ports = Ports { src: port(sport)?, dst: port(dport)? };
        let packet = Packet::synthetic(protocol, src, dst, ports)
            .ok_or_else(|| format!("{src} and {dst} are not of one address family"))?;
        Ok(Self { protocol, src, dst, ports, packet })
    }

    /// Returns the protocol, if it is one of those with ports.
    pub(super) fn named(&self) -> Option<Protocol> {
        Protocol::ALL.into_iter().find(|protocol| protocol.number() == self.protocol)
    }

    /// Returns the destination for use in a reason.
    pub(super) fn destination(&self) -> String {
        match self.named() {
            Some(protocol) => format!("{} {} port {}", self.dst, protocol.name(), self.ports.dst),
            None if matches!(self.protocol, ICMP | ICMPV6) => format!("{} icmp", self.dst),
            None => format!("{} protocol {}", self.dst, self.protocol),
        }
    }

    /// Returns which fields were hashed, and the result.
    pub(super) fn hashed(&self, mode: HashMode, seed: u32, hash: u32) -> String {
        let Self { src, dst, protocol, .. } = self;
        let fields = match mode {
            HashMode::FiveTuple => {
                let ports = self.packet.l4.ports().unwrap_or(Ports { src: 0, dst: 0 });
                format!("({src}, {dst}, {}, {}, {protocol})", ports.src, ports.dst)
            }
            HashMode::Source => format!("({src})"),
            HashMode::Addresses => format!("({src}, {dst})"),
        };
        format!("hash {}: jhash of {fields} with seed {seed} gives {hash:#010x}", mode.name())
    }

    /// Returns why no service takes the packet.
    pub(super) fn unclaimed(&self) -> String {
        format!("no service claims {}", self.destination())
    }
}

/// Returns which entry of the table a hash leads to.
pub(super) fn looked_up(
    hash: u32,
    table_size: u32,
    index: u32,
    backend: &str,
    rank: u16,
    active: usize,
) -> String {
    format!(
        "({hash} * {table_size}) >> 32 = {index}, and that entry of the table is {backend} (rank {rank} of {active} active)"
    )
}

/// Passes every question of a file to `ask`; for `-` it reads `input`. Skips empty lines and lines that begin
/// with #.
pub(super) fn each(
    input: &mut dyn Read,
    file: &Path,
    mut ask: impl FnMut(Question) -> Result<(), CtlError>,
) -> Result<(), CtlError> {
    let stdin = file == Path::new("-");
    let label = if stdin { "standard input".to_owned() } else { file.display().to_string() };
    let input_error = |error| CtlError::Input { file: label.clone(), error };
    let mut opened;
    let input: &mut dyn Read = if stdin {
        input
    } else {
        opened = std::fs::File::open(file).map_err(input_error)?;
        &mut opened
    };
    for (number, line) in (1..).zip(BufReader::new(input).lines()) {
        let line = line.map_err(input_error)?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if words.first().is_none_or(|word| word.starts_with('#')) {
            continue;
        }
        let question = Question::parse(&words).map_err(|complaint| CtlError::Batch {
            file: label.clone(),
            line: number,
            complaint,
        })?;
        ask(question)?;
    }
    Ok(())
}
