//! Which file lies where, computed and never stored: 500 layers of 1,000 files
//! need no memory, and the builder and every workload see the same tree.
//!
//! Shape of layer `LLL` (0 is the topmost):
//!
//! | path | what |
//! |---|---|
//! | `dDDD/s1/…/sN/` | the directories, `N` = `depth`; with `shared_dirs = false` they are called `lLLLdDDD` |
//! | `…/lLLLfJJJJJ` | file `J`, in directory `J mod dirs` |
//! | the name of a file of the layer below | a whiteout |
//! | `qLLLkKKK/kept` | the layer's opaque directory `K` |
//! | `qMMMkKKK/gone` | what the opaque directory of the layer above (`M` = `L` - 1) hides |
//! | `g-NAME/FFFFF` | files of a group |
//!
//! Names of files are unique over all layers, so a name has exactly one
//! origin. The last `whiteouts_per_layer` files of every layer but the topmost
//! are hidden by the layer above; the first one always stays visible, because
//! a plan has fewer whiteouts than files.

use std::f64::consts::TAU;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::plan::{GroupPlan, LayerChoice, SizePlan, StackPlan};

/// One regular file of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Relative to the layer's root, and so to the merged root.
    pub path: String,
    /// 0 is the topmost.
    pub layer: u32,
    pub size: u64,
    pub mode: u32,
    /// Seed of the contents.
    pub seed: u64,
    /// Not hidden by a whiteout or an opaque directory of a layer above.
    pub visible: bool,
}

/// One directory of one layer with what lies directly in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDir {
    /// Relative to the layer's root. Its parents hold nothing else.
    pub path: String,
    pub opaque: bool,
    pub items: Vec<Item>,
}

/// A name in a layer's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub name: String,
    pub kind: ItemKind,
}

/// What a name in a layer stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemKind {
    File {
        size: u64,
        mode: u32,
        seed: u64,
        sparse: bool,
        visible: bool,
    },
    /// To a name that is nowhere.
    Symlink,
    Whiteout,
}

/// What a stack holds, all layers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub n_files: u64,
    /// Directories, the layers' roots left out.
    pub n_dirs: u64,
    pub n_whiteouts: u64,
    /// Lengths of all files added up.
    pub n_bytes: u64,
    /// The same without holes: what the backing file system must hold.
    pub n_bytes_written: u64,
}

/// Modes that generated files have; a file's seed picks one.
pub(super) const FILE_MODES: [u32; 3] = [0o644, 0o755, 0o600];

/// The tree that a [`StackPlan`] describes.
#[derive(Debug, Clone)]
pub struct Layout {
    plan: StackPlan,
}

impl Layout {
    /// The layout of `plan`; costs nothing.
    pub fn new(plan: &StackPlan) -> Self {
        Self { plan: plan.clone() }
    }

    /// Lower layers, at least 1.
    pub fn n_layers(&self) -> u32 {
        self.plan.n_layers
    }

    /// The `files_per_layer` files of a layer in a fixed order, hidden ones
    /// included; files of groups and of opaque directories are left out.
    pub fn files_in_layer(&self, layer: u32) -> impl Iterator<Item = FileEntry> + '_ {
        (0..self.plan.files_per_layer).map(move |j| {
            let (size, mode, seed) = self.file_traits(layer, j);
            FileEntry {
                path: format!("{}/{}", self.dir_path(layer, j % self.n_dirs()), name(layer, j)),
                layer,
                size,
                mode,
                seed,
                visible: self.is_visible(layer, j),
            }
        })
    }

    /// Files that [`Self::files_in_layer`] yields for the layer and that a
    /// lookup in the merged tree finds.
    pub fn n_visible(&self, layer: u32) -> u32 {
        self.plan.files_per_layer - self.n_hidden(layer)
    }

    /// The files of a group, in order; empty if there is no such group. They
    /// are always visible.
    pub fn group_files<'a>(&'a self, group: &'a str) -> impl Iterator<Item = FileEntry> + 'a {
        self.plan.groups.iter().enumerate().filter(move |(_, g)| g.name == group).flat_map(
            move |(index, g)| {
                (0..g.count).map(move |i| {
                    let (mode, seed) = self.group_traits(index, i);
                    FileEntry {
                        path: format!("{}/{}", group_dir(g), group_name(i)),
                        layer: self.group_layer(g, i),
                        size: g.size.0,
                        mode,
                        seed,
                        visible: true,
                    }
                })
            },
        )
    }

    /// The files of all groups.
    pub fn files_of_groups(&self) -> impl Iterator<Item = FileEntry> + '_ {
        self.plan.groups.iter().flat_map(|group| self.group_files(&group.name))
    }

    /// The files that the plan lists one by one.
    pub fn listed_files(&self) -> impl Iterator<Item = FileEntry> + '_ {
        super::listed::files(&self.plan)
    }

    /// `count` different names that are in no layer, spread over directories
    /// that are in the merged tree.
    pub fn missing_names(&self, count: u64) -> impl Iterator<Item = String> + '_ {
        let n_dirs = u64::from(self.n_dirs());
        (0..count).map(move |i| {
            // A plan has at most 500 layers of u32 directories each, and both
            // remainders are below those.
            let dir = (i % n_dirs) as u32;
            let layer = (i / n_dirs % u64::from(self.plan.n_layers)) as u32;
            format!("{}/missing{i:07}", self.dir_path(layer, dir))
        })
    }

    /// Every directory of the merged tree but its root, parents first.
    pub fn directories(&self) -> Vec<String> {
        let mut out = std::collections::BTreeSet::new();
        for layer in 0..self.plan.n_layers {
            for dir in self.layer_dir_paths(layer) {
                let ends = dir.match_indices('/').map(|(at, _)| at).chain([dir.len()]);
                for end in ends {
                    out.insert(dir[..end].to_owned());
                }
            }
            let same_everywhere = self.plan.shared_dirs
                && self.plan.opaque_dirs_per_layer == 0
                && self.plan.groups.is_empty()
                && self.plan.files.is_empty();
            if same_everywhere {
                break;
            }
        }
        out.into_iter().collect()
    }

    /// What the builder makes in a layer, directory by directory.
    pub fn layer_dirs(&self, layer: u32) -> impl Iterator<Item = LayerDir> + '_ {
        let own = (0..self.n_dirs()).map(move |d| self.own_dir(layer, d));
        let hiding = (0..self.n_dirs()).filter_map(move |d| self.hiding_dir(layer, d));
        let opaque = self.opaque_dirs(layer);
        let groups = self.plan.groups.iter().enumerate();
        let groups = groups.filter_map(move |(index, g)| self.group_dir_in(layer, index, g));
        let listed = super::listed::dirs(&self.plan, layer);
        own.chain(hiding).chain(opaque).chain(groups).chain(listed)
    }

    /// Counts over all layers; takes one pass over all files.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for layer in 0..self.plan.n_layers {
            for dir in self.layer_dirs(layer) {
                totals.n_dirs += dir.path.split('/').count() as u64;
                for item in dir.items {
                    match item.kind {
                        ItemKind::Whiteout => totals.n_whiteouts += 1,
                        ItemKind::Symlink => totals.n_files += 1,
                        ItemKind::File { size, sparse, .. } => {
                            totals.n_files += 1;
                            totals.n_bytes += size;
                            totals.n_bytes_written += if sparse { size.min(1) } else { size };
                        }
                    }
                }
            }
        }
        totals
    }

    fn n_dirs(&self) -> u32 {
        self.plan.dirs.max(1)
    }

    fn is_bottom(&self, layer: u32) -> bool {
        layer + 1 >= self.plan.n_layers
    }

    /// Files of this layer that the layer above hides.
    fn n_hidden(&self, layer: u32) -> u32 {
        if layer == 0 { 0 } else { self.plan.whiteouts_per_layer.min(self.plan.files_per_layer) }
    }

    fn is_visible(&self, layer: u32, file: u32) -> bool {
        file < self.plan.files_per_layer - self.n_hidden(layer)
    }

    fn dir_path(&self, layer: u32, dir: u32) -> String {
        let mut path = if self.plan.shared_dirs {
            format!("d{dir:03}")
        } else {
            format!("l{layer:03}d{dir:03}")
        };
        for level in 1..=self.plan.depth {
            path.push_str(&format!("/s{level}"));
        }
        path
    }

    fn layer_dir_paths(&self, layer: u32) -> impl Iterator<Item = String> + '_ {
        let own = (0..self.n_dirs()).map(move |d| self.dir_path(layer, d));
        let opaque = self.opaque_dirs(layer).map(|d| d.path);
        let listed = super::listed::dirs(&self.plan, layer).map(|dir| dir.path);
        let listed = listed.filter(|path| !path.is_empty());
        own.chain(opaque).chain(self.plan.groups.iter().map(group_dir)).chain(listed)
    }

    fn own_dir(&self, layer: u32, dir: u32) -> LayerDir {
        let mut items: Vec<Item> = (dir..self.plan.files_per_layer)
            .step_by(self.n_dirs() as usize)
            .map(|j| {
                let (size, mode, seed) = self.file_traits(layer, j);
                let visible = self.is_visible(layer, j);
                let kind = ItemKind::File { size, mode, seed, sparse: false, visible };
                Item { name: name(layer, j), kind }
            })
            .collect();
        if self.plan.shared_dirs {
            items.extend(self.whiteouts(layer, dir));
        }
        LayerDir { path: self.dir_path(layer, dir), opaque: false, items }
    }

    /// With directories of its own, a layer needs those of the layer below to
    /// put its whiteouts into.
    fn hiding_dir(&self, layer: u32, dir: u32) -> Option<LayerDir> {
        if self.plan.shared_dirs {
            return None;
        }
        let items: Vec<Item> = self.whiteouts(layer, dir).collect();
        let path = self.dir_path(layer + 1, dir);
        (!items.is_empty()).then_some(LayerDir { path, opaque: false, items })
    }

    /// Whiteouts in `layer` for files that the layer below has in `dir`.
    fn whiteouts(&self, layer: u32, dir: u32) -> impl Iterator<Item = Item> + '_ {
        let below = layer + 1;
        let n_files = if self.is_bottom(layer) { 0 } else { self.plan.files_per_layer };
        (dir..n_files)
            .step_by(self.n_dirs() as usize)
            .filter(move |j| !self.is_visible(below, *j))
            .map(move |j| Item { name: name(below, j), kind: ItemKind::Whiteout })
    }

    fn opaque_dirs(&self, layer: u32) -> impl Iterator<Item = LayerDir> + '_ {
        let n = self.plan.opaque_dirs_per_layer;
        let n_own = if self.is_bottom(layer) { 0 } else { n };
        let n_under = if layer == 0 { 0 } else { n };
        let dir = move |owner: u32, k: u32, kept: bool| {
            let seed = mix(&[self.plan.seed, u64::from(layer), u64::from(k), u64::from(kept), 2]);
            let kind = ItemKind::File {
                size: self.draw_size(seed),
                mode: FILE_MODES[0],
                seed,
                sparse: false,
                visible: kept,
            };
            let name = if kept { "kept" } else { "gone" }.to_owned();
            let path = format!("q{owner:03}k{k:03}");
            LayerDir { path, opaque: kept, items: vec![Item { name, kind }] }
        };
        let own = (0..n_own).map(move |k| dir(layer, k, true));
        own.chain((0..n_under).map(move |k| dir(layer - 1, k, false)))
    }

    fn group_dir_in(&self, layer: u32, index: usize, group: &GroupPlan) -> Option<LayerDir> {
        let items: Vec<Item> = (0..group.count)
            .filter(|&i| self.group_layer(group, i) == layer)
            .map(|i| {
                let (mode, seed) = self.group_traits(index, i);
                let (size, sparse) = (group.size.0, group.sparse);
                let kind = ItemKind::File { size, mode, seed, sparse, visible: true };
                Item { name: group_name(i), kind }
            })
            .collect();
        (!items.is_empty()).then(|| LayerDir { path: group_dir(group), opaque: false, items })
    }

    /// The files of a group of any layer are dealt out to the layers in turn.
    fn group_layer(&self, group: &GroupPlan, file: u32) -> u32 {
        match group.layer {
            LayerChoice::Any => file % self.plan.n_layers,
            choice => choice.resolve(self.plan.n_layers).unwrap_or(0),
        }
    }

    fn group_traits(&self, group: usize, file: u32) -> (u32, u64) {
        (FILE_MODES[0], mix(&[self.plan.seed, group as u64, u64::from(file), 3]))
    }

    fn file_traits(&self, layer: u32, file: u32) -> (u64, u32, u64) {
        let seed = mix(&[self.plan.seed, u64::from(layer), u64::from(file), 1]);
        let mode = FILE_MODES[(seed % FILE_MODES.len() as u64) as usize];
        (self.draw_size(seed), mode, seed)
    }

    fn draw_size(&self, seed: u64) -> u64 {
        // The contents are drawn from `seed` itself; sizes have a stream of
        // their own, or a file's first bytes would follow from its size.
        let mut rng = Pcg64Mcg::seed_from_u64(mix(&[seed, 4]));
        match self.plan.size {
            SizePlan::Fixed(size) => size.0,
            SizePlan::Uniform { min, max } => rng.random_range(min.0..=max.0.max(min.0)),
            SizePlan::LogNormal { median, sigma, max } => {
                // Box and Muller, "A Note on the Generation of Random Normal
                // Deviates" (1958); 1 - u keeps the logarithm finite.
                let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
                let normal = radius * (TAU * rng.random::<f64>()).cos();
                ((median.0 as f64 * (sigma * normal).exp()) as u64).min(max.0)
            }
        }
    }
}

fn name(layer: u32, file: u32) -> String {
    format!("l{layer:03}f{file:05}")
}

fn group_dir(group: &GroupPlan) -> String {
    format!("g-{}", group.name)
}

fn group_name(file: u32) -> String {
    format!("{file:05}")
}

/// One number from several, by the finalizer of SplitMix64 (Steele, Lea and
/// Flood, "Fast Splittable Pseudorandom Number Generators", 2014), chained.
pub(super) fn mix(words: &[u64]) -> u64 {
    words.iter().fold(0, |state: u64, word| {
        let mut z = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::plan::{BackingKind, BackingPlan};
    use crate::unit::Bytes;

    pub(in crate::stack) fn plan(n_layers: u32) -> StackPlan {
        let group = |name: &str, layer, count, sparse| GroupPlan {
            name: name.to_owned(),
            layer,
            count,
            size: Bytes(10_000),
            sparse,
        };
        StackPlan {
            params: BTreeMap::new(),
            image: None,
            n_layers,
            files_per_layer: 20,
            dirs: 3,
            depth: 1,
            size: SizePlan::Uniform { min: Bytes(0), max: Bytes(3000) },
            whiteouts_per_layer: 4,
            opaque_dirs_per_layer: 2,
            verity: false,
            shared_dirs: true,
            groups: vec![
                group("large", LayerChoice::Bottom, 2, true),
                group("spread", LayerChoice::Any, 5, false),
            ],
            files: Vec::new(),
            seed: 7,
            backing: BackingPlan {
                kind: BackingKind::Tmpfs,
                size: Bytes(1 << 30),
                mount_options: vec![],
                mkfs: String::new(),
            },
        }
    }

    /// The merged tree by the rules of overlayfs, top layer first.
    fn merged(layout: &Layout) -> BTreeSet<String> {
        let (mut files, mut whiteouts) = (BTreeSet::new(), BTreeSet::new());
        let mut opaque: BTreeSet<String> = BTreeSet::new();
        for layer in 0..layout.n_layers() {
            let dirs: Vec<LayerDir> = layout.layer_dirs(layer).collect();
            for dir in dirs.iter().filter(|d| !opaque.contains(&d.path)) {
                for item in &dir.items {
                    let path = format!("{}/{}", dir.path, item.name);
                    match item.kind {
                        ItemKind::Whiteout => _ = whiteouts.insert(path),
                        ItemKind::Symlink => {}
                        ItemKind::File { .. } if !whiteouts.contains(&path) => {
                            assert!(files.insert(path), "a name has one origin");
                        }
                        ItemKind::File { .. } => {}
                    }
                }
            }
            opaque.extend(dirs.into_iter().filter(|d| d.opaque).map(|d| d.path));
        }
        files
    }

    fn said_visible(layout: &Layout) -> BTreeSet<String> {
        let mut out = BTreeSet::new();
        for layer in 0..layout.n_layers() {
            for dir in layout.layer_dirs(layer) {
                for item in dir.items {
                    if matches!(item.kind, ItemKind::File { visible: true, .. }) {
                        out.insert(format!("{}/{}", dir.path, item.name));
                    }
                }
            }
        }
        out
    }

    #[test]
    fn visibility_is_what_the_rules_of_the_union_give() {
        for n_layers in [1, 2, 5] {
            for shared_dirs in [true, false] {
                let layout = Layout::new(&StackPlan { shared_dirs, ..plan(n_layers) });
                let merged = merged(&layout);
                assert_eq!(
                    merged,
                    said_visible(&layout),
                    "{n_layers} layers, shared {shared_dirs}"
                );
                for layer in 0..n_layers {
                    let visible: Vec<_> =
                        layout.files_in_layer(layer).filter(|f| f.visible).collect();
                    assert_eq!(visible.len(), layout.n_visible(layer) as usize);
                    assert!(visible.iter().all(|f| merged.contains(&f.path)));
                }
                for group in ["large", "spread"] {
                    assert!(layout.group_files(group).all(|f| merged.contains(&f.path)));
                }
                let missing: BTreeSet<String> = layout.missing_names(100).collect();
                assert_eq!(missing.len(), 100);
                assert!(missing.is_disjoint(&merged));
                let dirs: BTreeSet<String> = layout.directories().into_iter().collect();
                let parent = |path: &str| path.rsplit_once('/').map(|(p, _)| p.to_owned());
                let parents: BTreeSet<_> =
                    merged.iter().chain(&missing).filter_map(|p| parent(p)).collect();
                assert!(parents.is_subset(&dirs));
            }
        }
    }

    #[test]
    fn entries_and_items_agree() {
        let layout = Layout::new(&plan(3));
        let mut items = BTreeMap::new();
        for dir in layout.layer_dirs(2) {
            for item in dir.items {
                items.insert(format!("{}/{}", dir.path, item.name), item.kind);
            }
        }
        for f in layout.files_in_layer(2) {
            let (size, mode, seed, visible) = (f.size, f.mode, f.seed, f.visible);
            let kind = ItemKind::File { size, mode, seed, sparse: false, visible };
            assert_eq!(items.get(&f.path), Some(&kind));
        }
        let large: Vec<_> = layout.group_files("large").collect();
        assert_eq!(large.len(), 2);
        assert!(large.iter().all(|f| f.layer == 2 && items.contains_key(&f.path)));
    }

    #[test]
    fn totals_count_every_kind() {
        let totals = Layout::new(&plan(3)).totals();
        assert_eq!(totals.n_whiteouts, 2 * 4);
        // Files, two kept and two gone for each of two opaque layers, groups.
        assert_eq!(totals.n_files, 3 * 20 + 2 * 2 * 2 + 2 + 5);
        assert_eq!(totals.n_bytes - totals.n_bytes_written, 2 * 9_999);
    }

    #[test]
    fn log_normal_sizes_have_the_median_and_the_cut() {
        let size = SizePlan::LogNormal { median: Bytes(4096), sigma: 1.5, max: Bytes(65_536) };
        let layout = Layout::new(&StackPlan { size, files_per_layer: 4000, ..plan(1) });
        let mut sizes: Vec<u64> = layout.files_in_layer(0).map(|f| f.size).collect();
        sizes.sort_unstable();
        assert!((3700..4500).contains(&sizes[2000]), "median {}", sizes[2000]);
        assert_eq!(sizes.last(), Some(&65_536));
    }

    #[test]
    fn another_seed_gives_other_sizes() {
        let sizes = |seed| -> Vec<u64> {
            Layout::new(&StackPlan { seed, ..plan(1) }).files_in_layer(0).map(|f| f.size).collect()
        };
        assert_eq!(sizes(7), sizes(7));
        assert_ne!(sizes(7), sizes(8));
    }
}
