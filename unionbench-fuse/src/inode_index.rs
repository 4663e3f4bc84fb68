//! The folder `index` in the work folder, by which the names of a hard-linked
//! lower file stay one file once it is copied up (`index=on`). Not to be
//! confused with `index`, the listing of a directory in memory.
//!
//! An entry is the upper file itself, under the file handle of the lower one in
//! hexadecimal digits; its names in the upper layer are further links to it. A
//! lower name finds its file by that handle. The format and the checks at mount
//! are the kernel's (Linux 6.18, `ovl_get_indexdir`, `ovl_verify_index`), so
//! each mounts what the other left, and refuses what the other refuses.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::hard_links::nlink_of;
use crate::layer::{At, Dir, Layer};
use crate::marks::{TRUSTED, USER};
use crate::options::MountOptions;
use crate::origin;
use crate::sys::handle;
use crate::union::{MountError, Union, clear_twin};

/// The open folder.
#[derive(Debug)]
pub(crate) struct InodeIndex {
    dir: OwnedFd,
}

/// What becomes of an entry that was there before the mount.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Stays,
    /// Left by a crash, of a lower file that is gone, or without a name left.
    Goes,
}

impl InodeIndex {
    pub(crate) fn entry<'a>(&'a self, name: &'a Path) -> At<'a> {
        At { dir: Dir::Borrowed(self.dir.as_fd()), name }
    }

    /// Opens the index if one is asked for, checks that it belongs to these
    /// layers, and takes out what no longer belongs in it.
    pub(crate) fn open(union: &Union, options: &MountOptions) -> Result<Option<Self>, MountError> {
        // As the kernel: without an upper layer it would be of no use.
        let (Some(upper), Some(work)) = (&options.upper, &options.work) else { return Ok(None) };
        if !options.index {
            return Ok(None);
        }
        check_handles(union, options)?;
        let root = At::of_fd(union.layers[0].root());
        if let (Some(layer), Some(lower)) = (union.layers.get(1), options.lower.first()) {
            let stale = |source| MountError::OtherLower {
                upper: upper.clone(),
                lower: lower.clone(),
                source,
            };
            let handle = own_handle(layer).and_then(|h| origin::encode(&h, layer.uuid()));
            verify(union, &root, "origin", handle, !options.read_only).map_err(stale)?;
        }
        let path = work.join("index");
        let damaged = |source| MountError::Index { path: path.clone(), source };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let open = || rustix::fs::open(&path, flags, Mode::empty());
        let dir = match open() {
            Err(Errno::NOENT) if options.read_only => return Ok(None),
            Err(Errno::NOENT) => {
                rustix::fs::mkdir(&path, Mode::empty()).map_err(damaged)?;
                open()
            }
            other => other,
        };
        let index = Self { dir: dir.map_err(damaged)? };
        let at = At::of_fd(index.dir.as_fd());
        let other =
            |source| MountError::OtherUpper { index: path.clone(), upper: upper.clone(), source };
        let layer = &union.layers[0];
        let handle = own_handle(layer).and_then(|h| origin::encode_upper(&h, layer.uuid()));
        verify(union, &at, "upper", handle, !options.read_only).map_err(other)?;
        if !options.read_only {
            index.clean(union, &path)?;
        }
        Ok(Some(index))
    }

    /// Takes out what an earlier mount left over. An entry that cannot be judged
    /// is an error, as in the kernel: it might be from a later version.
    fn clean(&self, union: &Union, path: &Path) -> Result<(), MountError> {
        let failed = |source| MountError::Index { path: path.to_owned(), source };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                use std::os::unix::ffi::OsStrExt;
                names.push(PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes())));
            }
        }
        for name in names {
            let at = self.entry(&name);
            let failed = |source| refused(union, &at, path.join(&name), source);
            match self.judge(union, &at).map_err(failed)? {
                Entry::Stays => {}
                Entry::Goes => clear_twin(&at).map_err(failed)?,
            }
        }
        Ok(())
    }

    fn judge(&self, union: &Union, at: &At<'_>) -> Result<Entry, Errno> {
        use std::os::unix::ffi::OsStrExt;
        let name = at.name.as_os_str().as_bytes();
        if name.starts_with(b"#") {
            return Ok(Entry::Goes);
        }
        let bytes = from_hex(name).ok_or(Errno::INVAL)?;
        origin::check(&bytes)?;
        let bytes = &bytes[..usize::from(bytes[2])];
        let stat = at.stat()?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        // Both are made for NFS exports: whiteouts for handles that are stale,
        // directories for all that were copied up.
        if is_whiteout(&stat) || kind == FileType::Directory {
            return Ok(Entry::Stays);
        }
        let mark = stored(union, at, "origin")?.ok_or(Errno::NODATA)?;
        if mark != bytes {
            return Ok(Entry::Goes);
        }
        if stat.st_nlink > 1 {
            return Ok(Entry::Stays);
        }
        // No name in the upper layer: it stays for those of the lower layers.
        let Some((_, lower)) = union.origin_of(bytes) else { return Ok(Entry::Goes) };
        if FileType::from_raw_mode(lower.st_mode) != kind {
            return Ok(Entry::Goes);
        }
        let counted = union.own_mark(at, "nlink")?;
        let nlink = counted.and_then(|m| nlink_of(&m, stat.st_nlink as _, lower.st_nlink as _));
        Ok(if nlink.is_some() { Entry::Stays } else { Entry::Goes })
    }
}

/// Why an entry cannot be judged. One that was written with marks of the other
/// prefix has none under this mount's, and is not damaged.
fn refused(union: &Union, at: &At<'_>, path: PathBuf, source: Errno) -> MountError {
    let (other, written) = match union.userxattr {
        true => (TRUSTED, "without userxattr"),
        false => (USER, "with userxattr"),
    };
    let has_other = || at.xattr(OsStr::new(&format!("{other}origin"))).is_ok_and(|m| m.is_some());
    if source == Errno::NODATA && has_other() {
        return MountError::OtherMarks { path, written, source };
    }
    MountError::Index { path, source }
}

/// Handles are what the index is made of, so each layer must give and take
/// them, and those of two file systems must not be mistaken for each other.
fn check_handles(union: &Union, options: &MountOptions) -> Result<(), MountError> {
    let lowers = options.lower.iter().chain(&options.data_only);
    let paths = options.upper.iter().chain(lowers);
    let mut known: Vec<(u64, [u8; 16])> = Vec::new();
    for (i, (layer, path)) in union.layers.iter().zip(paths).enumerate() {
        let refused = |why| MountError::NoIndex { path: path.clone(), why };
        if layer.uuid() == [0; 16] && !kernel_tells_uuids() {
            return Err(refused(NO_UUIDS));
        }
        let handle = own_handle(layer).ok_or_else(|| refused(NO_HANDLES))?;
        match handle::open(layer.root(), &handle) {
            Ok(_) => {}
            Err(Errno::PERM) => return Err(refused(NOT_ALLOWED)),
            Err(_) => return Err(refused(NO_HANDLES)),
        }
        if i == 0 {
            continue;
        }
        let device = rustix::fs::fstat(layer.root()).map_err(|_| refused(NO_HANDLES))?.st_dev;
        if known.iter().any(|(other, uuid)| *other != device && *uuid == layer.uuid()) {
            return Err(refused(SAME_UUID));
        }
        known.push((device, layer.uuid()));
    }
    Ok(())
}

const NO_HANDLES: &str = "its file system gives no file handles";
const NOT_ALLOWED: &str = "opening files by handle needs CAP_DAC_READ_SEARCH";
const SAME_UUID: &str = "another lower layer's file system has the same UUID or, like it, none";

const NO_UUIDS: &str =
    "Linux before 6.9 does not tell its file system's UUID, which is part of an entry's name";

/// False before Linux 6.9 (`FS_IOC_GETFSUUID`).
fn kernel_tells_uuids() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>());
    let (major, minor) = (numbers.next(), numbers.next());
    matches!((major, minor), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (6, 9))
}

fn own_handle(layer: &Layer) -> Option<handle::Handle> {
    handle::encode(layer.root(), Path::new("")).ok()
}

/// Compares a mark with the handle it should hold; stores it where there is
/// none that can be read, if `set`.
fn verify(
    union: &Union,
    at: &At<'_>,
    name: &str,
    wanted: Option<Vec<u8>>,
    set: bool,
) -> Result<(), Errno> {
    let wanted = wanted.ok_or(Errno::IO)?;
    match stored(union, at, name)? {
        Some(mark) if mark == wanted => Ok(()),
        Some(_) => Err(Errno::STALE),
        None if set => union.set_mark(at, name, &wanted),
        None => Ok(()),
    }
}

/// The handle in a mark, without what follows it; none if it cannot be read.
fn stored(union: &Union, at: &At<'_>, name: &str) -> Result<Option<Vec<u8>>, Errno> {
    let Some(mut mark) = union.own_mark(at, name)? else { return Ok(None) };
    if origin::check(&mark).is_err() {
        return Ok(None);
    }
    mark.truncate(usize::from(mark[2]));
    Ok(Some(mark))
}

pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// The name of an entry.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a name; a last single digit does not count, as in the kernel.
fn from_hex(name: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    name.chunks_exact(2).map(|d| Some((digit(d[0])? << 4 | digit(d[1])?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hexadecimal_digits() {
        assert_eq!(to_hex(&[0, 0xfb, 0x1d]), "00fb1d");
        assert_eq!(from_hex(b"00fB1d"), Some(vec![0, 0xfb, 0x1d]));
        assert_eq!(from_hex(b"00fb1"), Some(vec![0, 0xfb]));
        assert_eq!(from_hex(b"00xb"), None);
    }
}
