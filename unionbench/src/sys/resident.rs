//! How much of a file the page cache holds.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

/// Pages of the file that are in memory, and pages it has. Asking changes
/// neither: mincore(2) reads no page in.
///
/// # Errors
/// The file cannot be opened or mapped.
pub fn resident_pages(path: &Path) -> io::Result<(u64, u64)> {
    let file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if length == 0 {
        return Ok((0, 0));
    }
    let page = rustix::param::page_size();
    let mut flags = vec![0_u8; length.div_ceil(page)];
    // SAFETY: a new private mapping of the whole file; nothing reads through it,
    // so that the file may shrink meanwhile without harm.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ,
            libc::MAP_PRIVATE,
            file.as_raw_fd(),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `address` and `length` are those of the mapping, and `flags` has a
    // byte for each of its pages.
    let status = unsafe { libc::mincore(address, length, flags.as_mut_ptr()) };
    let result = match status {
        0 => Ok(flags.iter().filter(|&&flag| flag & 1 == 1).count() as u64),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: the mapping made above, unmapped once.
    unsafe { libc::munmap(address, length) };
    result.map(|there| (there, flags.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_just_written_is_in_memory() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), vec![1; 10_000]).expect("a file");
        assert_eq!(resident_pages(file.path()).expect("it maps"), (3, 3));
        std::fs::write(file.path(), []).expect("a file");
        assert_eq!(resident_pages(file.path()).expect("it is empty"), (0, 0));
    }
}
