//! What was measured: stacks, backends, cells, rounds.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Backing, Counter, KernelHistogram, LayerVisits, Losses, Reason, Sampling, Summary};

/// Coordinates of a cell in the scenario's matrix: key of the scenario file
/// (`stack.layers`) to value.
pub type Params = BTreeMap<String, ParamValue>;

/// One value of a matrix parameter.
#[derive(Debug, Clone, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ParamValue {
    Bool(bool),
    Integer(u64),
    Float(f64),
    Text(String),
}

impl fmt::Display for ParamValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(v) => v.fmt(f),
            Self::Integer(v) => v.fmt(f),
            Self::Float(v) => v.fmt(f),
            Self::Text(v) => v.fmt(f),
        }
    }
}

/// A set of layers that was built.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    pub params: Params,
    pub n_layers: u32,
    pub n_files: u64,
    pub n_dirs: u64,
    pub n_whiteouts: u64,
    pub n_bytes: u64,
    /// SHA-256 over names, types, sizes, modes and contents of all layers.
    pub hash: String,
    pub build_ms: u64,
}

/// One backend of the scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// Unique in the record.
    pub name: String,
    /// `bare`, `overlayfs`, `aufs`, `bundled`, …
    pub kind: String,
    /// The control that ratios are taken against.
    pub control: bool,
    /// Options as the scenario gave them, with those that unionbench added.
    pub options_requested: Vec<String>,
    /// Options as the kernel shows them for the mount (lowerdir, upperdir and
    /// workdir left out); empty if it was never mounted.
    pub options_in_force: Vec<String>,
    /// `fsconfig` or `mount`, where the kernel mounts it.
    pub mount_api: Option<String>,
    /// Name and version of the program that serves it, as that says itself;
    /// absent where the kernel or this program does.
    #[serde(default)]
    pub program: Option<String>,
    pub availability: Availability,
}

/// Whether something can be measured here at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum Availability {
    Ok,
    /// Not on this machine; the reason names the remedy.
    Unsupported {
        reason: Reason,
    },
}

/// One backend × stack × phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// Unique in the record, made of backend, parameters and phase.
    pub id: String,
    /// Name of an entry of `backends`.
    pub backend: String,
    /// Index into `stacks`.
    pub stack: u32,
    pub backing: Backing,
    pub phase: String,
    pub workload: String,
    /// What one sample times, such as `statx` or `open+write+close`.
    pub operation: String,
    /// Coordinates in the matrix; cells that differ only in `backend` (and the
    /// backend's own options) are compared.
    pub params: Params,
    pub status: CellStatus,
    pub rounds: Vec<Round>,
}

/// Whether the figures of a cell count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum CellStatus {
    Ok,
    /// It cannot be measured here.
    Unsupported {
        reason: Reason,
    },
    /// It was tried and did not work.
    Failed {
        reason: Reason,
    },
    /// It was measured, but something was lost or contradicts the driver.
    Invalid {
        reason: Reason,
    },
}

/// One pass over the operations of a cell on a fresh mount.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Round {
    pub round: u32,
    /// Probes were attached. Latencies of rounds with and without probes are
    /// never merged; the difference is the probes' cost.
    pub probes: bool,
    /// Position in `Record::order`.
    pub step: u32,
    /// Operations issued, failed ones included.
    pub n_ops: u64,
    /// errno → operations that failed with it where the workload did not
    /// expect it; empty in a valid round.
    pub errors: BTreeMap<i32, u64>,
    /// Wall time of the timed part, all threads, in the record's latency unit.
    pub elapsed: u64,
    /// Absent if no operation ran.
    pub latency: Option<Summary>,
    /// HDR histogram (V2, deflate, base64) of all samples of the round.
    pub histogram: String,
    /// Bytes the operations moved, as the driver counts them.
    pub bytes: u64,
    pub counters: Vec<Counter>,
    pub kernel: Vec<KernelHistogram>,
    /// What each layer of a lookup cost, by its turn; empty where no probe
    /// watches layers.
    pub layers: Vec<LayerVisits>,
    pub sampling: Option<Sampling>,
    pub losses: Losses,
}

/// One entry of the order of measuring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Index into `Record::stacks`.
    pub stack: u32,
    pub backend: String,
    pub round: u32,
    pub probes: bool,
    /// Start, relative to the start of the run, in milliseconds. In a kernel
    /// matrix each kernel has a run of its own, one after the other.
    pub at_ms: u64,
}

/// What the driver itself costs: two clock reads around nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DriverOverhead {
    /// Median of an empty timed section, in the record's latency unit. It is
    /// in every sample; it is never subtracted.
    pub empty_sample: u64,
    pub n: u64,
}
