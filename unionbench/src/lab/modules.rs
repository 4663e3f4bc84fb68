//! A kernel's modules: which there are, what each needs first, and their bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use object::{Object, ObjectSection};

use super::error::LabError;
use super::kernel::Feature;

/// `lib/modules/<release>`: its files, `modules.builtin`, and `modules.dep`
/// where there is one.
///
/// Distributions leave `modules.dep` to depmod at installation, so a package
/// that was only extracted has none; each module then names its direct needs
/// in the `depends=` field of its `.modinfo` section.
#[derive(Debug)]
pub(crate) struct ModuleTree {
    root: PathBuf,
    /// Module name → its file below the root.
    files: BTreeMap<String, PathBuf>,
    /// Module name → names of what it needs, from `modules.dep`.
    needs: Option<BTreeMap<String, Vec<String>>>,
    builtin: BTreeSet<String>,
}

impl ModuleTree {
    pub(crate) fn open(root: &Path) -> Result<Self, LabError> {
        let list = root.join("modules.builtin");
        let builtin = fs::read_to_string(&list).map_err(LabError::io("read module list", &list))?;
        let dep = fs::read_to_string(root.join("modules.dep")).ok();
        let mut files = BTreeMap::new();
        match &dep {
            Some(text) => files.extend(
                text.lines()
                    .filter_map(|line| line.split_once(':'))
                    .map(|(file, _)| (module_name(file), PathBuf::from(file))),
            ),
            None => walk(root, Path::new("kernel"), &mut files)?,
        }
        Ok(Self {
            root: root.to_owned(),
            files,
            needs: dep.as_deref().map(parse_dep),
            builtin: builtin.lines().map(module_name).collect(),
        })
    }

    pub(crate) fn feature(&self, name: &str) -> Feature {
        if self.builtin.contains(name) {
            Feature::BuiltIn
        } else if self.files.contains_key(name) {
            Feature::Module
        } else {
            Feature::Absent
        }
    }

    /// The modules to load with their bytes, each after what it needs.
    /// Built-in ones need no loading and are left out; so are those the tree
    /// lacks.
    pub(crate) fn load_order(&self, wanted: &[&str]) -> Result<Vec<LoadedModule>, LabError> {
        let mut order = Vec::new();
        for name in wanted {
            if self.feature(name) == Feature::Module {
                self.push_with_needs(name, &mut order, &mut BTreeSet::new())?;
            }
        }
        Ok(order)
    }

    /// `open` holds the names on the way here, so that a cycle in damaged
    /// lists ends instead of recursing for ever.
    fn push_with_needs(
        &self,
        name: &str,
        order: &mut Vec<LoadedModule>,
        open: &mut BTreeSet<String>,
    ) -> Result<(), LabError> {
        let done = self.builtin.contains(name) || order.iter().any(|m| m.name == name);
        if done || !open.insert(name.to_owned()) {
            return Ok(());
        }
        let bytes = self.bytes(name)?;
        let needs = match &self.needs {
            Some(listed) => listed.get(name).cloned().unwrap_or_default(),
            None => modinfo_needs(&bytes),
        };
        for need in &needs {
            self.push_with_needs(need, order, open)?;
        }
        order.push(LoadedModule { name: name.to_owned(), bytes });
        Ok(())
    }

    /// The module's ELF file, decompressed.
    fn bytes(&self, name: &str) -> Result<Vec<u8>, LabError> {
        let Some(file) = self.files.get(name) else {
            return Err(LabError::BadModule {
                path: self.root.join(name),
                why: "another module needs it but the tree does not hold it".into(),
            });
        };
        let path = self.root.join(file);
        let packed = fs::read(&path).map_err(LabError::io("read module", &path))?;
        let bad = |why: String| LabError::BadModule { path: path.clone(), why };
        let mut bytes = Vec::new();
        match path.extension().and_then(|e| e.to_str()) {
            Some("xz") => {
                lzma_rust2::XzReader::new(packed.as_slice(), true)
                    .read_to_end(&mut bytes)
                    .map_err(|error| bad(error.to_string()))?;
            }
            Some("zst") => {
                ruzstd::decoding::StreamingDecoder::new(packed.as_slice())
                    .map_err(|error| bad(error.to_string()))?
                    .read_to_end(&mut bytes)
                    .map_err(|error| bad(error.to_string()))?;
            }
            Some("ko") => bytes = packed,
            other => return Err(bad(format!("its compression {other:?} is not known"))),
        }
        if !bytes.starts_with(b"\x7fELF") {
            return Err(bad("it is no ELF file".into()));
        }
        Ok(bytes)
    }
}

/// A module's name and its ELF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoadedModule {
    pub name: String,
    pub bytes: Vec<u8>,
}

fn walk(root: &Path, dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), LabError> {
    let here = root.join(dir);
    for entry in fs::read_dir(&here).map_err(LabError::io("read folder", &here))? {
        let entry = entry.map_err(LabError::io("read folder", &here))?;
        let path = dir.join(entry.file_name());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(root, &path, files)?;
        } else if let Some(text) = path.to_str().filter(|text| text.contains(".ko")) {
            files.insert(module_name(text), path);
        }
    }
    Ok(())
}

/// The `depends=` field of a module's `.modinfo` section, a list of
/// zero-terminated `key=value` strings.
fn modinfo_needs(elf: &[u8]) -> Vec<String> {
    let Ok(file) = object::File::parse(elf) else { return Vec::new() };
    let Some(Ok(section)) = file.section_by_name(".modinfo").map(|s| s.data()) else {
        return Vec::new();
    };
    section
        .split(|byte| *byte == 0)
        .filter_map(|field| field.strip_prefix(b"depends="))
        .flat_map(|list| list.split(|byte| *byte == b','))
        .filter(|name| !name.is_empty())
        .map(|name| module_name(&String::from_utf8_lossy(name)))
        .collect()
}

fn parse_dep(text: &str) -> BTreeMap<String, Vec<String>> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| {
            (module_name(file), needs.split_whitespace().map(module_name).collect())
        })
        .collect()
}

/// `kernel/fs/fuse/fuse.ko.xz` → `fuse`. The kernel takes `-` for `_`.
fn module_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(dep: &str, builtin: &str) -> (tempfile::TempDir, ModuleTree) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::write(dir.path().join("modules.dep"), dep).expect("written dependencies");
        fs::write(dir.path().join("modules.builtin"), builtin).expect("written list");
        let tree = ModuleTree::open(dir.path()).expect("a readable tree");
        (dir, tree)
    }

    fn check(tree: &ModuleTree, wanted: &[&str], expected: &[&str]) {
        let order = tree.load_order(wanted).expect("whole modules");
        let names: Vec<&str> = order.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn needs_are_loaded_first_and_once() {
        let (dir, tree) = tree(
            "ext4.ko: jbd2.ko mbcache.ko\njbd2.ko: ext4.ko\nmbcache.ko:\nvirtio-x.ko: jbd2.ko\n",
            "",
        );
        for name in ["ext4.ko", "jbd2.ko", "mbcache.ko", "virtio-x.ko"] {
            fs::write(dir.path().join(name), b"\x7fELF").expect("a written file");
        }
        check(
            &tree,
            &["ext4", "virtio_x", "ext4", "missing"],
            &["jbd2", "mbcache", "ext4", "virtio_x"],
        );
    }

    #[test]
    fn builtin_modules_are_not_loaded() {
        let (dir, tree) = tree("a.ko: k/b.ko\nk/b.ko:\n", "kernel/b.ko\n");
        fs::write(dir.path().join("a.ko"), b"\x7fELF").expect("a written file");
        check(&tree, &["a", "b"], &["a"]);
        assert_eq!(tree.feature("b"), Feature::BuiltIn);
        assert_eq!(tree.feature("c"), Feature::Absent);
    }

    #[test]
    fn damaged_modules_are_refused() {
        let (dir, tree) = tree("a.ko.xz:\nb.ko:\nc.ko.zst:\nd.ko.br:\n", "");
        for name in ["a.ko.xz", "b.ko", "c.ko.zst", "d.ko.br"] {
            fs::write(dir.path().join(name), "damaged").expect("a written file");
        }
        for name in ["a", "b", "c", "d"] {
            assert!(matches!(tree.bytes(name), Err(LabError::BadModule { .. })), "{name}");
        }
    }
}
