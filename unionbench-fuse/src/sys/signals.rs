//! Waiting for the signals that ask a mount to end.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

/// The signals that ask to end, kept from every thread started after
/// [`block`].
pub(crate) struct Ending {
    set: libc::sigset_t,
}

/// Keeps SIGINT, SIGTERM and SIGHUP from ending this thread and those it
/// starts; [`Ending::wait`] takes them instead.
pub(crate) fn block() -> Ending {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set before it is used; all calls
    // get pointers to live values.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        Ending { set: set.assume_init() }
    }
}

impl Ending {
    /// Waits for one of the signals.
    pub(crate) fn wait(&self) {
        let mut signal = 0;
        // SAFETY: both pointers are to live values.
        while unsafe { libc::sigwait(&self.set, &mut signal) } == libc::EINTR {}
    }
}
