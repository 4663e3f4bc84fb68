//! What is mounted: one file per file system. A backend knows how to check
//! that it can work here, and how to mount a set of layers; it knows nothing
//! of phases and figures.

mod aufs;
mod bare;
mod bundled;
mod call;
mod command;
mod daemon;
mod fuse;
mod fuse_overlayfs;
pub mod keeper;
mod mergerfs;
pub mod overlayfs;
mod unionfs_fuse;

use std::path::{Path, PathBuf};

use std::time::Duration;

use thiserror::Error;

pub use call::Call;
pub use daemon::Usage;

use crate::plan::{Action, BackendPlan, StackPlan};
use crate::record::Availability;
use crate::stack::Whiteout;
use crate::sys::mount::{MountFailure, Mounted};
use daemon::Daemon;

/// The source of every mount, as `/proc/self/mountinfo` shows it.
const SOURCE: &str = "unionbench";

pub use crate::plan::CONTROL_KIND;

/// What a backend is asked to mount. All paths are absolute.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub plan: &'a BackendPlan,
    /// Topmost first, at least one.
    pub lower: &'a [PathBuf],
    /// Indices of lower layers that are mounted for writing too. Only unions
    /// with several writable branches read it.
    pub writable_lower: &'a [usize],
    /// So many of the lower layers, the last ones, hold data only. Only unions
    /// with overlayfs' options read it.
    pub n_data_only: usize,
    /// Lower layers hold whiteouts or opaque directories.
    pub hides: bool,
    /// The merged tree as one plain directory; only the control has it.
    pub flat: Option<&'a Path>,
    pub upper: &'a Path,
    pub work: &'a Path,
    /// An empty directory to mount at.
    pub target: &'a Path,
    /// The run is in a user namespace of its own.
    pub user_namespace: bool,
    /// This program's file, which also serves the bundled union.
    pub own_program: &'a Path,
}

impl<'a> Request<'a> {
    /// The lower layers that are merged, and those that hold data only.
    pub fn split_lower(&self) -> (&'a [PathBuf], &'a [PathBuf]) {
        self.lower.split_at(self.lower.len().saturating_sub(self.n_data_only))
    }

    /// The lower layer of that index takes writes.
    pub fn is_writable(&self, lower_idx: usize) -> bool {
        self.writable_lower.contains(&lower_idx)
    }
}

/// This program's file as every process of it sees itself.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// A mounted union; dropping it unmounts.
#[derive(Debug)]
pub struct Union {
    /// Root of the merged tree.
    pub root: PathBuf,
    /// Options as the kernel shows them, layers left out.
    pub options_in_force: Vec<String>,
    /// `fsconfig` or `mount`; absent where nothing is mounted.
    pub mount_api: Option<&'static str>,
    // In the order of undoing: the mount goes before the daemon.
    mounted: Option<Mounted>,
    daemon: Option<Daemon>,
}

impl Union {
    /// A union that the kernel serves by itself.
    fn of_kernel(mounted: Mounted, options_in_force: Vec<String>, mount_api: &'static str) -> Self {
        Self {
            root: mounted.target().to_owned(),
            options_in_force,
            mount_api: Some(mount_api),
            mounted: Some(mounted),
            daemon: None,
        }
    }

    /// What the daemon behind it cost so far; none where the kernel serves it
    /// or the daemon has ended.
    pub fn usage(&self) -> Option<Usage> {
        self.daemon.as_ref().and_then(Daemon::usage)
    }

    /// The process behind it: the daemon, or the keeper of a command.
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// How the daemon behind it ended, if it has. `suspected` gives one that
    /// is about to end a moment to do so.
    pub fn ended(&mut self, suspected: bool) -> Option<BackendError> {
        let limit = if suspected { Duration::from_secs(5) } else { Duration::ZERO };
        self.daemon.as_mut()?.end_within(limit)
    }

    /// Unmounts now, so that an error is seen.
    ///
    /// # Errors
    /// The mount is busy; it is then detached.
    pub fn unmount(self) -> Result<(), BackendError> {
        let Some(mounted) = self.mounted else { return Ok(()) };
        let target = mounted.target().to_owned();
        mounted.unmount().map_err(|source| BackendError::Unmount { target, source })?;
        self.daemon.map_or(Ok(()), Daemon::finish)
    }
}

/// A file system that can show layers as one tree.
pub trait Backend {
    /// Whether it can work on this machine, found without mounting.
    fn availability(&self) -> Availability;

    /// The same for one entry of a plan, where that makes a difference.
    fn availability_of(&self, _: &BackendPlan) -> Availability {
        self.availability()
    }

    /// Whether it can do this to such a stack at all.
    fn supports(&self, _: &StackPlan, _: &Action) -> Availability {
        Availability::Ok
    }

    /// Name and version of the program that serves it, as that says itself.
    fn program(&self) -> Option<String> {
        None
    }

    /// The whiteouts that it reads in lower layers and writes in upper ones.
    fn whiteouts(&self, _: &BackendPlan) -> Whiteout {
        Whiteout::CharDev
    }

    /// Options that will be given: those of the plan and those added here.
    fn options(&self, plan: &BackendPlan, user_namespace: bool) -> Vec<String>;

    /// What [`Self::mount`] will call, in order.
    ///
    /// # Errors
    /// The layers cannot be written as options.
    fn calls(&self, request: &Request<'_>) -> Result<Vec<Call>, BackendError>;

    /// Mounts.
    ///
    /// # Errors
    /// The kernel's or the daemon's refusal.
    fn mount(&self, request: &Request<'_>) -> Result<Union, BackendError>;
}

/// Every kind that a scenario may name.
pub const KINDS: [&str; 8] = [
    "bare",
    "overlayfs",
    "aufs",
    "bundled",
    "fuse-overlayfs",
    "unionfs-fuse",
    "mergerfs",
    "command",
];

/// The backend of that kind; `None` if there is none.
pub fn of_kind(kind: &str) -> Option<Box<dyn Backend + Send + Sync>> {
    match kind {
        "bare" => Some(Box::new(bare::Bare)),
        "overlayfs" => Some(Box::new(overlayfs::Overlayfs)),
        "aufs" => Some(Box::new(aufs::Aufs)),
        "bundled" => Some(Box::new(bundled::Bundled)),
        "fuse-overlayfs" => Some(Box::new(fuse_overlayfs::FuseOverlayfs)),
        "unionfs-fuse" => Some(Box::new(unionfs_fuse::UnionfsFuse)),
        "mergerfs" => Some(Box::new(mergerfs::Mergerfs)),
        "command" => Some(Box::new(command::Command)),
        _ => None,
    }
}

/// Why a union could not be mounted or unmounted.
#[derive(Debug, Error)]
pub enum BackendError {
    #[error("cannot mount {kind} at {}: {hint}", target.display())]
    Mount { kind: String, target: PathBuf, hint: String, source: MountFailure },
    #[error("cannot show {kind}: the merged tree was not built for it")]
    NoFlatTree { kind: String },
    #[error("cannot unmount {}: close what is open below it", target.display())]
    Unmount { target: PathBuf, source: std::io::Error },
    #[error("cannot read the mounts in force from /proc/self/mountinfo: mount /proc")]
    InForce(#[source] std::io::Error),
    #[error("cannot mount {kind}: {limit}")]
    Limit { kind: String, limit: String },
    #[error("cannot name layer {} in mount options: use a folder without comma, colon and =", path.display())]
    LayerName { path: PathBuf },
    #[error(
        "{kind} was asked for {wanted}, but {found} are in force: see the kernel's log (dmesg)"
    )]
    NotInForce { kind: String, wanted: String, found: String },
    #[error("a mount needs at least one call")]
    NoCall,
    #[error("cannot start {program}: check that it is installed and may be run")]
    Start { program: String, source: std::io::Error },
    #[error("{program} mounted nothing within {seconds} s; it said: {said}")]
    NotMounted { program: String, seconds: u64, said: String },
    #[error("{program} ended {how}; it said: {said}")]
    Ended { program: String, how: String, said: String },
    #[error("what was mounted at {} does not answer: read what its program says", target.display())]
    Dead { target: PathBuf, source: std::io::Error },
    #[error("{program} did not end within {seconds} s of its unmounting and was killed")]
    Lingers { program: String, seconds: u64 },
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    pub(super) fn plan(kind: &str, options: &[(&str, &str)]) -> BackendPlan {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        BackendPlan {
            name: kind.to_owned(),
            kind: kind.to_owned(),
            options: options.iter().map(own).collect(),
            extra: BTreeMap::new(),
        }
    }

    pub(super) fn request<'a>(plan: &'a BackendPlan, lower: &'a [PathBuf]) -> Request<'a> {
        Request {
            plan,
            lower,
            writable_lower: &[],
            n_data_only: 0,
            hides: false,
            flat: None,
            upper: Path::new("/u"),
            work: Path::new("/w"),
            target: Path::new("/m"),
            user_namespace: false,
            own_program: Path::new("unionbench"),
        }
    }

    #[test]
    fn every_kind_has_a_backend() {
        for kind in KINDS {
            assert!(of_kind(kind).is_some(), "{kind}");
        }
        assert!(of_kind("unknown").is_none());
    }
}
