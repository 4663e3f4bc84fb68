//! Seals the files of layers by fs-verity, as an image's are where the digest
//! of each is known beforehand.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::StackError;
use crate::sys::verity;

/// Seals every regular file of the layers.
///
/// # Errors
/// The kernel or the file system has no fs-verity, a file cannot be read, or
/// the build was interrupted.
pub fn seal(layers: &[PathBuf], cancel: &AtomicBool) -> Result<(), StackError> {
    layers.iter().try_for_each(|layer| seal_below(layer, cancel))
}

fn seal_below(folder: &Path, cancel: &AtomicBool) -> Result<(), StackError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| StackError::Io { action, path, source }
    };
    if cancel.load(Ordering::Relaxed) {
        return Err(StackError::Cancelled);
    }
    for entry in fs::read_dir(folder).map_err(failed("list", folder))? {
        let entry = entry.map_err(failed("list", folder))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(failed("look at", &path))?;
        if kind.is_dir() {
            seal_below(&path, cancel)?;
        } else if kind.is_file() {
            let file = fs::File::open(&path).map_err(failed("open", &path))?;
            match verity::enable(&file) {
                Ok(()) => {}
                // The other name of a file with two.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                Err(source) => return Err(StackError::Verity { path, source }),
            }
        }
    }
    Ok(())
}
