//! A folder that nothing leaves: directories below it are opened with
//! openat2(2) (Linux 5.6), which refuses `..` out of it, symbolic links in any
//! component, magic links of /proc, and other mounts. Names are then made
//! relative to the directory's descriptor, with calls that follow no link.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, unlinkat,
};
use rustix::io::Errno;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

pub(super) struct Root {
    fd: Arc<OwnedFd>,
    /// The directory that was opened last: entries of an archive mostly stand
    /// together with their neighbours.
    last: (Vec<u8>, Arc<OwnedFd>),
}

impl Root {
    /// Makes `path`, which must not exist: what is in it is then ours alone.
    pub fn create(path: &Path) -> io::Result<Self> {
        mkdirat(CWD, path, Mode::from_raw_mode(0o700))?;
        let fd = Arc::new(openat(CWD, path, DIRECTORY, Mode::empty())?);
        Ok(Self { last: (Vec::new(), Arc::clone(&fd)), fd })
    }

    /// The directory at `path`, which is relative and has no dots; empty for
    /// the root.
    pub fn dir(&mut self, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        if path == self.last.0 {
            return Ok(Arc::clone(&self.last.1));
        }
        let fd = match path {
            [] => Arc::clone(&self.fd),
            _ => Arc::new(openat2(&*self.fd, path, DIRECTORY, Mode::empty(), BENEATH)?),
        };
        self.last = (path.to_vec(), Arc::clone(&fd));
        Ok(fd)
    }

    /// Keeps one descriptor only, for as long as nothing is made: an image may
    /// have 500 layers and a process 1024 descriptors.
    pub fn rest(&mut self) {
        self.last = (Vec::new(), Arc::clone(&self.fd));
    }

    /// Removes whatever is called `name` in the directory, with all below it.
    pub fn remove(&mut self, parent: &[u8], name: &[u8]) -> io::Result<()> {
        let dir = self.dir(parent)?;
        remove_in(dir.as_fd(), name)?;
        // The directory that was opened last may be among what is gone.
        self.rest();
        Ok(())
    }
}

fn remove_in(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        // EPERM is what POSIX says of unlink on a directory, EISDIR Linux.
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return Ok(other?),
    }
    let dir = openat(parent, name, DIRECTORY, Mode::empty())?;
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let inner = entry.file_name().to_bytes();
        if inner == b"." || inner == b".." {
            continue;
        }
        match entry.file_type() {
            FileType::Directory => remove_in(dir.as_fd(), inner)?,
            _ => unlinkat(&dir, inner, AtFlags::empty())?,
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_dots_lead_nowhere() {
        let place = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(place.path().join("outside")).expect("folder");
        let target = place.path().join("target");
        let mut root = Root::create(&target).expect("the root");
        std::fs::create_dir(target.join("in")).expect("folder");
        std::os::unix::fs::symlink("../outside", target.join("out")).expect("link");
        std::os::unix::fs::symlink("in", target.join("alias")).expect("link");
        assert!(root.dir(b"in").is_ok());
        for path in [&b"out"[..], b"alias", b"in/../..", b"/", b"/etc", b"out/x"] {
            assert!(root.dir(path).is_err(), "{}", String::from_utf8_lossy(path));
        }
        assert!(Root::create(&target).is_err());
    }

    #[test]
    fn removing_a_tree_spares_what_its_links_point_to() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let kept = place.path().join("kept");
        std::fs::write(&kept, "k").expect("file");
        let target = place.path().join("target");
        let mut root = Root::create(&target).expect("the root");
        std::fs::create_dir_all(target.join("a/b/c")).expect("folders");
        std::fs::write(target.join("a/b/f"), "f").expect("file");
        std::os::unix::fs::symlink(&kept, target.join("a/link")).expect("link");
        root.dir(b"a/b").expect("it is there");
        root.remove(b"", b"a").expect("it goes");
        assert!(kept.exists() && !target.join("a").exists());
        assert!(root.dir(b"a/b").is_err());
    }
}
