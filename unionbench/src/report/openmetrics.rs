//! The figures as OpenMetrics 1.0, for a node exporter's textfile collector or
//! any other reader of that text.

use std::fmt::Write as _;

use super::analysis::Row;
use super::{Analysis, figure};
use crate::unit::LatencyUnit;

/// One family of metrics.
struct Family {
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    lines: String,
}

/// Every cell that counts, of all records. Ends with `# EOF`.
pub fn openmetrics(analyses: &[Analysis<'_>]) -> String {
    let family = |name, unit, help| Family { name, unit, help, lines: String::new() };
    let mut seconds = family("unionbench_latency_seconds", "seconds", "Latency of one operation.");
    let mut instructions = family(
        "unionbench_latency_instructions",
        "instructions",
        "Guest instructions of one operation.",
    );
    let mut ratio = family(
        "unionbench_control_ratio",
        "ratio",
        "Median over that of the control in the same run, with its 95 % interval.",
    );
    let mut samples = family("unionbench_samples", "", "Samples behind the figures of a cell.");
    let mut counts =
        family("unionbench_counter_per_operation", "", "What the kernel counted, per operation.");
    for analysis in analyses {
        // Divided, the quotient is the nearest there is and prints without a tail.
        let (latencies, divisor) = match analysis.record.latency_unit {
            LatencyUnit::Nanoseconds => (&mut seconds, 1e9),
            LatencyUnit::Instructions => (&mut instructions, 1.0),
        };
        for row in analysis.rows.iter().filter(|row| row.counts()) {
            let labels = labels(analysis, row);
            for q in [0.5, 0.9, 0.99] {
                if let Some(value) = row.quantile(q) {
                    let value = value as f64 / divisor;
                    line(latencies, &format!("{labels},quantile=\"{q}\""), value);
                }
            }
            line(&mut samples, &labels, row.n() as f64);
            if let Some(estimate) = &row.ratio {
                for (bound, value) in
                    [("value", estimate.value), ("low", estimate.low), ("high", estimate.high)]
                {
                    line(&mut ratio, &format!("{labels},bound=\"{bound}\""), value);
                }
            }
            for (name, value) in per_operation(row) {
                line(&mut counts, &format!("{labels},counter=\"{}\"", escaped(&name)), value);
            }
        }
    }
    let mut text = String::new();
    for f in [seconds, instructions, ratio, samples, counts] {
        if f.lines.is_empty() {
            continue;
        }
        let _ = writeln!(text, "# TYPE {} gauge", f.name);
        if !f.unit.is_empty() {
            let _ = writeln!(text, "# UNIT {} {}", f.name, f.unit);
        }
        let _ = writeln!(text, "# HELP {} {}", f.name, f.help);
        text += &f.lines;
    }
    text + "# EOF\n"
}

/// Counters of the rounds with probes over their operations.
fn per_operation(row: &Row<'_>) -> std::collections::BTreeMap<String, f64> {
    let rounds = || row.cell.rounds.iter().filter(|round| round.probes);
    let n_ops: u64 = rounds().map(|round| round.n_ops).sum();
    let mut sums = std::collections::BTreeMap::new();
    for counter in rounds().flat_map(|round| &round.counters).filter(|_| n_ops > 0) {
        *sums.entry(counter.name.clone()).or_default() += counter.value as f64 / n_ops as f64;
    }
    sums
}

fn line(family: &mut Family, labels: &str, value: f64) {
    if value.is_finite() {
        let _ = writeln!(family.lines, "{}{{{labels}}} {value}", family.name);
    }
}

fn labels(analysis: &Analysis<'_>, row: &Row<'_>) -> String {
    let record = analysis.record;
    let pairs = [
        ("scenario", record.scenario.name.clone()),
        ("kernel", record.host.kernel_release.clone()),
        ("place", if record.lab.is_some() { "lab".to_owned() } else { "native".to_owned() }),
        ("phase", row.cell.phase.clone()),
        ("backend", row.cell.backend.clone()),
        ("backing", row.cell.backing.kind.clone()),
        ("params", figure::params(&row.cell.params)),
    ];
    let all: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
    all.join(",")
}

/// Backslash, quote and line feed are written with a backslash.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample;

    #[test]
    fn every_family_is_told_once_and_ends_the_text() {
        let record = sample::record();
        let all = [Analysis::of(&record).expect("reads"), Analysis::of(&record).expect("reads")];
        let text = openmetrics(&all);
        assert!(text.ends_with("# EOF\n"));
        assert_eq!(text.matches("# TYPE unionbench_latency_seconds gauge").count(), 1);
        assert!(text.contains("# UNIT unionbench_latency_seconds seconds\n"));
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let (_, value) = line.rsplit_once("} ").expect("labels and a value");
            assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
        }
    }

    #[test]
    fn labels_cannot_break_out() {
        assert_eq!(escaped("a\"b\\c\n"), "a\\\"b\\\\c\\n");
    }
}
