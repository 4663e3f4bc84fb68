//! The merged listing of one directory: names to where their object lies.
//!
//! It is read from all layers once and then kept true in place by every
//! change, so a lookup costs no search through layers and an absent name costs
//! no system call. A name's slot is its readdir offset: it never moves while
//! the name lives, so a listing in progress neither skips nor repeats a name
//! that stays.

use std::ffi::OsStr;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use rustix::fs::FileType;

/// What the topmost layer that has a name holds under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A mark of the upper layer that hides what is below.
    Whiteout,
    Object(FileType),
}

/// One name.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: Box<OsStr>,
    pub(crate) what: What,
    /// The topmost layer that has the name.
    pub(crate) layer: u16,
    /// The number in the union if it is known, else 0.
    pub(crate) ino: u64,
    /// A lower layer shows something under this name, so removing it from the
    /// upper layer must leave a whiteout.
    pub(crate) below: bool,
    /// For a directory: the lower layers it merges, topmost first.
    pub(crate) dirs: Vec<u16>,
}

/// The listing.
#[derive(Debug, Default)]
pub(crate) struct Index {
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_name: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Index {
    fn slot_of(&self, name: &OsStr) -> Option<u32> {
        let same =
            |slot: &u32| self.slots[*slot as usize].as_ref().is_some_and(|e| &*e.name == name);
        self.by_name.find(self.hasher.hash_one(name), same).copied()
    }

    /// The entry of `name`, a whiteout included.
    pub(crate) fn get(&self, name: &OsStr) -> Option<&Entry> {
        self.slot_of(name).and_then(|slot| self.slots[slot as usize].as_ref())
    }

    pub(crate) fn get_mut(&mut self, name: &OsStr) -> Option<&mut Entry> {
        let slot = self.slot_of(name)?;
        self.slots[slot as usize].as_mut()
    }

    /// Adds the entry, or takes the slot of the one with its name.
    pub(crate) fn insert(&mut self, entry: Entry) {
        if let Some(slot) = self.slot_of(&entry.name) {
            self.slots[slot as usize] = Some(entry);
            return;
        }
        let hash = self.hasher.hash_one(&*entry.name);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.slots[slot as usize] = Some(entry);
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.by_name.insert_unique(hash, slot, |slot| {
            slots[*slot as usize].as_ref().map_or(0, |e| hasher.hash_one(&*e.name))
        });
    }

    pub(crate) fn remove(&mut self, name: &OsStr) {
        let Some(slot) = self.slot_of(name) else { return };
        let hash = self.hasher.hash_one(name);
        if let Ok(found) = self.by_name.find_entry(hash, |s| *s == slot) {
            found.remove();
        }
        self.slots[slot as usize] = None;
        self.free.push(slot);
    }

    /// True if the union shows no name here.
    pub(crate) fn shows_nothing(&self) -> bool {
        self.slots.iter().flatten().all(|e| e.what == What::Whiteout)
    }

    /// Names the union shows, from the slot `from` on, each with its slot.
    pub(crate) fn shown(&self, from: usize) -> impl Iterator<Item = (usize, &Entry, FileType)> {
        let tail = self.slots.iter().enumerate().skip(from);
        tail.filter_map(|(slot, entry)| match entry.as_ref() {
            Some(e) => match e.what {
                What::Object(kind) => Some((slot, e, kind)),
                What::Whiteout => None,
            },
            None => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Entry {
        Entry {
            name: OsStr::new(name).into(),
            what: What::Object(FileType::RegularFile),
            layer: 0,
            ino: 0,
            below: false,
            dirs: Vec::new(),
        }
    }

    #[test]
    fn removal_leaves_the_offsets_of_the_others() {
        let mut index = Index::default();
        for i in 0..100 {
            index.insert(entry(&format!("n{i}")));
        }
        let before: Vec<_> = index.shown(0).map(|(s, e, _)| (s, e.name.clone())).collect();
        for i in (0..100).step_by(2) {
            index.remove(OsStr::new(&format!("n{i}")));
        }
        let after: Vec<_> = index.shown(0).map(|(s, e, _)| (s, e.name.clone())).collect();
        assert_eq!(after.len(), 50);
        assert!(after.iter().all(|pair| before.contains(pair)));
        assert!(index.get(OsStr::new("n2")).is_none());
        index.insert(entry("new"));
        assert_eq!(index.shown(0).count(), 51);
    }
}
