//! The command line. Scripts rely on it: names and meanings stay, new options have defaults.

mod fragments;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, value_parser};
use serde::Serialize;

pub(crate) use self::fragments::{FragmentsArgs, Incomplete};
use crate::cidr::Cidr;
use crate::datagram::PADDING_BYTES_MAX;
use crate::frame::{MESSAGE_BYTES_MAX, TRANSFER_BYTES_MAX};
use crate::link::Closing;
use crate::name::Name;

const CONNECTIONS_MAX: u64 = 1_000_000;
const TOTAL_MAX: u64 = 1_000_000_000;
const DAY_MS: u64 = 24 * 3600 * 1000;

const EXIT: &str = "Exit status: 0 all well; 1 losses or failures (the report says which); 2 wrong usage, or it cannot start.";

/// Traffic for load balancers: a server that says its name, and clients that count what is lost
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer TCP and UDP clients with this server's name
    #[command(after_help = SERVER_EXAMPLES)]
    Server(ServerArgs),
    /// Make many connections, each with some round trips
    #[command(after_help = CONNECT_EXAMPLES)]
    Connect(ConnectArgs),
    /// Hold connections open and count those that break
    #[command(after_help = HOLD_EXAMPLES)]
    Hold(HoldArgs),
    /// Make many UDP flows, each of some datagrams
    #[command(after_help = UDP_EXAMPLES)]
    Udp(UdpArgs),
    /// Make UDP datagrams (or pings) of fragments of its own cutting; needs root
    #[command(after_help = fragments::EXAMPLES)]
    Fragments(FragmentsArgs),
    /// Transfer many bytes and check each
    #[command(after_help = TRANSFER_EXAMPLES)]
    Transfer(TransferArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Listen for TCP here; port 0: any, it is written to stderr
    #[arg(long, value_name = "ADDR:PORT", num_args = 1.., value_parser = address, required_unless_present = "udp")]
    pub(crate) tcp: Vec<SocketAddr>,
    /// Listen for UDP here. An answer comes from the address that was asked, also with a wildcard
    #[arg(long, value_name = "ADDR:PORT", num_args = 1.., value_parser = address)]
    pub(crate) udp: Vec<SocketAddr>,
    /// The name to answer with (default: the host's)
    #[arg(long)]
    pub(crate) name: Option<Name>,
    /// So many connections at once; one more is told so, closed, and counted by the client as server_full
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = value_parser!(u64).range(1..=CONNECTIONS_MAX))]
    pub(crate) connections_max: u64,
    /// A connection silent for so long is closed
    #[arg(long, value_name = "S", default_value_t = 3600, value_parser = value_parser!(u64).range(1..=DAY_MS / 1000))]
    pub(crate) idle_s: u64,
}

/// What all clients have in common.
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

#[derive(Debug, Args, Serialize)]
pub(crate) struct ConnectArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) remote: Remote,
    /// How many in all
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u64).range(1..=TOTAL_MAX))]
    pub(crate) connections: u64,
    /// Round trips on each
    #[arg(long, value_name = "K", default_value_t = 10)]
    pub(crate) messages: u32,
    /// Pause between the round trips of a connection
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = value_parser!(u64).range(..=DAY_MS))]
    pub(crate) interval_ms: u64,
    /// Length of a message, in both directions
    #[arg(long, value_name = "B", default_value_t = 64, value_parser = message_bytes)]
    pub(crate) message_bytes: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) starts: Starts,
    /// Who closes first
    #[arg(long, value_enum, default_value = "server")]
    pub(crate) close: Closing,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args, Serialize)]
pub(crate) struct HoldArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) remote: Remote,
    /// How many to hold
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u64).range(1..=CONNECTIONS_MAX))]
    pub(crate) connections: u64,
    /// How long to hold them once all are open
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = value_parser!(u64).range(0..=DAY_MS / 1000))]
    pub(crate) seconds: u64,
    /// A round trip on each connection every so often
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = value_parser!(u64).range(1..=DAY_MS))]
    pub(crate) interval_ms: u64,
    /// Written when every connection has been tried: {"opened":N,"failed":N,"lost":N}
    #[arg(long, value_name = "PATH")]
    pub(crate) ready_file: Option<PathBuf>,
    /// End as soon as this file exists
    #[arg(long, value_name = "PATH")]
    pub(crate) until_file: Option<PathBuf>,
    /// Length of a message, in both directions
    #[arg(long, value_name = "B", default_value_t = 64, value_parser = message_bytes)]
    pub(crate) message_bytes: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) starts: Starts,
    /// Who closes first
    #[arg(long, value_enum, default_value = "server")]
    pub(crate) close: Closing,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args, Serialize)]
pub(crate) struct UdpArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) remote: Remote,
    /// How many in all
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u64).range(1..=TOTAL_MAX))]
    pub(crate) flows: u64,
    /// Datagrams of each; the next is sent when the answer is there
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = value_parser!(u32).range(1..))]
    pub(crate) messages: u32,
    /// Pause between the datagrams of a flow
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = value_parser!(u64).range(..=DAY_MS))]
    pub(crate) interval_ms: u64,
    /// Length of the part of a datagram that comes back; its head has 16 bytes more
    #[arg(long, value_name = "B", default_value_t = 64, value_parser = padding_bytes)]
    pub(crate) message_bytes: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) starts: Starts,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args, Serialize)]
pub(crate) struct TransferArgs {
    /// Where to; IPv6 in brackets
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    address: SocketAddr,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) direction: Direction,
    /// From this address (default: the system chooses)
    #[arg(long, value_name = "ADDR")]
    source: Option<IpAddr>,
    /// Which pseudo-random bytes
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// How long to wait for a connection, and while nothing moves
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = value_parser!(u64).range(1..=DAY_MS))]
    timeout_ms: u64,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args, Serialize)]
#[group(required = true, multiple = false)]
pub(crate) struct Direction {
    /// Send so many bytes; k, M, G and Ki, Mi, Gi may follow
    #[arg(long, value_name = "BYTES", value_parser = transfer_bytes)]
    pub(crate) upload: Option<u64>,
    /// Receive so many bytes
    #[arg(long, value_name = "BYTES", value_parser = transfer_bytes)]
    pub(crate) download: Option<u64>,
}

impl TransferArgs {
    pub(crate) fn remote(&self) -> Remote {
        Remote {
            address: self.address,
            source_cidr: self.source.map(Cidr::from),
            source_port: None,
            timeout_ms: self.timeout_ms,
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "expected ADDR:PORT, IPv6 in brackets, as in 10.0.0.0:7000 or [1000::]:7000".to_owned())
}

fn message_bytes(text: &str) -> Result<usize, String> {
    at_most(text, MESSAGE_BYTES_MAX)
}

fn padding_bytes(text: &str) -> Result<usize, String> {
    at_most(text, PADDING_BYTES_MAX)
}

fn at_most(text: &str, max: usize) -> Result<usize, String> {
    text.parse().ok().filter(|bytes| *bytes <= max).ok_or_else(|| format!("expected 0 to {max}"))
}

fn transfer_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "" => Some(1),
        "k" => Some(1000),
        "M" => Some(1_000_000),
        "G" => Some(1_000_000_000),
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        _ => None,
    };
    let bytes = unit.and_then(|unit: u64| digits.parse::<u64>().ok()?.checked_mul(unit));
    bytes
        .filter(|bytes| (1..=TRANSFER_BYTES_MAX).contains(bytes))
        .ok_or_else(|| format!("expected 1 to {TRANSFER_BYTES_MAX}, as in 20000000, 20M or 64Ki"))
}

const SERVER_EXAMPLES: &str = "\
Examples:
  traffic server --tcp 0.0.0.0:7000 [::]:7000 --udp 0.0.0.0:7000 [::]:7000
  traffic server --tcp 10.0.0.0:7000 [1000::]:7000 --udp 10.0.0.0:7000 [1000::]:7000 --name s1

Prints `ready` when all sockets listen. SIGTERM and SIGINT end it with exit status 0; 2: it cannot start.";

const CONNECT_EXAMPLES: &str = "\
Examples:
  traffic connect --address 10.0.0.0:7000 --connections 500 --messages 20
  traffic connect --address 10.0.0.0:7000 --connections 10000 --source-cidr 50.0.0.0/16 --rate 1000 --json
  traffic connect --address [1000::]:7000 --source-cidr 2000::/112 --concurrency 10
  traffic connect --address 10.0.0.0:7000 --connections 1 --source-cidr 50.0.0.1 --source-port 5000

Report: `opened` connections were established, `failed` never were, `lost` broke later (`moved`: were answered by
another server); `servers` counts connections by the server that answered first.
Exit status: 0 all well; 1 losses or failures; 2 wrong usage, or it cannot start.";

const HOLD_EXAMPLES: &str = "\
Examples:
  traffic hold --address 10.0.0.0:7000 --connections 200 --source-cidr 50.0.0.0/16 --seconds 30
  traffic hold --address [1000::]:7000 --connections 200 --source-cidr 2000::/112 --seconds 600 \\
      --interval-ms 200 --ready-file /tmp/ready --until-file /tmp/stop --json

Ends after --seconds, when the until-file exists, or when no connection is left; each connection then makes a last
round trip. An until-file left over from before ends it at once: remove it first.
Exit status: 0 all well; 1 losses or failures; 2 wrong usage, or it cannot start.";

const UDP_EXAMPLES: &str = "\
Examples:
  traffic udp --address 10.0.0.0:7000 --flows 500 --source-cidr 50.0.0.0/16 --messages 20
  traffic udp --address [1000::]:7000 --flows 100 --concurrency 100 --messages 100 --interval-ms 100 --json
  traffic udp --address 10.0.0.0:7000 --flows 10 --message-bytes 4000     (fragments)

Report: `lost_datagrams` had no answer in time, `lost` flows had such datagrams, `moved` flows changed their server.
A flow gives up after three datagrams in a row without an answer.
Exit status: 0 all well; 1 losses or failures; 2 wrong usage, or it cannot start.";

const TRANSFER_EXAMPLES: &str = "\
Examples:
  traffic transfer --address 10.0.0.0:7000 --upload 20M
  traffic transfer --address [1000::]:7000 --download 20M --source 2000::1 --json

Report: `mismatch_offset` is there when a byte was wrong. Exit status: 0 every byte right; 1 not; 2 wrong usage.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn transfer_lengths() {
        for (text, bytes) in [("1", 1), ("20M", 20_000_000), ("64Ki", 65536), ("2G", 2_000_000_000)] {
            assert_eq!(transfer_bytes(text), Ok(bytes));
        }
        for text in
            ["", "0", "M", "-1", "20m", "1e6", "99999999999999999999", "2000G", "20000000Gi", "2\u{fc}M"]
        {
            assert!(transfer_bytes(text).unwrap_err().contains("as in 20000000, 20M or 64Ki"), "{text}");
        }
    }

    #[test]
    fn an_ipv6_address_without_brackets_is_explained() {
        assert!(address("1000::7000").unwrap_err().contains("IPv6 in brackets"));
        assert_eq!(address("[1000::]:7000").unwrap().port(), 7000);
    }
}
