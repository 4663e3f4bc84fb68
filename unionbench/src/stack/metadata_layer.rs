//! A layer that holds every name of a union and no data: its files point into
//! data-only layers below (Documentation/filesystems/overlayfs.rst,
//! "Data-only lower layers"; Linux 6.5). composefs arranges images so.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, Timespec, Timestamps, XattrFlags};

use super::StackError;

/// Writes what the mounted union at `merged` shows to `to`, which must not
/// exist.
///
/// # Errors
/// An object cannot be read, made or marked.
pub fn write_metadata_layer(merged: &Path, to: &Path) -> Result<(), StackError> {
    let mut pending = vec![PathBuf::new()];
    let mut directories = Vec::new();
    fs::create_dir(to).map_err(|source| failed("create", to, source))?;
    while let Some(dir) = pending.pop() {
        let full = merged.join(&dir);
        for entry in fs::read_dir(&full).map_err(|source| failed("list", &full, source))? {
            let entry = entry.map_err(|source| failed("list", &full, source))?;
            let path = dir.join(entry.file_name());
            let target = to.join(&path);
            let metadata = entry.metadata().map_err(|e| failed("read", &entry.path(), e))?;
            make(&entry.path(), &path, &target, &metadata)
                .map_err(|source| failed("write", &target, source))?;
            if metadata.is_dir() {
                pending.push(path.clone());
                directories.push((target, metadata));
            }
        }
        let root = fs::metadata(&full).map_err(|source| failed("read", &full, source))?;
        if dir.as_os_str().is_empty() {
            directories.push((to.to_owned(), root));
        }
    }
    // Last, since what is made in a directory changes its times.
    for (path, metadata) in directories.iter().rev() {
        set_attributes(path, metadata).map_err(|source| failed("write", path, source))?;
    }
    Ok(())
}

fn make(from: &Path, path: &Path, to: &Path, metadata: &fs::Metadata) -> std::io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        return fs::create_dir(to);
    }
    if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
        std::os::unix::fs::lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
        return set_times(to, metadata);
    }
    if kind.is_file() {
        fs::File::create_new(to)?.set_len(metadata.len())?;
        let mut redirect = b"/".to_vec();
        redirect.extend_from_slice(path.as_os_str().as_bytes());
        let none = XattrFlags::empty();
        rustix::fs::setxattr(to, "trusted.overlay.metacopy", b"", none)?;
        rustix::fs::setxattr(to, "trusted.overlay.redirect", &redirect, none)?;
    } else {
        let made = if kind.is_fifo() { FileType::Fifo } else { FileType::Socket };
        rustix::fs::mknodat(rustix::fs::CWD, to, made, Mode::from_raw_mode(0o600), 0)?;
    }
    set_attributes(to, metadata)
}

fn set_attributes(path: &Path, metadata: &fs::Metadata) -> std::io::Result<()> {
    std::os::unix::fs::lchown(path, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    set_times(path, metadata)
}

fn set_times(path: &Path, metadata: &fs::Metadata) -> std::io::Result<()> {
    let at = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: at(metadata.atime(), metadata.atime_nsec() as _),
        last_modification: at(metadata.mtime(), metadata.mtime_nsec() as _),
    };
    Ok(rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?)
}

fn failed(action: &'static str, path: &Path, source: std::io::Error) -> StackError {
    StackError::Io { action, path: path.to_owned(), source }
}
