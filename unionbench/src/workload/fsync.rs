//! Fsync: what databases and package managers do with each file.

use rustix::fs::{Mode, OFlags, fsync, openat};

use super::OpResult;
use super::driver::Op;

const PAGE: [u8; 4096] = [b'u'; 4096];

/// The first to a file of a lower layer also copies it up.
pub(super) fn write_and_sync(op: &Op<'_>) -> OpResult {
    let file = openat(op.root, op.name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let n = rustix::io::pwrite(&file, &PAGE, 0)?;
    fsync(&file)?;
    Ok(n as u64)
}
