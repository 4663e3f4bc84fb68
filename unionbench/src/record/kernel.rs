//! What the kernel told. Every figure carries the engine that saw it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Reason;

/// Whether an engine (a way of attaching to the kernel) works here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EngineStatus {
    /// `fentry`, `kprobe`, `tracepoint`, `uprobe`, `sampling` or `upper` (a
    /// walk over the upper layer after the phase).
    pub engine: String,
    pub available: bool,
    /// errno of the refusal, where there was one.
    pub errno: Option<i32>,
    /// Why it is refused; empty if available.
    pub reason: Reason,
    /// What to do about it; empty if nothing or not needed.
    pub remedy: String,
}

/// One probe of the catalogue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProbeStatus {
    /// Operation it times or counts, such as `lookup` or `copy_up`.
    pub operation: String,
    /// Backend kind it belongs to; `any` for syscalls.
    pub backend: String,
    pub engine: String,
    /// Kernel symbol or tracepoint that was taken; the first candidate if
    /// none could be.
    pub symbol: String,
    pub attached: bool,
    pub errno: Option<i32>,
    /// Why not attached, or that it never fired though its operation ran.
    pub reason: Reason,
}

/// Latencies that the kernel side counted, in log-linear buckets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KernelHistogram {
    /// Such as `syscall:statx`, `lookup`, `copy_up`, `copy_up_data`,
    /// `fuse:LOOKUP`. Each is defined in `results/README.md`.
    pub operation: String,
    pub engine: String,
    pub symbol: String,
    pub count: u64,
    /// Exact sum, smallest and largest, in the record's latency unit.
    pub sum: u64,
    pub min: u64,
    pub max: u64,
    /// (lower bound, exclusive upper bound, count) of each bucket that is not
    /// empty, ascending. The bucket rule lives in `unionbench-common`.
    pub buckets: Vec<(u64, u64, u64)>,
}

/// All visits of the layers that were asked at the same turn of their lookups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LayerVisits {
    /// 1 for the layer that a lookup asks first. That is the upper layer where
    /// the parent directory has one, else the topmost lower one.
    pub turn: u32,
    /// Lookups that asked a layer at this turn.
    pub asked: u64,
    /// What those visits took together, in the record's latency unit, the
    /// probes' own cost included.
    pub spent: u64,
}

/// An exact count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Counter {
    /// Such as `syscalls.statx`, `copy_ups`, `copy_ups.fchmodat`,
    /// `layer_visits`, `fsyncs`, `whiteouts`, `upper.inodes`, `upper.bytes`.
    /// Each is defined in `results/README.md`.
    pub name: String,
    pub engine: String,
    pub value: u64,
}

/// What was lost on the way from the kernel. A valid cell lost at most stacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Losses {
    /// Ring-buffer reservations that failed.
    pub events: u64,
    /// Starts or ends that found no room in a map or no partner.
    pub unpaired: u64,
    /// Latencies past the last bucket.
    pub overflow: u64,
    /// Samples whose kernel stack could not be read. They are in
    /// [`Sampling::n`], belong to no function and touch no other figure.
    pub stacks: u64,
}

impl Losses {
    /// Nothing was lost.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// A count or a latency is missing, so that the cell's figures do not
    /// count. An unreadable stack only widens what sampling leaves open.
    pub fn invalidate(&self) -> bool {
        !Self { stacks: 0, ..*self }.is_zero()
    }
}

/// What the sampling engine saw in one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Samples on the workload's threads, in user or kernel mode.
    pub n: u64,
    pub period_ns: u64,
    /// Samples whose kernel stack holds a function of the file system that is
    /// measured.
    pub in_file_system: u64,
    /// Most sampled first.
    pub functions: Vec<FunctionShare>,
}

/// How often one kernel function was found on the stack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FunctionShare {
    pub function: String,
    /// Samples with the function anywhere on the stack, counted once each.
    pub inclusive: u64,
    /// Samples with the function at the top.
    pub exclusive: u64,
}
