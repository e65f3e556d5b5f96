//! Options that commands have in common.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};

use clap::{Args, value_parser};
use serde::Serialize;

use super::DAY_MS;
use crate::cidr::Cidr;
use crate::datagram::PADDING_BYTES_MAX;
use crate::frame::MESSAGE_BYTES_MAX;

/// What all clients that make many connections or flows have in common.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Client {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) remote: Remote,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) starts: Starts,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) output: Output,
}

/// Where to, where from, and how long to wait.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Remote {
    /// Where to; IPv6 in brackets
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    pub(crate) address: SocketAddr,
    /// Where from: addresses are taken in order, none skipped, and again from the first when all are used
    /// (default: the system chooses). The host must own them: ip route add local CIDR dev lo
    #[arg(long, value_name = "CIDR")]
    pub(crate) source_cidr: Option<Cidr>,
    /// From this port (default: any)
    #[arg(long, value_name = "PORT")]
    pub(crate) source_port: Option<NonZeroU16>,
    /// How long to wait for a connection, and for each answer
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = value_parser!(u64).range(1..=DAY_MS))]
    pub(crate) timeout_ms: u64,
}

impl Remote {
    pub(crate) fn unspecified(&self) -> IpAddr {
        if self.address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
    }
}

/// How fast a client starts what it makes many of.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Starts {
    /// Start so many per second (default: as fast as --concurrency allows)
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<NonZeroU32>,
    /// So many at once; connections to hold: so many are being opened at once
    #[arg(long, value_name = "C", default_value_t = 100, value_parser = value_parser!(u16).range(1..))]
    pub(crate) concurrency: u16,
}

#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Output {
    /// Report as one JSON object instead of a table
    #[arg(long)]
    #[serde(skip)]
    pub(crate) json: bool,
    /// Progress on stderr once a second also when that is no terminal
    #[arg(long)]
    #[serde(skip)]
    pub(crate) progress: bool,
}

/// What is said on each connection or flow of those that end by themselves.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Messages {
    /// Round trips on each; the next message is sent when the answer is there
    #[arg(long, value_name = "K", default_value_t = 10)]
    pub(crate) messages: u32,
    /// Pause between the round trips of one
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = value_parser!(u64).range(..=DAY_MS))]
    pub(crate) interval_ms: u64,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) length: Length,
}

/// How long a message is.
#[derive(Debug, Clone, Copy, Args, Serialize)]
pub(crate) struct Length {
    /// Length of a message, in both directions; a datagram's head has 16 bytes more
    #[arg(long, value_name = "B", default_value_t = 64, value_parser = message_bytes)]
    pub(crate) message_bytes: usize,
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "expected ADDR:PORT, IPv6 in brackets, as in 10.0.0.0:7000 or [1000::]:7000".to_owned())
}

/// A message of this length fits a datagram as well as a frame.
fn message_bytes(text: &str) -> Result<usize, String> {
    const { assert!(PADDING_BYTES_MAX <= MESSAGE_BYTES_MAX) };
    let bytes = text.parse().ok().filter(|bytes| *bytes <= PADDING_BYTES_MAX);
    bytes.ok_or_else(|| format!("expected 0 to {PADDING_BYTES_MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_without_brackets_is_explained() {
        assert!(address("1000::7000").unwrap_err().contains("IPv6 in brackets"));
        assert_eq!(address("[1000::]:7000").unwrap().port(), 7000);
    }
}
