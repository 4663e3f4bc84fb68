//! Symbols of stable name at which an observer attaches uprobes.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::hint::black_box;

thread_local! {
    /// The request that this thread serves.
    static SERVED: Cell<u64> = const { Cell::new(0) };
}

/// Tells that this thread takes a request.
pub(crate) fn take_request(unique: u64) {
    SERVED.set(unique);
    unionbench_request_begin(unique);
}

/// The kernel's number of the request that this thread took last.
pub(crate) fn served() -> u64 {
    SERVED.get()
}

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

/// What a copy-up came to, for an observer that reads it at
/// [`unionbench_copy_up_end`].
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct CopyUp {
    /// The kernel's number of the request that this thread serves, and of the
    /// device of the union; the latter 0 if it is not known.
    pub unique: u64,
    pub device: u64,
    /// Size and kind of the object as the layer shows it: `st_size`, `st_mode`.
    pub size: u64,
    pub mode: u32,
    /// The layer that shows it; the upper one is 0.
    pub layer: u32,
    /// Bytes by a shared block, by the kernel, and read and written.
    pub cloned: u64,
    pub copied: u64,
    pub rewritten: u64,
    pub n_fsyncs: u32,
    /// Not 0 for a directory that leads to the object which was changed.
    pub is_parent: u32,
    /// From the root of the union, without a slash before it; lives as long as
    /// the call.
    pub path: *const u8,
    pub path_len: u64,
}

/// Called when a copy-up ends: `bytes` of data were copied, `error` is 0 or an
/// errno. `about` may be null.
// SAFETY: the name is exported once in the program and carries the crate's prefix.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn unionbench_copy_up_end(node: u64, bytes: u64, error: i32, about: *const CopyUp) {
    black_box((node, bytes, error, about));
}
