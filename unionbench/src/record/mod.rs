//! What is stored of a run: plain data that producers (`run`, `probe`) write
//! and consumers (`report`, `compare`, `gate`) read. The schema is versioned;
//! its JSON Schema is published as `results/record.schema.json`.
//!
//! Raw samples lie beside the record in `samples.csv`. The record holds exact
//! summaries of them and mergeable histograms, so that it stands on its own.

mod environment;
mod kernel;
mod matrix;
mod measurement;
#[cfg(test)]
pub(crate) mod sample;

pub use crate::stats::Summary;
pub use environment::{Backing, Host, Lab, Program};
pub use kernel::{
    Counter, EngineStatus, FunctionShare, KernelHistogram, LayerVisits, Losses, ProbeStatus,
    Sampling,
};
pub use matrix::{Environment, KERNEL, placed_id};
pub use measurement::{
    Availability, Backend, Cell, CellStatus, DriverOverhead, ParamValue, Params, Round, Stack, Step,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::unit::LatencyUnit;

/// The version of [`Record`] that this program writes. It reads this one only:
/// a record of a newer schema is refused, never read by halves.
pub const SCHEMA_VERSION: u32 = 2;

/// One run of one scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`SCHEMA_VERSION`] of the program that wrote it.
    pub schema: u32,
    pub program: Program,
    /// Start of the run, RFC 3339 with offset UTC.
    pub started: String,
    /// Wall time of the whole run in milliseconds, set-up of stacks included.
    pub elapsed_ms: u64,
    pub scenario: ScenarioText,
    /// Seed of every random choice of the run.
    pub seed: u64,
    /// What every latency of this record counts.
    pub latency_unit: LatencyUnit,
    pub host: Host,
    /// The virtual machine, where the run took place in one.
    pub lab: Option<Lab>,
    pub stacks: Vec<Stack>,
    pub backends: Vec<Backend>,
    /// Every engine that was thought of, with the errno of each refused one.
    pub engines: Vec<EngineStatus>,
    /// Every probe of the catalogue that concerns this run.
    pub probes: Vec<ProbeStatus>,
    pub driver: DriverOverhead,
    /// In a kernel matrix, the kernels after the first: `host`, `lab`,
    /// `backends`, `engines`, `probes` and `driver` above are the first one's.
    /// Empty otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<Environment>,
    /// In plan order: by stack, backing, backend, phase.
    pub cells: Vec<Cell>,
    /// The order in which rounds were measured, oldest first.
    pub order: Vec<Step>,
    /// What the reader should know before believing a figure; may be empty.
    pub warnings: Vec<String>,
}

impl Record {
    /// The backend of `cell` is the control.
    pub fn is_control(&self, cell: &Cell) -> bool {
        self.backends.iter().any(|b| b.control && b.name == cell.backend)
    }

    /// The control's cell at the coordinates of `cell`: same phase, stack and
    /// backing, and same parameters but for those of the backend itself. Absent
    /// for the control's own cells, and if the control has no valid one there.
    pub fn control_of(&self, cell: &Cell) -> Option<&Cell> {
        let is_control_there = |other: &&Cell| {
            self.is_control(other)
                && other.status == CellStatus::Ok
                && other.phase == cell.phase
                && other.stack == cell.stack
                && other.backing.kind == cell.backing.kind
                && shared(&other.params).eq(shared(&cell.params))
        };
        if self.is_control(cell) { None } else { self.cells.iter().find(is_control_there) }
    }
}

/// Parameters that are not a backend's own.
fn shared(params: &Params) -> impl Iterator<Item = (&String, &ParamValue)> {
    params.iter().filter(|(key, _)| !key.starts_with("backend"))
}

/// The scenario as it was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScenarioText {
    pub name: String,
    pub title: String,
    /// The file's text, byte for byte.
    pub toml: String,
    /// SHA-256 of `toml`, in hex.
    pub sha256: String,
    /// `--set key=value` and other changes from the command line, in order.
    pub overrides: Vec<String>,
}

/// Why a figure is not there.
pub type Reason = String;
