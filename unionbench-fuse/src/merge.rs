//! A directory's index, and reading all its layers into it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{MappedMutexGuard, MutexGuard};
use rustix::fs::{FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use crate::below::Place;
use crate::counters::Counters;
use crate::index::{Index, New, What};
use crate::layer::At;
use crate::marks::Opaque;
use crate::node::Node;
use crate::parts::stat_dir;
use crate::union::Union;
use crate::whiteout::Meaning;

type Hidden = HashSet<Box<OsStr>>;

/// One name as a layer lists it.
struct Listed<'a> {
    name: &'a OsStr,
    kind: FileType,
    layer: u16,
    ino: u64,
    lower: bool,
}

impl Union {
    /// The directory's index with all its names, read from its layers if it
    /// has not been.
    pub(crate) fn index_of<'a>(&self, dir: &'a Node) -> Result<MappedMutexGuard<'a, Index>, Errno> {
        let mut guard = self.begun_index(dir)?;
        self.complete(dir, &mut guard)?;
        Ok(guard)
    }

    /// The directory's index, which knows at least `name`: its entry, or that
    /// there is none.
    pub(crate) fn index_for<'a>(
        &self,
        dir: &'a Node,
        name: &OsStr,
    ) -> Result<MappedMutexGuard<'a, Index>, Errno> {
        let mut guard = self.begun_index(dir)?;
        if !guard.knows(name) && !self.probe(dir, name, &mut guard)? {
            self.complete(dir, &mut guard)?;
        }
        Ok(guard)
    }

    /// The directory's index, of which more is known or less: for who has
    /// asked for the names that he is about.
    pub(crate) fn begun_index<'a>(
        &self,
        dir: &'a Node,
    ) -> Result<MappedMutexGuard<'a, Index>, Errno> {
        let mut guard = dir.index().ok_or(Errno::NOTDIR)?.lock();
        if guard.is_none() {
            let plan = self.plan(dir)?;
            let mut index = Index::default();
            match plan.partial {
                Some(partial) => index.partial = Some(Box::new(partial)),
                None => self.read_into(dir, &mut index, &plan.devices)?,
            }
            *guard = Some(index);
        }
        MutexGuard::try_map(guard, Option::as_mut).map_err(|_| Errno::IO)
    }

    /// Reads what is not known yet. What is known stays as it is: it may have
    /// been changed since, and its slots are in use.
    fn complete(&self, dir: &Node, index: &mut Index) -> Result<(), Errno> {
        if index.partial.is_none() {
            return Ok(());
        }
        index.settle();
        if let Err(e) = self.read_into(dir, index, &[]) {
            index.drop_unsettled();
            return Err(e);
        }
        index.partial = None;
        Ok(())
    }

    /// Adds the names of all layers. `devices` are those of the directory's
    /// parts, if they are known.
    fn read_into(&self, dir: &Node, index: &mut Index, devices: &[u64]) -> Result<(), Errno> {
        Counters::add(&self.counters.directories_indexed, 1);
        let _long = self.tree.long();
        let (upper, lowers) = {
            let state = dir.state.lock();
            (state.upper, state.below.places().to_vec())
        };
        let mut devices = devices.iter().copied();
        if upper {
            let path = dir.upper_path().ok_or(Errno::NOENT)?;
            let place = Place { layer: 0, path: Arc::from(path) };
            self.read_part(index, &place, devices.next(), &mut Hidden::new())?;
        }
        // Names that a lower layer's whiteout hides from the layers below it.
        let mut hidden = Hidden::new();
        for place in &lowers {
            if self.read_part(index, place, devices.next(), &mut hidden)? {
                break;
            }
        }
        index.shrink();
        Ok(())
    }

    /// Adds one layer's names to the index; true if the layer hides all below.
    fn read_part(
        &self,
        index: &mut Index,
        place: &Place,
        mut device: Option<u64>,
        hidden: &mut Hidden,
    ) -> Result<bool, Errno> {
        let layer = place.layer;
        let lower = !self.is_upper(layer);
        let dir = self.layers[usize::from(layer)].dir(&place.path)?;
        let marks = lower && self.dir_marks(&dir)?.opaque == Opaque::MayHoldMarks;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&dir, ".", flags, Mode::empty())?;
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
                || (lower && name.as_bytes().starts_with(b".wh."));
            if suspect {
                let at = At { dir: dir.clone(), name: Path::new(name) };
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
                    Meaning::Hides(_) if index.is_settled(name) => continue,
                    Meaning::Hides(_) => {
                        index.put(name, New { what: What::Whiteout, layer, ino: 0, below: false });
                        continue;
                    }
                }
            }
            if hidden.contains(name) {
                continue;
            }
            let known = lower && kind != FileType::Directory;
            let ino = if known {
                let device = match device {
                    Some(device) => device,
                    // Asked for once a name needs it: of many layers few list
                    // files.
                    None => *device.insert(stat_dir(&dir)?.st_dev),
                };
                self.number(device, item.ino())
            } else {
                0
            };
            merge(index, &Listed { name, kind, layer, ino, lower }, hidden);
        }
        hidden.extend(newly_hidden);
        Ok(hides_all)
    }
}

/// Adds what a layer shows under a name to what the layers above it show.
fn merge(index: &mut Index, listed: &Listed<'_>, hidden: &mut Hidden) {
    let Listed { name, kind, layer, ino, lower } = *listed;
    let is_dir = kind == FileType::Directory;
    let new = New { what: What::Object(kind), layer, ino, below: lower };
    let slot = match index.put_if_absent(name, new) {
        Ok(slot) => {
            if lower && is_dir {
                index.add_dir(slot, layer);
            }
            return;
        }
        Err(slot) => slot,
    };
    let Some((what, settled)) = index.entry(slot).map(|e| (e.what, e.settled)) else { return };
    if !lower || settled {
        return;
    }
    index.set_below(slot);
    if what == What::Object(FileType::Directory) && is_dir {
        index.add_dir(slot, layer);
    } else if what == What::Object(FileType::Directory) {
        // A file under a directory ends the merge: directories further down
        // are not part of it.
        hidden.insert(name.into());
    }
}
