//! Open files. A handle opened on a lower file follows the data once another
//! opener has copied it up, so an old reader sees what is written.
//!
//! The kernel may have more files open than this process may have
//! descriptors. Past a limit the oldest descriptors are closed, and opened
//! again by their file's name when they are needed; a file that loses its last
//! name while it is open keeps one descriptor of its own (`Opened::pinned`).
//! Without opens (`data=noopen`) the same table holds one handle for each file
//! that was read or written lately.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use hashbrown::HashMap;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::node::Node;
use crate::union::Union;

/// An open file.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) node: Arc<Node>,
    flags: OFlags,
    current: Mutex<Current>,
    /// Kept as long as the kernel may use it.
    pub(crate) backing: Option<Arc<fuser::BackingId>>,
}

#[derive(Debug)]
struct Current {
    /// The node's epoch when the descriptor was opened.
    epoch: u32,
    fd: Option<Arc<OwnedFd>>,
}

const SHARDS: usize = 16;
/// Files kept open without an open of the kernel's.
const IMPLICIT: usize = 512;
/// Descriptors there is room for from the beginning, in 64 KiB: folders of layers
/// that are kept, files used without an open, and some that are open.
const AT_ONCE: u64 = 8192;

type Shard<K> = Mutex<HashMap<K, Arc<Handle>>>;

/// Open files by the number the kernel knows them by.
#[derive(Debug)]
pub(crate) struct Handles {
    by_number: [Shard<u64>; SHARDS],
    /// By inode, and whether for writing.
    implicit: [Shard<(u64, bool)>; SHARDS],
    next: AtomicU64,
    /// Descriptors that may be closed, oldest first; some are closed already.
    oldest: Mutex<VecDeque<Weak<Handle>>>,
    open: AtomicUsize,
    limit: usize,
}

/// Raises this process's limit of descriptors as far as it may, and makes its
/// table of them large. The kernel makes it larger by itself, but once there are
/// several threads it waits for all processors each time (`expand_fdtable`).
pub(crate) fn make_room() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        let _ = setrlimit(Resource::Nofile, limit);
    }
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let highest = most.min(AT_ONCE).saturating_sub(1) as i32;
    // Whatever fails here leaves the table as it is.
    if let Ok(any) = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::io::fcntl_dupfd_cloexec(&any, highest);
    }
}

impl Handles {
    /// Leaves a quarter of this process's descriptors to everything but open
    /// files.
    pub(crate) fn new() -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20).min(1 << 20);
        Self {
            by_number: std::array::from_fn(|_| Mutex::new(HashMap::new())),
            implicit: std::array::from_fn(|_| Mutex::new(HashMap::new())),
            next: AtomicU64::new(1),
            oldest: Mutex::new(VecDeque::new()),
            open: AtomicUsize::new(0),
            limit: (files as usize * 3 / 4).saturating_sub(2048).max(64),
        }
    }

    /// Takes a handle in; its number is never 0.
    pub(crate) fn add(&self, handle: Handle) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let handle = Arc::new(handle);
        self.opened(&handle);
        self.by_number[number as usize % SHARDS].lock().insert(number, handle);
        number
    }

    pub(crate) fn get(&self, number: u64) -> Result<Arc<Handle>, Errno> {
        let shard = self.by_number[number as usize % SHARDS].lock();
        shard.get(&number).cloned().ok_or(Errno::BADF)
    }

    pub(crate) fn remove(&self, number: u64) {
        let handle = self.by_number[number as usize % SHARDS].lock().remove(&number);
        if let Some(handle) = handle {
            self.closed(&handle);
            handle.leave();
        }
    }

    /// The handle of a file that is used without having been opened.
    pub(crate) fn implicit(
        &self,
        union: &Union,
        node: Arc<Node>,
        write: bool,
    ) -> Result<Arc<Handle>, Errno> {
        let key = (node.ino, write);
        let shard = &self.implicit[node.ino as usize % SHARDS];
        if let Some(handle) = shard.lock().get(&key)
            && handle.node.generation == node.generation
        {
            return Ok(handle.clone());
        }
        let flags = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let (flags, fd) = union.open_file(&node, flags)?;
        Ok(self.add_implicit(Handle::new(node, flags, fd), write))
    }

    /// Keeps the descriptor with which a file was made for the writes that are
    /// likely to follow.
    pub(crate) fn keep(&self, node: Arc<Node>, fd: OwnedFd) {
        self.add_implicit(Handle::new(node, OFlags::RDWR, fd), true);
    }

    fn add_implicit(&self, handle: Handle, write: bool) -> Arc<Handle> {
        let ino = handle.node.ino;
        let handle = Arc::new(handle);
        self.opened(&handle);
        let mut shard = self.implicit[ino as usize % SHARDS].lock();
        let mut leaving = Vec::new();
        if shard.len() >= IMPLICIT / SHARDS {
            leaving.extend(shard.drain().map(|(_, old)| old));
        }
        leaving.extend(shard.insert((ino, write), handle.clone()));
        drop(shard);
        for old in leaving {
            self.closed(&old);
            old.leave();
        }
        handle
    }

    /// Lets go of an inode that the kernel has forgotten.
    pub(crate) fn forget(&self, ino: u64) {
        let mut shard = self.implicit[ino as usize % SHARDS].lock();
        for write in [false, true] {
            if let Some(old) = shard.remove(&(ino, write)) {
                self.closed(&old);
                old.leave();
            }
        }
    }

    /// The descriptor of where the data is now.
    pub(crate) fn fd(&self, union: &Union, handle: &Arc<Handle>) -> Result<Arc<OwnedFd>, Errno> {
        let mut current = handle.current.lock();
        let epoch = handle.node.epoch.load(Ordering::Acquire);
        if current.epoch == epoch
            && let Some(fd) = &current.fd
        {
            return Ok(fd.clone());
        }
        let fresh = {
            let _tree = union.shared();
            union.open_data(&handle.node, handle.flags)
        };
        let fd = match (fresh, &current.fd) {
            (Ok(fd), _) => Arc::new(fd),
            // A node that has lost its last name keeps the data it had.
            (Err(_), Some(old)) => old.clone(),
            (Err(e), None) => return Err(e),
        };
        let was_closed = current.fd.is_none();
        *current = Current { epoch, fd: Some(fd.clone()) };
        drop(current);
        handle.node.learn_fd(&fd);
        if was_closed {
            self.opened(handle);
        }
        Ok(fd)
    }

    /// Counts a new descriptor, and closes old ones past the limit.
    fn opened(&self, handle: &Arc<Handle>) {
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        let mut oldest = self.oldest.lock();
        if oldest.len() > 2 * open + 64 {
            oldest.retain(|h| h.strong_count() > 0);
        }
        oldest.push_back(Arc::downgrade(handle));
        let mut tries = oldest.len();
        while self.open.load(Ordering::Relaxed) > self.limit && tries > 0 {
            tries -= 1;
            let Some(old) = oldest.pop_front() else { break };
            let Some(old_handle) = old.upgrade() else { continue };
            // A handle in use by another thread is not waited for.
            if let Some(mut current) = old_handle.current.try_lock()
                && !old_handle.node.is_nameless()
                && !Arc::ptr_eq(&old_handle, handle)
            {
                self.open.fetch_sub(usize::from(current.fd.take().is_some()), Ordering::Relaxed);
            } else {
                oldest.push_back(old);
            }
        }
    }

    fn closed(&self, handle: &Handle) {
        if handle.current.lock().fd.is_some() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Handle {
    pub(crate) fn new(node: Arc<Node>, flags: OFlags, fd: OwnedFd) -> Self {
        let fd = Arc::new(fd);
        let epoch = node.epoch.load(Ordering::Acquire);
        node.state.lock().opened.get_or_insert_default().handles += 1;
        node.learn_fd(&fd);
        Self { node, flags, current: Mutex::new(Current { epoch, fd: Some(fd) }), backing: None }
    }

    /// Takes the handle off its node's count; with the last one goes what an
    /// open node has.
    fn leave(&self) {
        let mut state = self.node.state.lock();
        let Some(opened) = &mut state.opened else { return };
        opened.handles = opened.handles.saturating_sub(1);
        if self.backing.is_none() {
            opened.way.cached = opened.way.cached.saturating_sub(1);
        }
        if opened.handles == 0 {
            state.opened = None;
        }
    }
}
