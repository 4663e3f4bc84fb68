//! A layer and the objects in it, reached by a root descriptor and a path
//! below it. A path's components are directories that a listing of this layer
//! has shown, so no symlink of a layer leads out of it; the last component is
//! never followed.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

/// A layer's root, open for reading.
#[derive(Debug)]
pub(crate) struct Layer {
    root: OwnedFd,
}

impl Layer {
    pub(crate) fn open(path: &Path) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { root })
    }

    pub(crate) fn at<'a>(&'a self, path: &'a Path) -> At<'a> {
        At { dir: self.root.as_fd(), path }
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// An object: a path below an open directory, or with an empty path the open
/// object itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) path: &'a Path,
}

impl<'a> At<'a> {
    pub(crate) fn of_fd(fd: BorrowedFd<'a>) -> Self {
        Self { dir: fd, path: Path::new("") }
    }

    fn flags(&self) -> AtFlags {
        if self.path.as_os_str().is_empty() {
            AtFlags::EMPTY_PATH
        } else {
            AtFlags::SYMLINK_NOFOLLOW
        }
    }

    /// A path of this process that leads to the object: for the calls that
    /// have no `at` form.
    pub(crate) fn proc(&self) -> PathBuf {
        let mut out = PathBuf::from(format!("/proc/self/fd/{}", self.dir.as_raw_fd()));
        if !self.path.as_os_str().is_empty() {
            out.push(self.path);
        }
        out
    }

    pub(crate) fn stat(&self) -> Result<Stat, Errno> {
        rustix::fs::statat(self.dir, self.path, self.flags())
    }

    pub(crate) fn open(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        if self.path.as_os_str().is_empty() {
            return rustix::fs::open(self.proc(), flags, Mode::empty());
        }
        rustix::fs::openat(self.dir, self.path, flags | OFlags::NOFOLLOW, Mode::empty())
    }

    pub(crate) fn chmod(&self, mode: u32) -> Result<(), Errno> {
        rustix::fs::chmod(self.proc(), Mode::from_raw_mode(mode & 0o7777))
    }

    pub(crate) fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        let uid = uid.map(rustix::fs::Uid::from_raw);
        let gid = gid.map(rustix::fs::Gid::from_raw);
        rustix::fs::chownat(self.dir, self.path, uid, gid, self.flags())
    }

    pub(crate) fn set_times(&self, times: &rustix::fs::Timestamps) -> Result<(), Errno> {
        rustix::fs::utimensat(self.dir, self.path, times, self.flags())
    }

    /// The attribute's value, or none if the object has no such attribute or
    /// its file system keeps none.
    pub(crate) fn xattr(&self, name: &OsStr) -> Result<Option<Vec<u8>>, Errno> {
        let mut small = [0u8; 256];
        let path = self.proc();
        let got = if self.path.as_os_str().is_empty() {
            rustix::fs::getxattr(&path, name, &mut small[..])
        } else {
            rustix::fs::lgetxattr(&path, name, &mut small[..])
        };
        match got {
            Ok(len) => Ok(Some(small[..len].to_vec())),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(Errno::RANGE) => {
                let mut large = vec![0u8; 65536];
                let len = if self.path.as_os_str().is_empty() {
                    rustix::fs::getxattr(&path, name, &mut large[..])?
                } else {
                    rustix::fs::lgetxattr(&path, name, &mut large[..])?
                };
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
        if self.path.as_os_str().is_empty() {
            rustix::fs::setxattr(self.proc(), name, value, flags)
        } else {
            rustix::fs::lsetxattr(self.proc(), name, value, flags)
        }
    }

    pub(crate) fn remove_xattr(&self, name: &OsStr) -> Result<(), Errno> {
        if self.path.as_os_str().is_empty() {
            rustix::fs::removexattr(self.proc(), name)
        } else {
            rustix::fs::lremovexattr(self.proc(), name)
        }
    }

    /// Names of the object's attributes; empty where none are kept.
    pub(crate) fn xattr_names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let mut buf = vec![0u8; 65536];
        let path = self.proc();
        let got = if self.path.as_os_str().is_empty() {
            rustix::fs::listxattr(&path, &mut buf[..])
        } else {
            rustix::fs::llistxattr(&path, &mut buf[..])
        };
        let len = match got {
            Ok(len) => len,
            Err(Errno::OPNOTSUPP) => 0,
            Err(e) => return Err(e),
        };
        let names = buf[..len].split(|b| *b == 0).filter(|n| !n.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
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
