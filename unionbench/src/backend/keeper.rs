//! Keeps a mount command and whatever it leaves behind on a leash.
//!
//! The keeper is a process of this program between the run and the command. It
//! takes in orphans, so that a daemon that forks away is still below it. Its
//! standard input is a pipe from the run: when that closes, because the run
//! lets go or because it was killed, the keeper kills everything below itself
//! and ends.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, wait};

use crate::sys::process::{adopt_orphans, descendants};

/// Runs the command until standard input closes; its exit code if it failed
/// before, 0 otherwise.
///
/// # Errors
/// It cannot be started.
pub fn keep(argv: &[OsString]) -> io::Result<u8> {
    adopt_orphans()?;
    let Some((program, arguments)) = argv.split_first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed()).ok_or(io::ErrorKind::InvalidData)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let stdin = io::stdin();
    loop {
        let mut watched =
            [PollFd::new(&process, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut watched, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        if !watched[1].revents().is_empty() {
            break;
        }
        let status = child.wait()?;
        if !status.success() {
            end_all()?;
            let code = status.code().or(status.signal().map(|signal| 128 + signal));
            return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
        }
        io::stdin().read_to_end(&mut Vec::new())?;
        break;
    }
    end_all()?;
    Ok(0)
}

/// Kills everything below this process, and waits for all of it. What is
/// forked meanwhile is found by the next pass.
fn end_all() -> io::Result<()> {
    let own = std::process::id();
    loop {
        let below = descendants(own)?;
        for pid in below.iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
            // ESRCH: it has ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}
