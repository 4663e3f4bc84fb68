//! Mounts whose ids are mapped (mount_setattr(2), Linux 5.12).

use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::mount::Mounted;

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// A user namespace whose ids begin at `first` outside; nobody lives in it.
///
/// # Errors
/// EPERM where user namespaces or foreign ids are not permitted.
pub fn user_namespace(first: u32, count: u32) -> io::Result<OwnedFd> {
    let (mut told, tell) = io::pipe()?;
    // SAFETY: the child makes system calls only: it neither allocates nor takes
    // a lock that another thread of this process may hold, and it ends by
    // itself or is killed below.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        // SAFETY: as above; `tell` is a descriptor of this process.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let made = libc::unshare(libc::CLONE_NEWUSER) == 0;
            let byte = u8::from(made);
            libc::write(tell.as_raw_fd(), (&raw const byte).cast(), 1);
            loop {
                libc::pause();
            }
        }
    }
    drop(tell);
    let result = (|| {
        let mut made = [0];
        told.read_exact(&mut made)?;
        if made == [0] {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let map = format!("0 {first} {count}");
        fs::write(format!("/proc/{child}/uid_map"), &map)?;
        fs::write(format!("/proc/{child}/gid_map"), &map)?;
        Ok(fs::File::open(format!("/proc/{child}/ns/user"))?.into())
    })();
    if let Some(pid) = Pid::from_raw(child) {
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
    result
}

/// Mounts the folder `source` at `target`, ids mapped by the namespace.
///
/// # Errors
/// EINVAL if the file system knows no mapped mounts (tmpfs does since Linux
/// 6.3, ext4 since 5.12).
pub fn mount_mapped(source: &Path, target: &Path, namespace: &OwnedFd) -> io::Result<Mounted> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(rustix::fs::CWD, source, flags)?;
    let attributes = MountAttr {
        attr_set: MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?,
    };
    // SAFETY: the kernel reads one `struct mount_attr`, whose size is given,
    // and an empty path; both live through the call.
    let status = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&tree, "", rustix::fs::CWD, target, empty)?;
    Ok(Mounted::adopt(target))
}
