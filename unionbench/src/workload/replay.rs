//! The operations of a trace, one by one.

use std::ffi::CString;
use std::path::Path;

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW, Uid, XattrFlags,
    chownat, linkat, mkdirat, openat, renameat_with, unlinkat, utimensat,
};

use super::OpResult;
use super::driver::Op;
use crate::plan::{ReplayPlan, Replayed};

/// Changes an object as its operation says.
pub(super) fn operate(operations: &[ReplayPlan], op: &Op<'_>) -> OpResult {
    let write = OFlags::WRONLY | OFlags::CLOEXEC;
    match operations[op.index].by {
        Replayed::OpenWrite => openat(op.root, op.name, write, Mode::empty()).map(|_| 0),
        Replayed::OpenTruncate => {
            openat(op.root, op.name, write | OFlags::TRUNC, Mode::empty()).map(|_| 0)
        }
        // Not ftruncate: the open before it would be what copies up.
        Replayed::Truncate => crate::sys::truncate::truncate(op.name, op.size / 2).map(|()| 0),
        Replayed::Chmod => super::recursive::chmod(op),
        Replayed::Chown => {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            chownat(op.root, op.name, Some(Uid::ROOT), Some(Gid::ROOT), flags).map(|()| 0)
        }
        Replayed::Utimes => {
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            let times = Timestamps { last_access: now, last_modification: now };
            utimensat(op.root, op.name, &times, AtFlags::SYMLINK_NOFOLLOW).map(|()| 0)
        }
        Replayed::Setxattr => {
            rustix::fs::setxattr(op.name, c"user.unionbench", b"1", XattrFlags::empty()).map(|()| 0)
        }
        Replayed::Link => {
            linkat(op.root, op.name, op.root, op.target, AtFlags::empty()).map(|()| 0)
        }
        Replayed::Rename => {
            renameat_with(op.root, op.name, op.root, op.target, RenameFlags::NOREPLACE).map(|()| 0)
        }
        Replayed::Unlink => unlinkat(op.root, op.name, AtFlags::empty()).map(|()| 0),
        Replayed::Create => {
            let new = write | OFlags::CREATE | OFlags::EXCL;
            openat(op.root, op.target, new, Mode::from_raw_mode(0o644)).map(|_| 0)
        }
        Replayed::Mkdir => mkdirat(op.root, op.target, Mode::from_raw_mode(0o755)).map(|()| 0),
        Replayed::Fsync => {
            let file = openat(op.root, op.name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::fs::fsync(&file).map(|()| 0)
        }
    }
}

/// The second name of an operation that has one.
pub(super) fn target(index: usize, operation: &ReplayPlan) -> CString {
    let text = match operation.by {
        Replayed::Create | Replayed::Mkdir => format!("{}/unionbench-{index}", operation.on),
        _ => format!("{}.second-{index}", operation.on),
    };
    CString::new(text).unwrap_or_default()
}

/// Brings into the upper layer what lay there when the trace began.
///
/// # Errors
/// One of them is not there or cannot be changed.
pub fn bring_up(up: &[String], root: &Path) -> std::io::Result<()> {
    for path in up {
        let path = root.join(path);
        let mode = std::fs::metadata(&path)?.permissions();
        std::fs::set_permissions(&path, mode)?;
    }
    Ok(())
}
