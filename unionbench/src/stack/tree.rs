//! Where files lie, whether the layers were generated or come from an image.

use super::layout::{FileEntry, Layout, Totals};
use super::listing::{LARGEST, Listing};

/// The tree of a stack, as workloads ask for it.
#[derive(Debug, Clone)]
pub enum Tree {
    Generated(Layout),
    /// Layers of an image. Squashed into one, a file keeps the layer that it
    /// came from, so that both can be compared layer by layer.
    Listed(Listing),
}

impl Tree {
    /// Layers that files are told apart by, at least 1.
    pub fn n_layers(&self) -> u32 {
        match self {
            Self::Generated(layout) => layout.n_layers(),
            Self::Listed(listing) => listing.n_layers(),
        }
    }

    /// Files of a layer, hidden ones included.
    pub fn files_in_layer(&self, layer: u32) -> Vec<FileEntry> {
        match self {
            Self::Generated(layout) => layout.files_in_layer(layer).collect(),
            Self::Listed(listing) => listing.files_in_layer(layer).to_vec(),
        }
    }

    /// Files of a group; of an image, `largest` is the only one.
    pub fn group_files(&self, group: &str) -> Vec<FileEntry> {
        match self {
            Self::Generated(layout) => layout.group_files(group).collect(),
            Self::Listed(listing) if group == LARGEST => listing.largest(),
            Self::Listed(_) => Vec::new(),
        }
    }

    /// Every regular file that the merged tree shows, the largest first.
    pub fn visible_files(&self) -> Vec<FileEntry> {
        let mut all: Vec<FileEntry> = (0..self.n_layers())
            .flat_map(|layer| self.files_in_layer(layer))
            .filter(|file| file.visible)
            .collect();
        if let Self::Generated(layout) = self {
            all.extend(layout.files_of_groups());
            all.extend(layout.listed_files());
        }
        all.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.path.cmp(&b.path)));
        all
    }

    /// `count` different names that are in no layer.
    pub fn missing_names(&self, count: u64) -> Vec<String> {
        match self {
            Self::Generated(layout) => layout.missing_names(count).collect(),
            Self::Listed(listing) => {
                let dirs = listing.directories();
                let name = |i: u64| {
                    // No image holds this name by chance.
                    let name = format!(".unionbench-missing-{i:07}");
                    match dirs.get((i % dirs.len().max(1) as u64) as usize) {
                        Some(dir) => format!("{dir}/{name}"),
                        None => name,
                    }
                };
                (0..count).map(name).collect()
            }
        }
    }

    /// Every directory of the merged tree but its root, parents first.
    pub fn directories(&self) -> Vec<String> {
        match self {
            Self::Generated(layout) => layout.directories(),
            Self::Listed(listing) => listing.directories().to_vec(),
        }
    }

    /// Counts over all layers.
    pub fn totals(&self) -> Totals {
        match self {
            Self::Generated(layout) => layout.totals(),
            Self::Listed(listing) => listing.totals(),
        }
    }
}
