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
use crate::below::Below;
use crate::counters::Counters;
use crate::data::{Moved, copy_data};
use crate::hard_links::{Indexed, Marks};
use crate::layer::At;
use crate::marks::is_mark;
use crate::node::{Alias, Node, ROOT};
use crate::sys::probe_points::{CopyUp, served, unionbench_copy_up_begin, unionbench_copy_up_end};
use crate::twin::Twin;
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
        self.bring_up(node, data, false, None)
    }

    /// As [`Union::copy_up`], under this one of the object's names.
    pub(crate) fn copy_up_name(
        &self,
        node: &Arc<Node>,
        parent: &Arc<Node>,
        slot: u32,
        data: Data,
    ) -> Result<(), Errno> {
        self.bring_up(node, data, false, node.alias(parent, slot))
    }

    fn bring_up(
        &self,
        node: &Arc<Node>,
        data: Data,
        is_parent: bool,
        name: Option<Alias>,
    ) -> Result<(), Errno> {
        self.check_writable()?;
        if done(node, data, name.as_ref()) {
            return Ok(());
        }
        let first = || node.state.lock().aliases.all().first().cloned();
        let alias = name.clone().or_else(first);
        if let Some(alias) = &alias {
            self.bring_up(&alias.parent, Data::All, true, None)?;
        }
        let _copying = node.copying.lock();
        if done(node, data, name.as_ref()) {
            return Ok(());
        }
        unionbench_copy_up_begin(node.ino);
        let mut work = Work { is_parent, ..Work::default() };
        let copied = match &alias {
            _ if node.in_upper() => self.supplement(node, alias.as_ref(), data, &mut work),
            Some(alias) => self.copy_object(node, alias, data, &mut work),
            None => self.copy_nameless(node, data, &mut work),
        };
        let bytes = work.moved.copied + work.moved.rewritten;
        let error = copied.as_ref().err().map_or(0, |e| e.raw_os_error());
        self.tell(node, bytes, error, &work);
        copied?;
        Counters::add(&self.counters.copy_ups, 1);
        Counters::add(&self.counters.copied_bytes, bytes);
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

    /// Records that the object is now in the upper layer, under that name if
    /// one is given, as that entry of the inode index if one is. All of it is
    /// seen at once, since it says where the object is found.
    fn settle(&self, node: &Node, data: Data, name: Option<&Alias>, indexed: Option<Indexed>) {
        let mut state = node.state.lock();
        state.upper = true;
        if !node.is_dir() {
            let mut places = std::mem::take(&mut state.below);
            state.metacopy = data == Data::None && node.kind == FileType::RegularFile;
            let kept = places.places().iter().take(usize::from(state.metacopy));
            let kept = kept.cloned().collect();
            places.set_places(kept);
            if let Some(indexed) = indexed {
                places.set_indexed(indexed);
            }
            state.below = places.or_nothing();
        }
        if let Some(name) = name {
            state.aliases.mark_upper(name);
        }
        drop(state);
        node.epoch.fetch_add(1, Ordering::Release);
        if let Some(name) = name {
            name.parent.with_index(|index| index.set_layer(name.slot, 0));
        }
    }

    /// Gives an object of the upper layer what it lacks: data, or a name.
    fn supplement(
        &self,
        node: &Arc<Node>,
        alias: Option<&Alias>,
        data: Data,
        work: &mut Work,
    ) -> Result<(), Errno> {
        if node.is_nameless() && node.indexed().is_none() {
            // What is still open may be the lower file.
            return Err(Errno::NOENT);
        }
        if node.state.lock().metacopy && data != Data::None {
            self.fill_metacopy(node, data, work)?;
            self.settle(node, data, None, None);
        }
        let Some(alias) = alias.filter(|alias| !alias.upper && !node.is_dir()) else {
            return Ok(());
        };
        if work.path.is_none() {
            work.path = node.path_of(alias);
            work.note(&self.spot(node)?.at(self)?.stat()?, None);
        }
        self.link_up(node, alias)
    }

    fn copy_object(
        &self,
        node: &Arc<Node>,
        alias: &Alias,
        data: Data,
        work: &mut Work,
    ) -> Result<(), Errno> {
        let path = node.path_of(alias).ok_or(Errno::NOENT)?;
        work.path = Some(path.clone());
        let spot = self.spot(node)?;
        let from = spot.at(self)?;
        let stat = from.stat()?;
        let layer = if let Spot::In(layer, _) = &spot { Some(*layer) } else { None };
        work.note(&stat, layer);
        let model = Model { from: &from, stat: &stat, marks: self.marks_of(&from, layer, &stat) };
        let indexed = model.marks.entry();
        let to = match &indexed {
            Some(indexed) => self.index_entry(&indexed.name)?,
            None => self.upper(&path)?,
        };
        let above = At { dir: to.dir.clone(), name: Path::new("") };
        let parent_times = above.stat()?;
        if indexed.is_none() {
            self.mark_impure(&alias.parent, &above)?;
        }
        match node.kind {
            FileType::RegularFile => {
                let twin = self.copy_file(node, &model, data, work)?;
                self.name_twin(&twin, &to)?;
            }
            _ => self.copy_other(node, &model, &to)?,
        }
        if indexed.is_some() {
            self.settle(node, data, None, indexed);
            return self.link_up(node, alias);
        }
        self.settle(node, data, Some(alias), None);
        // The union's view of the parent did not change, so its times must not.
        above.set_times(&times_of(&parent_times))
    }

    /// Copies a file whose last name is gone: the copy gets none either, and
    /// lives as long as the node is open.
    fn copy_nameless(&self, node: &Arc<Node>, data: Data, work: &mut Work) -> Result<(), Errno> {
        let source = node.open_fd().ok_or(Errno::NOENT)?;
        let from = At::of_fd(source.as_fd());
        let stat = from.stat()?;
        if node.kind != FileType::RegularFile {
            return Err(Errno::NOENT);
        }
        work.note(&stat, None);
        let model = Model { from: &from, stat: &stat, marks: Marks::default() };
        let data = if data == Data::None { Data::All } else { data };
        let twin = self.copy_file(node, &model, data, work)?;
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
        self.settle(node, data, None, None);
        Ok(())
    }

    fn copy_file(
        &self,
        node: &Arc<Node>,
        model: &Model<'_>,
        data: Data,
        work: &mut Work,
    ) -> Result<Twin, Errno> {
        let Model { from, stat, .. } = model;
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
                let _long = self.tree.long();
                work.copy(&source, twin.fd(), len)?;
            }
            let at = At::of_fd(twin.fd().as_fd());
            if data == Data::None && size > 0 {
                self.set_mark(&at, "metacopy", &[])?;
            }
            self.copy_attributes(model, &at, true)?;
            if !self.volatile && size > 0 && data != Data::None {
                let _long = self.tree.long();
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

    fn copy_other(&self, node: &Node, model: &Model<'_>, to: &At<'_>) -> Result<(), Errno> {
        let Model { from, stat, .. } = model;
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
            .copy_attributes(model, &twin, node.kind != FileType::Symlink)
            .and_then(|()| twin.rename(to));
        if moved.is_err() {
            let _ = clear_twin(&twin);
        }
        moved
    }

    /// Copies the data a metacopy still lacks; its mark goes last, so that a
    /// crash before leaves it a metacopy.
    fn fill_metacopy(&self, node: &Node, data: Data, work: &mut Work) -> Result<(), Errno> {
        let spot = self.spot(node)?;
        let at = spot.at(self)?;
        work.path = node.upper_path();
        let stat = at.stat()?;
        let place = node.state.lock().below.places().first().cloned().ok_or(Errno::IO)?;
        work.note(&stat, Some(place.layer));
        let source = self.place(&place)?.open(OFlags::RDONLY)?;
        let target = at.open(OFlags::RDWR)?;
        let size = stat.st_size as u64;
        let len = if let Data::UpTo(len) = data { len.min(size) } else { size };
        let _long = self.tree.long();
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
    fn copy_attributes(&self, model: &Model<'_>, to: &At<'_>, has_mode: bool) -> Result<(), Errno> {
        let Model { from, stat, marks } = model;
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
        self.set_link_marks(to, marks)?;
        to.set_times(&times_of(stat))
    }
}

/// What is copied, and the marks that the copy gets.
struct Model<'a> {
    from: &'a At<'a>,
    stat: &'a Stat,
    marks: Marks,
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

fn done(node: &Node, data: Data, name: Option<&Alias>) -> bool {
    let has_name = || name.is_none_or(|a| node.alias(&a.parent, a.slot).is_none_or(|a| a.upper));
    let complete = {
        let state = node.state.lock();
        node.ino == ROOT || (state.upper && (!state.metacopy || data == Data::None))
    };
    complete && (node.is_dir() || has_name())
}

pub(crate) fn times_of(stat: &Stat) -> Timestamps {
    let time = |sec: i64, nsec: u64| Timespec { tv_sec: sec, tv_nsec: nsec as _ };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
