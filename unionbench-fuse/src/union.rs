//! The union itself: its layers, its nodes, and the bits every verb uses.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use crate::below::{Below, Place};
use crate::counters::Counters;
use crate::inode_index::InodeIndex;
use crate::layer::{At, Dir, Layer};
use crate::node::{Node, ROOT, State, Table};
use crate::options::{MountOptions, OptionsError};
use crate::tree::Tree;
use crate::work::{check_apart, may_trust, prepare};

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
    /// Another mount writes through that work folder.
    #[error(
        "cannot use workdir {0:?}: another mount uses it; unmount that first or name another folder"
    )]
    Busy(PathBuf),
    /// The kernel's overlayfs writes through that folder.
    #[error(
        "cannot use {path:?}: the overlayfs at {mount:?} uses it; unmount that first or name another folder"
    )]
    InUse {
        /// The upper or the work folder.
        path: PathBuf,
        /// Where the overlayfs is mounted.
        mount: PathBuf,
        /// As the kernel says it.
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
    /// Two folders are one, or one contains the other.
    #[error(
        "cannot use {inner:?} with {outer:?}, which is or contains it: name layers that lie apart"
    )]
    Overlap {
        /// The contained folder.
        inner: PathBuf,
        /// The containing folder.
        outer: PathBuf,
    },
    /// Hard links cannot be kept in an index.
    #[error("cannot mount with index=on: {path:?}: {why}; leave index=on out")]
    NoIndex {
        /// The layer.
        path: PathBuf,
        /// What is missing.
        why: &'static str,
    },
    /// The upper layer was written over another lower layer.
    #[error(
        "cannot use upperdir {upper:?} with index=on: it was written over another topmost lower layer than {lower:?}; name that one, or mount with index=off"
    )]
    OtherLower {
        /// The upper layer.
        upper: PathBuf,
        /// The topmost lower layer.
        lower: PathBuf,
        /// As the kernel says it.
        #[source]
        source: Errno,
    },
    /// The index is of another upper layer.
    #[error(
        "cannot use index {index:?} with upperdir {upper:?}: it was made for another upper layer; name its own workdir, remove the index, or mount with index=off"
    )]
    OtherUpper {
        /// The index.
        index: PathBuf,
        /// The upper layer.
        upper: PathBuf,
        /// As the kernel says it.
        #[source]
        source: Errno,
    },
    /// The index, or an entry of it, is damaged or of a later version.
    #[error("cannot use index {path:?}: remove it if it is damaged, or mount with index=off")]
    Index {
        /// The index or its entry.
        path: PathBuf,
        /// As the kernel says it.
        #[source]
        source: Errno,
    },
    /// The marks of an entry of the index lie under the other prefix.
    #[error(
        "cannot use index entry {path:?}: it was written {written}; mount {written}, or with index=off"
    )]
    OtherMarks {
        /// The entry.
        path: PathBuf,
        /// By which mount.
        written: &'static str,
        /// As the kernel says it.
        #[source]
        source: Errno,
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

/// Where numbers begin that are given out for want of a real one: the devices'
/// places in the top bits do not reach so far.
const SPARE: u64 = 0xff << 56;

/// A union of layers, ready to serve requests.
#[derive(Debug)]
pub struct Union {
    /// The upper layer first if there is one, then the lower ones, then those
    /// that only hold data of metacopies.
    pub(crate) layers: Vec<Layer>,
    /// How many of the layers are merged; the rest only holds data.
    pub(crate) n_merged: u16,
    pub(crate) has_upper: bool,
    pub(crate) writable: bool,
    work: Option<OwnedFd>,
    pub(crate) userxattr: bool,
    pub(crate) privileged: bool,
    pub(crate) volatile: bool,
    pub(crate) metacopy: bool,
    pub(crate) no_redirects: bool,
    pub(crate) follow_none: bool,
    pub(crate) test_probes: Option<u32>,
    /// None unless mounted with `index=on`.
    pub(crate) inode_index: Option<InodeIndex>,
    pub(crate) nodes: Table,
    pub(crate) tree: Tree,
    /// Devices in the order seen; a device's place goes into the top bits of
    /// its inode numbers, so that numbers of two file systems never meet.
    devices: RwLock<Vec<u64>>,
    /// The first of them, 0 before it is known: that of nearly every object.
    first_device: AtomicU64,
    twins: AtomicU64,
    pub(crate) whiteout_ready: AtomicBool,
    pub(crate) without_opens: AtomicBool,
    pub(crate) counters: Arc<Counters>,
    /// The kernel's number of the mount's device, once it is known: what an
    /// observer knows the mount by.
    pub(crate) device: Arc<AtomicU64>,
}

impl Union {
    /// Opens the layers and cleans the work folder of an earlier mount's
    /// leavings.
    pub fn open(options: &MountOptions) -> Result<Self, MountError> {
        options.check()?;
        if options.lower.len() + options.data_only.len() > 65000 {
            return Err(MountError::TooMany(options.lower.len() + options.data_only.len()));
        }
        check_apart(options)?;
        let upper = options.upper.iter().map(|path| (path, false));
        let lower = options.lower.iter().chain(&options.data_only).map(|path| (path, true));
        let all: Vec<_> = upper.chain(lower).collect();
        let mut layers = Vec::with_capacity(all.len());
        for &(path, lower) in &all {
            let opened = Layer::open(path, lower, all.len());
            layers.push(opened.map_err(|source| MountError::Layer { path: path.clone(), source })?);
        }
        let privileged = rustix::process::geteuid().is_root();
        let mut userxattr = options.userxattr || !privileged;
        let work = match (&options.upper, &options.work) {
            (Some(upper), Some(work)) => {
                let folder = prepare(upper, work, options)?;
                userxattr |= !options.read_only && !may_trust(&folder);
                Some(folder)
            }
            _ => None,
        };
        let has_upper = options.upper.is_some();
        let n_merged = layers.len() - options.data_only.len();
        let empty: Arc<Path> = Arc::from(Path::new(""));
        let lowers = (usize::from(has_upper)..n_merged)
            .map(|layer| Place { layer: layer as u16, path: empty.clone() })
            .collect();
        let root = State { upper: has_upper, below: Below::of(lowers), ..State::default() };
        let (nodes, _root) = Table::new(root);
        let mut union = Self {
            layers,
            n_merged: n_merged as u16,
            has_upper,
            writable: has_upper && !options.read_only,
            work,
            userxattr,
            privileged,
            volatile: options.volatile,
            metacopy: options.metacopy,
            no_redirects: options.no_redirects,
            follow_none: options.follow_none,
            test_probes: options.test_probes,
            inode_index: None,
            nodes,
            tree: Tree::default(),
            devices: RwLock::new(Vec::new()),
            first_device: AtomicU64::new(0),
            twins: AtomicU64::new(0),
            whiteout_ready: AtomicBool::new(false),
            without_opens: AtomicBool::new(false),
            counters: Arc::new(Counters::default()),
            device: Arc::default(),
        };
        // The bottom layer's device is numbered first, so that lower objects
        // keep their own numbers in the usual case of one file system.
        if let Some(stat) = union.layers.last().and_then(|l| rustix::fs::fstat(l.root()).ok()) {
            union.number(stat.st_dev, stat.st_ino);
        }
        union.inode_index = InodeIndex::open(&union, options)?;
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
        self.tree.shared()
    }

    pub(crate) fn check_writable(&self) -> Result<(), Errno> {
        if self.writable { Ok(()) } else { Err(Errno::ROFS) }
    }

    /// True for the layer that takes the writes.
    pub(crate) fn is_upper(&self, layer: u16) -> bool {
        self.has_upper && layer == 0
    }

    /// True once the kernel was told that files need no open.
    pub(crate) fn no_open(&self) -> bool {
        self.without_opens.load(Ordering::Relaxed)
    }

    /// The union's number for an object of a layer.
    pub(crate) fn number(&self, device: u64, ino: u64) -> u64 {
        let place = if device == self.first_device.load(Ordering::Relaxed) {
            0
        } else {
            self.device_place(device)
        };
        let ino = ino ^ ((place as u64) << 56);
        // Number 1 is the root's in the protocol; a layer object that has it
        // (a mount inside a layer) moves out of the way.
        if ino == ROOT { 1 << 55 | ROOT } else { ino }
    }

    fn device_place(&self, device: u64) -> usize {
        if let Some(known) = self.devices.read().iter().position(|d| *d == device) {
            return known;
        }
        let mut devices = self.devices.write();
        devices.iter().position(|d| *d == device).unwrap_or_else(|| {
            if devices.is_empty() {
                self.first_device.store(device, Ordering::Relaxed);
            }
            devices.push(device);
            devices.len() - 1
        })
    }

    /// A number that no object of a layer has.
    pub(crate) fn spare_number(&self) -> u64 {
        SPARE | self.twins.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn place<'a>(&'a self, place: &'a Place) -> Result<At<'a>, Errno> {
        self.layers[usize::from(place.layer)].at(&place.path)
    }

    pub(crate) fn upper<'a>(&'a self, path: &'a Path) -> Result<At<'a>, Errno> {
        self.layers[0].at(path)
    }

    pub(crate) fn in_work<'a>(&'a self, name: &'a Path) -> Result<At<'a>, Errno> {
        let work = self.work.as_ref().ok_or(Errno::ROFS)?;
        Ok(At { dir: Dir::Borrowed(work.as_fd()), name })
    }

    /// A name no object of the work folder has.
    pub(crate) fn twin_name(&self) -> PathBuf {
        PathBuf::from(format!("#{:x}", self.twins.fetch_add(1, Ordering::Relaxed)))
    }
}

/// Removes a name of the work folder, whatever it is; a directory in it holds
/// only whiteouts.
pub(crate) fn clear_twin(at: &At<'_>) -> Result<(), Errno> {
    match at.unlink(AtFlags::empty()) {
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
    at.unlink(AtFlags::REMOVEDIR)
}

/// The mode bits a system call takes.
pub(crate) fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits & 0o7777)
}
