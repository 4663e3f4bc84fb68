//! `name_to_handle_at` and `open_by_handle_at`, which rustix does not wrap.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;

/// The kernel's largest handle (`MAX_HANDLE_SZ`).
const MAX_HANDLE: usize = 128;

/// The kernel's `struct file_handle` with room for the largest handle.
#[repr(C)]
struct RawHandle {
    handle_bytes: u32,
    handle_type: i32,
    bytes: [u8; MAX_HANDLE],
}

/// A file's handle: its type and its bytes, opaque to everyone but the file
/// system that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) kind: u8,
    pub(crate) bytes: Vec<u8>,
}

/// The handle of `path` below `dir`, not following a symlink at its end.
pub(crate) fn encode(dir: impl AsFd, path: &Path) -> Result<Handle, Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    let mut raw =
        RawHandle { handle_bytes: MAX_HANDLE as u32, handle_type: 0, bytes: [0; MAX_HANDLE] };
    let mut mount_id = 0;
    let flags = if path.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    // SAFETY: the path ends in NUL, `raw` has the kernel's layout and says how
    // much room follows it, and all three outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_fd().as_raw_fd(),
            path.as_ptr(),
            &mut raw,
            &mut mount_id,
            flags,
        )
    };
    if done < 0 {
        return Err(last_errno());
    }
    let len = raw.handle_bytes as usize;
    let bytes = raw.bytes.get(..len).ok_or(Errno::OVERFLOW)?.to_vec();
    let kind = u8::try_from(raw.handle_type).map_err(|_| Errno::OVERFLOW)?;
    Ok(Handle { kind, bytes })
}

/// Opens (as a path only) the file that `handle` names on the file system of
/// `mount`, which must not be an `O_PATH` descriptor. Needs
/// `CAP_DAC_READ_SEARCH`.
pub(crate) fn open(mount: impl AsFd, handle: &Handle) -> Result<OwnedFd, Errno> {
    if handle.bytes.len() > MAX_HANDLE {
        return Err(Errno::INVAL);
    }
    let mut raw = RawHandle {
        handle_bytes: handle.bytes.len() as u32,
        handle_type: i32::from(handle.kind),
        bytes: [0; MAX_HANDLE],
    };
    raw.bytes[..handle.bytes.len()].copy_from_slice(&handle.bytes);
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: `raw` has the kernel's layout and its length field is true.
    let fd = unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, mount.as_fd().as_raw_fd(), &mut raw, flags)
    };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
