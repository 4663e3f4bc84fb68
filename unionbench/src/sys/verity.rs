//! fs-verity: a file that can only be read, and whose every block is checked
//! against a tree of digests as it is read.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// `_IOW('f', 133, struct fsverity_enable_arg)` of linux/fsverity.h.
const FS_IOC_ENABLE_VERITY: libc::Ioctl = 0x4080_6685;
const FS_VERITY_HASH_ALG_SHA256: u32 = 1;
const BLOCK_SIZE: u32 = 4096;

/// `struct fsverity_enable_arg` of linux/fsverity.h.
#[repr(C)]
struct EnableArg {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt_ptr: u64,
    sig_size: u32,
    reserved1: u32,
    sig_ptr: u64,
    reserved2: [u64; 11],
}

/// Seals a file that is open for reading and that nobody has open for writing.
///
/// # Errors
/// ENOTTY and EOPNOTSUPP where the kernel or the file system has no fs-verity,
/// ETXTBSY while the file is open for writing, EEXIST if it is sealed.
pub fn enable(file: &File) -> io::Result<()> {
    let argument = EnableArg {
        version: 1,
        hash_algorithm: FS_VERITY_HASH_ALG_SHA256,
        block_size: BLOCK_SIZE,
        salt_size: 0,
        salt_ptr: 0,
        sig_size: 0,
        reserved1: 0,
        sig_ptr: 0,
        reserved2: [0; 11],
    };
    // SAFETY: the kernel reads one argument of this layout, which outlives the
    // call, and follows neither of its null pointers since both sizes are 0.
    let status =
        unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_ENABLE_VERITY, &raw const argument) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_is_as_large_as_its_request_says() {
        // The size of the argument is in bits 16 to 29 of a request.
        assert_eq!(size_of::<EnableArg>() as u64, (FS_IOC_ENABLE_VERITY >> 16) & 0x3fff);
    }
}
