//! The `upper` engine: what a phase left in the upper layer, counted by a walk
//! over it. Exact, needs no probe, and works on every kernel.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use crate::record::Counter;
use crate::stack::{UNIONFS_FOLDER, Whiteout};

/// What lies in an upper layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contents {
    /// Regular files, symbolic links and nodes that are no whiteouts; what the
    /// union keeps for itself is left out.
    pub files: u64,
    pub directories: u64,
    /// In whichever form the backend writes them.
    pub whiteouts: u64,
    /// Sum of file sizes.
    pub bytes: u64,
    /// Blocks of 512 bytes in use by files.
    pub blocks: u64,
}

impl Contents {
    fn inodes(self) -> u64 {
        self.files + self.directories + self.whiteouts
    }
}

/// Walks the layer; the root itself is not counted.
///
/// # Errors
/// A directory cannot be read.
pub fn contents(upper: &Path, whiteouts: Whiteout) -> io::Result<Contents> {
    let mut found = Contents::default();
    let mut pending = vec![upper.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let file_type = metadata.file_type();
            match special(&entry.path(), upper, whiteouts) {
                Some(Special::Whiteout) => {
                    found.whiteouts += 1;
                    continue;
                }
                Some(Special::Own) => {
                    // unionfs-fuse keeps its whiteouts in folders of its own;
                    // what lies in those of aufs is no part of the tree.
                    if file_type.is_dir() && whiteouts == Whiteout::Unionfs {
                        pending.push(entry.path());
                    }
                    continue;
                }
                None => {}
            }
            if file_type.is_dir() {
                found.directories += 1;
                pending.push(entry.path());
            } else if file_type.is_char_device() && metadata.rdev() == 0 {
                found.whiteouts += 1;
            } else {
                found.files += 1;
                found.bytes += metadata.len();
                found.blocks += metadata.blocks();
            }
        }
    }
    Ok(found)
}

enum Special {
    Whiteout,
    /// The union's own file or folder, which the merged tree does not show.
    Own,
}

/// What a name stands for where whiteouts are names: `.wh.NAME` for aufs,
/// whose own files begin with `.wh..wh.`; for unionfs-fuse `NAME_HIDDEN~`
/// below its folder.
fn special(path: &Path, upper: &Path, whiteouts: Whiteout) -> Option<Special> {
    let name = path.file_name()?.as_encoded_bytes();
    match whiteouts {
        Whiteout::Aufs if name.starts_with(b".wh..wh.") => Some(Special::Own),
        Whiteout::Aufs if name.starts_with(b".wh.") => Some(Special::Whiteout),
        Whiteout::Unionfs if path.starts_with(upper.join(UNIONFS_FOLDER)) => {
            Some(match name.ends_with(b"_HIDDEN~") {
                true => Special::Whiteout,
                false => Special::Own,
            })
        }
        _ => None,
    }
}

/// The difference that a phase made.
pub fn difference(before: Contents, after: Contents) -> Vec<Counter> {
    let counter = |name: &str, before: u64, after: u64| Counter {
        name: format!("upper.{name}"),
        engine: "upper".to_owned(),
        value: after.saturating_sub(before),
    };
    vec![
        counter("inodes", before.inodes(), after.inodes()),
        counter("files", before.files, after.files),
        counter("directories", before.directories, after.directories),
        counter("whiteouts", before.whiteouts, after.whiteouts),
        counter("bytes", before.bytes, after.bytes),
        counter("blocks", before.blocks, after.blocks),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(whiteouts: Whiteout, names: &[&str], expected: (u64, u64, u64)) {
        let upper = tempfile::tempdir().expect("a temporary folder");
        for name in names {
            let path = upper.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
            fs::write(path, "x").expect("file");
        }
        let found = contents(upper.path(), whiteouts).expect("a walk");
        assert_eq!((found.files, found.directories, found.whiteouts), expected, "{names:?}");
    }

    #[test]
    fn whiteouts_that_are_names_are_told_from_files() {
        let aufs = ["d/f", "d/.wh.g", ".wh..wh.aufs", ".wh..wh.plnk/1", "e/.wh..wh..opq"];
        check(Whiteout::Aufs, &aufs, (1, 2, 1));
        check(Whiteout::CharDev, &["d/f", "d/.wh.g"], (2, 1, 0));
        check(Whiteout::Unionfs, &["d/f", ".unionfs-fuse/d/g_HIDDEN~", "h_HIDDEN~"], (2, 1, 1));
    }
}
