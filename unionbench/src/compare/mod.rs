//! Records side by side: what became slower or faster, and how sure that is.
//!
//! What the lab counts is compared exactly, with a tolerance that is a matter of
//! policy. Wall time depends on the machine's mood, so a native cell is compared
//! by two ratios to the control of the same round, of its median and of its
//! fastest operation: their logarithms are paired by round, their centre is Hodges
//! and Lehmann's, and the tests are Wilcoxon's against the smallest effect that
//! matters, put together by Simes and corrected after Holm for the number of
//! cells. A comparison that cannot tell says so.

mod instructions;
mod operations;
mod ratio;
mod subject;
mod text;

use serde::Serialize;

use crate::record::Record;
use crate::stats::signed_rank::hodges_lehmann;

pub use operations::Operations;
pub use subject::{
    CellFigures, Figure, INSTRUCTIONS, Identity, LATENCY, LabPins, OPERATIONS, Place, QUANTILES,
    RATIOS, Subject, is_amount,
};

/// Chance of any false alarm among the ratios of a comparison, and of a pass
/// of a cell that became slower by the smallest effect.
const ALPHA: f64 = 0.05;

/// Share by which an amount may rise; see [`is_amount`].
pub const AMOUNTS: f64 = 0.05;

/// Why two records cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error(
        "cannot compare {base} with {new}: the two are never converted; compare records of one unit"
    )]
    Units { base: &'static str, new: &'static str },
    #[error(
        "cannot compare records of different {what}: {base} and {new}; measure the same scenario with the same seed on both sides"
    )]
    Different { what: &'static str, base: String, new: String },
    #[error(
        "cannot compare records of different labs: {field} is {base} and {new}; measure both with the same one"
    )]
    Labs { field: &'static str, base: String, new: String },
    #[error(
        "cannot compare {cell}: the record holds it twice; restore it from its copy or measure again"
    )]
    Twice { cell: String },
    #[error("cannot compare {cell}: {source}")]
    Histogram { cell: String, source: crate::stats::hdr::HdrError },
    #[error("cannot compare nothing: name at least one record")]
    Empty,
    #[error("cannot compare the record of {scenario}: no cell of it has a valid figure")]
    Nothing { scenario: String },
    #[error(
        "cannot compare {cell}: its {metric} is not a number from 0 upwards; restore it from its copy"
    )]
    Unsound { cell: String, metric: String },
}

/// What became of one metric of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It became worse than the policy allows.
    Fail,
    /// Measure more, or find out why a figure is missing.
    Inconclusive,
    /// It became better by as much as would have failed the other way round.
    Better,
    Pass,
}

/// How a metric is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Figures as they are.
    Exact,
    /// Ratios to the control, paired by round.
    Ratio,
}

/// New over base with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quotient {
    pub value: f64,
    /// Absent where so few rounds bound nothing.
    pub low: Option<f64>,
    pub high: Option<f64>,
}

/// One metric of one cell on both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub cell: String,
    pub metric: String,
    pub basis: Basis,
    /// Absent where the side does not hold it.
    pub base: Option<f64>,
    pub new: Option<f64>,
    /// Absent if the base is zero or a side is missing.
    pub quotient: Option<Quotient>,
    /// Rounds that were paired; absent for exact figures.
    pub n_rounds: Option<usize>,
    /// Chance of the change if it were no larger than allowed, after Holm.
    pub p: Option<f64>,
    /// What was allowed: a share of the base.
    pub allowed: f64,
    pub verdict: Verdict,
    /// Why the verdict is what it is, where the figures do not say it.
    pub why: String,
}

/// A comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub scenario: String,
    /// What differs between the sides and may be the cause.
    pub notes: Vec<String>,
    /// In the order of the base.
    pub rows: Vec<Row>,
    /// Cells that neither side holds figures of, and why; may be empty.
    pub left_out: Vec<(String, String)>,
}

/// How much worse each metric may become.
pub trait Policy {
    /// Share of the base by which an exact figure may rise: 0 allows nothing.
    fn tolerance(&self, cell: &str, metric: &str) -> f64;
    /// Smallest change of a ratio that matters.
    fn min_effect(&self, cell: &str) -> f64;
}

/// One number for exact figures and one for ratios.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Uniform {
    pub instructions: f64,
    pub min_effect: f64,
}

impl Policy for Uniform {
    fn tolerance(&self, _: &str, metric: &str) -> f64 {
        match metric {
            INSTRUCTIONS => self.instructions,
            amount if is_amount(amount) => AMOUNTS,
            _ => 0.0,
        }
    }
    fn min_effect(&self, _: &str) -> f64 {
        self.min_effect
    }
}

impl Comparison {
    /// The worst verdict; inconclusive if nothing was compared.
    pub fn verdict(&self) -> Verdict {
        let worst = self.rows.iter().map(|row| row.verdict).min();
        worst
            .map_or(Verdict::Inconclusive, |v| if v == Verdict::Better { Verdict::Pass } else { v })
    }

    /// Rows with this verdict.
    pub fn of(&self, verdict: Verdict) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.verdict == verdict)
    }
}

/// Compares two records.
pub fn compare(
    base: &Record,
    new: &Record,
    policy: &dyn Policy,
) -> Result<Comparison, CompareError> {
    compare_subjects(&Subject::of(base)?, &Subject::of(new)?, policy)
}

/// Compares two subjects. Every metric of the base gets a row; one that the new
/// side lacks is inconclusive, never passed over.
pub fn compare_subjects(
    base: &Subject,
    new: &Subject,
    policy: &dyn Policy,
) -> Result<Comparison, CompareError> {
    same(&base.identity, &new.identity)?;
    sound(base)?;
    sound(new)?;
    let mut comparison = Comparison {
        scenario: base.identity.scenario.clone(),
        notes: notes(&base.place, &new.place),
        rows: Vec::new(),
        left_out: Vec::new(),
    };
    for cell in &base.cells {
        let twin = new.cell(&cell.id);
        if cell.metrics.is_empty() {
            let reason = cell.missing.clone().unwrap_or_else(|| "the base has no figures".into());
            if twin.is_some_and(|twin| !twin.metrics.is_empty()) {
                let why = format!("in the base {reason}: save a base that holds it");
                comparison.rows.push(lacking(cell, "figures", None, why));
            } else {
                comparison.left_out.push((cell.id.clone(), reason));
            }
            continue;
        }
        let judged = judged_metrics(cell, twin, policy);
        for (metric, figure) in judged.iter().filter_map(|m| cell.metrics.get_key_value(m)) {
            let found = twin.and_then(|twin| twin.metrics.get(metric));
            comparison.rows.push(match found {
                Some(other) => {
                    let row = row(cell, metric, figure, other, policy);
                    instructions::with_operations(row, cell, twin, policy)
                }
                None => {
                    let why = match twin {
                        None => "the new record does not hold the cell".to_owned(),
                        Some(CellFigures { missing: Some(reason), .. }) => {
                            format!("in the new record {reason}")
                        }
                        Some(_) if metric == LATENCY => {
                            "the base is of an older program, which kept another ratio: save it anew".to_owned()
                        }
                        Some(_) => "the new record does not hold the metric".to_owned(),
                    };
                    lacking(cell, metric, Some(figure), why)
                }
            });
        }
        // What only the new side counted may be what became worse.
        for (metric, figure) in twin.iter().flat_map(|twin| &twin.metrics) {
            let counted = figure.bounds().is_some_and(|(_, high)| high > 0.0);
            if counted && !cell.metrics.contains_key(metric) {
                let why = "the base does not hold the metric: save one that does".to_owned();
                let new = centre(figure);
                comparison.rows.push(Row { new, ..lacking(cell, metric, None, why) });
            }
        }
    }
    for cell in new.cells.iter().filter(|cell| base.cell(&cell.id).is_none()) {
        comparison.left_out.push((cell.id.clone(), "the base does not hold it".to_owned()));
    }
    ratio::judge(&mut comparison.rows, base, new);
    let holds_operations = |side: &Subject| side.cells.iter().any(|c| c.operations().is_some());
    if holds_operations(new) && !holds_operations(base) {
        comparison.notes.push(
            "operations: only the new side holds them; of instructions the quantiles alone are compared: save the base anew to find smaller changes".to_owned(),
        );
    }
    Ok(comparison)
}

/// The metrics of `cell` that get a row: of what it holds of instructions one, and
/// of its ratios one, which is chosen when they are judged.
fn judged_metrics(
    cell: &CellFigures,
    twin: Option<&CellFigures>,
    policy: &dyn Policy,
) -> Vec<String> {
    let one_of_many = |m: &str| QUANTILES.contains(&m) || m == OPERATIONS || RATIOS.contains(&m);
    let mut names: Vec<String> = cell.metrics.keys().filter(|m| !one_of_many(m)).cloned().collect();
    let quantiles: Vec<&str> =
        QUANTILES.into_iter().filter(|m| cell.metrics.contains_key(*m)).collect();
    names.extend(instructions::chosen_quantile(cell, twin, &quantiles, policy).map(str::to_owned));
    let ratio = RATIOS.into_iter().find(|m| cell.metrics.contains_key(*m));
    names.extend(ratio.map(str::to_owned));
    names
}

/// What of a range may be left, as a share, and whether `after` leaves it. A few
/// runs do not find the ends of what is possible: the range may be left by
/// `slack` of its width beside the tolerance.
fn against((low, high): (f64, f64), after: f64, tolerance: f64, slack: f64) -> (f64, Verdict) {
    let width = if low > 0.0 { high / low } else { 1.0 };
    let allowed = (1.0 + tolerance) * (1.0 + slack * (width - 1.0)) - 1.0;
    // A count that was zero has no share: anything above it is too much.
    let verdict = if after > high * (1.0 + allowed) {
        Verdict::Fail
    } else if after < low * (1.0 - allowed) {
        Verdict::Better
    } else {
        Verdict::Pass
    };
    (allowed, verdict)
}

/// A metric that one side lacks.
fn lacking(cell: &CellFigures, metric: &str, base: Option<&Figure>, why: String) -> Row {
    Row {
        cell: cell.id.clone(),
        metric: metric.to_owned(),
        basis: if RATIOS.contains(&metric) { Basis::Ratio } else { Basis::Exact },
        base: base.and_then(centre),
        new: None,
        quotient: None,
        n_rounds: None,
        p: None,
        allowed: 0.0,
        verdict: Verdict::Inconclusive,
        why,
    }
}

fn row(cell: &CellFigures, metric: &str, base: &Figure, new: &Figure, policy: &dyn Policy) -> Row {
    let (before, after) = (centre(base), centre(new));
    let mut row = Row { base: before, new: after, ..lacking(cell, metric, None, String::new()) };
    match (base.bounds(), new.bounds()) {
        (Some((low, high)), Some((_, after))) => {
            let name = if QUANTILES.contains(&metric) { INSTRUCTIONS } else { metric };
            (row.allowed, row.verdict) =
                against((low, high), after, policy.tolerance(&cell.id, name), cell.slack());
            row.quotient = (high > 0.0).then(|| {
                let value = after / high;
                Quotient { value, low: Some(value), high: Some(value) }
            });
        }
        (None, None) => row.allowed = policy.min_effect(&cell.id),
        _ => row.why = "it is exact on one side and a ratio on the other".to_owned(),
    }
    row
}

/// The figure as one number: the centre of ratios, the upper end of a range.
fn centre(figure: &Figure) -> Option<f64> {
    match figure {
        Figure::Exact(value) | Figure::Range { high: value, .. } => Some(*value),
        Figure::Operations(_) => None,
        Figure::Ratios(ratios) => {
            let logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
            hodges_lehmann(&logs, 1.0 - ALPHA).map(|centre| centre.value.exp())
        }
    }
}

fn sound(subject: &Subject) -> Result<(), CompareError> {
    for cell in &subject.cells {
        if let Some((metric, _)) = cell.metrics.iter().find(|(_, figure)| !figure.is_sound()) {
            let (cell, metric) = (cell.id.clone(), metric.clone());
            return Err(CompareError::Unsound { cell, metric });
        }
    }
    Ok(())
}

/// Refuses sides that did not measure the same thing on the same machine.
fn same(base: &Identity, new: &Identity) -> Result<(), CompareError> {
    if base.unit != new.unit {
        let (base, new) = (base.unit.suffix(), new.unit.suffix());
        return Err(CompareError::Units { base, new });
    }
    let short = |hash: &String| hash.chars().take(12).collect::<String>();
    let facts = [
        ("scenarios", base.scenario.clone(), new.scenario.clone()),
        (
            "scenarios (their files differ)",
            short(&base.scenario_sha256),
            short(&new.scenario_sha256),
        ),
        ("settings (--set)", base.overrides.join(" "), new.overrides.join(" ")),
        ("seeds", base.seed.to_string(), new.seed.to_string()),
        ("numbers of stacks", base.stacks.len().to_string(), new.stacks.len().to_string()),
    ];
    if let Some((what, base, new)) = facts.into_iter().find(|(_, base, new)| base != new) {
        let named = |text: String| if text.is_empty() { "none".to_owned() } else { text };
        return Err(CompareError::Different { what, base: named(base), new: named(new) });
    }
    // One that differs tells enough: a matrix has many.
    if let Some((base, new)) = base.stacks.iter().zip(&new.stacks).find(|(b, n)| b != n) {
        let what = "stacks (their hashes differ)";
        return Err(CompareError::Different { what, base: short(base), new: short(new) });
    }
    same_lab(base.lab.as_ref(), new.lab.as_ref())
}

/// The virtual machine must be the same. Kernel and program may differ, for
/// they may be what is compared; the notes name them.
fn same_lab(base: Option<&LabPins>, new: Option<&LabPins>) -> Result<(), CompareError> {
    let (base, new) = match (base, new) {
        (None, None) => return Ok(()),
        (Some(base), Some(new)) => (base, new),
        (base, _) => {
            let (with, without) = ("a lab".to_owned(), "none".to_owned());
            let (base, new) = if base.is_some() { (with, without) } else { (without, with) };
            return Err(CompareError::Labs { field: "lab", base, new });
        }
    };
    let text = |v: u64| v.to_string();
    let fields = [
        ("mode", base.mode.clone(), new.mode.clone()),
        ("the version of QEMU", base.qemu.clone(), new.qemu.clone()),
        ("machine", base.machine.clone(), new.machine.clone()),
        ("processor model", base.cpu.clone(), new.cpu.clone()),
        ("accelerator", base.accelerator.clone(), new.accelerator.clone()),
        ("number of processors", text(base.n_cpus.into()), text(new.n_cpus.into())),
        ("memory", text(base.memory_bytes), text(new.memory_bytes)),
        ("kernel command line", base.command_line.clone(), new.command_line.clone()),
    ];
    match fields.into_iter().find(|(_, base, new)| base != new) {
        Some((field, base, new)) => Err(CompareError::Labs { field, base, new }),
        None => Ok(()),
    }
}

fn notes(base: &Place, new: &Place) -> Vec<String> {
    let facts = [
        ("kernel", base.kernel.clone(), new.kernel.clone()),
        ("processor", base.processor.clone(), new.processor.clone()),
        ("host", base.host.clone(), new.host.clone()),
        ("program", base.program.clone(), new.program.clone()),
        ("options in force", base.options.join(" "), new.options.join(" ")),
    ];
    let mut notes: Vec<String> = facts
        .into_iter()
        .filter(|(_, base, new)| base != new)
        .map(|(name, base, new)| format!("{name}: {base} and {new}"))
        .collect();
    if base.program == new.program && base.program_sha256 != new.program_sha256 {
        notes.push(format!("program: two builds of {}", base.program));
    }
    notes
}

#[cfg(test)]
mod tests;
