//! What a record says beyond its tables, a sentence a line: how latency grows
//! with depth or size, what the probes cost, what is missing and why.

use std::collections::BTreeMap;

use super::Analysis;
use super::analysis::{Row, number};
use super::figure::{grouped, is_size, latency, param};
use super::table::uncounted_copy_ups;
use crate::record::{Availability, CellStatus};
use crate::stats::fit;
use crate::unit::{LatencyUnit, so_many};

/// Fewest distinct values of a parameter that a line is fitted to.
const MIN_POINTS: usize = 3;

/// Below this many rounds an interval is too narrow to be relied on.
const FEW_ROUNDS: usize = 5;

/// Points (parameter, median) of one backend in one phase, ascending, while
/// all other parameters stay the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub phase: String,
    pub backend: String,
    pub key: String,
    /// The other parameters, for the label; empty if there are none.
    pub fixed: String,
    pub points: Vec<(f64, f64)>,
    /// Samples behind all points.
    pub n: u64,
}

/// Every series of a numeric parameter with at least three values.
pub fn series(analysis: &Analysis<'_>) -> Vec<Series> {
    let mut found: Vec<Series> = Vec::new();
    for row in analysis.rows.iter().filter(|row| row.counts()) {
        for (key, value) in &row.cell.params {
            let (Some(x), Some(median)) = (number(value), row.quantile(0.5)) else { continue };
            let fixed = fixed(row, key);
            let same = |s: &&mut Series| {
                s.phase == row.cell.phase
                    && s.backend == row.cell.backend
                    && s.key == *key
                    && s.fixed == fixed
            };
            let point = (x, median as f64);
            match found.iter_mut().find(same) {
                Some(series) => {
                    series.points.push(point);
                    series.n += row.n();
                }
                None => found.push(Series {
                    phase: row.cell.phase.clone(),
                    backend: row.cell.backend.clone(),
                    key: key.clone(),
                    fixed,
                    points: vec![point],
                    n: row.n(),
                }),
            }
        }
    }
    for series in &mut found {
        series.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    found.retain(|s| distinct(&s.points) >= MIN_POINTS);
    found
}

/// One sentence per series of depths (a line) or sizes (a power law).
pub fn fits(analysis: &Analysis<'_>) -> Vec<String> {
    let unit = analysis.record.latency_unit;
    series(analysis)
        .iter()
        .filter_map(|s| {
            let subject = match s.fixed.as_str() {
                "" => format!("{} on {}", s.phase, s.backend),
                fixed => format!("{} on {} ({fixed})", s.phase, s.backend),
            };
            if is_size(&s.key) {
                let fit = fit::power_law(&s.points)?;
                Some(format!(
                    "{subject}: median grows as {}^{:.2} (R² {:.3} on log-log axes, {} sizes)",
                    s.key, fit.exponent, fit.r_squared, fit.n
                ))
            } else if s.key == "stack.layers" {
                let fit = fit::line(&s.points)?;
                Some(format!(
                    "{subject}: median grows by {:.1} {} per layer (R² {:.3}, {} depths, intercept {})",
                    fit.slope,
                    unit.suffix(),
                    fit.r_squared,
                    fit.n,
                    signed(fit.intercept, unit)
                ))
            } else {
                None
            }
        })
        .collect()
}

/// A fitted line may cut the axis below zero; no measured latency lies there.
fn signed(value: f64, unit: LatencyUnit) -> String {
    let sign = if value < 0.0 { "-" } else { "" };
    format!("{sign}{}", latency(value.abs(), unit))
}

/// What attached probes add to the median, per phase and backend.
pub fn probes_cost(analysis: &Analysis<'_>) -> Vec<String> {
    let unit = analysis.record.latency_unit;
    let mut ranges: BTreeMap<(&str, &str), (Range, Range, usize)> = BTreeMap::new();
    for row in analysis.rows.iter().filter(|row| row.counts()) {
        if let (Some(cost), Some(median)) = (row.probes_cost, row.quantile(0.5)) {
            let place = (row.cell.phase.as_str(), row.cell.backend.as_str());
            let (ratios, added, n) = ranges.entry(place).or_default();
            ratios.take(cost.value);
            added.take((cost.value - 1.0) * median as f64);
            *n += 1;
        }
    }
    ranges
        .into_iter()
        .map(|((phase, backend), (ratios, added, n))| {
            let cells = if n == 1 { "1 cell".to_owned() } else { format!("{n} cells") };
            let exact = match unit {
                LatencyUnit::Nanoseconds => String::new(),
                // Counted, not timed: the difference is the probes' alone.
                LatencyUnit::Instructions => format!(
                    ", {:+.0} to {:+.0} {} an operation",
                    added.low,
                    added.high,
                    unit.suffix()
                ),
            };
            format!(
                "{phase} on {backend}: median with probes / without {:.2} to {:.2}{exact} over {cells}",
                ratios.low, ratios.high
            )
        })
        .collect()
}

/// Least and greatest of what was taken.
struct Range {
    low: f64,
    high: f64,
}

impl Default for Range {
    fn default() -> Self {
        Self { low: f64::INFINITY, high: f64::NEG_INFINITY }
    }
}

impl Range {
    fn take(&mut self, value: f64) {
        self.low = self.low.min(value);
        self.high = self.high.max(value);
    }
}

/// What is missing or doubtful: backends, cells, losses, the run's warnings.
pub fn warnings(analysis: &Analysis<'_>) -> Vec<String> {
    let record = analysis.record;
    let mut lines = record.warnings.clone();
    let fewest = analysis.rows.iter().filter_map(|row| row.ratio.map(|r| r.n_rounds)).min();
    if let Some(n) = fewest.filter(|n| *n < FEW_ROUNDS) {
        lines.push(format!(
            "some ratios rest on {}: their intervals know little of the scatter between rounds; use --rounds {FEW_ROUNDS} or more",
            so_many(n, "round")
        ));
    }
    for backend in &record.backends {
        if let Availability::Unsupported { reason } = &backend.availability {
            lines.push(format!("{} is unsupported here: {reason}", backend.name));
        }
    }
    lines.extend(uncounted(analysis));
    // One cause often fails many cells: it is told once.
    let mut alike: Vec<((&str, &str), Vec<&str>)> = Vec::new();
    for row in &analysis.rows {
        let told = match &row.cell.status {
            CellStatus::Ok => continue,
            CellStatus::Unsupported { .. } if backend_is_unsupported(analysis, row) => continue,
            CellStatus::Unsupported { reason } => ("is unsupported here", reason.as_str()),
            CellStatus::Failed { reason } => ("failed", reason.as_str()),
            CellStatus::Invalid { reason } => ("is invalid", reason.as_str()),
        };
        match alike.iter_mut().find(|(other, _)| *other == told) {
            Some((_, cells)) => cells.push(&row.cell.id),
            None => alike.push((told, vec![&row.cell.id])),
        }
    }
    lines.extend(alike.into_iter().map(|((word, reason), cells)| match cells.as_slice() {
        [only] => format!("cell {only} {word}: {reason}"),
        [first, others @ ..] => {
            format!("cell {first} and {} more {word}: {reason}", others.len())
        }
        [] => String::new(),
    }));
    for row in analysis.rows.iter().filter(|row| !row.losses.is_zero()) {
        let l = row.losses;
        lines.push(format!(
            "cell {} lost {} events, {} unpaired, {} past the last bucket, {} stacks",
            row.cell.id,
            grouped(l.events),
            grouped(l.unpaired),
            grouped(l.overflow),
            grouped(l.stacks)
        ));
    }
    lines
}

/// Backends whose copy-ups stand as `not seen` in a table, each with the reason.
fn uncounted(analysis: &Analysis<'_>) -> Vec<String> {
    let mut told: Vec<(&str, &str)> = Vec::new();
    for phase in analysis.phases() {
        let rows: Vec<&Row<'_>> = analysis.phase(phase).collect();
        if rows.iter().all(|row| row.copy_ups.is_none()) {
            continue;
        }
        for row in rows {
            let Some(reason) = uncounted_copy_ups(analysis.record, row) else { continue };
            let pair = (row.cell.backend.as_str(), reason);
            if !told.contains(&pair) {
                told.push(pair);
            }
        }
    }
    let told = told.into_iter();
    told.map(|(backend, reason)| format!("copy-ups of {backend} could not be counted: {reason}"))
        .collect()
}

fn backend_is_unsupported(analysis: &Analysis<'_>, row: &Row<'_>) -> bool {
    analysis
        .record
        .backends
        .iter()
        .any(|b| b.name == row.cell.backend && b.availability != Availability::Ok)
}

pub(super) fn fixed(row: &Row<'_>, key: &str) -> String {
    let others: Vec<String> =
        row.cell.params.iter().filter(|(k, _)| *k != key).map(|(k, v)| param(k, v)).collect();
    others.join(" ")
}

fn distinct(points: &[(f64, f64)]) -> usize {
    points.windows(2).filter(|w| w[0].0 != w[1].0).count() + usize::from(!points.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample;

    #[test]
    fn known_growth_is_found() {
        let record = sample::record();
        let analysis = Analysis::of(&record).expect("reads");
        let series = series(&analysis);
        let depth = series
            .iter()
            .find(|s| s.backend == "overlayfs" && s.key == "stack.layers")
            .expect("four depths");
        let fit = fit::line(&depth.points).expect("four depths");
        assert!((fit.slope / 100.0 - 1.0).abs() < 0.01, "{fit:?}");
        assert!(fit.r_squared > 0.999, "{fit:?}");
        assert_eq!(series.len(), 4, "two backends by depth, two by size");
    }
}
