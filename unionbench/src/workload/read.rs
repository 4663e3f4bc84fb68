//! Read: a whole file from its beginning to its end.

use rustix::fs::{Mode, OFlags, openat};

use super::OpResult;
use super::driver::Op;

pub(super) fn whole(op: &Op<'_>) -> OpResult {
    let file = openat(op.root, op.name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [0_u8; 64 << 10];
    let mut bytes = 0;
    loop {
        match rustix::io::read(&file, &mut buffer)? {
            0 => return Ok(bytes),
            n => bytes += n as u64,
        }
    }
}
