//! Medians against a parameter: latency against depth, first-write latency
//! against size. One line per backend, with its fit.

use super::axis::Axis;
use super::chart::{Chart, Curve};
use super::file_name;
use crate::report::Analysis;
use crate::report::figure::{grouped, is_size};
use crate::report::sentences::{Series, series};
use crate::stats::fit;
use crate::unit::LatencyUnit;

/// One chart for each phase, parameter and value of the other parameters.
pub fn charts(analysis: &Analysis<'_>) -> Vec<Chart> {
    let all = series(analysis);
    let mut charts: Vec<Chart> = Vec::new();
    for first in &all {
        let same: Vec<&Series> = all
            .iter()
            .filter(|s| (&s.phase, &s.key, &s.fixed) == (&first.phase, &first.key, &first.fixed))
            .collect();
        // The chart is made once, for the first of its series.
        if std::ptr::eq(same[0], first) {
            charts.push(chart(analysis, &same));
        }
    }
    charts
}

fn chart(analysis: &Analysis<'_>, series: &[&Series]) -> Chart {
    let unit = analysis.record.latency_unit;
    let Series { phase, key, fixed, .. } = series[0];
    let values = |part: fn(&(f64, f64)) -> f64| {
        series.iter().flat_map(|s| s.points.iter().map(part)).collect::<Vec<f64>>()
    };
    let x = match is_size(key) {
        true => Axis::size(key, &values(|p| p.0)),
        false => Axis::number(key, &values(|p| p.0)),
    };
    let suffix = if fixed.is_empty() { String::new() } else { format!(" ({fixed})") };
    Chart {
        name: file_name(&format!("{phase}-by-{key}{suffix}")),
        title: format!("{phase}: median latency against {key}{suffix}"),
        y: Axis::latency("median latency", &values(|p| p.1), unit, is_size(key)),
        curves: series.iter().map(|s| curve(s, &x, unit)).collect(),
        x,
    }
}

fn curve(series: &Series, axis: &Axis, unit: LatencyUnit) -> Curve {
    // What is straight on plain axes is bent on logarithmic ones.
    let xs = match series.points.as_slice() {
        [first, .., last] => axis.spread(first.0, last.0),
        _ => Vec::new(),
    };
    let xs = xs.into_iter();
    let (law, fit) = if is_size(&series.key) {
        let law = fit::power_law(&series.points);
        let at = |x: f64| law.map(|l| (x, l.factor * x.powf(l.exponent)));
        let text = law.map(|l| format!(", slope {:.2}, R² {:.3}", l.exponent, l.r_squared));
        (text, xs.filter_map(at).collect())
    } else {
        let line = fit::line(&series.points);
        let at = |x: f64| line.map(|l| (x, l.intercept + l.slope * x));
        let per = if series.key == "stack.layers" { "layer" } else { &series.key };
        let text = line.map(|l| {
            format!(", {:+.1} {} per {per}, R² {:.3}", l.slope, unit.suffix(), l.r_squared)
        });
        (text, xs.filter_map(at).collect())
    };
    Curve {
        label: format!("{}, n = {}{}", series.backend, grouped(series.n), law.unwrap_or_default()),
        points: series.points.clone(),
        fit,
        marked: true,
    }
}
