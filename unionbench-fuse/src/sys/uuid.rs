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

/// The beginning of the kernel's `struct btrfs_ioctl_fs_info_args`, and room for
/// the rest of it (`include/uapi/linux/btrfs.h`).
#[repr(C)]
struct BtrfsInfo {
    max_id: u64,
    num_devices: u64,
    fsid: [u8; 16],
    rest: [u8; 992],
}

/// `BTRFS_IOC_FS_INFO`: `_IOR(0x94, 31, struct btrfs_ioctl_fs_info_args)`.
const BTRFS_INFO: libc::Ioctl = 0x8400_941f_u32 as libc::Ioctl;
const BTRFS_MAGIC: i64 = 0x9123_683e;

/// The UUID of the file system of an open object; zeros where it has none or
/// the kernel, before 6.9, does not tell.
pub(crate) fn of(fd: impl AsFd) -> [u8; 16] {
    let mut told = FsUuid { len: 0, uuid: [0; 16] };
    // SAFETY: `told` has the kernel's layout and outlives the call.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), GET_UUID, &raw mut told) };
    if done == 0 && told.len == 16 { told.uuid } else { of_btrfs(fd) }
}

/// btrfs (Linux 6.18) has one that only its own call tells.
fn of_btrfs(fd: impl AsFd) -> [u8; 16] {
    let is_btrfs = rustix::fs::fstatfs(&fd).is_ok_and(|s| s.f_type == BTRFS_MAGIC);
    let mut info = BtrfsInfo { max_id: 0, num_devices: 0, fsid: [0; 16], rest: [0; 992] };
    // SAFETY: `info` has the kernel's layout and size and outlives the call.
    let told =
        is_btrfs && unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), BTRFS_INFO, &raw mut info) } == 0;
    if told { info.fsid } else { [0; 16] }
}
