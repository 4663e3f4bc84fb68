//! Children that cannot outlive their parent.

use std::os::unix::process::CommandExt;
use std::process::Command;

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
