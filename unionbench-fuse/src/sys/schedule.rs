//! Where a thread runs and in which class of the scheduler.
#![allow(unsafe_code)]

use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_setaffinity};

/// One thread of this process, and where it may run when it is left alone.
#[derive(Debug)]
pub(crate) struct Thread {
    id: Pid,
    usual: Option<CpuSet>,
    at: Option<usize>,
}

/// The calling thread's number.
pub(crate) fn own_number() -> i32 {
    thread_local!(static NUMBER: i32 = gettid().as_raw_nonzero().get());
    NUMBER.with(|number| *number)
}

/// The processor a thread of any process ran on last.
pub(crate) fn processor_of(thread: u32) -> Option<usize> {
    let stat = std::fs::read(format!("/proc/{thread}/stat")).ok()?;
    field(&stat, 39)?.parse().ok()
}

/// A field, from the third on, of `/proc/PID/stat` (proc_pid_stat(5)); the
/// second, a name in parentheses, may hold anything.
fn field(stat: &[u8], number: usize) -> Option<&str> {
    let end = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(number - 3)
}

impl Thread {
    /// The calling thread.
    pub(crate) fn current() -> Self {
        let id = gettid();
        Self { id, usual: sched_getaffinity(Some(id)).ok(), at: None }
    }

    pub(crate) fn number(&self) -> i32 {
        self.id.as_raw_nonzero().get()
    }

    /// True if a thread of this process may leave the idle class again, which
    /// takes the right to its nice value (sched(7)).
    pub(crate) fn may_return() -> bool {
        let probe = || {
            let thread = Self::current();
            thread.set_class(libc::SCHED_IDLE).and_then(|()| thread.set_class(libc::SCHED_OTHER))
        };
        // On a thread of its own, since it may not come back.
        std::thread::spawn(move || probe().is_ok()).join().unwrap_or(false)
    }

    /// Puts the thread on one processor, if it may use it, and into the idle
    /// class: last, since in that class it may wait long for a busy processor.
    pub(crate) fn go_idle(&mut self, processor: usize) -> Result<(), Errno> {
        self.follow_to(processor);
        let done = self.set_class(libc::SCHED_IDLE);
        if done.is_err()
            && let Some(usual) = &self.usual
        {
            let _ = sched_setaffinity(Some(self.id), usual);
        }
        done
    }

    /// True if the thread waits for something, neither running nor wanting to.
    pub(crate) fn is_asleep(&self) -> bool {
        let stat = std::fs::read(format!("/proc/self/task/{}/stat", self.number()));
        stat.is_ok_and(|stat| field(&stat, 3) == Some("S"))
    }

    /// The processor time it has taken; none once it has ended.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        // The clock of a thread, as pthread_getcpuclockid(3) makes it.
        let clock = (!self.number() << 3) | 6;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a live value of the right type.
        let done = unsafe { libc::clock_gettime(clock, &raw mut time) };
        (done == 0)
            .then(|| Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32))
    }

    /// Moves the thread to a processor, if it may use it; true if it was
    /// elsewhere.
    pub(crate) fn follow_to(&mut self, processor: usize) -> bool {
        let allowed = self
            .usual
            .as_ref()
            .is_some_and(|usual| processor < CpuSet::MAX_CPU && usual.is_set(processor));
        if self.at == Some(processor) || !allowed {
            return false;
        }
        let mut one = CpuSet::new();
        one.set(processor);
        let moved = sched_setaffinity(Some(self.id), &one).is_ok();
        if moved {
            self.at = Some(processor);
        }
        moved
    }

    /// Gives the thread its class and its processors back.
    pub(crate) fn come_back(self) {
        // It was tried beforehand that this is allowed; a thread that has ended
        // meanwhile needs neither.
        let _ = self.set_class(libc::SCHED_OTHER);
        if let Some(usual) = &self.usual {
            let _ = sched_setaffinity(Some(self.id), usual);
        }
    }

    fn set_class(&self, class: i32) -> Result<(), Errno> {
        let param = libc::sched_param { sched_priority: 0 };
        // SAFETY: `param` is a live value of the right type.
        let done = unsafe { libc::sched_setscheduler(self.number(), class, &param) };
        if done == 0 {
            Ok(())
        } else {
            Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::PERM))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_behind_any_name() {
        let fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        let stat = format!("17 (a ) b) {}\n", fields.join(" "));
        assert_eq!(
            (field(stat.as_bytes(), 3), field(stat.as_bytes(), 39)),
            (Some("3"), Some("39"))
        );
        assert_eq!(field(b"17 (a) S 1", 39), None);
    }

    #[test]
    fn a_thread_runs_somewhere() {
        assert!(processor_of(own_number() as u32).is_some());
        assert_eq!(processor_of(0), None);
        assert!(!Thread::current().is_asleep());
    }

    #[test]
    fn a_thread_that_works_takes_processor_time() {
        let this = Thread::current();
        let before = this.cpu_time().expect("it runs");
        while this.cpu_time().expect("it runs") == before {
            std::hint::spin_loop();
        }
        let ended = std::thread::spawn(Thread::current).join().expect("it ends");
        // Its number is free as soon as the kernel has taken it away.
        while ended.cpu_time().is_some() {
            std::thread::yield_now();
        }
    }
}
