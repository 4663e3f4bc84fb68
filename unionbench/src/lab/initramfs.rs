//! The guest's initial file system: a cpio archive ("newc") built in memory.
//!
//! Same contents, same bytes: entries are sorted, times and owners are zero,
//! inode numbers count up. Its SHA-256 is therefore part of the lab's identity.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cpio::newc::{Builder, ModeFileType, trailer};

use super::error::LabError;
use super::library;

enum Node {
    Dir,
    File { bytes: Vec<u8>, mode: u32 },
    Symlink(String),
    Char { major: u32, minor: u32 },
}

/// What the archive will hold, by path without a leading slash.
#[derive(Default)]
pub(crate) struct Initramfs {
    nodes: BTreeMap<String, Node>,
}

impl Initramfs {
    pub(crate) fn dir(&mut self, path: &str) {
        let path = path.trim_matches('/');
        self.parents(path);
        if !path.is_empty() {
            self.nodes.entry(path.to_owned()).or_insert(Node::Dir);
        }
    }

    pub(crate) fn file(&mut self, path: &str, bytes: Vec<u8>, mode: u32) {
        self.put(path, Node::File { bytes, mode });
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.put(path, Node::Symlink(target.to_owned()));
    }

    pub(crate) fn char_device(&mut self, path: &str, major: u32, minor: u32) {
        self.put(path, Node::Char { major, minor });
    }

    /// A file of the host at `path`; a program brings its interpreter and
    /// libraries along, which are returned.
    pub(crate) fn host_file(&mut self, path: &str, host: &Path) -> Result<Vec<PathBuf>, LabError> {
        let bytes = fs::read(host).map_err(LabError::io("read", host))?;
        let mode = fs::metadata(host).map_err(LabError::io("read", host))?.permissions().mode();
        let needs = library::needs(host, &bytes)?;
        self.file(path, bytes, mode & 0o777);
        for need in &needs {
            let guest = need.to_string_lossy().into_owned();
            if !self.nodes.contains_key(guest.trim_matches('/')) {
                let bytes = fs::read(need).map_err(LabError::io("read library", need))?;
                self.file(&guest, bytes, 0o755);
            }
        }
        Ok(needs)
    }

    fn put(&mut self, path: &str, node: Node) {
        let path = path.trim_matches('/');
        self.parents(path);
        self.nodes.insert(path.to_owned(), node);
    }

    fn parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            self.nodes.entry(path[..at].to_owned()).or_insert(Node::Dir);
        }
    }

    pub(crate) fn archive(&self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        // A folder's path sorts before its entries' paths.
        for (index, (path, node)) in self.nodes.iter().enumerate() {
            let ino = u32::try_from(index + 1).map_err(io::Error::other)?;
            let (kind, mode, bytes) = match node {
                Node::Dir => (ModeFileType::Directory, 0o755, &[][..]),
                Node::File { bytes, mode } => (ModeFileType::Regular, *mode, bytes.as_slice()),
                Node::Symlink(target) => (ModeFileType::Symlink, 0o777, target.as_bytes()),
                Node::Char { .. } => (ModeFileType::Char, 0o600, &[][..]),
            };
            let mut entry =
                Builder::new(path).ino(ino).nlink(1).mode(mode).set_mode_file_type(kind);
            if let Node::Char { major, minor } = node {
                entry = entry.rdev_major(*major).rdev_minor(*minor);
            }
            let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
            let mut writer = entry.write(&mut out, length);
            writer.write_all(bytes)?;
            writer.finish()?;
        }
        trailer(&mut out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Initramfs {
        let mut initramfs = Initramfs::default();
        initramfs.file("/b/c/file", b"text".to_vec(), 0o644);
        initramfs.symlink("/a", "b");
        initramfs.char_device("/dev/console", 5, 1);
        initramfs.dir("/out");
        initramfs
    }

    #[test]
    fn parents_come_before_their_entries() {
        let archive = sample().archive().expect("a vector takes everything");
        let mut names = Vec::new();
        let mut input = archive.as_slice();
        loop {
            let reader = cpio::newc::Reader::new(input).expect("a whole archive");
            if reader.entry().is_trailer() {
                break;
            }
            names.push((reader.entry().name().to_owned(), reader.entry().mode()));
            input = reader.finish().expect("a whole archive");
        }
        let paths: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(paths, ["a", "b", "b/c", "b/c/file", "dev", "dev/console", "out"]);
        assert_eq!(names[1].1, 0o040_755);
        assert_eq!(names[3].1, 0o100_644);
        assert_eq!(names[5].1, 0o020_600);
    }

    #[test]
    fn same_contents_give_same_bytes() {
        assert_eq!(sample().archive().ok(), sample().archive().ok());
    }
}
