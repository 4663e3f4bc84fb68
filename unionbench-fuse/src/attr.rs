//! Attributes: where an object really is, what it shows, and changes to it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use crate::copy_up::Data;
use crate::layer::At;
use crate::node::{Node, ROOT};
use crate::union::Union;

/// Where a node's attributes are kept.
pub(crate) enum Spot {
    In(u16, Arc<Path>),
    /// An entry of the inode index.
    Indexed(Arc<Path>),
    /// A dead node, reached through a descriptor still open.
    Open(Arc<OwnedFd>),
}

impl Spot {
    pub(crate) fn at<'a>(&'a self, union: &'a Union) -> Result<At<'a>, Errno> {
        match self {
            Self::In(layer, path) => union.layers[usize::from(*layer)].at(path),
            Self::Indexed(name) => union.index_entry(name),
            Self::Open(fd) => Ok(At::of_fd(fd.as_fd())),
        }
    }
}

/// A change of attributes; none leaves a field alone.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) atime: Option<Timespec>,
    pub(crate) mtime: Option<Timespec>,
}

/// The kernel's "leave this time alone".
pub(crate) const OMIT: Timespec = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };

impl Union {
    pub(crate) fn spot(&self, node: &Node) -> Result<Spot, Errno> {
        // Its names need not be in the upper layer, nor be known.
        if let Some(indexed) = node.indexed() {
            return Ok(Spot::Indexed(indexed.name));
        }
        if node.is_nameless() {
            return node.open_fd().map(Spot::Open).ok_or(Errno::NOENT);
        }
        let (upper, place) = {
            let state = node.state.lock();
            let places = state.below.places();
            let own = if state.metacopy { places.last() } else { places.first() };
            (state.upper, own.cloned())
        };
        if upper {
            return Ok(Spot::In(0, Arc::from(node.upper_path().ok_or(Errno::NOENT)?)));
        }
        let place = place.or_else(|| node.lower_place());
        place.map(|p| Spot::In(p.layer, p.path)).ok_or(Errno::NOENT)
    }

    /// The node's attributes as the union shows them.
    pub(crate) fn stat(&self, node: &Node) -> Result<Stat, Errno> {
        let mut stat = self.spot(node)?.at(self)?.stat()?;
        stat.st_ino = node.ino;
        let state = node.state.lock();
        let places = state.below.places();
        let is_gone = state.aliases.all().is_empty() && node.ino != ROOT;
        if node.is_dir() {
            if is_gone {
                stat.st_nlink = 0;
            } else if places.len() + usize::from(state.upper) > 1 {
                // As overlayfs does: links of a merged directory are not counted.
                stat.st_nlink = 1;
            }
        } else if state.metacopy
            && let Some(data) = places.first()
        {
            stat.st_blocks = self.place(data)?.stat()?.st_blocks;
        }
        if let Some(indexed) = state.below.indexed() {
            stat.st_nlink = indexed.nlink.into();
        } else if is_gone && !state.upper {
            stat.st_nlink = 0;
        }
        Ok(stat)
    }

    pub(crate) fn change(&self, node: &Arc<Node>, change: &Change) -> Result<Stat, Errno> {
        self.check_writable()?;
        let _tree = self.shared();
        self.copy_up(
            node,
            match change.size {
                Some(size) => Data::UpTo(size),
                None if self.metacopy => Data::None,
                None => Data::All,
            },
        )?;
        let spot = self.spot(node)?;
        let at = spot.at(self)?;
        if let Some(size) = change.size {
            rustix::fs::ftruncate(at.open(OFlags::WRONLY)?, size)?;
        }
        let changed = apply(&at, change);
        node.gives_anew();
        changed?;
        self.stat(node)
    }

    pub(crate) fn read_link(&self, node: &Node) -> Result<Vec<u8>, Errno> {
        let _tree = self.shared();
        let spot = self.spot(node)?;
        let at = spot.at(self)?;
        Ok(at.read_link()?.into_bytes())
    }

    /// Flushes the upper part of a directory; lower parts never change.
    pub(crate) fn sync_dir(&self, node: &Node) -> Result<(), Errno> {
        let dir = {
            let _tree = self.shared();
            if !node.in_upper() {
                return Ok(());
            }
            // One that was removed while it is open has nothing left to flush.
            let Some(path) = node.upper_path() else { return Ok(()) };
            self.upper(&path)?.open(OFlags::RDONLY | OFlags::DIRECTORY)?
        };
        rustix::fs::fsync(dir)
    }
}

/// Changes all but the size.
fn apply(at: &At<'_>, change: &Change) -> Result<(), Errno> {
    if change.uid.is_some() || change.gid.is_some() {
        at.chown(change.uid, change.gid)?;
    }
    if let Some(mode) = change.mode {
        at.chmod(mode)?;
    }
    if change.atime.is_none() && change.mtime.is_none() {
        return Ok(());
    }
    at.set_times(&Timestamps {
        last_access: change.atime.unwrap_or(OMIT),
        last_modification: change.mtime.unwrap_or(OMIT),
    })
}
