//! The merged view of listed layers copied into one plain tree: the control,
//! and what squashing an image gives.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use super::{Listing, StackError};

/// Copies what the layers show into `target`, which must be empty: contents,
/// holes, modes, owners, attributes, times, hard links within a layer.
///
/// # Errors
/// The disk is full, or `cancel` was set.
pub(super) fn copy_merged(
    listing: &Listing,
    lower: &[PathBuf],
    target: &Path,
    cancel: &AtomicBool,
) -> Result<(), StackError> {
    let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut directories = vec![(PathBuf::new(), 0)];
    // The order of paths puts parents before what is in them.
    for (path, &layer) in &listing.visible {
        if cancel.load(Ordering::Relaxed) {
            return Err(StackError::Cancelled);
        }
        let (from, to) = (lower[layer as usize].join(path), target.join(path));
        let failed = |source| super::build::io_error("copy", &to, source);
        let metadata = fs::symlink_metadata(&from).map_err(failed)?;
        if metadata.is_dir() {
            fs::create_dir(&to).map_err(failed)?;
            directories.push((path.clone(), layer));
            continue;
        }
        if metadata.nlink() > 1 {
            let key = (metadata.dev(), metadata.ino());
            if let Some(first) = links.get(&key) {
                fs::hard_link(first, &to).map_err(failed)?;
                continue;
            }
            links.insert(key, to.clone());
        }
        object(&from, &to, &metadata).map_err(failed)?;
    }
    // Innermost first, since each would change the time of the one above it.
    for (path, layer) in directories.into_iter().rev() {
        let (from, to) = (lower[layer as usize].join(&path), target.join(&path));
        let failed = |source| super::build::io_error("copy", &to, source);
        let metadata = fs::symlink_metadata(&from).map_err(failed)?;
        attributes(&from, &to, &metadata).map_err(failed)?;
    }
    Ok(())
}

fn object(from: &Path, to: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
    } else if kind.is_fifo() {
        rustix::fs::mknodat(CWD, to, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    } else if kind.is_file() {
        data(from, to, metadata)?;
    } else {
        return Err(io::Error::other("layers hold no sockets and device nodes"));
    }
    attributes(from, to, metadata)
}

/// Holes stay holes: SEEK_DATA finds what lies between them.
fn data(from: &Path, to: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    use io::Seek as _;
    let mut source = fs::File::open(from)?;
    let mut copy = fs::OpenOptions::new().write(true).create_new(true).open(to)?;
    if metadata.blocks() * 512 >= metadata.len() {
        io::copy(&mut source, &mut copy)?;
        return Ok(());
    }
    let mut position = 0;
    while position < metadata.len() {
        let start = match rustix::fs::seek(&source, rustix::fs::SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&source, rustix::fs::SeekFrom::Hole(start))?;
        source.seek(io::SeekFrom::Start(start))?;
        copy.seek(io::SeekFrom::Start(start))?;
        io::copy(&mut io::Read::take(&source, end - start), &mut copy)?;
        position = end;
    }
    copy.set_len(metadata.len())
}

fn attributes(from: &Path, to: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
    match rustix::fs::chownat(CWD, to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
        // An ordinary user's layers are all that user's own.
        Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    if !metadata.is_symlink() {
        fs::set_permissions(to, metadata.permissions())?;
    }
    let mut names = vec![0_u8; 64 << 10];
    let n = rustix::fs::llistxattr(from, &mut names).unwrap_or(0);
    for name in names[..n].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let mut value = vec![0_u8; 64 << 10];
        let n = rustix::fs::lgetxattr(from, name, &mut value)?;
        rustix::fs::lsetxattr(to, name, &value[..n], XattrFlags::empty())?;
    }
    let time = Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
