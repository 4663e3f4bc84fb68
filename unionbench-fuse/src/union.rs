//! The union itself: its layers, its nodes, and the bits every verb uses.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};
use rustix::fs::{AtFlags, Mode, XattrFlags};
use rustix::io::Errno;

use crate::counters::Counters;
use crate::layer::{At, Layer};
use crate::node::{Node, Place, ROOT, State, Table};
use crate::options::{MountOptions, OptionsError};

/// Why a union could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The options contradict each other.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// A layer cannot be opened.
    #[error("cannot open layer {path:?}: name a directory this user may read")]
    Layer {
        /// The layer.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The work folder cannot be prepared.
    #[error(
        "cannot prepare work folder {path:?}: it must be a writable directory of this mount alone"
    )]
    Work {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// Objects cannot be renamed from work to upper.
    #[error(
        "cannot use workdir {work:?} with upperdir {upper:?}: put both on the same file system"
    )]
    OtherFileSystem {
        /// The work folder.
        work: PathBuf,
        /// The upper layer.
        upper: PathBuf,
    },
    /// One of two folders contains the other.
    #[error("cannot use {inner:?} inside {outer:?}: upper, work and lower layers must lie apart")]
    Overlap {
        /// The contained folder.
        inner: PathBuf,
        /// The containing folder.
        outer: PathBuf,
    },
    /// More layers than can be numbered.
    #[error("cannot stack {0} lower layers: use at most 65000")]
    TooMany(usize),
    /// The FUSE session failed.
    #[error(
        "cannot mount the union at {path:?}: the mount point must be a directory, and /dev/fuse be allowed"
    )]
    Session {
        /// The mount point.
        path: PathBuf,
        /// What the transport said.
        #[source]
        source: std::io::Error,
    },
}

/// A union of layers, ready to serve requests.
#[derive(Debug)]
pub struct Union {
    /// The upper layer first if there is one, then the lower ones.
    pub(crate) layers: Vec<Layer>,
    pub(crate) has_upper: bool,
    pub(crate) writable: bool,
    work: Option<OwnedFd>,
    prefix: &'static str,
    pub(crate) volatile: bool,
    pub(crate) metacopy: bool,
    pub(crate) nodes: Table,
    /// Shared by every operation, exclusive for the rename of a directory.
    pub(crate) tree: RwLock<()>,
    /// Devices in the order seen; a device's place goes into the top bits of
    /// its inode numbers, so that numbers of two file systems never meet.
    devices: RwLock<Vec<u64>>,
    twins: AtomicU64,
    pub(crate) whiteout_ready: AtomicBool,
    pub(crate) counters: Arc<Counters>,
}

impl Union {
    /// Opens the layers and cleans the work folder of an earlier mount's
    /// leavings.
    pub fn open(options: &MountOptions) -> Result<Self, MountError> {
        options.check()?;
        if options.lower.len() > 65000 {
            return Err(MountError::TooMany(options.lower.len()));
        }
        let mut layers = Vec::new();
        for path in options.upper.iter().chain(&options.lower) {
            let opened = Layer::open(path);
            layers.push(opened.map_err(|source| MountError::Layer { path: path.clone(), source })?);
        }
        let work = match (&options.upper, &options.work) {
            (Some(upper), Some(work)) => {
                check_apart(upper, work, &options.lower)?;
                Some(prepare_work(upper, work, options)?)
            }
            _ => None,
        };
        let has_upper = options.upper.is_some();
        let first_lower = usize::from(has_upper);
        let empty: Arc<Path> = Arc::from(Path::new(""));
        let lowers = (first_lower..layers.len())
            .map(|layer| Place { layer: layer as u16, path: empty.clone() })
            .collect();
        let (nodes, _root) = Table::new(State { upper: has_upper, lowers, ..State::default() });
        let union = Self {
            layers,
            has_upper,
            writable: has_upper && !options.read_only,
            work,
            prefix: if options.userxattr { "user.overlay." } else { "trusted.overlay." },
            volatile: options.volatile,
            metacopy: options.metacopy,
            nodes,
            tree: RwLock::new(()),
            devices: RwLock::new(Vec::new()),
            twins: AtomicU64::new(0),
            whiteout_ready: AtomicBool::new(false),
            counters: Arc::new(Counters::default()),
        };
        // The bottom layer's device is numbered first, so that lower objects
        // keep their own numbers in the usual case of one file system.
        if let Some(stat) = union.layers.last().and_then(|l| l.at(Path::new("")).stat().ok()) {
            union.number(stat.st_dev, stat.st_ino);
        }
        Ok(union)
    }

    /// What the union has counted so far.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    pub(crate) fn node(&self, ino: u64) -> Result<Arc<Node>, Errno> {
        self.nodes.get(ino).ok_or(Errno::STALE)
    }

    pub(crate) fn shared(&self) -> RwLockReadGuard<'_, ()> {
        self.tree.read()
    }

    pub(crate) fn check_writable(&self) -> Result<(), Errno> {
        if self.writable { Ok(()) } else { Err(Errno::ROFS) }
    }

    /// The union's number for an object of a layer.
    pub(crate) fn number(&self, device: u64, ino: u64) -> u64 {
        let known = self.devices.read().iter().position(|d| *d == device);
        let place = known.unwrap_or_else(|| {
            let mut devices = self.devices.write();
            devices.iter().position(|d| *d == device).unwrap_or_else(|| {
                devices.push(device);
                devices.len() - 1
            })
        });
        let ino = ino ^ ((place as u64) << 56);
        // Number 1 is the root's in the protocol; a layer object that has it
        // (a mount inside a layer) moves out of the way.
        if ino == ROOT { 1 << 55 | ROOT } else { ino }
    }

    /// The name of an overlay mark in this mount's namespace.
    pub(crate) fn mark(&self, name: &str) -> OsString {
        OsString::from(format!("{}{name}", self.prefix))
    }

    /// True for attributes that are the union's own bookkeeping.
    pub(crate) fn is_mark(&self, name: &OsStr) -> bool {
        name.as_encoded_bytes().starts_with(self.prefix.as_bytes())
    }

    pub(crate) fn place<'a>(&'a self, place: &'a Place) -> At<'a> {
        self.layers[usize::from(place.layer)].at(&place.path)
    }

    pub(crate) fn upper<'a>(&'a self, path: &'a Path) -> At<'a> {
        self.layers[0].at(path)
    }

    pub(crate) fn in_work<'a>(&'a self, name: &'a Path) -> Result<At<'a>, Errno> {
        use std::os::fd::AsFd;
        let work = self.work.as_ref().ok_or(Errno::ROFS)?;
        Ok(At { dir: work.as_fd(), path: name })
    }

    /// A name no object of the work folder has.
    pub(crate) fn twin_name(&self) -> PathBuf {
        PathBuf::from(format!("#{:x}", self.twins.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn set_mark(&self, at: &At<'_>, name: &str, value: &[u8]) -> Result<(), Errno> {
        at.set_xattr(&self.mark(name), value, XattrFlags::empty())
    }
}

fn check_apart(upper: &Path, work: &Path, lowers: &[PathBuf]) -> Result<(), MountError> {
    let full = |p: &Path| std::fs::canonicalize(p).unwrap_or_else(|_| p.to_owned());
    let apart = |a: &Path, b: &Path| {
        let (full_a, full_b) = (full(a), full(b));
        if full_a.starts_with(&full_b) || full_b.starts_with(&full_a) {
            let a_inside = full_a.starts_with(&full_b);
            let (inner, outer) = if a_inside { (a, b) } else { (b, a) };
            return Err(MountError::Overlap { inner: inner.into(), outer: outer.into() });
        }
        Ok(())
    };
    apart(upper, work)?;
    lowers.iter().try_for_each(|lower| apart(upper, lower).and_then(|()| apart(work, lower)))
}

/// Makes `<work>/work`, the folder the kernel uses too, and empties it.
fn prepare_work(upper: &Path, work: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let failed = |source| MountError::Work { path: work.to_owned(), source };
    let io = |e: std::io::Error| failed(Errno::from_io_error(&e).unwrap_or(Errno::IO));
    std::fs::create_dir_all(work).map_err(io)?;
    let device = |p: &Path| rustix::fs::stat(p).map(|s| s.st_dev).map_err(failed);
    if device(upper)? != device(work)? {
        return Err(MountError::OtherFileSystem { work: work.into(), upper: upper.into() });
    }
    let inner = work.join("work");
    if !options.read_only {
        if inner.exists() {
            std::fs::remove_dir_all(&inner).map_err(io)?;
        }
        std::fs::create_dir(&inner).map_err(io)?;
    }
    Layer::open(if inner.exists() { &inner } else { work })
        .and_then(|layer| layer.root().try_clone_to_owned().map_err(|_| Errno::MFILE))
        .map_err(failed)
}

/// Removes a name of the work folder, whatever it is; a directory in it holds
/// only whiteouts.
pub(crate) fn clear_twin(at: &At<'_>) -> Result<(), Errno> {
    match rustix::fs::unlinkat(at.dir, at.path, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return other,
    }
    let dir = at.open(rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY)?;
    for entry in rustix::fs::Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            rustix::fs::unlinkat(&dir, name, AtFlags::empty())?;
        }
    }
    rustix::fs::unlinkat(at.dir, at.path, AtFlags::REMOVEDIR)
}

/// The mode bits a system call takes.
pub(crate) fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits & 0o7777)
}
