//! Unfinished copies of regular files, in the work folder: without a name where
//! the file system knows such files.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::layer::At;
use crate::union::Union;

/// A copy that is not finished.
pub(crate) enum Twin {
    Nameless(OwnedFd),
    Named(OwnedFd, PathBuf),
}

impl Twin {
    pub(crate) fn fd(&self) -> &OwnedFd {
        match self {
            Self::Nameless(fd) | Self::Named(fd, _) => fd,
        }
    }
}

impl Union {
    /// An empty file in the work folder; without a name where its file system
    /// knows such files, so that not even a crash leaves it behind.
    pub(crate) fn new_twin(&self) -> Result<Twin, Errno> {
        let work = self.in_work(Path::new("."))?;
        let open = |path: &Path, flags: OFlags| {
            let flags = flags | OFlags::RDWR | OFlags::CLOEXEC;
            rustix::fs::openat(&work.dir, path, flags, Mode::RUSR | Mode::WUSR)
        };
        match open(Path::new("."), OFlags::TMPFILE) {
            Ok(fd) => return Ok(Twin::Nameless(fd)),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {}
            Err(e) => return Err(e),
        }
        let name = self.twin_name();
        Ok(Twin::Named(open(&name, OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW)?, name))
    }

    /// Gives a finished twin its name in the upper layer.
    pub(crate) fn name_twin(&self, twin: &Twin, to: &At<'_>) -> Result<(), Errno> {
        let moved = match twin {
            Twin::Nameless(fd) => At::of_fd(fd.as_fd()).link(to),
            Twin::Named(_, name) => self.in_work(name)?.rename(to),
        };
        if moved.is_err() {
            self.discard(twin);
        }
        moved
    }

    pub(crate) fn discard(&self, twin: &Twin) {
        if let Twin::Named(_, name) = twin
            && let Ok(at) = self.in_work(name)
        {
            let _ = at.unlink(AtFlags::empty());
        }
    }
}
