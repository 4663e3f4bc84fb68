//! Children that cannot outlive their parent, and what they are given.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, set_parent_process_death_signal};

/// Has the kernel kill the child when the thread that spawned it ends, however
/// it ends. The spawning thread must therefore stay until the child is done.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs between fork and exec; it makes one prctl call
    // and neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(|| set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into))
    }
}

/// Makes the child lead a session whose terminal is its standard input, so that
/// the keys that send signals reach what runs there.
pub fn own_terminal(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs between fork and exec, after the standard streams
    // were set; it makes two system calls and neither allocates nor locks.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()).map_err(Into::into)
        })
    }
}

/// Leaves an open file open in the child, under its number. Other children
/// that are started meanwhile do not get it.
pub fn inherit(command: &mut Command, file: OwnedFd) -> &mut Command {
    // SAFETY: the closure runs between fork and exec; it makes one fcntl call
    // on a file that it owns, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(move || fcntl_setfd(&file, FdFlags::empty()).map_err(Into::into)) }
}
