//! Dropping the kernel's caches.

use std::io::Write as _;

/// What `/proc/sys/vm/drop_caches` is asked to drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drop {
    /// Dentries and inodes: enough where the backing store is memory.
    Slab,
    /// Those and the page cache, after a sync: for a backing store with blocks.
    All,
}

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// Whether this process may drop caches: not in a user namespace, nor where
/// `/proc/sys` is mounted read-only as in most containers.
pub fn can_drop() -> bool {
    std::fs::OpenOptions::new().write(true).open(DROP_CACHES).is_ok()
}

/// Drops clean caches of the whole machine. Dentries of tmpfs are pinned and
/// stay; those of a union on it go.
///
/// # Errors
/// EACCES or EPERM without CAP_SYS_ADMIN in the initial user namespace.
pub fn drop_caches(what: Drop) -> std::io::Result<()> {
    let value: &[u8] = match what {
        Drop::Slab => b"2",
        Drop::All => {
            rustix::fs::sync();
            b"3"
        }
    };
    std::fs::OpenOptions::new().write(true).open(DROP_CACHES)?.write_all(value)
}
