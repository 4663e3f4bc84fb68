//! What is mounted: one file per file system. A backend knows how to check
//! that it can work here, and how to mount a set of layers; it knows nothing
//! of phases and figures.

mod bare;
pub mod overlayfs;

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::plan::BackendPlan;
use crate::record::Availability;
use crate::sys::mount::{MountFailure, Mounted};

/// The control that ratios are taken against.
pub const CONTROL_KIND: &str = "bare";

/// What a backend is asked to mount. All paths are absolute.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub plan: &'a BackendPlan,
    /// Topmost first, at least one.
    pub lower: &'a [PathBuf],
    /// The merged tree as one plain directory; only the control has it.
    pub flat: Option<&'a Path>,
    pub upper: &'a Path,
    pub work: &'a Path,
    /// An empty directory to mount at.
    pub target: &'a Path,
    /// The run is in a user namespace of its own.
    pub user_namespace: bool,
}

/// A mounted union; dropping it unmounts.
#[derive(Debug)]
pub struct Union {
    /// Root of the merged tree.
    pub root: PathBuf,
    /// Options as the kernel shows them, layers left out.
    pub options_in_force: Vec<String>,
    /// `fsconfig` or `mount`; absent where nothing is mounted.
    pub mount_api: Option<&'static str>,
    mounted: Option<Mounted>,
}

impl Union {
    /// Unmounts now, so that an error is seen.
    ///
    /// # Errors
    /// The mount is busy; it is then detached.
    pub fn unmount(self) -> Result<(), BackendError> {
        let Some(mounted) = self.mounted else { return Ok(()) };
        let target = mounted.target().to_owned();
        mounted.unmount().map_err(|source| BackendError::Unmount { target, source })
    }
}

/// A file system that can show layers as one tree.
pub trait Backend {
    /// Whether it can work on this machine, found without mounting.
    fn availability(&self) -> Availability;

    /// Options that will be given: those of the plan and those added here.
    fn options(&self, plan: &BackendPlan, user_namespace: bool) -> Vec<String>;

    /// Mounts.
    ///
    /// # Errors
    /// The kernel's or the daemon's refusal.
    fn mount(&self, request: &Request<'_>) -> Result<Union, BackendError>;
}

/// Every kind that a scenario may name.
pub const KINDS: [&str; 2] = ["bare", "overlayfs"];

/// The backend of that kind; `None` if there is none.
pub fn of_kind(kind: &str) -> Option<Box<dyn Backend + Send + Sync>> {
    match kind {
        "bare" => Some(Box::new(bare::Bare)),
        "overlayfs" => Some(Box::new(overlayfs::Overlayfs)),
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
}
