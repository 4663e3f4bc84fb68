//! All samples of one set of coordinates: the percentile curve and the
//! empirical distribution, one line per backend. Each phase is drawn at its
//! last coordinates (the deepest stack, the largest file); the title names
//! them. Curves are steps, because a quantile is always a measured value.

use super::axis::Axis;
use super::chart::{Chart, Curve};
use super::file_name;
use crate::report::Analysis;
use crate::report::analysis::Row;
use crate::report::figure::{grouped, params};

/// Fewest samples of a backend that a distribution is drawn of.
const MIN_SAMPLES: u64 = 20;

/// Two charts for each phase that has enough samples.
pub fn charts(analysis: &Analysis<'_>) -> Vec<Chart> {
    analysis.phases().into_iter().flat_map(|phase| of_phase(analysis, phase)).collect()
}

fn of_phase(analysis: &Analysis<'_>, phase: &str) -> Vec<Chart> {
    let drawn = |row: &&Row<'_>| row.counts() && row.n() >= MIN_SAMPLES;
    let Some(last) = analysis.phase(phase).filter(drawn).last() else { return Vec::new() };
    let rows: Vec<&Row<'_>> =
        analysis.phase(phase).filter(drawn).filter(|r| r.cell.params == last.cell.params).collect();
    let unit = analysis.record.latency_unit;
    let place = params(&last.cell.params);
    let values: Vec<f64> = rows
        .iter()
        .flat_map(|row| [row.histogram.min() as f64, row.histogram.max() as f64])
        .collect();
    let n = rows.iter().map(|row| row.n()).max().unwrap_or(0);
    let percentiles = Chart {
        name: file_name(&format!("{phase}-percentiles")),
        title: format!("{phase}: latency by percentile ({place})"),
        x: Axis::rarity("percentile p, drawn at 1/(1 - p)", n),
        y: Axis::latency("latency", &values, unit, true),
        curves: rows.iter().map(|row| curve(row, percentile_steps(row))).collect(),
    };
    let ecdf = Chart {
        name: file_name(&format!("{phase}-ecdf")),
        title: format!("{phase}: share of operations within a latency ({place})"),
        x: Axis::latency("latency", &values, unit, true),
        y: Axis::share("share of operations"),
        curves: rows.iter().map(|row| curve(row, ecdf_steps(row))).collect(),
    };
    vec![percentiles, ecdf]
}

fn curve(row: &Row<'_>, points: Vec<(f64, f64)>) -> Curve {
    Curve {
        label: format!("{}, n = {}", row.cell.backend, grouped(row.n())),
        points,
        fit: Vec::new(),
        marked: false,
    }
}

/// (value, share of samples below it, share at or below it), ascending.
fn steps(row: &Row<'_>) -> Vec<(f64, f64, f64)> {
    let n = row.n() as f64;
    let mut seen = 0;
    row.histogram
        .iter_recorded()
        .map(|bucket| {
            let below = seen;
            seen += bucket.count_at_value();
            (bucket.value_iterated_to() as f64, below as f64 / n, seen as f64 / n)
        })
        .collect()
}

/// The largest value's step ends at infinity; it is drawn to one in n.
fn percentile_steps(row: &Row<'_>) -> Vec<(f64, f64)> {
    let rarest = row.n() as f64;
    let rarity = |share: f64| (1.0 / (1.0 - share)).min(rarest);
    steps(row)
        .into_iter()
        .flat_map(|(value, below, within)| [(rarity(below), value), (rarity(within), value)])
        .collect()
}

fn ecdf_steps(row: &Row<'_>) -> Vec<(f64, f64)> {
    steps(row)
        .into_iter()
        .flat_map(|(value, below, within)| [(value, below), (value, within)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample;

    #[test]
    fn steps_rise_from_zero_to_one() {
        let record = sample::record();
        let analysis = Analysis::of(&record).expect("reads");
        let row = analysis.rows.iter().find(|row| row.n() > 0).expect("measured");
        let ecdf = ecdf_steps(row);
        assert_eq!(ecdf.first().map(|p| p.1), Some(0.0));
        assert_eq!(ecdf.last().map(|p| p.1), Some(1.0));
        assert!(ecdf.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1));
        let percentiles = percentile_steps(row);
        assert!(percentiles.iter().all(|p| (1.0..=row.n() as f64).contains(&p.0)));
        assert!(percentiles.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1));
    }
}
