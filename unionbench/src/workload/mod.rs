//! What is done to the mounted tree: one file per verb.
//!
//! Everything an operation needs (names, order, buffers) is made before the
//! timed part. The timed part of one operation is its system calls between two
//! reads of the clock (through the vDSO, no system call of its own); nothing
//! is allocated or formatted in it.

mod commit;
mod container;
mod delete;
mod driver;
mod first_write;
mod fsync;
mod idmap;
mod keys;
mod lookup;
mod read;
mod readdir;
mod recursive;
mod rename_directory;
mod replay;
mod walk;
mod whole;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::atomic::AtomicBool;

use thiserror::Error;

pub use commit::{Changes, native_diff, walked_diff};
pub use driver::{Gate, empty_sample};
pub use replay::bring_up;
pub use whole::{Ground, MountAt, Standing, run_whole};

use crate::plan::{Action, Cache, PhasePlan, StackPlan, Trigger, WholeVerb};
use crate::record::Counter;
use crate::stack::Tree;
use crate::sys::Errno;

/// A phase made ready: names and their order.
#[derive(Debug)]
pub struct Prepared {
    pub action: Action,
    pub names: Vec<CString>,
    /// Second names, for `link` and `rename`; empty otherwise.
    pub targets: Vec<CString>,
    /// Sizes of the files behind `names`; empty where they do not matter.
    pub sizes: Vec<u64>,
    /// For each thread, indices into `names`.
    pub orders: Vec<Vec<u32>>,
    /// Where the amount is a duration, its end after the start.
    pub duration_ns: Option<u64>,
}

impl Prepared {
    /// For a verb whose operations are numbered, not named.
    fn without_names(action: &Action, n: u64) -> Self {
        Self {
            action: action.clone(),
            names: Vec::new(),
            targets: Vec::new(),
            sizes: Vec::new(),
            orders: vec![(0..n as u32).collect()],
            duration_ns: None,
        }
    }
}

/// What the timed part gave.
#[derive(Debug, Default)]
pub struct Outcome {
    /// One latency per operation, in the clock's unit, by thread and then in
    /// order of issue.
    pub samples: Vec<u64>,
    pub n_ops: u64,
    pub bytes: u64,
    /// What the operations themselves counted, such as EXDEV.
    pub counters: Vec<Counter>,
    /// errno → operations that failed with it unexpectedly.
    pub errors: BTreeMap<i32, u64>,
    /// From the first thread's start to the last one's end.
    pub elapsed: u64,
}

/// Why a phase could not be made ready or run.
#[derive(Debug, Error)]
pub enum WorkloadError {
    #[error(
        "cannot run phase {phase}: it asks for {wanted} names and the stack has {there}; \
         lower `count` or raise `stack.files_per_layer`"
    )]
    TooFewFiles { phase: String, wanted: u64, there: u64 },
    /// A phase over all that is there, where nothing is: the layer of an image
    /// that only hides or replaces nothing but directories.
    #[error("nothing of what phase {phase} takes shows through the stack")]
    NothingThere { phase: String },
    #[error("cannot open {path}")]
    Open { path: String, source: std::io::Error },
    #[error("cannot {action} in phase {verb}")]
    Whole {
        verb: &'static str,
        action: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("interrupted")]
    Interrupted,
}

/// Chooses the names of a phase and the order in which each thread takes them.
///
/// # Errors
/// The stack holds fewer files than the phase uses once each.
pub fn prepare(phase: &PhasePlan, tree: &Tree, seed: u64) -> Result<Prepared, WorkloadError> {
    keys::prepare(phase, tree, seed)
}

/// Runs the timed part on a mounted tree. `gate` is called around it with the
/// thread ids of the workload, so that probes see these threads and no others.
///
/// # Errors
/// The root cannot be opened, or the run was interrupted.
pub fn run(
    prepared: &Prepared,
    root: &std::path::Path,
    gate: &mut dyn Gate,
    cancel: &AtomicBool,
) -> Result<Outcome, WorkloadError> {
    match &prepared.action {
        Action::Lookup { .. } => driver::run(prepared, root, gate, cancel, lookup::present),
        Action::LookupMissing => driver::run(prepared, root, gate, cancel, lookup::missing),
        Action::Delete { .. } => driver::run(prepared, root, gate, cancel, delete::unlink),
        Action::Readdir => driver::run(prepared, root, gate, cancel, readdir::list),
        Action::Walk => driver::run(prepared, root, gate, cancel, walk::list_long),
        Action::Fsync { .. } => driver::run(prepared, root, gate, cancel, fsync::write_and_sync),
        Action::Read { .. } => driver::run(prepared, root, gate, cancel, read::whole),
        Action::Recursive { trigger: Trigger::Chmod } => {
            driver::run(prepared, root, gate, cancel, recursive::chmod)
        }
        Action::Recursive { .. } => driver::run(prepared, root, gate, cancel, first_write::chown),
        Action::RenameDirectory { copies } => {
            rename_directory::run(prepared, root, gate, cancel, *copies)
        }
        Action::Replay { operations, .. } => {
            driver::run(prepared, root, gate, cancel, |op| replay::operate(operations, op))
        }
        // Wants more than a root: see `run_whole`.
        Action::Whole(_) => Ok(Outcome::default()),
        Action::FirstWrite { trigger, .. } => match trigger {
            Trigger::Write => driver::run(prepared, root, gate, cancel, first_write::write),
            Trigger::Chmod => driver::run(prepared, root, gate, cancel, first_write::chmod),
            Trigger::Chown => driver::run(prepared, root, gate, cancel, first_write::chown),
            Trigger::Truncate => driver::run(prepared, root, gate, cancel, first_write::truncate),
            Trigger::Link => driver::run(prepared, root, gate, cancel, first_write::link),
            Trigger::Rename => driver::run(prepared, root, gate, cancel, first_write::rename),
            Trigger::Setxattr => driver::run(prepared, root, gate, cancel, first_write::setxattr),
        },
    }
}

/// Uses every name once, outside the timed part and without keeping figures:
/// a look that changes nothing.
///
/// # Errors
/// The root cannot be opened.
pub fn warm_up(prepared: &Prepared, root: &std::path::Path) -> std::io::Result<()> {
    lookup::visit(root, &prepared.names)
}

/// The workload as scenario files name it.
pub fn verb(action: &Action) -> &'static str {
    match action {
        Action::Lookup { .. } | Action::LookupMissing => "lookup",
        Action::FirstWrite { .. } => "first-write",
        Action::Delete { .. } => "delete",
        Action::Readdir => "readdir",
        Action::Walk => "walk",
        Action::Fsync { .. } => "fsync",
        Action::Read { .. } => "read",
        Action::Recursive { .. } => "recursive",
        Action::RenameDirectory { copies: false } => "rename-directory",
        Action::RenameDirectory { copies: true } => "move-tree",
        Action::Replay { .. } => "replay",
        Action::Whole(verb) => whole::name(*verb),
    }
}

/// What one sample of an action times: its system calls, in order.
pub fn operation(action: &Action) -> &'static str {
    match action {
        Action::Lookup { .. } | Action::LookupMissing => "statx",
        Action::Delete { .. } => "unlinkat",
        Action::Readdir => "openat+getdents64+close",
        Action::Walk => "openat+getdents64+statx of each+close",
        Action::Fsync { .. } => "openat+pwrite64+fsync+close",
        Action::Read { .. } => "openat+read+close",
        Action::Recursive { trigger: Trigger::Chmod } => "fchmodat",
        Action::Recursive { .. } => "fchownat",
        Action::RenameDirectory { copies: false } => "renameat2",
        Action::RenameDirectory { copies: true } => "renameat2, or copy and delete",
        Action::Replay { .. } => "operation of the trace",
        Action::Whole(WholeVerb::MountStorm) => "mount",
        Action::Whole(WholeVerb::UnmountDirty) => "umount",
        Action::Whole(WholeVerb::IdmapStart { mapped: true }) => "idmapped mounts+mount",
        Action::Whole(WholeVerb::IdmapStart { mapped: false }) => "mount+chown of everything",
        Action::Whole(WholeVerb::SharedPages) => "openat+read+close",
        Action::Whole(WholeVerb::Commit { .. }) => "diff",
        Action::Whole(WholeVerb::Container(_)) => "stage of a container",
        Action::FirstWrite { trigger, .. } => match trigger {
            Trigger::Write => "openat+pwrite64+close",
            Trigger::Chmod => "fchmodat",
            Trigger::Chown => "fchownat",
            Trigger::Truncate => "openat+ftruncate+close",
            Trigger::Link => "linkat",
            Trigger::Rename => "renameat2",
            Trigger::Setxattr => "setxattr",
        },
    }
}

/// System calls that each operation of an action makes exactly once; what
/// eBPF counts of them must equal the operations issued.
pub fn exact_syscalls(action: &Action) -> &'static [&'static str] {
    match action {
        Action::Lookup { .. } | Action::LookupMissing => &["statx"],
        Action::Delete { .. } => &["unlinkat"],
        Action::Readdir | Action::Walk => &["openat", "close"],
        Action::Fsync { .. } => &["openat", "pwrite64", "fsync", "close"],
        Action::Read { .. } => &["openat", "close"],
        Action::Recursive { trigger: Trigger::Chmod } => &["fchmodat"],
        Action::Recursive { .. } => &["fchownat"],
        Action::RenameDirectory { copies: false } => &["renameat2"],
        Action::RenameDirectory { copies: true } | Action::Replay { .. } | Action::Whole(_) => &[],
        Action::FirstWrite { trigger, .. } => match trigger {
            Trigger::Write => &["openat", "pwrite64", "close"],
            Trigger::Chmod => &["fchmodat"],
            Trigger::Chown => &["fchownat"],
            Trigger::Truncate => &["openat", "ftruncate", "close"],
            Trigger::Link => &["linkat"],
            Trigger::Rename => &["renameat2"],
            Trigger::Setxattr => &["setxattr"],
        },
    }
}

/// Operations inside a union that the phase is sure to make it do, whatever the
/// union. A probe of one that saw none is broken.
pub fn sure_operations(
    phase: &PhasePlan,
    prepared: &Prepared,
    stack: &StackPlan,
) -> Vec<&'static str> {
    // What happens on a volume goes past the union.
    if phase.volume.is_some() {
        return Vec::new();
    }
    let cold = phase.cache == Cache::Cold;
    match &phase.action {
        Action::Lookup { .. } | Action::LookupMissing if cold => vec!["lookup", "layer_lookup"],
        Action::FirstWrite { trigger: Trigger::Write, .. }
            if prepared.sizes.iter().any(|size| *size > 0) =>
        {
            vec!["copy_up", "copy_up_data"]
        }
        Action::FirstWrite { .. } => vec!["copy_up"],
        Action::Delete { .. } => vec!["whiteout"],
        // A directory of one layer alone is read as it is.
        Action::Readdir if cold && stack.shared_dirs && stack.n_layers > 1 => {
            vec!["readdir_merge"]
        }
        _ => Vec::new(),
    }
}

/// The phase leaves the tree other than it found it.
pub fn mutates(action: &Action) -> bool {
    matches!(
        action,
        Action::FirstWrite { .. }
            | Action::Delete { .. }
            | Action::Fsync { .. }
            | Action::Recursive { .. }
            | Action::RenameDirectory { .. }
            | Action::Replay { .. }
    )
}

/// Result of one operation: bytes moved.
type OpResult = Result<u64, Errno>;
