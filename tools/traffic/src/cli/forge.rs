//! The options of `traffic forge`.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};

use super::TOTAL_MAX;
use super::common::address;
use crate::cidr::Cidr;

#[derive(Debug, Args)]
pub(crate) struct ForgeArgs {
    /// What to send
    #[arg(long, value_enum)]
    pub(crate) kind: Forged,
    /// To whom; IPv6 in brackets. ICMP errors: to this end of a tunnel; the port means nothing
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    pub(crate) address: SocketAddr,
    /// From these addresses in turn; they need not be the host's own
    #[arg(long, value_name = "CIDR", required_unless_present = "file")]
    pub(crate) source_cidr: Option<Cidr>,
    /// From this port (default: another one for each packet)
    #[arg(long, value_name = "PORT")]
    pub(crate) source_port: Option<NonZeroU16>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u64).range(1..=TOTAL_MAX))]
    pub(crate) packets: u64,
    /// Each so many times, one right behind the other
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1000))]
    pub(crate) repeat: u32,
    /// So many a second (default: as fast as they can be sent)
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<NonZeroU32>,
    /// unreachable, too-big: about a GRE packet from --address to this other end of the tunnel
    #[arg(long, value_name = "ADDR", required_if_eq_any([("kind", "unreachable"), ("kind", "too-big")]))]
    pub(crate) about: Option<Ipv4Addr>,
    /// too-big: the size that would fit
    #[arg(long, value_name = "BYTES", default_value_t = 1280)]
    pub(crate) mtu: u16,
    /// copy: what to send once more: the packets to --address in this capture (tcpdump -w)
    #[arg(long, value_name = "PATH", required_if_eq("kind", "copy"))]
    pub(crate) file: Option<PathBuf>,
    /// Which sequence numbers
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

/// What can be sent. Segments have sequence numbers that are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "kebab-case")]
pub(crate) enum Forged {
    /// TCP segments that open a connection
    Syn,
    /// That belong to none
    Ack,
    /// That end one at once
    Rst,
    /// That end one direction of it
    Fin,
    /// UDP datagrams, of 32 bytes
    Datagram,
    /// ICMP: host unreachable, about a packet of a GRE tunnel
    Unreachable,
    /// ICMP: fragmentation needed, likewise
    TooBig,
    /// Packets of a capture, as they are
    Copy,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  traffic forge --kind rst --address 10.0.0.0:7000 --source-cidr 50.0.1.0/24 --source-port 5000 --packets 60
  traffic forge --kind ack --address 10.0.0.0:7000 --source-cidr 60.0.0.0/8 --packets 30000 --rate 3000 --repeat 2
  traffic forge --kind too-big --address 192.168.1.201:0 --about 192.168.1.1 --mtu 552 --source-cidr 50.0.0.9
  traffic forge --kind copy --address 10.0.0.0:7000 --file syns.pcap

For a test network only. Prints one JSON object: packets `sent`, and those that `failed` to be.
Exit status: 0 all were sent; 1 not all; 2 wrong usage, or it cannot start.";
