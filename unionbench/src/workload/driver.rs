//! The timed loop.
//!
//! Threads open the root, announce their id and wait. The caller then lets the
//! probes look at exactly these ids, releases the threads together, waits for
//! the last to end, and closes the probes before any thread exits: the exits
//! are not part of what was measured.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::thread::gettid;
use rustix::time::{ClockId, clock_gettime};

use super::{OpResult, Outcome, Prepared, WorkloadError};

/// Called around the timed part.
pub trait Gate {
    /// The threads stand ready; `tids` are theirs.
    fn open(&mut self, tids: &[u32]);
    /// The last operation has ended; the threads still live.
    fn close(&mut self);
}

/// What one operation may use.
pub(super) struct Op<'a> {
    pub root: BorrowedFd<'a>,
    pub name: &'a CStr,
    pub target: &'a CStr,
    pub size: u64,
    /// Its place among the names.
    pub index: usize,
}

/// Nanoseconds of CLOCK_MONOTONIC; in the lab, where the guest's clock is
/// driven by its instructions, instructions.
#[inline(always)]
pub(super) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Median of `n` empty timed sections: what the clock itself puts into every
/// sample.
pub fn empty_sample(n: usize) -> u64 {
    let mut samples = vec![0; n.max(1)];
    for sample in &mut samples {
        let start = now();
        *sample = now() - start;
    }
    samples.sort_unstable();
    samples[samples.len() / 2]
}

struct Part {
    samples: Vec<u64>,
    bytes: u64,
    errors: BTreeMap<i32, u64>,
    started: u64,
    ended: u64,
}

pub(super) fn run<F>(
    prepared: &Prepared,
    root: &Path,
    gate: &mut dyn Gate,
    cancel: &AtomicBool,
    operate: F,
) -> Result<Outcome, WorkloadError>
where
    F: Fn(&Op<'_>) -> OpResult + Copy + Send + Sync,
{
    let n_threads = prepared.orders.len();
    let tids = Mutex::new(Vec::with_capacity(n_threads));
    let ready = Barrier::new(n_threads + 1);
    let go = Barrier::new(n_threads + 1);
    let ended = Barrier::new(n_threads + 1);
    let leave = Barrier::new(n_threads + 1);

    let parts: Vec<Result<Part, WorkloadError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = prepared
            .orders
            .iter()
            .map(|order| {
                let (tids, ready, go, ended, leave) = (&tids, &ready, &go, &ended, &leave);
                scope.spawn(move || {
                    let opened = enter(root);
                    lock(tids).push(gettid().as_raw_nonzero().get() as u32);
                    let mut samples = Vec::with_capacity(capacity(prepared, order));
                    touch(&mut samples);
                    ready.wait();
                    go.wait();
                    let part = opened.map(|fd| {
                        (timed(prepared, order, fd.as_fd(), samples, cancel, operate), fd)
                    });
                    ended.wait();
                    leave.wait();
                    // The root is closed only now: probes watch until `leave`
                    // and must see the operations' own calls of `close` alone.
                    // The working directory is left too: a joined thread may
                    // still hold it for a moment (the kernel wakes the joiner
                    // in exit_mm, before exit_fs), and the mount would be busy.
                    let left = rustix::process::chdir("/");
                    let (part, _root) = part?;
                    left.map_err(|errno| WorkloadError::Open {
                        path: "/".to_owned(),
                        source: errno.into(),
                    })?;
                    Ok(part)
                })
            })
            .collect();
        ready.wait();
        gate.open(&lock(&tids));
        go.wait();
        ended.wait();
        gate.close();
        leave.wait();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    if cancel.load(Ordering::Relaxed) {
        return Err(WorkloadError::Interrupted);
    }
    merge(parts)
}

/// Samples of a phase that ends by the clock are bounded by this; when they
/// are full the phase ends, and says so by its count.
const MAX_SAMPLES_BY_DURATION: usize = 4_000_000;

fn capacity(prepared: &Prepared, order: &[u32]) -> usize {
    match prepared.duration_ns {
        None => order.len(),
        Some(_) => MAX_SAMPLES_BY_DURATION / prepared.orders.len(),
    }
}

/// Writes every page of the sample buffer once: a page fault in the timed part
/// would be the driver's, not the file system's.
fn touch(samples: &mut Vec<u64>) {
    samples.resize(samples.capacity(), 1);
    samples.clear();
}

/// Opens the root and makes it this thread's working directory, apart from
/// that of the other threads.
fn enter(root: &Path) -> Result<OwnedFd, WorkloadError> {
    let failed = |errno: rustix::io::Errno| WorkloadError::Open {
        path: root.display().to_string(),
        source: errno.into(),
    };
    let fd =
        rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed)?;
    crate::sys::namespace::unshare_working_directory().map_err(failed)?;
    rustix::process::fchdir(&fd).map_err(failed)?;
    Ok(fd)
}

#[inline(never)]
fn timed<F>(
    prepared: &Prepared,
    order: &[u32],
    root: BorrowedFd<'_>,
    mut samples: Vec<u64>,
    cancel: &AtomicBool,
    operate: F,
) -> Part
where
    F: Fn(&Op<'_>) -> OpResult,
{
    let mut errors = BTreeMap::new();
    let mut bytes = 0;
    let started = now();
    let deadline = prepared.duration_ns.map_or(u64::MAX, |ns| started.saturating_add(ns));
    let mut last = started;
    let mut position = 0;
    while samples.len() < samples.capacity() && last < deadline && !order.is_empty() {
        let index = order[position] as usize;
        position = if position + 1 == order.len() { 0 } else { position + 1 };
        let op = Op {
            root,
            name: &prepared.names[index],
            target: prepared.targets.get(index).map_or(c"", |name| name.as_c_str()),
            size: prepared.sizes.get(index).copied().unwrap_or(0),
            index,
        };
        let start = now();
        let result = operate(&op);
        last = now();
        samples.push(last - start);
        match result {
            Ok(moved) => bytes += moved,
            Err(errno) => *errors.entry(errno.raw_os_error()).or_insert(0) += 1,
        }
        if cancel.load(Ordering::Relaxed) {
            break;
        }
    }
    Part { samples, bytes, errors, started, ended: last }
}

fn merge(parts: Vec<Result<Part, WorkloadError>>) -> Result<Outcome, WorkloadError> {
    let mut outcome = Outcome::default();
    let (mut first, mut last) = (u64::MAX, 0);
    for part in parts {
        let part = part?;
        first = first.min(part.started);
        last = last.max(part.ended);
        outcome.n_ops += part.samples.len() as u64;
        outcome.samples.extend(part.samples);
        outcome.bytes += part.bytes;
        for (errno, n) in part.errors {
            *outcome.errors.entry(errno).or_insert(0) += n;
        }
    }
    outcome.elapsed = last.saturating_sub(first);
    Ok(outcome)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
