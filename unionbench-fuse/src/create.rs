//! New names: files, directories, links and special files. They are made in
//! place where the upper layer has nothing under the name, and in the work
//! folder where a whiteout must give way in the same step.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, XattrFlags};
use rustix::io::Errno;

use crate::copy_up::Data;
use crate::index::{Gives, New, What};
use crate::layer::{At, Dir, join};
use crate::node::{Node, State};
use crate::union::{Union, clear_twin, mode};
use crate::whiteout::too_long;

const DEFAULT_ACL: &str = "system.posix_acl_default";

/// Who makes an object, and with which mode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maker {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    /// Taken from the mode unless the directory has a default ACL.
    pub(crate) umask: u32,
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
        let vacancy = self.vacancy(parent, name)?;
        self.copy_up(parent, Data::All)?;
        let dir = parent.upper_path().ok_or(Errno::NOENT)?;
        let path = join(&dir, name);
        let to = self.upper(&path)?;
        let gives = self.gives(parent, &to.dir)?;
        let maker = inherit(&gives, what, maker);
        let through_work = vacancy.hidden || (vacancy.below && what.kind() == FileType::Directory);
        let made = if through_work {
            self.make_in_work(&to, what, maker, vacancy, gives.acl)?
        } else {
            make_object(&to, what, maker)?
        };
        let mut stat = match (&made.stat, &made.fd) {
            (Some(stat), _) => *stat,
            (None, Some(fd)) => rustix::fs::fstat(fd)?,
            (None, None) => to.stat()?,
        };
        let ino = self.number(stat.st_dev, stat.st_ino);
        stat.st_ino = ino;
        let state = State { upper: true, no_capability: true, ..State::default() };
        let node = self.nodes.find_or_make(ino, what.kind(), state);
        self.enter(parent, name, &node, vacancy.below)?;
        Ok((node, stat, made.fd))
    }

    /// What the directory, which lies in the upper layer, gives to what is made
    /// in it. It is read under the lock under which a change of the directory
    /// forgets it, so that no such change is missed.
    fn gives(&self, parent: &Node, dir: &Dir<'_>) -> Result<Gives, Errno> {
        let mut index = self.begun_index(parent)?;
        if let Some(known) = &index.gives {
            return Ok(known.clone());
        }
        let stat = At::of_fd(dir.as_fd()).stat()?;
        let group = (stat.st_mode & SET_GID != 0).then_some(stat.st_gid);
        let gives = Gives { acl: default_acl(dir)?.map(Arc::from), group };
        index.gives = Some(gives.clone());
        Ok(gives)
    }

    /// Makes the object in the work folder and moves it to its name. There it
    /// lies in a directory with the ACL that it is to inherit, if there is one.
    fn make_in_work(
        &self,
        to: &At<'_>,
        what: Make<'_>,
        maker: Maker,
        vacancy: Vacancy,
        acl: Option<Arc<[u8]>>,
    ) -> Result<Made, Errno> {
        let name = self.twin_name();
        let stage = self.in_work(&name)?;
        let mut twin_name = name.clone();
        if let Some(acl) = &acl {
            rustix::fs::mkdirat(&stage.dir, stage.name, Mode::RWXU)?;
            stage.set_xattr(OsStr::new(DEFAULT_ACL), acl, XattrFlags::empty())?;
            twin_name = join(&name, OsStr::new("twin"));
        }
        let twin = self.in_work(&twin_name)?;
        // Its move changes its times, so what was seen before is not kept.
        let made = make_object(&twin, what, maker).and_then(|made| {
            self.put(&twin, to, what.kind(), vacancy.hidden)?;
            Ok(Made { stat: None, ..made })
        });
        if made.is_err() {
            let _ = clear_twin(&twin);
        }
        if acl.is_some() {
            let _ = stage.unlink(AtFlags::REMOVEDIR);
        }
        made
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
        let vacancy = self.vacancy(parent, name)?;
        self.copy_up(node, Data::All)?;
        self.copy_up(parent, Data::All)?;
        let _copying = node.copying.lock();
        self.before_names_change(node)?;
        let other = node.state.lock().aliases.all().first().map(|alias| alias.parent.clone());
        if let Some(other) = other {
            self.hand_on_impure(&other, parent)?;
        }
        let spot = self.spot(node)?;
        let from = spot.at(self)?;
        let path = join(&parent.upper_path().ok_or(Errno::NOENT)?, name);
        let to = self.upper(&path)?;
        if vacancy.hidden {
            let twin_name = self.twin_name();
            let twin = self.in_work(&twin_name)?;
            from.link(&twin)?;
            if let Err(e) = twin.rename(&to) {
                let _ = twin.unlink(AtFlags::empty());
                return Err(e);
            }
        } else {
            from.link(&to)?;
        }
        self.name_made(node);
        self.enter(parent, name, node, vacancy.below)?;
        self.stat(node)
    }

    /// What lies under a name that must be free.
    fn vacancy(&self, parent: &Arc<Node>, name: &OsStr) -> Result<Vacancy, Errno> {
        if too_long(name) {
            return Err(Errno::NAMETOOLONG);
        }
        match self.index_for(parent, name)?.get(name) {
            None => return Ok(Vacancy { hidden: false, below: false }),
            Some(e) if e.what == What::Whiteout => {
                return Ok(Vacancy { hidden: true, below: e.below });
            }
            Some(_) => {}
        }
        match self.lookup(parent, name) {
            // It vanished from its layer behind the union's back.
            Err(Errno::NOENT) => Ok(Vacancy { hidden: false, below: true }),
            _ => Err(Errno::EXIST),
        }
    }

    /// Moves a finished twin to its name, over a whiteout if one is there.
    fn put(&self, twin: &At<'_>, to: &At<'_>, kind: FileType, hidden: bool) -> Result<(), Errno> {
        if kind != FileType::Directory {
            return twin.rename(to);
        }
        self.set_mark(twin, "opaque", b"y")?;
        if !hidden {
            return twin.rename(to);
        }
        twin.rename_with(to, RenameFlags::EXCHANGE)?;
        clear_twin(twin)
    }

    /// Shows an upper object under a name of its parent's listing.
    pub(crate) fn enter(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        node: &Arc<Node>,
        below: bool,
    ) -> Result<(), Errno> {
        let new = New { what: What::Object(node.kind), layer: 0, ino: node.ino, below };
        let slot = self.begun_index(parent)?.put(name, new);
        node.learn_alias(parent, slot, true);
        Ok(())
    }
}

/// What lies under a free name.
#[derive(Clone, Copy)]
struct Vacancy {
    /// A whiteout of the upper layer.
    hidden: bool,
    /// Something of a lower layer.
    below: bool,
}

/// The ACL that a directory gives to what is made in it.
fn default_acl(dir: &Dir<'_>) -> Result<Option<Vec<u8>>, Errno> {
    let mut buf = [0u8; 1024];
    match rustix::fs::fgetxattr(dir, DEFAULT_ACL, &mut buf[..]) {
        Ok(len) => Ok(Some(buf[..len].to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(_) => At::of_fd(dir.as_fd()).xattr(OsStr::new(DEFAULT_ACL)),
    }
}

/// A directory with the set-group-ID bit gives its group to what is made in
/// it, and the bit to directories; one without a default ACL lets the umask
/// count.
fn inherit(gives: &Gives, what: Make<'_>, mut maker: Maker) -> Maker {
    if gives.acl.is_none() {
        maker.mode &= !maker.umask;
    }
    if let Some(group) = gives.group {
        maker.gid = group;
        if what.kind() == FileType::Directory {
            maker.mode |= SET_GID;
        }
    }
    maker
}

/// A new object.
struct Made {
    /// A regular file, open for reading and writing.
    fd: Option<OwnedFd>,
    /// Its attributes, if nothing has changed them since.
    stat: Option<Stat>,
}

fn make_object(to: &At<'_>, what: Make<'_>, maker: Maker) -> Result<Made, Errno> {
    let bits = mode(maker.mode);
    let mut made = Made { fd: None, stat: None };
    match what {
        Make::File => {
            let flags =
                OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let fd = rustix::fs::openat(&to.dir, to.name, flags, bits)?;
            made.stat = Some(rustix::fs::fstat(&fd)?);
            made.fd = Some(fd);
        }
        Make::Directory => rustix::fs::mkdirat(&to.dir, to.name, bits)?,
        Make::Symlink(target) => rustix::fs::symlinkat(target, &to.dir, to.name)?,
        Make::Special(kind, device) => rustix::fs::mknodat(&to.dir, to.name, kind, bits, device)?,
    }
    let special = bits.intersects(Mode::SUID | Mode::SGID | Mode::SVTX);
    if !special && made.stat.is_some_and(|s| (s.st_uid, s.st_gid) == (maker.uid, maker.gid)) {
        return Ok(made);
    }
    made.stat = None;
    // A change of owner clears the set-ID bits, so they are set after it; the
    // process's own umask is 0 while it serves.
    to.chown(Some(maker.uid), Some(maker.gid))?;
    if special && !matches!(what, Make::Symlink(_)) {
        // The plain bits are those that an inherited ACL has left.
        let plain = to.stat()?.st_mode & 0o777;
        to.chmod(plain | (maker.mode & 0o7000))?;
    }
    Ok(made)
}
