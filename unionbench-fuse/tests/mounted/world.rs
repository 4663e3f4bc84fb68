//! Fresh layers for a case, and what is checked after it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount as mount_at};
use unionbench_fuse::{DataMode, MountOptions, Mounted, mount};

/// What a tree shows: path to kind, mode, owner and content.
pub type Tree = BTreeMap<PathBuf, String>;

/// `test_probes` of the worlds made from now on.
static PROBES: Mutex<Option<u32>> = Mutex::new(None);

/// Sets after how many names asked for one by one a directory is read whole.
pub fn ask_by_name(probes: Option<u32>) {
    *PROBES.lock().unwrap() = probes;
}

pub struct World {
    dir: tempfile::TempDir,
    lowers: usize,
    pub options: MountOptions,
    mounted: Option<Mounted>,
}

impl World {
    /// Layers in a folder of their own on tmpfs; index 0 is the topmost.
    pub fn new(lowers: usize) -> Self {
        let base = Path::new("/dev/shm");
        let dir =
            if base.is_dir() { tempfile::tempdir_in(base) } else { tempfile::tempdir() }.unwrap();
        for i in 0..lowers {
            fs::create_dir(dir.path().join(format!("l{i}"))).unwrap();
        }
        for name in ["u", "w", "m"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let options = MountOptions {
            lower: (0..lowers).map(|i| dir.path().join(format!("l{i}"))).collect(),
            upper: Some(dir.path().join("u")),
            work: Some(dir.path().join("w")),
            allow_other: true,
            test_probes: *PROBES.lock().unwrap(),
            ..MountOptions::default()
        };
        Self { dir, lowers, options, mounted: None }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn m(&self, name: &str) -> PathBuf {
        self.dir.path().join("m").join(name)
    }

    /// Writes a file below the world's folder, with its parents.
    pub fn put(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn mkdir(&self, path: &str) {
        fs::create_dir_all(self.path(path)).unwrap();
    }

    pub fn mount(&mut self) {
        self.mounted = Some(mount(&self.options, &self.path("m")).unwrap());
    }

    /// Mounts the same layers by the kernel's overlayfs, with these options.
    pub fn mount_kernel(&self, more: &str) -> Result<(), Errno> {
        let lowers: Vec<_> = self.options.lower.iter().map(|l| l.display().to_string()).collect();
        let mut options = format!("lowerdir={},{more}", lowers.join(":"));
        if let (Some(upper), Some(work)) = (&self.options.upper, &self.options.work) {
            options += &format!(",upperdir={},workdir={}", upper.display(), work.display());
        }
        let options = std::ffi::CString::new(options).unwrap();
        let flags = MountFlags::empty();
        mount_at("overlay", self.path("m"), "overlay", flags, Some(options.as_c_str()))
    }

    pub fn unmount_kernel(&self) {
        rustix::mount::unmount(self.path("m"), UnmountFlags::empty()).unwrap();
    }

    pub fn mounted(&self) -> &Mounted {
        self.mounted.as_ref().unwrap()
    }

    pub fn unmount(&mut self) {
        self.mounted.take().unwrap().unmount().unwrap();
    }

    pub fn lower_trees(&self) -> Vec<Tree> {
        (0..self.lowers).map(|i| tree(&self.path(&format!("l{i}")), true)).collect()
    }

    pub fn merged(&self) -> Tree {
        tree(&self.path("m"), false)
    }
}

/// Runs the case on a mount in each data mode; then no lower layer may have
/// changed, and a remount must show the same tree with the same inode numbers.
pub fn check(lowers: usize, fill: impl Fn(&World), case: impl Fn(&World)) {
    check_with(lowers, |_| {}, fill, case);
}

/// As [`check`], with further options.
pub fn check_with(
    lowers: usize,
    set: impl Fn(&mut MountOptions),
    fill: impl Fn(&World),
    case: impl Fn(&World),
) {
    for data in [DataMode::Cached, DataMode::Passthrough, DataMode::NoOpen] {
        let mut world = World::new(lowers);
        world.options.data = data;
        set(&mut world.options);
        fill(&world);
        let before = world.lower_trees();
        world.mount();
        case(&world);
        let shown = world.merged();
        let numbers = inos(&world.path("m"));
        world.unmount();
        assert_eq!(before, world.lower_trees(), "a lower layer changed ({data:?})");
        world.mount();
        assert_eq!(shown, world.merged(), "a remount shows another tree ({data:?})");
        assert_eq!(numbers, inos(&world.path("m")), "inode numbers changed ({data:?})");
        world.unmount();
        let litter = fs::read_dir(world.path("w/work")).unwrap().count();
        assert!(litter <= 1, "the work folder holds {litter} names");
    }
}

pub fn names(dir: &Path) -> Vec<String> {
    let mut out: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    out.sort();
    out
}

/// The tree below `root`; with `times` also each modification time.
pub fn tree(root: &Path, times: bool) -> Tree {
    let mut out = Tree::new();
    let mut stack = vec![root.to_path_buf()];
    while let Some(path) = stack.pop() {
        let meta = path.symlink_metadata().unwrap();
        let kind = meta.file_type();
        let body = if kind.is_file() {
            String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()
        } else if kind.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else if kind.is_char_device() || kind.is_block_device() {
            meta.rdev().to_string()
        } else {
            String::new()
        };
        if kind.is_dir() {
            stack.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let time = if times { meta.mtime_nsec() } else { 0 };
        let line = format!("{:o} {}:{} {time} {body}", meta.mode(), meta.uid(), meta.gid());
        out.insert(path.strip_prefix(root).unwrap().to_path_buf(), line);
    }
    out
}

fn inos(root: &Path) -> BTreeMap<PathBuf, u64> {
    let all = tree(root, false);
    all.into_keys()
        .map(|p| {
            let ino = root.join(&p).symlink_metadata().unwrap().ino();
            (p, ino)
        })
        .collect()
}

/// Sets an attribute of an object itself.
pub fn set_mark(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

pub fn non_utf8() -> &'static std::ffi::OsStr {
    std::ffi::OsStr::from_bytes(b"\xff\xfe name")
}
