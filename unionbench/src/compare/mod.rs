//! Two records side by side: what became slower or faster, and how sure that
//! is.
//!
//! Two runs of wall time differ by the machine's mood, so a native cell is
//! compared by its ratio to the control of its own run; instructions of the lab
//! are compared as they are. Intervals hold for all cells at once (each is made
//! at 1 - 0.05/m for m cells, after Bonferroni), so that many cells do not mean
//! many false alarms.

mod text;

use hdrhistogram::Histogram;

use crate::record::{Cell, CellStatus, Lab, Record};
use crate::stats::bootstrap::{Estimate, Settings, quotient_of_medians};
use crate::stats::hdr::{self, HdrError};
use crate::unit::LatencyUnit;

/// Chance of any false difference among all cells of a comparison.
const FALSE_ALARM: f64 = 0.05;
/// Enough that the tails of twenty intervals at once hold resamples.
const N_RESAMPLES: usize = 10_000;

/// Fewest rounds whose scatter an interval of wall time can know. With fewer,
/// no native cell gets another verdict than inconclusive.
const MIN_ROUNDS: usize = 5;

/// Why two records cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error(
        "cannot compare {base} with {new}: the two are never converted; compare records of one unit"
    )]
    Units { base: &'static str, new: &'static str },
    #[error(
        "cannot compare records of different labs: {field} differs; measure both with the same one"
    )]
    Labs { field: &'static str },
    #[error("cannot read the histogram of cell {cell}, round {round}")]
    Histogram { cell: String, round: u32, source: HdrError },
}

/// What became of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The whole interval lies above the smallest effect.
    Slower,
    /// The whole interval lies below it.
    Faster,
    /// The whole interval lies within it.
    Unchanged,
    /// The interval is too wide, or wall time has fewer than five rounds:
    /// measure more.
    Inconclusive,
}

/// What the change of a cell is a quotient of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// Ratios to the control of the same run.
    Control,
    /// Medians as they are.
    Median,
}

/// One cell that both records hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub cell: String,
    pub basis: Basis,
    /// New over base, with its interval.
    pub quotient: Estimate,
    pub verdict: Verdict,
}

/// A comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// In the order of the base.
    pub changes: Vec<Change>,
    /// Cells that were not compared, and why; may be empty.
    pub left_out: Vec<(String, String)>,
    /// Differences between the runs that the reader should know.
    pub notes: Vec<String>,
}

/// Compares `new` with `base`. `min_effect` is the smallest change that
/// matters, such as 0.1 for 10 %.
pub fn compare(base: &Record, new: &Record, min_effect: f64) -> Result<Comparison, CompareError> {
    if base.latency_unit != new.latency_unit {
        let (base, new) = (base.latency_unit.suffix(), new.latency_unit.suffix());
        return Err(CompareError::Units { base, new });
    }
    same_lab(base.lab.as_ref(), new.lab.as_ref())?;
    let mut comparison = Comparison { changes: vec![], left_out: vec![], notes: notes(base, new) };
    let mut pairs = Vec::new();
    for cell in &base.cells {
        match pair(base, new, cell) {
            Ok(pair) => pairs.push(pair),
            Err(reason) => comparison.left_out.push((cell.id.clone(), reason)),
        }
    }
    for cell in new.cells.iter().filter(|cell| base.cells.iter().all(|c| c.id != cell.id)) {
        comparison.left_out.push((cell.id.clone(), "the base does not hold it".to_owned()));
    }
    let confidence = 1.0 - FALSE_ALARM / pairs.len().max(1) as f64;
    let settings = Settings { n_resamples: N_RESAMPLES, confidence, ..Settings::default() };
    for pair in pairs {
        let id = pair.base.id.clone();
        match change(&pair, settings, min_effect)? {
            Some(change) => comparison.changes.push(change),
            None => comparison.left_out.push((id, "a median of it is zero".to_owned())),
        }
    }
    Ok(comparison)
}

/// A cell in both records, with the controls if it is compared through them.
struct Pair<'a> {
    base: &'a Cell,
    new: &'a Cell,
    controls: Option<(&'a Cell, &'a Cell)>,
}

/// The error is the reason why the cell is left out.
fn pair<'a>(base: &'a Record, new: &'a Record, cell: &'a Cell) -> Result<Pair<'a>, String> {
    let twin = new.cells.iter().find(|c| c.id == cell.id);
    let twin = twin.ok_or("the new record does not hold it")?;
    if cell.status != CellStatus::Ok || twin.status != CellStatus::Ok {
        return Err("it was not measured, or not validly, in both records".to_owned());
    }
    if base.latency_unit == LatencyUnit::Instructions {
        return Ok(Pair { base: cell, new: twin, controls: None });
    }
    if base.is_control(cell) {
        return Err("it is the control that others are compared through".to_owned());
    }
    let controls = base.control_of(cell).zip(new.control_of(twin));
    let controls = controls.ok_or("wall time is compared through a control, and it has none")?;
    Ok(Pair { base: cell, new: twin, controls: Some(controls) })
}

fn change(
    pair: &Pair<'_>,
    settings: Settings,
    min_effect: f64,
) -> Result<Option<Change>, CompareError> {
    let (base, new) = (rounds(pair.base)?, rounds(pair.new)?);
    let (basis, quotient) = match pair.controls {
        None => (Basis::Median, quotient_of_medians(&[&new], &[&base], settings)),
        Some((base_control, new_control)) => {
            let (base_control, new_control) = (rounds(base_control)?, rounds(new_control)?);
            let above: [&[Histogram<u64>]; 2] = [&new, &base_control];
            let below: [&[Histogram<u64>]; 2] = [&base, &new_control];
            (Basis::Control, quotient_of_medians(&above, &below, settings))
        }
    };
    Ok(quotient.map(|quotient| Change {
        cell: pair.base.id.clone(),
        basis,
        quotient,
        verdict: verdict(basis, &quotient, min_effect),
    }))
}

fn verdict(basis: Basis, quotient: &Estimate, min_effect: f64) -> Verdict {
    if basis == Basis::Control && quotient.n_rounds < MIN_ROUNDS {
        return Verdict::Inconclusive;
    }
    let (slower, faster) = (1.0 + min_effect, 1.0 / (1.0 + min_effect));
    if quotient.low > slower {
        Verdict::Slower
    } else if quotient.high < faster {
        Verdict::Faster
    } else if quotient.low >= faster && quotient.high <= slower {
        Verdict::Unchanged
    } else {
        Verdict::Inconclusive
    }
}

/// Rounds without probes; they alone are compared.
fn rounds(cell: &Cell) -> Result<Vec<Histogram<u64>>, CompareError> {
    let decoded = cell.rounds.iter().filter(|round| !round.probes).map(|round| {
        hdr::decode(&round.histogram).map_err(|source| CompareError::Histogram {
            cell: cell.id.clone(),
            round: round.round,
            source,
        })
    });
    decoded.collect()
}

/// The virtual machine must be the same. Kernel and program may differ, for
/// they are what is compared; [`notes`] name them.
fn same_lab(base: Option<&Lab>, new: Option<&Lab>) -> Result<(), CompareError> {
    let (base, new) = match (base, new) {
        (None, None) => return Ok(()),
        (Some(base), Some(new)) => (base, new),
        _ => return Err(CompareError::Labs { field: "lab (one record has none)" }),
    };
    let fields = [
        ("mode", base.mode == new.mode),
        ("qemu_version", base.qemu_version == new.qemu_version),
        ("machine", base.machine == new.machine),
        ("cpu_model", base.cpu_model == new.cpu_model),
        ("accelerator", base.accelerator == new.accelerator),
        ("n_cpus", base.n_cpus == new.n_cpus),
        ("memory_bytes", base.memory_bytes == new.memory_bytes),
        ("kernel_command_line", base.kernel_command_line == new.kernel_command_line),
    ];
    match fields.into_iter().find(|(_, equal)| !equal) {
        Some((field, _)) => Err(CompareError::Labs { field }),
        None => Ok(()),
    }
}

fn notes(base: &Record, new: &Record) -> Vec<String> {
    let facts = [
        ("scenario", &base.scenario.sha256, &new.scenario.sha256),
        ("program", &base.program.sha256, &new.program.sha256),
        ("kernel", &base.host.kernel_release, &new.host.kernel_release),
        ("processor", &base.host.cpu_model, &new.host.cpu_model),
        ("host", &base.host.hostname, &new.host.hostname),
    ];
    facts
        .into_iter()
        .filter(|(_, base, new)| base != new)
        .map(|(name, base, new)| format!("the {name} differs: {base} and {new}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample;

    /// The sample record with its rounds four times over.
    fn record() -> Record {
        let mut record = sample::record();
        for cell in &mut record.cells {
            cell.rounds = vec![cell.rounds.clone(); 4].concat();
        }
        record
    }

    /// The record with all latencies of `backend` multiplied.
    fn scaled(backend: &str, factor: f64) -> Record {
        let mut record = record();
        for cell in record.cells.iter_mut().filter(|c| c.backend == backend || backend == "all") {
            for round in &mut cell.rounds {
                let old = hdr::decode(&round.histogram).expect("reads");
                let mut new = hdr::empty();
                for bucket in old.iter_recorded() {
                    let value = (bucket.value_iterated_to() as f64 * factor) as u64;
                    new.record_n(value, bucket.count_at_value()).expect("in range");
                }
                round.histogram = hdr::encode(&new).expect("encodes");
            }
        }
        record
    }

    fn verdicts(new: &Record) -> Vec<Verdict> {
        let comparison = compare(&record(), new, 0.25).expect("comparable");
        comparison.changes.iter().map(|c| c.verdict).collect()
    }

    #[test]
    fn slower_backend_is_found_in_every_cell() {
        assert_eq!(verdicts(&scaled("overlayfs", 2.0)), vec![Verdict::Slower; 8]);
        assert_eq!(verdicts(&scaled("overlayfs", 0.5)), vec![Verdict::Faster; 8]);
    }

    #[test]
    fn slower_machine_changes_nothing() {
        assert_eq!(verdicts(&scaled("all", 2.0)), vec![Verdict::Unchanged; 8]);
    }

    #[test]
    fn small_change_with_a_wide_interval_is_inconclusive() {
        assert!(verdicts(&scaled("overlayfs", 1.25)).iter().all(|v| *v == Verdict::Inconclusive));
    }

    #[test]
    fn two_rounds_of_wall_time_tell_nothing() {
        let (base, mut new) = (sample::record(), scaled("overlayfs", 2.0));
        new.cells.iter_mut().for_each(|cell| cell.rounds.truncate(3));
        let comparison = compare(&base, &new, 0.25).expect("comparable");
        assert!(comparison.changes.iter().all(|c| c.verdict == Verdict::Inconclusive));
        assert_eq!(comparison.changes.len(), 8);
    }

    #[test]
    fn cells_left_out_have_reasons() {
        let base = sample::record();
        let mut new = sample::record();
        let gone = new.cells.remove(1).id;
        let comparison = compare(&base, &new, 0.1).expect("comparable");
        assert_eq!(comparison.changes.len() + comparison.left_out.len(), base.cells.len());
        let reason = comparison.left_out.iter().find(|(id, _)| *id == gone).expect("listed");
        assert_eq!(reason.1, "the new record does not hold it");
    }

    #[test]
    fn time_and_instructions_are_never_compared() {
        let mut new = sample::record();
        new.latency_unit = LatencyUnit::Instructions;
        let error = compare(&sample::record(), &new, 0.1).expect_err("refused");
        assert!(matches!(error, CompareError::Units { .. }), "{error}");
    }
}
