//! What the formats share: one row of figures per cell.
//!
//! Figures come from the rounds without probes; where a cell has none, from
//! those with, and the row says so. Quantiles over rounds are read from the
//! merged histograms (within 0.1 %), never averaged. Cells that are not
//! [`CellStatus::Ok`] take no part in ratios, fits and plots.

use hdrhistogram::Histogram;

use super::ReportError;
use crate::record::{Cell, CellStatus, Losses, ParamValue, Record, Round};
use crate::stats::bootstrap::{self, Estimate, Settings};
use crate::stats::hdr;
use crate::unit::Bytes;

/// Fewest samples for which p99.9 is shown.
pub const MIN_FOR_P999: u64 = 10_000;

/// The rows of a record, in its order.
#[derive(Debug)]
pub struct Analysis<'a> {
    pub record: &'a Record,
    pub rows: Vec<Row<'a>>,
}

/// The figures of one cell, latencies in the record's unit.
#[derive(Debug)]
pub struct Row<'a> {
    pub cell: &'a Cell,
    pub is_control: bool,
    /// The figures are of rounds with probes, because there are no others.
    pub with_probes: bool,
    /// All samples that the figures are of; may be empty.
    pub histogram: Histogram<u64>,
    /// Median over that of the control at the same coordinates.
    pub ratio: Option<Estimate>,
    /// Median with probes over median without.
    pub probes_cost: Option<Estimate>,
    /// System calls as the kernel timed them.
    pub syscalls: Vec<KernelSide>,
    /// Lookups and copy-ups inside the union, each by one definition for all.
    pub unions: Vec<KernelSide>,
    /// Copy-ups that the kernel made, and operations in the same rounds.
    pub copy_ups: Option<(u64, u64)>,
    pub losses: Losses,
}

/// One operation as the kernel timed it, over all rounds with probes.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelSide {
    /// Without `syscall:`.
    pub operation: String,
    pub engine: String,
    /// The functions or tracepoint it was seen at.
    pub symbol: String,
    pub count: u64,
    /// Middle of the bucket that holds the median.
    pub median: f64,
}

impl<'a> Analysis<'a> {
    /// Derives all figures. Fails on a histogram that cannot be read.
    pub fn of(record: &'a Record) -> Result<Self, ReportError> {
        let rounds: Vec<CellRounds> =
            record.cells.iter().map(CellRounds::of).collect::<Result<_, _>>()?;
        let rows = record
            .cells
            .iter()
            .zip(&rounds)
            .map(|(cell, own)| row(record, cell, own, &rounds))
            .collect::<Result<_, _>>()?;
        Ok(Self { record, rows })
    }

    /// Phases in the order of their first cells.
    pub fn phases(&self) -> Vec<&'a str> {
        let mut phases = Vec::new();
        for row in &self.rows {
            if !phases.contains(&row.cell.phase.as_str()) {
                phases.push(row.cell.phase.as_str());
            }
        }
        phases
    }

    /// Rows of one phase.
    pub fn phase(&self, phase: &str) -> impl Iterator<Item = &Row<'a>> {
        self.rows.iter().filter(move |row| row.cell.phase == phase)
    }
}

impl Row<'_> {
    /// Samples behind the figures.
    pub fn n(&self) -> u64 {
        self.histogram.len()
    }

    /// A nearest-rank quantile; absent without samples.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        (self.n() > 0).then(|| self.histogram.value_at_quantile(q))
    }

    /// Absent below [`MIN_FOR_P999`] samples.
    pub fn p999(&self) -> Option<u64> {
        (self.n() >= MIN_FOR_P999).then(|| self.histogram.value_at_quantile(0.999))
    }

    /// The figures may be compared.
    pub fn counts(&self) -> bool {
        self.cell.status == CellStatus::Ok && self.n() > 0
    }
}

/// A parameter as a number, sizes in bytes; absent for other text.
pub fn number(value: &ParamValue) -> Option<f64> {
    match value {
        ParamValue::Integer(v) => Some(*v as f64),
        ParamValue::Float(v) => Some(*v),
        ParamValue::Text(v) => v.parse::<Bytes>().ok().map(|b| b.0 as f64),
        ParamValue::Bool(_) => None,
    }
}

/// Decoded histograms of one cell, one per round.
struct CellRounds {
    without_probes: Vec<Histogram<u64>>,
    with_probes: Vec<Histogram<u64>>,
}

impl CellRounds {
    fn of(cell: &Cell) -> Result<Self, ReportError> {
        let decode = |probes: bool| {
            let rounds = cell.rounds.iter().filter(|r| r.probes == probes);
            rounds.map(|r| histogram(cell, r)).collect::<Result<Vec<_>, ReportError>>()
        };
        Ok(Self { without_probes: decode(false)?, with_probes: decode(true)? })
    }

    /// The rounds that figures are taken from.
    fn main(&self) -> &[Histogram<u64>] {
        if self.without_probes.is_empty() { &self.with_probes } else { &self.without_probes }
    }
}

fn histogram(cell: &Cell, round: &Round) -> Result<Histogram<u64>, ReportError> {
    hdr::decode(&round.histogram).map_err(|source| ReportError::Histogram {
        cell: cell.id.clone(),
        round: round.round,
        source,
    })
}

fn row<'a>(
    record: &'a Record,
    cell: &'a Cell,
    own: &CellRounds,
    all: &[CellRounds],
) -> Result<Row<'a>, ReportError> {
    let settings = Settings { seed: record.seed, ..Settings::default() };
    let control = record
        .control_of(cell)
        .filter(|_| cell.status == CellStatus::Ok)
        .and_then(|control| record.cells.iter().position(|c| c.id == control.id))
        .map(|index| &all[index]);
    let histogram = hdr::merge(own.main()).map_err(|source| ReportError::Histogram {
        cell: cell.id.clone(),
        round: 0,
        source,
    })?;
    Ok(Row {
        cell,
        is_control: record.is_control(cell),
        with_probes: own.without_probes.is_empty() && !own.with_probes.is_empty(),
        histogram,
        ratio: control
            .filter(|rounds| rounds.without_probes.is_empty() == own.without_probes.is_empty())
            .and_then(|rounds| bootstrap::ratio_of_medians(own.main(), rounds.main(), settings)),
        probes_cost: bootstrap::ratio_of_medians(&own.with_probes, &own.without_probes, settings),
        syscalls: sides(cell, |name| name.strip_prefix("syscall:")),
        unions: sides(cell, |name| UNION_OPERATIONS.contains(&name).then_some(name)),
        copy_ups: copy_ups(cell),
        losses: losses(cell),
    })
}

/// What every union does, whoever serves it.
const UNION_OPERATIONS: [&str; 2] = ["lookup", "copy_up"];

/// Buckets of one operation, gathered over rounds.
struct Gathered<'a> {
    operation: &'a str,
    engine: &'a str,
    symbol: &'a str,
    buckets: Vec<(u64, u64, u64)>,
}

/// The operations that `wanted` gives a name.
fn sides<'a>(cell: &'a Cell, wanted: impl Fn(&'a str) -> Option<&'a str>) -> Vec<KernelSide> {
    let mut sides: Vec<Gathered<'_>> = Vec::new();
    for histogram in cell.rounds.iter().flat_map(|r| &r.kernel) {
        let Some(operation) = wanted(&histogram.operation) else { continue };
        let (engine, symbol) = (histogram.engine.as_str(), histogram.symbol.as_str());
        match sides.iter_mut().find(|s| s.operation == operation && s.engine == engine) {
            Some(side) => side.buckets.extend(&histogram.buckets),
            None => {
                let buckets = histogram.buckets.clone();
                sides.push(Gathered { operation, engine, symbol, buckets });
            }
        }
    }
    sides
        .into_iter()
        .filter_map(|Gathered { operation, engine, symbol, buckets }| {
            let count = buckets.iter().map(|b| b.2).sum();
            let median = median_of_buckets(buckets)?;
            let (operation, engine, symbol) = (operation.into(), engine.into(), symbol.into());
            Some(KernelSide { operation, engine, symbol, count, median })
        })
        .collect()
}

fn median_of_buckets(mut buckets: Vec<(u64, u64, u64)>) -> Option<f64> {
    buckets.sort_unstable();
    let count: u64 = buckets.iter().map(|b| b.2).sum();
    let mut seen = 0;
    for (low, end, n) in buckets {
        seen += n;
        if n > 0 && seen >= count.div_ceil(2) {
            return Some((low as f64 + end.saturating_sub(1) as f64) / 2.0);
        }
    }
    None
}

/// Absent if nothing counted copy-ups.
fn copy_ups(cell: &Cell) -> Option<(u64, u64)> {
    let counted = cell.rounds.iter().filter_map(|round| {
        let counter = round.counters.iter().find(|c| c.name == "copy_ups")?;
        Some((counter.value, round.n_ops))
    });
    counted.reduce(|sum, one| (sum.0 + one.0, sum.1 + one.1))
}

fn losses(cell: &Cell) -> Losses {
    cell.rounds.iter().fold(Losses::default(), |sum, round| Losses {
        events: sum.events + round.losses.events,
        unpaired: sum.unpaired + round.losses.unpaired,
        overflow: sum.overflow + round.losses.overflow,
        stacks: sum.stacks + round.losses.stacks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample;

    #[test]
    fn ratio_is_taken_against_the_control_at_the_same_depth() {
        let record = sample::record();
        let analysis = Analysis::of(&record).expect("reads");
        let ratios: Vec<f64> =
            analysis.phase("cold-lookup").filter_map(|row| row.ratio.map(|r| r.value)).collect();
        let expected = [3_100, 3_800, 6_200, 15_800].map(|v| f64::from(v) / 2_000.0);
        assert_eq!(ratios.len(), expected.len());
        for (found, expected) in ratios.iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 0.01, "{found} against {expected}");
        }
    }

    #[test]
    fn invalid_cells_have_figures_but_no_ratio() {
        let record = sample::record();
        let analysis = Analysis::of(&record).expect("reads");
        let row = analysis.phase("deletes").next().expect("there is one");
        assert!(row.n() > 0 && row.ratio.is_none() && !row.counts());
        assert_eq!(row.losses.events, 3);
    }

    #[test]
    fn p999_is_not_shown_for_few_samples() {
        let record = sample::record();
        let analysis = Analysis::of(&record).expect("reads");
        assert!(analysis.rows.iter().all(|row| row.p999().is_none()));
    }

    #[test]
    fn kernel_side_median_lies_in_the_middle_bucket() {
        let buckets = vec![(20, 30, 1), (0, 10, 1), (10, 20, 1), (40, 50, 0)];
        assert_eq!(median_of_buckets(buckets), Some(14.5));
        assert_eq!(median_of_buckets(Vec::new()), None);
    }

    #[test]
    fn sizes_are_numbers_in_bytes() {
        assert_eq!(number(&ParamValue::Text("4KiB".into())), Some(4096.0));
        assert_eq!(number(&ParamValue::Text("top".into())), None);
    }
}
