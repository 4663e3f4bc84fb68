//! What any driver must be held against: system calls by `libc` in a loop.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

/// Wall time of one `statx` of each name.
pub fn statx_each(root: &Path, names: &[CString]) -> Duration {
    let path = CString::new(root.as_os_str().as_encoded_bytes()).expect("no NUL in the path");
    // SAFETY: opens a folder by a string that ends in NUL.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY) };
    assert!(fd >= 0);
    let mask = libc::STATX_BASIC_STATS;
    let start = Instant::now();
    for name in names {
        let mut found = std::mem::MaybeUninit::<libc::statx>::uninit();
        // SAFETY: the name ends in NUL and the kernel writes one statx.
        let status = unsafe {
            libc::statx(fd, name.as_ptr(), libc::AT_SYMLINK_NOFOLLOW, mask, found.as_mut_ptr())
        };
        black_box(status);
    }
    let elapsed = start.elapsed();
    // SAFETY: the descriptor is ours and is not used again.
    unsafe { libc::close(fd) };
    elapsed
}
