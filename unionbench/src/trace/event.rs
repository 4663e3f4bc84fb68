//! What a trace consists of: one event for each observed operation, as a line
//! of JSON in a recording.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::unit::Nanos;

/// The version of a recording's format.
pub const FORMAT: u32 = 1;

/// A line of a recording. The first one is the header, the last one the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    Header(Header),
    Event(Box<Event>),
    End(End),
}

/// Where and how a recording was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub format: u32,
    pub program: String,
    pub kernel: String,
    /// When it began, nanoseconds since 1970.
    pub began_unix_ns: u64,
    /// What was traced.
    pub kinds: Vec<Kind>,
    /// The engine of each kind, or the reason why it was not seen.
    pub engines: BTreeMap<String, String>,
    /// The unions that were mounted when it began.
    pub mounts: Vec<Mount>,
}

/// A mounted union.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// `st_dev` of its files: what tells mounts apart.
    pub device: u64,
    /// Where it is mounted, in the namespace where it was found.
    pub path: String,
    /// `overlay`, `aufs` or the type of a FUSE union.
    pub file_system: String,
    /// Its lower layers, topmost first, as the mount names them.
    pub lower: Vec<String>,
    pub upper: Option<String>,
    pub options: Vec<String>,
}

/// How a trace ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub duration_ns: Nanos,
    pub n_events: u64,
    /// Events that happened and are not in the trace.
    pub n_lost: u64,
}

/// What is traced.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Kind {
    /// An object brought from a lower layer into the upper one.
    Copyup,
    /// A lookup of a name in a merged directory.
    Lookup,
    /// A whiteout made.
    Whiteout,
    /// A merged directory listing built.
    Readdir,
    /// A file or file system of a union synchronised.
    Fsync,
    /// A request to the daemon of a FUSE union.
    Requests,
}

impl Kind {
    /// The name on the command line and in recordings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Copyup => "copyup",
            Self::Lookup => "lookup",
            Self::Whiteout => "whiteout",
            Self::Readdir => "readdir",
            Self::Fsync => "fsync",
            Self::Requests => "requests",
        }
    }
}

/// What made an object be copied up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// Opened for writing, without `O_TRUNC`.
    OpenWrite,
    /// Opened with `O_TRUNC`.
    OpenTruncate,
    /// `truncate` by name.
    Truncate,
    Chmod,
    Chown,
    Utimes,
    Setxattr,
    Removexattr,
    Link,
    Rename,
    Unlink,
    /// An object made in a directory that was in a lower layer only: create,
    /// mkdir, mknod or symlink there.
    Create,
    Mkdir,
    /// A directory that leads to the object which was changed.
    Parent,
    Other,
}

/// How the bytes of a copy-up were moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopiedBy {
    Clone,
    CopyFileRange,
    Splice,
    /// Read and written by a daemon.
    ReadWrite,
    /// Attributes only (`metacopy`), or an object without data.
    Nothing,
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Object {
    File,
    Directory,
    Symlink,
    /// A device, a pipe or a socket.
    Special,
}

/// The container of a process, told from the path of its cgroup.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Container {
    /// `docker`, `containerd`, `podman`, `cri-o` or `kubernetes`.
    pub runtime: String,
    /// The whole id as the cgroup names it.
    pub id: String,
    /// The pod's id under kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

/// One observed operation. What could not be observed is absent, never zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub kind: Kind,
    /// When it began, nanoseconds since 1970.
    pub at_unix_ns: u64,
    pub latency_ns: Nanos,
    pub pid: u32,
    pub tid: u32,
    pub process: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// `st_dev` of the union, and where it is mounted.
    pub device: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
    pub file_system: String,
    /// The path from the root of the union, which itself is `/`. Bytes that are
    /// not UTF-8 are written as `\xNN`. A path of which only the end was kept
    /// begins with `...` in place of the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Object>,
    /// Size of the object in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// The lower layer that it came from; 0 is the topmost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_by: Option<CopiedBy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_fsyncs: Option<u32>,
    /// Of a copy-up's latency, what its data and its synchronising took; each
    /// absent where that phase could not be watched, 0 where it did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_ns: Option<Nanos>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fsync_ns: Option<Nanos>,
    /// For `requests`: the opcode's name, and the split of its latency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opcode: Option<String>,
    /// Negative if it failed.
    pub errno: i32,
}
