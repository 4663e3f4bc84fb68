//! A tree on disk as plain values that can be compared.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// One object: what a look at it from outside tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub kind: &'static str,
    pub mode: u32,
    pub owner: (u32, u32),
    /// Of files only: that of a directory changes with what happens in it.
    pub mtime: Option<i64>,
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    pub n_links: Option<u64>,
}

/// Every object below `root`, by its path relative to it.
pub fn read(root: &Path) -> BTreeMap<String, Object> {
    let mut found = BTreeMap::new();
    visit(root, "", &mut found);
    found
}

fn visit(root: &Path, dir: &str, found: &mut BTreeMap<String, Object>) {
    for entry in fs::read_dir(root.join(dir)).expect("a directory").flatten() {
        let name = entry.file_name().into_string().expect("text");
        let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
        let metadata = entry.metadata().expect("metadata");
        let kind = metadata.file_type();
        let full = entry.path();
        let (name, content) = if kind.is_symlink() {
            ("symlink", fs::read_link(&full).expect("a link").into_os_string().into_encoded_bytes())
        } else if kind.is_dir() {
            ("dir", Vec::new())
        } else if kind.is_file() {
            ("file", fs::read(&full).expect("a file"))
        } else if kind.is_fifo() {
            ("fifo", Vec::new())
        } else if kind.is_char_device() && metadata.rdev() == 0 {
            ("whiteout", Vec::new())
        } else {
            ("device", Vec::new())
        };
        let object = Object {
            kind: name,
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            mtime: kind.is_file().then(|| metadata.mtime()),
            content,
            xattrs: xattrs(&full),
            n_links: kind.is_file().then(|| metadata.nlink()),
        };
        found.insert(path.clone(), object);
        if kind.is_dir() {
            visit(root, &path, found);
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0_u8; 4096];
    let n = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let names = names[..n].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0_u8; 4096];
            let n = rustix::fs::lgetxattr(path, name, &mut value).expect("an attribute");
            (String::from_utf8_lossy(name).into_owned(), value[..n].to_vec())
        })
        .collect()
}
