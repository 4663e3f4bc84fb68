//! The UUID of a file system, which neither rustix nor libc asks for.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

/// The kernel's `struct fsuuid2` (Linux 6.9, `include/uapi/linux/fs.h`).
#[repr(C)]
struct FsUuid {
    len: u8,
    uuid: [u8; 16],
}

/// `FS_IOC_GETFSUUID`: `_IOR(0x15, 0, struct fsuuid2)`.
const GET_UUID: libc::Ioctl = 0x8011_1500_u32 as libc::Ioctl;

/// The UUID of the file system of an open object; zeros where it has none or
/// the kernel, before 6.9, does not tell.
pub(crate) fn of(fd: impl AsFd) -> [u8; 16] {
    let mut told = FsUuid { len: 0, uuid: [0; 16] };
    // SAFETY: `told` has the kernel's layout and outlives the call.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), GET_UUID, &raw mut told) };
    if done == 0 && told.len == 16 { told.uuid } else { [0; 16] }
}
