//! The figures of a record, each with the table of its numbers.

use std::collections::BTreeMap;

use super::chart::{Bars, Chart, Curve};
use super::heat::Timeline;
use super::text::{escaped, folded, table};
use crate::record::KernelHistogram;
use crate::report::Analysis;
use crate::report::analysis::Row;
use crate::report::figure::{grouped, is_size, latency, params};
use crate::report::plots::axis::Axis;
use crate::report::sentences::{Series, series};
use crate::stats::fit;

/// Fewest samples of a backend that a distribution is drawn of.
const MIN_SAMPLES: u64 = 20;
/// Points of a drawn distribution.
const N_POINTS: usize = 240;
/// Most heat maps of a record; the deepest coordinates come first.
const MAX_HEAT_MAPS: usize = 12;

/// The page's colour of a backend: by its place in the record, so that it is the
/// same in every figure; the control's is grey.
pub fn colour(analysis: &Analysis<'_>, backend: &str) -> usize {
    let backends = &analysis.record.backends;
    match backends.iter().find(|b| b.name == backend) {
        Some(b) if b.control => 0,
        _ => {
            let others = backends.iter().filter(|b| !b.control);
            1 + others.take_while(|b| b.name != backend).count() % 5
        }
    }
}

/// Medians against every numeric parameter for which `wanted` holds.
pub fn growth(analysis: &Analysis<'_>, wanted: fn(&str) -> bool) -> Vec<String> {
    let all: Vec<Series> = series(analysis).into_iter().filter(|s| wanted(&s.key)).collect();
    let mut done: Vec<(&str, &str, &str)> = Vec::new();
    let mut figures = Vec::new();
    for first in &all {
        let name = (first.phase.as_str(), first.key.as_str(), first.fixed.as_str());
        if done.contains(&name) {
            continue;
        }
        done.push(name);
        let same: Vec<&Series> = all
            .iter()
            .filter(|s| (s.phase.as_str(), s.key.as_str(), s.fixed.as_str()) == name)
            .collect();
        figures.push(growth_figure(analysis, &same));
    }
    figures
}

fn growth_figure(analysis: &Analysis<'_>, same: &[&Series]) -> String {
    let unit = analysis.record.latency_unit;
    let Series { phase, key, fixed, .. } = same[0];
    let xs: Vec<f64> = same.iter().flat_map(|s| s.points.iter().map(|p| p.0)).collect();
    let curves: Vec<Curve> = same.iter().map(|s| growth_curve(analysis, s)).collect();
    let ys: Vec<f64> = curves
        .iter()
        .flat_map(|c| c.points.iter().map(|p| p.1).chain(c.bands.iter().flat_map(|b| [b.1, b.2])))
        .collect();
    let x = if is_size(key) { Axis::size(key, &xs) } else { Axis::number(key, &xs) };
    let chart = Chart { x, y: Axis::latency("median", &ys, unit, is_size(key)), curves };
    let suffix = if fixed.is_empty() { String::new() } else { format!(" ({fixed})") };
    let title = format!("{phase}: median against {key}{suffix}");
    let mut rows = Vec::new();
    for s in same {
        for (x, y) in &s.points {
            let x = if is_size(key) {
                crate::unit::Bytes(*x as u64).to_string()
            } else {
                x.to_string()
            };
            rows.push(vec![s.backend.clone(), x, latency(*y, unit)]);
        }
    }
    figure(
        &title,
        "Bars are the middle half of the samples; dots a fitted line.",
        &chart.draw(&title),
        &["backend", key, "median"],
        &rows,
    )
}

fn growth_curve(analysis: &Analysis<'_>, series: &Series) -> Curve {
    // Of many points, because a line is a curve where the axis is logarithmic.
    let from = series.points.first().map_or(0.0, |p| p.0);
    let to = series.points.last().map_or(0.0, |p| p.0);
    let xs = (0..=32).map(|i| from + (to - from) * f64::from(i) / 32.0);
    let fit: Vec<(f64, f64)> = if is_size(&series.key) {
        let law = fit::power_law(&series.points);
        xs.filter_map(|x| law.map(|l| (x, l.factor * x.powf(l.exponent)))).collect()
    } else {
        let line = fit::line(&series.points);
        xs.filter_map(|x| line.map(|l| (x, (l.intercept + l.slope * x).max(0.0)))).collect()
    };
    let bands = analysis
        .phase(&series.phase)
        .filter(|row| row.counts() && row.cell.backend == series.backend)
        .filter(|row| crate::report::sentences::fixed(row, &series.key) == series.fixed)
        .filter_map(|row| {
            let x = crate::report::analysis::number(row.cell.params.get(&series.key)?)?;
            Some((x, row.quantile(0.25)? as f64, row.quantile(0.75)? as f64))
        });
    Curve {
        label: format!("{}, n = {}", series.backend, grouped(series.n)),
        colour: colour(analysis, &series.backend),
        points: series.points.clone(),
        bands: bands.collect(),
        fit,
        marked: true,
    }
}

/// The percentile curve of each phase at its last coordinates.
pub fn percentiles(analysis: &Analysis<'_>) -> Vec<String> {
    let unit = analysis.record.latency_unit;
    let of_phase = |phase: &&str| {
        let rows = drawn_rows(analysis, phase)?;
        let n = rows.iter().map(|row| row.n()).max()?;
        let curves: Vec<Curve> = rows
            .iter()
            .map(|row| {
                // Even steps along the drawn axis, 1/(1 - p).
                let rarest = row.n() as f64;
                let points = (0..=N_POINTS).filter_map(|i| {
                    let rarity = rarest.powf(i as f64 / N_POINTS as f64);
                    Some((rarity, row.quantile(1.0 - 1.0 / rarity)? as f64))
                });
                curve(analysis, row, points.collect())
            })
            .collect();
        let x = Axis::rarity("percentile", n);
        let title = format!("{phase}: latency by percentile{}", at(rows[0]));
        Some(distribution(&title, Chart { x, y: latencies(&rows, unit), curves }, &rows, analysis))
    };
    analysis.phases().iter().filter_map(of_phase).collect()
}

/// The share of operations within a latency, of each phase at its last
/// coordinates.
pub fn ecdf(analysis: &Analysis<'_>) -> Vec<String> {
    let unit = analysis.record.latency_unit;
    let of_phase = |phase: &&str| {
        let rows = drawn_rows(analysis, phase)?;
        let curves: Vec<Curve> = rows
            .iter()
            .map(|row| {
                let points = (0..=N_POINTS).filter_map(|i| {
                    let share = i as f64 / N_POINTS as f64;
                    Some((row.quantile(share)? as f64, share))
                });
                curve(analysis, row, points.collect())
            })
            .collect();
        let title = format!("{phase}: share within a latency{}", at(rows[0]));
        let chart =
            Chart { x: latencies(&rows, unit), y: Axis::share("share of operations"), curves };
        Some(distribution(&title, chart, &rows, analysis))
    };
    analysis.phases().iter().filter_map(of_phase).collect()
}

/// Rows of a phase at its last coordinates that are worth a distribution.
fn drawn_rows<'a, 'b>(analysis: &'b Analysis<'a>, phase: &str) -> Option<Vec<&'b Row<'a>>> {
    let drawn = |row: &&Row<'_>| row.counts() && row.n() >= MIN_SAMPLES;
    let last = analysis.phase(phase).filter(drawn).last()?;
    Some(
        analysis.phase(phase).filter(drawn).filter(|r| r.cell.params == last.cell.params).collect(),
    )
}

fn latencies(rows: &[&Row<'_>], unit: crate::unit::LatencyUnit) -> Axis {
    let values: Vec<f64> = rows
        .iter()
        .flat_map(|row| [row.histogram.min() as f64, row.histogram.max() as f64])
        .filter(|v| *v > 0.0)
        .collect();
    Axis::latency("latency", &values, unit, true)
}

fn curve(analysis: &Analysis<'_>, row: &Row<'_>, points: Vec<(f64, f64)>) -> Curve {
    Curve {
        label: format!("{}, n = {}", row.cell.backend, grouped(row.n())),
        colour: colour(analysis, &row.cell.backend),
        points,
        bands: Vec::new(),
        fit: Vec::new(),
        marked: false,
    }
}

fn distribution(title: &str, chart: Chart, rows: &[&Row<'_>], analysis: &Analysis<'_>) -> String {
    let unit = analysis.record.latency_unit;
    let quantile =
        |row: &Row<'_>, q| row.quantile(q).map_or(String::new(), |v| latency(v as f64, unit));
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let p999 = row.p999().map_or("too few".to_owned(), |v| latency(v as f64, unit));
            let mut line = vec![row.cell.backend.clone(), grouped(row.n())];
            line.extend([0.0, 0.25, 0.5, 0.75, 0.9, 0.99].map(|q| quantile(row, q)));
            line.extend([p999, quantile(row, 1.0)]);
            line
        })
        .collect();
    let columns = ["backend", "n", "min", "p25", "median", "p75", "p90", "p99", "p99.9", "max"];
    figure(title, "", &chart.draw(title), &columns, &lines)
}

/// Latency over the run, cell by cell.
pub fn heat_maps(analysis: &Analysis<'_>, timeline: &Timeline) -> (Vec<String>, usize) {
    let mut maps = Vec::new();
    let mut left_out = 0;
    for phase in analysis.phases() {
        for row in drawn_rows(analysis, phase).unwrap_or_default() {
            let title = format!("{phase} on {}{}", row.cell.backend, at(row));
            let Some(map) =
                timeline.draw(analysis, &row.cell.id, &format!("latency over time: {title}"))
            else {
                continue;
            };
            if maps.len() == MAX_HEAT_MAPS {
                left_out += 1;
                continue;
            }
            maps.push(figure(
                &title,
                "From the first sample to the last; the darker, the more samples.",
                &map.svg,
                &["part of the run", "samples", "from", "to"],
                &map.table,
            ));
        }
    }
    (maps, left_out)
}

/// What a copy-up is made of, as function probes timed it.
pub fn copy_up(analysis: &Analysis<'_>) -> Vec<String> {
    // No operation lies within another one's, so that the parts add up. The
    // whole of `copy_up_data` holds the fsync on some kernels.
    const PARTS: [(&str, &[&str]); 5] = [
        ("waiting", &["copy_up_lock"]),
        ("creating and renaming", &["copy_up_create", "copy_up_rename"]),
        ("data", &["copy_up_clone", "copy_up_splice", "copy_up_copy", "copy_up_write"]),
        ("metadata", &["copy_up_metadata"]),
        ("fsync", &["copy_up_fsync"]),
    ];
    let unit = analysis.record.latency_unit;
    let mut figures = Vec::new();
    for phase in analysis.phases() {
        let mut bars = Bars { rows: Vec::new(), parts: Vec::new(), totals: Vec::new() };
        let mut lines = Vec::new();
        for row in analysis.phase(phase).filter(|row| row.counts()) {
            let Some((count, whole)) = kernel_sum(row, "copy_up").filter(|(n, _)| *n > 0) else {
                continue;
            };
            let mut parts: Vec<f64> = PARTS
                .iter()
                .map(|(_, operations)| {
                    let sums = operations.iter().filter_map(|name| kernel_sum(row, name));
                    sums.map(|(_, sum)| sum).sum::<f64>() / count as f64
                })
                .collect();
            let mean = whole / count as f64;
            parts.push((mean - parts.iter().sum::<f64>()).max(0.0));
            let name = format!("{}{}", row.cell.backend, at(row));
            let mut line = vec![name.clone(), grouped(count), latency(mean, unit)];
            line.extend(parts.iter().map(|part| latency(*part, unit)));
            lines.push(line);
            bars.rows.push((name, parts));
            bars.totals.push(format!("{} each", latency(mean, unit)));
        }
        if bars.rows.is_empty() {
            continue;
        }
        bars.parts =
            PARTS.iter().map(|(name, _)| (*name).to_owned()).chain(["rest".to_owned()]).collect();
        let title = format!("{phase}: parts of a copy-up");
        figures.push(figure(
            &title,
            "Means over the rounds with probes.",
            &bars.draw(&title),
            &[
                "cell",
                "copy-ups",
                "whole",
                "waiting",
                "creating and renaming",
                "data",
                "metadata",
                "fsync",
                "rest",
            ],
            &lines,
        ));
    }
    figures
}

/// How many of a phase's lookups asked each layer.
pub fn layers(analysis: &Analysis<'_>) -> Vec<String> {
    let mut figures = Vec::new();
    for row in analysis.rows.iter().filter(|row| row.counts()) {
        let buckets = kernel_buckets(row, "layers_visited");
        let lookups: u64 = buckets.values().sum();
        let Some(deepest) = buckets.keys().max().copied().filter(|d| *d > 0 && lookups > 0) else {
            continue;
        };
        // Layers are asked from the top down: one that asked k asked the k
        // topmost.
        let asked = |layer: u64| -> u64 {
            buckets.iter().filter(|(k, _)| **k >= layer).map(|(_, n)| n).sum()
        };
        let shown: Vec<u64> = match deepest {
            0..=8 => (1..=deepest).collect(),
            _ => (0..8).map(|i| 1 + i * (deepest - 1) / 7).collect(),
        };
        let title = format!("{} on {}{}", row.cell.phase, row.cell.backend, at(row));
        let bars = Bars {
            rows: shown
                .iter()
                .map(|l| (format!("layer {l} from the top"), vec![asked(*l) as f64]))
                .collect(),
            parts: vec!["lookups that asked it".to_owned()],
            totals: shown.iter().map(|l| share(asked(*l), lookups)).collect(),
        };
        let lines: Vec<Vec<String>> = shown
            .iter()
            .map(|l| vec![l.to_string(), grouped(asked(*l)), share(asked(*l), lookups)])
            .collect();
        figures.push(figure(
            &title,
            "Merging a layer with the one above saves the lookups that asked it one visit each.",
            &bars.draw(&format!("layers asked: {title}")),
            &["layer", "lookups", "share"],
            &lines,
        ));
    }
    // The deepest stacks are the ones the question is about.
    let from = figures.len().saturating_sub(6);
    figures.split_off(from)
}

/// The coordinates of a cell in brackets, with a space before; empty for none.
fn at(row: &Row<'_>) -> String {
    if row.cell.params.is_empty() {
        String::new()
    } else {
        format!(" ({})", params(&row.cell.params))
    }
}

fn share(part: u64, whole: u64) -> String {
    format!("{:.0} %", part as f64 / whole as f64 * 100.0)
}

/// Counters per operation, one row per cell that has any.
pub fn counters(analysis: &Analysis<'_>) -> String {
    let mut lines = Vec::new();
    for row in &analysis.rows {
        let rounds: Vec<_> = row.cell.rounds.iter().filter(|r| r.probes).collect();
        let n_ops: u64 = rounds.iter().map(|r| r.n_ops).sum();
        let mut sums: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for counter in rounds.iter().flat_map(|r| &r.counters) {
            *sums.entry((&counter.name, &counter.engine)).or_default() += counter.value;
        }
        for ((name, engine), sum) in sums {
            let each =
                if n_ops > 0 { format!("{:.3}", sum as f64 / n_ops as f64) } else { String::new() };
            lines.push(vec![
                row.cell.id.clone(),
                name.to_owned(),
                grouped(sum),
                each,
                engine.to_owned(),
            ]);
        }
    }
    if lines.is_empty() {
        return "<p>No counter was read: the run had no rounds with probes.</p>".to_owned();
    }
    let columns = ["cell", "counter", "sum", "per operation", "engine"].map(String::from);
    let inner = table("Counters", &columns, &lines);
    folded(&format!("{} counters of {} cells", lines.len(), analysis.rows.len()), &inner)
}

/// Kernel functions that were on the stack most often, where they were sampled.
pub fn functions(analysis: &Analysis<'_>) -> Option<String> {
    let mut lines = Vec::new();
    for row in analysis.rows.iter().filter(|row| row.counts()) {
        let mut n = 0;
        let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for sampling in row.cell.rounds.iter().filter_map(|r| r.sampling.as_ref()) {
            n += sampling.n;
            for f in &sampling.functions {
                let sum = sums.entry(&f.function).or_default();
                *sum = (sum.0 + f.inclusive, sum.1 + f.exclusive);
            }
        }
        let mut all: Vec<_> = sums.into_iter().collect();
        all.sort_by_key(|(name, (inclusive, _))| (std::cmp::Reverse(*inclusive), *name));
        for (name, (inclusive, exclusive)) in all.into_iter().take(5).filter(|_| n >= MIN_SAMPLES) {
            lines.push(vec![
                row.cell.id.clone(),
                name.to_owned(),
                share(inclusive, n),
                share(exclusive, n),
                grouped(n),
            ]);
        }
    }
    let columns = ["cell", "function", "on the stack", "at its top", "n"].map(String::from);
    (!lines.is_empty()).then(|| {
        folded(&format!("{} shares", lines.len()), &table("Kernel functions", &columns, &lines))
    })
}

/// Count and sum of one kernel operation over the rounds with probes.
fn kernel_sum(row: &Row<'_>, operation: &str) -> Option<(u64, f64)> {
    let all = histograms(row, operation).map(|h| (h.count, h.sum as f64));
    all.reduce(|a, b| (a.0 + b.0, a.1 + b.1))
}

/// Lower bounds of the buckets of one kernel operation, and what they hold.
fn kernel_buckets(row: &Row<'_>, operation: &str) -> BTreeMap<u64, u64> {
    let mut sums = BTreeMap::new();
    for (low, _, n) in histograms(row, operation).flat_map(|h| &h.buckets) {
        *sums.entry(*low).or_default() += n;
    }
    sums
}

fn histograms<'a>(row: &'a Row<'_>, operation: &str) -> impl Iterator<Item = &'a KernelHistogram> {
    row.cell.rounds.iter().flat_map(|r| &r.kernel).filter(move |h| h.operation == operation)
}

/// A figure with its title, drawing and folded table.
fn figure(
    title: &str,
    note: &str,
    drawing: &str,
    columns: &[&str],
    rows: &[Vec<String>],
) -> String {
    let columns: Vec<String> = columns.iter().map(|c| (*c).to_owned()).collect();
    let note = if note.is_empty() {
        String::new()
    } else {
        format!("<figcaption>{}</figcaption>", escaped(note))
    };
    format!(
        "<figure><h4>{}</h4>{drawing}{note}{}</figure>",
        escaped(title),
        folded("Figures", &table(title, &columns, rows))
    )
}
