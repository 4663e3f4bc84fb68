//! The scratch folder: where layers are built and mounted.
//!
//! Each run makes one folder `unionbench-<pid>-<random>` with a marker that
//! names the process. Dropping it removes the folder. After `kill -9` the
//! mounts are gone with the namespace, but the folder stays: [`stale`] finds
//! it by marker and dead process, and touches nothing else. A folder that was
//! to be kept says so in its marker; only [`kept`] finds it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

const PREFIX: &str = "unionbench-";
const MARKER: &str = ".unionbench-scratch";
/// What the marker of a folder says whose run was asked to leave it.
const KEPT: &str = "kept";

/// Why there is no scratch folder.
#[derive(Debug, Error)]
pub enum ScratchError {
    #[error("cannot make a scratch folder in {}: give a writable folder by --scratch", base.display())]
    Create { base: PathBuf, source: io::Error },
    #[error(
        "cannot look for old scratch folders in {}: give a folder that is there with --scratch",
        base.display()
    )]
    List { base: PathBuf, source: io::Error },
    #[error("cannot remove the scratch folder {}: remove it by hand", path.display())]
    Remove { path: PathBuf, source: io::Error },
}

/// A scratch folder of this process.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Makes one in `base`.
    ///
    /// # Errors
    /// The folder is missing, read-only or full.
    pub fn create(base: &Path, keep: bool) -> Result<Self, ScratchError> {
        let failed = |source| ScratchError::Create { base: base.to_owned(), source };
        let base = fs::canonicalize(base).map_err(failed)?;
        let made = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .tempdir_in(&base)
            .map_err(failed)?;
        // This type removes it from here on.
        let path = made.keep();
        let scratch = Self { path, keep };
        let id = process_id(std::process::id()).unwrap_or_default();
        fs::write(scratch.path.join(MARKER), id).map_err(failed)?;
        Ok(scratch)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.keep {
            // If the marker cannot be written the folder counts as left behind,
            // and the next run removes it.
            let _ = fs::write(self.path.join(MARKER), KEPT);
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Scratch folders in `base` whose process is dead.
///
/// # Errors
/// `base` cannot be listed.
pub fn stale(base: &Path) -> Result<Vec<PathBuf>, ScratchError> {
    marked(base, |owner| owner != KEPT && !is_alive(owner))
}

/// Scratch folders in `base` that runs were asked to leave.
///
/// # Errors
/// `base` cannot be listed.
pub fn kept(base: &Path) -> Result<Vec<PathBuf>, ScratchError> {
    marked(base, |owner| owner == KEPT)
}

fn marked(base: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, ScratchError> {
    let failed = |source| ScratchError::List { base: base.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(base).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let named = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(PREFIX));
        if !named {
            continue;
        }
        // A folder without our marker is not ours, whatever its name.
        let Ok(owner) = fs::read_to_string(path.join(MARKER)) else { continue };
        if wanted(owner.trim()) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Removes one that [`stale`] or [`kept`] found.
///
/// # Errors
/// It cannot be removed, such as for want of permission.
pub fn remove(path: &Path) -> Result<(), ScratchError> {
    fs::remove_dir_all(path)
        .map_err(|source| ScratchError::Remove { path: path.to_owned(), source })
}

/// Pid and start time: a pid alone may have been given to another process.
fn process_id(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): the name in field 2 may hold anything but ends at the
    // last parenthesis; start time is field 22.
    let behind_name = &stat[stat.rfind(')')? + 1..];
    let start = behind_name.split_whitespace().nth(19)?;
    Some(format!("{pid} {start}"))
}

fn is_alive(owner: &str) -> bool {
    let pid = owner.split(' ').next().and_then(|pid| pid.parse().ok());
    pid.and_then(process_id).is_some_and(|now| now == owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marked_folders_of_dead_processes_are_stale() {
        let base = tempfile::tempdir().expect("a temporary folder");
        let mine = Scratch::create(base.path(), false).expect("scratch");
        let foreign = base.path().join("unionbench-1-foreign");
        fs::create_dir(&foreign).expect("folder");
        let dead = base.path().join("unionbench-2-dead");
        fs::create_dir(&dead).expect("folder");
        fs::write(dead.join(MARKER), "4194305 1").expect("marker");
        let reused = base.path().join("unionbench-3-reused");
        fs::create_dir(&reused).expect("folder");
        fs::write(reused.join(MARKER), format!("{} 1", std::process::id())).expect("marker");
        assert_eq!(stale(base.path()).expect("listing"), [dead, reused]);
        let path = mine.path().to_owned();
        assert!(path.exists());
        drop(mine);
        assert!(!path.exists() && foreign.exists());
    }

    #[test]
    fn a_kept_folder_is_not_stale() {
        let base = tempfile::tempdir().expect("a temporary folder");
        let scratch = Scratch::create(base.path(), true).expect("scratch");
        let path = scratch.path().to_owned();
        assert!(kept(base.path()).expect("listing").is_empty(), "its run is not over");
        drop(scratch);
        assert_eq!(stale(base.path()).expect("listing"), Vec::<PathBuf>::new());
        assert_eq!(kept(base.path()).expect("listing"), [path]);
    }
}
