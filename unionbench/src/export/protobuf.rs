//! The protobuf exposition, which alone carries native histograms.
//!
//! The messages are those of `io.prometheus.client` (client_model,
//! `metrics.proto`), with the fields that are written here. A scrape is a
//! sequence of `MetricFamily`, each behind its length.

use prost::Message;

use super::{Family, Shape, Value, histogram::SCHEMA};

/// The media type, as clients ask for it.
pub const TYPE: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

#[derive(Clone, PartialEq, Message)]
pub struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub help: Option<String>,
    /// 0 counter, 1 gauge, 4 histogram.
    #[prost(int32, optional, tag = "3")]
    pub kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    pub metric: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    pub gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    pub counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    pub histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
pub struct LabelPair {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub value: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct Number {
    #[prost(double, optional, tag = "1")]
    pub value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    pub sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    pub bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    pub schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    pub zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    pub zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    pub positive_span: Vec<BucketSpan>,
    // The message is of proto2, whose numbers are not packed.
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    pub positive_delta: Vec<i64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    pub cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub upper_bound: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    pub offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    pub length: Option<u32>,
}

/// Bounds of latencies that count as zero: below a nanosecond.
const ZERO_THRESHOLD: f64 = 1e-9 / 2.0;

/// The body of a scrape.
pub fn encode(families: &[Family]) -> Vec<u8> {
    families.iter().flat_map(|family| message(family).encode_length_delimited_to_vec()).collect()
}

fn message(family: &Family) -> MetricFamily {
    let (kind, suffix) = match family.shape {
        Shape::Counter => (0, "_total"),
        Shape::Gauge => (1, ""),
        Shape::Histogram => (4, ""),
    };
    let metric = family.samples.iter().map(|(labels, value)| {
        let pair = |(name, value): &(&str, String)| LabelPair {
            name: Some((*name).to_owned()),
            value: Some(value.clone()),
        };
        let mut metric = Metric { label: labels.iter().map(pair).collect(), ..Metric::default() };
        match (value, family.shape) {
            (Value::Latencies(latencies), _) => metric.histogram = Some(histogram(latencies)),
            (Value::Number(n), Shape::Counter) => metric.counter = Some(Number { value: Some(*n) }),
            (Value::Number(n), _) => metric.gauge = Some(Number { value: Some(*n) }),
        }
        metric
    });
    MetricFamily {
        name: Some(format!("{}{suffix}", family.name)),
        help: Some(family.help.to_owned()),
        kind: Some(kind),
        metric: metric.collect(),
    }
}

fn histogram(latencies: &super::Latencies) -> Histogram {
    let (spans, positive_delta) = latencies.spans();
    let bucket = |(bound, n)| Bucket { cumulative_count: Some(n), upper_bound: Some(bound) };
    let span = |span: super::histogram::Span| BucketSpan {
        offset: Some(span.offset),
        length: Some(span.length),
    };
    Histogram {
        sample_count: Some(latencies.count()),
        sample_sum: Some(latencies.sum_seconds()),
        bucket: latencies.cumulative().map(bucket).collect(),
        schema: Some(SCHEMA),
        zero_threshold: Some(ZERO_THRESHOLD),
        zero_count: Some(latencies.n_zero()),
        positive_span: spans.into_iter().map(span).collect(),
        positive_delta,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;
    use crate::trace::sample;

    #[test]
    fn families_read_back_one_behind_the_other() {
        let mut metrics = Metrics::new("6.12.0", 10);
        (0..3).for_each(|i| metrics.add(&sample::event(i)));
        let families = metrics.families();
        let body = encode(&families);
        let mut rest = body.as_slice();
        let mut read = Vec::new();
        while !rest.is_empty() {
            read.push(MetricFamily::decode_length_delimited(&mut rest).expect("decodes"));
        }
        assert_eq!(read.len(), families.len());
        assert_eq!(read[0].name.as_deref(), Some("unionbench_events_total"));
        let histogram = read[1].metric[0].histogram.as_ref().expect("is one");
        assert_eq!((histogram.sample_count, histogram.schema), (Some(1), Some(3)));
        assert_eq!(histogram.positive_delta, [1]);
        // 101 µs lies in (2^(-107/8), 2^(-106/8)] seconds.
        let offset = histogram.positive_span[0].offset;
        assert_eq!(offset, Some((101e-6_f64.log2() * 8.0).ceil() as i32));
    }
}
