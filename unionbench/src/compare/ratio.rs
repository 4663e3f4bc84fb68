//! Ratios of wall time to the control's, judged cell by cell.
//!
//! A cell has two ratios a round, of its median and of its fastest operation. The
//! fastest is the steadier figure on a busy machine, but blind to what slows only
//! some operations; so a cell became slower if either rose, and passes only if
//! neither did. Simes' combination makes one p-value of both: where both rose, as
//! they do by a slowdown of every operation, the second costs nothing, so that as
//! few rounds tell as would of one of them. It holds for tests that depend
//! positively, as those of the same rounds do. Holm's correction is over cells.

use super::{ALPHA, Basis, Figure, Quotient, RATIOS, Row, Subject, Verdict, centre};
use crate::stats::correction::{holm, simes};
use crate::stats::signed_rank::{fewest_for, hodges_lehmann, signed_rank};
use crate::unit::so_many;

/// A cell that both sides have ratios of.
struct Judged {
    /// Of its row.
    index: usize,
    /// Logarithm of the smallest change that matters.
    limit: f64,
    quantiles: Vec<Quantile>,
}

/// One of [`RATIOS`] of a cell.
struct Quantile {
    name: &'static str,
    base: Option<f64>,
    new: Option<f64>,
    /// Of new over base, paired by round.
    logs: Vec<f64>,
    /// Chance of the rise were it no larger than what matters.
    worse: f64,
    /// Chance of the fall were it no larger than that.
    better: f64,
    /// Chance of so little a rise were it as large as what matters.
    not_worse: f64,
}

impl Quantile {
    fn of(
        name: &'static str,
        cell: &str,
        base: &Subject,
        new: &Subject,
        limit: f64,
    ) -> Option<Self> {
        let side = |subject: &Subject| match subject.cell(cell)?.metrics.get(name)? {
            Figure::Ratios(ratios) => Some(ratios.clone()),
            _ => None,
        };
        let (before, after) = side(base).zip(side(new))?;
        let logs: Vec<f64> =
            before.iter().zip(&after).map(|(before, after)| (after / before).ln()).collect();
        let against = signed_rank(&logs, limit);
        Some(Self {
            name,
            worse: against.p_greater,
            not_worse: against.p_less,
            better: signed_rank(&logs, -limit).p_less,
            base: centre(&Figure::Ratios(before)),
            new: centre(&Figure::Ratios(after)),
            logs,
        })
    }
}

impl Judged {
    fn simes_of(&self, p: fn(&Quantile) -> f64) -> f64 {
        simes(&self.quantiles.iter().map(p).collect::<Vec<_>>())
    }

    /// The quantile that stands for the cell: what failed, what cannot be told.
    fn told(&self, verdict: Verdict) -> Option<&Quantile> {
        let least =
            |p: fn(&Quantile) -> f64| self.quantiles.iter().min_by(|a, b| p(a).total_cmp(&p(b)));
        match verdict {
            Verdict::Fail => least(|quantile| quantile.worse),
            Verdict::Better => least(|quantile| quantile.better),
            Verdict::Inconclusive => least(|quantile| -quantile.not_worse),
            Verdict::Pass => self.quantiles.first(),
        }
    }
}

/// Verdicts of all ratios at once, because Holm's correction needs them all.
pub(super) fn judge(rows: &mut [Row], base: &Subject, new: &Subject) {
    let ratios = rows.iter().enumerate().filter(|(_, row)| row.basis == Basis::Ratio);
    let judged: Vec<Judged> = ratios
        .map(|(index, row)| {
            let limit = (1.0 + row.allowed).ln();
            let of = |name| Quantile::of(name, &row.cell, base, new, limit);
            Judged { index, limit, quantiles: RATIOS.into_iter().filter_map(of).collect() }
        })
        .filter(|judged| !judged.quantiles.is_empty())
        .collect();
    let cells = |p: fn(&Quantile) -> f64| {
        holm(&judged.iter().map(|judged| judged.simes_of(p)).collect::<Vec<_>>())
    };
    let (worse, better) = (cells(|q| q.worse), cells(|q| q.better));
    let n_cells = judged.len();
    let needed = fewest_for(ALPHA / n_cells.max(1) as f64);
    for ((judged, worse), better) in judged.iter().zip(worse).zip(better) {
        // That it did not become slower is shown of each figure and cell by
        // itself: no correction makes a pass of a slower cell more likely than
        // ALPHA.
        let not_worse = judged.quantiles.iter().all(|q| q.not_worse <= ALPHA);
        let verdict = match (worse <= ALPHA, not_worse) {
            (true, _) => Verdict::Fail,
            (false, true) if better <= ALPHA => Verdict::Better,
            (false, true) => Verdict::Pass,
            (false, false) => Verdict::Inconclusive,
        };
        let row = &mut rows[judged.index];
        row.verdict = verdict;
        row.p = Some(worse);
        if let Some(told) = judged.told(verdict) {
            tell(row, told);
            row.why = why(verdict, told, judged.limit, (n_cells, needed));
        }
    }
}

/// Puts the figures of `quantile` into the cell's row.
fn tell(row: &mut Row, quantile: &Quantile) {
    quantile.name.clone_into(&mut row.metric);
    (row.base, row.new) = (quantile.base, quantile.new);
    row.n_rounds = Some(quantile.logs.len());
    row.quotient = hodges_lehmann(&quantile.logs, 1.0 - ALPHA).map(|centre| {
        let bound = |v: f64| v.is_finite().then(|| v.exp());
        Quotient { value: centre.value.exp(), low: bound(centre.low), high: bound(centre.high) }
    });
}

/// What the figures do not say: that so few rounds could not have failed, or how
/// many would tell.
fn why(verdict: Verdict, told: &Quantile, limit: f64, (n_cells, needed): (usize, usize)) -> String {
    let few = told.logs.len() < needed;
    let needs = if n_cells == 1 { "needs" } else { "need" };
    let wanted =
        format!("{} {needs} {} on both sides", so_many(n_cells, "cell"), so_many(needed, "round"));
    match verdict {
        Verdict::Inconclusive if few => format!("too few rounds: {wanted}"),
        Verdict::Inconclusive => {
            let more = rounds_to_tell(&told.logs, limit);
            format!("{} scatter too much: {more}", so_many(told.logs.len(), "round"))
        }
        Verdict::Pass if few => format!("too few rounds to find a slowdown: {wanted}"),
        Verdict::Pass | Verdict::Better | Verdict::Fail => String::new(),
    }
}

/// How many rounds would tell on which side of `limit` the centre of `logs` lies,
/// if they scatter on as they do: those of a normal approximation with the
/// efficiency of the signed-rank test (0.955) that err in one of twenty cases
/// and tell in four of five.
fn rounds_to_tell(logs: &[f64], limit: f64) -> String {
    const MANY: f64 = 1000.0;
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let variance = logs.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    let distance = limit - mean;
    let wanted = ((1.645 + 0.842) / distance).powi(2) * variance / 0.955;
    let wanted = wanted.ceil().max(n + 1.0);
    if wanted.is_finite() && wanted <= MANY {
        format!("about {wanted} on both sides would tell")
    } else {
        "the change lies so close to the smallest effect that a thousand would not tell".to_owned()
    }
}
