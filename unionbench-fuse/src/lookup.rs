//! From a name to its node: the name is found in its directory's index, the
//! object's number and parts by its own marks.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::below::Below;
use crate::counters::Counters;
use crate::index::{Entry, Index, What};
use crate::layer::At;
use crate::node::{Node, State};
use crate::union::Union;
use crate::whiteout::too_long;

/// What an index says of a name that the union shows.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) slot: u32,
    pub(crate) kind: FileType,
    pub(crate) layer: u16,
    pub(crate) ino: u64,
    /// For a directory: the lower layers it merges, topmost first.
    pub(crate) dirs: Vec<u16>,
}

impl Found {
    /// None for a whiteout.
    pub(crate) fn of(index: &Index, entry: &Entry<'_>) -> Option<Self> {
        let What::Object(kind) = entry.what else { return None };
        let is_dir = kind == FileType::Directory;
        let dirs = if is_dir { index.dirs(entry.slot).to_vec() } else { Vec::new() };
        Some(Self { slot: entry.slot, kind, layer: entry.layer, ino: entry.ino, dirs })
    }
}

/// A file of a layer that is seldom more than it seems.
pub(crate) fn may_be_metacopy(stat: &Stat) -> bool {
    stat.st_size > 0 && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

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
        let found = {
            let index = self.index_for(parent, name)?;
            let entry = index.get(name).ok_or(Errno::NOENT)?;
            Found::of(&index, &entry).ok_or(Errno::NOENT)?
        };
        self.child(parent, name, &found)
    }

    /// The node of an entry: its parts, its number, its attributes.
    pub(crate) fn child(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        found: &Found,
    ) -> Result<(Arc<Node>, Stat), Errno> {
        if found.ino != 0
            && let Some(node) = self.nodes.get(found.ino)
            && node.has_alias(parent, found.slot)
        {
            let stat = self.stat(&node)?;
            return Ok((node, stat));
        }
        let upper = self.is_upper(found.layer);
        let (ino, mut stat, state) = if found.kind == FileType::Directory {
            self.dir_parts(parent, name, upper, &found.dirs)?
        } else if upper {
            self.upper_file(parent, name)?
        } else {
            self.lower_file(parent, name, found.layer)?
        };
        let ino = self.own_number(ino, &stat, parent, found)?;
        let node = self.nodes.find_or_make(ino, found.kind, state);
        node.learn_alias(parent, found.slot, upper);
        // Later removals and listings find the node by the number kept here.
        parent.with_index(|index| index.set_ino(found.slot, ino));
        let state = node.state.lock();
        if !upper && !state.upper && !state.metacopy && !node.is_dir() {
            // The attributes just read are those of the node: no other name of
            // it has been copied up.
            drop(state);
            stat.st_ino = ino;
            return Ok((node, stat));
        }
        drop(state);
        let stat = self.stat(&node)?;
        Ok((node, stat))
    }

    /// The number, unless another object has it: marks that were copied along
    /// with their file, or made by hand, can name one origin twice, and two
    /// objects must never share a node.
    fn own_number(
        &self,
        ino: u64,
        stat: &Stat,
        parent: &Arc<Node>,
        found: &Found,
    ) -> Result<u64, Errno> {
        let upper = self.is_upper(found.layer);
        let free = |ino: u64| -> Result<bool, Errno> {
            let Some(known) = self.nodes.get(ino) else { return Ok(true) };
            if known.kind != found.kind || known.is_nameless() {
                // The table itself tells the dead from the living. A directory
                // that was removed while it is in use is no other's.
                let in_use = known.is_dir() && !known.is_dead();
                return Ok(known.is_nameless() && !in_use);
            }
            if known.has_alias(parent, found.slot) {
                return Ok(true);
            }
            if known.is_dir() {
                return Ok(false);
            }
            if !upper {
                // Two ways to one lower file show the same; once one has been
                // copied up, only true hard links still do.
                return Ok(stat.st_nlink > 1 || !known.in_upper());
            }
            let same = |other: Stat| (other.st_dev, other.st_ino) == (stat.st_dev, stat.st_ino);
            Ok(known.in_upper() && self.spot(&known)?.at(self)?.stat().is_ok_and(same))
        };
        if free(ino)? {
            return Ok(ino);
        }
        let real = self.number(stat.st_dev, stat.st_ino);
        if upper && free(real)? {
            return Ok(real);
        }
        Ok(self.spare_number())
    }

    fn lower_file(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        layer: u16,
    ) -> Result<(u64, Stat, State), Errno> {
        let dir = parent.part(layer).ok_or(Errno::NOENT)?;
        let at = At { dir: self.layers[usize::from(layer)].dir(&dir)?, name: Path::new(name) };
        let stat = at.stat()?;
        let ino = self.number(stat.st_dev, stat.st_ino);
        let mut state = State::default();
        // A metacopy is sparse unless someone made it by hand, so the mark of
        // one that is not is only looked for once its data is wanted.
        let sparse = stat.st_blocks * 512 < stat.st_size;
        if sparse && may_be_metacopy(&stat) {
            state.checked = true;
            if let Some(places) = self.metacopy_places(parent, name, layer, &at)? {
                (state.metacopy, state.below) = (true, Below::of(places));
            }
        }
        if let Some(indexed) = self.indexed_lower(&at, layer, &stat)? {
            self.take_indexed(parent, &at, layer, indexed, &mut state)?;
        }
        Ok((ino, stat, state))
    }

    /// An upper file's number is that of its origin, if the mark names one.
    fn upper_file(&self, parent: &Arc<Node>, name: &OsStr) -> Result<(u64, Stat, State), Errno> {
        let dir = parent.upper_path().ok_or(Errno::NOENT)?;
        let at = At { dir: self.layers[0].dir(&dir)?, name: Path::new(name) };
        let stat = at.stat()?;
        let mut state = State { upper: true, ..State::default() };
        let own = self.number(stat.st_dev, stat.st_ino);
        let names = at.xattr_names()?;
        if names.is_empty() {
            return Ok((own, stat, state));
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mark = self.read_mark(&at, &names, "origin")?;
        let origin = mark.as_deref().and_then(|mark| self.origin_of(mark));
        let known = origin.filter(|(_, lower)| FileType::from_raw_mode(lower.st_mode) == kind);
        if may_be_metacopy(&stat) && self.is_metacopy(&at, &names)? {
            // With an index the kernel verifies that the attributes are those of
            // the data (Linux 6.18, `ovl_lookup`).
            let verified = known.as_ref().filter(|_| self.inode_index.is_some());
            let origin = verified.map(|(_, lower)| lower);
            let data = self.metacopy_data(parent, name, 0, &at, &names, origin)?;
            (state.metacopy, state.below) = (true, Below::of(vec![data]));
        }
        if let Some((mark, lower)) = &known
            && let Some(indexed) = self.indexed_upper(&stat, mark, lower)?
        {
            state.below.set_indexed(indexed);
            return Ok((self.number(lower.st_dev, lower.st_ino), stat, state));
        }
        // A hard-linked lower file may have been copied more than once; its
        // number would then be that of two files.
        let usable = known.filter(|(_, lower)| lower.st_nlink == 1);
        Ok((usable.map_or(own, |(_, s)| self.number(s.st_dev, s.st_ino)), stat, state))
    }
}
