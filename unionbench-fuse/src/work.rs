//! The folders of a mount, before it is mounted: none may be part of another
//! that is written to, and the work folder is emptied and claimed.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::in_use;
use crate::options::MountOptions;
use crate::union::MountError;

/// A folder, and all that contain it, each by device and inode number.
struct Folder<'a> {
    path: &'a PathBuf,
    own: (u64, u64),
    above: Vec<(u64, u64)>,
}

impl Folder<'_> {
    fn is_in(&self, other: &Folder<'_>) -> bool {
        self.own == other.own || self.above.contains(&other.own)
    }
}

/// Refuses what the kernel's overlayfs refuses (Linux 6.18): a lower layer that
/// is, contains or lies in another or in upper or work; upper and work that are
/// not apart. An upper layer inside a lower one is allowed there and here.
pub(crate) fn check_apart(options: &MountOptions) -> Result<(), MountError> {
    let read =
        |path| folder(path).map_err(|source| MountError::Layer { path: path.clone(), source });
    let lowers: Vec<_> =
        options.lower.iter().chain(&options.data_only).map(read).collect::<Result<_, _>>()?;
    let upper = options.upper.as_ref().map(read).transpose()?;
    let work = match &options.work {
        Some(path) if path.exists() => Some(read(path)?),
        _ => None,
    };
    let refuse = |inner: &Folder<'_>, outer: &Folder<'_>| {
        if !inner.is_in(outer) {
            return Ok(());
        }
        Err(MountError::Overlap { inner: inner.path.clone(), outer: outer.path.clone() })
    };
    for (i, lower) in lowers.iter().enumerate() {
        for other in lowers.iter().enumerate().filter(|(j, _)| *j != i) {
            refuse(lower, other.1)?;
        }
        for written in [&upper, &work].into_iter().flatten() {
            refuse(lower, written)?;
        }
    }
    if let (Some(upper), Some(work)) = (&upper, &work) {
        refuse(upper, work)?;
        refuse(work, upper)?;
    }
    Ok(())
}

fn folder(path: &PathBuf) -> Result<Folder<'_>, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let identity = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|s| (s.st_dev, s.st_ino));
    let mut fd = rustix::fs::open(path, flags, Mode::empty())?;
    let own = identity(&fd)?;
    let mut above = Vec::new();
    let mut last = own;
    loop {
        fd = match rustix::fs::openat(&fd, "..", flags, Mode::empty()) {
            Ok(fd) => fd,
            // A folder above may be closed to this user.
            Err(Errno::ACCESS) => break,
            Err(e) => return Err(e),
        };
        let next = identity(&fd)?;
        if next == last {
            break;
        }
        above.push(next);
        last = next;
    }
    Ok(Folder { path, own, above })
}

/// Makes `<work>/work`, the folder the kernel uses too, and empties it. The
/// descriptor of it holds a lock, so that no second mount empties it meanwhile.
pub(crate) fn prepare(
    upper: &Path,
    work: &Path,
    options: &MountOptions,
) -> Result<OwnedFd, MountError> {
    let failed = |source| MountError::Work { path: work.to_owned(), source };
    let io = |e: std::io::Error| failed(Errno::from_io_error(&e).unwrap_or(Errno::IO));
    if options.make_work && !work.exists() {
        std::fs::create_dir(work).map_err(io)?;
    }
    let device = |p: &Path| rustix::fs::stat(p).map(|s| s.st_dev).map_err(failed);
    if device(upper)? != device(work)? {
        return Err(MountError::OtherFileSystem { work: work.into(), upper: upper.into() });
    }
    let inner = work.join("work");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if options.read_only {
        let folder = if inner.is_dir() { inner.as_path() } else { work };
        return rustix::fs::open(folder, flags, Mode::empty()).map_err(failed);
    }
    in_use::refuse(upper, work)?;
    if !inner.exists() {
        std::fs::create_dir(&inner).map_err(io)?;
    }
    let fd = rustix::fs::open(&inner, flags, Mode::empty()).map_err(failed)?;
    match lock(&fd) {
        Err(Errno::WOULDBLOCK) => return Err(MountError::Busy(work.to_owned())),
        // Not every file system has locks.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
        Err(e) => return Err(failed(e)),
    }
    for entry in std::fs::read_dir(&inner).map_err(io)? {
        let entry = entry.map_err(io)?;
        let is_dir = entry.file_type().map_err(io)?.is_dir();
        let path = entry.path();
        if is_dir { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
            .map_err(io)?;
    }
    Ok(fd)
}

/// Tries for a while: umount(8) returns before the daemon that was unmounted has
/// ended.
fn lock(fd: &OwnedFd) -> Result<(), Errno> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let began = Instant::now();
    loop {
        match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

/// True if this process may set `trusted.` attributes there; root of a user
/// namespace may not.
pub(crate) fn may_trust(work: &OwnedFd) -> bool {
    let name = OsStr::new("trusted.overlay.probe");
    let set = rustix::fs::fsetxattr(work, name, b"", XattrFlags::empty());
    if set.is_ok() {
        let _ = rustix::fs::fremovexattr(work, name);
    }
    set != Err(Errno::PERM)
}
