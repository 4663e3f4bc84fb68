//! Builds layers. `layout` says which file lies where and is pure, so that
//! workloads draw names from the same source; `build` writes it to disk.

mod build;
mod layout;

use std::path::PathBuf;

pub use build::{
    BuildOptions, BuiltStack, UNIONFS_FOLDER, Whiteout, XattrNamespace, build, build_flat,
};
pub use layout::{FileEntry, Item, ItemKind, LayerDir, Layout, Totals};

/// Why a stack could not be built. What was written so far is left to the
/// caller, who owns the root folder and removes it whole.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    #[error(
        "cannot write {path}: the backing file system is full; raise `backing.size` or shrink the stack", path = .path.display()
    )]
    NoSpace { path: PathBuf },
    #[error("cannot {action} {path}", path = .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the build of the layers was interrupted")]
    Cancelled,
}
