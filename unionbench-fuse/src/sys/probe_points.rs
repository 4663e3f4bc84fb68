//! Symbols of stable name at which an observer attaches uprobes.
#![allow(unsafe_code)]

use std::hint::black_box;

/// Called when a thread takes a request, by the number that the kernel's
/// `fuse_request_send` and `fuse_request_end` tracepoints call `unique`. The
/// same thread answers it.
// SAFETY: the name is exported once in the program and carries the crate's prefix.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn unionbench_request_begin(unique: u64) {
    black_box(unique);
}

/// Called when a copy-up begins. `node` is the inode number in the union.
// SAFETY: the name is exported once in the program and carries the crate's prefix.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn unionbench_copy_up_begin(node: u64) {
    black_box(node);
}

/// Called when a copy-up ends: `bytes` of data were copied, `error` is 0 or an
/// errno.
// SAFETY: the name is exported once in the program and carries the crate's prefix.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn unionbench_copy_up_end(node: u64, bytes: u64, error: i32) {
    black_box((node, bytes, error));
}
