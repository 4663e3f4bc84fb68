//! The scenario file, key by key. `scenarios/README.md` says the same for
//! people and `scenarios/scenario.schema.json` for editors.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::replay::{Listed, Operation};
use super::value::{Files, Keys, Layer, Many, OptionValue, Size, Span};
use crate::unit::Bytes;

/// What to stack, what to mount it with, and what to do to it.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Names the results folder: lower-case letters, digits, `-`, `_`.
    pub name: String,
    /// One line for tables and plots.
    pub title: String,
    /// What it shows and where the pain was seen.
    #[serde(default)]
    pub description: String,
    /// Seed of every random choice.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Passes over each cell without probes, and as many with them.
    #[serde(default = "default_rounds")]
    pub rounds: u32,
    /// Measure with probes too.
    #[serde(default = "yes")]
    pub probes: bool,
    pub stack: Stack,
    #[serde(default)]
    pub backing: Backing,
    /// What the layers are mounted with, at least one.
    #[serde(default)]
    pub backend: Vec<Backend>,
    /// What is done, in order, at least one.
    #[serde(default)]
    pub phase: Vec<Phase>,
}

/// The lower layers.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// Lower layers, 1 to 500; those of the image if there is one.
    #[serde(default = "no_layers")]
    pub layers: Many<u32>,
    /// Takes the layers of an image: `oci:PATH[:NAME]`,
    /// `docker-archive:FILE[:NAME]` or `dir:PATH`.
    pub image: Option<Many<String>>,
    /// Which of an image's platforms, as in `linux/arm64`; this machine's if
    /// absent.
    pub platform: Option<String>,
    /// Mount what the image's layers show together as one layer.
    #[serde(default = "never")]
    pub squash: Many<bool>,
    /// Files in each layer.
    #[serde(default = "default_files")]
    pub files_per_layer: Many<u32>,
    /// Directories over which a layer's files are spread.
    #[serde(default = "one")]
    pub dirs: Many<u32>,
    /// Directories inside one another under each of `dirs`; files lie in the
    /// innermost.
    #[serde(default = "none")]
    pub depth: Many<u32>,
    /// All layers use the same directories.
    #[serde(default = "always")]
    pub shared_dirs: Many<bool>,
    /// Size of the files.
    #[serde(default = "default_size")]
    pub size: Size,
    /// Whiteouts in each layer but the bottom one, each hiding a file of the
    /// layer below.
    #[serde(default = "none")]
    pub whiteouts_per_layer: Many<u32>,
    /// Opaque directories in each layer but the bottom one.
    #[serde(default = "none")]
    pub opaque_dirs_per_layer: Many<u32>,
    /// Seals the files by fs-verity.
    #[serde(default = "never")]
    pub verity: Many<bool>,
    /// Further files with a name of their own.
    #[serde(default)]
    pub group: Vec<Group>,
    /// Further objects one by one, as a scenario made from a trace has them.
    #[serde(default)]
    pub file: Vec<Listed>,
}

/// Files that phases can name as `group:NAME`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub name: String,
    /// Layer that holds them; `any` deals them out to all layers in turn.
    #[serde(default = "bottom")]
    pub layer: Many<Layer>,
    /// Files in the group.
    #[serde(default = "one")]
    pub count: Many<u32>,
    /// Size of each.
    pub size: Many<Bytes>,
    /// Only the last byte is written; the rest is a hole.
    #[serde(default = "never")]
    pub sparse: Many<bool>,
}

/// The file system under the layers.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backing {
    /// `tmpfs`; `ext4`, `xfs`, `btrfs` on a loop image; `dir` for a folder of
    /// the scratch folder's own file system.
    #[serde(default = "tmpfs")]
    pub fs: Many<FileSystem>,
    /// Its size; not looked at for `dir`.
    #[serde(default = "default_backing_size")]
    pub size: Bytes,
    /// Mount options.
    #[serde(default)]
    pub options: Vec<String>,
    /// Options of its mkfs, as words: `"-m reflink=0"`.
    #[serde(default = "no_text")]
    pub mkfs: Many<String>,
}

impl Default for Backing {
    fn default() -> Self {
        Self { fs: tmpfs(), size: default_backing_size(), options: Vec::new(), mkfs: no_text() }
    }
}

/// Kinds of backing file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileSystem {
    Tmpfs,
    Ext4,
    Xfs,
    Btrfs,
    Dir,
}

/// What the layers are mounted with.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// Such as `bare` or `overlayfs`.
    pub kind: String,
    /// How it is called in tables; its kind if absent.
    pub name: Option<String>,
    /// Mount options.
    #[serde(default)]
    pub options: BTreeMap<String, Many<OptionValue>>,
    /// Settings that only its kind reads.
    #[serde(default)]
    pub extra: BTreeMap<String, String>,
}

impl Backend {
    /// The name in tables.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.kind)
    }
}

/// One thing done to the merged tree.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Unique in the scenario.
    pub name: String,
    pub workload: Workload,
    /// Layer in which the files lie: `lookup` and `delete`.
    pub layer: Option<Many<Layer>>,
    /// Look names up that are in no layer: `lookup`.
    pub missing: Option<bool>,
    /// What makes the union copy up: `first-write`; `chown` or `chmod` for
    /// `recursive`.
    pub trigger: Option<Many<Trigger>>,
    /// Which files are used: `first-write`, `fsync`, `read`.
    pub files: Option<Many<Files>>,
    /// Where the files of a group really lie: `first-write`, `fsync`, `read`.
    pub volume: Option<Many<Volume>>,
    /// How it is done: `commit` (`native`, `walk`), `idmap-start` (`chown`,
    /// `idmap`).
    pub method: Option<Many<Method>>,
    /// Which part of a container's life is timed: `container`.
    pub stage: Option<Many<Stage>>,
    /// Operations, all threads together; every file or directory there is, if
    /// neither this nor `duration` is given.
    pub count: Option<Many<u64>>,
    /// How long, instead of `count`.
    pub duration: Option<Many<Span>>,
    #[serde(default = "one")]
    pub threads: Many<u32>,
    /// State of the caches before the phase.
    #[serde(default = "cold")]
    pub cache: Many<Cache>,
    /// How names are drawn.
    #[serde(default = "permutation")]
    pub keys: Many<Keys>,
    /// What is done to the files of `stack.file`, in order: `replay`.
    #[serde(default)]
    pub operation: Vec<Operation>,
    /// Objects that lie in the upper layer before the first operation: `replay`.
    #[serde(default)]
    pub up: Vec<String>,
}

/// The verb of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    Lookup,
    FirstWrite,
    Delete,
    Readdir,
    /// `chown -R` or `chmod -R` over the merged tree.
    Recursive,
    /// `rename` of directories of lower layers, EXDEV counted.
    RenameDirectory,
    /// The same as `mv` does it: copy and delete after EXDEV.
    MoveTree,
    /// Write, `fsync`, close.
    Fsync,
    /// Read whole files.
    Read,
    /// `ls -l` of each directory: `ls -lR` all together.
    Walk,
    /// Mount unions over the same layers, up to 500 at once.
    MountStorm,
    /// Unmount a union whose upper layer is dirty.
    UnmountDirty,
    /// Mount, with ids shifted for a user namespace.
    IdmapStart,
    /// Read one lower file through many mounts.
    SharedPages,
    /// Turn the upper layer into a layer of an image.
    Commit,
    /// The life of a container on the layers.
    Container,
    /// Operations one by one, as in a trace.
    Replay,
}

impl Workload {
    /// Its name in scenario files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::FirstWrite => "first-write",
            Self::Delete => "delete",
            Self::Readdir => "readdir",
            Self::Recursive => "recursive",
            Self::RenameDirectory => "rename-directory",
            Self::MoveTree => "move-tree",
            Self::Fsync => "fsync",
            Self::Read => "read",
            Self::Walk => "walk",
            Self::MountStorm => "mount-storm",
            Self::UnmountDirty => "unmount-dirty",
            Self::IdmapStart => "idmap-start",
            Self::SharedPages => "shared-pages",
            Self::Commit => "commit",
            Self::Container => "container",
            Self::Replay => "replay",
        }
    }

    /// It changes the tree, so that it can be done once to a file.
    pub fn mutates(self) -> bool {
        matches!(
            self,
            Self::FirstWrite
                | Self::Delete
                | Self::Recursive
                | Self::RenameDirectory
                | Self::MoveTree
                | Self::Fsync
                | Self::Replay
        )
    }

    /// It mounts unions itself instead of using the one that is mounted.
    pub fn mounts(self) -> bool {
        matches!(
            self,
            Self::MountStorm
                | Self::UnmountDirty
                | Self::IdmapStart
                | Self::SharedPages
                | Self::Container
        )
    }

    /// It takes files by name: `files`.
    pub fn takes_files(self) -> bool {
        matches!(self, Self::FirstWrite | Self::Fsync | Self::Read)
    }
}

/// Where the files of a group lie while a phase uses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Volume {
    /// In the union.
    None,
    /// In a folder that is bind-mounted over theirs.
    Bind,
    /// The same, read-only: `read` alone.
    BindReadOnly,
    /// Each in a file that is bind-mounted over it.
    BindFile,
    /// In a folder that was filled from theirs on first use.
    Managed,
    /// In a folder that another container has mounted too.
    Shared,
    /// In a file system image of their own, mounted over theirs.
    DataPacked,
}

/// How a phase does what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    Native,
    Walk,
    Chown,
    Idmap,
}

/// Part of a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Start,
    Run,
    Commit,
    Remove,
}

/// What makes a union copy a file up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    Write,
    Chmod,
    Chown,
    Truncate,
    Link,
    Rename,
    Setxattr,
}

/// State of the caches before a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cache {
    Cold,
    Warm,
}

/// Stands for `layers` where a scenario does not give it: no number of layers.
pub(super) const NO_LAYERS: u32 = u32::MAX;

fn no_layers() -> Many<u32> {
    Many::one(NO_LAYERS)
}
fn default_seed() -> u64 {
    42
}
fn default_rounds() -> u32 {
    5
}
fn yes() -> bool {
    true
}
fn default_files() -> Many<u32> {
    Many::one(100)
}
fn default_size() -> Size {
    Size::Fixed(Many::one(Bytes(4 << 10)))
}
fn default_backing_size() -> Bytes {
    Bytes(1 << 30)
}
fn no_text() -> Many<String> {
    Many::one(String::new())
}
fn one() -> Many<u32> {
    Many::one(1)
}
fn none() -> Many<u32> {
    Many::one(0)
}
fn always() -> Many<bool> {
    Many::one(true)
}
fn never() -> Many<bool> {
    Many::one(false)
}
fn bottom() -> Many<Layer> {
    Many::one(Layer::Bottom)
}
fn tmpfs() -> Many<FileSystem> {
    Many::one(FileSystem::Tmpfs)
}
fn cold() -> Many<Cache> {
    Many::one(Cache::Cold)
}
fn permutation() -> Many<Keys> {
    Many::one(Keys::Permutation)
}
