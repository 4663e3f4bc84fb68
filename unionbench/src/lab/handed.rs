//! What this program and QEMU hand each other: files in memory and one end of
//! a socket, by number. None has a name in a file system, so that nothing is
//! left of a run, whatever ends it.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::Command;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::sys::child::inherit;

/// A file that is as long there as somebody holds it.
#[derive(Debug)]
pub(crate) struct MemoryFile(File);

impl MemoryFile {
    pub(crate) fn new(name: &CStr, bytes: &[u8]) -> io::Result<Self> {
        let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
        file.write_all(bytes)?;
        Ok(Self(file))
    }

    /// All that was written so far, by whomever.
    pub(crate) fn contents(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.0.metadata()?.len()).unwrap_or(usize::MAX)];
        // By place: the child moves the position that both share.
        self.0.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    pub(crate) fn duplicate(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// The path under which the child will find it.
    pub(crate) fn hand_to(&self, command: &mut Command) -> io::Result<String> {
        Ok(format!("/proc/self/fd/{}", hand(self.0.as_fd().try_clone_to_owned()?, command)))
    }
}

/// The number that the child will have it under. It is closed here as soon as
/// the command is dropped.
pub(crate) fn hand(file: OwnedFd, command: &mut Command) -> i32 {
    let number = file.as_raw_fd();
    inherit(command, file);
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_reads_and_writes_a_file_in_memory() {
        let given = MemoryFile::new(c"given", b"a\nb\n").expect("memory");
        let taken = MemoryFile::new(c"taken", b"").expect("memory");
        let mut command = Command::new("cp");
        let paths = [given.hand_to(&mut command), taken.hand_to(&mut command)];
        command.args(paths.map(|path| path.expect("a number")));
        assert!(command.status().expect("cp runs").success());
        assert_eq!(taken.contents().expect("what cp wrote"), b"a\nb\n");
    }
}
