//! What a comparison is about: the figures of a record that can be compared,
//! and what must be equal before they may be.
//!
//! A subject is small plain data, so that a baseline is a subject written down.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::operations::Operations;
use super::{CompareError, same};
use crate::record::{Cell, CellStatus, Record, Round};
use crate::unit::LatencyUnit;

/// Guest instructions of an operation, the figure of the lab. A subject holds
/// four quantiles of them, as `instructions.median`; see [`QUANTILES`].
pub const INSTRUCTIONS: &str = "instructions";
/// The quantiles of instructions that are kept, the preferred one first. Which
/// is judged is chosen cell by cell: operations of one cell fall into a few
/// modes (a slab page is allocated or not), and a quantile that lies between
/// two of them jumps when something changes that should not matter.
pub const QUANTILES: [&str; 4] =
    ["instructions.median", "instructions.p25", "instructions.p75", "instructions.min"];
/// All operations of a cell of the lab with their instructions; see [`Operations`].
pub const OPERATIONS: &str = "instructions.operations";
/// What a budget and `--accept` call the figure of wall time.
pub const LATENCY: &str = "latency";
/// The ratios of wall time that are kept, one of each per round: of a cell's
/// median and of its fastest operation to the control's fastest. What else the
/// machine does at the time lengthens some operations and not others; it moves
/// the control's median by more than the union's (docs/gate.md), and hardly the
/// fastest of either.
pub const RATIOS: [&str; 2] = ["latency.median", "latency.min"];

/// Counters that are amounts rather than counts of what the workload did: the
/// memory of a daemon, and what writeback and reclaim touched. Perturbed
/// runs of the lab differ in them by a few parts in a hundred.
pub fn is_amount(metric: &str) -> bool {
    let of_the_cache = ["inodes_dirtied", "folios_dirtied", "page_cache_added"];
    metric.starts_with("daemon.") || of_the_cache.contains(&metric)
}

/// The comparable part of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    pub identity: Identity,
    pub place: Place,
    pub cells: Vec<CellFigures>,
}

/// What has to be equal on both sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub scenario: String,
    pub scenario_sha256: String,
    /// Changes from the command line but for a backend's own options: those are
    /// what is under test.
    pub overrides: Vec<String>,
    pub seed: u64,
    pub unit: LatencyUnit,
    /// SHA-256 of each stack, in the record's order.
    pub stacks: Vec<String>,
    pub lab: Option<LabPins>,
}

/// The virtual machine that counts of instructions hold for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabPins {
    pub mode: String,
    pub qemu: String,
    pub machine: String,
    pub cpu: String,
    pub accelerator: String,
    pub n_cpus: u32,
    pub memory_bytes: u64,
    pub command_line: String,
}

/// Where it was measured and by what: may differ, because it may be what is
/// compared. Differences are told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub started: String,
    pub host: String,
    pub processor: String,
    pub kernel: String,
    pub kernel_package: Option<String>,
    /// Of the image; absent where it is the host's own.
    pub kernel_sha256: Option<String>,
    pub program: String,
    pub program_sha256: String,
    /// `backend option` of each option in force.
    pub options: Vec<String>,
}

/// The figures of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellFigures {
    pub id: String,
    /// Rounds without probes.
    pub n_rounds: usize,
    /// Runs that ranges come from; absent in baselines that did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_runs: Option<usize>,
    /// Why there are no figures, or none that count; absent if there are.
    pub missing: Option<String>,
    /// By name; counters are per operation.
    pub metrics: BTreeMap<String, Figure>,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Figure {
    /// The same each time it is measured.
    Exact(f64),
    /// From lowest to highest over runs that differed in what should not
    /// matter.
    Range {
        low: f64,
        high: f64,
    },
    /// Over the control of the same round, one per round.
    Ratios(Vec<f64>),
    Operations(Operations),
}

impl Subject {
    /// The figures of `record`. Fails where nothing of it can be compared.
    pub fn of(record: &Record) -> Result<Self, CompareError> {
        let cells: Vec<CellFigures> = record
            .cells
            .iter()
            .map(|cell| figures(record, cell))
            .collect::<Result<_, CompareError>>()?;
        if cells.iter().all(|cell| cell.metrics.is_empty()) {
            return Err(CompareError::Nothing { scenario: record.scenario.name.clone() });
        }
        // The second would go unseen.
        let mut known = std::collections::BTreeSet::new();
        if let Some(cell) = cells.iter().find(|cell| !known.insert(cell.id.as_str())) {
            return Err(CompareError::Twice { cell: cell.id.clone() });
        }
        Ok(Self { identity: identity(record), place: place(record), cells })
    }

    /// One subject of several runs of the same identity: exact figures become
    /// ranges, rounds of ratios are put together, and what a run lacks is
    /// missing.
    pub fn merged(runs: &[&Self]) -> Result<Self, CompareError> {
        let (first, rest) = runs.split_first().ok_or(CompareError::Empty)?;
        let mut merged = (*first).clone();
        for run in rest {
            same(&merged.identity, &run.identity)?;
            for cell in &mut merged.cells {
                let Some(twin) = run.cell(&cell.id) else {
                    cell.missing = Some("a run of the base does not hold it".into());
                    cell.metrics.clear();
                    continue;
                };
                if cell.missing.is_none() {
                    cell.missing.clone_from(&twin.missing);
                }
                cell.n_rounds += twin.n_rounds;
                cell.n_runs = cell.n_runs.zip(twin.n_runs).map(|(own, more)| own + more);
                cell.metrics.retain(|name, _| twin.metrics.contains_key(name));
                for (name, figure) in &mut cell.metrics {
                    figure.widen(&twin.metrics[name]);
                }
            }
        }
        for cell in &mut merged.cells {
            if let Some(Figure::Operations(all)) = cell.metrics.get_mut(OPERATIONS) {
                let of_each = runs.iter().filter_map(|run| run.cell(&cell.id)?.operations());
                all.note_strays(&of_each.collect::<Vec<_>>());
            }
        }
        Ok(merged)
    }

    /// The cell called `id`.
    pub fn cell(&self, id: &str) -> Option<&CellFigures> {
        self.cells.iter().find(|cell| cell.id == id)
    }
}

impl CellFigures {
    /// Its operations, if it is of the lab.
    pub fn operations(&self) -> Option<&Operations> {
        match self.metrics.get(OPERATIONS)? {
            Figure::Operations(operations) => Some(operations),
            _ => None,
        }
    }

    /// How far beyond a range of it the next run may lie for nothing, as a share
    /// of the range's width. The ends of what is possible lie beyond those of n
    /// draws by 1/(n − 1) of their width in the mean, were all equally likely;
    /// it is twice that (docs/gate.md has what came of it), but never more than
    /// the whole width, and that where the number is not known.
    pub fn slack(&self) -> f64 {
        match self.n_runs {
            Some(n) if n > 3 => 2.0 / (n - 1) as f64,
            _ => 1.0,
        }
    }
}

impl Figure {
    /// Lowest and highest of an exact figure or a range; absent for ratios
    /// and operations.
    pub fn bounds(&self) -> Option<(f64, f64)> {
        match self {
            Self::Exact(value) => Some((*value, *value)),
            Self::Range { low, high } => Some((*low, *high)),
            Self::Ratios(_) | Self::Operations(_) => None,
        }
    }

    /// Takes what another run found in.
    fn widen(&mut self, other: &Self) {
        if let (Self::Ratios(own), Self::Ratios(more)) = (&mut *self, other) {
            own.extend(more);
        } else if let (Self::Operations(own), Self::Operations(more)) = (&mut *self, other) {
            own.add(more);
        } else if let (Some(own), Some(more)) = (self.bounds(), other.bounds()) {
            let (low, high) = (own.0.min(more.0), own.1.max(more.1));
            *self = if low == high { Self::Exact(low) } else { Self::Range { low, high } };
        }
    }

    /// This figure with the relative width of the range `other`, itself in the
    /// middle; as it is if either is no range of a count.
    pub fn as_wide_as(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Exact(value), Self::Range { low, high }) if *low > 0.0 && high > low => {
                let half = (high / low).sqrt();
                Self::Range { low: value / half, high: value * half }
            }
            _ => self.clone(),
        }
    }

    /// Every number of it is finite, and not negative.
    pub fn is_sound(&self) -> bool {
        let sound = |v: &f64| v.is_finite() && *v >= 0.0;
        match self {
            Self::Exact(v) => sound(v),
            Self::Range { low, high } => sound(low) && sound(high) && low <= high,
            Self::Ratios(all) => all.iter().all(|v| sound(v) && *v > 0.0),
            Self::Operations(all) => all.is_sound(),
        }
    }
}

fn identity(record: &Record) -> Identity {
    // How often something is measured does not change what is.
    let of_the_measurement = |text: &&String| {
        !["backend.", "rounds=", "probes="].iter().any(|prefix| text.starts_with(prefix))
    };
    Identity {
        scenario: record.scenario.name.clone(),
        scenario_sha256: record.scenario.sha256.clone(),
        overrides: record.scenario.overrides.iter().filter(of_the_measurement).cloned().collect(),
        seed: record.seed,
        unit: record.latency_unit,
        stacks: record.stacks.iter().map(|stack| stack.hash.clone()).collect(),
        lab: record.lab.as_ref().map(|lab| LabPins {
            mode: lab.mode.clone(),
            qemu: lab.qemu_version.clone(),
            machine: lab.machine.clone(),
            cpu: lab.cpu_model.clone(),
            accelerator: lab.accelerator.clone(),
            n_cpus: lab.n_cpus,
            memory_bytes: lab.memory_bytes,
            command_line: lab.kernel_command_line.clone(),
        }),
    }
}

fn place(record: &Record) -> Place {
    let lab = record.lab.as_ref();
    let options = record.backends.iter().flat_map(|backend| {
        backend.options_in_force.iter().map(move |option| format!("{} {option}", backend.name))
    });
    Place {
        started: record.started.clone(),
        host: record.host.hostname.clone(),
        processor: record.host.cpu_model.clone(),
        kernel: record.host.kernel_release.clone(),
        kernel_package: lab.and_then(|lab| lab.kernel_package.clone()),
        kernel_sha256: lab.map(|lab| lab.kernel_sha256.clone()),
        program: match &record.program.commit {
            Some(commit) => format!("{} {commit}", record.program.version),
            None => record.program.version.clone(),
        },
        program_sha256: record.program.sha256.clone(),
        options: options.collect(),
    }
}

fn figures(record: &Record, cell: &Cell) -> Result<CellFigures, CompareError> {
    let without_probes: Vec<&Round> = cell.rounds.iter().filter(|round| !round.probes).collect();
    let mut found = CellFigures {
        id: cell.id.clone(),
        n_rounds: without_probes.len(),
        n_runs: Some(1),
        missing: None,
        metrics: BTreeMap::new(),
    };
    match &cell.status {
        CellStatus::Ok => {}
        CellStatus::Unsupported { reason } => {
            found.missing = Some(format!("it was unsupported: {reason}"));
            return Ok(found);
        }
        CellStatus::Failed { reason } => {
            found.missing = Some(format!("it failed: {reason}"));
            return Ok(found);
        }
        CellStatus::Invalid { reason } => {
            found.missing = Some(format!("it was invalid: {reason}"));
            return Ok(found);
        }
    }
    match record.latency_unit {
        LatencyUnit::Instructions => {
            for (name, value) in QUANTILES.into_iter().zip(quantiles(&without_probes)) {
                found.metrics.insert(name.into(), Figure::Exact(value));
            }
            let operations = Operations::of(&without_probes)
                .map_err(|source| CompareError::Histogram { cell: cell.id.clone(), source })?;
            found
                .metrics
                .extend(operations.map(|all| (OPERATIONS.into(), Figure::Operations(all))));
        }
        LatencyUnit::Nanoseconds => {
            let control = record.control_of(cell);
            let (medians, fastest) =
                control.map(|control| ratios(&without_probes, control)).unwrap_or_default();
            for (name, ratios) in RATIOS.into_iter().zip([medians, fastest]) {
                if !ratios.is_empty() {
                    found.metrics.insert(name.into(), Figure::Ratios(ratios));
                }
            }
        }
    }
    // Of the control's own cells only counts can be compared natively.
    for (name, value) in counters(record, cell) {
        found.metrics.insert(name, Figure::Exact(value));
    }
    if found.metrics.is_empty() {
        found.missing = Some(if record.is_control(cell) {
            "it is the control that others are compared through".into()
        } else {
            "it has no figure that can be compared: no control in its run, or no rounds".into()
        });
    }
    Ok(found)
}

/// Of each of [`QUANTILES`] the lowest over the rounds; empty without samples.
fn quantiles(rounds: &[&Round]) -> Vec<f64> {
    let summaries: Vec<_> = rounds.iter().filter_map(|round| round.latency).collect();
    let lowest = |part: fn(&crate::record::Summary) -> u64| summaries.iter().map(part).min();
    [lowest(|l| l.median), lowest(|l| l.p25), lowest(|l| l.p75), lowest(|l| l.min)]
        .into_iter()
        .flatten()
        .map(|v| v as f64)
        .collect()
}

/// Median and least, each over the control's least of the same round, of each
/// round that both have; in the order of [`RATIOS`].
fn ratios(rounds: &[&Round], control: &Cell) -> (Vec<f64>, Vec<f64>) {
    let of_control = |number: u32| {
        let round = control.rounds.iter().find(|r| !r.probes && r.round == number)?;
        round.latency.map(|latency| latency.min)
    };
    let paired = rounds.iter().filter_map(|round| {
        let (own, below) = (round.latency?, of_control(round.round)?);
        let over = |above: u64| above as f64 / below as f64;
        (own.min > 0 && below > 0).then(|| (over(own.median), over(own.min)))
    });
    paired.unzip()
}

/// Kernel operations that the workload alone decides. How often a name is looked
/// up or revalidated also depends on what memory pressure took from the caches,
/// and when a FUSE inode is forgotten on nothing that is measured.
const FIXED_CALLS: [&str; 7] = [
    "copy_up",
    "copy_up_data",
    "copy_up_metadata",
    "copy_up_xattr",
    "whiteout",
    "fsync",
    "ext4_fsync",
];

/// A counter that is the same each time. Samples never are, nor the futexes of
/// the driver's threads, nor a daemon's processor time, which the scheduler
/// accounts by its ticks. Natively neither is what writeback and other users of
/// the page cache do, nor a system call without a name of its own.
fn is_exact(name: &str, unit: LatencyUnit) -> bool {
    if matches!(name, "samples" | "user_samples" | "syscalls.futex" | "daemon.cpu_ns") {
        return false;
    }
    if unit == LatencyUnit::Instructions {
        return true;
    }
    let named_call = name
        .strip_prefix("syscalls.")
        .is_some_and(|call| !call.starts_with(|c: char| c.is_ascii_digit()));
    let counted_by_the_union = ["copy_ups", "fsyncs", "whiteouts", "layer_visits", "lookup."]
        .iter()
        .any(|p| name.starts_with(p));
    let in_the_upper = name.starts_with("upper.") && name != "upper.blocks";
    named_call || counted_by_the_union || in_the_upper
}

/// Counts per operation over the rounds with probes, and how often kernel
/// operations happened: in the lab all of them, natively [`FIXED_CALLS`].
fn counters(record: &Record, cell: &Cell) -> BTreeMap<String, f64> {
    let probed: Vec<&Round> = cell.rounds.iter().filter(|r| r.probes && r.n_ops > 0).collect();
    let n_ops: u64 = probed.iter().map(|round| round.n_ops).sum();
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    // A probe that was attached and saw nothing counted zero, and that zero is
    // what a later record is held against.
    let kind = record.backends.iter().find(|b| b.name == cell.backend).map(|b| b.kind.as_str());
    let attached = record.probes.iter().filter(|probe| {
        let concerned = probe.backend == "any" || kind == Some(probe.backend.as_str());
        probe.attached && concerned && FIXED_CALLS.contains(&probe.operation.as_str())
    });
    if n_ops > 0 {
        sums.extend(attached.map(|probe| (format!("calls.{}", probe.operation), 0)));
    }
    for round in &probed {
        let exact = |name: &str| is_exact(name, record.latency_unit);
        for counter in round.counters.iter().filter(|counter| exact(&counter.name)) {
            *sums.entry(counter.name.clone()).or_default() += counter.value;
        }
        for histogram in &round.kernel {
            let name = histogram.operation.as_str();
            if record.latency_unit == LatencyUnit::Instructions || FIXED_CALLS.contains(&name) {
                *sums.entry(format!("calls.{name}")).or_default() += histogram.count;
            }
        }
    }
    sums.into_iter().map(|(name, sum)| (name, sum as f64 / n_ops as f64)).collect()
}
