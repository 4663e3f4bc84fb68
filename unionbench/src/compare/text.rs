//! A comparison as text.

use std::fmt;

use super::{Basis, Comparison, Verdict};

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Slower => "slower",
            Self::Faster => "faster",
            Self::Unchanged => "unchanged",
            Self::Inconclusive => "inconclusive",
        })
    }
}

/// One line per cell with quotient, interval and verdict; then what was left
/// out and what differs between the runs. Ends with a line feed.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "new / base of each cell, intervals hold for all cells at once at 95 %")?;
        for change in &self.changes {
            let (q, verdict) = (&change.quotient, change.verdict);
            let basis = match change.basis {
                Basis::Control => "ratios to the control",
                Basis::Median => "medians",
            };
            writeln!(
                f,
                "{verdict:<12}  {:>6.3} [{:.3}, {:.3}]  {} ({basis}, {} rounds)",
                q.value, q.low, q.high, change.cell, q.n_rounds
            )?;
        }
        for (cell, reason) in &self.left_out {
            writeln!(f, "left out      {cell}: {reason}")?;
        }
        for note in &self.notes {
            writeln!(f, "note          {note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::compare::compare;
    use crate::record::sample;

    #[test]
    fn a_record_compared_with_itself() {
        let record = sample::record();
        insta::assert_snapshot!(compare(&record, &record, 0.25).expect("comparable"));
    }
}
