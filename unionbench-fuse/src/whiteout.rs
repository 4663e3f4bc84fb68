//! Marks that hide what lower layers hold.
//!
//! Read: a character device 0:0; an empty file with `overlay.whiteout` in a
//! directory marked opaque `x`; in lower layers an empty file `.wh.<name>`,
//! and `.wh..wh..opq` for an opaque directory. Written: the device 0:0 and
//! opaque `y` only, which the kernel reads too.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, RenameFlags};
use rustix::io::Errno;

use crate::counters::Counters;
use crate::layer::At;
use crate::union::Union;

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
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

/// How far a directory's mark reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opaque {
    No,
    Yes,
    /// Not opaque, but some of its files may be whiteouts by attribute.
    MayHoldMarks,
}

impl Union {
    pub(crate) fn opaque(&self, at: &At<'_>) -> Result<Opaque, Errno> {
        Ok(match at.xattr(&self.mark("opaque"))?.as_deref() {
            Some(b"y") => Opaque::Yes,
            Some(b"x") => Opaque::MayHoldMarks,
            _ => Opaque::No,
        })
    }

    /// What the entry `at` of a layer means; `marks` says that its directory
    /// may hold whiteouts by attribute.
    pub(crate) fn meaning(
        &self,
        at: &At<'_>,
        kind: FileType,
        lower: bool,
        marks: bool,
    ) -> Result<Meaning, Errno> {
        let name = at.path.file_name().unwrap_or_default();
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
        if marks && kind == FileType::RegularFile && at.xattr(&self.mark("whiteout"))?.is_some() {
            return Ok(Meaning::Hides(name.to_owned()));
        }
        Ok(Meaning::Object)
    }

    /// Puts a new whiteout under `name` of the work folder: a further link to
    /// one shared inode, or a new inode once that one has no link left to
    /// give.
    pub(crate) fn whiteout_twin(&self, name: &Path) -> Result<(), Errno> {
        let shared = self.in_work(Path::new(SHARED))?;
        let make = |at: &At<'_>| {
            rustix::fs::mknodat(at.dir, at.path, FileType::CharacterDevice, Mode::empty(), 0)
        };
        if !self.whiteout_ready.load(Ordering::Acquire) {
            match make(&shared) {
                Ok(()) | Err(Errno::EXIST) => self.whiteout_ready.store(true, Ordering::Release),
                Err(e) => return Err(e),
            }
        }
        Counters::add(&self.counters.whiteouts, 1);
        let twin = self.in_work(name)?;
        match rustix::fs::linkat(shared.dir, shared.path, twin.dir, twin.path, AtFlags::empty()) {
            Err(Errno::MLINK) => {
                rustix::fs::unlinkat(shared.dir, shared.path, AtFlags::empty())?;
                self.whiteout_ready.store(false, Ordering::Release);
                make(&twin)
            }
            other => other,
        }
    }

    /// Hides `path`, where the upper layer has nothing or a non-directory.
    pub(crate) fn whiteout_at(&self, path: &Path) -> Result<(), Errno> {
        let name = self.twin_name();
        self.whiteout_twin(&name)?;
        let (twin, upper) = (self.in_work(&name)?, self.upper(path));
        let moved = rustix::fs::renameat(twin.dir, twin.path, upper.dir, upper.path);
        if moved.is_err() {
            let _ = rustix::fs::unlinkat(twin.dir, twin.path, AtFlags::empty());
        }
        moved
    }

    /// Takes the directory at `path` out of the upper layer in one step,
    /// leaving a whiteout if `hide`, and clears what marks it still holds.
    pub(crate) fn drop_dir(&self, path: &Path, hide: bool) -> Result<(), Errno> {
        let name = self.twin_name();
        let (twin, upper) = (self.in_work(&name)?, self.upper(path));
        if hide {
            self.whiteout_twin(&name)?;
            let flags = RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(twin.dir, twin.path, upper.dir, upper.path, flags)?;
        } else {
            rustix::fs::renameat(upper.dir, upper.path, twin.dir, twin.path)?;
        }
        crate::union::clear_twin(&twin)
    }
}

/// True for names the kernel would not let a lower layer show as themselves.
pub(crate) fn too_long(name: &OsStr) -> bool {
    name.len() > 255
}
