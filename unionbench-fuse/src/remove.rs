//! Names that go: nothing is copied, a whiteout is left where a lower layer
//! would show through.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::io::Errno;

use crate::attr::Spot;
use crate::copy_up::Data;
use crate::layer::join;
use crate::lookup::Found;
use crate::node::Node;
use crate::union::Union;

/// An object that is to lose a name.
pub(crate) struct Victim {
    pub(crate) node: Arc<Node>,
    pub(crate) slot: u32,
    /// The upper layer has something under the name.
    pub(crate) upper: bool,
    /// A lower layer shows something under the name.
    pub(crate) below: bool,
}

impl Union {
    pub(crate) fn unlink(&self, parent: &Arc<Node>, name: &OsStr) -> Result<(), Errno> {
        self.check_writable()?;
        let _tree = self.shared();
        let victim = self.victim(parent, name)?;
        if victim.node.is_dir() {
            return Err(Errno::ISDIR);
        }
        self.bring_up_counted(&victim, parent)?;
        let Victim { node, slot, .. } = victim;
        let _copying = node.copying.lock();
        // The object may have moved up since it was looked at.
        let Victim { upper, below, .. } = self.victim(parent, name)?;
        self.copy_up(parent, Data::All)?;
        let path = join(&parent.upper_path().ok_or(Errno::NOENT)?, name);
        if upper {
            self.save_other_names(&node, parent, slot)?;
        }
        self.pin(&node)?;
        self.before_names_change(&node)?;
        // Whoever asks for the node meanwhile is led to its descriptor.
        node.forget_alias(parent, slot);
        let gone = if below {
            self.whiteout_at(&path, upper)
        } else {
            self.upper(&path).and_then(|at| at.unlink(AtFlags::empty()))
        };
        if let Err(e) = gone {
            node.learn_alias(parent, slot, upper);
            return Err(e);
        }
        self.name_gone(&node);
        self.leave(parent, name, below)
    }

    pub(crate) fn rmdir(&self, parent: &Arc<Node>, name: &OsStr) -> Result<(), Errno> {
        self.check_writable()?;
        let _tree = self.shared();
        let Victim { node, slot, below, .. } = self.victim(parent, name)?;
        if !self.index_of(&node)?.shows_nothing() {
            return Err(Errno::NOTEMPTY);
        }
        let _copying = node.copying.lock();
        self.copy_up(parent, Data::All)?;
        self.pin(&node)?;
        let path = join(&parent.upper_path().ok_or(Errno::NOENT)?, name);
        if !node.in_upper() {
            self.whiteout_at(&path, false)?;
        } else if below {
            self.drop_dir(&path, true)?;
        } else {
            match self.upper(&path)?.unlink(AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => self.drop_dir(&path, false)?,
                other => other?,
            }
            self.layers[0].drop_dir(&path);
        }
        node.forget_alias(parent, slot);
        self.leave(parent, name, below)
    }

    /// The object under a name.
    pub(crate) fn victim(&self, parent: &Arc<Node>, name: &OsStr) -> Result<Victim, Errno> {
        let (found, below) = {
            let index = self.index_for(parent, name)?;
            let entry = index.get(name).ok_or(Errno::NOENT)?;
            (Found::of(&index, &entry).ok_or(Errno::NOENT)?, entry.below)
        };
        let known = if found.ino == 0 { None } else { self.nodes.get(found.ino) };
        let node = match known.filter(|node| node.has_alias(parent, found.slot)) {
            Some(node) => node,
            None => self.child(parent, name, &found)?.0,
        };
        Ok(Victim { node, slot: found.slot, upper: self.is_upper(found.layer), below })
    }

    /// Before a name of an upper object goes: if its other names are
    /// still lower ones (hard links of the object it was copied from), one of
    /// them takes the upper object over, so that what was written stays.
    pub(crate) fn save_other_names(
        &self,
        node: &Node,
        parent: &Node,
        slot: u32,
    ) -> Result<(), Errno> {
        if node.indexed().is_some() {
            return Ok(());
        }
        let heir = {
            let state = node.state.lock();
            let all = state.aliases.all().iter();
            let others = || all.clone().filter(|a| a.parent.ino != parent.ino || a.slot != slot);
            if others().any(|a| a.upper) { None } else { others().next().cloned() }
        };
        let Some(heir) = heir else { return Ok(()) };
        self.copy_up(&heir.parent, Data::All)?;
        self.link_up(node, &heir)
    }

    /// Before a file's last name goes: keeps its data reachable for those who
    /// have it open. Without opens (`data=noopen`) that is everyone the kernel
    /// knows the file for.
    pub(crate) fn pin(&self, node: &Node) -> Result<(), Errno> {
        if node.is_dir() {
            self.pin_dir(node);
            return Ok(());
        }
        let wanted = {
            let state = node.state.lock();
            let open = state.opened.as_ref().is_some_and(|o| o.handles > 0);
            let may_be_open = open || (self.no_open() && node.is_known());
            may_be_open && state.aliases.all().len() == 1 && node.kind == FileType::RegularFile
        };
        if !wanted {
            return Ok(());
        }
        let open = |flags| self.open_data(node, flags).map(Arc::new);
        let fd = if node.in_upper() && !node.state.lock().metacopy {
            match node.open_fd().filter(|fd| reads_and_writes(fd)) {
                Some(known) => known,
                None => open(OFlags::RDWR).or_else(|_| open(OFlags::RDONLY))?,
            }
        } else {
            open(OFlags::RDONLY)?
        };
        let mut state = node.state.lock();
        state.opened.get_or_insert_default().pinned = Some(fd);
        Ok(())
    }

    /// Keeps the attributes of a directory reachable for those who have it open or
    /// stand in it, of whom the kernel does not tell. Where no descriptor is left
    /// it goes without.
    fn pin_dir(&self, node: &Node) {
        if !node.is_known() {
            return;
        }
        let open = |spot: Spot| spot.at(self)?.open(OFlags::PATH | OFlags::DIRECTORY);
        if let Ok(fd) = self.spot(node).and_then(open) {
            node.state.lock().opened.get_or_insert_default().pinned = Some(Arc::new(fd));
        }
    }

    /// Takes a name out of its parent's listing.
    pub(crate) fn leave(&self, parent: &Node, name: &OsStr, below: bool) -> Result<(), Errno> {
        let mut index = self.begun_index(parent)?;
        if below {
            index.hide(name);
        } else {
            index.remove(name);
            index.note_absent(name);
        }
        Ok(())
    }
}

/// True for a descriptor of an upper file that serves every use of it.
fn reads_and_writes(fd: &OwnedFd) -> bool {
    rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::RDWR)
}
