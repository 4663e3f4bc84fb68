//! The merged listing of one directory: names to where their object lies.
//!
//! It is read from all layers once (name by name where that would take long,
//! see `probe`) and then kept true in place by every change, so a lookup costs no search through layers and an absent name costs
//! no system call. A name's slot is its readdir offset and how a node knows
//! its own name: it never moves while the name lives, so a listing in progress
//! neither skips nor repeats a name that stays.
//!
//! A slot takes 16 bytes, its name lies in one text shared by all; only
//! directories that merge lower layers have a list of these beside.

use std::ffi::OsStr;
use std::hash::BuildHasher;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use hashbrown::hash_table::Entry as Place;
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use rustix::fs::FileType;

use crate::probe::Partial;

/// What the topmost layer that has a name holds under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A mark of the upper layer that hides what is below.
    Whiteout,
    Object(FileType),
}

/// One name, and its place in the index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) slot: u32,
    pub(crate) name: &'a OsStr,
    pub(crate) what: What,
    /// The topmost layer that has the name.
    pub(crate) layer: u16,
    /// The number in the union if it is known, else 0.
    pub(crate) ino: u64,
    /// A lower layer shows something under this name, so removing it from the
    /// upper layer must leave a whiteout.
    pub(crate) below: bool,
    /// Everything is known of the name, so the layers have no more to say.
    pub(crate) settled: bool,
}

/// What is kept of a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct New {
    pub(crate) what: What,
    pub(crate) layer: u16,
    pub(crate) ino: u64,
    pub(crate) below: bool,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    ino: u64,
    name_at: u32,
    layer: u16,
    name_len: u8,
    bits: u8,
}

const FREE: u8 = 0;
const WHITEOUT: u8 = 1;
/// Kinds of objects take the values from here on.
const KINDS: [FileType; 8] = [
    FileType::RegularFile,
    FileType::Directory,
    FileType::Symlink,
    FileType::Fifo,
    FileType::Socket,
    FileType::CharacterDevice,
    FileType::BlockDevice,
    FileType::Unknown,
];
const FIRST_KIND: u8 = 2;
const WHAT: u8 = 0x0f;
const BELOW: u8 = 0x10;
const SETTLED: u8 = 0x20;

fn bits(what: What, below: bool) -> u8 {
    let what = match what {
        What::Whiteout => WHITEOUT,
        What::Object(kind) => {
            FIRST_KIND + KINDS.iter().position(|k| *k == kind).unwrap_or(KINDS.len() - 1) as u8
        }
    };
    what | if below { BELOW } else { 0 }
}

impl Slot {
    fn what(&self) -> Option<What> {
        match self.bits & WHAT {
            FREE => None,
            WHITEOUT => Some(What::Whiteout),
            kind => KINDS.get(usize::from(kind - FIRST_KIND)).map(|k| What::Object(*k)),
        }
    }
}

/// What a directory of the upper layer gives to what is made in it.
#[derive(Clone, Debug)]
pub(crate) struct Gives {
    /// Its default ACL.
    pub(crate) acl: Option<Arc<[u8]>>,
    /// Its group, if it has the set-group-ID bit.
    pub(crate) group: Option<u32>,
}

/// The listing.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Kept from the first object made here until the directory is changed.
    pub(crate) gives: Option<Gives>,
    /// None once the directory has been read whole.
    pub(crate) partial: Option<Box<Partial>>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    names: Vec<u8>,
    /// Bytes of `names` that no slot uses any more.
    unused: usize,
    /// Names that are no whiteouts.
    n_shown: usize,
    by_name: HashTable<u32>,
    /// For a directory: the lower layers it merges, topmost first.
    dirs: HashMap<u32, Vec<u16>>,
    hasher: DefaultHashBuilder,
}

impl Index {
    fn bytes(&self, slot: &Slot) -> &[u8] {
        let at = slot.name_at as usize;
        self.names.get(at..at + usize::from(slot.name_len)).unwrap_or_default()
    }

    fn find(&self, name: &OsStr) -> Option<u32> {
        let name = name.as_bytes();
        let same = |slot: &u32| self.bytes(&self.slots[*slot as usize]) == name;
        self.by_name.find(self.hasher.hash_one(name), same).copied()
    }

    /// The entry of a slot.
    pub(crate) fn entry(&self, slot: u32) -> Option<Entry<'_>> {
        let kept = self.slots.get(slot as usize)?;
        Some(Entry {
            slot,
            name: OsStr::from_bytes(self.bytes(kept)),
            what: kept.what()?,
            layer: kept.layer,
            ino: kept.ino,
            below: kept.bits & BELOW != 0,
            settled: kept.bits & SETTLED != 0,
        })
    }

    /// The entry of `name`, a whiteout included.
    pub(crate) fn get(&self, name: &OsStr) -> Option<Entry<'_>> {
        self.entry(self.find(name)?)
    }

    /// True if the entry of `name`, or that there is none, is all there is to
    /// say of it.
    pub(crate) fn knows(&self, name: &OsStr) -> bool {
        let Some(partial) = &self.partial else { return true };
        self.find(name).is_some() || partial.absent.contains(name)
    }

    /// Remembers, while not all names are known, that there is none such.
    pub(crate) fn note_absent(&mut self, name: &OsStr) {
        if let Some(partial) = &mut self.partial {
            partial.absent.insert(name.into());
        }
    }

    /// Marks all that is known as settled, before the layers are read.
    pub(crate) fn settle(&mut self) {
        for kept in self.slots.iter_mut().filter(|kept| kept.what().is_some()) {
            kept.bits |= SETTLED;
        }
    }

    pub(crate) fn is_settled(&self, name: &OsStr) -> bool {
        self.get(name).is_some_and(|entry| entry.settled)
    }

    /// Drops what a reading of the layers that failed has added.
    pub(crate) fn drop_unsettled(&mut self) {
        let added: Vec<_> = (0..self.slots.len())
            .filter_map(|slot| self.entry(slot as u32).filter(|entry| !entry.settled))
            .map(|entry| entry.name.to_owned())
            .collect();
        added.iter().for_each(|name| self.remove(name));
    }

    /// The lower layers that a directory's entry merges, topmost first.
    pub(crate) fn dirs(&self, slot: u32) -> &[u16] {
        self.dirs.get(&slot).map_or(&[], Vec::as_slice)
    }

    /// Adds the name, or takes the slot of the one there is.
    pub(crate) fn put(&mut self, name: &OsStr, new: New) -> u32 {
        let (slot, _) = self.take(name);
        self.fill(slot, name, new);
        slot
    }

    /// Adds the name, unless there is one: then the slot of that.
    pub(crate) fn put_if_absent(&mut self, name: &OsStr, new: New) -> Result<u32, u32> {
        let (slot, is_new) = self.take(name);
        if !is_new {
            return Err(slot);
        }
        self.fill(slot, name, new);
        Ok(slot)
    }

    fn fill(&mut self, slot: u32, name: &OsStr, new: New) {
        let kept = &mut self.slots[slot as usize];
        let was_shown = matches!(kept.what(), Some(What::Object(_)));
        (kept.ino, kept.layer, kept.bits) = (new.ino, new.layer, bits(new.what, new.below));
        self.n_shown += usize::from(matches!(new.what, What::Object(_)));
        self.n_shown -= usize::from(was_shown);
        self.dirs.remove(&slot);
        if let Some(partial) = &mut self.partial {
            partial.absent.remove(name);
        }
    }

    /// The slot of the name, and true if it had none before.
    fn take(&mut self, name: &OsStr) -> (u32, bool) {
        let name = name.as_bytes();
        let (slots, names, hasher) = (&self.slots, &self.names, &self.hasher);
        let bytes = |slot: &u32| {
            let kept = &slots[*slot as usize];
            let at = kept.name_at as usize;
            &names[at..at + usize::from(kept.name_len)]
        };
        let same = |slot: &u32| bytes(slot) == name;
        let rehash = |slot: &u32| hasher.hash_one(bytes(slot));
        let slot = match self.by_name.entry(hasher.hash_one(name), same, rehash) {
            Place::Occupied(known) => return (*known.get(), false),
            Place::Vacant(place) => {
                let slot = self.free.pop().unwrap_or(slots.len() as u32);
                place.insert(slot);
                slot
            }
        };
        let empty = Slot {
            ino: 0,
            name_at: self.names.len() as u32,
            layer: 0,
            name_len: name.len() as u8,
            bits: FREE,
        };
        self.names.extend_from_slice(name);
        match self.slots.get_mut(slot as usize) {
            Some(free) => *free = empty,
            None => self.slots.push(empty),
        }
        (slot, true)
    }

    /// Records that a lower layer has a part of the directory in `slot`.
    pub(crate) fn add_dir(&mut self, slot: u32, layer: u16) {
        self.dirs.entry(slot).or_default().push(layer);
    }

    /// Records that a lower layer has something under the name.
    pub(crate) fn set_below(&mut self, slot: u32) {
        if let Some(kept) = self.slots.get_mut(slot as usize) {
            kept.bits |= BELOW;
        }
    }

    pub(crate) fn set_ino(&mut self, slot: u32, ino: u64) {
        if let Some(kept) = self.slots.get_mut(slot as usize) {
            kept.ino = ino;
        }
    }

    pub(crate) fn set_layer(&mut self, slot: u32, layer: u16) {
        if let Some(kept) = self.slots.get_mut(slot as usize) {
            kept.layer = layer;
        }
    }

    /// Turns the name into a whiteout of the upper layer.
    pub(crate) fn hide(&mut self, name: &OsStr) {
        self.put(name, New { what: What::Whiteout, layer: 0, ino: 0, below: true });
    }

    pub(crate) fn remove(&mut self, name: &OsStr) {
        let Some(slot) = self.find(name) else { return };
        let hash = self.hasher.hash_one(name.as_bytes());
        if let Ok(found) = self.by_name.find_entry(hash, |s| *s == slot) {
            found.remove();
        }
        let kept = &mut self.slots[slot as usize];
        self.n_shown -= usize::from(matches!(kept.what(), Some(What::Object(_))));
        self.unused += usize::from(kept.name_len);
        (kept.bits, kept.name_len, kept.ino) = (FREE, 0, 0);
        self.dirs.remove(&slot);
        self.free.push(slot);
        if self.unused > 4096 && self.unused > self.names.len() / 2 {
            self.pack();
        }
    }

    /// Writes the names anew without those that are gone.
    fn pack(&mut self) {
        let mut names = Vec::with_capacity(self.names.len() - self.unused);
        for slot in &mut self.slots {
            let at = slot.name_at as usize;
            slot.name_at = names.len() as u32;
            names.extend_from_slice(&self.names[at..at + usize::from(slot.name_len)]);
        }
        self.names = names;
        self.unused = 0;
    }

    /// Gives back room kept for growth, once a directory has been read.
    pub(crate) fn shrink(&mut self) {
        self.slots.shrink_to_fit();
        self.names.shrink_to_fit();
        self.dirs.shrink_to_fit();
    }

    /// True if the union shows no name here.
    pub(crate) fn shows_nothing(&self) -> bool {
        self.n_shown == 0
    }

    /// Names the union shows, from the slot `from` on.
    pub(crate) fn shown(&self, from: usize) -> impl Iterator<Item = (Entry<'_>, FileType)> {
        (from..self.slots.len()).filter_map(|slot| {
            let entry = self.entry(slot as u32)?;
            match entry.what {
                What::Object(kind) => Some((entry, kind)),
                What::Whiteout => None,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> New {
        New { what: What::Object(FileType::RegularFile), layer: 3, ino: 7, below: true }
    }

    fn shown(index: &Index) -> Vec<(u32, String)> {
        index.shown(0).map(|(e, _)| (e.slot, e.name.to_string_lossy().into_owned())).collect()
    }

    #[test]
    fn removal_leaves_the_offsets_of_the_others() {
        let mut index = Index::default();
        for i in 0..5000 {
            index.put(OsStr::new(&format!("n{i}")), file());
        }
        let before = shown(&index);
        for i in (0..5000).filter(|i| i % 5 != 0) {
            index.remove(OsStr::new(&format!("n{i}")));
        }
        let after = shown(&index);
        assert_eq!(after.len(), 1000);
        assert!(after.iter().all(|pair| before.binary_search(pair).is_ok()));
        assert!(index.names.len() < 12_000, "the names of the removed are not kept");
        assert!(index.get(OsStr::new("n2")).is_none());
        index.put(OsStr::new("new"), file());
        assert_eq!(index.shown(0).count(), 1001);
        assert_eq!(index.slots.len(), 5000);
    }

    #[test]
    fn an_entry_reads_back_what_was_put() {
        let mut index = Index::default();
        for kind in KINDS {
            let slot = index.put(OsStr::new("x"), New { what: What::Object(kind), ..file() });
            let entry = index.entry(slot).unwrap();
            assert_eq!(
                (entry.what, entry.layer, entry.ino, entry.below),
                (What::Object(kind), 3, 7, true)
            );
        }
        assert!(!index.shows_nothing());
        index.hide(OsStr::new("x"));
        assert_eq!(index.get(OsStr::new("x")).unwrap().what, What::Whiteout);
        assert!(index.shows_nothing());
    }

    #[test]
    fn a_reading_that_fails_leaves_what_was_known() {
        let mut index = Index { partial: Some(Box::default()), ..Index::default() };
        let slot = index.put(OsStr::new("known"), file());
        index.note_absent(OsStr::new("absent"));
        index.settle();
        for name in ["new", "other"] {
            index.put(OsStr::new(name), file());
        }
        index.drop_unsettled();
        assert_eq!(shown(&index), [(slot, "known".to_owned())]);
        for (name, known) in [("known", true), ("absent", true), ("new", false), ("other", false)] {
            assert_eq!(index.knows(OsStr::new(name)), known, "{name}");
        }
        index.put(OsStr::new("absent"), file());
        assert!(!index.partial.as_ref().unwrap().absent.contains(OsStr::new("absent")));
    }

    #[test]
    fn a_slot_is_small() {
        assert_eq!(size_of::<Slot>(), 16);
    }
}
