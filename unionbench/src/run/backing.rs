//! The file system under the layers: memory, or a loop image of the run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use crate::plan::{BackingKind, BackingPlan};
use crate::record;
use crate::sys::child::die_with_parent;
use crate::sys::loop_device::LoopDevice;
use crate::sys::mount::{MountFailure, Mounted, mount_by_string, mount_in_force};
use crate::unit::Bytes;

/// `OVERLAYFS_SUPER_MAGIC` of linux/magic.h.
const OVERLAYFS_MAGIC: rustix::fs::FsWord = 0x794c_7630;

/// Why there is no backing file system.
#[derive(Debug, Error)]
pub enum BackingError {
    #[error("cannot mount {kind} of {size} at {}: {hint}", target.display())]
    Mount {
        kind: &'static str,
        size: Bytes,
        target: PathBuf,
        hint: &'static str,
        source: MountFailure,
    },
    #[error("cannot make the image {}: free some room or give another folder by --scratch", path.display())]
    Image { path: PathBuf, source: io::Error },
    #[error("cannot attach a loop device to {}: loop devices need root and the loop driver", path.display())]
    Loop { path: PathBuf, source: io::Error },
    #[error("cannot run {program}: install {package} (`apt-get install {package}`)")]
    Absent { program: &'static str, package: &'static str, source: io::Error },
    #[error("cannot make a {kind} file system: {program} says {message}")]
    Mkfs { kind: &'static str, program: &'static str, message: String },
    #[error("cannot use {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot hold {needed} in {what}, which has {free} left: {remedy}")]
    NoRoom { needed: Bytes, what: String, free: Bytes, remedy: &'static str },
    #[error(
        "cannot stack layers in {}, which lies on overlayfs: overlayfs takes neither whiteouts nor \
         an upper layer there; give a folder on another file system by --scratch, or leave \
         backing.fs=dir out", path.display()
    )]
    OnOverlayfs { path: PathBuf },
}

impl BackingError {
    /// This machine cannot have the file system at all, whatever the plan says
    /// of it: a tool, the kernel's part or a right is missing.
    pub fn is_unsupported(&self) -> bool {
        match self {
            Self::Absent { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Mount { source, .. } => source.errno == rustix::io::Errno::NODEV,
            Self::Loop { source, .. } => {
                matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
            }
            _ => false,
        }
    }
}

/// A mounted backing file system; dropping it unmounts and removes it.
#[derive(Debug)]
pub struct Backing {
    pub root: PathBuf,
    pub info: record::Backing,
    // In the order of undoing: the mount, then the device, then the image.
    _mounted: Option<Mounted>,
    _device: Option<LoopDevice>,
    _image: Option<Image>,
}

#[derive(Debug)]
struct Image {
    path: PathBuf,
    keep: bool,
}

impl Drop for Image {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Refuses what would only fail half-way: `needed` is an estimate from below of
/// what the layers and the control take.
///
/// # Errors
/// There is less room than that, or the folder's file system takes no layers.
pub fn check_room(plan: &BackingPlan, scratch: &Path, needed: Bytes) -> Result<(), BackingError> {
    let failed = |source| BackingError::Folder { path: scratch.to_owned(), source };
    let (needed, what, free, remedy) = match plan.kind {
        BackingKind::Tmpfs => {
            let Some(free) = available_memory() else { return Ok(()) };
            let remedy = "take fewer or smaller files, or add --set backing.fs=ext4";
            (needed, "this machine's memory".to_owned(), free, remedy)
        }
        BackingKind::Dir | BackingKind::Ext4 | BackingKind::Xfs | BackingKind::Btrfs => {
            let is_dir = plan.kind == BackingKind::Dir;
            let statistics = rustix::fs::statfs(scratch).map_err(|errno| failed(errno.into()))?;
            if is_dir && statistics.f_type == OVERLAYFS_MAGIC {
                return Err(BackingError::OnOverlayfs { path: scratch.to_owned() });
            }
            let free = Bytes(statistics.f_bavail.saturating_mul(statistics.f_bsize as u64));
            // An image is sparse and may grow to its size.
            let needed = if is_dir { needed } else { plan.size };
            let remedy = "free some, or give another folder by --scratch";
            (needed, scratch.display().to_string(), free, remedy)
        }
    };
    if needed <= free {
        return Ok(());
    }
    // Whole MiB read better, and the estimate is no finer.
    let needed = Bytes(needed.0.next_multiple_of(1 << 20));
    Err(BackingError::NoRoom { needed, what, free: Bytes(free.0 >> 20 << 20), remedy })
}

/// What the kernel thinks can be had without swapping; none without `/proc`.
fn available_memory() -> Option<Bytes> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(Bytes(kib * 1024))
}

/// Mounts what the plan asks for at `scratch/backing-N`. An image that is to be
/// kept stays when the backing is dropped.
///
/// # Errors
/// The kernel refuses it, a tool is missing, or there is no room.
pub fn mount(
    plan: &BackingPlan,
    scratch: &Path,
    n: usize,
    keep: bool,
) -> Result<Backing, BackingError> {
    let root = scratch.join(format!("backing-{n}"));
    let folder_failed = |source| BackingError::Folder { path: root.clone(), source };
    fs::create_dir_all(&root).map_err(folder_failed)?;
    let (mounted, device, image) = match plan.kind {
        BackingKind::Dir => (None, None, None),
        BackingKind::Tmpfs => (Some(mount_tmpfs(plan, &root)?), None, None),
        BackingKind::Ext4 | BackingKind::Xfs | BackingKind::Btrfs => {
            let image = make_image(plan, scratch, n, keep)?;
            let device = LoopDevice::attach(&image.path)
                .map_err(|source| BackingError::Loop { path: image.path.clone(), source })?;
            let source = device.path().display().to_string();
            let options = plan.mount_options.join(",");
            let mounted = mount_by_string(plan.kind.name(), &source, &options, &root)
                .map_err(|failure| refused(plan, &root, failure))?;
            (Some(mounted), Some(device), Some(image))
        }
    };
    let in_force = mount_in_force(&root).map_err(folder_failed)?;
    let statistics = rustix::fs::statvfs(&root).map_err(|errno| folder_failed(errno.into()))?;
    let (file_system, options) = in_force.unwrap_or_default();
    let info = record::Backing {
        kind: plan.kind.name().to_owned(),
        file_system,
        options,
        size_bytes: statistics.f_blocks * statistics.f_frsize,
    };
    Ok(Backing { root, info, _mounted: mounted, _device: device, _image: image })
}

fn mount_tmpfs(plan: &BackingPlan, root: &Path) -> Result<Mounted, BackingError> {
    // Without nr_inodes=0 tmpfs allows one inode per two pages of memory,
    // which deep stacks of small files exceed.
    let mut options = format!("size={},nr_inodes=0,mode=0755", plan.size.0);
    for option in &plan.mount_options {
        options.push(',');
        options.push_str(option);
    }
    mount_by_string("tmpfs", "unionbench", &options, root)
        .map_err(|failure| refused(plan, root, failure))
}

fn refused(plan: &BackingPlan, target: &Path, source: MountFailure) -> BackingError {
    let hint = match plan.kind {
        BackingKind::Tmpfs => "mounting needs root or user namespaces; see `unionbench doctor`",
        _ => "run as root on a kernel with this file system; check `backing.options`",
    };
    BackingError::Mount {
        kind: plan.kind.name(),
        size: plan.size,
        target: target.to_owned(),
        hint,
        source,
    }
}

fn make_image(
    plan: &BackingPlan,
    scratch: &Path,
    n: usize,
    keep: bool,
) -> Result<Image, BackingError> {
    let path = scratch.join(format!("backing-{n}.img"));
    let failed = |source| BackingError::Image { path: path.clone(), source };
    let file = fs::File::create(&path).map_err(failed)?;
    let image = Image { path: path.clone(), keep };
    file.set_len(plan.size.0).map_err(failed)?;
    // What the scenario says stands behind, where it prevails; mkfs.xfs takes
    // no option twice, and makes reflinks by itself.
    let (program, package, arguments): (_, _, &[&str]) = match plan.kind {
        // Lazy initialisation would write in the background of the rounds.
        BackingKind::Ext4 => (
            "mkfs.ext4",
            "e2fsprogs",
            &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
        ),
        BackingKind::Xfs => ("mkfs.xfs", "xfsprogs", &["-q", "-f"]),
        _ => ("mkfs.btrfs", "btrfs-progs", &["-q", "-f"]),
    };
    let mut command = Command::new(program);
    command.args(arguments).args(plan.mkfs.split_whitespace()).arg(&path);
    let output = die_with_parent(&mut command).output().map_err(|source| BackingError::Absent {
        program,
        package,
        source,
    })?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(BackingError::Mkfs { kind: plan.kind.name(), program, message });
    }
    Ok(image)
}
