//! What services that keep benchmark results over time read: Bencher's metric
//! format and github-action-benchmark's custom one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::analysis::Row;
use super::{Analysis, ReportError};
use crate::unit::LatencyUnit;

/// Bencher Metric Format: benchmark → measure → value with its bounds.
pub fn bmf(analyses: &[Analysis<'_>]) -> Result<String, ReportError> {
    let mut benchmarks: BTreeMap<String, BTreeMap<&str, Value>> = BTreeMap::new();
    for (analysis, row) in counted(analyses) {
        let measures = benchmarks.entry(name(analysis, row)).or_default();
        let measure = match analysis.record.latency_unit {
            LatencyUnit::Nanoseconds => "latency",
            LatencyUnit::Instructions => "instructions",
        };
        measures.insert(
            measure,
            json!({
                "value": row.quantile(0.5),
                "lower_value": row.quantile(0.25),
                "upper_value": row.quantile(0.75),
            }),
        );
        if let Some(ratio) = &row.ratio {
            let bounds = json!({
                "value": ratio.value,
                "lower_value": ratio.low,
                "upper_value": ratio.high,
            });
            measures.insert("ratio-to-control", bounds);
        }
    }
    Ok(serde_json::to_string_pretty(&benchmarks)? + "\n")
}

/// `customSmallerIsBetter` of github-action-benchmark. Of wall time it gets the
/// ratio to the control, where there is one: that is what can be compared from
/// run to run.
pub fn github_action_benchmark(analyses: &[Analysis<'_>]) -> Result<String, ReportError> {
    let entry = |(analysis, row): (&Analysis<'_>, &Row<'_>)| {
        let unit = analysis.record.latency_unit;
        let extra = format!("n = {}, Linux {}", row.n(), analysis.record.host.kernel_release);
        match (&row.ratio, unit) {
            (Some(ratio), LatencyUnit::Nanoseconds) => json!({
                "name": name(analysis, row),
                "unit": "times the control",
                "value": ratio.value,
                "range": format!("{:.3} to {:.3}", ratio.low, ratio.high),
                "extra": extra,
            }),
            _ => json!({
                "name": name(analysis, row),
                "unit": if unit == LatencyUnit::Nanoseconds { "ns" } else { "instructions" },
                "value": row.quantile(0.5),
                "range": format!(
                    "{} to {}",
                    row.quantile(0.25).unwrap_or(0),
                    row.quantile(0.75).unwrap_or(0)
                ),
                "extra": extra,
            }),
        }
    };
    let all: Vec<Value> = counted(analyses).map(entry).collect();
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

fn counted<'a, 'b>(
    analyses: &'b [Analysis<'a>],
) -> impl Iterator<Item = (&'b Analysis<'a>, &'b Row<'a>)> {
    let rows = |analysis: &'b Analysis<'a>| analysis.rows.iter().map(move |row| (analysis, row));
    analyses.iter().flat_map(rows).filter(|(_, row)| row.counts())
}

/// Scenario, place and cell: unique over records of several kernels.
fn name(analysis: &Analysis<'_>, row: &Row<'_>) -> String {
    let record = analysis.record;
    let place = if record.lab.is_some() { &record.host.kernel_release } else { "native" };
    format!("{} {place} {}", record.scenario.name, row.cell.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample;

    #[test]
    fn bencher_gets_a_value_within_its_bounds() {
        let record = sample::record();
        let text = bmf(&[Analysis::of(&record).expect("reads")]).expect("encodes");
        let all: BTreeMap<String, BTreeMap<String, Value>> =
            serde_json::from_str(&text).expect("JSON");
        assert_eq!(all.len(), 16, "cells that count");
        for measure in all.values().flat_map(BTreeMap::values) {
            let of = |key: &str| measure[key].as_f64().expect("a number");
            assert!(of("lower_value") <= of("value") && of("value") <= of("upper_value"));
        }
    }

    #[test]
    fn action_gets_a_name_a_unit_and_a_number_each() {
        let record = sample::record();
        let text =
            github_action_benchmark(&[Analysis::of(&record).expect("reads")]).expect("encodes");
        let all: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        assert_eq!(all.len(), 16);
        for entry in &all {
            assert!(entry["name"].is_string() && entry["unit"].is_string());
            assert!(entry["value"].is_number(), "{entry}");
        }
    }
}
