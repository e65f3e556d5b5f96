//! The options of what reads reports: `traffic analyze`, `traffic graph` and `traffic bars`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct AnalyzeArgs {
    /// Reports, as the clients write them with --json
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// One JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    /// Reports of `hold`, written with --json; each gets a panel, and all panels the same scales
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The picture, as SVG
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// What stands above all (default: with one report what it counted, with several nothing)
    #[arg(long)]
    pub(crate) title: Option<String>,
    /// What stands above a panel, in the order of the files (default: the file's name)
    #[arg(long = "name", value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BarsArgs {
    /// Measurements, as `tools/bench/compare --json` prints them
    pub(crate) file: PathBuf,
    /// The picture, as SVG
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

pub(super) const ANALYZE_EXAMPLES: &str = "\
Examples:
  traffic analyze scale.json
  traffic analyze --json ecmp.json ipvs.json synrail.json

A phase is the time from one event to the next; what was lost in it is also given in percent of the connections that
were open when it began. Exit status: 0; 2 a file cannot be read.";

pub(super) const GRAPH_EXAMPLES: &str = "\
Examples:
  traffic graph scale.json -o scale.svg
  traffic graph scale.json --out scale.svg --title 'synrail, 2 of 10 backends out and in'
  traffic graph a.json b.json --name synrail --name ecmp -o both.svg

Exit status: 0; 2 the report cannot be read, or has no samples.";

pub(super) const BARS_EXAMPLES: &str = "\
Example:
  traffic bars compare.json --out compare.svg

Exit status: 0; 2 the file cannot be read, or has no rows.";
