//! A layer of its own for a mount that writes to it.

use std::fs;
use std::path::{Path, PathBuf};

use super::StackError;

/// Copies a layer's folders and files with their modes to `to`, which must not
/// exist. Extended attributes are left out: unions that write to lower layers
/// mark what is hidden by names.
pub fn copy_layer(from: &Path, to: &Path) -> Result<(), StackError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| StackError::Io { action, path, source }
    };
    let mut pending: Vec<(PathBuf, PathBuf)> = vec![(from.to_owned(), to.to_owned())];
    while let Some((source, target)) = pending.pop() {
        fs::create_dir(&target).map_err(failed("create", &target))?;
        let mode = fs::metadata(&source).map_err(failed("read", &source))?.permissions();
        fs::set_permissions(&target, mode).map_err(failed("set the mode of", &target))?;
        for entry in fs::read_dir(&source).map_err(failed("list", &source))? {
            let entry = entry.map_err(failed("list", &source))?;
            let to = target.join(entry.file_name());
            if entry.file_type().map_err(failed("read", &source))?.is_dir() {
                pending.push((entry.path(), to));
            } else {
                fs::copy(entry.path(), &to).map_err(failed("write", &to))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_copy_holds_the_same_files_with_the_same_modes() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let from = place.path().join("from");
        fs::create_dir_all(from.join("d/e")).expect("folders");
        fs::write(from.join("d/e/f"), "text").expect("a file");
        fs::set_permissions(from.join("d/e/f"), fs::Permissions::from_mode(0o640)).expect("mode");
        let to = place.path().join("to");
        copy_layer(&from, &to).expect("copied");
        assert_eq!(fs::read_to_string(to.join("d/e/f")).expect("there"), "text");
        let mode = fs::metadata(to.join("d/e/f")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert!(copy_layer(&from, &to).is_err());
    }
}
