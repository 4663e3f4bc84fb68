//! Instructions of a cell of the lab: one verdict of all that is kept of them.
//!
//! Two rules, and a cell fails by either. The quantiles tell that many operations
//! became slower, each by whatever amount; they are blunt where modes change their
//! shares. All operations laid over the base's tell that most became slower by the
//! same factor; modes do not trouble that.

use super::{
    CellFigures, Figure, INSTRUCTIONS, OPERATIONS, Operations, Policy, QUANTILES, Quotient, Row,
    Verdict, against,
};
use crate::stats::alignment::{Alignment, Match};

/// By how much more likeness a factor must have than none where the base knows
/// from too few runs how much that is for nothing (docs/gate.md).
const UNKNOWN: f64 = 0.2;
/// By how much more beyond what the runs of the base showed.
const MARGIN: f64 = 0.05;

/// The quantile that the cell is judged by. What a cell does falls into modes,
/// and one quantile alone can jump from one to another; a slowdown moves all.
/// So a cell became slower if each of its candidates rose, faster if each fell.
///
/// Where the base knows from several runs how far each quantile moves for
/// nothing, the candidates are the two that moved least (of one alone, that
/// would be 2 % of alarms for nothing with six runs: docs/gate.md). A base of a
/// single run knows nothing of that, and all four are candidates.
pub(super) fn chosen_quantile<'a>(
    cell: &CellFigures,
    twin: Option<&CellFigures>,
    quantiles: &[&'a str],
    policy: &dyn Policy,
) -> Option<&'a str> {
    let known = quantiles.iter().any(|m| matches!(cell.metrics[*m], Figure::Range { .. }));
    let tolerance = policy.tolerance(&cell.id, INSTRUCTIONS);
    let mut candidates: Vec<Candidate<'a>> =
        quantiles.iter().filter_map(|name| Candidate::of(name, cell, twin, tolerance)).collect();
    if known {
        candidates.sort_by(|a, b| a.width.total_cmp(&b.width));
        candidates.truncate(2);
    }
    candidates.sort_by(|a, b| a.rise.total_cmp(&b.rise));
    let all = |verdict| candidates.iter().all(|candidate| candidate.verdict == verdict);
    let told = if all(Verdict::Fail) {
        candidates.first()
    } else if all(Verdict::Better) {
        candidates.last()
    } else {
        // The one that moved least stands for the cell; if some rose and some
        // fell, one that did not rise.
        let of = |verdict| candidates.iter().filter(move |c| c.verdict == verdict);
        let moved = |c: &&Candidate<'_>| (c.rise - 1.0).abs();
        of(Verdict::Pass)
            .min_by(|a, b| moved(a).total_cmp(&moved(b)))
            .or_else(|| of(Verdict::Better).next_back())
    };
    told.map(|candidate| candidate.name).or(quantiles.first().copied())
}

/// A quantile of instructions on both sides.
struct Candidate<'a> {
    name: &'a str,
    /// One and what the next run may differ by for nothing, as a share.
    width: f64,
    /// New over the base's highest.
    rise: f64,
    verdict: Verdict,
}

impl<'a> Candidate<'a> {
    fn of(
        name: &'a str,
        cell: &CellFigures,
        twin: Option<&CellFigures>,
        tolerance: f64,
    ) -> Option<Self> {
        let bounds = |side: &CellFigures| side.metrics.get(name).and_then(Figure::bounds);
        let (base, after) = (bounds(cell)?, bounds(twin?)?.1);
        let (allowed, verdict) = against(base, after, tolerance, cell.slack());
        let rise = (base.1 > 0.0).then_some(after / base.1)?;
        Some(Self { name, width: (1.0 + allowed) / (1.0 + tolerance), rise, verdict })
    }
}

/// `row` of a quantile, or that of all operations if they tell more: a change for
/// the worse that the quantile does not show, or one for the better.
pub(super) fn with_operations(
    row: Row,
    cell: &CellFigures,
    twin: Option<&CellFigures>,
    policy: &dyn Policy,
) -> Row {
    let operations = cell.operations().zip(twin.and_then(CellFigures::operations));
    let (true, Some((base, new))) = (QUANTILES.contains(&row.metric.as_str()), operations) else {
        return row;
    };
    let tolerance = policy.tolerance(&cell.id, INSTRUCTIONS);
    let Some(found) = base.align(new, tolerance) else { return row };
    let (rise, fall) = beyond(base, cell.slack());
    if row.verdict != Verdict::Fail && found.rise() > rise {
        return told(row, &found, found.above, tolerance, Verdict::Fail);
    }
    if row.verdict == Verdict::Pass && found.fall() > fall {
        return told(row, &found, found.below, tolerance, Verdict::Better);
    }
    row
}

/// How much more likeness a larger and a smaller factor may have for nothing:
/// what each run of the base had beside the others, and beyond that the share
/// `slack` of the range, as with quantiles.
fn beyond(base: &Operations, slack: f64) -> (f64, f64) {
    let of = |strayed: Option<(f64, f64)>| match strayed {
        Some((low, high)) => (high + slack * (high - low)).max(0.0) + MARGIN,
        None => UNKNOWN,
    };
    (of(base.rise), of(base.fall))
}

/// The row of all operations, `matched` being where they are most alike.
fn told(row: Row, found: &Alignment, matched: Match, allowed: f64, verdict: Verdict) -> Row {
    let Match { factor, likeness, value } = matched;
    let quotient = Quotient { value: factor, low: Some(factor), high: Some(factor) };
    let why = format!(
        "the base's operations, each multiplied so, are like these by {likeness:.2} of 1; as they are, by {:.2}",
        found.unchanged.likeness
    );
    Row {
        metric: OPERATIONS.to_owned(),
        base: Some(value.round()),
        new: Some((value * factor).round()),
        quotient: Some(quotient),
        allowed,
        verdict,
        why,
        ..row
    }
}
