//! Names that go: nothing is copied, a whiteout is left where a lower layer
//! would show through.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::copy_up::Data;
use crate::index::What;
use crate::layer::join;
use crate::node::Node;
use crate::union::Union;

impl Union {
    pub(crate) fn unlink(&self, parent: &Arc<Node>, name: &OsStr) -> Result<(), Errno> {
        self.check_writable()?;
        let _tree = self.shared();
        let (node, upper, below) = self.victim(parent, name)?;
        if node.is_dir() {
            return Err(Errno::ISDIR);
        }
        let _copying = node.copying.lock();
        // The object may have moved up since it was looked at.
        let upper = upper || self.in_upper_here(parent, name);
        self.copy_up(parent, Data::All)?;
        let path = join(&parent.upper_path().ok_or(Errno::NOENT)?, name);
        if upper {
            self.save_other_names(&node, parent, name, &path)?;
        }
        let at = self.upper(&path);
        if below {
            self.whiteout_at(&path)?;
        } else {
            rustix::fs::unlinkat(at.dir, at.path, AtFlags::empty())?;
        }
        self.leave(parent, name, below)?;
        node.forget_alias(parent, name);
        Ok(())
    }

    pub(crate) fn rmdir(&self, parent: &Arc<Node>, name: &OsStr) -> Result<(), Errno> {
        self.check_writable()?;
        let _tree = self.shared();
        let (node, _, below) = self.victim(parent, name)?;
        if !self.index_of(&node)?.shows_nothing() {
            return Err(Errno::NOTEMPTY);
        }
        let _copying = node.copying.lock();
        self.copy_up(parent, Data::All)?;
        let path = join(&parent.upper_path().ok_or(Errno::NOENT)?, name);
        if !node.in_upper() {
            self.whiteout_at(&path)?;
        } else if below {
            self.drop_dir(&path, true)?;
        } else {
            let at = self.upper(&path);
            match rustix::fs::unlinkat(at.dir, at.path, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => self.drop_dir(&path, false)?,
                other => other?,
            }
        }
        self.leave(parent, name, below)?;
        node.forget_alias(parent, name);
        Ok(())
    }

    /// The node under a name, whether the upper layer has it, and whether a
    /// lower layer shows something under the name.
    pub(crate) fn victim(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
    ) -> Result<(Arc<Node>, bool, bool), Errno> {
        let (ino, layer, below) = {
            let index = self.index_of(parent)?;
            let entry = index.get(name).ok_or(Errno::NOENT)?;
            if entry.what == What::Whiteout {
                return Err(Errno::NOENT);
            }
            (entry.ino, entry.layer, entry.below)
        };
        let known = if ino == 0 { None } else { self.nodes.get(ino) };
        let known = known.filter(|node| {
            let state = node.state.lock();
            state.aliases.iter().any(|a| a.parent.ino == parent.ino && a.name == name)
        });
        let node = match known {
            Some(node) => node,
            None => self.lookup(parent, name)?.0,
        };
        Ok((node, layer == 0, below))
    }

    fn in_upper_here(&self, parent: &Node, name: &OsStr) -> bool {
        let index = parent.index.lock();
        index.as_ref().and_then(|i| i.get(name)).is_some_and(|e| e.layer == 0)
    }

    /// Before the name `path` of an upper object goes: if its other names are
    /// still lower ones (hard links of the object it was copied from), one of
    /// them takes the upper object over, so that what was written stays.
    pub(crate) fn save_other_names(
        &self,
        node: &Node,
        parent: &Node,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), Errno> {
        let heir = {
            let state = node.state.lock();
            let others =
                || state.aliases.iter().filter(|a| a.parent.ino != parent.ino || a.name != name);
            if others().any(|a| a.upper) { None } else { others().next().cloned() }
        };
        let Some(heir) = heir else { return Ok(()) };
        self.copy_up(&heir.parent, Data::All)?;
        let to_path = join(&heir.parent.upper_path().ok_or(Errno::NOENT)?, &heir.name);
        let (from, to) = (self.upper(path), self.upper(&to_path));
        rustix::fs::linkat(from.dir, from.path, to.dir, to.path, AtFlags::empty())?;
        node.learn_alias(&heir.parent, &heir.name, true);
        if let Some(entry) = heir.parent.index.lock().as_mut().and_then(|i| i.get_mut(&heir.name)) {
            entry.layer = 0;
        }
        Ok(())
    }

    /// Takes a name out of its parent's listing.
    pub(crate) fn leave(&self, parent: &Node, name: &OsStr, below: bool) -> Result<(), Errno> {
        let mut index = self.index_of(parent)?;
        if !below {
            index.remove(name);
        } else if let Some(entry) = index.get_mut(name) {
            entry.what = What::Whiteout;
            entry.layer = 0;
            entry.ino = 0;
            entry.dirs.clear();
        }
        Ok(())
    }
}
