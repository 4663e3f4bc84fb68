//! Mounting a union and serving it. The transport is `fuser`; nothing below
//! this module but an open file's backing number knows it.
//!
//! `ops` holds one callback for each request: it decodes, calls one operation
//! of the union, and replies. `serving` holds what several of them share,
//! `turns` says which thread answers where, `mountpoint` makes the mount and takes
//! it away, `ahead` reads listings ahead of
//! their readers, `convert` the protocol's values.

mod ahead;
mod convert;
mod mountpoint;
mod ops;
mod serving;
mod turns;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::counters::Counters;
use crate::handle::make_room;
use crate::options::MountOptions;
use crate::sys::signals;
use crate::union::{MountError, Union};
use mountpoint::{Mountpoint, Unmounted};
use serving::Fs;
use turns::Watched;

/// A mount served by threads of this process; dropping it unmounts.
#[derive(Debug)]
pub struct Mounted {
    /// None once it was unmounted.
    session: Option<BackgroundSession>,
    at: Mountpoint,
    counters: Arc<Counters>,
}

impl Mounted {
    /// What the union counts while it serves.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Unmounts and waits for the threads. A mount that is in use is taken out of
    /// sight and served on until nobody uses it any more, which is told as `EBUSY`.
    pub fn unmount(mut self) -> std::io::Result<()> {
        self.end().transpose().map(|_| ())
    }

    fn end(&mut self) -> Option<std::io::Result<()>> {
        let session = self.session.take()?;
        if !session.guard.is_finished() {
            match self.at.unmount() {
                Ok(Unmounted::Whole) => {}
                Ok(Unmounted::Hidden) => return Some(Err(Errno::BUSY.into())),
                Err(error) => return Some(Err(error)),
            }
        }
        Some(without_abort(session.join()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.end();
    }
}

/// Mounts the union at `path` and serves it from threads of this process.
/// Sets the process's umask to 0, since modes come ready from the kernel, and
/// raises its limit of open files as far as it may.
pub fn mount(options: &MountOptions, path: &Path) -> Result<Mounted, MountError> {
    let Started { session, at, counters } = start(options, path)?;
    let session =
        session.spawn().map_err(|source| MountError::Session { path: path.into(), source })?;
    Ok(Mounted { session: Some(session), at, counters })
}

/// Mounts the union at `path` and serves it until it is unmounted, or until
/// SIGINT, SIGTERM or SIGHUP ask to end, which unmounts it. One that is still
/// in use is flushed and taken out of sight; its users get errors once the process
/// has ended, which it does when nothing has been asked for a moment. `ready` is
/// called once the mount can be used.
///
/// The signals stay blocked in the calling thread.
pub fn serve(options: &MountOptions, path: &Path, ready: impl FnOnce()) -> Result<(), MountError> {
    let failed = |source| MountError::Session { path: path.into(), source };
    let ending = signals::block();
    let Started { session, at, counters } = start(options, path)?;
    let (tell, told) = mpsc::channel();
    let tell_end = tell.clone();
    let start_thread = |name: &str, body: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.into()).spawn(body).map(|_| ()).map_err(failed)
    };
    start_thread("union", Box::new(move || drop(tell_end.send(Event::Ended(session.run())))))?;
    start_thread(
        "union-signals",
        Box::new(move || {
            ending.wait();
            drop(tell.send(Event::Signal));
        }),
    )?;
    ready();
    loop {
        match told.recv() {
            Ok(Event::Ended(result)) => {
                return without_abort(result).map_err(|source| {
                    // A mount that nobody serves must not stay behind.
                    let _ = at.unmount();
                    failed(source)
                });
            }
            Ok(Event::Signal) if at.unmount().map_err(failed)? == Unmounted::Whole => {}
            Ok(Event::Signal) => {
                wait_for_quiet(&counters);
                return Ok(());
            }
            // Nobody is left to tell more.
            Err(_) => return Ok(()),
        }
    }
}

/// Waits, for some seconds at most, until no request has come for a moment: those
/// that a flush has made are on their way when it returns.
fn wait_for_quiet(counters: &Counters) {
    const MOMENT: Duration = Duration::from_millis(100);
    let requests = || counters.requests.load(Ordering::Relaxed);
    let mut seen = requests();
    for _ in 0..50 {
        std::thread::sleep(MOMENT);
        let now = requests();
        if now == seen {
            break;
        }
        seen = now;
    }
}

enum Event {
    Ended(std::io::Result<()>),
    Signal,
}

/// A connection that ends while the kernel still has requests of its own in it
/// (releases of closed files) is read as ECONNABORTED and not as ENODEV
/// (fs/fuse/dev.c): the end that was asked for all the same.
fn without_abort(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(Errno::CONNABORTED.raw_os_error()) => Ok(()),
        other => other,
    }
}

/// A session before its threads run.
struct Started {
    session: Session<Fs>,
    at: Mountpoint,
    counters: Arc<Counters>,
}

fn start(options: &MountOptions, path: &Path) -> Result<Started, MountError> {
    let failed = |source| MountError::Session { path: path.into(), source };
    let full = path.canonicalize().map_err(failed)?;
    if !full.is_dir() {
        // The kernel would mount a directory over a file, for nobody to enter.
        return Err(failed(Errno::NOTDIR.into()));
    }
    make_room();
    let union = Union::open(options)?;
    let counters = union.counters();
    let device = Arc::clone(&union.device);
    rustix::process::umask(rustix::fs::Mode::empty());
    let mut flags = options.flags;
    flags.set(MountFlags::RDONLY, !union.writable);
    if !union.privileged {
        flags |= MountFlags::NOSUID | MountFlags::NODEV;
    }
    let mut config = Config::default();
    if options.allow_other {
        config.acl = SessionACL::All;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    config.n_threads = Some(if options.threads == 0 { cores.min(4) } else { options.threads });
    config.clone_fd = true;
    let turns = Watched::new(!options.spread && cores > 1, &counters);
    let fs = Fs::new(union, options, turns);
    let session = match mountpoint::mount(&full, flags, options.allow_other).map_err(failed)? {
        Some(served_by) => Session::from_fd(fs, served_by, config.acl, config),
        None => {
            config.mount_options = asked_of_the_helper(flags);
            Session::new(fs, &full, &config)
        }
    };
    let at = Mountpoint::at(full);
    let session = session.map_err(|source| {
        let _ = at.unmount();
        failed(source)
    })?;
    device.store(at.device, Ordering::Relaxed);
    Ok(Started { session, at, counters })
}

/// The mount's options as fusermount3 takes them; it gives ordinary users
/// `nosuid` and `nodev` unasked.
fn asked_of_the_helper(flags: MountFlags) -> Vec<MountOption> {
    let name = || "unionbench".to_owned();
    let mut options = vec![
        MountOption::FSName(name()),
        MountOption::Subtype(name()),
        MountOption::DefaultPermissions,
    ];
    let known = [
        (MountFlags::RDONLY, MountOption::RO),
        (MountFlags::NOEXEC, MountOption::NoExec),
        (MountFlags::NOATIME, MountOption::NoAtime),
        (MountFlags::SYNCHRONOUS, MountOption::Sync),
        (MountFlags::DIRSYNC, MountOption::DirSync),
    ];
    options.extend(known.into_iter().filter(|(f, _)| flags.contains(*f)).map(|(_, option)| option));
    options
}
