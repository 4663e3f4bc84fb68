//! Listings, served from the merged index.

use std::ffi::OsString;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::lookup::Found;
use crate::node::{Node, ROOT};
use crate::union::Union;

/// A name of a listing, with the offset that continues after it.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) name: OsString,
    pub(crate) next: u64,
    pub(crate) found: Found,
}

/// Offsets 1 and 2 follow `.` and `..`; a slot's is its place plus this.
const FIRST_SLOT: u64 = 3;

impl Union {
    /// Up to `count` names after `offset`; empty at the end.
    pub(crate) fn list(
        &self,
        dir: &Arc<Node>,
        offset: u64,
        count: usize,
    ) -> Result<Vec<Listed>, Errno> {
        let _tree = self.shared();
        let mut out = Vec::with_capacity(count);
        let dot = |name: &str, next, ino| Listed {
            name: name.into(),
            next,
            found: Found { slot: 0, kind: FileType::Directory, layer: 0, ino, dirs: Vec::new() },
        };
        if offset < 1 {
            out.push(dot(".", 1, dir.ino));
        }
        if offset < 2 {
            let up = dir.state.lock().aliases.all().first().map_or(ROOT, |a| a.parent.ino);
            out.push(dot("..", 2, up));
        }
        let from = offset.saturating_sub(FIRST_SLOT - 1) as usize;
        let index = self.index_of(dir)?;
        out.extend(index.shown(from).take(count).filter_map(|(entry, _)| {
            Some(Listed {
                name: entry.name.to_owned(),
                next: u64::from(entry.slot) + FIRST_SLOT,
                found: Found::of(&index, &entry)?,
            })
        }));
        Ok(out)
    }

    /// The number a listed name shows, which is that of its node.
    pub(crate) fn listed_ino(&self, dir: &Arc<Node>, listed: &Listed) -> Result<u64, Errno> {
        if listed.found.ino != 0 {
            return Ok(listed.found.ino);
        }
        let _tree = self.shared();
        let (node, _) = self.child(dir, &listed.name, &listed.found)?;
        let ino = node.ino;
        drop(node);
        // The kernel was given no reference that it would ever return.
        self.nodes.forget(ino, 0);
        Ok(ino)
    }
}
