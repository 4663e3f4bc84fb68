//! One layer: a tar archive written beneath a folder of its own.
//!
//! Every name the archive makes is remembered, so that a second entry of the
//! same name, a whiteout, and a parent that is no directory are seen without
//! asking the disk. Directories are made with mode 0700 and get their own mode
//! and time at the end ([`Written::finish`]): a read-only directory must still
//! take its files, and its time would change with each of them.
//!
//! A directory that the archive names only inside other names is *implied*:
//! the layer says nothing of its mode, which is that of the layer below.

mod written;

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fsetxattr, ftruncate, futimens, linkat, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::beneath::Root;
use super::entries::{Entries, Entry, Kind};
use super::limits::Budget;
use super::name::{OPAQUE, WHITEOUT, clean, hidden_store, joined, shown, split};
use super::{ImageError, Refusal};
use crate::stack::XattrNamespace;

/// What becomes of device nodes in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    Refuse,
    /// Left out and counted.
    Skip,
}

/// How a layer is written.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub label: &'a str,
    pub namespace: XattrNamespace,
    pub devices: Devices,
    pub budget: &'a Budget,
    pub cancel: &'a AtomicBool,
}

/// What a layer holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerReport {
    pub files: u64,
    pub directories: u64,
    pub symlinks: u64,
    pub hard_links: u64,
    pub fifos: u64,
    pub whiteouts: u64,
    pub opaque_directories: u64,
    /// Lengths of regular files added up, holes included.
    pub bytes: u64,
    /// Device nodes left out.
    pub devices_skipped: u64,
    /// Objects whose owner could not be set here.
    pub owners_refused: u64,
    /// Attributes that could not be set here.
    pub xattrs_refused: u64,
}

/// What a name in a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Dir,
    Symlink,
    /// Regular file or FIFO.
    Node,
    Whiteout,
}

/// Attributes of a directory, set at the end.
#[derive(Debug, Clone, Default)]
struct DirAttributes {
    mode: u32,
    owner: Option<(u32, u32)>,
    mtime: (i64, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    opaque: bool,
    implied: bool,
}

const IMPLIED: DirAttributes = DirAttributes {
    mode: 0o755,
    owner: None,
    mtime: (0, 0),
    xattrs: Vec::new(),
    opaque: false,
    implied: true,
};

/// A layer whose files are written and whose directories wait for
/// [`Self::finish`].
pub(super) struct Written {
    root: Root,
    made: HashMap<Vec<u8>, Made>,
    dirs: HashMap<Vec<u8>, DirAttributes>,
    pub report: LayerReport,
}

/// Reads the archive to its end and writes what it holds as `target`, which
/// must not exist.
pub(super) fn write<R: Read>(
    entries: &mut Entries<R>,
    target: &Path,
    rules: Rules<'_>,
) -> Result<Written, ImageError> {
    let root = Root::create(target)
        .map_err(|source| ImageError::Target { path: target.to_owned(), source })?;
    let mut layer = Unpacker {
        rules,
        buffer: vec![0; 256 << 10],
        out: Written {
            root,
            made: HashMap::new(),
            dirs: HashMap::from([(Vec::new(), IMPLIED)]),
            report: LayerReport::default(),
        },
    };
    while let Some(entry) = entries.next()? {
        if rules.cancel.load(Ordering::Relaxed) {
            return Err(ImageError::Cancelled);
        }
        rules.budget.entry().map_err(|why| layer.refused(&entry, why))?;
        layer.take(entry, entries)?;
    }
    layer.out.root.rest();
    Ok(layer.out)
}

struct Unpacker<'a> {
    rules: Rules<'a>,
    buffer: Vec<u8>,
    out: Written,
}

impl Unpacker<'_> {
    fn take<R: Read>(
        &mut self,
        mut entry: Entry,
        entries: &mut Entries<R>,
    ) -> Result<(), ImageError> {
        let path = clean(&entry.path).map_err(|why| self.refused(&entry, why))?;
        check_xattrs(&entry).map_err(|why| self.refused(&entry, why))?;
        let (parent, name) = split(&path);
        if hidden_store(parent) {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(&entry, parent, hidden);
        }
        match entry.kind {
            Kind::Dir => return self.directory(&mut entry, &path),
            Kind::CharDevice | Kind::BlockDevice if self.rules.devices == Devices::Skip => {
                self.out.report.devices_skipped += 1;
                return Ok(());
            }
            Kind::CharDevice | Kind::BlockDevice => {
                return Err(self.refused(&entry, Refusal::Device));
            }
            // A volume's label; GNU tar writes it first.
            Kind::Other(b'V') => return Ok(()),
            Kind::Other(kind) => return Err(self.refused(&entry, Refusal::Kind(kind.into()))),
            _ if path.is_empty() => return Err(self.refused(&entry, Refusal::Name)),
            _ => {}
        }
        if let Some(sparse) = &entry.sparse
            && sparse.real_size > self.rules.budget.limits.file_length
        {
            return Err(self.refused(&entry, Refusal::TooLong(sparse.real_size)));
        }
        let dir = self.parent(&entry, parent)?;
        // A hard link to itself would lose its target here.
        let link = match entry.kind {
            Kind::HardLink => Some(self.link_target(&entry, &path)?),
            _ => None,
        };
        if link.as_deref() == Some(path.as_slice()) {
            return Ok(());
        }
        self.make_room(&entry, &path)?;
        let dir = dir.as_fd();
        let failed = |action: &'static str| {
            let (layer, entry) = (self.rules.label.to_owned(), shown(&entry.path));
            move |e: Errno| ImageError::Write { layer, entry, action, source: e.into() }
        };
        let made = match entry.kind {
            Kind::Symlink => {
                let target = CString::new(entry.link.clone())
                    .map_err(|_| self.refused(&entry, Refusal::Name))?;
                symlinkat(&target, dir, name).map_err(failed("symlink"))?;
                self.attributes_of_special(&entry, dir, name)?;
                self.out.report.symlinks += 1;
                Made::Symlink
            }
            Kind::HardLink => {
                let target = link.unwrap_or_default();
                let (parent, old) = split(&target);
                let failed = failed("link");
                let from =
                    self.out.root.dir(parent).map_err(|e| self.write_error(&entry, "open", e))?;
                linkat(&*from, old, dir, name, AtFlags::empty()).map_err(failed)?;
                self.out.report.hard_links += 1;
                self.out.made.get(&target).copied().unwrap_or(Made::Node)
            }
            Kind::Fifo => {
                let mode = Mode::from_raw_mode(0o600);
                mknodat(dir, name, FileType::Fifo, mode, 0).map_err(failed("mkfifo"))?;
                self.attributes_of_special(&entry, dir, name)?;
                self.out.report.fifos += 1;
                Made::Node
            }
            _ => {
                self.file(&entry, dir, name, entries)?;
                Made::Node
            }
        };
        self.out.made.insert(path, made);
        Ok(())
    }

    /// `.wh..wh..opq` or `.wh.NAME`. Either concerns the layers below only, so
    /// a name that this layer makes itself stays, wherever the two stand in the
    /// archive; a directory of that name then hides what is below it.
    fn whiteout(&mut self, entry: &Entry, parent: &[u8], hidden: &[u8]) -> Result<(), ImageError> {
        if hidden.starts_with(WHITEOUT) && hidden != OPAQUE {
            // Names that aufs keeps for itself, such as `.wh..wh.plnk`.
            return Ok(());
        }
        if entry.kind == Kind::Dir || matches!(hidden, b"" | b"." | b"..") {
            return Err(self.refused(entry, Refusal::Whiteout));
        }
        let dir = self.parent(entry, parent)?;
        if hidden == OPAQUE {
            return self.set_opaque(parent);
        }
        let path = joined(parent, hidden);
        match self.out.made.get(&path) {
            Some(Made::Dir) => return self.set_opaque(&path),
            Some(_) => return Ok(()),
            None => {}
        }
        mknodat(&*dir, hidden, FileType::CharacterDevice, Mode::empty(), 0)
            .map_err(|e| self.write_error(entry, "mknod of a whiteout", e.into()))?;
        self.out.report.whiteouts += 1;
        self.out.made.insert(path, Made::Whiteout);
        Ok(())
    }

    fn set_opaque(&mut self, path: &[u8]) -> Result<(), ImageError> {
        if let Some(dir) = self.out.dirs.get_mut(path)
            && !dir.opaque
        {
            dir.opaque = true;
            self.out.report.opaque_directories += 1;
        }
        Ok(())
    }

    fn directory(&mut self, entry: &mut Entry, path: &[u8]) -> Result<(), ImageError> {
        let (parent, name) = split(path);
        let mut opaque = false;
        if !path.is_empty() {
            let dir = self.parent(entry, parent)?;
            let there = self.out.made.get(path).copied();
            if there.is_some_and(|made| made != Made::Dir) {
                opaque = there == Some(Made::Whiteout);
                self.make_room(entry, path)?;
            }
            if there != Some(Made::Dir) {
                mkdirat(&*dir, name, Mode::from_raw_mode(0o700))
                    .map_err(|e| self.write_error(entry, "mkdir", e.into()))?;
                self.out.made.insert(path.to_vec(), Made::Dir);
                self.out.report.directories += 1;
            }
        }
        let known = self.out.dirs.get(path).is_some_and(|dir| dir.opaque);
        let attributes = DirAttributes {
            mode: entry.mode,
            owner: ids(entry),
            mtime: entry.mtime,
            xattrs: std::mem::take(&mut entry.xattrs),
            opaque: known,
            implied: false,
        };
        self.out.dirs.insert(path.to_vec(), attributes);
        if opaque { self.set_opaque(path) } else { Ok(()) }
    }

    /// The directory at `path`; it and those above are made if the archive has
    /// not named them yet.
    fn parent(&mut self, entry: &Entry, path: &[u8]) -> Result<Arc<OwnedFd>, ImageError> {
        if path.is_empty() || self.out.made.get(path) == Some(&Made::Dir) {
            return self.out.root.dir(path).map_err(|e| self.write_error(entry, "open", e));
        }
        match self.out.made.get(path) {
            // This layer hides a directory below and makes a new one there.
            Some(Made::Whiteout) => self.make_room(entry, path)?,
            Some(_) => {
                return Err(self.refused(entry, Refusal::ThroughNonDirectory(shown(path))));
            }
            None => {}
        }
        let was_hidden = self.out.made.contains_key(path);
        let (above, name) = split(path);
        if name.starts_with(WHITEOUT) {
            return Err(self.refused(entry, Refusal::Whiteout));
        }
        let dir = self.parent(entry, above)?;
        mkdirat(&*dir, name, Mode::from_raw_mode(0o700))
            .map_err(|e| self.write_error(entry, "mkdir", e.into()))?;
        self.out.made.insert(path.to_vec(), Made::Dir);
        self.out.dirs.insert(path.to_vec(), IMPLIED);
        self.out.report.directories += 1;
        if was_hidden {
            // Not the directory that was there: it inherits nothing.
            self.out.dirs.insert(path.to_vec(), DirAttributes { implied: false, ..IMPLIED });
            self.set_opaque(path)?;
        }
        self.out.root.dir(path).map_err(|e| self.write_error(entry, "open", e))
    }

    /// The last of several entries of one name counts: the one before goes.
    fn make_room(&mut self, entry: &Entry, path: &[u8]) -> Result<(), ImageError> {
        let Some(there) = self.out.made.get(path).copied() else { return Ok(()) };
        let (parent, name) = split(path);
        self.out.root.remove(parent, name).map_err(|e| self.write_error(entry, "remove", e))?;
        if there == Made::Dir {
            let below = |known: &Vec<u8>| {
                known.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            };
            self.out.made.retain(|known, _| !below(known));
            self.out.dirs.retain(|known, _| !below(known));
        }
        if there == Made::Whiteout {
            self.out.report.whiteouts -= 1;
        }
        Ok(())
    }

    /// Where a hard link leads: a file that this layer made before.
    fn link_target(&self, entry: &Entry, path: &[u8]) -> Result<Vec<u8>, ImageError> {
        let target = clean(&entry.link).map_err(|why| self.refused(entry, why))?;
        let is_file = matches!(self.out.made.get(&target), Some(Made::Node | Made::Symlink));
        if is_file || target == path {
            return Ok(target);
        }
        Err(self.refused(entry, Refusal::Link(shown(&entry.link))))
    }

    fn file<R: Read>(
        &mut self,
        entry: &Entry,
        dir: BorrowedFd<'_>,
        name: &[u8],
        entries: &mut Entries<R>,
    ) -> Result<(), ImageError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let fd = openat(dir, name, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))
            .map_err(|e| self.write_error(entry, "create", e.into()))?;
        let mut file = File::from(fd);
        let mut length = entry.size;
        match &entry.sparse {
            None => loop {
                let n = entries.read_data(&mut self.buffer)?;
                if n == 0 {
                    break;
                }
                file.write_all(&self.buffer[..n])
                    .map_err(|e| self.write_error(entry, "write", e))?;
                if self.rules.cancel.load(Ordering::Relaxed) {
                    return Err(ImageError::Cancelled);
                }
            },
            Some(sparse) => {
                length = sparse.real_size;
                for &(mut offset, piece) in &sparse.pieces {
                    let end = offset + piece;
                    while offset < end {
                        let n = (end - offset).min(self.buffer.len() as u64) as usize;
                        entries.read_data_exact(&mut self.buffer[..n])?;
                        file.write_all_at(&self.buffer[..n], offset)
                            .map_err(|e| self.write_error(entry, "write", e))?;
                        offset += n as u64;
                    }
                }
                ftruncate(&file, length)
                    .map_err(|e| self.write_error(entry, "truncate", e.into()))?;
            }
        }
        let owned = self.own(fchown_to(&file, ids(entry)), entry)?;
        // Behind the owner, whose change takes the set-id bits away. Without
        // the owner they would lend the rights of somebody else.
        let mode = if owned { entry.mode } else { entry.mode & 0o1777 };
        fchmod(&file, Mode::from_raw_mode(mode))
            .map_err(|e| self.write_error(entry, "chmod", e.into()))?;
        for (name, value) in &entry.xattrs {
            let result = c_string(name)
                .map_or(Err(Errno::INVAL), |n| fsetxattr(&file, &n, value, XattrFlags::empty()));
            self.attribute(result, entry)?;
        }
        futimens(&file, &times(entry.mtime))
            .map_err(|e| self.write_error(entry, "set the time", e.into()))?;
        self.out.report.files += 1;
        self.out.report.bytes += length;
        Ok(())
    }

    /// Owner, mode, attributes and time of what is not opened: links, FIFOs.
    fn attributes_of_special(
        &mut self,
        entry: &Entry,
        dir: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), ImageError> {
        let owner = match ids(entry) {
            Some((uid, gid)) => {
                let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            }
            None => Err(Errno::INVAL),
        };
        self.own(owner, entry)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(dir, name, flags, Mode::empty())
            .map_err(|e| self.write_error(entry, "open", e.into()))?;
        // /proc leads to the object itself, also where it is a link.
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        if entry.kind == Kind::Fifo {
            rustix::fs::chmod(&path, Mode::from_raw_mode(entry.mode))
                .map_err(|e| self.write_error(entry, "chmod", e.into()))?;
        }
        for (name, value) in &entry.xattrs {
            let result = c_string(name).map_or(Err(Errno::INVAL), |n| {
                rustix::fs::setxattr(&path, &n, value, XattrFlags::empty())
            });
            self.attribute(result, entry)?;
        }
        utimensat(dir, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.write_error(entry, "set the time", e.into()))
    }

    /// Whether the owner was set. Where ids are not permitted or not mapped
    /// that is counted, not an error.
    fn own(&mut self, result: Result<(), Errno>, entry: &Entry) -> Result<bool, ImageError> {
        match result {
            Ok(()) => Ok(true),
            Err(Errno::PERM | Errno::INVAL) => {
                self.out.report.owners_refused += 1;
                Ok(false)
            }
            Err(e) => Err(self.write_error(entry, "chown", e.into())),
        }
    }

    fn attribute(&mut self, result: Result<(), Errno>, entry: &Entry) -> Result<(), ImageError> {
        count_refused(result, &mut self.out.report.xattrs_refused)
            .map_err(|e| self.write_error(entry, "setxattr", e.into()))
    }

    fn refused(&self, entry: &Entry, why: Refusal) -> ImageError {
        ImageError::Refused { layer: self.rules.label.to_owned(), entry: shown(&entry.path), why }
    }

    fn write_error(&self, entry: &Entry, action: &'static str, source: io::Error) -> ImageError {
        let (layer, entry) = (self.rules.label.to_owned(), shown(&entry.path));
        ImageError::Write { layer, entry, action, source }
    }
}

/// Attributes by which a layer would steer overlayfs: redirects out of the
/// layer, opacity, metacopy.
fn check_xattrs(entry: &Entry) -> Result<(), Refusal> {
    let owned = entry.xattrs.iter().find(|(name, _)| {
        name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
    });
    match owned {
        Some((name, _)) => Err(Refusal::OverlayXattr(shown(name))),
        None => Ok(()),
    }
}

/// Ids as the kernel takes them; -1 would mean "leave as it is".
fn ids(entry: &Entry) -> Option<(u32, u32)> {
    let id = |value: u64| u32::try_from(value).ok().filter(|&id| id != u32::MAX);
    Some((id(entry.uid)?, id(entry.gid)?))
}

fn fchown_to(fd: impl AsFd, owner: Option<(u32, u32)>) -> Result<(), Errno> {
    let (uid, gid) = owner.ok_or(Errno::INVAL)?;
    fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

fn count_refused(result: Result<(), Errno>, refused: &mut u64) -> Result<(), Errno> {
    match result {
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL | Errno::NODATA | Errno::ACCESS) => {
            *refused += 1;
            Ok(())
        }
        other => other,
    }
}

fn times((tv_sec, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn c_string(bytes: &[u8]) -> Option<CString> {
    CString::new(bytes).ok()
}
