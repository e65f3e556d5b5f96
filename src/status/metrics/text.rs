//! The text of metrics, by the library of Prometheus.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text},
    metrics::MetricType,
    registry::Registry,
};

use super::{Family, Kind, Sample, Value};

/// Which text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own, version 0.0.4: what the textfile collector of node_exporter and `promtool check metrics`
    /// read.
    Prometheus,
    /// OpenMetrics 1.0, which ends with `# EOF`.
    OpenMetrics,
}

impl Format {
    /// Returns the media type, for HTTP.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Returns the text of these families.
pub(super) fn of(families: Vec<Family>, format: Format) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match format {
        Format::Prometheus => prometheus_text::encode(&mut text, &registry),
        Format::OpenMetrics => text::encode(&mut text, &registry),
    };
    text
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, kind, help, samples, .. } in &self.0 {
            // The library adds the endings itself, as the format wants them.
            let (ending, metric_type) = match kind {
                Kind::Counter => ("_total", MetricType::Counter),
                Kind::Gauge => ("", MetricType::Gauge),
                Kind::Info => ("_info", MetricType::Info),
            };
            let name = name.strip_suffix(ending).unwrap_or(name);
            let mut metric = encoder.encode_descriptor(name, help, None, metric_type)?;
            samples.iter().try_for_each(|sample| put(&mut metric, *kind, sample))?;
        }
        Ok(())
    }
}

fn put(metric: &mut MetricEncoder<'_>, kind: Kind, Sample { labels, value }: &Sample) -> fmt::Result {
    match (kind, value) {
        (Kind::Info, _) => metric.encode_info(labels),
        (Kind::Counter, Value::Whole(value)) => {
            metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)
        }
        (Kind::Counter, Value::Part(value)) => {
            metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)
        }
        (Kind::Gauge, Value::Whole(value)) => metric.encode_family(labels)?.encode_gauge(value),
        (Kind::Gauge, Value::Part(value)) => metric.encode_family(labels)?.encode_gauge(value),
    }
}
