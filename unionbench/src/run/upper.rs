//! The `upper` engine: what a phase left in the upper layer, counted by a walk
//! over it. Exact, needs no probe, and works on every kernel.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use crate::record::Counter;

/// What lies in an upper layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contents {
    /// Regular files, symbolic links and nodes that are no whiteouts.
    pub files: u64,
    pub directories: u64,
    /// Character devices 0:0.
    pub whiteouts: u64,
    /// Sum of file sizes.
    pub bytes: u64,
    /// Blocks of 512 bytes in use by files.
    pub blocks: u64,
}

/// Walks the layer; the root itself is not counted.
///
/// # Errors
/// A directory cannot be read.
pub fn contents(upper: &Path) -> io::Result<Contents> {
    let mut found = Contents::default();
    let mut pending = vec![upper.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let file_type = metadata.file_type();
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

/// The difference that a phase made.
pub fn difference(before: Contents, after: Contents) -> Vec<Counter> {
    let counter = |name: &str, before: u64, after: u64| Counter {
        name: format!("upper.{name}"),
        engine: "upper".to_owned(),
        value: after.saturating_sub(before),
    };
    vec![
        counter("files", before.files, after.files),
        counter("directories", before.directories, after.directories),
        counter("whiteouts", before.whiteouts, after.whiteouts),
        counter("bytes", before.bytes, after.bytes),
        counter("blocks", before.blocks, after.blocks),
    ]
}
