//! `metrics`: prints what Prometheus reads, or writes it to a file for the textfile collector.

use super::{Env, Status, args::MetricsArguments, error::CtlError};
use crate::{
    status::metrics::{Format, Metrics, Scope},
    sys::{region::RegionName, replace::replace},
};

/// Of whichever user node_exporter runs as.
const MODE: u32 = 0o644;

/// `lbctl metrics`.
pub(super) fn metrics(
    env: &mut Env<'_>,
    name: &RegionName,
    json: bool,
    args: &MetricsArguments,
) -> Result<Status, CtlError> {
    let scopes = if args.scope.is_empty() { &Scope::ALL } else { &args.scope[..] };
    let (metrics, unreadable) = Metrics::read(name, &env.sources, scopes);
    let text = if json {
        let mut text = serde_json::to_string(&metrics).map_err(std::io::Error::from)?;
        text.push('\n');
        text
    } else {
        metrics.text(if args.openmetrics { Format::OpenMetrics } else { Format::Prometheus })
    };
    match &args.output {
        None => env.text(&text)?,
        Some(file) => {
            let written = replace(file, text.as_bytes(), MODE);
            let error = |error| CtlError::Unwritten { file: file.display().to_string(), error };
            written.map(|()| Status::Done).map_err(error)?
        }
    };
    // They are written all the same: that the region cannot be read is a metric, too.
    unreadable.map_or(Ok(Status::Done), |error| Err(error.into()))
}
