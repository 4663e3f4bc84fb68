//! A program that serves a mount: started, waited for until the mount is
//! there, asked what it costs, and ended.
//!
//! Owner of the process is [`Daemon`]; dropping it kills. A program that stays
//! in the foreground is a child with a parent-death signal, so that it ends
//! with the run even after `kill -9`. One that puts itself into the background
//! would escape that, so it runs under a keeper ([`super::keeper`]).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::BackendError;
use crate::sys::child::die_with_parent;
use crate::sys::mount::mount_in_force;
use crate::sys::process::{cpu_time_ns, descendants, peak_memory_bytes};
use crate::unit::{Bytes, Nanos};

/// How long a program may take to mount.
const TO_MOUNT: Duration = Duration::from_secs(60);
/// How long it may take to end once its mount is gone.
const TO_END: Duration = Duration::from_secs(20);
/// What is kept of the end of what it said.
const TAIL: u64 = 2000;

/// What a daemon cost since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time of all its threads.
    pub cpu: Nanos,
    /// Most memory it had resident at once.
    pub peak_memory: Bytes,
}

/// A running program that serves a mount.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    program: String,
    /// Its stderr. stdout is thrown away: unionfs-fuse 1.0 writes a line there
    /// for every name it lists.
    said: File,
    /// The keeper ends what it keeps when this closes; a program in the
    /// foreground has none.
    leash: Option<ChildStdin>,
}

impl Daemon {
    /// Starts a program that stays in the foreground. The thread that calls
    /// must outlive it, or it is killed.
    ///
    /// # Errors
    /// It is not there or cannot be run.
    pub fn serve(argv: &[OsString]) -> Result<Self, BackendError> {
        let (program, arguments) = split(argv)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        die_with_parent(&mut command);
        Self::start(command, program, false)
    }

    /// Starts a program that may leave its daemon behind, under the keeper of
    /// this program, whose file is `own`.
    ///
    /// # Errors
    /// The keeper cannot be run.
    pub fn keep(own: &Path, argv: &[OsString]) -> Result<Self, BackendError> {
        let (program, _) = split(argv)?;
        let mut command = Command::new(own);
        command.arg("keep").arg("--").args(argv).stdin(Stdio::piped());
        Self::start(command, program, true)
    }

    fn start(mut command: Command, program: &OsStr, kept: bool) -> Result<Self, BackendError> {
        let program = program.to_string_lossy().into_owned();
        let failed = |source| BackendError::Start { program: program.clone(), source };
        let said = tempfile::tempfile().map_err(failed)?;
        // A process group of its own: the terminal's SIGINT is for the run,
        // which then unmounts in order.
        let mut child = command
            .stdout(Stdio::null())
            .stderr(said.try_clone().map_err(failed)?)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let leash = if kept { child.stdin.take() } else { None };
        Ok(Self { child, program, said, leash })
    }

    /// Waits until something is mounted at `target` and answers.
    ///
    /// # Errors
    /// The program ended first, or nothing was mounted in time.
    pub fn wait_until_mounted(&mut self, target: &Path) -> Result<(), BackendError> {
        // Opened first: the kernel reports changes of the mounts since then.
        let mounts = File::open("/proc/self/mountinfo").map_err(BackendError::InForce)?;
        let deadline = Instant::now() + TO_MOUNT;
        while mount_in_force(target).map_err(BackendError::InForce)?.is_none() {
            if let Some(status) = self.status()? {
                return Err(self.ended(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(BackendError::NotMounted {
                    program: self.program.clone(),
                    seconds: TO_MOUNT.as_secs(),
                    said: self.tail(),
                });
            }
            self.sleep_until_change(Some(&mounts), left)?;
        }
        // The first request that needs an answer: what a daemon does before it
        // is no part of the first operation that is timed.
        rustix::fs::statx(
            rustix::fs::CWD,
            target,
            rustix::fs::AtFlags::STATX_FORCE_SYNC,
            rustix::fs::StatxFlags::BASIC_STATS,
        )
        .map(drop)
        .map_err(|errno| match self.end_within(Duration::from_secs(2)) {
            Some(end) => end,
            None => BackendError::Dead { target: target.to_owned(), source: errno.into() },
        })
    }

    /// What it cost so far; none if it has ended.
    pub fn usage(&self) -> Option<Usage> {
        let pids = match self.leash {
            Some(_) => descendants(self.child.id()).ok()?,
            None => vec![self.child.id()],
        };
        let mut sum = Usage::default();
        let mut seen = false;
        for pid in pids {
            // A process that ends in between is left out.
            let (Ok(cpu), Ok(memory)) = (cpu_time_ns(pid), peak_memory_bytes(pid)) else {
                continue;
            };
            sum.cpu.0 += cpu;
            sum.peak_memory.0 += memory;
            seen = true;
        }
        seen.then_some(sum)
    }

    /// How it ended, if it does within that time.
    pub fn end_within(&mut self, limit: Duration) -> Option<BackendError> {
        let deadline = Instant::now() + limit;
        loop {
            match self.status() {
                Ok(Some(status)) => return Some(self.ended(status)),
                Ok(None) => {}
                Err(error) => return Some(error),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.sleep_until_change(None, left).is_err() {
                return None;
            }
        }
    }

    /// Ends it now that its mount is gone: a program in the foreground does so
    /// by itself, a kept one by its keeper.
    ///
    /// # Errors
    /// It did not end in time and was killed.
    pub fn finish(mut self) -> Result<(), BackendError> {
        self.leash = None;
        match self.end_within(TO_END) {
            Some(_) => Ok(()),
            None => Err(BackendError::Lingers {
                program: self.program.clone(),
                seconds: TO_END.as_secs(),
            }),
        }
    }

    /// The child's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn status(&mut self) -> Result<Option<ExitStatus>, BackendError> {
        self.child
            .try_wait()
            .map_err(|source| BackendError::Start { program: self.program.clone(), source })
    }

    fn ended(&self, status: ExitStatus) -> BackendError {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("with exit code {code}"),
            (None, Some(signal)) => format!("by signal {signal}"),
            (None, None) => "in an unknown way".to_owned(),
        };
        BackendError::Ended { program: self.program.clone(), how, said: self.tail() }
    }

    fn sleep_until_change(
        &self,
        mounts: Option<&File>,
        limit: Duration,
    ) -> Result<(), BackendError> {
        let failed = |errno: rustix::io::Errno| BackendError::Start {
            program: self.program.clone(),
            source: errno.into(),
        };
        let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) else { return Ok(()) };
        let process = pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
        let mut watched = vec![PollFd::new(&process, PollFlags::IN)];
        watched.extend(mounts.map(|mounts| PollFd::new(mounts, PollFlags::PRI)));
        let limit = Timespec {
            tv_sec: limit.as_secs().cast_signed(),
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        match poll(&mut watched, Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// The end of what it said, on one line.
    fn tail(&self) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut said = &self.said;
            let length = said.seek(SeekFrom::End(0))?;
            said.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
            let mut bytes = Vec::new();
            said.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
        let lines: Vec<&str> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if lines.is_empty() { "nothing".to_owned() } else { lines.join("; ") }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.leash.take().is_some() && self.end_within(TO_END).is_some() {
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn split(argv: &[OsString]) -> Result<(&OsStr, &[OsString]), BackendError> {
    match argv.split_first() {
        Some((program, arguments)) => Ok((program, arguments)),
        None => Err(BackendError::Start {
            program: String::new(),
            source: io::ErrorKind::InvalidInput.into(),
        }),
    }
}
