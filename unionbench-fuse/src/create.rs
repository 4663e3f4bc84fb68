//! New names: files, directories, links and special files. They are made in
//! place where the upper layer has nothing under the name, and in the work
//! folder where a whiteout must give way in the same step.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use crate::copy_up::Data;
use crate::index::{Entry, What};
use crate::layer::{At, join};
use crate::node::{Node, State};
use crate::union::{Union, clear_twin, mode};
use crate::whiteout::too_long;

/// Who makes an object, and with which mode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maker {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
}

/// What is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Make<'a> {
    File,
    Directory,
    Symlink(&'a Path),
    Special(FileType, u64),
}

impl Make<'_> {
    fn kind(&self) -> FileType {
        match self {
            Self::File => FileType::RegularFile,
            Self::Directory => FileType::Directory,
            Self::Symlink(_) => FileType::Symlink,
            Self::Special(kind, _) => *kind,
        }
    }
}

const SET_GID: u32 = 0o2000;

impl Union {
    /// Makes the object; a regular file is also returned open for reading and
    /// writing.
    pub(crate) fn make(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        what: Make<'_>,
        maker: Maker,
    ) -> Result<(Arc<Node>, Stat, Option<OwnedFd>), Errno> {
        self.check_writable()?;
        if let Make::Special(FileType::CharacterDevice, 0) = what {
            // Such a device would be a whiteout.
            return Err(Errno::PERM);
        }
        let _tree = self.shared();
        let (hidden, below) = self.vacancy(parent, name)?;
        self.copy_up(parent, Data::All)?;
        let dir = parent.upper_path().ok_or(Errno::NOENT)?;
        let maker = inherit(&self.upper(&dir), what, maker)?;
        let path = join(&dir, name);
        let to = self.upper(&path);
        let fd = if hidden || (below && what.kind() == FileType::Directory) {
            let twin_name = self.twin_name();
            let twin = self.in_work(&twin_name)?;
            let made = make_object(&twin, what, maker)
                .and_then(|fd| self.put(&twin, &to, what.kind(), hidden).map(|()| fd));
            if made.is_err() {
                let _ = clear_twin(&twin);
            }
            made?
        } else {
            make_object(&to, what, maker)?
        };
        let mut stat = match &fd {
            Some(fd) => rustix::fs::fstat(fd)?,
            None => to.stat()?,
        };
        let ino = self.number(stat.st_dev, stat.st_ino);
        stat.st_ino = ino;
        let kind = what.kind();
        let node = self.nodes.find_or_make(ino, kind, State { upper: true, ..State::default() });
        node.learn_alias(parent, name, true);
        self.enter(parent, name, kind, ino, below)?;
        Ok((node, stat, fd))
    }

    /// Adds a name to an object that exists.
    pub(crate) fn link(
        &self,
        node: &Arc<Node>,
        parent: &Arc<Node>,
        name: &OsStr,
    ) -> Result<Stat, Errno> {
        self.check_writable()?;
        let _tree = self.shared();
        let (hidden, below) = self.vacancy(parent, name)?;
        self.copy_up(node, Data::All)?;
        self.copy_up(parent, Data::All)?;
        let from = self.spot(node)?;
        let from = from.at(self);
        let path = join(&parent.upper_path().ok_or(Errno::NOENT)?, name);
        let to = self.upper(&path);
        let link = |to: &At<'_>| {
            if from.path.as_os_str().is_empty() {
                let follow = AtFlags::SYMLINK_FOLLOW;
                return rustix::fs::linkat(rustix::fs::CWD, from.proc(), to.dir, to.path, follow);
            }
            rustix::fs::linkat(from.dir, from.path, to.dir, to.path, AtFlags::empty())
        };
        if hidden {
            let twin_name = self.twin_name();
            let twin = self.in_work(&twin_name)?;
            link(&twin)?;
            self.put(&twin, &to, node.kind, true)?;
        } else {
            link(&to)?;
        }
        node.learn_alias(parent, name, true);
        self.enter(parent, name, node.kind, node.ino, below)?;
        self.stat(node)
    }

    /// Whether a whiteout lies under the free name, and anything below it.
    pub(crate) fn vacancy(&self, parent: &Node, name: &OsStr) -> Result<(bool, bool), Errno> {
        if too_long(name) {
            return Err(Errno::NAMETOOLONG);
        }
        match self.index_of(parent)?.get(name) {
            None => Ok((false, false)),
            Some(Entry { what: What::Whiteout, below, .. }) => Ok((true, *below)),
            Some(_) => Err(Errno::EXIST),
        }
    }

    /// Moves a finished twin to its name, over a whiteout if one is there.
    fn put(&self, twin: &At<'_>, to: &At<'_>, kind: FileType, hidden: bool) -> Result<(), Errno> {
        if kind != FileType::Directory {
            return rustix::fs::renameat(twin.dir, twin.path, to.dir, to.path);
        }
        self.set_mark(twin, "opaque", b"y")?;
        if !hidden {
            return rustix::fs::renameat(twin.dir, twin.path, to.dir, to.path);
        }
        rustix::fs::renameat_with(twin.dir, twin.path, to.dir, to.path, RenameFlags::EXCHANGE)?;
        clear_twin(twin)
    }

    /// Shows a new upper object in its parent's listing.
    pub(crate) fn enter(
        &self,
        parent: &Node,
        name: &OsStr,
        kind: FileType,
        ino: u64,
        below: bool,
    ) -> Result<(), Errno> {
        self.index_of(parent)?.insert(Entry {
            name: name.into(),
            what: What::Object(kind),
            layer: 0,
            ino,
            below,
            dirs: Vec::new(),
        });
        Ok(())
    }
}

/// A directory with the set-group-ID bit gives its group to what is made in
/// it, and the bit to directories.
fn inherit(dir: &At<'_>, what: Make<'_>, mut maker: Maker) -> Result<Maker, Errno> {
    let stat = dir.stat()?;
    if stat.st_mode & SET_GID != 0 {
        maker.gid = stat.st_gid;
        if what.kind() == FileType::Directory {
            maker.mode |= SET_GID;
        }
    }
    Ok(maker)
}

fn make_object(to: &At<'_>, what: Make<'_>, maker: Maker) -> Result<Option<OwnedFd>, Errno> {
    let bits = mode(maker.mode);
    let mut fd = None;
    match what {
        Make::File => {
            let flags =
                OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            fd = Some(rustix::fs::openat(to.dir, to.path, flags, bits)?);
        }
        Make::Directory => rustix::fs::mkdirat(to.dir, to.path, bits)?,
        Make::Symlink(target) => rustix::fs::symlinkat(target, to.dir, to.path)?,
        Make::Special(kind, device) => rustix::fs::mknodat(to.dir, to.path, kind, bits, device)?,
    }
    // A change of owner clears the set-ID bits, so they are set after it; the
    // process's own umask is 0 while it serves.
    to.chown(Some(maker.uid), Some(maker.gid))?;
    let special = bits.intersects(Mode::SUID | Mode::SGID | Mode::SVTX);
    if special && !matches!(what, Make::Symlink(_)) {
        to.chmod(maker.mode)?;
    }
    Ok(fd)
}
