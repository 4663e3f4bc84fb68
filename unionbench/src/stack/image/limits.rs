//! What an image may take, however small it is when packed.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Refusal;

/// What all layers together may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed archives.
    pub bytes: u64,
    pub entries: u64,
    /// Length of one file, holes included.
    pub file_length: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 256 << 30, entries: 20_000_000, file_length: 1 << 40 }
    }
}

/// What is left of the limits, for all layers that are unpacked at once.
pub(super) struct Budget {
    pub limits: Limits,
    bytes: AtomicU64,
    entries: AtomicU64,
}

impl Budget {
    pub fn new(limits: Limits) -> Self {
        Self { limits, bytes: AtomicU64::new(0), entries: AtomicU64::new(0) }
    }

    /// Counts one more entry.
    pub fn entry(&self) -> Result<(), Refusal> {
        let n = self.entries.fetch_add(1, Ordering::Relaxed);
        if n < self.limits.entries {
            Ok(())
        } else {
            Err(Refusal::TooManyEntries(self.limits.entries))
        }
    }

    /// The limit of bytes, if more were read.
    pub fn exceeded(&self) -> Option<u64> {
        let limit = self.limits.bytes;
        (self.bytes.load(Ordering::Relaxed) > limit).then_some(limit)
    }
}

/// A reader that counts against the budget and ends with an error beyond it,
/// whatever the bytes are: data, headers or what follows the archive.
pub(super) struct Budgeted<'a, R> {
    pub inner: R,
    pub budget: &'a Budget,
}

impl<R: Read> Read for Budgeted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.budget.bytes.fetch_add(n as u64, Ordering::Relaxed);
        if self.budget.exceeded().is_some() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(n)
    }
}
