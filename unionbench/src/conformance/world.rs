//! Fresh layers of one case, its mount, and what is looked at.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;

use super::{Setting, backend_of, plan_of};
use crate::backend::{Backend, Request, Union};
use crate::plan::BackendPlan;
use crate::stack::{UNIONFS_FOLDER, Whiteout};

/// A case holds, or it does not.
pub type Done = Result<(), Mismatch>;

/// Why a case does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// What was seen instead.
    Differs(String),
    /// The union has no such thing.
    Inapplicable(String),
}

impl From<io::Error> for Mismatch {
    fn from(error: io::Error) -> Self {
        Self::Differs(error.to_string())
    }
}

impl From<rustix::io::Errno> for Mismatch {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Differs(errno.to_string())
    }
}

/// What a tree shows: path to type, mode, owner, size and content.
pub type Tree = BTreeMap<PathBuf, String>;

/// Layers `l0`, `l1`, … (0 is the topmost), upper `u`, work `w`, mount `m`.
pub struct World {
    root: PathBuf,
    own_program: PathBuf,
    backend: Box<dyn Backend + Send + Sync>,
    plan: BackendPlan,
    pub lower: Vec<PathBuf>,
    writable: Vec<usize>,
    union: Option<Union>,
}

impl World {
    /// Empty layers in a folder of their own.
    pub fn new(
        setting: &Setting<'_>,
        name: &str,
        n_lower: usize,
        writable: &[usize],
    ) -> Result<Self, Mismatch> {
        let root = setting.scratch.join(name);
        fs::create_dir(&root)?;
        let lower: Vec<PathBuf> = (0..n_lower).map(|i| root.join(format!("l{i}"))).collect();
        for path in lower.iter().cloned().chain(["u", "w", "m"].map(|name| root.join(name))) {
            fs::create_dir(path)?;
        }
        if !writable.is_empty() && !matches!(setting.kind, "aufs" | "unionfs-fuse" | "mergerfs") {
            return Err(Mismatch::Inapplicable("it takes one writable layer".to_owned()));
        }
        Ok(Self {
            own_program: setting.own_program.to_owned(),
            backend: backend_of(setting.kind)?,
            plan: plan_of(setting.kind),
            lower,
            writable: writable.to_vec(),
            union: None,
            root,
        })
    }

    /// Mounts as another kind from now on.
    pub fn become_kind(&mut self, kind: &str) -> Done {
        self.backend = backend_of(kind)?;
        self.plan = plan_of(kind);
        Ok(())
    }

    /// The kind that is mounted.
    pub fn kind(&self) -> &str {
        &self.plan.kind
    }

    /// A path in the world's folder, such as `l0/d/f` or `u`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A path in the mount.
    pub fn m(&self, name: &str) -> PathBuf {
        self.root.join("m").join(name)
    }

    /// Writes a file below the world's folder, with its parents.
    pub fn put(&self, path: &str, content: &str) -> Done {
        let path = self.path(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        Ok(fs::write(path, content)?)
    }

    /// Makes a directory below the world's folder, with its parents.
    pub fn dir(&self, path: &str) -> Done {
        Ok(fs::create_dir_all(self.path(path))?)
    }

    /// Hides `name` in `layer` from what lies below, in the union's own form.
    pub fn whiteout(&self, layer: &str, name: &str) -> Done {
        let path = self.path(layer).join(name);
        let base = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match self.backend.whiteouts(&self.plan) {
            Whiteout::Aufs => {
                self.put(&format!("{layer}/{}", sibling(name, &format!(".wh.{base}"))), "")
            }
            Whiteout::Unionfs => self.put(&format!("{layer}/{UNIONFS_FOLDER}/{name}_HIDDEN~"), ""),
            Whiteout::CharDev | Whiteout::Xattr => {
                let kind = rustix::fs::FileType::CharacterDevice;
                let mode = rustix::fs::Mode::empty();
                Ok(rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0)?)
            }
        }
    }

    /// Makes the directory `name` of `layer` hide what lies below.
    pub fn opaque(&self, layer: &str, name: &str) -> Done {
        match self.backend.whiteouts(&self.plan) {
            Whiteout::Aufs => self.put(&format!("{layer}/{name}/.wh..wh..opq"), ""),
            Whiteout::Unionfs => self.put(&format!("{layer}/{UNIONFS_FOLDER}/{name}_HIDDEN~"), ""),
            Whiteout::CharDev | Whiteout::Xattr => {
                let path = self.path(layer).join(name);
                let flags = XattrFlags::empty();
                Ok(rustix::fs::setxattr(path, "trusted.overlay.opaque", b"y", flags)?)
            }
        }
    }

    /// Whether the upper layer holds a whiteout for `name`.
    pub fn upper_hides(&self, name: &str) -> bool {
        let found = self.whiteout_path(name).symlink_metadata();
        found.is_ok_and(|found| match self.backend.whiteouts(&self.plan) {
            Whiteout::Aufs | Whiteout::Unionfs => true,
            Whiteout::CharDev | Whiteout::Xattr => {
                found.file_type().is_char_device() && found.rdev() == 0
            }
        })
    }

    /// Inode number of the upper layer's whiteout for `name`.
    pub fn whiteout_ino(&self, name: &str) -> io::Result<u64> {
        Ok(self.whiteout_path(name).symlink_metadata()?.ino())
    }

    fn whiteout_path(&self, name: &str) -> PathBuf {
        let upper = self.path("u");
        let base = name.rsplit('/').next().unwrap_or(name);
        match self.backend.whiteouts(&self.plan) {
            Whiteout::Aufs => upper.join(sibling(name, &format!(".wh.{base}"))),
            Whiteout::Unionfs => upper.join(UNIONFS_FOLDER).join(format!("{name}_HIDDEN~")),
            Whiteout::CharDev | Whiteout::Xattr => upper.join(name),
        }
    }

    /// Mounts.
    pub fn mount(&mut self) -> Done {
        let (upper, work, target) = (self.path("u"), self.path("w"), self.path("m"));
        let mounted = self.backend.mount(&Request {
            plan: &self.plan,
            lower: &self.lower,
            writable_lower: &self.writable,
            n_data_only: 0,
            hides: true,
            flat: None,
            upper: &upper,
            work: &work,
            target: &target,
            user_namespace: false,
            own_program: &self.own_program,
        });
        self.union = Some(mounted.map_err(|error| Mismatch::Differs(with_causes(&error)))?);
        Ok(())
    }

    /// Unmounts.
    pub fn unmount(&mut self) -> Done {
        match self.union.take() {
            Some(union) => union.unmount().map_err(|error| Mismatch::Differs(with_causes(&error))),
            None => Ok(()),
        }
    }

    /// Unmounts and mounts again.
    pub fn remount(&mut self) -> Done {
        self.unmount()?;
        self.mount()
    }

    /// What the layers hold that no union may change.
    pub fn read_only_layers(&self) -> Result<Vec<Tree>, Mismatch> {
        let layers = self.lower.iter().enumerate();
        let read_only = layers.filter(|(index, _)| !self.writable.contains(index));
        read_only.map(|(_, path)| tree(path)).collect()
    }

    /// What the mount shows.
    pub fn shown(&self) -> Result<Tree, Mismatch> {
        tree(&self.path("m"))
    }

    /// Ends a case: a remount shows the same tree, and no layer has changed.
    pub fn settle(&mut self, before: &[Tree]) -> Done {
        let shown = self.shown()?;
        self.remount()?;
        same("the tree after a remount", &self.shown()?, &shown)?;
        self.unmount()?;
        for (layer, before) in self.read_only_layers()?.iter().zip(before) {
            same("a lower layer", layer, before)?;
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.union.take());
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// `a/b` with its last part replaced.
fn sibling(name: &str, base: &str) -> String {
    match name.rsplit_once('/') {
        Some((parent, _)) => format!("{parent}/{base}"),
        None => base.to_owned(),
    }
}

/// Everything below `root`, the root left out.
pub fn tree(root: &Path) -> Result<Tree, Mismatch> {
    let mut out = Tree::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let found = path.symlink_metadata()?;
            let kind = found.file_type();
            let body = if kind.is_dir() {
                pending.push(path.clone());
                String::new()
            } else if kind.is_symlink() {
                fs::read_link(&path)?.display().to_string()
            } else if kind.is_file() && found.len() < 1 << 20 {
                String::from_utf8_lossy(&fs::read(&path)?).into_owned()
            } else {
                format!("{} bytes, device {}", found.len(), found.rdev())
            };
            let line = format!("{:o} {}:{} {body}", found.mode(), found.uid(), found.gid());
            out.insert(path.strip_prefix(root).unwrap_or(&path).to_owned(), line);
        }
    }
    Ok(out)
}

/// Refuses unless both are equal, and says what differs.
pub fn same(what: &str, found: &Tree, wanted: &Tree) -> Done {
    if found == wanted {
        return Ok(());
    }
    let only = |a: &Tree, b: &Tree| -> Vec<String> {
        let lines = a.iter().filter(|(path, line)| b.get(*path) != Some(line));
        lines.map(|(path, line)| format!("{}: {:.60}", path.display(), line)).collect()
    };
    Err(Mismatch::Differs(format!(
        "{what} holds {:?} where {:?} was expected",
        only(found, wanted),
        only(wanted, found)
    )))
}

/// Refuses unless both are equal.
pub fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Done {
    if found == wanted {
        return Ok(());
    }
    Err(Mismatch::Differs(format!("{what}: {found:?} instead of {wanted:?}")))
}

/// The content of a file as text.
pub fn read(path: impl AsRef<Path>) -> Result<String, Mismatch> {
    let path = path.as_ref();
    let bytes = fs::read(path).map_err(|error| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Mismatch::Differs(format!("cannot read {name}: {error}"))
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Names in a directory, sorted.
pub fn names(path: impl AsRef<Path>) -> Result<Vec<String>, Mismatch> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The errno of a call that must fail; 0 if it did not.
pub fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

/// A name that is no UTF-8.
pub fn odd_name() -> &'static OsStr {
    use std::os::unix::ffi::OsStrExt as _;
    OsStr::from_bytes(b"\xff\xfe name")
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
