//! Where a run took place.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The program that wrote the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Program {
    pub version: String,
    /// Commit it was built from, with `-dirty` behind it if the tree was
    /// changed; absent outside a checkout.
    pub commit: Option<String>,
    /// SHA-256 of the running executable, in hex.
    pub sha256: String,
    /// SHA-256 of the eBPF object inside it; absent if built without probes.
    pub ebpf_sha256: Option<String>,
}

/// The machine and its kernel, as `/proc` and `uname` tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Host {
    pub hostname: String,
    pub kernel_release: String,
    pub kernel_version: String,
    pub architecture: String,
    pub distribution: Option<String>,
    pub cpu_model: String,
    pub n_cpus: u32,
    pub memory_bytes: u64,
    /// Effective user id outside any user namespace of the run.
    pub uid: u32,
    /// The run took place in a user namespace of its own, as an ordinary user.
    pub user_namespace: bool,
    pub btf: bool,
    /// How caches were made cold: `drop_caches` with a fresh mount, or
    /// `remount` alone where dropping is refused.
    pub cold_method: String,
    /// Load average over one minute at the start.
    pub load_1min: f64,
}

/// The virtual machine of the lab. Figures of two records are comparable only
/// if mode, QEMU, machine, processor, accelerator, memory and command line are
/// equal; where kernel or program differ, the difference is theirs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lab {
    /// `count` or `plain`.
    pub mode: String,
    pub qemu_version: String,
    pub machine: String,
    pub cpu_model: String,
    /// `tcg` or `kvm`.
    pub accelerator: String,
    pub n_cpus: u32,
    pub memory_bytes: u64,
    pub kernel_release: String,
    pub kernel_sha256: String,
    /// Package name and version, if the kernel came from one.
    pub kernel_package: Option<String>,
    pub initramfs_sha256: String,
    pub binary_sha256: String,
    pub kernel_command_line: String,
    /// Wall time on the host from the start of QEMU to its end.
    pub wall_ms: u64,
}

/// The file system under the layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backing {
    /// `tmpfs`, `ext4`, `xfs`, `btrfs`, or `dir` for the scratch folder's own.
    pub kind: String,
    /// File system type as `statfs` names it.
    pub file_system: String,
    /// Mount options in force, from `/proc/self/mountinfo`.
    pub options: String,
    pub size_bytes: u64,
}
