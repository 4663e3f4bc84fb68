//! The attributes by which overlayfs marks objects: read under
//! `trusted.overlay.` and `user.overlay.`, written under one of them.
//!
//! Where a mount writes `trusted.` marks, it believes a redirect or a metacopy
//! only there: the owner of a file may set `user.` attributes on it, and would
//! otherwise choose which file of another owner it shows. Marks under `user.`
//! that only hide are believed everywhere.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::layer::{At, Dir, dir_xattr_names};
use crate::union::Union;

pub(crate) const TRUSTED: &str = "trusted.overlay.";
pub(crate) const USER: &str = "user.overlay.";

/// Marks of a union that is itself a layer are stored one step deeper, as the
/// kernel stores them since Linux 6.7 (`ovl_xattr_escape_name`).
const DEEPER: &[u8] = b"overlay.";

/// How far a directory's mark reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opaque {
    No,
    Yes,
    /// Not opaque, but some of its files may be whiteouts by attribute.
    MayHoldMarks,
}

/// The marks of a directory that a lookup asks for.
#[derive(Debug)]
pub(crate) struct DirMarks {
    pub(crate) opaque: Opaque,
    pub(crate) redirect: Option<PathBuf>,
    /// Objects with an origin may be in it.
    pub(crate) impure: bool,
}

impl Union {
    /// The name of an overlay mark in the namespace this mount writes.
    pub(crate) fn mark(&self, name: &str) -> OsString {
        let prefix = if self.userxattr { USER } else { TRUSTED };
        OsString::from(format!("{prefix}{name}"))
    }

    pub(crate) fn set_mark(&self, at: &At<'_>, name: &str, value: &[u8]) -> Result<(), Errno> {
        at.set_xattr(&self.mark(name), value, XattrFlags::empty())
    }

    /// Takes a mark away in every namespace it is believed in.
    pub(crate) fn clear_mark(&self, at: &At<'_>, name: &str) -> Result<(), Errno> {
        let names = at.xattr_names()?;
        for prefix in self.believed(name) {
            let full = [prefix.as_bytes(), name.as_bytes()].concat();
            if has(&names, &full) {
                at.remove_xattr(OsStr::from_bytes(&full))?;
            }
        }
        Ok(())
    }

    /// The value of a mark in the namespace this mount writes, where no one but
    /// the mounting user's peers may set it.
    pub(crate) fn own_mark(&self, at: &At<'_>, name: &str) -> Result<Option<Vec<u8>>, Errno> {
        at.xattr(&self.mark(name))
    }

    fn believed(&self, name: &str) -> &'static [&'static str] {
        let leads_elsewhere = matches!(name, "redirect" | "metacopy");
        if leads_elsewhere && !self.userxattr { &[TRUSTED] } else { &[TRUSTED, USER] }
    }

    /// The value of a mark, given the names of the object's attributes.
    pub(crate) fn read_mark(
        &self,
        at: &At<'_>,
        names: &[u8],
        name: &str,
    ) -> Result<Option<Vec<u8>>, Errno> {
        for prefix in self.believed(name) {
            let full = [prefix.as_bytes(), name.as_bytes()].concat();
            if has(names, &full)
                && let Some(value) = at.xattr(OsStr::from_bytes(&full))?
            {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// What an open directory's marks say.
    pub(crate) fn dir_marks(&self, dir: &Dir<'_>) -> Result<DirMarks, Errno> {
        use std::os::fd::AsFd;
        let names = dir_xattr_names(dir)?;
        let at = At::of_fd(dir.as_fd());
        let opaque = match self.read_mark(&at, &names, "opaque")?.as_deref() {
            Some(b"y") => Opaque::Yes,
            Some(b"x") => Opaque::MayHoldMarks,
            _ => Opaque::No,
        };
        let impure = has(&names, self.mark("impure").as_bytes());
        Ok(DirMarks { opaque, redirect: self.redirect(&at, &names)?, impure })
    }

    /// The redirect mark. A damaged one gives the kernel's errno (Linux 6.18):
    /// `EINVAL` for a text that is no path, `EACCES` for one with `.` or `..`.
    pub(crate) fn redirect(&self, at: &At<'_>, names: &[u8]) -> Result<Option<PathBuf>, Errno> {
        let Some(mut value) = self.read_mark(at, names, "redirect")? else { return Ok(None) };
        // The kernel reads it as a text that ends with the first NUL.
        value.truncate(value.iter().position(|b| *b == 0).unwrap_or(value.len()));
        check_redirect(&value)?;
        Ok(Some(PathBuf::from(OsString::from_vec(value))))
    }

    /// True if the marks say that the file is only attributes. The value is
    /// empty, or at least the four bytes of the kernel's header.
    pub(crate) fn is_metacopy(&self, at: &At<'_>, names: &[u8]) -> Result<bool, Errno> {
        match self.read_mark(at, names, "metacopy")? {
            None => Ok(false),
            Some(value) if value.is_empty() || value.len() >= 4 => Ok(true),
            Some(_) => Err(Errno::IO),
        }
    }
}

fn check_redirect(value: &[u8]) -> Result<(), Errno> {
    let names = match value.strip_prefix(b"/") {
        Some(rest) => rest,
        None if value.contains(&b'/') => return Err(Errno::INVAL),
        None => value,
    };
    if names.split(|b| *b == b'/').any(<[u8]>::is_empty) {
        return Err(Errno::INVAL);
    }
    let plain = |c: Component<'_>| matches!(c, Component::Normal(_));
    let each = |name: &[u8]| Path::new(OsStr::from_bytes(name)).components().all(plain);
    if names.split(|b| *b == b'/').all(each) { Ok(()) } else { Err(Errno::ACCESS) }
}

/// True if the list of names, each followed by NUL, has this one.
pub(crate) fn has(names: &[u8], name: &[u8]) -> bool {
    !names.is_empty() && names.split(|b| *b == 0).any(|n| n == name)
}

fn prefix_of(name: &[u8]) -> Option<&'static [u8]> {
    [TRUSTED, USER].map(str::as_bytes).into_iter().find(|p| name.starts_with(p))
}

/// True for attributes that are the union's own bookkeeping.
pub(crate) fn is_mark(name: &OsStr) -> bool {
    prefix_of(name.as_bytes()).is_some_and(|p| !name.as_bytes()[p.len()..].starts_with(DEEPER))
}

/// The name under which the layers keep an attribute that the union shows as
/// `name`: a mark of a union above is not one of ours.
pub(crate) fn stored_name(name: &OsStr) -> OsString {
    let bytes = name.as_bytes();
    match prefix_of(bytes) {
        Some(p) => OsString::from_vec([p, DEEPER, &bytes[p.len()..]].concat()),
        None => name.to_owned(),
    }
}

/// The name that the union shows for an attribute of a layer; none for the
/// union's own marks.
pub(crate) fn shown_name(name: &[u8]) -> Option<Vec<u8>> {
    match prefix_of(name) {
        Some(p) => name[p.len()..].strip_prefix(DEEPER).map(|rest| [p, rest].concat()),
        None => Some(name.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_redirects_give_the_kernels_errno() {
        let errno = |text: &str| check_redirect(text.as_bytes()).err();
        for text in ["", "/", "a/b", "//a", "/a/", "/a//b"] {
            assert_eq!(errno(text), Some(Errno::INVAL), "{text:?}");
        }
        for text in ["..", ".", "/..", "/a/../b", "/../../etc"] {
            assert_eq!(errno(text), Some(Errno::ACCESS), "{text:?}");
        }
        for text in ["a", "/a", "/a/b", "..."] {
            assert_eq!(errno(text), None, "{text:?}");
        }
    }

    #[test]
    fn marks_of_a_union_above_are_kept_one_step_deeper() {
        let name = OsStr::new("trusted.overlay.opaque");
        assert!(is_mark(name));
        let stored = stored_name(name);
        assert_eq!(stored, "trusted.overlay.overlay.opaque");
        assert!(!is_mark(&stored));
        assert_eq!(shown_name(stored.as_bytes()).as_deref(), Some(name.as_bytes()));
        assert_eq!(shown_name(name.as_bytes()), None);
        assert_eq!(shown_name(b"user.colour").as_deref(), Some(&b"user.colour"[..]));
    }
}
