//! A comparison as text.

use std::fmt;

use super::{Basis, Comparison, Row, Verdict};

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
            Self::Better => "better",
            Self::Pass => "pass",
        })
    }
}

impl Row {
    /// Base, new and quotient in words, as in `11478 → 11480 (×1.000)`.
    pub fn change(&self) -> String {
        let side = |value: Option<f64>| value.map_or("-".to_owned(), |v| figure(v, self.basis));
        let mut text = format!("{} → {}", side(self.base), side(self.new));
        if let Some(quotient) = &self.quotient {
            text += &format!(" (×{:.4}", quotient.value);
            if self.basis == Basis::Ratio {
                text += &match (quotient.low, quotient.high) {
                    (Some(low), Some(high)) => format!(" [{low:.3}, {high:.3}]"),
                    _ => ", too few rounds for an interval".to_owned(),
                };
            }
            text.push(')');
        }
        if let (Some(n), Some(p)) = (self.n_rounds, self.p) {
            text += &format!(", {}, p {p:.3}", super::rounds(n));
        }
        text
    }
}

/// Counts per operation and instructions without needless digits; ratios with
/// three.
fn figure(value: f64, basis: Basis) -> String {
    match basis {
        Basis::Ratio => format!("{value:.3}"),
        Basis::Exact if value.fract() == 0.0 => format!("{value:.0}"),
        Basis::Exact => format!("{value:.3}"),
    }
}

/// The verdict with a count of each, one line per row, worst first; then what was
/// left out and what differs. Ends with a line feed.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WORST_FIRST: [Verdict; 4] =
            [Verdict::Fail, Verdict::Inconclusive, Verdict::Better, Verdict::Pass];
        let totals = WORST_FIRST.map(|verdict| format!("{} {verdict}", self.of(verdict).count()));
        writeln!(f, "{}: {} ({})", self.scenario, self.verdict(), totals.join(", "))?;
        for verdict in WORST_FIRST {
            for row in self.of(verdict) {
                write!(f, "  {verdict:<12}  {}  {}  {}", row.cell, row.metric, row.change())?;
                if !row.why.is_empty() {
                    write!(f, ": {}", row.why)?;
                }
                writeln!(f)?;
            }
        }
        for (cell, reason) in &self.left_out {
            writeln!(f, "  left out      {cell}: {reason}")?;
        }
        for note in &self.notes {
            writeln!(f, "  differs       {note}")?;
        }
        Ok(())
    }
}
