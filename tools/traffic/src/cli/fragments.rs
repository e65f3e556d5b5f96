//! The options of `traffic fragments`.

use std::fmt;
use std::str::FromStr;

use clap::{Args, ValueEnum, value_parser};
use serde::{Serialize, Serializer};

use super::{Client, DAY_MS, TOTAL_MAX};
use crate::datagram::PADDING_BYTES_MAX;
use crate::plan::Order;

#[derive(Debug, Args, Serialize)]
pub(crate) struct FragmentsArgs {
    /// How many in all; --rate and --concurrency are about them
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u64).range(1..=TOTAL_MAX))]
    pub(crate) datagrams: u64,
    /// In so many flows, each of which sends its next one when it has the answer to the last (default: a flow for each)
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..=TOTAL_MAX))]
    pub(crate) flows: Option<u64>,
    /// Pause between the datagrams of a flow
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = value_parser!(u64).range(..=DAY_MS))]
    pub(crate) interval_ms: u64,
    /// Pause between fragments
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = value_parser!(u64).range(..=DAY_MS))]
    pub(crate) delay_ms: u64,
    /// Fragments of each, a number or a range of them
    #[arg(long, value_name = "N-N", default_value = "2-20", value_parser = fragments)]
    pub(crate) fragments: Span,
    /// The most bytes of a packet, IP header included
    #[arg(long, value_name = "B", default_value_t = 1200, value_parser = value_parser!(u16).range(128..=9000))]
    pub(crate) fragment_bytes: u16,
    /// Length of the part of a datagram that comes back, a number or a range (default: what the fragments can hold)
    #[arg(long, value_name = "B-B", value_parser = message_bytes)]
    pub(crate) message_bytes: Option<Span>,
    /// Their order
    #[arg(long, value_enum, default_value = "mixed")]
    pub(crate) order: Order,
    /// Of so many datagrams (in percent, as below), one fragment is sent twice
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = value_parser!(u8).range(..=100))]
    pub(crate) duplicate: u8,
    /// So many have a fragment that overlaps others: no answer may come
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = value_parser!(u8).range(..=100))]
    pub(crate) overlap: u8,
    /// So many lack a fragment: no answer can come
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = value_parser!(u8).range(..=100))]
    pub(crate) drop: u8,
    /// So many are not cut, and short enough for it
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = value_parser!(u8).range(..=100))]
    pub(crate) whole: u8,
    /// So many have nothing but headers in their first fragment
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = value_parser!(u8).range(..=100))]
    pub(crate) tiny: u8,
    /// IPv6 (IPv4 has none): so many have an extension header before the fragment header, and one behind it
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = value_parser!(u8).range(..=100))]
    pub(crate) extension_headers: u8,
    /// Pings instead of UDP; the port means nothing, and no answer has a name
    #[arg(long)]
    pub(crate) echo: bool,
    /// Where to cut, and what else is drawn
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// A flood instead: fragments of packets that never become complete, --rate a second, each of another packet
    #[arg(long, value_enum, requires = "rate", requires = "source_cidr")]
    pub(crate) incomplete: Option<Incomplete>,
    /// The flood comes from so many sources in turn
    #[arg(long, value_name = "N", default_value_t = 1, requires = "incomplete", value_parser = value_parser!(u64).range(1..))]
    pub(crate) sources: u64,
    /// The flood lasts so long
    #[arg(long, value_name = "S", default_value_t = 10, requires = "incomplete", value_parser = value_parser!(u64).range(1..=DAY_MS / 1000))]
    pub(crate) seconds: u64,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) client: Client,
}

/// Which fragments a flood consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Incomplete {
    /// First ones, that have the ports
    First,
    /// Later ones
    Later,
    /// Now one, now the other
    Both,
}

/// A range; both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) least: usize,
    pub(crate) most: usize,
}

impl Span {
    fn within(text: &str, least: usize, most: usize) -> Result<Self, String> {
        let span = text.parse().ok().filter(|span: &Self| least <= span.least && span.most <= most);
        span.ok_or_else(|| format!("expected a number from {least} to {most}, or two, as in 2-20"))
    }
}

impl FromStr for Span {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (least, most) = text.split_once('-').unwrap_or((text, text));
        let span = Self { least: least.parse().map_err(drop)?, most: most.parse().map_err(drop)? };
        if span.least <= span.most { Ok(span) } else { Err(()) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.least, self.most)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// More do not fit into a packet that has anything in each.
const FRAGMENTS_MAX: usize = 8000;

fn fragments(text: &str) -> Result<Span, String> {
    Span::within(text, 2, FRAGMENTS_MAX)
}

fn message_bytes(text: &str) -> Result<Span, String> {
    Span::within(text, 0, PADDING_BYTES_MAX)
}

pub(super) const EXAMPLES: &str = "\
Examples:
  traffic fragments --address 10.0.0.0:7000 --datagrams 1000 --source-cidr 50.0.0.0/16 --json
  traffic fragments --address [1000::]:7000 --datagrams 1000 --flows 50 --whole 50 --extension-headers 30
  traffic fragments --address 10.0.0.0:7000 --order reversed --fragments 3 --message-bytes 2984 --echo --concurrency 10
  traffic fragments --address 10.0.0.0:7000 --source-cidr 50.0.0.0/16 --incomplete both --sources 10000 --rate 2000

Report: as of udp; and `datagrams` were sent, `whole` of them uncut, in `fragments` (`duplicates` among them);
`overlapped` and `left_out` datagrams cannot arrive and are not lost; those that did are `unexpected`.
`served` names each flow's source, port and server: what another may say about the flow can be compared with it.
Exit status: 0 all well; 1 losses or failures; 2 wrong usage, or it cannot start.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        assert_eq!(fragments("2-20"), Ok(Span { least: 2, most: 20 }));
        assert_eq!(message_bytes("2984"), Ok(Span { least: 2984, most: 2984 }));
        for text in ["", "1", "3-2", "2-", "-2", "2-8001", "a-b"] {
            assert!(fragments(text).unwrap_err().contains("as in 2-20"), "{text}");
        }
    }
}
