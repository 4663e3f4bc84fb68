//! Renames. Both objects are first brought into the upper layer; a directory
//! with lower parts is marked with where they are (redirect), one without is
//! marked opaque where its new name has something below.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use crate::copy_up::Data;
use crate::index::What;
use crate::layer::join;
use crate::node::Node;
use crate::remove::Victim;
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
    Object(Victim),
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
        let moves_dirs = self.prepare(from, to, flags)?;
        let _tree = self.tree.alone();
        if moves_dirs {
            self.layers[0].drop_dirs();
        }
        let moved = self.victim(from.parent, from.name)?;
        let (target, to_below) = self.target(to)?;
        self.mark_moved(&moved.node, to_below)?;
        self.hand_on_impure(from.parent, to.parent)?;
        match target {
            Target::Object(target) if exchange => {
                self.mark_moved(&target.node, moved.below)?;
                self.hand_on_impure(to.parent, from.parent)?;
                self.upper(&path_of(from)?)?
                    .rename_with(&self.upper(&path_of(to)?)?, RenameFlags::EXCHANGE)?;
                moved.node.forget_alias(from.parent, moved.slot);
                target.node.forget_alias(to.parent, target.slot);
                self.enter(to.parent, to.name, &moved.node, to_below)?;
                self.enter(from.parent, from.name, &target.node, moved.below)?;
            }
            target => {
                if let Target::Object(gone) = &target {
                    self.pin(&gone.node)?;
                    self.before_names_change(&gone.node)?;
                }
                self.replace(from, to, &moved, &target)?;
                if let Target::Object(gone) = &target {
                    gone.node.forget_alias(to.parent, gone.slot);
                    self.name_gone(&gone.node);
                }
                moved.node.forget_alias(from.parent, moved.slot);
                self.leave(from.parent, from.name, moved.below)?;
                self.enter(to.parent, to.name, &moved.node, to_below)?;
            }
        }
        if moves_dirs {
            self.layers[0].drop_dirs();
        }
        Ok(())
    }

    /// Brings what is to move into the upper layer. Data is copied while
    /// others may go on; only the moves are alone. True if a directory moves.
    fn prepare(&self, from: End<'_>, to: End<'_>, flags: RenameFlags) -> Result<bool, Errno> {
        let _tree = self.shared();
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let Victim { node: moved, slot, .. } = self.victim(from.parent, from.name)?;
        let mut moves_dirs = moved.is_dir();
        if let (Target::Object(victim), _) = self.target(to)? {
            let target = &victim.node;
            moves_dirs |= target.is_dir();
            if flags.contains(RenameFlags::NOREPLACE) {
                return Err(Errno::EXIST);
            }
            if !exchange && target.is_dir() && !self.index_of(target)?.shows_nothing() {
                return Err(Errno::NOTEMPTY);
            }
            if exchange {
                self.check_may_move(target)?;
                self.copy_up_name(target, to.parent, victim.slot, Data::All)?;
            } else {
                self.bring_up_counted(&victim, to.parent)?;
            }
        } else if exchange {
            return Err(Errno::NOENT);
        }
        self.check_may_move(&moved)?;
        self.copy_up_name(&moved, from.parent, slot, Data::All)?;
        self.copy_up(from.parent, Data::All)?;
        self.copy_up(to.parent, Data::All)?;
        Ok(moves_dirs)
    }

    /// Refuses what would need a redirect where none may be made, as the kernel
    /// does (`ovl_can_move`).
    fn check_may_move(&self, node: &Node) -> Result<(), Errno> {
        let has_lower = node.is_dir() && !node.state.lock().below.places().is_empty();
        if has_lower && self.no_redirects { Err(Errno::XDEV) } else { Ok(()) }
    }

    fn target(&self, to: End<'_>) -> Result<(Target, bool), Errno> {
        let found = self.index_for(to.parent, to.name)?.get(to.name).map(|e| (e.what, e.below));
        Ok(match found {
            None => (Target::Nothing { hidden: false }, false),
            Some((What::Whiteout, below)) => (Target::Nothing { hidden: true }, below),
            Some((_, below)) => (Target::Object(self.victim(to.parent, to.name)?), below),
        })
    }

    /// Marks a directory, still under its old name, for a new one.
    fn mark_moved(&self, node: &Node, below: bool) -> Result<(), Errno> {
        if !node.is_dir() {
            return Ok(());
        }
        let path = node.upper_path().ok_or(Errno::NOENT)?;
        let merged = !node.state.lock().below.places().is_empty();
        if merged {
            let redirect = self.redirect_to(&path)?;
            return self.set_mark(&self.upper(&path)?, "redirect", redirect.as_bytes());
        }
        if below { self.set_mark(&self.upper(&path)?, "opaque", b"y") } else { Ok(()) }
    }

    /// The way from the lower layers' roots to what the upper directory at
    /// `path` is merged with: its names, up to the first directory that is
    /// redirected itself. The layers below continue that way as they find it
    /// (`ovl_get_redirect`).
    fn redirect_to(&self, path: &Path) -> Result<OsString, Errno> {
        let mut tail = OsString::new();
        let mut so_far = Some(path);
        while let Some(dir) = so_far.filter(|dir| !dir.as_os_str().is_empty()) {
            let marks = self.dir_marks(&self.layers[0].dir(dir)?)?;
            let name = match &marks.redirect {
                Some(to) if to.is_absolute() => {
                    let mut whole = to.clone().into_os_string();
                    whole.push(tail);
                    return Ok(whole);
                }
                Some(to) => to.as_os_str(),
                None => dir.file_name().ok_or(Errno::IO)?,
            };
            let mut longer = OsString::from("/");
            longer.push(name);
            longer.push(tail);
            tail = longer;
            so_far = dir.parent();
        }
        Ok(tail)
    }

    /// Moves the upper object, in one step where the file system can, and
    /// leaves a whiteout where a lower layer would show through.
    fn replace(
        &self,
        from: End<'_>,
        to: End<'_>,
        moved: &Victim,
        target: &Target,
    ) -> Result<(), Errno> {
        let (old_path, new_path) = (path_of(from)?, path_of(to)?);
        let (old, new) = (self.upper(&old_path)?, self.upper(&new_path)?);
        match target {
            Target::Object(gone) if gone.node.is_dir() && gone.node.in_upper() => {
                old.rename_with(&new, RenameFlags::EXCHANGE)?;
                return self.drop_dir(&old_path, moved.below);
            }
            Target::Nothing { hidden: true } if moved.node.is_dir() => {
                old.rename_with(&new, RenameFlags::EXCHANGE)?;
                return if moved.below { Ok(()) } else { old.unlink(AtFlags::empty()) };
            }
            Target::Object(gone) if gone.node.in_upper() => {
                self.save_other_names(&gone.node, to.parent, gone.slot)?;
            }
            _ => {}
        }
        if !moved.below {
            return old.rename(&new);
        }
        match old.rename_with(&new, RenameFlags::WHITEOUT) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                old.rename(&new)?;
                self.whiteout_at(&old_path, false)
            }
            other => other,
        }
    }
}

/// Where the upper layer has the end of a rename.
fn path_of(end: End<'_>) -> Result<PathBuf, Errno> {
    Ok(join(&end.parent.upper_path().ok_or(Errno::NOENT)?, end.name))
}
