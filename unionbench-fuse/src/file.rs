//! Where a file's data is, and opening it. A writer brings the file into the
//! upper layer first, and one that truncates copies none of it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::below::{Below, Place};
use crate::copy_up::Data;
use crate::lookup::may_be_metacopy;
use crate::node::Node;
use crate::union::Union;

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;

impl Union {
    /// Opens the node's data for a client's `flags`; also returned is the
    /// access mode with which it can be opened again.
    pub(crate) fn open_file(
        &self,
        node: &Arc<Node>,
        flags: OFlags,
    ) -> Result<(OFlags, OwnedFd), Errno> {
        let access = flags & OFlags::ACCMODE;
        let truncate = flags.contains(OFlags::TRUNC);
        let _tree = self.shared();
        if access != OFlags::RDONLY || truncate {
            self.copy_up(node, if truncate { Data::UpTo(0) } else { Data::All })?;
        }
        let fd = self.open_data(node, access | (flags & OFlags::TRUNC))?;
        Ok((access, fd))
    }

    /// Opens the data where it lies now. Callers hold the tree lock.
    pub(crate) fn open_data(&self, node: &Node, flags: OFlags) -> Result<OwnedFd, Errno> {
        if let Some(place) = self.data_place(node)? {
            return self.place(&place)?.open(flags);
        }
        let spot = self.spot(node)?;
        let opened = spot.at(self)?.open(flags);
        match opened {
            // The name went away between the two looks.
            Err(Errno::NOENT) if node.is_nameless() => self.spot(node)?.at(self)?.open(flags),
            other => other,
        }
    }

    /// The lower file that holds the node's data; none if the upper layer does,
    /// or only an open descriptor.
    pub(crate) fn data_place(&self, node: &Node) -> Result<Option<Place>, Errno> {
        {
            let state = node.state.lock();
            if state.metacopy {
                return Ok(state.below.places().first().cloned());
            }
            if state.upper {
                return Ok(None);
            }
        }
        if node.is_nameless() {
            return Ok(None);
        }
        self.check_metacopy(node)?;
        let first = node.state.lock().below.places().first().cloned();
        Ok(first.or_else(|| node.lower_place()))
    }

    /// Looks once for the mark of a metacopy on a lower file that did not look
    /// like one. The bottom layer has nothing below that could be its data.
    fn check_metacopy(&self, node: &Node) -> Result<(), Errno> {
        if node.state.lock().checked {
            return Ok(());
        }
        let alias = node.state.lock().aliases.all().iter().find(|a| !a.upper).cloned();
        let Some(alias) = alias else { return Ok(()) };
        let Some(place) = node.lower_place() else { return Ok(()) };
        let mut places = None;
        if usize::from(place.layer) + 1 < self.layers.len() {
            let at = self.place(&place)?;
            if may_be_metacopy(&at.stat()?) {
                places =
                    self.metacopy_places(&alias.parent, at.name.as_os_str(), place.layer, &at)?;
            }
        }
        let mut state = node.state.lock();
        state.checked = true;
        if let Some(places) = places
            && !state.upper
        {
            (state.metacopy, state.below) = (true, Below::of(places));
        }
        Ok(())
    }

    /// True if the file has a bit that a write by an ordinary user takes away.
    pub(crate) fn has_set_id(&self, node: &Arc<Node>) -> Result<bool, Errno> {
        let _tree = self.shared();
        let spot = self.spot(node)?;
        let mode = spot.at(self)?.stat()?.st_mode;
        Ok(mode & (SET_UID | SET_GID) != 0)
    }

    /// Takes away the bits that a write by an ordinary user must not leave. Where
    /// the group may not run the file, its bit stays to the group's members.
    pub(crate) fn drop_privileges(
        &self,
        node: &Arc<Node>,
        is_member: impl FnOnce(u32) -> bool,
    ) -> Result<(), Errno> {
        const GROUP_MAY_RUN: u32 = 0o010;
        let _tree = self.shared();
        let spot = self.spot(node)?;
        let at = spot.at(self)?;
        let stat = at.stat()?;
        let mode = stat.st_mode;
        let mut kept = mode & !SET_UID;
        if mode & SET_GID != 0 && (mode & GROUP_MAY_RUN != 0 || !is_member(stat.st_gid)) {
            kept &= !SET_GID;
        }
        if kept == mode { Ok(()) } else { at.chmod(kept) }
    }
}
