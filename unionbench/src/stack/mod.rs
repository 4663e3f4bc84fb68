//! Builds layers. `layout` says which file lies where and is pure, so that
//! workloads draw names from the same source; `build` writes it to disk.
//! `image` unpacks layers that others made, `listing` finds what is in them,
//! and `merge` copies what they show.

mod build;
mod copy;
pub mod image;
mod layout;
mod listed;
mod listing;
mod marks;
mod merge;
mod metadata_layer;
mod tree;
mod verity;

use std::path::PathBuf;

pub use build::{
    BuildOptions, BuiltStack, UNIONFS_FOLDER, Whiteout, XattrNamespace, build, build_flat,
};
pub use copy::copy_layer;
pub use layout::{FileEntry, Item, ItemKind, LayerDir, Layout, Totals};
pub use listing::{LARGEST, Listing};
pub use metadata_layer::write_metadata_layer;
pub use tree::Tree;
pub use verity::seal;

/// Why a stack could not be built. What was written so far is left to the
/// caller, who owns the root folder and removes it whole.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    #[error(
        "cannot write {path}: the backing file system is full; raise `backing.size` (or the number of inodes, if `backing.mkfs` lowers it) or shrink the stack", path = .path.display()
    )]
    NoSpace { path: PathBuf },
    #[error("cannot {action} {path}", path = .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot unpack image {reference}")]
    Image {
        reference: String,
        #[source]
        source: Box<image::ImageError>,
    },
    #[error(
        "cannot seal {path} by fs-verity: it needs a kernel with CONFIG_FS_VERITY (Debian's in the \
         lab have it) and btrfs, or ext4 with `backing.mkfs = \"-b 4096 -O verity\"`", path = .path.display()
    )]
    Verity {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the build of the layers was interrupted")]
    Cancelled,
}

impl StackError {
    /// This machine cannot have such a stack at all.
    pub fn is_unsupported(&self) -> bool {
        let lacks = [libc::ENOTTY, libc::EOPNOTSUPP];
        matches!(self, Self::Verity { source, .. }
            if source.raw_os_error().is_some_and(|errno| lacks.contains(&errno)))
    }
}
