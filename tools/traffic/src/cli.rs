//! The command line. Scripts rely on it: names and meanings stay, new options have defaults.

mod common;
mod forge;
mod fragments;
mod hold;
mod picture;
mod pour;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;

use clap::{Args, Parser, Subcommand, value_parser};
use serde::Serialize;

use self::common::address;
pub(crate) use self::common::{Client, Messages, Output, Remote};
pub(crate) use self::forge::{ForgeArgs, Forged};
pub(crate) use self::fragments::{FragmentsArgs, Incomplete};
pub(crate) use self::hold::HoldArgs;
pub(crate) use self::picture::{AnalyzeArgs, BarsArgs, GraphArgs};
pub(crate) use self::pour::{PourArgs, Poured};
use crate::cidr::Cidr;
use crate::frame::TRANSFER_BYTES_MAX;
use crate::link::Closing;
use crate::name::Name;

const CONNECTIONS_MAX: u64 = 1_000_000;
const TOTAL_MAX: u64 = 1_000_000_000;
const DAY_MS: u64 = 24 * 3600 * 1000;

const EXIT: &str = "\
Exit status: 0 all well; 1 losses or failures (the report says which); 2 wrong usage, or it cannot start,
or an answer cannot be written; 141 the reader of an answer has ended.";

/// Traffic for load balancers: a server that says its name, and clients that count what is lost
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT)]
pub(crate) struct Cli {
    /// Run on so many threads; one is enough for most uses, and best in a small virtual machine
    #[arg(long, value_name = "N", global = true, default_value = "1")]
    pub(crate) threads: NonZeroUsize,
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
    /// Continuous traffic: hold connections or UDP flows open, and record what is lost, and when
    #[command(after_help = hold::EXAMPLES)]
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
    /// Send packets as a stranger would: segments, datagrams and ICMP errors with any source; needs root
    #[command(after_help = forge::EXAMPLES)]
    Forge(ForgeArgs),
    /// Send packets of very many flows, or of one, as fast as the kernel takes them; needs root
    #[command(after_help = pour::EXAMPLES)]
    Pour(PourArgs),
    /// Say what reports tell: losses between the events of a run, and by server
    #[command(after_help = picture::ANALYZE_EXAMPLES)]
    Analyze(AnalyzeArgs),
    /// Draw the report of `hold` as a picture: open, lost and new connections over time, and the events
    #[command(after_help = picture::GRAPH_EXAMPLES)]
    Graph(GraphArgs),
    /// Draw measurements side by side as a picture: a bar for each of who was measured
    #[command(after_help = picture::BARS_EXAMPLES)]
    Bars(BarsArgs),
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

#[derive(Debug, Args, Serialize)]
pub(crate) struct ConnectArgs {
    /// How many in all
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u64).range(1..=TOTAL_MAX))]
    pub(crate) connections: u64,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) messages: Messages,
    /// Who closes first
    #[arg(long, value_enum, default_value = "server")]
    pub(crate) close: Closing,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Args, Serialize)]
pub(crate) struct UdpArgs {
    /// How many in all
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u64).range(1..=TOTAL_MAX))]
    pub(crate) flows: u64,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) messages: Messages,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) client: Client,
}

#[derive(Debug, Args, Serialize)]
pub(crate) struct TransferArgs {
    /// Where to; IPv6 in brackets
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    address: SocketAddr,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) direction: Direction,
    /// Send a FIN right behind the question, and take the answer on the half-closed connection
    #[arg(long, conflicts_with = "upload")]
    pub(crate) half_close: bool,
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

impl AsRef<Client> for ConnectArgs {
    fn as_ref(&self) -> &Client {
        &self.client
    }
}

impl AsRef<Client> for UdpArgs {
    fn as_ref(&self) -> &Client {
        &self.client
    }
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
}
