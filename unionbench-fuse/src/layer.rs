//! A layer and the objects in it, reached by a directory of the layer and one
//! name in it.
//!
//! Directories are opened below the layer's root without following any
//! symlink or magic link, and the name in them is never followed either, so
//! nothing that a layer holds leads out of it, not even what changes while it
//! is mounted. Where this process may, a lower layer is reached through a
//! read-only copy of its mount that no one else sees: what is mounted on top
//! of a layer's directories (this union itself, with `lowerdir=/`) does not
//! show, and a write to a lower layer is refused by the kernel.
//!
//! Open directories are kept, a bounded number for each layer. A path can come
//! to mean another directory only by a rename or a removal in the upper layer,
//! which therefore drop what is kept.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat, XattrFlags};
use rustix::io::Errno;

use crate::sys::{private_mount, uuid};

/// Directories kept open over all layers.
const KEPT: usize = 2048;

/// A layer's root, open for reading.
#[derive(Debug)]
pub(crate) struct Layer {
    root: OwnedFd,
    /// The private mount, which lives as long as this descriptor.
    _mount: Option<OwnedFd>,
    /// By their paths' bytes, which are hashed faster than paths.
    kept: Mutex<HashMap<Box<OsStr>, Arc<OwnedFd>>>,
    keep: usize,
    /// That of its file system.
    uuid: [u8; 16],
}

impl Layer {
    /// Opens a layer, one of `n_layers`. A `lower` one is sealed against
    /// writes where this process may do that.
    pub(crate) fn open(path: &Path, lower: bool, n_layers: usize) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        let keep = (KEPT / n_layers.max(1)).max(4);
        let kept = Mutex::new(HashMap::new());
        let uuid = uuid::of(&root);
        if lower
            && let Ok(mount) = private_mount::clone_sealed(path)
            && let Ok(sealed) = rustix::fs::openat(&mount, ".", flags, Mode::empty())
        {
            return Ok(Self { root: sealed, _mount: Some(mount), kept, keep, uuid });
        }
        Ok(Self { root, _mount: None, kept, keep, uuid })
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The UUID of the layer's file system.
    pub(crate) fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// The object at a path below the layer's root; an empty path is the root.
    pub(crate) fn at<'a>(&'a self, path: &'a Path) -> Result<At<'a>, Errno> {
        let bytes = path.as_os_str().as_bytes();
        match bytes.iter().rposition(|b| *b == b'/') {
            None => Ok(At { dir: Dir::Borrowed(self.root.as_fd()), name: path }),
            Some(cut) => {
                let dir = self.dir(Path::new(OsStr::from_bytes(&bytes[..cut])))?;
                Ok(At { dir, name: Path::new(OsStr::from_bytes(&bytes[cut + 1..])) })
            }
        }
    }

    /// The open directory at a path below the root.
    pub(crate) fn dir(&self, path: &Path) -> Result<Dir<'_>, Errno> {
        if path.as_os_str().is_empty() {
            return Ok(Dir::Borrowed(self.root.as_fd()));
        }
        if let Some(fd) = self.kept.lock().get(path.as_os_str()) {
            return Ok(Dir::Kept(fd.clone()));
        }
        let fd = Arc::new(open_dir(self.root.as_fd(), path)?);
        let mut kept = self.kept.lock();
        if kept.len() >= self.keep {
            kept.clear();
        }
        kept.insert(path.as_os_str().into(), fd.clone());
        Ok(Dir::Kept(fd))
    }

    /// Forgets the directory that was at `path`.
    pub(crate) fn drop_dir(&self, path: &Path) {
        self.kept.lock().remove(path.as_os_str());
    }

    /// Forgets every directory, since a rename may have moved whole trees.
    pub(crate) fn drop_dirs(&self) {
        self.kept.lock().clear();
    }
}

/// Opens a directory below `root`, for reading where that is allowed. The kernel
/// takes paths up to a length; a longer one is gone in parts.
fn open_dir(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let Some((first, rest)) = split(path) else { return open_short(root, path) };
    open_dir(open_short(root, first)?.as_fd(), rest)
}

/// The longest beginning of a path that the kernel takes, and what follows; none
/// if it takes the whole.
fn split(path: &Path) -> Option<(&Path, &Path)> {
    /// The kernel's `PATH_MAX`, with the zero at the end.
    const LONGEST: usize = 4096 - 1;
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.get(..=LONGEST)?.iter().rposition(|b| *b == b'/')?;
    let part = |bytes| Path::new(OsStr::from_bytes(bytes));
    Some((part(&bytes[..end]), part(&bytes[end + 1..])))
}

fn open_short(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let base = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let open = |flags| rustix::fs::openat2(root, path, base | flags, Mode::empty(), resolve);
    match open(OFlags::RDONLY) {
        Err(Errno::ACCESS) => open(OFlags::PATH),
        // A sandbox or an old kernel may know no openat2.
        Err(Errno::NOSYS | Errno::PERM) => open_by_steps(root, path, base | OFlags::RDONLY),
        other => other,
    }
}

fn open_by_steps(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut dir = rustix::fs::openat(root, ".", flags, Mode::empty())?;
    for part in path.components() {
        let Component::Normal(name) = part else { return Err(Errno::XDEV) };
        dir = rustix::fs::openat(&dir, name, flags, Mode::empty())?;
    }
    Ok(dir)
}

/// An open directory.
#[derive(Clone, Debug)]
pub(crate) enum Dir<'a> {
    Borrowed(BorrowedFd<'a>),
    Kept(Arc<OwnedFd>),
}

impl AsFd for Dir<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Borrowed(fd) => *fd,
            Self::Kept(fd) => fd.as_fd(),
        }
    }
}

/// An object: a name in an open directory, or with an empty name the open
/// object itself.
#[derive(Clone, Debug)]
pub(crate) struct At<'a> {
    pub(crate) dir: Dir<'a>,
    pub(crate) name: &'a Path,
}

impl<'a> At<'a> {
    pub(crate) fn of_fd(fd: BorrowedFd<'a>) -> Self {
        Self { dir: Dir::Borrowed(fd), name: Path::new("") }
    }

    fn is_open(&self) -> bool {
        self.name.as_os_str().is_empty()
    }

    fn flags(&self) -> AtFlags {
        if self.is_open() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW }
    }

    /// A path of this process that leads to the object: for the calls that
    /// have no `at` form.
    pub(crate) fn proc(&self) -> PathBuf {
        let mut out = PathBuf::from(format!("/proc/self/fd/{}", self.dir.as_fd().as_raw_fd()));
        if !self.is_open() {
            out.push(self.name);
        }
        out
    }

    pub(crate) fn stat(&self) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.dir, self.name, self.flags())
    }

    pub(crate) fn open(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        if self.is_open() {
            return rustix::fs::open(self.proc(), flags, Mode::empty());
        }
        rustix::fs::openat(&self.dir, self.name, flags | OFlags::NOFOLLOW, Mode::empty())
    }

    pub(crate) fn unlink(&self, flags: AtFlags) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.dir, self.name, flags)
    }

    pub(crate) fn rename(&self, to: &At<'_>) -> Result<(), Errno> {
        rustix::fs::renameat(&self.dir, self.name, &to.dir, to.name)
    }

    pub(crate) fn rename_with(
        &self,
        to: &At<'_>,
        flags: rustix::fs::RenameFlags,
    ) -> Result<(), Errno> {
        rustix::fs::renameat_with(&self.dir, self.name, &to.dir, to.name, flags)
    }

    /// Gives the object a further name; an open object without a name too.
    pub(crate) fn link(&self, to: &At<'_>) -> Result<(), Errno> {
        if self.is_open() {
            let follow = AtFlags::SYMLINK_FOLLOW;
            return rustix::fs::linkat(rustix::fs::CWD, self.proc(), &to.dir, to.name, follow);
        }
        rustix::fs::linkat(&self.dir, self.name, &to.dir, to.name, AtFlags::empty())
    }

    pub(crate) fn read_link(&self) -> Result<std::ffi::CString, Errno> {
        rustix::fs::readlinkat(&self.dir, self.name, Vec::new())
    }

    /// Sets the mode of anything but a symlink, which has none of its own.
    pub(crate) fn chmod(&self, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        if self.is_open() {
            return rustix::fs::chmod(self.proc(), mode);
        }
        let object = self.open(OFlags::PATH)?;
        let at = At::of_fd(object.as_fd());
        let kind = rustix::fs::FileType::from_raw_mode(at.stat()?.st_mode);
        if kind == rustix::fs::FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        rustix::fs::chmod(at.proc(), mode)
    }

    pub(crate) fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        let uid = uid.map(rustix::fs::Uid::from_raw);
        let gid = gid.map(rustix::fs::Gid::from_raw);
        rustix::fs::chownat(&self.dir, self.name, uid, gid, self.flags())
    }

    pub(crate) fn set_times(&self, times: &rustix::fs::Timestamps) -> Result<(), Errno> {
        rustix::fs::utimensat(&self.dir, self.name, times, self.flags())
    }

    /// The attribute's value, or none if the object has no such attribute or
    /// its file system keeps none.
    pub(crate) fn xattr(&self, name: &OsStr) -> Result<Option<Vec<u8>>, Errno> {
        let path = self.proc();
        let get = |buf: &mut [u8]| {
            if self.is_open() {
                rustix::fs::getxattr(&path, name, buf)
            } else {
                rustix::fs::lgetxattr(&path, name, buf)
            }
        };
        let mut small = [0u8; 256];
        match get(&mut small) {
            Ok(len) => Ok(Some(small[..len].to_vec())),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(Errno::RANGE) => {
                let mut large = vec![0u8; 65536];
                let len = get(&mut large)?;
                large.truncate(len);
                Ok(Some(large))
            }
            Err(e) => Err(e),
        }
    }

    pub(crate) fn set_xattr(
        &self,
        name: &OsStr,
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<(), Errno> {
        if self.is_open() {
            rustix::fs::setxattr(self.proc(), name, value, flags)
        } else {
            rustix::fs::lsetxattr(self.proc(), name, value, flags)
        }
    }

    pub(crate) fn remove_xattr(&self, name: &OsStr) -> Result<(), Errno> {
        if self.is_open() {
            rustix::fs::removexattr(self.proc(), name)
        } else {
            rustix::fs::lremovexattr(self.proc(), name)
        }
    }

    /// Names of the object's attributes, each followed by NUL; empty where
    /// none are kept.
    pub(crate) fn xattr_names(&self) -> Result<Vec<u8>, Errno> {
        let path = self.proc();
        let list = |buf: &mut [u8]| {
            if self.is_open() {
                rustix::fs::listxattr(&path, buf)
            } else {
                rustix::fs::llistxattr(&path, buf)
            }
        };
        names(list)
    }
}

/// Names of the attributes of an open directory, as [`At::xattr_names`].
pub(crate) fn dir_xattr_names(dir: &Dir<'_>) -> Result<Vec<u8>, Errno> {
    match names(|buf| rustix::fs::flistxattr(dir, buf)) {
        // A directory that may not be read is open as a path only.
        Err(Errno::BADF) => At::of_fd(dir.as_fd()).xattr_names(),
        other => other,
    }
}

fn names(list: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0u8; 512];
    match list(&mut small) {
        Ok(len) => Ok(small[..len].to_vec()),
        Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(Errno::RANGE) => {
            let mut large = vec![0u8; 65536];
            let len = list(&mut large)?;
            large.truncate(len);
            Ok(large)
        }
        Err(e) => Err(e),
    }
}

/// `dir`/`name`, where an empty `dir` is a layer's root.
pub(crate) fn join(dir: &Path, name: &OsStr) -> PathBuf {
    let mut bytes = Vec::with_capacity(dir.as_os_str().len() + 1 + name.len());
    bytes.extend_from_slice(dir.as_os_str().as_bytes());
    if !bytes.is_empty() {
        bytes.push(b'/');
    }
    bytes.extend_from_slice(name.as_bytes());
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes))
}
