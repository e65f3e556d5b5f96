//! A packet that a person asks about, described by five words. `which` and `tracer` take the same questions,
//! and word their reasons alike. PURE.

use std::net::IpAddr;

use crate::{
    model::{HashMode, Protocol},
    packet::{ICMP, ICMPV6, Packet, Ports},
};

/// A packet that a person asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The number of the protocol.
    pub protocol: u8,
    /// The source address.
    pub src: IpAddr,
    /// The destination address.
    pub dst: IpAddr,
    /// The ports; 0 if the protocol has none.
    pub ports: Ports,
    /// The facts about such a packet, the first of its flow.
    pub packet: Packet,
}

impl Question {
    /// Reads the five words `PROTO SRC SPORT DST DPORT`.
    ///
    /// # Errors
    /// When they describe no packet: a complaint.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
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
    #[must_use]
    pub fn named(&self) -> Option<Protocol> {
        Protocol::ALL.into_iter().find(|protocol| protocol.number() == self.protocol)
    }

    /// Returns the destination for use in a reason.
    #[must_use]
    pub fn destination(&self) -> String {
        match self.named() {
            Some(protocol) => format!("{} {} port {}", self.dst, protocol.name(), self.ports.dst),
            None if matches!(self.protocol, ICMP | ICMPV6) => format!("{} icmp", self.dst),
            None => format!("{} protocol {}", self.dst, self.protocol),
        }
    }

    /// Returns which fields were hashed, and the result.
    #[must_use]
    pub fn hashed(&self, mode: HashMode, seed: u32, hash: u32) -> String {
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
    #[must_use]
    pub fn unclaimed(&self) -> String {
        format!("no service claims {}", self.destination())
    }
}

/// Returns which entry of the table a hash leads to.
#[must_use]
pub fn looked_up(hash: u32, table_size: u32, index: u32, backend: &str, rank: u16, active: usize) -> String {
    format!(
        "({hash} * {table_size}) >> 32 = {index}, and that entry of the table is {backend} (rank {rank} of {active} active)"
    )
}
