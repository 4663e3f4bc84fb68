//! Mounting a union and serving it. The transport is `fuser`; nothing below
//! this module but an open file's backing number knows it.
//!
//! `ops` holds one callback for each request: it decodes, calls one operation
//! of the union, and replies. `serving` holds what several of them share,
//! `turns` says which thread answers where, `ahead` reads listings ahead of
//! their readers, `convert` the protocol's values.

mod ahead;
mod convert;
mod ops;
mod serving;
mod turns;

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::counters::Counters;
use crate::handle::make_room;
use crate::options::MountOptions;
use crate::sys::signals;
use crate::union::{MountError, Union};
use serving::Fs;
use turns::Watched;

/// A mount served by threads of this process; dropping it unmounts.
#[derive(Debug)]
pub struct Mounted {
    session: BackgroundSession,
    counters: Arc<Counters>,
}

impl Mounted {
    /// What the union counts while it serves.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Unmounts and waits for the threads.
    pub fn unmount(self) -> std::io::Result<()> {
        without_abort(self.session.umount_and_join())
    }
}

/// Mounts the union at `path` and serves it from threads of this process.
/// Sets the process's umask to 0, since modes come ready from the kernel, and
/// raises its limit of open files as far as it may.
pub fn mount(options: &MountOptions, path: &Path) -> Result<Mounted, MountError> {
    let (session, counters) = start(options, path)?;
    let session =
        session.spawn().map_err(|source| MountError::Session { path: path.into(), source })?;
    Ok(Mounted { session, counters })
}

/// Mounts the union at `path` and serves it until it is unmounted, or until
/// SIGINT, SIGTERM or SIGHUP ask to end, which unmounts it; one that is still
/// in use is taken out of sight, and its users get errors once the process has
/// ended. `ready` is called once the mount can be used.
///
/// The signals stay blocked in the calling thread.
pub fn serve(options: &MountOptions, path: &Path, ready: impl FnOnce()) -> Result<(), MountError> {
    let failed = |source| MountError::Session { path: path.into(), source };
    // The mount point as it is called before it is covered.
    let full = path.canonicalize().map_err(failed)?;
    if !full.is_dir() {
        // The kernel would mount a directory over a file, for nobody to enter.
        return Err(failed(Errno::NOTDIR.into()));
    }
    let ending = signals::block();
    let (session, _) = start(options, path)?;
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
                    let _ = unmount(&full);
                    failed(source)
                });
            }
            Ok(Event::Signal) if unmount(&full).map_err(failed)? => {}
            // Still in use, or nobody is left to tell more.
            _ => return Ok(()),
        }
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

/// Unmounts; false if the mount is in use and was only taken out of sight.
fn unmount(path: &PathBuf) -> std::io::Result<bool> {
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::BUSY) => {
            rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
            Ok(false)
        }
        // An ordinary user has the set-user-ID helper unmount.
        Err(Errno::PERM) => {
            let helper = |lazy: &[&str]| {
                let mut command = std::process::Command::new("fusermount3");
                command.args(["-u", "-q"]).args(lazy).arg("--").arg(path).status()
            };
            if helper(&[])?.success() {
                return Ok(true);
            }
            helper(&["-z"]).map(|_| false)
        }
        // Someone else has unmounted it.
        Err(Errno::INVAL) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

fn start(options: &MountOptions, path: &Path) -> Result<(Session<Fs>, Arc<Counters>), MountError> {
    make_room();
    let union = Union::open(options)?;
    let counters = union.counters();
    let device = Arc::clone(&union.device);
    // As it is called before it is covered: nobody answers questions about it
    // until the session runs.
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    rustix::process::umask(rustix::fs::Mode::empty());
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("unionbench".into()),
        MountOption::Subtype("unionbench".into()),
        MountOption::DefaultPermissions,
    ];
    if !union.writable {
        config.mount_options.push(MountOption::RO);
    }
    if union.privileged {
        config.mount_options.extend([MountOption::Dev, MountOption::Suid]);
    }
    if options.allow_other {
        config.acl = SessionACL::All;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    config.n_threads = Some(if options.threads == 0 { cores.min(4) } else { options.threads });
    config.clone_fd = true;
    let turns = Watched::new(!options.spread && cores > 1, &counters);
    let session = Session::new(Fs::new(union, options, turns), path, &config)
        .map_err(|source| MountError::Session { path: path.into(), source })?;
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    device.store(device_at(&mounts, &full), Ordering::Relaxed);
    Ok((session, counters))
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
