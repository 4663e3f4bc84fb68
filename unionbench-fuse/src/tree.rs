//! The lock of the tree of names: shared by every operation, held alone by a
//! rename.
//!
//! Who waits to hold it alone must not keep others out while someone holds it
//! for long (a copy-up of a large file, the reading of a huge directory): one
//! rename would then stop the whole mount until that is done. So whoever shares
//! the lock goes past one who waits for it alone, unless that one has waited for
//! [`PATIENCE`] and nobody holds it for long, or [`ROUNDS`] times as long: then
//! it was a crowd of short operations, or one of long ones, of which the next
//! have to wait.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How long one who wants the tree alone lets others go first.
const PATIENCE: Duration = Duration::from_millis(5);
/// How often it does so while something takes long: for a second.
const ROUNDS: u32 = 200;

/// The lock.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    lock: RwLock<()>,
    /// Operations that share it and take long.
    long: AtomicUsize,
    /// How many have waited long enough.
    urgent: AtomicUsize,
}

/// Says, until it is dropped, that an operation takes long.
#[derive(Debug)]
pub(crate) struct Long<'a>(&'a Tree);

impl Drop for Long<'_> {
    fn drop(&mut self) {
        self.0.long.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tree {
    /// Shares the tree: no directory on the way to a name moves meanwhile.
    pub(crate) fn shared(&self) -> RwLockReadGuard<'_, ()> {
        if self.urgent.load(Ordering::Relaxed) > 0 {
            self.lock.read()
        } else {
            self.lock.read_recursive()
        }
    }

    /// Says that an operation that shares the tree may take long.
    pub(crate) fn long(&self) -> Long<'_> {
        self.long.fetch_add(1, Ordering::Relaxed);
        Long(self)
    }

    /// Takes the tree alone.
    pub(crate) fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        for _ in 0..ROUNDS {
            if let Some(alone) = self.lock.try_write_for(PATIENCE) {
                return alone;
            }
            if self.long.load(Ordering::Relaxed) == 0 {
                break;
            }
        }
        self.urgent.fetch_add(1, Ordering::Relaxed);
        let alone = self.lock.write();
        self.urgent.fetch_sub(1, Ordering::Relaxed);
        alone
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Waits until `alone` has waited for the lock for a while.
    fn until_it_waits(tree: &Tree) {
        while !tree.lock.is_locked_exclusive() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_waits_for_a_long_operation_keeps_nobody_out() {
        let tree = Tree::default();
        std::thread::scope(|scope| {
            let (long, shared) = (tree.long(), tree.shared());
            let waiting = scope.spawn(|| drop(tree.alone()));
            until_it_waits(&tree);
            let (tell, told) = mpsc::channel();
            let tree = &tree;
            scope.spawn(move || {
                let start = std::time::Instant::now();
                while start.elapsed() < 3 * PATIENCE {
                    drop(tree.shared());
                }
                tell.send(()).unwrap();
            });
            // Else the scope would wait for ever.
            let gone_past = told.recv_timeout(LIMIT).is_ok();
            assert!(!waiting.is_finished());
            drop((long, shared));
            assert!(gone_past);
        });
    }

    #[test]
    fn a_crowd_of_short_operations_does_not_keep_one_waiting_for_ever() {
        crowd(false);
    }

    #[test]
    fn a_crowd_of_long_operations_does_not_keep_one_waiting_for_ever() {
        crowd(true);
    }

    fn crowd(long: bool) {
        let tree = &Tree::default();
        let over = &AtomicBool::new(false);
        let entered = &[AtomicUsize::new(0), AtomicUsize::new(0)];
        let count = |who: usize| entered[who].load(Ordering::SeqCst);
        std::thread::scope(|scope| {
            // Each lets go of the lock only once the other has taken it anew.
            for (me, other) in [(0, 1), (1, 0)] {
                scope.spawn(move || {
                    while !over.load(Ordering::SeqCst) {
                        let shared = (long.then(|| tree.long()), tree.shared());
                        let before = count(other);
                        entered[me].fetch_add(1, Ordering::SeqCst);
                        let may_stay = || {
                            !over.load(Ordering::SeqCst) && tree.urgent.load(Ordering::SeqCst) == 0
                        };
                        while count(other) == before && may_stay() {
                            std::thread::yield_now();
                        }
                        drop(shared);
                    }
                });
            }
            while count(0) == 0 || count(1) == 0 {
                std::thread::yield_now();
            }
            let (tell, told) = mpsc::channel();
            scope.spawn(move || {
                drop(tree.alone());
                tell.send(()).unwrap();
            });
            let had_its_turn = told.recv_timeout(LIMIT).is_ok();
            over.store(true, Ordering::SeqCst);
            assert!(had_its_turn);
        });
    }
}
