//! What lies in layers that were not generated: found by walking them once,
//! topmost first, by the rules of overlayfs.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::layout::{FileEntry, Totals};
use super::{StackError, XattrNamespace};

/// Files in the group `largest`.
const N_LARGEST: usize = 16;

/// The name of the group of the largest visible files.
pub const LARGEST: &str = "largest";

/// The objects of a stack of layers and of their merged view.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Regular files by layer, in the order of their paths.
    files: Vec<Vec<FileEntry>>,
    /// Directories of the merged view but its root, parents first.
    directories: Vec<String>,
    /// Everything in the merged view, with the layer that shows it.
    pub(super) visible: BTreeMap<PathBuf, u32>,
    totals: Totals,
    /// By layer: bytes of regular files, and of those the hidden ones.
    sizes: Vec<(u64, u64)>,
}

impl Listing {
    /// Walks the layers, index 0 the topmost.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn read(lower: &[PathBuf], namespace: XattrNamespace) -> Result<Self, StackError> {
        let mut walk = Walk {
            out: Self::default(),
            opaque_name: match namespace {
                XattrNamespace::Trusted => "trusted.overlay.opaque",
                XattrNamespace::User => "user.overlay.opaque",
            },
            above: Above::default(),
            own: Above::default(),
        };
        for (layer, root) in lower.iter().enumerate() {
            walk.out.files.push(Vec::new());
            walk.out.sizes.push((0, 0));
            walk.dir(root, Path::new(""), layer as u32, false)?;
            walk.above.absorb(std::mem::take(&mut walk.own));
        }
        let mut out = walk.out;
        for files in &mut out.files {
            files.sort_by(|a, b| a.path.cmp(&b.path));
        }
        let dirs = &walk.above.dirs;
        let shown = out.visible.keys().filter(|path| dirs.contains(*path));
        out.directories = shown.filter_map(|path| path.to_str().map(str::to_owned)).collect();
        Ok(out)
    }

    pub fn n_layers(&self) -> u32 {
        self.files.len() as u32
    }

    /// Regular files of a layer whose names are text; the others cannot be
    /// named in a record and take no part.
    pub fn files_in_layer(&self, layer: u32) -> &[FileEntry] {
        self.files.get(layer as usize).map_or(&[], Vec::as_slice)
    }

    pub fn directories(&self) -> &[String] {
        &self.directories
    }

    /// The largest visible files, largest first.
    pub fn largest(&self) -> Vec<FileEntry> {
        let mut all: Vec<&FileEntry> = self.files.iter().flatten().filter(|f| f.visible).collect();
        all.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.path.cmp(&b.path)));
        all.into_iter().take(N_LARGEST).cloned().collect()
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Bytes of a layer's regular files, and those of them that a layer above
    /// hides: what squashing would save on disk.
    pub fn layer_bytes(&self, layer: u32) -> (u64, u64) {
        self.sizes.get(layer as usize).copied().unwrap_or_default()
    }
}

/// What layers hold that hides names further down.
#[derive(Default)]
struct Above {
    /// Objects that are no directories, whiteouts among them.
    blocked: HashSet<PathBuf>,
    opaque: HashSet<PathBuf>,
    dirs: HashSet<PathBuf>,
}

impl Above {
    fn absorb(&mut self, other: Self) {
        self.blocked.extend(other.blocked);
        self.opaque.extend(other.opaque);
        self.dirs.extend(other.dirs);
    }
}

struct Walk {
    out: Listing,
    opaque_name: &'static str,
    above: Above,
    /// The same of the layer that is walked; it hides nothing of itself.
    own: Above,
}

impl Walk {
    fn dir(&mut self, root: &Path, dir: &Path, layer: u32, hidden: bool) -> Result<(), StackError> {
        let full = root.join(dir);
        let failed = |source| StackError::Io { action: "read", path: full.clone(), source };
        let hidden = hidden || self.above.opaque.contains(dir);
        for entry in fs::read_dir(&full).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let metadata = entry.metadata().map_err(failed)?;
            let path = dir.join(entry.file_name());
            let kind = metadata.file_type();
            // A directory above hides what is no directory here, too.
            let hidden = hidden
                || self.above.blocked.contains(&path)
                || (!kind.is_dir() && self.above.dirs.contains(&path));
            if kind.is_char_device() && metadata.rdev() == 0 {
                self.out.totals.n_whiteouts += 1;
                self.own.blocked.insert(path);
                continue;
            }
            if !hidden {
                self.out.visible.entry(path.clone()).or_insert(layer);
            }
            if kind.is_dir() {
                self.out.totals.n_dirs += 1;
                let mut mark = [0; 1];
                let opaque = rustix::fs::lgetxattr(entry.path(), self.opaque_name, &mut mark);
                if opaque == Ok(1) && mark == *b"y" {
                    self.own.opaque.insert(path.clone());
                }
                self.own.dirs.insert(path.clone());
                self.dir(root, &path, layer, hidden)?;
                continue;
            }
            self.own.blocked.insert(path.clone());
            if kind.is_file() {
                self.file(&path, &metadata, layer, hidden);
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, metadata: &fs::Metadata, layer: u32, hidden: bool) {
        let size = metadata.len();
        self.out.totals.n_files += 1;
        self.out.totals.n_bytes += size;
        self.out.totals.n_bytes_written += metadata.blocks() * 512;
        let sizes = &mut self.out.sizes[layer as usize];
        sizes.0 += size;
        sizes.1 += if hidden { size } else { 0 };
        let Ok(text) = std::str::from_utf8(path.as_os_str().as_bytes()) else { return };
        self.out.files[layer as usize].push(FileEntry {
            path: text.to_owned(),
            layer,
            size,
            mode: metadata.mode() & 0o7777,
            seed: 0,
            visible: !hidden,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, text).expect("file");
    }

    fn whiteout(root: &Path, path: &str) {
        let kind = rustix::fs::FileType::CharacterDevice;
        let mode = rustix::fs::Mode::empty();
        rustix::fs::mknodat(rustix::fs::CWD, root.join(path), kind, mode, 0).expect("a whiteout");
    }

    #[test]
    fn the_merged_view_follows_the_rules_of_overlayfs() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let lower: Vec<PathBuf> = (0..3).map(|i| place.path().join(i.to_string())).collect();
        for path in ["d/low", "gone", "over", "kind/x", "op/low", "deep/a/b"] {
            write(&lower[2], path, "12345");
        }
        // A file hides a directory, and what is below it in other layers.
        write(&lower[1], "kind", "f");
        write(&lower[1], "over", "22");
        write(&lower[1], "op/high", "1");
        whiteout(&lower[1], "gone");
        let name = "user.overlay.opaque";
        rustix::fs::setxattr(lower[1].join("op"), name, b"y", rustix::fs::XattrFlags::empty())
            .expect("an attribute");
        write(&lower[0], "kind/new", "n");
        whiteout(&lower[0], "deep");
        let listing = Listing::read(&lower, XattrNamespace::User).expect("it is read");
        let shown: Vec<(String, u32)> = listing
            .visible
            .iter()
            .map(|(path, layer)| (path.display().to_string(), *layer))
            .collect();
        let expected = [
            ("d", 2),
            ("d/low", 2),
            ("kind", 0),
            ("kind/new", 0),
            ("op", 1),
            ("op/high", 1),
            ("over", 1),
        ];
        assert_eq!(shown, expected.map(|(path, layer)| (path.to_owned(), layer)));
        assert_eq!(listing.directories(), ["d", "kind", "op"]);
        assert_eq!(listing.layer_bytes(2), (30, 25));
        assert_eq!(listing.totals().n_whiteouts, 2);
        assert_eq!(listing.largest()[0].path, "d/low");
    }
}
