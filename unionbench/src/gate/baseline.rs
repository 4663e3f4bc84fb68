//! A baseline: a subject written down as TOML, so that a diff shows what
//! changed and a reviewer can read it.
//!
//! The text carries the SHA-256 of the rest of itself. That does not stop
//! forgery, it stops slips: a figure that somebody "only adjusted" is refused,
//! and the way to change one leaves a name and a reason.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::GateError;
use crate::compare::{
    CellFigures, Comparison, Figure, INSTRUCTIONS, Identity, LATENCY, OPERATIONS, Place, QUANTILES,
    RATIOS, Subject, Verdict,
};

/// The version of the format that this program writes.
const FORMAT: u32 = 2;
/// The first that it reads: format 1 held no operations, so that it is judged by
/// quantiles alone.
const OLDEST: u32 = 1;
const CHECKSUM: &str = "checksum = ";
const HEADER: &str = "\
# A baseline of `unionbench gate`. Do not edit it: save it anew with
# --save-baseline, or accept a change with --accept METRIC --because REASON.
";

/// What later records are held against.
#[derive(Debug, Clone, PartialEq)]
pub struct Baseline {
    pub subject: Subject,
    /// Changes for the worse that somebody answered for, oldest first.
    pub accepted: Vec<Accepted>,
}

/// The file's shape. It repeats the fields of [`Subject`], because serde cannot
/// refuse unknown fields of a flattened structure.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    identity: Identity,
    place: Place,
    #[serde(rename = "cell", default)]
    cells: Vec<CellFigures>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    accepted: Vec<Accepted>,
}

/// One change for the worse that was accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    pub cell: String,
    pub metric: String,
    pub who: String,
    /// RFC 3339.
    pub when: String,
    pub because: String,
    pub old: Figure,
    pub new: Figure,
}

/// The format, for files of another version.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl Baseline {
    /// A baseline of `subject`. Ratios keep four digits behind the point, which
    /// is finer than any clock's.
    pub fn new(mut subject: Subject) -> Self {
        for figure in subject.cells.iter_mut().flat_map(|cell| cell.metrics.values_mut()) {
            if let Figure::Ratios(ratios) = figure {
                ratios.iter_mut().for_each(|r| *r = (*r * 1e4).round().max(1.0) / 1e4);
            }
        }
        Self { subject, accepted: Vec::new() }
    }

    /// The file's text.
    pub fn to_text(&self) -> Result<String, GateError> {
        let Subject { identity, place, cells } = self.subject.clone();
        let accepted = self.accepted.clone();
        let file = File { format: FORMAT, identity, place, cells, accepted };
        let body = toml::to_string(&file).map_err(|e| broken(&e.to_string()))?;
        let rest = format!("{HEADER}{body}");
        // The checksum stands behind the format, before the first table.
        let (head, tail) = rest.split_once("\n\n[").unwrap_or((&rest, ""));
        Ok(format!("{head}\n{CHECKSUM}\"{}\"\n\n[{tail}", checksum(&rest)))
    }

    /// Reads what [`Baseline::to_text`] wrote, and nothing else.
    pub fn from_text(text: &str) -> Result<Self, GateError> {
        let head: Head = toml::from_str(text).map_err(|e| broken(e.message()))?;
        if !(OLDEST..=FORMAT).contains(&head.format) {
            return Err(broken(&format!(
                "its format is {} and this program reads {OLDEST} to {FORMAT}",
                head.format
            )));
        }
        let (mut rest, mut found) = (String::new(), None);
        for line in text.split_inclusive('\n') {
            match line.strip_prefix(CHECKSUM) {
                Some(value) if found.is_none() => found = Some(value.trim().trim_matches('"')),
                _ => rest += line,
            }
        }
        if found != Some(checksum(&rest).as_str()) {
            return Err(GateError::Edited);
        }
        let File { identity, place, cells, accepted, .. } =
            toml::from_str(&rest).map_err(|e| broken(e.message()))?;
        let baseline = Self { subject: Subject { identity, place, cells }, accepted };
        baseline.check()?;
        Ok(baseline)
    }

    /// Takes over from `new` what failed in `comparison` and is called `metric`
    /// (or `CELL METRIC`), with an entry for each figure; of instructions and
    /// of latency all that the cell holds of them. What moved for nothing before may do so on: a range
    /// stays as wide as it was. Returns how many cells it was accepted in.
    pub fn accept(
        &mut self,
        comparison: &Comparison,
        new: &Subject,
        metric: &str,
        who: &str,
        when: &str,
        because: &str,
    ) -> Result<usize, GateError> {
        if because.trim().is_empty() {
            return Err(GateError::NoReason);
        }
        let of_instructions = [&QUANTILES[..], &[OPERATIONS]].concat();
        let mut n = 0;
        for row in comparison.of(Verdict::Fail) {
            // A cell is judged by several quantiles, so that one alone would be
            // held against the others' old figures.
            let own_name = [row.metric.as_str()];
            let (kind, names): (&str, &[&str]) = match row.metric.as_str() {
                name if of_instructions.contains(&name) => (INSTRUCTIONS, &of_instructions),
                name if RATIOS.contains(&name) => (LATENCY, &RATIOS),
                name => (name, &own_name),
            };
            let named = metric == kind
                || row.metric == metric
                || format!("{} {}", row.cell, row.metric) == metric;
            let found = new.cell(&row.cell);
            let own = self.subject.cells.iter_mut().find(|cell| cell.id == row.cell);
            let (true, Some(found), Some(own)) = (named, found, own) else { continue };
            for name in names {
                let (Some(found), Some(own)) =
                    (found.metrics.get(*name), own.metrics.get_mut(*name))
                else {
                    continue;
                };
                let taken = found.as_wide_as(own);
                self.accepted.push(Accepted {
                    cell: row.cell.clone(),
                    metric: (*name).to_owned(),
                    who: who.to_owned(),
                    when: when.to_owned(),
                    because: because.trim().to_owned(),
                    old: std::mem::replace(own, taken.clone()),
                    new: taken,
                });
            }
            n += 1;
        }
        if n == 0 {
            return Err(GateError::NothingToAccept { metric: metric.to_owned() });
        }
        Ok(n)
    }

    /// What was last accepted of a metric is what the baseline holds, and every
    /// figure is a number.
    fn check(&self) -> Result<(), GateError> {
        for cell in &self.subject.cells {
            if let Some((metric, _)) = cell.metrics.iter().find(|(_, figure)| !figure.is_sound()) {
                return Err(broken(&format!("{} {metric} is not a number from 0 up", cell.id)));
            }
        }
        for (index, entry) in self.accepted.iter().enumerate() {
            let later = self.accepted[index + 1..]
                .iter()
                .any(|other| (&other.cell, &other.metric) == (&entry.cell, &entry.metric));
            let held = self.subject.cell(&entry.cell).and_then(|c| c.metrics.get(&entry.metric));
            if !later && held != Some(&entry.new) {
                let Accepted { cell, metric, who, .. } = entry;
                return Err(broken(&format!(
                    "it does not hold what {who} accepted of {cell} {metric}"
                )));
            }
        }
        Ok(())
    }
}

fn checksum(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn broken(reason: &str) -> GateError {
    GateError::Baseline { reason: reason.trim().replace('\n', " ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Uniform, compare_subjects};
    use crate::record::sample;

    const POLICY: Uniform = Uniform { instructions: 0.005, min_effect: 0.1 };

    fn subject() -> Subject {
        Subject::of(&sample::record()).expect("figures")
    }

    /// With one more copy-up for each that there was.
    fn worse() -> Subject {
        let mut subject = subject();
        for figure in subject.cells.iter_mut().filter_map(|c| c.metrics.get_mut("copy_ups")) {
            *figure = Figure::Exact(2.0);
        }
        subject
    }

    #[test]
    fn baseline_reads_back_as_written() {
        let baseline = Baseline::new(subject());
        let text = baseline.to_text().expect("encodes");
        assert_eq!(Baseline::from_text(&text).expect("reads"), baseline);
        assert!(text.starts_with("# A baseline"), "{text}");
        assert!(text.contains("[cell.metrics]\ncopy_ups = 1.0\n"), "{text}");
    }

    #[test]
    fn every_edit_by_hand_is_refused() {
        let text = Baseline::new(subject()).to_text().expect("encodes");
        let edits = [
            text.replacen("copy_ups = 1.0", "copy_ups = 9.0", 1),
            text.replacen("seed = 7", "seed = 8", 1),
            text.clone() + "\n# a harmless remark\n",
            text.replacen("checksum = \"", "checksum = \"0", 1),
            text.lines().filter(|l| !l.starts_with(CHECKSUM)).collect::<Vec<_>>().join("\n"),
        ];
        for edited in edits {
            assert_ne!(edited, text);
            let error = Baseline::from_text(&edited).expect_err("refused");
            assert!(matches!(error, GateError::Edited), "{error}");
        }
    }

    #[test]
    fn what_is_no_baseline_is_refused() {
        for (text, reason) in [
            ("", "format"),
            ("format = 3", "format is 3 and this program reads 1 to 2"),
            ("not toml", "expected"),
            ("{\"schema\": 1}", "cannot read the baseline"),
        ] {
            let error = Baseline::from_text(text).expect_err("refused").to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn figures_that_are_no_numbers_are_refused_even_with_a_right_checksum() {
        let mut baseline = Baseline::new(subject());
        baseline.subject.cells[9].metrics.insert("copy_ups".into(), Figure::Exact(f64::NAN));
        let error =
            Baseline::from_text(&baseline.to_text().expect("encodes")).expect_err("refused");
        assert!(error.to_string().contains("copy_ups is not a number"), "{error}");
    }

    #[test]
    fn accepting_leaves_a_name_and_a_reason_and_then_passes() {
        let (mut baseline, new) = (Baseline::new(subject()), worse());
        let compared = |baseline: &Baseline| {
            compare_subjects(&baseline.subject, &new, &POLICY).expect("comparable")
        };
        let before = compared(&baseline);
        assert!(before.of(Verdict::Fail).count() > 1);
        let refused = baseline.accept(&before, &new, "fsyncs", "ann", "now", "so");
        assert!(matches!(refused, Err(GateError::NothingToAccept { .. })));
        let refused = baseline.accept(&before, &new, "copy_ups", "ann", "now", " ");
        assert!(matches!(refused, Err(GateError::NoReason)));
        let n = baseline.accept(&before, &new, "copy_ups", "ann", "now", "needed");
        assert_eq!(n.expect("failed before"), before.of(Verdict::Fail).count());
        let text = baseline.to_text().expect("encodes");
        assert!(text.contains("because = \"needed\"") && text.contains("who = \"ann\""), "{text}");
        let read = Baseline::from_text(&text).expect("reads");
        assert_eq!(compared(&read).of(Verdict::Fail).count(), 0);
    }

    /// The sample as if of the lab, its instructions between `low` and `high`
    /// times 1,000 by the quantile's number.
    fn instructions(low: f64, high: f64) -> Subject {
        let mut subject = subject();
        for cell in &mut subject.cells {
            cell.metrics.clear();
            for (n, name) in QUANTILES.iter().enumerate() {
                let own = 1000.0 * (n + 1) as f64;
                let range = Figure::Range { low: low * own, high: high * own };
                let figure = if low == high { Figure::Exact(low * own) } else { range };
                cell.metrics.insert((*name).into(), figure);
            }
        }
        subject
    }

    #[test]
    fn accepted_instructions_hold_as_loosely_as_before_and_no_looser() {
        let mut baseline = Baseline::new(instructions(1.0, 1.01));
        let fails = |baseline: &Baseline, level: f64| {
            let new = instructions(level, level);
            let compared = compare_subjects(&baseline.subject, &new, &POLICY).expect("comparable");
            compared.of(Verdict::Fail).count()
        };
        let new = instructions(1.1, 1.1);
        let compared = compare_subjects(&baseline.subject, &new, &POLICY).expect("comparable");
        let n_cells = compared.of(Verdict::Fail).count();
        assert_eq!(n_cells, baseline.subject.cells.len());
        let accepted = baseline.accept(&compared, &new, INSTRUCTIONS, "ann", "now", "so it is");
        assert_eq!(accepted.expect("failed before"), n_cells);
        assert_eq!(baseline.accepted.len(), n_cells * QUANTILES.len());
        let read = Baseline::from_text(&baseline.to_text().expect("encodes")).expect("reads");
        assert_eq!((fails(&read, 1.1), fails(&read, 1.111)), (0, 0));
        assert_eq!(fails(&read, 1.13), n_cells);
    }

    /// The sample as if of the lab, with its operations.
    fn of_the_lab() -> Subject {
        let mut record = sample::record();
        record.latency_unit = crate::unit::LatencyUnit::Instructions;
        Subject::of(&record).expect("figures")
    }

    #[test]
    fn operations_read_back_as_written_and_a_damaged_one_is_refused() {
        let runs = vec![of_the_lab(); 4];
        let merged = Subject::merged(&runs.iter().collect::<Vec<_>>()).expect("one identity");
        let baseline = Baseline::new(merged);
        let text = baseline.to_text().expect("encodes");
        assert_eq!(Baseline::from_text(&text).expect("reads"), baseline);
        assert!(text.contains("rise = [") && text.contains("x8 "), "{text}");
        let damaged = text.replacen("x8 ", "x8x ", 1);
        let body: String = damaged
            .lines()
            .filter(|l| !l.starts_with(CHECKSUM))
            .map(|l| format!("{l}\n"))
            .collect();
        let signed =
            body.replacen("\n\n[", &format!("\n{CHECKSUM}\"{}\"\n\n[", checksum(&body)), 1);
        let error = Baseline::from_text(&signed).expect_err("refused").to_string();
        assert!(error.contains("cannot read the baseline"), "{error}");
    }

    #[test]
    fn baseline_of_the_first_format_is_read() {
        let text = Baseline::new(subject()).to_text().expect("encodes");
        let body: String =
            text.lines().filter(|l| !l.starts_with(CHECKSUM)).map(|l| format!("{l}\n")).collect();
        let body = body.replacen("format = 2", "format = 1", 1);
        let older = body.replacen("\n\n[", &format!("\n{CHECKSUM}\"{}\"\n\n[", checksum(&body)), 1);
        assert_eq!(Baseline::from_text(&older).expect("reads"), Baseline::new(subject()));
    }

    #[test]
    fn accepted_operations_are_those_of_the_new_run() {
        let mut baseline = Baseline::new(of_the_lab());
        let mut new = of_the_lab();
        for figure in new.cells.iter_mut().flat_map(|cell| cell.metrics.values_mut()) {
            if let Figure::Exact(value) = figure {
                *value *= 1.1;
            }
        }
        let compared = compare_subjects(&baseline.subject, &new, &POLICY).expect("comparable");
        baseline.accept(&compared, &new, INSTRUCTIONS, "a", "b", "c").expect("failed before");
        assert!(baseline.accepted.iter().any(|entry| entry.metric == OPERATIONS));
        let text = baseline.to_text().expect("encodes");
        assert_eq!(Baseline::from_text(&text).expect("reads"), baseline);
    }

    #[test]
    fn one_cell_can_be_accepted_alone() {
        let (mut baseline, new) = (Baseline::new(subject()), worse());
        let before = compare_subjects(&baseline.subject, &new, &POLICY).expect("comparable");
        let first = before.of(Verdict::Fail).next().expect("failed");
        let name = format!("{} {}", first.cell, first.metric);
        assert_eq!(baseline.accept(&before, &new, &name, "a", "b", "c").expect("failed"), 1);
    }
}
