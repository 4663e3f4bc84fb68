//! Writing through a shared mapping, as databases and linkers do.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// Writes the first byte of a file through a shared mapping of its first page,
/// and synchronises the page. The file is open for reading and writing.
///
/// Errors: an empty file, or what the kernel says.
pub fn write_first_byte(file: &File, byte: u8) -> io::Result<()> {
    if file.metadata()?.len() == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    let page = rustix::param::page_size();
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping of the file's first page, which nothing else in this
    // process knows.
    let address = unsafe {
        libc::mmap(std::ptr::null_mut(), page, rights, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the page is mapped for writing, and the file has a first byte. It
    // is synchronised and unmapped once, by its own address and length.
    let status = unsafe {
        address.cast::<u8>().write_volatile(byte);
        let status = libc::msync(address, page, libc::MS_SYNC);
        libc::munmap(address, page);
        status
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_written_through_a_mapping() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        assert!(write_first_byte(file.as_file(), b'X').is_err(), "it is empty");
        std::fs::write(file.path(), "abc").expect("a file");
        write_first_byte(file.as_file(), b'X').expect("it maps");
        assert_eq!(std::fs::read(file.path()).expect("is there"), b"Xbc");
    }
}
