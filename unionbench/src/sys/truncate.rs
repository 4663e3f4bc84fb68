//! truncate(2), which rustix has only for open files.

use std::ffi::CStr;

use super::Errno;

/// Cuts or extends a file, from the working directory.
pub fn truncate(path: &CStr, length: u64) -> Result<(), Errno> {
    let length = libc::off_t::try_from(length).map_err(|_| Errno::FBIG)?;
    // SAFETY: `path` ends with a NUL and outlives the call, which keeps nothing.
    let done = unsafe { libc::truncate(path.as_ptr(), length) };
    if done == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)))
}
