//! What the union counts of its own work, for whoever serves it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the mount; each only grows.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) fsyncs: AtomicU64,
    pub(crate) lookups: AtomicU64,
    pub(crate) copy_ups: AtomicU64,
    pub(crate) copied_bytes: AtomicU64,
    pub(crate) whiteouts: AtomicU64,
    pub(crate) directories_indexed: AtomicU64,
    pub(crate) names_probed: AtomicU64,
}

impl Counters {
    /// Requests of the kernel that were taken, those without an answer too. A
    /// batch of forgotten nodes counts as one for each.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Files and directories that were to be synchronised.
    pub fn fsyncs(&self) -> u64 {
        self.fsyncs.load(Ordering::Relaxed)
    }

    /// Names looked up, including those found absent.
    pub fn lookups(&self) -> u64 {
        self.lookups.load(Ordering::Relaxed)
    }

    /// Objects brought into the upper layer.
    pub fn copy_ups(&self) -> u64 {
        self.copy_ups.load(Ordering::Relaxed)
    }

    /// Bytes of file data copied by copy-ups; holes are not counted.
    pub fn copied_bytes(&self) -> u64 {
        self.copied_bytes.load(Ordering::Relaxed)
    }

    /// Whiteouts written.
    pub fn whiteouts(&self) -> u64 {
        self.whiteouts.load(Ordering::Relaxed)
    }

    /// Directories whose layers were read into an index.
    pub fn directories_indexed(&self) -> u64 {
        self.directories_indexed.load(Ordering::Relaxed)
    }

    /// Names asked of the layers one by one, because reading their directory
    /// would have taken long.
    pub fn names_probed(&self) -> u64 {
        self.names_probed.load(Ordering::Relaxed)
    }

    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}
