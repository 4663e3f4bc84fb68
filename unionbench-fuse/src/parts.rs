//! Where the parts of an object lie in the layers: the merged directories of a
//! directory, and the file that holds a metacopy's data.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use crate::below::{Below, Place};
use crate::layer::{At, Dir, join};
use crate::marks::Opaque;
use crate::node::{Node, State};
use crate::union::Union;

/// What a layer has at the end of an absolute redirect.
struct End {
    /// What is there, if anything is.
    found: Option<Stat>,
    /// A directory on the way hides the layers below, or something that is no
    /// directory ends the way.
    last: bool,
    /// Where the layers below have it: directories on the way may be
    /// redirected themselves.
    below: PathBuf,
}

impl Union {
    /// The parts of a directory: its number, attributes and state.
    pub(crate) fn dir_parts(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        upper: bool,
        dirs: &[u16],
    ) -> Result<(u64, Stat, State), Errno> {
        let mut redirect: Option<PathBuf> = None;
        let mut lowers: Vec<Place> = Vec::new();
        let mut stop = false;
        let mut stat = None;
        let mut impure = false;
        if upper {
            let path = join(&parent.upper_path().ok_or(Errno::NOENT)?, name);
            let dir = self.layers[0].dir(&path)?;
            let marks = self.dir_marks(&dir)?;
            stop = marks.opaque == Opaque::Yes;
            redirect = marks.redirect;
            impure = marks.impure;
            stat = Some(stat_dir(&dir)?);
        }
        for layer in u16::from(self.has_upper)..self.n_merged {
            if stop {
                break;
            }
            let path = match &redirect {
                None if !dirs.contains(&layer) => continue,
                None => match parent.part(layer) {
                    Some(dir) => join(&dir, name),
                    None => continue,
                },
                Some(to) => {
                    let Some(path) = target_in(parent, layer, to) else { continue };
                    if to.is_absolute() {
                        let end = self.end_of(layer, &path)?;
                        stop = end.last;
                        redirect = Some(end.below);
                        match end.found {
                            None => continue,
                            Some(stat) if !is_dir(&stat) => break,
                            Some(_) => {}
                        }
                    } else {
                        match self.layers[usize::from(layer)].at(&path).and_then(|at| at.stat()) {
                            Ok(stat) if is_dir(&stat) => {}
                            Err(Errno::NOENT) => continue,
                            Err(e) => return Err(e),
                            Ok(_) => break,
                        }
                    }
                    path
                }
            };
            let dir = self.layers[usize::from(layer)].dir(&path)?;
            let marks = self.dir_marks(&dir)?;
            if marks.opaque == Opaque::Yes {
                stop = true;
            } else if let Some(to) = marks.redirect {
                stop &= !to.is_absolute();
                redirect = Some(beside(redirect.as_deref(), to));
            }
            if redirect.is_some() {
                self.may_follow()?;
            }
            if lowers.is_empty() {
                stat = Some(stat_dir(&dir)?);
            }
            lowers.push(Place { layer, path: Arc::from(path) });
        }
        let stat = stat.ok_or(Errno::NOENT)?;
        let ino = self.number(stat.st_dev, stat.st_ino);
        Ok((ino, stat, State { upper, impure, below: Below::of(lowers), ..State::default() }))
    }

    /// Whoever may write to a layer could lead by a redirect where he may not go
    /// himself, so mounts can be told to follow none.
    fn may_follow(&self) -> Result<(), Errno> {
        if self.follow_none { Err(Errno::PERM) } else { Ok(()) }
    }

    /// Walks to an object of a layer, name by name, as the kernel does
    /// (`ovl_lookup_layer`): each directory on the way may hide the layers below
    /// or be redirected in them.
    fn end_of(&self, layer: u16, path: &Path) -> Result<End, Errno> {
        let layer = &self.layers[usize::from(layer)];
        let bytes = path.as_os_str().as_bytes();
        let mut last = false;
        let mut below = Path::new("/").join(path);
        let ends = (0..=bytes.len()).filter(|i| bytes.get(*i).is_none_or(|b| *b == b'/'));
        for end in ends {
            let so_far = Path::new(OsStr::from_bytes(&bytes[..end]));
            let stat = match layer.at(so_far).and_then(|at| at.stat()) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => return Ok(End { found: None, last, below }),
                Err(e) => return Err(e),
            };
            if end == bytes.len() {
                return Ok(End { found: Some(stat), last, below });
            }
            if !is_dir(&stat) {
                return Ok(End { found: None, last: true, below });
            }
            let marks = self.dir_marks(&layer.dir(so_far)?)?;
            if marks.opaque == Opaque::Yes {
                last = true;
            } else if let Some(to) = marks.redirect {
                last &= !to.is_absolute();
                let left = bytes.len() - end;
                let kept = &below.as_os_str().as_bytes()[..below.as_os_str().len() - left];
                let to = beside(Some(Path::new(OsStr::from_bytes(kept))), to);
                let mut next = to.into_os_string();
                next.push(OsStr::from_bytes(&bytes[end..]));
                below = PathBuf::from(next);
            }
        }
        Ok(End { found: None, last, below })
    }

    /// If the lower file is marked as a metacopy: where its data lies, then the
    /// file itself.
    pub(crate) fn metacopy_places(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        layer: u16,
        at: &At<'_>,
    ) -> Result<Option<Vec<Place>>, Errno> {
        let names = at.xattr_names()?;
        if !self.is_metacopy(at, &names)? {
            return Ok(None);
        }
        let data = self.metacopy_data(parent, name, layer, at, &names, None)?;
        let dir = parent.part(layer).ok_or(Errno::NOENT)?;
        Ok(Some(vec![data, Place { layer, path: Arc::from(join(&dir, name)) }]))
    }

    /// The first file with data below a metacopy, by its redirect if it has
    /// one; data-only layers are reached by absolute redirects alone. If `origin`
    /// is given, the first lower file must be that one (`ESTALE`).
    pub(crate) fn metacopy_data(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        layer: u16,
        at: &At<'_>,
        names: &[u8],
        mut origin: Option<&Stat>,
    ) -> Result<Place, Errno> {
        let redirect = self.redirect(at, names)?;
        if redirect.is_some() {
            self.may_follow()?;
        }
        let mut target = redirect.unwrap_or_else(|| PathBuf::from(name.to_owned()));
        for below in (layer + 1)..self.layers.len() as u16 {
            let data_only = below >= self.n_merged;
            if data_only && !target.is_absolute() {
                break;
            }
            let Some(path) = target_in(parent, below, &target) else { continue };
            let mut last = data_only;
            if target.is_absolute() && !data_only {
                let end = self.end_of(below, &path)?;
                (last, target) = (end.last, end.below);
                match end.found {
                    None if last => break,
                    None => continue,
                    Some(_) => {}
                }
            }
            let found = self.layers[usize::from(below)].at(&path);
            let (at, stat) = match found.and_then(|at| at.stat().map(|stat| (at, stat))) {
                Ok(found) => found,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(e) => return Err(e),
            };
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                break;
            }
            let other =
                |origin: &Stat| (origin.st_dev, origin.st_ino) != (stat.st_dev, stat.st_ino);
            if origin.take().filter(|_| !data_only).is_some_and(other) {
                return Err(Errno::STALE);
            }
            let names = at.xattr_names()?;
            if data_only || !self.is_metacopy(&at, &names)? {
                return Ok(Place { layer: below, path: Arc::from(path) });
            }
            if let Some(to) = self.redirect(&at, &names)? {
                last &= !to.is_absolute();
                target = beside(Some(&target), to);
            }
            if last {
                break;
            }
        }
        Err(Errno::IO)
    }
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// A redirect found at the end of another: a name alone replaces the last one
/// of an absolute path.
fn beside(path: Option<&Path>, to: PathBuf) -> PathBuf {
    match path.filter(|path| path.is_absolute() && !to.is_absolute()) {
        Some(path) => path.with_file_name(&to),
        None => to,
    }
}

/// Where a redirect leads in a layer: from its root, or beside the parent's
/// part in it.
fn target_in(parent: &Node, layer: u16, to: &Path) -> Option<PathBuf> {
    match to.strip_prefix("/") {
        Ok(inside) => Some(inside.to_path_buf()),
        Err(_) => parent.part(layer).map(|dir| join(&dir, to.as_os_str())),
    }
}

pub(crate) fn stat_dir(dir: &Dir<'_>) -> Result<Stat, Errno> {
    rustix::fs::statat(dir, "", AtFlags::EMPTY_PATH)
}
