//! A mount namespace of the run's own. Everything that is mounted in it
//! vanishes with its last process, even after `kill -9`.

use std::fs;
use std::io;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{getegid, geteuid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Where the run finds itself after [`enter_private`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// Effective user id before any user namespace was made.
    pub uid: u32,
    /// A user namespace was made, since the user may not mount otherwise.
    pub user_namespace: bool,
}

/// Moves this process into a mount namespace of its own whose mounts do not
/// propagate; an ordinary user gets a user namespace around it.
///
/// Must be called while the process has one thread: a user namespace is
/// refused (EINVAL) afterwards, and other threads would stay outside.
///
/// # Errors
/// EPERM or ENOSPC where user namespaces are forbidden or used up.
pub fn enter_private() -> io::Result<Entered> {
    let uid = geteuid().as_raw();
    let gid = getegid().as_raw();
    // CAP_SYS_ADMIN is tried for, not guessed from the uid: a root without it
    // (a container) needs the user namespace as well.
    // SAFETY: only namespaces change; no memory or descriptor table is unshared.
    let direct = unsafe { unshare_unsafe(UnshareFlags::NEWNS) };
    let user_namespace = match direct {
        Ok(()) => false,
        Err(_) => {
            // SAFETY: as above.
            unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)? };
            fs::write("/proc/self/setgroups", "deny")?;
            fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
            fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
            true
        }
    };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(Entered { uid, user_namespace })
}

/// Gives the calling thread a working directory of its own.
///
/// # Errors
/// ENOMEM.
pub fn unshare_working_directory() -> Result<(), rustix::io::Errno> {
    // SAFETY: only the thread's fs_struct (root, working directory, umask) is
    // copied; memory and descriptors stay shared.
    unsafe { unshare_unsafe(UnshareFlags::FS) }
}
