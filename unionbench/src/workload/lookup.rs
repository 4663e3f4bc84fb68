//! Lookup: `statx` of a name, without following a last symbolic link.

use std::ffi::CString;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, statx};

use super::OpResult;
use super::driver::Op;
use crate::sys::Errno;

pub(super) fn present(op: &Op<'_>) -> OpResult {
    statx(op.root, op.name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS).map(|_| 0)
}

/// The name is in no layer: ENOENT is the answer asked for, success is not.
pub(super) fn missing(op: &Op<'_>) -> OpResult {
    match statx(op.root, op.name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS) {
        Err(Errno::NOENT) => Ok(0),
        Err(errno) => Err(errno),
        Ok(_) => Err(Errno::EXIST),
    }
}

/// Looks every name up once; that some are missing is no error.
pub(super) fn visit(root: &Path, names: &[CString]) -> std::io::Result<()> {
    let root = rustix::fs::open(
        root,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for name in names {
        let _ = statx(&root, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
    }
    Ok(())
}
