//! A thread with a mount namespace of its own.
#![allow(unsafe_code)]

use std::io;
use std::thread;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Runs `work` in a thread that alone sees a tracefs at its usual place. The
/// mount goes when the thread ends, whatever becomes of it.
///
/// Errors: not root, or a kernel without tracefs.
pub fn with_tracefs<R: Send>(work: impl FnOnce() -> R + Send) -> io::Result<R> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            leave_shared_mounts()?;
            mount("tracefs", "/sys/kernel/tracing", "tracefs", MountFlags::empty(), None)?;
            Ok(work())
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Gives the calling thread a copy of the mounts that is its own: what it mounts
/// from now on, nobody else sees.
///
/// Errors: not root.
pub fn leave_shared_mounts() -> io::Result<()> {
    // SAFETY: the namespace is this thread's alone, which was made for it;
    // descriptors stay shared, so nothing another thread holds changes.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}
