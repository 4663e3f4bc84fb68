//! Walk: `ls -l` of one directory; that of every directory together is
//! `ls -lR`.

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, StatxFlags, openat, statx};

use super::OpResult;
use super::driver::Op;

/// Bytes moved are the lengths of the files.
pub(super) fn list_long(op: &Op<'_>) -> OpResult {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(op.root, op.name, flags, Mode::empty())?;
    let mut buffer = [std::mem::MaybeUninit::<u8>::uninit(); 32 * 1024];
    let mut entries = RawDir::new(&dir, &mut buffer);
    let mut bytes = 0;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let no_follow = AtFlags::SYMLINK_NOFOLLOW;
        let found = statx(&dir, entry.file_name(), no_follow, StatxFlags::BASIC_STATS)?;
        bytes += found.stx_size;
    }
    Ok(bytes)
}
