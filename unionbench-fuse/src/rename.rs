//! Renames. Both objects are first brought into the upper layer; a directory
//! with lower parts is marked with where they are (redirect), one without is
//! marked opaque where its new name has something below.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use crate::copy_up::Data;
use crate::index::{Entry, What};
use crate::layer::join;
use crate::node::Node;
use crate::union::Union;
use crate::whiteout::too_long;

/// One end of a rename.
#[derive(Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) parent: &'a Arc<Node>,
    pub(crate) name: &'a OsStr,
}

/// What lies under the new name.
enum Target {
    Nothing { hidden: bool },
    Object(Arc<Node>),
}

impl Union {
    pub(crate) fn rename(
        &self,
        from: End<'_>,
        to: End<'_>,
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        self.check_writable()?;
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL);
        }
        if too_long(to.name) {
            return Err(Errno::NAMETOOLONG);
        }
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        {
            // Data is copied while others may go on; only the moves are alone.
            let _tree = self.shared();
            let (node, ..) = self.victim(from.parent, from.name)?;
            if let (Target::Object(target), _) = self.target(to)? {
                if flags.contains(RenameFlags::NOREPLACE) {
                    return Err(Errno::EXIST);
                }
                if !exchange && target.is_dir() && !self.index_of(&target)?.shows_nothing() {
                    return Err(Errno::NOTEMPTY);
                }
                if exchange {
                    self.copy_up(&target, Data::All)?;
                }
            } else if exchange {
                return Err(Errno::NOENT);
            }
            self.copy_up(&node, Data::All)?;
            self.copy_up(to.parent, Data::All)?;
        }
        let _tree = self.tree.write();
        let (node, _, from_below) = self.victim(from.parent, from.name)?;
        let (target, to_below) = self.target(to)?;
        self.mark_moved(&node, to_below)?;
        match target {
            Target::Object(target) if exchange => {
                self.mark_moved(&target, from_below)?;
                self.exchange(from, to)?;
                self.moved(&node, from, to, to_below)?;
                self.moved(&target, to, from, from_below)
            }
            target => {
                self.replace(from, to, &node, &target, from_below)?;
                if let Target::Object(gone) = &target {
                    gone.forget_alias(to.parent, to.name);
                }
                self.leave(from.parent, from.name, from_below)?;
                self.moved(&node, from, to, to_below)
            }
        }
    }

    fn target(&self, to: End<'_>) -> Result<(Target, bool), Errno> {
        let found = {
            let index = self.index_of(to.parent)?;
            index.get(to.name).map(|e: &Entry| (e.what, e.below))
        };
        Ok(match found {
            None => (Target::Nothing { hidden: false }, false),
            Some((What::Whiteout, below)) => (Target::Nothing { hidden: true }, below),
            Some((_, below)) => (Target::Object(self.victim(to.parent, to.name)?.0), below),
        })
    }

    /// Marks a directory, still under its old name, for a new one.
    fn mark_moved(&self, node: &Node, below: bool) -> Result<(), Errno> {
        if !node.is_dir() {
            return Ok(());
        }
        let path = node.upper_path().ok_or(Errno::NOENT)?;
        let at = self.upper(&path);
        let first = node.state.lock().lowers.first().cloned();
        match first {
            Some(place) => {
                let redirect = join(Path::new("/"), place.path.as_os_str());
                let text = redirect.as_os_str().as_encoded_bytes();
                // Joining to the root gives two slashes; the kernel wants one.
                self.set_mark(&at, "redirect", text.strip_prefix(b"/").unwrap_or(text))
            }
            None if below => self.set_mark(&at, "opaque", b"y"),
            None => Ok(()),
        }
    }

    fn exchange(&self, from: End<'_>, to: End<'_>) -> Result<(), Errno> {
        let old = join(&from.parent.upper_path().ok_or(Errno::NOENT)?, from.name);
        let new = join(&to.parent.upper_path().ok_or(Errno::NOENT)?, to.name);
        let (old, new) = (self.upper(&old), self.upper(&new));
        rustix::fs::renameat_with(old.dir, old.path, new.dir, new.path, RenameFlags::EXCHANGE)
    }

    /// Moves the upper object, in one step where the file system can, and
    /// leaves a whiteout where a lower layer would show through.
    fn replace(
        &self,
        from: End<'_>,
        to: End<'_>,
        node: &Node,
        target: &Target,
        from_below: bool,
    ) -> Result<(), Errno> {
        let old_path = join(&from.parent.upper_path().ok_or(Errno::NOENT)?, from.name);
        let new_path = join(&to.parent.upper_path().ok_or(Errno::NOENT)?, to.name);
        let (old, new) = (self.upper(&old_path), self.upper(&new_path));
        match target {
            Target::Object(gone) if gone.is_dir() && gone.in_upper() => {
                self.exchange(from, to)?;
                return self.drop_dir(&old_path, from_below);
            }
            Target::Nothing { hidden: true } if node.is_dir() => {
                self.exchange(from, to)?;
                if !from_below {
                    rustix::fs::unlinkat(old.dir, old.path, AtFlags::empty())?;
                }
                return Ok(());
            }
            Target::Object(gone) if gone.in_upper() => {
                self.save_other_names(gone, to.parent, to.name, &new_path)?;
            }
            _ => {}
        }
        if !from_below {
            return rustix::fs::renameat(old.dir, old.path, new.dir, new.path);
        }
        let flags = RenameFlags::WHITEOUT;
        match rustix::fs::renameat_with(old.dir, old.path, new.dir, new.path, flags) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                rustix::fs::renameat(old.dir, old.path, new.dir, new.path)?;
                self.whiteout_at(&old_path)
            }
            other => other,
        }
    }

    fn moved(
        &self,
        node: &Arc<Node>,
        from: End<'_>,
        to: End<'_>,
        below: bool,
    ) -> Result<(), Errno> {
        node.forget_alias(from.parent, from.name);
        node.learn_alias(to.parent, to.name, true);
        self.enter(to.parent, to.name, node.kind, node.ino, below)
    }
}
