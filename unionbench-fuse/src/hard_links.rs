//! Names of files that have more than one: which of them the upper layer has,
//! and with `index=on` the one upper file they all lead to, and their count.
//!
//! The count of an indexed file is that of its names in the union: those in the
//! upper layer and the lower ones that nothing hides. The kernel keeps it in a
//! mark, relative to the links of the upper file (`U+1`) or of the lower one
//! (`L-1`), whichever the next step does not change, so that a crash between
//! the two leaves it right (Linux 6.18, `ovl_set_nlink_upper`, `ovl_nlink_start`).
//! For this a lower name is brought up before it goes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use crate::below::{Below, Place};
use crate::copy_up::times_of;
use crate::inode_index::{is_whiteout, to_hex};
use crate::layer::{At, join};
use crate::lookup::may_be_metacopy;
use crate::node::{Alias, Node, State};
use crate::origin;
use crate::remove::Victim;
use crate::sys::handle;
use crate::union::Union;

/// A file of the upper layer that the inode index holds.
#[derive(Clone, Debug)]
pub(crate) struct Indexed {
    pub(crate) name: Arc<Path>,
    /// Names in the union; none once the entry is gone.
    pub(crate) nlink: u32,
    /// Links of the lower file, which never change.
    pub(crate) lower: u32,
}

/// What a copy says of the lower object that it was made of.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    origin: Option<Vec<u8>>,
    /// Links of the lower file, if the copy goes into the inode index.
    lower: Option<u32>,
}

impl Marks {
    /// The entry that the copy becomes.
    pub(crate) fn entry(&self) -> Option<Indexed> {
        let lower = self.lower?;
        let name = Arc::from(PathBuf::from(to_hex(self.origin.as_ref()?)));
        Some(Indexed { name, nlink: lower, lower })
    }
}

/// What the stored count is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relative {
    Upper,
    Lower,
}

impl Union {
    /// True if the union's names of such files are kept together.
    pub(crate) fn indexes(&self, kind: FileType) -> bool {
        // Only files and directories take marks under `user.`.
        let marks = kind == FileType::RegularFile || !self.userxattr;
        self.inode_index.is_some() && kind != FileType::Directory && marks
    }

    /// The marks that the copy of a lower object gets. The copy of a hard-linked
    /// file that is not indexed gets none: others may be made of the same file.
    pub(crate) fn marks_of(&self, from: &At<'_>, layer: Option<u16>, stat: &Stat) -> Marks {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let linked = kind != FileType::Directory && stat.st_nlink > 1;
        let to_index = linked && self.indexes(kind);
        if linked && !to_index {
            return Marks::default();
        }
        let origin = layer.and_then(|layer| self.origin_mark(from, layer));
        Marks { origin, lower: to_index.then_some(stat.st_nlink as u32) }
    }

    pub(crate) fn set_link_marks(&self, to: &At<'_>, marks: &Marks) -> Result<(), Errno> {
        let Some(origin) = &marks.origin else { return Ok(()) };
        match (self.set_mark(to, "origin", origin), marks.lower) {
            (set, Some(lower)) => {
                set?;
                // The entry has one link once it has its name.
                self.set_mark(to, "nlink", nlink_mark(Relative::Upper, lower, 1).as_bytes())
            }
            // An upper file system without such attributes only costs stable
            // numbers after a remount.
            (Err(Errno::OPNOTSUPP | Errno::PERM), None) => Ok(()),
            (set, None) => set,
        }
    }

    /// The mark that names an object of a lower layer as an origin.
    fn origin_mark(&self, at: &At<'_>, layer: u16) -> Option<Vec<u8>> {
        let handle = handle::encode(&at.dir, at.name).ok()?;
        origin::encode(&handle, self.layers[usize::from(layer)].uuid())
    }

    /// The lower object that a mark names, and its layer.
    pub(crate) fn origin_of(&self, mark: &[u8]) -> Option<(Vec<u8>, Stat)> {
        let origin = origin::decode(mark)?;
        let lowers = self.layers.iter().skip(usize::from(self.has_upper));
        lowers.filter(|layer| origin.may_be_on(layer.uuid())).find_map(|layer| {
            let fd = handle::open(layer.root(), &origin.handle).ok()?;
            let mark = origin::encode(&origin.handle, layer.uuid())?;
            Some((mark, rustix::fs::fstat(&fd).ok()?))
        })
    }

    /// The upper file that a name of a hard-linked lower file leads to.
    pub(crate) fn indexed_lower(
        &self,
        at: &At<'_>,
        layer: u16,
        stat: &Stat,
    ) -> Result<Option<Indexed>, Errno> {
        if stat.st_nlink < 2 || !self.indexes(FileType::from_raw_mode(stat.st_mode)) {
            return Ok(None);
        }
        let mark = self.origin_mark(at, layer).ok_or(Errno::IO)?;
        Ok(self.entry_of(&mark, stat)?.map(|(indexed, _)| indexed))
    }

    /// Lets a lower name, found at `lower`, show the upper file that one of its
    /// fellows was copied to.
    pub(crate) fn take_indexed(
        &self,
        parent: &Arc<Node>,
        lower: &At<'_>,
        layer: u16,
        indexed: Indexed,
        state: &mut State,
    ) -> Result<(), Errno> {
        let at = self.index_entry(&indexed.name)?;
        let is_metacopy = may_be_metacopy(&at.stat()?) && {
            let names = at.xattr_names()?;
            self.is_metacopy(&at, &names)?
        };
        let mut data = Vec::new();
        if is_metacopy {
            let name = lower.name.as_os_str();
            data = match self.metacopy_places(parent, name, layer, lower)? {
                Some(places) => places.into_iter().take(1).collect(),
                None => {
                    let dir = parent.part(layer).ok_or(Errno::NOENT)?;
                    vec![Place { layer, path: Arc::from(join(&dir, name)) }]
                }
            };
        }
        (state.upper, state.checked, state.metacopy) = (true, true, is_metacopy);
        state.below = Below::of(data);
        state.below.set_indexed(indexed);
        Ok(())
    }

    /// The entry that an upper file is, `mark` being that of its origin.
    pub(crate) fn indexed_upper(
        &self,
        stat: &Stat,
        mark: &[u8],
        lower: &Stat,
    ) -> Result<Option<Indexed>, Errno> {
        if lower.st_nlink < 2 || !self.indexes(FileType::from_raw_mode(stat.st_mode)) {
            return Ok(None);
        }
        let found = self.entry_of(mark, lower)?;
        let same = |entry: &Stat| (entry.st_dev, entry.st_ino) == (stat.st_dev, stat.st_ino);
        Ok(found.filter(|(_, entry)| same(entry)).map(|(indexed, _)| indexed))
    }

    fn entry_of(&self, mark: &[u8], lower: &Stat) -> Result<Option<(Indexed, Stat)>, Errno> {
        let name = PathBuf::from(to_hex(mark));
        let at = self.index_entry(&name)?;
        let stat = match at.stat() {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e),
        };
        let kind = |stat: &Stat| FileType::from_raw_mode(stat.st_mode);
        // A whiteout says that the last name is gone, but here is one.
        if is_whiteout(&stat) || kind(&stat) != kind(lower) {
            return Err(Errno::IO);
        }
        let lower = lower.st_nlink as u32;
        let counted = self.own_mark(&at, "nlink")?;
        let nlink = counted.and_then(|m| nlink_of(&m, stat.st_nlink as u32, lower));
        let nlink = nlink.unwrap_or(stat.st_nlink as u32);
        Ok(Some((Indexed { name: Arc::from(name), nlink, lower }, stat)))
    }

    pub(crate) fn index_entry<'a>(&'a self, name: &'a Path) -> Result<At<'a>, Errno> {
        Ok(self.inode_index.as_ref().ok_or(Errno::NOENT)?.entry(name))
    }

    /// Gives the upper object one of its names. Callers hold `copying`, and the
    /// name's directory is in the upper layer.
    pub(crate) fn link_up(&self, node: &Node, alias: &Alias) -> Result<(), Errno> {
        let path = node.path_of(alias).ok_or(Errno::NOENT)?;
        let to = self.upper(&path)?;
        let above = At { dir: to.dir.clone(), name: Path::new("") };
        let parent_times = above.stat()?;
        self.mark_impure(&alias.parent, &above)?;
        self.store_nlink(node, Relative::Lower)?;
        self.spot(node)?.at(self)?.link(&to)?;
        above.set_times(&times_of(&parent_times))?;
        node.alias_is_upper(alias);
        alias.parent.with_index(|index| index.set_layer(alias.slot, 0));
        self.store_nlink(node, Relative::Upper)
    }

    /// Before a name goes: brings it up if its file's names are counted.
    pub(crate) fn bring_up_counted(
        &self,
        victim: &Victim,
        parent: &Arc<Node>,
    ) -> Result<(), Errno> {
        let node = &victim.node;
        if victim.upper || !self.indexes(node.kind) {
            return Ok(());
        }
        let (upper, indexed) = {
            let state = node.state.lock();
            (state.upper, state.below.indexed().is_some())
        };
        let counted = if upper { indexed } else { self.spot(node)?.at(self)?.stat()?.st_nlink > 1 };
        if !counted {
            return Ok(());
        }
        self.copy_up_name(node, parent, victim.slot, self.attributes_only())
    }

    /// Before a name is made or goes: stores the count relative to what the
    /// change itself counts.
    pub(crate) fn before_names_change(&self, node: &Node) -> Result<(), Errno> {
        self.store_nlink(node, Relative::Upper)
    }

    pub(crate) fn name_made(&self, node: &Node) {
        if let Some(indexed) = node.state.lock().below.indexed_mut() {
            indexed.nlink += 1;
        }
    }

    /// After a name went: with the last one goes the entry.
    pub(crate) fn name_gone(&self, node: &Node) {
        let gone = {
            let mut state = node.state.lock();
            let Some(indexed) = state.below.indexed_mut() else { return };
            indexed.nlink = indexed.nlink.saturating_sub(1);
            if indexed.nlink > 0 {
                return;
            }
            indexed.name.clone()
        };
        let Ok(at) = self.index_entry(&gone) else { return };
        let links = at.stat().map_or(0, |stat| stat.st_nlink as u32);
        let known = node.state.lock().aliases.all().len() as u32;
        let left = links.saturating_sub(1).max(known);
        if left == 0 {
            // What stays is taken out by the next mount.
            let _ = at.unlink(AtFlags::empty());
            return;
        }
        // The layers were changed while not mounted: no name may lose its file.
        if let Some(indexed) = node.state.lock().below.indexed_mut() {
            indexed.nlink = left;
        }
        let _ = self.store_nlink(node, Relative::Upper);
    }

    fn store_nlink(&self, node: &Node, relative: Relative) -> Result<(), Errno> {
        let Some(indexed) = node.indexed() else { return Ok(()) };
        let at = self.index_entry(&indexed.name)?;
        let base = match relative {
            Relative::Lower => indexed.lower,
            Relative::Upper => at.stat()?.st_nlink as u32,
        };
        self.set_mark(&at, "nlink", nlink_mark(relative, indexed.nlink, base).as_bytes())
    }
}

fn nlink_mark(relative: Relative, nlink: u32, base: u32) -> String {
    let word = if relative == Relative::Upper { 'U' } else { 'L' };
    format!("{word}{:+}", i64::from(nlink) - i64::from(base))
}

/// The count in a mark, given the links of the upper and the lower file; none
/// where the kernel takes the upper file's own count.
pub(crate) fn nlink_of(mark: &[u8], upper: u32, lower: u32) -> Option<u32> {
    const LONGEST: usize = 12;
    if lower == 1 || mark.len() > LONGEST {
        return None;
    }
    let text = std::str::from_utf8(mark).ok()?;
    let base = match text.get(..1)? {
        "L" => lower,
        "U" => upper,
        _ => return None,
    };
    let number = text[1..].strip_suffix('\n').unwrap_or(&text[1..]);
    if !number.starts_with(['+', '-']) {
        return None;
    }
    let nlink = i64::from(base) + i64::from(number.parse::<i32>().ok()?);
    u32::try_from(nlink).ok().filter(|nlink| *nlink > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_relative_to_the_upper_or_the_lower_file() {
        assert_eq!(nlink_of(b"U+1", 1, 2), Some(2));
        assert_eq!(nlink_of(b"U-1", 3, 2), Some(2));
        assert_eq!(nlink_of(b"L+0", 3, 2), Some(2));
        assert_eq!(nlink_of(b"L-1\n", 3, 2), Some(1));
        for damaged in ["", "U", "X+1", "U1", "U+", "U+x", "U-3", "L-2", "U+00000000000000", "Ü+1"]
        {
            assert_eq!(nlink_of(damaged.as_bytes(), 3, 2), None, "{damaged:?}");
        }
        assert_eq!(nlink_of(b"U+1", 1, 1), None);
        assert_eq!(nlink_mark(Relative::Upper, 3, 1), "U+2");
        assert_eq!(nlink_mark(Relative::Lower, 1, 3), "L-2");
    }
}
