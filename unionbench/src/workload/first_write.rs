//! First writes: each trigger that makes a union copy a lower file up.

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, RenameFlags, Uid, XattrFlags, chmodat, chownat, ftruncate, linkat,
    openat, renameat_with,
};

use super::OpResult;
use super::driver::Op;

/// Opens for writing, writes one byte at offset 0, closes. The close is timed
/// too: it is where a FUSE file system may flush.
pub(super) fn write(op: &Op<'_>) -> OpResult {
    let file = openat(op.root, op.name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let n = rustix::io::pwrite(&file, b"u", 0)?;
    Ok(n as u64)
}

pub(super) fn chmod(op: &Op<'_>) -> OpResult {
    chmodat(op.root, op.name, Mode::from_raw_mode(0o640), AtFlags::empty()).map(|()| 0)
}

/// To the caller's own ids: a user namespace maps no others. The kernel copies
/// up all the same.
pub(super) fn chown(op: &Op<'_>) -> OpResult {
    chownat(op.root, op.name, Some(Uid::ROOT), Some(Gid::ROOT), AtFlags::empty()).map(|()| 0)
}

pub(super) fn truncate(op: &Op<'_>) -> OpResult {
    let file = openat(op.root, op.name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    ftruncate(&file, op.size / 2).map(|()| 0)
}

pub(super) fn link(op: &Op<'_>) -> OpResult {
    linkat(op.root, op.name, op.root, op.target, AtFlags::empty()).map(|()| 0)
}

pub(super) fn rename(op: &Op<'_>) -> OpResult {
    renameat_with(op.root, op.name, op.root, op.target, RenameFlags::NOREPLACE).map(|()| 0)
}

/// setxattr(2) has no form relative to a directory before Linux 6.13; the
/// threads' working directory is the root of the tree.
pub(super) fn setxattr(op: &Op<'_>) -> OpResult {
    rustix::fs::setxattr(op.name, c"user.unionbench", b"1", XattrFlags::empty()).map(|()| 0)
}
