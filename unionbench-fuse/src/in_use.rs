//! Folders that the kernel's overlayfs writes to. The mark by which it knows
//! that itself lies in the kernel's memory; what can be seen are the mounts of
//! this process's namespace, which name their folders.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::union::MountError;

/// A mounted overlayfs that is written to.
#[derive(Debug, PartialEq, Eq)]
struct Overlay {
    /// Where it is mounted.
    at: PathBuf,
    /// Its upper and its work folder, as they were named to the kernel.
    folders: Vec<PathBuf>,
}

/// Refuses an upper or work folder that a mounted overlayfs has as one of its
/// two. The kernel itself refuses its own with `index=on`, and otherwise warns
/// of undefined behaviour (Linux 6.18, `ovl_report_in_use`).
pub(crate) fn refuse(upper: &Path, work: &Path) -> Result<(), MountError> {
    // Without a list of mounts nothing can be told.
    let Ok(mounts) = std::fs::read("/proc/self/mountinfo") else { return Ok(()) };
    for overlay in overlays(&mounts) {
        for theirs in overlay.folders.iter().filter_map(|folder| identity(folder)) {
            let same = |own: &&Path| identity(own) == Some(theirs);
            if let Some(own) = [upper, work].into_iter().find(same) {
                let (path, mount) = (own.to_owned(), overlay.at);
                return Err(MountError::InUse { path, mount, source: Errno::BUSY });
            }
        }
    }
    Ok(())
}

/// None for a name that means nothing to this process: one that was relative, or
/// of another root.
fn identity(folder: &Path) -> Option<(u64, u64)> {
    let stat = folder.is_absolute().then(|| rustix::fs::stat(folder).ok()).flatten()?;
    Some((stat.st_dev, stat.st_ino))
}

/// The lines `ID PARENT DEVICE ROOT AT OPTIONS [FIELDS] - TYPE SOURCE OPTIONS`
/// of `/proc/PID/mountinfo` that are of overlayfs.
fn overlays(mounts: &[u8]) -> impl Iterator<Item = Overlay> {
    mounts.split(|b| *b == b'\n').filter_map(|line| {
        let mut fields = line.split(|b| *b == b' ');
        let at = path(fields.nth(4)?);
        let mut rest = fields.skip_while(|field| field != b"-").skip(1);
        let kind = rest.next()?;
        let options = rest.nth(1)?;
        let folders: Vec<_> = options
            .split(|b| *b == b',')
            .filter_map(|o| o.strip_prefix(b"upperdir=").or(o.strip_prefix(b"workdir=")))
            .map(path)
            .collect();
        (kind == b"overlay" && !folders.is_empty()).then_some(Overlay { at, folders })
    })
}

/// Blanks, commas and backslashes are written as three octal digits.
fn path(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        let byte = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlays_that_are_written_to_are_found_with_their_folders() {
        let text = b"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            60 22 0:41 / /m\\040x rw shared:1 master:2 - overlay none rw,lowerdir=/l:/k,upperdir=/u\\054v,workdir=/w\\134\\040z,index=on\n\
            61 22 0:42 / /ro rw - overlay none ro,lowerdir=/l:/k\n\
            62 22 0:43 / /o rw - fuse upperdir=/u rw,upperdir=/u\n";
        let folders = vec![PathBuf::from("/u,v"), PathBuf::from("/w\\ z")];
        let found: Vec<_> = overlays(text).collect();
        assert_eq!(found, [Overlay { at: PathBuf::from("/m x"), folders }]);
        assert_eq!(overlays(b"short\n\n1 2 3").count(), 0);
    }

    #[test]
    fn what_is_no_octal_stays_as_it_is() {
        assert_eq!(path(b"/a\\9\\04"), PathBuf::from("/a\\9\\04"));
        assert_eq!(path(b"\\"), PathBuf::from("\\"));
    }
}
