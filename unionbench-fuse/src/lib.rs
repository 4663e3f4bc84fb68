//! A read-write union file system in user space whose layers are
//! format-compatible with kernel overlayfs.
//!
//! The flow of one request: `session` decodes what the kernel asks, calls one
//! operation of [`Union`] (one file per verb: `lookup`, `readdir`, `create`,
//! `remove`, `rename`, `attr`, `file`, `xattr`), and replies. Operations find
//! objects by `node` (what the kernel knows) and `index` (what a merged
//! directory holds: read by `merge`, asked for name by name by `probe`), reach
//! the layers through `layer`, and bring lower objects into the upper layer by
//! `copy_up` (which builds a `twin` first). What names of hard-linked files
//! share is `hard_links`, kept over a remount by `inode_index`.
//!
//! Locks, in the order they are taken: `Union::tree` (shared by every
//! operation, alone for a rename, because a node's upper path is the chain of
//! its parents' names), a node's `copying`, a directory's
//! `index`, a node's `state`. The kernel holds the parent's own lock during
//! every operation that changes a directory, so two changes of one directory
//! never meet here.

mod attr;
mod below;
mod copy_up;
mod counters;
mod create;
mod data;
mod file;
mod handle;
mod hard_links;
mod impure;
mod in_use;
mod index;
mod inode_index;
mod layer;
mod lookup;
mod marks;
mod merge;
mod node;
mod options;
mod origin;
mod parts;
mod probe;
mod readdir;
mod remove;
mod rename;
mod session;
mod sys;
mod tree;
mod twin;
mod union;
mod whiteout;
mod work;
mod xattr;

pub use counters::Counters;
pub use options::{DataMode, MountOptions, OptionsError};
pub use session::{Mounted, mount, serve};
pub use sys::probe_points::{
    CopyUp, unionbench_copy_up_begin, unionbench_copy_up_end, unionbench_request_begin,
};
pub use union::{MountError, Union};
