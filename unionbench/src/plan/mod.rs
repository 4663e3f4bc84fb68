//! From a scenario to setups, cells and the order of measuring. No I/O.
//!
//! Everything here is concrete: every list of the scenario has been expanded,
//! every default filled in. `stack`, `backend`, `workload` and `run` read
//! these types and never the scenario.

mod expand;
mod order;
mod verbs;
mod words;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::record::Params;
pub use crate::scenario::Replayed;
use crate::unit::Bytes;

pub use expand::{Choices, PlanError, expand};
pub use order::Order;

/// The control that ratios are taken against.
pub const CONTROL_KIND: &str = "bare";

/// What a run will do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    pub seed: u64,
    /// Rounds without probes; as many with probes follow if they are asked for.
    pub rounds: u32,
    pub probes: bool,
    pub stacks: Vec<StackPlan>,
    /// In plan order; `Setup` refers to it by index.
    pub backends: Vec<BackendPlan>,
    pub setups: Vec<Setup>,
    /// Visits of setups in the order of measuring: backends of one stack and
    /// backing are interleaved, there and back again (ABBA).
    pub steps: Vec<StepPlan>,
}

/// One concrete set of layers on one backing file system.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StackPlan {
    pub params: Params,
    /// The layers come from an image; what follows about their number and their
    /// files then does not count.
    pub image: Option<ImagePlan>,
    /// Lower layers, at least 1. Index 0 is the topmost. 0 with an image.
    pub n_layers: u32,
    pub files_per_layer: u32,
    /// Directories at the top of each layer over which its files are spread.
    pub dirs: u32,
    /// Directories inside one another under each of `dirs`.
    pub depth: u32,
    pub size: SizePlan,
    /// Whiteouts that each layer but the bottom one holds, each hiding a file
    /// of the layer below it.
    pub whiteouts_per_layer: u32,
    /// Opaque directories that each layer but the bottom one holds.
    pub opaque_dirs_per_layer: u32,
    /// Every layer holds files in the same directories, so that merged
    /// directories span all layers; otherwise each layer has its own.
    pub shared_dirs: bool,
    /// The files are sealed by fs-verity.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub verity: bool,
    /// Further files in given layers, such as one large file.
    pub groups: Vec<GroupPlan>,
    /// Further objects one by one.
    pub files: Vec<ListedPlan>,
    pub seed: u64,
    pub backing: BackingPlan,
}

/// Layers that others made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImagePlan {
    /// `oci:…`, `docker-archive:…` or `dir:…`.
    pub reference: String,
    /// `os/architecture`; that of this machine if absent.
    pub platform: Option<String>,
    /// The merged view of all layers as the only one.
    pub squash: bool,
}

/// Distribution of file sizes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub enum SizePlan {
    Fixed(Bytes),
    Uniform {
        min: Bytes,
        max: Bytes,
    },
    /// Log-normal with the given median, cut at `max`.
    LogNormal {
        median: Bytes,
        sigma: f64,
        max: Bytes,
    },
}

/// Files that a scenario names.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupPlan {
    pub name: String,
    /// Lower layer that holds them.
    pub layer: LayerChoice,
    pub count: u32,
    pub size: Bytes,
    /// Only the last byte is written; the rest is a hole.
    pub sparse: bool,
}

/// One object of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedPlan {
    /// From the root of the merged tree.
    pub path: String,
    pub layer: u32,
    pub kind: ListedKind,
}

/// What a listed object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ListedKind {
    File { size: Bytes },
    Directory,
    Symlink,
}

/// One operation of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplayPlan {
    pub by: Replayed,
    pub on: String,
}

/// Which lower layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum LayerChoice {
    Top,
    Bottom,
    /// 0 is the topmost.
    Index(u32),
    /// Drawn uniformly for each operation.
    Any,
}

impl LayerChoice {
    /// The layer's index in a stack of `n_layers`; `None` for [`Self::Any`].
    pub fn resolve(self, n_layers: u32) -> Option<u32> {
        match self {
            Self::Top => Some(0),
            Self::Bottom => Some(n_layers.saturating_sub(1)),
            Self::Index(i) => Some(i),
            Self::Any => None,
        }
    }
}

/// The file system under the layers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackingPlan {
    pub kind: BackingKind,
    pub size: Bytes,
    pub mount_options: Vec<String>,
    /// Further words for its mkfs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mkfs: String,
}

/// Kinds of backing file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BackingKind {
    Tmpfs,
    Ext4,
    Xfs,
    Btrfs,
    /// A folder of the scratch folder's own file system.
    Dir,
}

impl BackingKind {
    /// The name used in scenarios and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Dir => "dir",
        }
    }
}

/// One backend with concrete options.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackendPlan {
    /// Unique in the plan: the scenario's name for it, with the values of its
    /// own matrix behind it (`overlayfs metacopy=on`).
    pub name: String,
    /// `bare`, `overlayfs`, `aufs`, `bundled`, `fuse-overlayfs`, `command`, …
    pub kind: String,
    /// Options in the order given; flags have an empty value.
    pub options: Vec<(String, String)>,
    /// Keys that only some kinds read, such as `command` of kind `command`.
    pub extra: BTreeMap<String, String>,
}

/// A stack mounted through a backend, and what is done to it there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setup {
    /// Index into `Plan::stacks`.
    pub stack: usize,
    /// Index into `Plan::backends`.
    pub backend: usize,
    /// In order; each is a cell, and a later phase sees what an earlier one
    /// left.
    pub phases: Vec<PhasePlan>,
}

/// One phase of a setup: a cell of the record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhasePlan {
    /// Unique in the record: backend, parameters, phase.
    pub cell_id: String,
    pub name: String,
    /// Coordinates of stack and phase (not those of the backend).
    pub params: Params,
    pub action: Action,
    /// The group's files lie outside the union.
    pub volume: Option<Volume>,
    /// Operations, all threads together.
    pub amount: Amount,
    pub threads: u32,
    pub cache: Cache,
    pub keys: Keys,
}

/// What one operation is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Action {
    /// `statx` of a name that is there. `layer` is where the file lies.
    Lookup { layer: LayerChoice },
    /// `statx` of a name that is in no layer.
    LookupMissing,
    /// The first write to files of a group, or of a layer.
    FirstWrite { trigger: Trigger, files: FileChoice },
    /// `unlink` of files that lie in a lower layer.
    Delete { layer: LayerChoice },
    /// Reads the whole of each merged directory: `open`, `getdents64` to its
    /// end, `close` is one operation.
    Readdir,
    /// The same and a `statx` of each entry.
    Walk,
    /// `chown` or `chmod` of every object of the merged tree, parents first.
    Recursive { trigger: Trigger },
    /// `rename` of each directory that has no directory above it but the root;
    /// as `mv` does it, with a copy where the union answers EXDEV.
    RenameDirectory { copies: bool },
    /// Writes a page into files, with `fsync`.
    Fsync { files: FileChoice },
    /// Reads files from their beginning to their end.
    Read { files: FileChoice },
    /// Operations one by one, in order.
    Replay {
        operations: Vec<ReplayPlan>,
        /// Objects that are copied up before.
        up: Vec<String>,
    },
    /// What mounts unions, or looks below the mounted one.
    Whole(WholeVerb),
}

/// A verb whose operation is about a union as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WholeVerb {
    MountStorm,
    UnmountDirty,
    IdmapStart {
        /// Mounts whose ids are mapped, instead of a `chown` of everything.
        mapped: bool,
    },
    SharedPages,
    Commit {
        /// From the upper layer alone, instead of comparing two trees.
        native: bool,
    },
    Container(Stage),
}

/// Part of a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Makes the init layer and the writable one, and mounts.
    Start,
    /// Reads what an image's start reads and writes what it writes.
    Run,
    /// Makes a layer of the writable one; the init layer is left out.
    Commit,
    /// Unmounts and deletes.
    Remove,
}

/// Where the files of a group lie while a phase uses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Volume {
    Bind,
    BindReadOnly,
    BindFile,
    Managed,
    Shared,
    DataPacked,
}

impl Volume {
    /// The name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::BindReadOnly => "bind-read-only",
            Self::BindFile => "bind-file",
            Self::Managed => "managed",
            Self::Shared => "shared",
            Self::DataPacked => "data-packed",
        }
    }
}

/// Which files a first write takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum FileChoice {
    Group(String),
    Layer(LayerChoice),
}

/// What makes a union copy a file up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// open for writing, write one byte at offset 0, close.
    Write,
    Chmod,
    Chown,
    /// `truncate` to half the size.
    Truncate,
    /// `link` to a second name.
    Link,
    Rename,
    /// `setxattr` of `user.unionbench`.
    Setxattr,
}

/// When a phase ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Amount {
    Count(u64),
    /// Every name there is, of an image that is not unpacked yet.
    All,
    DurationMs(u64),
}

/// State of the union's caches before the phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cache {
    /// Nothing of the tree has been looked up since the mount and the last
    /// dropping of caches; each name is used once.
    Cold,
    /// Every name was used once before the timed part.
    Warm,
}

/// How names are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub enum Keys {
    /// Each name in turn, in a seeded order without repetition.
    Permutation,
    Uniform,
    /// Zipf's law with this exponent over a seeded order.
    Zipf(f64),
}

/// One visit of a setup: mount, run its phases, unmount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StepPlan {
    /// Index into `Plan::setups`.
    pub setup: usize,
    pub round: u32,
    pub probes: bool,
}
