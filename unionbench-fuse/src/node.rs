//! What the kernel knows of the union: one node per inode number.
//!
//! A node is found by its number, which is that of the lower object it began
//! as, so that it stays the same across copy-up. Its place in the upper layer
//! is the chain of its parents' names. A node without a name left is dead: it
//! is reached only through the handles that still have it open, and its number
//! may be taken by a new object as soon as none has.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::fs::FileType;

use crate::index::Index;
use crate::layer::join;

/// The number of the union's root in the FUSE protocol.
pub(crate) const ROOT: u64 = 1;

/// A place in a lower layer.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) layer: u16,
    pub(crate) path: Arc<Path>,
}

/// A name of a node.
#[derive(Clone, Debug)]
pub(crate) struct Alias {
    pub(crate) parent: Arc<Node>,
    pub(crate) name: OsString,
    /// The upper layer holds the object under this name.
    pub(crate) upper: bool,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) aliases: Vec<Alias>,
    /// The object, or for a directory a part of it, is in the upper layer.
    pub(crate) upper: bool,
    /// A directory's merged lower parts, topmost first; for any other object
    /// at most one, where its data lies as long as it is not in the upper
    /// layer.
    pub(crate) lowers: Vec<Place>,
    /// The upper object is only attributes; its data is in `lowers[0]`.
    pub(crate) metacopy: bool,
    /// Open descriptors, so that a dead node can still be reached.
    pub(crate) open: Vec<Weak<OwnedFd>>,
}

/// How the open handles of a node reach its data. All of an inode's handles
/// must agree, and those that pass through share one backing file.
#[derive(Debug, Default)]
pub(crate) struct Way {
    /// Handles that go through the page cache.
    pub(crate) cached: usize,
    pub(crate) backing: Weak<fuser::BackingId>,
}

/// One object of the union.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) ino: u64,
    pub(crate) generation: u64,
    pub(crate) kind: FileType,
    pub(crate) state: Mutex<State>,
    /// The merged listing, read on first use; directories only.
    pub(crate) index: Mutex<Option<Index>>,
    /// Held while the object moves to the upper layer, or loses a name.
    pub(crate) copying: Mutex<()>,
    /// Grows when the data moves, so that open handles know to follow.
    pub(crate) epoch: AtomicU64,
    pub(crate) way: Mutex<Way>,
    lookups: AtomicU64,
}

impl Node {
    pub(crate) fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }

    pub(crate) fn in_upper(&self) -> bool {
        self.state.lock().upper
    }

    /// The path in the upper layer, which is also that in the union; none for
    /// a dead node. Callers hold the tree lock, so no directory on the way
    /// moves meanwhile.
    pub(crate) fn upper_path(&self) -> Option<PathBuf> {
        let mut names = Vec::new();
        let mut next = if self.ino == ROOT { None } else { Some(self.upper_alias()?) };
        while let Some((parent, name)) = next {
            names.push(name);
            next = if parent.ino == ROOT { None } else { Some(parent.upper_alias()?) };
        }
        let empty = PathBuf::new();
        Some(names.iter().rev().fold(empty, |path, name| join(&path, name)))
    }

    fn upper_alias(&self) -> Option<(Arc<Node>, OsString)> {
        let state = self.state.lock();
        let alias = state.aliases.iter().find(|a| a.upper).or_else(|| state.aliases.first())?;
        Some((alias.parent.clone(), alias.name.clone()))
    }

    /// A descriptor some handle still has open.
    pub(crate) fn open_fd(&self) -> Option<Arc<OwnedFd>> {
        self.state.lock().open.iter().rev().find_map(Weak::upgrade)
    }

    /// Records a name under which a lookup found the node.
    pub(crate) fn learn_alias(&self, parent: &Arc<Node>, name: &OsStr, upper: bool) {
        let mut state = self.state.lock();
        for alias in &mut state.aliases {
            if alias.parent.ino == parent.ino && alias.name == name {
                alias.upper |= upper;
                return;
            }
        }
        state.aliases.push(Alias { parent: parent.clone(), name: name.to_owned(), upper });
    }

    /// Drops a name; true when it was the last one known.
    pub(crate) fn forget_alias(&self, parent: &Node, name: &OsStr) -> bool {
        let mut state = self.state.lock();
        state.aliases.retain(|a| a.parent.ino != parent.ino || a.name != name);
        state.aliases.is_empty()
    }

    fn is_dead(&self) -> bool {
        let state = self.state.lock();
        self.ino != ROOT
            && state.aliases.is_empty()
            && !state.open.iter().any(|fd| fd.strong_count() > 0)
    }
}

const SHARDS: usize = 16;

/// All nodes the kernel knows, by number, in shards so that threads seldom
/// meet.
#[derive(Debug)]
pub(crate) struct Table {
    shards: [Mutex<HashMap<u64, Arc<Node>>>; SHARDS],
    generations: AtomicU64,
}

impl Table {
    pub(crate) fn new(root: State) -> (Self, Arc<Node>) {
        let table = Self {
            shards: std::array::from_fn(|_| Mutex::new(HashMap::new())),
            generations: AtomicU64::new(1),
        };
        let root = table.make(ROOT, FileType::Directory, root, 1);
        table.shard(ROOT).lock().insert(ROOT, root.clone());
        (table, root)
    }

    fn shard(&self, ino: u64) -> &Mutex<HashMap<u64, Arc<Node>>> {
        &self.shards[(ino as usize) % SHARDS]
    }

    fn make(&self, ino: u64, kind: FileType, state: State, lookups: u64) -> Arc<Node> {
        Arc::new(Node {
            ino,
            generation: self.generations.fetch_add(1, Ordering::Relaxed),
            kind,
            state: Mutex::new(state),
            index: Mutex::new(None),
            copying: Mutex::new(()),
            epoch: AtomicU64::new(0),
            way: Mutex::new(Way::default()),
            lookups: AtomicU64::new(lookups),
        })
    }

    pub(crate) fn get(&self, ino: u64) -> Option<Arc<Node>> {
        self.shard(ino).lock().get(&ino).cloned()
    }

    /// The node of that number, made of `state` if none lives. A dead node's
    /// number goes to the new object, with the kernel's count of it, since the
    /// kernel counts by number.
    pub(crate) fn find_or_make(&self, ino: u64, kind: FileType, state: State) -> Arc<Node> {
        let mut shard = self.shard(ino).lock();
        let mut lookups = 0;
        if let Some(node) = shard.get(&ino) {
            if node.kind == kind && !node.is_dead() {
                return node.clone();
            }
            lookups = node.lookups.load(Ordering::Relaxed);
        }
        let node = self.make(ino, kind, state, lookups);
        shard.insert(ino, node.clone());
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
        if let Some(node) = self.shard(ino).lock().get(&ino) {
            let before = node.lookups.load(Ordering::Relaxed);
            node.lookups.store(before.saturating_sub(count), Ordering::Relaxed);
        }
        let mut tries = vec![ino];
        while let Some(ino) = tries.pop() {
            if ino == ROOT {
                continue;
            }
            let mut shard = self.shard(ino).lock();
            let idle = shard.get(&ino).is_some_and(|node| {
                node.lookups.load(Ordering::Relaxed) == 0 && Arc::strong_count(node) == 1
            });
            let gone = if idle { shard.remove(&ino) } else { None };
            drop(shard);
            if let Some(node) = gone {
                tries.extend(node.state.lock().aliases.iter().map(|a| a.parent.ino));
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_leaves_only_after_its_children() {
        let (table, root) = Table::new(State::default());
        let dir = table.find_or_make(5, FileType::Directory, State::default());
        dir.learn_alias(&root, OsStr::new("d"), true);
        table.hold(&dir);
        let file = table.find_or_make(6, FileType::RegularFile, State::default());
        file.learn_alias(&dir, OsStr::new("f"), true);
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
        old.learn_alias(&root, OsStr::new("f"), true);
        assert!(old.forget_alias(&root, OsStr::new("f")));
        let new = table.find_or_make(5, FileType::RegularFile, State::default());
        assert_ne!(old.generation, new.generation);
    }
}
