//! Layers that were unpacked hide files in overlayfs' way; other unions want
//! marks of their own.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::build::{OPAQUE_OF_AUFS, attribute, empty_file, hidden};
use super::{StackError, Whiteout, XattrNamespace};

/// Writes what is hidden in a layer in another union's way.
pub(super) fn rewrite(
    layer: &Path,
    to: Whiteout,
    namespace: XattrNamespace,
) -> Result<(), StackError> {
    let opaque = attribute(namespace, "opaque");
    let mut pending = vec![PathBuf::new()];
    // What is made below is not walked: the marks are found first.
    let (mut whiteouts, mut opaques) = (Vec::new(), Vec::new());
    while let Some(dir) = pending.pop() {
        let full = layer.join(&dir);
        let failed = |source| StackError::Io { action: "read", path: full.clone(), source };
        let mut mark = [0; 1];
        if rustix::fs::lgetxattr(&full, &opaque, &mut mark) == Ok(1) && mark == *b"y" {
            opaques.push(dir.clone());
        }
        for entry in fs::read_dir(&full).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let metadata = entry.metadata().map_err(failed)?;
            let path = dir.join(entry.file_name());
            if metadata.is_dir() {
                pending.push(path);
            } else if metadata.file_type().is_char_device() && metadata.rdev() == 0 {
                whiteouts.push(path);
            }
        }
    }
    for path in whiteouts {
        let full = layer.join(&path);
        fs::remove_file(&full).map_err(|source| StackError::Io {
            action: "remove",
            path: full.clone(),
            source,
        })?;
        match to {
            Whiteout::Aufs => {
                let mut name = std::ffi::OsString::from(".wh.");
                name.push(path.file_name().unwrap_or_default());
                empty_file(&full.with_file_name(name))?;
            }
            Whiteout::Unionfs => empty_file(&hidden(layer, &path))?,
            Whiteout::CharDev | Whiteout::Xattr => {}
        }
    }
    for dir in opaques {
        let full = layer.join(&dir);
        rustix::fs::lremovexattr(&full, &opaque).map_err(|error| StackError::Io {
            action: "unmark as opaque",
            path: full.clone(),
            source: error.into(),
        })?;
        match to {
            Whiteout::Aufs => empty_file(&full.join(OPAQUE_OF_AUFS))?,
            Whiteout::Unionfs => empty_file(&hidden(layer, &dir))?,
            Whiteout::CharDev | Whiteout::Xattr => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_files_and_opaque_directories_get_marks_of_the_other_union() {
        let folder = tempfile::tempdir().expect("a folder");
        let layer = folder.path();
        fs::create_dir_all(layer.join("d/new")).expect("folders");
        fs::write(layer.join("d/new/kept"), "x").expect("a file");
        let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::empty());
        let gone = layer.join("d/gone");
        rustix::fs::mknodat(rustix::fs::CWD, &gone, kind, mode, 0).expect("a whiteout");
        let flags = rustix::fs::XattrFlags::empty();
        let opaque = "user.overlay.opaque";
        rustix::fs::setxattr(layer.join("d/new"), opaque, b"y", flags).expect("an attribute");
        rewrite(layer, Whiteout::Aufs, XattrNamespace::User).expect("rewritten");
        let names = |dir: &str| {
            let mut names: Vec<String> = fs::read_dir(layer.join(dir))
                .expect("a folder")
                .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names("d"), [".wh.gone", "new"]);
        assert_eq!(names("d/new"), [".wh..wh..opq", "kept"]);
        assert!(rustix::fs::getxattr(layer.join("d/new"), opaque, &mut [0; 1]).is_err());
    }
}
