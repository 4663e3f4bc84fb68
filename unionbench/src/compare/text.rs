//! A comparison as text.

use std::fmt;

use super::{Basis, Comparison, Row, Verdict};
use crate::unit::so_many;

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
            text += &format!(", {}, p {p:.3}", so_many(n, "round"));
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

impl Comparison {
    /// The verdict with a count of each, how to read a line, one line per row, worst
    /// first, then what was left out and what differs. What passed and what was left
    /// out is counted by its reason, or listed if `all`. Ends with a line feed.
    pub fn text(&self, all: bool) -> String {
        const WORST_FIRST: [Verdict; 4] =
            [Verdict::Fail, Verdict::Inconclusive, Verdict::Better, Verdict::Pass];
        let totals = WORST_FIRST.map(|verdict| format!("{} {verdict}", self.of(verdict).count()));
        let mut text = format!("{}: {} ({})\n", self.scenario, self.verdict(), totals.join(", "));
        for legend in self.legends() {
            text += &format!("  {legend}\n");
        }
        for verdict in WORST_FIRST {
            let mut rows: Vec<&Row> = self.of(verdict).collect();
            if verdict == Verdict::Pass && !all {
                text += &counted("pass", "figure", rows.iter().map(|row| row.why.as_str()));
                continue;
            }
            // The largest change first, by percents; equals keep their order.
            let percents =
                |row: &Row| row.quotient.map_or(0.0, |q| (q.value.ln().abs() * 100.0).round());
            rows.sort_by(|a, b| percents(b).total_cmp(&percents(a)));
            for row in rows {
                text +=
                    &line(&verdict.to_string(), &[&row.cell, &row.metric, &row.change()], &row.why);
            }
        }
        if all {
            for (cell, reason) in &self.left_out {
                text += &line("left out", &[cell], reason);
            }
        } else {
            let reasons = self.left_out.iter().map(|(_, reason)| reason.as_str());
            text += &counted("left out", "cell", reasons);
        }
        for note in &self.notes {
            text += &line("differs", &[note], "");
        }
        text
    }

    /// How the rows that there are have to be read.
    fn legends(&self) -> Vec<&'static str> {
        let of = |basis| {
            move |row: &&Row| row.basis == basis && (row.base.is_some() || row.new.is_some())
        };
        let mut legends = Vec::new();
        if self.rows.iter().any(|row| of(Basis::Exact)(&row)) {
            legends.push("counted: base → new (×new/base); instructions of an operation, counters per operation");
        }
        if self.rows.iter().any(|row| of(Basis::Ratio)(&row)) {
            legends.push(
                "timed: ratio to the control, base → new (×new/base [95 % interval]), paired rounds, p of a slowdown",
            );
        }
        legends
    }
}

fn line(head: &str, words: &[&str], why: &str) -> String {
    let colon = if why.is_empty() { "" } else { ": " };
    format!("  {head:<12}  {}{colon}{why}\n", words.join("  "))
}

/// A line for each of the reasons that things (`noun`) have in common, with how many
/// there are; nothing for none.
fn counted<'a>(head: &str, noun: &str, reasons: impl Iterator<Item = &'a str>) -> String {
    let mut groups: Vec<(&str, usize)> = Vec::new();
    for reason in reasons {
        match groups.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, n)) => *n += 1,
            None => groups.push((reason, 1)),
        }
    }
    let words = |n: usize| format!("{} (--all lists them)", so_many(n, noun));
    groups.iter().map(|(reason, n)| line(head, &[&words(*n)], reason)).collect()
}
