//! Mounting through the file-descriptor API (Linux 5.2, fsopen(2)) and the
//! older mount(2), and a guard that unmounts.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_bind,
    mount_remount, move_mount, unmount,
};

/// An option of a file system: a key, with a value unless it is a flag.
pub type FsOption<'a> = (&'a str, Option<&'a str>);

/// Something mounted by this program; dropping it unmounts, lazily if busy.
#[derive(Debug)]
pub struct Mounted {
    target: PathBuf,
    live: bool,
}

impl Mounted {
    /// Takes over a mount that somebody else (a FUSE daemon) made at `target`.
    pub fn adopt(target: &Path) -> Self {
        Self { target: target.to_owned(), live: true }
    }

    /// The mount point.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Unmounts now.
    ///
    /// # Errors
    /// EBUSY if a file below it is open; the mount then stays until drop.
    pub fn unmount(mut self) -> io::Result<()> {
        unmount(&self.target, UnmountFlags::empty())?;
        self.live = false;
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.live && unmount(&self.target, UnmountFlags::empty()).is_err() {
            // A busy mount is detached: it is gone with its last user, at the
            // latest with the namespace.
            let _ = unmount(&self.target, UnmountFlags::DETACH);
        }
    }
}

/// Whether this kernel has a file system. Asking loads its module, as mounting
/// it would; who may not mount is told of those that are there already.
pub fn has_file_system(fs_type: &str) -> bool {
    fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC).is_ok() || {
        let registered = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        is_registered(&registered, fs_type)
    }
}

fn is_registered(filesystems: &str, fs_type: &str) -> bool {
    filesystems.lines().any(|line| line.trim_start_matches("nodev").trim() == fs_type)
}

/// Mounts through fsopen(2), one option at a time.
///
/// # Errors
/// The errno, with what the kernel wrote into the context's log about it.
pub fn mount_by_fsconfig(
    fs_type: &str,
    source: &str,
    options: &[FsOption<'_>],
    target: &Path,
) -> Result<Mounted, MountFailure> {
    let context = fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC).map_err(MountFailure::plain)?;
    let explain = |errno| MountFailure { errno, log: read_log(&context) };
    fsconfig_set_string(context.as_fd(), "source", source).map_err(explain)?;
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(context.as_fd(), *key, *value),
            None => fsconfig_set_flag(context.as_fd(), *key),
        }
        .map_err(|errno| MountFailure {
            errno,
            log: format!("option {key}: {}", read_log(&context)),
        })?;
    }
    fsconfig_create(context.as_fd()).map_err(explain)?;
    let tree = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .map_err(explain)?;
    move_mount(tree.as_fd(), "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(MountFailure::plain)?;
    Ok(Mounted::adopt(target))
}

/// Mounts through mount(2) with one string of options.
///
/// # Errors
/// The errno; mount(2) has no log.
pub fn mount_by_string(
    fs_type: &str,
    source: &str,
    options: &str,
    target: &Path,
) -> Result<Mounted, MountFailure> {
    let data = CString::new(options).map_err(|_| MountFailure::plain(rustix::io::Errno::INVAL))?;
    mount(source, target, fs_type, MountFlags::empty(), Some(data.as_c_str()))
        .map_err(MountFailure::plain)?;
    Ok(Mounted::adopt(target))
}

/// Changes a mount through mount(2) with one string of options.
///
/// # Errors
/// The errno; mount(2) has no log.
pub fn remount_by_string(mounted: &Mounted, options: &str) -> Result<(), MountFailure> {
    let data = CString::new(options).map_err(|_| MountFailure::plain(rustix::io::Errno::INVAL))?;
    mount_remount(&mounted.target, MountFlags::empty(), data.as_c_str())
        .map_err(MountFailure::plain)
}

/// Mounts a folder or a file at another place, too.
///
/// # Errors
/// The errno; mount(2) has no log.
pub fn bind(source: &Path, target: &Path, read_only: bool) -> Result<Mounted, MountFailure> {
    mount_bind(source, target).map_err(MountFailure::plain)?;
    let mounted = Mounted::adopt(target);
    if read_only {
        // The first call takes no flags but MS_BIND (mount(2)).
        mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, c"")
            .map_err(MountFailure::plain)?;
    }
    Ok(mounted)
}

/// Mounts a block device so that nothing can be written.
///
/// # Errors
/// The errno; mount(2) has no log.
pub fn mount_read_only(
    fs_type: &str,
    source: &str,
    target: &Path,
) -> Result<Mounted, MountFailure> {
    mount(source, target, fs_type, MountFlags::RDONLY, None).map_err(MountFailure::plain)?;
    Ok(Mounted::adopt(target))
}

/// Why a mount was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFailure {
    pub errno: rustix::io::Errno,
    /// What the kernel said about it; may be empty.
    pub log: String,
}

impl MountFailure {
    fn plain(errno: rustix::io::Errno) -> Self {
        Self { errno, log: String::new() }
    }
}

impl std::fmt::Display for MountFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let error = io::Error::from(self.errno);
        match self.log.as_str() {
            "" => write!(f, "{error}"),
            log => write!(f, "{error}; the kernel says: {log}"),
        }
    }
}

impl std::error::Error for MountFailure {}

/// What `/proc/self/mountinfo` says of the topmost mount at `target`: file
/// system type and super block options.
pub fn mount_in_force(target: &Path) -> io::Result<Option<(String, String)>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(parse_mountinfo(&text, target))
}

fn parse_mountinfo(text: &str, target: &Path) -> Option<(String, String)> {
    // proc_pid_mountinfo(5): field 5 is the mount point, octal-escaped; behind
    // " - " come type, source and super options. Later lines lie on top.
    let wanted = target.to_str()?;
    text.lines().rev().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        if unescape(point) != wanted {
            return None;
        }
        let mut fields = after.splitn(3, ' ');
        let fs_type = fields.next()?.to_owned();
        let options = fields.nth(1)?.to_owned();
        Some((fs_type, options))
    })
}

fn unescape(field: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// The messages of an fsopen(2) context, one read each ("e overlay: …").
fn read_log(context: &impl std::os::fd::AsFd) -> String {
    let mut messages = Vec::new();
    let mut buffer = [0u8; 1024];
    while let Ok(n) = rustix::io::read(context, &mut buffer) {
        if n == 0 {
            break;
        }
        messages.push(String::from_utf8_lossy(&buffer[..n]).trim().to_owned());
    }
    messages.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
36 35 98:0 / /mnt rw,noatime master:1 - ext4 /dev/root rw,errors=continue
40 36 0:41 / /mnt/a\\040b rw - tmpfs tmpfs rw,size=64k
41 36 0:42 / /mnt/a\\040b rw - overlay unionbench rw,lowerdir=/l,metacopy=on
";

    #[test]
    fn the_topmost_mount_of_an_escaped_path_is_found() {
        assert_eq!(
            parse_mountinfo(TEXT, Path::new("/mnt/a b")),
            Some(("overlay".to_owned(), "rw,lowerdir=/l,metacopy=on".to_owned()))
        );
        assert_eq!(parse_mountinfo(TEXT, Path::new("/mnt/a")), None);
    }

    #[test]
    fn a_file_system_is_found_among_the_registered_ones() {
        let registered = "nodev\tsysfs\nnodev\taufs\n\text4\n";
        assert!(is_registered(registered, "aufs") && is_registered(registered, "ext4"));
        assert!(!is_registered(registered, "fs") && !is_registered(registered, "nodev"));
    }

    #[test]
    fn an_unknown_file_system_is_not_there() {
        assert!(has_file_system("tmpfs") && !has_file_system("unionbench-none"));
    }
}
