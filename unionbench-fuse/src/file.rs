//! Open files. A handle opened on a lower file follows the data once another
//! opener has copied it up, so an old reader sees what is written.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::copy_up::Data;
use crate::node::Node;
use crate::union::Union;

/// An open file.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) node: Arc<Node>,
    flags: OFlags,
    /// The descriptor, and the node's epoch when it was opened.
    current: Mutex<(u64, Arc<OwnedFd>)>,
    /// Kept as long as the kernel may use it.
    pub(crate) backing: Option<Arc<fuser::BackingId>>,
}

const SHARDS: usize = 16;

/// Open files by the number the kernel knows them by.
#[derive(Debug)]
pub(crate) struct Handles {
    shards: [Mutex<HashMap<u64, Arc<Handle>>>; SHARDS],
    next: AtomicU64,
}

impl Handles {
    pub(crate) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::new(HashMap::new())),
            next: AtomicU64::new(1),
        }
    }

    pub(crate) fn add(&self, handle: Handle) -> u64 {
        let fh = self.next.fetch_add(1, Ordering::Relaxed);
        self.shards[fh as usize % SHARDS].lock().insert(fh, Arc::new(handle));
        fh
    }

    pub(crate) fn get(&self, fh: u64) -> Result<Arc<Handle>, Errno> {
        self.shards[fh as usize % SHARDS].lock().get(&fh).cloned().ok_or(Errno::BADF)
    }

    pub(crate) fn remove(&self, fh: u64) {
        self.shards[fh as usize % SHARDS].lock().remove(&fh);
    }
}

impl Handle {
    pub(crate) fn new(node: Arc<Node>, flags: OFlags, fd: OwnedFd) -> Self {
        let fd = Arc::new(fd);
        let epoch = node.epoch.load(Ordering::Acquire);
        let mut state = node.state.lock();
        state.open.retain(|fd| fd.strong_count() > 0);
        state.open.push(Arc::downgrade(&fd));
        drop(state);
        Self { node, flags, current: Mutex::new((epoch, fd)), backing: None }
    }

    /// The descriptor of where the data is now.
    pub(crate) fn fd(&self, union: &Union) -> Result<Arc<OwnedFd>, Errno> {
        let mut current = self.current.lock();
        let epoch = self.node.epoch.load(Ordering::Acquire);
        if current.0 != epoch {
            let _tree = union.shared();
            let fresh = union.spot(&self.node).and_then(|spot| spot.at(union).open(self.flags));
            // A node that has lost its last name keeps the data it had.
            if let Ok(fd) = fresh {
                let fd = Arc::new(fd);
                self.node.state.lock().open.push(Arc::downgrade(&fd));
                current.1 = fd;
            }
            current.0 = epoch;
        }
        Ok(current.1.clone())
    }
}

impl Union {
    /// Opens the node's data; a writer brings it into the upper layer first,
    /// and one that truncates copies none of it.
    pub(crate) fn open_file(
        &self,
        node: &Arc<Node>,
        flags: i32,
    ) -> Result<(OFlags, OwnedFd), Errno> {
        let flags = OFlags::from_bits_retain(flags as u32);
        let access = flags & OFlags::ACCMODE;
        let truncate = flags.contains(OFlags::TRUNC);
        let _tree = self.shared();
        if access != OFlags::RDONLY || truncate {
            self.copy_up(node, if truncate { Data::UpTo(0) } else { Data::All })?;
        }
        let open = access | (flags & OFlags::TRUNC);
        let data = {
            let state = node.state.lock();
            if !state.upper || state.metacopy { state.lowers.first().cloned() } else { None }
        };
        let fd = match data {
            Some(place) => self.place(&place).open(open)?,
            None => self.spot(node)?.at(self).open(open)?,
        };
        Ok((access, fd))
    }
}
