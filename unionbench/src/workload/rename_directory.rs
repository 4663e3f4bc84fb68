//! Renames of directories that lie in lower layers. Without redirects a union
//! answers EXDEV, as if the directory lay on another file system; `mv` then
//! copies every file and deletes it again, other programs give up.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, copy_file_range, mkdirat, openat,
    renameat_with, statx, unlinkat,
};

use super::driver::{Gate, Op};
use super::{OpResult, Outcome, Prepared, WorkloadError, driver};
use crate::record::Counter;
use crate::sys::Errno;

pub(super) fn run(
    prepared: &Prepared,
    root: &Path,
    gate: &mut dyn Gate,
    cancel: &AtomicBool,
    copies: bool,
) -> Result<Outcome, WorkloadError> {
    let exdev = AtomicU64::new(0);
    let rename = |op: &Op<'_>| -> OpResult {
        match renameat_with(op.root, op.name, op.root, op.target, RenameFlags::NOREPLACE) {
            Err(Errno::XDEV) => {}
            other => return other.map(|()| 0),
        }
        // The answer that is asked for here, not a failure of the cell.
        exdev.fetch_add(1, Ordering::Relaxed);
        if copies { move_tree(op.root, op.name, op.target) } else { Ok(0) }
    };
    let mut outcome = driver::run(prepared, root, gate, cancel, rename)?;
    let value = exdev.load(Ordering::Relaxed);
    outcome.counters.push(Counter { name: "exdev".into(), engine: "driver".into(), value });
    Ok(outcome)
}

/// Copies a directory and deletes it, on the stack alone. Bytes moved are
/// those of its files.
fn move_tree(root: BorrowedFd<'_>, from: &std::ffi::CStr, to: &std::ffi::CStr) -> OpResult {
    let open = |name| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(root, name, flags, Mode::empty())
    };
    let old = open(from)?;
    let mode = rustix::fs::fstat(&old)?.st_mode & 0o7777;
    mkdirat(root, to, Mode::from_raw_mode(mode | 0o700))?;
    let new = open(to)?;
    let bytes = move_entries(old.as_fd(), new.as_fd())?;
    unlinkat(root, from, AtFlags::REMOVEDIR)?;
    Ok(bytes)
}

fn move_entries(old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> OpResult {
    let mut buffer = [std::mem::MaybeUninit::<u8>::uninit(); 8 * 1024];
    let mut entries = RawDir::new(old, &mut buffer);
    let mut bytes = 0;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            bytes += move_inner(old, new, name)?;
            continue;
        }
        bytes += copy_file(old, new, name)?;
        unlinkat(old, name, AtFlags::empty())?;
    }
    Ok(bytes)
}

fn move_inner(old: BorrowedFd<'_>, new: BorrowedFd<'_>, name: &std::ffi::CStr) -> OpResult {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let from = openat(old, name, flags, Mode::empty())?;
    let mode = rustix::fs::fstat(&from)?.st_mode & 0o7777;
    mkdirat(new, name, Mode::from_raw_mode(mode | 0o700))?;
    let to = openat(new, name, flags, Mode::empty())?;
    let bytes = move_entries(from.as_fd(), to.as_fd())?;
    unlinkat(old, name, AtFlags::REMOVEDIR)?;
    Ok(bytes)
}

fn copy_file(old: BorrowedFd<'_>, new: BorrowedFd<'_>, name: &std::ffi::CStr) -> OpResult {
    let from =
        openat(old, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let found = statx(&from, c"", AtFlags::EMPTY_PATH, rustix::fs::StatxFlags::BASIC_STATS)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let to = openat(new, name, flags, Mode::from_raw_mode(u32::from(found.stx_mode) & 0o7777))?;
    let mut left = found.stx_size;
    while left > 0 {
        match copy_file_range(&from, None, &to, None, left as usize)? {
            0 => break,
            n => left -= n as u64,
        }
    }
    Ok(found.stx_size - left)
}
