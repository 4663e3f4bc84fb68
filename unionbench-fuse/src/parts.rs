//! Where the parts of an object lie in the layers: the merged directories of a
//! directory, and the file that holds a metacopy's data.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use crate::layer::{At, Dir, join};
use crate::marks::Opaque;
use crate::node::{Below, Node, Place, State};
use crate::union::Union;

/// What a layer has at the end of a redirect.
enum End {
    Nothing,
    /// A directory, and whether one on the way hides the layers below.
    Dir {
        last: bool,
    },
    /// Something that ends the search.
    Other,
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
        if upper {
            let path = join(&parent.upper_path().ok_or(Errno::NOENT)?, name);
            let dir = self.layers[0].dir(&path)?;
            let marks = self.dir_marks(&dir)?;
            stop = marks.opaque == Opaque::Yes;
            redirect = marks.redirect;
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
                    match self.end_of(layer, &path)? {
                        End::Nothing => continue,
                        End::Other => break,
                        End::Dir { last } => stop = last,
                    }
                    path
                }
            };
            let dir = self.layers[usize::from(layer)].dir(&path)?;
            let marks = self.dir_marks(&dir)?;
            stop |= marks.opaque == Opaque::Yes;
            redirect = marks.redirect.or(redirect);
            if lowers.is_empty() {
                stat = Some(stat_dir(&dir)?);
            }
            lowers.push(Place { layer, path: Arc::from(path) });
        }
        let stat = stat.ok_or(Errno::NOENT)?;
        let ino = self.number(stat.st_dev, stat.st_ino);
        Ok((ino, stat, State { upper, below: Below::of(lowers), ..State::default() }))
    }

    /// Walks to a directory of a layer, name by name, as the kernel does.
    fn end_of(&self, layer: u16, path: &Path) -> Result<End, Errno> {
        let layer = &self.layers[usize::from(layer)];
        let mut last = false;
        let bytes = path.as_os_str().as_bytes();
        let ends = (0..=bytes.len()).filter(|i| bytes.get(*i).is_none_or(|b| *b == b'/'));
        for end in ends {
            let so_far = Path::new(OsStr::from_bytes(&bytes[..end]));
            let stat = match layer.at(so_far).and_then(|at| at.stat()) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => return Ok(End::Nothing),
                Err(e) => return Err(e),
            };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return Ok(End::Other);
            }
            if end < bytes.len() {
                last |= self.dir_marks(&layer.dir(so_far)?)?.opaque == Opaque::Yes;
            }
        }
        Ok(End::Dir { last })
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
        let data = self.metacopy_data(parent, name, layer, at, &names)?;
        let dir = parent.part(layer).ok_or(Errno::NOENT)?;
        Ok(Some(vec![data, Place { layer, path: Arc::from(join(&dir, name)) }]))
    }

    /// The first file with data below a metacopy, by its redirect if it has
    /// one; data-only layers are reached by absolute redirects alone.
    pub(crate) fn metacopy_data(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        layer: u16,
        at: &At<'_>,
        names: &[u8],
    ) -> Result<Place, Errno> {
        let mut target =
            self.redirect(at, names)?.unwrap_or_else(|| PathBuf::from(name.to_owned()));
        for below in (layer + 1)..self.layers.len() as u16 {
            let data_only = below >= self.n_merged;
            if data_only && !target.is_absolute() {
                break;
            }
            let Some(path) = target_in(parent, below, &target) else { continue };
            let found = self.layers[usize::from(below)].at(&path);
            let (at, stat) = match found.and_then(|at| at.stat().map(|stat| (at, stat))) {
                Ok(found) => found,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(e) => return Err(e),
            };
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                break;
            }
            let names = at.xattr_names()?;
            if data_only || !self.is_metacopy(&at, &names)? {
                return Ok(Place { layer: below, path: Arc::from(path) });
            }
            target = self.redirect(&at, &names)?.unwrap_or(target);
        }
        Err(Errno::IO)
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

fn stat_dir(dir: &Dir<'_>) -> Result<Stat, Errno> {
    rustix::fs::statat(dir, "", AtFlags::EMPTY_PATH)
}
