//! What the kernel knows of the union: one node per inode number.
//!
//! A node is found by its number, which is that of the lower object it began
//! as, so that it stays the same across copy-up. Its names are slots of its
//! parents' indexes, so that a million known files cost no second copy of
//! their names; its place in the upper layer is the chain of these names. A
//! node without a name left is dead: it is reached only through the
//! descriptors that are still open, and its number may be taken by a new
//! object as soon as none is.
//!
//! Locks: a node's `state` is taken last and never held while an index is
//! locked; indexes are taken from a directory towards the root, never down.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use hashbrown::HashTable;
use parking_lot::{Mutex, RwLock};
use rustix::fs::FileType;

use crate::below::{Below, Place};
use crate::hard_links::Indexed;
use crate::index::Index;
use crate::layer::join;

/// The number of the union's root in the FUSE protocol.
pub(crate) const ROOT: u64 = 1;

/// A name of a node: a slot of its parent's index.
#[derive(Clone, Debug)]
pub(crate) struct Alias {
    pub(crate) parent: Arc<Node>,
    pub(crate) slot: u32,
    /// The upper layer holds the object under this name.
    pub(crate) upper: bool,
}

impl Alias {
    fn is(&self, parent: &Node, slot: u32) -> bool {
        self.slot == slot && self.parent.ino == parent.ino
    }

    /// The name itself; none once it is gone.
    pub(crate) fn name(&self) -> Option<OsString> {
        self.parent.name_in(self.slot)
    }
}

/// A node's names; nearly every node has one.
#[derive(Debug, Default)]
pub(crate) enum Aliases {
    #[default]
    None,
    One(Alias),
    // The box keeps the usual case small: this is the size of every node.
    #[allow(clippy::box_collection)]
    Many(Box<Vec<Alias>>),
}

impl Aliases {
    pub(crate) fn all(&self) -> &[Alias] {
        match self {
            Self::None => &[],
            Self::One(alias) => std::slice::from_ref(alias),
            Self::Many(list) => list,
        }
    }

    fn all_mut(&mut self) -> &mut [Alias] {
        match self {
            Self::None => &mut [],
            Self::One(alias) => std::slice::from_mut(alias),
            Self::Many(list) => list,
        }
    }

    /// Marks a name that the upper layer now has.
    pub(crate) fn mark_upper(&mut self, alias: &Alias) {
        let mut all = self.all_mut().iter_mut();
        if let Some(known) = all.find(|a| a.is(&alias.parent, alias.slot)) {
            known.upper = true;
        }
    }

    fn add(&mut self, alias: Alias) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(alias),
            Self::One(first) => Self::Many(Box::new(vec![first, alias])),
            Self::Many(mut list) => {
                list.push(alias);
                Self::Many(list)
            }
        };
    }

    fn remove(&mut self, parent: &Node, slot: u32) {
        *self = match std::mem::take(self) {
            Self::None => Self::None,
            Self::One(alias) if alias.is(parent, slot) => Self::None,
            Self::One(alias) => Self::One(alias),
            Self::Many(mut list) => {
                list.retain(|a| !a.is(parent, slot));
                if list.len() > 1 {
                    Self::Many(list)
                } else {
                    list.pop().map_or(Self::None, Self::One)
                }
            }
        };
    }
}

/// How the open handles of a node reach its data. All of an inode's handles
/// must agree, and those that pass through share one backing file.
#[derive(Debug, Default)]
pub(crate) struct Way {
    /// Handles that go through the page cache.
    pub(crate) cached: usize,
    pub(crate) backing: Weak<fuser::BackingId>,
}

/// What an open node has; gone with its last handle.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    pub(crate) handles: usize,
    pub(crate) way: Way,
    /// Open descriptors, so that a dead node can still be reached.
    pub(crate) fds: Vec<Weak<OwnedFd>>,
    /// The descriptor that keeps a dead node's data when no handle has one.
    pub(crate) pinned: Option<Arc<OwnedFd>>,
}

impl Opened {
    fn fd(&self) -> Option<Arc<OwnedFd>> {
        self.pinned.clone().or_else(|| self.fds.iter().rev().find_map(Weak::upgrade))
    }
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) aliases: Aliases,
    pub(crate) below: Below,
    pub(crate) opened: Option<Box<Opened>>,
    /// The object, or for a directory a part of it, is in the upper layer.
    pub(crate) upper: bool,
    /// The object is only attributes; its data is in the first lower place.
    pub(crate) metacopy: bool,
    /// A lower file was looked at for a metacopy mark.
    pub(crate) checked: bool,
    /// The object was made here and has been given no attribute since, so it
    /// has no capability, for which the kernel asks before the first write.
    pub(crate) no_capability: bool,
    /// A directory of the upper layer that is marked impure.
    pub(crate) impure: bool,
}

/// One object of the union.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) ino: u64,
    lookups: AtomicU64,
    pub(crate) generation: u32,
    /// Grows when the data moves, so that open handles know to follow.
    pub(crate) epoch: AtomicU32,
    /// The merged listing, read on first use; directories only.
    index: Option<Box<Mutex<Option<Index>>>>,
    pub(crate) state: Mutex<State>,
    /// Held while the object moves to the upper layer, or loses a name.
    pub(crate) copying: Mutex<()>,
    pub(crate) kind: FileType,
}

impl Node {
    pub(crate) fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }

    pub(crate) fn in_upper(&self) -> bool {
        self.state.lock().upper
    }

    /// The merged listing's lock; none for what is no directory.
    pub(crate) fn index(&self) -> Option<&Mutex<Option<Index>>> {
        self.index.as_deref()
    }

    /// Changes the listing, if it has been read.
    pub(crate) fn with_index<T>(&self, change: impl FnOnce(&mut Index) -> T) -> Option<T> {
        self.index()?.lock().as_mut().map(change)
    }

    /// Forgets what the directory gives to what is made in it. Called after any
    /// change of its attributes.
    pub(crate) fn gives_anew(&self) {
        self.with_index(|index| index.gives = None);
    }

    fn name_in(&self, slot: u32) -> Option<OsString> {
        self.with_index(|index| index.entry(slot).map(|e| e.name.to_owned()))?
    }

    /// The path in the upper layer, which is also that in the union; none for
    /// a dead node. Callers hold the tree lock, so no directory on the way
    /// moves meanwhile.
    pub(crate) fn upper_path(&self) -> Option<PathBuf> {
        if self.ino == ROOT {
            return Some(PathBuf::new());
        }
        let first = self.upper_alias()?;
        self.path_of(&first)
    }

    /// The path in the union of one of the node's names.
    pub(crate) fn path_of(&self, alias: &Alias) -> Option<PathBuf> {
        let mut names = vec![alias.name()?];
        let mut dir = alias.parent.clone();
        while dir.ino != ROOT {
            let next = dir.upper_alias()?;
            names.push(next.name()?);
            dir = next.parent;
        }
        let len = names.iter().map(|n| n.len() + 1).sum();
        let mut path = Vec::with_capacity(len);
        for name in names.iter().rev() {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
        }
        Some(PathBuf::from(OsStr::from_bytes(&path)))
    }

    fn upper_alias(&self) -> Option<Alias> {
        let state = self.state.lock();
        let all = state.aliases.all();
        all.iter().find(|a| a.upper).or_else(|| all.first()).cloned()
    }

    /// How many lower parts a directory merges.
    pub(crate) fn n_lower_parts(&self) -> usize {
        self.state.lock().below.places().len()
    }

    /// A lower part of a directory, the topmost first.
    pub(crate) fn lower_part(&self, i: usize) -> Option<Place> {
        self.state.lock().below.places().get(i).cloned()
    }

    /// The part of a directory that lies in `layer`.
    pub(crate) fn part(&self, layer: u16) -> Option<Arc<Path>> {
        let state = self.state.lock();
        let place = state.below.places().iter().find(|p| p.layer == layer)?;
        Some(place.path.clone())
    }

    /// The lower object that a name of this node leads to, if none of the
    /// upper layer hides it.
    pub(crate) fn lower_place(&self) -> Option<Place> {
        let alias = self.state.lock().aliases.all().iter().find(|a| !a.upper).cloned()?;
        let (layer, name) = alias
            .parent
            .with_index(|i| i.entry(alias.slot).map(|e| (e.layer, e.name.to_owned())))??;
        let dir = alias.parent.part(layer)?;
        Some(Place { layer, path: Arc::from(join(&dir, &name)) })
    }

    /// A descriptor some handle still has open.
    pub(crate) fn open_fd(&self) -> Option<Arc<OwnedFd>> {
        self.state.lock().opened.as_ref()?.fd()
    }

    /// Records an open descriptor of the node's data.
    pub(crate) fn learn_fd(&self, fd: &Arc<OwnedFd>) {
        let mut state = self.state.lock();
        let opened = state.opened.get_or_insert_default();
        opened.fds.retain(|fd| fd.strong_count() > 0);
        opened.fds.push(Arc::downgrade(fd));
    }

    pub(crate) fn is_nameless(&self) -> bool {
        self.ino != ROOT && matches!(self.state.lock().aliases, Aliases::None)
    }

    /// Records a name under which a lookup found the node.
    pub(crate) fn learn_alias(&self, parent: &Arc<Node>, slot: u32, upper: bool) {
        let mut state = self.state.lock();
        for alias in state.aliases.all_mut() {
            if alias.is(parent, slot) {
                alias.upper |= upper;
                return;
            }
        }
        state.aliases.add(Alias { parent: parent.clone(), slot, upper });
    }

    /// Drops a name.
    pub(crate) fn forget_alias(&self, parent: &Node, slot: u32) {
        self.state.lock().aliases.remove(parent, slot);
    }

    /// Marks the name that the upper layer now has.
    pub(crate) fn alias_is_upper(&self, alias: &Alias) {
        self.state.lock().aliases.mark_upper(alias);
    }

    /// One of the node's names.
    pub(crate) fn alias(&self, parent: &Node, slot: u32) -> Option<Alias> {
        self.state.lock().aliases.all().iter().find(|a| a.is(parent, slot)).cloned()
    }

    /// The entry of the inode index that the node's upper object is, while the
    /// union has a name for it.
    pub(crate) fn indexed(&self) -> Option<Indexed> {
        self.state.lock().below.indexed().filter(|indexed| indexed.nlink > 0).cloned()
    }

    /// True if the node has that name.
    pub(crate) fn has_alias(&self, parent: &Node, slot: u32) -> bool {
        self.state.lock().aliases.all().iter().any(|a| a.is(parent, slot))
    }

    pub(crate) fn is_dead(&self) -> bool {
        let state = self.state.lock();
        self.ino != ROOT
            && matches!(state.aliases, Aliases::None)
            && state.opened.as_ref().is_none_or(|o| o.fd().is_none())
    }

    pub(crate) fn is_known(&self) -> bool {
        self.lookups.load(Ordering::Relaxed) > 0
    }
}

const SHARDS: usize = 16;

/// All nodes the kernel knows, by number, in shards so that threads seldom
/// meet.
#[derive(Debug)]
pub(crate) struct Table {
    shards: [RwLock<HashTable<Arc<Node>>>; SHARDS],
    generations: AtomicU32,
}

/// Spreads numbers, which file systems give out in a row.
fn hash(ino: u64) -> u64 {
    ino.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Table {
    pub(crate) fn new(root: State) -> (Self, Arc<Node>) {
        let table = Self {
            shards: std::array::from_fn(|_| RwLock::new(HashTable::new())),
            generations: AtomicU32::new(1),
        };
        let root = table.make(ROOT, FileType::Directory, root, 1);
        let shard = &table.shards[Self::shard_of(ROOT)];
        shard.write().insert_unique(hash(ROOT), root.clone(), |n| hash(n.ino));
        (table, root)
    }

    fn shard_of(ino: u64) -> usize {
        (hash(ino) >> 32) as usize % SHARDS
    }

    fn shard(&self, ino: u64) -> &RwLock<HashTable<Arc<Node>>> {
        &self.shards[Self::shard_of(ino)]
    }

    fn make(&self, ino: u64, kind: FileType, state: State, lookups: u64) -> Arc<Node> {
        let index = (kind == FileType::Directory).then(|| Box::new(Mutex::new(None)));
        Arc::new(Node {
            ino,
            lookups: AtomicU64::new(lookups),
            generation: self.generations.fetch_add(1, Ordering::Relaxed),
            epoch: AtomicU32::new(0),
            index,
            state: Mutex::new(state),
            copying: Mutex::new(()),
            kind,
        })
    }

    pub(crate) fn get(&self, ino: u64) -> Option<Arc<Node>> {
        self.shard(ino).read().find(hash(ino), |n| n.ino == ino).cloned()
    }

    /// The node of that number, made of `state` if none lives. A dead node's
    /// number goes to the new object, with the kernel's count of it, since the
    /// kernel counts by number.
    pub(crate) fn find_or_make(&self, ino: u64, kind: FileType, state: State) -> Arc<Node> {
        let mut shard = self.shard(ino).write();
        if let Some(known) = shard.find_mut(hash(ino), |n| n.ino == ino) {
            if known.kind == kind && !known.is_dead() {
                return known.clone();
            }
            let lookups = known.lookups.load(Ordering::Relaxed);
            *known = self.make(ino, kind, state, lookups);
            return known.clone();
        }
        let node = self.make(ino, kind, state, 0);
        shard.insert_unique(hash(ino), node.clone(), |n| hash(n.ino));
        node
    }

    /// Counts one more reference of the kernel, taken with each entry replied.
    pub(crate) fn hold(&self, node: &Node) {
        node.lookups.fetch_add(1, Ordering::Relaxed);
    }

    /// Drops `count` references of the kernel. A node leaves the table once
    /// none is left and no child has it as its parent; then its own parents
    /// are tried, since they may have waited for it.
    pub(crate) fn forget(&self, ino: u64, count: u64) {
        let mut tries = vec![ino];
        let mut count = Some(count);
        while let Some(ino) = tries.pop() {
            if ino == ROOT {
                continue;
            }
            let mut shard = self.shard(ino).write();
            let Ok(found) = shard.find_entry(hash(ino), |n| n.ino == ino) else { continue };
            let node = found.get();
            if let Some(count) = count.take().filter(|count| *count > 0) {
                // References are also taken without the lock.
                let less = |before: u64| Some(before.saturating_sub(count));
                let _ = node.lookups.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            }
            // Under the shard's lock no one can take the last reference up
            // again.
            if node.is_known() || Arc::strong_count(node) > 1 {
                continue;
            }
            let (node, _) = found.remove();
            drop(shard);
            tries.extend(node.state.lock().aliases.all().iter().map(|a| a.parent.ino));
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|s| s.read().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{New, What};

    fn enter(dir: &Arc<Node>, name: &str, node: &Arc<Node>) -> u32 {
        let new = New { what: What::Object(node.kind), layer: 0, ino: node.ino, below: false };
        let mut index = dir.index().unwrap().lock();
        let slot = index.get_or_insert_with(Index::default).put(OsStr::new(name), new);
        drop(index);
        node.learn_alias(dir, slot, true);
        slot
    }

    #[test]
    fn a_parent_leaves_only_after_its_children() {
        let (table, root) = Table::new(State::default());
        let dir = table.find_or_make(5, FileType::Directory, State::default());
        enter(&root, "d", &dir);
        table.hold(&dir);
        let file = table.find_or_make(6, FileType::RegularFile, State::default());
        enter(&dir, "f", &file);
        table.hold(&file);
        assert_eq!(file.upper_path(), Some(PathBuf::from("d/f")));
        drop((dir, file));
        table.forget(5, 1);
        assert_eq!(table.len(), 3);
        table.forget(6, 1);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_dead_number_goes_to_the_new_object() {
        let (table, root) = Table::new(State::default());
        let old = table.find_or_make(5, FileType::RegularFile, State::default());
        let slot = enter(&root, "f", &old);
        old.forget_alias(&root, slot);
        assert!(old.is_nameless());
        let new = table.find_or_make(5, FileType::RegularFile, State::default());
        assert_ne!(old.generation, new.generation);
    }

    #[test]
    fn a_node_is_small() {
        assert!(size_of::<Node>() <= 88, "{}", size_of::<Node>());
    }
}
