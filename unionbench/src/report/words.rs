//! What a record says, in sentences that its intervals bear out.

use super::Analysis;
use super::analysis::{Row, number};
use super::figure::{param, ratio};
use super::sentences::fixed;
use crate::stats::bootstrap::{Estimate, Settings, ratio_of_medians};
use crate::stats::hdr;
use crate::unit::LatencyUnit;

/// Fewest rounds whose interval of wall time is believed.
const MIN_ROUNDS: usize = 5;

/// Sentences, the broadest first; empty if the data bears none out.
pub fn words(analysis: &Analysis<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    for phase in analysis.phases() {
        lines.extend(against_control(analysis, phase));
    }
    for phase in analysis.phases() {
        lines.extend(between_backends(analysis, phase));
    }
    let unsure = analysis.rows.iter().filter(|row| row.counts() && !row.is_control).count();
    if lines.is_empty() && unsure > 0 {
        lines.push(format!(
            "No difference between backends is borne out by this record: fewer than {MIN_ROUNDS} rounds, or intervals that hold 1."
        ));
    }
    lines
}

/// What each backend costs against the control, at the ends of its coordinates.
fn against_control(analysis: &Analysis<'_>, phase: &str) -> Vec<String> {
    let control = analysis.record.backends.iter().find(|b| b.control);
    let Some(control) = control else { return Vec::new() };
    let mut lines = Vec::new();
    for backend in analysis.record.backends.iter().filter(|b| !b.control) {
        let rows: Vec<(&Row<'_>, Estimate)> = analysis
            .phase(phase)
            .filter(|row| row.cell.backend == backend.name && row.counts())
            .filter_map(|row| Some((row, row.ratio.filter(|r| believed(analysis, r))?)))
            .collect();
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { continue };
        let operation = &first.0.cell.operation;
        let (name, base) = (&backend.name, &control.name);
        let low = rows.iter().map(|(_, r)| r.low).fold(f64::INFINITY, f64::min);
        let high = rows.iter().map(|(_, r)| r.high).fold(0.0, f64::max);
        let told = |e: &Estimate| e.low > 1.0 || e.high < 1.0;
        let within = low > 0.9 && high < 1.1;
        if !within && !rows.iter().any(|(_, ratio)| told(ratio)) {
            continue;
        }
        lines.push(if rows.len() == 1 {
            format!("{phase}: a median {operation} on {name} takes {} times that on {base}.", ratio(&first.1))
        } else if within {
            format!("{phase}: {name} stays within 10 % of {base} at all {} coordinates.", rows.len())
        } else if high / low < 1.25 {
            format!(
                "{phase}: a median {operation} on {name} takes {low:.2} to {high:.2} times that on {base}, at all {} coordinates.",
                rows.len()
            )
        } else {
            let at = |row: &Row<'_>| super::figure::params(&row.cell.params);
            format!(
                "{phase}: a median {operation} on {name} takes {} times that on {base} at {}, and {} times at {}.",
                ratio(&first.1),
                at(first.0),
                ratio(&last.1),
                at(last.0)
            )
        });
    }
    lines
}

/// From where on one backend is faster than another along a numeric parameter.
fn between_backends(analysis: &Analysis<'_>, phase: &str) -> Vec<String> {
    let names: Vec<&str> =
        analysis.record.backends.iter().filter(|b| !b.control).map(|b| b.name.as_str()).collect();
    let mut lines = Vec::new();
    for (index, a) in names.iter().enumerate() {
        for b in &names[index + 1..] {
            for (key, fixed, points) in pairs(analysis, phase, a, b) {
                lines.extend(crossing(phase, &key, &fixed, (a, b), &points));
            }
        }
    }
    lines
}

/// Ratio of `a` to `b` at one value of a parameter.
type Point = (f64, String, Estimate);

/// Each numeric parameter with the ratios of `a` to `b` along it, ascending,
/// the other parameters being the same.
fn pairs(
    analysis: &Analysis<'_>,
    phase: &str,
    a: &str,
    b: &str,
) -> Vec<(String, String, Vec<Point>)> {
    let mut found: Vec<(String, String, Vec<Point>)> = Vec::new();
    let of = |name: &str| -> Vec<&Row<'_>> {
        analysis.phase(phase).filter(|r| r.cell.backend == name && r.counts()).collect()
    };
    for left in of(a) {
        let Some(right) = of(b).into_iter().find(|r| r.cell.params == left.cell.params) else {
            continue;
        };
        let Some(estimate) = compared(analysis, left, right) else { continue };
        let mut keys: Vec<(String, f64, String)> = left
            .cell
            .params
            .iter()
            .filter_map(|(key, value)| Some((key.clone(), number(value)?, param(key, value))))
            .collect();
        if keys.is_empty() {
            keys.push((String::new(), 0.0, String::new()));
        }
        for (key, x, text) in keys {
            let fixed = fixed(left, &key);
            match found.iter_mut().find(|(k, f, _)| *k == key && *f == fixed) {
                Some((_, _, points)) => points.push((x, text, estimate)),
                None => found.push((key, fixed, vec![(x, text, estimate)])),
            }
        }
    }
    for (_, _, points) in &mut found {
        points.sort_by(|p, q| p.0.total_cmp(&q.0));
    }
    found
}

fn compared(analysis: &Analysis<'_>, a: &Row<'_>, b: &Row<'_>) -> Option<Estimate> {
    let rounds = |row: &Row<'_>| -> Option<Vec<_>> {
        let own = row.cell.rounds.iter().filter(|r| r.probes == row.with_probes);
        own.map(|r| hdr::decode(&r.histogram).ok()).collect()
    };
    let settings = Settings { seed: analysis.record.seed, ..Settings::default() };
    let estimate = ratio_of_medians(&rounds(a)?, &rounds(b)?, settings)?;
    believed(analysis, &estimate).then_some(estimate)
}

/// One sentence if `a` or `b` is faster everywhere, or from one point on.
fn crossing(
    phase: &str,
    key: &str,
    fixed: &str,
    (a, b): (&str, &str),
    points: &[Point],
) -> Option<String> {
    let side = |e: &Estimate| match e {
        e if e.high < 1.0 => -1,
        e if e.low > 1.0 => 1,
        _ => 0,
    };
    let place = if fixed.is_empty() { String::new() } else { format!(" ({fixed})") };
    let last = points.last()?;
    let end = side(&last.2);
    if end == 0 {
        return None;
    }
    let (faster, slower) = if end < 0 { (a, b) } else { (b, a) };
    let times = |e: &Estimate| if end < 0 { 1.0 / e.value } else { e.value };
    // Where the side last changed: from the next point on it stays.
    let from = points.iter().rposition(|p| side(&p.2) != end).map_or(0, |i| i + 1);
    let first = &points[from];
    Some(match (points.len(), from) {
        (1, _) => format!(
            "{phase}{place}: {faster} is faster than {slower}, by a factor of {:.2}.",
            times(&last.2)
        ),
        (_, 0) => format!(
            "{phase}{place}: {faster} is faster than {slower} at every {key} measured, by a factor of {:.2} at {} and {:.2} at {}.",
            times(&first.2),
            first.1,
            times(&last.2),
            last.1
        ),
        _ => format!(
            "{phase}{place}: from {} on, {faster} is faster than {slower}, by a factor of {:.2} at {}.",
            first.1,
            times(&last.2),
            last.1
        ),
    })
}

/// An interval of wall time needs rounds; what the lab counts does not scatter.
fn believed(analysis: &Analysis<'_>, estimate: &Estimate) -> bool {
    let finite = estimate.low.is_finite() && estimate.high.is_finite();
    finite
        && (analysis.record.latency_unit == LatencyUnit::Instructions
            || estimate.n_rounds >= MIN_ROUNDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Record, sample};

    /// The sample record with its rounds four times over, and a third backend
    /// whose lookups take 4 µs at every depth: slower than overlayfs (3 µs and
    /// 100 ns per layer) at 1 and 8 layers, faster from 32 on.
    fn record() -> Record {
        let mut record = sample::record();
        let bare: Vec<_> = record.cells.iter().filter(|c| c.backend == "bare").cloned().collect();
        for mut cell in bare.into_iter().filter(|c| c.phase == "cold-lookup") {
            cell.backend = "aufs".into();
            cell.id = format!("aufs {}", cell.id);
            for round in &mut cell.rounds {
                let old = hdr::decode(&round.histogram).expect("reads");
                let mut new = hdr::empty();
                for bucket in old.iter_recorded() {
                    new.record_n(bucket.value_iterated_to() * 2, bucket.count_at_value())
                        .expect("fits");
                }
                round.histogram = hdr::encode(&new).expect("encodes");
            }
            record.cells.push(cell);
        }
        for cell in &mut record.cells {
            cell.rounds = vec![cell.rounds.clone(); 4].concat();
        }
        record
    }

    #[test]
    fn crossing_is_put_into_words() {
        let record = record();
        let lines = words(&Analysis::of(&record).expect("reads"));
        let found = lines.iter().find(|l| l.contains("from stack.layers=32 on"));
        assert!(found.is_some_and(|l| l.contains("aufs is faster than overlayfs")), "{lines:#?}");
    }

    #[test]
    fn cost_against_the_control_is_told_at_both_ends() {
        let record = record();
        let lines = words(&Analysis::of(&record).expect("reads"));
        let line = lines.iter().find(|l| l.contains("on overlayfs takes 1.55")).expect("told");
        assert!(line.contains("stack.layers=1") && line.contains("stack.layers=128"), "{line}");
    }

    #[test]
    fn few_rounds_bear_nothing_out() {
        let record = sample::record();
        let lines = words(&Analysis::of(&record).expect("reads"));
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert!(lines[0].starts_with("No difference"));
    }
}
