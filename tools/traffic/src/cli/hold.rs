//! The options of `traffic hold`.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, value_parser};
use serde::Serialize;

use super::common::{Client, Length};
use super::{CONNECTIONS_MAX, DAY_MS};
use crate::link::Closing;

#[derive(Debug, Args, Serialize)]
pub(crate) struct HoldArgs {
    /// UDP flows instead of TCP connections
    #[arg(long)]
    pub(crate) udp: bool,
    /// How many to hold
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u64).range(1..=CONNECTIONS_MAX))]
    pub(crate) connections: u64,
    /// How long to hold them once all are open
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = value_parser!(u64).range(0..=DAY_MS / 1000))]
    pub(crate) seconds: u64,
    /// End as soon as this file exists
    #[arg(long, value_name = "PATH")]
    pub(crate) until_file: Option<PathBuf>,
    /// Written when every connection has been tried: {"opened":N,"failed":N,"lost":N}
    #[arg(long, value_name = "PATH")]
    pub(crate) ready_file: Option<PathBuf>,
    /// A round trip on each connection every so often
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = value_parser!(u64).range(1..=DAY_MS))]
    pub(crate) interval_ms: u64,
    /// Instead: so many round trips a second on all connections together
    #[arg(long, value_name = "N", conflicts_with = "interval_ms")]
    pub(crate) message_rate: Option<NonZeroU32>,
    /// Open a new connection, from the next source address, in place of each that is lost or failed
    #[arg(long)]
    pub(crate) reconnect: bool,
    /// Close each connection after so long, and open a new one in its place
    #[arg(long, value_name = "MS", value_parser = value_parser!(u64).range(1..=DAY_MS))]
    pub(crate) lifetime_ms: Option<u64>,
    /// A sample of all counts every so often
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = value_parser!(u64).range(10..=DAY_MS))]
    pub(crate) sample_ms: u64,
    /// Each line that is appended to this file, such as "s1 deactivated", is an event, stamped with the time when the kernel
    /// tells of it (or, where another machine writes the file, of the next sample). Its directory must be there
    #[arg(long, value_name = "PATH")]
    pub(crate) event_file: Option<PathBuf>,
    /// The report names so many connections that were lost, and as many others
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) records: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) length: Length,
    /// Who closes first
    #[arg(long, value_enum, default_value = "server")]
    pub(crate) close: Closing,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) client: Client,
}

impl AsRef<Client> for HoldArgs {
    fn as_ref(&self) -> &Client {
        &self.client
    }
}

pub(super) const EXAMPLES: &str = "\
Examples:
  traffic hold --address 10.0.0.0:7000 --connections 200 --source-cidr 50.0.0.0/16 --seconds 30
  traffic hold --address [1000::]:7000 --connections 200 --source-cidr 2000::/112 --seconds 600 \\
      --interval-ms 200 --ready-file /tmp/ready --until-file /tmp/stop --json
  traffic hold --address 10.0.0.0:7000 --message-rate 100 --reconnect --event-file /tmp/events --json > scale.json
      (meanwhile: echo 's1 deactivated' >> /tmp/events; then: traffic graph scale.json -o scale.svg)
  traffic hold --address 10.0.0.0:7000 --source-cidr 50.0.0.0/16 --connections 1000 --lifetime-ms 500
      (2000 new connections a second)

Ends after --seconds, when the until-file exists, or when no connection is left; each connection then makes a last
round trip. Files left over from before count: remove them first.
A connection is lost when it breaks, has no answer in time, or another server answers; a UDP flow when another server
answers or three datagrams in a row have no answer.
Report: `samples` are all counts over time, with each server's; `events`; `connections`, lost ones first;
`retransmissions` of TCP; `reconnected` were opened in place of lost ones. If it was slower than asked for (--rate,
--lifetime-ms), `limited_by` says why.
Exit status: 0 all well; 1 losses or failures; 2 wrong usage, or it cannot start.";
