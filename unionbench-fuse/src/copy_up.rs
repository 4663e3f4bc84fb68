//! Copy-up builds a twin of the lower object in the work folder (a file
//! without a name where the file system can), then gives it its name in the
//! upper layer in one step. Invariant: the union shows the lower object or the
//! finished twin, never a part. A crash leaves only litter in the work folder,
//! which the next mount clears.
//!
//! Parents are copied first, each under its own lock and never while a child's
//! is held, so two copy-ups cannot wait for each other.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::attr::Spot;
use crate::counters::Counters;
use crate::data::{Moved, copy_data};
use crate::layer::At;
use crate::marks::is_mark;
use crate::node::{Alias, Below, Node, ROOT};
use crate::origin;
use crate::sys::handle;
use crate::sys::probe_points::{CopyUp, served, unionbench_copy_up_begin, unionbench_copy_up_end};
use crate::union::{Union, clear_twin, mode};

/// How much of a file's data its copy needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    All,
    /// The caller cuts the file to this size at once.
    UpTo(u64),
    /// Attributes alone: the copy is marked as a metacopy.
    None,
}

impl Union {
    /// Brings the object, and first its parents, into the upper layer.
    pub(crate) fn copy_up(&self, node: &Arc<Node>, data: Data) -> Result<(), Errno> {
        self.bring_up(node, data, false)
    }

    fn bring_up(&self, node: &Arc<Node>, data: Data, is_parent: bool) -> Result<(), Errno> {
        self.check_writable()?;
        if done(node, data) {
            return Ok(());
        }
        let alias = node.state.lock().aliases.all().first().cloned();
        if let Some(alias) = &alias {
            self.bring_up(&alias.parent, Data::All, true)?;
        }
        let _copying = node.copying.lock();
        if done(node, data) {
            return Ok(());
        }
        unionbench_copy_up_begin(node.ino);
        let mut work = Work { is_parent, ..Work::default() };
        let copied = match &alias {
            Some(alias) => self.copy_object(node, alias, data, &mut work),
            None => self.copy_nameless(node, data, &mut work),
        };
        let bytes = work.moved.copied + work.moved.rewritten;
        let error = copied.as_ref().err().map_or(0, |e| e.raw_os_error());
        self.tell(node, bytes, error, &work);
        copied?;
        Counters::add(&self.counters.copy_ups, 1);
        Counters::add(&self.counters.copied_bytes, bytes);
        self.settle(node, data);
        if let Some(alias) = &alias {
            node.alias_is_upper(alias);
            alias.parent.with_index(|index| index.set_layer(alias.slot, 0));
        }
        Ok(())
    }

    /// Tells an observer what the copy-up came to.
    fn tell(&self, node: &Node, bytes: u64, error: i32, work: &Work) {
        let path = work.path.as_deref().unwrap_or(Path::new("")).as_os_str().as_bytes();
        let about = CopyUp {
            unique: served(),
            device: self.device.load(Ordering::Relaxed),
            size: work.size,
            mode: work.mode,
            layer: work.layer,
            cloned: work.moved.cloned,
            copied: work.moved.copied,
            rewritten: work.moved.rewritten,
            n_fsyncs: work.n_fsyncs,
            is_parent: u32::from(work.is_parent),
            path: path.as_ptr(),
            path_len: path.len() as u64,
        };
        unionbench_copy_up_end(node.ino, bytes, error, &raw const about);
    }

    /// Records that the object is now in the upper layer.
    fn settle(&self, node: &Node, data: Data) {
        let mut state = node.state.lock();
        state.upper = true;
        if !node.is_dir() {
            let places = std::mem::take(&mut state.below);
            state.metacopy = data == Data::None && node.kind == FileType::RegularFile;
            if state.metacopy {
                state.below = Below::of(places.places().iter().take(1).cloned().collect());
            }
        }
        node.epoch.fetch_add(1, Ordering::Release);
    }

    fn copy_object(
        &self,
        node: &Arc<Node>,
        alias: &Alias,
        data: Data,
        work: &mut Work,
    ) -> Result<(), Errno> {
        if node.in_upper() {
            return self.fill_metacopy(node, data, work);
        }
        let path = node.path_of(alias).ok_or(Errno::NOENT)?;
        work.path = Some(path.clone());
        let spot = self.spot(node)?;
        let from = spot.at(self)?;
        let stat = from.stat()?;
        work.note(&stat, if let Spot::In(layer, _) = &spot { Some(*layer) } else { None });
        let to = self.upper(&path)?;
        let above = At::of_fd(to.dir.as_fd());
        let parent_times = above.stat()?;
        match node.kind {
            FileType::RegularFile => {
                let twin = self.copy_file(node, &from, &stat, data, work)?;
                self.name_twin(&twin, &to)?;
            }
            _ => self.copy_other(node, &from, &stat, &to)?,
        }
        // The union's view of the parent did not change, so its times must not.
        above.set_times(&times_of(&parent_times))?;
        Ok(())
    }

    /// Copies a file whose last name is gone: the copy gets none either, and
    /// lives as long as the node is open.
    fn copy_nameless(&self, node: &Arc<Node>, data: Data, work: &mut Work) -> Result<(), Errno> {
        let source = node.open_fd().ok_or(Errno::NOENT)?;
        let from = At::of_fd(source.as_fd());
        let stat = from.stat()?;
        if node.kind != FileType::RegularFile || node.in_upper() {
            return Err(Errno::NOENT);
        }
        work.note(&stat, None);
        let data = if data == Data::None { Data::All } else { data };
        let twin = self.copy_file(node, &from, &stat, data, work)?;
        let fd = match twin {
            Twin::Nameless(fd) => fd,
            Twin::Named(fd, name) => {
                self.in_work(&name)?.unlink(AtFlags::empty())?;
                fd
            }
        };
        if let Some(opened) = &mut node.state.lock().opened {
            opened.pinned = Some(Arc::new(fd));
        }
        Ok(())
    }

    fn copy_file(
        &self,
        node: &Arc<Node>,
        from: &At<'_>,
        stat: &Stat,
        data: Data,
        work: &mut Work,
    ) -> Result<Twin, Errno> {
        let source = if node.is_nameless() { None } else { self.data_place(node)? };
        let twin = self.new_twin()?;
        let mut built = || -> Result<(), Errno> {
            let size = stat.st_size as u64;
            if data == Data::None {
                rustix::fs::ftruncate(twin.fd(), size)?;
            } else {
                let source = match &source {
                    Some(place) => self.place(place)?.open(OFlags::RDONLY)?,
                    None => from.open(OFlags::RDONLY)?,
                };
                let len = if let Data::UpTo(len) = data { len.min(size) } else { size };
                work.copy(&source, twin.fd(), len)?;
            }
            let at = At::of_fd(twin.fd().as_fd());
            if data == Data::None && size > 0 {
                self.set_mark(&at, "metacopy", &[])?;
            }
            self.copy_attributes(from, stat, &at, true)?;
            if !self.volatile && size > 0 && data != Data::None {
                work.sync(twin.fd())?;
            }
            Ok(())
        };
        match built() {
            Ok(()) => {
                if data == Data::None
                    && let Some(place) = source
                {
                    node.state.lock().below = Below::of(vec![place]);
                }
                Ok(twin)
            }
            Err(e) => {
                self.discard(&twin);
                Err(e)
            }
        }
    }

    /// An empty file in the work folder; without a name where its file system
    /// knows such files, so that not even a crash leaves it behind.
    fn new_twin(&self) -> Result<Twin, Errno> {
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
    fn name_twin(&self, twin: &Twin, to: &At<'_>) -> Result<(), Errno> {
        let moved = match twin {
            Twin::Nameless(fd) => At::of_fd(fd.as_fd()).link(to),
            Twin::Named(_, name) => self.in_work(name)?.rename(to),
        };
        if moved.is_err() {
            self.discard(twin);
        }
        moved
    }

    fn discard(&self, twin: &Twin) {
        if let Twin::Named(_, name) = twin
            && let Ok(at) = self.in_work(name)
        {
            let _ = at.unlink(AtFlags::empty());
        }
    }

    fn copy_other(
        &self,
        node: &Node,
        from: &At<'_>,
        stat: &Stat,
        to: &At<'_>,
    ) -> Result<(), Errno> {
        let name = self.twin_name();
        let twin = self.in_work(&name)?;
        match node.kind {
            FileType::Directory => rustix::fs::mkdirat(&twin.dir, twin.name, Mode::RWXU)?,
            FileType::Symlink => {
                let target = from.read_link()?;
                rustix::fs::symlinkat(target.as_c_str(), &twin.dir, twin.name)?;
            }
            kind => {
                rustix::fs::mknodat(&twin.dir, twin.name, kind, mode(stat.st_mode), stat.st_rdev)?
            }
        }
        let moved = self
            .copy_attributes(from, stat, &twin, node.kind != FileType::Symlink)
            .and_then(|()| twin.rename(to));
        if moved.is_err() {
            let _ = clear_twin(&twin);
        }
        moved
    }

    /// Copies the data a metacopy still lacks; its mark goes last, so that a
    /// crash before leaves it a metacopy.
    fn fill_metacopy(&self, node: &Node, data: Data, work: &mut Work) -> Result<(), Errno> {
        let path = node.upper_path().ok_or(Errno::NOENT)?;
        let at = self.upper(&path)?;
        work.path = Some(path.clone());
        let stat = at.stat()?;
        let place = node.state.lock().below.places().first().cloned().ok_or(Errno::IO)?;
        work.note(&stat, Some(place.layer));
        let source = self.place(&place)?.open(OFlags::RDONLY)?;
        let target = at.open(OFlags::RDWR)?;
        let size = stat.st_size as u64;
        let len = if let Data::UpTo(len) = data { len.min(size) } else { size };
        work.copy(&source, &target, len)?;
        if !self.volatile {
            work.sync(&target)?;
        }
        at.set_times(&times_of(&stat))?;
        self.clear_mark(&at, "metacopy")?;
        Ok(())
    }

    /// Gives the twin the owner, attributes, mode and times of its model, in
    /// the order in which none undoes another, and the mark of its origin.
    fn copy_attributes(
        &self,
        from: &At<'_>,
        stat: &Stat,
        to: &At<'_>,
        has_mode: bool,
    ) -> Result<(), Errno> {
        to.chown(Some(stat.st_uid), Some(stat.st_gid))?;
        for name in from.xattr_names()?.split(|b| *b == 0).filter(|n| !n.is_empty()) {
            let name = OsStr::from_bytes(name);
            if is_mark(name) {
                continue;
            }
            if let Some(value) = from.xattr(name)? {
                match to.set_xattr(name, &value, XattrFlags::empty()) {
                    Ok(()) | Err(Errno::OPNOTSUPP) => {}
                    // An ordinary user may see attributes that only root sets.
                    Err(Errno::PERM) if !self.privileged => {}
                    Err(e) => return Err(e),
                }
            }
        }
        if has_mode {
            to.chmod(stat.st_mode)?;
        }
        let handle = handle::encode(&from.dir, from.name).ok();
        if let Some(mark) = handle.as_ref().and_then(origin::encode) {
            // An upper file system without such attributes only costs stable
            // numbers after a remount.
            match self.set_mark(to, "origin", &mark) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(e) => return Err(e),
            }
        }
        to.set_times(&times_of(stat))
    }
}

/// What a copy-up did, for whoever observes it. No clock is read for it: most
/// of the time nobody does.
#[derive(Debug, Default)]
struct Work {
    path: Option<PathBuf>,
    size: u64,
    mode: u32,
    layer: u32,
    moved: Moved,
    n_fsyncs: u32,
    is_parent: bool,
}

impl Work {
    /// The object before it was copied, and the layer that shows it; none for
    /// one that is only open.
    fn note(&mut self, stat: &Stat, layer: Option<u16>) {
        (self.size, self.mode) = (stat.st_size as u64, stat.st_mode);
        self.layer = layer.map_or(u32::MAX, u32::from);
    }

    fn copy(&mut self, from: &OwnedFd, to: &OwnedFd, len: u64) -> Result<(), Errno> {
        self.moved = copy_data(from, to, len)?;
        Ok(())
    }

    fn sync(&mut self, file: &OwnedFd) -> Result<(), Errno> {
        self.n_fsyncs += 1;
        rustix::fs::fsync(file)
    }
}

/// A copy that is not finished.
enum Twin {
    Nameless(OwnedFd),
    Named(OwnedFd, PathBuf),
}

impl Twin {
    fn fd(&self) -> &OwnedFd {
        match self {
            Self::Nameless(fd) | Self::Named(fd, _) => fd,
        }
    }
}

fn done(node: &Node, data: Data) -> bool {
    let state = node.state.lock();
    node.ino == ROOT || (state.upper && (!state.metacopy || data == Data::None))
}

pub(crate) fn times_of(stat: &Stat) -> Timestamps {
    let time = |sec: i64, nsec: u64| Timespec { tv_sec: sec, tv_nsec: nsec as _ };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
