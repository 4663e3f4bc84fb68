//! The mount itself: made, known again, and taken away.
//!
//! A mount is taken away by its path, under which somebody else's may stand
//! meanwhile. So its device is compared first, and nothing is done once the session
//! has ended, since then it is gone and its number may be another's.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// Where a union is mounted, and as which device.
#[derive(Clone, Debug)]
pub(super) struct Mountpoint {
    /// As it was called before it was covered: nobody answers questions about it
    /// until the session runs.
    path: PathBuf,
    /// 0 if the list of mounts does not tell.
    pub(super) device: u64,
}

/// How an unmounting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unmounted {
    Whole,
    /// It is in use and was only taken out of sight.
    Hidden,
}

impl Mountpoint {
    /// The place of the union that was just mounted at `path`.
    pub(super) fn at(path: PathBuf) -> Self {
        let device = device_at(&mounts(), &path);
        Self { path, device }
    }

    /// Takes the mount away, if it is still there.
    pub(super) fn unmount(&self) -> std::io::Result<Unmounted> {
        if !self.is_there() {
            // Someone else has unmounted it.
            return Ok(Unmounted::Whole);
        }
        match rustix::mount::unmount(&self.path, UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL) => Ok(Unmounted::Whole),
            Err(Errno::BUSY) => {
                self.flush();
                let hide = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
                rustix::mount::unmount(&self.path, hide)?;
                Ok(Unmounted::Hidden)
            }
            // An ordinary user has the set-user-ID helper unmount.
            Err(Errno::PERM) => {
                if self.ask_helper(&[])? {
                    return Ok(Unmounted::Whole);
                }
                self.flush();
                self.ask_helper(&["-z"]).map(|_| Unmounted::Hidden)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn is_there(&self) -> bool {
        self.device == 0 || device_at(&mounts(), &self.path) == self.device
    }

    /// What was written through mappings and is still in the page cache reaches
    /// the layers before nobody is left to take it.
    fn flush(&self) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if let Ok(root) = rustix::fs::open(&self.path, flags, Mode::empty()) {
            // What cannot be written now cannot be written later either.
            let _ = rustix::fs::syncfs(root);
        }
    }

    fn ask_helper(&self, lazy: &[&str]) -> std::io::Result<bool> {
        let mut command = std::process::Command::new("fusermount3");
        Ok(command.args(["-u", "-q"]).args(lazy).arg("--").arg(&self.path).status()?.success())
    }
}

/// Mounts a new FUSE device, and returns what it is served by; none if this
/// process may not and must ask fusermount3.
pub(super) fn mount(
    path: &Path,
    flags: MountFlags,
    allow_other: bool,
) -> std::io::Result<Option<OwnedFd>> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let mode = rustix::fs::stat(path)?.st_mode;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let allow_other = if allow_other { ",allow_other" } else { "" };
    let data = format!(
        "fd={},rootmode={mode:o},user_id={uid},group_id={gid},default_permissions{allow_other}",
        device.as_raw_fd()
    );
    let data = CString::new(data)?;
    match rustix::mount::mount("unionbench", path, "fuse.unionbench", flags, data.as_c_str()) {
        Ok(()) => Ok(Some(device)),
        Err(Errno::PERM) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn mounts() -> Vec<u8> {
    std::fs::read("/proc/self/mountinfo").unwrap_or_default()
}

/// The kernel's number of the device that was last mounted at a place, by the
/// lines of `mountinfo`; 0 if it is not among them.
fn device_at(mounts: &[u8], path: &Path) -> u64 {
    // Blanks, line breaks and backslashes of names are octal numbers there.
    let escaped: Vec<u8> = path
        .as_os_str()
        .as_bytes()
        .iter()
        .flat_map(|byte| match byte {
            b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
            other => vec![*other],
        })
        .collect();
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
    let device = mounts.rsplit(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        if *fields.get(4)? != escaped {
            return None;
        }
        let mut halves = fields.get(2)?.split(|byte| *byte == b':');
        // 12 bits and 20, as the kernel keeps them.
        Some((number(halves.next()?)? << 20) | number(halves.next()?)?)
    });
    device.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_of_a_mount_is_that_of_the_last_one_there() {
        let mounts = b"22 1 0:20 / /m rw - tmpfs t rw\n23 1 0:51 / /m rw - fuse.unionbench unionbench rw\n24 1 8:300 / /a\\040b rw - ext4 d rw\n";
        let at = |path: &str| device_at(mounts, Path::new(path));
        assert_eq!((at("/m"), at("/a b"), at("/none")), (51, (8 << 20) | 300, 0));
    }
}
