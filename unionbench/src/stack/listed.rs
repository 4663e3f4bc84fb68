//! Objects that a plan lists one by one, as a layout has them.

use std::collections::BTreeMap;

use super::layout::{FILE_MODES, FileEntry, Item, ItemKind, LayerDir, mix};
use crate::plan::{ListedKind, ListedPlan, StackPlan};

/// The directories of a layer that hold listed objects or are listed, parents
/// first.
pub(super) fn dirs(plan: &StackPlan, layer: u32) -> impl Iterator<Item = LayerDir> + use<> {
    let mut dirs: BTreeMap<String, Vec<Item>> = BTreeMap::new();
    let of_layer = plan.files.iter().enumerate().filter(|(_, file)| file.layer == layer);
    for (index, file) in of_layer {
        let (parent, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
        let kind = match file.kind {
            ListedKind::Directory => {
                dirs.entry(file.path.clone()).or_default();
                continue;
            }
            ListedKind::Symlink => ItemKind::Symlink,
            ListedKind::File { size } => {
                let (mode, seed) = (FILE_MODES[0], seed(plan, index));
                ItemKind::File { size: size.0, mode, seed, sparse: false, visible: true }
            }
        };
        dirs.entry(parent.to_owned()).or_default().push(Item { name: name.to_owned(), kind });
    }
    dirs.into_iter().map(|(path, items)| LayerDir { path, opaque: false, items })
}

/// The regular files among them.
pub(super) fn files(plan: &StackPlan) -> impl Iterator<Item = FileEntry> + '_ {
    let entry = |(index, file): (usize, &ListedPlan)| match file.kind {
        ListedKind::File { size } => Some(FileEntry {
            path: file.path.clone(),
            layer: file.layer,
            size: size.0,
            mode: FILE_MODES[0],
            seed: seed(plan, index),
            visible: true,
        }),
        ListedKind::Directory | ListedKind::Symlink => None,
    };
    plan.files.iter().enumerate().filter_map(entry)
}

fn seed(plan: &StackPlan, index: usize) -> u64 {
    mix(&[plan.seed, index as u64, 5])
}
