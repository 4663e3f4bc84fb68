//! Readdir: the whole of a merged directory, `.` and `..` included.

use rustix::fs::{Mode, OFlags, RawDir, openat};

use super::OpResult;
use super::driver::Op;

/// Bytes moved are the lengths of the names.
pub(super) fn list(op: &Op<'_>) -> OpResult {
    let dir = openat(
        op.root,
        op.name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut buffer = [std::mem::MaybeUninit::<u8>::uninit(); 32 * 1024];
    let mut entries = RawDir::new(&dir, &mut buffer);
    let mut bytes = 0;
    while let Some(entry) = entries.next() {
        bytes += entry?.file_name().count_bytes() as u64;
    }
    Ok(bytes)
}
