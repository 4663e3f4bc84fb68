//! Slow change over stored records: many small steps that each pass.

use crate::compare::{Figure, Subject};
use crate::stats::change_point::{Settings, change_points};
use crate::stats::signed_rank::hodges_lehmann;

/// Fewest records that a trend is looked for in.
const MIN_RECORDS: usize = 6;

/// A metric that changed for the worse somewhere in the history.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub cell: String,
    pub metric: String,
    /// Start of the first record after the change.
    pub since: String,
    pub program: String,
    /// Medians before and after it.
    pub before: f64,
    pub after: f64,
    /// Records in the series.
    pub n: usize,
    pub p: f64,
}

/// The last change of each metric over `history`, oldest first, if it is for
/// the worse. Records of another identity than the last one's take no part;
/// empty with fewer than six of the same.
pub fn trend(history: &[Subject]) -> Vec<Change> {
    let Some(last) = history.last() else { return Vec::new() };
    let same: Vec<&Subject> =
        history.iter().filter(|subject| subject.identity == last.identity).collect();
    let mut found = Vec::new();
    for (cell, metric) in last.cells.iter().flat_map(|c| c.metrics.keys().map(move |m| (c, m))) {
        let series: Vec<(&Subject, f64)> = same
            .iter()
            .filter_map(|subject| {
                let figure = subject.cell(&cell.id)?.metrics.get(metric)?;
                Some((*subject, single(figure)?))
            })
            .collect();
        if series.len() >= MIN_RECORDS {
            found.extend(change(&series, &cell.id, metric));
        }
    }
    found
}

fn change(series: &[(&Subject, f64)], cell: &str, metric: &str) -> Option<Change> {
    let figures: Vec<f64> = series.iter().map(|(_, figure)| *figure).collect();
    let points = change_points(&figures, Settings::default());
    let last = points.last()?;
    let from = points.len().checked_sub(2).map_or(0, |i| points[i].at);
    let (before, after) = (median(&figures[from..last.at]), median(&figures[last.at..]));
    let place = &series[last.at].0.place;
    (after > before).then(|| Change {
        cell: cell.to_owned(),
        metric: metric.to_owned(),
        since: place.started.clone(),
        program: place.program.clone(),
        before,
        after,
        n: series.len(),
        p: last.p,
    })
}

fn single(figure: &Figure) -> Option<f64> {
    match figure {
        Figure::Exact(value) | Figure::Range { high: value, .. } => Some(*value),
        Figure::Ratios(ratios) => hodges_lehmann(ratios, 0.95).map(|centre| centre.value),
        // Its quantiles stand beside it.
        Figure::Operations(_) => None,
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let n = sorted.len();
    sorted[(n - 1) / 2].midpoint(sorted[n / 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample;

    fn history(copy_ups: &[f64]) -> Vec<Subject> {
        let base = Subject::of(&sample::record()).expect("figures");
        let with = |(index, value): (usize, &f64)| {
            let mut subject = base.clone();
            subject.place.started = format!("2026-01-{:02}T00:00:00Z", index + 1);
            for figure in subject.cells.iter_mut().filter_map(|c| c.metrics.get_mut("copy_ups")) {
                *figure = Figure::Exact(*value);
            }
            subject
        };
        copy_ups.iter().enumerate().map(with).collect()
    }

    #[test]
    fn creep_is_found_and_dated() {
        let figures = [1.0, 1.01, 1.0, 1.02, 1.0, 1.01, 1.3, 1.31, 1.29, 1.3, 1.31, 1.3];
        let found = trend(&history(&figures));
        assert_eq!(found.len(), 4, "four cells copy up: {found:?}");
        assert_eq!(found[0].since, "2026-01-07T00:00:00Z");
        assert!(found[0].before < 1.02 && found[0].after > 1.28, "{found:?}");
    }

    #[test]
    fn improvement_steadiness_and_short_histories_do_not_warn() {
        let figures = [2.0, 2.01, 2.0, 2.02, 2.0, 2.01, 1.3, 1.31, 1.29, 1.3, 1.31, 1.3];
        assert_eq!(trend(&history(&figures)), []);
        assert_eq!(trend(&history(&[1.0; 12])), []);
        assert_eq!(trend(&history(&[1.0, 1.0, 9.0])), []);
        assert_eq!(trend(&[]), []);
    }

    #[test]
    fn records_of_another_seed_take_no_part() {
        let mut history = history(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]);
        history[..6].iter_mut().for_each(|subject| subject.identity.seed = 1);
        assert_eq!(trend(&history), []);
    }
}
