//! From a name to its node: the merged index is built on a directory's first
//! use, and a child's parts are found through marks of its own.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use parking_lot::MappedMutexGuard;
use parking_lot::MutexGuard;
use rustix::fs::{FileType, OFlags, RawDir, Stat};
use rustix::io::Errno;

use crate::counters::Counters;
use crate::index::{Entry, Index, What};
use crate::layer::{At, join};
use crate::node::{Node, Place, State};
use crate::origin;
use crate::sys::handle;
use crate::union::Union;
use crate::whiteout::{Meaning, Opaque, too_long};

impl Union {
    /// The node under `name`, with its attributes.
    pub(crate) fn lookup(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
    ) -> Result<(Arc<Node>, Stat), Errno> {
        Counters::add(&self.counters.lookups, 1);
        if too_long(name) {
            return Err(Errno::NAMETOOLONG);
        }
        let (kind, layer, dirs) = {
            let index = self.index_of(parent)?;
            let entry = index.get(name).ok_or(Errno::NOENT)?;
            match entry.what {
                What::Whiteout => return Err(Errno::NOENT),
                What::Object(kind) => (kind, entry.layer, entry.dirs.clone()),
            }
        };
        self.child(parent, name, kind, layer, &dirs)
    }

    /// The directory's index, read from its layers if this is its first use.
    pub(crate) fn index_of<'a>(&self, dir: &'a Node) -> Result<MappedMutexGuard<'a, Index>, Errno> {
        if !dir.is_dir() {
            return Err(Errno::NOTDIR);
        }
        let mut guard = dir.index.lock();
        if guard.is_none() {
            *guard = Some(self.read_index(dir)?);
        }
        MutexGuard::try_map(guard, Option::as_mut).map_err(|_| Errno::IO)
    }

    fn read_index(&self, dir: &Node) -> Result<Index, Errno> {
        Counters::add(&self.counters.directories_indexed, 1);
        let (upper, lowers) = {
            let state = dir.state.lock();
            (state.upper, state.lowers.clone())
        };
        let mut index = Index::default();
        if upper {
            let path = dir.upper_path().ok_or(Errno::NOENT)?;
            self.read_part(&mut index, 0, &path, &mut HashSet::new())?;
        }
        // Names that a lower layer's whiteout hides from the layers below it.
        let mut hidden = HashSet::new();
        for place in &lowers {
            if self.read_part(&mut index, place.layer, &place.path, &mut hidden)? {
                break;
            }
        }
        Ok(index)
    }

    /// Adds one layer's names to the index; true if the layer hides all below.
    fn read_part(
        &self,
        index: &mut Index,
        layer: u16,
        path: &Path,
        hidden: &mut HashSet<Box<OsStr>>,
    ) -> Result<bool, Errno> {
        let here = self.layers[usize::from(layer)].at(path);
        let lower = !(self.has_upper && layer == 0);
        let marks = self.opaque(&here)? == Opaque::MayHoldMarks;
        let device = here.stat()?.st_dev;
        let fd = here.open(OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut buf = [MaybeUninit::uninit(); 32768];
        let mut listing = RawDir::new(fd, &mut buf);
        let mut hides_all = false;
        let mut newly_hidden = Vec::new();
        while let Some(item) = listing.next() {
            let item = item?;
            let name = OsStr::from_bytes(item.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let mut kind = item.file_type();
            let suspect = marks
                || kind == FileType::Unknown
                || kind == FileType::CharacterDevice
                || name.as_bytes().starts_with(b".wh.");
            if suspect {
                let child = join(path, name);
                let at = self.layers[usize::from(layer)].at(&child);
                if kind == FileType::Unknown {
                    kind = FileType::from_raw_mode(at.stat()?.st_mode);
                }
                match self.meaning(&at, kind, lower, marks)? {
                    Meaning::Object => {}
                    Meaning::HidesAll => {
                        hides_all = true;
                        continue;
                    }
                    Meaning::Nothing => continue,
                    Meaning::Hides(other) if lower => {
                        newly_hidden.push(other.into_boxed_os_str());
                        continue;
                    }
                    Meaning::Hides(_) => {
                        index.insert(new_entry(name, What::Whiteout, layer, 0));
                        continue;
                    }
                }
            }
            if hidden.contains(name) {
                continue;
            }
            let ino = if lower && kind != FileType::Directory {
                self.number(device, item.ino())
            } else {
                0
            };
            merge(index, name, kind, layer, ino, lower, hidden);
        }
        hidden.extend(newly_hidden);
        Ok(hides_all)
    }

    /// The node of an entry: its parts, its number, its attributes.
    pub(crate) fn child(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        kind: FileType,
        layer: u16,
        dirs: &[u16],
    ) -> Result<(Arc<Node>, Stat), Errno> {
        let upper = self.has_upper && layer == 0;
        let (ino, state) = if kind == FileType::Directory {
            self.dir_parts(parent, name, upper, dirs)?
        } else if upper {
            let path = parent.upper_path().ok_or(Errno::NOENT)?;
            let path = join(&path, name);
            self.upper_file(parent, name, &self.upper(&path))?
        } else {
            let dir = self.part(parent, layer).ok_or(Errno::NOENT)?;
            let path = join(&dir.path, name);
            let (data, stat, metacopy) = self.lower_file(parent, layer, &path)?;
            let ino = self.number(stat.st_dev, stat.st_ino);
            let node_state = State { lowers: data, metacopy, ..State::default() };
            if metacopy {
                (ino, node_state)
            } else {
                // The attributes just read are those of the node, unless
                // another name of it has been copied up.
                let node = self.nodes.find_or_make(ino, kind, node_state);
                node.learn_alias(parent, name, false);
                if node.in_upper() {
                    let stat = self.stat(&node)?;
                    return Ok((node, stat));
                }
                let mut stat = stat;
                stat.st_ino = ino;
                return Ok((node, stat));
            }
        };
        let node = self.nodes.find_or_make(ino, kind, state);
        node.learn_alias(parent, name, upper);
        // Later removals and listings find the node by the number kept here.
        if let Some(entry) = parent.index.lock().as_mut().and_then(|i| i.get_mut(name)) {
            entry.ino = ino;
        }
        let stat = self.stat(&node)?;
        Ok((node, stat))
    }

    /// The part of a directory that lies in `layer`.
    pub(crate) fn part(&self, dir: &Node, layer: u16) -> Option<Place> {
        dir.state.lock().lowers.iter().find(|p| p.layer == layer).cloned()
    }

    fn dir_parts(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        upper: bool,
        dirs: &[u16],
    ) -> Result<(u64, State), Errno> {
        let mut redirect: Option<PathBuf> = None;
        let mut lowers = Vec::new();
        let mut stop = false;
        if upper {
            let parent_path = parent.upper_path().ok_or(Errno::NOENT)?;
            let path = join(&parent_path, name);
            let at = self.upper(&path);
            stop = self.opaque(&at)? == Opaque::Yes;
            redirect = self.redirect(&at)?;
        }
        let parts = parent.state.lock().lowers.clone();
        let candidates: Vec<u16> = (u16::from(self.has_upper)..self.layers.len() as u16).collect();
        for layer in candidates {
            if stop {
                break;
            }
            let dir = parts.iter().find(|p| p.layer == layer);
            let path = match (&redirect, dir) {
                (Some(to), _) if to.is_absolute() => {
                    let Ok(inside) = to.strip_prefix("/") else { continue };
                    if !self.is_plain_dir(layer, inside) {
                        continue;
                    }
                    inside.to_path_buf()
                }
                (Some(to), Some(dir)) => {
                    let path = join(&dir.path, to.as_os_str());
                    if !self.is_plain_dir(layer, &path) {
                        continue;
                    }
                    path
                }
                (None, Some(dir)) if dirs.contains(&layer) => join(&dir.path, name),
                _ => continue,
            };
            let at = self.layers[usize::from(layer)].at(&path);
            stop = self.opaque(&at)? == Opaque::Yes;
            if let Some(to) = self.redirect(&at)? {
                redirect = Some(to);
            }
            lowers.push(Place { layer, path: Arc::from(path) });
        }
        let stat = match lowers.first() {
            Some(place) => self.place(place).stat()?,
            None => {
                let parent_path = parent.upper_path().ok_or(Errno::NOENT)?;
                self.upper(&join(&parent_path, name)).stat()?
            }
        };
        let ino = self.number(stat.st_dev, stat.st_ino);
        Ok((ino, State { upper, lowers, ..State::default() }))
    }

    /// The redirect mark, unless it is damaged or would lead outside.
    fn redirect(&self, at: &At<'_>) -> Result<Option<PathBuf>, Errno> {
        let Some(value) = at.xattr(&self.mark("redirect"))? else { return Ok(None) };
        let path = PathBuf::from(OsStr::from_bytes(&value));
        let mut parts = path.components();
        let absolute = path.is_absolute();
        if absolute {
            parts.next();
        }
        let names = parts.clone().count();
        let plain = parts.all(|c| matches!(c, Component::Normal(_)));
        if plain && names > 0 && (absolute || names == 1) { Ok(Some(path)) } else { Err(Errno::IO) }
    }

    /// True if every component of the path is a directory of that layer, not a
    /// symlink that could lead elsewhere.
    fn is_plain_dir(&self, layer: u16, path: &Path) -> bool {
        let mut so_far = PathBuf::new();
        path.components().all(|c| {
            so_far = join(&so_far, c.as_os_str());
            let stat = self.layers[usize::from(layer)].at(&so_far).stat();
            stat.is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
        })
    }

    /// An upper file's number is that of its origin, if the mark names one.
    fn upper_file(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        at: &At<'_>,
    ) -> Result<(u64, State), Errno> {
        let stat = at.stat()?;
        let mut state = State { upper: true, ..State::default() };
        let own = self.number(stat.st_dev, stat.st_ino);
        let Some(mark) = at.xattr(&self.mark("origin"))? else { return Ok((own, state)) };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::RegularFile && at.xattr(&self.mark("metacopy"))?.is_some() {
            state.lowers = vec![self.metacopy_data(parent, name, 0, at)?];
            state.metacopy = true;
        }
        let origin = origin::decode(&mark).and_then(|h| {
            let lowers = self.layers.iter().skip(1);
            lowers.filter_map(|l| handle::open(l.root(), &h).ok()).next()
        });
        let found = origin.and_then(|fd| rustix::fs::fstat(&fd).ok());
        // A hard-linked lower file may have been copied more than once; its
        // number would then be that of two files.
        let usable =
            found.filter(|s| s.st_nlink == 1 && FileType::from_raw_mode(s.st_mode) == kind);
        Ok((usable.map_or(own, |s| self.number(s.st_dev, s.st_ino)), state))
    }

    /// Where a lower file's data lies, and its attributes. Only a sparse file
    /// can be a metacopy, so only such a one is asked for the mark.
    fn lower_file(
        &self,
        parent: &Arc<Node>,
        layer: u16,
        path: &Path,
    ) -> Result<(Vec<Place>, Stat, bool), Errno> {
        let at = self.layers[usize::from(layer)].at(path);
        let stat = at.stat()?;
        let here = Place { layer, path: Arc::from(path) };
        let sparse = stat.st_size > 0 && (stat.st_blocks * 512) < stat.st_size;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let last = usize::from(layer) + 1 == self.layers.len();
        if !regular || !sparse || last || at.xattr(&self.mark("metacopy"))?.is_none() {
            return Ok((vec![here], stat, false));
        }
        let name = path.file_name().unwrap_or_default();
        let data = self.metacopy_data(parent, name, layer, &at)?;
        Ok((vec![data, here], stat, true))
    }

    /// The first file with data below a metacopy, by its redirect if it has
    /// one.
    fn metacopy_data(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        layer: u16,
        at: &At<'_>,
    ) -> Result<Place, Errno> {
        let mut redirect = self.redirect(at)?;
        let parts = parent.state.lock().lowers.clone();
        for below in (layer + 1)..self.layers.len() as u16 {
            let path = match &redirect {
                Some(to) if to.is_absolute() => {
                    let inside = to.strip_prefix("/").map_err(|_| Errno::IO)?;
                    let dir = inside.parent().unwrap_or(Path::new(""));
                    if !self.is_plain_dir(below, dir) {
                        continue;
                    }
                    inside.to_path_buf()
                }
                other => match parts.iter().find(|p| p.layer == below) {
                    Some(dir) => join(&dir.path, other.as_ref().map_or(name, |p| p.as_os_str())),
                    None => continue,
                },
            };
            let at = self.layers[usize::from(below)].at(&path);
            let Ok(stat) = at.stat() else { continue };
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                break;
            }
            if at.xattr(&self.mark("metacopy"))?.is_none() {
                return Ok(Place { layer: below, path: Arc::from(path) });
            }
            redirect = self.redirect(&at)?.or(redirect);
        }
        Err(Errno::IO)
    }
}

fn new_entry(name: &OsStr, what: What, layer: u16, ino: u64) -> Entry {
    Entry { name: name.into(), what, layer, ino, below: false, dirs: Vec::new() }
}

/// Adds what a layer shows under a name to what the layers above it show.
fn merge(
    index: &mut Index,
    name: &OsStr,
    kind: FileType,
    layer: u16,
    ino: u64,
    lower: bool,
    hidden: &mut HashSet<Box<OsStr>>,
) {
    let is_dir = kind == FileType::Directory;
    let Some(entry) = index.get_mut(name) else {
        let mut entry = new_entry(name, What::Object(kind), layer, ino);
        entry.below = lower;
        if lower && is_dir {
            entry.dirs.push(layer);
        }
        index.insert(entry);
        return;
    };
    if !lower {
        return;
    }
    entry.below = true;
    if entry.what == What::Object(FileType::Directory) && is_dir {
        entry.dirs.push(layer);
    } else if entry.what == What::Object(FileType::Directory) {
        // A file under a directory ends the merge: directories further down
        // are not part of it.
        hidden.insert(name.into());
    }
}
