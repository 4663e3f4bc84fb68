//! The text expositions: OpenMetrics 1.0, and Prometheus' own of version 0.0.4
//! for a reader that asks for neither.

use std::fmt::Write as _;

use super::{Family, Labels, Latencies, Shape, Value};

/// OpenMetrics 1.0; ends with `# EOF`.
pub fn openmetrics(families: &[Family]) -> String {
    let mut out = text(families, true);
    out.push_str("# EOF\n");
    out
}

/// Version 0.0.4 of the older format.
pub fn plain(families: &[Family]) -> String {
    text(families, false)
}

/// The media types of the two, for `Content-Type`.
pub const OPENMETRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
pub const PLAIN_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

fn text(families: &[Family], openmetrics: bool) -> String {
    let mut out = String::new();
    for family in families {
        let kind = match family.shape {
            Shape::Counter => "counter",
            Shape::Gauge => "gauge",
            Shape::Histogram => "histogram",
        };
        // The older format names a counter's family as its samples.
        let suffix = if family.shape == Shape::Counter { "_total" } else { "" };
        let head = if openmetrics { "" } else { suffix };
        let name = family.name;
        let _ = writeln!(out, "# TYPE {name}{head} {kind}");
        if openmetrics && name.ends_with("_seconds") {
            let _ = writeln!(out, "# UNIT {name} seconds");
        }
        let _ = writeln!(out, "# HELP {name}{head} {}", family.help);
        for (labels, value) in &family.samples {
            match value {
                Value::Number(number) => {
                    let _ = writeln!(out, "{name}{suffix}{} {number}", braces(labels, None));
                }
                Value::Latencies(latencies) => histogram(&mut out, name, labels, latencies),
            }
        }
    }
    out
}

fn histogram(out: &mut String, name: &str, labels: &Labels, latencies: &Latencies) {
    for (bound, n) in latencies.cumulative() {
        // OpenMetrics wants a float's point in `le`.
        let bound = if bound.fract() == 0.0 { format!("{bound:.1}") } else { bound.to_string() };
        let _ = writeln!(out, "{name}_bucket{} {n}", braces(labels, Some(&bound)));
    }
    let n = latencies.count();
    let _ = writeln!(out, "{name}_bucket{} {n}", braces(labels, Some("+Inf")));
    let _ = writeln!(out, "{name}_sum{} {}", braces(labels, None), latencies.sum_seconds());
    let _ = writeln!(out, "{name}_count{} {n}", braces(labels, None));
}

fn braces(labels: &Labels, bound: Option<&str>) -> String {
    let pairs = labels.iter().map(|(name, value)| (*name, value.as_str()));
    let pairs: Vec<String> = pairs
        .chain(bound.map(|bound| ("le", bound)))
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
        .collect();
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;
    use crate::trace::{Kind, Source, sample};

    fn metrics() -> Metrics {
        let mut metrics = Metrics::new("6.12.0", 10);
        (0..3).for_each(|i| metrics.add(&sample::event(i)));
        metrics.set_sources(&[Source {
            kind: Kind::Copyup,
            union: "overlay",
            seen: Err("ovl_copy_up_one: Operation not permitted (os error 1)".into()),
        }]);
        metrics
    }

    #[test]
    fn a_trace_is_told_as_openmetrics() {
        let text = openmetrics(&metrics().families());
        insta::assert_snapshot!(text.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    }

    #[test]
    fn the_older_format_differs_in_its_heads_alone() {
        let families = metrics().families();
        let lines = |text: String| -> Vec<String> {
            text.lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect()
        };
        assert_eq!(lines(plain(&families)), lines(openmetrics(&families)));
        assert!(plain(&families).contains("# TYPE unionbench_events_total counter\n"));
        assert!(!plain(&families).contains("# EOF"));
    }

    #[test]
    fn values_of_labels_are_escaped() {
        let labels = vec![("mount", "a\"b\\c\nd".to_owned())];
        assert_eq!(braces(&labels, None), r#"{mount="a\"b\\c\nd"}"#);
    }
}
