//! Copy-up builds a twin of the lower object in the work folder (a file
//! without a name where the file system can), then gives it its name in the
//! upper layer in one step. Invariant: the union shows the lower object or the
//! finished twin, never a part. A crash leaves only litter in the work folder,
//! which the next mount clears.
//!
//! Parents are copied first, each under its own lock and never while a child's
//! is held, so two copy-ups cannot wait for each other.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

use crate::counters::Counters;
use crate::layer::At;
use crate::node::{Node, ROOT};
use crate::origin;
use crate::sys::handle;
use crate::sys::probe_points::{unionbench_copy_up_begin, unionbench_copy_up_end};
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
        self.check_writable()?;
        if done(node, data) {
            return Ok(());
        }
        let (parent, name) = {
            let state = node.state.lock();
            let alias = state.aliases.first().ok_or(Errno::NOENT)?;
            (alias.parent.clone(), alias.name.clone())
        };
        self.copy_up(&parent, Data::All)?;
        let _copying = node.copying.lock();
        if done(node, data) {
            return Ok(());
        }
        unionbench_copy_up_begin(node.ino);
        let copied = self.copy_object(node, data);
        let bytes = *copied.as_ref().unwrap_or(&0);
        unionbench_copy_up_end(
            node.ino,
            bytes,
            copied.as_ref().err().map_or(0, |e| e.raw_os_error()),
        );
        copied?;
        Counters::add(&self.counters.copy_ups, 1);
        Counters::add(&self.counters.copied_bytes, bytes);
        self.settle(node, data);
        if let Some(entry) = parent.index.lock().as_mut().and_then(|i| i.get_mut(&name)) {
            entry.layer = 0;
        }
        Ok(())
    }

    /// Records that the object is now in the upper layer.
    fn settle(&self, node: &Node, data: Data) {
        let mut state = node.state.lock();
        state.upper = true;
        if let Some(alias) = state.aliases.first_mut() {
            alias.upper = true;
        }
        if !node.is_dir() {
            state.metacopy = data == Data::None && node.kind == FileType::RegularFile;
            let keep = usize::from(state.metacopy);
            state.lowers.truncate(keep);
        }
        node.epoch.fetch_add(1, Ordering::Release);
    }

    fn copy_object(&self, node: &Arc<Node>, data: Data) -> Result<u64, Errno> {
        let path = node.upper_path().ok_or(Errno::NOENT)?;
        if node.in_upper() {
            return self.fill_metacopy(node, &path, data);
        }
        let spot = self.spot(node)?;
        let from = spot.at(self);
        let stat = from.stat()?;
        let parent = path.parent().unwrap_or(Path::new(""));
        let above = self.upper(parent);
        let parent_times = above.stat()?;
        let bytes = match node.kind {
            FileType::RegularFile => self.copy_file(node, &from, &stat, &path, data)?,
            _ => self.copy_other(node, &from, &stat, &path)?,
        };
        // The union's view of the parent did not change, so its times must not.
        above.set_times(&times_of(&parent_times))?;
        Ok(bytes)
    }

    fn copy_file(
        &self,
        node: &Node,
        from: &At<'_>,
        stat: &Stat,
        path: &Path,
        data: Data,
    ) -> Result<u64, Errno> {
        let work = self.in_work(Path::new("."))?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let twin = rustix::fs::openat(work.dir, ".", flags, Mode::RUSR | Mode::WUSR)?;
        let size = stat.st_size as u64;
        let mut bytes = 0;
        if data == Data::None {
            rustix::fs::ftruncate(&twin, size)?;
        } else {
            let place = node.state.lock().lowers.first().cloned().ok_or(Errno::IO)?;
            let source = self.place(&place).open(OFlags::RDONLY)?;
            let len = match data {
                Data::UpTo(len) => len.min(size),
                _ => size,
            };
            bytes = copy_data(&source, &twin, len)?;
        }
        let at = At::of_fd(twin.as_fd());
        if data == Data::None && size > 0 {
            self.set_mark(&at, "metacopy", &[])?;
        }
        self.copy_attributes(from, stat, &at, true)?;
        if !self.volatile && bytes > 0 {
            rustix::fs::fsync(&twin)?;
        }
        let to = self.upper(path);
        rustix::fs::linkat(rustix::fs::CWD, at.proc(), to.dir, to.path, AtFlags::SYMLINK_FOLLOW)?;
        Ok(bytes)
    }

    fn copy_other(
        &self,
        node: &Node,
        from: &At<'_>,
        stat: &Stat,
        path: &Path,
    ) -> Result<u64, Errno> {
        let name = self.twin_name();
        let twin = self.in_work(&name)?;
        match node.kind {
            FileType::Directory => rustix::fs::mkdirat(twin.dir, twin.path, Mode::RWXU)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from.dir, from.path, Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), twin.dir, twin.path)?;
            }
            kind => {
                rustix::fs::mknodat(twin.dir, twin.path, kind, mode(stat.st_mode), stat.st_rdev)?
            }
        }
        let to = self.upper(path);
        let moved = self
            .copy_attributes(from, stat, &twin, node.is_dir() || node.kind != FileType::Symlink)
            .and_then(|()| rustix::fs::renameat(twin.dir, twin.path, to.dir, to.path));
        if moved.is_err() {
            let _ = clear_twin(&twin);
        }
        moved.map(|()| 0)
    }

    /// Copies the data a metacopy still lacks; its mark goes last, so that a
    /// crash before leaves it a metacopy.
    fn fill_metacopy(&self, node: &Node, path: &Path, data: Data) -> Result<u64, Errno> {
        let at = self.upper(path);
        let stat = at.stat()?;
        let place = node.state.lock().lowers.first().cloned().ok_or(Errno::IO)?;
        let source = self.place(&place).open(OFlags::RDONLY)?;
        let target = at.open(OFlags::RDWR)?;
        let size = stat.st_size as u64;
        let len = if let Data::UpTo(len) = data { len.min(size) } else { size };
        let bytes = copy_data(&source, &target, len)?;
        if !self.volatile {
            rustix::fs::fsync(&target)?;
        }
        at.set_times(&times_of(&stat))?;
        at.remove_xattr(&self.mark("metacopy"))?;
        Ok(bytes)
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
        for name in from.xattr_names()? {
            let name = std::os::unix::ffi::OsStrExt::from_bytes(name.as_slice());
            if self.is_mark(name) {
                continue;
            }
            if let Some(value) = from.xattr(name)? {
                match to.set_xattr(name, &value, XattrFlags::empty()) {
                    Ok(()) | Err(Errno::OPNOTSUPP) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        if has_mode {
            to.chmod(stat.st_mode)?;
        }
        let handle = handle::encode(from.dir, from.path).ok();
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

/// Copies the first `len` bytes and leaves holes as holes; returns the bytes
/// copied. Shares blocks where the file system can.
fn copy_data(from: &OwnedFd, to: &OwnedFd, len: u64) -> Result<u64, Errno> {
    if len == 0 {
        return rustix::fs::ftruncate(to, 0).map(|()| 0);
    }
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return rustix::fs::ftruncate(to, len).map(|()| 0);
    }
    rustix::fs::ftruncate(to, len)?;
    let mut copied = 0;
    let mut at = 0;
    while at < len {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) if start < len => start,
            Ok(_) | Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => at,
            Err(e) => return Err(e),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).unwrap_or(len).min(len);
        at = copy_range(from, to, start, end)?;
        copied += at - start;
        if at < end {
            break;
        }
    }
    Ok(copied)
}

/// Copies one run of data; ends early only where the source does.
fn copy_range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<u64, Errno> {
    let (mut source, mut target) = (start, start);
    while source < end {
        let len = (end - source) as usize;
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), len) {
            Ok(0) => break,
            Ok(_) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_by_hand(from, to, source, end);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(source)
}

fn copy_by_hand(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<u64, Errno> {
    let mut buf = vec![0u8; 1 << 20];
    let mut at = start;
    while at < end {
        let want = buf.len().min((end - at) as usize);
        let got = rustix::io::pread(from, &mut buf[..want], at)?;
        if got == 0 {
            break;
        }
        let mut written = 0;
        while written < got {
            written += rustix::io::pwrite(to, &buf[written..got], at + written as u64)?;
        }
        at += got as u64;
    }
    Ok(at)
}
