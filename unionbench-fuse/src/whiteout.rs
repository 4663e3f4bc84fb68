//! Marks that hide what lower layers hold.
//!
//! Read: a character device 0:0; an empty file with `overlay.whiteout` in a
//! directory marked opaque `x`; in lower layers an empty file `.wh.<name>`,
//! and `.wh..wh..opq` for an opaque directory. Written: the device 0:0 and
//! opaque `y` only, which the kernel reads too.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, RenameFlags};
use rustix::io::Errno;

use crate::counters::Counters;
use crate::layer::At;
use crate::union::Union;

const PREFIX: &[u8] = b".wh.";
/// The file that makes a lower directory opaque.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
const SHARED: &str = "#whiteout";

/// What a name in a layer's directory means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Object,
    /// The name (this one or another) is hidden below.
    Hides(OsString),
    /// The whole directory hides what is below.
    HidesAll,
    /// Bookkeeping that no one should see.
    Nothing,
}

impl Union {
    /// What the entry `at` of a layer means; `marks` says that its directory
    /// may hold whiteouts by attribute.
    pub(crate) fn meaning(
        &self,
        at: &At<'_>,
        kind: FileType,
        lower: bool,
        marks: bool,
    ) -> Result<Meaning, Errno> {
        let name = at.name.as_os_str();
        if kind == FileType::CharacterDevice {
            let stat = at.stat()?;
            return Ok(if stat.st_rdev == 0 {
                Meaning::Hides(name.to_owned())
            } else {
                Meaning::Object
            });
        }
        let empty = || at.stat().map(|s| s.st_size == 0);
        if kind == FileType::RegularFile && lower && name.as_bytes().starts_with(PREFIX) && empty()?
        {
            return Ok(match name.as_bytes() {
                OPAQUE => Meaning::HidesAll,
                other if other[PREFIX.len()..].starts_with(PREFIX) => Meaning::Nothing,
                other => Meaning::Hides(OsString::from_vec(other[PREFIX.len()..].to_vec())),
            });
        }
        if marks && kind == FileType::RegularFile {
            let names = at.xattr_names()?;
            if self.read_mark(at, &names, "whiteout")?.is_some() {
                return Ok(Meaning::Hides(name.to_owned()));
            }
        }
        Ok(Meaning::Object)
    }

    /// Puts a new whiteout at `to`, where nothing is: a further link to one
    /// shared inode, or a new inode once that one has no link left to give.
    pub(crate) fn new_whiteout(&self, to: &At<'_>) -> Result<(), Errno> {
        let shared = self.in_work(Path::new(SHARED))?;
        let make = |at: &At<'_>| {
            rustix::fs::mknodat(&at.dir, at.name, FileType::CharacterDevice, Mode::empty(), 0)
        };
        if !self.whiteout_ready.load(Ordering::Acquire) {
            match make(&shared) {
                Ok(()) | Err(Errno::EXIST) => self.whiteout_ready.store(true, Ordering::Release),
                Err(e) => return Err(e),
            }
        }
        Counters::add(&self.counters.whiteouts, 1);
        match shared.link(to) {
            Err(Errno::MLINK) => {
                // Another thread may have taken it away already.
                let _ = shared.unlink(AtFlags::empty());
                self.whiteout_ready.store(false, Ordering::Release);
                make(to)
            }
            // A file system may have whiteouts but no links to devices, and
            // another thread may just have taken the shared one away.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOENT) => make(to),
            other => other,
        }
    }

    /// Hides `path`, where the upper layer has a non-directory if `occupied`,
    /// else nothing.
    pub(crate) fn whiteout_at(&self, path: &Path, occupied: bool) -> Result<(), Errno> {
        let upper = self.upper(path)?;
        if !occupied {
            return self.new_whiteout(&upper);
        }
        let name = self.twin_name();
        let twin = self.in_work(&name)?;
        self.new_whiteout(&twin)?;
        let moved = twin.rename(&upper);
        if moved.is_err() {
            let _ = twin.unlink(AtFlags::empty());
        }
        moved
    }

    /// Takes the directory at `path` out of the upper layer in one step,
    /// leaving a whiteout if `hide`, and clears what marks it still holds.
    pub(crate) fn drop_dir(&self, path: &Path, hide: bool) -> Result<(), Errno> {
        let name = self.twin_name();
        let (twin, upper) = (self.in_work(&name)?, self.upper(path)?);
        if hide {
            self.new_whiteout(&twin)?;
            if let Err(e) = twin.rename_with(&upper, RenameFlags::EXCHANGE) {
                let _ = twin.unlink(AtFlags::empty());
                return Err(e);
            }
        } else {
            upper.rename(&twin)?;
        }
        self.layers[0].drop_dir(path);
        crate::union::clear_twin(&twin)
    }
}

/// The file that would hide `name` in the layers below; none for a name that no
/// such file can hide.
pub(crate) fn marker(name: &OsStr) -> Option<PathBuf> {
    let marked = [PREFIX, name.as_bytes()].concat();
    let fits = marked.len() <= 255 && !name.as_bytes().starts_with(PREFIX);
    fits.then(|| PathBuf::from(OsString::from_vec(marked)))
}

/// True for names the kernel would not let a lower layer show as themselves.
pub(crate) fn too_long(name: &OsStr) -> bool {
    name.len() > 255
}
