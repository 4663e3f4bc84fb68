//! Attributes of a long listing, read ahead of the reader.
//!
//! A reader of names and attributes spends about as long on a reply as the
//! union spends on making it. So once a reply was full, a thread of its own
//! looks at the names that the next reply will hold, on a processor that would
//! else be idle. One such batch is kept, for the listing that asked last.
//!
//! The kernel lets nobody change a directory while it lists it or looks for a
//! name in it; what is read ahead has no such protection. So it is used only if
//! no request that changes anything was under way when the reading began, and
//! none has come since, and the reading ends before such a request is answered
//! ([`Changes`]): a name's slot may else have become another's. A change that
//! comes later is the kernel's to order: it drops attributes of a reply whose
//! request it sent before that change ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use rustix::fs::Stat;
use rustix::io::Errno;

use crate::node::Node;
use crate::readdir::Listed;
use crate::union::Union;

/// A name's node and attributes, or why it has none.
pub(super) type Seen = Result<(Arc<Node>, Stat), Errno>;

/// How many requests that change something have begun, and how many ended.
#[derive(Debug, Default)]
pub(super) struct Changes {
    begun: AtomicU64,
    ended: AtomicU64,
    /// Held while a name is read ahead, and whether it is held for that: so that
    /// changes do not meet at it while nothing is read.
    reading: Mutex<()>,
    is_reading: AtomicBool,
}

impl Changes {
    /// A change begins; it ends when what is returned is dropped.
    pub(super) fn begin(&self) -> Changing<'_> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        // Either the reader sees that this change has begun, or this change sees
        // the reader.
        if self.is_reading.load(Ordering::SeqCst) {
            drop(self.reading.lock());
        }
        Changing(self)
    }

    /// Reads something ahead, if nothing has changed since the mark; no change
    /// begins before it is done.
    fn read<T>(&self, at: u64, read: impl FnOnce() -> T) -> Option<T> {
        let _reading = self.reading.lock();
        self.is_reading.store(true, Ordering::SeqCst);
        let read = (self.still() == Some(at)).then(read);
        self.is_reading.store(false, Ordering::SeqCst);
        read
    }

    /// A mark of the time, none while something changes.
    fn still(&self) -> Option<u64> {
        let ended = self.ended.load(Ordering::SeqCst);
        (self.begun.load(Ordering::SeqCst) == ended).then_some(ended)
    }
}

/// A change under way.
#[derive(Debug)]
pub(super) struct Changing<'a>(&'a Changes);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

/// Which part of which listing: the directory's number and the offset.
type Part = (u64, u64);

#[derive(Debug)]
struct Ask {
    dir: Arc<Node>,
    offset: u64,
    count: usize,
}

impl Ask {
    fn part(&self) -> Part {
        (self.dir.ino, self.offset)
    }
}

#[derive(Debug)]
struct Batch {
    part: Part,
    /// The mark of the time when its reading began.
    at: u64,
    names: Vec<(Listed, Seen)>,
}

#[derive(Debug, Default)]
struct State {
    wanted: Option<Ask>,
    /// What the thread reads now.
    reading: Option<Part>,
    ready: Option<Batch>,
    over: bool,
}

#[derive(Debug)]
struct Desk {
    union: Arc<Union>,
    changes: Arc<Changes>,
    state: Mutex<State>,
    changed: Condvar,
}

/// The thread that reads ahead.
#[derive(Debug)]
pub(super) struct Ahead {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Starts the thread where a second processor could run it.
    pub(super) fn new(union: &Arc<Union>, changes: &Arc<Changes>) -> Option<Self> {
        if !std::thread::available_parallelism().is_ok_and(|n| n.get() > 1) {
            return None;
        }
        let (union, changes) = (union.clone(), changes.clone());
        let (state, changed) = (Mutex::default(), Condvar::new());
        let desk = Arc::new(Desk { union, changes, state, changed });
        let served = desk.clone();
        let name = "union-ahead".to_owned();
        let started = std::thread::Builder::new().name(name).spawn(move || served.serve());
        started.ok().map(|thread| Self { desk, thread: Some(thread) })
    }

    /// Asks for `count` names of the directory after `offset`.
    pub(super) fn ask(&self, dir: &Arc<Node>, offset: u64, count: usize) {
        let (desk, ask) = (&self.desk, Ask { dir: dir.clone(), offset, count });
        let old = {
            let mut state = desk.state.lock();
            state.wanted = Some(ask);
            state.ready.take()
        };
        desk.changed.notify_all();
        desk.release(old);
    }

    /// The names after `offset`, if they were read ahead and still are as they
    /// were read; empty if not. Waits for the thread if it is at them.
    pub(super) fn take(&self, dir: u64, offset: u64) -> Vec<(Listed, Seen)> {
        let (desk, part) = (&self.desk, (dir, offset));
        let mut state = desk.state.lock();
        if state.wanted.as_ref().is_some_and(|ask| ask.part() == part) {
            // The thread has not got round to it; the caller does it as fast.
            state.wanted = None;
            return Vec::new();
        }
        while state.reading == Some(part) {
            desk.changed.wait(&mut state);
        }
        if state.ready.as_ref().is_none_or(|batch| batch.part != part) {
            return Vec::new();
        }
        let batch = state.ready.take();
        drop(state);
        match batch {
            Some(batch) if desk.changes.still() == Some(batch.at) => batch.names,
            old => {
                desk.release(old);
                Vec::new()
            }
        }
    }

    /// Lets go of names that were read in vain.
    pub(super) fn release(&self, names: impl Iterator<Item = (Listed, Seen)>) {
        release(&self.desk.union, names);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.desk.state.lock().over = true;
        self.desk.changed.notify_all();
        // The thread holds the union, whose work folder another mount may only
        // use once this one has let go of it.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Desk {
    fn serve(&self) {
        let mut state = self.state.lock();
        while !state.over {
            let Some(ask) = state.wanted.take() else {
                self.changed.wait(&mut state);
                continue;
            };
            state.reading = Some(ask.part());
            drop(state);
            let batch = self.read(&ask);
            state = self.state.lock();
            state.reading = None;
            let old = std::mem::replace(&mut state.ready, batch);
            self.changed.notify_all();
            if old.is_some() {
                drop(state);
                self.release(old);
                state = self.state.lock();
            }
        }
    }

    fn read(&self, ask: &Ask) -> Option<Batch> {
        let at = self.changes.still()?;
        let listed = self.union.list(&ask.dir, ask.offset, ask.count).ok()?;
        let mut names = Vec::with_capacity(listed.len());
        for listed in listed {
            let child = || {
                let _tree = self.union.shared();
                self.union.child(&ask.dir, &listed.name, &listed.found)
            };
            let Some(seen) = self.changes.read(at, child) else {
                release(&self.union, names.into_iter());
                return None;
            };
            names.push((listed, seen));
        }
        Some(Batch { part: ask.part(), at, names })
    }

    fn release(&self, batch: Option<Batch>) {
        release(&self.union, batch.into_iter().flat_map(|batch| batch.names));
    }
}

/// The kernel was given no reference to these that it would ever return.
fn release(union: &Union, names: impl Iterator<Item = (Listed, Seen)>) {
    for (_, seen) in names {
        let Ok((node, _)) = seen else { continue };
        let ino = node.ino;
        drop(node);
        union.nodes.forget(ino, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Changes;

    #[test]
    fn a_time_is_marked_only_while_nothing_changes() {
        let changes = Changes::default();
        let before = changes.still();
        assert!(before.is_some());
        let first = changes.begin();
        let second = changes.begin();
        drop(first);
        assert_eq!(changes.still(), None);
        drop(second);
        assert!(changes.still().is_some());
        assert_ne!(changes.still(), before);
    }

    #[test]
    fn nothing_is_read_ahead_beside_a_change() {
        let changes = Changes::default();
        let at = changes.still().unwrap();
        assert_eq!(changes.read(at, || 1), Some(1));
        let change = changes.begin();
        assert_eq!(changes.read(at, || 1), None);
        drop(change);
        assert_eq!(changes.read(at, || 1), None);
        let at = changes.still().unwrap();
        std::thread::scope(|scope| {
            let read = changes.read(at, || {
                let begun = scope.spawn(|| drop(changes.begin()));
                while changes.still().is_some() {
                    std::thread::yield_now();
                }
                assert!(!begun.is_finished(), "a change waits for what is being read");
            });
            assert_eq!(read, Some(()));
        });
    }
}
