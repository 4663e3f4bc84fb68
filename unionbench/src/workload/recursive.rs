//! Recursive: one `chmod` of a `chmod -R`. `chown -R` is made of the calls of
//! `first_write::chown`.

use rustix::fs::{AtFlags, Mode, chmodat};

use super::OpResult;
use super::driver::Op;

/// A mode that files and directories can both have, so that what is in a
/// directory stays within reach.
pub(super) fn chmod(op: &Op<'_>) -> OpResult {
    chmodat(op.root, op.name, Mode::from_raw_mode(0o750), AtFlags::empty()).map(|()| 0)
}
