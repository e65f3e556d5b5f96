//! The options of `traffic pour`.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};

use clap::{Args, ValueEnum, value_parser};

use super::common::address;
use super::{DAY_MS, TOTAL_MAX};
use crate::cidr::Cidr;

#[derive(Debug, Args)]
pub(crate) struct PourArgs {
    /// To whom; IPv6 in brackets
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    pub(crate) address: SocketAddr,
    /// From these addresses in turn; they need not be the host's own
    #[arg(long, value_name = "CIDR")]
    pub(crate) source_cidr: Cidr,
    #[arg(long, value_enum, default_value = "tcp")]
    pub(crate) protocol: Poured,
    /// For so long flows begin; or, with --one-flow, for so long that one goes on
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = value_parser!(u64).range(1..=DAY_MS))]
    pub(crate) duration_ms: u64,
    /// So many flows begin each second (default: as many as can be sent)
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<NonZeroU32>,
    /// Packets of each flow
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) packets: NonZeroU16,
    /// With --rate: from one packet of a flow to its next one
    #[arg(long, value_name = "MS", default_value_t = 10, value_parser = value_parser!(u64).range(..=1000))]
    pub(crate) interval_ms: u64,
    /// One flow only: it begins, and then the same packet of it again and again, as fast as it can be sent
    #[arg(long, conflicts_with_all = ["rate", "packets", "interval_ms"])]
    pub(crate) one_flow: bool,
    /// The number of the first flow: flows of other numbers have other addresses or ports
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = value_parser!(u64).range(..=TOTAL_MAX))]
    pub(crate) first: u64,
}

/// Of what the flows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Poured {
    /// A SYN, then ACKs: what the client sends of a connection, without waiting for an answer
    Tcp,
    /// Datagrams of 32 bytes
    Udp,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  traffic pour --address 10.0.0.0:7000 --source-cidr 60.0.0.0/15 --one-flow --duration-ms 2000
  traffic pour --address 10.0.0.0:7000 --source-cidr 60.0.0.0/15 --protocol udp --rate 100000
  traffic pour --address 10.0.0.0:7000 --source-cidr 60.0.0.0/15 --rate 5000 --packets 10 --interval-ms 20

For a test network only: it measures what forwards, not what answers. Prints one JSON object: `flows` that began, packets
`sent`, calls of the system that `failed`, and how many `seconds` it took.
Exit status: 0 all were sent; 1 not all; 2 wrong usage, or it cannot start.";
