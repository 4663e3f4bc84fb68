//! Verbs whose operation is about a union as a whole: mounting it, unmounting
//! it, sharing its layers. They run on the thread that calls them.
//!
//! Unlike the verbs of single system calls their operations allocate: a mount
//! takes milliseconds of the kernel's time, beside which that does not show.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::driver::{Gate, now};
use super::{Outcome, WorkloadError, commit, container, idmap};
use crate::backend::{BackendError, Union};
use crate::plan::WholeVerb;
use crate::record::Counter;
use crate::sys::mount::Mounted;
use crate::sys::resident::resident_pages;

/// What such a verb stands on. All paths lie on the backing file system.
pub struct Ground<'a> {
    /// Root of the union that is mounted.
    pub root: &'a Path,
    /// Its upper layer; of the control, whose tree is a plain one, the same as
    /// the root.
    pub upper: &'a Path,
    /// Topmost first.
    pub lower: &'a [PathBuf],
    /// The merged tree as one plain directory; only the control has it.
    pub flat: Option<&'a Path>,
    /// An empty folder; what is made in it goes when the phase has ended.
    pub spare: &'a Path,
    /// Visible files, relative to the root, the largest first.
    pub files: &'a [PathBuf],
    pub mount: &'a dyn Fn(&MountAt<'_>) -> Result<Standing, BackendError>,
}

/// Where another union is mounted.
#[derive(Debug, Clone, Copy)]
pub struct MountAt<'a> {
    pub lower: &'a [PathBuf],
    pub upper: &'a Path,
    pub work: &'a Path,
    pub target: &'a Path,
}

/// Something mounted; dropping it unmounts.
#[derive(Debug)]
pub enum Standing {
    Union(Box<Union>),
    /// What the control has instead of a union.
    Bind(Mounted),
}

impl Standing {
    pub(super) fn unmount(self) -> Result<(), BackendError> {
        match self {
            Self::Union(union) => union.unmount(),
            Self::Bind(mounted) => {
                let target = mounted.target().to_owned();
                mounted.unmount().map_err(|source| BackendError::Unmount { target, source })
            }
        }
    }
}

/// Does a verb `n` times.
///
/// # Errors
/// A mount was refused, a file cannot be used, or the run was interrupted.
pub fn run_whole(
    verb: WholeVerb,
    n: u64,
    ground: &Ground<'_>,
    gate: &mut dyn Gate,
    cancel: &AtomicBool,
) -> Result<Outcome, WorkloadError> {
    let mut run = Run { verb, ground, gate, cancel, samples: Vec::new(), bytes: 0, span: 0 };
    let counters = match verb {
        WholeVerb::MountStorm => mount_storm(&mut run, n),
        WholeVerb::UnmountDirty => unmount_dirty(&mut run, n),
        WholeVerb::SharedPages => shared_pages(&mut run, n),
        WholeVerb::IdmapStart { mapped } => idmap::start(&mut run, n, mapped),
        WholeVerb::Commit { native } => commit::run(&mut run, n, native),
        WholeVerb::Container(stage) => container::live(&mut run, n, stage),
    }?;
    if cancel.load(Ordering::Relaxed) {
        return Err(WorkloadError::Interrupted);
    }
    Ok(Outcome {
        n_ops: run.samples.len() as u64,
        samples: run.samples,
        bytes: run.bytes,
        counters,
        errors: Default::default(),
        elapsed: run.span,
    })
}

/// The verb's name in scenario files.
pub(super) fn name(verb: WholeVerb) -> &'static str {
    match verb {
        WholeVerb::MountStorm => "mount-storm",
        WholeVerb::UnmountDirty => "unmount-dirty",
        WholeVerb::IdmapStart { .. } => "idmap-start",
        WholeVerb::SharedPages => "shared-pages",
        WholeVerb::Commit { .. } => "commit",
        WholeVerb::Container(_) => "container",
    }
}

/// One verb at work.
pub(super) struct Run<'a> {
    verb: WholeVerb,
    pub ground: &'a Ground<'a>,
    gate: &'a mut dyn Gate,
    cancel: &'a AtomicBool,
    samples: Vec<u64>,
    pub bytes: u64,
    /// Sum of what was timed.
    span: u64,
}

impl Run<'_> {
    /// Lets the probes look; to be paired with [`Self::close`].
    pub fn open(&mut self, n: u64) {
        self.samples.reserve(n as usize);
        self.gate.open(&[rustix::thread::gettid().as_raw_nonzero().get() as u32]);
    }

    pub fn close(&mut self) {
        self.gate.close();
    }

    /// Times one operation.
    pub fn time<T, E>(
        &mut self,
        action: &'static str,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, WorkloadError>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let start = now();
        let result = work();
        let elapsed = now() - start;
        self.samples.push(elapsed);
        self.span += elapsed;
        result.map_err(|error| self.failed(action)(error))
    }

    pub fn failed<E>(&self, action: &'static str) -> impl Fn(E) -> WorkloadError + use<E>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let verb = name(self.verb);
        move |error| WorkloadError::Whole { verb, action, source: Box::new(error) }
    }

    pub fn interrupted(&self) -> Result<(), WorkloadError> {
        match self.cancel.load(Ordering::Relaxed) {
            true => Err(WorkloadError::Interrupted),
            false => Ok(()),
        }
    }

    pub fn seat(&self, n: u64) -> Result<Seat, WorkloadError> {
        Seat::make(self.ground.spare, n).map_err(self.failed("make the folders of a mount"))
    }
}

pub(super) fn counter(name: &str, value: u64) -> Counter {
    Counter { name: name.to_owned(), engine: "driver".to_owned(), value }
}

/// The folders of one more mount.
pub(super) struct Seat {
    pub base: PathBuf,
    pub upper: PathBuf,
    pub work: PathBuf,
    pub target: PathBuf,
}

impl Seat {
    fn make(spare: &Path, n: u64) -> std::io::Result<Self> {
        let base = spare.join(format!("{n:04}"));
        let seat = Self {
            upper: base.join("upper"),
            work: base.join("work"),
            target: base.join("merged"),
            base,
        };
        for path in [&seat.base, &seat.upper, &seat.work, &seat.target] {
            fs::create_dir(path)?;
        }
        Ok(seat)
    }

    pub fn with<'a>(&'a self, lower: &'a [PathBuf]) -> MountAt<'a> {
        MountAt { lower, upper: &self.upper, work: &self.work, target: &self.target }
    }
}

/// Mounts, one beside the other. All stay until the last is mounted.
fn mount_storm(run: &mut Run<'_>, n: u64) -> Result<Vec<Counter>, WorkloadError> {
    let seats = (0..n).map(|i| run.seat(i)).collect::<Result<Vec<_>, _>>()?;
    let ground = run.ground;
    let mut standing = Vec::with_capacity(seats.len());
    run.open(n);
    for seat in &seats {
        run.interrupted()?;
        standing.push(run.time("mount", || (ground.mount)(&seat.with(ground.lower)))?);
    }
    run.close();
    let began = now();
    while let Some(last) = standing.pop() {
        last.unmount().map_err(run.failed("unmount"))?;
    }
    Ok(vec![counter("mounts", n), counter("unmount_all", now() - began)])
}

/// Files that are written before the unmount, and their length.
const DIRTY_FILES: usize = 64;
const DIRTY_LENGTH: usize = 64 << 10;

/// Unmounts unions whose upper layer was just written: without `volatile`
/// overlayfs writes all of it back first.
fn unmount_dirty(run: &mut Run<'_>, n: u64) -> Result<Vec<Counter>, WorkloadError> {
    let ground = run.ground;
    let content = vec![b'd'; DIRTY_LENGTH];
    run.open(n);
    for i in 0..n {
        run.interrupted()?;
        let seat = run.seat(i)?;
        let union = (ground.mount)(&seat.with(ground.lower)).map_err(run.failed("mount"))?;
        for file in 0..DIRTY_FILES {
            let path = seat.target.join(format!("dirty-{i}-{file}"));
            fs::write(path, &content).map_err(run.failed("write"))?;
        }
        run.time("unmount", || union.unmount())?;
        run.bytes += (DIRTY_FILES * DIRTY_LENGTH) as u64;
    }
    run.close();
    Ok(Vec::new())
}

/// Reads one file through one mount after the other. What the page cache holds
/// of it before each read tells whether mounts share it: mincore(2) is exact.
fn shared_pages(run: &mut Run<'_>, n: u64) -> Result<Vec<Counter>, WorkloadError> {
    let ground = run.ground;
    let Some(name) = ground.files.first() else {
        return Err(run.failed("find a file")(std::io::Error::from(std::io::ErrorKind::NotFound)));
    };
    let mut standing = Vec::new();
    for i in 0..n {
        let seat = run.seat(i)?;
        let union = (ground.mount)(&seat.with(ground.lower)).map_err(run.failed("mount"))?;
        standing.push((seat, union));
    }
    let mut buffer = vec![0; 256 << 10];
    let (mut pages, mut first, mut others) = (0, 0, 0);
    run.open(n);
    for (i, (seat, _)) in standing.iter().enumerate() {
        run.interrupted()?;
        let path = seat.target.join(name);
        let (there, all) = resident_pages(&path).map_err(run.failed("ask for cached pages"))?;
        pages = all;
        if i == 0 {
            first = there;
        } else {
            others += there;
        }
        let moved = run.time("read", || {
            let mut file = fs::File::open(&path)?;
            let mut moved = 0;
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok::<u64, std::io::Error>(moved),
                    n => moved += n as u64,
                }
            }
        })?;
        run.bytes += moved;
    }
    run.close();
    while let Some((_, union)) = standing.pop() {
        union.unmount().map_err(run.failed("unmount"))?;
    }
    Ok(vec![
        counter("pages.of_file", pages),
        counter("pages.cached_before_first", first),
        counter("pages.cached_before_others", others),
        counter("pages.wanted_by_others", pages * n.saturating_sub(1)),
    ])
}

/// Writes a whole small file.
pub(super) fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).open(path)?.write_all(content)
}
