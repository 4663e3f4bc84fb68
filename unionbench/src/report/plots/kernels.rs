//! How each metric moved between the kernels of a matrix: every metric as its
//! quotient to the first kernel, one chart for each phase and backend.

use super::axis::Axis;
use super::chart::{Chart, Curve};
use super::file_name;
use crate::report::Analysis;
use crate::report::kernels::{Metric, metrics};

/// One chart for each phase and backend of a matrix.
pub fn charts(analysis: &Analysis<'_>) -> Vec<Chart> {
    let all = metrics(analysis);
    let mut places: Vec<(&str, &str)> = Vec::new();
    for metric in &all {
        let place = (metric.phase.as_str(), metric.backend.as_str());
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places.into_iter().filter_map(|place| chart(analysis, &all, place)).collect()
}

fn chart(analysis: &Analysis<'_>, all: &[Metric], (phase, backend): (&str, &str)) -> Option<Chart> {
    let kernels = analysis.record.kernels();
    let here: Vec<&Metric> =
        all.iter().filter(|m| m.phase == phase && m.backend == backend).collect();
    let mut names: Vec<&str> = Vec::new();
    for metric in &here {
        if !names.contains(&metric.name.as_str()) {
            names.push(&metric.name);
        }
    }
    let mut curves = Vec::new();
    let mut unmoved = Vec::new();
    for name in names {
        let points = points(&here, name, kernels.len());
        match points.iter().all(|point| point.1 == 1.0) {
            _ if points.len() < 2 => {}
            true => unmoved.push(name),
            false => curves.push(curve(format!("{name}{}", change(&points)), points)),
        }
    }
    if !unmoved.is_empty() {
        let points = (0..kernels.len()).map(|kernel| (kernel as f64, 1.0)).collect();
        curves.push(curve(format!("{} metrics that did not move", unmoved.len()), points));
    }
    let quotients: Vec<f64> = curves.iter().flat_map(|c| c.points.iter().map(|p| p.1)).collect();
    (!curves.is_empty()).then(|| Chart {
        name: file_name(&format!("{phase}-{backend}-between-kernels")),
        title: format!("{phase} on {backend}: each metric over that of {}", kernels[0]),
        x: Axis::names("kernel", &kernels),
        y: Axis::quotient("quotient, geometric mean over all parameters", &quotients),
        curves,
    })
}

/// (kernel, quotient to the first kernel): the geometric mean over the cells
/// that have the metric, above zero, on every kernel.
fn points(here: &[&Metric], name: &str, n_kernels: usize) -> Vec<(f64, f64)> {
    let whole: Vec<Vec<f64>> = here
        .iter()
        .filter(|metric| metric.name == name)
        .filter_map(|metric| metric.values.iter().copied().collect::<Option<Vec<f64>>>())
        .filter(|values| values.iter().all(|value| *value > 0.0))
        .collect();
    if whole.is_empty() {
        return Vec::new();
    }
    let at = |kernel: usize| {
        let logarithms = whole.iter().map(|values| (values[kernel] / values[0]).ln());
        (kernel as f64, (logarithms.sum::<f64>() / whole.len() as f64).exp())
    };
    (0..n_kernels).map(at).collect()
}

fn change(points: &[(f64, f64)]) -> String {
    points.last().map_or(String::new(), |last| format!(", {:+.1} %", (last.1 - 1.0) * 100.0))
}

fn curve(label: String, points: Vec<(f64, f64)>) -> Curve {
    Curve { label, points, fit: Vec::new(), marked: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::kernels::tests::matrix;

    #[test]
    fn moved_metrics_have_curves_and_the_others_share_one() {
        let record = matrix();
        let analysis = Analysis::of(&record).expect("reads");
        let charts = charts(&analysis);
        let chart = charts
            .iter()
            .find(|c| c.name == "first-write-overlayfs-between-kernels")
            .expect("copy-ups doubled there");
        let labels: Vec<&str> = chart.curves.iter().map(|c| c.label.as_str()).collect();
        assert!(labels.contains(&"copy_ups, +100.0 %"), "{labels:?}");
        assert!(labels.iter().any(|l| l.ends_with("metrics that did not move")), "{labels:?}");
        let moved = chart.curves.iter().find(|c| c.label.starts_with("copy_ups")).expect("moved");
        assert_eq!(moved.points, [(0.0, 1.0), (1.0, 2.0)]);
        chart.draw().expect("draws");
    }
}
