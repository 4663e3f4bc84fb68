//! Delete: `unlink` of a file that lies in a lower layer leaves a whiteout.

use rustix::fs::{AtFlags, unlinkat};

use super::OpResult;
use super::driver::Op;

pub(super) fn unlink(op: &Op<'_>) -> OpResult {
    unlinkat(op.root, op.name, AtFlags::empty()).map(|()| 0)
}
