//! Writes a layout to disk: one folder a layer, several layers at once.
//!
//! Each thread takes the next layer that nobody has begun, so that the result
//! does not depend on the number of threads. Files are created relative to
//! their directory's descriptor, which spares the kernel the walk along the
//! path. The hash of a layer covers, in the layout's order, every directory,
//! name, type, size, mode and content byte; the hash of the stack covers the
//! hashes of its layers, topmost first.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rustix::fs::{FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::image::{self, Image, ImageError, Reference, UnpackOptions};
use super::layout::{ItemKind, LayerDir, Layout};
use super::listing::Listing;
use super::marks;
use super::merge::copy_merged;
use super::{StackError, Tree};
use crate::plan::{ImagePlan, StackPlan};
use crate::record;

/// Namespace of overlayfs' own extended attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrNamespace {
    /// `trusted.overlay.*`, which only the superuser may set.
    Trusted,
    /// `user.overlay.*`, which overlayfs reads with `userxattr`.
    User,
}

/// How whiteouts are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whiteout {
    /// Character device 0:0; any user may make it since Linux 5.8.
    CharDev,
    /// Empty file with the attribute `overlay.whiteout`, Linux 6.8.
    Xattr,
    /// aufs: an empty file `.wh.NAME`; an opaque directory holds
    /// `.wh..wh..opq`.
    Aufs,
    /// unionfs-fuse: an empty file `NAME_HIDDEN~` at the same place below
    /// [`UNIONFS_FOLDER`]; so it does for an opaque directory.
    Unionfs,
}

/// Where unionfs-fuse 1.0 keeps whiteouts in each layer.
pub const UNIONFS_FOLDER: &str = ".unionfs-fuse";

/// How layers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildOptions {
    pub xattr_namespace: XattrNamespace,
    pub whiteout: Whiteout,
}

/// A stack on disk.
#[derive(Debug)]
pub struct BuiltStack {
    /// The layers' folders; index 0 is the topmost.
    pub lower: Vec<PathBuf>,
    pub info: record::Stack,
    pub tree: Tree,
    /// Where the layers of an image lie by which its tree tells files apart;
    /// not `lower` if they were squashed.
    unpacked: Vec<PathBuf>,
}

/// Builds the layers of `plan` as `root/L000`, `root/L001`, …; `root` must
/// exist. Stops soon after `cancel` is set, with [`StackError::Cancelled`].
pub fn build(
    plan: &StackPlan,
    root: &Path,
    options: BuildOptions,
    cancel: &AtomicBool,
) -> Result<BuiltStack, StackError> {
    let started = Instant::now();
    if let Some(image) = &plan.image {
        return build_from_image(plan, image, root, options, cancel);
    }
    let layout = Layout::new(plan);
    let target = Target::Layers(options);
    let hashes = write_layers(&layout, root, target, cancel)?;
    let mut stack_hash = Sha256::new();
    for hash in &hashes {
        stack_hash.update(hash);
    }
    let totals = layout.totals();
    let info = record::Stack {
        params: plan.params.clone(),
        n_layers: plan.n_layers,
        n_files: totals.n_files,
        n_dirs: totals.n_dirs,
        n_whiteouts: totals.n_whiteouts,
        n_bytes: totals.n_bytes,
        hash: hex(&stack_hash.finalize()),
        build_ms: started.elapsed().as_millis() as u64,
    };
    let lower = (0..plan.n_layers).map(|layer| root.join(layer_name(layer))).collect();
    Ok(BuiltStack { lower, info, tree: Tree::Generated(layout), unpacked: Vec::new() })
}

/// Unpacks an image into `root`. Squashed, its merged view becomes the only
/// layer, `root/squashed`.
fn build_from_image(
    plan: &StackPlan,
    wanted: &ImagePlan,
    root: &Path,
    options: BuildOptions,
    cancel: &AtomicBool,
) -> Result<BuiltStack, StackError> {
    let started = Instant::now();
    let failed = |error| match error {
        ImageError::Cancelled => StackError::Cancelled,
        error => StackError::Image { reference: wanted.reference.clone(), source: Box::new(error) },
    };
    let reference: Reference = wanted.reference.parse().map_err(failed)?;
    let platform = match &wanted.platform {
        Some(text) => text.parse().map_err(failed)?,
        None => image::Platform::here(),
    };
    let image = Image::open(&reference, &platform).map_err(failed)?;
    let unpack = UnpackOptions { namespace: options.xattr_namespace, ..Default::default() };
    let unpacked = image::unpack(&image, root, unpack, cancel).map_err(failed)?;
    let mut lower: Vec<PathBuf> = unpacked.layers.iter().map(|l| l.path.clone()).collect();
    if let Some(last) = unpacked.layers.iter().position(|layer| layer.hides_all_below) {
        lower.truncate(last + 1);
    }
    let listing = Listing::read(&lower, options.xattr_namespace)?;
    let totals = listing.totals();
    if matches!(options.whiteout, Whiteout::Aufs | Whiteout::Unionfs) {
        for layer in &lower {
            marks::rewrite(layer, options.whiteout, options.xattr_namespace)?;
        }
    }
    let mut hash = Sha256::new();
    for layer in &unpacked.layers {
        hash.update(&layer.diff_id);
    }
    hash.update([u8::from(wanted.squash)]);
    let unpacked = lower.clone();
    if wanted.squash {
        let squashed = root.join("squashed");
        std::fs::create_dir(&squashed).map_err(|e| io_error("create", &squashed, e))?;
        copy_merged(&listing, &lower, &squashed, cancel)?;
        lower = vec![squashed];
    }
    let info = record::Stack {
        params: plan.params.clone(),
        n_layers: lower.len() as u32,
        n_files: totals.n_files,
        n_dirs: totals.n_dirs,
        n_whiteouts: totals.n_whiteouts,
        n_bytes: totals.n_bytes,
        hash: hex(&hash.finalize()),
        build_ms: started.elapsed().as_millis() as u64,
    };
    Ok(BuiltStack { lower, info, tree: Tree::Listed(listing), unpacked })
}

/// Builds what the merged view of a stack shows as one plain tree in `dir`,
/// which must exist: the control that has no union. Contents of generated
/// layers are generated again, those of an image are copied.
pub fn build_flat(stack: &BuiltStack, dir: &Path, cancel: &AtomicBool) -> Result<(), StackError> {
    match &stack.tree {
        Tree::Generated(layout) => write_layers(layout, dir, Target::Flat, cancel).map(|_| ()),
        Tree::Listed(listing) => copy_merged(listing, &stack.unpacked, dir, cancel),
    }
}

#[derive(Clone, Copy)]
enum Target {
    Layers(BuildOptions),
    /// All layers into one tree, hidden files left out.
    Flat,
}

fn layer_name(layer: u32) -> String {
    format!("L{layer:03}")
}

/// Hashes of the layers, topmost first.
fn write_layers(
    layout: &Layout,
    root: &Path,
    target: Target,
    cancel: &AtomicBool,
) -> Result<Vec<[u8; 32]>, StackError> {
    let n_layers = layout.n_layers();
    let n_threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(8);
    let next = AtomicU32::new(0);
    // The first error of any thread; it also makes the others stop.
    let failed: Mutex<Option<StackError>> = Mutex::new(None);
    let stop = AtomicBool::new(false);
    let hashes = Mutex::new(vec![[0u8; 32]; n_layers as usize]);
    std::thread::scope(|scope| {
        for _ in 0..n_threads.min(n_layers as usize) {
            scope.spawn(|| {
                let mut writer = Writer::new(target, cancel, &stop);
                loop {
                    let layer = next.fetch_add(1, Ordering::Relaxed);
                    if layer >= n_layers {
                        return;
                    }
                    match writer.layer(layout, layer, root) {
                        Ok(hash) => {
                            hashes.lock().expect("no thread panics here")[layer as usize] = hash;
                        }
                        Err(error) => {
                            // In this order, or the `Cancelled` of a thread
                            // that was stopped could come before the cause.
                            failed.lock().expect("no thread panics here").get_or_insert(error);
                            stop.store(true, Ordering::Release);
                            return;
                        }
                    }
                }
            });
        }
    });
    match failed.into_inner().expect("no thread panics here") {
        Some(error) => Err(error),
        None => Ok(hashes.into_inner().expect("no thread panics here")),
    }
}

/// Size of the piece in which contents are generated, written and hashed.
const CHUNK: usize = 256 << 10;

struct Writer<'a> {
    target: Target,
    cancel: &'a AtomicBool,
    stop: &'a AtomicBool,
    chunk: Vec<u8>,
    hash: Sha256,
}

impl<'a> Writer<'a> {
    fn new(target: Target, cancel: &'a AtomicBool, stop: &'a AtomicBool) -> Self {
        Self { target, cancel, stop, chunk: vec![0; CHUNK], hash: Sha256::new() }
    }

    fn layer(&mut self, layout: &Layout, layer: u32, root: &Path) -> Result<[u8; 32], StackError> {
        let folder = match self.target {
            Target::Layers(_) => root.join(layer_name(layer)),
            Target::Flat => root.to_owned(),
        };
        if matches!(self.target, Target::Layers(_)) {
            // Not `create_dir_all`: a layer that is there already is not ours.
            std::fs::create_dir(&folder).map_err(|source| io_error("create", &folder, source))?;
            set_dir_mode(&folder)?;
        }
        for dir in layout.layer_dirs(layer) {
            self.dir(&folder, &dir)?;
        }
        Ok(self.hash.finalize_reset().into())
    }

    fn dir(&mut self, folder: &Path, dir: &LayerDir) -> Result<(), StackError> {
        let mut path = folder.to_owned();
        for part in dir.path.split('/').filter(|part| !part.is_empty()) {
            path.push(part);
            match std::fs::create_dir(&path) {
                Ok(()) => set_dir_mode(&path)?,
                // Another layer has made it in the flat tree; in a layer,
                // which is new, another of its directories has.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(io_error("create", &path, source)),
            }
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|e| io_error("open", &path, e.into()))?;
        self.note(b"dir", dir.path.as_bytes(), &[u64::from(DIR_MODE), u64::from(dir.opaque)]);
        if let Target::Layers(options) = self.target {
            let has_whiteout = dir.items.iter().any(|i| i.kind == ItemKind::Whiteout);
            let mark = match (dir.opaque, has_whiteout, options.whiteout) {
                (true, _, Whiteout::Aufs) => {
                    empty_file(&path.join(OPAQUE_OF_AUFS))?;
                    None
                }
                (true, _, Whiteout::Unionfs) => {
                    empty_file(&hidden(folder, &dir.path))?;
                    None
                }
                (true, ..) => Some(b"y"),
                // Tells overlayfs to look for whiteouts made of attributes.
                (false, true, Whiteout::Xattr) => Some(b"x"),
                _ => None,
            };
            if let Some(mark) = mark {
                let name = attribute(options.xattr_namespace, "opaque");
                rustix::fs::fsetxattr(&fd, name.as_str(), mark, XattrFlags::empty())
                    .map_err(|e| io_error("mark as opaque", &path, e.into()))?;
            }
        }
        for item in &dir.items {
            if self.cancel.load(Ordering::Relaxed) || self.stop.load(Ordering::Acquire) {
                return Err(StackError::Cancelled);
            }
            let at = |action| {
                let path = path.join(&item.name);
                move |e: std::io::Error| io_error(action, &path, e)
            };
            match (item.kind, self.target) {
                (ItemKind::Whiteout, Target::Flat) => {}
                (ItemKind::File { visible: false, .. }, Target::Flat) => {}
                (ItemKind::Symlink, _) => {
                    self.note(b"symlink", item.name.as_bytes(), &[]);
                    rustix::fs::symlinkat(NOWHERE, &fd, item.name.as_str())
                        .map_err(|e| at("make the symlink")(e.into()))?;
                }
                (ItemKind::Whiteout, Target::Layers(options)) => {
                    self.note(b"whiteout", item.name.as_bytes(), &[]);
                    match options.whiteout {
                        Whiteout::Unionfs => {
                            let name = format!("{}/{}", dir.path, item.name);
                            empty_file(&hidden(folder, &name))?;
                        }
                        _ => whiteout(&fd, &item.name, options).map_err(at("make the whiteout"))?,
                    }
                }
                (ItemKind::File { size, mode, seed, sparse, .. }, _) => {
                    self.note(b"file", item.name.as_bytes(), &[size, u64::from(mode)]);
                    self.file(&fd, &item.name, size, mode, seed, sparse).map_err(at("write"))?;
                }
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        dir: &OwnedFd,
        name: &str,
        size: u64,
        mode: u32,
        seed: u64,
        sparse: bool,
    ) -> std::io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        let fd = rustix::fs::openat(dir, OsStr::new(name), flags, mode)?;
        // The process's umask may have taken bits away.
        rustix::fs::fchmod(&fd, mode)?;
        let mut file = File::from(fd);
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let mut left = size;
        if sparse && size > 0 {
            use std::os::unix::fs::FileExt as _;
            rng.fill_bytes(&mut self.chunk[..1]);
            self.hash.update(&self.chunk[..1]);
            return file.write_all_at(&self.chunk[..1], size - 1);
        }
        while left > 0 {
            let chunk = &mut self.chunk[..left.min(CHUNK as u64) as usize];
            rng.fill_bytes(chunk);
            if matches!(self.target, Target::Layers(_)) {
                self.hash.update(&*chunk);
            }
            file.write_all(chunk)?;
            left -= chunk.len() as u64;
            if self.cancel.load(Ordering::Relaxed) {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
        }
        Ok(())
    }

    /// Takes one object into the layer's hash. Lengths go first, so that no
    /// two different trees feed it the same bytes.
    fn note(&mut self, kind: &[u8], name: &[u8], numbers: &[u64]) {
        for part in [kind, name] {
            self.hash.update((part.len() as u64).to_le_bytes());
            self.hash.update(part);
        }
        for number in numbers {
            self.hash.update(number.to_le_bytes());
        }
    }
}

const DIR_MODE: u32 = 0o755;

/// What symlinks lead to.
const NOWHERE: &str = "unionbench-nowhere";

/// What marks a directory as opaque for aufs (Documentation/filesystems/aufs).
pub(super) const OPAQUE_OF_AUFS: &str = ".wh..wh..opq";

/// Where unionfs-fuse looks for the whiteout of `name`.
pub(super) fn hidden(layer: &Path, name: impl AsRef<Path>) -> PathBuf {
    let mut path = layer.join(UNIONFS_FOLDER).join(name).into_os_string();
    path.push("_HIDDEN~");
    path.into()
}

/// Makes an empty file and the folders it lies in.
pub(super) fn empty_file(path: &Path) -> Result<(), StackError> {
    let made = match path.parent() {
        Some(parent) => std::fs::create_dir_all(parent),
        None => Ok(()),
    };
    made.and_then(|()| File::create_new(path).map(drop))
        .map_err(|source| io_error("make the whiteout", path, source))
}

fn set_dir_mode(path: &Path) -> Result<(), StackError> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(DIR_MODE))
        .map_err(|source| io_error("set the mode of", path, source))
}

fn whiteout(dir: &OwnedFd, name: &str, options: BuildOptions) -> std::io::Result<()> {
    match options.whiteout {
        Whiteout::CharDev => {
            let mode = Mode::from_raw_mode(0);
            rustix::fs::mknodat(dir, name, FileType::CharacterDevice, mode, 0)?;
        }
        Whiteout::Xattr => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?;
            let name = attribute(options.xattr_namespace, "whiteout");
            rustix::fs::fsetxattr(&fd, name.as_str(), b"y", XattrFlags::empty())?;
        }
        Whiteout::Aufs => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(0o444);
            rustix::fs::openat(dir, format!(".wh.{name}"), flags, mode)?;
        }
        // Lies in another directory: made by the caller.
        Whiteout::Unionfs => {}
    }
    Ok(())
}

pub(super) fn attribute(namespace: XattrNamespace, name: &str) -> String {
    match namespace {
        XattrNamespace::Trusted => format!("trusted.overlay.{name}"),
        XattrNamespace::User => format!("user.overlay.{name}"),
    }
}

pub(super) fn io_error(action: &'static str, path: &Path, source: std::io::Error) -> StackError {
    let path = path.to_owned();
    match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => StackError::NoSpace { path },
        _ if source.kind() == std::io::ErrorKind::Interrupted => StackError::Cancelled,
        _ => StackError::Io { action, path, source },
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

    use super::super::layout::tests::plan;
    use super::*;

    const OPTIONS: BuildOptions =
        BuildOptions { xattr_namespace: XattrNamespace::User, whiteout: Whiteout::CharDev };

    fn built(plan: &StackPlan) -> (tempfile::TempDir, BuiltStack) {
        let root = tempfile::tempdir().expect("a temporary folder");
        let stack = build(plan, root.path(), OPTIONS, &AtomicBool::new(false));
        (root, stack.expect("the stack is built"))
    }

    #[test]
    fn same_seed_gives_the_same_hash_and_another_seed_another() {
        let hash = |plan: &StackPlan| built(plan).1.info.hash;
        assert_eq!(hash(&plan(4)), hash(&plan(4)));
        assert_ne!(hash(&plan(4)), hash(&StackPlan { seed: 8, ..plan(4) }));
        assert_ne!(hash(&plan(4)), hash(&StackPlan { depth: 2, ..plan(4) }));
    }

    #[test]
    fn disk_holds_what_the_layout_says() {
        let plan = plan(3);
        let (_root, stack) = built(&plan);
        let layout = Layout::new(&plan);
        for (layer, folder) in stack.lower.iter().enumerate() {
            for f in layout.files_in_layer(layer as u32) {
                let meta = std::fs::metadata(folder.join(&f.path)).expect("the file is there");
                assert_eq!((meta.size(), meta.mode() & 0o7777), (f.size, f.mode), "{}", f.path);
            }
        }
        let hidden = layout.files_in_layer(1).find(|f| !f.visible).expect("one is hidden");
        let meta = std::fs::symlink_metadata(stack.lower[0].join(&hidden.path));
        let meta = meta.expect("the whiteout is there");
        assert!(meta.file_type().is_char_device() && meta.rdev() == 0);
        let large = layout.group_files("large").next().expect("the group has files");
        let meta = std::fs::metadata(stack.lower[2].join(&large.path)).expect("it is there");
        assert_eq!(meta.size(), 10_000);
    }

    #[test]
    fn flat_tree_holds_the_visible_files_with_the_same_contents() {
        let plan = plan(3);
        let (_root, stack) = built(&plan);
        let flat = tempfile::tempdir().expect("a temporary folder");
        build_flat(&stack, flat.path(), &AtomicBool::new(false)).expect("the tree is built");
        let layout = Layout::new(&plan);
        let all = (0..3).flat_map(|l| layout.files_in_layer(l)).chain(layout.group_files("spread"));
        for f in all {
            let there = std::fs::read(flat.path().join(&f.path)).ok();
            let layer = std::fs::read(stack.lower[f.layer as usize].join(&f.path)).ok();
            assert!(layer.is_some());
            assert_eq!(there, layer.filter(|_| f.visible), "{}", f.path);
        }
        assert!(flat.path().join("q000k000/kept").exists());
        assert!(!flat.path().join("q000k000/gone").exists());
    }

    #[test]
    fn cancelled_build_stops() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let result = build(&plan(2), root.path(), OPTIONS, &AtomicBool::new(true));
        assert!(matches!(result, Err(StackError::Cancelled)));
    }

    #[test]
    fn full_disk_names_the_remedy() {
        let error = io_error("write", Path::new("L000/f"), Errno::NOSPC.into());
        assert!(error.to_string().contains("backing.size"), "{error}");
    }
}
